//! Reading a call as WeChat reads it: who calls, with what.

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

/// A call that was let in: who calls, and its parameters.
pub struct Call {
    pub client: Arc<Client>,
    pub body: Map<String, Value>,
}

impl Call {
    /// Looks at a request in WeChat's own order: method, token, body (of at most `limit` bytes), parameters.
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
        let client = client(request, worker, action)?;
        let bytes = body::bytes(request, payload, worker, limit).await?;
        if bytes.is_empty() {
            return Err(TcbError::new(44002, "empty post data"));
        }
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(body)) => Ok(Self { client, body }),
            _ => Err(TcbError::new(47001, "data format error")),
        }
    }

    /// Whether the caller may name this file. What is no file's id at all is for WeChat to judge, unless the caller is
    /// kept to a folder.
    pub async fn admit(
        &self,
        worker: &Worker,
        file_id: &str,
    ) -> Result<Result<(), Status>, TcbError> {
        let admitted = match path_of(file_id) {
            Err(_) if !self.client.is_confined() && !file_id.starts_with(FILE_ID) => Ok(()),
            Ok(path) => check_scope(worker, Some(&self.client), file_id, path).await,
            Err(problem) => Err(ResolveError::Name(problem)),
        };
        match admitted {
            Ok(()) => Ok(Ok(())),
            Err(ResolveError::Name(problem)) => Ok(Err((-501007, problem.detail))),
            Err(ResolveError::Call(problem)) => Err(problem.into()),
        }
    }

    /// The environment: ours where the call names none. Who is kept to a folder is kept to our environment, too.
    pub fn env<'a>(&'a self, worker: &'a Worker) -> Result<&'a str, TcbError> {
        let own = worker.wechat.env();
        match self.body.get("env") {
            None | Some(Value::Null) => Ok(own),
            Some(Value::String(env)) if env.is_empty() || env == own => Ok(own),
            Some(Value::String(env)) if !self.client.is_confined() => Ok(env),
            Some(Value::String(_)) => Err(TcbError::new(-501000, "env not exists, invalid env")),
            Some(_) => Err(TcbError::invalid("env")),
        }
    }
}

pub fn client(
    request: &HttpRequest,
    worker: &Worker,
    action: Action,
) -> Result<Arc<Client>, TcbError> {
    let client = client::identify_wechat(request, worker)?;
    client.may(action).map_err(Problem::from)?;
    Ok(client)
}

pub fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a str, TcbError> {
    match object.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        None | Some(Value::Null | Value::String(_)) => Err(TcbError::missing(name)),
        Some(_) => Err(TcbError::invalid(name)),
    }
}

/// Longer lists than WeChat's own 50 are cut into its calls.
pub fn list<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a [Value], TcbError> {
    const MOST: usize = 1000;
    match object.get(name) {
        Some(Value::Array(items)) if items.len() > MOST => Err(TcbError::invalid(name)),
        Some(Value::Array(items)) if !items.is_empty() => Ok(items),
        None | Some(Value::Null | Value::Array(_)) => Err(TcbError::missing(name)),
        Some(_) => Err(TcbError::invalid(name)),
    }
}
