//! Every `wechat.credential` mode: each uploads, links and deletes, and each of its failures says what to change and
//! where.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Form, Response, Setup, World, fetch, wait_until};
use crate::stand_in::{self, Upstream, ok};

const MODES: [&str; 5] = ["secret", "stable", "cloudbase", "open", "authorizer"];

fn small() -> Form {
    Form::new().file("file", "x.txt", "text/plain", b"x")
}

/// A gateway in one of the modes, and the token file of its platform.
fn start(mode: &str) -> (World, PathBuf) {
    let setup = Setup::new().set("wechat.credential", mode);
    let file = setup.folder().join("token");
    fs::write(&file, format!("{mode}-token-of-the-platform\n")).expect("a file");
    let token = Some(format!("{mode}-token-of-the-platform"));
    let setup = match mode {
        "cloudbase" => setup
            .set("wechat.cloudbase_token_file", file.display())
            .set("wechat.appid", "")
            .set("wechat.secret", "")
            .sandbox(|options| options.cloudbase_token = token),
        "open" => setup
            .set("wechat.appid", "")
            .set("wechat.secret", "")
            .sandbox(|options| options.open = true),
        "authorizer" => {
            let options = tcb_upload_gateway::sandbox::Options::default();
            setup
                .set("wechat.authorizer.component_appid", &options.component_appid)
                .set("wechat.authorizer.authorizer_appid", &options.appid)
                .set("wechat.authorizer.refresh_token", &options.refresh_token)
                .set("wechat.authorizer.component_token_file", file.display())
                .set("wechat.appid", "")
                .set("wechat.secret", "")
                .sandbox(|options| options.component_token = token)
        }
        _ => setup,
    };
    (setup.start(), file)
}

/// Uploads a file, links to it, fetches it and deletes it.
fn upload_link_and_delete(world: &World) {
    let id = world.post(&small()).stored()["file_id"].clone();
    let asked = json!({ "files": [id] });
    let links = world.call("POST", "/v1/download-links", &asked).json();
    assert_eq!(fetch(links["files"][0]["url"].as_str().expect("a link")).0, b"x");
    let deleted = world.call("POST", "/v1/delete", &asked).json();
    assert_eq!(deleted["files"][0]["deleted"], true, "{deleted}");
    assert_eq!(world.objects(), Vec::<Value>::new());
}

/// Asserts a problem of this errcode whose text has all these words in it.
fn explained(response: &Response, status: u16, code: &str, errcode: i64, words: &[&str]) {
    let problem = response.problem(status, code);
    assert_eq!(problem["errcode"], errcode, "{problem}");
    assert!(problem["rid"].is_string(), "{problem}");
    let detail = problem["detail"].as_str().expect("a text");
    for word in words {
        assert!(detail.contains(word), "no `{word}` in: {detail}");
    }
}

#[test]
fn each_mode_uploads_links_and_deletes() {
    for (mode, calls) in [
        ("secret", ("token", 1)),
        ("stable", ("stable_token", 1)),
        ("cloudbase", ("token", 0)),
        ("open", ("stable_token", 0)),
        ("authorizer", ("api_authorizer_token", 1)),
    ] {
        let (world, _) = start(mode);
        upload_link_and_delete(&world);
        assert_eq!(world.count(calls.0), calls.1, "{mode}");
        assert_eq!(
            world.call_with("GET", "/readyz", &[], "").json(),
            json!({ "status": "ready" }),
            "{mode}"
        );
        let log = world.gateway.log();
        for secret in ["token-of-the-platform", "refreshtoken@@@", "0000sandbox"] {
            assert!(!log.contains(secret), "{mode}: {log}");
        }
    }
}

/// The binary's built-in sandbox, with only the mode set.
#[test]
fn each_mode_works_in_the_binarys_own_sandbox() {
    use std::collections::BTreeMap;
    for mode in MODES {
        let folder = tempfile::tempdir().expect("a folder");
        let variables = [
            ("GATEWAY__SERVER__BIND", "127.0.0.1:0".to_owned()),
            ("GATEWAY__SANDBOX__DATA", folder.path().join("objects").display().to_string()),
            ("GATEWAY__WECHAT__CREDENTIAL", mode.to_owned()),
        ];
        let variables: BTreeMap<_, _> =
            variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let gateway = crate::harness::Gateway::start(&[], &variables, folder.path());
        let mut client = crate::harness::Client::connect(gateway.address);
        let (kind, body) = (small().content_type(), small().bytes());
        client.send_request("POST", "/v1/files", &[("content-type", &kind)], &body);
        client.response().stored();
    }
}

