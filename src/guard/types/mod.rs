//! Which media types are taken, and as what a file is stored.
//!
//! Where types are listed, what a file is declared as, what its extension says and what its first bytes say must all
//! be on every list. Types that a browser runs (HTML, SVG, XML, scripts) must be listed by name. Where nothing is
//! listed they are stored as [`SAFE_TYPE`]: still there, never run.

mod names;

use std::path::Path;

use mime_guess::{Mime, mime};

use self::names::{canonical, standard};
use crate::inbound::sniff::{Look, Magic};

/// What a file is stored as that would be run otherwise.
pub const SAFE_TYPE: &str = "application/octet-stream";

/// Of a type and subtype, which have at most 127 characters each (RFC 6838 4.2).
const LONGEST: usize = 255;

/// Lists of media types, each of which must hold a file's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Types {
    /// From the settings; these can allow an active type.
    own: Vec<Vec<Pattern>>,
    /// From a ticket.
    claimed: Option<Vec<Pattern>>,
}

/// Why a file's type is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TypeError {
    #[error("files of type {0} are not taken")]
    Declared(String),
    #[error("`{called}` is called like a file of type {found}, which is not taken")]
    Extension { called: String, found: String },
    #[error("the file is declared as {declared}, and its first bytes are those of {found}")]
    Content { declared: String, found: String },
    #[error("the file is declared as {0}, and its first bytes are not")]
    Unconfirmed(String),
}

/// What a file is declared as, before its first byte is looked at.
#[derive(Debug, Clone)]
pub struct Declared {
    mime: Mime,
    /// It is declared, or called, as something that a browser would run, and that is not allowed by name.
    served_as_binary: bool,
}

impl Types {
    /// Every list that is not empty counts.
    pub fn new<'a>(lists: impl IntoIterator<Item = &'a Vec<String>>) -> Self {
        let lists = lists.into_iter().filter(|list| !list.is_empty());
        Self { own: lists.map(|list| patterns(list)).collect(), claimed: None }
    }

    /// Adds a ticket's list.
    pub fn narrow(&mut self, list: &[String]) {
        self.claimed = Some(patterns(list));
    }

    /// What a file is that is declared as `declared` and called by all of `names`: its own and its object's.
    pub fn admit(&self, declared: Option<&str>, names: [&str; 2]) -> Result<Declared, TypeError> {
        let mime = effective(declared, names);
        let essence = canonical(mime.essence_str());
        if !self.allow(essence) {
            return Err(TypeError::Declared(mime.essence_str().to_owned()));
        }
        let mut served_as_binary = is_active(essence) && !self.allow_by_name(essence);
        let [own, object] = names.map(extension);
        // Nearly always the object is called as the file is.
        let same =
            matches!((own, object), (Some(own), Some(object)) if own.eq_ignore_ascii_case(object));
        let called = [(names[0], own), (names[1], object.filter(|_| !same))];
        for (name, extension) in called {
            // It may stand for several types: `.ts` for a video and a script.
            let guesses = extension.map(mime_guess::from_ext);
            let guesses = guesses.iter().flat_map(|guess| guess.iter_raw()).map(canonical);
            let (mut first, mut allowed) = (None, false);
            for found in guesses {
                first.get_or_insert(found);
                allowed |= self.allow(found);
                served_as_binary |= is_active(found) && !self.allow_by_name(found);
            }
            if let Some(found) = first.filter(|_| !allowed) {
                let called = name.rsplit('/').next().unwrap_or_default().to_owned();
                return Err(TypeError::Extension { called, found: found.to_owned() });
            }
        }
        Ok(Declared { mime, served_as_binary })
    }

    /// What it is stored as by who never shows it to us.
    pub fn unseen(&self, declared: &Declared) -> String {
        if declared.served_as_binary { SAFE_TYPE.to_owned() } else { stored_as(&declared.mime) }
    }

    /// How much of a file so declared must be seen; `None` where its bytes can change nothing.
    pub fn look(&self, declared: &Declared) -> Option<Look> {
        let settled = declared.served_as_binary
            || is_plain_text(&declared.mime)
            || declared.mime == mime::APPLICATION_OCTET_STREAM;
        match self.is_any() {
            true if settled => None,
            true => Some(Look::Markup),
            false => Some(Look::All),
        }
    }

    /// What it is stored as, now that its first bytes are known (`None`: not looked at).
    pub fn confirm(&self, declared: &Declared, magic: Option<Magic>) -> Result<String, TypeError> {
        let found = magic.and_then(|magic| magic.media_type).map(canonical);
        if self.is_any() {
            let served_as_binary = declared.served_as_binary || found.is_some_and(is_active);
            return Ok(if served_as_binary {
                SAFE_TYPE.to_owned()
            } else {
                stored_as(&declared.mime)
            });
        }
        let essence = canonical(declared.mime.essence_str());
        // Short signatures are in texts by chance: "BM" begins a bitmap.
        let by_chance = |found: &str| {
            !is_active(found) && !has_magic(essence) && magic.is_some_and(|magic| magic.text)
        };
        match found.filter(|found| !by_chance(found)) {
            Some(found) if agree(essence, found) => {}
            // A JPEG called .png is harmless; markup is never taken for anything else.
            Some(found) if !is_active(found) && !is_active(essence) && self.allow(found) => {}
            Some(found) => {
                let (declared, found) = (essence.to_owned(), found.to_owned());
                return Err(TypeError::Content { declared, found });
            }
            None if has_magic(essence) => return Err(TypeError::Unconfirmed(essence.to_owned())),
            None => {}
        }
        Ok(stored_as(&declared.mime))
    }

    fn is_any(&self) -> bool {
        self.own.is_empty() && self.claimed.is_none()
    }

    fn allow(&self, essence: &str) -> bool {
        let on = |list: &Vec<Pattern>| list.iter().any(|pattern| pattern.covers(essence));
        self.own.iter().chain(&self.claimed).all(on)
            && (self.is_any() || !is_active(essence) || self.allow_by_name(essence))
    }

    /// Only the settings can: a ticket's list would widen what is taken where they have none.
    fn allow_by_name(&self, essence: &str) -> bool {
        let on = |list: &Vec<Pattern>| list.iter().any(|pattern| pattern.names(essence));
        !self.own.is_empty() && self.own.iter().chain(&self.claimed).all(on)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Any,
    /// With its slash: `image/`.
    Kind(String),
    Name(String),
}

