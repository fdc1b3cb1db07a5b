//! What a client needs to post a file to COS itself.

use actix_web::{HttpRequest, HttpResponse, web};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::cos::form::Fields;
use crate::http::extract::schemas::Folder;
use crate::http::extract::{client, json};
use crate::http::problem::Problem;
use crate::http::state::Worker;
use crate::key::{self, Key, Values};
use crate::settings::Action;
use crate::wechat::wire::UploadLink;

/// A file that its client will post to COS itself.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UploadRequest {
    /// The object's path; without it, the template's.
    #[schema(value_type = Option<Key>)]
    path: Option<String>,
    /// For the template: the file's name,
    name: Option<String>,
    /// and the folder.
    #[schema(value_type = Option<Folder>)]
    dir: Option<String>,
    /// The object's type; without it, the one its name tells.
    content_type: Option<String>,
}

/// What a client needs to post a file to COS itself.
#[derive(Serialize, ToSchema)]
#[schema(as = UploadLink)]
struct UploadReply<'a> {
    /// Where the form goes.
    url: &'a str,
    /// `POST`
    method: &'static str,
    /// Name and value, in the order COS wants them; then the file.
    #[schema(value_type = Vec<[String; 2]>)]
    fields: Vec<(&'static str, &'a str)>,
    /// The name of the file's part.
    file_field: &'static str,
    /// The file's id once it is stored.
    file_id: &'a str,
    path: &'a str,
    /// RFC 3339, UTC; absent where the signature does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    expires_at: Option<String>,
}

/// `POST /v1/upload-links`
#[utoipa::path(
    post, path = "/v1/upload-links", operation_id = "upload_link", tag = "links to COS",
    summary = "What a client needs to post one file to COS itself",
    description = "Post `multipart/form-data` to `url`: `fields` in their order, then the file as `file_field`, then \
                   nothing more. The file is stored when COS answers 204 (or 200).",
    request_body = UploadRequest,
    responses((status = 200, description = "The form's address and fields", body = UploadReply))
)]
pub async fn create(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let client = client::identify(&request, &worker)?;
    client.may(Action::Link)?;
    let settings = &worker.shared.settings;
    let asked: UploadRequest = json::read(&request, payload, &worker, json::SHORT).await?;
    let name = asked.name.as_deref().unwrap_or_default();
    // Also where a path makes it idle.
    asked.dir.as_deref().map(key::folder).transpose()?;
    let key = match asked.path.as_deref().or(client.path.as_ref().map(Key::as_str)) {
        Some(path) => client.own_key(path)?,
        None => {
            let values = Values {
                client: &client.name,
                dir: asked.dir.as_deref(),
                name,
                now: Timestamp::now(),
                uuid: Uuid::now_v7(),
            };
            let prefix = client.prefix.as_deref().unwrap_or_default();
            worker.shared.template.render(&values, prefix)?
        }
    };
    let named = if name.is_empty() { key.as_str() } else { name };
    let declared = client.types.admit(asked.content_type.as_deref(), [named, key.as_str()])?;
    let content_type = client.types.unseen(&declared);
    let link = worker.wechat.upload_link(key.as_str()).await;
    let link = link.map_err(|error| Problem::from(error).about(key.as_str()))?;
    // A browser that posts elsewhere is as wrong as we would be.
    worker.shared.allowed_hosts.check(&link.url, &link.file_id, key.as_str())?;
    worker.wechat.forget_link(&link.file_id).await;
    let fields = Fields {
        key: key.as_str(),
        signature: link.authorization.expose_secret(),
        security_token: link.token.expose_secret(),
        file_id: link.cos_file_id.expose_secret(),
        content_type: settings.cos.send_content_type.then_some(&content_type),
    };
    Ok(HttpResponse::Ok().json(UploadReply {
        url: &link.url,
        method: "POST",
        fields: fields.ordered().collect(),
        file_field: "file",
        file_id: &link.file_id,
        path: key.as_str(),
        expires_at: signed_until(&link).map(json::timestamp),
    }))
}

/// The end of `q-sign-time=START;END`.
fn signed_until(link: &UploadLink) -> Option<Timestamp> {
    let pairs =
        link.authorization.expose_secret().split('&').filter_map(|pair| pair.split_once('='));
    let (_, times) = pairs.into_iter().find(|(name, _)| *name == "q-sign-time")?;
    let (_, end) = times.split_once(';')?;
    Timestamp::from_second(end.parse().ok()?).ok()
}
