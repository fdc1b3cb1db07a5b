//! Detects a file's type by its first bytes, before the file is sent to COS.
//!
//! Binary formats are detected by the `infer` crate. Markup is detected here by the rules of browsers (WHATWG's MIME
//! sniffing), after any comments and prologs, which can precede an `<svg>`.

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};

use super::error::InboundError;
use crate::file_stream::{BoxError, FileEvent, Source};

/// The bytes that are examined. All signatures that matter are within them.
const WINDOW: usize = 4 * 1024;

/// How many bytes are examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SniffDepth {
    /// Until it is clear whether the file is markup: mostly one byte.
    Markup,
    /// 4 KiB or the whole file, for all known types.
    Full,
}

/// What a file's first bytes show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Magic {
    /// A name of `infer`'s, or `text/html`, `text/xml` or `image/svg+xml` for markup. `None` if no type was detected.
    pub media_type: Option<&'static str>,
    /// There is no byte that text does not have.
    pub text: bool,
}

/// Reads as much of `source` as `depth` requires, and puts it back.
pub async fn peek(mut source: Source, depth: SniffDepth) -> Result<(Source, Magic), BoxError> {
    let mut seen = BytesMut::new();
    loop {
        let event = match source.next().await {
            Some(event) => event?,
            None => return Err(InboundError::Truncated.into()),
        };
        let (first, end) = match event {
            // The first chunk is nearly always enough, and is not copied.
            FileEvent::Content(bytes) if seen.is_empty() && is_enough(&bytes, depth) => {
                (bytes, None)
            }
            FileEvent::Content(bytes) => {
                seen.extend_from_slice(&bytes);
                if !is_enough(&seen, depth) {
                    continue;
                }
                (seen.freeze(), None)
            }
            end => (seen.freeze(), Some(end)),
        };
        let magic = detect(&first, depth);
        let first: Option<Bytes> = Some(first).filter(|bytes| !bytes.is_empty());
        let back = first.map(FileEvent::Content).into_iter().chain(end).map(Ok);
        return Ok((Box::pin(stream::iter(back).chain(source)), magic));
    }
}

/// The media type of a short file that is completely in `bytes`; `None` where it may be text. Text can begin with a
/// signature that consists of letters, so for text only that of PDF counts.
pub fn file_type(bytes: &[u8]) -> Option<&'static str> {
    let seen = &bytes[..bytes.len().min(WINDOW)];
    if is_text(seen) && !seen.starts_with(b"%PDF-") {
        return None;
    }
    detect(seen, SniffDepth::Full).media_type.or(Some("application/octet-stream"))
}

fn is_text(bytes: &[u8]) -> bool {
    // WHATWG's binary data bytes.
    let binary = |byte: &u8| matches!(byte, 0..=8 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f);
    !bytes.iter().any(binary)
}

fn is_enough(bytes: &[u8], depth: SniffDepth) -> bool {
    bytes.len() >= WINDOW
        || (depth == SniffDepth::Markup && !matches!(markup(bytes), Markup::Undecided(_)))
}

fn detect(bytes: &[u8], depth: SniffDepth) -> Magic {
    let bytes = &bytes[..bytes.len().min(WINDOW)];
    let media_type = match markup(bytes) {
        Markup::Is(kind) | Markup::Undecided(Some(kind)) => Some(kind),
        Markup::Not | Markup::Undecided(None) if depth == SniffDepth::Markup => None,
        // The crate's detection of text is weaker than the one here.
        Markup::Not | Markup::Undecided(None) => infer::get(bytes)
            .map(|found| found.mime_type())
            .filter(|found| !found.starts_with("text/") && *found != "application/octet-stream"),
    };
    Magic { media_type, text: is_text(bytes) }
}

const HTML: &str = "text/html";
const XML: &str = "text/xml";
const SVG: &str = "image/svg+xml";

