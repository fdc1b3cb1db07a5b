//! The events that this process delivers, in memory: ordered by when they are due, and bounded in entries and bytes, those
//! that are also in the stream by themselves. Where there is no room for another event, those that have failed give up
//! their places, the oldest first: a back end that refuses some events still gets all others.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::event::Message;

/// Events that are only here, and the bytes of them all.
pub const MAX_ENTRIES: usize = 10_000;
pub const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Events that are also in the stream; their bytes have the same limit.
pub const MAX_CLAIMED: usize = 1000;
/// Bytes that an entry takes besides its body.
const OVERHEAD: usize = 512;
/// The pause before an attempt is random, up to a limit that doubles with each attempt (full jitter).
const MIN_PAUSE_LIMIT: Duration = Duration::from_millis(500);
const MAX_PAUSE_LIMIT: Duration = Duration::from_secs(5 * 60);

/// A queued event.
#[derive(Debug, Clone)]
pub struct Entry {
    pub message: Arc<Message>,
    /// Failed attempts of this process; of an event that was taken over, about as many as others have had at its age.
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
    /// The events that are only here, and those that are also in the stream.
    own: Places,
    claimed: Places,
}

/// What the events of one kind occupy.
#[derive(Default)]
struct Places {
    count: usize,
    bytes: usize,
    /// The waiting ones of which an attempt has failed, by their numbers: when each is due.
    failed: BTreeMap<u64, Instant>,
}

/// How many of the events that were taken from the stream there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claimed {
    pub all: usize,
    /// Those that give up their places for others.
    pub failed: usize,
}

/// An entry whose attempt is running; must be given back by [`Queue::retry`] or [`Queue::done`].
#[derive(Debug)]
pub struct Attempt {
    number: u64,
    pub entry: Entry,
}

impl Queue {
    /// Adds an event that is due at once; returns those that have given up their places for it. Gives it back if there is
    /// no room all the same.
    pub fn add(&self, entry: Entry) -> Result<Vec<Entry>, Entry> {
        let mut entries = self.lock();
        let mut removed = Vec::new();
        while !entries.places(&entry).has_room(&entry) {
            let Some(oldest) = entries.take_failed(&entry) else { return Err(entry) };
            removed.push(oldest);
        }
        let number = entries.count(&entry);
        entries.waiting.insert((Instant::now(), number), entry);
        drop(entries);
        self.changed.notify_waiters();
        Ok(removed)
    }

    /// Adds an event that the caller sends itself, so that it is logged if the process ends meanwhile. There is always
    /// room: the number of uploads is limited.
    pub fn begin(&self, entry: Entry) -> Attempt {
        let mut entries = self.lock();
        let number = entries.count(&entry);
        entries.sending.insert(number, entry.clone());
        Attempt { number, entry }
    }

    /// The number of events.
    pub fn len(&self) -> usize {
        let entries = self.lock();
        entries.own.count + entries.claimed.count
    }

    /// The number of events that are only here.
    pub fn own(&self) -> usize {
        self.lock().own.count
    }

