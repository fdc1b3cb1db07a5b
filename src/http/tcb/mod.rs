//! WeChat's own storage API, spoken by the gateway: back ends that call it change only the base URL.
//!
//! Requests, replies and error codes are WeChat's, always under HTTP 200; the token is the gateway's own affair. Where
//! WeChat takes `access_token` (or `cloudbase_access_token`), a key of the gateway's is taken.

pub mod error;
pub mod request;
pub mod wire;

use std::borrow::Cow;
use std::time::Duration;

use actix_web::guard::GuardContext;
use actix_web::http::Method;
use actix_web::{HttpRequest, HttpResponse, web};
use secrecy::ExposeSecret;
use serde_json::Value;

use self::error::TcbError;
use self::request::{Call, client, list, text};
use self::wire::{
    Answer, BatchDeleteReply, BatchDeleteRequest, BatchDownloadReply, BatchDownloadRequest,
    DeletedFile, LinkedFile, Status, TokenReply, TokenRequest, UploadFileReply, UploadFileRequest,
};
use super::extract::client::{self, Refused};
use super::extract::file_ref::{check_scope, path_of};
use super::extract::{json as body, query};
use super::problem::Problem;
use super::state::Worker;
use crate::settings::{Action, LinkAccess};
use crate::wechat::api::LINK_LIFE;
use crate::wechat::error::FileError;
use crate::wechat::links::{DownloadLink, Wanted};

/// `errmsg` where nothing is wrong.
const OK: &str = "ok";

/// `/tcb/uploadfile`
#[utoipa::path(
    post, path = "/tcb/uploadfile", operation_id = "tcb_uploadfile", tag = "WeChat's own API",
    summary = "An upload link",
    request_body = UploadFileRequest,
    responses((status = 200, description = "The link, or WeChat's error", body = Answer<UploadFileReply>))
)]
pub async fn upload_file(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> HttpResponse {
    upload_link(&request, payload, &worker).await.unwrap_or_else(TcbError::reply)
}

/// `/tcb/batchdownloadfile`
#[utoipa::path(
    post, path = "/tcb/batchdownloadfile", operation_id = "tcb_batchdownloadfile", tag = "WeChat's own API",
    summary = "Download links of up to 1000 files (WeChat itself takes 50)",
    request_body = BatchDownloadRequest,
    responses((status = 200, description = "The links, or WeChat's error", body = Answer<BatchDownloadReply>))
)]
pub async fn batch_download_file(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> HttpResponse {
    download_links(&request, payload, &worker).await.unwrap_or_else(TcbError::reply)
}

/// `/tcb/batchdeletefile`
#[utoipa::path(
    post, path = "/tcb/batchdeletefile", operation_id = "tcb_batchdeletefile", tag = "WeChat's own API",
    summary = "Delete up to 1000 files (WeChat itself takes 50)",
    request_body = BatchDeleteRequest,
    responses((status = 200, description = "Each file's status, or WeChat's error", body = Answer<BatchDeleteReply>))
)]
pub async fn batch_delete_file(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> HttpResponse {
    delete_files(&request, payload, &worker).await.unwrap_or_else(TcbError::reply)
}

/// `GET /cgi-bin/token`: the SDKs ask there for what they send with each call. The key that the gateway knows them by
/// stands in their settings as the app's secret, and is the token.
#[utoipa::path(
    get, path = "/cgi-bin/token", operation_id = "cgi_token", tag = "WeChat's own API",
    summary = "What SDKs ask for before they call: the gateway's key is `secret`, and is the token",
    params(TokenRequest),
    responses((status = 200, description = "The key again, or WeChat's error", body = Answer<TokenReply>))
)]
pub async fn token(request: HttpRequest, worker: web::Data<Worker>) -> HttpResponse {
    if request.method() != Method::GET {
        return TcbError::new(43001, "require GET method").reply();
    }
    if let Err(refused) = client::count_before_body(&request, &worker) {
        return TcbError::from(refused).reply();
    }
    match query::parameters(&request, ["grant_type", "appid", "secret"]) {
        Ok([kind, appid, secret]) => grant(&worker, kind, appid, secret),
        Err(error) => TcbError::from(Problem::from(error)).reply(),
    }
}

