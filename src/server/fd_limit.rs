//! The limit of file descriptors.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that neither a client's connection nor an upload takes: listener, event queues, log, Redis, files.
pub const RESERVE: usize = 64;

/// Raises the soft limit to the hard limit, where the system allows it, and returns the limit that then holds; `None`
/// where there is none.
pub fn raise_nofile_limit() -> Option<usize> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let raised =
        if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    raised.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}
