//! Upload links that are asked for in advance: what an upload gains, what WeChat's quota loses, and what does not change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::harness::{Client, Form, Setup, World, authorization, wait_until};
use crate::measured::{metrics, value};
use crate::reload::{RELOADED, hang_up};

/// Of WeChat's response to a call for a link.
const WECHAT_MS: u64 = 60;
const FAILURE: &str = "no upload links can be asked for in advance";

/// Without a date, so that midnight changes nothing.
fn setup() -> Setup {
    Setup::new()
        .set("wechat.warm_links", "auto")
        .set("upload.path_template", "up/{uuid}{ext}")
        .sandbox(|options| options.link_life = Duration::from_secs(900))
}

fn small() -> Form {
    Form::new().file("file", "x.txt", "text/plain", b"content")
}

fn event(world: &World, event: &str) -> u64 {
    value(&metrics(world), &format!("gateway_warm_links_total{{event=\"{event}\"}}")) as u64
}

fn dropped(world: &World, reason: &str) -> u64 {
    let metric = format!("gateway_warm_links_dropped_total{{reason=\"{reason}\"}}");
    value(&metrics(world), &metric) as u64
}

fn ready(world: &World) -> u64 {
    value(&metrics(world), "gateway_warm_links") as u64
}

/// Uploads until a link is ready for the next one.
fn warm_up(world: &World, form: &Form) {
    for _ in 0..5 {
        world.post(form).stored();
    }
    wait_until("a link is ready", || ready(world) > 0);
}

fn delay_of_wechat(world: &World) {
    world.faults(&json!([{"stage": "link", "fault": "delay", "ms": WECHAT_MS}]));
}

/// A stage in milliseconds.
fn timing(header: &str, stage: &str) -> Option<f64> {
    let entry = header.split(", ").find_map(|entry| entry.strip_prefix(stage));
    entry?.strip_prefix(";dur=")?.parse().ok()
}

#[derive(Default)]
struct Load {
    /// In milliseconds, as the response says and as the client measures.
    links: Vec<f64>,
    uploads: Vec<f64>,
    paths: BTreeSet<String>,
}

impl Load {
    fn median(mut values: Vec<f64>) -> f64 {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }
}

/// Independent uploads, 20 a second, for some time. All must be stored.
fn poisson(world: &World, time: Duration) -> Load {
    let load = Arc::new(Mutex::new(Load::default()));
    let (arrivals, waiting) = mpsc::channel::<()>();
    let waiting = Arc::new(Mutex::new(waiting));
    let (kind, body) = (small().content_type(), small().bytes());
    std::thread::scope(|scope| {
        for _ in 0..16 {
            let (load, waiting) = (load.clone(), waiting.clone());
            let (kind, body) = (&kind, &body);
            scope.spawn(move || {
                let mut client = world.client();
                while waiting.lock().expect("the arrivals").recv().is_ok() {
                    let began = Instant::now();
                    let headers = [authorization(), ("content-type", kind)];
                    client.send_request("POST", "/v1/files", &headers, body);
                    let response = client.response();
                    let took = began.elapsed().as_secs_f64() * 1000.0;
                    let path = response.stored()["path"].as_str().expect("a path").to_owned();
                    let header = response.header("server-timing").expect("Server-Timing");
                    let mut load = load.lock().expect("the figures");
                    load.links.push(timing(header, "link").expect("the link's time"));
                    load.uploads.push(took);
                    assert!(load.paths.insert(path), "two uploads have one path");
                }
            });
        }
        let mut random = fastrand::Rng::with_seed(5);
        let began = Instant::now();
        let mut at = Duration::ZERO;
        while at < time {
            std::thread::sleep(at.saturating_sub(began.elapsed()));
            arrivals.send(()).expect("the uploads run");
            at += Duration::from_secs_f64(-(1.0 - random.f64()).ln() / 20.0);
        }
        drop(arrivals);
    });
    Arc::into_inner(load).expect("the uploads are over").into_inner().expect("the figures")
}

