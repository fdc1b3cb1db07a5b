//! The access log: one line per request, and the limit on lines for requests of unknown callers.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::Method;
use actix_web::rt;
use tracing::{Level, Span};

use super::request_context::RequestContext;
use super::request_span::Ended;
use crate::guard::policy::Client;
use crate::http::audit::{self, Target};
use crate::http::problem::Problem;
use crate::metrics::Stage;
use crate::telemetry::access::{AccessFields, key};
use crate::telemetry::audit::Audit;
use crate::telemetry::{batch_lines, cut};

/// Sealed URLs of resumable uploads have hundreds of characters that say nothing; the log has the upload's id instead.
const UPLOADS: &str = "/v1/uploads/";
const UPLOAD_ROUTE: &str = "/v1/uploads/{id}";

/// A request's path as the log has it: without the query, which may contain tickets and tokens.
pub fn logged_path(path: &str) -> String {
    // Behind slashes and dots, too, which the client or a proxy may have added.
    match path.trim_start_matches(['/', '.']).strip_prefix(&UPLOADS[1..]) {
        Some(id) if !id.is_empty() => [UPLOADS, "{id}"].concat(),
        _ => cut(path).to_owned(),
    }
}

/// One request's line in the access log.
pub struct AccessLine {
    pub span: Span,
    pub context: Rc<RequestContext>,
    pub method: Method,
    pub path: String,
    /// The route's pattern.
    pub route: Option<&'static str>,
    pub client: Option<Arc<Client>>,
    pub status: u16,
    pub took: Duration,
    pub problem: Option<Problem>,
    /// The request was refused because too many connections were open.
    pub refused: bool,
    /// A health check or a scrape of the metrics.
    pub is_probe: bool,
    /// `None` where the audit log is off.
    pub audit: Option<Arc<Audit>>,
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

/// To a tenth.
fn milliseconds(took: Duration) -> f64 {
    (took.as_micros() / 100) as f64 / 10.0
}

/// The line of an upload that is stored, and whose client was gone before it had a response: it has no other line.
pub fn write_without_response(context: &RequestContext, client: &Client) {
    let upload = &context.upload;
    let Some(stored) = upload.stored() else { return };
    if let Some(span) = &context.span {
        span.end(&Ended {
            route: span.route(),
            request_id: context.id.as_str(),
            client: Some(&client.name),
            road: upload.road(),
            attempts: upload.attempts(),
            bytes: Some(stored.bytes),
            ..Ended::default()
        });
    }
    tracing::info!(
        client = client.name.as_str(),
        remote = context.remote.map(tracing::field::display),
        bytes = stored.bytes,
        object = upload.object().as_deref(),
        road = upload.road(),
        attempts = upload.attempts(),
        send_ms = upload.stage(Stage::Send).map(milliseconds),
        verdict_ms = upload.stage(Stage::Verdict).map(milliseconds),
        hook_ms = upload.stage(Stage::Hook).map(milliseconds),
        "the file is stored; its client was gone before it had a response",
    );
}

impl AccessLine {
    /// Queues the line. A task writes it soon, in one batch with the lines of other requests, so that no response waits
    /// for the log.
    pub fn enqueue(self) {
        if let Some(span) = &self.context.span {
            span.end(&self.ended());
        }
        let is_first = QUEUE.with_borrow_mut(|lines| {
            lines.push(self);
            lines.len() == 1
        });
        if is_first {
            rt::spawn(async { batch_lines(|| QUEUE.take().iter().for_each(Self::write)) });
        }
    }

    fn ended(&self) -> Ended<'_> {
        let upload = &self.context.upload;
        let stored = upload.stored();
        Ended {
            route: self.route,
            status: Some(self.status),
            error: self.problem.as_ref().map(|problem| problem.code),
            request_id: self.context.id.as_str(),
            client: self.client.as_ref().map(|client| client.name.as_str()),
            road: upload.road(),
            attempts: upload.attempts(),
            bytes: stored.map(|stored| stored.bytes),
            files: stored.map(|stored| stored.files).filter(|files| *files > 1),
        }
    }

    /// Writes the line, if lines of its level are wanted, and its record in the audit log.
    fn write(&self) {
        let Self { span, context, method, route, client, problem, .. } = self;
        let (upload, problem) = (&context.upload, problem.as_ref());
        // A macro, since the level is a part of a line's static description.
        macro_rules! write_at {
            ($level:ident) => {
                if tracing::enabled!(Level::$level)
                    && let Some(text) = self.fields(Level::$level).end()
                {
                    span.in_scope(|| tracing::event!(Level::$level, "{text}"));
                }
            };
        }
        // The flood of refused connections has its own warning, once; see `connection_limit::LoadShedLog`.
        if self.is_probe || (self.refused && problem.is_some()) {
            write_at!(DEBUG);
        } else if client.is_none() && !UNKNOWN_CALLERS.with_borrow_mut(UnknownCallerLines::admit) {
            // Counted there. The audit log has no more lines than this one, so that it has the same bound.
            return;
        } else if problem.is_some_and(|problem| problem.code.status().is_server_error()) {
            write_at!(WARN);
        } else {
            write_at!(INFO);
        }
        if let (Some(audit), Some(problem), false) = (&self.audit, problem, upload.has_outcomes()) {
            let object = upload.object();
            let target =
                Target { method: cut(method.as_str()), route: *route, object: object.as_deref() };
            audit::refused(audit, context, client.as_deref(), &target, problem);
        }
    }

    fn fields(&self, level: Level) -> AccessFields {
        let Self { context, method, path, route, client, problem, .. } = self;
        let (upload, problem) = (&context.upload, problem.as_ref());
        let (object, stored) = (upload.object(), upload.stored());
        // The path may be in another spelling than [`logged_path`] knows.
        let path = if *route == Some(UPLOAD_ROUTE) { UPLOAD_ROUTE } else { path };
        let mut fields = AccessFields::begin(level, &self.span);
        fields.text(key!("client"), client.as_ref().map(|client| client.name.as_str()));
        fields.address(key!("remote"), context.remote);
        fields.text(key!("method"), Some(cut(method.as_str())));
        fields.text(key!("route"), *route);
        fields.text(key!("path"), Some(path));
        fields.number(key!("status"), Some(self.status));
        fields.text(key!("code"), problem.map(|problem| problem.code.name()));
        fields.text(key!("detail"), problem.map(|problem| cut(&problem.detail)));
        fields.milliseconds(key!("took_ms"), Some(self.took));
        fields.number(key!("bytes"), stored.map(|stored| stored.bytes));
        fields.number(key!("files"), stored.map(|stored| stored.files).filter(|files| *files > 1));
        fields.text(key!("object"), object.as_deref());
        fields.text(key!("road"), upload.road());
        fields.number(key!("attempts"), upload.attempts());
        fields.milliseconds(key!("link_ms"), upload.stage(Stage::Link));
        fields.milliseconds(key!("send_ms"), upload.stage(Stage::Send));
        fields.milliseconds(key!("verdict_ms"), upload.stage(Stage::Verdict));
        fields.milliseconds(key!("hook_ms"), upload.stage(Stage::Hook));
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cut_and_have_no_sealed_url() {
        for path in ["/v1/uploads/sealed", "//v1/uploads/sealed", "/./v1/uploads/sealed/x"] {
            assert_eq!(logged_path(path), "/v1/uploads/{id}");
        }
        for path in ["/v1/uploads", "/v1/uploads/", "/v1/files/v1/uploads/a.png", ""] {
            assert_eq!(logged_path(path), path);
        }
        assert_eq!(logged_path(&"é".repeat(1000)).len(), 1024);
    }
}
