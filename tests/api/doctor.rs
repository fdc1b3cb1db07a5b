//! `doctor`: what it finds out of a gateway's environment, by both roads to COS, and what it leaves behind.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};
use tcb_upload_gateway::sandbox::Options;

use crate::cli::{Ended, run};
use crate::harness::{Setup, World};
use crate::hooks;
use crate::recorder::{Recorder, response};
use crate::replicas::Redis;
use crate::stand_in::{Upstream, read_body};
use crate::tls::Certificate;

/// The settings of a production gateway in front of the test's sandbox, with `changes`.
fn settings(world: &World, changes: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut variables = world.variables().clone();
    for (key, value) in changes {
        let name = format!("GATEWAY__{}", key.to_uppercase().replace('.', "__"));
        variables.insert(name, (*value).to_owned());
    }
    variables
}

/// The form is the default, also where the tests run by COS's API.
const BY_FORM: (&str, &str) = ("cos.via", "form");
const BY_API: (&str, &str) = ("cos.via", "api");

pub fn doctor(world: &World, changes: &[(&str, &str)]) -> Ended {
    doctor_with(world, changes, &[])
}

fn doctor_with(world: &World, changes: &[(&str, &str)], options: &[&str]) -> Ended {
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = [&["doctor", "--profile", "production"], options].concat();
    run(&arguments, &settings(world, &[&[BY_FORM], changes].concat()), folder.path())
}

/// The steps that `doctor` printed, each with its result.
pub fn steps(ended: &Ended) -> BTreeMap<&str, &str> {
    let mut steps = BTreeMap::new();
    for line in ended.stdout.lines() {
        let mut words = line.split_whitespace();
        if let (Some(mark @ ("ok" | "FAILED" | "-")), Some(name)) = (words.next(), words.next()) {
            steps.insert(name, mark);
        }
    }
    steps
}

#[test]
fn the_doctor_passes_a_working_gateway() {
    let world = Setup::new().start();
    for mode in ["stable", "secret"] {
        let ended = doctor(&world, &[("wechat.credential", mode)]);
        assert_eq!(ended.code, 0, "{}", ended.stdout);
        assert_eq!(steps(&ended).len(), 7, "{}", ended.stdout);
        assert!(steps(&ended).values().all(|mark| *mark == "ok"), "{}", ended.stdout);
        assert!(ended.stdout.contains(&format!("credential mode `{mode}`")), "{}", ended.stdout);
        let verified = "1 byte stored, CRC-64 verified: COS returns one for forms";
        assert!(ended.stdout.contains(verified), "{}", ended.stdout);
    }
    assert_eq!(world.count("batchdeletefile"), 2);
    world.assert_nothing_stored();

    // With Redis, and with a public URL at which a gateway runs.
    let redis = Redis::start();
    let public_url = format!("http://{}", world.gateway.address);
    let ended = doctor(&world, &[("redis.url", &redis.url()), ("server.public_url", &public_url)]);
    assert_eq!(ended.code, 0, "{}", ended.stdout);
    assert_eq!(
        (steps(&ended)["redis"], steps(&ended)["public_url"]),
        ("ok", "ok"),
        "{}",
        ended.stdout
    );
    let unused =
        TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let ended = doctor(&world, &[("server.public_url", &format!("http://{unused}"))]);
    assert_eq!(ended.code, 0, "{}", ended.stdout);
    assert!(ended.stdout.contains("note    public_url no response from"), "{}", ended.stdout);

    // Without any settings `doctor` checks the built-in sandbox.
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("objects").display().to_string();
    let variables = [("GATEWAY__SANDBOX__DATA".to_owned(), data)];
    let ended = run(&["doctor"], &variables.into(), folder.path());
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    assert!(steps(&ended).values().all(|mark| *mark == "ok"), "{}", ended.stdout);
    assert_eq!(ended.stderr, "");
}

