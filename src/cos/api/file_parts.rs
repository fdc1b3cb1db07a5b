//! Divides a file into parts while it arrives: each part is a file of its own, which a [`Relay`] buffers and sends.
//! Where memory is used up, parts become as small as COS allows, and then are sent while they arrive.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use tokio::time::{Instant, sleep};

use crate::cos::error::CosError;
use crate::cos::relay::Relay;
use crate::cos::replayable_file::BufferLimits;
use crate::file_stream::{BoxError, FileEnd, FileEvent, FileLength, Source};
use crate::memory::budget::Share;
use crate::memory::replay_buffer::ReplayBuffer;

/// A file, and how far it was divided.
pub struct FileParts {
    file: Rc<RefCell<FileReader>>,
    /// The memory that parts are charged to.
    share: Arc<Share>,
}

struct FileReader {
    source: Source,
    /// Content that was read and belongs to the next part.
    rest: Bytes,
    /// Bytes given to parts.
    position: u64,
    length: Option<FileLength>,
    is_at_end: bool,
    has_failed: bool,
}

/// A part that is being read, or is ready to be sent.
pub struct FilePart {
    pub relay: Relay,
    /// Where in the file it begins.
    offset: u64,
    /// Bytes at most. Reduced where memory is used up.
    most: Rc<Cell<u64>>,
    /// To this: with smaller parts, a large file could have more than COS accepts.
    least: u64,
    /// The file may be shorter than was assumed, and so the part.
    pub has_assumed_length: bool,
}

/// An assumed length may be more than the file's by this, in bytes: the form's epilogue.
const MAX_EPILOGUE: u64 = 4 * 1024;
/// How long a part whose length is not known waits for memory.
const MEMORY_WAIT: Duration = Duration::from_secs(10);
/// Between two looks for memory.
const MEMORY_POLL: Duration = Duration::from_millis(50);

impl FileParts {
    /// A file that has another length than a known one is an error; an assumed one is only a hint.
    pub fn new(source: Source, length: Option<FileLength>, share: Arc<Share>) -> Self {
        let file = FileReader {
            source,
            rest: Bytes::new(),
            position: 0,
            length,
            is_at_end: false,
            has_failed: false,
        };
        Self { file: Rc::new(RefCell::new(file)), share }
    }

    /// The next part, once all bytes of the part before were read: of at most `large` bytes if that much memory is free,
    /// otherwise of `part` bytes.
    pub fn next(&self, large: u64, part: u64) -> FilePart {
        let mut buffer = ReplayBuffer::new(self.share.clone());
        let file = self.file.borrow();
        let left =
            file.length.map_or(large, |length| length.length().saturating_sub(file.position));
        let length = left.min(large);
        drop(file);
        let has_room =
            length > part && buffer.reserve(usize::try_from(length).unwrap_or(usize::MAX));
        self.part(buffer, if has_room { large } else { part }, part)
    }

    fn part(&self, buffer: ReplayBuffer, most: u64, least: u64) -> FilePart {
        let window = usize::try_from(most).unwrap_or(usize::MAX);
        // One more than the part has: its end is read, too.
        let limits = BufferLimits::window(window.saturating_add(1));
        let most = Rc::new(Cell::new(most));
        let relay = Relay::new(buffer, None, self.source_of(most.clone()), limits, false);
        let file = self.file.borrow();
        let has_assumed_length = matches!(file.length, Some(FileLength::Assumed(_)));
        FilePart { relay, offset: file.position, most, has_assumed_length, least }
    }

    /// Whether all bytes of the file were read.
    pub fn is_at_end(&self) -> bool {
        self.file.borrow().is_at_end
    }

    /// Reads a part until it is complete. Where memory is used up, the part ends early if it is long enough, or its rest
    /// is sent while it arrives if its length is known; otherwise memory is waited for. An error is the source's, or says
    /// that the file has another length than declared. The future may be dropped at any time: no byte that was read is
    /// lost.
    pub async fn collect(&self, part: &FilePart) -> Result<(), CosError> {
        let began = Instant::now();
        loop {
            part.relay.read_ahead().await;
            part.relay.take_read_error()?;
            self.check_length()?;
            if part.relay.known_length().is_some() {
                return Ok(());
            }
            if part.relay.buffered() >= part.least {
                self.file.borrow_mut().put_back(part.relay.cut());
                return Ok(());
            }
            // What was read for the part is sent with it.
            let taken = self.file.borrow().position - part.offset;
            part.most.set(part.least.max(taken).min(part.most.get()));
            if self.length_of(part).is_some() {
                return Ok(());
            }
            if began.elapsed() >= MEMORY_WAIT {
                return Err(CosError::OutOfMemory);
            }
            sleep(MEMORY_POLL).await;
        }
    }

    fn check_length(&self) -> Result<(), CosError> {
        let file = self.file.borrow();
        let got = file.received();
        match file.length {
            Some(FileLength::Known(declared))
                if got > declared || file.is_at_end && got < declared =>
            {
                Err(CosError::LengthMismatch { declared, got })
            }
            _ => Ok(()),
        }
    }

    /// The `error` of a part. That it has another length than was announced for it says nothing to the client: it is told
    /// how long the file is.
    pub fn error_of_file(&self, error: CosError) -> CosError {
        match error {
            CosError::LengthMismatch { .. } => self.check_length().err().unwrap_or(error),
            error => error,
        }
    }

