//! The clock of COS: an upload whose body takes too long is refused, but only after all of it was received (public
//! reports of `UserNetworkTooSlow`; no documentation). The same holds for forms, whole objects and parts.

use std::time::{Duration, Instant};

use super::cos_response::Refusal;
use super::fault::{FaultKind, Rule};
use super::state::SandboxState;

pub struct UploadClock {
    head_received: Instant,
    limit: Option<Duration>,
}

impl UploadClock {
    /// Must be called when the request's head has been received.
    pub fn start(sandbox: &SandboxState) -> UploadClock {
        UploadClock { head_received: Instant::now(), limit: sandbox.upload_limit }
    }

    /// Must be called after the last byte of the body, and before anything is stored. `rule`: the fault that applies to
    /// the request.
    pub fn check(&self, rule: Option<&Rule>) -> Result<(), Refusal> {
        let over = self.limit.is_some_and(|limit| self.head_received.elapsed() > limit);
        if over || rule.is_some_and(|rule| rule.is(FaultKind::TooSlow)) {
            return Err(Refusal::new(400, "UserNetworkTooSlow", "The user network is too slow."));
        }
        Ok(())
    }
}
