//! When a request to COS's API is sent again, and how often.

use std::time::Duration;

use tokio::time::sleep;

use super::getauth::GetAuthError;
use super::sent_part::UploadEvent;
use crate::cos::error::CosError;

/// Attempts at one request.
const MAX_ATTEMPTS: u32 = 4;
/// Attempts that end because COS exceeds a time limit: each of them takes that long.
const MAX_TIMEOUTS: u32 = 2;
/// The longest back-off of `getauth` that is waited for. It is longer only after several failures.
const MAX_KEYS_WAIT: Duration = Duration::from_secs(1);

/// The attempts at one request.
pub(super) struct Retry<'a> {
    key: &'a str,
    observe: &'a dyn Fn(UploadEvent),
    failures: u32,
    timeouts: u32,
}

impl<'a> Retry<'a> {
    /// Of a request for the object `key`.
    pub fn new(key: &'a str, observe: &'a dyn Fn(UploadEvent)) -> Self {
        Self { key, observe, failures: 0, timeouts: 0 }
    }

    /// An attempt failed with `error`: waits until the next one. `false`: there is none.
    pub async fn pause(&mut self, error: &CosError) -> bool {
        self.failures += 1;
        self.timeouts += u32::from(matches!(error, CosError::Timeout { .. }));
        if self.failures == MAX_ATTEMPTS || self.timeouts == MAX_TIMEOUTS {
            return false;
        }
        let mut pause = Duration::from_millis(50 << self.failures).mul_f64(0.5 + fastrand::f64());
        if let CosError::Keys { retry_after, .. } = error {
            pause = pause.max(*retry_after);
        }
        tracing::info!(key = self.key, %error, ?pause, "COS failed, trying again");
        (self.observe)(UploadEvent::Replay(error.cause()));
        sleep(pause).await;
        true
    }
}

/// Makes a call for the object `key`, again while that may help.
pub(super) async fn retried<T>(
    key: &str,
    observe: &dyn Fn(UploadEvent),
    call: impl AsyncFn() -> Result<T, CosError>,
) -> Result<T, CosError> {
    let mut retry = Retry::new(key, observe);
    loop {
        match call().await {
            Err(error) if may_pass(&error) && retry.pause(&error).await => {}
            result => return result,
        }
    }
}

/// Whether the same request may succeed a short time later. Of refused keys the caller must know whether there are
/// others.
pub(super) fn may_pass(error: &CosError) -> bool {
    match error {
        CosError::Timeout { .. } => true,
        CosError::Keys { cause: GetAuthError::Timeout(_), .. } => false,
        CosError::Keys { retry_after, .. } => *retry_after <= MAX_KEYS_WAIT,
        error => error.is_transient() && !error.is_about_keys(),
    }
}
