//! `POST /v1/uploads`: creates an upload, and takes its first bytes where the request has some.

use std::rc::Rc;

use actix_web::http::header::{CONTENT_LENGTH, LOCATION};
use actix_web::{HttpRequest, HttpResponse, web};
use jiff::Timestamp;

use super::at_cos::NewUpload;
use super::body::refuse_beyond;
use super::protocol::{self, Metadata, UPLOAD_EXPIRES, UPLOAD_OFFSET, http_date, invalid};
use super::report::{Counted, Reporter};
use super::sealed_url::{Place, SealedUpload};
use super::upload::{OpenUpload, Progress, Road, log_id};
use super::{append, at_cos, at_gateway, by_road};
use crate::http::extract::{client, file_url, preconditions};
use crate::http::middleware::idempotency::{self, KeyCheck};
use crate::http::middleware::request_context::RequestContext;
use crate::http::problem::{Code, Problem};
use crate::http::quota;
use crate::http::state::Worker;
use crate::http::upload::metadata;
use crate::http::upload::request::target_path;
use crate::inbound::body::{Body, announced_length, refuse_encoding};
use crate::inbound::error::InboundError;
use crate::inbound::raw;
use crate::quota::quotas::Lifetime;
use crate::settings::Action;

/// `POST /v1/uploads`: creates an upload.
pub async fn create(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let headers = request.headers();
    protocol::check_version(headers)?;
    protocol::refuse_concatenation(headers)?;
    let road = Road::of(&worker)?;
    let client = client::identify(&request, &worker).await?;
    client.may(Action::Upload)?;
    refuse_encoding(headers)?;
    preconditions::refuse(headers)?;
    let length = protocol::length_at_creation(headers)?;
    let told = Metadata::of(headers)?;
    let max_length = by_road::max_length(&worker, &road, client.max_file_size);
    if length.is_some_and(|length| length > max_length) {
        return Err(InboundError::FileTooLarge(max_length).into());
    }
    let shared = &worker.shared;
    let context = RequestContext::of(&request);
    context.is_upload(&request);
    if shared.requests.is_closed() {
        return Err(Problem::draining());
    }
    let claim = match idempotency::check(&request, &worker, &client).await? {
        KeyCheck::Proceed(claim) => claim,
        KeyCheck::Replay(response) => return Ok(response),
    };
    let name = told.get(&["filename", "name"]).unwrap_or_default();
    let declared_type = told.get(&["filetype", "type"]);
    let (path, dir) = (told.get(&["path"]), told.get(&["dir"]));
    // Checked here, since it is sent to the back end when the file is stored.
    metadata::of(shared, told.others())?;
    let named = claim.as_ref().map(|claim| (claim.uuid(0), claim.first_used()));
    let mut target = target_path(&shared.template, &client, path, dir, name, named)?;
    let declared = client.types.admit(declared_type, [name, target.key.as_str()])?;
    let content_type = client.types.without_content(&declared);

    let id: [u8; 16] = rand::random();
    log_id(&id);
    let slot = shared.limits.take_slot(&client)?;
    let has_bytes = protocol::is_offset_stream(headers) && has_body(&request);
    // By COS's API an empty file is stored when it is created.
    let payload = match (&road, length) {
        (Road::Api(_), Some(0)) => {
            if has_bytes {
                let body = Body::new(payload.into_inner(), shared.settings.upload.idle_timeout);
                refuse_beyond(0, raw::content(body), announced_length(headers)).await?;
            }
            None
        }
        _ => Some(payload),
    };
    let expires = Timestamp::now() + shared.settings.resumable.expire_after;
    let lifetime = Lifetime::Until(id, expires.as_second());
    let wanted = quota::one_file(length, max_length);
    let reservation = quota::reserve(&request, &worker, &client, wanted, lifetime).await?;
    // A length that is told later is limited to what was reserved.
    let max_length =
        reservation.as_ref().map_or(max_length, |quota| max_length.min(quota.granted().bytes));
    let place = match (&road, length) {
        (Road::Api(api), _) => {
            let content_type = &content_type;
            let path = &mut target;
            let new = NewUpload { id: &id, path, content_type, name, length, max_length };
            let times = context.stage_times(&shared.metrics);
            let created = at_cos::create(&worker, api, new, &times).await;
            context.upload.add_times(&times);
            created?
        }
        (Road::Form, Some(length)) => {
            at_gateway::create(&worker, id, length, &client.id, slot.memory())?;
            Place::Gateway { is_key_unique: target.unique }
        }
        (Road::Form, None) => {
            return Err(invalid("`Upload-Defer-Length` needs COS's API: cos.via = \"api\""));
        }
    };
    let sealed = SealedUpload {
        id,
        key: target.key.as_str().to_owned(),
        place,
        length,
        max_length,
        client: client.id.clone(),
        name: name.to_owned(),
        declared_type: declared_type.map(ToOwned::to_owned),
        content_type,
        metadata: told.raw.clone(),
        expires: expires.as_second(),
    };
    shared.metrics.resumable("created");
    let segment = shared.sealing_keys.seal(&sealed);
    let upload = Rc::new(OpenUpload { sealed, key: target.key, client, road });
    let Some(segment) = segment else {
        discard(&worker, &upload).await;
        let detail = "the path and the metadata are too long for a URL";
        return Err(Problem::new(Code::FieldsTooLarge, detail));
    };
    let base = file_url::base(&request, shared);
    let mut response = HttpResponse::Created();
    response
        .insert_header((LOCATION, format!("{base}/v1/uploads/{segment}")))
        .insert_header((UPLOAD_EXPIRES, http_date(by_road::expires(&worker, &upload))));
    match payload {
        // COS has it.
        None => {
            if let Progress::Stored(file) = by_road::progress(&worker, &upload, false).await? {
                let times = context.stage_times(&shared.metrics);
                let reporter = Reporter::new(&request, &worker, &upload);
                let told = reporter.report(&file, Counted::New, &times).await;
                context.upload.add_times(&times);
                told?;
                file.add_id_to(&mut response);
            }
            response.insert_header((UPLOAD_OFFSET, "0"));
        }
        // A client that can send its first bytes again continues at the offset.
        Some(payload) if has_bytes || length == Some(0) => {
            let appended = append::append(&request, payload, &worker, &upload, 0, slot).await;
            let offset = match appended {
                Ok(Progress::Open { offset, .. }) => offset,
                Ok(Progress::Stored(file) | Progress::Unreported(file)) => {
                    file.add_id_to(&mut response);
                    file.size
                }
                // More may be stored than is known here; the client then learns it by a HEAD. One whose connection broke
                // off does not learn the URL.
                Err(problem) if is_continued(&problem) && has_bytes => 0,
                Err(problem) => {
                    discard(&worker, &upload).await;
                    return Err(append::retryable(problem));
                }
            };
            response.insert_header((UPLOAD_OFFSET, offset.to_string()));
        }
        Some(_) => {}
    }
    if let Some(reservation) = reservation {
        reservation.detach();
    }
    let response = response.finish();
    Ok(match claim {
        Some(claim) => idempotency::record(claim, response),
        None => response,
    })
}

/// Whether the client can continue its upload after `problem`.
fn is_continued(problem: &Problem) -> bool {
    problem.code.is_transient() && problem.code != Code::TruncatedBody
}

/// Ends an upload of which the client is not told, so that nothing would continue or end it.
async fn discard(worker: &Worker, upload: &OpenUpload) {
    if let Err(problem) = by_road::end(worker, upload).await {
        let detail = problem.detail.as_str();
        tracing::warn!(detail, "a refused upload could not be ended; the sweep will");
    }
}

fn has_body(request: &HttpRequest) -> bool {
    request.headers().get(CONTENT_LENGTH).is_none_or(|length| length != "0")
}
