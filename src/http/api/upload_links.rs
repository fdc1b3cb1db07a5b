//! Upload links for clients that post a file to COS themselves.

use actix_web::{HttpRequest, HttpResponse, web};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::cos::form::Fields;
use crate::http::audit;
use crate::http::extract::schemas::Folder;
use crate::http::extract::{client, json};
use crate::http::middleware::request_context::RequestContext;
use crate::http::problem::Problem;
use crate::http::state::Worker;
use crate::http::upload::disposition;
use crate::key::{self, Key, Values};
use crate::settings::Action;

/// A file that the client will post to COS.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = UploadRequest)]
struct UploadLinkRequest {
    /// The object's path; default: generated from the template.
    #[schema(value_type = Option<Key>)]
    path: Option<String>,
    /// The file's name, for the template.
    name: Option<String>,
    /// The folder, for the template.
    #[schema(value_type = Option<Folder>)]
    dir: Option<String>,
    /// The object's type; default: from the extension of its name.
    content_type: Option<String>,
}

/// The form that the client posts to COS.
#[derive(Serialize, ToSchema)]
#[schema(as = UploadLink)]
struct UploadLinkResponse<'a> {
    /// Where to post the form.
    url: &'a str,
    /// `POST`
    method: &'static str,
    /// Names and values, in the order that COS requires; the file comes last.
    #[schema(value_type = Vec<[String; 2]>)]
    fields: Vec<(&'static str, &'a str)>,
    /// The name of the file's form field.
    file_field: &'static str,
    /// The file's id, valid once the file is stored.
    file_id: &'a str,
    path: &'a str,
    /// RFC 3339, UTC; absent if the signature does not contain it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    expires_at: Option<String>,
}

/// `POST /v1/upload-links`
#[utoipa::path(
    post, path = "/v1/upload-links", operation_id = "upload_link", tag = "links to COS",
    summary = "A link to post one file to COS directly",
    description = "Post `multipart/form-data` to `url`: `fields` in their order, then the file as `file_field`, and \
                   nothing after it. The file is stored when COS responds with 204 (or 200).",
    request_body = UploadLinkRequest,
    responses((status = 200, description = "The form's URL and fields", body = UploadLinkResponse))
)]
pub async fn create(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let client = client::identify(&request, &worker).await?;
    client.may(Action::Link)?;
    let settings = &worker.shared.settings;
    let wanted: UploadLinkRequest =
        json::read(&request, payload, &worker, json::SHORT_LIMIT).await?;
    let name = wanted.name.as_deref().unwrap_or_default();
    // Checked even if a path overrides it.
    wanted.dir.as_deref().map(key::folder).transpose()?;
    let key = match wanted.path.as_deref().or(client.path.as_ref().map(Key::as_str)) {
        Some(path) => client.upload_key(path)?,
        None => {
            let values = Values {
                client: &client.name,
                dir: wanted.dir.as_deref(),
                name,
                now: Timestamp::now(),
                uuid: Uuid::now_v7(),
            };
            let prefix = client.prefix.as_deref().unwrap_or_default();
            worker.shared.template.render(&values, prefix)?
        }
    };
    let file_name = if name.is_empty() { key.as_str() } else { name };
    let declared = client.types.admit(wanted.content_type.as_deref(), [file_name, key.as_str()])?;
    let content_type = client.types.without_content(&declared);
    let link = worker.wechat.upload_link(key.as_str()).await;
    let link = link.map_err(|error| Problem::from(error).with_path(key.as_str()))?;
    // The client may post only to the hosts that the gateway itself may post to.
    worker.shared.allowed_hosts.check(&link.url, &link.file_id, key.as_str())?;
    worker.wechat.invalidate_links(&[link.file_id.as_str()]).await;
    let context = RequestContext::of(&request);
    context.upload.set_object(key.as_str());
    audit::minted_link(&worker, &context, &client, key.as_str(), &link.file_id);
    let disposition = disposition::header(settings.upload.content_disposition, name);
    let fields = Fields {
        key: key.as_str(),
        signature: link.authorization.expose_secret(),
        security_token: link.token.expose_secret(),
        file_id: link.cos_file_id.expose_secret(),
        content_type: settings.cos.send_content_type.then_some(&content_type),
        content_disposition: disposition.as_deref(),
        cache_control: settings.upload.cache_control.as_deref(),
    };
    let expires_at = link.signed_for().and_then(|(_, end)| Timestamp::from_second(end).ok());
    Ok(HttpResponse::Ok().json(UploadLinkResponse {
        url: &link.url,
        method: "POST",
        fields: fields.ordered().collect(),
        file_field: "file",
        file_id: &link.file_id,
        path: key.as_str(),
        expires_at: expires_at.map(json::timestamp),
    }))
}
