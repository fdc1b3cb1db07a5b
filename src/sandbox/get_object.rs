//! GET Object: downloads by a signed URL, and an object as a response, for the API as well.

use std::rc::Rc;

use super::conn::{AfterRequest, Conn};
use super::cos_response::{Refusal, apply_fault, bucket_and_key, key_of, request_id};
use super::fault::{self, Stage};
use super::http::{ConnError, Content, Head, Response};
use super::picture;
use super::state::SandboxState;
use super::store::Object;

pub async fn handle(
    sandbox: &Rc<SandboxState>,
    conn: &mut Conn,
    head: &Head,
) -> Result<AfterRequest, ConnError> {
    sandbox.record.count("get_object");
    let rule =
        sandbox.faults.borrow_mut().hit(Stage::Object, bucket_and_key(head).1.unwrap_or_default());
    while conn.next_bytes().await?.is_some() {}
    let mut response = match processed_response(sandbox, head).await {
        Ok(response) => response,
        Err(refusal) => {
            refusal.record(sandbox, bucket_and_key(head).1);
            refusal.response(&head.path)
        }
    };
    apply_fault(&mut response, rule.as_ref(), &head.path);
    fault::send_with_fault(conn, rule.as_ref(), response, &sandbox.faults_cleared).await
}

/// The object, or what the URL makes of it.
async fn processed_response(sandbox: &SandboxState, head: &Head) -> Result<Response, Refusal> {
    let response = object_response(sandbox, head)?;
    match picture::requested(head) {
        Some(operation) if response.status == 200 => picture::processed(&operation, response).await,
        _ => Ok(response),
    }
}

fn object_response(sandbox: &SandboxState, head: &Head) -> Result<Response, Refusal> {
    let key = key_of(sandbox, head)?;
    let key = key.ok_or_else(|| Refusal::new(403, "AccessDenied", "Access Denied."))?;
    sandbox.links.verify_download(key, head.parameter("sign"), head.parameter("t"))?;
    stored_object(sandbox, head, key, |object| object.fileid_ok)
}

/// The response with an object, or a range of it, if there is one that `may_read` accepts.
pub fn stored_object(
    sandbox: &SandboxState,
    head: &Head,
    key: &str,
    may_read: impl Fn(&Object) -> bool,
) -> Result<Response, Refusal> {
    let store = sandbox.store.borrow();
    let object = store
        .get(key)
        .filter(|object| may_read(object))
        .ok_or_else(|| Refusal::new(404, "NoSuchKey", "The specified key does not exist."))?;
    let mut file = store.content(object).map_err(|error| Refusal::internal(&error))?;

    let mut headers = vec![
        ("ETag", object.etag()),
        ("Accept-Ranges", "bytes".to_owned()),
        ("x-cos-hash-crc64ecma", object.crc64.clone()),
        ("x-cos-request-id", request_id()),
        ("Last-Modified", http_date(object.modified())),
    ];
    if is_unmodified(head, &object.etag(), object.modified())? {
        return Ok(Response::with_headers(304, headers, Content::Bytes(Default::default())));
    }
    let mut metadata = store.sidecar(key).map_or_else(Vec::new, |sidecar| sidecar.fields);
    metadata.retain(|(name, value)| {
        is_stored(&name.to_ascii_lowercase()) && !value.chars().any(char::is_control)
    });
    if let Some(disposition) = head.parameter("response-content-disposition") {
        if disposition.chars().any(char::is_control) {
            return Err(Refusal::new(400, "InvalidArgument", "Invalid Argument."));
        }
        metadata.retain(|(name, _)| !name.eq_ignore_ascii_case("content-disposition"));
        metadata.push(("Content-Disposition".to_owned(), disposition.to_owned()));
    }
    let has_disposition =
        metadata.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-disposition"));
    match &object.content_type {
        Some(content_type) => headers.push(("Content-Type", content_type.clone())),
        // An object that was stored without the form's Content-Type field is saved by browsers, not shown (doc 14690).
        None => {
            headers.push(("Content-Type", "application/octet-stream".to_owned()));
            if !has_disposition {
                headers.push(("Content-Disposition", "attachment".to_owned()));
            }
        }
    }
    // A range is one of the stored bytes, so a processed picture is always whole.
    let range = head.header("range").filter(|_| picture::requested(head).is_none());
    let (status, length) = match range.and_then(|range| requested_range(range, object.size)) {
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
    let mut response = Response::with_headers(status, headers, Content::File(file, length));
    response.metadata = metadata;
    Ok(response)
}

/// Whether the client's copy is as good as the object, by the conditions of the request (docs 7745 and 7753; which of two
/// counts: RFC 9110, section 13.2.2).
fn is_unmodified(head: &Head, etag: &str, modified: u64) -> Result<bool, Refusal> {
    let names_etag = |list: &str| {
        let mut etags = list.split(',').map(|one| one.trim().trim_start_matches("W/"));
        etags.any(|one| one == "*" || one.trim_matches('"') == etag.trim_matches('"'))
    };
    let is_later = |date: &str| Some(modified > unix_seconds(date)?);
    let has_failed = match (head.header("if-match"), head.header("if-unmodified-since")) {
        (Some(list), _) => !names_etag(list),
        (None, date) => date.and_then(is_later) == Some(true),
    };
    if has_failed {
        let message = "At least one of the pre-conditions you specified did not hold.";
        return Err(Refusal::new(412, "PreconditionFailed", message));
    }
    Ok(match (head.header("if-none-match"), head.header("if-modified-since")) {
        (Some(list), _) => names_etag(list),
        (None, date) => date.and_then(is_later) == Some(false),
    })
}

/// `None`: no date, which is ignored.
fn unix_seconds(date: &str) -> Option<u64> {
    let date = jiff::fmt::rfc2822::parse(date).ok()?;
    u64::try_from(date.timestamp().as_second()).ok()
}

/// Whether COS stores a header or field, by its name in lower case, and sends it with the object.
pub fn is_stored(name: &str) -> bool {
    const NAMES: [&str; 4] =
        ["cache-control", "content-disposition", "content-encoding", "expires"];
    NAMES.contains(&name) || name.starts_with("x-cos-meta-")
}

fn http_date(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or_default();
    let time = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// The first and last byte of a requested range; `Some(None)` if it is outside the object, `None` if the header is not
/// a single range of bytes.
fn requested_range(range: &str, size: u64) -> Option<Option<(u64, u64)>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last) = match (first, last) {
        ("", suffix) => (size.saturating_sub(suffix.parse().ok()?), size.wrapping_sub(1)),
        (first, "") => (first.parse().ok()?, size.wrapping_sub(1)),
        (first, last) => (first.parse().ok()?, last.parse::<u64>().ok()?.min(size.wrapping_sub(1))),
    };
    Some((size > 0 && first < size && first <= last).then_some((first, last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(requested_range("bytes=0-9", 100), Some(Some((0, 9))));
        assert_eq!(requested_range("bytes=90-", 100), Some(Some((90, 99))));
        assert_eq!(requested_range("bytes=-5", 100), Some(Some((95, 99))));
        assert_eq!(requested_range("bytes=50-500", 100), Some(Some((50, 99))));
        assert_eq!(requested_range("bytes=100-", 100), Some(None));
        assert_eq!(requested_range("bytes=-5", 0), Some(None));
        assert_eq!(requested_range("bytes=5-4", 100), Some(None));
        assert_eq!(requested_range("lines=1-2", 100), None);
        assert_eq!(requested_range("bytes=0-1,4-5", 100), None);
    }
}
