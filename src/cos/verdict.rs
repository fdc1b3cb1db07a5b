//! Judges COS's response: stored and verified, stored, or refused and why.

use bytes::Bytes;
use quick_xml::Reader;
use quick_xml::events::Event;

use super::error::CosError;
use crate::net::http_client::response::HeaderVisitor;

/// COS's response, read to its end.
pub struct CosResponse<H = CosHeaders> {
    pub status: u16,
    pub headers: H,
    pub body: Bytes,
    /// Whether the whole request had been sent before.
    pub is_sent: bool,
}

impl<H> CosResponse<H> {
    /// Whether COS refused the form: by its status, or by an error document with a success status.
    pub(super) fn is_refusal(&self) -> bool {
        !is_success(self.status) || !self.body.is_empty() && error_in(&self.body).is_some()
    }
}

/// How many bytes of a header's value are used.
const MAX_HEADER_VALUE: usize = 128;

/// The headers of a response that matter.
#[derive(Debug, Default)]
pub struct CosHeaders {
    pub request_id: Option<String>,
    /// `x-cos-hash-crc64ecma`, a decimal number.
    pub crc64: Option<String>,
}

impl HeaderVisitor for CosHeaders {
    fn visit(&mut self, name: &str, value: &[u8]) {
        let header = if name.eq_ignore_ascii_case("x-cos-request-id") {
            &mut self.request_id
        } else if name.eq_ignore_ascii_case("x-cos-hash-crc64ecma") {
            &mut self.crc64
        } else {
            return;
        };
        // The values go into logs and responses, so their length is limited. Of a repeated header, the first counts.
        let printable = value.iter().all(|byte| matches!(byte, b' '..=b'~'));
        if header.is_none() && printable {
            let value = &value[..value.len().min(MAX_HEADER_VALUE)];
            *header = Some(String::from_utf8_lossy(value).into_owned());
        }
    }
}

/// Whether a status is 2xx.
pub(super) fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// A stored object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Bytes of content.
    pub size: u64,
    /// CRC-64/XZ of the bytes that were sent.
    pub crc64: u64,
    /// How it was verified that COS stored the same bytes; `None`: not at all.
    pub verified_by: Option<VerifiedBy>,
}

/// How it is verified that COS stored the bytes that were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    Off,
    /// By the CRC-64 in COS's response, where there is one.
    Response,
    /// As [`Self::Response`], and by a HEAD request where there is none.
    Head,
}

/// Where the CRC-64 of the stored bytes was found. It was the same as that of the bytes sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifiedBy {
    /// In COS's response to the file.
    Reply,
    /// In its response to a HEAD request for the object.
    Head,
    /// In its responses to each of the file's parts.
    Parts,
}

impl VerifiedBy {
    pub fn name(self) -> &'static str {
        match self {
            Self::Reply => "reply",
            Self::Head => "head",
            Self::Parts => "parts",
        }
    }
}

/// Judges the response to a file of `size` bytes with the CRC-64 `ours`. With `verify`, a CRC that differs is a
/// failure.
pub fn judge(
    response: &CosResponse,
    size: u64,
    ours: u64,
    verify: bool,
) -> Result<Receipt, CosError> {
    let request_id = response.headers.request_id.as_deref();
    if let Some(refusal) = refusal(response.status, request_id, &response.body) {
        return Err(refusal);
    }
    let agrees = compare(ours, response.headers.crc64.as_deref(), verify)?;
    if !response.is_sent {
        return Err(CosError::NoVerdict("a success before the last byte was sent"));
    }
    Ok(Receipt { size, crc64: ours, verified_by: agrees.then_some(VerifiedBy::Reply) })
}

/// Whether COS's CRC-64 is `ours`; `false` where it sent none. With `verify`, another one is an error.
pub fn compare(ours: u64, theirs: Option<&str>, verify: bool) -> Result<bool, CosError> {
    match theirs {
        Some(theirs) if theirs.trim().parse() == Ok(ours) => Ok(true),
        Some(theirs) if verify => Err(CosError::Integrity { ours, theirs: theirs.to_owned() }),
        _ => Ok(false),
    }
}

/// The refusal that a response is: by its status, or by an error document with a success status.
pub(super) fn refusal(status: u16, request_id: Option<&str>, body: &[u8]) -> Option<CosError> {
    let error = error_in(body);
    if is_success(status) && error.is_none() {
        return None;
    }
    let (code, message) = error.map_or_else(
        || (String::new(), "(no error document)".to_owned()),
        |error| (error.code, error.message),
    );
    let request_id = request_id.map(ToOwned::to_owned);
    Some(CosError::Refused { status, code, message, request_id })
}

/// COS's error document (doc 7730): `<Error><Code/><Message/>…</Error>`.
#[derive(Debug, Default, PartialEq, Eq)]
struct ErrorDocument {
    code: String,
    message: String,
}

