//! The client of COS's own API over real sockets: what it sends, and what it makes of each response.

use std::io::{BufReader, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix_web::rt::System;
use futures::future::join_all;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::json;
use sha1::{Digest, Sha1};
use tcb_upload_gateway::cos::api::client::{Client, ObjectFields, ObjectInfo, pool};
use tcb_upload_gateway::cos::api::credentials::Credentials;
use tcb_upload_gateway::cos::api::endpoint::EndpointTemplate;
use tcb_upload_gateway::cos::api::file_id;
use tcb_upload_gateway::cos::api::getauth::{GetAuth, GetAuthError};
use tcb_upload_gateway::cos::api::keys::Keys;
use tcb_upload_gateway::cos::api::multipart::{Part, UploadsMarker};
use tcb_upload_gateway::cos::api::response::{ApiResponse, Stored};
use tcb_upload_gateway::cos::error::CosError;
use tcb_upload_gateway::cos::upstream::Timeouts;
use tcb_upload_gateway::net::http_client::base_url::BaseUrl;
use tcb_upload_gateway::net::http_client::call::Call;
use tcb_upload_gateway::net::http_client::{IDLE_TIMEOUT, Pool};

use crate::stand_in::{Seen, Upstream, ok, read_body};

const KEY: &str = "a/中 b+c.png";
const PATH: &str = "/a/%E4%B8%AD%20b%2Bc.png";
const FILE_ID: &str = "ab+c/d==";
const GETAUTH: &str = "/_/cos/getauth";
const ETAG: &str = "\"0123456789abcdef0123456789abcdef\"";

pub const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(5),
    write: Duration::from_secs(5),
    response: Duration::from_secs(5),
};

/// The requests that a responder has received, with their bodies.
type Requests = Arc<Mutex<Vec<Seen>>>;

/// From now on, requests whose target begins with `target` get what `respond` gives for them and for the number of
/// requests before. Each connection is used once.
fn respond(
    upstream: &Upstream,
    target: &'static str,
    respond: impl Fn(&Seen, usize) -> Vec<u8> + Send + Sync + 'static,
) -> Requests {
    let requests = Requests::default();
    let recorded = requests.clone();
    upstream.take_over(target, move |seen, mut stream| {
        let mut seen = seen.clone();
        if read_body(&mut seen, &mut stream).is_err() {
            return;
        }
        let before = {
            let mut recorded = recorded.lock().expect("the requests");
            recorded.push(seen.clone());
            recorded.len() - 1
        };
        // The client may have given up.
        let _ = stream.get_mut().write_all(&respond(&seen, before));
    });
    requests
}

fn count(requests: &Requests) -> usize {
    requests.lock().expect("the requests").len()
}

fn response(status: u16, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let fields: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    format!(
        "HTTP/1.1 {status} X\r\n{fields}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn error_document(code: &str, message: &str) -> String {
    format!(
        "<?xml version='1.0'?>\n<Error>\n<Code>{code}</Code>\n<Message>{message}</Message></Error>"
    )
}

pub fn connections(timeouts: Timeouts) -> Rc<Pool> {
    let tls = tcb_upload_gateway::net::tls::client().expect("a TLS configuration");
    pool(tls, timeouts)
}

fn client_with(upstream: &Upstream, keys: Keys, timeouts: Timeouts) -> Client {
    client_at(upstream.address, keys, timeouts)
}

/// A client of the bucket that this address stands for.
pub fn client_at(address: SocketAddr, keys: Keys, timeouts: Timeouts) -> Client {
    let template = EndpointTemplate::parse(&format!("http://{address}"), true);
    let bucket = template.expect("a template").resolve(None, None).expect("an endpoint");
    Client::new(connections(timeouts), keys, bucket, timeouts)
}

/// Sends a request whose body would be streamed.
pub async fn send_content(client: &Client, head: &str, content: &[u8]) -> Result<Stored, CosError> {
    let request = [head.as_bytes(), content].concat().into();
    let endpoint = client.origin();
    let call =
        Call { endpoint, request, is_head: false, max_idle: IDLE_TIMEOUT, is_repeatable: true };
    let (response, headers) = call.send(client.pool()).await.expect("a response");
    let (status, body) = (response.status, response.body);
    ApiResponse { status, headers, body, is_sent: true }.stored()
}

fn static_keys() -> Keys {
    let credentials = Credentials::new("AKID", "secret/key", Some("token/+=")).expect("keys");
    Keys::Static(Arc::new(credentials))
}

fn client(upstream: &Upstream) -> Client {
    client_with(upstream, static_keys(), TIMEOUTS)
}

fn getauth(upstream: &Upstream, timeout: Duration) -> GetAuth {
    let url = format!("http://{}{GETAUTH}", upstream.address);
    GetAuth::new(BaseUrl::parse(&url).expect("a URL"), timeout)
}

/// The keys with this number, valid for `life` seconds.
fn issued(number: usize, life: u64) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
    let body = json!({
        "TmpSecretId": format!("AKID{number}"),
        "TmpSecretKey": format!("secret{number}"),
        "Token": format!("token{number}"),
        "ExpiredTime": now + life,
    });
    response(200, &[], &body.to_string())
}

