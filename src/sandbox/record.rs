//! What the sandbox has seen, for the control calls: counts, uploads on their way, refusals. It decides nothing.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use serde::Serialize;
use tokio::sync::Notify;

const REFUSED_MAX: usize = 100;
const FINISHED_MAX: usize = 1000;

#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    InFlight,
    /// A fault has stopped reading it. It counts as idle: the sender may have gone without our seeing it.
    Stalled,
    Stored,
    /// Ended without an object: refused, or cut off.
    Failed,
}

#[derive(Clone, Serialize)]
pub struct Upload {
    pub key: String,
    /// Bytes of the file's content.
    pub received: u64,
    /// The request's Content-Length: content and form together.
    pub content_length: Option<u64>,
    pub state: Stage,
}

#[derive(Clone, Serialize)]
pub struct Refused {
    pub side: &'static str,
    pub key: Option<String>,
    pub code: String,
    pub message: String,
}

#[derive(Default)]
struct Seen {
    counts: BTreeMap<&'static str, u64>,
    in_flight: BTreeMap<u64, Upload>,
    finished: VecDeque<Upload>,
    refused: VecDeque<Refused>,
    last_id: u64,
}

#[derive(Default)]
pub struct Record {
    seen: RefCell<Seen>,
    /// Rings whenever an upload moves.
    pub moved: Notify,
}

impl Record {
    pub fn count(&self, what: &'static str) {
        *self.seen.borrow_mut().counts.entry(what).or_default() += 1;
    }

    pub fn refuse(&self, side: &'static str, key: Option<&str>, code: &str, message: &str) {
        tracing::debug!(side, code, message, "the sandbox refused a request");
        let mut seen = self.seen.borrow_mut();
        seen.refused.push_back(Refused {
            side,
            key: key.map(str::to_owned),
            code: code.to_owned(),
            message: message.to_owned(),
        });
        if seen.refused.len() > REFUSED_MAX {
            seen.refused.pop_front();
        }
    }

    pub fn begin(self: &Rc<Record>, key: &str, content_length: Option<u64>) -> InFlight {
        let mut seen = self.seen.borrow_mut();
        seen.last_id += 1;
        let id = seen.last_id;
        let upload =
            Upload { key: key.to_owned(), received: 0, content_length, state: Stage::InFlight };
        seen.in_flight.insert(id, upload);
        self.moved.notify_waiters();
        InFlight { record: self.clone(), id }
    }

    pub fn idle(&self) -> bool {
        let seen = self.seen.borrow();
        seen.in_flight.values().all(|upload| upload.state == Stage::Stalled)
    }

    /// The upload of this key that has come furthest, the newest of equals.
    pub fn furthest(&self, key: &str, prefix: bool) -> Option<Upload> {
        let seen = self.seen.borrow();
        let all = seen.finished.iter().chain(seen.in_flight.values());
        let fits =
            all.filter(|upload| upload.key == key || (prefix && upload.key.starts_with(key)));
        fits.max_by_key(|upload| upload.received).cloned()
    }

    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.seen.borrow().counts.clone()
    }

    pub fn uploads(&self) -> Vec<Upload> {
        self.seen.borrow().in_flight.values().cloned().collect()
    }

    pub fn refused(&self) -> Vec<Refused> {
        self.seen.borrow().refused.iter().cloned().collect()
    }

    pub fn reset(&self) {
        let mut seen = self.seen.borrow_mut();
        seen.counts.clear();
        seen.finished.clear();
        seen.refused.clear();
    }
}

/// An upload on its way; it has failed unless it was said to be stored.
pub struct InFlight {
    record: Rc<Record>,
    id: u64,
}

impl InFlight {
    pub fn received(&self, bytes: u64) {
        if let Some(upload) = self.record.seen.borrow_mut().in_flight.get_mut(&self.id) {
            upload.received += bytes;
        }
        self.record.moved.notify_waiters();
    }

    pub fn stalled(&self) {
        self.set(Stage::Stalled);
        self.record.moved.notify_waiters();
    }

    pub fn stored(&self) {
        self.set(Stage::Stored);
    }

    fn set(&self, state: Stage) {
        if let Some(upload) = self.record.seen.borrow_mut().in_flight.get_mut(&self.id) {
            upload.state = state;
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut seen = self.record.seen.borrow_mut();
        if let Some(mut upload) = seen.in_flight.remove(&self.id) {
            if upload.state != Stage::Stored {
                upload.state = Stage::Failed;
            }
            seen.finished.push_back(upload);
        }
        if seen.finished.len() > FINISHED_MAX {
            seen.finished.pop_front();
        }
        self.record.moved.notify_waiters();
    }
}
