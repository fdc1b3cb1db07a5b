//! The layers that a setting may come from, and typed look-ups in them, which collect every fault instead of stopping
//! at the first. Knows no setting by name, except which of them are secret or renamed.
//!
//! The config crate reads each layer, but the layers are merged here, as flat keys. The crate's own merge lets a stray
//! `GATEWAY__SERVER=x` replace the whole section, and whether it does depends on the order of a hash map; here it is an
//! unknown key next to the section. The crate also reads keys as path expressions, which an operator does not expect in
//! a settings file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Environment, File, FileFormat, Map, Source, Value, ValueKind};

use super::fault::Fault;
use super::values;

const PREFIX: &str = "GATEWAY";

/// Renamed settings: the old name, which is still read, and the new one.
const RENAMED: &[(&str, &str)] = &[
    ("server.drain_timeout", "server.lingering_timeout"),
    ("upload.hold_limit", "upload.max_buffered_file"),
    ("cos.verify_crc64", "cos.verify"),
];

/// The value of a setting that was set under its old name.
fn converted(old_name: &str, value: ValueKind) -> ValueKind {
    match (old_name, value.to_string().as_str()) {
        ("cos.verify_crc64", "true") => ValueKind::String("reply".to_owned()),
        ("cos.verify_crc64", "false") => ValueKind::String("none".to_owned()),
        _ => value,
    }
}

/// The layer that a value is from; faults and warnings name it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum LayerSource {
    BuiltIn,
    Port,
    File(PathBuf),
    Environment,
}

// `Entry`, `Layers` and `Reader` have no Debug: they contain secrets in plain text.
struct Entry {
    value: ValueKind,
    source: LayerSource,
    /// The old name, where the setting was set under it.
    old_name: Option<&'static str>,
}

/// The merged layers; a later one overrides the earlier ones. Keys are dotted (`server.bind`).
#[derive(Default)]
pub(super) struct Layers {
    entries: BTreeMap<String, Entry>,
    faults: Vec<Fault>,
}

impl Layers {
    /// A file that is compiled into the binary.
    pub fn built_in(&mut self, toml: &str) {
        if let Err(problem) = self.toml(toml, &LayerSource::BuiltIn) {
            self.fault("built-in settings", problem);
        }
    }

    /// The port that a hosting platform assigns (`PORT`).
    pub fn port(&mut self, port: &str) {
        let bind = ValueKind::String(format!("0.0.0.0:{port}"));
        self.insert("server.bind".to_owned(), bind, &LayerSource::Port);
    }

    pub fn file(&mut self, path: &Path) {
        let read = std::fs::read_to_string(path).map_err(|e| format!("cannot be read: {e}"));
        let source = LayerSource::File(path.to_owned());
        if let Err(problem) = read.and_then(|text| self.toml(&text, &source)) {
            self.fault(&path.display().to_string(), problem);
        }
    }

    pub fn environment(&mut self, variables: HashMap<String, String>) {
        // Without `try_parsing`: a secret or a hash that has only digits must stay a string.
        let environment = Environment::with_prefix(PREFIX).separator("__").source(Some(variables));
        match environment.collect() {
            Ok(values) => self.flatten("", values, &LayerSource::Environment),
            Err(e) => self.fault("environment", e.to_string()),
        }
    }

    pub fn fault(&mut self, key: &str, problem: impl Into<String>) {
        self.faults.push(Fault::new(key, problem));
    }

    /// A warning for each setting that is set under its old name.
    pub fn renamed(&self) -> Vec<String> {
        let warnings = self.entries.iter().filter_map(|(key, entry)| {
            let old = entry.old_name?;
            let location = location(old, &entry.source);
            Some(format!(
                "{old}{location} is called {key} now; the next release will not read the old name"
            ))
        });
        warnings.collect()
    }

    fn toml(&mut self, text: &str, source: &LayerSource) -> Result<(), String> {
        let values = File::from_str(text, FileFormat::Toml)
            .collect()
            .map_err(|e| format!("is not valid TOML: {}", without_source_lines(&e.to_string())))?;
        self.flatten("", values, source);
        Ok(())
    }

