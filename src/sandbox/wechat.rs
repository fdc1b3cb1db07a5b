//! WeChat's API: the token calls and `/tcb/*`. Every response has status 200 and an errcode, as WeChat's have.

use std::rc::Rc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::conn::{AfterRequest, Conn};
use super::errcode::{Errcode, check_path, errcode, list, text};
use super::fault::{self, FaultKind, Rule, Stage};
use super::http::{ConnError, Head, Response};
use super::link;
use super::state::SandboxState;
use super::token::Verdict;
use super::wechat_cos;

const BODY_MAX: usize = 1024 * 1024;
/// In seconds: the life of a download URL where the request does not name one.
const MAX_AGE: u64 = 7200;

pub async fn handle(
    sandbox: &Rc<SandboxState>,
    conn: &mut Conn,
    head: &Head,
) -> Result<AfterRequest, ConnError> {
    let (call, stage) = match head.path.as_str() {
        "/cgi-bin/token" => ("token", Stage::Token),
        "/cgi-bin/stable_token" => ("stable_token", Stage::Token),
        "/cgi-bin/component/api_authorizer_token" => ("api_authorizer_token", Stage::Token),
        "/tcb/uploadfile" => ("uploadfile", Stage::Link),
        "/tcb/batchdownloadfile" => ("batchdownloadfile", Stage::Download),
        "/tcb/batchdeletefile" => ("batchdeletefile", Stage::Delete),
        "/_/cos/getauth" => ("getauth", Stage::Getauth),
        "/_/cos/metaid/encode" => ("metaid_encode", Stage::Metaid),
        _ => {
            sandbox.record.record_refusal("wechat", None, "404", "unknown path");
            return conn.send(Response::text(404, "404 Not Found\n")).await;
        }
    };
    sandbox.record.count(call);
    if sandbox.faults.borrow_mut().hit_at_head(stage) {
        return Ok(AfterRequest::Reset);
    }
    let body = conn.whole_body(BODY_MAX).await?;
    let parsed = serde_json::from_slice::<Value>(&body);
    let files = parsed.as_ref().map(requested_files).unwrap_or_default();
    let rule = sandbox.faults.borrow_mut().hit(stage, &files);
    let rule = rule.as_ref();
    let executes = rule.is_none_or(|rule| {
        !matches!(
            rule.fault,
            FaultKind::Status
                | FaultKind::Errcode
                | FaultKind::Garbage
                | FaultKind::Close
                | FaultKind::Stall
                | FaultKind::ResetBefore
        )
    });
    let result = if executes {
        let request = Request { head, empty: body.is_empty(), body: parsed.ok() };
        match call {
            "token" => token(sandbox, head),
            "stable_token" => stable_token(sandbox, &request),
            "api_authorizer_token" => authorizer_token(sandbox, &request),
            "uploadfile" => upload_file(sandbox, &request, rule),
            "batchdownloadfile" => download_files(sandbox, &request),
            "getauth" => wechat_cos::get_auth(sandbox, head),
            "metaid_encode" => request.object().and_then(|body| wechat_cos::encode(sandbox, body)),
            _ => delete_files(sandbox, &request),
        }
    } else {
        Ok(json!({}))
    };
    let mut response = match result {
        Ok(value) => Response::json(&value),
        Err(Errcode(code, message)) => {
            let key = (!files.is_empty()).then_some(files.as_str());
            sandbox.record.record_refusal("wechat", key, &code.to_string(), &message);
            errcode_response(code, &message)
        }
    };
    apply_fault(&mut response, rule);
    fault::send_with_fault(conn, rule, response, &sandbox.faults_cleared).await
}

/// The path or the file ids that a call names, joined; a fault rule's `path` is compared with them.
fn requested_files(body: &Value) -> String {
    let ids = ["file_list", "fileid_list"].iter().filter_map(|list| body[list].as_array());
    let ids = ids.flatten().filter_map(|item| item.as_str().or(item["fileid"].as_str()));
    let paths = body["paths"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let all: Vec<&str> = body["path"].as_str().into_iter().chain(ids).chain(paths).collect();
    all.join("\n")
}

fn apply_fault(response: &mut Response, rule: Option<&Rule>) {
    let Some(rule) = rule else { return };
    match rule.fault {
        FaultKind::Status => {
            let status = rule.status.unwrap_or(500);
            *response = Response::text(status, format!("{status} from the sandbox\n"));
        }
        FaultKind::Errcode => {
            let message = rule.errmsg.as_deref().unwrap_or("from the sandbox");
            *response = errcode_response(rule.errcode.unwrap_or(-1), message);
        }
        FaultKind::Huge => {
            if let Some(status) = rule.status {
                response.status = status;
            }
            fault::enlarge(response, rule);
        }
        _ => {}
    }
}

fn errcode_response(code: i64, message: &str) -> Response {
    let rid =
        format!("{:08x}-{:08x}-{:08x}", fastrand::u32(..), fastrand::u32(..), fastrand::u32(..));
    Response::json(&json!({"errcode": code, "errmsg": format!("{message} rid: {rid}")}))
}

struct Request<'a> {
    head: &'a Head,
    empty: bool,
    /// `None` when it is not JSON.
    body: Option<Value>,
}

