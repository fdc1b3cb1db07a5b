//! One access token for several gateways: it lives in Redis and is fetched by whoever holds the lease.
//!
//! Needed where a new token ends the life of the one before (`secret`, `authorizer`). Nothing here is needed to serve:
//! while Redis is away every gateway carries on alone, and waits for it no longer than a command may take.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, RedisError};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use super::fetch::{Credential, Issued};
use crate::metrics::Metrics;
use crate::wechat::error::WechatError;

/// One command, and connecting for it; Redis is close by, and a health check waits a second in all.
const COMMAND: Duration = Duration::from_millis(400);
/// After a failure Redis is left alone for this long: those who wait for a token do not wait for it, too.
const REST: Duration = Duration::from_secs(1);
/// A lease outlives the fetch it is for by this.
const SLACK: Duration = Duration::from_secs(2);
/// How often those who wait for the holder of the lease look.
const LOOK: Duration = Duration::from_millis(50);

/// What sharing needs: a Redis that only answers PING (a replica, a full one, one that forbids scripts) is away, too.
const PROBE: &str = "
    redis.call('SET', KEYS[1], '1', 'PX', 1000)
    return redis.call('GET', KEYS[1])";
/// The token and the milliseconds it has left: Redis' own count, so that no clocks need agree.
const READ: &str = "return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}";
/// Asked twice by the same holder (its first answer was lost) it is still that holder's.
const ACQUIRE: &str = "
    if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
    if redis.call('GET', KEYS[1]) == ARGV[1] then return 1 end
    return 0";
/// Writes the token (and the next refresh token) and gives the lease back; not if the lease has run out, because then
/// the token of the next holder has displaced this one.
const PUBLISH: &str = "
    if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
    redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
    if ARGV[4] ~= '' then redis.call('SET', KEYS[3], ARGV[4]) end
    redis.call('DEL', KEYS[1])
    return 1";
/// Deletes what is still the value given: the lease of a holder that failed, or a token that WeChat refused.
const DELETE: &str = "
    if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
    return 0";

/// Redis did not answer, or cannot do what sharing needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Redis is away: this gateway's token is its own")]
pub struct RedisUnavailable;

/// The other gateways, as far as Redis knows of them; shared by all workers.
pub struct Replicas {
    client: redis::Client,
    connection: Mutex<Connection>,
    keys: Keys,
    lease: Duration,
    /// So that a change is logged once: [`UNKNOWN`], [`UP`] or [`AWAY`].
    state: AtomicU8,
    metrics: Arc<Metrics>,
}

const UNKNOWN: u8 = 0;
const UP: u8 = 1;
const AWAY: u8 = 2;

#[derive(Default)]
struct Connection {
    open: Option<MultiplexedConnection>,
    /// Grows with each one that is opened.
    generation: u64,
    /// After a failure.
    rests_until: Option<Instant>,
}

/// By app and mode, in one hash slot.
struct Keys {
    token: String,
    lease: String,
    /// The newest refresh token of one authorization; `None` where there are none.
    refresh: Option<String>,
    probe: String,
}

impl Keys {
    fn of(credential: &Credential) -> Self {
        let owner = format!("{}:{}", credential.mode().name(), credential.appid());
        let key = |what: &str| format!("tcb-upload-gateway:{{{owner}}}:{what}");
        let refresh = credential.authorization().map(|authorization| {
            let hash = Sha256::digest(authorization.expose_secret().as_bytes());
            key(&format!("refresh:{}", hex::encode(&hash[..8])))
        });
        Self { token: key("token"), lease: key("lease"), refresh, probe: key("probe") }
    }
}

impl Replicas {
    /// Connects when it is first asked.
    pub fn new(
        url: &SecretString,
        credential: &Credential,
        metrics: Arc<Metrics>,
    ) -> Result<Self, RedisError> {
        Ok(Self {
            client: redis::Client::open(url.expose_secret())?,
            connection: Mutex::default(),
            keys: Keys::of(credential),
            lease: credential.timeout + SLACK,
            state: AtomicU8::new(UNKNOWN),
            metrics,
        })
    }

    /// Whether tokens can be shared at the moment.
    pub async fn probe(&self) -> Result<(), RedisUnavailable> {
        self.ask::<String>(&script(PROBE, &[&self.keys.probe], &[])).await.map(drop)
    }

    /// A token that is none of `not`: the one in Redis, or what `fetch` gives under the lease, which takes at most the
    /// time for one request. `fetch` is handed the newest refresh token.
    pub(super) async fn obtain<F, R>(
        &self,
        not: &[&SecretString],
        fetch: F,
    ) -> Result<Result<(Issued, TokenOrigin), WechatError>, RedisUnavailable>
    where
        F: Fn(Option<SecretString>) -> R,
        R: Future<Output = Result<Issued, WechatError>>,
    {
        let holder = format!("{:032x}", rand::random::<u128>());
        // Long enough for two holders that die.
        let until = Instant::now() + 2 * self.lease;
        loop {
            if let Some(shared) = self.read(not).await? {
                return Ok(Ok((shared, TokenOrigin::Shared)));
            }
            if self.acquire(&holder).await? {
                return self.fetch_under_lease(&holder, not, fetch).await;
            }
            if Instant::now() > until {
                let cause = "another gateway holds the lease for the token and does not get one";
                return Ok(Err(WechatError::Credential(cause.to_owned())));
            }
            tokio::time::sleep(LOOK.mul_f64(0.5 + fastrand::f64())).await;
        }
    }

