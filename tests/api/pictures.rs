//! Variants of pictures: presets, parameters that are passed on to COS, and what the sandbox makes of them.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, ImageReader, RgbImage};
use serde_json::json;

use crate::harness::{Client, Form, Response, Setup, World, authorization, noise};
use crate::tickets::{self, ticket};

const THUMB: &str = "imageMogr2/auto-orient/thumbnail/200x";

fn setup() -> Setup {
    tickets::setup()
        .set("links.presets.thumb", THUMB)
        .set("links.presets.square", "imageView2/1/w/100/h/100/format/webp")
}

fn passing(queries: &str) -> Setup {
    setup().set("links.pass_query", queries)
}

/// A picture of 400 by 300 pixels.
fn picture(format: ImageFormat) -> Vec<u8> {
    let pixel = |x: u32, y: u32| image::Rgb([(x / 2) as u8, (y / 2) as u8, 128]);
    let mut file = Cursor::new(Vec::new());
    let picture = DynamicImage::from(RgbImage::from_fn(400, 300, pixel));
    picture.write_to(&mut file, format).expect("encoded");
    file.into_inner()
}

/// A JPEG whose camera was held upright: its Exif data says that it is to be turned.
fn upright() -> Vec<u8> {
    const EXIF: &[u8] =
        b"\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let picture = picture(ImageFormat::Jpeg);
    [&picture[..2], EXIF, &picture[2..]].concat()
}

fn store(world: &World, path: &str, kind: &str, content: &[u8]) {
    world.post(&Form::new().field("path", path).file("f", "x", kind, content)).stored();
}

fn get(world: &World, target: &str) -> Response {
    let mut client = world.client();
    client.send_request("GET", target, &[], b"");
    client.response()
}

fn location(response: &Response) -> &str {
    assert_eq!(response.status, 302, "{}", response.text());
    response.header("location").expect("a target")
}

/// COS's response to the target of a redirect.
fn follow(redirect: &Response) -> Response {
    let rest = location(redirect).strip_prefix("http://").expect("an http URL");
    let (authority, path) = rest.split_once('/').expect("a path");
    let mut client = Client::connect(authority.parse().expect("an address"));
    client.send_request("GET", &format!("/{path}"), &[], b"");
    client.response()
}

/// The type and size of the picture that a URL leads to, from its bytes.
fn seen(world: &World, target: &str) -> (ImageFormat, u32, u32) {
    let response = follow(&get(world, target));
    assert_eq!(response.status, 200, "{target}: {}", response.text());
    let reader = ImageReader::new(Cursor::new(&response.body)).with_guessed_format();
    let reader = reader.expect("bytes");
    let format = reader.format().expect("a picture");
    assert_eq!(response.header("content-type"), Some(format.to_mime_type()));
    let picture = reader.decode().expect("a whole picture");
    (format, picture.width(), picture.height())
}

#[test]
fn a_preset_redirects_to_the_picture_as_cos_makes_it() {
    let world = setup().start();
    store(&world, "a/photo.png", "image/png", &picture(ImageFormat::Png));
    store(&world, "a/photo.jpg", "image/jpeg", &picture(ImageFormat::Jpeg));
    store(&world, "a/upright.jpg", "image/jpeg", &upright());
    store(&world, "a/photo.webp", "image/webp", &picture(ImageFormat::WebP));
    for (file, format, thumb) in [
        ("photo.png", ImageFormat::Png, (200, 150)),
        ("photo.jpg", ImageFormat::Jpeg, (200, 150)),
        ("upright.jpg", ImageFormat::Jpeg, (200, 267)),
        ("photo.webp", ImageFormat::WebP, (200, 150)),
    ] {
        let url = format!("/v1/files/a/{file}");
        let plain = get(&world, &url);
        let redirect = get(&world, &format!("{url}?preset=thumb"));
        assert_eq!(location(&redirect), format!("{}&{THUMB}", location(&plain)));
        let age = |response: &Response| {
            let value = response.header("cache-control").expect("a life");
            value.strip_prefix("private, max-age=").and_then(|age| age.parse::<u64>().ok())
        };
        assert!(age(&redirect).is_some_and(|age| (290..=300).contains(&age)), "{redirect:?}");
        assert_eq!(seen(&world, &url), (format, 400, 300));
        assert_eq!(seen(&world, &format!("{url}?preset=thumb")), (format, thumb.0, thumb.1));
        let square = seen(&world, &format!("{url}?utm=1&preset=square"));
        assert_eq!(square, (ImageFormat::WebP, 100, 100));
        let mut client = world.client();
        client.send_request("HEAD", &format!("{url}?preset=thumb"), &[], b"");
        let (status, headers) = client.response_head().expect("a head");
        let head = Response { status, headers, body: Vec::new() };
        assert_eq!(location(&head), location(&redirect));
    }
    assert_eq!(
        world.count("batchdownloadfile"),
        4,
        "one call for each file, with all its variants"
    );
    // The stored file is what was sent.
    assert_eq!(world.object("a/upright.jpg"), upright());
}

