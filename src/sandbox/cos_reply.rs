//! What COS answers with: refusals in XML, and the faults that change an answer.

use std::time::Duration;

use super::fault::{self, Kind, Rule};
use super::http::{Head, Response};
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

    pub fn reply(&self, resource: &str) -> Response {
        error_reply(self.status, self.code, &self.message, resource)
    }
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
pub fn change(reply: &mut Response, rule: Option<&Rule>, resource: &str) {
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
pub fn faulty(rule: &Rule, status: u16, resource: &str) -> Response {
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

fn error_reply(status: u16, code: &str, message: &str, resource: &str) -> Response {
    let (request, trace) = (request_id(), request_id());
    let xml = format!(
        "<?xml version='1.0' encoding='utf-8' ?>\n<Error>\n\t<Code>{}</Code>\n\t<Message>{}</Message>\n\
         \t<Resource>{}</Resource>\n\t<RequestId>{request}</RequestId>\n\t<TraceId>{trace}</TraceId>\n</Error>\n",
        escaped(code),
        escaped(message),
        escaped(resource)
    );
    let mut reply = Response::new(status, "application/xml", xml);
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
