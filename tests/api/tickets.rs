//! Tickets (JWTs that a panel's back end mints for its users): what they allow, and that they cannot be forged.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::harness::{Client, Form, Response, Setup, World, authorization};

pub const SECRET: &str = "a-shared-secret-of-32-bytes-or-more";

/// Seconds since 1970.
pub fn now() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().expect("a clock");
    since.as_secs()
}

/// A token with this header and these claims, signed with HMAC-SHA256.
pub fn signed(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let encoded = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let text = format!("{}.{}", encoded(header), encoded(claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("a key");
    mac.update(text.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

/// A ticket signed with HS256, valid for five minutes.
pub fn ticket(mut claims: Value) -> String {
    if claims.get("exp").is_none() {
        claims["exp"] = json!(now() + 300);
    }
    signed(&json!({"alg": "HS256", "typ": "JWT"}), &claims, SECRET.as_bytes())
}

/// A gateway that accepts tickets signed with HS256.
pub fn setup() -> Setup {
    Setup::new().set("auth.jwt.algorithm", "HS256").set("auth.jwt.key", SECRET)
}

pub fn small() -> Form {
    Form::new().file("file", "x.txt", "text/plain", b"small")
}

/// Posts a form with a ticket in the header.
pub fn post(world: &World, token: &str, form: &Form) -> Response {
    send(world, "POST", "/v1/files", &[("authorization", &format!("Bearer {token}"))], form)
}

pub fn send(
    world: &World,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    form: &Form,
) -> Response {
    let (kind, body) = (form.content_type(), form.bytes());
    let mut client = world.client();
    let headers = [headers, &[("content-type", &kind)]].concat();
    client.send_request(method, target, &headers, &body);
    client.response()
}

pub fn call(world: &World, method: &str, target: &str, token: &str, body: &Value) -> Response {
    let mut client = world.client();
    let bearer = format!("Bearer {token}");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    client.send_request(method, target, &[("authorization", &bearer)], body.as_bytes());
    client.response()
}

fn assert_refused(world: &World, token: &str, what: &str) {
    let problem = post(world, token, &small()).problem(401, "unauthenticated");
    let detail = problem["detail"].as_str().expect("a text");
    assert!(!detail.contains(token), "{what}: {detail}");
    // In the URL it is refused as well, before the body is read.
    let mut client = world.client();
    let target = format!("/v1/files/t.txt?ticket={token}");
    client.send_head("PUT", &target, &[("content-length", "100000000")]);
    client.response().problem(401, "unauthenticated");
    world.assert_nothing_stored();
}

#[test]
fn a_ticket_lets_its_user_upload() {
    let world = setup().set("upload.path_template", "{client}/{uuid}{ext}").start();
    let token = ticket(json!({"sub": "user-7"}));
    let path = post(&world, &token, &small()).stored()["path"].as_str().expect("a path").to_owned();
    assert!(path.starts_with("user-7/"), "{path}");
    // In the URL, for clients that cannot set headers.
    let target = format!("/v1/files?ticket={token}");
    send(&world, "POST", &target, &[], &small()).stored();
    let mut client = world.client();
    client.send_request("PUT", &format!("/v1/files/own.txt?ticket={token}"), &[], b"x");
    client.response().stored();
    assert_eq!(world.objects().len(), 3);
    // Keys still work.
    world.post(&small()).stored();
    // The log has the ticket's subject.
    let log = world.gateway.log_with("\"client\":\"user-7\"");
    assert!(!log.contains(&token) && !log.contains("ticket="), "{log}");
}

/// A key pair in PEM: private, public.
fn pair(algorithm: &'static SignatureAlgorithm) -> (String, String) {
    let pair = KeyPair::generate_for(algorithm).expect("a key pair");
    (pair.serialize_pem(), pair.public_key_pem())
}

#[test]
fn tickets_of_every_algorithm_work_and_no_other_does() {
    let claims = json!({"sub": "u", "exp": now() + 300});
    let (rsa, rsa_public) = pair(&PKCS_RSA_SHA256);
    let (ec, ec_public) = pair(&PKCS_ECDSA_P256_SHA256);
    let (ed, ed_public) = pair(&PKCS_ED25519);
    let keys = [
        ("RS256", Algorithm::RS256, EncodingKey::from_rsa_pem(rsa.as_bytes()), &rsa_public),
        ("ES256", Algorithm::ES256, EncodingKey::from_ec_pem(ec.as_bytes()), &ec_public),
        ("EdDSA", Algorithm::EdDSA, EncodingKey::from_ed_pem(ed.as_bytes()), &ed_public),
    ];
    let tokens: Vec<(&str, String)> = keys
        .iter()
        .map(|(name, algorithm, key, _)| {
            let key = key.as_ref().expect("a key");
            let token = jsonwebtoken::encode(&Header::new(*algorithm), &claims, key);
            (*name, token.expect("a token"))
        })
        .chain([("HS256", ticket(claims.clone()))])
        .collect();

    for (name, _, _, public) in &keys {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("key.pem");
        std::fs::write(&file, public).expect("written");
        let world = Setup::new()
            .set("auth.jwt.algorithm", name)
            .set("auth.jwt.key_file", file.display())
            .start();
        for (other, token) in tokens.iter().filter(|(other, _)| other != name) {
            assert_refused(&world, token, &format!("{other} for {name}"));
        }
        // The public key is no secret: an HMAC made with it is not accepted.
        for header in [json!({"alg": "HS256"}), json!({"alg": name}), json!({"alg": "none"})] {
            for secret in [public.as_bytes(), public.trim().as_bytes(), b""] {
                assert_refused(&world, &signed(&header, &claims, secret), "confusion");
            }
        }
        let (_, own) = tokens.iter().find(|(known, _)| known == name).expect("its own");
        post(&world, own, &small()).stored();
        // Signed with another key of the same kind.
        let mut parts: Vec<&str> = own.split('.').collect();
        let forged = URL_SAFE_NO_PAD.encode(json!({"sub": "root", "exp": now() + 300}).to_string());
        parts[1] = &forged;
        post(&world, &parts.join("."), &small()).problem(401, "unauthenticated");
        assert_eq!(world.objects().len(), 1);
    }
}

#[test]
fn invalid_tickets_are_refused() {
    // Even if anonymous clients are allowed.
    for anonymous in [false, true] {
        let world = setup().set("auth.anonymous", anonymous).start();
        let good = json!({"sub": "u", "exp": now() + 300});
        let header = json!({"alg": "HS256", "typ": "JWT"});
        let token = ticket(good.clone());
        let (unsigned, signature) = token.rsplit_once('.').expect("a signature");
        let none = |alg: &str| {
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            format!("{}.{}.", part(&json!({ "alg": alg })), part(&good))
        };
        for (what, token) in [
            ("alg none", none("none")),
            ("alg None", none("None")),
            ("alg NONE with a signature", format!("{}{signature}", none("NONE"))),
            ("no signature", format!("{unsigned}.")),
            ("two parts", unsigned.to_owned()),
            ("another secret", signed(&header, &good, b"another-secret-of-32-bytes-or-more!")),
            ("no secret", signed(&header, &good, b"")),
            ("another hash", signed(&json!({"alg": "HS512"}), &good, SECRET.as_bytes())),
            ("a key of its own", {
                let jwk = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode("mine")});
                signed(&json!({"alg": "HS256", "jwk": jwk, "kid": "/dev/null"}), &good, b"mine")
            }),
            ("expired", ticket(json!({"sub": "u", "exp": now() - 1}))),
            ("long expired", ticket(json!({"sub": "u", "exp": 1}))),
            ("no exp", signed(&header, &json!({"sub": "u"}), SECRET.as_bytes())),
            ("exp of text", ticket(json!({"exp": "never"}))),
            ("exp null", ticket(json!({"exp": null}))),
            ("exp below zero", ticket(json!({"exp": -1}))),
            ("not yet", ticket(json!({"nbf": now() + 3600}))),
            ("no JSON", format!("{}.AAAA.{signature}", unsigned.split_once('.').expect("a dot").0)),
            ("sub with a line break", ticket(json!({"sub": "u\nroot"}))),
            ("an empty sub", ticket(json!({"sub": ""}))),
            ("a long sub", ticket(json!({"sub": "u".repeat(129)}))),
        ] {
            assert_refused(&world, &token, what);
        }
        // The minting server's clock may be a little fast.
        let early = ticket(json!({"nbf": now() + 5}));
        post(&world, &early, &small()).stored();
    }
}

#[test]
fn a_ticket_for_another_audience_is_refused() {
    let world = setup()
        .set("auth.jwt.issuer", "https://panel.example.com")
        .set("auth.jwt.audience", "files")
        .start();
    let claims = |iss: Value, aud: Value| {
        let mut claims = json!({"sub": "u", "iss": iss, "aud": aud});
        let map = claims.as_object_mut().expect("a map");
        map.retain(|_, value| !value.is_null());
        ticket(claims)
    };
    let panel = || json!("https://panel.example.com");
    for (what, token) in [
        ("no audience", claims(panel(), Value::Null)),
        ("another audience", claims(panel(), json!("mail"))),
        ("a part of the audience", claims(panel(), json!("file"))),
        ("other audiences", claims(panel(), json!(["mail", "chat"]))),
        ("no issuer", claims(Value::Null, json!("files"))),
        ("another issuer", claims(json!("https://evil.example.org"), json!("files"))),
    ] {
        assert_refused(&world, &token, what);
    }
    post(&world, &claims(panel(), json!("files")), &small()).stored();
    post(&world, &claims(panel(), json!(["mail", "files"])), &small()).stored();
}

#[test]
fn claims_narrow_what_a_ticket_may_do() {
    let world = setup().start();
    let named = |path: &str| Form::new().field("path", path).file("f", "x.txt", "text/plain", b"x");

    let upload_only = ticket(json!({"sub": "u", "can": ["upload"]}));
    let file = post(&world, &upload_only, &named("a/x.txt")).stored();
    assert_eq!(file["path"], "a/x.txt");
    call(&world, "DELETE", "/v1/files/a/x.txt", &upload_only, &Value::Null)
        .problem(403, "not_allowed");
    let list = json!({"files": ["a/x.txt"]});
    call(&world, "POST", "/v1/delete", &upload_only, &list).problem(403, "not_allowed");
    call(&world, "POST", "/v1/download-links", &upload_only, &list).problem(403, "not_allowed");
    call(&world, "POST", "/v1/upload-links", &upload_only, &json!({"path": "b"}))
        .problem(403, "not_allowed");
    let reader = ticket(json!({"sub": "u", "can": "download"}));
    post(&world, &reader, &small()).problem(403, "not_allowed");
    assert_eq!(call(&world, "POST", "/v1/download-links", &reader, &list).status, 200);
    for nothing in [json!([]), json!(["fly"])] {
        let token = ticket(json!({"sub": "u", "can": nothing}));
        post(&world, &token, &small()).problem(403, "not_allowed");
        call(&world, "POST", "/v1/delete", &token, &list).problem(403, "not_allowed");
    }

    let folder = ticket(json!({"sub": "u", "prefix": "users/u"}));
    let generated = post(&world, &folder, &small()).stored();
    assert!(generated["path"].as_str().expect("a path").starts_with("users/u/uploads/"));
    post(&world, &folder, &named("users/u/own.txt")).stored();
    for outside in ["own.txt", "users/other/own.txt", "users/u2/own.txt"] {
        post(&world, &folder, &named(outside)).problem(403, "path_not_allowed");
    }
    call(&world, "DELETE", "/v1/files/a/x.txt", &folder, &Value::Null)
        .problem(403, "path_not_allowed");
    let response = call(&world, "POST", "/v1/delete", &folder, &list).json();
    assert_eq!(response["files"][0]["error"]["code"], "path_not_allowed", "{response}");
    let by_id = json!({"files": [file["file_id"]]});
    let response = call(&world, "POST", "/v1/download-links", &folder, &by_id).json();
    assert_eq!(response["files"][0]["error"]["code"], "path_not_allowed", "{response}");
    let own = call(&world, "DELETE", "/v1/files/users/u/own.txt", &folder, &Value::Null);
    assert_eq!(own.status, 204, "{}", own.text());

    let sized = ticket(json!({"sub": "u", "max_file_size": 10}));
    let file = |length: usize| Form::new().file("f", "x.txt", "text/plain", &vec![b'x'; length]);
    post(&world, &sized, &file(10)).stored();
    post(&world, &sized, &file(11)).problem(413, "file_too_large");
    let sized = ticket(json!({"sub": "u", "max_file_size": "1KiB", "max_files": 1}));
    post(&world, &sized, &file(1024)).stored();
    post(&world, &sized, &file(1025)).problem(413, "file_too_large");
    let two = file(1).file("g", "y.txt", "text/plain", b"y");
    let response = send(
        &world,
        "POST",
        "/v1/files?multiple=1",
        &[("authorization", &format!("Bearer {sized}"))],
        &two,
    );
    assert_eq!(response.status, 413, "{}", response.text());

    let images = ticket(json!({"sub": "u", "types": ["image/*"]}));
    post(&world, &images, &small()).problem(415, "type_not_allowed");
    let png = Form::new().file("f", "x.png", "image/png", b"\x89PNG\r\n\x1a\nrest");
    post(&world, &images, &png).stored();
    let links = world.count("uploadfile");
    // An upload link would let the client post anything; the refusal says where such a file may be sent.
    for limited in [&sized, &images] {
        let refused = call(&world, "POST", "/v1/upload-links", limited, &json!({"path": "b"}));
        let problem = refused.problem(403, "not_allowed");
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(
            detail.contains("`POST /v1/files`") && detail.contains("`/v1/uploads`"),
            "{detail}"
        );
        // The same call of WeChat's shape.
        let refused =
            call(&world, "POST", "/tcb/uploadfile", limited, &json!({"path": "b"})).json();
        assert_eq!(refused["errcode"], 48001, "{refused}");
        let message = refused["errmsg"].as_str().expect("a message");
        assert!(message.contains("/v1/files") && message.contains("/v1/uploads"), "{message}");
    }
    assert_eq!(world.count("uploadfile"), links, "WeChat is not asked");
    assert!(!world.objects().iter().any(|object| object["key"] == "b"));
}

#[test]
fn a_ticket_with_a_path_allows_only_that_path() {
    // The back end names the path, so the user need not have `client_paths`.
    for client_paths in [true, false] {
        let world = setup().set("upload.client_paths", client_paths).start();
        let token = ticket(json!({"sub": "u", "path": "users/u/avatar.png"}));
        let png = |form: Form| form.file("f", "x.png", "image/png", b"\x89PNG\r\n\x1a\nrest");
        let own = "users/u/avatar.png";
        assert_eq!(post(&world, &token, &png(Form::new())).stored()["path"], own);
        assert_eq!(post(&world, &token, &png(Form::new().field("dir", "d"))).stored()["path"], own);
        assert_eq!(
            post(&world, &token, &png(Form::new().field("path", own))).stored()["path"],
            own
        );
        for other in ["users/u/avatar.png2", "users/u/other.png", "x", "users/u/avatar.png/x"] {
            post(&world, &token, &png(Form::new().field("path", other)))
                .problem(403, "path_not_allowed");
            let target = format!("/v1/files/{other}");
            call(&world, "DELETE", &target, &token, &Value::Null).problem(403, "path_not_allowed");
        }
        let two = png(png(Form::new()));
        let target = format!("/v1/files?multiple=1&ticket={token}");
        let response = send(&world, "POST", &target, &[], &two).json();
        assert_eq!(response["files"][0]["path"], own, "{response}");
        assert_eq!(response["files"][1]["error"]["code"], "invalid_request", "{response}");
        assert_eq!(world.objects().len(), 1);
    }
}

#[test]
fn claims_never_widen() {
    let world = setup()
        .set("auth.jwt.can", "upload")
        .set("auth.jwt.prefix", "users")
        .set("auth.jwt.client_paths", "true")
        .set("auth.jwt.max_file_size", 100)
        .set("auth.jwt.max_files", 1)
        .set("auth.jwt.types", "text/plain")
        .start();
    let kept =
        world.post(&Form::new().field("path", "kept.txt").file("f", "x", "text/plain", b"k"));
    kept.stored();
    let all = json!(["upload", "download", "delete", "link"]);
    let named = |path: &str, kind: &str, content: &[u8]| {
        Form::new().field("path", path).file("f", "x", kind, content)
    };
    for claims in [
        json!({"can": all, "prefix": "users", "max_file_size": 1 << 30, "types": ["*/*"]}),
        json!({"can": all, "max_file_size": "5GiB", "max_files": 1000, "types": ["*/*"]}),
        json!({"sub": "u", "client_paths": true, "rate": "1000/s"}),
    ] {
        let token = ticket(claims);
        post(&world, &token, &named("kept.txt", "text/plain", b"x"))
            .problem(403, "path_not_allowed");
        post(&world, &token, &named("users/x", "text/plain", &[b'x'; 101]))
            .problem(413, "file_too_large");
        post(&world, &token, &named("users/x.png", "image/png", b"\x89PNG\r\n\x1a\n"))
            .problem(415, "type_not_allowed");
        for target in ["/v1/files/kept.txt", "/v1/files/users/x"] {
            call(&world, "DELETE", target, &token, &Value::Null).problem(403, "not_allowed");
        }
        call(&world, "POST", "/v1/delete", &token, &json!({"files": ["kept.txt"]}))
            .problem(403, "not_allowed");
        call(&world, "POST", "/v1/upload-links", &token, &json!({"path": "users/y"}))
            .problem(403, "not_allowed");
    }
    // No ticket reaches outside `auth.jwt.prefix`.
    for claims in
        [json!({"prefix": "other"}), json!({"prefix": "user"}), json!({"path": "kept.txt"})]
    {
        post(&world, &ticket(claims), &small()).problem(403, "path_not_allowed");
    }
    // An invalid claim is refused, not ignored.
    for claims in [
        json!({"can": null}),
        json!({"can": 1}),
        json!({"prefix": null}),
        json!({"prefix": ""}),
        json!({"prefix": "users/.."}),
        json!({"prefix": "/"}),
        json!({"path": "../kept.txt"}),
        json!({"path": null}),
        json!({"max_file_size": -1}),
        json!({"max_file_size": null}),
        json!({"max_file_size": "much"}),
        json!({"max_files": 1.5}),
        json!({"types": []}),
        json!({"types": null}),
    ] {
        let response = post(&world, &ticket(claims.clone()), &named("users/x", "text/plain", b"x"));
        assert_eq!(response.status, 401, "{claims}: {}", response.text());
    }
    assert_eq!(world.objects().len(), 1);
    post(&world, &ticket(json!({"sub": "u"})), &named("users/x", "text/plain", b"x")).stored();
}

#[test]
fn keys_are_not_accepted_in_our_own_urls() {
    let world = setup().set("auth.anonymous", true).start();
    let target = "/v1/files?ticket=panel-key-for-tests";
    let problem = send(&world, "POST", target, &[], &small()).problem(401, "unauthenticated");
    assert!(problem["detail"].as_str().expect("a text").contains("URL"), "{problem}");
    let target = "/v1/files?access_token=panel-key-for-tests";
    // In a URL a key is not accepted as a credential.
    send(&world, "POST", target, &[], &small()).stored();
    // If both are present, the header is used.
    let target = format!("/v1/files?ticket={}", ticket(json!({"can": "download"})));
    send(&world, "POST", &target, &[authorization()], &small()).stored();
    let wrong = [("authorization", "Bearer wrong")];
    let target = format!("/v1/files?ticket={}", ticket(json!({})));
    send(&world, "POST", &target, &wrong, &small()).problem(401, "unauthenticated");
    assert_eq!(world.objects().len(), 2);
}

#[test]
fn wechat_s_own_endpoints_accept_tickets_as_access_tokens() {
    let world = setup().start();
    world.post(&Form::new().field("path", "a/x.txt").file("f", "x", "text/plain", b"k")).stored();
    let ask = |parameter: &str, token: &str, body: &Value| {
        let mut client = Client::connect(world.gateway.address);
        let target = format!("/tcb/uploadfile?{parameter}={token}");
        client.send_request("POST", &target, &[], body.to_string().as_bytes());
        client.response().json()
    };
    let path = json!({"path": "a/y.txt"});
    for parameter in ["access_token", "cloudbase_access_token", "ticket"] {
        assert_eq!(
            ask(parameter, &ticket(json!({"sub": "u"})), &path)["errcode"],
            0,
            "{parameter}"
        );
    }
    let mine = ticket(json!({"prefix": "b"}));
    assert_eq!(ask("access_token", &mine, &path)["errcode"], -501007);
    let only = ticket(json!({"path": "a/z.txt"}));
    assert_eq!(ask("access_token", &only, &path)["errcode"], -501007);
    assert_eq!(ask("access_token", &ticket(json!({"can": "upload"})), &path)["errcode"], 48001);
    assert_eq!(ask("access_token", &ticket(json!({"types": "image/*"})), &path)["errcode"], 48001);
    assert_eq!(ask("access_token", &ticket(json!({"exp": 1})), &path)["errcode"], 42001);
    assert_eq!(ask("access_token", "a.b.c", &path)["errcode"], 40001);
    assert_eq!(ask("access_token", "panel-key-for-tests", &path)["errcode"], 0);
}

#[test]
fn mini_program_users_are_identified_if_enabled() {
    let openid = [("x-wx-openid", "oABCD-1234_efgh")];
    let world = Setup::new().start();
    send(&world, "POST", "/v1/files", &openid, &small()).problem(401, "unauthenticated");
    world.assert_nothing_stored();

    let world = Setup::new()
        .set("auth.trust_wx_headers", true)
        .set("upload.path_template", "{client}/{uuid}{ext}")
        .set("auth.wx.prefix", "users")
        .start();
    let file = send(&world, "POST", "/v1/files", &openid, &small()).stored();
    let path = file["path"].as_str().expect("a path").to_owned();
    assert!(path.starts_with("users/oABCD-1234_efgh/"), "{path}");
    // Its permissions are set by the operator; deleting must be allowed explicitly.
    let mut client = world.client();
    client.send_request("DELETE", &format!("/v1/files/{path}"), &openid, b"");
    client.response().problem(403, "not_allowed");
    for odd in ["", "a/b", "../x", "o".repeat(65).as_str()] {
        send(&world, "POST", "/v1/files", &[("x-wx-openid", odd)], &small())
            .problem(401, "unauthenticated");
    }
    let wrong = [openid[0], ("authorization", "Bearer wrong")];
    send(&world, "POST", "/v1/files", &wrong, &small()).problem(401, "unauthenticated");
    assert_eq!(world.objects().len(), 1);
}
