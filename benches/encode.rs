//! CPU time, or on demand instructions, of an upload's computations: the form's head, the scanner, the CRC, the rules
//! for object keys, and a token from the cache.
//!
//! ```sh
//! cargo bench --bench encode                    # time
//! cargo bench --bench encode -- --instructions  # counted by valgrind: the same on a busy machine
//! ```

use std::fmt;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use divan::Bencher;
use divan::counter::BytesCount;
use futures::FutureExt;
use jiff::Timestamp;
use tcb_upload_gateway::cos::form::{Fields, FormEnvelope};
use tcb_upload_gateway::inbound::scan::{Scanner, Step};
use tcb_upload_gateway::key::{Key, Template, Values};
use tcb_upload_gateway::metrics::Metrics;
use tcb_upload_gateway::net::tls;
use tcb_upload_gateway::sandbox::{Options, Sandbox};
use tcb_upload_gateway::wechat::token::cache::TokenCache;
use tcb_upload_gateway::wechat::token::fetch::{App, ForcedRefreshQuota, TokenCall, TokenFetcher};
use tcb_upload_gateway::wechat::transport::Transport;
use uuid::Uuid;

const BOUNDARY: &str = "----WebKitFormBoundary7MA4YWxkTrZu0gWq";
const FILE: usize = 256 * 1024;
const CHUNKS: [usize; 6] = [1, 64, 1024, 8 * 1024, 64 * 1024, FILE];

/// One measured computation.
struct Case {
    name: String,
    /// The bytes it processes per run, for a throughput; `None` if throughput does not matter.
    bytes: usize,
    work: Box<dyn FnMut()>,
}

fn cases() -> Vec<Case> {
    let mut cases = vec![head(), crc(), own_key(), template()];
    for (name, content) in bodies() {
        cases.extend(CHUNKS.map(|chunk| scan(name, content.clone(), chunk)));
    }
    cases
}

fn head() -> Case {
    let (signature, token, file_id) = ("s".repeat(340), "t".repeat(900), "f".repeat(220));
    let work = move || {
        let fields = Fields {
            key: "uploads/2026/11/25/01a21002-4bcb-7766-86dd-685abc4bf188.jpg",
            signature: &signature,
            security_token: &token,
            file_id: &file_id,
            content_type: Some("image/jpeg"),
            content_disposition: None,
            cache_control: None,
        };
        drop(black_box(FormEnvelope::new(black_box(&fields))));
    };
    Case { name: "form head".to_owned(), bytes: 0, work: Box::new(work) }
}

fn crc() -> Case {
    let content = random();
    let work = move || {
        let mut digest = Digest::new(CrcAlgorithm::Crc64Xz);
        digest.update(black_box(&content));
        black_box(digest.finalize());
    };
    Case { name: "crc-64".to_owned(), bytes: FILE, work: Box::new(work) }
}

fn own_key() -> Case {
    let work = || drop(black_box(Key::parse(black_box("panel/2026/十一月/报告 最终版.pdf"))));
    Case { name: "key, a client's own".to_owned(), bytes: 0, work: Box::new(work) }
}

fn template() -> Case {
    let template = Template::new("uploads/{yyyy}/{mm}/{dd}/{uuid}{ext}");
    let work = move || {
        let values = Values {
            client: "panel",
            dir: None,
            name: black_box("holiday.jpg"),
            now: Timestamp::now(),
            uuid: Uuid::now_v7(),
        };
        drop(black_box(template.render(&values, "panel/")));
    };
    Case { name: "key, the template's".to_owned(), bytes: 0, work: Box::new(work) }
}

fn scan(body: &str, content: Bytes, size: usize) -> Case {
    let name = format!("scanner, {body}, chunks of {size}");
    let work = move || {
        let mut scanner = Scanner::new(BOUNDARY);
        let mut rest = content.clone();
        let mut found = 0;
        while !rest.is_empty() {
            let mut chunk = rest.split_to(size.min(rest.len()));
            loop {
                match scanner.step(&mut chunk) {
                    Step::Content(bytes) => found += bytes.len(),
                    Step::More => break,
                    Step::Delimiter => unreachable!("there is none"),
                }
            }
        }
        black_box(found);
    };
    Case { name, bytes: FILE, work: Box::new(work) }
}

