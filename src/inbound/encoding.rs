//! Decodes the encodings of e-mail that some libraries use in forms: a part's Content-Transfer-Encoding (RFC 2045) and
//! encoded words in names (RFC 2047). Text of unknown charset is decoded here, too.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use encoding_rs::{Encoding, GB18030, UTF_8};
use memchr::memmem;

use super::text::printable;

/// Padding may be missing: many clients leave it out, and RFC 8941 4.2.7 allows it in digests.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The longest encoded word in bytes. RFC 2047 allows 75 characters, but clients put a whole file name into one word;
/// this allows three bytes for each byte of a 1 KiB name.
const MAX_WORD: usize = 3 * 1024;

/// How a part's content is encoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TransferEncoding {
    /// `binary`, `8bit`, `7bit`, or no such header.
    #[default]
    Identity,
    Base64,
    QuotedPrintable,
    /// Any other encoding, by its name in the header.
    Other(String),
}

impl TransferEncoding {
    /// From the header's value.
    pub fn parse(value: &[u8]) -> Self {
        // Some clients append a parameter.
        let name = value.split(|byte| *byte == b';').next().unwrap_or_default();
        let name = name.trim_ascii();
        let unquoted = name.strip_prefix(b"\"").and_then(|name| name.strip_suffix(b"\""));
        let name = unquoted.unwrap_or(name);
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        const IDENTITY: [&[u8]; 7] =
            [b"binary", b"8bit", b"7bit", b"8-bit", b"7-bit", b"identity", b"none"];
        // Some clients put a charset here by mistake; it does not change the bytes.
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

    /// The encoding's name; `None` where the content is not encoded.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Identity => None,
            Self::Base64 => Some("base64"),
            Self::QuotedPrintable => Some("quoted-printable"),
            Self::Other(name) => Some(name),
        }
    }

    /// Decodes a field's value; `None` if the value does not have this encoding.
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

/// Decodes `=XX`, and drops a soft line break: `=` at a line's end.
fn quoted_printable(value: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'=' {
            decoded.push(byte);
        } else if let Some((byte, after)) = hex_byte(rest) {
            decoded.push(byte);
            rest = after;
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
    let (digits, rest) = text.split_first_chunk::<2>()?;
    let mut byte = [0];
    hex::decode_to_slice(digits, &mut byte).ok()?;
    Some((byte[0], rest))
}

/// `text` with its encoded words (`=?charset?B?…?=`) decoded, also within other text; `None` if it has none.
pub fn decode_words(text: &str) -> Option<String> {
    if !text.contains("=?") {
        return None;
    }
    let mut decoded = String::new();
    // The bytes of adjacent words in one charset are decoded together: a character may be split between two words.
    let mut pending: Option<(&'static Encoding, Vec<u8>)> = None;
    let mut words = 0;
    let mut rest = text;
    while let Some(at) = rest.find("=?") {
        match word(&rest[at..]) {
            Some(Word { charset, bytes, length }) => {
                words += 1;
                let between = &rest[..at];
                rest = &rest[at + length..];
                match &mut pending {
                    Some((known, before)) if *known == charset && between.trim().is_empty() => {
                        before.extend_from_slice(&bytes);
                        continue;
                    }
                    _ => {}
                }
                let adjacent = pending.is_some() && between.trim().is_empty();
                decode_onto(&mut decoded, pending.take());
                decoded.push_str(if adjacent { "" } else { between });
                pending = Some((charset, bytes));
            }
            None => {
                decode_onto(&mut decoded, pending.take());
                decoded.push_str(&rest[..at + 2]);
                rest = &rest[at + 2..];
            }
        }
    }
    decode_onto(&mut decoded, pending);
    decoded.push_str(rest);
    (words > 0).then_some(decoded)
}

fn decode_onto(decoded: &mut String, pending: Option<(&'static Encoding, Vec<u8>)>) {
    if let Some((charset, bytes)) = pending {
        decoded.push_str(&charset.decode_without_bom_handling(&bytes).0);
    }
}

struct Word {
    charset: &'static Encoding,
    bytes: Vec<u8>,
    /// In bytes of the text, `=?` and `?=` included.
    length: usize,
}

/// The encoded word that `text` begins with.
fn word(text: &str) -> Option<Word> {
    let mut fields = text[2..].splitn(3, '?');
    let (label, encoding, rest) = (fields.next()?, fields.next()?, fields.next()?);
    // RFC 2231 allows a language after the charset.
    let charset = charset(label.split('*').next()?.as_bytes())?;
    let rest = rest.as_bytes();
    let end = memmem::find(&rest[..rest.len().min(MAX_WORD)], b"?=")?;
    let bytes = match encoding {
        "B" | "b" => base64(&rest[..end]),
        "Q" | "q" => {
            let spaced: Vec<u8> =
                rest[..end].iter().map(|byte| if *byte == b'_' { b' ' } else { *byte }).collect();
            quoted_printable(&spaced)
        }
        _ => None,
    }?;
    Some(Word { charset, bytes, length: text.len() - rest.len() + end + 2 })
}

/// The charset of a label: those of WHATWG, and `cp936`, the Windows name of GBK, which WHATWG does not list.
pub fn charset(label: &[u8]) -> Option<&'static Encoding> {
    let label = label.trim_ascii();
    let known = Encoding::for_label(label);
    known.or_else(|| label.eq_ignore_ascii_case(b"cp936").then_some(GB18030))
}

/// Decodes text of unknown charset: as UTF-8, otherwise as GB18030, which old Chinese Windows clients send. The second
/// value says whether all of it could be decoded.
pub fn decode_text(bytes: &[u8]) -> (std::borrow::Cow<'_, str>, bool) {
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
    fn transfer_encodings_are_decoded() {
        for identity in ["", "binary", "8bit", "7BIT", " Binary\t", "8bit; x=y"] {
            assert_eq!(TransferEncoding::parse(identity.as_bytes()).name(), None);
        }
        let decode = |name: &str, value: &str| {
            let decoded = TransferEncoding::parse(name.as_bytes()).decode(value.into());
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
    fn encoded_words_are_decoded() {
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
