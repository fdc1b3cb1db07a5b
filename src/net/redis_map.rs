//! A map in Redis that has a limit in entries and in bytes, for what all gateways share for a while.
//!
//! It is three keys in one hash slot: the values, when each expires, and the sum of their bytes. Times go by the clock of
//! Redis: the gateways' clocks need not agree. Needs Redis 5: scripts that ask for the time.

use std::time::Duration;

use redis::{Cmd, FromRedisValue, RedisError};

use super::redis::RedisConnection;

/// For the scripts of a map: `read(id)`; `put(id, value, life)`, with a life in milliseconds, which removes what has expired
/// and then, at the limits, what expires first; `remove(id)`; `now` in milliseconds. `ARGV`: the limits of entries and
/// bytes, the longest life. What a script is given besides begins at `ARGV[4]`.
const FUNCTIONS: &str = "
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    -- A Redis that cannot write is not read, either: otherwise it would seem to be available and unavailable by turns.
    redis.call('INCRBY', KEYS[3], 0)
    redis.call('PEXPIRE', KEYS[3], ARGV[3])
    local function integer(number) return string.format('%.0f', number) end
    local function left(id) return (tonumber(redis.call('ZSCORE', KEYS[2], id)) or 0) - now end
    local function read(id)
        if left(id) <= 0 then return false end
        return redis.call('HGET', KEYS[1], id)
    end
    local function remove(id)
        local value = redis.call('HGET', KEYS[1], id)
        redis.call('ZREM', KEYS[2], id)
        if value then
            redis.call('HDEL', KEYS[1], id)
            redis.call('DECRBY', KEYS[3], #id + #value)
        end
    end
    local function put(id, value, life)
        remove(id)
        for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 100)) do remove(old) end
        local function bytes() return tonumber(redis.call('GET', KEYS[3]) or '0') end
        -- A Redis that evicts keys may have evicted one of the three.
        if redis.call('ZCARD', KEYS[2]) ~= redis.call('HLEN', KEYS[1]) or bytes() < 0 then
            redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
        end
        while redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[1]) or bytes() + #id + #value > tonumber(ARGV[2]) do
            local first = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
            if not first then
                redis.call('DEL', KEYS[1], KEYS[3])
                break
            end
            remove(first)
        end
        redis.call('HSET', KEYS[1], id, value)
        redis.call('ZADD', KEYS[2], integer(now + life), id)
        redis.call('INCRBY', KEYS[3], #id + #value)
        for n = 1, 3 do redis.call('PEXPIRE', KEYS[n], ARGV[3]) end
    end";

/// The limits of a map.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub entries: usize,
    /// Of ids and values.
    pub bytes: usize,
    /// No entry lives longer.
    pub life: Duration,
}

/// A map, as one gateway uses it.
pub struct RedisMap {
    connection: RedisConnection,
    keys: [String; 3],
    bounds: Bounds,
}

impl RedisMap {
    /// `name` tells apart maps, and environments that share a Redis.
    pub fn new(connection: RedisConnection, name: &str, bounds: Bounds) -> Self {
        let key = |what: &str| format!("tcb-upload-gateway:{{{name}}}:{what}");
        Self { connection, keys: ["values", "expiries", "bytes"].map(key), bounds }
    }

    /// A script that begins with the functions of a map.
    pub fn script(&self, text: &str) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(format!("{FUNCTIONS}\n{text}")).arg(self.keys.len()).arg(&self.keys);
        command.arg(self.bounds.entries).arg(self.bounds.bytes).arg(millis(self.bounds.life));
        command
    }

    /// Runs a script, which must be right also where it runs twice.
    pub async fn run<T: FromRedisValue>(&self, script: &Cmd) -> Result<T, RedisError> {
        self.connection.run(script, script).await
    }
}

/// For a script.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
