//! What is checked of a request's bytes before any of them is kept: where they go, how many they may be, their checksum,
//! and the file's type by its first bytes.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;

use super::checksum::Checksum;
use super::protocol::invalid;
use super::sessions::SessionGuard;
use super::upload::OpenUpload;
use crate::cos::error::CosError;
use crate::file_stream::{FileEvent, Source};
use crate::http::problem::{Code, Problem};
use crate::http::state::Worker;
use crate::http::upload::request::sniffed;
use crate::inbound::error::InboundError;
use crate::inbound::limit::limited_by;
use crate::memory::budget::Share;

/// How long a request that is to end may give what has arrived, and how long it may pause. Up to some megabytes wait in
/// its socket. A client that still sends is to learn soon that its request has ended.
const REST_LIMIT: Duration = Duration::from_secs(2);
const REST_IDLE: Duration = Duration::from_millis(100);
/// A file's type is checked once so many of its bytes are there, or all.
pub const MAGIC: u64 = 4096;

/// A request's body.
pub struct IncomingBytes {
    pub source: Source,
    /// Its length, if it was announced.
    pub announced: Option<u64>,
    /// Where the client says that it belongs.
    pub offset: u64,
    /// The file's length, if it is known.
    pub length: Option<u64>,
    pub checksum: Option<Checksum>,
}

/// Where an upload is.
pub struct Position {
    pub offset: u64,
    pub length: Option<u64>,
    /// The bytes before `offset`: all of them, if they are fewer than [`MAGIC`].
    pub start: Vec<Bytes>,
}

impl IncomingBytes {
    /// The file is stored. That is told again where the response to its last bytes was lost; further bytes are refused.
    pub async fn check_stored(self, size: u64) -> Result<(), Problem> {
        match self.offset == size {
            true => refuse_beyond(size, self.source, self.announced).await,
            false => Err(mismatch(self.offset, size)),
        }
    }

    /// The bytes, if they may be appended at `at`.
    pub async fn checked(
        self,
        worker: &Worker,
        upload: &OpenUpload,
        at: &Position,
        share: &Arc<Share>,
        running: Rc<SessionGuard>,
    ) -> Result<Source, Problem> {
        let Self { source, announced, offset, length, checksum } = self;
        let max_length = upload.sealed.max_length;
        if at.offset != offset {
            return Err(mismatch(offset, at.offset));
        }
        if length.is_some() && at.length != length {
            return Err(invalid("`Upload-Length` is not that of the upload"));
        }
        let declared = at.length;
        let too_long = move |got| match declared {
            Some(declared) => InboundError::LengthMismatch { declared, got },
            None => InboundError::FileTooLarge(max_length),
        };
        let most = declared.unwrap_or(max_length);
        let end = announced.map(|announced| offset.saturating_add(announced));
        if let Some(got) = end.filter(|end| *end > most) {
            return Err(too_long(got).into());
        }
        let source = interrupted(source, running.superseded(), worker.shared.shutdown.clone());
        let source = match checksum {
            Some(checksum) => checksum.verified(source, share).await?,
            None => source,
        };
        let source = limited_by(source, most - offset, move |more| too_long(offset + more));
        let is_decidable = end.is_none_or(|end| end >= MAGIC || Some(end) == at.length);
        let source = match offset < MAGIC && is_decidable {
            true => check_type(upload, source, &at.start).await?,
            false => source,
        };
        worker.shared.metrics.resumable(if offset == 0 { "begun" } else { "continued" });
        Ok(followed(source, offset, running))
    }
}

/// Refuses bytes beyond the end of a file of `size` bytes.
pub async fn refuse_beyond(
    size: u64,
    mut source: Source,
    announced: Option<u64>,
) -> Result<(), Problem> {
    let beyond = |bytes: u64| {
        let got = size.saturating_add(bytes);
        Err(CosError::LengthMismatch { declared: size, got }.into())
    };
    if let Some(bytes) = announced.filter(|bytes| *bytes > 0) {
        return beyond(bytes);
    }
    while let Some(event) = source.next().await {
        match event.map_err(CosError::Source)? {
            FileEvent::Content(bytes) if bytes.is_empty() => {}
            FileEvent::Content(bytes) => return beyond(bytes.len() as u64),
            FileEvent::End(_) => break,
        }
    }
    Ok(())
}

