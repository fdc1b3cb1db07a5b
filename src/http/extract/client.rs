//! Identifies the client of a request by its credential and its IP address, or by the auth server's decision, and counts
//! the request against the client's and the address's rate.

use std::net::IpAddr;
use std::sync::Arc;

use actix_web::HttpRequest;

use super::query::{self, QueryError};
use crate::guard::auth::{AuthError, Guard, UrlCredential};
use crate::guard::forward_auth::request::ClientRequest;
use crate::guard::forward_auth::server::ForwardError;
use crate::guard::jwks::JwksError;
use crate::guard::limits::{LimitError, rate_limit_key};
use crate::guard::policy::Client;
use crate::http::middleware::request_context::RequestContext;
use crate::http::problem::Problem;
use crate::http::resumable::protocol;
use crate::http::state::Worker;

/// Why a request is refused before its handler runs.
pub enum ClientError {
    /// The credential in the URL's query cannot be decoded.
    Query(QueryError),
    Auth(AuthError),
    /// The auth server has not let it in.
    Forward(ForwardError),
    Limit(LimitError),
}

impl From<ClientError> for Problem {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Query(error) => error.into(),
            ClientError::Auth(error) => error.into(),
            ClientError::Forward(error) => error.into(),
            ClientError::Limit(error) => error.into(),
        }
    }
}

impl From<QueryError> for ClientError {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}

impl From<AuthError> for ClientError {
    fn from(error: AuthError) -> Self {
        Self::Auth(error)
    }
}

impl From<LimitError> for ClientError {
    fn from(error: LimitError) -> Self {
        Self::Limit(error)
    }
}

/// The credentials in a URL's query.
struct QueryCredentials {
    ticket: Option<String>,
    access_token: Option<String>,
    cloudbase_access_token: Option<String>,
}

impl QueryCredentials {
    fn of(request: &HttpRequest) -> Result<Self, ClientError> {
        let names = ["ticket", "access_token", "cloudbase_access_token"];
        let values = query::parameters(request, names).map_err(|error| match error.has_control() {
            // No credential has one: it is not a malformed request, but a wrong credential.
            true => ClientError::Auth(AuthError::Unknown),
            false => ClientError::Query(error),
        });
        let [ticket, access_token, cloudbase_access_token] = values?;
        Ok(Self { ticket, access_token, cloudbase_access_token })
    }

    fn ticket(&self) -> Option<UrlCredential<'_>> {
        self.ticket.as_deref().map(UrlCredential::Ticket)
    }

    /// Empty ones are ignored: WeChat's clients send an empty parameter where they have no token.
    fn wechat_token(&self) -> Option<UrlCredential<'_>> {
        let tokens = [&self.access_token, &self.cloudbase_access_token];
        let mut tokens = tokens.into_iter().flatten().filter(|token| !token.is_empty());
        tokens.next().map(|token| UrlCredential::KeyOrTicket(token))
    }
}

/// The client of one of the gateway's own endpoints.
pub async fn identify(request: &HttpRequest, worker: &Worker) -> Result<Arc<Client>, ClientError> {
    identify_by(request, worker, QueryCredentials::of(request)?.ticket()).await
}

/// The client of one of WeChat's endpoints, to which clients send a key or a ticket as `access_token`.
pub async fn identify_wechat(
    request: &HttpRequest,
    worker: &Worker,
) -> Result<Arc<Client>, ClientError> {
    let credentials = QueryCredentials::of(request)?;
    identify_by(request, worker, credentials.wechat_token().or(credentials.ticket())).await
}

/// Counts a request whose credential is in its body, before the first byte of the body is read. A wrong credential in
/// the headers is refused here, too.
pub async fn count_before_body(request: &HttpRequest, worker: &Worker) -> Result<(), ClientError> {
    count_address(request, worker)?;
    let headers = request.headers();
    if worker.shared.guard.has_credential(headers) {
        ask_guard(worker, |guard| guard.identify(headers, None)).await?;
    }
    Ok(())
}

/// Verifies an API key or ticket from a request's body or parameters, and counts the request of its client. The request
/// must have passed [`count_before_body`].
pub async fn verify_key(worker: &Worker, key: &str) -> Result<(), ClientError> {
    let client = ask_guard(worker, |guard| guard.identify_by_text(key)).await?;
    Ok(worker.shared.limits.count(&client)?)
}

/// The client of a public endpoint: `None` for a request without a key or ticket. A wrong one is refused. The auth server
/// is not asked, since its decision would not matter.
pub async fn identify_if_given(
    request: &HttpRequest,
    worker: &Worker,
) -> Result<Option<Arc<Client>>, ClientError> {
    let credentials = QueryCredentials::of(request)?;
    identify_if_given_by(request, worker, credentials.ticket()).await
}