fn hmac_hex(key: &str, text: &str) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(key.as_bytes()).expect("any key");
    mac.update(text.as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

/// Verifies a request's signature from what was received, as doc 7778 describes it, and that all of `headers` and
/// every parameter are signed.
fn assert_signed(seen: &Seen, secret_key: &str, headers: &[&str]) {
    const UNRESERVED: &percent_encoding::AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().expect("UTF-8").into_owned();
    let encoded = |text: &str| utf8_percent_encode(text, UNRESERVED).to_string();
    let authorization = seen.header("authorization").expect("a signature");
    let field = |name: &str| {
        let mut fields = authorization.split('&').filter_map(|field| field.split_once('='));
        fields.find(|(known, _)| *known == name).expect(name).1
    };
    let list = |name: &str| -> Vec<&str> {
        field(name).split(';').filter(|entry| !entry.is_empty()).collect()
    };
    let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
    let mut parameters: Vec<(String, String)> = query
        .split('&')
        .filter(|parameter| !parameter.is_empty())
        .map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
        .map(|(name, value)| {
            (encoded(&decoded(name)).to_ascii_lowercase(), encoded(&decoded(value)))
        })
        .collect();
    parameters.sort();
    let names: Vec<_> = parameters.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(list("q-url-param-list"), names, "{}", seen.target);
    assert_eq!(list("q-header-list"), headers, "{}", seen.target);
    let joined = |pairs: &[(String, String)]| {
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("&")
    };
    let signed: Vec<_> = headers
        .iter()
        .map(|name| ((*name).to_owned(), encoded(seen.header(name).expect(name))))
        .collect();
    let http_string = format!(
        "{}\n{}\n{}\n{}\n",
        seen.method.to_ascii_lowercase(),
        decoded(path),
        joined(&parameters),
        joined(&signed)
    );
    let (key_time, sign_time) = (field("q-key-time"), field("q-sign-time"));
    let text =
        format!("sha1\n{sign_time}\n{}\n", hex::encode(Sha1::digest(http_string.as_bytes())));
    let expected = hmac_hex(&hmac_hex(secret_key, key_time), &text);
    assert_eq!(field("q-signature"), expected, "{} {}", seen.method, seen.target);
    let (from, until) = sign_time.split_once(';').expect("two times");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
    let (from, until): (u64, u64) = (from.parse().expect("a time"), until.parse().expect("a time"));
    assert!(from + 60 < now && now + 15 * 60 < until, "{sign_time} at {now}");
}

#[test]
fn every_call_is_signed_and_understood() {
    let upstream = Upstream::start();
    let uploads = "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>a/x</NextKeyMarker>\
                   <NextUploadIdMarker>u/9</NextUploadIdMarker><Upload><Key>a/x</Key><UploadId>u/9</UploadId>\
                   <Initiated>2026-11-29T12:00:00.000Z</Initiated></Upload></ListMultipartUploadsResult>";
    let listed = respond(&upstream, "/?uploads", move |_, _| response(200, &[], uploads));
    let requests = respond(&upstream, PATH, |seen, _| {
        let query = seen.target.split_once('?').map_or("", |(_, query)| query);
        let crc = ("x-cos-hash-crc64ecma", "42");
        match (seen.method.as_str(), query) {
            ("POST", "uploads=") => response(
                200,
                &[],
                "<InitiateMultipartUploadResult><UploadId>u/1</UploadId></InitiateMultipartUploadResult>",
            ),
            ("POST", _) => response(
                200,
                &[crc],
                "<CompleteMultipartUploadResult><ETag>&quot;x-2&quot;</ETag></CompleteMultipartUploadResult>",
            ),
            ("PUT", _) => response(200, &[("ETag", ETAG), crc], ""),
            ("GET", _) => response(
                200,
                &[],
                &format!(
                    "<ListPartsResult><IsTruncated>false</IsTruncated><Part><PartNumber>1</PartNumber>\
                     <ETag>{ETAG}</ETag><Size>5</Size></Part></ListPartsResult>"
                ),
            ),
            ("HEAD", _) => b"HTTP/1.1 200 OK\r\nETag: \"x-2\"\r\nContent-Length: 10485760\r\n\
                             Content-Type: image/png\r\nx-cos-hash-crc64ecma: 42\r\n\
                             Last-Modified: Sun, 29 Nov 2026 12:00:00 GMT\r\n\
                             x-cos-meta-fileid: ab+c/d==\r\nConnection: close\r\n\r\n"
                .to_vec(),
            _ => response(204, &[], ""),
        }
    });
    System::new().block_on(async {
        let client = client(&upstream);
        let fields = ObjectFields {
            content_type: Some("image/png"),
            file_id: Some(FILE_ID),
            ..ObjectFields::default()
        };
        let upload_id = client.initiate(KEY, fields).await.expect("an upload");
        assert_eq!(upload_id, "u/1");

        let credentials = client.credentials().await.expect("keys");
        let stored = |etag: &str| Stored { etag: etag.to_owned(), crc64: Some("42".to_owned()) };
        for head in [
            client.part_head(&credentials, KEY, &upload_id, 1, 5),
            client.put_head(&credentials, KEY, fields, 5),
        ] {
            let verdict = send_content(&client, &head.expect("a head"), b"bytes").await;
            assert_eq!(verdict.expect("stored"), stored(ETAG));
        }

        let parts = client.list_all_parts(KEY, &upload_id).await.expect("parts");
        assert_eq!(parts, [Part { number: 1, size: 5, etag: ETAG.to_owned() }]);
        let numbers = parts.iter().map(|part| (part.number, part.etag.as_str()));
        let completed = client.complete(KEY, &upload_id, numbers).await.expect("an object");
        assert_eq!(completed, stored("\"x-2\""));
        let info = ObjectInfo {
            size: 10_485_760,
            etag: Some("\"x-2\"".to_owned()),
            crc64: Some("42".to_owned()),
            content_type: Some("image/png".to_owned()),
            last_modified: Some("Sun, 29 Nov 2026 12:00:00 GMT".to_owned()),
            file_id: Some(FILE_ID.to_owned()),
            metadata: Vec::new(),
        };
        assert_eq!(client.head(KEY).await.expect("an object"), Some(info));
        client.abort(KEY, &upload_id).await.expect("aborted");
        client.delete(KEY).await.expect("deleted");

        let marker = UploadsMarker { key: "a/w".to_owned(), upload_id: "u/8".to_owned() };
        let page = client.list_uploads("a/ü", Some(&marker)).await.expect("uploads");
        assert_eq!(
            (page.uploads[0].key.as_str(), page.uploads[0].upload_id.as_str()),
            ("a/x", "u/9")
        );
        let next = UploadsMarker { key: "a/x".to_owned(), upload_id: "u/9".to_owned() };
        assert_eq!(page.next, Some(next));
    });

    let requests = requests.lock().expect("the requests");
    let targets: Vec<_> = requests
        .iter()
        .map(|seen| (seen.method.as_str(), seen.target.strip_prefix(PATH).expect("the path")))
        .collect();
    assert_eq!(
        targets,
        [
            ("POST", "?uploads="),
            ("PUT", "?partNumber=1&uploadId=u%2F1"),
            ("PUT", ""),
            ("GET", "?uploadId=u%2F1&max-parts=1000&part-number-marker=0"),
            ("POST", "?uploadId=u%2F1"),
            ("HEAD", ""),
            ("DELETE", "?uploadId=u%2F1"),
            ("DELETE", ""),
        ]
    );
    let token = "x-cos-security-token";
    let with_file_id = &["content-length", "content-type", "host", "x-cos-meta-fileid", token][..];
    let signed: [&[&str]; 8] = [
        with_file_id,
        &["content-length", "host", token],
        with_file_id,
        &["host", token],
        &["content-length", "content-type", "host", token],
        &["host", token],
        &["host", token],
        &["host", token],
    ];
    for (seen, headers) in requests.iter().zip(signed) {
        assert_signed(seen, "secret/key", headers);
        assert_eq!(seen.header(token), Some("token/+="));
        assert_eq!(seen.header("host"), Some(upstream.address.to_string().as_str()));
    }
    for seen in [&requests[0], &requests[2]] {
        assert_eq!(seen.header("x-cos-meta-fileid"), Some(FILE_ID));
        assert_eq!(seen.header("content-type"), Some("image/png"));
    }
    assert_eq!(requests[1].body, b"bytes");
    assert_eq!(
        String::from_utf8_lossy(&requests[4].body),
        format!(
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{ETAG}</ETag></Part>\
             </CompleteMultipartUpload>"
        )
    );
    let listed = listed.lock().expect("the requests");
    let expected =
        "/?uploads=&max-uploads=1000&prefix=a%2F%C3%BC&key-marker=a%2Fw&upload-id-marker=u%2F8";
    assert_eq!(listed[0].target, expected);
    assert_signed(&listed[0], "secret/key", &["host", token]);
}

#[test]
fn pages_are_read_to_the_last() {
    let upstream = Upstream::start();
    let requests = respond(&upstream, PATH, |seen, _| {
        let (_, after) = seen.target.split_once("part-number-marker=").expect("a marker");
        let after: u32 = after.parse().expect("a number");
        let part = |number: u32| {
            format!("<Part><PartNumber>{number}</PartNumber><ETag>e</ETag><Size>1</Size></Part>")
        };
        let parts: String = (after + 1..=after + 1000).map(part).collect();
        let is_truncated = after < 9000;
        let document = format!(
            "<ListPartsResult><IsTruncated>{is_truncated}</IsTruncated>{parts}</ListPartsResult>"
        );
        response(200, &[], &document)
    });
    System::new().block_on(async {
        let parts = client(&upstream).list_all_parts(KEY, "u").await.expect("parts");
        assert_eq!(parts.len(), 10_000);
        assert!(parts.iter().zip(1..).all(|(part, number)| part.number == number));
    });
    assert_eq!(count(&requests), 10);
}

#[test]
fn a_refusal_is_never_a_success() {
    let upstream = Upstream::start();
    let status = Arc::new(AtomicUsize::new(0));
    let told = status.clone();
    let _requests = respond(&upstream, PATH, move |seen, _| {
        let document = error_document("InternalError", "a &lt;b&gt;");
        let body = if seen.method == "HEAD" { "" } else { &document };
        let status = told.load(Ordering::Relaxed) as u16;
        response(status, &[("ETag", ETAG), ("x-cos-request-id", "r1")], body)
    });
    System::new().block_on(async {
        let client = client(&upstream);
        let refused = |error: Option<CosError>, status: u16, what: &str| match error {
            Some(CosError::Refused { status: told, code, message, request_id }) => {
                assert_eq!(told, status, "{what}");
                assert_eq!(request_id.as_deref(), Some("r1"), "{what}");
                if what != "head" {
                    assert_eq!((code.as_str(), message.as_str()), ("InternalError", "a <b>"));
                }
            }
            other => panic!("{what}: {other:?}"),
        };
        // With 200 the document alone is the refusal.
        for of in [200, 400, 403, 500, 503] {
            status.store(of.into(), Ordering::Relaxed);
            let fields = ObjectFields::default();
            refused(client.initiate(KEY, fields).await.err(), of, "initiate");
            refused(client.complete(KEY, "u", [(1, ETAG)]).await.err(), of, "complete");
            refused(client.list_parts(KEY, "u", 0).await.err(), of, "list");
            refused(client.abort(KEY, "u").await.err(), of, "abort");
            refused(client.delete(KEY).await.err(), of, "delete");
            if of != 200 {
                refused(client.head(KEY).await.err(), of, "head");
            }
        }
    });
}

#[test]
fn what_is_gone_already_needs_no_call() {
    let upstream = Upstream::start();
    let _requests = respond(&upstream, PATH, |seen, _| {
        let code = if seen.target.contains("uploadId") { "NoSuchUpload" } else { "NoSuchKey" };
        let document = error_document(code, "x");
        response(404, &[], if seen.method == "HEAD" { "" } else { &document })
    });
    System::new().block_on(async {
        let client = client(&upstream);
        client.abort(KEY, "u").await.expect("aborted");
        client.delete(KEY).await.expect("deleted");
        assert_eq!(client.head(KEY).await.expect("an answer"), None);
        let refused = |error| matches!(error, Some(CosError::Refused { status: 404, .. }));
        assert!(refused(client.complete(KEY, "u", [(1, ETAG)]).await.err()));
        assert!(refused(client.list_all_parts(KEY, "u").await.err()));
    });
}

#[test]
fn a_response_that_is_no_verdict_is_no_success() {
    let upstream = Upstream::start();
    let long = format!("<R>{}</R>", " ".repeat(1024 * 1024));
    let cut =
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n<CompleteMultipartUploadResult>".to_vec();
    for body in [
        response(200, &[], ""),
        response(200, &[], "<html></html>"),
        response(200, &[], "<CompleteMultipartUploadResult><ETag>x"),
        response(200, &[], &long),
        cut,
    ] {
        let _requests = respond(&upstream, PATH, move |_, _| body.clone());
        System::new().block_on(async {
            let client = client(&upstream);
            let no_verdict = |error| matches!(error, Some(CosError::NoVerdict(_)));
            assert!(no_verdict(client.initiate(KEY, ObjectFields::default()).await.err()));
            assert!(no_verdict(client.complete(KEY, "u", [(1, ETAG)]).await.err()));
            assert!(no_verdict(client.list_parts(KEY, "u", 0).await.err()));
        });
    }
}

#[test]
fn a_response_to_head_leaves_the_connection_usable() {
    let upstream = Upstream::start();
    let head = "HTTP/1.1 200 OK\r\nETag: x\r\nContent-Length: 5000\r\n\r\n";
    upstream.respond_with("/h", head);
    upstream.respond_with("/d", "HTTP/1.1 204 None\r\n\r\n");
    System::new().block_on(async {
        let client = client(&upstream);
        for _ in 0..3 {
            assert_eq!(client.head("h").await.expect("an object").expect("one").size, 5000);
            client.delete("d").await.expect("deleted");
        }
    });
    let connections: Vec<_> = upstream.seen("/").iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0; 6]);
}

