//! What one upload has reserved of its client's quota, from its admission to its end.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use futures::StreamExt;

use super::amount::{Amount, Refusal, Usage, Wanted};
use super::counter::{Granted, ReservationId};
use super::quotas::{Lifetime, Quotas};
use crate::file_stream::{FileEvent, Source};
use crate::settings::Quota;

/// A reservation. If it is dropped, it ends: what was stored is counted, the rest is given back.
pub struct Reservation {
    quotas: Arc<Quotas>,
    quota: Arc<Quota>,
    subject: Arc<str>,
    id: ReservationId,
    granted: Granted,
    stored: Cell<Amount>,
    sending: Rc<Cell<Sending>>,
    has_ended: bool,
}

/// The file that is being sent.
#[derive(Debug, Clone, Copy, Default)]
struct Sending {
    bytes: u64,
    /// Its end was read, so that it may be stored although no response has arrived.
    is_complete: bool,
}

impl Reservation {
    /// Reserves what `wanted` asks for, or what is left of it. `subject` identifies quota and client.
    pub async fn new(
        quotas: &Arc<Quotas>,
        quota: &Arc<Quota>,
        subject: String,
        wanted: Wanted,
        lifetime: Lifetime,
    ) -> Result<Self, (Refusal, Usage)> {
        let subject: Arc<str> = subject.into();
        let (id, granted) = quotas.grant(quota, &subject, wanted, lifetime).await?;
        let (quotas, quota) = (quotas.clone(), quota.clone());
        let (stored, sending) = (Cell::default(), Rc::default());
        Ok(Self { quotas, quota, subject, id, granted, stored, sending, has_ended: false })
    }

    pub fn quota(&self) -> &Quota {
        &self.quota
    }

    /// What was granted at the beginning.
    pub fn granted(&self) -> Amount {
        self.granted.amount
    }

    /// The client's usage, with this reservation.
    pub fn usage(&self) -> Usage {
        let usage = self.granted.usage;
        Usage { reserved: usage.reserved.plus(self.granted.amount), ..usage }
    }

    /// What may still be stored.
    pub fn left(&self) -> Amount {
        self.granted.amount.minus(self.stored.get())
    }

    /// Why `more` than what is left cannot be stored.
    pub fn refusal(&self, more: Amount) -> (Refusal, Usage) {
        let (stored, before) = (self.stored.get(), self.granted.usage);
        let (day, total) = (before.day.plus(stored), before.total.plus(stored));
        let usage = Usage { day, total, ..before };
        (usage.refusal(&self.quota, self.left().plus(more)), usage)
    }

    /// Follows a file to its end; `buffered` bytes of it were read before. A client that disconnects before COS responds
    /// could otherwise store files that are not counted.
    pub fn follow(&self, source: Source, buffered: u64, is_complete: bool) -> Source {
        let sending = self.sending.clone();
        sending.set(Sending { bytes: buffered, is_complete });
        Box::pin(source.inspect(move |event| {
            let Sending { bytes, is_complete } = sending.get();
            sending.set(match event {
                Ok(FileEvent::Content(more)) => {
                    Sending { bytes: bytes + more.len() as u64, is_complete }
                }
                Ok(FileEvent::End(_)) => Sending { bytes, is_complete: true },
                Err(_) => Sending::default(),
            });
        }))
    }

    /// The outcome of the file that was sent: its bytes, if it is stored.
    pub fn sent(&self, stored: Option<u64>) {
        self.sending.set(Sending::default());
        if let Some(bytes) = stored {
            self.stored.set(self.stored.get().plus(Amount { bytes, files: 1 }));
        }
    }

    /// Ends the reservation; returns the client's usage. Runs to its end even if the returned future is dropped once it was
    /// polled: the file is stored, and must count.
    pub async fn conclude(mut self) -> Usage {
        self.has_ended = true;
        let (quotas, quota, subject) = (&self.quotas, self.quota.clone(), self.subject.clone());
        let concluded = quotas.clone().conclude_as_task(quota, subject, self.id, self.stored.get());
        concluded.await.unwrap_or_else(|| self.usage())
    }

    /// The reservation stays until it expires, or [`Quotas::conclude`] ends it by its id.
    pub fn detach(mut self) {
        self.has_ended = true;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        let mut stored = self.stored.get();
        let Sending { bytes, is_complete } = self.sending.get();
        if is_complete {
            stored = stored.plus(Amount { bytes, files: 1 });
        }
        let (quotas, quota) = (self.quotas.clone(), self.quota.clone());
        drop(quotas.conclude_as_task(quota, self.subject.clone(), self.id, stored));
    }
}
