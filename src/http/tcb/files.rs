//! `/tcb/uploadfile`, `/tcb/batchdownloadfile` and `/tcb/batchdeletefile`.

use std::borrow::Cow;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use secrecy::ExposeSecret;
use serde_json::Value;

use super::error::TcbError;
use super::request::{Call, list, text};
use super::wire::{
    BatchDeleteReply, BatchDeleteRequest, BatchDownloadReply, BatchDownloadRequest, DeletedFile,
    LinkedFile, OK, Status, TcbResponse, UploadFileReply, UploadFileRequest,
};
use crate::http::extract::json as body;
use crate::http::middleware::request_context::RequestContext;
use crate::http::problem::Problem;
use crate::http::state::Worker;
use crate::http::{audit, deletion};
use crate::settings::Action;
use crate::wechat::api::DEFAULT_LINK_MAX_AGE;
use crate::wechat::error::FileError;
use crate::wechat::links::{DownloadLink, LinkRequest};

/// `/tcb/uploadfile`
#[utoipa::path(
    post, path = "/tcb/uploadfile", operation_id = "tcb_uploadfile", tag = "WeChat's own API",
    summary = "An upload link",
    request_body = UploadFileRequest,
    responses((status = 200, description = "The link, or WeChat's error", body = TcbResponse<UploadFileReply>))
)]
pub async fn upload_file(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> HttpResponse {
    upload_link(&request, payload, &worker).await.unwrap_or_else(TcbError::response)
}

/// `/tcb/batchdownloadfile`
#[utoipa::path(
    post, path = "/tcb/batchdownloadfile", operation_id = "tcb_batchdownloadfile", tag = "WeChat's own API",
    summary = "Download links of up to 1000 files (WeChat itself takes 50)",
    request_body = BatchDownloadRequest,
    responses((status = 200, description = "The links, or WeChat's error", body = TcbResponse<BatchDownloadReply>))
)]
pub async fn batch_download_file(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> HttpResponse {
    download_links(&request, payload, &worker).await.unwrap_or_else(TcbError::response)
}

/// `/tcb/batchdeletefile`
#[utoipa::path(
    post, path = "/tcb/batchdeletefile", operation_id = "tcb_batchdeletefile", tag = "WeChat's own API",
    summary = "Delete up to 1000 files (WeChat itself takes 50)",
    request_body = BatchDeleteRequest,
    responses((
        status = 200,
        description = "Each file's status, or WeChat's error",
        body = TcbResponse<BatchDeleteReply>,
    ))
)]
pub async fn batch_delete_file(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> HttpResponse {
    delete_files(&request, payload, &worker).await.unwrap_or_else(TcbError::response)
}

async fn upload_link(
    request: &HttpRequest,
    payload: web::Payload,
    worker: &Worker,
) -> Result<HttpResponse, TcbError> {
    let call = Call::read(request, payload, worker, Action::Link, body::SHORT_LIMIT).await?;
    let env = call.env(worker)?;
    let path = text(&call.body, "path")?;
    // For a client that is restricted to a folder the gateway's rules for paths apply, and the link is for the path
    // that was checked, in NFC. For other clients WeChat's rules apply.
    let path = match call.client.is_scoped() {
        true => Cow::Owned(call.client.upload_key(path).map_err(Problem::from)?.into_string()),
        false => {
            call.client.may_choose_paths().map_err(Problem::from)?;
            Cow::Borrowed(path)
        }
    };
    let link = worker.wechat.upload_link_in(env, &path).await?;
    let hosts = &worker.shared.allowed_hosts;
    hosts.check(&link.url, &link.file_id, &path).map_err(Problem::from)?;
    worker.wechat.invalidate_links(&[link.file_id.as_str()]).await;
    let context = RequestContext::of(request);
    context.upload.set_object(&path);
    audit::minted_link(worker, &context, &call.client, &path, &link.file_id);
    Ok(HttpResponse::Ok().json(UploadFileReply {
        errcode: 0,
        errmsg: OK,
        url: &link.url,
        token: link.token.expose_secret(),
        authorization: link.authorization.expose_secret(),
        file_id: &link.file_id,
        cos_file_id: link.cos_file_id.expose_secret(),
    }))
}

async fn download_links(
    request: &HttpRequest,
    payload: web::Payload,
    worker: &Worker,
) -> Result<HttpResponse, TcbError> {
    let call = Call::read(request, payload, worker, Action::Download, body::LONG_LIMIT).await?;
    let env = call.env(worker)?;
    let mut files = Vec::new();
    for item in list(&call.body, "file_list")? {
        let item = item.as_object().ok_or_else(|| TcbError::invalid("file_list"))?;
        let file_id = text(item, "fileid")?;
        let max_age = match item.get("max_age") {
            None | Some(Value::Null) => DEFAULT_LINK_MAX_AGE,
            Some(age) => match age.as_u64().filter(|age| (1..=u64::from(u32::MAX)).contains(age)) {
                Some(age) => Duration::from_secs(age),
                None => return Err(TcbError::invalid("max_age")),
            },
        };
        let wanted = LinkRequest { file_id: file_id.to_owned(), max_age };
        files.push((wanted, call.admit(worker, file_id).await?));
    }
    links_response(worker, env, &files).await
}

/// `file_list` with each file's own status. WeChat's response has no field for a link's expiry, so each link must live
/// as long as the request asks, and a cached one with less time left is not used. If all calls to WeChat failed, the
/// first error is returned instead.
async fn links_response(
    worker: &Worker,
    env: &str,
    files: &[(LinkRequest, Result<(), Status>)],
) -> Result<HttpResponse, TcbError> {
    let admitted = files.iter().filter(|(_, admitted)| admitted.is_ok());
    let admitted: Vec<_> = admitted.map(|(wanted, _)| wanted.clone()).collect();
    let mut links = statuses(worker.wechat.download_links(env, &admitted, true).await)?.into_iter();
    let files = files.iter().map(|(file, admitted)| {
        let link = admitted.clone().and_then(|()| links.next().unwrap_or_else(missing));
        linked_file(&file.file_id, link)
    });
    let body = BatchDownloadReply { errcode: 0, errmsg: OK, file_list: files.collect() };
    Ok(HttpResponse::Ok().json(body))
}

pub(super) fn linked_file(fileid: &str, link: Result<DownloadLink, Status>) -> LinkedFile<'_> {
    let (download_url, status, errmsg) = match link {
        Ok(link) => (link.url, 0, OK.to_owned()),
        Err((status, errmsg)) => (String::new(), status, errmsg),
    };
    LinkedFile { fileid, download_url, status, errmsg }
}

