//! Refuses requests that upload one chunk of a file: the chunk would be stored as if it were the whole file.
//!
//! Detected here by headers and query parameters; chunking fields of a form are checked by `inbound::chunking`.

use actix_web::HttpRequest;
use actix_web::http::header::{HeaderMap, HeaderValue};

use crate::http::extract::query;
use crate::http::problem::{Code, Problem};
use crate::inbound::chunking;
use crate::inbound::error::InboundError;

/// The parameter of S3's Upload Part.
const PART_NUMBER: &str = "partnumber";
/// A longer header or parameter is cut to this many characters in the problem's detail.
const MAX_SHOWN: usize = 60;

/// Refuses a request whose headers or query say that its body is not the whole file.
pub fn refuse(request: &HttpRequest) -> Result<(), Problem> {
    let sign = by_headers(request.headers()).or(by_query(request.query_string())?);
    sign.map_or(Ok(()), |sign| {
        let sign: String = sign.chars().take(MAX_SHOWN).collect();
        Err(Problem::new(
            Code::InvalidRequest,
            format!(
                "`{sign}` says that this request carries a piece of a file, and each request must carry a whole one: \
                 send the file from its first byte to its last (curl: without -C; jQuery File Upload: without \
                 `maxChunkSize`; other widgets: with chunked or resumable uploads switched off)"
            ),
        ))
    })
}

/// The header that marks a chunk. One pass over all headers: hardly any request has one of these.
fn by_headers(headers: &HeaderMap) -> Option<String> {
    let number = |value: &HeaderValue| value.to_str().ok()?.trim().parse::<u64>().ok();
    let (mut whole, mut body) = (None, None);
    for (name, value) in headers {
        let is_chunk = match name.as_str() {
            // RFC 9110 14.5: a server that does not support partial PUT responds with 400. `x-content-range` is of
            // nginx's upload module, `upload-offset` of tus, `oc-chunked` of ownCloud.
            "content-range" | "x-content-range" | "upload-offset" | "oc-chunked" => true,
            // More chunks follow: the IETF's resumable uploads, in two drafts.
            "upload-complete" => value.as_bytes().trim_ascii() == b"?0",
            "upload-incomplete" => value.as_bytes().trim_ascii() == b"?1",
            "content-type" => is_chunk_type(value.as_bytes()),
            // The whole file's length: tus, FilePond.
            "upload-length" => {
                whole = number(value);
                false
            }
            "content-length" => {
                body = number(value);
                false
            }
            _ => false,
        };
        if is_chunk {
            return Some(format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
        }
    }
    let is_short = whole.zip(body).is_some_and(|(whole, body)| body < whole);
    is_short.then(|| format!("upload-length: {}", whole.unwrap_or_default()))
}

/// Whether this is a media type of chunks: of tus, or of the IETF's resumable uploads.
fn is_chunk_type(value: &[u8]) -> bool {
    let media_type = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    media_type.eq_ignore_ascii_case(b"application/offset+octet-stream")
        || media_type.eq_ignore_ascii_case(b"application/partial-upload")
}

/// The parameter that marks a chunk. Upload widgets can be set to send their fields in the query.
fn by_query(query: &str) -> Result<Option<String>, InboundError> {
    for (name, value) in query::pairs(query) {
        if name.eq_ignore_ascii_case(PART_NUMBER) {
            return Ok(Some(format!("{name}={value}")));
        }
        chunking::refuse(name, value.as_bytes())?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{CONTENT_LENGTH, HeaderName};

    use super::*;

    fn header(name: &'static str, value: &'static str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("10"));
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        by_headers(&headers)
    }

    #[test]
    fn chunks_are_distinguished_from_whole_files() {
        for (name, value, is_chunk) in [
            ("content-range", "bytes 0-9/10", true),
            ("content-range", "bytes */10", true),
            ("x-content-range", "bytes 0-9/20", true),
            ("upload-offset", "0", true),
            ("oc-chunked", "1", true),
            ("upload-complete", "?0", true),
            ("upload-complete", "?1", false),
            ("upload-incomplete", "?1", true),
            ("upload-incomplete", "?0", false),
            ("content-type", "Application/Offset+octet-stream; x=y", true),
            ("content-type", "application/octet-stream", false),
            ("upload-length", "11", true),
            ("upload-length", "10", false),
            ("range", "bytes=0-9", false),
        ] {
            assert_eq!(header(name, value).is_some(), is_chunk, "{name}: {value}");
        }
        for (query, is_chunk) in [
            ("chunk=0&chunks=2", true),
            ("chunk=0&chunks=1", false),
            ("chunks=many", false),
            ("flowChunkNumber=1&flowTotalChunks=3", true),
            ("resumableTotalChunks=1", false),
            ("partNumber=1&uploadId=x", true),
            ("path=chunks", false),
            ("", false),
        ] {
            let detected = !matches!(by_query(query), Ok(None));
            assert_eq!(detected, is_chunk, "{query}");
        }
    }
}