impl Request<'_> {
    fn object(&self) -> Result<&Map<String, Value>, Errcode> {
        if self.head.method != "POST" {
            return errcode(43002, "require POST method");
        }
        if self.empty {
            return errcode(44002, "empty post data");
        }
        let object = self.body.as_ref().and_then(Value::as_object);
        object.map_or_else(|| errcode(47001, "data format error"), Ok)
    }

    /// The body of a `/tcb` call, after its method, token and environment were checked.
    fn tcb(&self, sandbox: &SandboxState) -> Result<&Map<String, Value>, Errcode> {
        if self.head.method != "POST" {
            return errcode(43002, "require POST method");
        }
        self.check_token(sandbox)?;
        let object = self.object()?;
        if text(object, "env")? != sandbox.env {
            return errcode(-501000, "env not exists, invalid env");
        }
        Ok(object)
    }

    fn check_token(&self, sandbox: &SandboxState) -> Result<(), Errcode> {
        let tokens = sandbox.tokens.borrow();
        let verdict = match self.head.parameter("cloudbase_access_token") {
            Some(token) => tokens.check_cloudbase(token),
            None => tokens.check(self.head.parameter("access_token")),
        };
        match verdict {
            Verdict::Good => Ok(()),
            Verdict::Missing => errcode(41001, "access_token missing"),
            Verdict::Malformed => errcode(40014, "invalid access_token"),
            Verdict::Stale => {
                errcode(40001, "invalid credential, access_token is invalid or not latest")
            }
            Verdict::Expired => errcode(42001, "access_token expired"),
        }
    }
}

fn check_client(
    sandbox: &SandboxState,
    grant: Option<&str>,
    appid: Option<&str>,
    secret: Option<&str>,
) -> Result<(), Errcode> {
    if grant != Some("client_credential") {
        return errcode(40002, "invalid grant_type");
    }
    match appid.filter(|appid| !appid.is_empty()) {
        None => return errcode(41002, "appid missing"),
        Some(appid) if appid != sandbox.appid => return errcode(40013, "invalid appid"),
        Some(_) => {}
    }
    match secret.filter(|secret| !secret.is_empty()) {
        None => errcode(41004, "appsecret missing"),
        Some(secret) if secret != sandbox.secret => {
            errcode(40125, "invalid appsecret, view more at the documentation")
        }
        Some(_) => Ok(()),
    }
}

fn token(sandbox: &SandboxState, head: &Head) -> Result<Value, Errcode> {
    if head.method != "GET" {
        return errcode(43001, "require GET method");
    }
    check_client(
        sandbox,
        head.parameter("grant_type"),
        head.parameter("appid"),
        head.parameter("secret"),
    )?;
    let (token, life) = sandbox.tokens.borrow_mut().plain();
    Ok(json!({"access_token": token, "expires_in": life}))
}

fn stable_token(sandbox: &SandboxState, request: &Request) -> Result<Value, Errcode> {
    let object = request.object()?;
    let field = |name: &str| object.get(name).and_then(Value::as_str);
    check_client(sandbox, field("grant_type"), field("appid"), field("secret"))?;
    let force = match object.get("force_refresh") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(force)) => *force,
        Some(_) => return errcode(47001, "data format error"),
    };
    match sandbox.tokens.borrow_mut().stable(force) {
        Ok((token, life)) => Ok(json!({"access_token": token, "expires_in": life})),
        Err(_) => errcode(45009, "reach max api daily quota limit"),
    }
}