impl Pattern {
    fn covers(&self, essence: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Kind(kind) => essence.starts_with(kind.as_str()),
            Self::Name(_) => self.names(essence),
        }
    }

    fn names(&self, essence: &str) -> bool {
        matches!(self, Self::Name(name) if name == essence)
    }
}

fn patterns(list: &[String]) -> Vec<Pattern> {
    let pattern = |text: &String| match text.strip_suffix('*') {
        Some("*/") => Pattern::Any,
        Some(kind) => Pattern::Kind(kind.to_owned()),
        None => Pattern::Name(canonical(text).to_owned()),
    };
    list.iter().map(pattern).collect()
}

/// What a name ends in, as [`mime_guess::from_path`] sees it.
fn extension(name: &str) -> Option<&str> {
    Path::new(name).extension()?.to_str()
}

/// The declared type, or the one the names tell where the declared one is none or says nothing.
fn effective(declared: Option<&str>, names: [&str; 2]) -> Mime {
    let declared = declared.and_then(parsed);
    declared.filter(|mime| !says_nothing(mime.essence_str())).unwrap_or_else(|| {
        let mut extensions = names.into_iter().filter_map(extension);
        let told = extensions.find_map(|extension| mime_guess::from_ext(extension).first());
        told.unwrap_or(mime::APPLICATION_OCTET_STREAM)
    })
}

/// A media type as RFC 9110 5.6.6 has it: with blanks around its semicolons, and empty parameters.
fn parsed(text: &str) -> Option<Mime> {
    let tidied = || {
        let mut quoted = false;
        let outside = |character: char| {
            quoted ^= character == '"';
            character == ';' && !quoted
        };
        let pieces = text.split(outside).map(str::trim).filter(|piece| !piece.is_empty());
        pieces.collect::<Vec<_>>().join(";").parse().ok()
    };
    text.parse().ok().or_else(tidied)
}