    fn flatten(&mut self, section: &str, table: Map<String, Value>, source: &LayerSource) {
        for (name, value) in table {
            let key = if section.is_empty() { name } else { format!("{section}.{name}") };
            match value.kind {
                ValueKind::Table(inner) => self.flatten(&key, inner, source),
                leaf => self.insert(key, leaf, source),
            }
        }
    }

    fn insert(&mut self, key: String, value: ValueKind, source: &LayerSource) {
        let renamed = RENAMED.iter().find(|(old, _)| *old == key);
        let (key, value, old_name) = match renamed {
            Some((old, new)) => ((*new).to_owned(), converted(old, value), Some(*old)),
            None => (key, value, None),
        };
        let entry = Entry { value, source: source.clone(), old_name };
        let replaced = self.entries.insert(key.clone(), entry);
        if replaced.is_some_and(|before| before.source == *source && before.old_name != old_name) {
            let old = RENAMED.iter().find(|(_, new)| *new == key).map_or("", |(old, _)| old);
            self.fault(
                &key,
                format!("is set twice, under its old name `{old}` too; remove that one"),
            );
        }
    }
}

/// The parser's message without the line that it quotes: that line may contain a secret.
fn without_source_lines(message: &str) -> String {
    let number = |c: char| c == ' ' || c.is_ascii_digit();
    let quoted = |line: &&str| line.trim_start_matches(number).starts_with('|');
    message.lines().filter(|line| !quoted(line)).collect::<Vec<_>>().join(", ")
}

/// Typed look-ups. A look-up that fails records a fault and returns a placeholder, so that all settings are read; the
/// caller must check the faults of [`Reader::finish`] before it uses any value.
pub(super) struct Reader {
    entries: BTreeMap<String, Entry>,
    faults: Vec<Fault>,
    /// Every key that was looked up, set or not: the known settings.
    known: BTreeSet<String>,
}

impl From<Layers> for Reader {
    fn from(layers: Layers) -> Self {
        Self { entries: layers.entries, faults: layers.faults, known: BTreeSet::new() }
    }
}

impl Reader {
    /// A string, or `None` where it is absent or empty. A number is a fault: its leading zeros were lost when it was
    /// parsed.
    pub fn optional<T>(
        &mut self,
        key: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(key, true)?;
        self.checked(key, check(&text))
    }

    /// A string; absent or empty is a fault.
    pub fn required<T>(
        &mut self,
        key: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.optional(key, check);
        self.require(key, value)
    }

    /// A string, a number or a boolean as text; `None` where it is absent or empty.
    pub fn scalar<T>(
        &mut self,
        key: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(key, false)?;
        self.checked(key, check(&text))
    }

    pub fn optional_flag(&mut self, key: &str) -> Option<bool> {
        self.scalar(key, |text| text.parse().map_err(|_| "is neither true nor false".to_owned()))
    }

    pub fn flag(&mut self, key: &str) -> bool {
        let value = self.optional_flag(key);
        self.require(key, value).unwrap_or_default()
    }

    pub fn optional_number(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        self.scalar(key, |text| values::number(text, range))
    }

    pub fn number(&mut self, key: &str, range: RangeInclusive<u64>) -> u64 {
        let value = self.optional_number(key, range);
        self.require(key, value).unwrap_or_default()
    }

    /// In bytes.
    pub fn optional_size(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        self.scalar(key, |text| values::size(text, range))
    }

    /// In bytes.
    pub fn size(&mut self, key: &str, range: RangeInclusive<u64>) -> u64 {
        let value = self.optional_size(key, range);
        self.require(key, value).unwrap_or_default()
    }

    pub fn duration(&mut self, key: &str, least: Duration) -> Duration {
        let value = self.scalar(key, |text| values::duration(text, least));
        self.require(key, value).unwrap_or_default()
    }

