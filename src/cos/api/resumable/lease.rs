//! The lease: a small object that names the session which may write. A session that finds another name
//! in it writes nothing more.

use std::cell::Cell;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::upload::{AppendError, HELPER_PREFIX, Resumable};
use crate::cos::api::client::ObjectFields;
use crate::cos::api::retry::retried;
use crate::cos::error::CosError;

/// Before a part is sent, the lease is read again if it was read longer ago than this.
const MAX_AGE: Duration = Duration::from_secs(1);

/// The object's content, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    /// 32 hexadecimal digits, new for each session.
    pub session: String,
    /// `false`: the session before was ended, and none has begun.
    pub is_active: bool,
    /// The file's length, if it was declared after the creation.
    pub length: Option<u64>,
}

impl Lease {
    /// Of a new session.
    pub fn new(is_active: bool, length: Option<u64>) -> Self {
        Self { session: hex::encode(fastrand::u128(..).to_be_bytes()), is_active, length }
    }
}

pub(super) fn key(id: &[u8; 16]) -> String {
    [HELPER_PREFIX, &hex::encode(id), "/lease"].concat()
}

impl Resumable<'_> {
    /// `None` where there is none, or none that can be read.
    pub(super) async fn lease(&self, id: &[u8; 16]) -> Result<Option<Lease>, CosError> {
        let key = key(id);
        let content = retried(&key, self.observe, || self.client.get(&key, None)).await?;
        Ok(content.and_then(|content| serde_json::from_slice(&content).ok()))
    }

    pub(super) async fn write_lease(&self, id: &[u8; 16], lease: &Lease) -> Result<(), CosError> {
        let (key, fields) = (key(id), ObjectFields::default());
        let content = serde_json::to_vec(lease).unwrap_or_default();
        retried(&key, self.observe, || self.client.put(&key, fields, &content)).await.map(drop)
    }
}

/// What a session knows of its lease.
pub(super) struct LeaseWatch {
    id: [u8; 16],
    session: String,
    /// When the lease was last found to be the session's.
    confirmed: Cell<Instant>,
}

impl LeaseWatch {
    /// Of a lease that was written after `began`.
    pub fn new(id: [u8; 16], session: String, began: Instant) -> Self {
        Self { id, session, confirmed: Cell::new(began) }
    }

    pub fn session(&self) -> &str {
        &self.session
    }

    /// An error if the session may not write any more.
    pub async fn check(&self, resumable: &Resumable<'_>) -> Result<(), AppendError> {
        let began = Instant::now();
        match resumable.lease(&self.id).await? {
            Some(lease) if lease.session == self.session => {
                self.confirmed.set(began);
                Ok(())
            }
            _ => Err(AppendError::Superseded),
        }
    }

    /// As [`Self::check`], if the last check is too long ago.
    pub async fn check_if_old(&self, resumable: &Resumable<'_>) -> Result<(), AppendError> {
        match self.confirmed.get().elapsed() > MAX_AGE {
            true => self.check(resumable).await,
            false => Ok(()),
        }
    }
}