/// The calls of each mode, at a server that records them, match WeChat's documents.
#[test]
fn each_mode_calls_as_it_is_documented() {
    for mode in MODES {
        let upstream = Upstream::start();
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token").display().to_string();
        fs::write(&file, "tok/en+file").expect("a file");
        upstream.respond_with(
            "/cgi-bin/token",
            ok(&json!({ "access_token": "pla/in+", "expires_in": 7200 })),
        );
        upstream.respond_with(
            "/cgi-bin/component/api_authorizer_token",
            ok(&json!({
                "authorizer_access_token": "au/th+", "expires_in": 7200, "authorizer_refresh_token": "refresh-2",
            })),
        );
        let (gateway, _folder) = stand_in::gateway(
            &upstream,
            &[
                ("GATEWAY__WECHAT__CREDENTIAL", mode),
                ("GATEWAY__WECHAT__CLOUDBASE_TOKEN_FILE", &file),
                ("GATEWAY__WECHAT__AUTHORIZER__COMPONENT_APPID", "wxc"),
                ("GATEWAY__WECHAT__AUTHORIZER__AUTHORIZER_APPID", "wxa"),
                ("GATEWAY__WECHAT__AUTHORIZER__REFRESH_TOKEN", "refresh-1"),
                ("GATEWAY__WECHAT__AUTHORIZER__COMPONENT_TOKEN_FILE", &file),
            ],
        );
        let mut client = crate::harness::Client::connect(gateway.address);
        let (kind, body) = (small().content_type(), small().bytes());
        let headers = [crate::harness::authorization(), ("content-type", kind.as_str())];
        client.send_request("POST", "/v1/files", &headers, &body);
        client.response().stored();

        let calls = upstream.seen("/tcb/");
        let decoded = calls[0].target.replace('+', "%20");
        let decoded = percent_encoding::percent_decode_str(&decoded).decode_utf8().expect("text");
        let query = decoded.strip_prefix("/tcb/uploadfile").expect("the call");
        let stable = format!("?access_token={}", stand_in::token());
        let expected = match mode {
            "secret" => "?access_token=pla/in+",
            "stable" => &stable,
            "cloudbase" => "?cloudbase_access_token=tok/en+file",
            "open" => "",
            _ => "?access_token=au/th+",
        };
        assert_eq!(query, expected, "{mode}");
        let tokens = upstream.seen("/cgi-bin/");
        match mode {
            "secret" => assert_eq!(
                tokens[0].target,
                "/cgi-bin/token?grant_type=client_credential&appid=wx12&secret=0123456789"
            ),
            "authorizer" => {
                // WeChat may return a new refresh token with each token.
                upstream.respond_with(
                    "/tcb/uploadfile",
                    ok(&json!({ "errcode": 42001, "errmsg": "expired" })),
                );
                client.send_request("POST", "/v1/files", &headers, &body);
                client.response().problem(502, "wechat_refused");
                let again = upstream.seen("/cgi-bin/");
                assert_eq!(again.len(), 2);
                assert_eq!(again[1].json()["authorizer_refresh_token"], "refresh-2");
                assert!(
                    tokens[0].target.ends_with("?component_access_token=tok%2Fen%2Bfile"),
                    "{}",
                    tokens[0].target
                );
                let asked = json!({
                    "component_appid": "wxc", "authorizer_appid": "wxa", "authorizer_refresh_token": "refresh-1",
                });
                assert_eq!(tokens[0].json(), asked);
            }
            "stable" => {}
            _ => assert!(tokens.is_empty(), "{mode}"),
        }
    }
}

