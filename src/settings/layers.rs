//! Owns the layers a setting may come from and the typed look-ups in them, which collect every
//! fault instead of stopping at the first. Knows no setting by name, only which of them are secret.
//!
//! The config crate reads each layer; the layers are laid over each other here, as flat keys. Its
//! own merge lets a stray `GATEWAY__SERVER=x` replace the whole section, in the order of a hash map;
//! here it is an unknown key beside the section. It also reads keys as path expressions, which
//! nobody who writes a settings file expects.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Environment, File, FileFormat, Map, Source, Value, ValueKind};

use super::{Fault, values};

const PREFIX: &str = "GATEWAY";

/// Settings that were renamed: the old name, which is still read, and the new one.
const RENAMED: &[(&str, &str)] = &[
    ("server.drain_timeout", "server.lingering_timeout"),
    ("upload.hold_limit", "upload.max_buffered_file"),
];

/// Which layer a value is from, so that a fault can say where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
enum LayerSource {
    BuiltIn,
    Port,
    File(PathBuf),
    Environment,
}

// No Debug for these three: they hold secrets as typed.
struct Given {
    value: ValueKind,
    origin: LayerSource,
    /// The name it was given under, where that is an old one.
    old_name: Option<&'static str>,
}

/// The layers, the later over the earlier; keys are dotted (`server.bind`).
#[derive(Default)]
pub(super) struct Layers {
    given: BTreeMap<String, Given>,
    faults: Vec<Fault>,
}

impl Layers {
    /// A file that is compiled in.
    pub fn built_in(&mut self, toml: &str) {
        if let Err(problem) = self.toml(toml, &LayerSource::BuiltIn) {
            self.fault("built-in settings", problem);
        }
    }

    /// The port a hosting platform hands out.
    pub fn port(&mut self, port: &str) {
        let bind = ValueKind::String(format!("0.0.0.0:{port}"));
        self.lay("server.bind".to_owned(), bind, &LayerSource::Port);
    }

    pub fn file(&mut self, path: &Path) {
        let read = std::fs::read_to_string(path).map_err(|e| format!("cannot be read: {e}"));
        let origin = LayerSource::File(path.to_owned());
        if let Err(problem) = read.and_then(|text| self.toml(&text, &origin)) {
            self.fault(&path.display().to_string(), problem);
        }
    }

    pub fn environment(&mut self, variables: HashMap<String, String>) {
        // No try_parsing: a secret or a hash made of digits only has to stay a string.
        let source = Environment::with_prefix(PREFIX).separator("__").source(Some(variables));
        match source.collect() {
            Ok(values) => self.flatten("", values, &LayerSource::Environment),
            Err(e) => self.fault("environment", e.to_string()),
        }
    }

    pub fn fault(&mut self, key: &str, problem: impl Into<String>) {
        self.faults.push(Fault::new(key, problem));
    }

    /// A warning for each setting that was given under its old name.
    pub fn renamed(&self) -> Vec<String> {
        let given = self.given.iter().filter_map(|(key, given)| {
            let old = given.old_name?;
            let place = place(old, &given.origin);
            Some(format!(
                "{old}{place} is called {key} now; the old name will not be read for long"
            ))
        });
        given.collect()
    }

    fn toml(&mut self, text: &str, origin: &LayerSource) -> Result<(), String> {
        let values = File::from_str(text, FileFormat::Toml)
            .collect()
            .map_err(|e| format!("is not valid TOML: {}", without_source_lines(&e.to_string())))?;
        self.flatten("", values, origin);
        Ok(())
    }

    fn flatten(&mut self, above: &str, table: Map<String, Value>, origin: &LayerSource) {
        for (name, value) in table {
            let key = if above.is_empty() { name } else { format!("{above}.{name}") };
            match value.kind {
                ValueKind::Table(inner) => self.flatten(&key, inner, origin),
                leaf => self.lay(key, leaf, origin),
            }
        }
    }

    fn lay(&mut self, key: String, value: ValueKind, origin: &LayerSource) {
        let renamed = RENAMED.iter().find(|(old, _)| *old == key);
        let (key, old_name) =
            renamed.map_or((key, None), |(old, new)| ((*new).to_owned(), Some(*old)));
        let given = Given { value, origin: origin.clone(), old_name };
        let replaced = self.given.insert(key.clone(), given);
        if replaced.is_some_and(|before| before.origin == *origin && before.old_name != old_name) {
            let old = RENAMED.iter().find(|(_, new)| *new == key).map_or("", |(old, _)| old);
            self.fault(
                &key,
                format!("is set twice, under its old name `{old}` too; remove that one"),
            );
        }
    }
}

