//! What gateways share in a real Redis besides tokens: download links, and the responses for an `Idempotency-Key`.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Client, Form, Gateway, Response, Setup, World, authorization, wait_until};
use crate::replicas::{Redis, readyz};

fn world(redis: &Redis) -> World {
    Setup::new().set("redis.url", redis.url()).start()
}

fn ask(gateway: &Gateway, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
    let mut client = Client::connect(gateway.address);
    let headers: Vec<_> = [authorization()].into_iter().chain(headers.iter().copied()).collect();
    let body: &[u8] = if method == "PUT" { b"content" } else { b"" };
    client.send_request(method, target, &headers, body);
    client.response()
}

fn store(gateway: &Gateway, path: &str) {
    ask(gateway, "PUT", &format!("/v1/files/{path}"), &[]).stored();
}

/// What a download takes at most without Redis, on a busy machine: its limits are half a second in all.
const LONGEST: Duration = Duration::from_secs(3);

/// Where a file's URL leads, and how long that took to say.
fn target(gateway: &Gateway, path: &str) -> (String, Duration) {
    let began = Instant::now();
    let response = ask(gateway, "GET", &format!("/v1/files/{path}"), &[]);
    assert_eq!(response.status, 302, "{}", response.text());
    (response.header("location").expect("a target").to_owned(), began.elapsed())
}

/// The key of a map in Redis, of which the first part is known.
fn key(redis: &Redis, what: &str) -> String {
    let keys = redis.command(&["KEYS", what]);
    keys.lines().next().unwrap_or_else(|| panic!("no {what}")).to_owned()
}

/// How many links Redis has; it also remembers which files were replaced.
fn links(redis: &Redis) -> usize {
    let script = "
        local map, count = redis.call('KEYS', '*:links:*:values')[1], 0
        for _, value in ipairs(map and redis.call('HVALS', map) or {}) do
            if string.sub(value, 1, 1) == 'L' then count = count + 1 end
        end
        return count";
    redis.command(&["EVAL", script, "0"]).parse().expect("a number")
}

#[test]
fn a_download_link_is_fetched_once_for_all_gateways() {
    let redis = Redis::start();
    let world = world(&redis);
    let (one, other) = (&world.gateway, world.another());
    store(one, "x.txt");
    let (first, _) = target(one, "x.txt");
    wait_until("it is shared", || links(&redis) == 1);
    assert_eq!(target(&other, "x.txt").0, first);
    assert_eq!(world.count("batchdownloadfile"), 1);
    // It is in this gateway's memory now.
    redis.command(&["FLUSHALL"]);
    assert_eq!(target(&other, "x.txt").0, first);
    assert_eq!(world.count("batchdownloadfile"), 1);
    // A batch shares its links, too; another lifetime is another link.
    for n in 0..3 {
        store(one, &format!("{n}"));
    }
    let batch = |gateway: &Gateway, max_age: u64| {
        let files = ["0", "1", "2"];
        let mut client = Client::connect(gateway.address);
        let body = json!({"files": files, "max_age": max_age});
        let headers = [authorization(), ("content-type", "application/json")];
        client.send_request("POST", "/v1/download-links", &headers, body.to_string().as_bytes());
        let response = client.response();
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()
    };
    let fetched = batch(one, 7200);
    assert_eq!(world.count("batchdownloadfile"), 2);
    wait_until("they are shared", || links(&redis) == 3);
    let shared = batch(&other, 7200);
    for n in 0..3 {
        assert_eq!(shared["files"][n]["url"], fetched["files"][n]["url"]);
    }
    assert_eq!(world.count("batchdownloadfile"), 2);
    batch(&other, 600);
    assert_eq!(world.count("batchdownloadfile"), 3);
}

