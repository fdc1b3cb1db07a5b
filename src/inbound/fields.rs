//! The fields of a form: how many and how long they may be, which of them count, and what they tell of a form that has
//! no file.

use super::error::InboundError;
use super::head::PartHead;
use super::text::printable;
use super::{chunking, sniff};

/// Form fields beside the files, and parts that a file input without a file sends: this many,
const MAX_FIELDS: usize = 32;
/// and this many bytes together.
const MAX_FIELD_BYTES: usize = 64 * 1024;

/// Fields that say where a file goes, and so must stand before it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Fields {
    /// The object's key, as the client names it.
    pub path: Option<String>,
    /// A folder for the template.
    pub dir: Option<String>,
}

/// A form's fields so far.
#[derive(Debug, Default)]
pub struct FormFields {
    pub named: Fields,
    count: usize,
    bytes: usize,
    /// A field that may have been meant to be a file, and what its text looks like.
    text: Option<(String, &'static str)>,
    /// A field without a type whose value is no text and has no known signature.
    bytes_for_text: Option<String>,
}

impl FormFields {
    /// One more field, or a part that counts as one.
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

    /// How many of the next `bytes` of a value there is room for, which is taken.
    pub fn room(&mut self, bytes: usize) -> usize {
        let room = bytes.min(MAX_FIELD_BYTES.saturating_sub(self.bytes));
        self.bytes += room;
        room
    }

    /// A field that is complete.
    pub fn take(&mut self, head: PartHead, value: Vec<u8>) -> Result<(), InboundError> {
        let shown = |head: &PartHead| printable(head.field.as_bytes());
        let unnamed = |head: &PartHead, content_type: &str| InboundError::MediaWithoutName {
            field: shown(head),
            content_type: content_type.to_owned(),
        };
        if head.is_media() {
            return Err(unnamed(&head, head.content_type.as_deref().unwrap_or_default()));
        }
        let Some(value) = head.transfer_encoding.decode(value) else {
            let encoding = head.transfer_encoding.name().unwrap_or_default().to_owned();
            return Err(InboundError::FieldEncoding { field: shown(&head), encoding });
        };
        chunking::refuse(&head.field, &value)?;
        let slot = match head.field.as_str() {
            "path" => &mut self.named.path,
            "dir" => &mut self.named.dir,
            _ => {
                match sniff::file_type(&value) {
                    None => self.note_text(head.field, &value),
                    // A field may hold bytes of the page's own, a digest or a text in UTF-16.
                    Some("application/octet-stream") if !head.is_binary() => {
                        self.bytes_for_text.get_or_insert(head.field);
                    }
                    Some(found) => return Err(unnamed(&head, found)),
                }
                return Ok(());
            }
        };
        let value = String::from_utf8(value)
            .map_err(|_| InboundError::Malformed("the fields `path` and `dir` must be UTF-8"))?;
        if slot.replace(value).is_some() {
            return Err(InboundError::Malformed(
                "the field `path` or `dir` stands in the form twice",
            ));
        }
        Ok(())
    }

    /// Remembers the field that was most likely meant to be the file, should the form end without one.
    fn note_text(&mut self, field: String, value: &[u8]) {
        let what = looks_like(value);
        let likely = |field: &str, what: &str| (field == "file", !what.is_empty());
        let known = self.text.as_ref().map(|(field, what)| likely(field, what));
        if known.is_none_or(|known| known < likely(&field, what)) {
            self.text = Some((field, what));
        }
    }

    /// Why a form of these fields has no file.
    pub fn no_file(&self) -> InboundError {
        match (&self.bytes_for_text, &self.text) {
            (Some(field), _) => InboundError::MediaWithoutName {
                field: printable(field.as_bytes()),
                content_type: "application/octet-stream".to_owned(),
            },
            (None, Some((field, what))) => {
                InboundError::TextForFile { field: printable(field.as_bytes()), what }
            }
            (None, None) => InboundError::NoFile,
        }
    }
}

/// Nearly always a file whose name is missing.
pub fn too_large(head: &PartHead) -> InboundError {
    InboundError::FieldTooLarge { field: printable(head.field.as_bytes()), bytes: MAX_FIELD_BYTES }
}

/// What the text of a field looks like that was meant to be a file. Says nothing of any other text.
fn looks_like(value: &[u8]) -> &'static str {
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
        " (none)"
    } else {
        ""
    }
}
