//! A call's client and parameters, checked in WeChat's order with WeChat's errors.

use std::sync::Arc;

use actix_web::http::Method;
use actix_web::{HttpRequest, web};
use serde_json::{Map, Value};

use super::error::TcbError;
use super::wire::Status;
use crate::guard::policy::Client;
use crate::http::extract::file_ref::{FILE_ID, ResolveError, check_scope, path_of};
use crate::http::extract::{client, json as body};
use crate::http::problem::Problem;
use crate::http::state::Worker;
use crate::settings::Action;

/// A permitted call: its client and its parameters.
pub struct Call {
    pub client: Arc<Client>,
    pub body: Map<String, Value>,
}

impl Call {
    /// Checks a request in WeChat's own order: method, token, body (of at most `limit` bytes); its parameters are
    /// checked by [`text`] and [`list`].
    pub async fn read(
        request: &HttpRequest,
        payload: web::Payload,
        worker: &Worker,
        action: Action,
        limit: usize,
    ) -> Result<Self, TcbError> {
        if request.method() != Method::POST {
            return Err(TcbError::new(43002, "require POST method"));
        }
        let client = client_for(request, worker, action).await?;
        let bytes = body::bytes(request, payload, worker, limit).await?;
        if bytes.is_empty() {
            return Err(TcbError::new(44002, "empty post data"));
        }
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(body)) => Ok(Self { client, body }),
            _ => Err(TcbError::new(47001, "data format error")),
        }
    }

    /// Whether the client may use this file; the inner `Err` is the file's own status. An invalid file id is passed to
    /// WeChat, which rejects it, unless the client is restricted to a folder.
    pub async fn admit(
        &self,
        worker: &Worker,
        file_id: &str,
    ) -> Result<Result<(), Status>, TcbError> {
        let admitted = match path_of(file_id) {
            Err(_) if !self.client.is_scoped() && !file_id.starts_with(FILE_ID) => Ok(()),
            Ok(path) => check_scope(worker, Some(&self.client), file_id, path).await,
            Err(problem) => Err(ResolveError::Reference(problem)),
        };
        match admitted {
            Ok(()) => Ok(Ok(())),
            Err(ResolveError::Reference(problem)) => Ok(Err((-501007, problem.detail))),
            Err(ResolveError::Call(problem)) => Err(problem.into()),
        }
    }

    /// The environment: the gateway's own if the call names none. A client that is restricted to a folder may use only
    /// the gateway's own.
    pub fn env<'a>(&'a self, worker: &'a Worker) -> Result<&'a str, TcbError> {
        let own = worker.wechat.env();
        match self.body.get("env") {
            None | Some(Value::Null) => Ok(own),
            Some(Value::String(env)) if env.is_empty() || env == own => Ok(own),
            Some(Value::String(env)) if !self.client.is_scoped() => Ok(env),
            Some(Value::String(_)) => Err(TcbError::new(-501000, "env not exists, invalid env")),
            Some(_) => Err(TcbError::invalid("env")),
        }
    }
}

/// The client of a request, if it may do `action`.
pub async fn client_for(
    request: &HttpRequest,
    worker: &Worker,
    action: Action,
) -> Result<Arc<Client>, TcbError> {
    let client = client::identify_wechat(request, worker).await?;
    client.may(action).map_err(Problem::from)?;
    Ok(client)
}

/// A parameter that must be a text and not empty.
pub fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a str, TcbError> {
    match object.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        None | Some(Value::Null | Value::String(_)) => Err(TcbError::missing(name)),
        Some(_) => Err(TcbError::invalid(name)),
    }
}

/// A parameter that must be a list of up to 1000 items. WeChat takes 50 in one call; longer lists are split into
/// several.
pub fn list<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a [Value], TcbError> {
    const MAX_ITEMS: usize = 1000;
    match object.get(name) {
        Some(Value::Array(items)) if items.len() > MAX_ITEMS => Err(TcbError::invalid(name)),
        Some(Value::Array(items)) if !items.is_empty() => Ok(items),
        None | Some(Value::Null | Value::Array(_)) => Err(TcbError::missing(name)),
        Some(_) => Err(TcbError::invalid(name)),
    }
}
