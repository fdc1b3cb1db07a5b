//! `GET /console/info`: what the page shows before a file is sent. A part of the page and not of the API: only the
//! page's own scripts read it.

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use crate::http::extract::client::{self, ClientError};
use crate::http::problem::Problem;
use crate::http::state::Worker;
use crate::settings::Action;

#[derive(Serialize)]
struct Info<'a> {
    sandbox: bool,
    /// `None` for a request without a valid credential, where one is needed: it learns nothing else.
    client: Option<Limits<'a>>,
}

/// What the request's client may do.
#[derive(Serialize)]
struct Limits<'a> {
    /// Only for clients that may upload: the file ids that they get name it, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<&'a str>,
    can: Vec<&'static str>,
    /// Bytes.
    max_file_size: u64,
    /// Lists of media types, as in `upload.allowed_types`; a file's type must be on each of them.
    types: Vec<Vec<String>>,
    /// The names of `links.presets`, sorted.
    presets: Vec<&'a str>,
}

/// `GET /console/info`
pub async fn info(
    request: HttpRequest,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let client = match client::identify(&request, &worker).await {
        Ok(client) => Some(client),
        Err(ClientError::Auth(_) | ClientError::Forward(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let settings = &worker.shared.settings;
    let limits = client.as_ref().map(|client| Limits {
        environment: client.may(Action::Upload).is_ok().then(|| worker.wechat.env()),
        can: client.can.iter().map(|action| action.name()).collect(),
        max_file_size: client.max_file_size,
        types: client.types.lists(),
        presets: settings.links.presets.keys().map(String::as_str).collect(),
    });
    Ok(HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, "no-store"))
        .json(Info { sandbox: settings.sandbox.enabled, client: limits }))
}
