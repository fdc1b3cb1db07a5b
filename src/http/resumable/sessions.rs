//! The requests that send bytes of an upload, one at a time in this process: a later one ends the earlier and waits
//! until its bytes are stored, so that none of them are sent twice.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

type Running = HashMap<[u8; 16], Session>;

/// Shared by all workers. There are as many entries as requests, of which each occupies an upload slot.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<Running>);

#[derive(Debug, Clone, Default)]
struct Session {
    /// Asks the request to end.
    superseded: CancellationToken,
    /// The request has ended.
    ended: CancellationToken,
    /// Where in the file the request's next byte belongs; 0 until its first byte is taken.
    offset: Arc<AtomicU64>,
}

/// A request that sends bytes. When it is dropped, the next one begins.
#[derive(Debug)]
pub struct SessionGuard {
    sessions: Arc<Sessions>,
    id: [u8; 16],
    session: Session,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the request that sends bytes of this upload, and waits until it has ended.
    pub async fn end(&self, id: [u8; 16]) {
        let running = self.lock().get(&id).cloned();
        if let Some(session) = running {
            session.superseded.cancel();
            session.ended.cancelled().await;
        }
    }

    /// The offset that the running request has come to, if that is beyond `offset`; it is asked to end, and is not waited
    /// for.
    pub fn end_beyond(&self, id: [u8; 16], offset: u64) -> Option<u64> {
        let running = self.lock();
        let session = running.get(&id)?;
        let reached = session.offset.load(Ordering::Relaxed);
        (reached > offset).then(|| {
            session.superseded.cancel();
            reached
        })
    }

    /// Begins to send bytes of this upload, after the request before has ended.
    pub async fn begin(self: &Arc<Self>, id: [u8; 16]) -> SessionGuard {
        let session = Session::default();
        loop {
            self.end(id).await;
            let mut running = self.lock();
            // Another request may have begun in between.
            if let Entry::Vacant(entry) = running.entry(id) {
                entry.insert(session.clone());
                return SessionGuard { sessions: self.clone(), id, session };
            }
        }
    }
}

impl SessionGuard {
    /// Cancelled when a later request continues the upload.
    pub fn superseded(&self) -> CancellationToken {
        self.session.superseded.clone()
    }

    /// The request's next byte belongs at `offset`.
    pub fn set_offset(&self, offset: u64) {
        self.session.offset.store(offset, Ordering::Relaxed);
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.sessions.lock().remove(&self.id);
        self.session.ended.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_later_request_waits_for_the_end_of_the_earlier() {
        let sessions = Arc::new(Sessions::default());
        let first = sessions.begin([1; 16]).await;
        let _other = sessions.begin([2; 16]).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let later: Vec<_> = (0..3)
            .map(|number| {
                let (sessions, order) = (sessions.clone(), order.clone());
                tokio::spawn(async move {
                    let guard = sessions.begin([1; 16]).await;
                    order.lock().unwrap().push(number);
                    guard.superseded().cancelled().await;
                })
            })
            .collect();
        first.superseded().cancelled().await;
        assert!(order.lock().unwrap().is_empty(), "the first has not ended");
        drop(first);
        // Each of the three is superseded by the next, the last by this.
        let ended = async {
            while order.lock().unwrap().len() < 3 {
                tokio::task::yield_now().await;
            }
            sessions.end([1; 16]).await;
        };
        ended.await;
        for task in later {
            task.await.unwrap();
        }
        assert_eq!(sessions.lock().len(), 1);
    }
}