    /// An array of strings or one string with commas; `None` where it is absent. Each bad item is a fault.
    pub fn optional_list<T>(
        &mut self,
        key: &str,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let items: Vec<String> = match self.raw(key)? {
            ValueKind::String(text) => text.split(',').map(str::to_owned).collect(),
            ValueKind::Array(values) => {
                let strings = values.into_iter().map(|value| match value.kind {
                    ValueKind::String(text) => Some(text),
                    _ => None,
                });
                let strings = strings.collect::<Option<Vec<_>>>();
                if strings.is_none() {
                    self.reject(key, None, "must contain strings only");
                }
                strings?
            }
            _ => {
                self.reject(key, None, "must be a list of strings, or one string with commas");
                return None;
            }
        };
        let mut list = Vec::new();
        for item in items.iter().map(|item| item.trim()).filter(|item| !item.is_empty()) {
            match check(item) {
                Ok(value) => list.push(value),
                Err(problem) => self.reject(key, Some(item), &problem),
            }
        }
        Some(list)
    }

    pub fn list<T>(&mut self, key: &str, check: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let value = self.optional_list(key, check);
        self.require(key, value).unwrap_or_default()
    }

    /// The names of the tables under a key. Anything else there is a fault, which is reported without its value: it may
    /// be a secret that belongs inside a table.
    pub fn tables(&mut self, under: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut scalars = Vec::new();
        for key in self.entries.keys() {
            let Some(rest) = key.strip_prefix(under).and_then(|rest| rest.strip_prefix('.')) else {
                continue;
            };
            match rest.split_once('.') {
                Some((name, _)) => drop(names.insert(name.to_owned())),
                None => scalars.push(key.clone()),
            }
        }
        if self.entries.contains_key(under) {
            scalars.push(under.to_owned());
        }
        for key in scalars {
            self.reject(&key, None, "must be a table");
            self.known.insert(key);
        }
        names
    }

    /// The names of the settings under a key; those of a table in it have a dot.
    pub fn names(&self, under: &str) -> BTreeSet<String> {
        let below = |key: &String| Some(key.strip_prefix(under)?.strip_prefix('.')?.to_owned());
        self.entries.keys().filter_map(below).collect()
    }

    /// Records a fault of a key, such as a conflict with another setting.
    pub fn fault(&mut self, key: &str, problem: impl Into<String>) {
        self.faults.push(Fault::new(key, problem));
    }

    /// Whether none of these keys has a fault so far. A rule between settings is checked only where this is true.
    pub fn is_valid(&self, keys: &[&str]) -> bool {
        !self.faults.iter().any(|fault| keys.contains(&fault.key.as_str()))
    }

    /// Every fault, sorted by key. A key that is set but was never looked up is one of them.
    pub fn finish(mut self) -> Vec<Fault> {
        let unknown = self.entries.iter().filter(|(key, _)| !self.known.contains(*key));
        let unknown: Vec<Fault> = unknown
            .map(|(key, entry)| {
                let location = location(key, &entry.source);
                let problem =
                    if self.known.iter().any(|known| known.starts_with(&format!("{key}."))) {
                        format!("is a section, not a setting{location}")
                    } else {
                        let hint =
                            self.nearest(key).map(|near| format!("; did you mean `{near}`?"));
                        format!("unknown setting{location}{}", hint.unwrap_or_default())
                    };
                Fault::new(key, problem)
            })
            .collect();
        self.faults.extend(unknown);
        self.faults.sort_by(|a, b| a.key.cmp(&b.key));
        self.faults
    }

    /// The known key that a misspelt one most likely stands for: a key that is similar as a whole, or the only key with
    /// the same name in another section.
    fn nearest(&self, unknown: &str) -> Option<&str> {
        // Found by trial: "wechat.env_id" matches "wechat.env", while "server.port" does not match "server.bind", which
        // is similar only in its section.
        const MIN_SIMILARITY: f64 = 0.7;
        let similarity = |known: &str| strsim::normalized_damerau_levenshtein(unknown, known);
        let candidates = self.known.iter().map(|known| (similarity(known), known));
        let best = candidates.max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((similarity, known)) = best
            && similarity >= MIN_SIMILARITY
        {
            return Some(known);
        }
        let last = |key: &str| key.rsplit('.').next().map(str::to_owned);
        let mut namesakes = self.known.iter().filter(|known| last(known) == last(unknown));
        let namesake = namesakes.next()?;
        namesakes.next().is_none().then_some(namesake)
    }

