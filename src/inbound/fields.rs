//! The fields of a form: limits their number and length, takes the values that matter, and works out from them why a
//! form has no file.

use super::error::InboundError;
use super::head::PartHead;
use super::text::printable;
use super::{chunking, sniff};

/// The most fields in a form. A part that is sent for an empty file input counts, too.
const MAX_FIELDS: usize = 32;
/// The most bytes of all fields' names and values together.
const MAX_FIELD_BYTES: usize = 64 * 1024;

/// The fields that choose the path of a file, and so must come before it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct PathFields {
    /// The object's key, chosen by the client.
    pub path: Option<String>,
    /// A folder for the path template.
    pub dir: Option<String>,
}

/// A form's fields so far.
#[derive(Debug, Default)]
pub struct FormFields {
    pub path_fields: PathFields,
    /// The other fields with text, in the order of the form. Bounded by [`MAX_FIELDS`] and [`MAX_FIELD_BYTES`].
    pub others: Vec<(String, String)>,
    count: usize,
    bytes: usize,
    /// The field that was most likely meant to be the file, as an index of `others`, and a description of its text.
    text_field: Option<(usize, &'static str)>,
    /// A field without a Content-Type whose value is not text and has no known signature.
    binary_field: Option<String>,
}

impl FormFields {
    /// Counts a field, or a part of an empty file input.
    pub fn count(&mut self, head: &PartHead) -> Result<(), InboundError> {
        self.count += 1;
        self.bytes += head.field.len();
        if self.count > MAX_FIELDS || self.bytes > MAX_FIELD_BYTES {
            return Err(InboundError::FieldsTooLarge {
                fields: MAX_FIELDS,
                bytes: MAX_FIELD_BYTES,
            });
        }
        Ok(())
    }

    /// Counts `bytes` more of a value towards the limit; returns how many of them fit.
    pub fn reserve(&mut self, bytes: usize) -> usize {
        let reserved = bytes.min(MAX_FIELD_BYTES.saturating_sub(self.bytes));
        self.bytes += reserved;
        reserved
    }

    /// Adds a complete field.
    pub fn add(&mut self, head: PartHead, value: Vec<u8>) -> Result<(), InboundError> {
        let field_name = |head: &PartHead| printable(head.field.as_bytes());
        let unnamed = |head: &PartHead, content_type: &str| InboundError::MediaWithoutName {
            field: field_name(head),
            content_type: content_type.to_owned(),
        };
        if head.is_media() {
            return Err(unnamed(&head, head.content_type.as_deref().unwrap_or_default()));
        }
        let Some(value) = head.transfer_encoding.decode(value) else {
            let encoding = head.transfer_encoding.name().unwrap_or_default().to_owned();
            return Err(InboundError::FieldEncoding { field: field_name(&head), encoding });
        };
        chunking::refuse(&head.field, &value)?;
        let slot = match head.field.as_str() {
            "path" => &mut self.path_fields.path,
            "dir" => &mut self.path_fields.dir,
            _ => {
                match sniff::file_type(&value) {
                    None => {
                        self.note_text_field(&head.field, &value);
                        let text = String::from_utf8(value).unwrap_or_else(|error| {
                            String::from_utf8_lossy(error.as_bytes()).into_owned()
                        });
                        self.others.push((head.field, text));
                    }
                    // The page may send other bytes in a field, such as a digest or text in UTF-16.
                    Some("application/octet-stream") if !head.is_binary() => {
                        self.binary_field.get_or_insert(head.field);
                    }
                    Some(found) => return Err(unnamed(&head, found)),
                }
                return Ok(());
            }
        };
        let value = String::from_utf8(value)
            .map_err(|_| InboundError::Malformed("the fields `path` and `dir` must be UTF-8"))?;
        if slot.replace(value).is_some() {
            return Err(InboundError::Malformed("the form has the field `path` or `dir` twice"));
        }
        Ok(())
    }

    /// Notes the next of `others` if it is the field that was most likely meant to be the file, for the error of a form
    /// without one.
    fn note_text_field(&mut self, field: &str, value: &[u8]) {
        let what = describe_text(value);
        let likelihood = |field: &str, what: &str| (field == "file", !what.is_empty());
        let known = self.text_field.map(|(index, what)| likelihood(&self.others[index].0, what));
        if known.is_none_or(|known| known < likelihood(field, what)) {
            self.text_field = Some((self.others.len(), what));
        }
    }

    /// Why a form with these fields has no file.
    pub fn no_file(&self) -> InboundError {
        match (&self.binary_field, self.text_field) {
            (Some(field), _) => InboundError::MediaWithoutName {
                field: printable(field.as_bytes()),
                content_type: "application/octet-stream".to_owned(),
            },
            (None, Some((index, what))) => {
                let (field, _) = &self.others[index];
                InboundError::TextForFile { field: printable(field.as_bytes()), what }
            }
            (None, None) => InboundError::NoFile,
        }
    }
}

/// The error for a field over the limit, which is nearly always a file whose name is missing.
pub fn too_large(head: &PartHead) -> InboundError {
    InboundError::FieldTooLarge { field: printable(head.field.as_bytes()), bytes: MAX_FIELD_BYTES }
}

/// Describes the text that pages append by mistake in place of a file; empty for any other text.
fn describe_text(value: &[u8]) -> &'static str {
    let is = |known: &[u8]| value.eq_ignore_ascii_case(known);
    let begins = |known: &[u8]| {
        value.get(..known.len()).is_some_and(|start| start.eq_ignore_ascii_case(known))
    };
    if is(b"undefined") {
        " (`undefined`)"
    } else if is(b"null") {
        " (`null`)"
    } else if begins(b"[object ") {
        " (`[object …]`)"
    } else if begins(b"data:") {
        " (a data URL)"
    } else if begins(b"blob:") {
        " (a blob URL)"
    } else if begins(b"c:\\fakepath\\") {
        " (the value of a file input)"
    } else if value.is_empty() {
        " (empty)"
    } else {
        ""
    }
}
