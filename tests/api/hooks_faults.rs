//! Faults of Redis while it has the queue of events, and back ends whose responses do harm.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tcb_upload_gateway::hooks::stream::RENEWAL;
use tcb_upload_gateway::sandbox::Options;

use crate::harness::{Gateway, World, wait_until};
use crate::hooks::{Received, Receiver, count, put};
use crate::hooks_lost::{lost, paths, stopped};
use crate::measured::{metrics, value};
use crate::recorder::response;
use crate::replicas::Redis;
use crate::threads::SetAtEnd;
use crate::tickets::now;

const DAY: u64 = 24 * 3600;
/// Events that the stream may have.
const MAX_EVENTS: usize = 100_000;
/// An upload waits at most for one command to Redis and one attempt to connect, of a second each.
const BOUND: Duration = Duration::from_secs(4);

/// The gateways' stream, as a test reads and writes it.
pub struct Stream {
    connection: redis::Connection,
    key: String,
}

impl Stream {
    pub fn of(redis: &Redis) -> Self {
        let client = redis::Client::open(redis.url()).expect("a URL");
        let connection = client.get_connection().expect("a connection");
        Self { connection, key: format!("tcb-upload-gateway:{{{}}}:hooks", Options::default().env) }
    }

    pub fn len(&mut self) -> usize {
        redis::cmd("XLEN").arg(&self.key).query(&mut self.connection).expect("a number")
    }

    /// Events that gateways have, or had and let go.
    pub fn pending(&mut self) -> usize {
        type Summary = (usize, redis::Value, redis::Value, redis::Value);
        let mut command = redis::cmd("XPENDING");
        let summary = command.arg(&self.key).arg("gateways").query::<Summary>(&mut self.connection);
        // There is no group before a gateway asks.
        summary.map_or(0, |(pending, ..)| pending)
    }

