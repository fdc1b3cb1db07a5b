//! File descriptors: how many this process may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For what is neither a client's connection nor an upload's: listener, event queues, log, Redis, files.
pub const RESERVE: usize = 64;

/// Raises the limit as far as we may, and says what it is then; `None`: there is none.
pub fn raise_nofile_limit() -> Option<usize> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Where it is refused, what we have has to do.
    let now =
        if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    now.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}