/// What is broken (settings, faults of the services), the step that fails, and words of its message.
type Broken<'a> = (&'a [(&'a str, &'a str)], Value, &'a str, &'a [&'a str]);

/// Runs `doctor` in front of a sandbox with a fault: the step fails, and its line and advice contain the words.
fn assert_fault(world: &World, (changes, faults, step, said): Broken<'_>) {
    world.control("POST", "reset", "");
    world.faults(&faults);
    let ended = doctor(world, changes);
    let out = &ended.stdout;
    println!("{changes:?} {faults}\n{out}");
    assert_eq!(ended.code, 1, "{out}");
    let failed: Vec<_> = steps(&ended).into_iter().filter(|(_, mark)| *mark == "FAILED").collect();
    assert_eq!(failed, [(step, "FAILED")], "{out}");
    let (_, rest) = out.split_once("FAILED ").expect("a failure");
    for text in said {
        assert!(rest.contains(text), "no {text:?} in\n{out}");
    }
    // A failed step leaves no test file behind, unless deleting is what failed.
    if step != "delete" {
        world.assert_nothing_stored();
    }
    if !faults.to_string().contains("abort") {
        assert_eq!(world.multipart_uploads(), Vec::<Value>::new());
    }
    let secret = &world.variables()["GATEWAY__WECHAT__SECRET"][..];
    for secret in [secret, "q-signature", "sign=", "hunter2"] {
        assert!(!out.contains(secret), "{out}");
    }
}

fn rule(stage: &str, fault: &str, with: Value) -> Value {
    let mut rule = json!({"stage": stage, "fault": fault});
    rule.as_object_mut().expect("a rule").extend(with.as_object().expect("an object").clone());
    json!([rule])
}

fn errcode(stage: &str, errcode: i64, errmsg: &str) -> Value {
    rule(stage, "errcode", json!({"errcode": errcode, "errmsg": errmsg}))
}

fn status(stage: &str, status: u16, code: &str) -> Value {
    rule(stage, "status", json!({"status": status, "code": code}))
}

/// The URL of a port on which nothing listens.
pub fn nowhere() -> String {
    let unused = TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("http://{}", unused.local_addr().expect("an address"))
}

#[test]
fn the_doctor_names_each_fault_and_where_to_change_it() {
    let unused =
        TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let nowhere = format!("http://{unused}");
    let unreached = [("wechat.base_url", nowhere.as_str())];
    let redis = format!("redis://:hunter2@{unused}/1");
    let world = Setup::new().start();
    // A server that is not a gateway: the sandbox's COS.
    let elsewhere = format!("http://{}", world.sandbox.cos_addr());
    let no_redis = [("redis.url", redis.as_str())];
    let other_address = [("server.public_url", elsewhere.as_str())];
    let cos = |code, text| status("cos", code, text);
    let fine = json!([]);
    let cases: Vec<Broken<'_>> = vec![
        (
            &[("wechat.secret", "wrong")],
            fine.clone(),
            "token",
            &["40125", "GATEWAY__WECHAT__SECRET"],
        ),
        (&[("wechat.appid", "wxother")], fine.clone(), "token", &["40013", "wechat.appid"]),
        (
            &[],
            errcode("token", 40164, "invalid ip 203.0.113.7, not in whitelist"),
            "token",
            &["40164", "add the address 203.0.113.7 to", "mp.weixin.qq.com"],
        ),
        (&unreached, fine.clone(), "token", &["wechat.base_url", "firewall"]),
        (
            &[],
            errcode("token", 45009, "reach max api daily quota limit"),
            "token",
            &["45009", "midnight"],
        ),
        (&[], rule("token", "garbage", json!({})), "token", &["wechat.base_url"]),
        (&[("wechat.env", "other-env")], fine.clone(), "link", &["-501000", "wechat.env"]),
        (&[], errcode("link", 85088, "no tcb"), "link", &["85088", "cloud.weixin.qq.com"]),
        (&[], errcode("link", 85107, "not allowed"), "link", &["85107", "/tcb/uploadfile"]),
        (&[], errcode("link", 48001, "api unauthorized"), "link", &["48001", "permission"]),
        (
            &[("cos.allowed_hosts", "*.myqcloud.com")],
            fine.clone(),
            "link",
            &["127.0.0.1:", "cos.allowed_hosts"],
        ),
        (&[("cos.allow_http", "false")], fine.clone(), "link", &["https", "cos.allow_http"]),
        (
            &[],
            rule("link", "foreign_host", json!({"url": format!("{nowhere}/b/k")})),
            "link",
            &["cos.allowed_hosts"],
        ),
        (&[], rule("cos", "refuse", json!({})), "upload", &["must reach 127.0.0.1", "firewall"]),
        (&[], cos(403, "AccessDenied"), "upload", &["AccessDenied", "权限设置"]),
        (&[], cos(404, "NoSuchBucket"), "upload", &["bucket is gone", "wechat.env"]),
        (&[], cos(451, "UnavailableForLegalReasons"), "upload", &["arrears"]),
        (&[], rule("cos", "wrong_crc", json!({})), "upload", &["CRC-64", "changes what is sent"]),
        (
            &[("cos.reply_timeout", "200ms")],
            rule("cos", "delay", json!({"ms": 5000})),
            "upload",
            &["the verdict took longer", "cos.connect_timeout"],
        ),
        (&[], rule("object", "status", json!({"status": 403})), "download", &["403", "防盗链"]),
        (&[], errcode("download", 48001, "api unauthorized"), "download", &["48001"]),
        (&[], errcode("delete", 85107, "not allowed"), "delete", &["/tcb/batchdeletefile"]),
        (&[("server.bind", "203.0.113.1:80")], fine.clone(), "listen", &["server.bind"]),
        (
            &[("server.tls.cert", "/no/cert.pem"), ("server.tls.key", "/no/key.pem")],
            fine.clone(),
            "listen",
            &["/no/cert.pem", "server.tls.cert"],
        ),
        (&no_redis, fine.clone(), "redis", &["Redis is unavailable", "redis.url", "password"]),
        (&other_address, fine.clone(), "public_url", &["not like a gateway", "server.public_url"]),
    ];
    for case in cases {
        assert_fault(&world, case);
    }
}

