//! The sandbox as its clients see it: over sockets, from the token to the stored object.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Options, Sandbox};

const BUCKET: &str = "7361-sandbox-1a2b3c-1250000000";

fn start(data: &std::path::Path) -> Sandbox {
    Sandbox::start(Options { data: data.to_owned(), ..Options::default() }).unwrap()
}

/// Sends a request, closes the sending side and reads to the end. After a reset, returns what was read before it.
fn exchange(to: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let _ = socket.write_all(request);
    let _ = socket.shutdown(Shutdown::Write);
    let mut response = Vec::new();
    let _ = socket.read_to_end(&mut response);
    response
}

fn call(sandbox: &Sandbox, method: &str, target: &str, body: &Value) -> Value {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let length = body.len();
    let request =
        format!("{method} {target} HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n{body}");
    let response = String::from_utf8(exchange(sandbox.wechat_addr(), request.as_bytes())).unwrap();
    let (_, body) = response.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

fn token(sandbox: &Sandbox) -> String {
    let options = Options::default();
    let body = json!({"grant_type": "client_credential", "appid": options.appid, "secret": options.secret});
    let response = call(sandbox, "POST", "/cgi-bin/stable_token", &body);
    response["access_token"].as_str().unwrap().to_owned()
}

fn tcb(sandbox: &Sandbox, name: &str, mut body: Value) -> Value {
    body["env"] = json!(Options::default().env);
    let target = format!("/tcb/{name}?access_token={}", token(sandbox));
    call(sandbox, "POST", &target, &body)
}

/// The whole request that stores `content` under `key`, and its file id.
fn upload(sandbox: &Sandbox, key: &str, content: &str) -> (Vec<u8>, String) {
    let link = tcb(sandbox, "uploadfile", json!({"path": key}));
    let text = |name: &str| link[name].as_str().unwrap();
    let fields = [
        ("key", key),
        ("Signature", text("authorization")),
        ("x-cos-security-token", text("token")),
        ("x-cos-meta-fileid", text("cos_file_id")),
        ("Content-Type", "text/plain"),
    ];
    let mut form = String::new();
    for (name, value) in fields {
        form +=
            &format!("--B0\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    }
    form += "--B0\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n";
    form += content;
    form += "\r\n--B0--\r\n";
    let request = format!(
        "POST /{BUCKET}/{key} HTTP/1.1\r\nHost: t\r\nContent-Type: multipart/form-data; boundary=B0\r\n\
         Content-Length: {}\r\n\r\n{form}",
        form.len()
    );
    (request.into_bytes(), text("file_id").to_owned())
}

fn state(sandbox: &Sandbox) -> Value {
    call(sandbox, "GET", "/_sandbox/wait?idle=1", &Value::Null);
    call(sandbox, "GET", "/_sandbox/state", &Value::Null)
}

fn fetch(sandbox: &Sandbox, file_id: &str) -> String {
    let list = json!({"file_list": [{"fileid": file_id, "max_age": 60}]});
    let response = tcb(sandbox, "batchdownloadfile", list);
    let url = response["file_list"][0]["download_url"].as_str().unwrap();
    let target = url.strip_prefix(&format!("http://{}", sandbox.cos_addr())).unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: t\r\n\r\n");
    String::from_utf8(exchange(sandbox.cos_addr(), request.as_bytes())).unwrap()
}

#[test]
fn an_upload_can_be_fetched_also_after_a_restart_until_it_is_deleted() {
    let data = tempfile::tempdir().unwrap();
    let sandbox = start(data.path());
    let (request, file_id) = upload(&sandbox, "a/b.txt", "content");
    let response = exchange(sandbox.cos_addr(), &request);
    assert!(response.starts_with(b"HTTP/1.1 204 "), "{}", String::from_utf8_lossy(&response));
    assert_eq!(state(&sandbox)["objects"][0]["fields"].as_array().unwrap().len(), 5);
    drop(sandbox);

    let sandbox = start(data.path());
    let response = fetch(&sandbox, &file_id);
    assert!(
        response.contains("Content-Type: text/plain\r\n") && response.ends_with("\r\n\r\ncontent"),
        "{response}"
    );
    let deleted = tcb(&sandbox, "batchdeletefile", json!({"fileid_list": [file_id, file_id]}));
    assert_eq!(deleted["delete_list"][0]["status"], 0);
    assert_eq!(deleted["delete_list"][1]["status"], -503003);
    assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0);
}

#[test]
fn every_truncated_request_leaves_nothing() {
    let data = tempfile::tempdir().unwrap();
    let sandbox = start(data.path());
    let (request, _) = upload(&sandbox, "k", "abc\r\n--B0");
    for end in 0..request.len() {
        let response = exchange(sandbox.cos_addr(), &request[..end]);
        assert!(!response.starts_with(b"HTTP/1.1 2"), "{end} bytes");
    }
    assert_eq!(state(&sandbox)["objects"], json!([]));
    assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0);
}

#[test]
fn a_revoked_token_is_refused_and_the_next_one_is_new() {
    let data = tempfile::tempdir().unwrap();
    let sandbox = start(data.path());
    let first = token(&sandbox);
    assert_eq!(token(&sandbox), first);
    call(&sandbox, "POST", "/_sandbox/tokens/revoke", &Value::Null);
    let target = format!("/tcb/uploadfile?access_token={first}");
    let body = json!({"env": "sandbox-1a2b3c", "path": "a"});
    assert_eq!(call(&sandbox, "POST", &target, &body)["errcode"], 40001);
    assert_eq!(tcb(&sandbox, "uploadfile", json!({"path": "a"}))["errcode"], 0);
    assert_eq!(state(&sandbox)["counts"]["stable_token"], 3);
}

#[test]
fn a_fault_applies_as_often_as_it_is_set_and_stores_nothing() {
    let data = tempfile::tempdir().unwrap();
    let sandbox = start(data.path());
    for (fault, response) in [
        (json!({"fault": "reset_before"}), ""),
        (json!({"fault": "close"}), ""),
        (json!({"fault": "status", "status": 503}), "HTTP/1.1 503 "),
        (json!({"fault": "early", "status": 403, "after": 3}), "HTTP/1.1 403 "),
        (json!({"fault": "early_2xx", "after": 3}), "HTTP/1.1 204 "),
        (json!({"fault": "stall", "after": 3, "ms": 10}), ""),
    ] {
        let mut rule = fault.clone();
        rule["stage"] = json!("cos");
        rule["times"] = json!(1);
        rule["path"] = json!("faulty");
        call(&sandbox, "PUT", "/_sandbox/faults", &json!([rule]));
        let (request, _) = upload(&sandbox, "faulty/k", "content");
        let got = String::from_utf8_lossy(&exchange(sandbox.cos_addr(), &request)).into_owned();
        assert!(
            got.starts_with(response) && got.is_empty() == response.is_empty(),
            "{fault}: {got}"
        );
        assert_eq!(state(&sandbox)["objects"], json!([]), "{fault}");
        assert_eq!(call(&sandbox, "GET", "/_sandbox/faults", &Value::Null)[0]["hits"], 1);
    }
    let (request, _) = upload(&sandbox, "faulty/k", "content");
    assert!(exchange(sandbox.cos_addr(), &request).starts_with(b"HTTP/1.1 204 "));
}
