//! Download links that all gateways share in Redis, so that each link is fetched once. A Redis that does not respond delays
//! a download by at most [`LIMIT`]; the gateway then fetches the link itself.

use std::sync::Arc;
use std::time::Duration;

use redis::FromRedisValue;
use sha2::{Digest, Sha256};

use crate::net::redis::{RedisConnection, RedisServer};
use crate::net::redis_map::{Bounds, RedisMap, millis};

/// The time limit of a command, and of connecting.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(300);
/// The time limit where a client waits: a command may wait for another one that connects. Longer than one command: a
/// command that is given up earlier would not count as a failure of Redis.
const LIMIT: Duration = Duration::from_millis(500);
/// How long Redis remembers that a file was replaced or deleted. No call for links takes longer.
const INVALIDATED: Duration = Duration::from_secs(5 * 60);
const BOUNDS: Bounds =
    Bounds { entries: 100_000, bytes: 64 * 1024 * 1024, life: Duration::from_secs(24 * 60 * 60) };

/// The links of files: `ARGV` has for each its id and the lifetime that was requested, in seconds. A file has one shared
/// link: that of the lifetime that was requested last. Returns for each the milliseconds that it is usable, and the link.
const READ: &str = "
    local found = {}
    for at = 4, #ARGV, 2 do
        local value = read(ARGV[at])
        local life, link = string.match(value or '', '^L %d+ (%d+) (.*)$')
        if link and life == ARGV[at + 1] then
            found[#found + 1] = integer(left(ARGV[at]))
            found[#found + 1] = link
        else
            found[#found + 1] = '0'
            found[#found + 1] = ''
        end
    end
    return found";
/// `ARGV` has for each link the file's id, how many milliseconds ago it was requested, the requested lifetime, the
/// milliseconds that it is usable, and the link. One that was requested before the file was invalidated is left out.
const SHARE: &str = "
    for at = 4, #ARGV, 5 do
        local requested = now - tonumber(ARGV[at + 1])
        local invalidated = tonumber(string.match(read(ARGV[at]) or '', '^X (%d+)$') or '-1')
        if requested > invalidated then
            local value = 'L ' .. integer(requested) .. ' ' .. ARGV[at + 2] .. ' ' .. ARGV[at + 4]
            put(ARGV[at], value, tonumber(ARGV[at + 3]))
        end
    end
    return 1";
/// `ARGV`: how long this is remembered, and the files' ids.
const INVALIDATE: &str = "
    for at = 5, #ARGV do put(ARGV[at], 'X ' .. integer(now), tonumber(ARGV[4])) end
    return 1";

/// A link as the others are told of it.
pub(super) struct NewLink<'a> {
    pub file_id: &'a str,
    pub url: &'a str,
    /// The lifetime that was requested.
    pub max_age: Duration,
    /// Since it was requested.
    pub age: Duration,
    /// How long it may still be given out.
    pub usable: Duration,
}

/// A link that another gateway has fetched.
pub(super) struct SharedLink {
    pub url: String,
    /// How long it may still be given out.
    pub usable: Duration,
}

/// The shared links, as one gateway uses them.
#[derive(Clone)]
pub(super) struct SharedLinks(Arc<RedisMap>);

impl SharedLinks {
    /// Gateways of the same environment and `base_url` share their links: a sandbox has links of its own.
    pub fn new(server: &RedisServer, env: &str, base_url: &str) -> Self {
        let connection = RedisConnection::new(
            server,
            COMMAND_TIMEOUT,
            "download links are shared",
            "download links are not shared meanwhile",
        );
        let place = hex::encode(&Sha256::digest(base_url.as_bytes())[..8]);
        Self(Arc::new(RedisMap::new(connection, &format!("{env}:links:{place}"), BOUNDS)))
    }

    /// The links of files by id and requested lifetime, in their order.
    pub async fn read(&self, files: &[(&str, Duration)]) -> Vec<Option<SharedLink>> {
        let mut script = self.0.script(READ);
        for (file_id, max_age) in files {
            script.arg(id(file_id)).arg(max_age.as_secs());
        }
        let found: Option<Vec<String>> = self.run(&script).await;
        let mut found = found.unwrap_or_default().into_iter();
        let next = |_| {
            let usable = Duration::from_millis(found.next()?.parse().ok()?);
            let url = found.next()?;
            (!usable.is_zero()).then_some(SharedLink { url, usable })
        };
        files.iter().map(next).collect()
    }

    /// Tells the other gateways of links. The caller need not wait for it.
    pub async fn share(&self, links: &[NewLink<'_>]) {
        let mut script = self.0.script(SHARE);
        for link in links {
            script.arg(id(link.file_id)).arg(millis(link.age)).arg(link.max_age.as_secs());
            script.arg(millis(link.usable)).arg(link.url);
        }
        let _: Option<u8> = self.run(&script).await;
    }

    /// Drops the files' links, and ignores those that were requested before now.
    pub async fn invalidate(&self, file_ids: &[String]) {
        let mut script = self.0.script(INVALIDATE);
        script.arg(millis(INVALIDATED));
        for file_id in file_ids {
            script.arg(id(file_id));
        }
        let _: Option<u8> = self.run(&script).await;
    }

    /// `None`: Redis is unavailable, which the connection has logged.
    async fn run<T: FromRedisValue>(&self, script: &redis::Cmd) -> Option<T> {
        tokio::time::timeout(LIMIT, self.0.run(script)).await.ok()?.ok()
    }
}

/// A file among the entries: a hash, so that the length of file ids does not matter.
fn id(file_id: &str) -> String {
    hex::encode(&Sha256::digest(file_id.as_bytes())[..16])
}