/// A back end's statuses for OPTIONS and POST of `hooks.stored_url`, and for GET of `auth.forward_url`.
type Statuses = [u16; 3];

const WELL: Statuses = [204, 401, 401];

#[test]
fn the_doctor_asks_the_back_end_and_sends_it_nothing() {
    let world = Setup::new().start();
    let server = Recorder::start();
    let [events, check] =
        ["events", "check"].map(|path| format!("http://{}/{path}", server.address));
    let settings = [
        ("hooks.stored_url", events.as_str()),
        ("hooks.secret", hooks::SECRET),
        ("auth.forward_url", check.as_str()),
    ];
    let run = |[options, post, get]: Statuses| {
        server.respond(move |request, stream| {
            let status = match request.head.split(' ').next() {
                Some("OPTIONS") => options,
                Some("POST") => post,
                _ => get,
            };
            let location = "Some\r\nLocation: http://127.0.0.1:1/";
            stream.write_all(response(&format!("{status} {location}"), "").as_bytes())
        });
        doctor(&world, &settings)
    };
    let ended = run(WELL);
    println!("{}", ended.stdout);
    assert_eq!(ended.code, 0);
    assert_eq!((steps(&ended)["hooks"], steps(&ended)["forward"]), ("ok", "ok"));
    let requests = server.received();
    assert_eq!(requests.len(), 2);
    for (request, begin) in requests.iter().zip(["OPTIONS /events ", "GET /check "]) {
        assert!(request.head.starts_with(begin) && request.body.is_empty(), "{}", request.head);
        let head = request.head.to_ascii_lowercase();
        let sent = ["webhook-", "authorization", "cookie", "v1,"];
        assert!(!sent.iter().any(|part| head.contains(part)), "{head}");
    }

    for (statuses, failed, said) in [
        // A framework without OPTIONS, and a route of POST.
        ([404, 401, 401], None, "(401 to POST); no event was sent"),
        ([405, 0, 302], None, "(302)"),
        ([200, 0, 403], None, "(200 to OPTIONS)"),
        ([404, 404, 401], Some("hooks"), "404 to POST"),
        ([410, 410, 401], Some("hooks"), "the route that takes the events"),
        ([301, 0, 401], Some("hooks"), "redirects are not followed"),
        ([502, 0, 401], Some("hooks"), "start the back end"),
        ([204, 0, 404], Some("forward"), "correct auth.forward_url"),
        ([204, 0, 500], Some("forward"), "500 to a request without a credential"),
        ([204, 0, 200], None, "every client may do what auth.forward allows"),
    ] {
        let ended = run(statuses);
        assert_eq!(ended.code, i32::from(failed.is_some()), "{}", ended.stdout);
        assert!(ended.stdout.contains(said), "{said}: {}", ended.stdout);
        let steps = steps(&ended);
        let all: Vec<_> = steps.iter().filter(|(_, mark)| **mark == "FAILED").collect();
        assert_eq!(all.first().map(|(name, _)| **name), failed, "{}", ended.stdout);
        assert!(all.len() <= 1, "{}", ended.stdout);
    }
    let posts = server.received().into_iter().filter(|request| request.head.starts_with("POST"));
    assert!(posts.map(|post| post.body).all(|body| body.is_empty()));
}

