//! One access token for several gateways: it is stored in Redis, and the gateway that has the lease fetches it.
//!
//! Needed in the modes where a new token invalidates the previous one (`secret`, `authorizer`). The gateway works
//! without Redis as well: while Redis is unavailable, every gateway fetches its own token, and no request waits for
//! Redis longer than the time limit of a command.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::FromRedisValue;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::fetch::{IssuedToken, TokenFetcher};
use crate::metrics::Metrics;
use crate::net::redis::{RedisConnection, RedisServer};
use crate::wechat::error::WechatError;
use crate::wechat::redis_probe::{RedisUnavailable, probe};

/// The time limit of a command, and of connecting. Redis is close to the gateway, and a health check allows one second in
/// all.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(400);
/// A lease is valid this much longer than the fetch may take.
const LEASE_MARGIN: Duration = Duration::from_secs(2);
/// How often a gateway without the lease checks whether the token is there.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The token and the milliseconds until it expires, by the clock of Redis: the gateways' clocks need not agree.
const READ: &str = "return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}";
/// Takes the lease. It succeeds for the gateway that already has it, too: the response to its first attempt may be
/// lost.
const ACQUIRE: &str = "
    if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
    if redis.call('GET', KEYS[1]) == ARGV[1] then return 1 end
    return 0";
/// Stores the token (and the next refresh token) and releases the lease. Does nothing if the lease has expired: then
/// the token that the next gateway fetched has replaced this one.
const PUBLISH: &str = "
    if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
    redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
    if ARGV[4] ~= '' then redis.call('SET', KEYS[3], ARGV[4]) end
    redis.call('DEL', KEYS[1])
    return 1";
/// Deletes a key that still has the given value: the lease after a failed fetch, or a token that WeChat refused.
const DELETE: &str = "
    if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
    return 0";

/// The token as all gateways share it in Redis; one for all workers.
pub struct RedisTokenStore {
    connection: RedisConnection,
    keys: Keys,
    lease: Duration,
    metrics: Arc<Metrics>,
}

/// Named by app and mode, and all in one hash slot.
struct Keys {
    token: String,
    lease: String,
    /// The newest refresh token of one authorization; `None` in the modes that have none.
    refresh_token: Option<String>,
    probe: String,
}

impl Keys {
    fn new(fetcher: &TokenFetcher) -> Self {
        let owner = format!("{}:{}", fetcher.mode().name(), fetcher.appid());
        let key = |what: &str| format!("tcb-upload-gateway:{{{owner}}}:{what}");
        let refresh_token = fetcher.authorization().map(|authorization| {
            let hash = Sha256::digest(authorization.expose_secret().as_bytes());
            key(&format!("refresh:{}", hex::encode(&hash[..8])))
        });
        Self { token: key("token"), lease: key("lease"), refresh_token, probe: key("probe") }
    }
}

impl RedisTokenStore {
    /// Connects with the first command.
    pub fn new(server: &RedisServer, fetcher: &TokenFetcher, metrics: Arc<Metrics>) -> Self {
        let connection = RedisConnection::new(
            server,
            COMMAND_TIMEOUT,
            "tokens are shared",
            "tokens are not shared meanwhile",
        );
        let lease = fetcher.timeout + LEASE_MARGIN;
        Self { connection, keys: Keys::new(fetcher), lease, metrics }
    }

    /// Whether tokens can be shared at the moment.
    pub async fn probe(&self) -> Result<(), RedisUnavailable> {
        self.command::<String>(&probe(&self.keys.probe)).await.map(drop)
    }

    /// A token that is none of `excluded`: the one in Redis, or the result of `fetch` under the lease. `fetch` gets the
    /// newest refresh token, and takes at most the time limit of one token request.
    pub(super) async fn obtain<F, R>(
        &self,
        excluded: &[&SecretString],
        fetch: F,
    ) -> Result<Result<(IssuedToken, TokenOrigin), WechatError>, RedisUnavailable>
    where
        F: Fn(Option<SecretString>) -> R,
        R: Future<Output = Result<IssuedToken, WechatError>>,
    {
        let lease_id = format!("{:032x}", rand::random::<u128>());
        // Long enough for two gateways to die while they have the lease.
        let deadline = Instant::now() + 2 * self.lease;
        loop {
            if let Some(shared) = self.read(excluded).await? {
                return Ok(Ok((shared, TokenOrigin::Shared)));
            }
            if self.acquire(&lease_id).await? {
                return self.fetch_under_lease(&lease_id, excluded, fetch).await;
            }
            if Instant::now() > deadline {
                let cause = "another gateway has the lease for the token, but fetches none";
                return Ok(Err(WechatError::NoCredential(cause.to_owned())));
            }
            tokio::time::sleep(POLL_INTERVAL.mul_f64(0.5 + fastrand::f64())).await;
        }
    }

