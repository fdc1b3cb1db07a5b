//! UploadResponse profiles: the one table from a profile to the shape of its response.

use actix_web::HttpResponse;

use super::outcome::Outcome;
use super::{editors, json};
use crate::http::problem::{Code, Problem};
use crate::settings::ReplyProfile;

/// The profile that `name` of `?reply=` stands for.
pub fn named(name: &str) -> Result<ReplyProfile, Problem> {
    name.parse().map_err(|_| {
        let name: String = name.chars().take(40).collect();
        let known: Vec<_> = ReplyProfile::ALL.iter().map(|profile| profile.name()).collect();
        let detail = format!("there is no reply profile `{name}`; there are {}", known.join(", "));
        Problem::new(Code::InvalidRequest, detail)
    })
}

impl ReplyProfile {
    /// Its client puts fields behind the file, so the request's length says nothing of the file's.
    pub fn sends_fields_last(self) -> bool {
        matches!(self, Self::Editorjs | Self::Ueditor)
    }

    /// The reply to a request whose files ended so. `Err`: the whole request failed, see [`Self::failure`].
    pub fn reply(self, outcomes: &[Outcome], request_id: &str) -> Result<HttpResponse, Problem> {
        match self {
            Self::Default => json::reply(outcomes, request_id),
            _ => editors::reply(self, outcomes, request_id),
        }
    }

    /// The reply to a request that failed as a whole, in the client's own shape; `None` where that is the problem
    /// document.
    pub fn failure(self, problem: &Problem, request_id: &str) -> Option<HttpResponse> {
        editors::failure(self, problem, request_id)
    }
}
