//! What Redis was not told, or perhaps was: a command without a response may have been carried out. Each amount keeps the
//! id it was sent with, and Redis counts each id once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::amount::Amount;
use super::counter::ReservationId;
use crate::settings::Quota;

/// Clients.
const MAX_CLIENTS: usize = 10_000;
/// Reservations of one client. What further ones have stored is added up.
const MAX_IDS: usize = 32;

/// By the counter's name.
#[derive(Default)]
pub(super) struct Unsent(Mutex<HashMap<Arc<str>, Entry>>);

/// Of one client.
struct Entry {
    quota: Arc<Quota>,
    /// May have been sent.
    by_id: Vec<(ReservationId, Amount)>,
    /// Of reservations beyond [`MAX_IDS`].
    rest: Amount,
}

impl Unsent {
    /// A reservation that has ended; Redis has not confirmed it.
    pub fn add(&self, quota: &Arc<Quota>, subject: &Arc<str>, id: ReservationId, stored: Amount) {
        let mut clients = self.lock();
        if clients.len() >= MAX_CLIENTS && !clients.contains_key(subject) {
            let (bytes, files) = (stored.bytes, stored.files);
            if stored != Amount::NONE {
                tracing::error!(%subject, bytes, files, "what was stored is not counted in Redis");
            }
            return;
        }
        let entry = clients.entry(subject.clone()).or_insert_with(|| Entry {
            quota: quota.clone(),
            by_id: Vec::new(),
            rest: Amount::NONE,
        });
        if entry.by_id.len() < MAX_IDS {
            entry.by_id.push((id, stored));
        } else {
            entry.rest = entry.rest.plus(stored);
        }
    }

    /// One amount of a client, which stays here until [`Self::remove`].
    pub fn first(&self, subject: &str) -> Option<(Arc<Quota>, ReservationId, Amount)> {
        let mut clients = self.lock();
        let entry = clients.get_mut(subject)?;
        if entry.by_id.is_empty() {
            entry.by_id.push((rand::random(), std::mem::take(&mut entry.rest)));
        }
        let (id, stored) = *entry.by_id.first()?;
        Some((entry.quota.clone(), id, stored))
    }

    /// Redis has counted it.
    pub fn remove(&self, subject: &str, id: &ReservationId) {
        let mut clients = self.lock();
        if let Some(entry) = clients.get_mut(subject) {
            entry.by_id.retain(|(other, _)| other != id);
            if entry.by_id.is_empty() && entry.rest == Amount::NONE {
                clients.remove(subject);
            }
        }
    }

    pub fn subjects(&self) -> Vec<Arc<str>> {
        self.lock().keys().cloned().collect()
    }

    /// A poisoned lock is still used: no panic leaves the map inconsistent.
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::QuotaPer;

    #[test]
    fn amounts_keep_their_ids_and_what_is_beyond_the_bound_is_added_up() {
        let quota = Arc::new(Quota {
            name: "q".to_owned(),
            per: QuotaPer::Sub,
            bytes_per_day: None,
            files_per_day: None,
            bytes: None,
            files: None,
        });
        let unsent = Unsent::default();
        let subject: Arc<str> = "q:user:ann".into();
        for n in 0..MAX_IDS as u8 + 2 {
            unsent.add(&quota, &subject, [n; 16], Amount { bytes: 1 << n.min(63), files: 1 });
        }
        for n in 0..MAX_IDS as u8 {
            let (_, id, stored) = unsent.first(&subject).unwrap();
            assert_eq!((id, stored.bytes), ([n; 16], 1 << n));
            // One that fails is tried again as it was.
            assert_eq!(unsent.first(&subject).unwrap().1, id);
            unsent.remove(&subject, &id);
        }
        let (_, id, stored) = unsent.first(&subject).unwrap();
        assert_eq!(stored, Amount { bytes: 3 << MAX_IDS, files: 2 });
        assert_eq!(unsent.first(&subject).unwrap().1, id);
        unsent.remove(&subject, &id);
        assert!(unsent.first(&subject).is_none() && unsent.subjects().is_empty());
        for n in 0..=MAX_CLIENTS {
            unsent.add(&quota, &format!("q:user:{n}").into(), [0; 16], Amount::NONE);
        }
        assert_eq!(unsent.subjects().len(), MAX_CLIENTS);
    }
}