/// Refusals of WeChat that occur in every mode: the problem names the console and the setting to change there.
#[test]
fn each_refusal_says_what_to_change() {
    let world = Setup::new().start();
    world.post(&small()).stored();
    let stored = world.objects().len();
    for (errcode, errmsg, words) in [
        (
            40164,
            "invalid ip 203.0.113.7 ipv6 ::ffff:203.0.113.7, not in whitelist",
            &["203.0.113.7 to the IP allow list", "mp.weixin.qq.com"][..],
        ),
        (40125, "invalid appsecret", &["GATEWAY__WECHAT__SECRET", "mp.weixin.qq.com"]),
        (40013, "invalid appid", &["wechat.appid"]),
        (40243, "AppSecret has been frozen", &["frozen", "unfreeze"]),
        (85088, "no qbase privilege", &["cloud.weixin.qq.com", "switch on"]),
        (-501007, "invalid parameters", &["no leading `/`", "850 bytes"]),
        (-501000, "env not exists", &["wechat.env"]),
        (48001, "api unauthorized", &["permission"]),
        (50004, "forbidden", &["banned"]),
        (41001, "access_token missing", &["wechat.base_url"]),
        (40097, "invalid args", &["argument"]),
        (40101, "missing parameter", &["parameter"]),
        (43002, "require POST method", &["wechat.base_url"]),
        (44002, "empty post data", &["wechat.base_url"]),
        (47001, "data format error", &["wechat.base_url"]),
        (-1, "system error", &["try again shortly"]),
        (-1000, "system error", &["try again shortly"]),
        (-501001, "resource system error", &["try again shortly"]),
        (-501002, "resource server timeout", &["try again shortly"]),
    ] {
        world.faults(
            &json!([{"stage": "link", "fault": "errcode", "errcode": errcode, "errmsg": errmsg}]),
        );
        let words = [words, &[errmsg]].concat();
        explained(&world.post(&small()), 502, "wechat_refused", errcode, &words);
    }
    // The other calls have the same codes.
    for stage in ["download", "delete"] {
        for errcode in
            [40097, 40101, 41001, 43002, 44002, 47001, 85088, -1, -1000, -501000, -501002]
        {
            world.faults(&json!([{"stage": stage, "fault": "errcode", "errcode": errcode}]));
            let target = if stage == "delete" { "/v1/delete" } else { "/v1/download-links" };
            let response = world.call("POST", target, &json!({ "files": ["a"] }));
            explained(&response, 502, "wechat_refused", errcode, &[&errcode.to_string(), "("]);
        }
    }
    world.faults(&json!([{"stage": "link", "fault": "errcode", "errcode": -501007}]));
    let form = Form::new().field("path", "odd/路径.txt").file("f", "x", "text/plain", b"x");
    explained(&world.post(&form), 502, "wechat_refused", -501007, &["`odd/路径.txt`"]);
    // Unknown codes are passed on unchanged.
    world.faults(
        &json!([{"stage": "link", "fault": "errcode", "errcode": 99_999, "errmsg": "new trouble"}]),
    );
    explained(&world.post(&small()), 502, "wechat_refused", 99_999, &["new trouble"]);
    assert_eq!(world.objects().len(), stored);
}

#[test]
fn quotas_authorization_and_back_end_failures_say_what_to_do() {
    let world = Setup::new().start();
    let id = world.post(&small()).stored()["file_id"].clone();
    let asked = json!({ "files": [id] });
    let codes: [(i64, u64, &[&str]); 15] = [
        (-501003, 1, &["quota of requests", "larger plan"]),
        (-501009, 1, &["no such resource", "wechat.env"]),
        (-501015, 1, &["quota of reads", "larger plan"]),
        (-501016, 1, &["quota of writes", "larger plan"]),
        (-501017, 1, &["storage is full", "delete files"]),
        (-501018, 1, &["not available", "unpaid"]),
        (-501019, 1, &["not authorized", "环境共享"]),
        (-501020, 1, &["does not know an argument"]),
        (-501021, 1, &["does not support the call"]),
        (-503001, 1, &["storage failed", "try again later"]),
        (-503002, 1, &["may not be accessed", "安全规则"]),
        (-601001, 2, &["try again shortly"]),
        (-601002, 1, &["parameter"]),
        (-601003, 2, &["try again shortly"]),
        (45009, 1, &["midnight in China", "POST /cgi-bin/clear_quota (10 times a month)"]),
    ];
    for (stage, call) in
        [("link", "uploadfile"), ("download", "batchdownloadfile"), ("delete", "batchdeletefile")]
    {
        let attempt = || match stage {
            "link" => world.post(&small()),
            "download" => world.call("POST", "/v1/download-links", &asked),
            _ => world.call("POST", "/v1/delete", &asked),
        };
        for (errcode, attempts, words) in codes {
            let rule = json!({"stage": stage, "fault": "errcode", "errcode": errcode, "errmsg": "from a test"});
            world.faults(&json!([rule]));
            let before = world.count(call);
            let response = attempt();
            explained(&response, 502, "wechat_refused", errcode, words);
            assert_eq!(world.count(call) - before, attempts, "{call}: {errcode}");
            // The next attempt is worthwhile soon: the quota may be one of a minute.
            let wait = (errcode == 45009).then_some("30");
            assert_eq!(response.header("retry-after"), wait, "{call}: {errcode}");
            assert_eq!(world.objects().len(), 1, "{call}: {errcode}");
        }
        // The one retry of a failure of their back end succeeds.
        if stage == "link" {
            for errcode in [-601001, -601003] {
                world.faults(
                    &json!([{"stage": stage, "fault": "errcode", "errcode": errcode, "times": 1}]),
                );
                let stored = world.post(&small()).stored();
                let deleted =
                    world.call("POST", "/v1/delete", &json!({"files": [stored["file_id"]]}));
                assert_eq!(deleted.json()["files"][0]["deleted"], true);
            }
        }
    }
    world.control("DELETE", "faults", "");
    world.post(&small()).stored();
}

