//! A call: one small request that is in memory as a whole, and its response.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;

use super::exchange::{Exchange, ExchangeError};
use super::response::{HeaderVisitor, Response, ResponseError};
use super::{ConnectError, Endpoint, Pool};

/// A request and how it may be sent.
pub struct Call<'a> {
    pub endpoint: &'a Endpoint,
    /// Head and body.
    pub request: Bytes,
    /// Its method is HEAD: the response has no body.
    pub is_head: bool,
    /// A pooled connection is used only if it was idle for less than this.
    pub max_idle: Duration,
    /// It may be sent again where the server has closed a pooled connection: the first one may have been received.
    pub is_repeatable: bool,
}

/// Why there is no response that can be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("connecting: {0}")]
    Connect(ConnectError),
    #[error("sending: {0}")]
    NoResponse(String),
    #[error("reading the response: {cause}")]
    BadBody { status: u16, cause: String },
}

impl Call<'_> {
    /// Sends it over a pooled or a new connection of `pool`, and reads the response. There is no time limit but the one
    /// for connecting.
    pub async fn send<V: HeaderVisitor + Default>(
        self,
        pool: &Pool,
    ) -> Result<(Response, V), CallError> {
        loop {
            let pooled = pool.pooled(self.endpoint, self.max_idle);
            let is_reused = pooled.is_some();
            let mut connection = match pooled {
                Some(connection) => connection,
                None => pool.connect(self.endpoint).await.map_err(CallError::Connect)?,
            };
            let mut exchange =
                Exchange::new(&mut connection, self.request.clone(), (), V::default());
            if self.is_head {
                exchange = exchange.without_response_body();
            }
            match poll_fn(|cx| exchange.poll(cx)).await {
                Ok(response) => {
                    let visitor = exchange.into_visitor();
                    pool.put_back(self.endpoint, connection);
                    return Ok((response, visitor));
                }
                // The server closed the idle connection before it read the request.
                Err(ExchangeError::Failed(ResponseError::NoResponse(_)))
                    if is_reused && self.is_repeatable => {}
                Err(ExchangeError::Failed(ResponseError::NoResponse(cause))) => {
                    return Err(CallError::NoResponse(cause));
                }
                Err(ExchangeError::Failed(ResponseError::BadBody { status, cause })) => {
                    return Err(CallError::BadBody { status, cause });
                }
                // The request has no body of its own that could be aborted.
                Err(ExchangeError::Aborted) => {
                    return Err(CallError::NoResponse("the exchange was aborted".to_owned()));
                }
            }
        }
    }
}
