//! One access token for several gateways: it lives in Redis and is fetched by whoever holds the lease.
//!
//! Needed where a new token ends the life of the one before (`secret`, `authorizer`). Nothing here is needed to serve:
//! while Redis is away every gateway carries on alone.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, RedisError};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;

use super::WechatError;
use super::credential::{Credential, Issued};
use crate::metrics::Metrics;

/// One command; Redis is close by.
const COMMAND: Duration = Duration::from_secs(1);
/// A lease outlives the request it is for by this.
const SLACK: Duration = Duration::from_secs(2);
/// How often those who wait for the holder of the lease look.
const LOOK: Duration = Duration::from_millis(50);

/// The token and the milliseconds it has left: Redis' own count, so that no clocks need agree.
const READ: &str = "return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}";
/// Asked twice by the same holder (its first answer was lost) it is still that holder's.
const ACQUIRE: &str = "
    if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
    if redis.call('GET', KEYS[1]) == ARGV[1] then return 1 end
    return 0";
/// Writes the token and gives the lease back; not if the lease has run out, because then the token of the next holder
/// has displaced this one.
const PUBLISH: &str = "
    if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
    redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
    redis.call('DEL', KEYS[1])
    return 1";
/// Deletes what is still the value given: the lease of a holder that failed, or a token that WeChat refused.
const DELETE: &str = "
    if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
    return 0";

/// Redis did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Redis is not reachable")]
pub struct Away;

/// The other gateways, as far as Redis knows of them; shared by all workers.
pub struct Replicas {
    client: redis::Client,
    connection: Mutex<Option<MultiplexedConnection>>,
    token_key: String,
    lease_key: String,
    lease: Duration,
    /// So that a change is logged once.
    away: AtomicBool,
    metrics: Arc<Metrics>,
}

impl Replicas {
    /// Connects when it is first asked. Keys are by app and mode, in one hash slot.
    pub fn new(
        url: &SecretString,
        credential: &Credential,
        metrics: Arc<Metrics>,
    ) -> Result<Self, RedisError> {
        let owner = format!("{}:{}", credential.mode().name(), credential.appid());
        metrics.redis(true);
        Ok(Self {
            client: redis::Client::open(url.expose_secret())?,
            connection: Mutex::new(None),
            token_key: format!("tcb-upload-gateway:{{{owner}}}:token"),
            lease_key: format!("tcb-upload-gateway:{{{owner}}}:lease"),
            lease: credential.timeout + SLACK,
            away: AtomicBool::new(false),
            metrics,
        })
    }

    /// Whether Redis answers.
    pub async fn ping(&self) -> Result<(), Away> {
        self.ask::<String>(&redis::cmd("PING")).await.map(drop)
    }

    /// A token other than `old`: the one in Redis, or what `fetch` gives under the lease.
    pub(super) async fn obtain<F, R>(
        &self,
        old: Option<&SecretString>,
        fetch: F,
    ) -> Result<Result<(Issued, Origin), WechatError>, Away>
    where
        F: Fn() -> R,
        R: Future<Output = Result<Issued, WechatError>>,
    {
        let holder = format!("{:032x}", rand::random::<u128>());
        // Long enough for two holders that die.
        let until = Instant::now() + 2 * self.lease;
        loop {
            if let Some(shared) = self.read(old).await? {
                return Ok(Ok((shared, Origin::Shared)));
            }
            if self.acquire(&holder).await? {
                // Another one may have written and given back the lease in between.
                if let Some(shared) = self.read(old).await? {
                    let _ = self.delete(&self.lease_key, &holder).await;
                    return Ok(Ok((shared, Origin::Shared)));
                }
                match fetch().await {
                    Err(error) => {
                        let _ = self.delete(&self.lease_key, &holder).await;
                        return Ok(Err(error));
                    }
                    Ok(issued) => match self.publish(&holder, &issued).await {
                        Ok(true) | Err(Away) => return Ok(Ok((issued, Origin::Fetched))),
                        Ok(false) => tracing::warn!("the lease ran out before the token was there"),
                    },
                }
            } else if Instant::now() > until {
                let cause = "another gateway holds the lease for the token and does not get one";
                return Ok(Err(WechatError::Credential(cause.to_owned())));
            }
            tokio::time::sleep(LOOK.mul_f64(0.5 + fastrand::f64())).await;
        }
    }

    /// WeChat refused `bad`: nobody else needs to try it.
    pub(super) async fn reject(&self, bad: &SecretString) {
        let _ = self.delete(&self.token_key, bad.expose_secret()).await;
    }

    async fn read(&self, old: Option<&SecretString>) -> Result<Option<Issued>, Away> {
        let script = script(READ, &[&self.token_key], &[]);
        let (token, left): (Option<String>, i64) = self.ask(&script).await?;
        let token = token.map(SecretString::from);
        let life = Duration::from_millis(u64::try_from(left).unwrap_or(0));
        Ok(token
            .filter(|token| {
                !life.is_zero()
                    && old.is_none_or(|old| old.expose_secret() != token.expose_secret())
            })
            .map(|token| Issued { token, life }))
    }

    async fn acquire(&self, holder: &str) -> Result<bool, Away> {
        let life = self.lease.as_millis().to_string();
        self.ask(&script(ACQUIRE, &[&self.lease_key], &[holder, &life])).await
    }

    async fn publish(&self, holder: &str, issued: &Issued) -> Result<bool, Away> {
        let life = issued.life.as_millis().max(1).to_string();
        let arguments = [holder, issued.token.expose_secret(), &life];
        self.ask(&script(PUBLISH, &[&self.lease_key, &self.token_key], &arguments)).await
    }

    async fn delete(&self, key: &str, value: &str) -> Result<bool, Away> {
        self.ask(&script(DELETE, &[key], &[value])).await
    }

    /// One command, over a connection that may have been closed meanwhile: then over a new one.
    async fn ask<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, Away> {
        let mut answer = self.ask_once(command).await;
        if answer.as_ref().is_err_and(RedisError::is_io_error) {
            answer = self.ask_once(command).await;
        }
        let away = answer.is_err();
        if self.away.swap(away, Ordering::Relaxed) != away {
            self.metrics.redis(!away);
            match &answer {
                // Its texts name hosts and kinds, never the URL, in which a password may stand.
                Err(error) => {
                    tracing::warn!(%error, "Redis is away: tokens are not shared meanwhile")
                }
                Ok(_) => tracing::info!("Redis is back: tokens are shared again"),
            }
        }
        answer.map_err(|_| Away)
    }

    async fn ask_once<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, RedisError> {
        let mut connection = self.connection().await?;
        let answer = command.query_async(&mut connection).await;
        if answer.is_err() {
            *self.connection.lock().await = None;
        }
        answer
    }

    async fn connection(&self) -> Result<MultiplexedConnection, RedisError> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = &*kept {
            return Ok(connection.clone());
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(COMMAND))
            .set_response_timeout(Some(COMMAND));
        let made = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(kept.insert(made).clone())
    }
}

/// Where a token came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// WeChat, by us.
    Fetched,
    /// Another gateway, through Redis.
    Shared,
}

fn script(text: &str, keys: &[&str], arguments: &[&str]) -> redis::Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(text).arg(keys.len()).arg(keys).arg(arguments);
    command
}
