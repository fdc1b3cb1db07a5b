//! What is wrong with a call, in WeChat's own codes and words.

use actix_web::HttpResponse;

use super::wire::Failed;
use crate::guard::auth::AuthError;
use crate::guard::ticket::TicketError;
use crate::http::extract::client::Refused;
use crate::http::problem::{Code, Problem};
use crate::wechat::error::WechatError;

/// What WeChat answers to a call that fails.
pub struct TcbError {
    pub errcode: i64,
    pub errmsg: String,
    /// What happened, for the log.
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

    pub fn reply(self) -> HttpResponse {
        let refused = Failed { errcode: self.errcode, errmsg: self.errmsg };
        let mut reply = HttpResponse::Ok().json(refused);
        if let Some(problem) = self.problem {
            reply.extensions_mut().insert(problem);
        }
        reply
    }
}

impl From<WechatError> for TcbError {
    fn from(error: WechatError) -> Self {
        let (errcode, errmsg) = match &error {
            // The gateway's own token is none of the caller's affair: it would fetch its own again, and try for ever.
            WechatError::Refused { .. } if error.is_bad_token() => {
                (-1, format!("system error: {error}"))
            }
            WechatError::Refused { errcode, message, .. } => (*errcode, message.clone()),
            error => (-1, format!("system error: {error}")),
        };
        Self { errcode, errmsg, problem: Some(error.into()) }
    }
}

/// What the gateway itself refuses, in WeChat's nearest code.
impl From<Problem> for TcbError {
    fn from(problem: Problem) -> Self {
        let errcode = match problem.code {
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
            AuthError::Beyond(_) => return Problem::from(error).into(),
            AuthError::Scheme
            | AuthError::Unknown
            | AuthError::KeyInAddress
            | AuthError::Ticket(_) => {
                (40001, "invalid credential, access_token is invalid or not latest")
            }
        };
        Self { errcode, errmsg: errmsg.to_owned(), problem: Some(error.into()) }
    }
}

impl From<Refused> for TcbError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Auth(error) => error.into(),
            other => Problem::from(other).into(),
        }
    }
}
