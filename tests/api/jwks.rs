//! The issuer's JSON Web Key Set: which of its keys are used, when it is fetched, and what happens without it.

use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256};
use serde_json::{Value, json};

use crate::doctor::{doctor, nowhere, steps};
use crate::harness::{Setup, World, wait_until};
use crate::measured::{metrics, value};
use crate::recorder::{Recorder, response};
use crate::reload;
use crate::tickets::{now, post, send, signed, small};

const FAILED: &str = "the keys of tickets cannot be fetched: auth.jwt.jwks_url";

/// A key pair of the issuer.
struct Pair {
    algorithm: Algorithm,
    private: EncodingKey,
    public_pem: String,
    kid: Option<String>,
}

impl Pair {
    fn new(algorithm: &str, kid: &str) -> Self {
        let (kind, algorithm) = match algorithm {
            "RS256" => (&PKCS_RSA_SHA256, Algorithm::RS256),
            "ES256" => (&PKCS_ECDSA_P256_SHA256, Algorithm::ES256),
            _ => (&PKCS_ED25519, Algorithm::EdDSA),
        };
        let pair = KeyPair::generate_for(kind).expect("a key pair");
        let pem = pair.serialize_pem();
        let private = match algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(pem.as_bytes()),
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()),
            _ => EncodingKey::from_ed_pem(pem.as_bytes()),
        };
        let kid = Some(kid.to_owned()).filter(|kid| !kid.is_empty());
        let private = private.expect("a key");
        Self { algorithm, private, public_pem: pair.public_key_pem(), kid }
    }

    fn ed(kid: &str) -> Self {
        Self::new("EdDSA", kid)
    }

    fn public(&self) -> Jwk {
        let pem = self.public_pem.as_bytes();
        let key = match self.algorithm {
            Algorithm::RS256 => DecodingKey::from_rsa_pem(pem),
            Algorithm::ES256 => DecodingKey::from_ec_pem(pem),
            _ => DecodingKey::from_ed_pem(pem),
        };
        Jwk::from_decoding_key(&key.expect("a key"), Some(self.algorithm)).expect("a public key")
    }

    /// As it is published.
    fn jwk(&self) -> Value {
        let mut jwk = serde_json::to_value(self.public()).expect("JSON");
        jwk["use"] = json!("sig");
        if let Some(kid) = &self.kid {
            jwk["kid"] = json!(kid);
        }
        jwk
    }

    fn ticket_with(&self, header: Header) -> String {
        let claims = json!({"sub": "user-7", "exp": now() + 300});
        jsonwebtoken::encode(&header, &claims, &self.private).expect("a token")
    }

    /// A ticket that names the key, if that has a name.
    fn ticket(&self) -> String {
        self.ticket_of(self.kid.as_deref())
    }

    fn ticket_of(&self, kid: Option<&str>) -> String {
        let kid = kid.map(str::to_owned);
        self.ticket_with(Header { kid, ..Header::new(self.algorithm) })
    }
}

fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

fn publish_text(issuer: &Recorder, status: &str, body: &str) {
    let text = response(status, body);
    issuer.respond(move |_, stream| stream.write_all(text.as_bytes()));
}

fn publish(issuer: &Recorder, keys: &[Value]) {
    publish_text(issuer, "200 OK", &set(keys));
}

fn issuer_of(keys: &[Value]) -> Recorder {
    let issuer = Recorder::start();
    publish(&issuer, keys);
    issuer
}

fn setup(issuer: &Recorder, algorithm: &str) -> Setup {
    Setup::new()
        .set("auth.jwt.algorithm", algorithm)
        .set("auth.jwt.jwks_url", format!("http://{}/keys", issuer.address))
}

fn refused(world: &World, ticket: &str) {
    post(world, ticket, &small()).problem(401, "unauthenticated");
}

fn unavailable(world: &World, ticket: &str) -> u64 {
    let response = post(world, ticket, &small());
    response.problem(503, "credential_unavailable");
    let seconds = response.header("retry-after").and_then(|text| text.parse().ok());
    let seconds = seconds.expect("seconds");
    assert!((1..=10).contains(&seconds), "{seconds}");
    seconds
}

