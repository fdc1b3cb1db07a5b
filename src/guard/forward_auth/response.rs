//! What a response of the auth server means.

use bytes::Bytes;

use crate::guard::policy::{Client, PolicyError};
use crate::guard::ticket::{self, TicketError};
use crate::net::http_client::response::Response;
use crate::net::refusal::detail_of;

/// A decision of the auth server.
pub enum Decision {
    /// The body has the client's claims, or is empty.
    Allowed(Bytes),
    Refused(Refusal),
    /// A status that decides nothing.
    Unusable(u16),
}

/// A refusal, as the client is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Whether the auth server knows the client, and refuses this request: 403.
    pub is_forbidden: bool,
    pub detail: Option<String>,
}

/// Why the claims of an allowed client cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClaimsError {
    #[error(
        "the body of its response is neither empty nor a JSON object with the claims of a ticket"
    )]
    Malformed,
    #[error("its response: {0}")]
    Claim(TicketError),
    #[error("the claims in its response are outside `auth.forward`: {0}")]
    OutOfScope(#[from] PolicyError),
}

impl From<Response> for Decision {
    fn from(response: Response) -> Self {
        let Response { status, body } = response;
        let refused =
            |is_forbidden| Self::Refused(Refusal { is_forbidden, detail: detail_of(&body) });
        match status {
            200..300 => Self::Allowed(body),
            401 => refused(false),
            403 => refused(true),
            // To a login page, or because the client's head is too long.
            300..=399 | 413 | 414 | 431 => {
                Self::Refused(Refusal { is_forbidden: false, detail: None })
            }
            _ => Self::Unusable(status),
        }
    }
}

/// The client that the auth server has let in: one for each `sub`, or else for each `fingerprint` of credentials.
/// `policy` is that of `auth.forward`.
pub fn client_of(
    policy: &Client,
    claims: &[u8],
    fingerprint: String,
) -> Result<Client, ClaimsError> {
    let (name, limits) = match claims.trim_ascii() {
        [] => Default::default(),
        claims => ticket::parse_claims(claims).map_err(|error| match error {
            TicketError::Malformed => ClaimsError::Malformed,
            error => ClaimsError::Claim(error),
        })?,
    };
    let client = match &name {
        Some(name) => policy.with_identity(name, format!("forward:{name}")),
        None => policy.with_identity("forward", format!("session:{fingerprint}")),
    };
    Ok(client.limited_by(limits)?)
}