/// 20 independent uploads a second, with WeChat 60 ms away, first without links in advance, then with.
/// `least`: the percentage of uploads that find a link, from the beginning on and on a busy machine.
fn steady_load(time: Duration, least: u64) {
    let cold = setup().set("wechat.warm_links", "off").start();
    delay_of_wechat(&cold);
    let before = poisson(&cold, Duration::from_secs(5));
    assert!(Load::median(before.links.clone()) >= WECHAT_MS as f64);
    assert_eq!(event(&cold, "asked"), 0, "off is off");
    drop(cold);

    let world = setup().start();
    delay_of_wechat(&world);
    let after = poisson(&world, time);
    let uploads = after.paths.len() as u64;
    // What is in flight arrives.
    let open = || ["used", "failed"].iter().map(|name| event(&world, name)).sum::<u64>();
    let lost =
        || -> u64 { ["expired", "idle", "ended"].iter().map(|name| dropped(&world, name)).sum() };
    wait_until("no call is in flight", || {
        event(&world, "asked") == open() + lost() + ready(&world)
    });
    let [asked, used, missed] = ["asked", "used", "missed"].map(|name| event(&world, name));
    let text = metrics(&world);
    let calls =
        value(&text, "gateway_wechat_requests_total{call=\"uploadfile\",errcode_class=\"ok\"}")
            as u64;
    let warm = after.links.iter().filter(|link| **link < 5.0).count();
    println!(
        "before: p50 {:.1} ms, link {:.1} ms; after: p50 {:.1} ms, link {:.1} ms",
        Load::median(before.uploads),
        Load::median(before.links),
        Load::median(after.uploads),
        Load::median(after.links.clone())
    );
    println!(
        "{uploads} uploads, {calls} calls, {asked} in advance, {used} used, {missed} missed, {} ready, {} dropped; {warm} \
         waited for less than 5 ms",
        ready(&world),
        lost()
    );
    assert!(Load::median(after.links.clone()) < WECHAT_MS as f64 / 3.0);
    assert!(used * 100 >= uploads * least, "{used} of {uploads} found a link");
    // What the pools allow themselves: ten, and one for 20 uploads.
    let most_unused = 10 + uploads / 20;
    assert!(asked - used <= most_unused, "{} of {asked} are unused", asked - used);
    // Every upload that found no link made one call, and each link in advance took one: there are no others.
    assert_eq!(calls, uploads - used + asked);
    assert!(calls <= uploads + most_unused);
    // No link that had expired was used: COS would have refused it, and the file would have been sent again.
    assert!(!text.contains("cause=\"expired_link\""), "{text}");
    assert_eq!(value(&text, "gateway_cos_responses_total{class=\"2xx\"}") as u64, uploads);
    assert_eq!(world.objects().len() as u64, uploads);
}

#[test]
fn uploads_to_generated_paths_wait_for_no_call() {
    steady_load(Duration::from_secs(20), 60);
}

#[test]
#[ignore = "it takes 10 minutes"]
fn ten_minutes_of_steady_load() {
    steady_load(Duration::from_secs(600), 90);
}

/// What a client may do decides where its files go, whether links are ready or not.
#[test]
fn each_client_s_files_stay_in_its_own_folder() {
    let mut setup = setup().set("upload.path_template", "{client}/{dir}/{uuid}{ext}");
    for name in ["ann", "bob"] {
        let key = format!("the-key-of-{name}");
        setup = setup
            .set(&format!("auth.keys.{name}.sha256"), hex::encode(Sha256::digest(&key)))
            .set(&format!("auth.keys.{name}.prefix"), format!("team-{name}/"))
            .set(&format!("auth.keys.{name}.types"), "text/plain");
    }
    let world = setup.start();
    let mut paths = BTreeMap::new();
    for round in 0..12 {
        for name in ["ann", "bob"] {
            for dir in ["a", "a/b"] {
                let authorization = format!("Bearer the-key-of-{name}");
                let form = Form::new().field("dir", dir).file("f", "x.txt", "text/plain", b"text");
                let headers = [
                    ("authorization", authorization.as_str()),
                    ("content-type", &form.content_type()),
                ];
                let mut client = world.client();
                client.send_request("POST", "/v1/files", &headers, &form.bytes());
                let stored = client.response().stored();
                let path = stored["path"].as_str().expect("a path").to_owned();
                let rest = path.strip_prefix(&format!("team-{name}/{name}/{dir}/"));
                assert!(
                    rest.is_some_and(|rest| !rest.contains('/') && rest.ends_with(".txt")),
                    "{path}"
                );
                assert_eq!(world.object(&path), b"text");
                assert!(
                    stored["file_id"].as_str().is_some_and(|id| id.ends_with(&path)),
                    "{stored}"
                );
                assert_eq!(paths.insert(path, ()), None);
                // A type that the key must not store, into the folder whose links are ready.
                let form =
                    Form::new().field("dir", dir).file("f", "x.txt", "image/png", b"\x89PNG");
                let mut client = world.client();
                client.send_request("POST", "/v1/files", &headers, &form.bytes());
                client.response().problem(415, "type_not_allowed");
            }
        }
        if round == 6 {
            wait_until("links are ready", || ready(&world) == 4);
        }
    }
    assert!(event(&world, "used") > 4);
    assert_eq!(world.objects().len(), paths.len());
}