fn error_in(body: &[u8]) -> Option<ErrorDocument> {
    let text = String::from_utf8_lossy(body);
    let mut reader = Reader::from_str(&text);
    let mut document = ErrorDocument::default();
    let mut path: Vec<String> = Vec::new();
    let mut found = false;
    // A truncated document is still an error if its root element is one.
    while let Ok(event) = reader.read_event() {
        match event {
            Event::Start(element) => {
                path.push(element.name().as_ref().to_owned());
                found |= path.len() == 1 && path[0] == "Error";
            }
            Event::Empty(element) => found |= path.is_empty() && element.name().as_ref() == "Error",
            Event::End(_) => {
                path.pop();
            }
            Event::Text(text) if found && path.len() == 2 => {
                push_bounded(&mut document, &path[1], &text);
            }
            Event::GeneralRef(reference) if found && path.len() == 2 => {
                if let Some(character) = entity(&reference) {
                    push_bounded(&mut document, &path[1], character.encode_utf8(&mut [0; 4]));
                }
            }
            Event::Eof => break,
            _ => {}
        }
    }
    found.then_some(document)
}

/// The character that a reference stands for; only the predefined entities are known.
pub(super) fn entity(reference: &quick_xml::events::BytesRef<'_>) -> Option<char> {
    if let Ok(Some(character)) = reference.resolve_char_ref() {
        return Some(character);
    }
    match reference.as_ref() {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => None,
    }
}

/// The texts go into logs and responses: control characters are removed, and the length is limited.
fn push_bounded(document: &mut ErrorDocument, element: &str, text: &str) {
    let (target, limit) = match element {
        "Code" => (&mut document.code, 64),
        "Message" => (&mut document.message, 512),
        _ => return,
    };
    let left = limit - target.chars().count().min(limit);
    target.extend(text.chars().filter(|character| !character.is_control()).take(left));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn response(status: u16, body: &'static str, crc64: Option<&str>) -> CosResponse {
        CosResponse {
            status,
            headers: CosHeaders {
                request_id: Some("id".into()),
                crc64: crc64.map(ToString::to_string),
            },
            body: Bytes::from_static(body.as_bytes()),
            is_sent: true,
        }
    }

    fn refused(status: u16, body: &'static str) -> (u16, String, String) {
        match judge(&response(status, body, None), 1, 1, true) {
            Err(CosError::Refused { status, code, message, .. }) => (status, code, message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_refusal_has_the_code_and_message_of_cos() {
        let body = "<?xml version='1.0'?>\n<Error>\n<Code>AccessDenied</Code><Message>a &lt;b&gt; &#38; c</Message>\
            <Resource>x</Resource><RequestId>y</RequestId></Error>";
        assert_eq!(refused(403, body), (403, "AccessDenied".into(), "a <b> & c".into()));
        assert_eq!(refused(200, body).1, "AccessDenied");
        assert_eq!(refused(204, "<Error/>").0, 204);
        assert_eq!(refused(200, "<Error><Code>Brok").0, 200);
        assert_eq!(refused(502, "<html>").1, "");
        assert_eq!(refused(307, "").0, 307);
    }

    #[test]
    fn an_object_is_verified_only_by_a_matching_crc() {
        assert!(judge(&response(204, "", Some("7")), 1, 7, true).unwrap().verified_by.is_some());
        assert_eq!(judge(&response(204, "", None), 1, 7, true).unwrap().verified_by, None);
        assert!(matches!(
            judge(&response(204, "", Some("8")), 1, 7, true),
            Err(CosError::Integrity { .. })
        ));
        assert!(matches!(
            judge(&response(204, "", Some("x")), 1, 7, true),
            Err(CosError::Integrity { .. })
        ));
        assert_eq!(judge(&response(204, "", Some("8")), 1, 7, false).unwrap().verified_by, None);
        let early = CosResponse { is_sent: false, ..response(204, "", Some("7")) };
        assert!(matches!(judge(&early, 1, 7, true), Err(CosError::NoVerdict(_))));
        let other = "<PostResponse><Location/></PostResponse>";
        assert!(judge(&response(200, other, Some("7")), 1, 7, true).unwrap().verified_by.is_some());
    }

    proptest! {
        /// A document whose root is `Error` is a refusal, wherever it is truncated and whatever it contains.
        #[test]
        fn an_error_is_never_a_success(inner in "[<>/&;a-zA-Z \"'=!-]{0,60}", cut in 0usize..80) {
            let document = format!("<Error><Code>C</Code>{inner}</Error>");
            let end = document.floor_char_boundary(cut.max("<Error>".len()));
            let mut truncated = response(204, "", Some("7"));
            truncated.body = Bytes::from(document[..end].to_owned());
            let refused = matches!(judge(&truncated, 1, 7, true), Err(CosError::Refused { .. }));
            prop_assert!(refused, "{document:?} cut at {end}");
        }
    }
}
