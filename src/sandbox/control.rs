//! The calls under `/_sandbox/`: what arrived, what is on its way, and the faults to come. For tests and the curious.

use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::conn::{Conn, Flow};
use super::fault::{Kind, Rule};
use super::http::{Broken, Content, Head, Response};
use super::world::World;

pub const PREFIX: &str = "/_sandbox/";
const BODY_MAX: usize = 1024 * 1024;
const WAIT: u64 = 10_000;

pub async fn handle(world: &Rc<World>, conn: &mut Conn, head: &Head) -> Result<Flow, Broken> {
    let body = conn.whole_body(BODY_MAX).await?;
    let call = head.path.strip_prefix(PREFIX).unwrap_or_default();
    let reply = match (head.method.as_str(), call) {
        ("GET", "state") => Ok(state(world, head)),
        ("GET", "wait") => wait(world, head).await,
        ("GET", "object") => object(world, head),
        ("GET", "faults") => Ok(faults(world)),
        ("POST", "faults") => add_faults(world, &body, false),
        ("PUT", "faults") => add_faults(world, &body, true),
        ("DELETE", "faults") => {
            world.clear_faults();
            Ok(faults(world))
        }
        ("POST", "tokens/revoke") => {
            world.tokens.borrow_mut().revoke();
            Ok(done())
        }
        ("POST", "tokens/expire") => {
            world.tokens.borrow_mut().expire();
            Ok(done())
        }
        ("POST", "tokens/spoil") => {
            world.tokens.borrow_mut().spoil();
            Ok(done())
        }
        ("POST", "tokens/set") => set_tokens(world, &body),
        ("POST", "reset") => reset(world),
        _ => Err(Response::text(404, "no such control call\n")),
    };
    conn.send(reply.unwrap_or_else(|reply| reply)).await
}

fn done() -> Response {
    Response::json(&json!({"ok": true}))
}

fn refused(status: u16, text: impl std::fmt::Display) -> Response {
    Response::text(status, format!("{text}\n"))
}

/// `prefix` narrows the objects, and `objects=0` leaves them out: a load test stores many.
fn state(world: &World, head: &Head) -> Response {
    let store = world.store.borrow();
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
    Response::json(&json!({
        "counts": world.record.counts(),
        "uploads": world.record.uploads(),
        "objects": objects,
        "refused": world.record.refused(),
        "tokens": world.tokens.borrow().all().collect::<Vec<_>>(),
    }))
}

/// Answers as soon as what it waits for is so, and with 408 when that takes too long.
async fn wait(world: &World, head: &Head) -> Result<Response, Response> {
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
    let so = async {
        loop {
            let moved = world.record.moved.notified();
            if for_idle {
                if world.record.idle() {
                    return Response::json(&json!({"idle": true, "elapsed_ms": elapsed()}));
                }
            } else if let Some(upload) =
                world.record.furthest(key, prefix).filter(|u| u.received >= received)
            {
                return Response::json(&json!({
                    "key": upload.key,
                    "received": upload.received,
                    "content_length": upload.content_length,
                    "state": upload.state,
                    "elapsed_ms": elapsed(),
                }));
            }
            moved.await;
        }
    };
    tokio::time::timeout(timeout, so).await.map_err(|_| {
        let so_far = world.record.furthest(key, prefix).map_or(0, |upload| upload.received);
        let mut reply = Response::json(&json!({
            "received": so_far, "in_flight": world.record.uploads().len(), "elapsed_ms": elapsed(),
        }));
        reply.status = 408;
        reply
    })
}

fn object(world: &World, head: &Head) -> Result<Response, Response> {
    let store = world.store.borrow();
    let key = head.parameter("key").unwrap_or_default();
    let object = store.get(key).ok_or_else(|| refused(404, "no such object"))?;
    let file = store.content(object).map_err(|error| refused(500, error))?;
    Ok(Response {
        status: 200,
        headers: vec![("Content-Type", "application/octet-stream".to_owned())],
        content: Content::File(file, object.size),
    })
}

fn faults(world: &World) -> Response {
    Response::json(&json!(world.faults.borrow().rules()))
}

fn add_faults(world: &World, body: &[u8], replaces: bool) -> Result<Response, Response> {
    let rules: Vec<Rule> = serde_json::from_slice(body).map_err(|error| refused(400, error))?;
    let refusals: Vec<bool> =
        rules.iter().filter(|rule| rule.is(Kind::Refuse)).map(|rule| rule.stage.is_cos()).collect();
    if replaces {
        world.clear_faults();
    }
    world.faults.borrow_mut().add(rules).map_err(|text| refused(400, text))?;
    for cos in refusals {
        world.drop_idle(cos);
    }
    Ok(faults(world))
}

/// `{"cloudbase": TOKEN or null, "open": BOOL, "component": …, "refresh": …}`: the token of `cloudbase_access_token`;
/// calls without any token; what an authorizer's token is fetched with.
fn set_tokens(world: &World, body: &[u8]) -> Result<Response, Response> {
    let wanted: Value = serde_json::from_slice(body).map_err(|error| refused(400, error))?;
    let mut tokens = world.tokens.borrow_mut();
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
    Ok(done())
}

fn reset(world: &World) -> Result<Response, Response> {
    world.record.reset();
    world.clear_faults();
    world.store.borrow_mut().clear().map_err(|error| refused(500, error))?;
    Ok(done())
}
