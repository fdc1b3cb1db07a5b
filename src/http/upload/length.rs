//! The length of an upload's file: announced, assumed, or found out by receiving the file first.

use futures::{StreamExt, stream};

use super::kept;
use super::outgoing::OutgoingFile;
use super::request::UploadRequest;
use crate::cos::error::CosError;
use crate::file_stream::{FileEvent, FileLength, Source};
use crate::http::problem::Problem;
use crate::inbound::buffer::{Buffered, buffer_file, is_empty};
use crate::inbound::error::InboundError;
use crate::inbound::form::{FilePart, MAX_EPILOGUE};
use crate::inbound::limit::limited;
use crate::memory::replay_buffer::ReplayBuffer;
use crate::spool::content::Content;
use crate::spool::folder::SpoolFolder;

impl UploadRequest<'_> {
    /// Determines the length of a part's file. Buffers the file if nothing else tells its length.
    pub(super) async fn resolve_length(
        &self,
        source: Source,
        part: &FilePart,
        nameless: bool,
    ) -> Result<OutgoingFile, Problem> {
        let settings = self.settings();
        let max = self.max_file_size();
        let source = limited(source, max);
        if let Some(length) = part.head.length {
            if length > max {
                return Err(InboundError::FileTooLarge(max).into());
            }
            if !nameless {
                return Ok(self.streamed(source, Some(FileLength::Known(length))));
            }
        }
        let is_too_large = |assumed: u64| assumed > max.saturating_add(MAX_EPILOGUE as u64);
        if self.worker.api.is_some() && !part.length_if_last.is_some_and(is_too_large) {
            return self.of_any_length(source, nameless, part).await;
        }
        let file = match part.length_if_last {
            // The file is too large if this is the last part. If it is not, the file is stored if it fits the window.
            Some(assumed) if is_too_large(assumed) && !self.expects_more(part) => {
                let file = self.buffered(source, settings.replay_window, Some(assumed)).await?;
                if let Some(FileLength::Assumed(_)) = file.length {
                    return Err(InboundError::FileTooLarge(max).into());
                }
                file
            }
            Some(assumed) if !nameless && !self.expects_more(part) => {
                self.streamed(source, Some(FileLength::Assumed(assumed)))
            }
            assumed => self.buffered(source, settings.max_buffered_file, assumed).await?,
        };
        match (part.head.length, file.length) {
            (Some(declared), Some(FileLength::Known(got))) if declared != got => {
                Err(InboundError::LengthMismatch { declared, got }.into())
            }
            _ => Ok(file),
        }
    }

    /// A file that is sent to COS while it arrives. Only COS's API takes one of unknown length.
    pub fn streamed(&self, source: Source, length: Option<FileLength>) -> OutgoingFile {
        let buffer = ReplayBuffer::new(self.slot.memory());
        OutgoingFile { buffer, end: None, source, length, share: self.slot.memory() }
    }

    /// A raw body, whose `length` may be unknown: without COS's API it is then buffered.
    pub async fn raw(&self, source: Source, length: Option<u64>) -> Result<OutgoingFile, Problem> {
        match length {
            None if self.worker.api.is_none() => {
                self.buffered(source, self.settings().max_buffered_file, None).await
            }
            length => Ok(self.streamed(source, length.map(FileLength::Known))),
        }
    }

    /// A part's file for COS's API. With `may_be_empty`, an empty one is recognized.
    async fn of_any_length(
        &self,
        source: Source,
        may_be_empty: bool,
        part: &FilePart,
    ) -> Result<OutgoingFile, Problem> {
        let assumed = part.length_if_last.map(FileLength::Assumed);
        let length = part.head.length.map(FileLength::Known).or(assumed);
        if !may_be_empty {
            return Ok(self.streamed(source, length));
        }
        let (source, is_empty) =
            is_empty(source).await.map_err(|error| Problem::from(CosError::Source(error)))?;
        Ok(self.streamed(source, if is_empty { Some(FileLength::Known(0)) } else { length }))
    }

    /// Buffers a file until it is complete. If it exceeds `limit` bytes or the memory budget, it is streamed under the
    /// `assumed` length; without one it is refused.
    pub async fn buffered(
        &self,
        source: Source,
        limit: usize,
        assumed: Option<u64>,
    ) -> Result<OutgoingFile, Problem> {
        let mut buffer = ReplayBuffer::new(self.slot.memory());
        let (source, buffered) = buffer_file(source, &mut buffer, limit)
            .await
            .map_err(|error| Problem::from(CosError::Source(error)))?;
        let length = buffer.len() as u64;
        match (buffered, assumed) {
            (Buffered::Complete(end), _) => Ok(OutgoingFile {
                buffer,
                end: Some(end),
                source,
                length: Some(FileLength::Known(length)),
                share: self.slot.memory(),
            }),
            (_, Some(length)) => Ok(OutgoingFile {
                buffer,
                end: None,
                source,
                length: Some(FileLength::Assumed(length)),
                share: self.slot.memory(),
            }),
            (reason, None) => match self.worker.shared.uploads.folder() {
                Some(folder) => self.spooled(folder, buffer, source).await,
                None if reason == Buffered::LimitReached => {
                    Err(InboundError::LengthRequired.into())
                }
                None => Err(InboundError::OutOfMemory.into()),
            },
        }
    }

    /// Receives a file of unknown length into the spool, of which `buffer` has the first bytes.
    async fn spooled(
        &self,
        folder: &SpoolFolder,
        buffer: ReplayBuffer,
        rest: Source,
    ) -> Result<OutgoingFile, Problem> {
        let mut content = Content::unnamed(folder, buffer.len() as u64)?;
        let buffered = buffer.into_segments().map(|bytes| Ok(FileEvent::Content(bytes)));
        kept::receive(&mut content, Box::pin(stream::iter(buffered).chain(rest))).await?;
        let length = FileLength::Known(content.length());
        Ok(self.streamed(content.into_source(), Some(length)))
    }
}