#[test]
fn the_guide_s_presets_make_the_thumbnails_that_it_shows() {
    let guide = crate::pages::page("clients-web");
    let toml = guide.open_blocks("toml").concat();
    let file = config::File::from_str(&toml, config::FileFormat::Toml);
    let read = config::Config::builder().add_source(file).build().expect("TOML");
    let presets = read.get_table("links.presets").expect("presets");
    assert_eq!(presets.len(), 2);
    let with = |setup: Setup, (name, value): (String, config::Value)| {
        setup.set(&format!("links.presets.{name}"), value)
    };
    let world = presets.into_iter().fold(Setup::new(), with).start();
    let html = guide.open_blocks("html").concat();
    let source = html.split('"').nth(1).expect("a URL");
    let target = source.strip_prefix("https://files.example.com").expect("the gateway's URL");
    let (path, _) = target.split_once('?').expect("a query");
    store(&world, path.trim_start_matches("/v1/files/"), "image/jpeg", &upright());
    assert_eq!(seen(&world, target), (ImageFormat::Jpeg, 200, 267));
    let square = seen(&world, &format!("{path}?preset=square"));
    assert_eq!(square, (ImageFormat::WebP, 96, 96));
}

#[test]
fn an_unknown_preset_is_refused_with_the_names_that_there_are() {
    let world = setup().start();
    store(&world, "x.png", "image/png", &picture(ImageFormat::Png));
    let refused = |query: &str, status, code| {
        let response = get(&world, &format!("/v1/files/x.png?{query}"));
        assert_eq!(response.header("location"), None, "{query}");
        let problem = response.problem(status, code);
        problem["detail"].as_str().expect("a text").to_owned()
    };
    for name in
        ["small", "Thumb", "", "thumb%20", "links.presets.thumb", "%2e%2e/thumb", &"x".repeat(5000)]
    {
        let detail = refused(&format!("preset={name}"), 404, "not_found");
        assert_eq!(detail, "there is no such preset; there are `square`, `thumb`", "{name}");
    }
    for query in [
        "preset=thumb&preset=thumb",
        "preset=thumb%0d%0aSet-Cookie:%20a=b",
        "preset=thumb%00",
        "preset=%ff",
        "preset=%u0041",
        "preset=100%",
    ] {
        let detail = refused(query, 400, "invalid_request");
        assert!(detail.contains("`preset` in the query"), "{query}");
    }
    assert_eq!(world.count("batchdownloadfile"), 0);

    let world = Setup::new().start();
    let problem = get(&world, "/v1/files/x.png?preset=thumb").problem(404, "not_found");
    assert!(problem["detail"].as_str().expect("a text").contains("links.presets"), "{problem}");
}

#[test]
fn nothing_of_the_query_is_passed_on_unless_it_is_listed() {
    let world = passing("imageView2/*").start();
    store(&world, "x.png", "image/png", &picture(ImageFormat::Png));
    let plain = location(&get(&world, "/v1/files/x.png")).to_owned();
    // What is nothing of COS's that could be listed is ignored, as before.
    for query in [
        "response-content-type=text/html",
        "response-content-encoding=gzip",
        "response-cache-control=public",
        "sign=0&t=1",
        "q-sign-algorithm=sha1&q-signature=0",
        "watermark/1/image/aHR0cDovL2V2aWwuZXhhbXBsZQ==",
        "x-cos-security-token=x",
        "versionId=1",
        "acl",
        "imagemogr2/thumbnail/200x",
        "image%4dogr3/x",
        "imageView2",
        "xpreset=thumb",
        "%ff/imageView2/2/w/100",
        "Response-Content-Disposition=attachment",
        "info=0&utm_source=x",
    ] {
        assert_eq!(location(&get(&world, &format!("/v1/files/x.png?{query}"))), plain, "{query}");
    }
    for query in [
        "imageMogr2/thumbnail/200x",
        "%69mageMogr2%2Fthumbnail%2F200x=",
        "ci-process=doc-preview",
        "response-content-disposition=attachment",
    ] {
        let response = get(&world, &format!("/v1/files/x.png?{query}"));
        assert_eq!(response.header("location"), None, "{query}");
        let problem = response.problem(400, "invalid_request");
        assert!(
            problem["detail"].as_str().expect("a text").contains("links.pass_query"),
            "{problem}"
        );
    }
    let view = "imageView2/2/w/100";
    assert_eq!(
        location(&get(&world, &format!("/v1/files/x.png?a=1&{view}&t=0"))),
        format!("{plain}&{view}")
    );
    assert_eq!(seen(&world, &format!("/v1/files/x.png?{view}")), (ImageFormat::Png, 100, 75));
}

