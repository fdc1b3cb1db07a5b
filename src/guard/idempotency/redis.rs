//! The keys of all gateways in Redis: one gateway at a time carries out the requests of a key, which it has leased, and the
//! others get its response. Redis also remembers when a key was first used, since generated paths contain the date.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use redis::{Cmd, RedisError};

use crate::net::redis::{RedisConnection, RedisServer};
use crate::net::redis_map::{Bounds, RedisMap, millis};

/// The time limit of a command, and of connecting.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(400);
/// After which silence of a gateway another one carries out its request, and how often it says that it still does.
const LEASE: Duration = Duration::from_secs(10);
pub(super) const RENEWAL: Duration = Duration::from_secs(3);
/// In bytes: longer responses are retained by the gateway that made them alone.
const MAX_RESPONSE: usize = 256 * 1024;

/// An entry is the hash of the request, the id of the lease, when the lease expires, when the key was first used, and the
/// response, if there is one. `ARGV`: id, request, lease, its milliseconds, the milliseconds that the entry is kept, and
/// the time of the first use where this gateway knows it.
const ACQUIRE: &str = "
    local value = read(ARGV[4]) or ''
    local request, lease, expires, first, response = string.match(value, '^(%x+) (%x+) (%d+) (%d+) (.*)$')
    local is_leased = request and tonumber(expires) > now and lease ~= ARGV[6]
    if request and request ~= ARGV[5] and (response ~= '' or is_leased) then return {'mismatch'} end
    if request and response ~= '' then return {'completed', response} end
    if is_leased then return {'running'} end
    if not first then first = ARGV[9] ~= '' and ARGV[9] or integer(now) end
    local entry = {ARGV[5], ARGV[6], integer(now + tonumber(ARGV[7])), first, ''}
    put(ARGV[4], table.concat(entry, ' '), tonumber(ARGV[8]))
    return {'first', first}";
/// Ends a lease with a response, or without one, which is empty. `ARGV`: id, lease, the milliseconds that the entry is kept,
/// the response. Does nothing if another gateway has the lease by now, or Redis has lost the entry.
const RELEASE: &str = "
    local value = read(ARGV[4]) or ''
    local request, lease, _, first, response = string.match(value, '^(%x+) (%x+) (%d+) (%d+) (.*)$')
    if lease ~= ARGV[5] or response ~= '' then return 0 end
    put(ARGV[4], table.concat({request, lease, '0', first, ARGV[7]}, ' '), tonumber(ARGV[6]))
    return 1";

/// What Redis knows of a key.
#[derive(Debug)]
pub(super) enum Shared {
    /// This gateway has the lease. The key was first used at this time.
    First(Timestamp),
    /// Another gateway carries out the request.
    Running,
    /// The text of the response.
    Completed(String),
    Mismatch,
}

/// The keys, as one gateway uses them.
#[derive(Clone)]
pub(super) struct SharedKeys {
    map: Arc<RedisMap>,
    retention: Duration,
}

/// A key, by the scope's hash, and a request with it.
#[derive(Clone)]
pub(super) struct LeasedKey {
    pub id: String,
    pub request: String,
    pub lease: String,
}

impl SharedKeys {
    /// `bounds` and `retention` are those of the gateway's own entries.
    pub fn new(server: &RedisServer, env: &str, retention: Duration, bounds: Bounds) -> Self {
        let connection = RedisConnection::new(
            server,
            COMMAND_TIMEOUT,
            "responses for Idempotency-Key are shared",
            "responses for Idempotency-Key are not shared meanwhile",
        );
        let map = RedisMap::new(connection, &format!("{env}:idempotency"), bounds);
        Self { map: Arc::new(map), retention }
    }

    /// Takes or prolongs the lease. `first`: when the key was first used, if this gateway knows.
    pub async fn acquire(
        &self,
        key: &LeasedKey,
        first: Option<Timestamp>,
    ) -> Result<Shared, RedisError> {
        let mut script = self.map.script(ACQUIRE);
        script.arg(&key.id).arg(&key.request).arg(&key.lease);
        script.arg(millis(LEASE)).arg(millis(self.retention));
        script.arg(first.map(|first| first.as_millisecond().to_string()).unwrap_or_default());
        let found: Vec<String> = self.map.run(&script).await?;
        let mut found = found.into_iter();
        let (outcome, text) = (found.next().unwrap_or_default(), found.next().unwrap_or_default());
        Ok(match outcome.as_str() {
            "first" => {
                let first = text.parse().ok().and_then(|at| Timestamp::from_millisecond(at).ok());
                Shared::First(first.unwrap_or_else(Timestamp::now))
            }
            "completed" => Shared::Completed(text),
            "running" => Shared::Running,
            _ => Shared::Mismatch,
        })
    }

    /// Ends the lease. `response`: for repeats; without one, a repeat is carried out.
    pub async fn release(&self, key: &LeasedKey, response: Option<&str>) {
        let response = response.filter(|text| text.len() <= MAX_RESPONSE).unwrap_or_default();
        let mut script: Cmd = self.map.script(RELEASE);
        script.arg(&key.id).arg(&key.lease).arg(millis(self.retention)).arg(response);
        // Logged by the connection. Without it the lease expires.
        let _: Result<u8, _> = self.map.run(&script).await;
    }
}
