//! Upload widgets that cut a file and send each piece as a form of its own, told by the fields they add. A piece stored
//! as a file is a damaged file under a success.

use super::InboundError;

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
        total: "qqtotalparts",
        name: "Fine Uploader",
        cure: "set `chunking: { enabled: false }`",
    },
];

/// Refuses a field, or a parameter of the query, that says that a file comes in more than one piece.
pub fn refuse(field: &str, value: &[u8]) -> Result<(), InboundError> {
    let widget = WIDGETS.iter().find(|widget| widget.total.eq_ignore_ascii_case(field));
    match widget {
        Some(widget) if is_several(value) => Err(InboundError::FilePiece {
            told_by: widget.total,
            widget: widget.name,
            cure: widget.cure,
        }),
        _ => Ok(()),
    }
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
        assert_eq!(refuse("chunk", b"3"), Ok(()));
    }
}
