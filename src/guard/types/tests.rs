//! Which files are accepted under which lists, and the types that they are stored as.

use super::declared::MAX_LENGTH;
use super::*;

fn types(lists: &[&[&str]]) -> Types {
    let lists: Vec<Vec<String>> =
        lists.iter().map(|list| list.iter().map(|&text| text.to_owned()).collect()).collect();
    Types::new(&lists)
}

fn magic(media_type: Option<&'static str>) -> Magic {
    Magic { media_type, text: media_type.is_none_or(|found| found.starts_with("text/")) }
}

/// The type that a file is stored as; `None` if it is refused.
fn stored(
    types: &Types,
    declared: &str,
    name: &str,
    found: Option<&'static str>,
) -> Option<String> {
    let declared = Some(declared).filter(|text| !text.is_empty());
    let declared = types.admit(declared, [name, name]).ok()?;
    let magic = types.look(&declared).map(|_| magic(found));
    types.confirm(&declared, magic).ok()
}

#[test]
fn without_lists_every_type_is_accepted_and_none_is_executed() {
    let any = types(&[]);
    for (declared, name, found, stored_type) in [
        ("image/png", "x.png", Some("image/png"), "image/png"),
        ("image/png", "x.png", None, "image/png"),
        ("", "x.png", Some("image/png"), "image/png"),
        ("", "x", Some("text/html"), SAFE_TYPE),
        ("text/plain; charset=gbk", "x.txt", None, "text/plain; charset=gbk"),
        ("text/plain", "x.md", Some("text/html"), "text/plain"),
        ("image/png; a=\"b,text/html\"", "x", None, "image/png"),
        ("application/postscript", "x.ps", None, "application/postscript"),
        // Types that browsers execute.
        ("text/html", "x", None, SAFE_TYPE),
        ("TEXT/HTML; charset=utf-8", "x.png", Some("image/png"), SAFE_TYPE),
        ("", "x.html", None, SAFE_TYPE),
        ("image/png", "x.HtM", Some("image/png"), SAFE_TYPE),
        ("image/png", "x.png", Some("text/html"), SAFE_TYPE),
        ("image/png", "x.png", Some("image/svg+xml"), SAFE_TYPE),
        ("image/svg+xml", "x.svg", Some("image/svg+xml"), SAFE_TYPE),
        ("application/rss+xml", "x", None, SAFE_TYPE),
        ("text/javascript", "x.js", None, SAFE_TYPE),
        ("application/octet-stream", "x.mjs", None, SAFE_TYPE),
        ("*/*", "x", None, SAFE_TYPE),
        ("unknown/unknown", "x", None, SAFE_TYPE),
        ("image/*", "x", None, SAFE_TYPE),
        ("multipart/x-mixed-replace", "x", None, SAFE_TYPE),
        ("multipart/x-mixed-replace", "x.html", None, SAFE_TYPE),
        ("image/svg", "x", None, SAFE_TYPE),
        ("message/rfc822", "x.eml", None, SAFE_TYPE),
        ("application/x-shockwave-flash", "x", None, SAFE_TYPE),
    ] {
        assert_eq!(
            stored(&any, declared, name, found).as_deref(),
            Some(stored_type),
            "{declared} {name}"
        );
    }
}

#[test]
fn the_extension_of_the_object_counts_too() {
    let (any, images) = (types(&[]), types(&[&["image/*"]]));
    for (names, stored_type, accepted) in [
        (["x.PNG", "a/x.png"], "image/png", true),
        (["x.png", "a/x.jpg"], "image/png", true),
        (["x.png", "a/x"], "image/png", true),
        (["x.png", "a/x.html"], SAFE_TYPE, false),
        (["x.html", "a/x.png"], SAFE_TYPE, false),
        (["x", "a/x.html"], SAFE_TYPE, false),
    ] {
        let declared = any.admit(Some("image/png"), names).unwrap();
        assert_eq!(any.without_content(&declared), stored_type, "{names:?}");
        assert_eq!(images.admit(Some("image/png"), names).is_ok(), accepted, "{names:?}");
    }
}

