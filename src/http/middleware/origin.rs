//! Refuses requests of pages whose origin is not allowed, and requests that [`super::request`] found at fault. Runs
//! inside the CORS middleware, so that a page can read the refusal.

use actix_web::dev::ServiceRequest;
use actix_web::{HttpMessage, web};

use crate::http::problem::{Code, Problem};
use crate::http::state::Worker;

/// Why [`super::request::track`] refuses a request: its head is invalid, the gateway is
/// overloaded, or an h2 limit is exceeded. The refusal is
/// put into the request's extensions and returned by [`check`], so that the response has the CORS headers.
pub struct Refusal(pub Problem);

/// Takes the [`Refusal`] if there is one, and refuses pages whose origin is not allowed.
pub fn check(request: &ServiceRequest) -> Result<(), Problem> {
    if let Some(Refusal(problem)) = request.extensions_mut().remove::<Refusal>() {
        return Err(problem);
    }
    let is_allowed = request.app_data::<web::Data<Worker>>().is_none_or(|worker| {
        let (headers, peer) = (request.headers(), request.peer_addr().map(|peer| peer.ip()));
        let authority = request.uri().authority().map(|host| host.as_str());
        let host = worker.shared.proxies.host(peer, headers, authority);
        worker.shared.origins.allow(headers, host)
    });
    if is_allowed {
        return Ok(());
    }
    let detail = "the page that sent this request is of an origin that cors.origins does not list";
    Err(Problem::new(Code::OriginNotAllowed, detail))
}
