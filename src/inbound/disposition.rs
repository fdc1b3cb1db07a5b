//! Reads the field name and the file name from a part's Content-Disposition, in the many forms that clients send.

use percent_encoding::percent_decode;

use super::encoding::{charset, decode_text, decode_words};

/// The names in a Content-Disposition.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Disposition {
    /// The form field's name.
    pub name: Option<String>,
    /// The file's name without any folder; `Some("")` when it was given and is empty, or cannot be read.
    pub file_name: Option<String>,
}

impl Disposition {
    /// From the header's value. The disposition type is ignored: every part of a form is form data.
    pub fn parse(value: &[u8]) -> Self {
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
        Self { name, file_name: FileName::prefer(plain, extended).map(|name| name.text) }
    }
}

/// A file's name from one of the parameters.
struct FileName {
    text: String,
    /// The parameter follows its RFC, and the name is not empty.
    valid: bool,
}

impl FileName {
    fn new(text: String, valid: bool) -> Self {
        let valid = valid && !text.is_empty();
        Self { text, valid }
    }

    fn plain(value: &[u8], quoted: bool) -> Self {
        if let Some(text) = plain_text(value) {
            return Self::new(text.to_owned(), true);
        }
        let value = if quoted { value } else { strip(value, b'\'') };
        let (text, decoded) = decode_text(value);
        let text = text.replace("\\\"", "\"");
        let text = decode_words(&text).unwrap_or_else(|| unescape_percent(&text));
        Self::new(base_name(&text), decoded)
    }

    fn extended(value: &[u8]) -> Self {
        let (text, valid) = extended_text(value);
        Self::new(base_name(&text), valid)
    }

    /// RFC 2231 3: a long value in numbered sections, each of which may be percent-encoded or not.
    fn continued(mut sections: Vec<(u32, bool, &[u8])>) -> Self {
        sections.sort_by_key(|section| section.0);
        let encoded = sections.iter().any(|section| section.1);
        let value = sections.iter().map(|section| section.2).collect::<Vec<_>>().concat();
        if encoded { Self::extended(&value) } else { Self::plain(&value, true) }
    }

    /// RFC 6266 prefers `filename*`, but many clients write it wrongly or leave it empty.
    fn prefer(plain: Option<Self>, extended: Option<Self>) -> Option<Self> {
        match (plain, extended) {
            (Some(plain), Some(extended)) => {
                let prefers_plain = extended.text.is_empty() || (plain.valid && !extended.valid);
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
    let matches = name.eq_ignore_ascii_case(b"filename*");
    let number = std::str::from_utf8(digits.unwrap_or(number)).ok()?.parse().ok()?;
    matches.then_some((number, digits.is_some()))
}

/// A value that is the same in every encoding that clients use, and has nothing to decode.
fn plain_text(value: &[u8]) -> Option<&str> {
    let is_plain = value.iter().all(|byte| byte.is_ascii_graphic() && !b"\"%'/=\\".contains(byte));
    std::str::from_utf8(value).ok().filter(|_| is_plain)
}

fn field_name(value: &[u8], quoted: bool) -> String {
    if let Some(text) = plain_text(value) {
        return text.to_owned();
    }
    let value = if quoted { value } else { strip(value, b'\'') };
    let (text, _) = decode_text(value);
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

/// Decodes a percent-encoded name. Browsers encode only quotes and line breaks, aiohttp every byte that is not
/// unreserved (RFC 3986). A name is decoded fully only if it has no character that aiohttp would have encoded.
fn unescape_percent(text: &str) -> String {
    let fully_encoded =
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"%-_.~/".contains(&byte));
    match percent_decode(text.as_bytes()).decode_utf8() {
        Ok(decoded) if fully_encoded => decoded.into_owned(),
        _ => text.replace("%22", "\"").replace("%0D", "").replace("%0A", ""),
    }
}

/// Decodes an RFC 5987 value, `charset'language'percent-encoded`, and the wrong forms that clients send: in quotes,
/// without a charset, with one apostrophe, or with double quotes as separators. The second value says whether the form
/// was valid.
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
    let (text, _) = decode_text(&bytes);
    (decode_words(&text).unwrap_or_else(|| text.into_owned()), false)
}

/// The charset label and the encoded text of an extended value; `None` where the apostrophe is a part of the name.
fn split_extended(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let separator = |byte: &u8| matches!(byte, b'\'' | b'"');
    let first = value.iter().position(separator)?;
    let (label, rest) = (value[..first].trim_ascii(), &value[first + 1..]);
    let second = rest.iter().position(separator);
    let is_label = label.is_empty() || second == Some(0) || charset(label).is_some();
    is_label.then(|| (label, second.map_or(rest, |second| &rest[second + 1..])))
}

/// The last segment of a path, in one line, without surrounding quotes and without invisible characters: a
/// right-to-left override, for example, makes a name show another extension than it has.
fn base_name(path: &str) -> String {
    let visible: String =
        path.chars().filter(|character| !is_invisible(*character)).collect::<String>();
    let name = visible.trim();
    let name = name.strip_prefix('"').and_then(|name| name.strip_suffix('"')).unwrap_or(name);
    name.rsplit(['/', '\\']).next().unwrap_or_default().trim().to_owned()
}

/// Control characters, Unicode's category Cf, and characters that are drawn as nothing. Not the variation selectors
/// U+FE00 to U+FE0F, which emoji need.
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
    /// Without its quotes, but with its escapes.
    value: &'a [u8],
    quoted: bool,
}

/// The parameters of a header's value. A word without `=`, such as the disposition type, has an empty value.
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
        // Where a semicolon is missing, the name is the last word before `=`.
        let name = name.rsplit(|byte| matches!(byte, b' ' | b'\t' | b',')).next().unwrap_or(name);
        let rest = rest.trim_ascii_start();
        let (value, remaining, quoted) = match rest.strip_prefix(b"\"") {
            Some(open) => {
                let close = closing_quote(open).unwrap_or(open.len());
                (&open[..close], open.get(close + 1..).unwrap_or_default(), true)
            }
            None => {
                let end = rest.iter().position(|byte| *byte == b';').unwrap_or(rest.len());
                (rest[..end].trim_ascii(), &rest[end..], false)
            }
        };
        self.0 = remaining;
        Some(Parameter { name, value, quoted })
    }
}

