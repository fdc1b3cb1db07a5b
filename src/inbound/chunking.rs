//! Detects upload widgets that split a file and send each piece as a form of its own, by the fields they add. If a
//! piece were stored as a file, the client would get a success for a damaged file.

use super::error::InboundError;
use super::text::printable;

/// A widget that sends chunked uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Widget {
    /// The field that holds the number of pieces.
    total_field: &'static str,
    name: &'static str,
    /// How to switch chunking off in this widget.
    remedy: &'static str,
}

const WIDGETS: &[Widget] = &[
    Widget { total_field: "dztotalchunkcount", name: "Dropzone", remedy: "set `chunking: false`" },
    Widget {
        total_field: "chunks",
        name: "plupload or WebUploader",
        remedy: "set `chunk_size: 0` in plupload, `chunked: false` in WebUploader",
    },
    Widget {
        total_field: "resumableTotalChunks",
        name: "resumable.js",
        remedy: "set `chunkSize` to more than the largest file",
    },
    Widget {
        total_field: "flowTotalChunks",
        name: "flow.js",
        remedy: "set `chunkSize` to more than the largest file",
    },
    Widget {
        total_field: "totalChunks",
        name: "simple-uploader.js",
        remedy: "set `chunkSize` to more than the largest file",
    },
    Widget {
        total_field: "chunkCount",
        name: "bootstrap-fileinput",
        remedy: "set `enableResumableUpload: false`",
    },
    Widget {
        total_field: "total-chunk",
        name: "Syncfusion's Uploader",
        remedy: "set `asyncSettings.chunkSize: 0`",
    },
    Widget {
        total_field: "chunkTotal",
        name: "the page's own code",
        remedy: "send the whole file in one form",
    },
    Widget {
        total_field: "chunksTotal",
        name: "the page's own code",
        remedy: "send the whole file in one form",
    },
    Widget {
        total_field: "qqtotalparts",
        name: "Fine Uploader",
        remedy: "set `chunking: { enabled: false }`",
    },
];

/// Widgets that describe a piece in a JSON field: the field's name, and the widget, whose `total_field` is the member
/// of the JSON object that holds the number of pieces.
const JSON_WIDGETS: &[(&str, Widget)] = &[
    (
        "metadata",
        Widget {
            total_field: "totalChunks",
            name: "Kendo UI's Upload",
            remedy: "leave out `async.chunkSize`",
        },
    ),
    (
        "chunkMetadata",
        Widget {
            total_field: "TotalCount",
            name: "DevExtreme's FileUploader",
            remedy: "set `chunkSize: 0`",
        },
    ),
];

/// Refuses a form field, or a query parameter, that says that the file comes in more than one piece.
pub fn refuse(field: &str, value: &[u8]) -> Result<(), InboundError> {
    let plain = || WIDGETS.iter().find(|widget| is_field(field, widget.total_field));
    let in_json = || JSON_WIDGETS.iter().find(|(name, _)| field.eq_ignore_ascii_case(name));
    let widget = match in_json() {
        Some((_, widget)) => {
            json_number(value, widget.total_field).filter(|count| *count > 1).map(|_| widget)
        }
        None => plain().filter(|_| is_more_than_one(value)),
    };
    widget.map_or(Ok(()), |widget| {
        Err(InboundError::FilePiece {
            field: printable(field.as_bytes()),
            widget: widget.name,
            remedy: widget.remedy,
        })
    })
}

/// Whether a field has the name `known`, spelled `totalChunks`, `total_chunks` or `Total-Chunks`.
fn is_field(field: &str, known: &str) -> bool {
    fn letters(name: &str) -> impl Iterator<Item = u8> {
        let letters = name.bytes().filter(|byte| !matches!(byte, b'-' | b'_'));
        letters.map(|byte| byte.to_ascii_lowercase())
    }
    letters(field).eq(letters(known))
}

/// The number in the member `name` of a JSON object.
fn json_number(value: &[u8], name: &str) -> Option<u64> {
    let object: serde_json::Value = serde_json::from_slice(value).ok()?;
    let number = object.get(name)?;
    number.as_u64().or_else(|| number.as_str()?.trim().parse().ok())
}

/// Whether a count is more than one. A value that is not a number is ignored.
fn is_more_than_one(value: &[u8]) -> bool {
    let digits = value.trim_ascii();
    let significant =
        digits.iter().position(|digit| *digit != b'0').map_or(&[][..], |at| &digits[at..]);
    digits.iter().all(u8::is_ascii_digit) && !matches!(significant, b"" | b"1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_count_above_one_is_refused() {
        for widget in WIDGETS {
            for count in ["2", "3", "10", "002", " 7 ", "99999999999999999999"] {
                assert!(refuse(widget.total_field, count.as_bytes()).is_err(), "{count}");
            }
            for count in ["1", "01", "0", "", "undefined", "2 of 3", "-2"] {
                assert_eq!(refuse(widget.total_field, count.as_bytes()), Ok(()), "{count}");
            }
        }
        for name in
            ["total_chunks", "Total-Chunks", "chunk_total", "CHUNK_COUNT", "dz_totalchunkcount"]
        {
            assert!(refuse(name, b"3").is_err(), "{name}");
        }
        for (field, value) in [
            ("metadata", r#"{"chunkIndex":0,"totalChunks":4}"#),
            ("metaData", r#"{"totalChunks":"2"}"#),
            ("chunkMetadata", r#"{"FileName":"a.png","Index":0,"TotalCount":3,"FileSize":900}"#),
        ] {
            assert!(refuse(field, value.as_bytes()).is_err(), "{value}");
        }
        for value in
            [r#"{"totalChunks":1}"#, r#"{"totalChunks":-3}"#, "{}", "[4]", "4", "totalChunks", ""]
        {
            assert_eq!(refuse("metadata", value.as_bytes()), Ok(()), "{value}");
        }
        assert_eq!(refuse("chunk", b"3"), Ok(()));
    }
}