#[test]
fn the_doctor_names_a_back_end_that_cannot_be_reached() {
    let world = Setup::new().start();
    let certificate = Certificate::new();
    let other = certificate.shown(Setup::new()).start();
    let untrusted = format!("https://{}/healthz", other.gateway.address);
    for url in [nowhere(), untrusted] {
        let settings = [
            ("hooks.stored_url", url.as_str()),
            ("hooks.secret", hooks::SECRET),
            ("auth.forward_url", url.as_str()),
        ];
        let ended = doctor(&world, &settings);
        assert_eq!(ended.code, 1, "{}", ended.stdout);
        let steps = steps(&ended);
        assert_eq!((steps["hooks"], steps["forward"], steps["delete"]), ("FAILED", "FAILED", "ok"));
        for setting in ["hooks.stored_url", "auth.forward_url"] {
            let said = format!("-> this machine must reach {setting}: check the name");
            assert!(ended.stdout.contains(&said), "{}", ended.stdout);
        }
    }
}

#[test]
fn the_doctor_refuses_settings_that_cannot_be_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let ended = run(&["doctor", "--profile", "production"], &BTreeMap::new(), folder.path());
    assert_eq!(ended.code, 64);
    assert!(ended.stderr.contains("wechat.env: must be set"), "{}", ended.stderr);
}

#[test]
fn the_doctor_says_what_a_form_without_a_crc_means() {
    let world = Setup::new().sandbox(|options| options.post_crc = false).start();
    let run = |changes: &[(&str, &str)]| {
        let ended = doctor(&world, changes);
        println!("{changes:?}\n{}", ended.stdout);
        world.assert_nothing_stored();
        ended
    };
    let ended = run(&[("cos.verify", "reply")]);
    assert_eq!(ended.code, 0);
    assert!(ended.stdout.contains("1 byte stored, COS returned no CRC-64\n"));
    assert!(ended.stdout.contains("note    verify     COS returns no CRC-64 for forms"));
    assert!(ended.stdout.contains("-> cos.verify = \"head\" verifies them here"));

    let ended = run(&[("cos.verify", "head")]);
    assert_eq!((ended.code, steps(&ended)["verify"]), (0, "ok"));

    let ended = run(&[("cos.verify", "none")]);
    assert_eq!(ended.code, 0);
    assert!(ended.stdout.contains("1 byte stored, not verified (cos.verify)"));
    assert!(!ended.stdout.contains("verify "));

    // No CRC-64 by HEAD either: it takes longer than COS's responses may.
    world.faults(&rule("object", "delay", json!({"ms": 2000})));
    let ended = run(&[("cos.verify", "head"), ("cos.reply_timeout", "700ms")]);
    assert_eq!(ended.code, 0);
    assert!(ended.stdout.contains("nor by a HEAD request over a download link: COS: the response"));
    assert!(ended.stdout.contains("cos.via = \"api\" verifies files, and needs keys"));

    // COS stored other bytes than were sent.
    world.control("POST", "reset", "");
    world.faults(&rule("cos", "truncate", json!({"after": 0})));
    let ended = run(&[("cos.verify", "head")]);
    assert_eq!(ended.code, 1);
    let steps = steps(&ended);
    assert_eq!((steps["upload"], steps["download"], steps["verify"]), ("ok", "FAILED", "FAILED"));
}

const SECRET_ID: &str = "AKIDofthedoctorstests";
const SECRET_KEY: &str = "the-secret-key-of-the-doctors-tests";

fn with_keys() -> World {
    let keys = |options: &mut Options| {
        options.secret_id = Some(SECRET_ID.to_owned());
        options.secret_key = Some(SECRET_KEY.to_owned());
    };
    Setup::new().sandbox(keys).start()
}

const STATIC: [(&str, &str); 4] = [
    BY_API,
    ("cos.api.keys", "static"),
    ("cos.api.secret_id", SECRET_ID),
    ("cos.api.secret_key", SECRET_KEY),
];