#[test]
fn the_link_of_a_deleted_or_replaced_file_is_not_shared() {
    let redis = Redis::start();
    let world = world(&redis);
    let (one, other) = (&world.gateway, world.another());
    store(one, "x.txt");
    target(one, "x.txt");
    wait_until("it is shared", || links(&redis) == 1);
    assert_eq!(ask(one, "DELETE", "/v1/files/x.txt", &[]).status, 204);
    assert_eq!(ask(&other, "GET", "/v1/files/x.txt", &[]).status, 404);
    // A link that was requested before the deletion, and comes after it.
    store(one, "y.txt");
    world.faults(&json!([{"stage": "download", "fault": "delay", "ms": 800, "times": 1}]));
    let calls = world.count("batchdownloadfile");
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| target(one, "y.txt"));
        wait_until("it asks", || world.count("batchdownloadfile") > calls);
        store(&other, "y.txt");
        slow.join().expect("a link");
    });
    // The late link is not shared: the other gateway asks for its own.
    std::thread::sleep(Duration::from_millis(300));
    let calls = world.count("batchdownloadfile");
    target(&other, "y.txt");
    assert_eq!(world.count("batchdownloadfile"), calls + 1);
}

#[test]
fn a_redis_that_hangs_or_is_killed_delays_no_download_for_long() {
    let mut redis = Redis::start();
    let world = world(&redis);
    for n in 0..30 {
        store(&world.gateway, &format!("{n}"));
    }
    target(&world.gateway, "0");
    redis.signal("STOP");
    // It is in memory, and Redis is not asked.
    target(&world.gateway, "0");
    assert!(!world.gateway.log().contains("download links are not shared"));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for n in 1..20 {
            let world = &world;
            scope.spawn(move || {
                let (_, took) = target(&world.gateway, &n.to_string());
                assert!(took < LONGEST, "{took:?}");
            });
        }
    });
    println!("19 downloads at once with a Redis that hangs: {:?}", began.elapsed());
    let log = world.gateway.log_with("download links are not shared meanwhile");
    assert_eq!(log.matches("download links are not shared").count(), 1, "{log}");
    redis.signal("CONT");
    wait_until("it has healed", || readyz(&world.gateway).json()["status"] == "ready");
    redis.kill();
    for n in 20..30 {
        let (_, took) = target(&world.gateway, &n.to_string());
        assert!(took < LONGEST, "{took:?}");
    }
    redis.restart();
    wait_until("links are shared again", || {
        // The replaced file needs a new link.
        store(&world.gateway, "30");
        target(&world.gateway, "30");
        links(&redis) != 0
    });
}

