//! The log line of a request, and how many lines unknown callers may cause.

use std::cell::RefCell;
use std::time::Duration;

use actix_web::http::Method;
use actix_web::rt;
use tracing::Span;

use crate::http::problem::Problem;
use crate::telemetry;

/// Characters of a path that are worth a line of the log.
pub const LOGGED: usize = 1024;
/// A request's line in the log.
pub struct AccessLine {
    pub span: Span,
    pub method: Method,
    pub path: String,
    pub client: Option<String>,
    pub status: u16,
    pub took: Duration,
    pub problem: Option<Problem>,
    /// It came over a connection for which there was no place.
    pub refused: bool,
}

thread_local! {
    /// Lines that are to be written.
    static LINES: RefCell<Vec<AccessLine>> = const { RefCell::new(Vec::new()) };
}

/// Lines that one worker writes in a second of requests of unknown callers, refused or not: a stranger can have as many
/// answered as the network carries, of probes, pages and preflights, too, and must not fill the disk with them.
const STRANGERS_A_SECOND: u32 = 100;

thread_local! {
    static STRANGERS: RefCell<Strangers> = const { RefCell::new(Strangers { written: 0, omitted: 0, counts: false }) };
}

/// Requests of unknown callers in the current second.
struct Strangers {
    written: u32,
    omitted: u32,
    /// A second has begun that will be ended by a task.
    counts: bool,
}

impl Strangers {
    /// Whether one more is written.
    fn admit(&mut self) -> bool {
        if !std::mem::replace(&mut self.counts, true) {
            rt::spawn(async {
                rt::time::sleep(Duration::from_secs(1)).await;
                let ended = STRANGERS.replace(Self { written: 0, omitted: 0, counts: false });
                if ended.omitted > 0 {
                    tracing::warn!(
                        requests = ended.omitted,
                        "more requests of unknown callers were answered; their lines are left out"
                    );
                }
            });
        }
        let room = self.written < STRANGERS_A_SECOND;
        if room {
            self.written += 1
        } else {
            self.omitted += 1
        }
        room
    }
}

impl AccessLine {
    /// Writes it soon, with those of all who are answered now: no reply waits for it.
    pub fn post(self) {
        let is_first = LINES.with_borrow_mut(|lines| {
            lines.push(self);
            lines.len() == 1
        });
        if is_first {
            rt::spawn(async {
                telemetry::batch_lines(|| LINES.take().iter().for_each(Self::write))
            });
        }
    }

    fn write(&self) {
        let Self { span, method, path, client, status, took, problem, refused } = self;
        let (client, _entered) = (client.as_deref(), span.enter());
        match problem {
            // That there is a flood was said once.
            Some(problem) if *refused => {
                tracing::debug!(%method, path, status, ?took, code = problem.code.name());
            }
            _ if client.is_none() && !STRANGERS.with_borrow_mut(Strangers::admit) => {}
            Some(problem) if problem.code.status().is_server_error() => {
                tracing::warn!(%method, path, client, status, ?took, code = problem.code.name(), detail = problem.detail);
            }
            Some(problem) => {
                tracing::info!(%method, path, client, status, ?took, code = problem.code.name(), detail = problem.detail);
            }
            None => tracing::info!(%method, path, client, status, ?took),
        }
    }
}
