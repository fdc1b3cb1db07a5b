//! The type that a file is declared as: parsed leniently, replaced by the type of the file's extension where it is
//! meaningless, and written as it is stored.

use std::path::Path;

use mime_guess::{Mime, mime};

use super::names::standard;

/// In bytes: a type and a subtype have at most 127 characters each (RFC 6838 4.2).
pub const MAX_LENGTH: usize = 255;

/// The extension of a file name, without its dot, as [`mime_guess::from_path`] finds it.
pub fn extension(name: &str) -> Option<&str> {
    Path::new(name).extension()?.to_str()
}

/// The declared type. Where it is missing, invalid or meaningless: the type of the first known extension in `names`.
pub fn effective(declared: Option<&str>, names: [&str; 2]) -> Mime {
    let declared = declared.and_then(parse);
    declared.filter(|mime| !is_meaningless(mime.essence_str())).unwrap_or_else(|| {
        let mut extensions = names.into_iter().filter_map(extension);
        let guessed = extensions.find_map(|extension| mime_guess::from_ext(extension).first());
        guessed.unwrap_or(mime::APPLICATION_OCTET_STREAM)
    })
}

/// Parses a media type. RFC 9110 5.6.6 allows blanks around its semicolons and empty parameters; [`Mime`] does not.
fn parse(text: &str) -> Option<Mime> {
    let normalized = || {
        let mut quoted = false;
        let unquoted_semicolon = |character: char| {
            quoted ^= character == '"';
            character == ';' && !quoted
        };
        let parts = text.split(unquoted_semicolon).map(str::trim).filter(|part| !part.is_empty());
        parts.collect::<Vec<_>>().join(";").parse().ok()
    };
    text.parse().ok().or_else(normalized)
}

/// Whether clients use this type for any bytes, or for a form. `*/*` and unknown types would make a browser sniff the
/// content and execute what looks like a page (WHATWG MIME sniffing 7.1).
fn is_meaningless(essence: &str) -> bool {
    /// Subtypes of `application/`; each also with the prefix `x-`.
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
    essence.len() > MAX_LENGTH
        || subtype.is_empty()
        // Scripts make these from a missing value or an extension with its dot: `image/undefined`, `image/.png`. The
        // first character of a subtype is a letter or a digit (RFC 6838 4.2).
        || matches!(subtype, "undefined" | "null" | "none")
        || subtype.starts_with('.')
        || essence.contains('*')
        || matches!(bare_kind, "unknown" | "undefined" | "null" | "binary" | "octet" | "file" | "multipart")
        || bare.starts_with("unknown")
        || (kind == "application" && APPLICATION.contains(&bare))
}

/// The type as it is stored: its standard name, and its charset if that is valid. Other parameters are dropped, since
/// browsers interpret some of them in their own way.
pub fn stored_form(mime: &Mime) -> String {
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