fn bodies() -> [(&'static str, Bytes); 4] {
    let repeated = |pattern: &str| pattern.bytes().cycle().take(FILE).collect::<Vec<u8>>().into();
    let near = format!("\r\n--{}", &BOUNDARY[..BOUNDARY.len() - 1]);
    [
        ("random", random()),
        ("returns", repeated("\r")),
        ("dashes", repeated("\r\n--")),
        ("look-alikes", repeated(&near)),
    ]
}

fn random() -> Bytes {
    let mut bytes = vec![0; FILE];
    fastrand::Rng::with_seed(7).fill(&mut bytes);
    bytes.into()
}

/// An index into [`cases`], with the case's name.
#[derive(Clone)]
struct Which(usize, String);

impl fmt::Display for Which {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.1)
    }
}

fn all() -> impl Iterator<Item = Which> {
    cases().into_iter().enumerate().map(|(index, case)| Which(index, case.name))
}

#[divan::bench(args = all())]
fn upload(bencher: Bencher, which: &Which) {
    let Case { bytes, mut work, .. } = cases().swap_remove(which.0);
    if bytes == 0 {
        bencher.bench_local(work);
    } else {
        bencher.counter(BytesCount::new(bytes)).bench_local(&mut work);
    }
}

/// A cache hit, from one worker and from several at once.
#[divan::bench(threads = [1, 2, 4])]
fn token_from_the_cache(bencher: Bencher) {
    let tokens = tokens();
    bencher.with_inputs(|| ()).bench_values(|()| {
        let http = CLIENT.with(Clone::clone);
        // A cache hit never waits.
        assert!(black_box(tokens.get(&http).now_or_never()).is_some());
    });
}

thread_local! {
    static CLIENT: Transport = actix_web::rt::System::new().block_on(async { connections() });
}

fn connections() -> Transport {
    Transport::new(tls::client().expect("TLS"), Duration::from_secs(5))
}

fn tokens() -> &'static TokenCache {
    static TOKENS: OnceLock<TokenCache> = OnceLock::new();
    TOKENS.get_or_init(|| {
        let options = Options::default();
        let (appid, secret) = (options.appid.clone(), options.secret.clone().into());
        let sandbox = Sandbox::start(options).expect("the sandbox starts");
        let credential = TokenFetcher {
            call: TokenCall::Stable(App { appid, secret }, ForcedRefreshQuota::default()),
            base_url: sandbox.wechat_url(),
            timeout: Duration::from_secs(10),
        };
        let metrics = Arc::new(Metrics::new(std::iter::empty()).expect("metrics"));
        let tokens = TokenCache::new(credential, None, metrics);
        let fetched = tokens.clone();
        actix_web::rt::System::new()
            .block_on(async move { fetched.get(&connections()).await.map(drop) })
            .expect("a token");
        // The token is fetched only once.
        Box::leak(Box::new(sandbox));
        tokens
    })
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<usize> = arguments.iter().filter_map(|text| text.parse().ok()).collect();
    if arguments.iter().any(|argument| argument == "--instructions") {
        return instructions();
    }
    if let (Some("--repeat"), [index, times]) = (arguments.first().map(String::as_str), &*numbers) {
        let mut case = cases().swap_remove(*index);
        (0..*times).for_each(|_| (case.work)());
        return ExitCode::SUCCESS;
    }
    divan::main();
    ExitCode::SUCCESS
}

/// Runs each case in a separate process under callgrind, with few and with many repetitions; the difference excludes
/// the set-up.
fn instructions() -> ExitCode {
    const FEW: usize = 5;
    const OFTEN: usize = 25;
    for Which(index, name) in all() {
        match (counted(index, FEW), counted(index, OFTEN)) {
            (Some(few), Some(often)) => {
                println!("{name:44} {:>12}", (often - few) / (OFTEN - FEW) as u64);
            }
            _ => {
                eprintln!("valgrind is needed for this");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn counted(index: usize, times: usize) -> Option<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().ok()?)
        .args(["--repeat", &index.to_string(), &times.to_string()])
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.lines().find_map(|line| line.split_once("Collected :"))?.1.trim().parse().ok()
}