/// `POST /cgi-bin/stable_token`: likewise.
#[utoipa::path(
    post, path = "/cgi-bin/stable_token", operation_id = "cgi_stable_token", tag = "WeChat's own API",
    summary = "The same, as newer SDKs ask for it",
    request_body = TokenRequest,
    responses((status = 200, description = "The key again, or WeChat's error", body = Answer<TokenReply>))
)]
pub async fn stable_token(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> HttpResponse {
    if request.method() != Method::POST {
        return TcbError::new(43002, "require POST method").reply();
    }
    if let Err(refused) = client::count_before_body(&request, &worker) {
        return TcbError::from(refused).reply();
    }
    let bytes = match body::bytes(&request, payload, &worker, body::SHORT).await {
        Ok(bytes) => bytes,
        Err(problem) => return TcbError::from(problem).reply(),
    };
    let Ok(Value::Object(object)) = serde_json::from_slice(&bytes) else {
        return TcbError::new(47001, "data format error").reply();
    };
    let given = |name| object.get(name).and_then(Value::as_str).map(str::to_owned);
    grant(&worker, given("grant_type"), given("appid"), given("secret"))
}

fn grant(
    worker: &Worker,
    grant: Option<String>,
    appid: Option<String>,
    secret: Option<String>,
) -> HttpResponse {
    let refused = |errcode, errmsg| TcbError::new(errcode, errmsg).reply();
    if grant.as_deref() != Some("client_credential") {
        return refused(40002, "invalid grant_type");
    }
    if appid.is_none_or(|appid| appid.is_empty()) {
        return refused(41002, "appid missing");
    }
    let Some(key) = secret.filter(|secret| !secret.is_empty()) else {
        return refused(41004, "appsecret missing");
    };
    match client::verify_key(worker, &key) {
        Ok(()) => {
            HttpResponse::Ok().json(TokenReply { access_token: &key, expires_in: TOKEN_LIFE })
        }
        Err(Refused::Auth(error)) => {
            let problem = Some(error.into());
            TcbError { errcode: 40125, errmsg: "invalid appsecret".to_owned(), problem }.reply()
        }
        Err(refusal) => TcbError::from(refusal).reply(),
    }
}

/// Seconds, as WeChat's own: the SDKs ask again then.
const TOKEN_LIFE: u32 = 7200;

/// The life of a link that the vendor's PHP sample asks for.
const SAMPLE_LIFE: Duration = Duration::from_secs(86_400);

/// `GET /?cloudid=FILEID`: what the vendor's PHP sample does.
#[utoipa::path(
    get, path = "/", operation_id = "sample", tag = "WeChat's own API",
    summary = "A file's download link, as the vendor's PHP sample gives it",
    params(("cloudid" = String, Query, description = "The file's id")),
    responses((status = 200, description = "The link, or WeChat's error; a page when `cloudid` is empty", content(
        (Answer<BatchDownloadReply> = "application/json"),
        (String = "text/html"),
    )))
)]
pub async fn sample(request: HttpRequest, worker: web::Data<Worker>) -> HttpResponse {
    sample_link(&request, &worker).await.unwrap_or_else(TcbError::reply)
}

/// Whether a request for `/` is one for [`sample`].
pub fn names_a_file(context: &GuardContext<'_>) -> bool {
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
    // As open as the file's stable address is, and counted as that is.
    let client = match worker.shared.settings.links.access {
        // A key that is kept to a folder opens no less than none does.
        LinkAccess::Public => client::identify_wechat_if_given(request, worker)?
            .filter(|client| !client.is_confined()),
        LinkAccess::Signed | LinkAccess::Authenticated => {
            Some(client(request, worker, Action::Download)?)
        }
    };
    let path = path_of(&file_id)?;
    check_scope(worker, client.as_deref(), &file_id, path).await.map_err(Problem::from)?;
    let wanted = Wanted { file_id, max_age: SAMPLE_LIFE };
    let link = worker.wechat.download_link(&wanted).await;
    let link = whole(vec![link])?.pop().unwrap_or_else(unnamed);
    let file_list = vec![linked(&wanted.file_id, link)];
    Ok(HttpResponse::Ok().json(BatchDownloadReply { errcode: 0, errmsg: OK, file_list }))
}