/// WeChat refuses one call in advance: the pool asks no more for a while, and uploads go on.
#[test]
fn a_failure_in_advance_fails_no_upload_and_ends_the_asking() {
    let world = setup().start();
    warm_up(&world, &small());
    world.faults(&json!([{"stage": "link", "fault": "errcode", "errcode": 45009, "times": 1}]));
    world.post(&small()).stored();
    world.gateway.log_with(FAILURE);
    assert_eq!((event(&world, "failed"), ready(&world)), (1, 0));
    let asked = event(&world, "asked");
    for _ in 0..20 {
        world.post(&small()).stored();
    }
    assert_eq!(event(&world, "asked"), asked, "the quota is left to uploads");
    assert_eq!(world.gateway.log().matches(FAILURE).count(), 1);
}

/// The quota is used up, as an upload of its own was told.
#[test]
fn without_quota_nothing_is_asked_for_in_advance() {
    let world = setup().start();
    let named = Form::new().field("path", "named.txt").file("file", "x.txt", "text/plain", b"x");
    for _ in 0..4 {
        world.post(&small()).stored();
    }
    world
        .faults(&json!([{"stage": "link", "fault": "errcode", "errcode": 45009, "path": "named"}]));
    assert_eq!(world.post(&named).status, 502);
    // The fifth in five minutes; its own call would end the refusal, were it not refused as well.
    world.faults(&json!([{"stage": "link", "fault": "errcode", "errcode": 45009}]));
    assert_eq!(world.post(&small()).status, 502);
    assert_eq!(world.post(&small()).status, 502);
    assert_eq!(event(&world, "asked"), 0);
}

#[test]
fn after_a_lost_token_links_are_ready_again() {
    let world = setup().start();
    warm_up(&world, &small());
    world.control("POST", "tokens/revoke", "");
    for _ in 0..5 {
        world.post(&small()).stored();
        wait_until("a link is ready", || ready(&world) > 0);
    }
    assert_eq!(event(&world, "failed"), 0);
    assert!(event(&world, "used") >= 5);
}

/// COS does not accept a link that was asked for in advance; one of its own would have been fetched just now.
#[test]
fn a_refused_link_is_replaced_and_the_others_are_dropped() {
    let world = setup().start();
    let other = Form::new().file("file", "x.md", "text/plain", b"other");
    warm_up(&world, &small());
    warm_up(&world, &other);
    wait_until("both kinds of files have one", || ready(&world) > 1);
    let refusal = json!([{"stage": "cos", "fault": "status", "status": 403, "code": "InvalidAccessKeyId", "times": 1}]);
    world.faults(&refusal);
    let used = event(&world, "used");
    let stored = world.post(&small()).stored();
    assert_eq!(world.object(stored["path"].as_str().expect("a path")), b"content");
    assert_eq!(event(&world, "used"), used + 1);
    wait_until("the other one is dropped", || dropped(&world, "refused") > 0);
}

