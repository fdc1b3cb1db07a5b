//! Responses of COS and WeChat that do not end or are invalid: the memory and the time that each costs the gateway is
//! bounded, whatever the client does meanwhile.
//!
//! | `cases.md` | tests |
//! |---|---|
//! | B6, COS, fast and slow client | `responses_of_cos_are_bounded_in_memory_and_time` |
//! | B6, WeChat's link, fast and slow client | `responses_to_a_link_call_are_bounded_in_memory_and_time` |
//! | B6, WeChat's other calls | `responses_to_other_calls_are_bounded_in_memory_and_time`, `responses_to_a_token_call_are_…` |
//! | B6, a few interim responses | `a_few_interim_responses_are_read_past` |
//! | lesser: pooled after a refusal | `a_connection_is_not_reused_after_a_refusal` |
//! | B, calls at once | `calls_of_wechat_other_than_for_links_are_limited_per_worker` |
//! | similar | `unsolicited_responses_are_discarded`, `a_token_of_any_lifetime_is_used` |

use std::io::{self, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Client, Gateway, HANG_TIMEOUT, Response, authorization, noise, wait_until};
use crate::stand_in::{self, BUCKET, STORED, Seen, Upstream, ok, read_body};

/// The gateway's timeouts for COS and WeChat.
const TIMEOUT: &str = "500ms";
/// Three attempts with their pauses, and the maximum number of interim responses at one every 50 ms.
const GIVEN_UP: Duration = Duration::from_secs(5);
/// The growth of memory that is allowed, in KiB; and while a body of WeChat of at most 1 MiB is read, whose buffer grows by
/// doubling: the allocator keeps the blocks of each size for a moment.
const GROWTH: u64 = 1024;
const WITH_BODY: u64 = 5120;

const TOKEN: &str = "/cgi-bin/stable_token";
const LINK: &str = "/tcb/uploadfile";
const DOWNLOAD: &str = "/tcb/batchdownloadfile";
const DELETE: &str = "/tcb/batchdeletefile";

/// A response: its beginning, and bytes that then repeat without end.
#[derive(Clone)]
struct Endless {
    name: &'static str,
    start: String,
    /// If empty, nothing follows, and the connection stays open.
    again: String,
    /// The pause between two repetitions.
    pause: Duration,
    /// Words of the `detail` that the client gets if COS sends this response.
    told: &'static str,
}

const UNREACHABLE: &str = "502 cos_unreachable";
const TIMED_OUT: &str = "504 cos_timeout";
/// Which of the bounds applies depends on the pace.
const EITHER: &str = "502 cos_unreachable | 504 cos_timeout";
const REFUSED: &str = "502 cos_refused";