fn fetches(world: &World, result: &str) -> f64 {
    value(&metrics(world), &format!("gateway_jwks_fetches_total{{result=\"{result}\"}}"))
}

/// An issuer, and the ticket of a key that it has not published.
pub fn issuer_with_stranger() -> (Recorder, String) {
    (issuer_of(&[Pair::ed("published").jwk()]), Pair::ed("unknown").ticket())
}

pub fn fails(issuer: &Recorder) {
    publish_text(issuer, "500 Internal Server Error", "");
}

#[test]
fn tickets_of_every_algorithm_are_verified_with_the_published_keys() {
    for algorithm in ["RS256", "ES256", "EdDSA"] {
        let (pair, other) = (Pair::new(algorithm, "a"), Pair::new(algorithm, "b"));
        let issuer = issuer_of(&[
            json!({"kty": "AKP", "alg": "ML-DSA-44", "kid": "a", "pub": "AAAA"}),
            json!({"kty": "oct", "kid": "a", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I"}),
            other.jwk(),
            pair.jwk(),
        ]);
        let world = setup(&issuer, algorithm).start();
        let ticket = pair.ticket();
        // Everywhere where tickets may be.
        let stored = post(&world, &ticket, &small()).stored();
        send(&world, "POST", &format!("/v1/files?ticket={ticket}"), &[], &small()).stored();
        let path = stored["path"].as_str().expect("a path");
        let file = world.call_with("GET", &format!("/v1/files/{path}?ticket={ticket}"), &[], "");
        assert_eq!(file.status, 302, "{}", file.text());
        let body = json!({"path": "of/wechat.txt"}).to_string();
        let target = format!("/tcb/uploadfile?access_token={ticket}");
        let link = world.call_with("POST", &target, &[], &body).json();
        assert_eq!(link["errcode"], 0, "{link}");
        let query = "grant_type=client_credential&appid=x";
        let target = format!("/cgi-bin/token?{query}&secret={ticket}");
        let token = world.call_with("GET", &target, &[], "").json();
        assert_eq!(token["access_token"], json!(ticket), "{token}");
        // Without a name it may be of any key; with the name of another key it is not.
        post(&world, &pair.ticket_of(None), &small()).stored();
        refused(&world, &pair.ticket_of(Some("b")));
        refused(&world, &Pair::new(algorithm, "a").ticket());

        assert_eq!(issuer.calls(), 1);
        let head = &issuer.received()[0].head;
        assert!(head.starts_with("GET /keys HTTP/1.1\r\n"), "{head}");
        assert!(!head.to_ascii_lowercase().contains("authorization"), "{head}");
        assert_eq!((fetches(&world, "fetched"), fetches(&world, "failed")), (1.0, 0.0));
    }
}

#[test]
fn a_new_key_is_accepted_on_first_sight_and_a_removed_one_refused() {
    let (old, new) = (Pair::ed("old"), Pair::ed("new"));
    let issuer = issuer_of(&[old.jwk()]);
    let world = setup(&issuer, "EdDSA").start();
    post(&world, &old.ticket(), &small()).stored();
    publish(&issuer, &[new.jwk()]);
    post(&world, &old.ticket(), &small()).stored();
    assert_eq!(issuer.calls(), 1, "a known key needs no fetch");
    // Requests at the same time wait for one fetch.
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| post(&world, &new.ticket(), &small()).stored());
        }
    });
    assert_eq!(issuer.calls(), 2);
    refused(&world, &old.ticket());
    assert_eq!(issuer.calls(), 2);

    // An issuer whose keys have no names.
    let (old, new) = (Pair::ed(""), Pair::ed(""));
    let issuer = issuer_of(&[old.jwk()]);
    let world = setup(&issuer, "EdDSA").start();
    post(&world, &old.ticket(), &small()).stored();
    publish(&issuer, &[new.jwk()]);
    post(&world, &new.ticket(), &small()).stored();
    refused(&world, &old.ticket());
    assert_eq!(issuer.calls(), 2);
}

