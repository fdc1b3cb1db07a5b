//! What COS's responses say about objects and parts.

use crate::cos::error::CosError;
use crate::cos::verdict::{CosResponse, refusal};
use crate::net::http_client::response::HeaderVisitor;

/// A value longer than this is not used: none of COS's is, and they are retained.
const MAX_HEADER_VALUE: usize = 1024;
/// Headers `x-cos-meta-*` that are used; the gateway's own objects have fewer.
const MAX_METADATA: usize = 8;
const METADATA: &str = "x-cos-meta-";

/// The headers of a response that matter, as they were sent.
#[derive(Debug, Default)]
pub struct ObjectHeaders {
    pub request_id: Option<String>,
    /// `x-cos-hash-crc64ecma`, a decimal number.
    pub crc64: Option<String>,
    /// With its quotes.
    pub etag: Option<String>,
    pub content_length: Option<u64>,
    pub content_type: Option<String>,
    pub last_modified: Option<String>,
    /// `x-cos-meta-fileid`.
    pub file_id: Option<String>,
    /// The other headers `x-cos-meta-*`, by their names in lower case.
    pub metadata: Vec<(String, String)>,
    /// `x-cos-error-code` and `x-cos-error-message`: a refusal of HEAD has no document.
    pub error_code: Option<String>,
    pub error_message: Option<String>,
}

impl HeaderVisitor for ObjectHeaders {
    fn visit(&mut self, name: &str, value: &[u8]) {
        let is = |header: &str| name.eq_ignore_ascii_case(header);
        let printable = value.iter().all(|byte| matches!(byte, b' '..=b'~'));
        let Some(value) = str::from_utf8(value).ok().filter(|_| printable) else { return };
        let header = if is("x-cos-request-id") {
            &mut self.request_id
        } else if is("x-cos-hash-crc64ecma") {
            &mut self.crc64
        } else if is("etag") {
            &mut self.etag
        } else if is("content-length") {
            self.content_length = value.parse().ok();
            return;
        } else if is("content-type") {
            &mut self.content_type
        } else if is("last-modified") {
            &mut self.last_modified
        } else if is("x-cos-meta-fileid") {
            &mut self.file_id
        } else if is("x-cos-error-code") {
            &mut self.error_code
        } else if is("x-cos-error-message") {
            &mut self.error_message
        } else {
            let is_metadata = name
                .get(..METADATA.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(METADATA));
            if is_metadata
                && self.metadata.len() < MAX_METADATA
                && name.len() + value.len() <= MAX_HEADER_VALUE
            {
                self.metadata.push((name.to_ascii_lowercase(), value.to_owned()));
            }
            return;
        };
        // Of a repeated header, the first counts.
        if header.is_none() && value.len() <= MAX_HEADER_VALUE {
            *header = Some(value.to_owned());
        }
    }
}

/// A response of COS's API, read to its end.
pub type ApiResponse = CosResponse<ObjectHeaders>;

/// An object or a part that COS has stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// With its quotes. Of a part it is the MD5.
    pub etag: String,
    /// `x-cos-hash-crc64ecma`, a decimal number, where COS sent one.
    pub crc64: Option<String>,
}

impl CosResponse<ObjectHeaders> {
    /// A success; a refusal is an error, also one with a success status (doc 7742).
    pub(super) fn accepted(mut self) -> Result<Self, CosError> {
        let mut refusal = refusal(self.status, self.headers.request_id.as_deref(), &self.body);
        if let Some(CosError::Refused { code, message, .. }) = &mut refusal
            && code.is_empty()
            && let Some(told) = self.headers.error_code.take()
        {
            *code = told;
            *message = self.headers.error_message.take().unwrap_or_default();
        }
        match refusal {
            Some(refusal) => Err(refusal),
            None if !self.is_sent => {
                Err(CosError::NoVerdict("a success before the last byte was sent"))
            }
            None => Ok(self),
        }
    }

    /// The verdict on PUT Object and Upload Part.
    pub fn stored(self) -> Result<Stored, CosError> {
        let ObjectHeaders { etag, crc64, .. } = self.accepted()?.headers;
        let etag = etag.ok_or(CosError::NoVerdict("its response has no ETag"))?;
        Ok(Stored { etag, crc64 })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn response(
        status: u16,
        body: &'static str,
        is_sent: bool,
        headers: &[(&str, &str)],
    ) -> ApiResponse {
        let mut seen = ObjectHeaders::default();
        for (name, value) in headers {
            seen.visit(name, value.as_bytes());
        }
        ApiResponse { status, headers: seen, body: Bytes::from_static(body.as_bytes()), is_sent }
    }

    #[test]
    fn only_a_complete_success_is_a_stored_part() {
        let etag = ("ETag", "\"ab\"");
        let stored = response(200, "", true, &[etag, ("X-Cos-Hash-Crc64ecma", "7")]).stored();
        let expected = Stored { etag: "\"ab\"".to_owned(), crc64: Some("7".to_owned()) };
        assert_eq!(stored.unwrap(), expected);

        let early = response(200, "", false, &[etag]).stored();
        assert!(matches!(early, Err(CosError::NoVerdict(_))));
        assert!(matches!(response(200, "", true, &[]).stored(), Err(CosError::NoVerdict(_))));
        let document = "<Error><Code>InternalError</Code></Error>";
        for (status, body) in [(200, document), (503, ""), (307, ""), (404, document)] {
            let refused = response(status, body, true, &[etag, ("x-cos-request-id", "r")]).stored();
            assert!(
                matches!(&refused, Err(CosError::Refused { status: told, request_id: Some(id), .. })
                    if *told == status && id == "r"),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn headers_are_bounded_and_the_first_counts() {
        let long = "x".repeat(MAX_HEADER_VALUE + 1);
        let headers = response(
            200,
            "",
            true,
            &[
                ("etag", &long),
                ("etag", &long[1..]),
                ("etag", "b"),
                ("content-type", "a\u{1}b"),
                ("content-length", "9"),
            ],
        )
        .headers;
        assert_eq!(headers.etag.unwrap().len(), MAX_HEADER_VALUE);
        assert_eq!((headers.content_type, headers.content_length), (None, Some(9)));
    }
}