fn endless() -> Vec<Endless> {
    let at_once = |name, start: &str, again: &str, told| Endless {
        name,
        start: start.to_owned(),
        again: again.to_owned(),
        pause: Duration::ZERO,
        told,
    };
    let slowly = |name, start: &str, again: &str, told| {
        let pause = Duration::from_millis(50);
        Endless { pause, ..at_once(name, start, again, told) }
    };
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let refused_in_chunks = "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long = "x".repeat(1000);
    let chunk = format!("3e8\r\n{long}\r\n");
    let extended = format!("1;{long}\r\nx\r\n");
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n";
    let long_hints = format!("HTTP/1.1 103 Early Hints\r\nLink: {long}\r\n\r\n");
    let sized = |status: &str, length: u64| {
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n")
    };
    let huge = 1 << 60;
    let (good, refused) = ("200 OK", "403 Forbidden");
    vec![
        at_once("100", "", "HTTP/1.1 100 Continue\r\n\r\n", UNREACHABLE),
        at_once("102", "", "HTTP/1.1 102 Processing\r\n\r\n", UNREACHABLE),
        at_once("103 with a header", "", hints, UNREACHABLE),
        at_once("103 with a long header", "", &long_hints, UNREACHABLE),
        at_once("199", "", "HTTP/1.1 199 x\r\nA: b\r\n\r\n", UNREACHABLE),
        slowly("100 now and then", "", "HTTP/1.1 100 Continue\r\n\r\n", EITHER),
        slowly("103 now and then", "", hints, EITHER),
        slowly("half a 100", "HTTP/1.1 100 Continue\r\n", "", TIMED_OUT),
        slowly(
            "100s, then half a head",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 ",
            "",
            TIMED_OUT,
        ),
        slowly("a head byte by byte", "HTTP/1.1 204 No Content\r\nA: ", "b", TIMED_OUT),
        slowly("a head line by line", "HTTP/1.1 204 No Content\r\n", "A: b\r\n", TIMED_OUT),
        at_once("header lines", "HTTP/1.1 204 No Content\r\n", "A: b\r\n", UNREACHABLE),
        at_once("a header line", "HTTP/1.1 204 No Content\r\nA: ", "b", UNREACHABLE),
        at_once("a status line", "HTTP/1.1 204 ", "x", UNREACHABLE),
        at_once("empty lines", "", "\r\n", UNREACHABLE),
        at_once("no HTTP", "", "SSH-2.0-x\r\n", UNREACHABLE),
        at_once("a body to the end", "HTTP/1.1 200 OK\r\n\r\n", &long, UNREACHABLE),
        at_once("a body of a huge length", &sized(good, huge), &long, UNREACHABLE),
        at_once("chunks", chunked, &chunk, UNREACHABLE),
        at_once("a chunk's extension", &format!("{chunked}1;"), &long, UNREACHABLE),
        at_once("extensions of chunks", chunked, &extended, UNREACHABLE),
        at_once("trailers", &format!("{chunked}0\r\n"), "A: b\r\n", UNREACHABLE),
        slowly("a body byte by byte", &sized(good, 1000), "b", TIMED_OUT),
        slowly("no more than a head", "HTTP/1.1 200 OK\r\n\r\n", "", TIMED_OUT),
        slowly("chunks byte by byte", chunked, "1\r\nx\r\n", TIMED_OUT),
        // A refusal counts by its status, even if its body does not end.
        at_once("a refusal to the end", "HTTP/1.1 403 x\r\n\r\n", &long, REFUSED),
        at_once("a refusal of a huge length", &sized(refused, huge), &long, REFUSED),
        at_once("a refusal in chunks", refused_in_chunks, &chunk, REFUSED),
        slowly("a refusal byte by byte", &sized(refused, 1000), "b", REFUSED),
        slowly("no more than a refusal's head", &sized(refused, 1000), "", REFUSED),
    ]
}

/// Sends this response until the gateway closes the connection. `whole`: only after the request's body has arrived.
fn answer(endless: &Endless, whole: bool, seen: &Seen, mut stream: BufReader<TcpStream>) {
    if whole && read_body(&mut seen.clone(), &mut stream).is_err() {
        return;
    }
    let mut writer = stream.get_ref().try_clone().expect("the socket");
    let closed = AtomicBool::new(false);
    let again = match endless.pause {
        Duration::ZERO => endless.again.repeat(1 + (16 << 10) / (1 + endless.again.len())),
        _ => endless.again.clone(),
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut stream, &mut io::sink());
            closed.store(true, Relaxed);
        });
        let mut more = writer.write_all(endless.start.as_bytes()).is_ok();
        while more && !again.is_empty() && !closed.load(Relaxed) {
            std::thread::sleep(endless.pause);
            more = writer.write_all(again.as_bytes()).is_ok();
        }
    });
}

