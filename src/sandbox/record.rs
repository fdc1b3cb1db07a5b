//! What has happened in the sandbox, for the control calls: counts of calls, uploads, refused requests.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use serde::Serialize;
use tokio::sync::Notify;

const REFUSED_MAX: usize = 100;
const FINISHED_MAX: usize = 1000;

#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UploadState {
    InFlight,
    /// A fault has stopped reading it. It counts as idle, because the sandbox may not notice when the client closes it.
    Stalled,
    Stored,
    /// Nothing was stored: the upload was refused or cut short.
    Failed,
}

#[derive(Clone, Serialize)]
pub struct Upload {
    pub key: String,
    /// Bytes of the file's content.
    pub received: u64,
    /// The request's Content-Length, which includes the form around the file.
    pub content_length: Option<u64>,
    pub state: UploadState,
}

#[derive(Clone, Serialize)]
pub struct Refused {
    pub side: &'static str,
    pub key: Option<String>,
    pub code: String,
    pub message: String,
}

#[derive(Default)]
struct Entries {
    counts: BTreeMap<&'static str, u64>,
    in_flight: BTreeMap<u64, Upload>,
    finished: VecDeque<Upload>,
    refused: VecDeque<Refused>,
    last_id: u64,
}

#[derive(Default)]
pub struct Record {
    entries: RefCell<Entries>,
    /// Notified whenever an upload makes progress.
    pub changed: Notify,
}

impl Record {
    pub fn count(&self, what: &'static str) {
        *self.entries.borrow_mut().counts.entry(what).or_default() += 1;
    }

    pub fn record_refusal(&self, side: &'static str, key: Option<&str>, code: &str, message: &str) {
        tracing::debug!(side, code, message, "the sandbox refused a request");
        let mut entries = self.entries.borrow_mut();
        entries.refused.push_back(Refused {
            side,
            key: key.map(str::to_owned),
            code: code.to_owned(),
            message: message.to_owned(),
        });
        if entries.refused.len() > REFUSED_MAX {
            entries.refused.pop_front();
        }
    }

    pub fn begin(self: &Rc<Record>, key: &str, content_length: Option<u64>) -> InFlight {
        let mut entries = self.entries.borrow_mut();
        entries.last_id += 1;
        let id = entries.last_id;
        let upload = Upload {
            key: key.to_owned(),
            received: 0,
            content_length,
            state: UploadState::InFlight,
        };
        entries.in_flight.insert(id, upload);
        self.changed.notify_waiters();
        InFlight { record: self.clone(), id }
    }

    pub fn idle(&self) -> bool {
        let entries = self.entries.borrow();
        entries.in_flight.values().all(|upload| upload.state == UploadState::Stalled)
    }

    /// The upload of this key of which most bytes were received; of equal ones the newest.
    pub fn most_received(&self, key: &str, prefix: bool) -> Option<Upload> {
        let entries = self.entries.borrow();
        let all = entries.finished.iter().chain(entries.in_flight.values());
        let fits =
            all.filter(|upload| upload.key == key || (prefix && upload.key.starts_with(key)));
        fits.max_by_key(|upload| upload.received).cloned()
    }

    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.entries.borrow().counts.clone()
    }

    pub fn uploads(&self) -> Vec<Upload> {
        self.entries.borrow().in_flight.values().cloned().collect()
    }

    pub fn refused(&self) -> Vec<Refused> {
        self.entries.borrow().refused.iter().cloned().collect()
    }

    pub fn reset(&self) {
        let mut entries = self.entries.borrow_mut();
        entries.counts.clear();
        entries.finished.clear();
        entries.refused.clear();
    }
}

/// An upload in progress. When it is dropped, it counts as failed unless [`Self::stored`] was called.
pub struct InFlight {
    record: Rc<Record>,
    id: u64,
}

impl InFlight {
    pub fn received(&self, bytes: u64) {
        if let Some(upload) = self.record.entries.borrow_mut().in_flight.get_mut(&self.id) {
            upload.received += bytes;
        }
        self.record.changed.notify_waiters();
    }

    pub fn stalled(&self) {
        self.set(UploadState::Stalled);
        self.record.changed.notify_waiters();
    }

    pub fn stored(&self) {
        self.set(UploadState::Stored);
    }

    fn set(&self, state: UploadState) {
        if let Some(upload) = self.record.entries.borrow_mut().in_flight.get_mut(&self.id) {
            upload.state = state;
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut entries = self.record.entries.borrow_mut();
        if let Some(mut upload) = entries.in_flight.remove(&self.id) {
            if upload.state != UploadState::Stored {
                upload.state = UploadState::Failed;
            }
            entries.finished.push_back(upload);
        }
        if entries.finished.len() > FINISHED_MAX {
            entries.finished.pop_front();
        }
        self.record.changed.notify_waiters();
    }
}
