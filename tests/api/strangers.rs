//! Attacks by clients without or with little authority, and the bound of each. Rows of the list of attacks (part B):
//!
//! | row | test |
//! |---|---|
//! | 1c slow bodies | `small_bodies_must_arrive_within_ten_seconds` `a_wrong_credential_is_refused_before_the_body` |
//! | 2 calls to WeChat without a key | `the_sample_endpoint_is_rate_limited_like_a_file_url` `the_sample_endpoint_links_only_our_bucket_and_caches` `every_unauthenticated_endpoint_that_calls_wechat_is_rate_limited` |
//! | 3 work that grows faster than what is sent | `lists_of_a_million_values_are_refused_before_they_are_parsed` `paths_of_megabytes_cost_nothing`, and the units `http::response::editors` and `key` |
//! | 1c long bodies of known callers, together | `long_json_bodies_are_bounded_in_total` |
//! | 5 what repeats keep | `long_requests_are_retained_as_hashes` |
//! | 7 one key, several tickets | `tickets_with_different_claims_share_no_idempotency_keys` |
//! | 8 checked in one form, sent in another | `an_upload_link_is_for_the_path_that_was_checked` `ambiguous_file_ids_are_refused` |
//! | a link for another path | `wire::a_link_to_a_host_that_is_not_listed_gets_nothing`, and the unit `cos::target` |
//! | one client pins the memory budget | `one_client_leaves_memory_to_the_others` |
//! | replays lose `nosniff` | `a_repeat_has_the_first_response_s_headers` |
//! | `crit` in a ticket | `a_ticket_with_extensions_that_must_be_understood_is_refused` |
//! | `max_files: 0` in a ticket | `a_ticket_with_max_files_0_stores_nothing` |
//! | deviating responses of WeChat | `deviating_responses_of_wechat_are_understood` |

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Client, Form, KEY, Response, Setup, World, authorization, noise, wait_until};
use crate::stand_in::{self, BUCKET, Upstream};
use crate::tickets::{self, now, post, send, signed, small, ticket};

const OWN: &str = "cloud://sandbox-1a2b3c.7361-sandbox-1a2b3c-1250000000";

fn get(world: &World, target: &str, headers: &[(&str, &str)]) -> Response {
    world.call_with("GET", target, headers, "")
}

/// The number of calls to WeChat, token calls aside.
fn asked(world: &World) -> u64 {
    ["uploadfile", "batchdownloadfile", "batchdeletefile"]
        .map(|call| world.count(call))
        .iter()
        .sum()
}

#[test]
fn small_bodies_must_arrive_within_ten_seconds() {
    let world = Setup::new().start();
    let tcb = format!("/tcb/batchdeletefile?access_token={KEY}");
    std::thread::scope(|scope| {
        for (method, target, headers) in [
            ("POST", "/cgi-bin/stable_token", vec![]),
            ("POST", tcb.as_str(), vec![]),
            ("POST", "/v1/delete", vec![authorization()]),
            ("POST", "/v1/download-links", vec![authorization()]),
            ("POST", "/v1/upload-links", vec![authorization()]),
            ("DELETE", "/v1/files", vec![authorization()]),
        ] {
            for framing in [("content-length", "16000"), ("transfer-encoding", "chunked")] {
                let world = &world;
                let headers = [&headers[..], &[framing]].concat();
                scope.spawn(move || {
                    let mut client = world.client();
                    client.send_head(method, target, &headers);
                    let mut sender = client.sender();
                    let byte: &[u8] = if framing.1 == "chunked" { b"1\r\n \r\n" } else { b" " };
                    let began = Instant::now();
                    let response = std::thread::scope(|scope| {
                        // A byte every 300 ms, until the response arrives.
                        let (done, stop) = std::sync::mpsc::channel::<()>();
                        scope.spawn(move || {
                            use std::io::Write;
                            while stop.recv_timeout(Duration::from_millis(300)).is_err()
                                && sender.write_all(byte).is_ok()
                                && began.elapsed() < Duration::from_secs(40)
                            {
                            }
                        });
                        let response = client.response();
                        let _ = done.send(());
                        response
                    });
                    let took = began.elapsed();
                    assert!((9.5..13.0).contains(&took.as_secs_f64()), "{target}: {took:?}");
                    if target.starts_with("/v1/") {
                        response.problem(408, "client_stalled");
                    } else {
                        // WeChat's own format, always with status 200.
                        assert_eq!(
                            (response.status, &response.json()["errcode"]),
                            (200, &json!(-1))
                        );
                    }
                });
            }
        }
    });
    assert_eq!(asked(&world), 0);
}