#[test]
fn listed_parameters_are_passed_on_whole_and_alone() {
    let world =
        passing("imageMogr2/*,imageView2/*,ci-process=*,response-content-disposition").start();
    store(&world, "x.png", "image/png", &picture(ImageFormat::Png));
    let plain = location(&get(&world, "/v1/files/x.png")).to_owned();
    let longest = format!("imageMogr2/{}", "x".repeat(512 - 11));
    for (query, passed) in [
        ("imageMogr2/thumbnail/!50p", "imageMogr2/thumbnail/!50p"),
        ("imageMogr2%2Fthumbnail%2F!50p=", "imageMogr2/thumbnail/!50p"),
        ("%69mageMogr2/thumbnail/%2150p", "imageMogr2/thumbnail/!50p"),
        ("imageMogr2/pad/1/color/IzNE==", "imageMogr2/pad/1/color/IzNE=="),
        ("imageView2/1/w/10/h/20/q/85!", "imageView2/1/w/10/h/20/q/85!"),
        ("ci-process=doc-preview", "ci-process=doc-preview"),
        ("ci%2Dprocess=doc%2Dpreview&page=2", "ci-process=doc-preview"),
        ("response-content-disposition=attachment", "response-content-disposition=attachment"),
        (
            "response-content-disposition=attachment%3B+filename%3D%22a%26b.png%22&imageMogr2/strip",
            "imageMogr2/strip&response-content-disposition=attachment%3B%20filename%3D%22a%26b%2Epng%22",
        ),
        (
            "preset=thumb&response-content-disposition=ATTACHMENT",
            "imageMogr2/auto-orient/thumbnail/200x&response-content-disposition=ATTACHMENT",
        ),
        (&longest, &longest),
    ] {
        let redirect = get(&world, &format!("/v1/files/x.png?{query}"));
        assert_eq!(location(&redirect), format!("{plain}&{passed}"), "{query}");
    }
    assert_eq!(world.count("batchdownloadfile"), 1);
    for query in [
        // Other parameters in one.
        "imageMogr2/strip%26sign=0",
        "imageMogr2/strip%26response-content-type%3Dtext/html",
        "imageMogr2/strip%3Bsign",
        "imageMogr2/strip%23",
        "imageMogr2/strip%3Fx",
        "ci-process=doc-preview%26dstType%3Dhtml",
        "ci-process=a/b",
        // Other operations, such as a watermark from another URL.
        "imageMogr2/strip|watermark/1/image/aHR0cDovL2V2aWwuZXhhbXBsZQ==",
        "imageMogr2/strip%7Cwatermark/1/image/aHR0cDovL2V2aWwuZXhhbXBsZQ==",
        "imageView2/1/w/1%7CimageMogr2/strip",
        "imageMogr2/image/http%3A%2F%2F169.254.169.254%2F",
        // Line breaks, blanks, other characters, and what cannot be decoded.
        "imageMogr2/strip%0d%0aSet-Cookie:a",
        "imageMogr2/strip=%0d%0a",
        "imageMogr2/a+b",
        "imageMogr2/a%20b",
        "imageMogr2/%E4%B8%AD",
        "imageMogr2/a%25b",
        "imageMogr2/strip%00",
        "imageMogr2/%ff",
        "imageMogr2/100%",
        "imageMogr2/%u0041",
        "imageMogr2/strip=%zz",
        "imageMogr2/strip=%ff",
        "ci-process=%0a",
        // More than one variant.
        "imageMogr2/strip&imageMogr2/strip",
        "imageMogr2/strip&imageView2/2/w/1",
        "imageMogr2/strip&ci-process=x",
        "preset=thumb&imageMogr2/strip",
        "response-content-disposition=attachment&response-content-disposition=attachment",
        // What is not a download.
        "response-content-disposition=inline",
        "response-content-disposition=",
        "response-content-disposition=inline%3B+attachment",
        "response-content-disposition=attachmentx",
        "response-content-disposition=attachment%0d%0aContent-Type:%20text/html",
        "response-content-disposition=attachment%00",
        &format!("{longest}x"),
        &format!("response-content-disposition=attachment;{}", "x".repeat(502)),
    ] {
        let response = get(&world, &format!("/v1/files/x.png?{query}"));
        assert_eq!(response.header("location"), None, "{query}");
        response.problem(400, "invalid_request");
    }
}