/// An upstream, a gateway in front of it, and the number of connections with an endless response.
struct World {
    upstream: Upstream,
    gateway: Gateway,
    endless: Arc<AtomicUsize>,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let upstream = Upstream::start();
        let (gateway, _folder) = stand_in::gateway(
            &upstream,
            &[
                ("GATEWAY__WECHAT__TIMEOUT", TIMEOUT),
                ("GATEWAY__WECHAT__FILE_ID_PREFIX", "cloud://env.7465-bucket-125"),
                ("GATEWAY__COS__WRITE_TIMEOUT", TIMEOUT),
                ("GATEWAY__COS__REPLY_TIMEOUT", TIMEOUT),
                // A file that is retained would count as growth.
                ("GATEWAY__UPLOAD__REPLAY_WINDOW_MAX", "256KiB"),
            ],
        );
        Self { upstream, gateway, endless: Arc::default(), _folder }
    }

    /// From now on, requests whose target begins with `target` get this endless response.
    fn answer(&self, target: &'static str, answered: &Endless, whole: bool) {
        let (answered, endless) = (answered.clone(), self.endless.clone());
        self.upstream.take_over(target, move |seen, stream| {
            endless.fetch_add(1, SeqCst);
            answer(&answered, whole, seen, stream);
            endless.fetch_sub(1, SeqCst);
        });
    }

    /// Runs `call` while `target` gets this response: the client gets `told` in time, every connection is closed,
    /// memory does not grow, and a normal call succeeds afterwards. Gives how much memory grew.
    fn bounded(
        &self,
        target: &'static str,
        answered: &Endless,
        told: &str,
        whole: bool,
        call: impl Fn(&Gateway) -> Response,
    ) -> u64 {
        let case = format!("{target}: {}, {whole}", answered.name);
        self.answer(target, answered, whole);
        std::fs::write(format!("/proc/{}/clear_refs", self.gateway.id()), "5").expect("/proc");
        let before = self.gateway.memory("VmRSS");
        let began = Instant::now();
        let response = call(&self.gateway);
        let took = began.elapsed();
        let grown = self.gateway.memory("VmHWM").saturating_sub(before);
        let text =
            format!("{} {}", response.status, response.json()["code"].as_str().unwrap_or("-"));
        assert!(told.split(" | ").any(|told| told == text), "{case}: {text}, not {told}");
        assert!(took < GIVEN_UP, "{case}: {took:?}");
        let has_body = target != BUCKET && answered.start.contains("\r\n\r\n");
        let most = if has_body { WITH_BODY } else { GROWTH };
        assert!(grown <= most, "{case}: {grown} KiB");
        wait_until(&format!("{case}: given up"), || self.endless.load(SeqCst) == 0);
        self.upstream.give_back(target);
        let response = small(&self.gateway);
        assert_eq!(response.status, 201, "{case}: afterwards {}", response.text());
        grown
    }
}

fn put(gateway: &Gateway, content: &[u8]) -> Response {
    let mut client = Client::connect(gateway.address);
    let (mut sender, length) = (client.sender(), content.len().to_string());
    let headers = [authorization(), ("content-length", length.as_str())];
    client.send_head("PUT", "/v1/files/a.bin", &headers);
    std::thread::scope(|scope| {
        // The response may come before all is sent.
        scope.spawn(|| sender.write_all(content));
        client.response()
    })
}

/// Makes a request and gives its response.
type Call = fn(&Gateway) -> Response;

/// A file that fits the replay window.
fn small(gateway: &Gateway) -> Response {
    put(gateway, &noise(1000, 1))
}

/// A file that does not fit the replay window.
fn large(gateway: &Gateway) -> Response {
    put(gateway, &noise(4 << 20, 1))
}

/// A byte every 20 ms, to the end or until the response arrives.
fn slow(gateway: &Gateway, length: usize) -> Response {
    let mut client = Client::connect(gateway.address);
    let (mut sender, length_line) = (client.sender(), length.to_string());
    let headers = [authorization(), ("content-length", length_line.as_str())];
    client.send_head("PUT", "/v1/files/a.bin", &headers);
    let heard = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..length {
                if heard.load(Relaxed) || sender.write_all(b"x").is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let response = client.response();
        heard.store(true, Relaxed);
        response
    })
}

fn call(gateway: &Gateway, method: &str) -> Response {
    let mut client = Client::connect(gateway.address);
    client.send_request(method, "/v1/files/a.bin", &[authorization()], b"");
    client.response()
}

fn download(gateway: &Gateway) -> Response {
    call(gateway, "GET")
}

fn delete(gateway: &Gateway) -> Response {
    call(gateway, "DELETE")
}