#[test]
fn a_wrong_credential_is_refused_before_the_body() {
    let world = Setup::new().start();
    let wrong = [("authorization", "Bearer wrong"), ("content-length", "10000")];
    let none = [("content-length", "10000")];
    for (method, target, headers, errcode) in [
        ("POST", "/cgi-bin/stable_token", &wrong[..], Some(40001)),
        ("POST", "/tcb/uploadfile", &none, Some(41001)),
        ("POST", "/tcb/batchdownloadfile?access_token=wrong", &none, Some(40001)),
        ("POST", "/v1/delete", &wrong, None),
        ("POST", "/v1/download-links", &none, None),
        ("POST", "/v1/upload-links", &none, None),
        ("DELETE", "/v1/files", &none, None),
    ] {
        // Nothing of the body is ever sent.
        let mut client = world.client();
        client.send_head(method, target, headers);
        let response = client.response();
        match errcode {
            Some(errcode) => assert_eq!(response.json()["errcode"], errcode, "{target}"),
            None => drop(response.problem(401, "unauthenticated")),
        }
    }
    // If the credential is in the body, the IP address is counted before the body is read, and the body must be short.
    let world = Setup::new().set("auth.address_rate", "2/m").start();
    let asked = json!({"grant_type": "client_credential", "appid": "wx1", "secret": KEY});
    let token = || world.call_with("POST", "/cgi-bin/stable_token", &[], &asked.to_string()).json();
    assert_eq!(token()["access_token"], KEY);
    let long = " ".repeat(20_000);
    let response = world.call_with("POST", "/cgi-bin/stable_token", &[], &long).json();
    assert_eq!(response["errcode"], 40097, "{response}");
    let mut client = world.client();
    client.send_head("POST", "/cgi-bin/stable_token", &none);
    assert_eq!(client.response().json()["errcode"], 45011);
    assert_eq!(token()["errcode"], 45011);
}

#[test]
fn the_sample_endpoint_is_rate_limited_like_a_file_url() {
    let world = Setup::new().set("auth.address_rate", "5/m").start();
    // Wrong keys, in each place where a key may be.
    for way in 0..3 {
        let world = Setup::new().set("auth.address_rate", "5/m").start();
        let mut codes = Vec::new();
        let mut client = world.client();
        for n in 0..200 {
            let id = format!("{OWN}/{n}");
            let (target, headers) = match way {
                0 => (format!("/?cloudid={id}"), vec![("authorization", "Bearer wrong")]),
                1 => (format!("/?cloudid={id}&access_token=wrong"), vec![]),
                _ => (format!("/?ticket=wrong&cloudid={id}"), vec![]),
            };
            client.send_request("GET", &target, &headers, b"");
            let response = client.response();
            assert_eq!(response.status, 200, "WeChat's own shape");
            codes.push(response.json()["errcode"].as_i64().expect("a code"));
        }
        assert_eq!(codes[..5], [40001; 5], "way {way}");
        assert_eq!(codes[5..], [45011; 195], "way {way}");
        assert_eq!(asked(&world), 0, "way {way}");
    }
    // Without a key: as many calls as the rate allows, and one more to find the prefix of file ids.
    for n in 0..200 {
        get(&world, &format!("/?cloudid={OWN}/{n}"), &[]);
    }
    assert_eq!((world.count("batchdownloadfile"), world.count("uploadfile")), (5, 1));
    get(&world, "/v1/files/x", &[]).problem(429, "rate_limited");
}