/// The parser quotes the line it stumbled over, and that line may hold a secret.
fn without_source_lines(message: &str) -> String {
    let number = |c: char| c == ' ' || c.is_ascii_digit();
    let quoted = |line: &&str| line.trim_start_matches(number).starts_with('|');
    message.lines().filter(|line| !quoted(line)).collect::<Vec<_>>().join(", ")
}

/// Typed look-ups. On a fault a look-up notes it and gives a stand-in, so that the reading goes on;
/// whoever reads must ask [`Reader::finish`] for the faults before using a value.
pub(super) struct Reader {
    given: BTreeMap<String, Given>,
    faults: Vec<Fault>,
    /// Every key that was asked for, set or not.
    known: BTreeSet<String>,
}

impl From<Layers> for Reader {
    fn from(layers: Layers) -> Self {
        Self { given: layers.given, faults: layers.faults, known: BTreeSet::new() }
    }
}

impl Reader {
    /// A string, or `None` where it is absent or empty. Numbers are a fault: by the time they
    /// arrive here their leading zeros are gone.
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
        self.present(key, value)
    }

    pub fn optional_flag(&mut self, key: &str) -> Option<bool> {
        let text = self.text(key, false)?;
        self.checked(key, text.parse().map_err(|_| "is neither true nor false".to_owned()))
    }

    pub fn flag(&mut self, key: &str) -> bool {
        let value = self.optional_flag(key);
        self.present(key, value).unwrap_or_default()
    }

    pub fn optional_number(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let text = self.text(key, false)?;
        self.checked(key, values::number(&text, range))
    }

    pub fn number(&mut self, key: &str, range: RangeInclusive<u64>) -> u64 {
        let value = self.optional_number(key, range);
        self.present(key, value).unwrap_or_default()
    }

    /// In bytes.
    pub fn optional_size(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let text = self.text(key, false)?;
        self.checked(key, values::size(&text, range))
    }

    /// In bytes.
    pub fn size(&mut self, key: &str, range: RangeInclusive<u64>) -> u64 {
        let value = self.optional_size(key, range);
        self.present(key, value).unwrap_or_default()
    }

    pub fn duration(&mut self, key: &str, least: Duration) -> Duration {
        let value = self
            .text(key, false)
            .and_then(|text| self.checked(key, values::duration(&text, least)));
        self.present(key, value).unwrap_or_default()
    }

    /// An array of strings or one string with commas; `None` where it is absent. Each bad item is a
    /// fault of its own.
    pub fn optional_list<T>(
        &mut self,
        key: &str,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let items: Vec<String> = match self.take(key)? {
            ValueKind::String(text) => text.split(',').map(str::to_owned).collect(),
            ValueKind::Array(values) => {
                let strings = values.into_iter().map(|value| match value.kind {
                    ValueKind::String(text) => Some(text),
                    _ => None,
                });
                let strings = strings.collect::<Option<Vec<_>>>();
                if strings.is_none() {
                    self.refuse(key, None, "must hold strings only");
                }
                strings?
            }
            _ => {
                self.refuse(key, None, "must be a list of strings, or one string with commas");
                return None;
            }
        };
        let mut list = Vec::new();
        for item in items.iter().map(|item| item.trim()).filter(|item| !item.is_empty()) {
            match check(item) {
                Ok(value) => list.push(value),
                Err(problem) => self.refuse(key, Some(item), &problem),
            }
        }
        Some(list)
    }

    pub fn list<T>(&mut self, key: &str, check: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let value = self.optional_list(key, check);
        self.present(key, value).unwrap_or_default()
    }

    /// The names of the tables under a key. What is not a table there is a fault, told without its
    /// value: it may well be a key that was meant for a table's inside.
    pub fn tables(&mut self, under: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut scalars = Vec::new();
        for key in self.given.keys() {
            let Some(rest) = key.strip_prefix(under).and_then(|rest| rest.strip_prefix('.')) else {
                continue;
            };
            match rest.split_once('.') {
                Some((name, _)) => drop(names.insert(name.to_owned())),
                None => scalars.push(key.clone()),
            }
        }
        if self.given.contains_key(under) {
            scalars.push(under.to_owned());
        }
        for key in scalars {
            self.refuse(&key, None, "must be a table");
            self.known.insert(key);
        }
        names
    }

    /// Notes a fault of a key's value in view of others.
    pub fn fault(&mut self, key: &str, problem: impl Into<String>) {
        self.faults.push(Fault::new(key, problem));
    }

    /// Whether none of these keys has a fault yet: rules across keys hold only between values that
    /// are themselves as meant.
    pub fn sound(&self, keys: &[&str]) -> bool {
        !self.faults.iter().any(|fault| keys.contains(&fault.key.as_str()))
    }

    /// Every fault, by key; what was given and never asked for is one.
    pub fn finish(mut self) -> Vec<Fault> {
        let unknown = self.given.iter().filter(|(key, _)| !self.known.contains(*key));
        let unknown: Vec<Fault> = unknown
            .map(|(key, given)| {
                let place = place(key, &given.origin);
                let problem =
                    if self.known.iter().any(|known| known.starts_with(&format!("{key}."))) {
                        format!("is a section, not a setting{place}")
                    } else {
                        let hint =
                            self.nearest(key).map(|near| format!("; did you mean `{near}`?"));
                        format!("unknown setting{place}{}", hint.unwrap_or_default())
                    };
                Fault::new(key, problem)
            })
            .collect();
        self.faults.extend(unknown);
        self.faults.sort_by(|a, b| a.key.cmp(&b.key));
        self.faults
    }

    /// The known key that a misspelt one most likely stands for: close to it as a whole, or the same
    /// name in another section.
    fn nearest(&self, unknown: &str) -> Option<&str> {
        // Found by trial: "wechat.env_id" finds "wechat.env", while "server.port" does not find
        // "server.bind", which is like it by its section only.
        const CLOSE: f64 = 0.7;
        let close = |known: &str| strsim::normalized_damerau_levenshtein(unknown, known);
        let likely = self.known.iter().map(|known| (close(known), known));
        let best = likely.max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((likeness, known)) = best
            && likeness >= CLOSE
        {
            return Some(known);
        }
        let last = |key: &str| key.rsplit('.').next().map(str::to_owned);
        let mut namesakes = self.known.iter().filter(|known| last(known) == last(unknown));
        let namesake = namesakes.next()?;
        namesakes.next().is_none().then_some(namesake)
    }

    fn take(&mut self, key: &str) -> Option<ValueKind> {
        self.known.insert(key.to_owned());
        let value = self.given.get(key)?.value.clone();
        (value != ValueKind::Nil).then_some(value)
    }

    /// A scalar as text, trimmed except where it is secret; `None` where it is absent or empty, and
    /// on a fault.
    fn text(&mut self, key: &str, quoted: bool) -> Option<String> {
        let text = match self.take(key)? {
            ValueKind::String(text) if is_secret(key) => text,
            ValueKind::String(text) => text.trim().to_owned(),
            ValueKind::Boolean(_) | ValueKind::I64(_) | ValueKind::Float(_) if quoted => {
                self.refuse(key, None, "must be a string: put it in quotes");
                return None;
            }
            ValueKind::Boolean(value) => value.to_string(),
            ValueKind::I64(value) => value.to_string(),
            ValueKind::Float(value) => value.to_string(),
            _ => {
                self.refuse(key, None, "must be a single value");
                return None;
            }
        };
        (!text.is_empty()).then_some(text)
    }

    fn checked<T>(&mut self, key: &str, value: Result<T, String>) -> Option<T> {
        value
            .map_err(|problem| {
                let given = self.given.get(key).and_then(|given| match &given.value {
                    ValueKind::Array(_) | ValueKind::Table(_) => None,
                    scalar => Some(scalar.to_string()),
                });
                self.refuse(key, given.as_deref(), &problem);
            })
            .ok()
    }

    fn present<T>(&mut self, key: &str, value: Option<T>) -> Option<T> {
        if value.is_none() && self.sound(&[key]) {
            self.refuse(key, None, "must be set");
        }
        value
    }

    /// Notes a fault of the value itself: what was given, what is wrong with it, where it was given.
    fn refuse(&mut self, key: &str, given: Option<&str>, problem: &str) {
        let place =
            self.given.get(key).map(|given| place(given.old_name.unwrap_or(key), &given.origin));
        let shown = match given {
            Some(_) if is_secret(key) => "what was given ".to_owned(),
            // The user info of a URL may be a password.
            Some(text) if text.contains('@') => "what was given ".to_owned(),
            Some(text) => format!("{text:?} "),
            None => String::new(),
        };
        self.fault(key, format!("{shown}{problem}{}", place.unwrap_or_default()));
    }
}

/// A value of these keys is never printed. A key's hash is one of them, since the key itself is
/// easily pasted in its place.
pub(super) fn is_secret(key: &str) -> bool {
    [".secret", ".sha256", ".refresh_token"].iter().any(|secret| key.ends_with(secret))
        || ["redis.url", "auth.jwt.key", "links.signing_keys"].contains(&key)
}

fn place(key: &str, origin: &LayerSource) -> String {
    match origin {
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

/// Whether a variable belongs to the settings, in the way the config crate looks at it.
pub(super) fn is_variable(name: &str) -> bool {
    name.to_uppercase().starts_with(&format!("{PREFIX}__"))
}
