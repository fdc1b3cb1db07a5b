//! Errors of calls, with WeChat's codes and messages.

use actix_web::HttpResponse;

use super::wire::Failed;
use crate::guard::auth::AuthError;
use crate::guard::ticket::TicketError;
use crate::http::extract::client::ClientError;
use crate::http::problem::{Code, Problem};
use crate::wechat::error::WechatError;

/// WeChat's response to a call that fails.
pub struct TcbError {
    pub errcode: i64,
    pub errmsg: String,
    /// The cause, for the access log.
    pub problem: Option<Problem>,
}

impl TcbError {
    pub fn new(errcode: i64, errmsg: impl Into<String>) -> Self {
        Self { errcode, errmsg: errmsg.into(), problem: None }
    }

    pub fn missing(name: &str) -> Self {
        Self::new(40101, format!("missing parameter: {name}"))
    }

    pub fn invalid(name: &str) -> Self {
        Self::new(40097, format!("invalid args: {name}"))
    }

    pub fn response(self) -> HttpResponse {
        let body = Failed { errcode: self.errcode, errmsg: self.errmsg };
        let mut response = HttpResponse::Ok().json(body);
        if let Some(problem) = self.problem {
            response.extensions_mut().insert(problem);
        }
        response
    }
}

impl From<WechatError> for TcbError {
    fn from(error: WechatError) -> Self {
        let (errcode, errmsg) = match &error {
            // An error of the gateway's own token must not look like one of the client's: the client would fetch a new
            // token and retry without end.
            WechatError::Refused { .. } if error.is_bad_token() => {
                (-1, format!("system error: {error}"))
            }
            WechatError::Refused { errcode, message, .. } => (*errcode, message.clone()),
            error => (-1, format!("system error: {error}")),
        };
        Self { errcode, errmsg, problem: Some(error.into()) }
    }
}

/// For what the gateway itself refuses, WeChat's nearest code.
impl From<Problem> for TcbError {
    fn from(problem: Problem) -> Self {
        let errcode = match problem.code {
            Code::Unauthenticated => 40001,
            Code::NotAllowed => 48001,
            Code::PathNotAllowed | Code::InvalidPath => -501007,
            Code::RateLimited => 45011,
            Code::TooManyFiles | Code::FieldsTooLarge | Code::InvalidRequest => 40097,
            Code::EncodingNotSupported | Code::TruncatedBody => 47001,
            _ => -1,
        };
        Self { errcode, errmsg: problem.detail.clone(), problem: Some(problem) }
    }
}

impl From<AuthError> for TcbError {
    fn from(error: AuthError) -> Self {
        let (errcode, errmsg) = match &error {
            AuthError::Missing => (41001, "access_token missing"),
            AuthError::Ticket(TicketError::Expired) => (42001, "access_token expired"),
            AuthError::OutOfScope(_) | AuthError::Jwks(_) => return Problem::from(error).into(),
            AuthError::Scheme | AuthError::Unknown | AuthError::KeyInUrl | AuthError::Ticket(_) => {
                (40001, "invalid credential, access_token is invalid or not latest")
            }
        };
        Self { errcode, errmsg: errmsg.to_owned(), problem: Some(error.into()) }
    }
}

impl From<ClientError> for TcbError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Auth(error) => error.into(),
            other => Problem::from(other).into(),
        }
    }
}