/// The quota of the token call may be used up for a minute only; until it is asked for again, no upload calls WeChat.
#[test]
fn a_token_call_whose_quota_is_used_up_is_made_again_after_half_a_minute() {
    for mode in ["secret", "stable", "authorizer"] {
        let (world, _) = start(mode);
        world.faults(&json!([{"stage": "token", "fault": "errcode", "errcode": 45009, "errmsg": "reach max api daily quota limit"}]));
        for _ in 0..20 {
            let response = world.post(&small());
            let words = ["clear_quota", "midnight in China"];
            explained(&response, 503, "credential_unavailable", 45009, &words);
            let wait: u64 =
                response.header("retry-after").expect("a time").parse().expect("a number");
            assert!((15..=36).contains(&wait), "{mode}: {wait}");
        }
        let calls = ["token", "stable_token", "api_authorizer_token"].map(|call| world.count(call));
        assert_eq!(calls.iter().sum::<u64>(), 1, "{mode}");
        world.assert_nothing_stored();
    }
}

#[test]
fn a_token_call_that_is_refused_says_what_to_change() {
    for (errcode, errmsg, words) in [
        (
            40164,
            "invalid ip 198.51.100.9, not in whitelist",
            &["198.51.100.9 to the IP allow list"][..],
        ),
        (40125, "invalid appsecret", &["GATEWAY__WECHAT__SECRET"]),
        (40013, "invalid appid", &["wechat.appid"]),
        (45009, "reach max api daily quota limit", &["midnight in China"]),
    ] {
        for mode in ["secret", "stable"] {
            let (world, _) = start(mode);
            world.faults(&json!([{"stage": "token", "fault": "errcode", "errcode": errcode, "errmsg": errmsg}]));
            let response = world.post(&small());
            explained(&response, 503, "credential_unavailable", errcode, words);
            assert!(response.header("retry-after").is_some());
            world.assert_nothing_stored();
        }
    }
}

#[test]
fn a_refresh_is_forced_only_if_wechat_returns_the_token_it_refused() {
    let world = Setup::new().start();
    world.post(&small()).stored();
    let forced = |count: usize| {
        let said = || world.gateway.log().matches("forcing a refresh").count();
        wait_until("the log says so", || said() >= count);
        assert_eq!(said(), count, "{}", world.gateway.log());
    };
    // Refused and replaced: a normal fetch is enough.
    world.control("POST", "tokens/revoke", "");
    world.post(&small()).stored();
    forced(0);
    // Refused, but returned again by the next fetch.
    world.control("POST", "tokens/spoil", "");
    world.post(&small()).stored();
    forced(1);
    let calls = world.count("stable_token");
    assert_eq!(calls, 4, "the first one, two for those refused, one forced");

    // Again within 30 s: a forced refresh is not allowed yet, and WeChat is not called repeatedly.
    world.control("POST", "tokens/spoil", "");
    let response = world.post(&small());
    let problem = response.problem(503, "credential_unavailable");
    assert!(problem["detail"].as_str().expect("a text").contains("20 times a day"), "{problem}");
    for _ in 0..20 {
        world.post(&small()).problem(503, "credential_unavailable");
    }
    forced(1);
    assert!(world.count("stable_token") - calls <= 4, "{}", world.count("stable_token") - calls);
}