#[test]
fn declared_type_extension_and_content_must_all_be_listed() {
    let images = types(&[&["image/*"]]);
    for (declared, name, found, stored_type) in [
        ("image/png", "x.png", Some("image/png"), Some("image/png")),
        ("image/jpg", "x.jpeg", Some("image/jpeg"), Some("image/jpeg")),
        ("", "x.png", Some("image/png"), Some("image/png")),
        ("image/heic", "x.heic", Some("image/heif"), Some("image/heic")),
        ("image/png", "x", Some("image/gif"), Some("image/png")),
        ("application/pdf", "x.pdf", Some("application/pdf"), None),
        ("image/png", "x.pdf", Some("image/png"), None),
        ("image/png", "x.html", Some("image/png"), None),
        ("image/png", "x.png", Some("application/pdf"), None),
        ("image/png", "x.png", Some("text/html"), None),
        ("image/png", "x.png", None, None),
        ("image/svg+xml", "x.svg", Some("image/svg+xml"), None),
        ("", "x", Some("image/png"), None),
    ] {
        assert_eq!(
            stored(&images, declared, name, found).as_deref(),
            stored_type,
            "{declared} {name} {found:?}"
        );
    }
    let documents = types(&[&[
        "text/plain",
        "text/csv",
        "application/msword",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ]]);
    for (declared, name, found, accepted) in [
        ("text/plain", "x.txt", None, true),
        ("text/csv", "x.csv", Some("image/bmp"), false),
        ("text/plain", "x.txt", Some("text/html"), false),
        ("application/msword", "x.doc", Some("application/x-ole-storage"), true),
        ("", "x.docx", Some("application/zip"), true),
        ("", "x.docx", Some("application/pdf"), false),
    ] {
        assert_eq!(
            stored(&documents, declared, name, found).is_some(),
            accepted,
            "{declared} {name} {found:?}"
        );
    }
    let bitmap_by_chance = Magic { media_type: Some("image/bmp"), text: true };
    let text = documents.admit(Some("text/csv"), ["x.csv"; 2]).unwrap();
    assert!(documents.confirm(&text, Some(bitmap_by_chance)).is_ok());
}

#[test]
fn active_types_must_be_listed_by_name_and_a_ticket_cannot_list_them() {
    let svg = types(&[&["image/*", "image/svg+xml"]]);
    let stored_type = stored(&svg, "image/svg+xml", "x.svg", Some("image/svg+xml"));
    assert_eq!(stored_type.as_deref(), Some("image/svg+xml"));
    assert_eq!(stored(&svg, "image/svg+xml", "x.svg", None), None);
    assert_eq!(stored(&svg, "image/svg+xml", "x.svg", Some("text/html")), None);
    assert_eq!(stored(&svg, "image/svg+xml", "x.html", Some("image/svg+xml")), None);
    assert_eq!(stored(&types(&[&["*/*"]]), "text/html", "x.html", Some("text/html")), None);
    let html = types(&[&["text/html"]]);
    assert!(stored(&html, "text/html", "x.html", Some("text/html")).is_some());

    let mut claimed = types(&[]);
    claimed.restrict(&["text/html".to_owned()]);
    assert_eq!(stored(&claimed, "text/html", "x.html", Some("text/html")), None);
    let mut both = svg;
    both.restrict(&["image/*".to_owned()]);
    assert_eq!(stored(&both, "image/svg+xml", "x.svg", Some("image/svg+xml")), None);
}

#[test]
fn a_type_must_be_on_every_list() {
    let both = types(&[&["image/*", "application/pdf"], &[], &["image/png", "text/plain"]]);
    assert!(stored(&both, "image/png", "x.png", Some("image/png")).is_some());
    assert!(stored(&both, "image/gif", "x.gif", Some("image/gif")).is_none());
    assert!(stored(&both, "application/pdf", "x.pdf", Some("application/pdf")).is_none());
}