#[test]
fn the_doctor_passes_a_working_gateway_by_the_api() {
    let world = with_keys();
    let bucket = Options::default().bucket;
    let metaid = [BY_API, ("cos.api.file_ids", "metaid"), ("cos.api.bucket", bucket.as_str())];
    for (changes, first, keys) in [
        (&[BY_API][..], "link", "temporary keys from http://127.0.0.1:"),
        (&STATIC, "link", "those of cos.api.secret_id"),
        (&metaid, "file_id", "temporary keys"),
    ] {
        let ended = doctor(&world, changes);
        println!("{}", ended.stdout);
        assert_eq!(ended.code, 0);
        let steps = steps(&ended);
        let names = [first, "keys", "upload", "download", "delete", "multipart"];
        assert!(names.iter().all(|name| steps[name] == "ok"));
        assert_eq!(steps.len(), 9);
        assert!(ended.stdout.contains(keys));
        assert!(ended.stdout.contains("1 byte stored in one request, CRC-64 verified\n"));
        assert!(!ended.stdout.contains(SECRET_KEY));
        world.assert_nothing_stored();
        assert_eq!(world.multipart_uploads(), Vec::<Value>::new());
    }
    let counts = ["put_object", "initiate", "upload_part", "abort", "post_object"];
    assert_eq!(counts.map(|call| world.count(call)), [3, 3, 3, 3, 0]);

    for (verify, said) in [
        ("reply", "COS returned no CRC-64: set cos.verify = \"head\""),
        ("head", "CRC-64 verified by HEAD"),
        ("none", "not verified (cos.verify)"),
    ] {
        world.faults(&rule("put", "no_crc", json!({"times": 1})));
        let ended = doctor(&world, &[BY_API, ("cos.verify", verify)]);
        assert_eq!(ended.code, 0, "{}", ended.stdout);
        assert!(ended.stdout.contains(said), "{}", ended.stdout);
    }
}

