//! WeChat's side: the token calls and `/tcb/*`, each answered with HTTP 200 and an errcode, as WeChat does.

use std::rc::Rc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::conn::{Conn, Flow};
use super::fault::{self, Kind, Rule, Stage};
use super::http::{Broken, Head, Response};
use super::link;
use super::token::Verdict;
use super::world::World;

const BODY_MAX: usize = 1024 * 1024;
const FILES_MAX: usize = 50;
/// How long a download URL lives when the request does not say.
const MAX_AGE: u64 = 7200;

/// An errcode and what stands before the request id in its errmsg.
pub struct Errcode(pub i64, pub String);

fn errcode<T>(code: i64, message: &str) -> Result<T, Errcode> {
    Err(Errcode(code, message.to_owned()))
}

pub async fn handle(world: &Rc<World>, conn: &mut Conn, head: &Head) -> Result<Flow, Broken> {
    let (call, stage) = match head.path.as_str() {
        "/cgi-bin/token" => ("token", Stage::Token),
        "/cgi-bin/stable_token" => ("stable_token", Stage::Token),
        "/cgi-bin/component/api_authorizer_token" => ("api_authorizer_token", Stage::Token),
        "/tcb/uploadfile" => ("uploadfile", Stage::Link),
        "/tcb/batchdownloadfile" => ("batchdownloadfile", Stage::Download),
        "/tcb/batchdeletefile" => ("batchdeletefile", Stage::Delete),
        _ => {
            world.record.refuse("wechat", None, "404", "unknown path");
            return conn.send(Response::text(404, "404 Not Found\n")).await;
        }
    };
    world.record.count(call);
    if world.faults.borrow_mut().strike_at_head(stage) {
        return Ok(Flow::Reset);
    }
    let body = conn.whole_body(BODY_MAX).await?;
    let parsed = serde_json::from_slice::<Value>(&body);
    let keys = parsed.as_ref().map(keys).unwrap_or_default();
    let rule = world.faults.borrow_mut().strike(stage, &keys);
    let rule = rule.as_ref();
    let does_it = rule.is_none_or(|rule| {
        !matches!(
            rule.fault,
            Kind::Status
                | Kind::Errcode
                | Kind::Garbage
                | Kind::Close
                | Kind::Stall
                | Kind::ResetBefore
        )
    });
    let answer = if does_it {
        let request = Request { head, empty: body.is_empty(), body: parsed.ok() };
        match call {
            "token" => token(world, head),
            "stable_token" => stable_token(world, &request),
            "api_authorizer_token" => authorizer_token(world, &request),
            "uploadfile" => upload_file(world, &request, rule),
            "batchdownloadfile" => download_files(world, &request),
            _ => delete_files(world, &request),
        }
    } else {
        Ok(json!({}))
    };
    let mut reply = match answer {
        Ok(value) => Response::json(&value),
        Err(Errcode(code, message)) => {
            let key = (!keys.is_empty()).then_some(keys.as_str());
            world.record.refuse("wechat", key, &code.to_string(), &message);
            errcode_reply(code, &message)
        }
    };
    change(&mut reply, rule);
    fault::answer(conn, rule, reply, &world.faults_lifted).await
}

/// What a fault's `path` is looked for in: the path or the file ids that a call names.
fn keys(body: &Value) -> String {
    let ids = ["file_list", "fileid_list"].iter().filter_map(|list| body[list].as_array());
    let ids = ids.flatten().filter_map(|item| item.as_str().or(item["fileid"].as_str()));
    let all: Vec<&str> = body["path"].as_str().into_iter().chain(ids).collect();
    all.join("\n")
}

fn change(reply: &mut Response, rule: Option<&Rule>) {
    let Some(rule) = rule else { return };
    match rule.fault {
        Kind::Status => {
            let status = rule.status.unwrap_or(500);
            *reply = Response::text(status, format!("{status} from the sandbox\n"));
        }
        Kind::Errcode => {
            let message = rule.errmsg.as_deref().unwrap_or("from the sandbox");
            *reply = errcode_reply(rule.errcode.unwrap_or(-1), message);
        }
        Kind::Huge => {
            if let Some(status) = rule.status {
                reply.status = status;
            }
            fault::swell(reply, rule);
        }
        _ => {}
    }
}