#[test]
fn a_meaningless_type_is_replaced_by_that_of_the_extension() {
    let any = types(&[]);
    let long = format!("application/{}", "a".repeat(MAX_LENGTH));
    for declared in [
        "",
        "application/octet-stream",
        "Application/Octet-Stream; charset=binary",
        "binary/octet-stream",
        "application/binary",
        "application/x-binary",
        "application/x-www-form-urlencoded; charset=UTF-8",
        "application/force-download",
        "application/x-force-download",
        "application/download",
        "application/x-download",
        "application/unknown",
        "application/x-unknown",
        "application/x-unknown-content-type",
        "unknown/unknown",
        "content/unknown",
        "x-unknown/x-unknown",
        "multipart/form-data; boundary=x",
        "MULTIPART/mixed",
        "*/*",
        "image/*",
        &long,
        // Not media types.
        "image",
        "image/",
        "/png",
        "undefined",
        "image/png; charset",
        "image/png, text/html",
        "image/png,text/html",
        "\"image/png\"",
        "image/png; a=\"b",
        "image png",
        ".png",
    ] {
        for (name, stored_type) in [("x.PDF", "application/pdf"), ("x", SAFE_TYPE)] {
            let stored = stored(&any, declared, name, None);
            assert_eq!(stored.as_deref(), Some(stored_type), "{declared} {name}");
        }
    }
    // The extension of the object counts where the file's name has none.
    let declared = any.admit(Some("binary/octet-stream"), ["blob", "a/x.png"]).unwrap();
    assert_eq!(any.without_content(&declared), "image/png");
}

#[test]
fn a_type_is_stored_by_its_standard_name() {
    let any = types(&[]);
    for (declared, stored_type) in [
        ("image/jpg", "image/jpeg"),
        ("IMAGE/PJPEG", "image/jpeg"),
        (" image/png ; ; charset=binary ;", "image/png; charset=binary"),
        ("text/plain; a=\";\" ;charset=\"utf-8\"", "text/plain; charset=utf-8"),
        ("image/x-png", "image/png"),
        ("application/x-zip-compressed", "application/zip"),
        ("audio/x-wav", "audio/wav"),
        ("video/x-m4v", "video/mp4"),
        ("text/x-csv; charset=gbk", "text/csv; charset=gbk"),
        ("image/heic", "image/heic"),
        ("application/vnd.ms-excel", "application/vnd.ms-excel"),
    ] {
        assert_eq!(stored(&any, declared, "x", None).as_deref(), Some(stored_type), "{declared}");
    }
}

#[test]
fn a_listed_type_is_accepted_under_each_of_its_names() {
    for (listed, declared, name, found) in [
        ("image/jpeg", "image/pjpeg", "x.jpg", "image/jpeg"),
        ("image/jpg", "image/jpeg", "x.jpg", "image/jpeg"),
        ("audio/wav", "audio/vnd.wave", "x.wav", "audio/x-wav"),
        ("audio/x-wav", "audio/wav", "x.wav", "audio/x-wav"),
        ("audio/mp4", "audio/x-m4a", "x.m4a", "audio/m4a"),
        ("video/mp4", "video/x-m4v", "x.m4v", "video/x-m4v"),
        ("audio/flac", "audio/x-flac", "x.flac", "audio/x-flac"),
        ("application/x-rar-compressed", "application/vnd.rar", "x.rar", "application/vnd.rar"),
        ("font/woff", "application/font-woff", "x.woff", "application/font-woff"),
        ("image/x-icon", "image/vnd.microsoft.icon", "x.ico", "image/vnd.microsoft.icon"),
    ] {
        let stored_type = stored(&types(&[&[listed]]), declared, name, Some(found));
        assert!(stored_type.is_some(), "{listed}: {declared}");
    }
}