#[test]
fn a_thousand_made_up_keys_make_few_fetches() {
    let (good, stranger) = (Pair::ed("good"), Pair::ed("stranger"));
    let issuer = issuer_of(&[good.jwk()]);
    let world = setup(&issuer, "EdDSA").start();
    post(&world, &good.ticket(), &small()).stored();
    let (calls, began) = (issuer.calls(), Instant::now());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (world, stranger) = (&world, &stranger);
            scope.spawn(move || {
                for index in 0..250 {
                    refused(world, &stranger.ticket_of(Some(&format!("made-up-{thread}-{index}"))));
                }
            });
        }
    });
    let most = 1 + began.elapsed().as_secs() as usize / 10;
    assert!(issuer.calls() - calls <= most, "{} fetches", issuer.calls() - calls);
    post(&world, &good.ticket(), &small()).stored();
}

#[test]
fn what_could_not_be_verified_causes_no_fetch() {
    let good = Pair::ed("good");
    let issuer = issuer_of(&[good.jwk()]);
    let world = setup(&issuer, "EdDSA").start();
    post(&world, &good.ticket(), &small()).stored();
    let claims = json!({"sub": "root", "exp": now() + 300});
    // The published key is no secret.
    let public = good.jwk()["x"].as_str().expect("a key").to_owned();
    for alg in ["HS256", "none", "RS256", "ES256"] {
        for kid in ["good", "other"] {
            refused(&world, &signed(&json!({"alg": alg, "kid": kid}), &claims, public.as_bytes()));
        }
    }
    refused(&world, &signed(&json!({"alg": "EdDSA", "kid": "good"}), &claims, public.as_bytes()));
    refused(&world, "e30.e30.AAAA");
    refused(&world, "a.b.c");
    assert_eq!(issuer.calls(), 1);
    assert_eq!(world.objects().len(), 1);
}

#[test]
fn keys_and_urls_in_a_tickets_header_are_ignored() {
    let (good, stranger) = (Pair::ed("good"), Pair::ed("stranger"));
    let (issuer, own) = (issuer_of(&[good.jwk()]), issuer_of(&[stranger.jwk()]));
    let world = setup(&issuer, "EdDSA").start();
    let url = format!("http://{}/keys", own.address);
    for kid in [None, Some("good".to_owned()), Some("stranger".to_owned()), Some(url.clone())] {
        let header = Header {
            kid,
            jwk: Some(stranger.public()),
            jku: Some(url.clone()),
            x5u: Some(url.clone()),
            ..Header::new(Algorithm::EdDSA)
        };
        refused(&world, &stranger.ticket_with(header));
    }
    assert_eq!(own.calls(), 0);
}

#[test]
fn without_any_key_tickets_are_not_refused() {
    let pair = Pair::ed("a");
    let with = |name: &str, value: Value| {
        let mut jwk = pair.jwk();
        jwk[name] = value;
        set(&[jwk])
    };
    let oct = json!({"kty": "oct", "kid": "a", "alg": "EdDSA", "k": pair.jwk()["x"]});
    let elsewhere = issuer_of(&[pair.jwk()]);
    let moved = format!("302 Found\r\nLocation: http://{}/keys", elsewhere.address);
    for (status, body) in [
        ("500 Internal Server Error", set(&[pair.jwk()])),
        ("404 Not Found", String::new()),
        (moved.as_str(), String::new()),
        ("200 OK", "<html>".to_owned()),
        ("200 OK", set(&[])),
        ("200 OK", format!("{}{}", set(&[pair.jwk()]), " ".repeat(64 << 10))),
        ("200 OK", with("use", json!("enc"))),
        ("200 OK", with("alg", json!("RS256"))),
        ("200 OK", set(&[oct])),
        ("200 OK", set(&[Pair::new("ES256", "a").jwk()])),
    ] {
        let issuer = Recorder::start();
        publish_text(&issuer, status, &body);
        let world = setup(&issuer, "EdDSA").start();
        unavailable(&world, &pair.ticket());
        unavailable(&world, &pair.ticket_of(None));
        // At the start, for the first ticket, and on a busy machine once more after 30 s.
        assert!((1..=3).contains(&issuer.calls()), "{status} {body}");
        world.post(&small()).stored();
        let log = world.gateway.log_with(FAILED);
        assert_eq!(log.matches(FAILED).count(), 1, "{log}");
        assert_eq!(world.call_with("GET", "/readyz", &[], "").status, 200);
    }
    assert_eq!(elsewhere.calls(), 0);
}