    async fn fetch_under_lease<F, R>(
        &self,
        holder: &str,
        not: &[&SecretString],
        fetch: F,
    ) -> Result<Result<(Issued, TokenOrigin), WechatError>, RedisUnavailable>
    where
        F: Fn(Option<SecretString>) -> R,
        R: Future<Output = Result<Issued, WechatError>>,
    {
        // Another one may have written and given back the lease in between.
        if let Some(shared) = self.read(not).await? {
            let _ = self.delete(&self.keys.lease, holder).await;
            return Ok(Ok((shared, TokenOrigin::Shared)));
        }
        let refresh = match &self.keys.refresh {
            Some(key) => self.ask::<Option<String>>(redis::cmd("GET").arg(key)).await?,
            None => None,
        };
        let issued = match fetch(refresh.map(SecretString::from)).await {
            Ok(issued) => issued,
            Err(error) => {
                let _ = self.delete(&self.keys.lease, holder).await;
                return Ok(Err(error));
            }
        };
        Ok(Ok(match self.publish(holder, &issued).await {
            Ok(true) | Err(RedisUnavailable) => (issued, TokenOrigin::Fetched),
            // The lease ran out, or Redis has lost it: what is there now, if anything, has displaced ours. Nothing is
            // fetched again for that, or a Redis that forgets would empty the day's quota.
            Ok(false) => match self.read(not).await {
                Ok(Some(shared)) => (shared, TokenOrigin::Shared),
                Ok(None) | Err(RedisUnavailable) => (issued, TokenOrigin::Fetched),
            },
        }))
    }

    /// WeChat refused `bad`: nobody else needs to try it.
    pub(super) async fn reject(&self, bad: &SecretString) {
        let _ = self.delete(&self.keys.token, bad.expose_secret()).await;
    }

    async fn read(&self, not: &[&SecretString]) -> Result<Option<Issued>, RedisUnavailable> {
        let script = script(READ, &[&self.keys.token], &[]);
        let (token, left): (Option<String>, i64) = self.ask(&script).await?;
        let life = Duration::from_millis(u64::try_from(left).unwrap_or(0));
        let other = |token: &SecretString| {
            not.iter().all(|not| not.expose_secret() != token.expose_secret())
        };
        let token = token.map(SecretString::from).filter(|token| !life.is_zero() && other(token));
        Ok(token.map(|token| Issued { token, life, refresh: None }))
    }

    async fn acquire(&self, holder: &str) -> Result<bool, RedisUnavailable> {
        let life = self.lease.as_millis().to_string();
        self.ask(&script(ACQUIRE, &[&self.keys.lease], &[holder, &life])).await
    }

    async fn publish(&self, holder: &str, issued: &Issued) -> Result<bool, RedisUnavailable> {
        let life = issued.life.as_millis().max(1).to_string();
        let Keys { token, lease, refresh, .. } = &self.keys;
        let next = issued.refresh.as_ref().filter(|_| refresh.is_some());
        let next = next.map_or("", |next| next.expose_secret());
        let keys = [lease, token, refresh.as_ref().unwrap_or(token)];
        let arguments = [holder, issued.token.expose_secret(), &life, next];
        self.ask(&script(PUBLISH, &keys.map(String::as_str), &arguments)).await
    }

    async fn delete(&self, key: &str, value: &str) -> Result<bool, RedisUnavailable> {
        self.ask(&script(DELETE, &[key], &[value])).await
    }

    /// One command, over a connection that Redis may have closed meanwhile: then over a new one.
    async fn ask<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, RedisUnavailable> {
        let mut answer = self.ask_once(command).await;
        let closed = |error: &ScriptError| matches!(error, ScriptError::Redis(e) if e.is_connection_dropped());
        if answer.as_ref().is_err_and(closed) {
            answer = self.ask_once(command).await;
        }
        let state = if answer.is_ok() { UP } else { AWAY };
        if self.state.swap(state, Ordering::Relaxed) != state {
            self.metrics.redis(state == UP);
            match &answer {
                Ok(_) => tracing::info!("Redis answers: tokens are shared"),
                // By its kind: a text may quote what Redis holds.
                Err(ScriptError::Redis(error)) => tracing::warn!(
                    kind = ?error.kind(),
                    code = error.code(),
                    "Redis is away: tokens are not shared meanwhile"
                ),
                Err(ScriptError::Resting) => tracing::warn!("Redis is away: tokens are not shared"),
            }
        }
        answer.map_err(|_| RedisUnavailable)
    }

    async fn ask_once<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, ScriptError> {
        let (mut connection, generation) = self.connection().await?;
        let answer = command.query_async(&mut connection).await;
        if let Err(error) = &answer {
            let mut kept = self.connection.lock().await;
            // Not one that somebody has opened since.
            if kept.generation == generation {
                kept.open = None;
                if !error.is_connection_dropped() {
                    kept.rests_until = Some(Instant::now() + REST);
                }
            }
        }
        answer.map_err(ScriptError::Redis)
    }

    async fn connection(&self) -> Result<(MultiplexedConnection, u64), ScriptError> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = &kept.open {
            return Ok((connection.clone(), kept.generation));
        }
        if kept.rests_until.is_some_and(|until| Instant::now() < until) {
            return Err(ScriptError::Resting);
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(COMMAND))
            .set_response_timeout(Some(COMMAND));
        match self.client.get_multiplexed_async_connection_with_config(&config).await {
            Ok(connection) => {
                kept.generation += 1;
                kept.open = Some(connection.clone());
                kept.rests_until = None;
                Ok((connection, kept.generation))
            }
            Err(error) => {
                kept.rests_until = Some(Instant::now() + REST);
                Err(ScriptError::Redis(error))
            }
        }
    }
}

enum ScriptError {
    /// It failed a moment ago.
    Resting,
    Redis(RedisError),
}

/// Where a token came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenOrigin {
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
