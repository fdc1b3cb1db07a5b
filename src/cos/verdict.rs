//! What COS's reply means: stored and verified, stored, or refused and why.

use bytes::Bytes;
use quick_xml::Reader;
use quick_xml::events::Event;

use super::error::CosError;
use crate::net::http_client::response::HeaderVisitor;

/// COS's reply, read to its end.
pub struct CosResponse {
    pub status: u16,
    pub marks: CosHeaders,
    pub body: Bytes,
    /// Whether the whole form was sent before.
    pub is_sent: bool,
}

impl CosResponse {
    /// Whether COS refused: by its status, or by an error document behind a status of success.
    pub(super) fn is_refusal(&self) -> bool {
        !is_success(self.status) || !self.body.is_empty() && error_in(&self.body).is_some()
    }
}

/// So much of a header is worth keeping.
const LONGEST: usize = 128;

/// What counts of its headers.
#[derive(Debug, Default)]
pub struct CosHeaders {
    pub request_id: Option<String>,
    /// `x-cos-hash-crc64ecma`, decimal.
    pub crc64: Option<String>,
}

impl HeaderVisitor for CosHeaders {
    fn see(&mut self, name: &str, value: &[u8]) {
        let slot = if name.eq_ignore_ascii_case("x-cos-request-id") {
            &mut self.request_id
        } else if name.eq_ignore_ascii_case("x-cos-hash-crc64ecma") {
            &mut self.crc64
        } else {
            return;
        };
        // They go into logs and replies: not without bound. Of two the first counts.
        let printable = value.iter().all(|byte| matches!(byte, b' '..=b'~'));
        if slot.is_none() && printable {
            let value = &value[..value.len().min(LONGEST)];
            *slot = Some(String::from_utf8_lossy(value).into_owned());
        }
    }
}

/// Whether a status says that it went well.
pub(super) fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// An object that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Bytes of content.
    pub size: u64,
    /// CRC-64/XZ of the bytes that were sent.
    pub crc64: u64,
    /// COS named the CRC of what it stored, and it agrees.
    pub verified: bool,
}

/// Judges a reply to `size` bytes of CRC-64 `ours`. A CRC that differs is a failure when `verify` is on.
pub fn judge(reply: &CosResponse, size: u64, ours: u64, verify: bool) -> Result<Receipt, CosError> {
    let error = error_in(&reply.body);
    if !is_success(reply.status) || error.is_some() {
        let (code, message) = error.map_or_else(
            || (String::new(), "(no error document)".to_owned()),
            |error| (error.code, error.message),
        );
        let (status, request_id) = (reply.status, reply.marks.request_id.clone());
        return Err(CosError::Refused { status, code, message, request_id });
    }
    let theirs = reply.marks.crc64.as_deref();
    let agrees = theirs.map(|theirs| theirs.trim().parse() == Ok(ours));
    if agrees == Some(false) && verify {
        return Err(CosError::Integrity { ours, theirs: theirs.unwrap_or_default().to_owned() });
    }
    if !reply.is_sent {
        return Err(CosError::NoVerdict("a success before the last byte was sent"));
    }
    Ok(Receipt { size, crc64: ours, verified: agrees == Some(true) })
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
    // A document that breaks off is still an error when it began as one.
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

fn entity(reference: &quick_xml::events::BytesRef<'_>) -> Option<char> {
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

/// Texts go into logs and replies: no control characters, and not without bound.
fn push_bounded(document: &mut ErrorDocument, element: &str, text: &str) {
    let (slot, limit) = match element {
        "Code" => (&mut document.code, 64),
        "Message" => (&mut document.message, 512),
        _ => return,
    };
    let room = limit - slot.chars().count().min(limit);
    slot.extend(text.chars().filter(|character| !character.is_control()).take(room));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reply(status: u16, body: &'static str, crc64: Option<&str>) -> CosResponse {
        CosResponse {
            status,
            marks: CosHeaders {
                request_id: Some("id".into()),
                crc64: crc64.map(ToString::to_string),
            },
            body: Bytes::from_static(body.as_bytes()),
            is_sent: true,
        }
    }

    fn refused(status: u16, body: &'static str) -> (u16, String, String) {
        match judge(&reply(status, body, None), 1, 1, true) {
            Err(CosError::Refused { status, code, message, .. }) => (status, code, message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn refusals_carry_cos_own_words() {
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
    fn an_object_is_verified_only_by_cos_own_crc() {
        assert!(judge(&reply(204, "", Some("7")), 1, 7, true).unwrap().verified);
        assert!(!judge(&reply(204, "", None), 1, 7, true).unwrap().verified);
        assert!(matches!(
            judge(&reply(204, "", Some("8")), 1, 7, true),
            Err(CosError::Integrity { .. })
        ));
        assert!(matches!(
            judge(&reply(204, "", Some("x")), 1, 7, true),
            Err(CosError::Integrity { .. })
        ));
        assert!(!judge(&reply(204, "", Some("8")), 1, 7, false).unwrap().verified);
        let early = CosResponse { is_sent: false, ..reply(204, "", Some("7")) };
        assert!(matches!(judge(&early, 1, 7, true), Err(CosError::NoVerdict(_))));
        let other = "<PostResponse><Location/></PostResponse>";
        assert!(judge(&reply(200, other, Some("7")), 1, 7, true).unwrap().verified);
    }

    proptest! {
        /// A document whose root is `Error` is a refusal, wherever it breaks off and whatever stands in it.
        #[test]
        fn an_error_is_never_a_success(inner in "[<>/&;a-zA-Z \"'=!-]{0,60}", cut in 0usize..80) {
            let document = format!("<Error><Code>C</Code>{inner}</Error>");
            let end = document.floor_char_boundary(cut.max("<Error>".len()));
            let mut broken = reply(204, "", Some("7"));
            broken.body = Bytes::from(document[..end].to_owned());
            let refused = matches!(judge(&broken, 1, 7, true), Err(CosError::Refused { .. }));
            prop_assert!(refused, "{document:?} cut at {end}");
        }
    }
}