#[test]
fn the_doctor_names_each_fault_of_the_api_and_where_to_change_it() {
    let world = with_keys();
    let (nowhere, wechat) = (nowhere(), world.sandbox.wechat_url());
    let (unknown, fine) = (format!("{wechat}/getauth"), json!([]));
    let bucket = Options::default().bucket;
    let placeholders = "http://{bucket}.cos.{region}.example.invalid";
    let changed = |more: &[(&'static str, &'static str)]| &*[&STATIC[..], more].concat().leak();
    let metaid = |more: &[(&'static str, String)]| {
        let mut changes =
            vec![("cos.via", "api".to_owned()), ("cos.api.file_ids", "metaid".to_owned())];
        changes.extend_from_slice(more);
        changes
    };
    let other_bucket = metaid(&[("cos.api.bucket", "other-1250000000".to_owned())]);
    let in_bucket = metaid(&[("cos.api.bucket", bucket.clone())]);
    let no_metaid = metaid(&[
        ("cos.api.bucket", bucket.clone()),
        ("cos.api.metaid_url", format!("{nowhere}/_/cos/metaid/encode")),
    ]);
    let texts = |changes: &'static [(&'static str, String)]| {
        changes.iter().map(|(key, value)| (*key, value.as_str())).collect::<Vec<_>>()
    };
    let (other_bucket, in_bucket, no_metaid) =
        (texts(other_bucket.leak()), texts(in_bucket.leak()), texts(no_metaid.leak()));
    let off: &[&str] = &["开放接口服务", "cos.api.keys = \"static\"", "cos.via = \"form\""];
    let elsewhere: &[&str] = &["only inside WeChat cloud hosting", "cos.api.keys = \"static\""];
    let by_api = &[BY_API][..];
    let getauth_nowhere = [BY_API, ("cos.api.getauth_url", nowhere.as_str())];
    let getauth_unknown = [BY_API, ("cos.api.getauth_url", unknown.as_str())];
    let cos_nowhere = [BY_API, ("cos.api.endpoint", nowhere.as_str())];
    let no_region = [BY_API, ("cos.api.endpoint", placeholders)];
    let cases: Vec<Broken<'_>> = vec![
        // The keys.
        (&getauth_nowhere, fine.clone(), "keys", elsewhere),
        (
            &[BY_API, ("wechat.timeout", "300ms")],
            rule("getauth", "delay", json!({"ms": 3000})),
            "keys",
            elsewhere,
        ),
        (by_api, rule("getauth", "close", json!({})), "keys", elsewhere),
        (by_api, errcode("getauth", 41001, "access_token missing"), "keys", off),
        (by_api, rule("getauth", "status", json!({"status": 404})), "keys", off),
        (by_api, rule("getauth", "status", json!({"status": 502})), "keys", off),
        (&getauth_unknown, fine.clone(), "keys", off),
        (&no_region, fine.clone(), "keys", &["set cos.api.bucket", "cos.api.region"]),
        // Wrong keys.
        (
            changed(&[("cos.api.secret_id", "AKIDofanother")]),
            fine.clone(),
            "upload",
            &["InvalidAccessKeyId", "cos.api.secret_id", "API 密钥"],
        ),
        (
            changed(&[("cos.api.token", "no-such-token")]),
            fine.clone(),
            "upload",
            &["InvalidAccessKeyId", "cos.api.token"],
        ),
        (
            changed(&[("cos.api.secret_key", "another-secret-key")]),
            fine.clone(),
            "upload",
            &["SignatureDoesNotMatch", "cos.api.secret_key does not belong"],
        ),
        (
            by_api,
            status("put", 403, "SignatureDoesNotMatch"),
            "upload",
            &["SignatureDoesNotMatch", "a proxy between"],
        ),
        (
            by_api,
            status("initiate", 403, "InvalidAccessKeyId"),
            "multipart",
            &["beginning it", "cos.api.getauth_url"],
        ),
        // Expired keys.
        (by_api, rule("put", "expire_keys", json!({})), "upload", &["ExpiredToken", "clock"]),
        (&STATIC, status("put", 403, "ExpiredToken"), "upload", &["cos.api.secret_id", "new ones"]),
        (
            by_api,
            rule("initiate", "expire_keys", json!({})),
            "multipart",
            &["ExpiredToken", "getauth returns keys that have expired"],
        ),
        // Clocks.
        (by_api, status("put", 403, "RequestTimeTooSkewed"), "upload", &["clock", "NTP"]),
        (&STATIC, status("put", 403, "RequestTimeTooSkewed"), "upload", &["clock", "NTP"]),
        (by_api, status("part", 403, "RequestTimeTooSkewed"), "multipart", &["a part", "NTP"]),
        // The bucket.
        (by_api, status("put", 404, "NoSuchBucket"), "upload", &["cos.api.bucket", "region"]),
        (
            &STATIC,
            status("put", 301, "PermanentRedirect"),
            "upload",
            &["cos.api.bucket", ".endpoint"],
        ),
        (by_api, status("initiate", 404, "NoSuchBucket"), "multipart", &["cos.api.bucket"]),
        (
            &cos_nowhere,
            fine.clone(),
            "upload",
            &["must reach 127.0.0.1", "no such host", "cos.api.bucket"],
        ),
        // Permissions.
        (&STATIC, status("put", 403, "AccessDenied"), "upload", &["访问管理", "UploadPart"]),
        (by_api, status("put", 403, "AccessDenied"), "upload", &["own bucket", "cos.api.bucket"]),
        (
            &STATIC,
            status("part", 403, "AccessDenied"),
            "multipart",
            &["访问管理", "sending a part"],
        ),
        (
            &STATIC,
            status("abort", 403, "AccessDenied"),
            "multipart",
            &["aborting it", "stays stored"],
        ),
        // Damaged on the way.
        (
            by_api,
            rule("put", "wrong_crc", json!({})),
            "upload",
            &["CRC-64", "changes what is sent"],
        ),
        (by_api, status("put", 451, "UnavailableForLegalReasons"), "upload", &["arrears"]),
        // File ids.
        (
            &in_bucket,
            errcode("metaid", 41001, "access_token missing"),
            "file_id",
            &["41001", "开放接口服务"],
        ),
        (
            &in_bucket,
            rule("metaid", "status", json!({"status": 404})),
            "file_id",
            &["404", "开放接口服务"],
        ),
        (
            &no_metaid,
            fine.clone(),
            "file_id",
            &["cos.api.metaid_url", "cos.api.file_ids = \"link\""],
        ),
        (&other_bucket, fine.clone(), "file_id", &["40097", "cos.api.bucket"]),
        (by_api, errcode("link", 85107, "not allowed"), "link", &["85107", "/tcb/uploadfile"]),
    ];
    for case in cases {
        assert_fault(&world, case);
    }

    // Keys that have expired when they arrive.
    let expired = |options: &mut Options| options.temporary_key_life = Duration::ZERO;
    let world = Setup::new().sandbox(expired).start();
    assert_fault(&world, (by_api, fine, "keys", &["have expired", "this machine's clock"]));
}

/// Files are named for what tries them, so that faults can apply to one of them.
const NAMED: (&str, &str) = ("upload.path_template", "{name}");