#[test]
fn the_sample_endpoint_links_only_our_bucket_and_caches() {
    let world = Setup::new().start();
    let url = world.call("POST", "/tcb/uploadfile", &json!({"path": "x"})).json();
    assert_eq!(url["errcode"], 0, "{url}");
    world.call_with("PUT", "/v1/files/x.txt", &[authorization()], "content");
    let before = (world.count("uploadfile"), world.count("batchdownloadfile"));
    let sample = |id: &str, headers: &[(&str, &str)]| {
        let id = percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC);
        get(&world, &format!("/?cloudid={id}"), headers).json()
    };
    let link = sample(&format!("{OWN}/x.txt"), &[]);
    assert_eq!(link["file_list"][0]["status"], 0, "{link}");
    for _ in 0..30 {
        assert_eq!(sample(&format!("{OWN}/x.txt"), &[]), link);
    }
    assert_eq!(world.count("batchdownloadfile") - before.1, 1);
    for other in [
        "cloud://other-env.7361-other-env-1250000000/x.txt",
        "cloud://sandbox-1a2b3c.7361-other-1250000000/x.txt",
        "cloud://sandbox-1a2b3c/x.txt",
        "cloud://sandbox-1a2b3cd.7361-sandbox-1a2b3c-1250000000/x.txt",
        "cloud://other-env./x.txt",
        "x.txt",
        &format!("{OWN}/a/../x.txt"),
        &format!("{OWN}/a/%2e%2e/x.txt"),
        &format!("{OWN}/a%2fx.txt"),
        &format!("{OWN}//x.txt"),
        &format!("{OWN}/{}", "x".repeat(5000)),
    ] {
        let refused = sample(other, &[]);
        assert_eq!(refused["errcode"], -501007, "{other}: {refused}");
    }
    assert_eq!(world.count("batchdownloadfile") - before.1, 1);
    assert_eq!(world.count("uploadfile"), before.0);
    // A wrong key is refused even if no key is required.
    let wrong = [("authorization", "Bearer wrong")];
    assert_eq!(sample(&format!("{OWN}/x.txt"), &wrong)["errcode"], 40001);
    assert_eq!(sample(&format!("{OWN}/x.txt"), &[authorization()]), link);
}

/// Every endpoint that calls WeChat on behalf of an unauthenticated client.
#[test]
fn every_unauthenticated_endpoint_that_calls_wechat_is_rate_limited() {
    for target in ["/v1/files/", "/?cloudid=cloud://sandbox-1a2b3c.7361-sandbox-1a2b3c-1250000000/"]
    {
        for method in ["GET", "HEAD"] {
            let world = Setup::new().set("auth.address_rate", "5/m").start();
            for n in 0..50 {
                let mut client = world.client();
                client.send_request(method, &format!("{target}{n}"), &[], b"");
                client.response_head().expect("a response");
            }
            assert!(asked(&world) <= 6, "{method} {target}: {}", asked(&world));
        }
    }
    let world = Setup::new().start();
    for n in 0..20 {
        for (method, target) in [
            ("GET", "/readyz".to_owned()),
            ("OPTIONS", format!("/v1/files/{n}")),
            ("DELETE", format!("/v1/files/{n}")),
            ("PUT", format!("/v1/files/{n}")),
            ("POST", "/tcb/batchdownloadfile".to_owned()),
            ("GET", format!("/v1/files/{n}?ticket=wrong")),
            ("GET", "/v1/files?action=config".to_owned()),
        ] {
            world.call_with(method, &target, &[], "");
        }
    }
    assert_eq!((asked(&world), world.count("stable_token")), (0, 1));
    // After a failed token fetch, `/readyz` does not fetch again on each probe.
    let world = Setup::new().set("wechat.secret", "wrong").start();
    for _ in 0..50 {
        get(&world, "/readyz", &[]).problem(503, "credential_unavailable");
    }
    assert!(world.count("stable_token") <= 5, "{}", world.count("stable_token"));
}

#[test]
fn lists_of_a_million_values_are_refused_before_they_are_parsed() {
    let world = Setup::new().start();
    world.call("POST", "/v1/delete", &json!({"files": ["x"]}));
    let idle = world.gateway.memory("VmHWM");
    for (item, what) in
        [("0,", "numbers"), ("[],", "lists"), ("{\"\":0},", "objects"), ("\"\",", "names")]
    {
        for (target, list) in [
            ("/v1/delete", "files"),
            ("/v1/download-links", "files"),
            ("/tcb/batchdeletefile", "fileid_list"),
        ] {
            let body = format!("{{\"{list}\":[{}0]}}", item.repeat((4 << 20) / item.len() - 20));
            let response = world.call_with("POST", target, &[authorization()], &body);
            match target.starts_with("/tcb/") {
                true => {
                    assert_eq!(response.json()["errcode"], 40097, "{what}: {}", response.text())
                }
                false => drop(response.problem(413, "too_many_files")),
            }
        }
    }
    // On each of two workers, a buffer of 4 MiB, and the blocks that it has grown out of, which the allocator keeps for a
    // second. Parsed, the numbers alone would take 64 MiB.
    let peak = world.gateway.memory("VmHWM");
    assert!(peak <= idle + (56 << 10), "idle {idle} KiB, peak {peak} KiB");
    assert_eq!(asked(&world), 2, "the first one's");
    // A thousand are accepted, whatever characters their names contain.
    let files: Vec<Value> =
        (0..1000).map(|n| json!({"path": format!("a,b,[{n}"), "max_age": 60})).collect();
    let response =
        world.call("POST", "/v1/download-links", &json!({"files": files, "max_age": 60}));
    assert_eq!(response.status, 200, "{}", response.text());
}