/// Checks the file's first bytes: those of `start`, and the next ones.
async fn check_type(
    upload: &OpenUpload,
    source: Source,
    start: &[Bytes],
) -> Result<Source, Problem> {
    let (sealed, types) = (&upload.sealed, &upload.client.types);
    let names = [sealed.name.as_str(), sealed.key.as_str()];
    let declared = types.admit(sealed.declared_type.as_deref(), names)?;
    let length: usize = start.iter().map(Bytes::len).sum();
    let start: Vec<_> = start.iter().map(|bytes| Ok(FileEvent::Content(bytes.clone()))).collect();
    let whole: Source = Box::pin(stream::iter(start).chain(source));
    let (whole, magic) = sniffed(whole, types.look(&declared)).await?;
    let found = types.confirm(&declared, magic)?;
    // Its type was decided, and with COS's API sent, before the first byte was known.
    if found != sealed.content_type {
        let detail = format!(
            "the file is declared as {}, but its first bytes are those of a type that browsers execute",
            sealed.content_type
        );
        return Err(Problem::new(Code::TypeNotAllowed, detail));
    }
    Ok(skipped(whole, length))
}

/// `source`, which tells its session how far it has come.
fn followed(source: Source, mut offset: u64, running: Rc<SessionGuard>) -> Source {
    Box::pin(source.inspect(move |event| {
        if let Ok(FileEvent::Content(bytes)) = event {
            offset += bytes.len() as u64;
            running.set_offset(offset);
        }
    }))
}

fn mismatch(asked: u64, stored: u64) -> Problem {
    let detail = format!("`Upload-Offset` is {asked}, and {stored} bytes are stored");
    Problem::new(Code::OffsetMismatch, detail)
}

/// `source` without its first bytes.
fn skipped(source: Source, mut bytes: usize) -> Source {
    Box::pin(source.filter_map(move |event| {
        let rest = match event {
            Ok(FileEvent::Content(mut content)) => {
                let skip = bytes.min(content.len());
                bytes -= skip;
                let rest = content.split_off(skip);
                (!rest.is_empty()).then_some(Ok(FileEvent::Content(rest)))
            }
            other => Some(other),
        };
        std::future::ready(rest)
    }))
}

/// `source`, which ends with an error when another request continues the upload, or the gateway shuts down. What has
/// arrived by then is given still: it need not be sent again.
fn interrupted(
    mut source: Source,
    superseded: CancellationToken,
    shutdown: CancellationToken,
) -> Source {
    let mut cause = Box::pin(async move {
        tokio::select! {
            () = superseded.cancelled() => InboundError::Superseded,
            () = shutdown.cancelled() => InboundError::Draining,
        }
    });
    // With the error, until when the rest may arrive, and until when its next bytes must.
    let mut interrupted: Option<(InboundError, Instant, Pin<Box<Sleep>>)> = None;
    let mut is_waiting = false;
    Box::pin(stream::poll_fn(move |cx| {
        if interrupted.is_none()
            && let Poll::Ready(error) = cause.as_mut().poll(cx)
        {
            interrupted = Some((error, Instant::now() + REST_LIMIT, Box::pin(sleep(REST_IDLE))));
        }
        let Some((error, until, idle)) = &mut interrupted else {
            return source.as_mut().poll_next(cx);
        };
        let failed = || Poll::Ready(Some(Err(error.clone().into())));
        let now = Instant::now();
        if now >= *until {
            return failed();
        }
        if let Poll::Ready(next) = source.as_mut().poll_next(cx) {
            is_waiting = false;
            return Poll::Ready(next);
        }
        // Storing the bytes before may have taken longer; that is no pause of the client's.
        if !std::mem::replace(&mut is_waiting, true) {
            idle.as_mut().reset(now + REST_IDLE);
        }
        ready!(idle.as_mut().poll(cx));
        failed()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The socket is read when bytes are asked for, so they are there only at the second look.
    #[tokio::test]
    async fn what_has_arrived_is_given_however_long_storing_takes() {
        let mut bytes = (0..4u8).map(|byte| Bytes::copy_from_slice(&[byte])).collect::<Vec<_>>();
        bytes.reverse();
        let mut is_asked = false;
        let source: Source = Box::pin(stream::poll_fn(move |cx| {
            is_asked = !is_asked;
            if is_asked && !bytes.is_empty() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match bytes.pop() {
                Some(bytes) => Poll::Ready(Some(Ok(FileEvent::Content(bytes)))),
                None => Poll::Pending,
            }
        }));
        let superseded = CancellationToken::new();
        let mut source = interrupted(source, superseded.clone(), CancellationToken::new());
        superseded.cancel();
        for expected in 0..4 {
            let Some(Ok(FileEvent::Content(bytes))) = source.next().await else {
                panic!("byte {expected} is lost");
            };
            assert_eq!(bytes[0], expected);
            sleep(REST_IDLE * 2).await;
        }
        assert!(source.next().await.is_some_and(|event| event.is_err()));
    }
}
