//! What a file's first bytes say it is, looked at before it goes anywhere.
//!
//! Binary formats are told by the `infer` crate; markup is told here, by what a browser would make of it (WHATWG's MIME
//! sniffing), past comments and prologs, where SVG hides.

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};

use super::error::InboundError;
use crate::file_stream::{BoxError, FileEvent, Source};

/// No signature that counts lies further in.
const WINDOW: usize = 4 * 1024;

/// How far to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Until it is clear whether it is markup: mostly one byte.
    Markup,
    /// Until it is clear what it is: 4 KiB, or the file's end.
    All,
}

/// What a file's first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Magic {
    /// As `infer` names types; `text/html`, `text/xml` and `image/svg+xml` for markup. `None`: nothing known.
    pub media_type: Option<&'static str>,
    /// There is no byte that a text would not have.
    pub text: bool,
}

/// Reads as much of `source` as `look` asks for, and puts it back.
pub async fn peek(mut source: Source, look: Look) -> Result<(Source, Magic), BoxError> {
    let mut seen = BytesMut::new();
    loop {
        let piece = match source.next().await {
            Some(piece) => piece?,
            None => return Err(InboundError::Truncated.into()),
        };
        let (first, end) = match piece {
            // Nearly always enough, and not copied.
            FileEvent::Content(bytes) if seen.is_empty() && is_enough(&bytes, look) => {
                (bytes, None)
            }
            FileEvent::Content(bytes) => {
                seen.extend_from_slice(&bytes);
                if !is_enough(&seen, look) {
                    continue;
                }
                (seen.freeze(), None)
            }
            end => (seen.freeze(), Some(end)),
        };
        let magic = tell(&first, look);
        let first: Option<Bytes> = Some(first).filter(|bytes| !bytes.is_empty());
        let back = first.map(FileEvent::Content).into_iter().chain(end).map(Ok);
        return Ok((Box::pin(stream::iter(back).chain(source)), magic));
    }
}

/// The media type of a short file whose bytes are all here; `None` where they may be a text. Signatures that consist of
/// letters begin texts as well, a PDF's apart.
pub fn file_type(bytes: &[u8]) -> Option<&'static str> {
    let seen = &bytes[..bytes.len().min(WINDOW)];
    if is_text(seen) && !seen.starts_with(b"%PDF-") {
        return None;
    }
    tell(seen, Look::All).media_type.or(Some("application/octet-stream"))
}

fn is_text(bytes: &[u8]) -> bool {
    // WHATWG's binary data bytes.
    let binary = |byte: &u8| matches!(byte, 0..=8 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f);
    !bytes.iter().any(binary)
}

fn is_enough(bytes: &[u8], look: Look) -> bool {
    bytes.len() >= WINDOW || (look == Look::Markup && !matches!(markup(bytes), Markup::Open(_)))
}

fn tell(bytes: &[u8], look: Look) -> Magic {
    let bytes = &bytes[..bytes.len().min(WINDOW)];
    let media_type = match markup(bytes) {
        Markup::Is(kind) | Markup::Open(Some(kind)) => Some(kind),
        Markup::Not | Markup::Open(None) if look == Look::Markup => None,
        // Its own idea of texts is less than ours.
        Markup::Not | Markup::Open(None) => infer::get(bytes)
            .map(|found| found.mime_type())
            .filter(|found| !found.starts_with("text/") && *found != "application/octet-stream"),
    };
    Magic { media_type, text: is_text(bytes) }
}

const HTML: &str = "text/html";
const XML: &str = "text/xml";
const SVG: &str = "image/svg+xml";