#[test]
fn long_json_bodies_are_bounded_in_total() {
    const ALL: usize = 64 << 20;
    const EACH: usize = 4 << 20;
    const MANY: usize = 20;
    let world = Setup::new().start();
    let mut body = br#"{"files":["x"]}"#.to_vec();
    body.resize(EACH, b' ');
    let length = EACH.to_string();
    let headers = [authorization(), ("content-length", length.as_str())];
    let mut clients: Vec<Client> = (0..MANY)
        .map(|_| {
            let mut client = world.client();
            client.send_head("POST", "/v1/delete", &headers);
            let _ = client.try_send(&body[..EACH - 1]);
            client
        })
        .collect();
    // No body is complete yet.
    wait_until("what does not fit is refused", || {
        let log = world.gateway.log();
        log.lines().filter(|line| line.contains("too many long requests")).count()
            > MANY - ALL / EACH
    });
    let mut taken = 0;
    for client in &mut clients {
        let _ = client.try_send(b" ");
        let response = client.response();
        match response.status {
            200 => taken += 1,
            _ => drop(response.problem(503, "overloaded")),
        }
    }
    assert!((13..ALL / EACH).contains(&taken), "{taken} of {MANY} taken");
    // Their memory is released, and short bodies are not charged.
    let response = world.call_with("POST", "/v1/delete", &[authorization()], r#"{"files":["x"]}"#);
    assert_eq!(response.status, 200, "{}", response.text());
    let response = world.call_with(
        "POST",
        "/v1/delete",
        &[authorization()],
        std::str::from_utf8(&body).expect("text"),
    );
    assert_eq!(response.status, 200, "{}", response.text());
}

#[test]
fn paths_of_megabytes_cost_nothing() {
    let world = Setup::new().start();
    let began = Instant::now();
    for long in ["e\u{301}".repeat(1 << 20), "\u{301}".repeat(1 << 20), "a/".repeat(1 << 20)] {
        let response = world.call("POST", "/v1/delete", &json!({"files": [long]})).json();
        assert_eq!(response["files"][0]["error"]["code"], "invalid_path");
        let id = format!("{OWN}/{}", &long[..1 << 20]);
        let response = world.call("POST", "/v1/delete", &json!({"files": [id]})).json();
        assert_eq!(response["files"][0]["error"]["code"], "invalid_path");
        world
            .call("POST", "/v1/upload-links", &json!({"path": long}))
            .problem(413, "fields_too_large");
    }
    // Escaped percent signs, in every name of a list.
    let nested = format!("{OWN}/%{}2e", "25".repeat(1500));
    let files = vec![nested; 1000];
    let response = world.call("POST", "/v1/delete", &json!({ "files": files })).json();
    assert_eq!(response["files"][999]["error"]["code"], "invalid_path");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(asked(&world), 0);
}

#[test]
fn long_requests_are_retained_as_hashes() {
    const MANY: usize = 2000;
    let world = Setup::new().start();
    let query = "x".repeat(31_000);
    let mut client = world.client();
    let mut put = |range: std::ops::Range<usize>| {
        for n in range {
            let key = format!("{n:0>200}");
            let headers = [authorization(), ("idempotency-key", key.as_str())];
            client.send_request("PUT", &format!("/v1/files/x?{query}{n}"), &headers, b"x");
            client.response().stored();
        }
    };
    put(0..100);
    let before = world.gateway.memory("VmRSS");
    put(100..MANY);
    let after = world.gateway.memory("VmRSS");
    println!("{MANY} requests of 31 KB: {before} KiB, then {after} KiB");
    assert!(after <= before + (16 << 10), "{before} KiB, then {after} KiB");
    // Repeats of them are still recognised.
    let key = format!("{:0>200}", 150);
    let again = |query: &str| {
        let headers = [authorization(), ("idempotency-key", key.as_str())];
        world.call_with("PUT", &format!("/v1/files/x?{query}150"), &headers, "x")
    };
    assert_eq!(again(&query).header("idempotent-replayed"), Some("true"));
    again(&query[1..]).problem(400, "invalid_request");
}

#[test]
fn tickets_with_different_claims_share_no_idempotency_keys() {
    let png = b"\x89PNG\r\n\x1a\nrest";
    let image = |content: &[u8]| Form::new().file("f", "x.png", "image/png", content);
    let upload = |world: &World, claims: &Value, form: &Form| {
        let token = ticket(claims.clone());
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("idempotency-key", "key")];
        send(world, "POST", "/v1/files", &headers, form)
    };
    for access in ["public", "signed"] {
        let world = tickets::setup()
            .set("links.access", access)
            .set("links.signing_keys", "a-signing-key-of-tests")
            .start();
        let claims = [
            json!({"sub": "u"}),
            json!({"sub": "u", "prefix": "one"}),
            json!({"sub": "u", "prefix": "two"}),
            json!({"sub": "u", "prefix": "two", "max_file_size": 1000}),
            json!({"sub": "u", "prefix": "two", "max_file_size": 1001}),
            json!({"sub": "u", "prefix": "two", "types": ["image/png"]}),
            json!({"sub": "u", "prefix": "two", "types": ["image/*"]}),
            json!({"sub": "u", "prefix": "two", "max_files": 1}),
            json!({"sub": "u", "prefix": "two", "can": ["upload"]}),
            json!({"sub": "u", "path": "one/avatar.png"}),
            json!({"sub": "u", "path": "two/avatar.png"}),
        ];
        let mut paths = Vec::new();
        for (n, claims) in claims.iter().enumerate() {
            let content = [&png[..], n.to_string().as_bytes()].concat();
            let response = upload(&world, claims, &image(&content));
            assert_eq!(response.header("idempotent-replayed"), None, "{claims}");
            let path = response.stored()["path"].as_str().expect("a path").to_owned();
            assert_eq!(world.object(&path), content, "{claims}");
            if let Some(prefix) = claims["prefix"].as_str() {
                assert!(path.starts_with(prefix), "{claims}: {path}");
            }
            // A repeat with any ticket of the same claims gets the first response.
            let mut again = claims.clone();
            again["jti"] = json!(n);
            let repeat = upload(&world, &again, &image(&content));
            assert_eq!(repeat.header("idempotent-replayed"), Some("true"), "{claims}");
            assert_eq!(repeat.json(), response.json());
            paths.push(path);
        }
        assert_eq!(world.objects().len(), claims.len());
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), claims.len(), "each its own file");
        // A ticket does not get another ticket's response by repeating its Idempotency-Key.
        let small = upload(&world, &json!({"sub": "u", "max_file_size": 2}), &image(png));
        small.problem(413, "file_too_large");
        let text = upload(&world, &json!({"sub": "u", "types": "text/plain"}), &image(png));
        text.problem(415, "type_not_allowed");
        let reader = upload(&world, &json!({"sub": "u", "can": "download"}), &image(png));
        reader.problem(403, "not_allowed");
        assert_eq!(world.objects().len(), claims.len());
    }
    // Raw bodies, to the path of each ticket.
    let world = tickets::setup().start();
    for path in ["a/1.bin", "a/2.bin", "b/1.bin"] {
        let token = ticket(json!({"sub": "u", "path": path}));
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("idempotency-key", "key")];
        let response = world.call_with("PUT", &format!("/v1/files/{path}"), &headers, path);
        assert_eq!(response.stored()["path"], path);
        assert_eq!(world.object(path), path.as_bytes());
    }
}