    pub fn count_claimed(&self) -> Claimed {
        let claimed = &self.lock().claimed;
        Claimed { all: claimed.count, failed: claimed.failed.len() }
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
        let Entries { waiting, sending, own, claimed, .. } = &mut *entries;
        let waiting = waiting.iter_mut().map(|((_, number), entry)| (number, entry));
        for (number, entry) in waiting.chain(sending.iter_mut()) {
            if entry.stream_id.as_ref().is_some_and(|id| stream_ids.contains(id)) {
                entry.stream_id = None;
                claimed.remove(entry);
                own.add(entry);
                own.failed.extend(claimed.failed.remove_entry(number));
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
        entries.places(&entry).failed.remove(&number);
        entries.sending.insert(number, entry.clone());
        Ok(Attempt { number, entry })
    }

    /// The attempt failed: the event is due again after a pause, of at least `at_least`.
    pub fn retry(&self, attempt: Attempt, at_least: Option<Duration>) {
        let mut entries = self.lock();
        let Some(mut entry) = entries.sending.remove(&attempt.number) else { return };
        entry.attempts = entry.attempts.saturating_add(1);
        let deadline = Instant::now() + pause(entry.attempts).max(at_least.unwrap_or_default());
        entries.places(&entry).failed.insert(attempt.number, deadline);
        entries.waiting.insert((deadline, attempt.number), entry);
    }

    /// The event needs no further attempt.
    pub fn done(&self, attempt: &Attempt) {
        let mut entries = self.lock();
        if let Some(entry) = entries.sending.remove(&attempt.number) {
            entries.places(&entry).remove(&entry);
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
    /// Those of the entry's kind.
    fn places(&mut self, entry: &Entry) -> &mut Places {
        if entry.stream_id.is_some() { &mut self.claimed } else { &mut self.own }
    }

    /// Counts a new event; returns its number.
    fn count(&mut self, entry: &Entry) -> u64 {
        self.places(entry).add(entry);
        self.next_number += 1;
        self.next_number
    }

    /// Removes the oldest failed event that waits in a place like that of `entry`.
    fn take_failed(&mut self, entry: &Entry) -> Option<Entry> {
        let (number, deadline) = self.places(entry).failed.pop_first()?;
        let oldest = self.waiting.remove(&(deadline, number))?;
        self.places(entry).remove(&oldest);
        Some(oldest)
    }
}

impl Places {
    fn has_room(&self, entry: &Entry) -> bool {
        let most = if entry.stream_id.is_some() { MAX_CLAIMED } else { MAX_ENTRIES };
        self.count < most && self.bytes + entry.weight() <= MAX_BYTES
    }

    fn add(&mut self, entry: &Entry) {
        self.count += 1;
        self.bytes += entry.weight();
    }

    fn remove(&mut self, entry: &Entry) {
        self.count -= 1;
        self.bytes -= entry.weight();
    }
}

impl Entry {
    pub fn new(message: Arc<Message>) -> Self {
        Self { message, attempts: 0, stream_id: None }
    }

    /// An event of the stream that another gateway had, or this one, and let go. It is due at once, and then as seldom as
    /// others of its age: it may have failed often before.
    pub fn taken_over(self) -> Self {
        let pauses = self.message.age().as_secs_f64() / MIN_PAUSE_LIMIT.as_secs_f64();
        // The sum of the limits of all pauses doubles with each.
        Self { attempts: pauses.max(1.0).log2() as u32, ..self }
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
        assert_eq!(queue.own(), 1);
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
        assert_eq!((queue.claimed(), queue.len(), queue.own()), (vec!["3".to_owned()], 3, 2));
        assert_eq!(queue.count_claimed(), Claimed { all: 1, failed: 0 });
    }

    /// Also one that the stream has lost since.
    #[tokio::test]
    async fn failed_events_give_up_their_places_the_oldest_first() {
        let named = |n: usize, is_claimed: bool| {
            let id = format!("{n}");
            let message = Message { id: id.clone(), ..Message::clone(&entry(1).message) };
            let stream_id = is_claimed.then_some(id);
            Entry { stream_id, ..Entry::new(Arc::new(message)) }
        };
        for (is_claimed, most) in [(true, MAX_CLAIMED), (false, MAX_ENTRIES)] {
            let queue = Queue::default();
            for n in 0..most {
                assert!(queue.add(named(n, is_claimed)).is_ok_and(|removed| removed.is_empty()));
            }
            assert!(queue.add(named(most, is_claimed)).is_err(), "none has failed");
            assert!(queue.add(named(most, !is_claimed)).is_ok(), "the others have places");
            let attempts: Vec<_> = (0..3).map(|_| queue.take_due(false).expect("one")).collect();
            assert!(queue.add(named(most, is_claimed)).is_err(), "they are being sent");
            for attempt in attempts.into_iter().rev() {
                queue.retry(attempt, Some(Duration::from_secs(100)));
            }
            queue.release(&["0".to_owned()].into());
            let released = usize::from(is_claimed);
            assert!(
                queue
                    .add(named(most, is_claimed))
                    .is_ok_and(|removed| removed.len() == 1 - released)
            );
            for oldest in 1..3 {
                let removed = queue.add(named(most, is_claimed)).expect("room");
                let ids: Vec<_> = removed.iter().map(|entry| entry.message.id.as_str()).collect();
                assert_eq!(ids, [oldest.to_string()]);
            }
            assert!(queue.add(named(most, is_claimed)).is_err(), "no other has failed");
            assert_eq!(queue.len(), most + 1 + released);
        }
    }

    #[tokio::test]
    async fn an_event_that_was_taken_over_is_tried_as_seldom_as_others_of_its_age() {
        for (age, attempts) in [(0, 0), (10, 4), (3600, 12), (24 * 3600, 17)] {
            let created = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(age);
            let message = Message { created, ..Message::clone(&entry(1).message) };
            assert_eq!(Entry::new(Arc::new(message)).taken_over().attempts, attempts, "{age}");
        }
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
