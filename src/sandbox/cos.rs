//! The COS side: objects out, and the XML that every refusal is written in. Objects in are `post_object.rs`.

use std::rc::Rc;
use std::time::Duration;

use super::conn::{Conn, Flow};
use super::fault::{self, Kind, Rule, Stage};
use super::http::{Broken, Content, Head, Reply};
use super::post_object;
use super::world::World;

/// The words that a form out of order is answered with (seed 003).
const MALFORMED: &str = "The body of your POST request is not well-formed multipart/form-data.";

#[derive(Debug)]
pub struct Refusal {
    pub status: u16,
    pub code: &'static str,
    pub message: String,
    /// For the record; COS tells its senders less.
    pub reason: Option<String>,
}

impl Refusal {
    pub fn new(status: u16, code: &'static str, message: &str) -> Refusal {
        Refusal { status, code, message: message.to_owned(), reason: None }
    }

    pub fn malformed(reason: &str) -> Refusal {
        Refusal {
            reason: Some(reason.to_owned()),
            ..Refusal::new(400, "MalformedPOSTRequest", MALFORMED)
        }
    }

    pub fn internal(error: &std::io::Error) -> Refusal {
        tracing::warn!(%error, "the sandbox could not reach its folder");
        Refusal::new(500, "InternalError", "We encountered an internal error. Please try again.")
    }

    pub fn note(&self, world: &World, key: Option<&str>) {
        let message = self.reason.as_ref().unwrap_or(&self.message);
        world.record.refuse("cos", key, self.code, message);
    }

    pub fn reply(&self, resource: &str) -> Reply {
        error_reply(self.status, self.code, &self.message, resource)
    }
}

pub async fn handle(world: &Rc<World>, conn: &mut Conn, head: &Head) -> Result<Flow, Broken> {
    match head.method.as_str() {
        "POST" => post_object::handle(world, conn, head).await,
        "GET" | "HEAD" => get_object(world, conn, head).await,
        _ => {
            let refusal = Refusal::new(
                405,
                "MethodNotAllowed",
                "The specified method is not allowed against this resource.",
            );
            refusal.note(world, None);
            conn.send(refusal.reply(&head.path)).await
        }
    }
}

async fn get_object(world: &Rc<World>, conn: &mut Conn, head: &Head) -> Result<Flow, Broken> {
    world.record.count("get_object");
    let rule = world.faults.borrow_mut().strike(Stage::Object, target(head).1.unwrap_or_default());
    while conn.chunk().await?.is_some() {}
    let mut reply = match object_reply(world, head) {
        Ok(reply) => reply,
        Err(refusal) => {
            refusal.note(world, target(head).1);
            refusal.reply(&head.path)
        }
    };
    change(&mut reply, rule.as_ref(), &head.path);
    fault::answer(conn, rule.as_ref(), reply, &world.faults_lifted).await
}

fn object_reply(world: &World, head: &Head) -> Result<Reply, Refusal> {
    let key = key_of(world, head)?;
    let key = key.ok_or_else(|| Refusal::new(403, "AccessDenied", "Access Denied."))?;
    world.links.verify_download(key, head.parameter("sign"), head.parameter("t"))?;
    let store = world.store.borrow();
    let object = store
        .get(key)
        .filter(|object| object.fileid_ok)
        .ok_or_else(|| Refusal::new(404, "NoSuchKey", "The specified key does not exist."))?;
    let mut file = store.content(object).map_err(|error| Refusal::internal(&error))?;

    let mut headers = vec![
        ("ETag", object.etag()),
        ("Accept-Ranges", "bytes".to_owned()),
        ("x-cos-hash-crc64ecma", object.crc64.clone()),
        ("x-cos-request-id", request_id()),
    ];
    match &object.content_type {
        Some(content_type) => headers.push(("Content-Type", content_type.clone())),
        // Without the form's field a browser downloads it instead of showing it (doc 14690).
        None => {
            headers.push(("Content-Type", "application/octet-stream".to_owned()));
            headers.push(("Content-Disposition", "attachment".to_owned()));
        }
    }
    let (status, length) = match head.header("range").and_then(|range| wanted(range, object.size)) {
        None => (200, object.size),
        Some(None) => {
            return Err(Refusal::new(
                416,
                "InvalidRange",
                "The requested range is not satisfiable.",
            ));
        }
        Some(Some((first, last))) => {
            std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(first))
                .map_err(|error| Refusal::internal(&error))?;
            headers.push(("Content-Range", format!("bytes {first}-{last}/{}", object.size)));
            (206, last - first + 1)
        }
    };
    Ok(Reply { status, headers, content: Content::File(file, length) })
}

