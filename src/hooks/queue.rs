//! The events that this process delivers, in memory: bounded in entries and bytes, and ordered by when they are due.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::event::Message;

/// Events that are queued at once, and the bytes of them all.
pub const MAX_ENTRIES: usize = 10_000;
pub const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Bytes that an entry takes besides its body.
const OVERHEAD: usize = 512;
/// The pause before an attempt is random, up to a limit that doubles with each attempt (full jitter).
const MIN_PAUSE_LIMIT: Duration = Duration::from_millis(500);
const MAX_PAUSE_LIMIT: Duration = Duration::from_secs(5 * 60);

/// A queued event.
#[derive(Debug, Clone)]
pub struct Entry {
    pub message: Arc<Message>,
    /// Failed attempts of this process.
    pub attempts: u32,
    /// Its id in the stream; `None`: it is only in this process's memory.
    pub stream_id: Option<String>,
}

/// Events, due or being sent.
#[derive(Default)]
pub struct Queue {
    entries: Mutex<Entries>,
    /// An event was added, or became due earlier.
    pub changed: Notify,
}

#[derive(Default)]
struct Entries {
    next_number: u64,
    waiting: BTreeMap<(Instant, u64), Entry>,
    /// By their numbers: each stays here until its attempt is over, so that a shutdown can log it.
    sending: HashMap<u64, Entry>,
    bytes: usize,
}

/// An entry whose attempt is running; must be given back by [`Queue::retry`] or [`Queue::done`].
#[derive(Debug)]
pub struct Attempt {
    number: u64,
    pub entry: Entry,
}