/// As [`identify_if_given`], for one of WeChat's endpoints.
pub async fn identify_wechat_if_given(
    request: &HttpRequest,
    worker: &Worker,
) -> Result<Option<Arc<Client>>, ClientError> {
    let credentials = QueryCredentials::of(request)?;
    identify_if_given_by(request, worker, credentials.wechat_token().or(credentials.ticket())).await
}

async fn identify_if_given_by(
    request: &HttpRequest,
    worker: &Worker,
    url_credential: Option<UrlCredential<'_>>,
) -> Result<Option<Arc<Client>>, ClientError> {
    let address = count_address(request, worker)?;
    let guard = &worker.shared.guard;
    if url_credential.is_none() && !guard.has_credential(request.headers()) {
        return Ok(None);
    }
    let identify = |guard: &Guard| guard.identify(request.headers(), url_credential);
    let client = ask_guard(worker, identify).await?;
    client.map(|client| admit(request, worker, client, address)).transpose()
}

async fn identify_by(
    request: &HttpRequest,
    worker: &Worker,
    url_credential: Option<UrlCredential<'_>>,
) -> Result<Arc<Client>, ClientError> {
    let address = count_address(request, worker)?;
    let identify = |guard: &Guard| guard.identify(request.headers(), url_credential);
    let client = match ask_guard(worker, identify).await? {
        Some(client) => client,
        // Boxed, so that requests with a key do not pay for its size.
        None => Box::pin(ask_auth_server(request, worker)).await?,
    };
    admit(request, worker, client, address)
}

/// Identifies a client. A ticket whose key has to be fetched from its issuer waits for that, and is verified again.
async fn ask_guard<T>(
    worker: &Worker,
    identify: impl Fn(&Guard) -> Result<T, AuthError>,
) -> Result<T, AuthError> {
    /// The first one may have begun before the issuer published the key.
    const FETCHES: usize = 2;
    let guard = &worker.shared.guard;
    let mut result = identify(guard);
    for _ in 0..FETCHES {
        let Err(AuthError::Jwks(JwksError::NotFetched { after })) = result else {
            break;
        };
        // Boxed, so that other requests do not pay for its size.
        Box::pin(guard.fetched_keys(after)).await;
        result = identify(guard);
    }
    result
}

/// The client that the auth server lets in. Its credentials are in the headers, so nothing of the query is sent.
async fn ask_auth_server(
    request: &HttpRequest,
    worker: &Worker,
) -> Result<Arc<Client>, ClientError> {
    let Some(server) = &worker.auth_server else {
        return Err(AuthError::Missing.into());
    };
    let (headers, proxies) = (request.headers(), &worker.shared.proxies);
    let peer = request.peer_addr().map(|peer| peer.ip());
    let own_scheme = if worker.shared.settings.server.tls.is_some() { "https" } else { "http" };
    let authority = request.uri().authority().map(|host| host.as_str());
    let method = protocol::meant_method(request);
    let context = RequestContext::of(request);
    let request = ClientRequest {
        method: method.as_str(),
        path: request.path(),
        scheme: proxies.scheme(peer, headers, own_scheme),
        host: proxies.host(peer, headers, authority),
        address: context.remote,
        headers,
        trace: context.trace,
    };
    server.client_of(&request).await.map_err(ClientError::Forward)
}

/// Counts the request of a client, which has shown what it may do.
fn admit(
    request: &HttpRequest,
    worker: &Worker,
    mut client: Arc<Client>,
    address: Option<IpAddr>,
) -> Result<Arc<Client>, ClientError> {
    if client.is_anonymous() {
        // Anonymous clients differ only in their IP address.
        let id = address.map_or_else(|| "anonymous".to_owned(), |ip| format!("anonymous:{ip}"));
        client = Arc::new(client.with_identity(&client.name, id));
    }
    let context = RequestContext::of(request);
    context.set_client(client.clone());
    worker.shared.limits.count(&client)?;
    context.set_authenticated();
    Ok(client)
}

/// Counts the request against its IP address. This comes before authentication, so that guessing keys is slowed down,
/// too.
fn count_address(request: &HttpRequest, worker: &Worker) -> Result<Option<IpAddr>, LimitError> {
    let address = RequestContext::of(request).remote.map(rate_limit_key);
    if let Some(address) = address {
        worker.shared.limits.count_address(address)?;
    }
    Ok(address)
}