fn errcode_reply(code: i64, message: &str) -> Response {
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

    /// The body of a `/tcb` call, once method, token and environment are right.
    fn tcb(&self, world: &World) -> Result<&Map<String, Value>, Errcode> {
        if self.head.method != "POST" {
            return errcode(43002, "require POST method");
        }
        self.check_token(world)?;
        let object = self.object()?;
        if text(object, "env")? != world.env {
            return errcode(-501000, "env not exists, invalid env");
        }
        Ok(object)
    }

    fn check_token(&self, world: &World) -> Result<(), Errcode> {
        let tokens = world.tokens.borrow();
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

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a str, Errcode> {
    match object.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        None | Some(Value::Null | Value::String(_)) => {
            errcode(40101, &format!("missing parameter: {name}"))
        }
        Some(_) => errcode(40097, &format!("invalid args: {name}")),
    }
}

fn list<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a [Value], Errcode> {
    match object.get(name) {
        None | Some(Value::Null) => errcode(40101, &format!("missing parameter: {name}")),
        Some(Value::Array(items)) if items.is_empty() => {
            errcode(40101, &format!("missing parameter: {name}"))
        }
        Some(Value::Array(items)) if items.len() > FILES_MAX => {
            errcode(-501007, &format!("{name} exceeds the limit of {FILES_MAX}"))
        }
        Some(Value::Array(items)) => Ok(items),
        Some(_) => errcode(40097, &format!("invalid args: {name}")),
    }
}

fn check_client(
    world: &World,
    grant: Option<&str>,
    appid: Option<&str>,
    secret: Option<&str>,
) -> Result<(), Errcode> {
    if grant != Some("client_credential") {
        return errcode(40002, "invalid grant_type");
    }
    match appid.filter(|appid| !appid.is_empty()) {
        None => return errcode(41002, "appid missing"),
        Some(appid) if appid != world.appid => return errcode(40013, "invalid appid"),
        Some(_) => {}
    }
    match secret.filter(|secret| !secret.is_empty()) {
        None => errcode(41004, "appsecret missing"),
        Some(secret) if secret != world.secret => {
            errcode(40125, "invalid appsecret, view more at the documentation")
        }
        Some(_) => Ok(()),
    }
}

fn token(world: &World, head: &Head) -> Result<Value, Errcode> {
    if head.method != "GET" {
        return errcode(43001, "require GET method");
    }
    check_client(
        world,
        head.parameter("grant_type"),
        head.parameter("appid"),
        head.parameter("secret"),
    )?;
    let (token, life) = world.tokens.borrow_mut().plain();
    Ok(json!({"access_token": token, "expires_in": life}))
}

fn stable_token(world: &World, request: &Request) -> Result<Value, Errcode> {
    let object = request.object()?;
    let field = |name: &str| object.get(name).and_then(Value::as_str);
    check_client(world, field("grant_type"), field("appid"), field("secret"))?;
    let force = match object.get("force_refresh") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(force)) => *force,
        Some(_) => return errcode(47001, "data format error"),
    };
    match world.tokens.borrow_mut().stable(force) {
        Ok((token, life)) => Ok(json!({"access_token": token, "expires_in": life})),
        Err(_) => errcode(45009, "reach max api daily quota limit"),
    }
}

/// The third-party platform's flow: its own token in the query, the authorizer's refresh token in the body.
fn authorizer_token(world: &World, request: &Request) -> Result<Value, Errcode> {
    let object = request.object()?;
    let mut tokens = world.tokens.borrow_mut();
    let component = request.head.parameter("component_access_token").unwrap_or_default();
    if component.is_empty() {
        return errcode(41001, "access_token missing");
    }
    if tokens.component.as_deref() != Some(component) {
        return errcode(40001, "invalid credential, access_token is invalid or not latest");
    }
    if text(object, "component_appid")? != world.component_appid {
        return errcode(40013, "invalid appid");
    }
    if text(object, "authorizer_appid")? != world.appid {
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

fn upload_file(world: &World, request: &Request, rule: Option<&Rule>) -> Result<Value, Errcode> {
    let path = text(request.tcb(world)?, "path")?;
    check_path(path)?;
    let age = match rule {
        // Its time passed a minute ago.
        Some(rule) if rule.is(Kind::ExpiredLink) => world.links.life() + Duration::from_secs(60),
        _ => Duration::ZERO,
    };
    let link = world.links.upload(path, age);
    let url = match rule {
        Some(rule) if rule.is(Kind::ForeignHost) => {
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

/// The vendor's hard rules only: what it merely discourages, `$` among it, gets a link.
fn check_path(path: &str) -> Result<(), Errcode> {
    let wrong = path.starts_with(['/', '\\'])
        || path.contains("//")
        || path.split('/').any(|segment| segment == "." || segment == "..")
        || path.chars().any(char::is_control)
        || link::encoded_length(path) > 850;
    if wrong { errcode(-501007, "invalid parameters, invalid path") } else { Ok(()) }
}

fn download_files(world: &World, request: &Request) -> Result<Value, Errcode> {
    let mut files = Vec::new();
    for item in list(request.tcb(world)?, "file_list")? {
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
        let url = find(world, file_id, true)
            .map(|key| world.links.download(&key, Duration::from_secs(max_age)));
        files.push(match url {
            Ok(url) => json!({"fileid": file_id, "download_url": url, "status": 0, "errmsg": "ok"}),
            Err((status, message)) => {
                json!({"fileid": file_id, "download_url": "", "status": status, "errmsg": message})
            }
        });
    }
    Ok(json!({"errcode": 0, "errmsg": "ok", "file_list": files}))
}

fn delete_files(world: &World, request: &Request) -> Result<Value, Errcode> {
    let mut files = Vec::new();
    for item in list(request.tcb(world)?, "fileid_list")? {
        let Some(file_id) = item.as_str() else {
            return errcode(40097, "invalid args: fileid_list");
        };
        let deleted = find(world, file_id, false).and_then(|key| {
            let removed = world.store.borrow_mut().remove(&key);
            removed.map(|_| ()).map_err(|_| (-501001, "resource system error"))
        });
        let (status, message) = deleted.map_or_else(|error| error, |()| (0, "ok"));
        files.push(json!({"fileid": file_id, "status": status, "errmsg": message}));
    }
    Ok(json!({"errcode": 0, "errmsg": "ok", "delete_list": files}))
}

/// The stored key of a file id. An object without its own `x-cos-meta-fileid` is not found for a download.
fn find(world: &World, file_id: &str, downloads: bool) -> Result<String, (i64, &'static str)> {
    let Some(key) = file_id.strip_prefix(&world.links.file_id_prefix()) else {
        return Err((-501007, "invalid parameters, invalid fileid"));
    };
    match world.store.borrow().get(key) {
        Some(object) if object.fileid_ok || !downloads => Ok(key.to_owned()),
        _ => Err((-503003, "STORAGE_FILE_NONEXIST")),
    }
}