/// A connection that was idle is closed when the next request comes: only a call that may be received twice is sent
/// again.
#[test]
fn only_repeatable_calls_are_repeated() {
    let upstream = Upstream::start();
    upstream.respond_with("/warm", "HTTP/1.1 204 None\r\n\r\n");
    let close = |_: &Seen, _: BufReader<std::net::TcpStream>| {};
    upstream.take_over("/x", close);
    System::new().block_on(async {
        let client = client(&upstream);
        let mut attempts = Vec::new();
        for call in 0..5 {
            client.delete("warm").await.expect("deleted");
            upstream.forget();
            let error = match call {
                0 => client.initiate("x", ObjectFields::default()).await.err(),
                1 => client.complete("x", "u", [(1, ETAG)]).await.err(),
                2 => client.delete("x").await.err(),
                3 => client.abort("x", "u").await.err(),
                _ => client.list_parts("x", "u", 0).await.err(),
            };
            assert!(matches!(error, Some(CosError::Unreachable(_))), "{error:?}");
            attempts.push(upstream.seen("/x").len());
        }
        assert_eq!(attempts, [1, 1, 2, 2, 2]);
    });
}

#[test]
fn a_call_without_a_response_ends_in_time() {
    let upstream = Upstream::start();
    upstream.take_over("/", |_, mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let limit = Duration::from_millis(100);
    let timeouts = Timeouts { connect: limit, write: limit, response: limit };
    System::new().block_on(async {
        let client = client_with(&upstream, static_keys(), timeouts);
        let timed_out = |error| matches!(error, Some(CosError::Timeout { .. }));
        let began = Instant::now();
        assert!(timed_out(client.initiate(KEY, ObjectFields::default()).await.err()));
        assert!(timed_out(client.delete(KEY).await.err()));
        assert!(timed_out(client.head(KEY).await.err()));
        assert!(began.elapsed() < Duration::from_secs(3));
        // COS may take longer to put the parts together.
        let began = Instant::now();
        assert!(timed_out(client.complete(KEY, "u", [(1, ETAG)]).await.err()));
        assert!((limit * 5..limit * 30).contains(&began.elapsed()));
    });
}

#[test]
fn temporary_keys_are_fetched_once_for_all_workers() {
    let upstream = Upstream::start();
    let fetches = respond(&upstream, GETAUTH, |_, before| issued(before, 7200));
    let getauth = getauth(&upstream, Duration::from_secs(5));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                System::new().block_on(async {
                    let pool = connections(TIMEOUTS);
                    let gets = (0..20).map(|_| getauth.get(&pool));
                    for credentials in join_all(gets).await {
                        assert_eq!(credentials.expect("keys").secret_id, "AKID0");
                    }
                });
            });
        }
    });
    assert_eq!(count(&fetches), 1);
    let fetches = fetches.lock().expect("the requests");
    assert_eq!((fetches[0].method.as_str(), fetches[0].target.as_str()), ("GET", GETAUTH));
}

