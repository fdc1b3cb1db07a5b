//! Divides a file into parts while it arrives: each part is a file of its own, which a [`Relay`] buffers and sends.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::stream;

use crate::cos::error::CosError;
use crate::cos::relay::Relay;
use crate::cos::replayable_file::BufferLimits;
use crate::file_stream::{BoxError, FileEnd, FileEvent, Source};
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
    /// The file's length, where it was declared.
    declared: Option<u64>,
    is_at_end: bool,
    has_failed: bool,
}

/// A part that is being read, or is ready to be sent.
pub struct FilePart {
    pub relay: Relay,
    /// Where in the file it begins.
    offset: u64,
    /// Bytes at most.
    most: u64,
}

impl FileParts {
    /// `declared` is the file's length, where one was declared; another length is an error.
    pub fn new(source: Source, declared: Option<u64>, share: Arc<Share>) -> Self {
        let file = FileReader {
            source,
            rest: Bytes::new(),
            position: 0,
            declared,
            is_at_end: false,
            has_failed: false,
        };
        Self { file: Rc::new(RefCell::new(file)), share }
    }

    /// The next part, of at most `most` bytes. All bytes of the part before must have been read.
    pub fn next(&self, most: u64) -> FilePart {
        let window = usize::try_from(most).unwrap_or(usize::MAX);
        let buffer = ReplayBuffer::new(self.share.clone());
        // One more than the part has: its end is read, too.
        let limits = BufferLimits::window(window.saturating_add(1));
        let relay = Relay::new(buffer, None, self.source_of(most), limits, false);
        FilePart { relay, offset: self.file.borrow().position, most }
    }

    /// Whether all bytes of the file were read.
    pub fn is_at_end(&self) -> bool {
        self.file.borrow().is_at_end
    }

    /// Reads a part until it is complete or memory is used up. An error is the source's, or says that the file has
    /// another length than declared. The future may be dropped at any time: no byte that was read is lost.
    pub async fn collect(&self, part: &FilePart) -> Result<(), CosError> {
        part.relay.read_ahead().await;
        part.relay.take_read_error()?;
        let file = self.file.borrow();
        match file.declared {
            Some(declared)
                if file.position > declared || file.is_at_end && file.position < declared =>
            {
                Err(CosError::LengthMismatch { declared, got: file.position })
            }
            _ => Ok(()),
        }
    }

    /// The length to announce for a part: exact where all of it is buffered, or where the file's length was declared.
    /// `None`: memory is used up, and the part's length cannot be known.
    pub fn length_of(&self, part: &FilePart) -> Option<u64> {
        part.relay.known_length().or_else(|| {
            let left = self.file.borrow().declared?.checked_sub(part.offset)?;
            Some(left.min(part.most))
        })
    }

    /// At most `most` bytes of the file, as a source of its own.
    fn source_of(&self, most: u64) -> Source {
        let (file, left, has_ended) = (self.file.clone(), most, false);
        Box::pin(stream::unfold((file, left, has_ended), async |(file, left, has_ended)| {
            if has_ended {
                return None;
            }
            let event = match left {
                0 => Ok(part_end()),
                left => poll_fn(|cx| file.borrow_mut().poll_next(cx, left)).await,
            };
            let (left, has_ended) = match &event {
                Ok(FileEvent::Content(bytes)) => (left - bytes.len() as u64, false),
                Ok(FileEvent::End(_)) | Err(_) => (left, true),
            };
            Some((event, (file, left, has_ended)))
        }))
    }
}

/// A part has nothing after it that would have to be repeated.
fn part_end() -> FileEvent {
    FileEvent::End(FileEnd { last: true, epilogue: Bytes::new() })
}

impl FileReader {
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
        let length = self.rest.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        self.position += length as u64;
        Poll::Ready(Ok(FileEvent::Content(self.rest.split_to(length))))
    }
}
