//! The events of all replicas, in a Redis stream with one consumer group: each event belongs to one gateway at a time,
//! and the events of one that died are taken over. Needs Redis 6.2.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use redis::{Cmd, FromRedisValue};
use tokio::sync::Mutex;

use super::event::{EventType, Message};
use super::queue::Entry;
use crate::net::redis::{RedisConnection, RedisServer};
use crate::net::trace_context::TraceContext;

/// Events in the stream.
const MAX_EVENTS: usize = 100_000;
/// Events that one call takes of either kind.
pub const COUNT: usize = 100;
/// How often a gateway says that its events are still its own, and after which silence others take them over.
pub const RENEWAL: Duration = Duration::from_secs(5);
const TAKEOVER: Duration = Duration::from_secs(20);
/// The time limit of a command, and of connecting.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(1);
const GROUP: &str = "gateways";

/// Adds an event; 0: the stream is full. Trimming would drop the oldest events silently.
const ADD: &str = "
    if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
    redis.call('XADD', KEYS[1], '*', 'id', ARGV[2], 'event', ARGV[3], 'body', ARGV[4], 'created', ARGV[5],
        'trace', ARGV[6])
    return 1";
/// Takes over events of silent gateways, as many as `ARGV[5]` says, then takes new ones, as `ARGV[6]` says. Returns where
/// the next search for silent ones goes on, how many were taken over, and six texts for each event. Events of earlier
/// releases have no trace.
const TAKE: &str = "
    local found = {}
    local function add(entries)
        for _, entry in ipairs(entries) do
            if entry and entry[2] then
                found[#found + 1] = entry[1]
                for at = 2, 10, 2 do found[#found + 1] = entry[2][at] or '' end
            end
        end
    end
    redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
    local cursor = ARGV[4]
    if ARGV[5] ~= '0' then
        local claimed = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], cursor, 'COUNT', ARGV[5])
        cursor = claimed[1]
        add(claimed[2])
    end
    local taken_over = #found / 6
    if ARGV[6] ~= '0' then
        local fresh = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[6], 'STREAMS', KEYS[1], '>')
        if fresh then add(fresh[1][2]) end
    end
    table.insert(found, 1, cursor)
    table.insert(found, 2, string.format('%.0f', taken_over))
    return found";
/// Returns the ids that this gateway still has. A Redis that lost its data has no group: then it has none of them.
const RENEW: &str = "
    redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
    local claim = {'XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0}
    for at = 3, #ARGV do claim[#claim + 1] = ARGV[at] end
    claim[#claim + 1] = 'JUSTID'
    return redis.call(unpack(claim))";
const REMOVE: &str = "
    redis.pcall('XACK', KEYS[1], ARGV[1], ARGV[2])
    return redis.call('XDEL', KEYS[1], ARGV[2])";

/// Redis did not respond, or cannot do this. The cause is logged here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamUnavailable;

/// The stream, as one gateway uses it.
pub struct EventStream {
    connection: RedisConnection,
    key: String,
    /// This process among the consumers of the group.
    consumer: String,
    /// Where the search for silent gateways' events goes on.
    cursor: Mutex<String>,
}

impl EventStream {
    /// `owner` tells apart gateways of different environments that share a Redis. Connects with the first command.
    pub fn new(server: &RedisServer, owner: &str) -> Self {
        let connection = RedisConnection::new(
            server,
            COMMAND_TIMEOUT,
            "hooks are queued in it",
            "hooks are queued in this gateway's memory meanwhile",
        );
        Self {
            connection,
            key: format!("tcb-upload-gateway:{{{owner}}}:hooks"),
            consumer: format!("{:032x}", rand::random::<u128>()),
            cursor: Mutex::new("0-0".to_owned()),
        }
    }

    /// Adds an event; `false`: the stream is full.
    pub async fn add(&self, message: &Message) -> Result<bool, StreamUnavailable> {
        let mut command = self.script(ADD);
        command.arg(MAX_EVENTS).arg(&message.id).arg(message.event.name());
        command.arg(&message.body[..]).arg(message.created.as_millisecond());
        command.arg(message.trace.map(|trace| trace.to_string()).unwrap_or_default());
        self.run(&command).await
    }

    /// At most so many events of silent gateways and new ones, and at most [`COUNT`] of either: they belong to this gateway
    /// now. A gateway is silent about an event that it does not [renew](Self::renew), dead or not.
    pub async fn take(&self, silent: usize, new: usize) -> Result<Vec<Entry>, StreamUnavailable> {
        let mut cursor = self.cursor.lock().await;
        let mut command = self.script(TAKE);
        let takeover = u64::try_from(TAKEOVER.as_millis()).unwrap_or(u64::MAX);
        command.arg(GROUP).arg(&self.consumer).arg(takeover).arg(&*cursor);
        command.arg(silent.min(COUNT)).arg(new.min(COUNT));
        let found: Vec<String> = self.run(&command).await?;
        let [next, taken_over, events @ ..] = &found[..] else { return Ok(Vec::new()) };
        cursor.clone_from(next);
        let taken_over: usize = taken_over.parse().unwrap_or_default();
        let entries = events.chunks_exact(6).enumerate().filter_map(|(at, texts)| {
            let entry = entry(texts)?;
            Some(if at < taken_over { entry.taken_over() } else { entry })
        });
        Ok(entries.collect())
    }

    /// Says that these events are still this gateway's. Returns those that the stream no longer has: Redis has lost
    /// them, or another gateway has taken them over and delivered them.
    pub async fn renew(&self, stream_ids: &[String]) -> Result<HashSet<String>, StreamUnavailable> {
        if stream_ids.is_empty() {
            return Ok(HashSet::new());
        }
        let mut command = self.script(RENEW);
        command.arg(GROUP).arg(&self.consumer).arg(stream_ids);
        let present: HashSet<String> = self.run(&command).await?;
        Ok(stream_ids.iter().filter(|id| !present.contains(*id)).cloned().collect())
    }

    /// Whether Redis responded to the last command.
    pub fn is_up(&self) -> bool {
        self.connection.is_up()
    }

    /// Removes an event that needs no further attempt.
    pub async fn remove(&self, stream_id: &str) -> Result<(), StreamUnavailable> {
        let mut command = self.script(REMOVE);
        command.arg(GROUP).arg(stream_id);
        self.run::<i64>(&command).await.map(drop)
    }

    /// The number of events, those of other gateways included.
    pub async fn length(&self) -> Result<usize, StreamUnavailable> {
        self.run(redis::cmd("XLEN").arg(&self.key)).await
    }

    fn script(&self, text: &str) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(text).arg(1).arg(&self.key);
        command
    }

    /// Runs a command, perhaps twice: an event may then be added twice, and the back end recognizes it by its id.
    async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StreamUnavailable> {
        self.connection.run(command, command).await.map_err(|_| StreamUnavailable)
    }
}

/// An event from its texts; `None` if another release wrote it in another form.
fn entry(texts: &[String]) -> Option<Entry> {
    let [stream_id, id, event, body, created, trace] = texts else { return None };
    let message = Message {
        id: id.clone(),
        event: EventType::ALL.into_iter().find(|known| known.name() == event)?,
        body: body.clone().into(),
        created: Timestamp::from_millisecond(created.parse().ok()?).ok()?,
        trace: TraceContext::parse(trace.as_bytes()),
    };
    Some(Entry { message: Arc::new(message), attempts: 0, stream_id: Some(stream_id.clone()) })
}