#[test]
fn responses_of_cos_are_bounded_in_memory_and_time() {
    const FAR: usize = 1_000_000;
    type Way = (&'static str, bool, Call);
    let ways: [Way; 4] = [
        ("small, once it is sent", true, small),
        ("small", false, small),
        ("large", false, large),
        ("slow", false, |gateway| slow(gateway, FAR)),
    ];
    std::thread::scope(|scope| {
        for (name, whole, call) in ways {
            scope.spawn(move || {
                let world = World::new();
                // One-time allocations are done by then.
                for _ in 0..3 {
                    assert_eq!(small(&world.gateway).status, 201);
                    assert_eq!(large(&world.gateway).status, 201);
                    assert_eq!(slow(&world.gateway, 5).status, 201);
                }
                let grown = endless().into_iter().map(|case| {
                    // An early response is read up to the same bound, and is not taken as a success.
                    world.bounded(BUCKET, &case, case.told, whole, call)
                });
                println!("{name}: memory grew by at most {} KiB", grown.max().unwrap_or_default());
            });
        }
    });
}

/// The same words for a response of WeChat.
fn of_wechat(told: &str) -> String {
    let told = told.replace("cos_refused", "cos_unreachable").replace("cos_", "wechat_");
    // One timeout covers the whole call.
    if told.contains("unreachable") { told } else { format!("{told} | 502 wechat_unreachable") }
}

#[test]
fn responses_to_a_link_call_are_bounded_in_memory_and_time() {
    let ways: [(&str, Call); 2] = [("small", small), ("slow", |gateway| slow(gateway, 1_000_000))];
    std::thread::scope(|scope| {
        for (name, call) in ways {
            scope.spawn(move || {
                let world = World::new();
                for _ in 0..3 {
                    assert_eq!(small(&world.gateway).status, 201);
                    assert_eq!(slow(&world.gateway, 5).status, 201);
                }
                let grown = endless()
                    .into_iter()
                    .map(|case| world.bounded(LINK, &case, &wechat_told(&case), true, call))
                    .max();
                println!("{name}: memory grew by at most {} KiB", grown.unwrap_or_default());
            });
        }
    });
}

/// The call ends by its timeout or by a bound. WeChat's body may be 1 MiB long.
fn wechat_told(case: &Endless) -> String {
    match case.told {
        // WeChat's HTTP status is no verdict on the request.
        REFUSED => format!("{} | {}", of_wechat(UNREACHABLE), of_wechat(TIMED_OUT)),
        told => of_wechat(told),
    }
}

#[test]
fn responses_to_other_calls_are_bounded_in_memory_and_time() {
    let calls: [(&str, Call); 2] = [(DOWNLOAD, download), (DELETE, delete)];
    std::thread::scope(|scope| {
        for (target, call) in calls {
            scope.spawn(move || {
                let world = World::new();
                for _ in 0..3 {
                    assert_eq!(small(&world.gateway).status, 201);
                    assert_eq!(delete(&world.gateway).status, 204);
                }
                let grown = endless()
                    .into_iter()
                    .map(|case| world.bounded(target, &case, &wechat_told(&case), true, call))
                    .max();
                println!("{target}: memory grew by at most {} KiB", grown.unwrap_or_default());
            });
        }
    });
}

#[test]
fn responses_to_a_token_call_are_bounded_in_memory_and_time() {
    // Each with a new gateway: after a failure it fetches no token until a pause is over.
    let cases = endless();
    let cases = cases.iter().filter(|case| !case.name.starts_with("a refusal"));
    for case in cases.step_by(3) {
        let world = World::new();
        world.answer(TOKEN, case, true);
        let began = Instant::now();
        let response = small(&world.gateway);
        response.problem(503, "credential_unavailable");
        assert!(began.elapsed() < GIVEN_UP, "{}: {:?}", case.name, began.elapsed());
        // In this order: the peak is at least what is used before it is read.
        let now = world.gateway.memory("VmRSS");
        let grown = world.gateway.memory("VmHWM") - now;
        assert!(grown <= GROWTH, "{}: {grown} KiB", case.name);
        wait_until(case.name, || world.endless.load(SeqCst) == 0);
        world.upstream.give_back(TOKEN);
        // Waits for the pause after a failure.
        let after = response.header("retry-after").and_then(|after| after.parse().ok());
        std::thread::sleep(Duration::from_secs(after.expect("when to come back")));
        assert_eq!(small(&world.gateway).status, 201, "{}", case.name);
    }
}

/// Interim responses before the response to any call (token, link, file): as many as the bound allows, and one more.
#[test]
fn a_few_interim_responses_are_read_past() {
    let all =
        |gateway: &Gateway| [small(gateway), large(gateway), download(gateway), delete(gateway)];
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n";
    let (go_on, processing) = ("HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 102 Processing\r\n\r\n");
    for interim in [
        go_on.to_owned(),
        processing.to_owned(),
        [go_on, processing, hints].concat(),
        go_on.repeat(16),
    ] {
        let world = World::new();
        let url = "https://files.test/a.bin";
        let file = json!({ "fileid": "cloud://env.7465-bucket-125/a.bin", "status": 0, "download_url": url });
        world.upstream.respond_with(DOWNLOAD, ok(&json!({ "errcode": 0, "file_list": [file] })));
        world.upstream.interim(interim.as_str());
        for _ in 0..2 {
            let told = all(&world.gateway).map(|response| response.status);
            assert_eq!(told, [201, 201, 302, 204], "{interim}");
        }
        // They do not affect whether the connection is reused.
        let posts = world.upstream.seen(BUCKET);
        assert!(posts.iter().all(|post| post.connection == posts[0].connection), "{interim}");
    }
    let world = World::new();
    assert_eq!(small(&world.gateway).status, 201);
    world.upstream.interim(go_on.repeat(17));
    small(&world.gateway).problem(502, "wechat_unreachable");
    delete(&world.gateway).problem(502, "wechat_unreachable");
}

/// COS and WeChat may close a connection any time after a refusal, and the next file may be too large to be sent again.
#[test]
fn a_connection_is_not_reused_after_a_refusal() {
    let world = World::new();
    let connections =
        |target| world.upstream.seen(target).iter().map(|seen| seen.connection).collect::<Vec<_>>();
    let gateway = &world.gateway;
    assert_eq!([small(gateway).status, large(gateway).status], [201, 201]);
    let [first, second] = connections(BUCKET)[..] else { panic!("two uploads") };
    assert_eq!(first, second, "it is used again after a success");

    let error = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>";
    let document = |status: &str| {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{error}", error.len())
    };
    for refusal in [
        "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 307 Temporary Redirect\r\ncontent-length: 0\r\nlocation: /\r\n\r\n",
        &document("403 Forbidden"),
        &document("409 Conflict"),
        &document("404 Not Found"),
        &document("503 Slow Down"),
        &document("200 OK"),
    ] {
        world.upstream.forget();
        world.upstream.respond_with(BUCKET, refusal);
        assert!(small(gateway).status >= 500, "{refusal}");
        world.upstream.respond_with(BUCKET, STORED);
        assert_eq!(large(gateway).status, 201, "{refusal}");
        let used = connections(BUCKET);
        let mut different = used.clone();
        different.dedup();
        assert_eq!(used, different, "{refusal}");
    }

    // WeChat itself refuses with status 200; any other status comes from a proxy in front of it.
    let error = ok(&json!({ "errcode": -501007, "errmsg": "bad path" }));
    let refusals: [(&[u8], bool); 3] = [
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", false),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 2\r\n\r\n{}", false),
        (&error, true),
    ];
    for (refusal, again) in refusals {
        for (target, call) in [(DOWNLOAD, download as Call), (DELETE, delete)] {
            world.upstream.forget();
            world.upstream.respond_with(target, refusal);
            call(gateway);
            call(gateway);
            let used = connections(target);
            let again = used.windows(2).all(|two| (two[0] == two[1]) == again);
            assert!(again, "{target}: {used:?}");
        }
    }
}