/// The position of a value's closing quote: the first quote followed by nothing or by a semicolon, since some names
/// contain quotes that were not escaped. Only `\"` is an escape, since Windows paths are sent with bare backslashes. If
/// that leaves no closing quote, the value is a path that ends in a backslash.
fn closing_quote(value: &[u8]) -> Option<usize> {
    let (mut inner, mut escaped) = (None, None);
    for at in memchr::memchr_iter(b'"', value) {
        let before = at.checked_sub(1).map(|before| value[before]);
        let after = value[at + 1..].trim_ascii_start();
        let closes = after.first().is_none_or(|byte| *byte == b';');
        match before {
            // The next parameter's value begins here.
            Some(b'=') if inner.is_some() || escaped.is_some() => return inner.or(escaped),
            Some(b'\\') if closes => escaped = escaped.or(Some(at)),
            Some(b'\\') => {}
            _ if closes => return Some(at),
            _ => inner = inner.or(Some(at)),
        }
    }
    inner.or(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(rest: &str) -> (String, Option<String>) {
        let disposition = Disposition::parse(format!("form-data; {rest}").as_bytes());
        (disposition.name.unwrap_or_default(), disposition.file_name)
    }

    fn file_name(rest: &str) -> String {
        let (name, file_name) = names(&format!("name=\"file\"; {rest}"));
        assert_eq!(name, "file", "{rest}");
        file_name.unwrap_or_else(|| panic!("{rest} is not a file"))
    }

    #[test]
    fn encoded_words_are_decoded() {
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
        assert_eq!(names("name=\"=?utf-8?B?ZmlsZQ==?=\"").0, "file");
        assert_eq!(names("name==?utf-8?Q?dir?=").0, "dir");
        assert_eq!(names("name*=UTF-8''%E4%B8%AD").0, "中");
    }

    #[test]
    fn every_extended_name_makes_a_file_and_the_valid_name_is_preferred() {
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
    fn parameters_are_read_as_clients_send_them() {
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
            assert_eq!(names(rest), ("file".to_owned(), Some("a.png".to_owned())), "{rest}");
        }
        assert_eq!(names("name=\"f; filename=x\""), ("f; filename=x".to_owned(), None));
        assert_eq!(names("name=\"filename*\""), ("filename*".to_owned(), None));
    }

    #[test]
    fn invisible_characters_are_removed_from_names() {
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
