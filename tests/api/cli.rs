//! The command line: what each subcommand prints to stdout and stderr, and its exit code.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::harness::{KEY, Setup, World, command, crc64, noise};
use crate::replicas::Redis;

struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

fn run(arguments: &[&str], variables: &BTreeMap<String, String>, folder: &Path) -> Ended {
    let Output { status, stdout, stderr } =
        command(arguments, variables, folder).output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ended { code: status.code().expect("a code"), stdout: text(stdout), stderr: text(stderr) }
}

fn upload(world: &World, arguments: &[&str], folder: &Path) -> Ended {
    let to = format!("http://{}", world.gateway.address);
    let variables = [("GATEWAY_URL".to_owned(), to), ("GATEWAY_KEY".to_owned(), KEY.to_owned())];
    run(&[&["upload"], arguments].concat(), &variables.into(), folder)
}

#[test]
fn files_are_uploaded_and_their_urls_printed_in_order() {
    let world = Setup::new().set("upload.path_template", "{dir}/{uuid}-{name}").start();
    let folder = tempfile::tempdir().expect("a folder");
    let contents = [noise(9 << 20, 1), noise(10, 2), Vec::new(), noise(100_000, 3), noise(5, 4)];
    let names = ["photo.png", "b \"quoted\" 中文.txt", "empty", "d.bin", "e.mp4"];
    for (name, content) in names.iter().zip(&contents) {
        std::fs::write(folder.path().join(name), content).expect("written");
    }
    let ended = upload(&world, &[&names[..], &["--dir", "tried & true"]].concat(), folder.path());
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let urls: Vec<_> = ended.stdout.lines().collect();
    assert_eq!(urls.len(), 5, "{}", ended.stdout);
    for (url, content) in urls.iter().zip(&contents) {
        assert!(url.contains("/tried%20%26%20true/"), "{url}");
        assert!(world.download(url).0 == *content, "{url}");
    }
    assert!(ended.stderr.starts_with("5 of 5 files stored, 9.10 MiB in "), "{}", ended.stderr);
    let kinds: Vec<_> =
        world.objects().iter().map(|object| object["content_type"].clone()).collect();
    assert!(
        kinds.contains(&json!("image/png")) && kinds.contains(&json!("video/mp4")),
        "{kinds:?}"
    );

    let ended = upload(&world, &["d.bin", "--json", "--key", KEY], folder.path());
    let stored: Value = serde_json::from_str(&ended.stdout).expect("a line of JSON");
    assert_eq!(stored["crc64"], crc64(&contents[3]));
    assert!(stored["file_id"].as_str().expect("an id").starts_with("cloud://"));
}

#[test]
fn files_that_are_not_stored_are_named_with_the_reason() {
    let world = Setup::new().set("upload.max_file_size", "1MiB").start();
    let folder = tempfile::tempdir().expect("a folder");
    for (name, size) in [("small", 100), ("large", 60 << 20)] {
        std::fs::write(folder.path().join(name), noise(size, 1)).expect("written");
    }
    let ended = upload(&world, &["missing", "large", "small", "."], folder.path());
    assert_eq!(ended.code, 1);
    assert_eq!(ended.stdout.lines().count(), 1, "{}", ended.stdout);
    for said in [
        "missing: No such file",
        "large: file_too_large: the file is larger than 1.0 MiB",
        ".: it is not a file",
        "1 of 4 files stored, 100 B in ",
    ] {
        assert!(ended.stderr.contains(said), "no {said:?} in\n{}", ended.stderr);
    }
    // The request id on stderr is in the gateway's log.
    let id = ended.stderr.split_once("(request ").and_then(|(_, rest)| rest.split_once(')'));
    world.gateway.log_with(id.expect("an id").0);

    let wrong = upload(&world, &["small", "--key", "no such key"], folder.path());
    assert_eq!((wrong.code, wrong.stdout.as_str()), (1, ""));
    assert!(wrong.stderr.contains("unauthenticated: the key is not known"), "{}", wrong.stderr);
    assert_eq!(world.objects().len(), 1);

    let unused = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", unused.local_addr().expect("an address"));
    drop(unused);
    let nowhere = upload(&world, &["small", "--to", &address], folder.path());
    assert!(nowhere.stderr.contains("cannot reach 127.0.0.1:"), "{}", nowhere.stderr);
    for not_an_address in ["gateway.local:8080", "ftp://gateway.local"] {
        let ended = upload(&world, &["small", "--to", not_an_address], folder.path());
        assert_eq!(ended.code, 1);
        assert!(ended.stderr.contains("must begin with http"), "{}", ended.stderr);
    }
    // A server that responds, but not as a gateway: the sandbox's COS.
    let cos = format!("http://{}/", world.sandbox.cos_addr());
    let ended = upload(&world, &["small", "--to", &cos], folder.path());
    assert!(ended.stderr.contains("does not respond like a gateway"), "{}", ended.stderr);
}