#[test]
fn wechats_endpoints_tell_missing_keys_from_a_wrong_credential() {
    let issuer = Recorder::start();
    publish_text(&issuer, "500 Internal Server Error", "");
    let world = setup(&issuer, "EdDSA").start();
    let ticket = Pair::ed("a").ticket();
    let query = "grant_type=client_credential&appid=x";
    for target in [
        format!("/cgi-bin/token?{query}&secret={ticket}"),
        format!("/tcb/uploadfile?access_token={ticket}"),
    ] {
        let method = if target.starts_with("/tcb") { "POST" } else { "GET" };
        let reply = world.call_with(method, &target, &[], r#"{"path": "x"}"#).json();
        assert_eq!(reply["errcode"], -1, "{reply}");
    }
}

#[test]
fn a_gateway_that_started_before_its_issuer_needs_no_restart() {
    let pair = Pair::ed("a");
    let address = TcpListener::bind("127.0.0.1:0").expect("a socket").local_addr().expect("one");
    let world = Setup::new()
        .set("auth.jwt.algorithm", "EdDSA")
        .set("auth.jwt.jwks_url", format!("http://{address}"))
        .start();
    world.gateway.log_with(FAILED);
    let issuer = Recorder::on(TcpListener::bind(address).expect("the same socket"));
    publish(&issuer, &[pair.jwk()]);
    post(&world, &pair.ticket(), &small()).stored();
    world.gateway.log_with("the keys of tickets were fetched: auth.jwt.jwks_url");
    assert!(issuer.received()[0].head.starts_with("GET / HTTP/1.1\r\n"));
}

#[test]
fn tickets_wait_for_a_slow_issuer_and_not_for_one_that_hangs() {
    let pair = Pair::ed("a");
    let issuer = Recorder::start();
    let is_open = Arc::new(AtomicBool::new(false));
    let (opened, text) = (is_open.clone(), response("200 OK", &set(&[pair.jwk()])));
    issuer.respond(move |_, stream| {
        wait_until("the issuer may respond", || opened.load(Ordering::Relaxed));
        stream.write_all(text.as_bytes())
    });
    let world = setup(&issuer, "EdDSA").start();
    wait_until("the first fetch", || issuer.calls() == 1);
    // Keys do not wait.
    world.post(&small()).stored();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| post(&world, &pair.ticket(), &small()));
        wait_until("a second connection", || value(&metrics(&world), "gateway_connections") >= 2.0);
        is_open.store(true, Ordering::Relaxed);
        waiting.join().expect("a response").stored();
    });
    assert_eq!(issuer.calls(), 1);

    let hanging = Recorder::start();
    let ends = Arc::new(AtomicBool::new(false));
    let ended = ends.clone();
    hanging.respond(move |_, _| {
        wait_until("the test ends", || ended.load(Ordering::Relaxed));
        Err(ErrorKind::UnexpectedEof.into())
    });
    let world = setup(&hanging, "EdDSA").start();
    let began = Instant::now();
    unavailable(&world, &pair.ticket());
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
    assert!(world.gateway.log_with(FAILED).contains("no response within 5s"));
    ends.store(true, Ordering::Relaxed);
}

