//! The audit log: a line of JSON for each file that is stored or deleted, for each ticket and upload link that is minted,
//! and for each request that is refused for what its client may do. It does not depend on `telemetry.log`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write, stdout};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::cut;
use crate::settings::AuditOutput;

/// Where records go. Without `telemetry.audit` there are none.
pub struct Audit {
    output: Option<Output>,
    /// The last record could not be written. Only the first failure of several is logged.
    is_failing: AtomicBool,
}

enum Output {
    Stdout,
    File { path: PathBuf, file: Mutex<File> },
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    Stored,
    Deleted,
    /// A client got a ticket, or an upload link, with which others may store or read files.
    Minted,
    Refused,
}

/// One line. `None` and empty texts are left out.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Record<'a> {
    pub event: Event,
    #[serde(serialize_with = "bounded")]
    pub request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty", serialize_with = "bounded")]
    pub client: &'a str,
    /// A ticket's `sub`, a mini program user's openid, or the user that the auth server names.
    #[serde(skip_serializing_if = "str::is_empty", serialize_with = "bounded")]
    pub sub: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<IpAddr>,
    /// What was minted: `ticket` or `upload_link`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minted: Option<&'static str>,
    /// Whom a ticket is minted for.
    #[serde(skip_serializing_if = "str::is_empty", serialize_with = "bounded")]
    pub minted_for: &'a str,
    /// The file's path.
    #[serde(skip_serializing_if = "str::is_empty", serialize_with = "bounded")]
    pub object: &'a str,
    /// `cloud://…`
    #[serde(skip_serializing_if = "str::is_empty", serialize_with = "bounded")]
    pub file_id: &'a str,
    /// In bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<&'static str>,
    /// The problem's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    target: &'static str,
    #[serde(flatten)]
    record: &'a Record<'a>,
}

impl<'a> Record<'a> {
    pub fn new(event: Event, request_id: &'a str) -> Self {
        Self {
            event,
            request_id,
            trace_id: None,
            client: "",
            sub: "",
            remote: None,
            minted: None,
            minted_for: "",
            object: "",
            file_id: "",
            size: None,
            method: None,
            route: None,
            code: None,
        }
    }
}

impl Audit {
    /// Opens the file, to which lines are appended. A new one can be read by its owner and group.
    pub fn open(setting: &AuditOutput) -> io::Result<Self> {
        let output = match setting {
            AuditOutput::Off => None,
            AuditOutput::Stdout => Some(Output::Stdout),
            AuditOutput::File(path) => {
                let file = Mutex::new(append_to(path)?);
                Some(Output::File { path: path.clone(), file })
            }
        };
        Ok(Self { output, is_failing: AtomicBool::new(false) })
    }

    pub fn is_on(&self) -> bool {
        self.output.is_some()
    }

    /// Opens the file again, after it was renamed to be archived. On failure the old one stays in use.
    pub fn reopen(&self) -> io::Result<()> {
        if let Some(Output::File { path, file }) = &self.output {
            let opened = append_to(path)?;
            *file.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = opened;
        }
        Ok(())
    }

    /// Writes one line at once, so that no record is lost if the process is killed. Several processes may append to the
    /// same file.
    pub fn write(&self, record: &Record<'_>) {
        let Some(output) = &self.output else { return };
        let line = line(record);
        let written = match output {
            Output::Stdout => stdout().write_all(&line),
            Output::File { file, .. } => {
                let mut file = file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                file.write_all(&line)
            }
        };
        let was_failing = self.is_failing.swap(written.is_err(), Ordering::Relaxed);
        if let (Err(error), false) = (written, was_failing) {
            tracing::error!(%error, "the audit log cannot be written: telemetry.audit");
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn line(record: &Record<'_>) -> Vec<u8> {
    let time = format!("{:.6}", Timestamp::now());
    // Texts and numbers: it cannot fail.
    let mut line = serde_json::to_vec(&Line { time, target: "audit", record }).unwrap_or_default();
    line.push(b'\n');
    line
}

/// A text of bounded length, without the control characters that JSON would leave as they are.
fn bounded<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let text = cut(text);
    let is_control = |c: char| matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}');
    match text.contains(is_control) {
        true => serializer.serialize_str(&text.replace(is_control, "\u{fffd}")),
        false => serializer.serialize_str(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_a_bound_and_no_control_characters() {
        let text = "\0\u{1b}\n\u{9b}\u{2028}é".repeat(1000);
        let mut record = Record::new(Event::Stored, &text);
        (record.client, record.sub, record.minted_for) = (&text, &text, &text);
        (record.object, record.file_id) = (&text, &text);
        let line = String::from_utf8(line(&record)).unwrap();
        assert!(line.len() < 6 * 6 * crate::telemetry::MAX_TEXT + 1024, "{}", line.len());
        let (body, end) = line.split_at(line.len() - 1);
        assert_eq!(end, "\n");
        assert!(!body.contains(|c: char| c.is_control() || c == '\u{2028}'), "{body}");
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }

    #[test]
    fn a_file_is_appended_to_and_opened_again_under_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let (path, archived) = (folder.path().join("audit.log"), folder.path().join("audit.1"));
        std::fs::write(&path, "before\n").unwrap();
        let audit = Audit::open(&AuditOutput::File(path.clone())).unwrap();
        audit.write(&Record::new(Event::Deleted, "first"));
        std::fs::rename(&path, &archived).unwrap();
        audit.write(&Record::new(Event::Deleted, "second"));
        audit.reopen().unwrap();
        audit.write(&Record::new(Event::Deleted, "third"));
        let ids = |path| std::fs::read_to_string(path).unwrap().lines().count();
        assert_eq!((ids(&archived), ids(&path)), (3, 1));
        assert!(Audit::open(&AuditOutput::File(folder.path().to_owned())).is_err());
    }
}
