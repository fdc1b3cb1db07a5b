//! What was received of a file: in memory, or in a file of the spool.

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::SpoolError;
use super::file::SpoolFile;
use super::folder::SpoolFolder;
use super::memory::MemoryFile;
use crate::file_stream::{BoxError, FileEnd, FileEvent, Source};

/// The content of a file, from its beginning.
#[derive(Debug)]
pub enum Content {
    Memory(MemoryFile),
    File(SpoolFile),
}

/// Why a source could not be received to its end; what was received until then counts.
#[derive(Debug)]
pub enum ReceiveError {
    /// The source's own error.
    Source(BoxError),
    Spool(SpoolError),
}

impl Content {
    /// Of no bytes, in a file that is gone once this and its sources are dropped. `expected`: bytes for which there must
    /// be room.
    pub fn unnamed(folder: &SpoolFolder, expected: u64) -> Result<Self, SpoolError> {
        Ok(Self::File(folder.unnamed(folder.share(), expected)?))
    }

    /// In bytes.
    pub fn length(&self) -> u64 {
        match self {
            Self::Memory(file) => file.len() as u64,
            Self::File(file) => file.length(),
        }
    }

    /// Appends all that `source` gives. `observe` is told the new length whenever it has grown.
    pub async fn receive(
        &mut self,
        mut source: Source,
        observe: impl Fn(u64),
    ) -> Result<(), ReceiveError> {
        let result = loop {
            match source.next().await {
                Some(Ok(FileEvent::Content(bytes))) => {
                    if let Err(error) = self.append(bytes).await {
                        break Err(ReceiveError::Spool(error));
                    }
                    observe(self.length());
                }
                Some(Ok(FileEvent::End(_))) | None => break Ok(()),
                Some(Err(error)) => break Err(ReceiveError::Source(error)),
            }
        };
        if let Self::File(file) = self {
            let synced = file.sync().await.map_err(ReceiveError::Spool);
            return result.and(synced);
        }
        result
    }

    async fn append(&mut self, bytes: Bytes) -> Result<(), SpoolError> {
        match self {
            Self::Memory(file) => file.append(&bytes),
            Self::File(file) => file.append(bytes).await,
        }
    }

    /// Makes the content shorter.
    pub async fn truncate(&mut self, len: u64) -> Result<(), SpoolError> {
        match self {
            Self::Memory(file) => {
                file.truncate(usize::try_from(len).unwrap_or(usize::MAX));
                Ok(())
            }
            Self::File(file) => file.truncate(len).await,
        }
    }

    /// As [`Self::truncate`], at the process's start.
    pub(super) fn shorten_now(&mut self, len: u64) -> std::io::Result<()> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::File(file) => file.shorten_now(len),
        }
    }

    /// The first bytes, at most `length`.
    pub async fn first_bytes(&mut self, length: usize) -> Result<Vec<Bytes>, SpoolError> {
        match self {
            Self::Memory(file) => {
                let mut left = length;
                let first = file.segments().map_while(|mut bytes| {
                    bytes.truncate(left);
                    left -= bytes.len();
                    (!bytes.is_empty()).then_some(bytes)
                });
                Ok(first.collect())
            }
            Self::File(file) => {
                let first = file.read(0, length).await?;
                Ok(if first.is_empty() { Vec::new() } else { vec![first] })
            }
        }
    }

    /// All of it, as often as it is needed. The content must stay until the source was read.
    pub fn source(&mut self) -> Source {
        match self {
            Self::Memory(file) => {
                let segments = file.segments();
                let events: Vec<_> = segments.map(|bytes| Ok(FileEvent::Content(bytes))).collect();
                let end = FileEvent::End(FileEnd { last: true, epilogue: Bytes::new() });
                Box::pin(stream::iter(events.into_iter().chain([Ok(end)])))
            }
            Self::File(file) => file.source(),
        }
    }

    /// All of it, once. It is released when that was read.
    pub fn into_source(mut self) -> Source {
        let source = self.source();
        Box::pin(source.inspect(move |_| {
            let _kept = &self;
        }))
    }

    /// Releases it; a file with a name is deleted.
    pub async fn remove(self) -> Result<(), SpoolError> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::File(file) => file.remove().await,
        }
    }
}