/// An unsolicited second response, sent at once or later, is not taken as the response to the next request.
#[test]
fn unsolicited_responses_are_discarded() {
    const REFUSAL: &[u8] = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n";
    for (behind, later) in [
        (STORED, false),
        (STORED, true),
        (b"\r\n", false),
        (b"\r\n", true),
        (b"HTTP/1.1 100 Continue\r\n\r\n", true),
        (b"garbage", true),
    ] {
        let world = World::new();
        let (go_on, wait) = mpsc::channel::<()>();
        let (written, is_written) = mpsc::channel();
        let wait = Mutex::new(wait);
        world.upstream.take_over(BUCKET, move |seen, mut stream| {
            let _ = read_body(&mut seen.clone(), &mut stream);
            let mut stream = stream.into_inner();
            if later {
                let _ = stream.write_all(STORED);
                let _ = wait.lock().expect("the channel").recv();
                let _ = stream.write_all(behind);
            } else {
                let _ = stream.write_all(&[STORED, behind].concat());
            }
            let _ = written.send(());
            // The fake server keeps the connection open but does not respond on it any more.
            let _ = io::copy(&mut stream, &mut io::sink());
        });
        assert_eq!(small(&world.gateway).status, 201);
        let _ = go_on.send(());
        is_written.recv_timeout(HANG_TIMEOUT).expect("it was written");
        world.upstream.give_back(BUCKET);
        world.upstream.respond_with(BUCKET, REFUSAL);
        small(&world.gateway).problem(502, "cos_refused");
        let connections: Vec<_> =
            world.upstream.seen(BUCKET).iter().map(|seen| seen.connection).collect();
        assert_eq!(connections.len(), 2, "{behind:?}, {later}");
        assert_ne!(connections[0], connections[1], "{behind:?}, {later}");
    }
}

