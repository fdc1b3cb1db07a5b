//! What a client tells of a file besides its name and path: the other fields of its form, or the other metadata of its
//! resumable upload. The back end is told of it, by events and receipts.

use std::collections::BTreeMap;

use crate::http::problem::{Code, Problem};
use crate::http::state::AppState;
use crate::settings::HookField;

const MAX_ENTRIES: usize = 32;
/// In bytes.
const MAX_NAME: usize = 128;
/// Of all names and values together.
const MAX_BYTES: usize = 8 * 1024;

/// Values by their names.
pub type Metadata = BTreeMap<String, String>;

/// What is known of a file besides its bytes.
pub struct FileAbout {
    /// The file's name at the client; may be empty.
    pub name: String,
    /// The type that it is stored as.
    pub content_type: String,
    pub metadata: Metadata,
}

/// As [`of`], from the fields of a form.
pub fn of_form(shared: &AppState, fields: &[(String, String)]) -> Result<Metadata, Problem> {
    of(shared, fields.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}

/// The metadata of a file, where an event or a receipt has it; otherwise nothing, without a check. Of a name that is
/// repeated, the last value counts.
pub fn of<'a>(
    shared: &AppState,
    pairs: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Metadata, Problem> {
    let hooks = &shared.settings.hooks;
    let is_sent = hooks.stored_url.is_some() && hooks.include.contains(&HookField::Metadata);
    let mut metadata = Metadata::new();
    if !is_sent && shared.receipts.is_none() {
        return Ok(metadata);
    }
    let (mut entries, mut bytes) = (0, 0);
    for (name, value) in pairs {
        entries += 1;
        bytes += name.len() + value.len();
        if entries > MAX_ENTRIES || name.len() > MAX_NAME || bytes > MAX_BYTES {
            let detail = format!(
                "the fields besides the file are too many or too long to be passed on: at most {MAX_ENTRIES}, each with \
                 a name of at most {MAX_NAME} bytes, and {MAX_BYTES} bytes together"
            );
            return Err(Problem::new(Code::FieldsTooLarge, detail));
        }
        metadata.insert(name.to_owned(), value.to_owned());
    }
    Ok(metadata)
}