#[test]
fn a_link_that_had_expired_when_wechat_gave_it_is_replaced() {
    let world = setup().start();
    let refusal = json!([{"stage": "cos", "fault": "status", "status": 403, "code": "InvalidAccessKeyId", "times": 1}]);
    world.faults(&json!([{"stage": "link", "fault": "expired_link", "times": 1}]));
    warm_up(&world, &small());
    world.faults(&json!([{"stage": "link", "fault": "expired_link", "times": 1}]));
    world.post(&small()).stored();
    wait_until("the expired one is ready", || ready(&world) > 0);
    let used = event(&world, "used");
    world.post(&small()).stored();
    assert_eq!((event(&world, "used"), ready(&world)), (used + 1, 0));

    let other = Form::new().file("file", "x.md", "text/plain", b"other");
    // The link of an upload itself is refused as before.
    world.faults(&refusal);
    world.post(&other).problem(502, "cos_refused");
}

/// Paths that clients know already, and large files, have links of their own.
#[test]
fn known_paths_and_large_files_take_no_link_of_the_pool() {
    let world = setup().start();
    warm_up(&world, &small());
    let used = event(&world, "used");
    let named = Form::new().field("path", "named.txt").file("file", "x.txt", "text/plain", b"x");
    assert_eq!(world.post(&named).stored()["path"], "named.txt");
    let mut paths = Vec::new();
    for _ in 0..2 {
        let (kind, body) = (small().content_type(), small().bytes());
        let headers = [authorization(), ("content-type", kind.as_str()), ("idempotency-key", "k")];
        let mut client = world.client();
        client.send_request("POST", "/v1/files", &headers, &body);
        paths.push(client.response().stored()["path"].clone());
    }
    assert_eq!(paths[0], paths[1]);
    let large = Form::new().file("file", "x.txt", "text/plain", &vec![b'x'; (64 << 20) + 1]);
    assert_eq!(world.post(&large).stored()["size"], (64 << 20) + 1);
    assert_eq!(event(&world, "used"), used);
    world.post(&small()).stored();
    assert_eq!(event(&world, "used"), used + 1);
}

/// By COS's API, a link is needed for the file's id only.
#[test]
fn by_cos_s_api_as_well() {
    let world = setup().by_api().start();
    warm_up(&world, &small());
    delay_of_wechat(&world);
    let response = world.post(&small());
    let link = timing(response.header("server-timing").expect("Server-Timing"), "link");
    assert!(link.expect("the link's time") < WECHAT_MS as f64 / 2.0, "{link:?}");
    let path = response.stored()["path"].as_str().expect("a path").to_owned();
    assert_eq!(world.object(&path), b"content");

    // A resumable upload to a generated path, which finds the link at its creation.
    wait_until("a link is ready", || ready(&world) > 0);
    let used = event(&world, "used");
    let headers = [
        authorization(),
        ("tus-resumable", "1.0.0"),
        ("upload-length", "7"),
        ("upload-metadata", "filename eC50eHQ="),
        ("content-type", "application/offset+octet-stream"),
    ];
    let mut client = world.client();
    client.send_request("POST", "/v1/uploads", &headers, b"resumed");
    let created = client.response();
    assert_eq!(created.status, 201, "{}", created.text());
    assert_eq!(event(&world, "used"), used + 1);
    let id = created.header("x-file-id").expect("the file's id");
    let path = id.split_once("up/").map(|(_, path)| format!("up/{path}")).expect("a path");
    assert_eq!(world.object(&path), b"resumed");
    let (bytes, _) = world.download(&format!("/v1/files/{path}"));
    assert_eq!(bytes, b"resumed");
}

/// Each folder that a client invents costs it uploads, and none costs a call.
#[test]
fn invented_folders_are_bounded_and_cost_no_call() {
    let world = setup().start();
    let mut client = world.client();
    for n in 0..600 {
        let form =
            Form::new().field("dir", &format!("d{n}")).file("f", "x.txt", "text/plain", b"x");
        let headers = [authorization(), ("content-type", &form.content_type())];
        client.send_request("POST", "/v1/files", &headers, &form.bytes());
        client.response().stored();
    }
    assert_eq!(value(&metrics(&world), "gateway_warm_link_pools"), 256.0, "at the bound");
    assert_eq!(event(&world, "asked"), 0);
    assert_eq!(world.count("uploadfile"), 600);
}