    fn raw(&mut self, key: &str) -> Option<ValueKind> {
        self.known.insert(key.to_owned());
        let value = self.entries.get(key)?.value.clone();
        (value != ValueKind::Nil).then_some(value)
    }

    /// A scalar as text, trimmed unless it is secret; `None` where it is absent, empty or a fault. Where `quoted` is
    /// set, only a string will do.
    fn text(&mut self, key: &str, quoted: bool) -> Option<String> {
        let text = match self.raw(key)? {
            ValueKind::String(text) if is_secret(key) => text,
            ValueKind::String(text) => text.trim().to_owned(),
            ValueKind::Boolean(_) | ValueKind::I64(_) | ValueKind::Float(_) if quoted => {
                self.reject(key, None, "must be a string: put it in quotes");
                return None;
            }
            ValueKind::Boolean(value) => value.to_string(),
            ValueKind::I64(value) => value.to_string(),
            ValueKind::Float(value) => value.to_string(),
            _ => {
                self.reject(key, None, "must be a single value");
                return None;
            }
        };
        (!text.is_empty()).then_some(text)
    }

    fn checked<T>(&mut self, key: &str, value: Result<T, String>) -> Option<T> {
        value
            .map_err(|problem| {
                let text = self.entries.get(key).and_then(|entry| match &entry.value {
                    ValueKind::Array(_) | ValueKind::Table(_) => None,
                    scalar => Some(scalar.to_string()),
                });
                self.reject(key, text.as_deref(), &problem);
            })
            .ok()
    }

    pub fn require<T>(&mut self, key: &str, value: Option<T>) -> Option<T> {
        if value.is_none() && self.is_valid(&[key]) {
            self.reject(key, None, "must be set");
        }
        value
    }

    /// Records a fault of the value itself: the value (unless it may be secret), the problem, and where it was set.
    fn reject(&mut self, key: &str, text: Option<&str>, problem: &str) {
        let entry = self.entries.get(key);
        let location = entry.map(|entry| location(entry.old_name.unwrap_or(key), &entry.source));
        let shown = match text {
            Some(_) if is_secret(key) => "the value ".to_owned(),
            // The user info of a URL may be a password.
            Some(text) if text.contains('@') => "the value ".to_owned(),
            Some(text) => format!("{text:?} "),
            None => String::new(),
        };
        self.fault(key, format!("{shown}{problem}{}", location.unwrap_or_default()));
    }
}

/// Whether the value of a key must never be printed. The hash of an API key is secret, because an operator may paste
/// the key itself there by mistake.
pub(super) fn is_secret(key: &str) -> bool {
    [".secret", ".secret_key", ".sha256", ".refresh_token", ".otlp_headers"]
        .iter()
        .any(|secret| key.ends_with(secret))
        || key.starts_with("auth.jwt.keys.")
        || [
            "redis.url",
            "auth.jwt.key",
            "links.signing_keys",
            "resumable.keys",
            "receipts.key",
            "cos.api.token",
        ]
        .contains(&key)
}

/// Where a value was set, as it is appended to a message.
fn location(key: &str, source: &LayerSource) -> String {
    match source {
        LayerSource::BuiltIn => String::new(),
        LayerSource::Port => " (from PORT)".to_owned(),
        LayerSource::File(path) => format!(" (in {})", path.display()),
        LayerSource::Environment => format!(" (in {})", variable(key)),
    }
}

/// The environment variable that sets a key.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}__{}", key.to_uppercase().replace('.', "__"))
}

/// Whether an environment variable is a setting, by the same rule as the config crate's.
pub(super) fn is_variable(name: &str) -> bool {
    name.to_uppercase().starts_with(&format!("{PREFIX}__"))
}
