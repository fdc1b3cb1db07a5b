//! Whether Redis can be used, for `/readyz`, `doctor` and the metric `gateway_redis_up`.

use std::sync::Arc;
use std::time::Duration;

use redis::Cmd;

use crate::metrics::Metrics;
use crate::net::redis::{RedisConnection, RedisServer};

/// The time limit of a command, and of connecting. Redis is close to the gateway, and a health check allows one second in
/// all.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(400);
/// PING is not enough: a read-only replica, a full Redis and one that forbids scripts reply to it as well, and count as
/// unavailable.
const PROBE: &str = "
    redis.call('SET', KEYS[1], '1', 'PX', 1000)
    return redis.call('GET', KEYS[1])";

/// Redis did not respond, or cannot do what sharing needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Redis is unavailable: this gateway shares nothing with the others meanwhile")]
pub struct RedisUnavailable;

/// Writes and reads `key`.
pub fn probe(key: &str) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(PROBE).arg(1).arg(key);
    command
}

/// The check where no access token is in Redis, whose own connection is checked otherwise.
pub struct RedisProbe {
    connection: RedisConnection,
    key: String,
    metrics: Arc<Metrics>,
}

impl RedisProbe {
    /// `owner` tells apart gateways of different environments that share a Redis. Connects with the first check.
    pub fn new(server: &RedisServer, owner: &str, metrics: Arc<Metrics>) -> Self {
        let (up, down) =
            ("it can be used", "this gateway shares nothing with the others meanwhile");
        let connection = RedisConnection::new(server, COMMAND_TIMEOUT, up, down);
        Self { connection, key: format!("tcb-upload-gateway:{{{owner}}}:probe"), metrics }
    }

    pub async fn check(&self) -> Result<(), RedisUnavailable> {
        let command = probe(&self.key);
        let result = self.connection.run::<String>(&command, &command).await;
        self.metrics.redis(result.is_ok());
        result.map(drop).map_err(|_| RedisUnavailable)
    }
}