#[test]
fn an_upload_link_is_for_the_path_that_was_checked() {
    let world = tickets::setup().set("upload.client_paths", false).start();
    for (composed, decomposed) in [
        ("é.png", "e\u{301}.png"),
        ("が/x.png", "か\u{3099}/x.png"),
        ("한글.png", "\u{1112}\u{1161}\u{11ab}\u{1100}\u{1173}\u{11af}.png"),
    ] {
        for claimed in [composed, decomposed] {
            let token = ticket(json!({"sub": "u", "path": claimed}));
            for asked in [composed, decomposed] {
                let target = format!("/tcb/uploadfile?access_token={token}");
                let body = json!({ "path": asked }).to_string();
                let link = world.call_with("POST", &target, &[], &body).json();
                assert_eq!(link["errcode"], 0, "{link}");
                assert_eq!(link["file_id"], format!("{OWN}/{composed}"));
                let headers = [("authorization", format!("Bearer {token}"))];
                let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
                let link = world.call_with("POST", "/v1/upload-links", &headers, &body).json();
                assert_eq!(
                    (&link["path"], &link["fields"][0][1]),
                    (&json!(composed), &json!(composed))
                );
                assert_eq!(link["file_id"], format!("{OWN}/{composed}"));
            }
        }
        // A file id has only one spelling.
        let token = ticket(json!({"sub": "u", "path": composed}));
        let id = json!({"files": [format!("{OWN}/{decomposed}")]});
        let response = tickets::call(&world, "POST", "/v1/delete", &token, &id).json();
        assert_eq!(response["files"][0]["error"]["code"], "path_not_allowed", "{response}");
    }
}

