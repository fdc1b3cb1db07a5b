//! Object keys: which paths WeChat and COS accept, and the template that makes keys.
//!
//! The rules are WeChat's (-501007 for a bad path) and COS's (object keys, doc 13324). COS expands `$` in a form's
//! `key`, as its documentation warns.

use std::borrow::Cow;
use std::fmt::{self, Write};

use jiff::Timestamp;
use jiff::tz::Offset;
use memchr::memmem;
use unicode_normalization::{UnicodeNormalization, is_nfc};
use uuid::Uuid;

/// COS's limit, in bytes of UTF-8.
pub const MAX_KEY: usize = 850;
/// Characters that the vendor discourages in keys, and `$`.
const REFUSED: &[char] = &['`', '^', '"', '\\', '{', '}', '[', ']', '~', '%', '#', '>', '<', '$'];

/// Why a path cannot be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("the path is empty")]
    Empty,
    #[error("the path begins with `/`")]
    LeadingSlash,
    #[error("the path ends with `/`, which names a folder")]
    TrailingSlash,
    #[error("the path has an empty folder (`//`)")]
    EmptySegment,
    #[error("the path has a `.` or `..` folder")]
    DotSegment,
    #[error("the path contains a control character")]
    Control,
    #[error("the path contains `{0}`, which COS discourages or expands")]
    Character(char),
    #[error("the path is longer than {MAX_KEY} bytes")]
    TooLong,
    #[error("the path is not UTF-8")]
    Encoding,
    #[error("the folder `.resumable` is the gateway's own")]
    Reserved,
}

/// What the keys of objects begin with that are the gateway's own. No client can name one.
pub const OWN_PREFIX: &str = ".resumable/";

/// An object's key: valid, in NFC.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(String);

impl Key {
    /// Checks a path and brings it into NFC.
    pub fn parse<'a>(path: impl Into<Cow<'a, str>>) -> Result<Self, KeyError> {
        Self::parse_text(path.into())
    }

    fn parse_text(path: Cow<'_, str>) -> Result<Self, KeyError> {
        // Bounds the work of normalizing, which makes no text shorter than a third (UAX 15, 9.1).
        if path.len() > 4 * MAX_KEY {
            return Err(KeyError::TooLong);
        }
        let is_normal = path.is_ascii() || is_nfc(&path);
        let path = if is_normal { path.into_owned() } else { path.nfc().collect() };
        if path.is_empty() {
            return Err(KeyError::Empty);
        }
        if path.len() > MAX_KEY {
            return Err(KeyError::TooLong);
        }
        if path.starts_with('/') {
            return Err(KeyError::LeadingSlash);
        }
        if path.ends_with('/') {
            return Err(KeyError::TrailingSlash);
        }
        for segment in path.split('/') {
            match segment {
                "" => return Err(KeyError::EmptySegment),
                "." | ".." => return Err(KeyError::DotSegment),
                _ => {}
            }
        }
        if path.starts_with(OWN_PREFIX) {
            return Err(KeyError::Reserved);
        }
        let refused = |character: &char| character.is_control() || REFUSED.contains(character);
        match path.chars().find(refused) {
            Some(control) if control.is_control() => Err(KeyError::Control),
            Some(refused) => Err(KeyError::Character(refused)),
            None => Ok(Self(path)),
        }
    }

    /// What [`Key::parse`] accepts, apart from the length and [`OWN_PREFIX`], as a pattern (ECMA 262) for the API's description. It has no
    /// lookahead, which some regular expression engines do not support.
    pub fn pattern() -> String {
        let segment = segment_pattern();
        format!("^{segment}(/{segment})*$")
    }

    /// The key, without `/` at either end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key, without `/` at either end.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A pattern for the name of a folder or file that is neither `.` nor `..`.
fn segment_pattern() -> String {
    let escaped = |character: &char| match character {
        '\\' | '[' | ']' | '^' => format!("\\{character}"),
        character => character.to_string(),
    };
    let refused: String = REFUSED.iter().map(escaped).collect();
    let allowed = |except: &str| format!(r"[^/{except}\u0000-\u001f\u007f-\u009f{refused}]");
    let (any, first) = (allowed(""), allowed("."));
    format!(r"({first}{any}*|\.{first}{any}*|\.\.{any}+)")
}

