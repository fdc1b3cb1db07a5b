//! The access log: one line per request, and the limit on lines for requests of unknown callers.

use std::cell::RefCell;
use std::time::Duration;

use actix_web::http::Method;
use actix_web::rt;
use tracing::Span;

use crate::http::problem::Problem;
use crate::telemetry;

/// A longer path is cut to this many characters in the log.
const MAX_LOGGED_PATH: usize = 1024;
/// Sealed URLs of resumable uploads have hundreds of characters that say nothing; the log has the upload's id instead.
const UPLOADS: &str = "/v1/uploads/";

/// A request's path as the log has it: without the query, which may contain tickets and tokens.
pub fn logged_path(path: &str) -> String {
    if path.len() > UPLOADS.len() && path.starts_with(UPLOADS) {
        return [UPLOADS, "{id}"].concat();
    }
    path.chars().take(MAX_LOGGED_PATH).collect()
}

/// One request's line in the access log.
pub struct AccessLine {
    pub span: Span,
    pub method: Method,
    pub path: String,
    pub client: Option<String>,
    pub status: u16,
    pub took: Duration,
    pub problem: Option<Problem>,
    /// The request was refused because too many connections were open.
    pub refused: bool,
}

thread_local! {
    /// Lines that wait for the next write; see [`AccessLine::enqueue`].
    static QUEUE: RefCell<Vec<AccessLine>> = const { RefCell::new(Vec::new()) };
}

/// Lines per second and worker for requests without a valid credential, whether refused or not. Unknown clients can
/// send probes, pages and preflights as fast as the network carries them, and must not fill the disk.
const UNKNOWN_CALLER_LINES_PER_SECOND: u32 = 100;

thread_local! {
    static UNKNOWN_CALLERS: RefCell<UnknownCallerLines> = const { RefCell::new(UnknownCallerLines::new()) };
}

/// Lines for requests of unknown callers within the current second.
struct UnknownCallerLines {
    written: u32,
    omitted: u32,
    /// A task will reset the counts when the second is over.
    reset_scheduled: bool,
}

impl UnknownCallerLines {
    const fn new() -> Self {
        Self { written: 0, omitted: 0, reset_scheduled: false }
    }

    /// Counts one line, and returns whether it may be written.
    fn admit(&mut self) -> bool {
        if !std::mem::replace(&mut self.reset_scheduled, true) {
            rt::spawn(async {
                rt::time::sleep(Duration::from_secs(1)).await;
                let last = UNKNOWN_CALLERS.replace(Self::new());
                if last.omitted > 0 {
                    tracing::warn!(
                        requests = last.omitted,
                        "more unauthenticated requests got a response; their lines are left out"
                    );
                }
            });
        }
        let may_write = self.written < UNKNOWN_CALLER_LINES_PER_SECOND;
        if may_write {
            self.written += 1
        } else {
            self.omitted += 1
        }
        may_write
    }
}

impl AccessLine {
    /// Queues the line. A task writes it soon, in one batch with the lines of other requests, so that no response waits
    /// for the log.
    pub fn enqueue(self) {
        let is_first = QUEUE.with_borrow_mut(|lines| {
            lines.push(self);
            lines.len() == 1
        });
        if is_first {
            rt::spawn(async {
                telemetry::batch_lines(|| QUEUE.take().iter().for_each(Self::write))
            });
        }
    }

    fn write(&self) {
        let Self { span, method, path, client, status, took, problem, refused } = self;
        let (client, _entered) = (client.as_deref(), span.enter());
        match problem {
            // The flood has its own warning, once; see `connection_limit::LoadShedLog`.
            Some(problem) if *refused => {
                tracing::debug!(%method, path, status, ?took, code = problem.code.name());
            }
            _ if client.is_none()
                && !UNKNOWN_CALLERS.with_borrow_mut(UnknownCallerLines::admit) => {}
            Some(problem) if problem.code.status().is_server_error() => {
                let (code, detail) = (problem.code.name(), problem.detail.as_str());
                tracing::warn!(%method, path, client, status, ?took, code, detail);
            }
            Some(problem) => {
                let (code, detail) = (problem.code.name(), problem.detail.as_str());
                tracing::info!(%method, path, client, status, ?took, code, detail);
            }
            None => tracing::info!(%method, path, client, status, ?took),
        }
    }
}