/// One range of bytes, first and last; `Some(None)` when it lies outside, `None` when the header is not understood.
fn wanted(range: &str, size: u64) -> Option<Option<(u64, u64)>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last) = match (first, last) {
        ("", suffix) => (size.saturating_sub(suffix.parse().ok()?), size.wrapping_sub(1)),
        (first, "") => (first.parse().ok()?, size.wrapping_sub(1)),
        (first, last) => (first.parse().ok()?, last.parse::<u64>().ok()?.min(size.wrapping_sub(1))),
    };
    Some((size > 0 && first < size && first <= last).then_some((first, last)))
}

/// The bucket and the key that a URL names.
pub fn target(head: &Head) -> (&str, Option<&str>) {
    let path = &head.path[1..];
    match path.split_once('/') {
        Some((bucket, "")) => (bucket, None),
        Some((bucket, key)) => (bucket, Some(key)),
        None => (path, None),
    }
}

pub fn key_of<'a>(world: &World, head: &'a Head) -> Result<Option<&'a str>, Refusal> {
    let (bucket, key) = target(head);
    if bucket == world.bucket {
        Ok(key)
    } else {
        Err(Refusal::new(404, "NoSuchBucket", "The specified bucket does not exist."))
    }
}

/// Applies the kinds of fault that change what a reply says.
pub fn change(reply: &mut Reply, rule: Option<&Rule>, resource: &str) {
    let Some(rule) = rule else { return };
    match rule.fault {
        Kind::Status | Kind::Early => *reply = faulty(rule, rule.status.unwrap_or(500), resource),
        Kind::Huge => {
            *reply = faulty(rule, rule.status.unwrap_or(500), resource);
            fault::swell(reply, rule);
        }
        _ => {}
    }
}

/// The error that a rule asks for, with a code that COS uses for that status.
pub fn faulty(rule: &Rule, status: u16, resource: &str) -> Reply {
    let (code, message) = match status {
        400 => ("InvalidArgument", "Invalid Argument."),
        402 => ("PaymentRequired", "Your account is in arrears."),
        403 => ("AccessDenied", "Access Denied."),
        404 => ("NoSuchBucket", "The specified bucket does not exist."),
        405 => ("MethodNotAllowed", "The specified method is not allowed against this resource."),
        409 => ("PathConflict", "The path conflicts with an existing object."),
        411 => ("MissingContentLength", "You must provide the Content-Length HTTP header."),
        451 => ("UnavailableForLegalReasons", "The object is unavailable for legal reasons."),
        503 => ("SlowDown", "Please reduce your request rate."),
        _ => ("InternalError", "We encountered an internal error. Please try again."),
    };
    let message = match rule.code.as_deref() {
        Some("RequestTimeout") => {
            "Your socket connection to the server was not read from or written to in time."
        }
        Some("ExpiredToken") => "The provided token has expired.",
        _ => message,
    };
    error_reply(status, rule.code.as_deref().unwrap_or(code), message, resource)
}

fn error_reply(status: u16, code: &str, message: &str, resource: &str) -> Reply {
    let (request, trace) = (request_id(), request_id());
    let xml = format!(
        "<?xml version='1.0' encoding='utf-8' ?>\n<Error>\n\t<Code>{}</Code>\n\t<Message>{}</Message>\n\
         \t<Resource>{}</Resource>\n\t<RequestId>{request}</RequestId>\n\t<TraceId>{trace}</TraceId>\n</Error>\n",
        escaped(code),
        escaped(message),
        escaped(resource)
    );
    let mut reply = Reply::new(status, "application/xml", xml);
    reply.headers.push(("x-cos-request-id", request));
    reply.headers.push(("x-cos-trace-id", trace));
    reply
}

pub fn request_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// How long a sender may let the rest of an early-answered connection hang before it is dropped.
pub const LINGER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(wanted("bytes=0-9", 100), Some(Some((0, 9))));
        assert_eq!(wanted("bytes=90-", 100), Some(Some((90, 99))));
        assert_eq!(wanted("bytes=-5", 100), Some(Some((95, 99))));
        assert_eq!(wanted("bytes=50-500", 100), Some(Some((50, 99))));
        assert_eq!(wanted("bytes=100-", 100), Some(None));
        assert_eq!(wanted("bytes=-5", 0), Some(None));
        assert_eq!(wanted("bytes=5-4", 100), Some(None));
        assert_eq!(wanted("lines=1-2", 100), None);
        assert_eq!(wanted("bytes=0-1,4-5", 100), None);
    }
}
