//! The counters of all clients in Redis, which all gateways share. Needs Redis 5: scripts that ask for the time.
//!
//! A counter is four keys in one hash slot: a hash of numbers (`bytes`, `files`, ever stored; `day_bytes`, `day_files`,
//! stored on the day `day`; `reserved_bytes`, `reserved_files`), a hash of reservations, when each expires, and the
//! reservations that ended last, so that each counts once however often Redis is told. Days and expiries go by the clock of
//! Redis: the gateways' clocks need not agree.

use std::time::Duration;

use redis::{Cmd, RedisError};

use super::amount::{Amount, DAY, DAY_OFFSET, Refusal, Usage, Wanted};
use super::counter::{Granted, MAX_RESERVATIONS, ReservationId};
use crate::net::redis::{RedisConnection, RedisServer};
use crate::settings::Quota;

/// The time limit of a command: Redis is close to the gateway, and requests wait for it.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(400);
/// The reservations that ended last, of one client: a gateway that had no response tells Redis again within seconds.
const MAX_SETTLED: usize = 1000;
/// More than any limit, and exact in Lua's numbers.
const NO_LIMIT: u64 = 1 << 53;

/// Begins the next day, and removes expired reservations. `ARGV`: the offset of the day, its length, and how long the keys
/// live without use, or 0.
const PROLOGUE: &str = "
    local now = tonumber(redis.call('TIME')[1])
    -- A back end that takes off what it has deleted may take off more than was counted.
    local function get(name) return math.max(0, tonumber(redis.call('HGET', KEYS[1], name) or '0')) end
    local function add(name, n)
        if n ~= 0 then redis.call('HINCRBY', KEYS[1], name, string.format('%.0f', n)) end
    end
    local function release(id)
        local amount = redis.call('HGET', KEYS[2], id)
        if not amount then return false end
        redis.call('HDEL', KEYS[2], id)
        redis.call('ZREM', KEYS[3], id)
        local bytes, files = string.match(amount, '(%d+) (%d+)')
        add('reserved_bytes', 0 - tonumber(bytes))
        add('reserved_files', 0 - tonumber(files))
        return true
    end
    local local_time = now + tonumber(ARGV[1])
    local day = math.floor(local_time / tonumber(ARGV[2]))
    if get('day') < day then
        redis.call('HSET', KEYS[1], 'day', day, 'day_bytes', 0, 'day_files', 0)
    end
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 1000)) do
        release(id)
    end
    local function usage(granted, bytes, files)
        for n = 1, 4 do
            if ARGV[3] == '0' then redis.call('PERSIST', KEYS[n])
            else redis.call('EXPIRE', KEYS[n], ARGV[3]) end
        end
        return {granted, bytes, files, get('day_bytes'), get('day_files'), get('bytes'), get('files'),
            get('reserved_bytes'), get('reserved_files'), tonumber(ARGV[2]) - local_time % tonumber(ARGV[2])}
    end";
/// `ARGV` besides: id, seconds that it lives, reservations at most, for bytes and for files: the least, the most, the
/// limits of a day and in all. Returns whether it is granted (2: too many reservations), how much, and the usage.
const RESERVE: &str = "
    release(ARGV[4])
    local function left(kind, at)
        local by_day = tonumber(ARGV[at + 2]) - get('day_' .. kind)
        local by_total = tonumber(ARGV[at + 3]) - get(kind)
        return math.min(by_day, by_total) - get('reserved_' .. kind)
    end
    local bytes = math.min(tonumber(ARGV[8]), left('bytes', 7))
    local files = math.min(tonumber(ARGV[12]), left('files', 11))
    if redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[6]) then return usage(2, 0, 0) end
    if bytes < tonumber(ARGV[7]) or files < tonumber(ARGV[11]) then return usage(0, 0, 0) end
    local found = usage(1, bytes, files)
    redis.call('HSET', KEYS[2], ARGV[4], string.format('%.0f %.0f', bytes, files))
    redis.call('ZADD', KEYS[3], now + tonumber(ARGV[5]), ARGV[4])
    add('reserved_bytes', bytes)
    add('reserved_files', files)
    usage(1, bytes, files)
    return found";
/// `ARGV` besides: id, bytes and files that were stored, whether another gateway may have told this, and how many ended
/// reservations are kept. They were counted if the id was told before, or perhaps was and the reservation is gone. That
/// nothing was stored is told by another id: where the client of a creation is gone, its file may be stored yet.
const SETTLE: &str = "
    local told = ARGV[4]
    if ARGV[5] == '0' and ARGV[6] == '0' then told = told .. '-nothing' end
    local is_new = redis.call('ZADD', KEYS[4], 'NX', now, told) == 1
    redis.call('ZREMRANGEBYRANK', KEYS[4], 0, -1 - tonumber(ARGV[8]))
    if release(ARGV[4]) or (is_new and ARGV[7] == '0') then
        for _, name in ipairs({'bytes', 'day_bytes'}) do add(name, tonumber(ARGV[5])) end
        for _, name in ipairs({'files', 'day_files'}) do add(name, tonumber(ARGV[6])) end
    end
    return usage(1, 0, 0)";
