//! `Upload-Checksum`: the body of a request is buffered and compared with its checksum before any of it is stored.

use std::sync::Arc;

use actix_web::http::header::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{StreamExt, stream};
use md5::{Digest, Md5};
use sha1::Sha1;

use super::protocol::{UPLOAD_CHECKSUM, invalid};
use crate::cos::error::CosError;
use crate::file_stream::{FileEnd, FileEvent, Source};
use crate::http::problem::{Code, Problem};
use crate::memory::budget::Share;
use crate::memory::replay_buffer::ReplayBuffer;

/// The algorithms, as `Tus-Checksum-Algorithm` lists them.
pub const ALGORITHMS: &str = "md5,sha1,crc32";

/// A body's checksum.
#[derive(Debug, PartialEq, Eq)]
pub struct Checksum {
    algorithm: Algorithm,
    expected: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Md5,
    Sha1,
    Crc32,
}

enum Running {
    Md5(Md5),
    Sha1(Sha1),
    Crc32(crc32fast::Hasher),
}

impl Running {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Md5(md5) => md5.update(bytes),
            Self::Sha1(sha1) => sha1.update(bytes),
            Self::Crc32(crc32) => crc32.update(bytes),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::Md5(md5) => md5.finalize().to_vec(),
            Self::Sha1(sha1) => sha1.finalize().to_vec(),
            Self::Crc32(crc32) => crc32.finalize().to_be_bytes().to_vec(),
        }
    }
}

impl Checksum {
    /// Reads `Upload-Checksum`; `None` where there is none.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let Some(value) = headers.get(UPLOAD_CHECKSUM) else {
            return Ok(None);
        };
        let value = value.to_str().unwrap_or_default();
        let (name, encoded) = value.split_once(' ').unwrap_or((value, ""));
        let (algorithm, length) = match name {
            "md5" => (Algorithm::Md5, 16),
            "sha1" => (Algorithm::Sha1, 20),
            "crc32" => (Algorithm::Crc32, 4),
            _ => return Err(invalid(format!("`Upload-Checksum` can be {ALGORITHMS}"))),
        };
        match STANDARD.decode(encoded) {
            Ok(expected) if expected.len() == length => Ok(Some(Self { algorithm, expected })),
            _ => Err(invalid(format!("`Upload-Checksum` is not {length} bytes in Base64"))),
        }
    }

    /// The content of `source` from memory, charged to `share`, once all of it was read and has this checksum.
    pub async fn verified(self, mut source: Source, share: &Arc<Share>) -> Result<Source, Problem> {
        let mut running = match self.algorithm {
            Algorithm::Md5 => Running::Md5(Md5::new()),
            Algorithm::Sha1 => Running::Sha1(Sha1::new()),
            Algorithm::Crc32 => Running::Crc32(crc32fast::Hasher::new()),
        };
        let mut buffer = ReplayBuffer::new(share.clone());
        while let Some(event) = source.next().await {
            match event.map_err(CosError::Source)? {
                FileEvent::Content(bytes) => {
                    running.update(&bytes);
                    buffer.push(&bytes).map_err(|_| CosError::OutOfMemory)?;
                }
                FileEvent::End(_) => break,
            }
        }
        if running.finish() != self.expected {
            return Err(Problem::new(
                Code::ChecksumMismatch,
                "the body has another checksum than `Upload-Checksum`",
            ));
        }
        let content = buffer.into_segments().map(|bytes| Ok(FileEvent::Content(bytes)));
        let end = FileEvent::End(FileEnd { last: true, epilogue: Bytes::new() });
        Ok(Box::pin(stream::iter(content.chain([Ok(end)]))))
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;
    use crate::memory::budget::Budget;

    fn checksum(value: &str) -> Result<Option<Checksum>, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(UPLOAD_CHECKSUM, HeaderValue::from_str(value).unwrap());
        Checksum::of(&headers)
    }

    #[tokio::test]
    async fn a_body_has_its_checksum() {
        let content = [&b"hello "[..], b"world"];
        for (value, agrees) in [
            ("md5 XrY7u+Ae7tCTyyK7j1rNww==", true),
            ("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=", true),
            ("crc32 DUoRhQ==", true),
            ("crc32 DUoRhA==", false),
        ] {
            let source: Source = Box::pin(stream::iter(
                content.map(|bytes| Ok(FileEvent::Content(Bytes::from_static(bytes)))),
            ));
            let share = Share::new(Budget::new(1 << 20));
            let checksum = checksum(value).unwrap().unwrap();
            assert_eq!(checksum.verified(source, &share).await.is_ok(), agrees, "{value}");
        }
    }

    #[test]
    fn other_algorithms_and_lengths_are_refused() {
        for bad in [
            "",
            "md5",
            "md5 ",
            "md5 QQ==",
            "sha256 QQ==",
            "crc32 !",
            "MD5 XrY7u+Ae7tCTyyK7j1rNww==",
        ] {
            assert!(checksum(bad).is_err(), "{bad:?}");
        }
    }
}