/// The third-party platform's call: its own token is in the query, the authorizer's refresh token in the body.
fn authorizer_token(sandbox: &SandboxState, request: &Request) -> Result<Value, Errcode> {
    let object = request.object()?;
    let mut tokens = sandbox.tokens.borrow_mut();
    let component = request.head.parameter("component_access_token").unwrap_or_default();
    if component.is_empty() {
        return errcode(41001, "access_token missing");
    }
    if tokens.component.as_deref() != Some(component) {
        return errcode(40001, "invalid credential, access_token is invalid or not latest");
    }
    if text(object, "component_appid")? != sandbox.component_appid {
        return errcode(40013, "invalid appid");
    }
    if text(object, "authorizer_appid")? != sandbox.appid {
        return errcode(61003, "component is not authorized by this account");
    }
    let refresh = text(object, "authorizer_refresh_token")?.to_owned();
    if tokens.refresh.as_ref() != Some(&refresh) {
        return errcode(61023, "refresh_token is invalid");
    }
    let (token, life) = tokens.authorizer();
    Ok(json!({
        "authorizer_access_token": token,
        "expires_in": life,
        "authorizer_refresh_token": refresh,
    }))
}

fn upload_file(
    sandbox: &SandboxState,
    request: &Request,
    rule: Option<&Rule>,
) -> Result<Value, Errcode> {
    let path = text(request.tcb(sandbox)?, "path")?;
    check_path(path)?;
    let age = match rule {
        // The link expired a minute ago.
        Some(rule) if rule.is(FaultKind::ExpiredLink) => {
            sandbox.links.life() + Duration::from_secs(60)
        }
        _ => Duration::ZERO,
    };
    let link = sandbox.links.upload(path, age);
    let url = match rule {
        Some(rule) if rule.is(FaultKind::ForeignHost) => {
            rule.url.clone().unwrap_or_default().replace("{path}", &link::encoded(path))
        }
        _ => link.url,
    };
    Ok(json!({
        "errcode": 0,
        "errmsg": "ok",
        "url": url,
        "token": link.token,
        "authorization": link.authorization,
        "file_id": link.file_id,
        "cos_file_id": link.cos_file_id,
    }))
}

fn download_files(sandbox: &SandboxState, request: &Request) -> Result<Value, Errcode> {
    let mut files = Vec::new();
    for item in list(request.tcb(sandbox)?, "file_list")? {
        let Some(item) = item.as_object() else {
            return errcode(40097, "invalid args: file_list");
        };
        let file_id = text(item, "fileid")?;
        let max_age = match item.get("max_age") {
            None | Some(Value::Null) => MAX_AGE,
            Some(age) => match age.as_u64() {
                Some(age) if age > 0 => age,
                _ => return errcode(40097, "invalid args: max_age"),
            },
        };
        let url = stored_key(sandbox, file_id, true)
            .map(|key| sandbox.links.download(&key, Duration::from_secs(max_age)));
        files.push(match url {
            Ok(url) => json!({"fileid": file_id, "download_url": url, "status": 0, "errmsg": "ok"}),
            Err((status, message)) => {
                json!({"fileid": file_id, "download_url": "", "status": status, "errmsg": message})
            }
        });
    }
    Ok(json!({"errcode": 0, "errmsg": "ok", "file_list": files}))
}

fn delete_files(sandbox: &SandboxState, request: &Request) -> Result<Value, Errcode> {
    let mut files = Vec::new();
    for item in list(request.tcb(sandbox)?, "fileid_list")? {
        let Some(file_id) = item.as_str() else {
            return errcode(40097, "invalid args: fileid_list");
        };
        let deleted = stored_key(sandbox, file_id, false).and_then(|key| {
            let removed = sandbox.store.borrow_mut().remove(&key);
            removed.map(|_| ()).map_err(|_| (-501001, "resource system error"))
        });
        let (status, message) = deleted.map_or_else(|error| error, |()| (0, "ok"));
        files.push(json!({"fileid": file_id, "status": status, "errmsg": message}));
    }
    Ok(json!({"errcode": 0, "errmsg": "ok", "delete_list": files}))
}

/// The key of a file id, if there is such an object. For a download, the object must have its `x-cos-meta-fileid`.
fn stored_key(
    sandbox: &SandboxState,
    file_id: &str,
    downloads: bool,
) -> Result<String, (i64, &'static str)> {
    let Some(key) = file_id.strip_prefix(&sandbox.links.file_id_prefix()) else {
        return Err((-501007, "invalid parameters, invalid fileid"));
    };
    match sandbox.store.borrow().get(key) {
        Some(object) if object.fileid_ok || !downloads => Ok(key.to_owned()),
        _ => Err((-503003, "STORAGE_FILE_NONEXIST")),
    }
}
