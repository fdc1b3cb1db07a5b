//! Who sent a request: its address, its credential, and whether it is not too much.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use actix_web::http::header::HeaderMap;
use actix_web::{HttpMessage, HttpRequest};

use super::query::{self, QueryError};
use crate::guard::auth::{AuthError, InAddress};
use crate::guard::limits::{LimitError, rate_limit_key};
use crate::guard::policy::Client;
use crate::http::problem::Problem;
use crate::http::state::Worker;
use crate::server::connection_limit;

/// The caller's name, for the request's line in the log.
#[derive(Debug, Clone)]
pub struct CallerName(pub String);

/// Why a request goes no further.
pub enum Refused {
    /// The credential in the URL's query cannot be read.
    Query(QueryError),
    Auth(AuthError),
    Limit(LimitError),
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Query(error) => error.into(),
            Refused::Auth(error) => error.into(),
            Refused::Limit(error) => error.into(),
        }
    }
}

impl From<QueryError> for Refused {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}

impl From<AuthError> for Refused {
    fn from(error: AuthError) -> Self {
        Self::Auth(error)
    }
}

impl From<LimitError> for Refused {
    fn from(error: LimitError) -> Self {
        Self::Limit(error)
    }
}

/// The credential that an address may carry.
struct QueryCredentials {
    ticket: Option<String>,
    access_token: Option<String>,
    cloudbase_access_token: Option<String>,
}

impl QueryCredentials {
    fn of(request: &HttpRequest) -> Result<Self, Refused> {
        let names = ["ticket", "access_token", "cloudbase_access_token"];
        let [ticket, access_token, cloudbase_access_token] = query::parameters(request, names)?;
        Ok(Self { ticket, access_token, cloudbase_access_token })
    }

    fn ticket(&self) -> Option<InAddress<'_>> {
        self.ticket.as_deref().map(InAddress::Ticket)
    }

    /// Empty ones are none: WeChat's clients send them where they have nothing.
    fn wechat_token(&self) -> Option<InAddress<'_>> {
        let tokens = [&self.access_token, &self.cloudbase_access_token];
        let mut tokens = tokens.into_iter().flatten().filter(|token| !token.is_empty());
        tokens.next().map(|token| InAddress::KeyOrTicket(token))
    }
}

/// The caller of one of our own addresses.
pub fn identify(request: &HttpRequest, worker: &Worker) -> Result<Arc<Client>, Refused> {
    identified(request, worker, QueryCredentials::of(request)?.ticket())
}

/// The caller of one of WeChat's addresses, whose clients put what they have into `access_token`.
pub fn identify_wechat(request: &HttpRequest, worker: &Worker) -> Result<Arc<Client>, Refused> {
    let given = QueryCredentials::of(request)?;
    identified(request, worker, given.wechat_token().or(given.ticket()))
}

/// Counts a request whose credential stands in its body, before a byte of that is read. A wrong credential in the
/// headers is refused here, too.
pub fn count_before_body(request: &HttpRequest, worker: &Worker) -> Result<(), Refused> {
    count_address(request, worker)?;
    let headers = request.headers();
    if worker.shared.guard.is_shown(headers) {
        worker.shared.guard.identify(headers, None)?;
    }
    Ok(())
}

/// Whether `key` is anybody's key or ticket, shown in a way of its caller's own, whose address is counted already.
pub fn verify_key(worker: &Worker, key: &str) -> Result<(), Refused> {
    let client =
        worker.shared.guard.identify(&HeaderMap::new(), Some(InAddress::KeyOrTicket(key)))?;
    Ok(worker.shared.limits.count(&client)?)
}

/// The caller of an address that is open to all: `None` for who shows no credential. A wrong one is refused.
pub fn identify_if_given(
    request: &HttpRequest,
    worker: &Worker,
) -> Result<Option<Arc<Client>>, Refused> {
    let given = QueryCredentials::of(request)?;
    identified_if_given(request, worker, given.ticket())
}

/// Likewise of one of WeChat's addresses.
pub fn identify_wechat_if_given(
    request: &HttpRequest,
    worker: &Worker,
) -> Result<Option<Arc<Client>>, Refused> {
    let given = QueryCredentials::of(request)?;
    identified_if_given(request, worker, given.wechat_token().or(given.ticket()))
}

fn identified_if_given(
    request: &HttpRequest,
    worker: &Worker,
    token: Option<InAddress<'_>>,
) -> Result<Option<Arc<Client>>, Refused> {
    if token.is_some() || worker.shared.guard.is_shown(request.headers()) {
        return identified(request, worker, token).map(Some);
    }
    count_address(request, worker)?;
    Ok(None)
}

fn identified(
    request: &HttpRequest,
    worker: &Worker,
    token: Option<InAddress<'_>>,
) -> Result<Arc<Client>, Refused> {
    let address = count_address(request, worker)?;
    let mut client = worker.shared.guard.identify(request.headers(), token)?;
    if client.is_anonymous() {
        // All that tells them apart.
        let id = address.map_or_else(|| "anonymous".to_owned(), |ip| format!("anonymous:{ip}"));
        client = Arc::new(client.named(&client.name, id));
    }
    request.extensions_mut().insert(CallerName(client.name.clone()));
    worker.shared.limits.count(&client)?;
    if let Some(caller) = request.extensions().get::<Rc<connection_limit::Caller>>() {
        caller.set_authenticated();
    }
    Ok(client)
}

/// Counted before anything is known of who calls: whoever tries keys is slowed down, too.
fn count_address(request: &HttpRequest, worker: &Worker) -> Result<Option<IpAddr>, LimitError> {
    let shared = &worker.shared;
    let peer = request.peer_addr().map(|peer| peer.ip());
    let address = peer.map(|peer| rate_limit_key(shared.proxies.address(peer, request.headers())));
    if let Some(address) = address {
        shared.limits.count_address(address)?;
    }
    Ok(address)
}
