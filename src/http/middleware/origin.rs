//! Refuses pages of foreign origins, and requests that were refused before they were read; inside CORS, so that a page can
//! read why.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, web};

use crate::http::problem::{Code, Problem};
use crate::http::state::Worker;

/// Why a request is refused before it is looked at: by its head, or for want of room. [`check`] tells, so that the
/// response has what CORS asks for.
pub struct Refusal(pub Problem);

/// Refuses what [`super::request::track`] found wrong, and pages of foreign origins.
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
        worker.shared.origins.admit(headers, host)
    });
    if !admitted {
        let detail =
            "the page that sent this request is of an origin that cors.origins does not list";
        return Ok(request.error_response(Problem::new(Code::OriginNotAllowed, detail)));
    }
    next.call(request).await.map(ServiceResponse::map_into_boxed_body)
}
