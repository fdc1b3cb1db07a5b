//! `POST /v1/tickets`: a key mints tickets for its users.

use std::collections::BTreeSet;

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpRequest, HttpResponse, web};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::guard::policy::ClaimLimits;
use crate::guard::ticket::{self, Size, not_null};
use crate::http::audit;
use crate::http::extract::{client, json};
use crate::http::middleware::request_context::RequestContext;
use crate::http::problem::{Code, Problem};
use crate::http::state::Worker;
use crate::key::Key;
use crate::settings::{Action, media_type};

/// Seconds, where the request names none and `auth.jwt.max_ttl` allows so many.
const DEFAULT_TTL: u64 = 600;

/// The ticket to mint. What is left out is limited by the key that mints it, and by `auth.jwt`. A member that is present
/// must have a value: `null`, from a back end that forgot one, would otherwise mean no limit.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TicketRequest)]
struct TicketRequest {
    /// The user's name.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(min_length = 1, max_length = 128, nullable = false)]
    sub: Option<String>,
    /// What the ticket allows, of `upload`, `download`, `delete`, `link`.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(min_items = 1, nullable = false)]
    can: Option<Vec<String>>,
    /// The folder that it is limited to.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    prefix: Option<String>,
    /// The only path that it may use.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(value_type = Option<Key>, nullable = false)]
    path: Option<String>,
    /// `false`: the client may not choose paths, even where `auth.jwt` lets it.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    client_paths: Option<bool>,
    /// In bytes, or as text with a unit: `"20MiB"`.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(value_type = Option<u64>, nullable = false)]
    max_file_size: Option<Size>,
    /// Files in one request.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    max_files: Option<usize>,
    /// Media types, as in `upload.allowed_types`: `image/png`, `image/*`.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(min_items = 1, nullable = false)]
    types: Option<Vec<String>>,
    /// Its lifetime in seconds, at most `auth.jwt.max_ttl`; default: 600.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(value_type = Option<u64>, minimum = 1, nullable = false)]
    ttl: Option<f64>,
}

/// A ticket.
#[derive(Serialize, ToSchema)]
#[schema(as = Ticket)]
struct TicketResponse {
    /// A JSON Web Token, which clients send like a key, or as `?ticket=`.
    ticket: String,
    /// RFC 3339, UTC.
    #[schema(format = DateTime)]
    expires_at: String,
}

/// `POST /v1/tickets`
#[utoipa::path(
    post, path = "/v1/tickets", operation_id = "mint_ticket", tag = "tickets",
    summary = "Mint a ticket for a user",
    description = "For back ends: a ticket for one of their users, signed with `auth.jwt.key` (HS256). It allows what the \
                   request names, and never more than the key that mints it and `auth.jwt`: a request for more is \
                   refused. The key needs the action `mint`; tickets and mini program users never have it.",
    request_body = TicketRequest,
    responses((status = 200, description = "The ticket", body = TicketResponse))
)]
pub async fn mint(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let client = client::identify(&request, &worker).await?;
    client.may(Action::Mint)?;
    let (guard, auth) = (&worker.shared.guard, &worker.shared.settings.auth);
    let minter = guard.minter().ok_or_else(|| {
        let detail = "this gateway has no key to sign tickets with: that needs auth.jwt.algorithm = \"HS256\"";
        Problem::new(Code::NotFound, detail)
    })?;
    let wanted: TicketRequest = json::read(&request, payload, &worker, json::SHORT_LIMIT).await?;
    let ttl = wanted.ttl.unwrap_or_else(|| DEFAULT_TTL.min(auth.jwt.max_ttl.as_secs()) as f64);
    let sub = wanted.sub.clone();
    let limits = limits(wanted)?;
    // Only keys have the action.
    let own_types = auth.keys.get(&client.name).map_or(&[][..], |key| key.policy.types.as_slice());
    let minted = minter.mint(&client, own_types, sub.as_deref(), ttl, limits)?;
    audit::minted_ticket(&worker, &RequestContext::of(&request), &client, sub.as_deref());
    tracing::info!(sub, seconds = ttl, "a ticket is minted");
    let expires_at = Timestamp::from_second(minted.expires_at.cast_signed());
    let expires_at = json::timestamp(expires_at.unwrap_or(Timestamp::MAX));
    Ok(HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, "no-store"))
        .json(TicketResponse { ticket: minted.ticket, expires_at }))
}

/// The limits that a request names. Unlike those of a ticket they are checked strictly: a mistake is better told to the
/// back end than to its user.
fn limits(wanted: TicketRequest) -> Result<ClaimLimits, Problem> {
    let invalid = |detail: &str| Problem::new(Code::InvalidRequest, detail);
    let action = |name: &String| match name.parse() {
        Ok(Action::Mint) => Err(invalid("`can`: tickets cannot mint tickets")),
        Ok(action) => Ok(action),
        Err(problem) => Err(invalid(&format!("`can`: `{name}` {problem}"))),
    };
    let can: Option<BTreeSet<Action>> =
        wanted.can.map(|can| can.iter().map(action).collect::<Result<_, Problem>>()).transpose()?;
    if can.as_ref().is_some_and(BTreeSet::is_empty) {
        return Err(invalid("`can` is empty; leave it out to allow what the key allows"));
    }
    let media_type = |name: &String| {
        media_type(name).map_err(|problem| invalid(&format!("`types`: `{name}` {problem}")))
    };
    let types: Option<Vec<String>> = wanted
        .types
        .map(|types| types.iter().map(media_type).collect::<Result<_, Problem>>())
        .transpose()?;
    if types.as_ref().is_some_and(Vec::is_empty) {
        return Err(invalid("`types` is empty; leave it out to allow what the key allows"));
    }
    let size = |size: Size| {
        size.bytes().map_err(|_| {
            invalid("`max_file_size` is a number of bytes, or a text such as \"20MiB\"")
        })
    };
    Ok(ClaimLimits {
        can,
        prefix: wanted.prefix.as_deref().map(ticket::folder).transpose()?,
        path: wanted.path.as_deref().map(Key::parse).transpose()?,
        client_paths: wanted.client_paths,
        max_file_size: wanted.max_file_size.map(size).transpose()?,
        max_files: wanted.max_files,
        types,
    })
}
