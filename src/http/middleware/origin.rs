//! Refuses requests of pages whose origin is not allowed, and requests that [`super::request`] found at fault. Runs
//! inside the CORS middleware, so that a page can read the refusal.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, web};

use crate::http::problem::{Code, Problem};
use crate::http::state::Worker;

/// Why [`super::request::track`] refuses a request: its head is invalid, the gateway is
/// overloaded, or an h2 limit is exceeded. The refusal is
/// put into the request's extensions and sent by [`check`], so that the response has the CORS headers.
pub struct Refusal(pub Problem);

/// Sends the [`Refusal`] if there is one, and refuses pages whose origin is not allowed.
pub async fn check(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let refusal = request.extensions_mut().remove::<Refusal>();
    if let Some(Refusal(problem)) = refusal {
        return Ok(request.error_response(problem));
    }
    let admitted = request.app_data::<web::Data<Worker>>().is_none_or(|worker| {
        let (headers, peer) = (request.headers(), request.peer_addr().map(|peer| peer.ip()));
        let authority = request.uri().authority().map(|host| host.as_str());
        let host = worker.shared.proxies.host(peer, headers, authority);
        worker.shared.origins.allow(headers, host)
    });
    if !admitted {
        let detail =
            "the page that sent this request is of an origin that cors.origins does not list";
        return Ok(request.error_response(Problem::new(Code::OriginNotAllowed, detail)));
    }
    next.call(request).await.map(ServiceResponse::map_into_boxed_body)
}