#[test]
fn a_slow_form_tells_what_cos_makes_of_it() {
    let slow = |world: &World, changes: &[(&str, &str)], seconds: &str| {
        let changes = [&[NAMED], changes].concat();
        let ended = doctor_with(world, &changes, &["--slow", "--slow-seconds", seconds]);
        println!("{changes:?}\n{}", ended.stdout);
        world.assert_nothing_stored();
        assert_eq!(world.multipart_uploads(), Vec::<Value>::new());
        assert_eq!(ended.stderr, "");
        ended
    };
    let limit = |limit| Setup::new().sandbox(move |options| options.upload_limit = limit).start();

    let world = limit(Some(Duration::from_secs(1)));
    for (changes, said) in [
        (&[][..], "set cos.slow_limit to less than \"2s\""),
        (&[("cos.slow_limit", "0s")], "set cos.slow_limit to less than \"2s\""),
        (&[("cos.slow_limit", "1s")], "buffered first if they fit into upload.max_buffered_file"),
        (&[BY_API], "with cos.via = \"api\" this does not matter"),
    ] {
        let ended = slow(&world, changes, "2");
        assert_eq!(ended.code, 0);
        let refused = "note    slow       1 MiB over 2 s as one form: COS refused it with UserNetworkTooSlow after 2.";
        assert!(ended.stdout.contains(refused));
        assert!(ended.stdout.contains(" s, after its last byte\n"));
        assert!(ended.stdout.contains(said), "no {said}");
    }
    assert_eq!(world.count("batchdeletefile"), 4, "only the 1-byte files");

    for limit_of_cos in [None, Some(Duration::from_secs(60))] {
        let world = limit(limit_of_cos);
        for (changes, said) in [
            (&[("cos.slow_limit", "500ms")][..], "cos.slow_limit can be raised to \"1s\""),
            (&[("cos.slow_limit", "0s")], "cos.slow_limit = \"0s\" is right"),
            (&[], "no longer than cos.slow_limit (\"150s\")"),
        ] {
            let ended = slow(&world, changes, "1");
            assert_eq!((ended.code, steps(&ended)["slow"]), (0, "ok"));
            assert!(ended.stdout.contains("1 MiB over 1 s as one form: stored, after 1."));
            assert!(ended.stdout.contains(said), "no {said}");
        }
        assert_eq!(world.count("batchdeletefile"), 6, "both files of each run");
    }
}

#[test]
fn a_slow_form_that_gets_no_answer_is_a_fault() {
    let world = Setup::new().start();
    let path = "gateway-slow";
    for (faults, said, code) in [
        (
            rule("cos", "reset_within", json!({"after": 300_000, "path": path})),
            "no response from COS",
            1,
        ),
        (rule("cos", "close", json!({"path": path})), "no response from COS", 1),
        (
            rule("cos", "status", json!({"status": 403, "code": "AccessDenied", "path": path})),
            "COS responded 403 AccessDenied",
            1,
        ),
        (
            rule("link", "errcode", json!({"errcode": 85107, "errmsg": "no", "path": path})),
            "85107",
            1,
        ),
        (
            rule(
                "cos",
                "early",
                json!({"status": 400, "code": "UserNetworkTooSlow", "after": 300_000, "path": path}),
            ),
            "before its last byte",
            0,
        ),
    ] {
        world.control("POST", "reset", "");
        world.faults(&faults);
        let ended = doctor_with(&world, &[NAMED], &["--slow", "--slow-seconds", "1"]);
        println!("{faults}\n{}", ended.stdout);
        assert_eq!(ended.code, code);
        assert_eq!(steps(&ended).get("slow"), if code == 1 { Some(&"FAILED") } else { None });
        assert!(ended.stdout.contains(said), "no {said}");
        world.assert_nothing_stored();
    }

    // Neither is tried where not even a 1-byte file can be stored.
    world.control("POST", "reset", "");
    for (changes, faults) in [
        (&[("wechat.secret", "wrong")][..], json!([])),
        (&[], status("cos", 403, "AccessDenied")),
        (&[BY_API], status("put", 403, "AccessDenied")),
    ] {
        world.faults(&faults);
        let ended = doctor_with(&world, changes, &["--slow", "--probe"]);
        assert_eq!(ended.code, 1);
        assert_eq!((steps(&ended)["slow"], steps(&ended)["probe"]), ("-", "-"), "{}", ended.stdout);
    }
}

#[test]
fn the_sandbox_s_links_are_for_forms_only() {
    let world = Setup::new().start();
    for via in [BY_FORM, BY_API] {
        let ended = doctor_with(&world, &[via], &["--probe"]);
        println!("{}", ended.stdout);
        assert_eq!(ended.code, 0);
        for said in [
            "note    probe      PUT with an upload link's signature: refused (403 ",
            "note    probe      a multipart upload with an upload link's signature: refused (403 ",
            "-> links are signed for forms only: cos.via = \"api\" needs keys",
        ] {
            assert!(ended.stdout.contains(said), "no {said}");
        }
        assert!(ended.stdout.contains("All steps succeeded"));
        world.assert_nothing_stored();
        assert_eq!(world.multipart_uploads(), Vec::<Value>::new());
    }
    assert_eq!(world.count("put_object"), 3, "two of them by links");
}

