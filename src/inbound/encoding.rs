//! Mail's encodings, which some libraries carry into forms: a part's Content-Transfer-Encoding (RFC 2045), and encoded
//! words in names (RFC 2047).

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use encoding_rs::{Encoding, GB18030, UTF_8};
use memchr::memmem;

use super::text::printable;

/// Senders leave out the padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// RFC 2047 allows 75 characters; senders put a whole name into one word. Three bytes for each byte of a long name.
const LONGEST_WORD: usize = 3 * 1024;

/// How a part's content is encoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TransferEncoding {
    /// `binary`, `8bit`, `7bit`, or nothing said.
    #[default]
    Identity,
    Base64,
    QuotedPrintable,
    /// Any other, as it is called.
    Other(String),
}

impl TransferEncoding {
    /// From the header's value.
    pub fn of(value: &[u8]) -> Self {
        // Some senders put a parameter behind it.
        let name = value.split(|byte| *byte == b';').next().unwrap_or_default();
        let name = name.trim_ascii();
        let unquoted = name.strip_prefix(b"\"").and_then(|name| name.strip_suffix(b"\""));
        let name = unquoted.unwrap_or(name);
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        const IDENTITY: [&[u8]; 7] =
            [b"binary", b"8bit", b"7bit", b"8-bit", b"7-bit", b"identity", b"none"];
        // A charset, put there by mistake, changes nothing.
        if name.is_empty() || IDENTITY.into_iter().any(is) || charset(name).is_some() {
            Self::Identity
        } else if is(b"base64") {
            Self::Base64
        } else if is(b"quoted-printable") {
            Self::QuotedPrintable
        } else {
            Self::Other(printable(name))
        }
    }

    /// As the header has it; `None` where the content is what it seems.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Identity => None,
            Self::Base64 => Some("base64"),
            Self::QuotedPrintable => Some("quoted-printable"),
            Self::Other(name) => Some(name),
        }
    }

    /// A field's value; `None` if it is not so encoded.
    pub fn decode(&self, value: Vec<u8>) -> Option<Vec<u8>> {
        match self {
            Self::Identity => Some(value),
            Self::Base64 => base64(&value),
            Self::QuotedPrintable => quoted_printable(&value),
            Self::Other(_) => None,
        }
    }
}

fn base64(value: &[u8]) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        value.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    BASE64.decode(digits).ok()
}

/// `=XX`, and `=` at a line's end for a line that goes on.
fn quoted_printable(value: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'=' {
            decoded.push(byte);
        } else if let Some((byte, behind)) = hex_byte(rest) {
            decoded.push(byte);
            rest = behind;
        } else {
            let line_end = rest.iter().position(|byte| !matches!(byte, b' ' | b'\t'));
            rest = &rest[line_end.unwrap_or(rest.len())..];
            let next = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n"));
            rest = next.or(rest.is_empty().then_some(rest))?;
        }
    }
    Some(decoded)
}

fn hex_byte(text: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, behind) = text.split_first_chunk::<2>()?;
    let mut byte = [0];
    hex::decode_to_slice(digits, &mut byte).ok()?;
    Some((byte[0], behind))
}

