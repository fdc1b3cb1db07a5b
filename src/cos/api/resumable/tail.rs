//! The tail: an object with the bytes that were received of the part after the last full one. A tail of another part is
//! out of date and ignored.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};

use super::upload::{HELPER_PREFIX, Resumable};
use crate::cos::api::client::MAX_RESPONSE;
use crate::cos::api::retry::retried;
use crate::cos::error::CosError;
use crate::cos::verdict::compare;

/// The number of the part that begins with the tail.
pub(super) const PART: &str = "x-cos-meta-part";
/// The CRC-64 of all parts before, a decimal number, where it is known.
pub(super) const CRC64: &str = "x-cos-meta-crc64";
/// The session that wrote it, which has ended thereby.
pub(super) const SESSION: &str = "x-cos-meta-session";

/// What HEAD says of a tail.
pub(super) struct Tail {
    pub part: u32,
    /// Bytes.
    pub size: u64,
    /// Of all parts before it.
    pub crc64_before: Option<u64>,
    pub session: Option<String>,
    /// Its own, as COS returns it.
    crc64: Option<String>,
}

pub(super) fn key(id: &[u8; 16]) -> String {
    [HELPER_PREFIX, &hex::encode(id), "/tail"].concat()
}

impl Resumable<'_> {
    pub(super) async fn tail(&self, id: &[u8; 16]) -> Result<Option<Tail>, CosError> {
        let key = key(id);
        let object = retried(&key, self.observe, || self.client.head(&key)).await?;
        Ok(object.and_then(|object| {
            Some(Tail {
                part: object.metadata(PART)?.parse().ok()?,
                size: object.size,
                crc64_before: object.metadata(CRC64).and_then(|crc64| crc64.parse().ok()),
                session: object.metadata(SESSION).map(str::to_owned),
                crc64: object.crc64,
            })
        }))
    }

    /// The content of `tail`, `None` if it is another one now.
    pub(super) async fn load_tail(
        &self,
        id: &[u8; 16],
        tail: &Tail,
    ) -> Result<Option<Vec<Bytes>>, CosError> {
        let key = key(id);
        let (mut pieces, mut offset) = (Vec::new(), 0);
        let mut crc64 = Digest::new(CrcAlgorithm::Crc64Xz);
        while offset < tail.size {
            let end = tail.size.min(offset + MAX_RESPONSE as u64);
            let get = || self.client.get(&key, Some(offset..end));
            let piece = match retried(&key, self.observe, get).await {
                Ok(Some(piece)) if piece.len() as u64 == end - offset => piece,
                // Out of range: it has become shorter.
                Ok(_) | Err(CosError::Refused { status: 416, .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            crc64.update(&piece);
            pieces.push(piece);
            offset = end;
        }
        let is_same = compare(crc64.finalize(), tail.crc64.as_deref(), true).is_ok();
        Ok(is_same.then_some(pieces))
    }
}