#[test]
fn the_platforms_file_is_read_again_when_it_changes_and_when_its_token_is_refused() {
    let (world, file) = start("cloudbase");
    let set = |token: &str| {
        let body = json!({ "cloudbase": token }).to_string();
        assert_eq!(world.control("POST", "tokens/set", &body).status, 200);
    };
    world.post(&small()).stored();
    // The platform renews the token and the file: no call fails.
    fs::write(&file, "second-token").expect("a file");
    set("second-token");
    let before = world.count("uploadfile");
    world.post(&small()).stored();
    assert_eq!(world.count("uploadfile") - before, 1);

    // The platform renews the token before the file.
    set("third-token");
    explained(
        &world.post(&small()),
        502,
        "wechat_refused",
        40001,
        &["wechat.cloudbase_token_file", "云调用"],
    );
    fs::write(&file, "third-token").expect("a file");
    world.post(&small()).stored();

    // After errcode 40014 the gateway reads the file again.
    world.faults(&json!([{"stage": "link", "fault": "errcode", "errcode": 40014, "errmsg": "invalid access_token", "times": 1}]));
    world.post(&small()).stored();

    fs::remove_file(&file).expect("it is gone");
    let response = world.post(&small());
    let problem = response.problem(503, "credential_unavailable");
    let detail = problem["detail"].as_str().expect("a text");
    assert!(detail.contains("token file") && detail.contains("云调用"), "{detail}");
    world.call_with("GET", "/readyz", &[], "").problem(503, "credential_unavailable");
}

/// The errcodes of the open interface service, from the vendor's FAQ.
#[test]
fn the_open_interface_services_failures_are_explained() {
    let (world, _) = start("open");
    for (errcode, errmsg, words) in [
        (41001, "access_token missing", &["开放接口服务", "switch it on"][..]),
        (85107, "not allowed", &["/tcb/uploadfile", "微信令牌权限配置"]),
        (85112, "link fault", &["redeploy"]),
        (85113, "not ready", &["not ready yet"]),
    ] {
        world.faults(
            &json!([{"stage": "link", "fault": "errcode", "errcode": errcode, "errmsg": errmsg}]),
        );
        let before = world.count("uploadfile");
        explained(&world.post(&small()), 502, "wechat_refused", errcode, words);
        // 85113 ("not ready") is retried, the others are not.
        assert_eq!(
            world.count("uploadfile") - before,
            if errcode == 85113 { 3 } else { 1 },
            "{errcode}"
        );
    }
    world.faults(&json!([{"stage": "link", "fault": "status", "status": 502}]));
    let problem = world.post(&small()).problem(502, "wechat_unreachable");
    assert!(problem["detail"].as_str().expect("a text").contains("微信令牌权限配置"), "{problem}");
    // The service is switched off in the sandbox itself.
    world.control("DELETE", "faults", "");
    world.control("POST", "tokens/set", &json!({ "open": false }).to_string());
    explained(&world.post(&small()), 502, "wechat_refused", 41001, &["开放接口服务"]);
    world.assert_nothing_stored();
}

#[test]
fn an_authorizers_failures_are_explained() {
    let (world, file) = start("authorizer");
    let set = |what: Value| {
        assert_eq!(world.control("POST", "tokens/set", &what.to_string()).status, 200);
        // Makes the next call fetch a token.
        world.control("POST", "tokens/revoke", "");
    };
    world.post(&small()).stored();
    // The platform's own token was renewed, and its file with it.
    set(json!({ "component": "another-component-token" }));
    fs::write(&file, "another-component-token").expect("a file");
    world.post(&small()).stored();

    // The authorization was revoked: the refresh token is no longer valid.
    set(json!({ "refresh": null }));
    let response = world.post(&small());
    explained(
        &response,
        503,
        "credential_unavailable",
        61023,
        &["refresh token is no longer valid", "wechat.authorizer.refresh_token"],
    );

    let (world, _) = start("authorizer");
    world.control("POST", "tokens/set", &json!({ "component": "renewed" }).to_string());
    explained(
        &world.post(&small()),
        503,
        "credential_unavailable",
        40001,
        &["component_token_file"],
    );
    world.assert_nothing_stored();
    let (world, file) = start("authorizer");
    remove(&file);
    world.post(&small()).problem(503, "credential_unavailable");
}

fn remove(file: &Path) {
    fs::remove_file(file).expect("it is gone");
}
