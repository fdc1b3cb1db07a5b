//! One attempt to send a file: what is sent around its bytes, in exactly the announced length, and the CRC of the bytes.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use tokio::time::Instant;

use super::error::CosError;
use super::form::FormEnvelope;
use crate::file_stream::{FileEnd, FileLength};
use crate::net::http_client::exchange::Aborted;

/// The epilogue after a form's closing delimiter where the client's is not repeated.
pub(super) const EPILOGUE: &[u8] = b"\r\n";

/// What is sent around a file's bytes.
#[derive(Clone)]
pub enum Envelope {
    /// COS stores nothing without the form's closing delimiter.
    Form(FormEnvelope),
    /// The request's body is the file, of a known length. COS stores nothing without its last byte, so the chunk that
    /// completes the length is held back until the file has ended.
    Raw,
}

/// What an attempt waits for, so that a stall is attributed to the side that causes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    /// For the client's next bytes; the request's body has its own timer for that.
    Client,
    /// For COS to accept the bytes that were given to the connection.
    Upstream,
    /// For the verdict, since the last byte was given to the connection.
    Verdict(Instant),
}

impl Waiting {
    /// Since when the verdict is awaited.
    pub(super) fn verdict_since(self) -> Option<Instant> {
        match self {
            Self::Verdict(since) => Some(since),
            Self::Client | Self::Upstream => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Head,
    /// The run of the replay buffer with this index.
    Replay(usize),
    Source,
    /// The last byte was given to the connection.
    Done,
}

/// One attempt to send the file.
pub(super) struct Attempt {
    envelope: Envelope,
    pub length: FileLength,
    pub step: Step,
    pub began: Instant,
    /// Bytes of the file that were given to the connection.
    pub(super) content: u64,
    pub(super) crc: Digest,
    /// [`Envelope::Raw`]: the last bytes, once all of them were read.
    held_back: Bytes,
    pub waiting: Waiting,
    /// When the last byte was given to the connection.
    pub(super) sent: Option<Instant>,
    /// Why the body was aborted.
    pub(super) failure: Option<CosError>,
}

impl Attempt {
    pub fn new(envelope: Envelope, length: FileLength) -> Self {
        Self {
            envelope,
            length,
            step: Step::Head,
            began: Instant::now(),
            content: 0,
            crc: Digest::new(CrcAlgorithm::Crc64Xz),
            held_back: Bytes::new(),
            waiting: Waiting::Upstream,
            sent: None,
            failure: None,
        }
    }

    /// Whether everything was given to the connection.
    pub(super) fn is_complete(&self) -> bool {
        self.step == Step::Done
    }

    /// The length in bytes of the request's body.
    pub fn body_length(&self) -> u64 {
        let around = match (&self.envelope, self.length) {
            (Envelope::Raw, _) => 0,
            (Envelope::Form(form), FileLength::Known(_)) => {
                form.head.len() + form.closing.len() + EPILOGUE.len()
            }
            (Envelope::Form(form), FileLength::Assumed(_)) => form.head.len() + form.closing.len(),
        };
        self.length.length() + around as u64
    }

    /// What precedes the file.
    pub fn head(&self) -> Bytes {
        match &self.envelope {
            Envelope::Form(form) => form.head.clone(),
            Envelope::Raw => Bytes::new(),
        }
    }

    /// The bytes to send when the file has these next.
    pub fn content(&mut self, bytes: Bytes) -> Result<Bytes, Aborted> {
        self.content += bytes.len() as u64;
        if self.content > self.length.length() {
            return self.fail(CosError::LengthMismatch {
                declared: self.length.length(),
                got: self.content,
            });
        }
        self.crc.update(&bytes);
        Ok(match self.envelope {
            Envelope::Form(_) => bytes,
            Envelope::Raw if self.content < self.length.length() => bytes,
            Envelope::Raw => std::mem::replace(&mut self.held_back, bytes),
        })
    }

    /// The last bytes to send, if the file has the announced length. This is the only place where an object, or a part of
    /// one, becomes complete.
    pub fn close(&mut self, end: &FileEnd) -> Result<Bytes, Aborted> {
        let epilogue = match self.length {
            FileLength::Known(length) if self.content == length => EPILOGUE,
            FileLength::Known(declared) => {
                return self.fail(CosError::LengthMismatch { declared, got: self.content });
            }
            FileLength::Assumed(length)
                if end.last && self.content + end.epilogue.len() as u64 == length =>
            {
                &end.epilogue[..]
            }
            FileLength::Assumed(_) => {
                return self.fail(CosError::NotLast { content: self.content });
            }
        };
        self.step = Step::Done;
        let now = Instant::now();
        self.sent = Some(now);
        self.waiting = Waiting::Verdict(now);
        Ok(match &self.envelope {
            Envelope::Form(form) if epilogue.is_empty() => form.closing.clone(),
            Envelope::Form(form) => [&form.closing[..], epilogue].concat().into(),
            Envelope::Raw => std::mem::take(&mut self.held_back),
        })
    }

    pub fn fail(&mut self, failure: CosError) -> Result<Bytes, Aborted> {
        self.failure = Some(failure);
        Err(Aborted)
    }
}