    async fn fetch_under_lease<F, R>(
        &self,
        lease_id: &str,
        excluded: &[&SecretString],
        fetch: F,
    ) -> Result<Result<(IssuedToken, TokenOrigin), WechatError>, RedisUnavailable>
    where
        F: Fn(Option<SecretString>) -> R,
        R: Future<Output = Result<IssuedToken, WechatError>>,
    {
        // Another gateway may have stored a token and released the lease since `read`.
        if let Some(shared) = self.read(excluded).await? {
            let _ = self.delete(&self.keys.lease, lease_id).await;
            return Ok(Ok((shared, TokenOrigin::Shared)));
        }
        let refresh_token = match &self.keys.refresh_token {
            Some(key) => self.command::<Option<String>>(redis::cmd("GET").arg(key)).await?,
            None => None,
        };
        let issued = match fetch(refresh_token.map(SecretString::from)).await {
            Ok(issued) => issued,
            Err(error) => {
                let _ = self.delete(&self.keys.lease, lease_id).await;
                return Ok(Err(error));
            }
        };
        Ok(Ok(match self.publish(lease_id, &issued).await {
            Ok(true) | Err(RedisUnavailable) => (issued, TokenOrigin::Fetched),
            // The lease has expired, or Redis has lost it. A token that Redis has now was fetched later and has
            // replaced this one. Where there is none, none is fetched again: a Redis that loses its data would
            // otherwise use up the day's quota.
            Ok(false) => match self.read(excluded).await {
                Ok(Some(shared)) => (shared, TokenOrigin::Shared),
                Ok(None) | Err(RedisUnavailable) => (issued, TokenOrigin::Fetched),
            },
        }))
    }

    /// WeChat refused `bad`: the other gateways must not use it, either.
    pub(super) async fn reject(&self, bad: &SecretString) {
        let _ = self.delete(&self.keys.token, bad.expose_secret()).await;
    }

    async fn read(
        &self,
        excluded: &[&SecretString],
    ) -> Result<Option<IssuedToken>, RedisUnavailable> {
        let script = script(READ, &[&self.keys.token], &[]);
        let (token, left): (Option<String>, i64) = self.command(&script).await?;
        let life = Duration::from_millis(u64::try_from(left).unwrap_or(0));
        let allowed = |token: &SecretString| {
            excluded.iter().all(|excluded| excluded.expose_secret() != token.expose_secret())
        };
        let token = token.map(SecretString::from).filter(|token| !life.is_zero() && allowed(token));
        Ok(token.map(|token| IssuedToken { token, life, refresh_token: None }))
    }

    async fn acquire(&self, lease_id: &str) -> Result<bool, RedisUnavailable> {
        let life = self.lease.as_millis().to_string();
        self.command(&script(ACQUIRE, &[&self.keys.lease], &[lease_id, &life])).await
    }

    async fn publish(
        &self,
        lease_id: &str,
        issued: &IssuedToken,
    ) -> Result<bool, RedisUnavailable> {
        let life = issued.life.as_millis().max(1).to_string();
        let Keys { token, lease, refresh_token, .. } = &self.keys;
        let next = issued.refresh_token.as_ref().filter(|_| refresh_token.is_some());
        let next = next.map_or("", |next| next.expose_secret());
        let keys = [lease, token, refresh_token.as_ref().unwrap_or(token)];
        let arguments = [lease_id, issued.token.expose_secret(), &life, next];
        self.command(&script(PUBLISH, &keys.map(String::as_str), &arguments)).await
    }

    async fn delete(&self, key: &str, value: &str) -> Result<bool, RedisUnavailable> {
        self.command(&script(DELETE, &[key], &[value])).await
    }

    async fn command<T: FromRedisValue>(
        &self,
        command: &redis::Cmd,
    ) -> Result<T, RedisUnavailable> {
        // Each command is right also where it is carried out twice.
        let result = self.connection.run(command, command).await;
        self.metrics.redis(result.is_ok());
        result.map_err(|_| RedisUnavailable)
    }
}

/// Where a token came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenOrigin {
    /// From WeChat, by this gateway.
    Fetched,
    /// From another gateway, through Redis.
    Shared,
}

fn script(text: &str, keys: &[&str], arguments: &[&str]) -> redis::Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(text).arg(keys.len()).arg(keys).arg(arguments);
    command
}