/// Fills a map by hand: entries of `bytes` each that expire in an hour.
fn fill(redis: &Redis, values: &str, entries: usize, bytes: usize) {
    let name = values.strip_suffix(":values").expect("a map");
    let script = "
        local value, now = string.rep('v', tonumber(ARGV[2])), tonumber(redis.call('TIME')[1]) * 1000
        redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
        for n = 1, tonumber(ARGV[1]) do
            redis.call('HSET', KEYS[1], n, value)
            redis.call('ZADD', KEYS[2], string.format('%.0f', now + 60000 + n), n)
            redis.call('INCRBY', KEYS[3], #tostring(n) + #value)
        end
        return redis.call('ZCARD', KEYS[2])";
    let (expiries, sum) = (format!("{name}:expiries"), format!("{name}:bytes"));
    let numbers = [entries.to_string(), bytes.to_string()];
    let words = ["EVAL", script, "3", values, &expiries, &sum, &numbers[0], &numbers[1]];
    assert_eq!(redis.command(&words), entries.to_string());
}

/// The entries of a map, and its bytes as they are and as they are counted.
fn size(redis: &Redis, values: &str) -> (usize, usize) {
    let name = values.strip_suffix(":values").expect("a map");
    let script = "
        local sum = 0
        for _, text in ipairs(redis.call('HGETALL', KEYS[1])) do sum = sum + #text end
        assert(sum == tonumber(redis.call('GET', KEYS[3])), 'the sum is wrong')
        assert(redis.call('ZCARD', KEYS[2]) == redis.call('HLEN', KEYS[1]), 'an expiry is missing')
        return redis.call('HLEN', KEYS[1]) .. ' ' .. sum";
    let (expiries, sum) = (format!("{name}:expiries"), format!("{name}:bytes"));
    let text = redis.command(&["EVAL", script, "3", values, &expiries, &sum]);
    let (entries, bytes) = text.split_once(' ').unwrap_or_else(|| panic!("{text}"));
    (entries.parse().expect("a number"), bytes.parse().expect("a number"))
}

#[test]
fn links_and_responses_in_redis_are_bounded_in_entries_and_bytes() {
    let redis = Redis::start();
    let world = world(&redis);
    for n in 0..4 {
        store(&world.gateway, &format!("{n}"));
    }
    let keyed = |n: u32| {
        let name = format!("key-{n}");
        ask(&world.gateway, "PUT", "/v1/files/k", &[("idempotency-key", &name)]).stored();
    };
    target(&world.gateway, "0");
    keyed(0);
    wait_until("a link is shared", || {
        store(&world.gateway, "0");
        target(&world.gateway, "0");
        links(&redis) != 0
    });
    let maps = [
        (key(&redis, "*:links:*:values"), 100_000, 64 << 20),
        (key(&redis, "*:idempotency}:values"), 65_536, 32 << 20),
    ];
    for (n, (map, most, bytes)) in maps.iter().enumerate() {
        let add = |step: u32| match n {
            0 => drop(target(&world.gateway, &step.to_string())),
            _ => keyed(step),
        };
        fill(&redis, map, *most, 10);
        add(1);
        let newest = |step: u32| {
            wait_until("the entry is there", || {
                redis.command(&["HEXISTS", map, &step.to_string()]) == "0"
            });
        };
        newest(1);
        assert_eq!(size(&redis, map).0, *most, "{map}");
        fill(&redis, map, 64, bytes / 64 - 1);
        add(2);
        newest(1);
        let (entries, sum) = size(&redis, map);
        assert!(entries <= 64 && sum <= *bytes && sum > bytes / 2, "{map}: {entries}, {sum}");
        // A Redis that evicts keys has lost a part of the map.
        redis.command(&["DEL", map]);
        add(3);
        wait_until("it is whole again", || redis.command(&["HLEN", map]) != "0");
        assert!(size(&redis, map).0 <= 2);
    }
}

fn keyed(gateway: &Gateway, key: &str) -> Response {
    let form = Form::new().file("file", "x.txt", "text/plain", b"content");
    let mut client = Client::connect(gateway.address);
    let kind = form.content_type();
    let headers = [authorization(), ("idempotency-key", key), ("content-type", &kind)];
    client.send_request("POST", "/v1/files", &headers, &form.bytes());
    client.response()
}

/// The head and half the body of an upload with a key.
fn half(gateway: &Gateway, key: &str) -> Client {
    let mut client = Client::connect(gateway.address);
    let headers = [authorization(), ("idempotency-key", key), ("content-length", "100")];
    client.send_head("PUT", "/v1/files/x", &headers);
    client.send(&[b'x'; 50]);
    client
}

fn is_replayed(response: &Response) -> bool {
    response.header("idempotent-replayed") == Some("true")
}

#[test]
fn a_repeat_on_another_gateway_gets_the_first_response() {
    let redis = Redis::start();
    let mut world = world(&redis);
    let other = world.another();
    let first = keyed(&world.gateway, "key");
    for _ in 0..2 {
        let again = keyed(&other, "key");
        assert_eq!((again.status, again.json()), (201, first.json()));
        assert_eq!(again.header("location"), first.header("location"));
        assert!(is_replayed(&again));
    }
    assert_eq!((world.objects().len(), world.count("uploadfile")), (1, 1));
    let mut client = half(&other, "key");
    client.send(&[b'x'; 50]);
    client.response().problem(400, "invalid_request");
    // After a restart as well.
    world.restart();
    assert!(is_replayed(&keyed(&world.gateway, "key")));
    assert_eq!(world.count("uploadfile"), 1);
    // Redis knows neither the key nor the client.
    let map = key(&redis, "*:idempotency}:values");
    let text = redis.command(&["HGETALL", &map]);
    assert!(!text.contains("panel"), "{text}");
}

#[test]
fn a_repeat_waits_for_the_upload_on_another_gateway() {
    let redis = Redis::start();
    let world = world(&redis);
    let other = world.another();
    let mut first = half(&world.gateway, "key");
    wait_until("the upload runs", || world.count("uploadfile") == 1);
    let mut repeats: Vec<_> = (0..4).map(|_| half(&other, "key")).collect();
    for repeat in &mut repeats {
        repeat.send(&[b'x'; 50]);
    }
    // Longer than a lease, which is prolonged.
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!((world.objects().len(), world.count("uploadfile")), (0, 1));
    first.send(&[b'x'; 50]);
    let response = first.response();
    for mut repeat in repeats {
        let again = repeat.response();
        assert_eq!(again.json(), response.json());
        assert!(is_replayed(&again));
    }
    assert_eq!((world.objects().len(), world.count("uploadfile")), (1, 1));
    // If the upload breaks off, a repeat runs at once.
    let first = half(&world.gateway, "another");
    wait_until("the upload runs", || world.count("uploadfile") == 2);
    let mut repeat = half(&other, "another");
    repeat.send(&[b'x'; 50]);
    let began = Instant::now();
    first.reset();
    let response = repeat.response();
    response.stored();
    assert!(!is_replayed(&response) && began.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_repeat_runs_soon_after_the_gateway_of_the_first_one_is_killed() {
    let redis = Redis::start();
    let world = world(&redis);
    let mut other = world.another();
    let _first = half(&other, "key");
    wait_until("the upload runs", || world.count("uploadfile") == 1);
    let mut repeat = half(&world.gateway, "key");
    repeat.send(&[b'x'; 50]);
    let began = Instant::now();
    other.signal("KILL");
    other.ended();
    let response = repeat.response();
    response.stored();
    assert!(!is_replayed(&response));
    assert!(began.elapsed() < Duration::from_secs(13), "{:?}", began.elapsed());
}

/// Generated paths contain the date: that of the first request, on every gateway.
#[test]
fn a_repeat_after_midnight_has_the_path_of_the_first_request() {
    let redis = Redis::start();
    let world = world(&redis);
    let other = world.another();
    world.faults(&json!([
        {"stage": "cos", "fault": "status", "status": 403, "code": "AccessDenied", "times": 1}
    ]));
    keyed(&world.gateway, "key").problem(502, "cos_refused");
    let map = key(&redis, "*:idempotency}:values");
    let lease_ended = "
        local value = redis.call('HVALS', KEYS[1])[1]
        return string.match(value, '^%x+ %x+ 0 %d+ $') and 1 or 0";
    wait_until("it has ended", || redis.command(&["EVAL", lease_ended, "1", &map]) == "1");
    // As if it had been before midnight.
    let earlier = "
        local id = redis.call('HKEYS', KEYS[1])[1]
        local value = string.gsub(redis.call('HGET', KEYS[1], id), ' 0 %d+ $', ' 0 1772668799000 ')
        redis.call('HSET', KEYS[1], id, value)
        return #value";
    let before: usize = redis.command(&["EVAL", earlier, "1", &map]).parse().expect("a length");
    assert!(before > 64);
    let response = keyed(&other, "key").stored();
    let path = response["path"].as_str().expect("a path");
    assert!(path.starts_with("uploads/2026/03/04/"), "{path}");
    // The gateway of the first request gets that response.
    let again = keyed(&world.gateway, "key");
    assert!(is_replayed(&again));
    assert_eq!(again.stored()["path"], response["path"]);
    assert_eq!(world.objects().len(), 1);
}

#[test]
fn without_redis_keys_work_on_each_gateway() {
    let redis = Redis::start();
    let world = world(&redis);
    let other = world.another();
    let first = keyed(&world.gateway, "before").stored();
    redis.signal("STOP");
    let began = Instant::now();
    let second = keyed(&world.gateway, "during").stored();
    assert!(is_replayed(&keyed(&world.gateway, "during")));
    assert!(is_replayed(&keyed(&world.gateway, "before")));
    // The same object, on the same day.
    assert_eq!(keyed(&other, "before").stored()["path"], first["path"]);
    assert_eq!(keyed(&other, "during").stored()["path"], second["path"]);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(world.objects().len(), 2);
    redis.signal("CONT");
    wait_until("keys are shared again", || {
        let key = format!("{:?}", Instant::now()).replace(' ', "");
        keyed(&world.gateway, &key).stored();
        is_replayed(&keyed(&other, &key))
    });
}