impl Queue {
    /// Adds an event that is due at once. Gives it back if there is no room.
    pub fn add(&self, entry: Entry) -> Result<(), Entry> {
        let mut entries = self.lock();
        let bytes = entry.weight();
        if entries.count() >= MAX_ENTRIES || entries.bytes + bytes > MAX_BYTES {
            return Err(entry);
        }
        entries.bytes += bytes;
        entries.next_number += 1;
        let number = entries.next_number;
        entries.waiting.insert((Instant::now(), number), entry);
        drop(entries);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Adds an event that the caller sends itself, so that it is logged if the process ends meanwhile. There is always
    /// room: the number of uploads is limited.
    pub fn begin(&self, entry: Entry) -> Attempt {
        let mut entries = self.lock();
        entries.bytes += entry.weight();
        entries.next_number += 1;
        let number = entries.next_number;
        entries.sending.insert(number, entry.clone());
        Attempt { number, entry }
    }

    /// The number of events.
    pub fn len(&self) -> usize {
        self.lock().count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ids of the events that were taken from the stream.
    pub fn claimed(&self) -> Vec<String> {
        let entries = self.lock();
        let all = entries.waiting.values().chain(entries.sending.values());
        all.filter_map(|entry| entry.stream_id.clone()).collect()
    }

    /// The stream no longer has these events: they are only in this process's memory.
    pub fn release(&self, stream_ids: &HashSet<String>) {
        if stream_ids.is_empty() {
            return;
        }
        let mut entries = self.lock();
        let Entries { waiting, sending, .. } = &mut *entries;
        for entry in waiting.values_mut().chain(sending.values_mut()) {
            if entry.stream_id.as_ref().is_some_and(|id| stream_ids.contains(id)) {
                entry.stream_id = None;
            }
        }
    }

    /// Takes the event that is due first. Otherwise returns when the next one is due, if there is one. With `is_last`,
    /// every event is due that has not failed since.
    pub fn take_due(&self, is_last: bool) -> Result<Attempt, Option<Instant>> {
        let mut entries = self.lock();
        let Some((&(deadline, number), _)) = entries.waiting.first_key_value() else {
            return Err(None);
        };
        if deadline > Instant::now() && !is_last {
            return Err(Some(deadline));
        }
        let Some((_, entry)) = entries.waiting.pop_first() else {
            return Err(None);
        };
        entries.sending.insert(number, entry.clone());
        Ok(Attempt { number, entry })
    }

    /// The attempt failed: the event is due again after a pause, of at least `at_least`.
    pub fn retry(&self, attempt: Attempt, at_least: Option<Duration>) {
        let mut entries = self.lock();
        let Some(mut entry) = entries.sending.remove(&attempt.number) else { return };
        entry.attempts = entry.attempts.saturating_add(1);
        let pause = pause(entry.attempts).max(at_least.unwrap_or_default());
        entries.waiting.insert((Instant::now() + pause, attempt.number), entry);
    }

    /// The event needs no further attempt.
    pub fn done(&self, attempt: &Attempt) {
        let mut entries = self.lock();
        if let Some(entry) = entries.sending.remove(&attempt.number) {
            entries.bytes -= entry.weight();
        }
    }

    /// Removes all events.
    pub fn drain(&self) -> Vec<Entry> {
        let entries = std::mem::take(&mut *self.lock());
        let waiting = entries.waiting.into_values();
        waiting.chain(entries.sending.into_values()).collect()
    }

    /// A poisoned lock is used all the same: no code that holds it leaves its data inconsistent.
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn count(&self) -> usize {
        self.waiting.len() + self.sending.len()
    }
}

impl Entry {
    pub fn new(message: Arc<Message>) -> Self {
        Self { message, attempts: 0, stream_id: None }
    }

    fn weight(&self) -> usize {
        self.message.body.len() + OVERHEAD
    }
}

/// The pause after so many failed attempts.
pub fn pause(attempts: u32) -> Duration {
    let doubled = MIN_PAUSE_LIMIT.saturating_mul(1 << attempts.min(20));
    doubled.min(MAX_PAUSE_LIMIT).mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::event::EventType;

    fn entry(bytes: usize) -> Entry {
        Entry::new(Arc::new(Message {
            id: "msg_1".to_owned(),
            event: EventType::FileStored,
            body: vec![b'x'; bytes].into(),
            created: jiff::Timestamp::now(),
            trace: None,
        }))
    }

    #[tokio::test]
    async fn the_queue_is_bounded_in_entries_and_in_bytes() {
        for (bytes, most) in
            [(10, MAX_ENTRIES), (20_000, MAX_BYTES / (20_000 + OVERHEAD)), (MAX_BYTES, 0)]
        {
            let queue = Queue::default();
            let added = (0..MAX_ENTRIES + 10).filter(|_| queue.add(entry(bytes)).is_ok()).count();
            assert_eq!((added, queue.len()), (most, most));
            // What is being sent counts, too; what was sent does not.
            let Ok(first) = queue.take_due(false) else { continue };
            assert!(queue.add(entry(bytes)).is_err());
            queue.done(&first);
            assert!(queue.add(entry(bytes)).is_ok());
        }
    }

    #[tokio::test]
    async fn a_failed_event_is_due_again_later_and_nothing_is_lost() {
        let queue = Queue::default();
        assert!(queue.add(entry(1)).is_ok());
        let attempt = queue.take_due(false).expect("it is due");
        assert!(matches!(queue.take_due(false), Err(None)));
        queue.retry(attempt, Some(Duration::from_secs(100)));
        let Err(Some(deadline)) = queue.take_due(false) else { panic!("it is due at once") };
        assert!(deadline > Instant::now() + Duration::from_secs(90));
        let attempt = queue.take_due(true).expect("the last attempt");
        assert_eq!(attempt.entry.attempts, 1);
        assert_eq!(queue.drain().len(), 1);
    }

    #[tokio::test]
    async fn what_the_stream_has_lost_is_only_in_memory() {
        let queue = Queue::default();
        for id in ["1", "2", "3"] {
            assert!(queue.add(Entry { stream_id: Some(id.to_owned()), ..entry(1) }).is_ok());
        }
        let attempt = queue.take_due(false).expect("it is due");
        assert_eq!(attempt.entry.stream_id.as_deref(), Some("1"));
        queue.release(&["1", "2"].map(str::to_owned).into());
        queue.retry(attempt, None);
        assert_eq!((queue.claimed(), queue.len()), (vec!["3".to_owned()], 3));
    }

    #[test]
    fn pauses_grow_to_five_minutes_and_vary() {
        for attempts in [1, 5, 10, 40, u32::MAX] {
            let pauses: Vec<_> = (0..1000).map(|_| pause(attempts)).collect();
            let limit = (MIN_PAUSE_LIMIT * 2u32.pow(attempts.min(12))).min(MAX_PAUSE_LIMIT);
            assert!(pauses.iter().all(|pause| *pause <= limit));
            assert!(pauses.iter().any(|pause| *pause > limit / 2));
            assert!(pauses.iter().any(|pause| *pause < limit / 2));
        }
    }
}