#[test]
fn the_first_sixteen_keys_are_used() {
    let pairs: Vec<_> = (0..17).map(|index| Pair::ed(&format!("key-{index}"))).collect();
    let keys: Vec<_> = pairs.iter().map(Pair::jwk).collect();
    let issuer = issuer_of(&keys);
    let world = setup(&issuer, "EdDSA").start();
    for pair in &pairs[..16] {
        post(&world, &pair.ticket(), &small()).stored();
    }
    refused(&world, &pairs[16].ticket());
    refused(&world, &pairs[16].ticket_of(None));
}

#[test]
fn a_failed_fetch_leaves_the_former_keys() {
    let (good, stranger) = (Pair::ed("good"), Pair::ed("stranger"));
    for (status, body) in [
        ("500 Internal Server Error", String::new()),
        ("200 OK", set(&[json!({"kty": "oct", "kid": "good", "k": "AAAA"})])),
    ] {
        let issuer = issuer_of(&[good.jwk()]);
        let world = setup(&issuer, "EdDSA").start();
        post(&world, &good.ticket(), &small()).stored();
        publish_text(&issuer, status, &body);
        refused(&world, &stranger.ticket());
        assert!(issuer.calls() >= 2);
        post(&world, &good.ticket(), &small()).stored();
        world.gateway.log_with(FAILED);
        // On a busy machine it may have been tried again, after 30 s.
        assert!(fetches(&world, "fetched") == 1.0 && fetches(&world, "failed") >= 1.0);
    }
}

#[test]
fn keys_of_the_settings_stand_beside_the_set() {
    let (own, named, of_issuer) = (Pair::ed(""), Pair::ed("named"), Pair::ed("a"));
    let issuer = issuer_of(&[of_issuer.jwk()]);
    let with = |issuer: &Recorder| {
        setup(issuer, "EdDSA")
            .set("auth.jwt.key", &own.public_pem)
            .set("auth.jwt.keys.named", &named.public_pem)
            .start()
    };
    let world = with(&issuer);
    for ticket in [own.ticket(), named.ticket(), of_issuer.ticket(), of_issuer.ticket_of(None)] {
        post(&world, &ticket, &small()).stored();
    }
    // As without a set, `key` is that of tickets with an unknown name.
    post(&world, &own.ticket_of(Some("unknown")), &small()).stored();
    refused(&world, &of_issuer.ticket_of(Some("named")));
    assert_eq!(issuer.calls(), 1);

    let broken = Recorder::start();
    publish_text(&broken, "500 Internal Server Error", "");
    let world = with(&broken);
    for ticket in [own.ticket(), named.ticket(), named.ticket_of(None)] {
        post(&world, &ticket, &small()).stored();
    }
    unavailable(&world, &of_issuer.ticket());
}

#[test]
fn an_auth_server_is_asked_only_once_it_is_known_that_no_key_fits() {
    let (good, stranger) = (Pair::ed("good"), Pair::ed("stranger"));
    let server = issuer_of(&[]);
    publish_text(&server, "200 OK", "");
    let issuer = issuer_of(&[]);
    let url = format!("http://{}/check", server.address);
    let world = setup(&issuer, "EdDSA").set("auth.forward_url", &url).start();
    unavailable(&world, &good.ticket());
    assert_eq!(server.calls(), 0);
    let issuer = issuer_of(&[good.jwk()]);
    let world = setup(&issuer, "EdDSA").set("auth.forward_url", &url).start();
    post(&world, &good.ticket(), &small()).stored();
    assert_eq!(server.calls(), 0);
    post(&world, &stranger.ticket(), &small()).stored();
    assert_eq!((server.calls(), issuer.calls()), (1, 2));
}