    /// Adds events, as a gateway did so many seconds ago.
    pub fn add(&mut self, id: &str, age: u64, count: usize) {
        let script = "
            for n = 1, tonumber(ARGV[4]) do
                redis.call('XADD', KEYS[1], '*', 'id', ARGV[1], 'event', 'file.stored', 'body', ARGV[2],
                    'created', ARGV[3])
            end";
        let body = format!(r#"{{"type":"file.stored","data":{{"path":"{id}"}}}}"#);
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(1).arg(&self.key).arg(id).arg(body);
        command.arg((now() - age) * 1000).arg(count);
        command.exec(&mut self.connection).expect("it adds them");
    }

    fn delete(&mut self) {
        redis::cmd("DEL").arg(&self.key).exec(&mut self.connection).expect("it");
    }
}

pub fn unavailable() -> String {
    response("503 No", "")
}

pub fn received_paths(receiver: &Receiver) -> BTreeSet<String> {
    let path = |event: Received| event.data()["path"].as_str().expect("a path").to_owned();
    receiver.received().into_iter().map(path).collect()
}

pub fn upload(gateway: &Gateway, path: &str) {
    let response = put(gateway, path, &[]);
    assert_eq!(response.status, 201, "{}", response.text());
}

pub fn queued(world: &World) -> f64 {
    value(&metrics(world), "gateway_hooks_queued")
}

#[test]
fn an_event_is_given_up_after_a_day_and_logged() {
    let redis = Redis::start();
    let mut stream = Stream::of(&redis);
    let receiver = Receiver::start();
    receiver.respond_with(unavailable());
    let world = receiver.setup().set("redis.url", redis.url()).start();
    stream.add("msg_young", DAY - 600, 1);
    stream.add("msg_old", DAY + 1, 1);
    let log = world.gateway.log_with("it could not be delivered for a day");
    let attempts = |id: &str| receiver.received().iter().filter(|event| event.id() == id).count();
    wait_until("the young one is tried again", || attempts("msg_young") >= 3);
    assert_eq!(attempts("msg_old"), 1);
    assert_eq!(paths(&lost(&log)), ["msg_old".to_owned()].into());
    wait_until("Redis has the young one only", || Stream::of(&redis).len() == 1);
    receiver.respond_with(response("200 OK", ""));
    wait_until("the young one is delivered", || Stream::of(&redis).len() == 0);
    assert_eq!(lost(&world.gateway.log()).len(), 1);
    assert_eq!(count(&world, "file.stored", "dropped"), 1);
}

#[test]
fn what_has_no_room_in_the_stream_is_queued_in_memory() {
    let redis = Redis::start();
    let mut stream = Stream::of(&redis);
    stream.add("msg_filler", 0, MAX_EVENTS - 1);
    let receiver = Receiver::start();
    receiver.respond_with(unavailable());
    let world = receiver.setup().set("redis.url", redis.url()).start();
    upload(&world.gateway, "last.txt");
    assert!(!world.gateway.log().contains("is full"));
    assert_eq!(stream.len(), MAX_EVENTS);
    upload(&world.gateway, "over.txt");
    world.gateway.log_with("the stream of hooks in Redis is full");
    assert_eq!(stream.len(), MAX_EVENTS);
    assert_eq!(count(&world, "file.stored", "queued"), 2);
    stream.delete();
    receiver.respond_with(response("200 OK", ""));
    wait_until("the one in memory is delivered", || received_paths(&receiver).contains("over.txt"));
    assert_eq!(count(&world, "file.stored", "dropped"), 0);
    // There is room again.
    receiver.respond_with(unavailable());
    upload(&world.gateway, "again.txt");
    assert_eq!(stream.len(), 1);
}

/// The gateway has the events that it took: it delivers them, or logs them when it stops.
#[test]
fn a_redis_that_loses_its_data_loses_no_event_that_a_gateway_has_taken() {
    let mut redis = Redis::start();
    let receiver = Receiver::start();
    receiver.respond_with(unavailable());
    let mut world = receiver.setup().set("redis.url", redis.url()).start();
    let taken = ["1.txt", "2.txt", "3.txt"];
    taken.iter().for_each(|path| upload(&world.gateway, path));
    wait_until("they are taken", || received_paths(&receiver).len() == taken.len());
    redis.kill();
    // Longer than the gateway goes without saying that they are its own: the first command after that says so.
    std::thread::sleep(RENEWAL + Duration::from_secs(1));
    redis.restart();
    world.gateway.log_with("Redis is available: hooks are queued in it");
    upload(&world.gateway, "4.txt");
    wait_until("one more is taken", || received_paths(&receiver).contains("4.txt"));
    assert_eq!(Stream::of(&redis).len(), 1);
    wait_until("the others are only in memory", || queued(&world) == 4.0);
    let log = stopped(&mut world.gateway);
    assert!(log.matches("Redis is unavailable: hooks").count() <= 1, "{log}");
    assert_eq!(paths(&lost(&log)), taken.map(str::to_owned).into());
    // Another gateway takes over the one in Redis.
    receiver.respond_with(response("200 OK", ""));
    let _other = world.another();
    wait_until("it is delivered", || Stream::of(&redis).len() == 0);
}

#[test]
fn a_gateway_that_stops_while_redis_hangs_logs_all_events_that_it_has() {
    let redis = Redis::start();
    let receiver = Receiver::start();
    receiver.respond_with(unavailable());
    let mut world =
        receiver.setup().set("redis.url", redis.url()).set("server.shutdown_grace", "3s").start();
    ["1.txt", "2.txt"].iter().for_each(|path| upload(&world.gateway, path));
    wait_until("they are taken", || received_paths(&receiver).len() == 2);
    redis.signal("STOP");
    upload(&world.gateway, "3.txt");
    world.gateway.log_with("Redis is unavailable: hooks are queued in this gateway's memory");
    let log = stopped(&mut world.gateway);
    let all = ["1.txt", "2.txt", "3.txt"].map(str::to_owned);
    assert_eq!(paths(&lost(&log)), all.into(), "{log}");
}

/// Uploads go on while `fail` and `heal` happen to Redis: none waits long, and each is told of.
fn uploads_while(mut redis: Redis, fail: fn(&mut Redis), heal: fn(&mut Redis)) {
    let receiver = Receiver::start();
    let world = receiver.setup().set("redis.url", redis.url()).start();
    let (next, stored) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (slowest, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let more = |count: usize| {
        let before = stored.load(Ordering::Relaxed);
        wait_until("uploads go on", || stored.load(Ordering::Relaxed) >= before + count);
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    upload(&world.gateway, &format!("{number}.txt"));
                    let took = u64::try_from(began.elapsed().as_millis()).expect("a short time");
                    slowest.fetch_max(took, Ordering::Relaxed);
                    stored.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _end = SetAtEnd(&over);
        more(50);
        fail(&mut redis);
        world.gateway.log_with("Redis is unavailable: hooks");
        let failed = Instant::now();
        // Redis is tried again each second.
        while failed.elapsed() < Duration::from_secs(3) {
            more(5);
        }
        heal(&mut redis);
        world.gateway.log_with("Redis is available: hooks are queued in it");
        more(50);
    });
    let slowest = Duration::from_millis(slowest.load(Ordering::Relaxed));
    let uploads = next.load(Ordering::Relaxed);
    wait_until("each file is told of", || received_paths(&receiver).len() == uploads);
    println!("{uploads} uploads, the slowest took {slowest:?}; {} events", receiver.calls());
    assert!(slowest < BOUND, "{slowest:?}");
    assert_eq!(lost(&world.gateway.log()).len(), 0);
}

#[test]
fn a_redis_that_is_killed_while_uploads_run_loses_none_of_their_events() {
    uploads_while(Redis::persistent(), Redis::kill, Redis::restart);
}

#[test]
fn a_redis_that_hangs_delays_no_upload_for_long_and_loses_no_event() {
    uploads_while(Redis::start(), |redis| redis.signal("STOP"), |redis| redis.signal("CONT"));
}

#[test]
fn a_redirect_to_another_server_is_not_followed() {
    let (receiver, other) = (Receiver::start(), Receiver::start());
    let location = format!("307 Elsewhere\r\nLocation: http://{}/events", other.address());
    receiver.respond_with(response(&location, ""));
    let world = receiver.setup().start();
    upload(&world.gateway, "x.txt");
    receiver.wait_for(3);
    receiver.respond_with(response("200 OK", ""));
    wait_until("it is delivered", || count(&world, "file.stored", "delivered") == 1);
    assert_eq!(other.calls(), 0);
}

/// Writes `begin`, then `more` again and again, until the gateway closes the connection. Counts the bytes.
fn endless(
    begin: &'static str,
    more: Vec<u8>,
    written: Arc<AtomicU64>,
) -> impl Fn(&mut TcpStream) -> io::Result<()> {
    move |stream| {
        stream.write_all(begin.as_bytes())?;
        loop {
            stream.write_all(&more)?;
            written.fetch_add(more.len() as u64, Ordering::Relaxed);
        }
    }
}

#[test]
fn an_endless_response_is_not_read_and_the_event_is_sent_again() {
    // What the sockets take, read or not.
    const UNREAD: u64 = 16 << 20;
    let receiver = Receiver::start();
    let world = receiver.setup().start();
    upload(&world.gateway, "first.txt");
    wait_until("it is delivered", || count(&world, "file.stored", "delivered") == 1);
    let before = world.gateway.memory("VmHWM");
    let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 0x10000], b"\r\n".to_vec()].concat();
    let header = format!("x-header: {}\r\n", "x".repeat(1000)).into_bytes();
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1000);
    for (number, (begin, more)) in [
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunk),
        ("HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n", vec![b'x'; 0x10000]),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", vec![b'x'; 0x10000]),
        ("HTTP/1.1 200 OK\r\n", header),
        ("", interim),
    ]
    .into_iter()
    .enumerate()
    {
        let written = Arc::new(AtomicU64::new(0));
        let (failed, calls) = (count(&world, "file.stored", "failed"), receiver.calls());
        receiver.write(endless(begin, more, written.clone()));
        upload(&world.gateway, &format!("{number}.txt"));
        wait_until("it fails", || count(&world, "file.stored", "failed") >= failed + 2);
        receiver.respond_with(response("200 OK", ""));
        wait_until("it is delivered", || {
            count(&world, "file.stored", "delivered") == number as u64 + 2
        });
        let attempts = (receiver.calls() - calls) as u64;
        let written = written.load(Ordering::Relaxed);
        assert!(written < attempts * UNREAD, "{begin}: {written} bytes in {attempts} attempts");
    }
    let grown = world.gateway.memory("VmHWM") - before;
    println!("the peak of memory grew by {grown} KiB");
    assert!(grown < 16 << 10, "{grown} KiB");
}

#[test]
fn a_response_that_drips_takes_no_longer_than_the_time_limit() {
    let receiver = Receiver::start();
    receiver.write(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")?;
        loop {
            stream.write_all(b" ")?;
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let world = receiver.setup().set("hooks.wait", "true").set("hooks.timeout", "700ms").start();
    let began = Instant::now();
    let response = put(&world.gateway, "x.txt", &[]);
    let took = began.elapsed();
    assert_eq!(response.stored().get("hook"), Some(&serde_json::Value::Null));
    assert!((Duration::from_millis(700)..Duration::from_secs(4)).contains(&took), "{took:?}");
    world.gateway.log_with("no response within");
    wait_until("it is tried again", || receiver.calls() >= 2);
}