/// Types by which clients mean any bytes, or a form. `*/*` and the unknown ones would make a browser look at the bytes,
/// and run what looks like a page (WHATWG MIME sniffing 7.1).
fn says_nothing(essence: &str) -> bool {
    /// Of `application/`; others of them begin with `x-`.
    const APPLICATION: &[&str] = &[
        "binary",
        "data",
        "download",
        "downloadable",
        "file",
        "force-download",
        "force-save",
        "forcedownload",
        "form-data",
        "octet",
        "octet-binary",
        "octet-string",
        "octet_stream",
        "octetstream",
        "octet-stream",
        "save",
        "save-as",
        "www-form-urlencoded",
    ];
    let Some((kind, subtype)) = essence.split_once('/') else {
        return true;
    };
    let [bare_kind, bare] = [kind, subtype].map(|text| text.strip_prefix("x-").unwrap_or(text));
    essence.len() > LONGEST
        || subtype.is_empty()
        // What scripts make of a missing value or of an extension with its dot: `image/undefined`, `image/.png`. The
        // first character of a subtype is a letter or a digit (RFC 6838 4.2).
        || matches!(subtype, "undefined" | "null" | "none")
        || subtype.starts_with('.')
        || essence.contains('*')
        || matches!(bare_kind, "unknown" | "undefined" | "null" | "binary" | "octet" | "file" | "multipart")
        || bare.starts_with("unknown")
        || (kind == "application" && APPLICATION.contains(&bare))
}

/// The type and, of texts, the charset: browsers read some parameters in ways of their own.
fn stored_as(mime: &Mime) -> String {
    let essence = standard(mime.essence_str());
    let token =
        |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
    match mime.get_param(mime::CHARSET) {
        Some(charset) if token(charset.as_str()) && !charset.as_str().is_empty() => {
            format!("{essence}; charset={charset}")
        }
        _ => essence.to_owned(),
    }
}

/// Types that browsers run, or that can bring others which they do.
fn is_active(essence: &str) -> bool {
    const SCRIPTS: &[&str] =
        &["javascript", "ecmascript", "jscript", "livescript", "vbscript", "html"];
    const OTHERS: &[&str] =
        &["cache-manifest", "hta", "x-component", "x-shockwave-flash", "xml", "xsl"];
    let (kind, subtype) = essence.split_once('/').unwrap_or((essence, ""));
    matches!(kind, "multipart" | "message")
        || subtype.ends_with("+xml")
        || OTHERS.contains(&subtype)
        || SCRIPTS.iter().any(|name| subtype.contains(name))
}

/// A browser shows it as it is.
fn is_plain_text(mime: &Mime) -> bool {
    mime.type_() == mime::TEXT && !is_active(mime.essence_str())
}

/// Formats that share a container, whose first bytes need not say which of them it is.
const CONTAINERS: &[&[&str]] = &[
    &[
        "video/mp4",
        "video/quicktime",
        "video/x-m4v",
        "video/3gpp",
        "video/3gpp2",
        "audio/mp4",
        "audio/m4a",
        "audio/aac",
    ],
    &["video/x-matroska", "video/webm", "audio/webm", "audio/x-matroska"],
    &["audio/ogg", "video/ogg", "audio/opus"],
    &["image/heif", "image/avif"],
    &["video/x-ms-wmv", "video/x-ms-asf", "audio/x-ms-wma"],
    &[
        "application/x-ole-storage",
        "application/msword",
        "application/vnd.ms-excel",
        "application/vnd.ms-powerpoint",
    ],
    &["image/svg+xml", "text/xml"],
    &["application/xhtml+xml", "text/xml", "text/html"],
];

fn container(essence: &str) -> impl Iterator<Item = &'static &'static [&'static str]> {
    CONTAINERS.iter().filter(move |container| container.contains(&essence))
}

/// Office documents, books and the like are archives.
fn is_zip(essence: &str) -> bool {
    essence == "application/zip"
        || essence.ends_with("+zip")
        || essence.starts_with("application/vnd.openxmlformats-officedocument.")
        || essence.starts_with("application/vnd.oasis.opendocument.")
        || matches!(essence, "application/java-archive" | "application/vnd.android.package-archive")
}

