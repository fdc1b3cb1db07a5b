//! A connection to Redis that is opened when it is needed, and again after a failure; with TLS where the URL says so.

use std::error::Error;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ConnectionAddr, ErrorKind, FromRedisValue, RedisError};
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use secrecy::ExposeSecret;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use super::tls::{self, TlsError};
use crate::settings;

/// After a failure Redis is not used for this long, so that few requests wait for it.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why `redis.*` leads to no server.
#[derive(Debug, thiserror::Error)]
pub enum RedisServerError {
    #[error("redis.url: {0}")]
    Url(#[from] RedisError),
    #[error("redis.url: its host cannot have a certificate: {0}")]
    Host(#[from] InvalidDnsNameError),
    #[error("redis.ca_file: {0}")]
    Tls(#[from] TlsError),
}

/// The server of `redis.url`, with the credentials there.
#[derive(Clone)]
pub struct RedisServer {
    client: redis::Client,
    /// `None`: plain TCP, or a socket of this machine.
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl RedisServer {
    /// Reads `redis.ca_file`; connects to nothing. `None`: `redis.url` is not set.
    pub fn new(settings: &settings::Redis) -> Result<Option<Self>, RedisServerError> {
        let Some(url) = &settings.url else { return Ok(None) };
        // The client crate's own TLS reads the system's roots for each connection, and fails where one is unreadable.
        let Some(rest) = settings.behind_tls() else {
            return Ok(Some(Self { client: redis::Client::open(url.expose_secret())?, tls: None }));
        };
        let client = redis::Client::open(format!("redis://{rest}"))?;
        let ConnectionAddr::Tcp(host, _) = client.get_connection_info().addr() else {
            return Err(RedisError::from((ErrorKind::InvalidClientConfig, "it has no host")).into());
        };
        let name = ServerName::try_from(host.clone())?;
        let connector = TlsConnector::from(tls::redis(settings.ca_file.as_deref())?);
        Ok(Some(Self { client, tls: Some((connector, name)) }))
    }

    async fn open(&self, config: AsyncConnectionConfig, timeout: Duration) -> Opened {
        let Some((connector, name)) = &self.tls else {
            return self.client.get_multiplexed_async_connection_with_config(&config).await;
        };
        let info = self.client.get_connection_info();
        let ConnectionAddr::Tcp(host, port) = info.addr() else {
            return Err((ErrorKind::InvalidClientConfig, "it has no host").into());
        };
        let opened = within(timeout, async {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            let stream = connector.connect(name.clone(), stream).await?;
            MultiplexedConnection::new_with_config(info.redis_settings(), stream, config).await
        });
        let (connection, driver) = opened.await?;
        tokio::spawn(driver);
        Ok(connection)
    }
}

type Opened = Result<MultiplexedConnection, RedisError>;

async fn within<T>(
    limit: Duration,
    result: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    match tokio::time::timeout(limit, result).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    }
}

/// Why the network or TLS failed, if it was they.
fn network_cause(error: &RedisError) -> Option<&io::Error> {
    let cause: &Arc<dyn Error + Send + Sync> = error.source()?.downcast_ref()?;
    cause.downcast_ref()
}

/// One connection for all threads, for one purpose.
pub struct RedisConnection {
    server: RedisServer,
    /// Of a command, and of connecting.
    timeout: Duration,
    current: Mutex<Current>,
    /// Only a change is logged.
    is_up: AtomicBool,
    up: &'static str,
    down: &'static str,
}

#[derive(Default)]
struct Current {
    open: Option<MultiplexedConnection>,
    /// The number of connections opened so far.
    generation: u64,
    /// Set after a failure: until when Redis is not used, and why.
    unused: Option<(Instant, RedisError)>,
}

impl RedisConnection {
    /// Connects with the first command. `up` and `down` are logged when Redis becomes available and unavailable.
    pub fn new(
        server: &RedisServer,
        timeout: Duration,
        up: &'static str,
        down: &'static str,
    ) -> Self {
        Self {
            server: server.clone(),
            timeout,
            current: Mutex::default(),
            is_up: AtomicBool::new(true),
            up,
            down,
        }
    }

    /// Runs a command. Redis may have closed the connection since its last use: then `again` runs over a new one, which
    /// must be right also where the first command was carried out and only its response was lost.
    pub async fn run<T: FromRedisValue>(
        &self,
        command: &Cmd,
        again: &Cmd,
    ) -> Result<T, RedisError> {
        let mut result = self.run_once(command).await;
        if result.as_ref().is_err_and(RedisError::is_connection_dropped) {
            result = self.run_once(again).await;
        }
        let is_up = result.is_ok();
        if self.is_up.swap(is_up, Ordering::Relaxed) != is_up {
            match &result {
                Ok(_) => tracing::info!("Redis is available: {}", self.up),
                // Of a response, only the kind is logged: its text may quote values from Redis.
                Err(error) => tracing::warn!(
                    kind = ?error.kind(),
                    code = error.code(),
                    cause = network_cause(error).map(tracing::field::display),
                    "Redis is unavailable: {}", self.down
                ),
            }
        }
        result
    }

    /// Whether the last command succeeded; true before the first one.
    pub fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    async fn run_once<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let (mut connection, generation) = self.connection().await?;
        let result = command.query_async(&mut connection).await;
        if let Err(error) = &result {
            let mut current = self.current.lock().await;
            // Another task may have opened a new connection since; that one stays.
            if current.generation == generation {
                current.open = None;
                if !error.is_connection_dropped() {
                    current.unused = Some((Instant::now() + RETRY_AFTER, error.clone()));
                }
            }
        }
        result
    }

    async fn connection(&self) -> Result<(MultiplexedConnection, u64), RedisError> {
        let mut current = self.current.lock().await;
        if let Some(connection) = &current.open {
            return Ok((connection.clone(), current.generation));
        }
        // Its cause is that of all commands of this second: any of them may be the one that is logged.
        if let Some((until, error)) = &current.unused
            && Instant::now() < *until
        {
            return Err(error.clone());
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout));
        let opened = self.server.open(config, self.timeout).await;
        let failure = opened.as_ref().err().cloned();
        current.unused = failure.map(|error| (Instant::now() + RETRY_AFTER, error));
        let opened = opened?;
        current.generation += 1;
        current.open = Some(opened.clone());
        Ok((opened, current.generation))
    }
}