async fn upload_link(
    request: &HttpRequest,
    payload: web::Payload,
    worker: &Worker,
) -> Result<HttpResponse, TcbError> {
    let call = Call::read(request, payload, worker, Action::Link, body::SHORT).await?;
    let env = call.env(worker)?;
    let path = text(&call.body, "path")?;
    // A client that is kept to a folder is held to our rules for paths, and gets a link for the path that was checked:
    // in NFC. For the others WeChat's rules count.
    let path = match call.client.is_confined() {
        true => Cow::Owned(call.client.own_key(path).map_err(Problem::from)?.into_string()),
        false => {
            call.client.may_name_paths().map_err(Problem::from)?;
            Cow::Borrowed(path)
        }
    };
    let link = worker.wechat.upload_link_in(env, &path).await?;
    let hosts = &worker.shared.allowed_hosts;
    hosts.check(&link.url, &link.file_id, &path).map_err(Problem::from)?;
    worker.wechat.forget_link(&link.file_id).await;
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
    let call = Call::read(request, payload, worker, Action::Download, body::LONG).await?;
    let env = call.env(worker)?;
    let mut files = Vec::new();
    for item in list(&call.body, "file_list")? {
        let item = item.as_object().ok_or_else(|| TcbError::invalid("file_list"))?;
        let file_id = text(item, "fileid")?;
        let max_age = match item.get("max_age") {
            None | Some(Value::Null) => LINK_LIFE,
            Some(age) => match age.as_u64().filter(|age| (1..=u64::from(u32::MAX)).contains(age)) {
                Some(age) => Duration::from_secs(age),
                None => return Err(TcbError::invalid("max_age")),
            },
        };
        let wanted = Wanted { file_id: file_id.to_owned(), max_age };
        files.push((wanted, call.admit(worker, file_id).await?));
    }
    links_reply(worker, env, &files).await
}

/// `file_list` with each file's own status, of links that live as long as was asked: this reply has no place to say that
/// one has less left; a call that failed as a whole fails the whole.
async fn links_reply(
    worker: &Worker,
    env: &str,
    files: &[(Wanted, Result<(), Status>)],
) -> Result<HttpResponse, TcbError> {
    let admitted = files.iter().filter(|(_, admitted)| admitted.is_ok());
    let admitted: Vec<_> = admitted.map(|(wanted, _)| wanted.clone()).collect();
    let mut links = whole(worker.wechat.download_links(env, &admitted, true).await)?.into_iter();
    let files = files.iter().map(|(file, admitted)| {
        let link = admitted.clone().and_then(|()| links.next().unwrap_or_else(unnamed));
        linked(&file.file_id, link)
    });
    let reply = BatchDownloadReply { errcode: 0, errmsg: OK, file_list: files.collect() };
    Ok(HttpResponse::Ok().json(reply))
}

fn linked(fileid: &str, link: Result<DownloadLink, Status>) -> LinkedFile<'_> {
    let (download_url, status, errmsg) = match link {
        Ok(link) => (link.url, 0, OK.to_owned()),
        Err((status, errmsg)) => (String::new(), status, errmsg),
    };
    LinkedFile { fileid, download_url, status, errmsg }
}

fn unnamed<T>() -> Result<T, Status> {
    Err((-1, "system error".to_owned()))
}

async fn delete_files(
    request: &HttpRequest,
    payload: web::Payload,
    worker: &Worker,
) -> Result<HttpResponse, TcbError> {
    let call = Call::read(request, payload, worker, Action::Delete, body::LONG).await?;
    let env = call.env(worker)?;
    let mut files = Vec::new();
    for item in list(&call.body, "fileid_list")? {
        let file_id = item.as_str().ok_or_else(|| TcbError::invalid("fileid_list"))?;
        files.push((file_id.to_owned(), call.admit(worker, file_id).await?));
    }
    let admitted = files.iter().filter(|(_, admitted)| admitted.is_ok());
    let admitted: Vec<_> = admitted.map(|(file_id, _)| file_id.clone()).collect();
    let mut deleted = whole(worker.wechat.delete(env, &admitted).await)?.into_iter();
    let files = files.iter().map(|(file_id, admitted)| {
        let result = admitted.clone().and_then(|()| deleted.next().unwrap_or_else(unnamed));
        let (status, errmsg) = result.err().unwrap_or((0, OK.to_owned()));
        DeletedFile { fileid: file_id, status, errmsg }
    });
    let reply = BatchDeleteReply { errcode: 0, errmsg: OK, delete_list: files.collect() };
    Ok(HttpResponse::Ok().json(reply))
}

/// Each file's own status and message. Where every call failed, the first failure is the whole's; where some of them
/// did, it is that of their files.
fn whole<T>(results: Vec<Result<T, FileError>>) -> Result<Vec<Result<T, Status>>, TcbError> {
    if let Some(Err(FileError::Call(error))) = results.first()
        && results.iter().all(|result| matches!(result, Err(FileError::Call(_))))
    {
        return Err(error.clone().into());
    }
    let own = |error| match error {
        FileError::File { status, message, .. } => (status, message),
        FileError::Call(error) => {
            let refusal = TcbError::from(error);
            (refusal.errcode, refusal.errmsg)
        }
    };
    Ok(results.into_iter().map(|result| result.map_err(own)).collect())
}