/// A COS that accepts what links are not for, according to `put` and `multipart`, in front of which the rest is as usual.
#[test]
fn a_cos_that_accepts_links_is_told_and_cleaned_up() {
    const ACCEPTED: &str = "HTTP/1.1 200 OK\r\netag: \"x\"\r\nconnection: close\r\n";
    const REFUSED: &str =
        "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    const BUSY: &str = "HTTP/1.1 503 Busy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let initiated = {
        let document = "<InitiateMultipartUploadResult><UploadId>id/1+</UploadId></InitiateMultipartUploadResult>";
        format!("{ACCEPTED}content-length: {}\r\n\r\n{document}", document.len())
    };
    let stored = format!("{ACCEPTED}content-length: 0\r\n\r\n");
    let gone = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_owned();
    let text = str::to_owned;
    for (put, initiate, abort, code, said) in [
        (&stored, &initiated, &gone, 0, "would work without keys"),
        (&stored, &text(REFUSED), &gone, 0, "good for whole files, and not for files in parts"),
        (&text(REFUSED), &initiated, &gone, 0, "good for files in parts, and not for whole ones"),
        (
            &text(BUSY),
            &text(REFUSED),
            &gone,
            1,
            "PUT with an upload link's signature: COS responded 503",
        ),
        (
            &stored,
            &initiated,
            &text(BUSY),
            1,
            "a multipart upload with an upload link's signature: COS",
        ),
    ] {
        let world = Setup::new().start();
        let upstream = Upstream::start();
        let responses =
            [("PUT", put.clone()), ("POST", initiate.clone()), ("DELETE", abort.clone())];
        upstream.take_over("/b/", move |seen, mut stream| {
            let mut seen = seen.clone();
            if read_body(&mut seen, &mut stream).is_ok() {
                let response = responses.iter().find(|(method, _)| *method == seen.method);
                let response = &response.expect("a known method").1;
                let _ = stream.get_mut().write_all(response.as_bytes());
            }
        });
        let url = format!("http://{}/b/{{path}}", upstream.address);
        world.faults(&rule("link", "foreign_host", json!({"url": url, "path": "gateway-probe"})));
        let hosts =
            format!("{},{}", world.variables()["GATEWAY__COS__ALLOWED_HOSTS"], upstream.address);
        let changes = [NAMED, ("cos.allowed_hosts", hosts.as_str())];
        let ended = doctor_with(&world, &changes, &["--probe"]);
        println!("{}", ended.stdout);
        assert_eq!(ended.code, code);
        assert!(ended.stdout.contains(said), "no {said}");

        let seen = upstream.seen("/b/");
        for request in &seen {
            let signature = request.header("authorization").expect("a signature");
            assert!(signature.starts_with("q-sign-algorithm=sha1&q-ak="));
            for header in ["x-cos-security-token", "x-cos-meta-fileid"] {
                assert!(!request.header(header).expect("a header").is_empty());
            }
        }
        let was_initiated = initiate.contains("UploadId");
        let methods: Vec<_> = seen.iter().map(|request| request.method.as_str()).collect();
        let expected =
            if was_initiated { &["PUT", "POST", "DELETE"][..] } else { &["PUT", "POST"] };
        assert_eq!(methods, expected);
        assert!(seen[1].target.ends_with("?uploads="), "{}", seen[1].target);
        if was_initiated {
            assert!(seen[2].target.ends_with("?uploadId=id%2F1%2B"), "{}", seen[2].target);
        }
        // The file of --probe is deleted unless COS has certainly not stored it.
        let deleted = if put.as_str() == REFUSED { 1 } else { 2 };
        assert_eq!(world.count("batchdeletefile"), deleted);
    }
}

#[test]
fn the_doctor_s_options_are_checked_and_explained() {
    let folder = tempfile::tempdir().expect("a folder");
    for wrong in [
        &["doctor", "--slow-seconds", "5"][..],
        &["doctor", "--slow", "--slow-seconds", "0"],
        &["doctor", "--slow", "--slow-seconds", "601"],
        &["doctor", "--prob"],
    ] {
        let ended = run(wrong, &BTreeMap::new(), folder.path());
        assert_eq!(ended.code, 64, "{wrong:?}: {}", ended.stderr);
    }
    let help = run(&["doctor", "--help"], &BTreeMap::new(), folder.path());
    assert_eq!(help.code, 0);
    for said in ["--slow", "1 MiB over 210 s", "--probe", "without keys"] {
        assert!(help.stdout.contains(said), "{}", help.stdout);
    }
    assert!(!help.stdout.contains("--slow-seconds"), "{}", help.stdout);
}