/// `upload.path_template`, checked by the settings.
#[derive(Debug, Clone)]
pub struct Template(String);

/// The values of a template's placeholders.
pub struct Values<'a> {
    /// The calling client's name.
    pub client: &'a str,
    /// The folder the client asks for.
    pub dir: Option<&'a str>,
    /// The file's name as the client sent it.
    pub name: &'a str,
    /// UTC.
    pub now: Timestamp,
    pub uuid: Uuid,
}

impl Template {
    /// `text` with `{yyyy} {mm} {dd} {uuid} {ext} {client} {dir} {name}`.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Whether the template makes a new key every time.
    pub fn is_unique(&self) -> bool {
        self.0.contains("{uuid}")
    }

    /// Until when, in Unix time in seconds, keys made at `now` have their date: the end of the day, or `None` without a
    /// date.
    pub fn date_until(&self, now: Timestamp) -> Option<i64> {
        const DAY: i64 = 24 * 60 * 60;
        let is_dated = ["{yyyy}", "{mm}", "{dd}"].iter().any(|date| self.0.contains(date));
        is_dated.then(|| (now.as_second().div_euclid(DAY) + 1) * DAY)
    }

    /// Makes a key under `prefix` (a folder ending with `/`, or nothing). The client's folder replaces `{dir}`; a
    /// template without `{dir}` has it before the file's name. The key never leaves the template's own folder.
    pub fn render(&self, values: &Values<'_>, prefix: &str) -> Result<Key, KeyError> {
        let dir = values.dir.map(folder).transpose()?.flatten().unwrap_or_default();
        let template = if self.0.contains("{dir}") || dir.is_empty() {
            Cow::Borrowed(self.0.as_str())
        } else {
            Cow::Owned(match self.0.rsplit_once('/') {
                Some((folders, file)) => format!("{folders}/{{dir}}/{file}"),
                None => format!("{{dir}}/{}", self.0),
            })
        };
        let date = Offset::UTC.to_datetime(values.now);
        let (stem, extension) = split_name(values.name);
        let mut path = String::with_capacity(128);
        path.push_str(prefix);
        let mut rest = &*template;
        while let Some((before, after)) = rest.split_once('{') {
            let (placeholder, next) = after.split_once('}').unwrap_or((after, ""));
            path.push_str(before);
            // Writing to a string does not fail.
            let _ = match placeholder {
                "yyyy" => write!(path, "{:04}", date.year()),
                "mm" => write!(path, "{:02}", date.month()),
                "dd" => write!(path, "{:02}", date.day()),
                "uuid" => write!(path, "{}", values.uuid),
                "ext" if extension.is_empty() => Ok(()),
                "ext" => {
                    path.push('.');
                    path.extend(extension.chars().map(|character| character.to_ascii_lowercase()));
                    Ok(())
                }
                "client" => path.write_str(&safe(values.client)),
                "dir" => path.write_str(&dir),
                "name" => path.write_str(&safe(stem)),
                _ => Ok(()),
            };
            rest = next;
        }
        path.push_str(rest);
        // An empty placeholder must not leave an empty folder.
        while path.contains("//") {
            path = path.replace("//", "/");
        }
        if path.starts_with('/') {
            path = path.trim_start_matches('/').to_owned();
        }
        Key::parse(path)
    }
}

/// How a template has made a key that no other upload has.
#[derive(Debug, Clone, Copy)]
pub struct Generated {
    /// In the key.
    pub uuid: Uuid,
    /// [`Template::date_until`] of the time it was made.
    pub until: Option<i64>,
}

/// Stands for the UUID in a [`KeyShape`]; no key contains it.
const UUID_MARK: char = '\0';

/// What generated keys have in common that differ only in their UUID: the folder with the client's part and the date, the
/// extension, and so on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyShape(String);