/// Prolongs a reservation that is still there.
const RENEW: &str = "
    return redis.call('ZADD', KEYS[1], 'XX', tonumber(redis.call('TIME')[1]) + tonumber(ARGV[2]), ARGV[1])";

/// What the scripts return.
type Returned = (u8, u64, u64, u64, u64, u64, u64, u64, u64, u64);

fn usage(returned: Returned) -> Usage {
    let (_, _, _, day_bytes, day_files, bytes, files, reserved_bytes, reserved_files, resets_in) =
        returned;
    Usage {
        day: Amount { bytes: day_bytes, files: day_files },
        total: Amount { bytes, files },
        reserved: Amount { bytes: reserved_bytes, files: reserved_files },
        resets_in,
    }
}

pub(super) struct RedisCounters {
    connection: RedisConnection,
    /// Before the subject.
    prefix: String,
    /// How long the counters of days are useful.
    life: Duration,
}

impl RedisCounters {
    /// `owner` tells apart gateways of different environments that share a Redis; no reservation lives longer than
    /// `max_life`.
    pub fn new(server: &RedisServer, owner: &str, max_life: Duration) -> Self {
        let connection = RedisConnection::new(
            server,
            COMMAND_TIMEOUT,
            "quotas are shared",
            "quotas are counted in this gateway's memory meanwhile",
        );
        let prefix = format!("tcb-upload-gateway:{{{owner}:quota:");
        let life = max_life + Duration::from_secs(2 * DAY.unsigned_abs());
        Self { connection, prefix, life }
    }

    pub async fn reserve(
        &self,
        quota: &Quota,
        subject: &str,
        id: ReservationId,
        wanted: Wanted,
        life: Duration,
    ) -> Result<Result<Granted, (Refusal, Usage)>, RedisError> {
        let mut command = self.script(RESERVE, quota, subject);
        command.arg(hex::encode(id)).arg(life.as_secs()).arg(MAX_RESERVATIONS);
        let limit = |limit: Option<u64>| limit.unwrap_or(NO_LIMIT);
        let (least, most) = (wanted.least, wanted.most);
        command.arg(least.bytes).arg(most.bytes.min(NO_LIMIT));
        command.arg(limit(quota.bytes_per_day)).arg(limit(quota.bytes));
        command.arg(least.files).arg(most.files.min(NO_LIMIT));
        command.arg(limit(quota.files_per_day)).arg(limit(quota.files));
        let returned: Returned = self.connection.run(&command, &command).await?;
        let usage = usage(returned);
        Ok(match returned {
            (1, bytes, files, ..) => Ok(Granted { amount: Amount { bytes, files }, usage }),
            (2, ..) => Err((Refusal::Full, usage)),
            _ => Err((usage.refusal(quota, least), usage)),
        })
    }

    /// Counts `stored`, once for each `id`.
    pub async fn conclude(
        &self,
        quota: &Quota,
        subject: &str,
        id: &ReservationId,
        stored: Amount,
        is_repeated: bool,
    ) -> Result<Usage, RedisError> {
        let mut command = self.script(SETTLE, quota, subject);
        command.arg(hex::encode(id)).arg(stored.bytes).arg(stored.files);
        command.arg(u8::from(is_repeated)).arg(MAX_SETTLED);
        self.connection.run(&command, &command).await.map(usage)
    }

    pub async fn renew(
        &self,
        subject: &str,
        id: &ReservationId,
        life: Duration,
    ) -> Result<(), RedisError> {
        let mut command = redis::cmd("EVAL");
        command.arg(RENEW).arg(1).arg(self.key(subject, ":expiries"));
        command.arg(hex::encode(id)).arg(life.as_secs());
        self.connection.run::<i64>(&command, &command).await.map(drop)
    }

    fn key(&self, subject: &str, what: &str) -> String {
        format!("{}{subject}}}{what}", self.prefix)
    }

    fn script(&self, text: &str, quota: &Quota, subject: &str) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(format!("{PROLOGUE}{text}")).arg(4);
        for what in ["", ":reservations", ":expiries", ":settled"] {
            command.arg(self.key(subject, what));
        }
        // Where all files ever stored are limited, the count must never be lost.
        let life = if quota.has_total() { 0 } else { self.life.as_secs() };
        command.arg(DAY_OFFSET).arg(DAY).arg(life);
        command
    }
}