/// The status of a file that WeChat's response omits.
pub(super) fn missing<T>() -> Result<T, Status> {
    Err((-1, "system error".to_owned()))
}

async fn delete_files(
    request: &HttpRequest,
    payload: web::Payload,
    worker: &web::Data<Worker>,
) -> Result<HttpResponse, TcbError> {
    let call = Call::read(request, payload, worker, Action::Delete, body::LONG_LIMIT).await?;
    let env = call.env(worker)?;
    let mut files = Vec::new();
    for item in list(&call.body, "fileid_list")? {
        let file_id = item.as_str().ok_or_else(|| TcbError::invalid("fileid_list"))?;
        files.push((file_id.to_owned(), call.admit(worker, file_id).await?));
    }
    let admitted = files.iter().filter(|(_, admitted)| admitted.is_ok());
    let admitted: Vec<_> = admitted.map(|(file_id, _)| file_id.clone()).collect();
    let deleted = deletion::delete_for_back_end(request, worker, &call.client, env, admitted).await;
    let mut deleted = statuses(deleted)?.into_iter();
    let files = files.iter().map(|(file_id, admitted)| {
        let result = admitted.clone().and_then(|()| deleted.next().unwrap_or_else(missing));
        let (status, errmsg) = result.err().unwrap_or((0, OK.to_owned()));
        DeletedFile { fileid: file_id, status, errmsg }
    });
    let body = BatchDeleteReply { errcode: 0, errmsg: OK, delete_list: files.collect() };
    Ok(HttpResponse::Ok().json(body))
}

/// Each file's own status and message. Files are requested in several calls: if every call failed, the first error is
/// returned; if some did, their error is the status of their files.
pub(super) fn statuses<T>(
    results: Vec<Result<T, FileError>>,
) -> Result<Vec<Result<T, Status>>, TcbError> {
    if let Some(Err(FileError::Call(error))) = results.first()
        && results.iter().all(|result| matches!(result, Err(FileError::Call(_))))
    {
        return Err(error.clone().into());
    }
    let status = |error| match error {
        FileError::File { status, message, .. } => (status, message),
        FileError::Call(error) => {
            let error = TcbError::from(error);
            (error.errcode, error.errmsg)
        }
    };
    Ok(results.into_iter().map(|result| result.map_err(status)).collect())
}