impl KeyShape {
    /// The shape of a key that was made with `uuid`, which must be random: the file's name could contain another one.
    /// `None` where normalization has changed the UUID, together with a mark behind it.
    pub fn of(key: &Key, uuid: Uuid) -> Option<Self> {
        let mut buffer = Uuid::encode_buffer();
        let uuid = &*uuid.hyphenated().encode_lower(&mut buffer);
        // For each upload: `str::replace` enlarges its text several times, and prepares a search for long texts.
        let mut shape = String::with_capacity(key.0.len());
        let mut rest = 0;
        for at in memmem::find_iter(key.0.as_bytes(), uuid) {
            shape.push_str(&key.0[rest..at]);
            shape.push(UUID_MARK);
            rest = at + uuid.len();
        }
        shape.push_str(&key.0[rest..]);
        (rest > 0).then_some(Self(shape))
    }

    /// The key that the template makes from the same values with this UUID.
    pub fn key(&self, uuid: Uuid) -> Result<Key, KeyError> {
        let mut buffer = Uuid::encode_buffer();
        let uuid = &*uuid.hyphenated().encode_lower(&mut buffer);
        let mut key = String::with_capacity(self.0.len() + uuid.len());
        let mut parts = self.0.split(UUID_MARK);
        key.extend(parts.next());
        for part in parts {
            key.extend([uuid, part]);
        }
        Key::parse(key)
    }
}

/// The pattern of a client's folder, as [`Key::pattern`] is that of a key.
pub fn folder_pattern() -> String {
    let segment = segment_pattern();
    format!("^/*({segment}(/{segment})*/*)?$")
}

/// The client's folder: checked like a key, but slashes at its ends are allowed.
pub fn folder(dir: &str) -> Result<Option<String>, KeyError> {
    match dir.trim_matches('/') {
        "" => Ok(None),
        inner => Key::parse(inner).map(|key| Some(key.0)),
    }
}

/// Splits a file's name into `{name}`, which is not yet checked, and the extension without its dot, of letters and digits
/// only; empty where there is none.
fn split_name(name: &str) -> (&str, &str) {
    match name.rsplit_once('.') {
        Some((stem, extension))
            if (1..=16).contains(&extension.len())
                && extension.bytes().all(|byte| byte.is_ascii_alphanumeric()) =>
        {
            (stem, extension)
        }
        _ => (name, ""),
    }
}