/// `text` with its encoded words (`=?charset?B?…?=`) decoded, also inside of other text; `None` if it has none.
pub fn decode_words(text: &str) -> Option<String> {
    if !text.contains("=?") {
        return None;
    }
    let mut decoded = String::new();
    // Bytes of adjacent words in one charset: a character may be cut in two.
    let mut open: Option<(&'static Encoding, Vec<u8>)> = None;
    let mut words = 0;
    let mut rest = text;
    while let Some(at) = rest.find("=?") {
        match word(&rest[at..]) {
            Some(Word { charset, bytes, length }) => {
                words += 1;
                let between = &rest[..at];
                rest = &rest[at + length..];
                match &mut open {
                    Some((known, before)) if *known == charset && between.trim().is_empty() => {
                        before.extend_from_slice(&bytes);
                        continue;
                    }
                    _ => {}
                }
                let adjacent = open.is_some() && between.trim().is_empty();
                close(&mut decoded, open.take());
                decoded.push_str(if adjacent { "" } else { between });
                open = Some((charset, bytes));
            }
            None => {
                close(&mut decoded, open.take());
                decoded.push_str(&rest[..at + 2]);
                rest = &rest[at + 2..];
            }
        }
    }
    close(&mut decoded, open);
    decoded.push_str(rest);
    (words > 0).then_some(decoded)
}

fn close(decoded: &mut String, open: Option<(&'static Encoding, Vec<u8>)>) {
    if let Some((charset, bytes)) = open {
        decoded.push_str(&charset.decode_without_bom_handling(&bytes).0);
    }
}

struct Word {
    charset: &'static Encoding,
    bytes: Vec<u8>,
    /// With its marks.
    length: usize,
}

/// The encoded word that `text` begins with.
fn word(text: &str) -> Option<Word> {
    let mut pieces = text[2..].splitn(3, '?');
    let (label, kind, behind) = (pieces.next()?, pieces.next()?, pieces.next()?);
    // RFC 2231 adds a language.
    let charset = charset(label.split('*').next()?.as_bytes())?;
    let behind = behind.as_bytes();
    let end = memmem::find(&behind[..behind.len().min(LONGEST_WORD)], b"?=")?;
    let bytes = match kind {
        "B" | "b" => base64(&behind[..end]),
        "Q" | "q" => {
            let spaced: Vec<u8> =
                behind[..end].iter().map(|byte| if *byte == b'_' { b' ' } else { *byte }).collect();
            quoted_printable(&spaced)
        }
        _ => None,
    }?;
    Some(Word { charset, bytes, length: text.len() - behind.len() + end + 2 })
}

/// The charset of a label; Windows' number of GBK is none of WHATWG's labels.
pub fn charset(label: &[u8]) -> Option<&'static Encoding> {
    let label = label.trim_ascii();
    let known = Encoding::for_label(label);
    known.or_else(|| label.eq_ignore_ascii_case(b"cp936").then_some(GB18030))
}

/// Text of unknown charset: UTF-8, or what old Chinese Windows clients send. Says whether all of it could be read.
pub fn guess(bytes: &[u8]) -> (std::borrow::Cow<'_, str>, bool) {
    let (text, damaged) = UTF_8.decode_without_bom_handling(bytes);
    if !damaged {
        return (text, true);
    }
    let (text, damaged) = GB18030.decode_without_bom_handling(bytes);
    (text, !damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfer_encodings() {
        for says_nothing in ["", "binary", "8bit", "7BIT", " Binary\t", "8bit; x=y"] {
            assert_eq!(TransferEncoding::of(says_nothing.as_bytes()).name(), None);
        }
        let decode = |name: &str, value: &str| {
            let decoded = TransferEncoding::of(name.as_bytes()).decode(value.into());
            decoded.map(|bytes| String::from_utf8(bytes).unwrap())
        };
        for value in ["5Lit5paH", "5Lit\r\n5paH\r\n", "5Lit 5paH"] {
            assert_eq!(decode("Base64", value).as_deref(), Some("中文"));
        }
        for (value, text) in [("YQ==", "a"), ("YQ", "a"), ("", "")] {
            assert_eq!(decode("base64", value).as_deref(), Some(text));
        }
        for (value, text) in [
            ("=E4=B8=ad", "中"),
            ("a=\r\nb=\nc", "abc"),
            ("a = \r\nb", "a b"),
            ("a=3Db=", "a=b"),
            ("a_b", "a_b"),
            ("", ""),
        ] {
            assert_eq!(decode("Quoted-Printable", value).as_deref(), Some(text), "{value}");
        }
        for (name, value) in [
            ("base64", "5L!t"),
            ("base64", "a"),
            ("quoted-printable", "=zz"),
            ("quoted-printable", "a=b"),
            ("x-uu", ""),
        ] {
            assert_eq!(decode(name, value), None, "{name} {value}");
        }
    }

    #[test]
    fn encoded_words() {
        for (text, expected) in [
            ("=?utf-8?B?5Lit5paHLnBuZw==?=", "中文.png"),
            ("=?UTF-8?b?5Lit5paHLnBuZw?=", "中文.png"),
            ("=?utf-8?Q?=E4=B8=AD_x.png?=", "中 x.png"),
            ("=?utf-8?q?=E4=B8=AD x.png?=", "中 x.png"),
            ("=?gbk?B?1tDOxA==?=.png", "中文.png"),
            ("=?cp936?Q?=D6=D0?=", "中"),
            ("=?gb2312*zh?Q?=D6=D0?=", "中"),
            ("=?iso-8859-1?Q?=E9t=E9.png?=", "été.png"),
            ("=?utf-8?B?5Lit?= =?utf-8?B?5paHLnBuZw==?=", "中文.png"),
            ("=?utf-8?B?5Lg=?=\t=?utf-8?B?rQ==?=", "中"),
            ("=?utf-8?B?5Lit?= =?gbk?B?zsQ=?=", "中文"),
            ("a =?utf-8?Q?b?= c", "a b c"),
            ("=?=?utf-8?Q?b?=", "=?b"),
        ] {
            assert_eq!(decode_words(text).as_deref(), Some(expected), "{text}");
        }
        for plain in [
            "",
            "a=b?c",
            "=?",
            "=?utf-8?B?5Lit",
            "=?none?B?YQ==?=",
            "=?utf-8?X?YQ==?=",
            "=?utf-8?B?!?=",
        ] {
            assert_eq!(decode_words(plain), None, "{plain}");
        }
    }
}