/// Lifetimes that overflow a clock are accepted.
#[test]
fn a_token_of_any_lifetime_is_used() {
    for life in [1_u64, 1 << 31, 1 << 40, u64::MAX / 1000, u64::MAX] {
        let world = World::new();
        world
            .upstream
            .respond_with(TOKEN, ok(&json!({ "access_token": "a-token", "expires_in": life })));
        for _ in 0..2 {
            assert_eq!(small(&world.gateway).status, 201, "{life}");
        }
    }
}

/// One worker makes 256 of these calls at once; further ones wait for the first to end, and are then made.
#[test]
fn calls_of_wechat_other_than_for_links_are_limited_per_worker() {
    const LIMIT: usize = 256;
    const MORE: usize = 24;
    let upstream = Upstream::start();
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    upstream.take_over(DELETE, move |seen, mut stream| {
        let mut seen = seen.clone();
        read_body(&mut seen, &mut stream).expect("the body");
        let id = seen.json()["fileid_list"][0].clone();
        // Until the test drops its end.
        let _ = released.lock().expect("the channel").recv();
        let list =
            json!({"errcode": 0, "delete_list": [{"fileid": id, "status": 0, "errmsg": "ok"}]});
        let mut response = ok(&list);
        let close = b"\r\nconnection: close";
        let line_end = response.windows(2).position(|two| two == b"\r\n").expect("a status line");
        response.splice(line_end..line_end, close.iter().copied());
        let _ = stream.get_mut().write_all(&response);
    });
    let prefix = [("GATEWAY__WECHAT__FILE_ID_PREFIX", "cloud://env.7465-bucket-125")];
    let timeout = ("GATEWAY__WECHAT__TIMEOUT", "60s");
    let (gateway, _folder) = stand_in::gateway(&upstream, &[prefix[0], timeout]);
    let clients: Vec<_> = (0..LIMIT + MORE)
        .map(|n| {
            let mut client = Client::connect(gateway.address);
            client.send_request("DELETE", &format!("/v1/files/{n}"), &[authorization()], b"");
            client
        })
        .collect();
    wait_until("the limit is reached", || upstream.seen(DELETE).len() >= LIMIT);
    // The worker has handled every request that was sent before this one.
    let mut health = Client::connect(gateway.address);
    health.send_request("GET", "/healthz", &[], b"");
    assert_eq!(health.response().status, 200);
    assert_eq!(upstream.seen(DELETE).len(), LIMIT);
    drop(release);
    for mut client in clients {
        assert_eq!(client.response().status, 204);
    }
    assert_eq!(upstream.seen(DELETE).len(), LIMIT + MORE);
}