#[test]
fn a_link_can_make_a_download_with_a_name_of_its_own() {
    let world = passing("response-content-disposition").start();
    store(&world, "page.html", "text/html", b"<script>alert(1)</script>");
    let name = "attachment; filename=\"r & d.html\"; filename*=UTF-8''%E4%B8%AD.html";
    let query = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
    let target = format!("/v1/files/page.html?response-content-disposition={query}");
    let response = follow(&get(&world, &target));
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("content-disposition"), Some(name));
    let kind = follow(&get(&world, "/v1/files/page.html"));
    assert_eq!(response.header("content-type"), kind.header("content-type"));
}

#[test]
fn a_variant_needs_the_same_access_as_the_file() {
    let signed = passing("imageMogr2/*")
        .set("links.access", "signed")
        .set("links.signing_keys", crate::shared::SIGNING_KEY)
        .start();
    let form = Form::new().field("path", "a/x.png");
    let form = form.file("f", "x", "image/png", &picture(ImageFormat::Png));
    let url = signed.post(&form).stored()["url"].as_str().expect("a URL").to_owned();
    let target = &url[url.find("/v1/").expect("a path")..];
    // The signature is for the file: its link is good for each variant that the settings allow.
    for variant in ["preset=thumb", "imageMogr2/thumbnail/200x"] {
        let redirect = get(&signed, &format!("{target}&{variant}"));
        assert_eq!(redirect.header("cache-control"), Some("no-store"));
        assert_eq!(seen(&signed, &format!("{target}&{variant}")), (ImageFormat::Png, 200, 150));
    }
    get(&signed, &format!("{target}&preset=none")).problem(404, "not_found");
    get(&signed, &format!("{target}&imageView2/2/w/1")).problem(400, "invalid_request");
    let forged = target.replacen("signature=", "signature=0", 1);
    get(&signed, &format!("{forged}&preset=thumb")).problem(403, "not_allowed");

    let own = setup().set("links.access", "authenticated").start();
    store(&own, "a/x.png", "image/png", &picture(ImageFormat::Png));
    for world in [&signed, &own] {
        // The names of presets are told after access was checked.
        for preset in ["thumb", "none"] {
            let target = format!("/v1/files/a/x.png?preset={preset}");
            get(world, &target).problem(401, "unauthenticated");
            let elsewhere = ticket(json!({"prefix": "b"}));
            get(world, &format!("{target}&ticket={elsewhere}")).problem(403, "path_not_allowed");
            let writer = ticket(json!({"can": "upload"}));
            get(world, &format!("{target}&ticket={writer}")).problem(403, "not_allowed");
        }
        let mut client = world.client();
        client.send_request("GET", "/v1/files/a/x.png?preset=thumb", &[authorization()], b"");
        assert_eq!(client.response().header("cache-control"), Some("no-store"));
        let reader = ticket(json!({"can": "download", "prefix": "a"}));
        let target = format!("/v1/files/a/x.png?ticket={reader}&preset=thumb");
        let redirect = get(world, &target);
        assert!(!location(&redirect).contains(&reader), "the ticket is not passed on");
        assert_eq!(seen(world, &target), (ImageFormat::Png, 200, 150));
    }
}

