//! A part's Content-Disposition: its parameters as senders write them, and the two names in it.

use percent_encoding::percent_decode;

use super::encoding::{charset, decode_words, guess};

/// What a Content-Disposition says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Disposition {
    /// The form field's name.
    pub name: Option<String>,
    /// The file's name without any folder; `Some("")` when it was given and is empty, or cannot be read.
    pub file_name: Option<String>,
}

impl Disposition {
    /// From the header's value. The disposition type is not looked at: a part of a form is form data.
    pub fn of(value: &[u8]) -> Self {
        let (mut name, mut extended_name) = (None, None);
        let (mut plain, mut extended) = (None, None);
        let mut continued: Vec<(u32, bool, &[u8])> = Vec::new();
        for Parameter { name: parameter, value, quoted } in Parameters(value) {
            let is = |known: &[u8]| parameter.eq_ignore_ascii_case(known);
            if is(b"name") {
                name.get_or_insert_with(|| field_name(value, quoted));
            } else if is(b"filename") {
                plain.get_or_insert_with(|| FileName::plain(value, quoted));
            } else if is(b"name*") {
                extended_name.get_or_insert_with(|| extended_text(value).0);
            } else if is(b"filename*") {
                extended.get_or_insert_with(|| FileName::extended(value));
            } else if let Some((number, encoded)) = continuation(parameter) {
                continued.push((number, encoded, value));
            }
        }
        if extended.is_none() && !continued.is_empty() {
            extended = Some(FileName::continued(continued));
        }
        let name = name.filter(|name| !name.is_empty()).or(extended_name);
        Self { name, file_name: FileName::better(plain, extended).map(|name| name.text) }
    }
}

/// A file's name as one of the parameters has it.
struct FileName {
    text: String,
    /// Written as it should be, and not empty.
    sound: bool,
}

impl FileName {
    fn new(text: String, sound: bool) -> Self {
        let sound = sound && !text.is_empty();
        Self { text, sound }
    }

    fn plain(value: &[u8], quoted: bool) -> Self {
        if value.iter().all(|byte| byte.is_ascii_graphic() && !b"\"%'/=\\".contains(byte)) {
            return Self::new(value.iter().map(|byte| char::from(*byte)).collect(), true);
        }
        let value = if quoted { value } else { strip(value, b'\'') };
        let (text, whole) = guess(value);
        let text = text.replace("\\\"", "\"");
        let text = decode_words(&text).unwrap_or_else(|| unescape_percent(&text));
        Self::new(base_name(&text), whole)
    }

    fn extended(value: &[u8]) -> Self {
        let (text, sound) = extended_text(value);
        Self::new(base_name(&text), sound)
    }

    /// RFC 2231 3: a long value in numbered pieces, of which each may be percent-encoded or not.
    fn continued(mut pieces: Vec<(u32, bool, &[u8])>) -> Self {
        pieces.sort_by_key(|piece| piece.0);
        let encoded = pieces.iter().any(|piece| piece.1);
        let value = pieces.iter().map(|piece| piece.2).collect::<Vec<_>>().concat();
        if encoded { Self::extended(&value) } else { Self::plain(&value, true) }
    }

    /// RFC 6266 prefers `filename*`; many senders write it wrongly, or leave it empty.
    fn better(plain: Option<Self>, extended: Option<Self>) -> Option<Self> {
        match (plain, extended) {
            (Some(plain), Some(extended)) => {
                let prefers_plain = extended.text.is_empty() || (plain.sound && !extended.sound);
                Some(if prefers_plain { plain } else { extended })
            }
            (plain, extended) => extended.or(plain),
        }
    }
}

/// The number of a `filename*N` or `filename*N*`, and whether its value is percent-encoded.
fn continuation(parameter: &[u8]) -> Option<(u32, bool)> {
    const NAME: usize = "filename*".len();
    let (name, number) = parameter.split_at_checked(NAME)?;
    let digits = number.strip_suffix(b"*");
    let is_it = name.eq_ignore_ascii_case(b"filename*");
    let number = std::str::from_utf8(digits.unwrap_or(number)).ok()?.parse().ok()?;
    is_it.then_some((number, digits.is_some()))
}