    /// The length to announce for a part: exact where all of it is buffered, or where enough of the file is left.
    pub fn length_of(&self, part: &FilePart) -> Option<u64> {
        part.relay.known_length().or_else(|| {
            let most = part.most.get();
            match self.file.borrow().length? {
                FileLength::Known(length) => Some(length.checked_sub(part.offset)?.min(most)),
                FileLength::Assumed(length) => {
                    let left = length.checked_sub(part.offset)?.checked_sub(MAX_EPILOGUE)?;
                    (left >= most).then_some(most)
                }
            }
        })
    }

    /// At most `most` bytes of the file, as a source of its own.
    fn source_of(&self, most: Rc<Cell<u64>>) -> Source {
        let state = (self.file.clone(), most, 0, false);
        Box::pin(stream::unfold(state, async |(file, most, taken, has_ended)| {
            if has_ended {
                return None;
            }
            let left = most.get().saturating_sub(taken);
            let is_full = left == 0 && !file.borrow().should_end();
            let event = match is_full {
                true => Ok(part_end()),
                false => poll_fn(|cx| file.borrow_mut().poll_next(cx, left)).await,
            };
            let (taken, has_ended) = match &event {
                Ok(FileEvent::Content(bytes)) => (taken + bytes.len() as u64, false),
                Ok(FileEvent::End(_)) | Err(_) => (taken, true),
            };
            Some((event, (file, most, taken, has_ended)))
        }))
    }
}

/// A part has nothing after it that would have to be repeated.
fn part_end() -> FileEvent {
    FileEvent::End(FileEnd { last: true, epilogue: Bytes::new() })
}

impl FileReader {
    /// Bytes of the file that were read.
    fn received(&self) -> u64 {
        self.position + self.rest.len() as u64
    }

    /// Whether all declared bytes were given to parts: the end must follow, and it is part of the last part.
    fn should_end(&self) -> bool {
        self.length == Some(FileLength::Known(self.position))
    }

    /// Content that was read for a part, and does not belong to it any more.
    fn put_back(&mut self, bytes: Bytes) {
        self.position -= bytes.len() as u64;
        self.rest = match self.rest.is_empty() {
            true => bytes,
            false => [&bytes[..], &self.rest].concat().into(),
        };
    }

    /// At most `most` bytes, or the end of the part.
    fn poll_next(&mut self, cx: &mut Context<'_>, most: u64) -> Poll<Result<FileEvent, BoxError>> {
        if self.rest.is_empty() {
            if self.is_at_end {
                return Poll::Ready(Ok(part_end()));
            }
            let ended = || "the file's source ended early";
            if self.has_failed {
                return Poll::Ready(Err(ended().into()));
            }
            match ready!(self.source.as_mut().poll_next(cx)) {
                Some(Ok(FileEvent::Content(bytes))) => self.rest = bytes,
                Some(Ok(FileEvent::End(_))) => {
                    self.is_at_end = true;
                    return Poll::Ready(Ok(part_end()));
                }
                failed => {
                    self.has_failed = true;
                    let error = failed.and_then(Result::err).unwrap_or_else(|| ended().into());
                    return Poll::Ready(Err(error));
                }
            }
        }
        if most == 0 {
            return Poll::Ready(Ok(part_end()));
        }
        let length = self.rest.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        let bytes = self.rest.split_to(length);
        self.position += length as u64;
        Poll::Ready(Ok(FileEvent::Content(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::budget::Budget;
    use crate::memory::buffer_pool::Buffer;

    /// So many bytes in a buffer for 72 KiB, which is charged as a whole.
    fn half_filled(bytes: usize) -> Bytes {
        let mut buffer = Buffer::take(64 << 10);
        buffer.unfilled(72 << 10).initialize_unfilled().fill(7);
        buffer.freeze(72 << 10).slice(..bytes)
    }

    /// The last chunk that is read goes beyond the least part, while what is buffered is still less.
    #[tokio::test]
    async fn a_part_that_is_streamed_is_announced_with_all_that_was_read() {
        const LEAST: u64 = 1 << 20;
        const LARGE: u64 = 2 << 20;
        for (chunk, length) in [
            (36_900, FileLength::Known(LARGE)),
            (37_000, FileLength::Known(10 << 20)),
            (37_400, FileLength::Assumed(3 << 20)),
        ] {
            let share = Share::new(Budget::new(4 * LARGE));
            let content = stream::repeat_with(move || Ok(FileEvent::Content(half_filled(chunk))));
            let parts = FileParts::new(Box::pin(content), Some(length), share.clone());
            let part = parts.next(LARGE, LEAST);
            assert_eq!(part.most.get(), LARGE, "its memory is reserved");
            let mut others = ReplayBuffer::new(share);
            while others.push(&Bytes::from_static(&[7; 64 << 10])).is_ok() {}

            parts.collect(&part).await.unwrap();
            let taken = parts.file.borrow().position;
            assert!(part.relay.buffered() < LEAST && taken > LEAST, "{taken}");
            assert_eq!(parts.length_of(&part), Some(taken), "{chunk}");
            // The part ends there.
            drop(others);
            part.relay.read_ahead().await;
            assert_eq!(part.relay.known_length(), Some(taken), "{chunk}");
            assert_eq!(parts.next(LARGE, LEAST).offset, taken, "{chunk}");
        }
    }
}
