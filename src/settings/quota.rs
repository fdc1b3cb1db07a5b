//! The settings of quotas: how much clients may store, a day and in all.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::layers::Reader;
use super::names::QuotaPer;

/// 512 TiB: numbers in `RateLimit` headers have at most 15 digits (RFC 9651, 3.3.1).
const MAX_BYTES: u64 = 1 << 49;
const MAX_FILES: u64 = 1_000_000_000;

/// A quota. At least one of its four limits is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    pub name: String,
    pub per: QuotaPer,
    pub bytes_per_day: Option<u64>,
    pub files_per_day: Option<u64>,
    /// Of all files that were ever stored, as is `files`.
    pub bytes: Option<u64>,
    pub files: Option<u64>,
}

impl Quota {
    /// Whether it limits all files that were ever stored.
    pub fn has_total(&self) -> bool {
        self.bytes.is_some() || self.files.is_some()
    }

    pub(super) fn read_all(reader: &mut Reader) -> BTreeMap<String, Arc<Self>> {
        let names = reader.tables("quota");
        names.into_iter().map(|name| (name.clone(), Arc::new(Self::read(reader, name)))).collect()
    }

    fn read(reader: &mut Reader, name: String) -> Self {
        let under = format!("quota.{name}");
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
        if name.is_empty() || !name.bytes().all(allowed) {
            reader.fault(
                &under,
                "is not a name for a quota: lower-case letters, digits, `-` and `_`",
            );
        }
        let key = |limit: &str| format!("{under}.{limit}");
        let quota = Self {
            per: reader.optional(&key("per"), str::parse).unwrap_or(QuotaPer::Sub),
            bytes_per_day: reader.optional_size(&key("bytes_per_day"), 1..=MAX_BYTES),
            files_per_day: reader.optional_number(&key("files_per_day"), 1..=MAX_FILES),
            bytes: reader.optional_size(&key("bytes"), 1..=MAX_BYTES),
            files: reader.optional_number(&key("files"), 1..=MAX_FILES),
            name,
        };
        let limits = ["bytes_per_day", "files_per_day", "bytes", "files"].map(key);
        let has_limit =
            quota.has_total() || quota.bytes_per_day.is_some() || quota.files_per_day.is_some();
        if !has_limit && reader.is_valid(&limits.each_ref().map(String::as_str)) {
            reader.fault(&under, "has no limit: set bytes_per_day, files_per_day, bytes or files");
        }
        quota
    }
}
