//! Which media types a client may upload, and the type that each file is stored as.
//!
//! Where lists of types are set, the declared type, the type of the file's extension and the type that its first bytes
//! show must be on every list. Types that browsers execute (HTML, SVG, XML, scripts) must be listed by name. Where no
//! list is set, files of such types are accepted and stored as [`SAFE_TYPE`], which browsers do not execute.

mod active;
mod content;
mod declared;
mod names;

use std::fmt;

use mime_guess::{Mime, mime};

use self::active::{SAFE_TYPE, is_active, is_plain_text};
use self::content::{fits, has_signature};
use self::declared::{effective, extension, stored_form};
use self::names::canonical;
use crate::inbound::sniff::{Magic, SniffDepth};

/// Lists of media types; a file's type must be on each of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Types {
    /// From the settings; only these can allow an active type.
    configured: Vec<Vec<Pattern>>,
    /// From a ticket.
    claimed: Option<Vec<Pattern>>,
}

/// Why a file's type is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TypeError {
    #[error("files of type {0} are not allowed")]
    Declared(String),
    #[error("the extension of `{name}` is that of type {found}, which is not allowed")]
    Extension { name: String, found: String },
    #[error("the file is declared as {declared}, but its first bytes are those of {found}")]
    Content { declared: String, found: String },
    #[error("the file is declared as {0}, but its first bytes are not those of that type")]
    Unconfirmed(String),
}

/// The type that a file is declared as, before its first byte is read.
#[derive(Debug, Clone)]
pub struct DeclaredType {
    mime: Mime,
    /// The declared type or a file name stands for a type that browsers execute, and that type is not listed by name.
    served_as_binary: bool,
}