fn field_name(value: &[u8], quoted: bool) -> String {
    let value = if quoted { value } else { strip(value, b'\'') };
    let (text, _) = guess(value);
    let text = text.replace("\\\"", "\"");
    decode_words(&text).unwrap_or(text)
}

/// `value` without a pair of quotes around it.
fn strip(value: &[u8], quote: u8) -> &[u8] {
    match value {
        [first, inner @ .., last] if *first == quote && *last == quote => inner,
        _ => value,
    }
}

/// Browsers encode only quotes and line breaks, aiohttp every byte that is not unreserved. A name with a character
/// that the latter would have encoded was not encoded throughout.
fn unescape_percent(text: &str) -> String {
    let throughout =
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"%-_.~/".contains(&byte));
    match percent_decode(text.as_bytes()).decode_utf8() {
        Ok(decoded) if throughout => decoded.into_owned(),
        _ => text.replace("%22", "\"").replace("%0D", "").replace("%0A", ""),
    }
}

/// RFC 5987: `charset'language'percent-encoded`; and what senders make of it: in quotes, without charset, with one
/// apostrophe or with other quotes between. Says whether it was as it should be.
fn extended_text(value: &[u8]) -> (String, bool) {
    let value = value.trim_ascii();
    let (label, encoded) = split_extended(value).unwrap_or((b"", value));
    let bytes: Vec<u8> = percent_decode(encoded).collect();
    if let Some(charset) = charset(label) {
        let (text, damaged) = charset.decode_without_bom_handling(&bytes);
        if !damaged {
            return (text.into_owned(), true);
        }
    }
    let (text, _) = guess(&bytes);
    (decode_words(&text).unwrap_or_else(|| text.into_owned()), false)
}

/// The charset's label and the text of an extended value. An apostrophe may as well belong to a name without either.
fn split_extended(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let mark = |byte: &u8| matches!(byte, b'\'' | b'"');
    let first = value.iter().position(mark)?;
    let (label, behind) = (value[..first].trim_ascii(), &value[first + 1..]);
    let second = behind.iter().position(mark);
    let is_label = label.is_empty() || second == Some(0) || charset(label).is_some();
    is_label.then(|| (label, second.map_or(behind, |second| &behind[second + 1..])))
}

/// The last segment of a path, in one line, without quotes around it and without what cannot be seen: a name in which
/// text runs backwards shows another extension than it has.
fn base_name(path: &str) -> String {
    let visible: String =
        path.chars().filter(|character| !is_invisible(*character)).collect::<String>();
    let name = visible.trim();
    let name = name.strip_prefix('"').and_then(|name| name.strip_suffix('"')).unwrap_or(name);
    name.rsplit(['/', '\\']).next().unwrap_or_default().trim().to_owned()
}

/// Controls, and characters of Unicode's class Cf or without a shape of their own. Not the variation selectors U+FE00
/// to U+FE0F, which belong to emoji.
fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

struct Parameter<'a> {
    name: &'a [u8],
    /// Without its quotes; escapes are still in it.
    value: &'a [u8],
    quoted: bool,
}

/// The parameters of a header's value. A word without `=` (the disposition type is one) has an empty value.
struct Parameters<'a>(&'a [u8]);