#[test]
fn keys_in_use_are_renewed_before_they_expire() {
    let upstream = Upstream::start();
    // The renewal fails at first; nothing waits for it, and the old keys are used on.
    let fetches = respond(&upstream, GETAUTH, |_, before| match before {
        1 => response(502, &[], ""),
        before => issued(before, 6),
    });
    System::new().block_on(async {
        let pool = connections(TIMEOUTS);
        let getauth = getauth(&upstream, Duration::from_secs(5));
        let began = Instant::now();
        let mut slowest = Duration::ZERO;
        let first = getauth.get(&pool).await.expect("keys");
        loop {
            let asked = Instant::now();
            let credentials = getauth.get(&pool).await.expect("keys");
            slowest = slowest.max(asked.elapsed());
            if !Arc::ptr_eq(&first, &credentials) {
                assert_eq!(credentials.secret_id, "AKID2");
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(6), "they were not renewed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    });
    assert_eq!(count(&fetches), 3);
}

/// A bucket that accepts only these keys.
fn bucket_of(upstream: &Upstream, accepted: &'static str, refusal: &'static str) -> Requests {
    respond(upstream, PATH, move |seen, _| {
        if seen.header("x-cos-security-token") == Some(accepted) {
            return match seen.method.as_str() {
                "DELETE" => response(204, &[], ""),
                _ => response(
                    200,
                    &[],
                    "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>",
                ),
            };
        }
        let (code, message) = refusal.split_once(": ").expect("a code");
        let headers = [("x-cos-error-code", code), ("x-cos-error-message", message)];
        match seen.method.as_str() {
            "HEAD" => response(403, &headers, ""),
            _ => response(403, &[], &error_document(code, message)),
        }
    })
}

#[test]
fn keys_that_cos_refuses_are_replaced_once() {
    for refusal in ["ExpiredToken: x", "InvalidAccessKeyId: x", "AccessDenied: Request has expired"]
    {
        let upstream = Upstream::start();
        let fetches = respond(&upstream, GETAUTH, |_, before| issued(before, 7200));
        let requests = bucket_of(&upstream, "token1", refusal);
        System::new().block_on(async {
            let getauth = getauth(&upstream, Duration::from_secs(5));
            let client = client_with(&upstream, Keys::GetAuth(getauth), TIMEOUTS);
            // All of these are refused with the first keys; the second ones are fetched once.
            client.credentials().await.expect("keys");
            let deletes = join_all((0..8).map(|_| client.delete(KEY))).await;
            deletes.into_iter().for_each(|deleted| deleted.expect("deleted"));
            client.initiate(KEY, ObjectFields::default()).await.expect("an upload");
        });
        assert_eq!(count(&fetches), 2, "{refusal}");
        assert!((10..=17).contains(&count(&requests)), "{refusal}");

        // A refusal of HEAD says so in its headers.
        let requests = bucket_of(&upstream, "token1", refusal);
        let fetches = respond(&upstream, GETAUTH, |_, before| issued(before, 7200));
        System::new().block_on(async {
            let getauth = getauth(&upstream, Duration::from_secs(5));
            let client = client_with(&upstream, Keys::GetAuth(getauth), TIMEOUTS);
            assert!(client.head(KEY).await.expect("a response").is_some());
        });
        assert_eq!((count(&fetches), count(&requests)), (2, 2), "{refusal}");
    }
}

#[test]
fn other_refusals_and_keys_of_the_settings_are_final() {
    for refusal in ["AccessDenied: Access Denied.", "SignatureDoesNotMatch: x", "NoSuchBucket: x"] {
        let upstream = Upstream::start();
        let fetches = respond(&upstream, GETAUTH, |_, before| issued(before, 7200));
        let requests = bucket_of(&upstream, "none", refusal);
        System::new().block_on(async {
            let getauth = getauth(&upstream, Duration::from_secs(5));
            let client = client_with(&upstream, Keys::GetAuth(getauth), TIMEOUTS);
            let refused = client.delete(KEY).await;
            assert!(matches!(refused, Err(CosError::Refused { status: 403, .. })), "{refused:?}");
        });
        assert_eq!((count(&fetches), count(&requests)), (1, 1), "{refusal}");
    }
    for refusal in ["ExpiredToken: x", "InvalidAccessKeyId: x", "AccessDenied: expired"] {
        let upstream = Upstream::start();
        let requests = bucket_of(&upstream, "none", refusal);
        System::new().block_on(async {
            let refused = client(&upstream).delete(KEY).await;
            assert!(matches!(refused, Err(CosError::Refused { status: 403, .. })), "{refused:?}");
        });
        assert_eq!(count(&requests), 1, "{refusal}");
    }
}

/// `getauth` gives the refused keys again: nothing is gained by asking at once, or by sending them again.
#[test]
fn refused_keys_are_not_taken_again() {
    let upstream = Upstream::start();
    let fetches = respond(&upstream, GETAUTH, |_, _| issued(0, 7200));
    let requests = bucket_of(&upstream, "none", "ExpiredToken: x");
    System::new().block_on(async {
        let getauth = getauth(&upstream, Duration::from_secs(5));
        let client = client_with(&upstream, Keys::GetAuth(getauth), TIMEOUTS);
        for _ in 0..5 {
            let refused = client.delete(KEY).await;
            assert!(
                matches!(&refused, Err(CosError::Keys { cause: GetAuthError::Unusable(_), retry_after })
                    if !retry_after.is_zero()),
                "{refused:?}"
            );
        }
    });
    assert_eq!((count(&fetches), count(&requests)), (2, 1));
}

#[test]
fn a_failed_fetch_is_backed_off_and_told() {
    type IsTold = fn(&GetAuthError) -> bool;
    let refusal = r#"{"errcode":41001,"errmsg":"access_token missing rid: 1"}"#;
    let cases: [(Vec<u8>, IsTold); 5] = [
        (response(502, &[], "<html>"), |error| matches!(error, GetAuthError::Status(502))),
        (response(200, &[], refusal), |error| {
            matches!(error, GetAuthError::Refused { errcode: 41001, .. })
        }),
        (response(200, &[], "<html>"), |error| matches!(error, GetAuthError::Unusable(_))),
        (b"".to_vec(), |error| matches!(error, GetAuthError::Unreachable(_))),
        (issued(0, 0), |error| matches!(error, GetAuthError::Unusable(_))),
    ];
    for (failure, is_told) in cases {
        let upstream = Upstream::start();
        let fetches = respond(&upstream, GETAUTH, move |_, before| match before {
            0 => failure.clone(),
            _ => issued(1, 7200),
        });
        System::new().block_on(async {
            let pool = connections(TIMEOUTS);
            let getauth = getauth(&upstream, Duration::from_secs(5));
            let all = join_all((0..5).map(|_| getauth.get(&pool))).await;
            for result in all {
                assert!(result.is_err_and(|error| is_told(&error)));
            }
            assert!(getauth.get(&pool).await.is_err_and(|error| is_told(&error)));
            assert_eq!(count(&fetches), 1);
            // The pause is short after a first failure.
            let began = Instant::now();
            while getauth.get(&pool).await.is_err() {
                assert!(began.elapsed() < Duration::from_secs(5));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert_eq!(count(&fetches), 2);
    }
}

#[test]
fn a_fetch_without_a_response_ends_in_time() {
    let upstream = Upstream::start();
    upstream.take_over(GETAUTH, |_, mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    System::new().block_on(async {
        let getauth = getauth(&upstream, Duration::from_millis(100));
        let error = getauth.get(&connections(TIMEOUTS)).await.err();
        assert!(matches!(error, Some(GetAuthError::Timeout(_))), "{error:?}");
    });
}

#[test]
fn a_file_id_is_fetched_for_a_path() {
    const METAID: &str = "/_/cos/metaid/encode";
    let upstream = Upstream::start();
    let id = json!({"errcode": 0, "respdata": {"x_cos_meta_field_strs": [FILE_ID]}});
    let requests = respond(&upstream, METAID, move |_, before| match before {
        0 => ok(&id),
        1 => ok(&json!({"errcode": 41001, "errmsg": "x"})),
        2 => response(502, &[], ""),
        _ => ok(&json!({"errcode": 0, "respdata": {"x_cos_meta_field_strs": ["a\r\nx: y"]}})),
    });
    let url = BaseUrl::parse(&format!("http://{}{METAID}", upstream.address)).expect("a URL");
    System::new().block_on(async {
        let pool = connections(TIMEOUTS);
        let limit = Duration::from_secs(5);
        let fetch = || file_id::fetch(&pool, &url, limit, "7465-bucket-125", KEY);
        assert_eq!(fetch().await.expect("an id"), FILE_ID);
        assert!(matches!(fetch().await, Err(CosError::Unreachable(_))));
        assert!(matches!(fetch().await, Err(CosError::Unreachable(_))));
        assert!(matches!(fetch().await, Err(CosError::Link(_))));
    });
    let requests = requests.lock().expect("the requests");
    assert_eq!((requests[0].method.as_str(), requests[0].target.as_str()), ("POST", METAID));
    let paths = [format!("/{KEY}")];
    assert_eq!(
        requests[0].json(),
        json!({"openid": "", "bucket": "7465-bucket-125", "paths": paths})
    );
}
