//! Upload widgets that cut a file and send each piece as a form of its own, told by the fields they add. A piece stored
//! as a file is a damaged file under a success.

use super::error::InboundError;
use super::text::printable;

/// One kind of widget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Widget {
    /// The field that holds the number of pieces.
    total: &'static str,
    name: &'static str,
    /// How chunking is switched off there.
    cure: &'static str,
}

const WIDGETS: &[Widget] = &[
    Widget { total: "dztotalchunkcount", name: "Dropzone", cure: "set `chunking: false`" },
    Widget {
        total: "chunks",
        name: "plupload or WebUploader",
        cure: "set `chunk_size: 0` in plupload, `chunked: false` in WebUploader",
    },
    Widget {
        total: "resumableTotalChunks",
        name: "resumable.js",
        cure: "set `chunkSize` to more than the largest file",
    },
    Widget {
        total: "flowTotalChunks",
        name: "flow.js",
        cure: "set `chunkSize` to more than the largest file",
    },
    Widget {
        total: "totalChunks",
        name: "simple-uploader.js",
        cure: "set `chunkSize` to more than the largest file",
    },
    Widget {
        total: "chunkCount",
        name: "bootstrap-fileinput",
        cure: "set `enableResumableUpload: false`",
    },
    Widget {
        total: "total-chunk",
        name: "Syncfusion's Uploader",
        cure: "set `asyncSettings.chunkSize: 0`",
    },
    Widget {
        total: "chunkTotal",
        name: "code of the page's own",
        cure: "send the file whole, in one form",
    },
    Widget {
        total: "chunksTotal",
        name: "code of the page's own",
        cure: "send the file whole, in one form",
    },
    Widget {
        total: "qqtotalparts",
        name: "Fine Uploader",
        cure: "set `chunking: { enabled: false }`",
    },
];

/// Widgets that describe a piece in a field of JSON, and the member that holds the number of pieces.
const DESCRIBED: &[(&str, Widget)] = &[
    (
        "metadata",
        Widget {
            total: "totalChunks",
            name: "Kendo UI's Upload",
            cure: "leave out `async.chunkSize`",
        },
    ),
    (
        "chunkMetadata",
        Widget {
            total: "TotalCount",
            name: "DevExtreme's FileUploader",
            cure: "set `chunkSize: 0`",
        },
    ),
];

/// Refuses a field, or a parameter of the query, that says that a file comes in more than one piece.
pub fn refuse(field: &str, value: &[u8]) -> Result<(), InboundError> {
    let counted = || WIDGETS.iter().find(|widget| is_called(field, widget.total));
    let described = || DESCRIBED.iter().find(|(name, _)| field.eq_ignore_ascii_case(name));
    let widget = match described() {
        Some((_, widget)) => member(value, widget.total).filter(|count| *count > 1).map(|_| widget),
        None => counted().filter(|_| is_several(value)),
    };
    widget.map_or(Ok(()), |widget| {
        Err(InboundError::FilePiece {
            told_by: printable(field.as_bytes()),
            widget: widget.name,
            cure: widget.cure,
        })
    })
}

/// Whether a field has the name `known`, in any of `totalChunks`, `total_chunks` and `Total-Chunks`.
fn is_called(field: &str, known: &str) -> bool {
    fn letters(name: &str) -> impl Iterator<Item = u8> {
        let letters = name.bytes().filter(|byte| !matches!(byte, b'-' | b'_'));
        letters.map(|byte| byte.to_ascii_lowercase())
    }
    letters(field).eq(letters(known))
}

/// The number under `name` in an object of JSON.
fn member(value: &[u8], name: &str) -> Option<u64> {
    let object: serde_json::Value = serde_json::from_slice(value).ok()?;
    let number = object.get(name)?;
    number.as_u64().or_else(|| number.as_str()?.trim().parse().ok())
}

/// Whether a count is more than one. What is no number says nothing.
fn is_several(value: &[u8]) -> bool {
    let digits = value.trim_ascii();
    let significant =
        digits.iter().position(|digit| *digit != b'0').map_or(&[][..], |at| &digits[at..]);
    digits.iter().all(u8::is_ascii_digit) && !matches!(significant, b"" | b"1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_count_of_several_is_a_piece() {
        for widget in WIDGETS {
            for several in ["2", "3", "10", "002", " 7 ", "99999999999999999999"] {
                assert!(refuse(widget.total, several.as_bytes()).is_err(), "{several}");
            }
            for whole in ["1", "01", "0", "", "undefined", "2 of 3", "-2"] {
                assert_eq!(refuse(widget.total, whole.as_bytes()), Ok(()), "{whole}");
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