/// Whether a file that begins like `found` can be `declared`.
fn agree(declared: &str, found: &str) -> bool {
    declared == found
        || container(declared).any(|container| container.contains(&found))
        || (is_zip(declared) && is_zip(found))
        || (declared.ends_with("+xml") && found == "text/xml")
}

/// Whether a file of this type can be told by its first bytes. XML may begin with any element, and bytes with any.
fn has_magic(essence: &str) -> bool {
    let free =
        essence == "text/xml" || (essence.ends_with("+xml") && container(essence).next().is_none());
    !free
        && essence != SAFE_TYPE
        && (infer::is_mime_supported(essence)
            || container(essence).next().is_some()
            || is_zip(essence))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(lists: &[&[&str]]) -> Types {
        let lists: Vec<Vec<String>> =
            lists.iter().map(|list| list.iter().map(|&text| text.to_owned()).collect()).collect();
        Types::new(&lists)
    }

    fn magic(media_type: Option<&'static str>) -> Magic {
        Magic { media_type, text: media_type.is_none_or(|found| found.starts_with("text/")) }
    }

    /// What becomes of a file.
    fn stored(
        types: &Types,
        declared: &str,
        name: &str,
        found: Option<&'static str>,
    ) -> Option<String> {
        let declared = Some(declared).filter(|text| !text.is_empty());
        let declared = types.admit(declared, [name, name]).ok()?;
        let seen = types.look(&declared).map(|_| magic(found));
        types.confirm(&declared, seen).ok()
    }

    #[test]
    fn where_nothing_is_listed_everything_is_taken_and_nothing_runs() {
        let any = types(&[]);
        for (declared, name, found, kept) in [
            ("image/png", "x.png", Some("image/png"), "image/png"),
            ("image/png", "x.png", None, "image/png"),
            ("", "x.png", Some("image/png"), "image/png"),
            ("", "x", Some("text/html"), SAFE_TYPE),
            ("text/plain; charset=gbk", "x.txt", None, "text/plain; charset=gbk"),
            ("text/plain", "x.md", Some("text/html"), "text/plain"),
            ("image/png; a=\"b,text/html\"", "x", None, "image/png"),
            ("application/postscript", "x.ps", None, "application/postscript"),
            // What would run.
            ("text/html", "x", None, SAFE_TYPE),
            ("TEXT/HTML; charset=utf-8", "x.png", Some("image/png"), SAFE_TYPE),
            ("", "x.html", None, SAFE_TYPE),
            ("image/png", "x.HtM", Some("image/png"), SAFE_TYPE),
            ("image/png", "x.png", Some("text/html"), SAFE_TYPE),
            ("image/png", "x.png", Some("image/svg+xml"), SAFE_TYPE),
            ("image/svg+xml", "x.svg", Some("image/svg+xml"), SAFE_TYPE),
            ("application/rss+xml", "x", None, SAFE_TYPE),
            ("text/javascript", "x.js", None, SAFE_TYPE),
            ("application/octet-stream", "x.mjs", None, SAFE_TYPE),
            ("*/*", "x", None, SAFE_TYPE),
            ("unknown/unknown", "x", None, SAFE_TYPE),
            ("image/*", "x", None, SAFE_TYPE),
            ("multipart/x-mixed-replace", "x", None, SAFE_TYPE),
            ("multipart/x-mixed-replace", "x.html", None, SAFE_TYPE),
            ("image/svg", "x", None, SAFE_TYPE),
            ("message/rfc822", "x.eml", None, SAFE_TYPE),
            ("application/x-shockwave-flash", "x", None, SAFE_TYPE),
        ] {
            assert_eq!(
                stored(&any, declared, name, found).as_deref(),
                Some(kept),
                "{declared} {name}"
            );
        }
    }

    #[test]
    fn the_object_s_own_extension_counts_too() {
        let (any, images) = (types(&[]), types(&[&["image/*"]]));
        for (names, kept, taken) in [
            (["x.PNG", "a/x.png"], "image/png", true),
            (["x.png", "a/x.jpg"], "image/png", true),
            (["x.png", "a/x"], "image/png", true),
            (["x.png", "a/x.html"], SAFE_TYPE, false),
            (["x.html", "a/x.png"], SAFE_TYPE, false),
            (["x", "a/x.html"], SAFE_TYPE, false),
        ] {
            let declared = any.admit(Some("image/png"), names).unwrap();
            assert_eq!(any.unseen(&declared), kept, "{names:?}");
            assert_eq!(images.admit(Some("image/png"), names).is_ok(), taken, "{names:?}");
        }
    }

    #[test]
    fn what_is_listed_must_be_it_in_every_respect() {
        let images = types(&[&["image/*"]]);
        for (declared, name, found, kept) in [
            ("image/png", "x.png", Some("image/png"), Some("image/png")),
            ("image/jpg", "x.jpeg", Some("image/jpeg"), Some("image/jpeg")),
            ("", "x.png", Some("image/png"), Some("image/png")),
            ("image/heic", "x.heic", Some("image/heif"), Some("image/heic")),
            ("image/png", "x", Some("image/gif"), Some("image/png")),
            ("application/pdf", "x.pdf", Some("application/pdf"), None),
            ("image/png", "x.pdf", Some("image/png"), None),
            ("image/png", "x.html", Some("image/png"), None),
            ("image/png", "x.png", Some("application/pdf"), None),
            ("image/png", "x.png", Some("text/html"), None),
            ("image/png", "x.png", None, None),
            ("image/svg+xml", "x.svg", Some("image/svg+xml"), None),
            ("", "x", Some("image/png"), None),
        ] {
            assert_eq!(
                stored(&images, declared, name, found).as_deref(),
                kept,
                "{declared} {name} {found:?}"
            );
        }
        let documents = types(&[&[
            "text/plain",
            "text/csv",
            "application/msword",
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        ]]);
        for (declared, name, found, taken) in [
            ("text/plain", "x.txt", None, true),
            ("text/csv", "x.csv", Some("image/bmp"), false),
            ("text/plain", "x.txt", Some("text/html"), false),
            ("application/msword", "x.doc", Some("application/x-ole-storage"), true),
            ("", "x.docx", Some("application/zip"), true),
            ("", "x.docx", Some("application/pdf"), false),
        ] {
            assert_eq!(
                stored(&documents, declared, name, found).is_some(),
                taken,
                "{declared} {name} {found:?}"
            );
        }
        let bitmap_by_chance = Magic { media_type: Some("image/bmp"), text: true };
        let text = documents.admit(Some("text/csv"), ["x.csv"; 2]).unwrap();
        assert!(documents.confirm(&text, Some(bitmap_by_chance)).is_ok());
    }

    #[test]
    fn what_runs_is_taken_by_name_only_and_a_ticket_cannot_name_it() {
        let svg = types(&[&["image/*", "image/svg+xml"]]);
        let kept = stored(&svg, "image/svg+xml", "x.svg", Some("image/svg+xml"));
        assert_eq!(kept.as_deref(), Some("image/svg+xml"));
        assert_eq!(stored(&svg, "image/svg+xml", "x.svg", None), None);
        assert_eq!(stored(&svg, "image/svg+xml", "x.svg", Some("text/html")), None);
        assert_eq!(stored(&svg, "image/svg+xml", "x.html", Some("image/svg+xml")), None);
        assert_eq!(stored(&types(&[&["*/*"]]), "text/html", "x.html", Some("text/html")), None);
        let html = types(&[&["text/html"]]);
        assert!(stored(&html, "text/html", "x.html", Some("text/html")).is_some());

        let mut claimed = types(&[]);
        claimed.narrow(&["text/html".to_owned()]);
        assert_eq!(stored(&claimed, "text/html", "x.html", Some("text/html")), None);
        let mut both = svg;
        both.narrow(&["image/*".to_owned()]);
        assert_eq!(stored(&both, "image/svg+xml", "x.svg", Some("image/svg+xml")), None);
    }

    #[test]
    fn every_list_counts() {
        let both = types(&[&["image/*", "application/pdf"], &[], &["image/png", "text/plain"]]);
        assert!(stored(&both, "image/png", "x.png", Some("image/png")).is_some());
        assert!(stored(&both, "image/gif", "x.gif", Some("image/gif")).is_none());
        assert!(stored(&both, "application/pdf", "x.pdf", Some("application/pdf")).is_none());
    }

    #[test]
    fn a_type_that_says_nothing_leaves_it_to_the_extension() {
        let any = types(&[]);
        let long = format!("application/{}", "a".repeat(LONGEST));
        for declared in [
            "",
            "application/octet-stream",
            "Application/Octet-Stream; charset=binary",
            "binary/octet-stream",
            "application/binary",
            "application/x-binary",
            "application/x-www-form-urlencoded; charset=UTF-8",
            "application/force-download",
            "application/x-force-download",
            "application/download",
            "application/x-download",
            "application/unknown",
            "application/x-unknown",
            "application/x-unknown-content-type",
            "unknown/unknown",
            "content/unknown",
            "x-unknown/x-unknown",
            "multipart/form-data; boundary=x",
            "MULTIPART/mixed",
            "*/*",
            "image/*",
            &long,
            // No types at all.
            "image",
            "image/",
            "/png",
            "undefined",
            "image/png; charset",
            "image/png, text/html",
            "image/png,text/html",
            "\"image/png\"",
            "image/png; a=\"b",
            "image png",
            ".png",
        ] {
            for (name, kept) in [("x.PDF", "application/pdf"), ("x", SAFE_TYPE)] {
                let stored = stored(&any, declared, name, None);
                assert_eq!(stored.as_deref(), Some(kept), "{declared} {name}");
            }
        }
        // The object's name tells where the file's does not.
        let declared = any.admit(Some("binary/octet-stream"), ["blob", "a/x.png"]).unwrap();
        assert_eq!(any.unseen(&declared), "image/png");
    }

    #[test]
    fn a_type_is_stored_by_its_standard_name() {
        let any = types(&[]);
        for (declared, kept) in [
            ("image/jpg", "image/jpeg"),
            ("IMAGE/PJPEG", "image/jpeg"),
            (" image/png ; ; charset=binary ;", "image/png; charset=binary"),
            ("text/plain; a=\";\" ;charset=\"utf-8\"", "text/plain; charset=utf-8"),
            ("image/x-png", "image/png"),
            ("application/x-zip-compressed", "application/zip"),
            ("audio/x-wav", "audio/wav"),
            ("video/x-m4v", "video/mp4"),
            ("text/x-csv; charset=gbk", "text/csv; charset=gbk"),
            ("image/heic", "image/heic"),
            ("application/vnd.ms-excel", "application/vnd.ms-excel"),
        ] {
            assert_eq!(stored(&any, declared, "x", None).as_deref(), Some(kept), "{declared}");
        }
    }

    #[test]
    fn a_listed_type_is_taken_under_each_of_its_names() {
        for (listed, declared, name, found) in [
            ("image/jpeg", "image/pjpeg", "x.jpg", "image/jpeg"),
            ("image/jpg", "image/jpeg", "x.jpg", "image/jpeg"),
            ("audio/wav", "audio/vnd.wave", "x.wav", "audio/x-wav"),
            ("audio/x-wav", "audio/wav", "x.wav", "audio/x-wav"),
            ("audio/mp4", "audio/x-m4a", "x.m4a", "audio/m4a"),
            ("video/mp4", "video/x-m4v", "x.m4v", "video/x-m4v"),
            ("audio/flac", "audio/x-flac", "x.flac", "audio/x-flac"),
            ("application/x-rar-compressed", "application/vnd.rar", "x.rar", "application/vnd.rar"),
            ("font/woff", "application/font-woff", "x.woff", "application/font-woff"),
            ("image/x-icon", "image/vnd.microsoft.icon", "x.ico", "image/vnd.microsoft.icon"),
        ] {
            let kept = stored(&types(&[&[listed]]), declared, name, Some(found));
            assert!(kept.is_some(), "{listed}: {declared}");
        }
    }
}