impl Types {
    /// Empty lists are ignored.
    pub fn new<'a>(lists: impl IntoIterator<Item = &'a Vec<String>>) -> Self {
        let lists = lists.into_iter().filter(|list| !list.is_empty());
        Self { configured: lists.map(|list| patterns(list)).collect(), claimed: None }
    }

    /// Adds a ticket's list.
    pub fn restrict(&mut self, list: &[String]) {
        self.claimed = Some(patterns(list));
    }

    /// The type of a file whose `Content-Type` is `declared`. `names` are the file's own name and its object's path.
    pub fn admit(
        &self,
        declared: Option<&str>,
        names: [&str; 2],
    ) -> Result<DeclaredType, TypeError> {
        let mime = effective(declared, names);
        let essence = canonical(mime.essence_str());
        if !self.allow(essence) {
            return Err(TypeError::Declared(mime.essence_str().to_owned()));
        }
        let mut served_as_binary = is_active(essence) && !self.allow_by_name(essence);
        let [own, object] = names.map(extension);
        // The object nearly always has the extension of the file.
        let same =
            matches!((own, object), (Some(own), Some(object)) if own.eq_ignore_ascii_case(object));
        for (name, extension) in [(names[0], own), (names[1], object.filter(|_| !same))] {
            // An extension may stand for several types: `.ts` for a video and for a script.
            let guesses = extension.map(mime_guess::from_ext);
            let guesses = guesses.iter().flat_map(|guess| guess.iter_raw()).map(canonical);
            let (mut first, mut allowed) = (None, false);
            for found in guesses {
                first.get_or_insert(found);
                allowed |= self.allow(found);
                served_as_binary |= is_active(found) && !self.allow_by_name(found);
            }
            if let Some(found) = first.filter(|_| !allowed) {
                let name = name.rsplit('/').next().unwrap_or_default().to_owned();
                return Err(TypeError::Extension { name, found: found.to_owned() });
            }
        }
        Ok(DeclaredType { mime, served_as_binary })
    }

    /// The type under which a file is stored if the client posts it to COS, so that its content is not checked.
    pub fn without_content(&self, declared: &DeclaredType) -> String {
        if declared.served_as_binary { SAFE_TYPE.to_owned() } else { stored_form(&declared.mime) }
    }

    /// Which check of the first bytes the declared type needs; `None` where they cannot change the result.
    pub fn look(&self, declared: &DeclaredType) -> Option<SniffDepth> {
        let decided = declared.served_as_binary
            || is_plain_text(&declared.mime)
            || declared.mime == mime::APPLICATION_OCTET_STREAM;
        match self.is_unrestricted() {
            true if decided => None,
            true => Some(SniffDepth::Markup),
            false => Some(SniffDepth::Full),
        }
    }

    /// The type that a file is stored as, given what its first bytes show (`None`: they were not examined).
    pub fn confirm(
        &self,
        declared: &DeclaredType,
        magic: Option<Magic>,
    ) -> Result<String, TypeError> {
        let found = magic.and_then(|magic| magic.media_type).map(canonical);
        if self.is_unrestricted() {
            let served_as_binary = declared.served_as_binary || found.is_some_and(is_active);
            return Ok(if served_as_binary {
                SAFE_TYPE.to_owned()
            } else {
                stored_form(&declared.mime)
            });
        }
        let essence = canonical(declared.mime.essence_str());
        // A text may begin with a short signature by chance: "BM" is that of a bitmap.
        let by_chance = |found: &str| {
            !is_active(found) && !has_signature(essence) && magic.is_some_and(|magic| magic.text)
        };
        match found.filter(|found| !by_chance(found)) {
            Some(found) if fits(essence, found) => {}
            // A JPEG named .png is harmless. Markup is never accepted as another type.
            Some(found) if !is_active(found) && !is_active(essence) && self.allow(found) => {}
            Some(found) => {
                let (declared, found) = (essence.to_owned(), found.to_owned());
                return Err(TypeError::Content { declared, found });
            }
            None if has_signature(essence) => {
                return Err(TypeError::Unconfirmed(essence.to_owned()));
            }
            None => {}
        }
        Ok(stored_form(&declared.mime))
    }

    /// Whether every type of `list` is on each of these lists. A wildcard is, if the whole kind is.
    pub fn cover(&self, list: &[String]) -> bool {
        let is_covered = |asked: &Pattern, by: &Pattern| match (asked, by) {
            (Pattern::Name(name), by) => by.covers(name),
            (_, Pattern::Any) => true,
            (asked, by) => asked == by,
        };
        let asked = patterns(list);
        self.configured
            .iter()
            .chain(&self.claimed)
            .all(|known| asked.iter().all(|asked| known.iter().any(|by| is_covered(asked, by))))
    }

    /// The lists, each entry as in the settings; canonical names stand for their synonyms.
    pub fn lists(&self) -> Vec<Vec<String>> {
        let list = |list: &Vec<Pattern>| list.iter().map(ToString::to_string).collect();
        self.configured.iter().chain(&self.claimed).map(list).collect()
    }

    fn is_unrestricted(&self) -> bool {
        self.configured.is_empty() && self.claimed.is_none()
    }

    fn allow(&self, essence: &str) -> bool {
        let on = |list: &Vec<Pattern>| list.iter().any(|pattern| pattern.covers(essence));
        self.configured.iter().chain(&self.claimed).all(on)
            && (self.is_unrestricted() || !is_active(essence) || self.allow_by_name(essence))
    }

    /// Needs a list in the settings: a ticket's list alone must not allow more than the settings do without it.
    fn allow_by_name(&self, essence: &str) -> bool {
        let on = |list: &Vec<Pattern>| list.iter().any(|pattern| pattern.names(essence));
        !self.configured.is_empty() && self.configured.iter().chain(&self.claimed).all(on)
    }
}

/// An entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    /// `*/*`
    Any,
    /// All subtypes of a type, with its slash: `image/`.
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

impl fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => formatter.write_str("*/*"),
            Self::Kind(kind) => write!(formatter, "{kind}*"),
            Self::Name(name) => formatter.write_str(name),
        }
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

#[cfg(test)]
mod tests;
