//! A connection to Redis that is opened when it is needed, and again after a failure.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, RedisError};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;

/// After a failure Redis is not used for this long, so that few requests wait for it.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// One connection for all threads, for one purpose.
pub struct RedisConnection {
    client: redis::Client,
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
    /// Set after a failure.
    unused_until: Option<Instant>,
}

impl RedisConnection {
    /// Connects with the first command. `up` and `down` are logged when Redis becomes available and unavailable.
    pub fn new(
        url: &SecretString,
        timeout: Duration,
        up: &'static str,
        down: &'static str,
    ) -> Result<Self, RedisError> {
        let client = redis::Client::open(url.expose_secret())?;
        Ok(Self {
            client,
            timeout,
            current: Mutex::default(),
            is_up: AtomicBool::new(true),
            up,
            down,
        })
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
                // Only the kind is logged: an error's text may quote values from Redis.
                Err(error) => tracing::warn!(
                    kind = ?error.kind(),
                    code = error.code(),
                    "Redis is unavailable: {}", self.down
                ),
            }
        }
        result
    }

    async fn run_once<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let mut connection = self.connection().await?;
        let result = command.query_async(&mut connection).await;
        if let Err(error) = &result {
            let mut current = self.current.lock().await;
            current.open = None;
            if !error.is_connection_dropped() {
                current.unused_until = Some(Instant::now() + RETRY_AFTER);
            }
        }
        result
    }

    async fn connection(&self) -> Result<MultiplexedConnection, RedisError> {
        let mut current = self.current.lock().await;
        if let Some(connection) = &current.open {
            return Ok(connection.clone());
        }
        if current.unused_until.is_some_and(|until| Instant::now() < until) {
            return Err((ErrorKind::Io, "it failed a moment ago").into());
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout));
        let opened = self.client.get_multiplexed_async_connection_with_config(&config).await;
        current.unused_until = opened.is_err().then(|| Instant::now() + RETRY_AFTER);
        current.open = opened.as_ref().ok().cloned();
        opened
    }
}
