//! Response profiles: which format an upload's response has.

use actix_web::HttpResponse;

use super::outcome::Outcome;
use super::{editors, json};
use crate::http::problem::{Code, Problem};
use crate::settings::ReplyProfile;

/// Parses the value of `?reply=`.
pub fn parse(name: &str) -> Result<ReplyProfile, Problem> {
    name.parse().map_err(|_| {
        let name: String = name.chars().take(40).collect();
        let known: Vec<_> = ReplyProfile::ALL.iter().map(|profile| profile.name()).collect();
        let detail = format!("there is no reply profile `{name}`; there are {}", known.join(", "));
        Problem::new(Code::InvalidRequest, detail)
    })
}

impl ReplyProfile {
    /// Whether the client sends fields after the file, so that the file's length cannot be inferred from the request's.
    pub fn sends_fields_last(self) -> bool {
        matches!(self, Self::Editorjs | Self::Ueditor)
    }

    /// The response to an upload. `Err`: the request failed as a whole, see [`Self::failure`].
    pub fn response(self, outcomes: &[Outcome], request_id: &str) -> Result<HttpResponse, Problem> {
        match self {
            Self::Default => json::response(outcomes, request_id),
            _ => editors::response(self, outcomes, request_id),
        }
    }

    /// The response to a request that failed as a whole, in the client's own format; `None` if that is the problem
    /// document.
    pub fn failure(self, problem: &Problem, request_id: &str) -> Option<HttpResponse> {
        editors::failure(self, problem, request_id)
    }
}
