//! The parts of an upload that COS has not confirmed yet: two at most, of which the later one is still being read.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use futures::future::LocalBoxFuture;

use super::sent_part::SentPart;
use crate::cos::error::CosError;

type Sending<'a> = LocalBoxFuture<'a, Result<SentPart, CosError>>;

/// The parts that were sent, and the one of which COS's response is awaited.
#[derive(Default)]
pub(super) struct SendingParts<'a> {
    sent: Vec<SentPart>,
    last: Option<Sending<'a>>,
}

impl<'a> SendingParts<'a> {
    /// Begins to send a part. Returns when all of it was read, as `is_read` says, or it was sent; and the part before it
    /// was sent.
    pub async fn begin(
        &mut self,
        part: impl Future<Output = Result<SentPart, CosError>> + 'a,
        is_read: impl Fn() -> bool,
    ) -> Result<(), CosError> {
        let mut part: Sending<'a> = Box::pin(part);
        let mut done = None;
        poll_fn(|cx| {
            let before = self.poll_last(cx)?;
            if done.is_none()
                && let Poll::Ready(result) = part.as_mut().poll(cx)
            {
                done = Some(result?);
            }
            match before {
                Poll::Ready(()) if done.is_some() || is_read() => Poll::Ready(Ok(())),
                _ => Poll::Pending,
            }
        })
        .await?;
        match done {
            Some(done) => self.sent.push(done),
            None => self.last = Some(part),
        }
        Ok(())
    }

    /// Runs `work` while the last part is sent. The error of either ends both.
    pub async fn poll_while<T>(
        &mut self,
        work: impl Future<Output = Result<T, CosError>>,
    ) -> Result<T, CosError> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            let _ = self.poll_last(cx)?;
            work.as_mut().poll(cx)
        })
        .await
    }

    /// Waits for the last part.
    pub async fn finish(mut self) -> Result<Vec<SentPart>, CosError> {
        self.confirm().await?;
        Ok(self.sent)
    }

    /// As [`Self::finish`]; afterwards, or after an error, [`Self::into_sent`] has the parts that COS has confirmed.
    pub async fn confirm(&mut self) -> Result<(), CosError> {
        poll_fn(|cx| self.poll_last(cx)).await
    }

    /// The confirmed parts, without a gap. Ends the request that is still sending one.
    pub fn into_sent(self) -> Vec<SentPart> {
        self.sent
    }

    fn poll_last(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CosError>> {
        if let Some(last) = &mut self.last {
            let result = ready!(Pin::new(last).poll(cx));
            self.last = None;
            self.sent.push(result?);
        }
        Poll::Ready(Ok(()))
    }
}
