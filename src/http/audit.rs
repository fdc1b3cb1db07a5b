//! What the audit log is told of requests. Costs nothing where `telemetry.audit` is off.

use actix_web::HttpRequest;

use crate::guard::policy::Client;
use crate::http::middleware::request_context::RequestContext;
use crate::http::problem::{Code, Problem};
use crate::http::response::outcome::Stored;
use crate::http::state::Worker;
use crate::metrics::routes::RouteMetrics;
use crate::telemetry::audit::{Audit, Event, Record};
use crate::telemetry::cut;

/// A file is stored. If the back end refuses it then, a record of [`refused`] follows.
pub fn stored(worker: &Worker, context: &RequestContext, client: &Client, file: &Stored) {
    let (object, file_id, size) = (file.key.as_str(), file.file_id.as_str(), Some(file.size));
    write(&worker.shared.audit, Event::Stored, context, Some(client), |record| Record {
        object,
        file_id,
        size,
        ..record
    });
}

/// Files are deleted, by their ids and paths.
pub fn deleted(worker: &Worker, context: &RequestContext, client: &Client, files: &[(&str, &str)]) {
    for &(file_id, object) in files {
        write(&worker.shared.audit, Event::Deleted, context, Some(client), |record| Record {
            object,
            file_id,
            ..record
        });
    }
}

/// A ticket is minted for the user `sub`.
pub fn minted_ticket(
    worker: &Worker,
    context: &RequestContext,
    client: &Client,
    sub: Option<&str>,
) {
    write(&worker.shared.audit, Event::Minted, context, Some(client), |record| Record {
        minted: Some("ticket"),
        minted_for: sub.unwrap_or_default(),
        ..record
    });
}

/// A client got a link with which it can store a file itself.
pub fn minted_link(
    worker: &Worker,
    context: &RequestContext,
    client: &Client,
    object: &str,
    file_id: &str,
) {
    write(&worker.shared.audit, Event::Minted, context, Some(client), |record| Record {
        minted: Some("upload_link"),
        object,
        file_id,
        ..record
    });
}

/// A file of a request was refused for what its client may do, its limits included; `object` is its path, if it had one.
/// The request itself then has no such record.
pub fn refused_file(
    worker: &Worker,
    request: &HttpRequest,
    context: &RequestContext,
    client: &Client,
    object: Option<&str>,
    problem: &Problem,
) {
    let route = request.app_data::<RouteMetrics>().map(RouteMetrics::name);
    let target = Target { method: cut(request.method().as_str()), route, object };
    refused(&worker.shared.audit, context, Some(client), &target, problem);
}

/// What a refused request wanted.
pub struct Target<'a> {
    pub method: &'a str,
    /// The route's pattern.
    pub route: Option<&'static str>,
    /// The file's path.
    pub object: Option<&'a str>,
}

/// A request was refused for what its client may do, its limits included. Other problems are in the log alone.
pub fn refused(
    audit: &Audit,
    context: &RequestContext,
    client: Option<&Client>,
    target: &Target<'_>,
    problem: &Problem,
) {
    if !is_refusal(problem.code) {
        return;
    }
    write(audit, Event::Refused, context, client, |record| Record {
        method: Some(target.method),
        route: target.route,
        object: target.object.unwrap_or_default(),
        code: Some(problem.code.name()),
        ..record
    });
}

fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::Unauthenticated
            | Code::NotAllowed
            | Code::PathNotAllowed
            | Code::OriginNotAllowed
            | Code::FileTooLarge
            | Code::TooManyFiles
            | Code::TypeNotAllowed
            | Code::RefusedByHook
            | Code::RateLimited
            | Code::TotalQuotaExceeded
            | Code::DailyQuotaExceeded
    )
}

fn write<'a>(
    audit: &Audit,
    event: Event,
    context: &'a RequestContext,
    client: Option<&'a Client>,
    complete: impl FnOnce(Record<'a>) -> Record<'a>,
) {
    if !audit.is_on() {
        return;
    }
    let trace_id = context.trace.map(|trace| trace.trace_id_text());
    let record = complete(Record {
        client: client.map(|client| client.name.as_str()).unwrap_or_default(),
        sub: client.and_then(Client::user).unwrap_or_default(),
        remote: context.remote,
        ..Record::new(event, context.id.as_str())
    });
    audit.write(&Record { trace_id: trace_id.as_deref(), ..record });
}