impl<'a> Iterator for Parameters<'a> {
    type Item = Parameter<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.0.iter().position(|byte| !matches!(byte, b';' | b',' | b' ' | b'\t'))?;
        let rest = &self.0[start..];
        let end = rest.iter().position(|byte| matches!(byte, b'=' | b';')).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let name = name.trim_ascii();
        let Some(rest) = rest.strip_prefix(b"=") else {
            self.0 = rest;
            return Some(Parameter { name, value: b"", quoted: false });
        };
        // Where a semicolon is missing the name is the last word.
        let name = name.rsplit(|byte| matches!(byte, b' ' | b'\t' | b',')).next().unwrap_or(name);
        let rest = rest.trim_ascii_start();
        let (value, behind, quoted) = match rest.strip_prefix(b"\"") {
            Some(open) => {
                let close = closing_quote(open).unwrap_or(open.len());
                (&open[..close], open.get(close + 1..).unwrap_or_default(), true)
            }
            None => {
                let end = rest.iter().position(|byte| *byte == b';').unwrap_or(rest.len());
                (rest[..end].trim_ascii(), &rest[end..], false)
            }
        };
        self.0 = behind;
        Some(Parameter { name, value, quoted })
    }
}

/// Where a quoted value ends: at the first quote with nothing or a semicolon behind it, since some names hold quotes that
/// were not escaped. Only `\"` is an escape: Windows paths come with bare backslashes. Where that leaves no closing
/// quote, the path itself ended in a backslash.
fn closing_quote(value: &[u8]) -> Option<usize> {
    let (mut inner, mut escaped) = (None, None);
    for at in memchr::memchr_iter(b'"', value) {
        let before = at.checked_sub(1).map(|before| value[before]);
        let behind = value[at + 1..].trim_ascii_start();
        let ends = behind.first().is_none_or(|byte| *byte == b';');
        match before {
            // The next parameter's value begins here.
            Some(b'=') if inner.is_some() || escaped.is_some() => return inner.or(escaped),
            Some(b'\\') if ends => escaped = escaped.or(Some(at)),
            Some(b'\\') => {}
            _ if ends => return Some(at),
            _ => inner = inner.or(Some(at)),
        }
    }
    inner.or(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rest: &str) -> (String, Option<String>) {
        let disposition = Disposition::of(format!("form-data; {rest}").as_bytes());
        (disposition.name.unwrap_or_default(), disposition.file_name)
    }

    fn file_name(rest: &str) -> String {
        let (name, file_name) = of(&format!("name=\"file\"; {rest}"));
        assert_eq!(name, "file", "{rest}");
        file_name.unwrap_or_else(|| panic!("{rest} is no file"))
    }

    #[test]
    fn names_in_encoded_words() {
        for (rest, name) in [
            ("filename=\"=?utf-8?B?5Lit5paHLnBuZw==?=\"", "中文.png"),
            ("filename==?utf-8?B?5Lit5paHLnBuZw==?=", "中文.png"),
            ("filename=\"=?utf-8?B?IuS4reaWhy5wbmci?=\"", "中文.png"),
            ("filename=\"=?GBK?Q?=D6=D0=CE=C4.png?=\"", "中文.png"),
            ("filename=\"=?utf-8?B?5Lit?= =?utf-8?B?5paHLnBuZw==?=\"", "中文.png"),
            ("filename=\"=?utf-8?Q?..=2F..=2Fa.png?=\"", "a.png"),
            ("filename=\"=?utf-8?B?broken\"", "=?utf-8?B?broken"),
        ] {
            assert_eq!(file_name(rest), name, "{rest}");
        }
        assert_eq!(of("name=\"=?utf-8?B?ZmlsZQ==?=\"").0, "file");
        assert_eq!(of("name==?utf-8?Q?dir?=").0, "dir");
        assert_eq!(of("name*=UTF-8''%E4%B8%AD").0, "中");
    }

    #[test]
    fn any_extended_name_makes_a_file_and_the_better_name_wins() {
        for (rest, name) in [
            ("filename*=UTF-8''%E4%B8%AD.png", "中.png"),
            ("filename*=utf-8'zh-cn'%e4%b8%ad.png", "中.png"),
            ("filename*=\"UTF-8''%E4%B8%AD.png\"", "中.png"),
            ("filename*=UTF-8'%E4%B8%AD.png", "中.png"),
            ("filename*=UTF-8\"\"%E4%B8%AD.png", "中.png"),
            ("filename*=''%E4%B8%AD.png", "中.png"),
            ("filename*=%E4%B8%AD.png", "中.png"),
            ("filename*=\"中.png\"", "中.png"),
            ("filename*=gbk''%D6%D0.png", "中.png"),
            ("filename*=UTF-8''%D6%D0.png", "中.png"),
            ("filename*=none''%E4%B8%AD.png", "中.png"),
            ("filename*=it's bob's.png", "it's bob's.png"),
            ("filename*=UTF-8''100%.png", "100%.png"),
            ("filename*=UTF-8''%zz.png", "%zz.png"),
            ("filename*=UTF-8''%22a.png%22", "a.png"),
            ("filename*=UTF-8''..%2Fa.png", "a.png"),
            ("filename*=UTF-8''", ""),
            ("filename*=\"\"", ""),
            ("filename*=", ""),
            ("filename*", ""),
            ("FILENAME*=UTF-8''a.png", "a.png"),
            ("filename*0=\"a\"; filename*1=\"b.png\"", "ab.png"),
            ("filename*1*=%AD.png; filename*0*=UTF-8''%E4%B8", "中.png"),
            ("filename=\"photo.png\"; filename*=UTF-8''", "photo.png"),
            ("filename=\"photo.png\"; filename*=UTF-8''%ff.png", "photo.png"),
            ("filename=\"photo.png\"; filename*=bad", "photo.png"),
            ("filename*=UTF-8''%E4%B8%AD.png; filename=\"_.png\"", "中.png"),
            ("filename=\"\"; filename*=bad.png", "bad.png"),
        ] {
            assert_eq!(file_name(rest), name, "{rest}");
        }
    }

    #[test]
    fn parameters_as_senders_write_them() {
        for (rest, name) in [
            ("filename=photo.png", "photo.png"),
            ("filename=my photo.png", "my photo.png"),
            ("filename = \"a.png\" ", "a.png"),
            ("filename='a.png'", "a.png"),
            ("filename=\"'a.png'\"", "'a.png'"),
            ("filename=\"5\" disk.png\"", "5\" disk.png"),
            ("filename=\"a.png", "a.png"),
            ("filename=\"\\\"a.png\\\"\"", "a.png"),
            ("filename=\"a;b.png\"; x=y", "a;b.png"),
            ("filename=\"C:\\dir\\\"", ""),
            ("filename=\"C:\\dir\\\"; x=\"y\"", ""),
            ("filename", ""),
            ("filename=", ""),
        ] {
            assert_eq!(file_name(rest), name, "{rest}");
        }
        for rest in [
            "name=\"file\" filename=\"a.png\"",
            "name=file;filename=a.png",
            "name='file'; filename=\"a.png\"",
            "; ;name = file ; ; filename = a.png ;",
            "filename=\"a.png\"; name=\"file\"",
        ] {
            assert_eq!(of(rest), ("file".to_owned(), Some("a.png".to_owned())), "{rest}");
        }
        assert_eq!(of("name=\"f; filename=x\""), ("f; filename=x".to_owned(), None));
        assert_eq!(of("name=\"filename*\""), ("filename*".to_owned(), None));
    }

    #[test]
    fn what_cannot_be_seen_is_not_part_of_a_name() {
        for (rest, name) in [
            ("filename=\"gnp\u{202e}.exe\"", "gnp.exe"),
            ("filename=\"a\u{200b}\u{2066}\u{feff}.png\u{ad}\"", "a.png"),
            ("filename*=UTF-8''a%E2%80%AEb.png%00", "ab.png"),
            ("filename=\"=?utf-8?Q?a=E2=80=8F.png?=\"", "a.png"),
            ("filename=\"a\u{85}\u{7f}\u{1}.png\"", "a.png"),
            ("filename=\"\u{a0}a.png \"", "a.png"),
            ("filename=\"❤\u{fe0f}.png\"", "❤\u{fe0f}.png"),
        ] {
            assert_eq!(file_name(rest), name, "{rest}");
        }
    }
}