/// Elements that a page may begin with: those of WHATWG's table, and others that browsers run or load by.
const PAGE: &[&[u8]] = &[
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
    /// More bytes would tell; what it is taken for if there are none.
    Open(Option<&'static str>),
}

fn markup(bytes: &[u8]) -> Markup {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    if bytes.len() < MARK.len() && MARK.starts_with(bytes) {
        return Markup::Open(None);
    }
    let mut rest = bytes.strip_prefix(MARK).unwrap_or(bytes);
    // What it is if nothing else follows what was read so far.
    let mut so_far = None;
    loop {
        rest = rest.trim_ascii_start();
        let Some(tag) = rest.strip_prefix(b"<") else {
            return match (rest.is_empty(), so_far) {
                (true, so_far) => Markup::Open(so_far),
                (false, Some(kind)) => Markup::Is(kind),
                (false, None) => Markup::Not,
            };
        };
        let (end, kind) = match tag {
            [b'?', ..] => (memchr::memmem::find(tag, b"?>").map(|at| at + 2), XML),
            [b'!', b'-', b'-', ..] => (memchr::memmem::find(tag, b"-->").map(|at| at + 3), HTML),
            [] | [b'!'] | [b'!', b'-'] => return Markup::Open(so_far),
            [b'!', ..] => return declaration(&tag[1..], so_far),
            _ => return element(tag, so_far),
        };
        so_far = so_far.or(Some(kind));
        match end {
            Some(end) => rest = &tag[end..],
            None => return Markup::Open(so_far),
        }
    }
}

/// `<!DOCTYPE html`, `<!DOCTYPE svg`, or one of XML's.
fn declaration(text: &[u8], so_far: Option<&'static str>) -> Markup {
    let mut words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let named = words.next().zip(words.next());
    let Some((keyword, name)) = named else {
        return Markup::Open(so_far.or(Some(XML)));
    };
    // The word must have ended to be one.
    if words.next().is_none() && !text.ends_with(b" ") && !name.contains(&b'>') {
        return Markup::Open(so_far.or(Some(XML)));
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

/// The element that a document begins with, without its `<`.
fn element(tag: &[u8], so_far: Option<&'static str>) -> Markup {
    /// No element of interest has a longer name, with its namespace.
    const LONGEST: usize = 64;
    let ends = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'>' | b'/');
    let Some(end) = tag.iter().position(ends) else {
        return if tag.len() > LONGEST { Markup::Not } else { Markup::Open(so_far) };
    };
    let name = tag[..end].rsplit(|byte| *byte == b':').next().unwrap_or_default();
    if name.eq_ignore_ascii_case(b"svg") {
        Markup::Is(SVG)
    } else if PAGE.iter().any(|known| name.eq_ignore_ascii_case(known)) {
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

    fn told(bytes: &[u8]) -> Option<&'static str> {
        tell(bytes, Look::All).media_type
    }

    #[test]
    fn markup_is_found_wherever_it_hides() {
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
            assert_eq!(told(text.as_bytes()), kind, "{text}");
        }
    }

    #[test]
    fn formats_are_told_and_texts_are_texts() {
        assert_eq!(told(b"\x89PNG\r\n\x1a\n"), Some("image/png"));
        assert_eq!(told(b"GIF89a/*<script>"), Some("image/gif"));
        assert_eq!(told(b"%PDF-1.7"), Some("application/pdf"));
        assert!(!tell(b"\x89PNG\r\n\x1a\n", Look::All).text);
        assert!(tell("BM: a text\n".as_bytes(), Look::All).text);
        assert_eq!(tell(b"\x89PNG\r\n\x1a\n", Look::Markup).media_type, None);
    }

    /// The pieces behind a peek, and what it told.
    fn peeked(pieces: Vec<&'static [u8]>, look: Look) -> (Vec<u8>, Magic, usize) {
        let content =
            pieces.into_iter().map(|piece| Ok(FileEvent::Content(Bytes::from_static(piece))));
        let source: Source = Box::pin(stream::iter(content.chain([Ok(END)])));
        let (mut source, magic) = peek(source, look).now_or_never().unwrap().unwrap();
        let mut all = Vec::new();
        let mut ends = 0;
        while let Some(Some(Ok(piece))) = source.next().now_or_never() {
            match piece {
                FileEvent::Content(bytes) => all.extend_from_slice(&bytes),
                FileEvent::End(_) => ends += 1,
            }
        }
        (all, magic, ends)
    }

    #[test]
    fn nothing_is_lost_by_looking() {
        let text = b"<!doctype html><p>hello, world";
        for look in [Look::Markup, Look::All] {
            for size in 1..=text.len() {
                let (all, magic, ends) = peeked(text.chunks(size).collect(), look);
                assert_eq!((all.as_slice(), ends), (text.as_slice(), 1));
                assert_eq!(magic.media_type, Some(HTML));
            }
            assert_eq!(peeked(vec![], look).2, 1);
        }
    }

    #[test]
    fn a_sender_is_not_waited_for_longer_than_it_takes() {
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
            assert_eq!(is_enough(bytes, Look::Markup), enough, "{bytes:?}");
            assert!(!is_enough(bytes, Look::All));
        }
        assert!(is_enough(&[b' '; WINDOW], Look::Markup) && is_enough(&[0; WINDOW], Look::All));
    }
}