#[test]
fn ambiguous_file_ids_are_refused() {
    let team = hex::encode(Sha256::digest("team"));
    let world = Setup::new()
        .set("auth.keys.team.sha256", team)
        .set("auth.keys.team.prefix", "team")
        .start();
    world.call_with("PUT", "/v1/files/stolen.txt", &[authorization()], "x").stored();
    let before = asked(&world);
    for path in [
        "team/%2e%2e/stolen.txt",
        "team/%2E%2e/stolen.txt",
        "team/.%2e/stolen.txt",
        "team/..%2fstolen.txt",
        "team/%2e%2e%2Fstolen.txt",
        "team%2f..%2fstolen.txt",
        "team/%252e%252e/stolen.txt",
        "team/%25252e%25252e/stolen.txt",
        "team/..%5cstolen.txt",
        "team/a%00/stolen.txt",
        "team/a%0a",
        "team/%2e/stolen.txt",
        "team/%2fstolen.txt",
        "team/../stolen.txt",
        "team//stolen.txt",
        "team/..\\stolen.txt",
    ] {
        let id = format!("{OWN}/{path}");
        for bearer in [format!("Bearer {KEY}"), "Bearer team".to_owned()] {
            let headers = [("authorization", bearer.as_str())];
            for target in ["/v1/delete", "/v1/download-links"] {
                let body = json!({"files": [id, {"file_id": id}]}).to_string();
                let response = world.call_with("POST", target, &headers, &body).json();
                for n in 0..2 {
                    let code = response["files"][n]["error"]["code"].as_str().expect("a code");
                    assert!(
                        matches!(code, "invalid_path" | "path_not_allowed"),
                        "{path}: {response}"
                    );
                }
            }
            let response = world.call_with("DELETE", "/v1/files", &headers, &id);
            assert!(matches!(response.status, 400 | 403), "{path}: {}", response.text());
            let body = json!({"fileid_list": [id], "file_list": [{"fileid": id}]}).to_string();
            let deleted = world.call_with("POST", "/tcb/batchdeletefile", &headers, &body).json();
            assert_eq!(deleted["delete_list"][0]["status"], -501007, "{path}: {deleted}");
            let links = world.call_with("POST", "/tcb/batchdownloadfile", &headers, &body).json();
            assert_eq!(links["file_list"][0]["status"], -501007, "{path}: {links}");
        }
    }
    assert_eq!(asked(&world), before);
    assert_eq!(world.objects().len(), 1);
}

/// An upload with a chunked body, without the last chunk.
fn unended(world: &World, key: &str, path: &str, content: &[u8]) -> Client {
    let mut client = world.client();
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("transfer-encoding", "chunked")];
    client.send_head("PUT", &format!("/v1/files/{path}"), &headers);
    for piece in content.chunks(50_000) {
        let _ = client.try_send(format!("{:x}\r\n", piece.len()).as_bytes());
        let _ = client.try_send(piece);
        let _ = client.try_send(b"\r\n");
    }
    client
}