/// Elements that an HTML page may begin with: those of WHATWG's table, and others that run scripts or load resources.
const HTML_ELEMENTS: &[&[u8]] = &[
    b"a",
    b"audio",
    b"b",
    b"base",
    b"body",
    b"br",
    b"div",
    b"embed",
    b"font",
    b"form",
    b"frameset",
    b"h1",
    b"head",
    b"html",
    b"iframe",
    b"img",
    b"input",
    b"link",
    b"math",
    b"meta",
    b"object",
    b"p",
    b"script",
    b"style",
    b"table",
    b"template",
    b"title",
    b"video",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Markup {
    Not,
    Is(&'static str),
    /// More bytes are needed; the type if none follow.
    Undecided(Option<&'static str>),
}

fn markup(bytes: &[u8]) -> Markup {
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
    if bytes.len() < BYTE_ORDER_MARK.len() && BYTE_ORDER_MARK.starts_with(bytes) {
        return Markup::Undecided(None);
    }
    let mut rest = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    // The type if nothing else follows what was read so far.
    let mut so_far = None;
    loop {
        rest = rest.trim_ascii_start();
        let Some(tag) = rest.strip_prefix(b"<") else {
            return match (rest.is_empty(), so_far) {
                (true, so_far) => Markup::Undecided(so_far),
                (false, Some(kind)) => Markup::Is(kind),
                (false, None) => Markup::Not,
            };
        };
        let (end, kind) = match tag {
            [b'?', ..] => (memchr::memmem::find(tag, b"?>").map(|at| at + 2), XML),
            [b'!', b'-', b'-', ..] => (memchr::memmem::find(tag, b"-->").map(|at| at + 3), HTML),
            [] | [b'!'] | [b'!', b'-'] => return Markup::Undecided(so_far),
            [b'!', ..] => return declaration(&tag[1..], so_far),
            _ => return element(tag, so_far),
        };
        so_far = so_far.or(Some(kind));
        match end {
            Some(end) => rest = &tag[end..],
            None => return Markup::Undecided(so_far),
        }
    }
}

/// Judges `<!DOCTYPE html`, `<!DOCTYPE svg`, or another declaration of XML, given without its `<!`.
fn declaration(text: &[u8], so_far: Option<&'static str>) -> Markup {
    let mut words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let first_words = words.next().zip(words.next());
    let Some((keyword, name)) = first_words else {
        return Markup::Undecided(so_far.or(Some(XML)));
    };
    // The second word may go on in the next chunk.
    if words.next().is_none() && !text.ends_with(b" ") && !name.contains(&b'>') {
        return Markup::Undecided(so_far.or(Some(XML)));
    }
    let name = name.split(|byte| matches!(byte, b'>' | b'[')).next().unwrap_or_default();
    if !keyword.eq_ignore_ascii_case(b"doctype") {
        Markup::Is(XML)
    } else if name.eq_ignore_ascii_case(b"html") {
        Markup::Is(HTML)
    } else if name.eq_ignore_ascii_case(b"svg") {
        Markup::Is(SVG)
    } else {
        Markup::Is(XML)
    }
}

/// Judges the element that a document begins with, given without its `<`.
fn element(tag: &[u8], so_far: Option<&'static str>) -> Markup {
    /// No element that matters has a longer name, its namespace included.
    const MAX_NAME: usize = 64;
    let ends = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'>' | b'/');
    let Some(end) = tag.iter().position(ends) else {
        return if tag.len() > MAX_NAME { Markup::Not } else { Markup::Undecided(so_far) };
    };
    let name = tag[..end].rsplit(|byte| *byte == b':').next().unwrap_or_default();
    if name.eq_ignore_ascii_case(b"svg") {
        Markup::Is(SVG)
    } else if HTML_ELEMENTS.iter().any(|known| name.eq_ignore_ascii_case(known)) {
        Markup::Is(HTML)
    } else {
        so_far.map_or(Markup::Not, Markup::Is)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_stream::FileEnd;
    use futures::FutureExt;

    const END: FileEvent = FileEvent::End(FileEnd { last: true, epilogue: Bytes::new() });

    fn media_type(bytes: &[u8]) -> Option<&'static str> {
        detect(bytes, SniffDepth::Full).media_type
    }

    #[test]
    fn markup_is_detected_after_comments_and_prologs() {
        for (text, kind) in [
            ("<!DOCTYPE html><p>", Some(HTML)),
            ("<!doctype HTML>", Some(HTML)),
            ("\n\t <HTML>", Some(HTML)),
            ("\u{feff}<script>", Some(HTML)),
            ("<!-- x --><body ", Some(HTML)),
            ("<!-- no end", Some(HTML)),
            ("<!-- x --> text", Some(HTML)),
            ("<iframe src=x>", Some(HTML)),
            ("<svg xmlns='x'>", Some(SVG)),
            ("<?xml version='1.0'?>\n<!-- x -->\n<svg>", Some(SVG)),
            ("<?xml version='1.0'?><!DOCTYPE svg PUBLIC \"x\">", Some(SVG)),
            ("<?xml version='1.0'?><s:svg/>", Some(SVG)),
            ("<!DOCTYPE svg>", Some(SVG)),
            ("<?xml version='1.0'?><html>", Some(HTML)),
            ("<?xml version='1.0'?><note>", Some(XML)),
            ("<?xml", Some(XML)),
            ("<!DOCTYPE note>", Some(XML)),
            ("<!ENTITY x y>", Some(XML)),
            ("<info> started", None),
            ("<3 you", None),
            ("a < b", None),
            ("", None),
            ("{}", None),
        ] {
            assert_eq!(media_type(text.as_bytes()), kind, "{text}");
        }
    }

    #[test]
    fn binary_formats_and_text_are_detected() {
        assert_eq!(media_type(b"\x89PNG\r\n\x1a\n"), Some("image/png"));
        assert_eq!(media_type(b"GIF89a/*<script>"), Some("image/gif"));
        assert_eq!(media_type(b"%PDF-1.7"), Some("application/pdf"));
        assert!(!detect(b"\x89PNG\r\n\x1a\n", SniffDepth::Full).text);
        assert!(detect("BM: text\n".as_bytes(), SniffDepth::Full).text);
        assert_eq!(detect(b"\x89PNG\r\n\x1a\n", SniffDepth::Markup).media_type, None);
    }

    /// The content that a source still gives after a peek, what the peek detected, and the number of ends.
    fn peeked(chunks: Vec<&'static [u8]>, depth: SniffDepth) -> (Vec<u8>, Magic, usize) {
        let content =
            chunks.into_iter().map(|chunk| Ok(FileEvent::Content(Bytes::from_static(chunk))));
        let source: Source = Box::pin(stream::iter(content.chain([Ok(END)])));
        let (mut source, magic) = peek(source, depth).now_or_never().unwrap().unwrap();
        let mut all = Vec::new();
        let mut ends = 0;
        while let Some(Some(Ok(event))) = source.next().now_or_never() {
            match event {
                FileEvent::Content(bytes) => all.extend_from_slice(&bytes),
                FileEvent::End(_) => ends += 1,
            }
        }
        (all, magic, ends)
    }

    #[test]
    fn a_peek_loses_no_byte() {
        let text = b"<!doctype html><p>hello, world";
        for depth in [SniffDepth::Markup, SniffDepth::Full] {
            for size in 1..=text.len() {
                let (all, magic, ends) = peeked(text.chunks(size).collect(), depth);
                assert_eq!((all.as_slice(), ends), (text.as_slice(), 1));
                assert_eq!(magic.media_type, Some(HTML));
            }
            assert_eq!(peeked(vec![], depth).2, 1);
        }
    }

    #[test]
    fn a_peek_waits_for_no_more_bytes_than_it_needs() {
        for (bytes, enough) in [
            (b"\x89".as_slice(), true),
            (b"\xef", false),
            (b" \n", false),
            (b"<", false),
            (b"<scr", false),
            (b"<script>", true),
            (b"<!-- ", false),
            (b"<!-- x -->y", true),
        ] {
            assert_eq!(is_enough(bytes, SniffDepth::Markup), enough, "{bytes:?}");
            assert!(!is_enough(bytes, SniffDepth::Full));
        }
        assert!(
            is_enough(&[b' '; WINDOW], SniffDepth::Markup)
                && is_enough(&[0; WINDOW], SniffDepth::Full)
        );
    }
}
