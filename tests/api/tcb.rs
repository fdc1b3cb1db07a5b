//! WeChat's own API at the gateway: for existing back ends that change only their base URL.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Form, KEY, Response, Setup, World, authorization, fetch, noise, wait_until};

/// A call as a back end makes it, with the gateway's key in place of WeChat's token.
fn tcb(world: &World, call: &str, body: &Value) -> Value {
    let response = ask(world, "POST", &format!("{call}?access_token={KEY}"), &body.to_string());
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

fn ask(world: &World, method: &str, call: &str, body: &str) -> Response {
    world.call_with(method, &format!("/tcb/{call}"), &[("content-type", "application/json")], body)
}

fn env() -> String {
    tcb_upload_gateway::sandbox::Options::default().env
}

/// Posts a form to COS with a link's fields, as WeChat documents it.
fn post_to_cos(link: &Value, key: &str, content: &[u8]) -> Response {
    let text = |name: &str| link[name].as_str().unwrap_or_else(|| panic!("{name}: {link}"));
    let form = Form::new()
        .field("key", key)
        .field("Signature", text("authorization"))
        .field("x-cos-security-token", text("token"))
        .field("x-cos-meta-fileid", text("cos_file_id"))
        .file("file", "file", "application/octet-stream", content);
    let rest = text("url").strip_prefix("http://").expect("an http URL");
    let (authority, path) = rest.split_once('/').expect("a path");
    let mut cos = crate::harness::Client::connect(authority.parse().expect("an address"));
    let kind = form.content_type();
    cos.send_request("POST", &format!("/{path}"), &[("content-type", &kind)], &form.bytes());
    cos.response()
}

fn upload(world: &World, path: &str, content: &[u8]) -> String {
    let link = tcb(world, "uploadfile", &json!({ "env": env(), "path": path }));
    assert_eq!(link["errcode"], 0, "{link}");
    let response = post_to_cos(&link, path, content);
    assert_eq!(response.status, 204, "{}", response.text());
    link["file_id"].as_str().expect("an id").to_owned()
}

#[test]
fn requests_and_responses_match_the_documents() {
    let world = Setup::new().start();
    let content = noise(40_000, 3);
    let path = "this/is/a/example/file.path";
    let link = tcb(&world, "uploadfile", &json!({ "env": env(), "path": path }));
    let keys =
        |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    let expected = ["authorization", "cos_file_id", "errcode", "errmsg", "file_id", "token", "url"];
    assert_eq!(keys(&link), expected);
    assert_eq!((&link["errcode"], &link["errmsg"]), (&json!(0), &json!("ok")));
    assert_eq!(post_to_cos(&link, path, &content).status, 204);
    let id = &link["file_id"];

    let links = tcb(
        &world,
        "batchdownloadfile",
        &json!({ "env": env(), "file_list": [{ "fileid": id, "max_age": 7200 }] }),
    );
    let file = &links["file_list"][0];
    let url = file["download_url"].as_str().expect("a link");
    let expected = json!({ "errcode": 0, "errmsg": "ok", "file_list": [
        { "fileid": id, "download_url": url, "status": 0, "errmsg": "ok" },
    ]});
    assert_eq!(links, expected);
    assert!(fetch(url).0 == content);

    let deleted = tcb(&world, "batchdeletefile", &json!({ "env": env(), "fileid_list": [id] }));
    let expected = json!({ "errcode": 0, "errmsg": "ok", "delete_list": [
        { "fileid": id, "status": 0, "errmsg": "ok" },
    ]});
    assert_eq!(deleted, expected);
    // Each file has its own status.
    let links = tcb(&world, "batchdownloadfile", &json!({ "file_list": [{ "fileid": id }] }));
    let expected = json!({ "errcode": 0, "errmsg": "ok", "file_list": [
        { "fileid": id, "download_url": "", "status": -503003, "errmsg": "STORAGE_FILE_NONEXIST" },
    ]});
    assert_eq!(links, expected);
    let again = tcb(&world, "batchdeletefile", &json!({ "fileid_list": [id] }));
    assert_eq!(again["delete_list"][0]["status"], -503003, "{again}");
}

#[test]
fn the_environment_is_filled_in_where_it_is_missing() {
    let world = Setup::new().start();
    for env in [json!({}), json!({ "env": "" }), json!({ "env": null }), json!({ "env": env() })] {
        let mut body = env;
        body["path"] = json!("a.txt");
        assert_eq!(tcb(&world, "uploadfile", &body)["errcode"], 0, "{body}");
    }
    // Another environment is passed on to WeChat.
    let other = tcb(&world, "uploadfile", &json!({ "env": "other-env", "path": "a.txt" }));
    assert_eq!(other["errcode"], -501000, "{other}");
    let wrong = tcb(&world, "uploadfile", &json!({ "env": 1, "path": "a.txt" }));
    assert_eq!(wrong["errcode"], 40097, "{wrong}");
}

/// Compared with the sandbox's own WeChat: the same request has the same errcode.
#[test]
fn wrong_requests_are_answered_as_wechat_answers_them() {
    let world = Setup::new().start();
    let mut wechat = crate::harness::Client::connect(world.sandbox.wechat_addr());
    let options = tcb_upload_gateway::sandbox::Options::default();
    let token = json!({ "grant_type": "client_credential", "appid": options.appid, "secret": options.secret });
    wechat.send_request("POST", "/cgi-bin/stable_token", &[], token.to_string().as_bytes());
    let token = wechat.response().json()["access_token"].as_str().expect("a token").to_owned();
    let id = "cloud://sandbox-1a2b3c.7361-sandbox-1a2b3c-1250000000/a";

    for (method, call, body, errcode) in [
        ("GET", "uploadfile", String::new(), 43002),
        ("PUT", "uploadfile", "{}".to_owned(), 43002),
        ("POST", "uploadfile", String::new(), 44002),
        ("POST", "uploadfile", "{".to_owned(), 47001),
        ("POST", "uploadfile", "[]".to_owned(), 47001),
        ("POST", "uploadfile", json!({ "env": env() }).to_string(), 40101),
        ("POST", "uploadfile", json!({ "env": env(), "path": "" }).to_string(), 40101),
        ("POST", "uploadfile", json!({ "env": env(), "path": 1 }).to_string(), 40097),
        ("POST", "uploadfile", json!({ "env": env(), "path": "/a" }).to_string(), -501007),
        ("POST", "uploadfile", json!({ "env": env(), "path": "a//b" }).to_string(), -501007),
        ("GET", "batchdownloadfile", String::new(), 43002),
        ("POST", "batchdownloadfile", String::new(), 44002),
        ("POST", "batchdownloadfile", "x".to_owned(), 47001),
        ("POST", "batchdownloadfile", json!({ "env": env() }).to_string(), 40101),
        ("POST", "batchdownloadfile", json!({ "env": env(), "file_list": [] }).to_string(), 40101),
        ("POST", "batchdownloadfile", json!({ "env": env(), "file_list": {} }).to_string(), 40097),
        (
            "POST",
            "batchdownloadfile",
            json!({ "env": env(), "file_list": [id] }).to_string(),
            40097,
        ),
        (
            "POST",
            "batchdownloadfile",
            json!({ "env": env(), "file_list": [{}] }).to_string(),
            40101,
        ),
        (
            "POST",
            "batchdownloadfile",
            json!({ "env": env(), "file_list": [{ "fileid": id, "max_age": 0 }] }).to_string(),
            40097,
        ),
        ("GET", "batchdeletefile", String::new(), 43002),
        ("POST", "batchdeletefile", String::new(), 44002),
        ("POST", "batchdeletefile", "\"x\"".to_owned(), 47001),
        ("POST", "batchdeletefile", json!({ "env": env() }).to_string(), 40101),
        ("POST", "batchdeletefile", json!({ "env": env(), "fileid_list": [] }).to_string(), 40101),
        (
            "POST",
            "batchdeletefile",
            json!({ "env": env(), "fileid_list": [{}] }).to_string(),
            40097,
        ),
        ("POST", "batchdeletefile", json!({ "env": env(), "fileid_list": "x" }).to_string(), 40097),
    ] {
        let response = ask(&world, method, &format!("{call}?access_token={KEY}"), &body);
        let ours = response.json();
        assert_eq!(
            (response.status, &ours["errcode"]),
            (200, &json!(errcode)),
            "{method} {call} {body}: {ours}"
        );
        assert!(ours["errmsg"].as_str().is_some_and(|text| !text.is_empty()), "{ours}");
        wechat.send_request(
            method,
            &format!("/tcb/{call}?access_token={token}"),
            &[],
            body.as_bytes(),
        );
        let theirs = wechat.response().json();
        assert_eq!(ours["errcode"], theirs["errcode"], "{method} {call} {body}: {ours} {theirs}");
    }
    world.assert_nothing_stored();
}

#[test]
fn keys_replace_tokens() {
    let world = Setup::new().start();
    let body = json!({ "path": "a" }).to_string();
    let errcode = |call: &str, headers: &[(&str, &str)]| {
        let response = world.call_with("POST", &format!("/tcb/{call}"), headers, &body);
        assert_eq!(response.status, 200);
        response.json()["errcode"].clone()
    };
    assert_eq!(errcode(&format!("uploadfile?access_token={KEY}"), &[]), 0);
    assert_eq!(errcode(&format!("uploadfile?cloudbase_access_token={KEY}"), &[]), 0);
    assert_eq!(errcode("uploadfile", &[authorization()]), 0);
    assert_eq!(errcode("uploadfile", &[]), 41001);
    assert_eq!(errcode("uploadfile?access_token=", &[]), 41001);
    assert_eq!(errcode("uploadfile?access_token=wrong", &[]), 40001);
    assert_eq!(errcode("batchdeletefile?access_token=wrong", &[]), 40001);
    // A refusal is logged for the operator.
    wait_until("the log says so", || world.gateway.log().matches("unauthenticated").count() >= 4);
    // The key is never passed on, nor logged.
    assert!(!world.gateway.log().contains(KEY), "{}", world.gateway.log());
    assert!(world.state()["refused"].as_array().is_some_and(Vec::is_empty), "{}", world.state());

    let open = Setup::new().set("auth.anonymous", "true").start();
    assert_eq!(ask(&open, "POST", "uploadfile", &body).json()["errcode"], 0);
    assert_eq!(ask(&open, "POST", "uploadfile?access_token=wrong", &body).json()["errcode"], 40001);
}

#[test]
fn a_client_s_limits_apply_here_too() {
    use sha2::Digest;
    let hash = |key: &str| hex::encode(sha2::Sha256::digest(key));
    let world = Setup::new()
        .set("auth.keys.team.sha256", hash("team"))
        .set("auth.keys.team.prefix", "team/")
        .set("auth.keys.reader.sha256", hash("reader"))
        .set("auth.keys.reader.can", "download")
        .set("auth.keys.reader.client_paths", "true")
        .start();
    let id = upload(&world, "other/a", b"a");
    let call = |key: &str, call: &str, body: Value| {
        ask(&world, "POST", &format!("{call}?access_token={key}"), &body.to_string()).json()["errcode"].clone()
    };
    assert_eq!(call("team", "uploadfile", json!({ "path": "team/a" })), 0);
    assert_eq!(call("team", "uploadfile", json!({ "path": "other/a" })), -501007);
    assert_eq!(call("team", "uploadfile", json!({ "path": "team/../other/a" })), -501007);
    assert_eq!(call("team", "uploadfile", json!({ "env": "other", "path": "team/a" })), -501000);
    // Each file has its own status; the others succeed.
    let own = upload(&world, "team/own", b"own");
    let links = ask(
        &world,
        "POST",
        "batchdownloadfile?access_token=team",
        &json!({ "file_list": [{ "fileid": id }, { "fileid": own }, { "fileid": "none" }] })
            .to_string(),
    );
    let links = links.json()["file_list"].clone();
    let statuses = [0, 1, 2].map(|n: usize| links[n]["status"].as_i64());
    assert_eq!(statuses, [Some(-501007), Some(0), Some(-501007)], "{links}");
    let deleted = ask(
        &world,
        "POST",
        "batchdeletefile?access_token=team",
        &json!({ "fileid_list": [id, own] }).to_string(),
    );
    let deleted = deleted.json()["delete_list"].clone();
    assert_eq!((&deleted[0]["status"], &deleted[1]["status"]), (&json!(-501007), &json!(0)));
    assert_eq!(call("reader", "uploadfile", json!({ "path": "a" })), 48001);
    assert_eq!(call("reader", "batchdeletefile", json!({ "fileid_list": [id] })), 48001);
    assert_eq!(call("reader", "batchdownloadfile", json!({ "file_list": [{ "fileid": id }] })), 0);
    assert_eq!(world.objects().len(), 1);
}

#[test]
fn more_than_fifty_files_are_accepted() {
    let world = Setup::new().start();
    let ids: Vec<_> =
        (0..120).map(|n| upload(&world, &format!("f{n}"), n.to_string().as_bytes())).collect();
    let list: Vec<_> = ids.iter().map(|id| json!({ "fileid": id })).collect();
    let links = tcb(&world, "batchdownloadfile", &json!({ "file_list": list }));
    let files = links["file_list"].as_array().expect("a list");
    for (n, (file, id)) in files.iter().zip(&ids).enumerate() {
        assert_eq!((&file["fileid"], &file["status"]), (&json!(id), &json!(0)));
        assert_eq!(
            fetch(file["download_url"].as_str().expect("a link")).0,
            n.to_string().as_bytes()
        );
    }
    assert_eq!((files.len(), world.count("batchdownloadfile")), (120, 3));
    let deleted = tcb(&world, "batchdeletefile", &json!({ "fileid_list": ids }));
    let statuses =
        deleted["delete_list"].as_array().expect("a list").iter().map(|file| &file["status"]);
    assert_eq!(statuses.filter(|status| **status == 0).count(), 120);
    assert_eq!(world.count("batchdeletefile"), 3);
    assert_eq!(world.objects(), Vec::<Value>::new());
}

#[test]
fn wechat_s_own_errors_are_passed_on() {
    let world = Setup::new().set("wechat.credential", "secret").start();
    let id = upload(&world, "a", b"a");
    for (stage, call, body) in [
        ("link", "uploadfile", json!({ "path": "a" })),
        ("download", "batchdownloadfile", json!({ "file_list": [{ "fileid": id }] })),
        ("delete", "batchdeletefile", json!({ "fileid_list": [id] })),
    ] {
        for (errcode, errmsg) in
            [(85088, "no qbase privilege"), (-501003, "exceed request limit"), (-1, "system error")]
        {
            world.faults(&json!([{"stage": stage, "fault": "errcode", "errcode": errcode, "errmsg": errmsg}]));
            let response = tcb(&world, call, &body);
            assert_eq!(response["errcode"], errcode, "{response}");
            let text = response["errmsg"].as_str().expect("a text");
            assert!(text.starts_with(&format!("{errmsg} rid: ")), "{text}");
        }
        world.faults(&json!([{"stage": stage, "fault": "status", "status": 500}]));
        let response = tcb(&world, call, &body);
        assert_eq!(response["errcode"], -1, "{response}");
        // An errcode about the gateway's own token is not passed on: the caller would fetch a new token in vain.
        world.faults(&json!([{"stage": stage, "fault": "errcode", "errcode": 40001, "errmsg": "not latest"}]));
        let response = tcb(&world, call, &body);
        assert_eq!(response["errcode"], -1, "{response}");
    }
    // The log says once what the operator can do about it.
    world.gateway.log_with("cloud.weixin.qq.com");
}

/// The request of the vendor's PHP sample, option by option.
#[test]
fn the_php_samples_request_works() {
    let world = Setup::new().set("auth.anonymous", "true").start();
    let content = noise(10_000, 4);
    let id = upload(&world, "目录/test.zip", &content);
    let base = format!("http://{}", world.gateway.address);
    let body =
        json!({ "env": env(), "file_list": [{ "fileid": id, "max_age": 86_400 }] }).to_string();
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl")
            .args(["-sS", "-L", "--max-redirs", "10", "--http1.1", "--compressed"])
            .args(arguments)
            .output();
        let output = output.expect("curl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    };
    let url = format!("{base}/tcb/batchdownloadfile");
    let response = curl(&["-X", "POST", "-H", "Content-Type: application/json", "-d", &body, &url]);
    let file = &response["file_list"][0];
    assert_eq!(
        (&response["errcode"], &file["fileid"], &file["status"]),
        (&json!(0), &json!(id), &json!(0))
    );
    assert!(fetch(file["download_url"].as_str().expect("a link")).0 == content);
    // The sample's own response: the same link again while it is valid.
    let sample = curl(&["-G", "--data-urlencode", &format!("cloudid={id}"), &format!("{base}/")]);
    let file = &sample["file_list"][0];
    assert_eq!((&file["fileid"], &file["status"]), (&json!(id), &json!(0)));
    assert!(fetch(file["download_url"].as_str().expect("a link")).0 == content);
    assert_eq!(world.count("batchdownloadfile"), 1);
}

#[test]
fn the_endpoint_of_the_sample() {
    let world = Setup::new().start();
    let id = upload(&world, "test.zip", b"zip");
    let get = |target: &str| world.call_with("GET", target, &[], "");
    // As users of the sample write it, without escaping.
    let response = get(&format!("/?cloudid={id}"));
    let file = response.json()["file_list"][0].clone();
    assert_eq!(file["fileid"], json!(id), "{}", response.text());
    assert_eq!(fetch(file["download_url"].as_str().expect("a link")).0, b"zip");
    let missing =
        get("/?x=1&cloudid=cloud://sandbox-1a2b3c.7361-sandbox-1a2b3c-1250000000/none").json();
    assert_eq!(missing["file_list"][0]["errmsg"], "STORAGE_FILE_NONEXIST", "{missing}");
    assert_eq!(get("/?cloudid=").text(), "没有要下载的文件");
    get("/").problem(404, "not_found");
    get("/?cloud=x").problem(404, "not_found");
}

/// WxJava's `WxMaCloudService.uploadFile` and the form that its users then post: it fetches a token with the app's
/// secret, makes the call, and fetches the token again if it is refused.
#[test]
fn a_client_shaped_like_wxjava_works() {
    let world = Setup::new().start();
    let get = |target: &str| world.call_with("GET", target, &[("accept", "*/*")], "").json();
    let token = get(&format!("/cgi-bin/token?grant_type=client_credential&appid=wx1&secret={KEY}"));
    assert_eq!(token["expires_in"], 7200, "{token}");
    let token = token["access_token"].as_str().expect("a token").to_owned();
    let headers =
        [("content-type", "application/json; charset=utf-8"), ("accept-encoding", "gzip")];
    let post = |target: &str, body: &Value| {
        world.call_with("POST", target, &headers, &body.to_string()).json()
    };
    let link = post(
        &format!("/tcb/uploadfile?access_token={token}"),
        &json!({ "env": env(), "path": "wx/a.txt" }),
    );
    assert_eq!(link["errcode"], 0, "{link}");
    assert_eq!(post_to_cos(&link, "wx/a.txt", b"content").status, 204);
    assert_eq!(world.object("wx/a.txt"), b"content");

    let asked = json!({ "grant_type": "client_credential", "appid": "wx1", "secret": KEY, "force_refresh": true });
    assert_eq!(post("/cgi-bin/stable_token", &asked)["access_token"], KEY);
    // A refused token has an errcode on which WxJava fetches another.
    let refused = post("/tcb/uploadfile?access_token=stale", &json!({ "env": env(), "path": "x" }));
    assert_eq!(refused["errcode"], 40001);
    for (query, errcode) in [
        ("grant_type=client_credential&appid=wx1&secret=wrong", 40125),
        ("grant_type=client_credential&appid=wx1", 41004),
        ("grant_type=client_credential&secret=x", 41002),
        ("appid=wx1&secret=x", 40002),
    ] {
        assert_eq!(get(&format!("/cgi-bin/token?{query}"))["errcode"], errcode, "{query}");
    }
    assert!(!world.gateway.log().contains(KEY));
    assert_eq!(world.count("stable_token"), 1, "the gateway's own");
}