#[test]
fn one_client_leaves_memory_to_the_others() {
    let world = Setup::new()
        .set("upload.memory_budget", "8MiB")
        .set("upload.max_buffered_file", "2MiB")
        .set("auth.keys.other.sha256", hex::encode(Sha256::digest("other")))
        .start();
    let used = || {
        let text = get(&world, "/metrics", &[]).text();
        let line = text.lines().find(|line| line.starts_with("gateway_memory_budget_bytes "));
        line.and_then(|line| line.split(' ').nth(1)?.parse::<u64>().ok()).expect("the gauge")
    };
    let content = noise(1_500_000, 1);
    let mut greedy: Vec<Client> =
        (0..8).map(|n| unended(&world, KEY, &format!("greedy/{n}"), &content)).collect();
    wait_until("it takes all that it can", || used() > 4 << 20);
    for round in 0..3 {
        // No other client is refused because of it.
        let path = format!("other/{round}");
        let mut other = unended(&world, "other", &path, &content[..1_000_000]);
        other.send(b"0\r\n\r\n");
        assert_eq!(other.response().stored()["size"], 1_000_000);
        assert!(used() <= 6 << 20, "{} used", used());
    }
    let mut refused = 0;
    for client in &mut greedy {
        let _ = client.try_send(b"0\r\n\r\n");
        let response = client.response();
        if response.status != 201 {
            response.problem(503, "overloaded");
            assert!(response.header("retry-after").is_some());
            refused += 1;
        }
    }
    assert!((4..=6).contains(&refused), "{refused} of 8 refused");
    wait_until("all is released", || used() == 0);
    assert_eq!(world.objects().len(), 3 + 8 - refused);
}

#[test]
fn a_repeat_has_the_first_response_s_headers() {
    let world = Setup::new().set("cors.origins", "https://panel.example.com").start();
    for profile in ["default", "filepond", "text", "tinymce", "ueditor", "vditor", "wangeditor"] {
        let upload = || {
            let headers = [authorization(), ("idempotency-key", profile)];
            send(&world, "POST", &format!("/v1/files?reply={profile}"), &headers, &small())
        };
        // Headers that belong to each request, and a list without a fixed order, are left out.
        let own = [
            "date",
            "x-request-id",
            "server-timing",
            "idempotent-replayed",
            "access-control-expose-headers",
        ];
        let headers = |response: &Response| {
            let mut headers = response.headers.clone();
            headers.retain(|(name, _)| !own.contains(&name.as_str()));
            headers.sort();
            headers
        };
        let (first, again) = (upload(), upload());
        assert_eq!(again.header("idempotent-replayed"), Some("true"), "{profile}");
        assert_eq!((first.status, &first.body), (again.status, &again.body), "{profile}");
        assert_eq!(headers(&first), headers(&again), "{profile}");
        if matches!(profile, "filepond" | "text" | "ueditor") {
            assert_eq!(again.header("x-content-type-options"), Some("nosniff"), "{profile}");
        }
    }
}

#[test]
fn a_ticket_with_extensions_that_must_be_understood_is_refused() {
    let world = tickets::setup().start();
    let claims = json!({"sub": "u", "exp": now() + 300});
    for header in [
        json!({"alg": "HS256", "crit": ["exp"], "exp": now() + 300}),
        json!({"alg": "HS256", "crit": ["b64"], "b64": true}),
        json!({"alg": "HS256", "crit": ["https://example.com/one-time"]}),
        json!({"alg": "HS256", "crit": []}),
        json!({"alg": "HS256", "crit": "exp"}),
        json!({"alg": "HS256", "b64": false}),
    ] {
        let token = signed(&header, &claims, tickets::SECRET.as_bytes());
        let problem = post(&world, &token, &small()).problem(401, "unauthenticated");
        assert!(problem["detail"].as_str().is_some_and(|text| !text.is_empty()), "{header}");
    }
    world.assert_nothing_stored();
    let header = json!({"alg": "HS256", "typ": "JWT", "kid": "one", "cty": "x"});
    post(&world, &signed(&header, &claims, tickets::SECRET.as_bytes()), &small()).stored();
}

#[test]
fn a_ticket_with_max_files_0_stores_nothing() {
    let world = tickets::setup().start();
    let token = ticket(json!({"sub": "u", "max_files": 0}));
    post(&world, &token, &small()).problem(413, "too_many_files");
    tickets::call(&world, "PUT", "/v1/files/x", &token, &json!("x")).problem(413, "too_many_files");
    tickets::call(&world, "POST", "/v1/upload-links", &token, &json!({"path": "x"}))
        .problem(413, "too_many_files");
    let target = format!("/tcb/uploadfile?access_token={token}");
    let response = world.call_with("POST", &target, &[], &json!({"path": "x"}).to_string()).json();
    assert_ne!(response["errcode"], 0, "{response}");
    world.assert_nothing_stored();
    assert_eq!(asked(&world), 0);
}