#[test]
fn the_sandbox_makes_thumbnails_as_cos_documents_them() {
    let world = passing("imageMogr2/*,imageView2/*").start();
    store(&world, "x.jpg", "image/jpeg", &upright());
    let (jpeg, png, webp) = (ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP);
    for (query, result) in [
        ("imageMogr2/thumbnail/200x", (jpeg, 200, 150)),
        ("imageMogr2/thumbnail/x75", (jpeg, 100, 75)),
        ("imageMogr2/thumbnail/100x30", (jpeg, 40, 30)),
        ("imageMogr2/thumbnail/100x30!", (jpeg, 100, 30)),
        ("imageMogr2/thumbnail/!25p", (jpeg, 100, 75)),
        ("imageMogr2/thumbnail/800x", (jpeg, 800, 600)),
        ("imageMogr2/auto-orient", (jpeg, 300, 400)),
        ("imageMogr2/auto-orient/strip/thumbnail/30x/format/png", (png, 30, 40)),
        ("imageMogr2/format/webp/quality/80/interlace/1", (webp, 400, 300)),
        ("imageView2/1/w/100/h/100", (jpeg, 100, 100)),
        ("imageView2/2/w/100/h/100/format/png", (png, 100, 75)),
        ("imageMogr2/thumbnail/9999x1!", (jpeg, 9999, 1)),
    ] {
        assert_eq!(seen(&world, &format!("/v1/files/x.jpg?{query}")), result, "{query}");
    }
    for query in [
        "imageMogr2/thumbnail/10000x1!",
        "imageMogr2/thumbnail/9999x9999!",
        "imageMogr2/thumbnail/4294967295x",
        "imageMogr2/thumbnail/0x",
        "imageMogr2/thumbnail",
        "imageMogr2/thumbnail/200",
        "imageMogr2/format/exe",
        "imageMogr2/quality/101",
        "imageMogr2/",
        "imageMogr2/crop/10x10",
        "imageView2/1",
        "imageView2/7/w/1",
    ] {
        assert_refused(&world, &format!("/v1/files/x.jpg?{query}"), "cannot be processed");
    }
}

/// COS refuses what the gateway redirects to.
fn assert_refused(world: &World, target: &str, reason: &str) {
    let response = follow(&get(world, target));
    assert_eq!(response.status, 400, "{target}");
    assert_eq!(response.header("content-type"), Some("application/xml"));
    let text = response.text();
    assert!(
        text.contains("<Code>InvalidArgument</Code>") && text.contains(reason),
        "{target}: {text}"
    );
}

/// A grey PNG that claims to have this size, and has no pixels.
fn claimed(width: u32, height: u32) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |name: &[u8], content: &[u8]| {
        let named = [name, content].concat();
        let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&named);
        file.extend_from_slice(&(content.len() as u32).to_be_bytes());
        file.extend_from_slice(&named);
        file.extend_from_slice(&crc.to_be_bytes());
    };
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 0, 0, 0, 0]].concat();
    chunk(b"IHDR", &header);
    chunk(b"IDAT", b"");
    chunk(b"IEND", b"");
    file
}

#[test]
fn what_is_no_picture_or_too_large_is_refused_by_the_sandbox() {
    let world = setup().start();
    let png = picture(ImageFormat::Png);
    let long = [&png[..], &noise((32 << 20) + 1 - png.len(), 1)].concat();
    for (path, content, reason) in [
        ("text.png", b"no picture".to_vec(), "no PNG"),
        ("empty.png", Vec::new(), "no PNG"),
        ("cut.png", png[..png.len() / 2].to_vec(), "damaged"),
        ("cut.jpg", upright()[..300].to_vec(), "damaged"),
        ("gif.png", crate::policy::GIF.to_vec(), "no PNG"),
        ("bomb.png", claimed(u32::MAX >> 1, u32::MAX >> 1), "cannot be processed"),
        // 160 MiB, and one row more.
        ("wide.png", claimed(16 << 10, 10 << 10), "damaged"),
        ("wider.png", claimed(16 << 10, (10 << 10) + 1), "too many pixels"),
        ("long.png", long[..32 << 20].to_vec(), ""),
        ("longer.png", long, "32 MiB"),
    ] {
        store(&world, path, "image/png", &content);
        let target = format!("/v1/files/{path}?preset=thumb");
        match reason {
            "" => assert_eq!(seen(&world, &target), (ImageFormat::Png, 200, 150)),
            reason => assert_refused(&world, &target, reason),
        }
        // The file itself is as it was sent.
        assert!(world.download(&format!("/v1/files/{path}")).0 == content, "{path}");
    }
}
