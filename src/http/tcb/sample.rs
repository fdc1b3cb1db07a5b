//! `GET /?cloudid=FILEID`, as the vendor's PHP sample serves it.

use std::time::Duration;

use actix_web::guard::GuardContext;
use actix_web::{HttpRequest, HttpResponse, web};

use super::error::TcbError;
use super::files::{linked_file, missing, statuses};
use super::request::client_for;
use super::wire::{BatchDownloadReply, OK, TcbResponse};
use crate::http::extract::file_ref::{check_scope, path_of};
use crate::http::extract::{client, query};
use crate::http::problem::Problem;
use crate::http::state::Worker;
use crate::settings::{Action, LinkAccess};
use crate::wechat::links::LinkRequest;

/// The lifetime of a link in the vendor's PHP sample.
const SAMPLE_LIFE: Duration = Duration::from_secs(86_400);

/// `GET /?cloudid=FILEID`
#[utoipa::path(
    get, path = "/", operation_id = "sample", tag = "WeChat's own API",
    summary = "A file's download link, as the vendor's PHP sample returns it",
    params(("cloudid" = String, Query, description = "The file's id")),
    responses((status = 200, description = "The link, or WeChat's error; a page when `cloudid` is empty", content(
        (TcbResponse<BatchDownloadReply> = "application/json"),
        (String = "text/html"),
    )))
)]
pub async fn sample(request: HttpRequest, worker: web::Data<Worker>) -> HttpResponse {
    sample_link(&request, &worker).await.unwrap_or_else(TcbError::response)
}

/// Whether a request for `/` is for [`sample`].
pub fn has_cloudid(context: &GuardContext<'_>) -> bool {
    let query = context.head().uri.query().unwrap_or_default();
    query.split('&').any(|pair| pair.split('=').next() == Some("cloudid"))
}

async fn sample_link(request: &HttpRequest, worker: &Worker) -> Result<HttpResponse, TcbError> {
    let [file_id] = query::parameters(request, ["cloudid"]).map_err(Problem::from)?;
    let file_id = file_id.unwrap_or_default();
    if file_id.is_empty() {
        return Ok(HttpResponse::Ok()
            .content_type("text/html; charset=utf-8")
            .body("没有要下载的文件"));
    }
    // The same access as to the file's stable URL, and counted alike.
    let client = match worker.shared.settings.links.access {
        // Public access is not reduced by a key that is restricted to a folder.
        LinkAccess::Public => {
            let client = client::identify_wechat_if_given(request, worker).await?;
            client.filter(|client| !client.is_scoped())
        }
        LinkAccess::Signed | LinkAccess::Authenticated => {
            Some(client_for(request, worker, Action::Download).await?)
        }
    };
    let path = path_of(&file_id)?;
    check_scope(worker, client.as_deref(), &file_id, path).await.map_err(Problem::from)?;
    let wanted = LinkRequest { file_id, max_age: SAMPLE_LIFE };
    let link = worker.wechat.download_link(&wanted).await;
    let link = statuses(vec![link])?.pop().unwrap_or_else(missing);
    let file_list = vec![linked_file(&wanted.file_id, link)];
    Ok(HttpResponse::Ok().json(BatchDownloadReply { errcode: 0, errmsg: OK, file_list }))
}
