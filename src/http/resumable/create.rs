//! `POST /v1/uploads`: creates an upload, and takes its first bytes where the request has some.

use actix_web::http::header::{CONTENT_LENGTH, LOCATION};
use actix_web::{HttpRequest, HttpResponse, web};
use jiff::Timestamp;

use super::append;
use super::protocol::{self, Metadata, UPLOAD_EXPIRES, UPLOAD_OFFSET};
use super::sealed_url::SealedUpload;
use super::upload::{OpenUpload, api_of, log_id, with_resumable};
use crate::cos::api::client::ObjectFields;
use crate::http::extract::{client, file_url};
use crate::http::middleware::idempotency::{self, KeyCheck};
use crate::http::middleware::server_timing::StageTimes;
use crate::http::problem::{Code, Problem};
use crate::http::state::Worker;
use crate::http::upload::by_api;
use crate::http::upload::request::target_path;
use crate::inbound::body::refuse_encoding;
use crate::inbound::error::InboundError;
use crate::settings::Action;

/// `POST /v1/uploads`: creates an upload.
pub async fn create(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let headers = request.headers();
    protocol::check_version(headers)?;
    let api = api_of(&worker)?;
    let client = client::identify(&request, &worker)?;
    client.may(Action::Upload)?;
    refuse_encoding(headers)?;
    let length = protocol::length_at_creation(headers)?;
    let metadata = Metadata::of(headers)?;
    let max_length = client.max_file_size;
    if length.is_some_and(|length| length > max_length) {
        return Err(InboundError::FileTooLarge(max_length).into());
    }
    let shared = &worker.shared;
    if shared.requests.is_closed() {
        return Err(Problem::draining());
    }
    let claim = match idempotency::check(&request, &worker, &client).await? {
        KeyCheck::Proceed(claim) => claim,
        KeyCheck::Replay(response) => return Ok(response),
    };
    let name = metadata.get(&["filename", "name"]).unwrap_or_default();
    let declared_type = metadata.get(&["filetype", "type"]);
    let (path, dir) = (metadata.get(&["path"]), metadata.get(&["dir"]));
    let uuid = claim.as_ref().map(|claim| claim.uuid(0));
    let target = target_path(&shared.template, &client, path, dir, name, uuid)?;
    let key = target.key;
    let declared = client.types.admit(declared_type, [name, key.as_str()])?;
    let content_type = client.types.without_content(&declared);

    let times = StageTimes::new(&shared.metrics);
    let ids = by_api::object_id(&worker, &api, &key, &times).await?;
    // Makes the client of the bucket, which the link names.
    api.client(ids.target.as_ref().map(|target| (target, key.as_str())))?;
    let id: [u8; 16] = rand::random();
    log_id(&id);
    let fields = ObjectFields {
        content_type: shared.settings.cos.send_content_type.then_some(content_type.as_str()),
        file_id: Some(&ids.metadata),
        ..ObjectFields::default()
    };
    let created = with_resumable(&worker, &api, async |at| {
        at.create(key.as_str(), &id, fields, length).await
    });
    let upload_id = created.await??;
    let expires = Timestamp::now() + shared.settings.resumable.expire_after;
    let sealed = SealedUpload {
        id,
        key: key.as_str().to_owned(),
        upload_id,
        file_id: ids.file_id,
        part_size: api.sizes().for_file(length.unwrap_or(max_length)).part,
        length,
        max_length,
        client: client.id.clone(),
        name: name.to_owned(),
        declared_type: declared_type.map(ToOwned::to_owned),
        content_type,
        metadata: metadata.raw.clone(),
        expires: expires.as_second(),
    };
    shared.metrics.resumable("created");
    let segment = shared.sealing_keys.seal(&sealed).ok_or_else(|| {
        Problem::new(Code::FieldsTooLarge, "the path and the metadata are too long for a URL")
    })?;
    let base = file_url::base(&request, shared);
    let location = format!("{base}/v1/uploads/{segment}");
    let upload = OpenUpload { sealed, key, client, api };

    let mut response = HttpResponse::Created();
    response
        .insert_header((LOCATION, location))
        .insert_header((UPLOAD_EXPIRES, protocol::http_date(upload.sealed.expires)));
    if length == Some(0) {
        append::add_stored(&mut response, &upload);
        response.insert_header((UPLOAD_OFFSET, "0"));
        shared.metrics.resumable("stored");
        shared.metrics.stored(0);
    } else if protocol::is_offset_stream(headers) && has_body(&request) {
        // A client that can send its first bytes again continues at the offset.
        let (at_cos, api) = (upload.at_cos(), upload.api.clone());
        let appended = append::append(&request, payload, &worker, upload, 0).await;
        let offset = match appended {
            Ok(appended) => {
                if appended.is_stored {
                    append::add_stored(&mut response, &appended.upload);
                }
                appended.offset
            }
            // More may be stored than is known here; the client then learns it by a HEAD.
            Err(problem) if problem.code.is_transient() => 0,
            Err(problem) => {
                // The client is not told of the upload, so nothing would continue or delete it.
                let ended = with_resumable(&worker, &api, async |at| at.terminate(&at_cos).await);
                if let Ok(Err(error)) = ended.await {
                    tracing::warn!(%error, "a refused upload could not be aborted; the sweep will");
                }
                return Err(problem);
            }
        };
        response.insert_header((UPLOAD_OFFSET, offset.to_string()));
    }
    let response = response.finish();
    Ok(match claim {
        Some(claim) => idempotency::record(claim, response),
        None => response,
    })
}

fn has_body(request: &HttpRequest) -> bool {
    request.headers().get(CONTENT_LENGTH).is_none_or(|length| length != "0")
}