#[test]
fn wrong_arguments_exit_with_code_64() {
    let folder = tempfile::tempdir().expect("a folder");
    for arguments in [&["upload"][..], &["uplaod", "x"], &["--no-such"]] {
        let ended = run(arguments, &BTreeMap::new(), folder.path());
        assert_eq!(ended.code, 64, "{arguments:?}: {}", ended.stderr);
    }
    let help = run(&["--help"], &BTreeMap::new(), folder.path());
    assert_eq!(help.code, 0);
    for named in ["upload", "doctor", "--check", "--health", "--profile", "--config"] {
        assert!(help.stdout.contains(named), "{}", help.stdout);
    }
}

/// The settings of a production gateway in front of the test's sandbox, with `changes`.
fn settings(world: &World, changes: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut variables = world.variables().clone();
    for (key, value) in changes {
        let name = format!("GATEWAY__{}", key.to_uppercase().replace('.', "__"));
        variables.insert(name, (*value).to_owned());
    }
    variables
}

fn doctor(world: &World, changes: &[(&str, &str)]) -> Ended {
    let folder = tempfile::tempdir().expect("a folder");
    run(&["doctor", "--profile", "production"], &settings(world, changes), folder.path())
}

/// The steps that `doctor` printed, each with its result.
fn steps(ended: &Ended) -> BTreeMap<&str, &str> {
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
        assert!(ended.stdout.contains("CRC-64 verified"), "{}", ended.stdout);
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
    let rule = |stage: &str, fault: &str, with: Value| {
        let mut rule = json!({"stage": stage, "fault": fault});
        rule.as_object_mut().expect("a rule").extend(with.as_object().expect("an object").clone());
        json!([rule])
    };
    let errcode = |stage: &str, errcode: i64, errmsg: &str| {
        rule(stage, "errcode", json!({"errcode": errcode, "errmsg": errmsg}))
    };
    let cos =
        |status: u16, code: &str| rule("cos", "status", json!({"status": status, "code": code}));
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
    for (changes, faults, step, said) in cases {
        world.control("POST", "reset", "");
        world.faults(&faults);
        let ended = doctor(&world, changes);
        let out = &ended.stdout;
        println!("{changes:?} {faults}\n{out}");
        assert_eq!(ended.code, 1, "{out}");
        let failed: Vec<_> =
            steps(&ended).into_iter().filter(|(_, mark)| *mark == "FAILED").collect();
        assert_eq!(failed, [(step, "FAILED")], "{out}");
        let (_, rest) = out.split_once("FAILED ").expect("a failure");
        for text in said {
            assert!(rest.contains(text), "no {text:?} in\n{out}");
        }
        // A failed step leaves no test file behind, unless deleting is what failed.
        if step != "delete" {
            world.assert_nothing_stored();
        }
        let secret = &world.variables()["GATEWAY__WECHAT__SECRET"][..];
        for secret in [secret, "q-signature", "sign=", "hunter2"] {
            assert!(!out.contains(secret), "{out}");
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
