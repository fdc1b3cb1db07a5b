//! `GET /v1/files/{path}?info=1`: what the storage says of a file, by a HEAD request for the object.

use actix_web::HttpResponse;
use actix_web::http::header::CACHE_CONTROL;
use jiff::fmt::rfc2822;
use serde::Serialize;
use utoipa::ToSchema;

use crate::cos::api::client::ObjectInfo;
use crate::cos::error::CosError;
use crate::http::extract::json;
use crate::http::problem::Problem;
use crate::http::state::Worker;
use crate::http::upload::by_api;
use crate::key::Key;
use crate::wechat::api::DEFAULT_LINK_MAX_AGE;
use crate::wechat::links::LinkRequest;

/// A stored file.
#[derive(Serialize, ToSchema)]
pub struct FileInfo<'a> {
    path: &'a str,
    /// `cloud://ENV.BUCKET/PATH`
    file_id: &'a str,
    /// Bytes.
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    content_type: Option<String>,
    /// As COS writes it, with its quotes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    etag: Option<String>,
    /// CRC-64/XZ of the file, decimal. A string, because it does not fit a JavaScript number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    crc64: Option<String>,
    /// RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    last_modified: Option<String>,
}

/// The response about the file `key`, which the client may read.
pub async fn respond(worker: &Worker, key: &Key) -> Result<HttpResponse, Problem> {
    let file_id = worker.wechat.file_id(key.as_str()).await?;
    let object = match &worker.api {
        Some(api) => {
            let client = by_api::client(api, &worker.wechat, &worker.shared.allowed_hosts).await?;
            // WeChat knows no object that has no file id, so that it cannot be downloaded either.
            client.head(key.as_str()).await?.filter(|object| object.file_id.is_some())
        }
        None => by_link(worker, key, &file_id).await?,
    };
    let object = object.ok_or_else(|| Problem::missing_file(key.as_str()))?;
    let modified = object.last_modified.and_then(|date| rfc2822::parse(&date).ok());
    let info = FileInfo {
        path: key.as_str(),
        file_id: &file_id,
        size: object.size,
        content_type: object.content_type,
        etag: object.etag,
        crc64: object.crc64,
        last_modified: modified.map(|time| json::timestamp(time.timestamp())),
    };
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(info))
}

/// By a temporary download link; `None` where there is no such object.
async fn by_link(worker: &Worker, key: &Key, file_id: &str) -> Result<Option<ObjectInfo>, Problem> {
    let request = LinkRequest { file_id: file_id.to_owned(), max_age: DEFAULT_LINK_MAX_AGE };
    let link = worker.wechat.download_link(&request).await;
    let link = link.map_err(|error| Problem::of_file(&error, key.as_str()))?;
    let target = worker.shared.allowed_hosts.check_download(&link.url)?;
    match worker.upstream.head(&target).await {
        Ok(headers) => Ok(Some(ObjectInfo::of(headers)?)),
        // The link is cached, and the object was deleted since.
        Err(CosError::Refused { status: 404, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