/// Deviations of WeChat's responses from its documents.
#[test]
fn deviating_responses_of_wechat_are_understood() {
    let raw = |body: &str| {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    };
    let id = "cloud://env.7465-bucket-125/x";
    let upstream = Upstream::start();
    let url = stand_in::url(&upstream.address.to_string(), "x");
    let mut link = stand_in::link(&url, "x");
    let fields = link.as_object_mut().expect("an object");
    fields.remove("errcode");
    fields.remove("errmsg");
    let link = link.to_string();
    let rest = &link[1..];
    for (before, envelope) in [
        ("\u{feff}", r#""errcode":0,"errmsg":"ok","#),
        ("", r#""errcode":"0","errmsg":"ok","#),
        ("", r#""errcode":0,"errmsg":null,"#),
        ("", r#""errcode":"0","#),
        ("", r#""errcode":null,"errmsg":null,"#),
        ("", ""),
        ("\u{feff}\r\n", r#""errcode":"0","errmsg":null,"#),
    ] {
        let answer = |rest: &str| raw(&format!("{before}{{{envelope}{rest}"));
        upstream.respond_with(
            "/cgi-bin/stable_token",
            answer(r#""access_token":"token","expires_in":"7200"}"#),
        );
        upstream.respond_with("/tcb/uploadfile", answer(rest));
        let file = format!(
            r#""file_list":[{{"fileid":"{id}","download_url":"http://d/x","status":"0","errmsg":null}}]}}"#
        );
        upstream.respond_with("/tcb/batchdownloadfile", answer(&file));
        let file = format!(r#""delete_list":[{{"fileid":"{id}","status":"0","errmsg":null}}]}}"#);
        upstream.respond_with("/tcb/batchdeletefile", answer(&file));
        let (gateway, _folder) = stand_in::gateway(&upstream, &[]);
        let mut client = Client::connect(gateway.address);
        client.send_request("PUT", "/v1/files/x", &[authorization()], b"x");
        client.response().stored();
        assert_eq!(upstream.seen(BUCKET).last().expect("a form").method, "POST");
        let files = json!({ "files": [id] });
        let links = client.post_json("/v1/download-links", &files).json();
        assert_eq!(links["files"][0]["url"], "http://d/x", "{envelope}: {links}");
        let deleted = client.post_json("/v1/delete", &files).json();
        assert_eq!(deleted["files"][0]["deleted"], true, "{envelope}: {deleted}");

        // The same for a refusal.
        for (refusal, errcode) in [
            (r#"{"errcode":"48001","errmsg":null}"#, 48001),
            (r#"{"errcode":85088}"#, 85088),
            (r#"{"errmsg":"no","errcode":"-501003"}"#, -501003),
        ] {
            for call in ["/tcb/uploadfile", "/tcb/batchdownloadfile", "/tcb/batchdeletefile"] {
                upstream.respond_with(call, raw(&format!("{before}{refusal}")));
            }
            client.send_request("PUT", "/v1/files/y", &[authorization()], b"y");
            assert_eq!(client.response().problem(502, "wechat_refused")["errcode"], errcode);
            for target in ["/v1/download-links", "/v1/delete"] {
                let files = json!({"files": ["cloud://env.7465-bucket-125/y"]});
                let problem = client.post_json(target, &files).problem(502, "wechat_refused");
                assert_eq!(problem["errcode"], errcode, "{refusal}");
            }
        }
    }
    // A refused token is renewed even if the errcode is a string.
    upstream.forget();
    let (gateway, _folder) = stand_in::gateway(&upstream, &[]);
    upstream
        .respond_with("/tcb/uploadfile", raw("\u{feff}{\"errcode\":\"40001\",\"errmsg\":null}"));
    let mut client = Client::connect(gateway.address);
    client.send_request("PUT", "/v1/files/x", &[authorization()], b"x");
    assert!(client.response().status >= 500);
    assert!(upstream.seen("/cgi-bin/stable_token").len() >= 2);
}
