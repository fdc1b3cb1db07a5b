//! The responses of COS: refusals in XML, and the faults that change a response.

use super::fault::{self, FaultKind, Rule};
use super::http::{Head, Response};
use super::state::SandboxState;

/// The message for a form whose parts are out of order (the user's documents).
const MALFORMED: &str = "The body of your POST request is not well-formed multipart/form-data.";

#[derive(Debug)]
pub struct Refusal {
    pub status: u16,
    pub code: &'static str,
    pub message: String,
    /// The exact reason, for `Record` only: the response of COS says less.
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
        tracing::warn!(%error, "the sandbox cannot use its folder");
        Refusal::new(500, "InternalError", "We encountered an internal error. Please try again.")
    }

    pub fn record(&self, sandbox: &SandboxState, key: Option<&str>) {
        let message = self.reason.as_ref().unwrap_or(&self.message);
        sandbox.record.record_refusal("cos", key, self.code, message);
    }

    pub fn response(&self, resource: &str) -> Response {
        error_response(self.status, self.code, &self.message, resource)
    }
}

/// The bucket and the key that a URL names.
pub fn bucket_and_key(head: &Head) -> (&str, Option<&str>) {
    let path = &head.path[1..];
    match path.split_once('/') {
        Some((bucket, "")) => (bucket, None),
        Some((bucket, key)) => (bucket, Some(key)),
        None => (path, None),
    }
}

pub fn key_of<'a>(sandbox: &SandboxState, head: &'a Head) -> Result<Option<&'a str>, Refusal> {
    let (bucket, key) = bucket_and_key(head);
    if bucket == sandbox.bucket {
        Ok(key)
    } else {
        Err(Refusal::new(404, "NoSuchBucket", "The specified bucket does not exist."))
    }
}

/// Applies a fault of the kinds that change a response's content.
pub fn apply_fault(response: &mut Response, rule: Option<&Rule>, resource: &str) {
    let Some(rule) = rule else { return };
    match rule.fault {
        FaultKind::Status | FaultKind::Early => {
            *response = fault_response(rule, rule.status.unwrap_or(500), resource)
        }
        FaultKind::Huge => {
            *response = fault_response(rule, rule.status.unwrap_or(500), resource);
            fault::enlarge(response, rule);
        }
        _ => {}
    }
}

/// The error response that a rule demands, with a code that COS uses for that status.
pub fn fault_response(rule: &Rule, status: u16, resource: &str) -> Response {
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
    error_response(status, rule.code.as_deref().unwrap_or(code), message, resource)
}

fn error_response(status: u16, code: &str, message: &str, resource: &str) -> Response {
    let (request, trace) = (request_id(), request_id());
    let xml = format!(
        "<?xml version='1.0' encoding='utf-8' ?>\n<Error>\n\t<Code>{}</Code>\n\t<Message>{}</Message>\n\
         \t<Resource>{}</Resource>\n\t<RequestId>{request}</RequestId>\n\t<TraceId>{trace}</TraceId>\n</Error>\n",
        escaped(code),
        escaped(message),
        escaped(resource)
    );
    let mut response = Response::new(status, "application/xml", xml);
    response.headers.push(("x-cos-request-id", request));
    response.headers.push(("x-cos-trace-id", trace));
    response
}

pub fn request_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
