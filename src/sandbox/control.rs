//! The control calls under `/_sandbox/`: they report what has arrived, and install faults. For tests and for trying
//! out.

use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::conn::{AfterRequest, Conn};
use super::fault::{FaultKind, Rule};
use super::http::{ConnError, Content, Head, Response};
use super::multipart::MultipartUpload;
use super::state::SandboxState;

pub const PREFIX: &str = "/_sandbox/";
const BODY_MAX: usize = 1024 * 1024;
const WAIT: u64 = 10_000;

pub async fn handle(
    sandbox: &Rc<SandboxState>,
    conn: &mut Conn,
    head: &Head,
) -> Result<AfterRequest, ConnError> {
    let body = conn.whole_body(BODY_MAX).await?;
    let call = head.path.strip_prefix(PREFIX).unwrap_or_default();
    let response = match (head.method.as_str(), call) {
        ("GET", "state") => Ok(state(sandbox, head)),
        ("GET", "wait") => wait(sandbox, head).await,
        ("GET", "object") => object(sandbox, head),
        ("GET", "faults") => Ok(faults(sandbox)),
        ("POST", "faults") => add_faults(sandbox, &body, false),
        ("PUT", "faults") => add_faults(sandbox, &body, true),
        ("DELETE", "faults") => {
            sandbox.clear_faults();
            Ok(faults(sandbox))
        }
        ("POST", "tokens/revoke") => {
            sandbox.tokens.borrow_mut().revoke();
            Ok(ok())
        }
        ("POST", "tokens/expire") => {
            sandbox.tokens.borrow_mut().expire();
            Ok(ok())
        }
        ("POST", "tokens/spoil") => {
            sandbox.tokens.borrow_mut().spoil();
            Ok(ok())
        }
        ("POST", "tokens/set") => set_tokens(sandbox, &body),
        ("POST", "reset") => reset(sandbox),
        _ => Err(Response::text(404, "no such control call\n")),
    };
    conn.send(response.unwrap_or_else(|response| response)).await
}

fn ok() -> Response {
    Response::json(&json!({"ok": true}))
}

fn refused(status: u16, text: impl std::fmt::Display) -> Response {
    Response::text(status, format!("{text}\n"))
}

/// `prefix` selects objects, and `objects=0` leaves them out, because a load test stores many.
fn state(sandbox: &SandboxState, head: &Head) -> Response {
    let store = sandbox.store.borrow();
    let prefix = head.parameter("prefix").unwrap_or_default();
    let keys = store.keys(prefix).filter(|_| head.parameter("objects") != Some("0"));
    let objects: Vec<Value> = keys
        .filter_map(|key| store.sidecar(key))
        .map(|sidecar| {
            json!({
                "key": sidecar.key,
                "size": sidecar.object.size,
                "crc64": sidecar.object.crc64,
                "content_type": sidecar.object.content_type,
                "fileid_ok": sidecar.object.fileid_ok,
                "file_name": sidecar.file_name,
                "fields": sidecar.fields,
            })
        })
        .collect();
    let multipart = sandbox.multipart.borrow();
    let unfinished = multipart.all().filter(|(_, upload)| {
        upload.key.starts_with(prefix) && head.parameter("objects") != Some("0")
    });
    let unfinished: Vec<Value> = unfinished.map(multipart_upload).collect();
    let (tokens, keys) = (sandbox.tokens.borrow(), sandbox.keys.borrow());
    Response::json(&json!({
        "counts": sandbox.record.counts(),
        "uploads": sandbox.record.uploads(),
        "objects": objects,
        "refused": sandbox.record.refused(),
        "multipart_uploads": unfinished,
        "tokens": tokens.all().map(String::as_str).chain(keys.secrets()).collect::<Vec<_>>(),
    }))
}

fn multipart_upload((id, upload): (&str, &MultipartUpload)) -> Value {
    let parts = upload.parts.iter().map(|(number, part)| {
        json!({"number": number, "size": part.size, "crc64": part.crc64.to_string(), "etag": part.etag})
    });
    json!({
        "key": upload.key,
        "upload_id": id,
        "initiated": upload.initiated,
        "parts": parts.collect::<Vec<_>>(),
    })
}