#[test]
fn a_reload_switches_links_off_and_on_and_follows_another_template() {
    let setup = Setup::new();
    let file = setup.folder().join("gateway.toml");
    let write = |links: &str, template: &str| {
        let text =
            format!("[wechat]\nwarm_links = {links}\n[upload]\npath_template = \"{template}\"\n");
        std::fs::write(&file, text).expect("a file");
    };
    write("8", "first/{uuid}{ext}");
    let option = file.clone();
    let world = setup
        .within(move |command| {
            let mut all = std::process::Command::new(command.get_program());
            all.args(command.get_args()).arg("--config").arg(&option).env_clear();
            all.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
            all.env_remove("GATEWAY__WECHAT__WARM_LINKS");
            all.current_dir(command.get_current_dir().expect("a folder"));
            all
        })
        .start();
    let reload = || hang_up(&world.gateway, RELOADED);
    let folder = || {
        let stored = world.post(&small()).stored();
        stored["path"].as_str().expect("a path").split('/').next().expect("a folder").to_owned()
    };
    warm_up(&world, &small());
    let before = ready(&world);
    write("8", "second/{uuid}{ext}");
    reload();
    assert_eq!((ready(&world), dropped(&world, "ended")), (0, before));
    assert_eq!(folder(), "second");
    warm_up(&world, &small());
    let used = event(&world, "used");
    assert_eq!(folder(), "second");
    assert_eq!(event(&world, "used"), used + 1);

    write("\"off\"", "second/{uuid}{ext}");
    reload();
    assert_eq!((ready(&world), value(&metrics(&world), "gateway_warm_link_pools")), (0, 0.0));
    let [asked, used] = ["asked", "used"].map(|name| event(&world, name));
    for _ in 0..10 {
        assert_eq!(folder(), "second");
    }
    assert_eq!(["asked", "used"].map(|name| event(&world, name)), [asked, used]);
    write("\"auto\"", "second/{uuid}{ext}");
    reload();
    warm_up(&world, &small());
}

/// Links that are too old are dropped although the pools of other paths are in use all the time.
#[test]
fn links_without_uploads_are_dropped_under_load() {
    let world = setup().sandbox(|options| options.link_life = Duration::from_secs(20)).start();
    for _ in 0..120 {
        world.post(&small()).stored();
    }
    wait_until("a link is ready", || ready(&world) > 0);
    let other = Form::new().file("file", "x.md", "text/plain", b"other");
    let began = Instant::now();
    while dropped(&world, "expired") == 0 {
        assert!(began.elapsed() < Duration::from_secs(30), "{}", metrics(&world));
        world.post(&other).stored();
    }
    assert!(began.elapsed() > Duration::from_secs(9), "half of a link's life");
}

/// A call in advance that WeChat does not answer holds nothing up.
#[test]
fn a_call_in_flight_does_not_delay_the_shutdown() {
    let mut world = setup().start();
    warm_up(&world, &small());
    world.faults(&json!([{"stage": "link", "fault": "stall", "ms": 60_000}]));
    let asked = event(&world, "asked");
    world.post(&small()).stored();
    wait_until("the next one is asked for", || event(&world, "asked") > asked);
    let began = Instant::now();
    world.gateway.signal("TERM");
    assert!(world.gateway.ended().success());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

/// The client's view of one connection that stays: the second of two files of a form has a link of its own, too.
#[test]
fn each_file_of_a_form_takes_one_link() {
    let world = setup().start();
    warm_up(&world, &small());
    let mut client: Client = world.client();
    for _ in 0..20 {
        let form = Form::new().file("f[]", "a.txt", "text/plain", b"first").file(
            "f[]",
            "b.txt",
            "text/plain",
            b"second",
        );
        let headers = [authorization(), ("content-type", &form.content_type())];
        client.send_request("POST", "/v1/files", &headers, &form.bytes());
        let files = client.response().json()["files"].clone();
        let [first, second] = [0, 1].map(|n| files[n]["path"].as_str().expect("a path").to_owned());
        assert_ne!(first, second);
        assert_eq!(
            (world.object(&first), world.object(&second)),
            (b"first".into(), b"second".into())
        );
    }
    assert!(event(&world, "used") >= 20);
}
