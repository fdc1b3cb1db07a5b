//! The two endpoints from which WeChat's SDKs get an access token. The client's settings contain its API key of the
//! gateway as the app's secret; the response returns that key as the token.

use actix_web::http::Method;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::Value;

use super::error::TcbError;
use super::wire::{TcbResponse, TokenReply, TokenRequest};
use crate::guard::auth::AuthError;
use crate::http::extract::client::{self, ClientError};
use crate::http::extract::{json as body, query};
use crate::http::problem::Problem;
use crate::http::state::Worker;

/// `GET /cgi-bin/token`
#[utoipa::path(
    get, path = "/cgi-bin/token", operation_id = "cgi_token", tag = "WeChat's own API",
    summary = "The token that SDKs request before they call: `secret`, an API key of the gateway, is returned as it",
    params(TokenRequest),
    responses((status = 200, description = "The key, or WeChat's error", body = TcbResponse<TokenReply>))
)]
pub async fn token(request: HttpRequest, worker: web::Data<Worker>) -> HttpResponse {
    if request.method() != Method::GET {
        return TcbError::new(43001, "require GET method").response();
    }
    if let Err(error) = client::count_before_body(&request, &worker).await {
        return TcbError::from(error).response();
    }
    match query::parameters(&request, ["grant_type", "appid", "secret"]) {
        Ok([grant_type, appid, secret]) => grant(&worker, grant_type, appid, secret).await,
        Err(error) => TcbError::from(Problem::from(error)).response(),
    }
}

/// `POST /cgi-bin/stable_token`
#[utoipa::path(
    post, path = "/cgi-bin/stable_token", operation_id = "cgi_stable_token", tag = "WeChat's own API",
    summary = "The same for newer SDKs",
    request_body = TokenRequest,
    responses((status = 200, description = "The key, or WeChat's error", body = TcbResponse<TokenReply>))
)]
pub async fn stable_token(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> HttpResponse {
    if request.method() != Method::POST {
        return TcbError::new(43002, "require POST method").response();
    }
    if let Err(error) = client::count_before_body(&request, &worker).await {
        return TcbError::from(error).response();
    }
    let bytes = match body::bytes(&request, payload, &worker, body::SHORT_LIMIT).await {
        Ok(bytes) => bytes,
        Err(problem) => return TcbError::from(problem).response(),
    };
    let Ok(Value::Object(object)) = serde_json::from_slice(&bytes) else {
        return TcbError::new(47001, "data format error").response();
    };
    let member = |name| object.get(name).and_then(Value::as_str).map(str::to_owned);
    grant(&worker, member("grant_type"), member("appid"), member("secret")).await
}

async fn grant(
    worker: &Worker,
    grant_type: Option<String>,
    appid: Option<String>,
    secret: Option<String>,
) -> HttpResponse {
    let error = |errcode, errmsg| TcbError::new(errcode, errmsg).response();
    if grant_type.as_deref() != Some("client_credential") {
        return error(40002, "invalid grant_type");
    }
    if appid.is_none_or(|appid| appid.is_empty()) {
        return error(41002, "appid missing");
    }
    let Some(key) = secret.filter(|secret| !secret.is_empty()) else {
        return error(41004, "appsecret missing");
    };
    match client::verify_key(worker, &key).await {
        Ok(()) => {
            HttpResponse::Ok().json(TokenReply { access_token: &key, expires_in: TOKEN_LIFE })
        }
        Err(ClientError::Auth(error)) if !matches!(error, AuthError::Jwks(_)) => {
            let problem = Some(error.into());
            TcbError { errcode: 40125, errmsg: "invalid appsecret".to_owned(), problem }.response()
        }
        Err(error) => TcbError::from(error).response(),
    }
}

/// In seconds, the same as WeChat's; SDKs then request a new one.
const TOKEN_LIFE: u32 = 7200;