#[test]
fn a_reload_takes_over_another_url_and_keeps_the_keys_of_the_same_one() {
    let (one, two) = (Pair::ed("one"), Pair::ed("two"));
    let issuers = [issuer_of(&[one.jwk()]), issuer_of(&[two.jwk()])];
    let config = |issuer: &Recorder, more: &str| {
        format!(
            "{more}\nauth.jwt.algorithm = \"EdDSA\"\nauth.jwt.jwks_url = \"http://{}/keys\"\n",
            issuer.address
        )
    };
    let (world, file) = reload::with_file(Setup::new(), &config(&issuers[0], ""));
    post(&world, &one.ticket(), &small()).stored();
    refused(&world, &two.ticket());
    assert_eq!(issuers[0].calls(), 2);
    let other = config(&issuers[0], "auth.rate = \"1000/s\"");
    reload::reload(&world, &file, &other, reload::RELOADED);
    // Its keys stay, and so does the time of the next fetch.
    publish(&issuers[0], &[two.jwk()]);
    post(&world, &one.ticket(), &small()).stored();
    refused(&world, &two.ticket());
    assert_eq!(issuers[0].calls(), 2);

    reload::reload(&world, &file, &config(&issuers[1], ""), reload::RELOADED);
    post(&world, &two.ticket(), &small()).stored();
    refused(&world, &one.ticket());
    assert_eq!(issuers[0].calls(), 2);
    let without =
        format!("auth.jwt.algorithm = \"EdDSA\"\nauth.jwt.key = '''{}'''", one.public_pem);
    reload::reload(&world, &file, &without, reload::RELOADED);
    post(&world, &one.ticket(), &small()).stored();
    refused(&world, &two.ticket());
}

/// A key set that fails is fetched again after 30 to 33 s. Only the newest one may be counted as failing.
#[test]
fn a_key_set_that_was_replaced_is_fetched_no_more() {
    std::thread::scope(|scope| {
        for has_next in [true, false] {
            scope.spawn(move || {
                let (former, next) = (Recorder::start(), issuer_of(&[Pair::ed("a").jwk()]));
                fails(&former);
                let config = |issuer: &Recorder| {
                    let url = format!("http://{}/keys", issuer.address);
                    format!("auth.jwt.algorithm = \"EdDSA\"\nauth.jwt.jwks_url = \"{url}\"\n")
                };
                // The listener of the metrics has the settings of the start as long as it runs.
                let setup = Setup::new().set("metrics.bind", "127.0.0.1:0");
                let (world, file) = reload::with_file(setup, &config(&former));
                world.gateway.log_with(FAILED);
                let (failed, calls) = (Instant::now(), former.calls());
                let after = if has_next { config(&next) } else { String::new() };
                reload::reload(&world, &file, &after, reload::RELOADED);
                wait_until("the next fetch is due", || failed.elapsed().as_secs() >= 35);
                assert_eq!((former.calls(), next.calls()), (calls, usize::from(has_next)));
            });
        }
    });
}

#[test]
fn the_doctor_counts_the_usable_keys() {
    let world = Setup::new().start();
    let issuer = issuer_of(&[]);
    let [ed, ec] = ["EdDSA", "ES256"].map(|algorithm| Pair::new(algorithm, "a").jwk());
    let url = format!("http://{}/keys", issuer.address);
    let run =
        |url: &str| doctor(&world, &[("auth.jwt.algorithm", "EdDSA"), ("auth.jwt.jwks_url", url)]);
    for (status, body, is_well, said) in [
        ("200 OK", set(&[ed, ec.clone()]), true, "has 1 usable keys"),
        (
            "200 OK",
            set(&[ec]),
            false,
            "none of the 1 keys in its response is a public key for EdDSA",
        ),
        ("200 OK", "<html>".to_owned(), false, "no JSON Web Key Set"),
        ("301 Moved Permanently", String::new(), false, "redirects are not followed"),
        ("404 Not Found", String::new(), false, "`jwks_uri`"),
    ] {
        publish_text(&issuer, status, &body);
        let ended = run(&url);
        assert!(ended.stdout.contains(said), "{said}: {}", ended.stdout);
        assert_eq!(steps(&ended)["jwks"], if is_well { "ok" } else { "FAILED" });
        assert_eq!(ended.code, i32::from(!is_well), "{}", ended.stdout);
    }
    let ended = run(&nowhere());
    assert!(ended.stdout.contains("must reach auth.jwt.jwks_url"), "{}", ended.stdout);
}