/// Responds as soon as the requested condition is met, or with 408 after the time limit.
async fn wait(sandbox: &SandboxState, head: &Head) -> Result<Response, Response> {
    let number = |name: &str, or: u64| match head.parameter(name) {
        None => Ok(or),
        Some(digits) => digits.parse().map_err(|_| refused(400, format!("{name} is not a number"))),
    };
    let for_idle = head.parameter("idle") == Some("1");
    let prefix = head.parameter("prefix") == Some("1");
    let received = number("received", 0)?;
    let timeout = Duration::from_millis(number("timeout_ms", WAIT)?);
    let Some(key) = head.parameter("key").or(for_idle.then_some("")) else {
        return Err(refused(400, "wait needs key or idle=1"));
    };

    let began = Instant::now();
    let elapsed = || began.elapsed().as_secs_f64() * 1000.0;
    let condition = async {
        loop {
            let changed = sandbox.record.changed.notified();
            if for_idle {
                if sandbox.record.idle() {
                    return Response::json(&json!({"idle": true, "elapsed_ms": elapsed()}));
                }
            } else if let Some(upload) =
                sandbox.record.most_received(key, prefix).filter(|u| u.received >= received)
            {
                return Response::json(&json!({
                    "key": upload.key,
                    "received": upload.received,
                    "content_length": upload.content_length,
                    "state": upload.state,
                    "elapsed_ms": elapsed(),
                }));
            }
            changed.await;
        }
    };
    tokio::time::timeout(timeout, condition).await.map_err(|_| {
        let so_far = sandbox.record.most_received(key, prefix).map_or(0, |upload| upload.received);
        let mut response = Response::json(&json!({
            "received": so_far, "in_flight": sandbox.record.uploads().len(), "elapsed_ms": elapsed(),
        }));
        response.status = 408;
        response
    })
}

fn object(sandbox: &SandboxState, head: &Head) -> Result<Response, Response> {
    let store = sandbox.store.borrow();
    let key = head.parameter("key").unwrap_or_default();
    let object = store.get(key).ok_or_else(|| refused(404, "no such object"))?;
    let file = store.content(object).map_err(|error| refused(500, error))?;
    let headers = vec![("Content-Type", "application/octet-stream".to_owned())];
    Ok(Response::with_headers(200, headers, Content::File(file, object.size)))
}

fn faults(sandbox: &SandboxState) -> Response {
    Response::json(&json!(sandbox.faults.borrow().rules()))
}

fn add_faults(sandbox: &SandboxState, body: &[u8], replaces: bool) -> Result<Response, Response> {
    let rules: Vec<Rule> = serde_json::from_slice(body).map_err(|error| refused(400, error))?;
    let refusals: Vec<bool> = rules
        .iter()
        .filter(|rule| rule.is(FaultKind::Refuse))
        .map(|rule| rule.stage.is_cos())
        .collect();
    if replaces {
        sandbox.clear_faults();
    }
    sandbox.faults.borrow_mut().add(rules).map_err(|text| refused(400, text))?;
    for cos in refusals {
        sandbox.drop_idle(cos);
    }
    Ok(faults(sandbox))
}

/// `{"cloudbase": TOKEN or null, "open": BOOL, "component": …, "refresh": …}`: the valid `cloudbase_access_token`;
/// whether calls need no token; the tokens that an authorizer's token is fetched with.
fn set_tokens(sandbox: &SandboxState, body: &[u8]) -> Result<Response, Response> {
    let wanted: Value = serde_json::from_slice(body).map_err(|error| refused(400, error))?;
    let mut tokens = sandbox.tokens.borrow_mut();
    let text = |name: &str| wanted.get(name).map(|value| value.as_str().map(str::to_owned));
    if let Some(cloudbase) = text("cloudbase") {
        tokens.cloudbase = cloudbase;
    }
    if let Some(component) = text("component") {
        tokens.component = component;
    }
    if let Some(refresh) = text("refresh") {
        tokens.refresh = refresh;
    }
    if let Some(open) = wanted.get("open").and_then(Value::as_bool) {
        tokens.open = open;
    }
    Ok(ok())
}

fn reset(sandbox: &SandboxState) -> Result<Response, Response> {
    sandbox.record.reset();
    sandbox.clear_faults();
    sandbox.store.borrow_mut().clear().map_err(|error| refused(500, error))?;
    sandbox.multipart.borrow_mut().clear().map_err(|error| refused(500, error))?;
    Ok(ok())
}