/// The text with `_` for every character that a key may not have.
fn safe(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut safe = String::new();
    for character in text.nfc() {
        let allowed = !(character.is_control() || character == '/' || REFUSED.contains(&character));
        if safe.len() + character.len_utf8() > LONGEST {
            break;
        }
        safe.push(if allowed { character } else { '_' });
    }
    match safe.trim_matches([' ', '.']) {
        "" => "_".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn invalid_paths_are_refused() {
        for (path, error) in [
            ("", KeyError::Empty),
            ("/a", KeyError::LeadingSlash),
            ("a/", KeyError::TrailingSlash),
            ("a//b", KeyError::EmptySegment),
            (".resumable/a", KeyError::Reserved),
            ("a/./b", KeyError::DotSegment),
            ("../b", KeyError::DotSegment),
            ("a\nb", KeyError::Control),
            ("a\u{85}b", KeyError::Control),
            ("${filename}", KeyError::Character('$')),
            ("a\\b", KeyError::Character('\\')),
            ("a%2fb", KeyError::Character('%')),
        ] {
            assert_eq!(Key::parse(path), Err(error), "{path:?}");
        }
        assert!(Key::parse("é".repeat(425)).is_ok());
        assert_eq!(Key::parse("é".repeat(426)), Err(KeyError::TooLong));
        assert_eq!(Key::parse("中文 名/…x.png").unwrap().as_str(), "中文 名/…x.png");
    }

    #[test]
    fn keys_are_in_nfc() {
        assert_eq!(Key::parse("e\u{301}.png"), Key::parse("\u{e9}.png"));
        // Hangul shrinks most: 9 bytes become 3.
        let syllables = "\u{1112}\u{1161}\u{11ab}".repeat(283);
        assert_eq!(Key::parse(&syllables).map(|key| key.as_str().len()), Ok(849));
        assert_eq!(Key::parse("e\u{301}".repeat(1_000_000)), Err(KeyError::TooLong));
    }

    fn rendered(
        template: &str,
        dir: Option<&str>,
        name: &str,
        prefix: &str,
    ) -> Result<String, KeyError> {
        let values = Values {
            client: "Panel 1",
            dir,
            name,
            now: "2026-03-04T23:59:59Z".parse().unwrap(),
            uuid: Uuid::nil(),
        };
        Template::new(template).render(&values, prefix).map(|key| key.0)
    }

    #[test]
    fn templates_are_filled() {
        let default = "uploads/{yyyy}/{mm}/{dd}/{uuid}{ext}";
        let uuid = Uuid::nil();
        let path = |rest: &str| Ok(format!("uploads/2026/03/04/{rest}"));
        assert_eq!(rendered(default, None, "a.PNG", ""), path(&format!("{uuid}.png")));
        assert_eq!(rendered(default, None, "noext", ""), path(&uuid.to_string()));
        assert_eq!(rendered(default, None, "x.t$r", ""), path(&uuid.to_string()));
        assert_eq!(rendered(default, Some("/p/q/"), "a.b", ""), path(&format!("p/q/{uuid}.b")));
        assert_eq!(
            rendered(default, None, "a.b", "team/"),
            Ok(format!("team/uploads/2026/03/04/{uuid}.b"))
        );
        assert_eq!(
            rendered("{client}/{dir}/{name}{ext}", Some("d"), "x y.z", ""),
            Ok("Panel 1/d/x y.z".into())
        );
        assert_eq!(rendered("{client}/{dir}/{name}{ext}", None, "..", ""), Ok("Panel 1/_".into()));
        assert_eq!(
            rendered("{name}{ext}", Some("d"), "a/b%.tar.gz", ""),
            Ok("d/a_b_.tar.gz".into())
        );
        assert_eq!(rendered(default, Some("../x"), "a.b", ""), Err(KeyError::DotSegment));
    }

    #[test]
    fn keys_of_a_shape_are_those_of_the_template() {
        let now: Timestamp = "2026-03-04T23:59:59Z".parse().unwrap();
        for template in
            ["uploads/{yyyy}/{uuid}{ext}", "{client}/{name}-{uuid}-{uuid}", "{uuid}{name}"]
        {
            for name in ["a.PNG", "00000000-0000-0000-0000-000000000000.x", "\u{301}a", "e\u{301}"]
            {
                let made = |uuid| {
                    let values = Values { client: "Panel 1", dir: Some("d"), name, now, uuid };
                    Template::new(template).render(&values, "team/").unwrap()
                };
                for _ in 0..50 {
                    let (uuid, other) = (Uuid::now_v7(), Uuid::now_v7());
                    match KeyShape::of(&made(uuid), uuid) {
                        Some(shape) => assert_eq!(shape.key(other).unwrap(), made(other)),
                        None => assert!(name.starts_with('\u{301}'), "{template} {name}"),
                    }
                }
            }
        }
    }

    #[test]
    fn a_date_lasts_until_midnight() {
        let until = |template, now: &str| {
            let until = Template::new(template).date_until(now.parse().unwrap());
            until.map(|second| Timestamp::from_second(second).unwrap().to_string())
        };
        assert_eq!(until("a/{uuid}", "2026-03-04T23:59:59Z"), None);
        for now in ["2026-03-04T00:00:00Z", "2026-03-04T23:59:59.9Z"] {
            assert_eq!(until("{mm}/{uuid}", now).as_deref(), Some("2026-03-05T00:00:00Z"));
        }
    }

    proptest! {
        #[test]
        fn any_name_gives_a_valid_key_inside_its_folder(name in any::<String>(), dir in any::<String>()) {
            for dir in [None, Some(dir.as_str())] {
                if let Ok(key) = rendered("a/{dir}/{name}{ext}", dir, &name, "team/") {
                    prop_assert!(key.starts_with("team/a/"));
                    prop_assert_eq!(Key::parse(&key).map(|key| key.0), Ok(key));
                } else {
                    prop_assert!(dir.is_some());
                }
            }
        }
    }
}
