//! Resumable uploads of phones: the requests of TUSKit 3.8 (iOS) and of tus-java-client 0.5.1 below tus-android-client, as
//! their sources send them, and what each does about a failure.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::harness::{Client, KEY, Response, Setup, World, noise, wait_until};

const MIB: usize = 1 << 20;

fn setup() -> Setup {
    Setup::new().by_api().set("cos.api.abort_after", "0s")
}

fn metadata(pairs: &[(&str, &str)]) -> String {
    let pair = |(name, value): &(&str, &str)| format!("{name} {}", STANDARD.encode(value));
    pairs.iter().map(pair).collect::<Vec<_>>().join(",")
}

fn path_of(response: &Response) -> String {
    let location = response.header("location").expect("a Location");
    location[location.find("/v1/uploads/").expect("the path")..].to_owned()
}

fn offset_of(response: &Response) -> Option<usize> {
    response.header("upload-offset")?.parse().ok()
}

fn assert_stored(world: &World, key: &str, content: &[u8]) {
    assert!(world.object(key) == content, "{key} has other bytes");
    wait_until("helper objects are deleted", || world.objects().len() == 1);
    assert!(world.multipart_uploads().is_empty());
}

/// What becomes of a request's body on its way.
#[derive(Clone, Copy, PartialEq)]
enum Network {
    Good,
    /// The connection is reset after so many bytes of the body.
    ResetAfter(usize),
}

/// TUSKit's `Uploader`: chunks of 500 KiB, and two retries of the same request whatever the failure is.
struct TusKit<'a> {
    world: &'a World,
    content: &'a [u8],
    url: Option<String>,
    /// The statuses of its requests; 0 where there was no response.
    statuses: Vec<u16>,
}

impl<'a> TusKit<'a> {
    const CHUNK: usize = 500 * 1024;
    const RETRIES: usize = 2;

    fn new(world: &'a World, content: &'a [u8]) -> Self {
        Self { world, content, url: None, statuses: Vec::new() }
    }

    fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        network: Network,
    ) -> Option<Response> {
        let authorization = format!("Bearer {KEY}");
        let length = body.len().to_string();
        // URLSession's own, then TUSKit's.
        let mut all = vec![
            ("Accept", "*/*"),
            ("Accept-Encoding", "gzip, deflate, br"),
            ("Accept-Language", "zh-CN,zh-Hans;q=0.9"),
            ("User-Agent", "Example/1 CFNetwork/1494.0.7 Darwin/23.4.0"),
            ("Connection", "keep-alive"),
            ("TUS-Resumable", "1.0.0"),
            ("Authorization", &authorization),
        ];
        if method != "HEAD" {
            all.push(("Content-Length", &length));
        }
        all.extend(headers);
        let mut client = self.world.client();
        client.send_head(method, target, &all);
        let response = match network {
            Network::Good => client.try_send(body).and_then(|()| receive(&mut client, method)),
            Network::ResetAfter(bytes) => {
                client.send(&body[..bytes]);
                client.finish();
                let _ = client.try_response();
                client.reset();
                Err(io::Error::from(io::ErrorKind::ConnectionReset))
            }
        };
        let response = response.ok();
        self.statuses.push(response.as_ref().map_or(0, |response| response.status));
        response
    }

    fn create(&mut self) -> bool {
        let length = self.content.len().to_string();
        // A dictionary, whose order changes; `context` is in it.
        let pairs = [("filetype", "video/mp4"), ("path", "tuskit.mp4"), ("filename", "a.mp4")];
        let metadata = metadata(&pairs);
        let headers = [("Upload-Length", length.as_str()), ("Upload-Metadata", &metadata)];
        let response = self.request("POST", "/v1/uploads", &headers, b"", Network::Good);
        self.url = response.filter(|response| response.status / 100 == 2).map(|it| path_of(&it));
        self.url.is_some()
    }

    /// `TUSClient.uploadFileAt`. The network is bad for the first attempt of the chunk at `bad.0`.
    fn upload(&mut self, bad: Option<(usize, Network)>) -> bool {
        (0..=Self::RETRIES).any(|_| self.create()) && self.send(0, bad)
    }

    /// `TUSClient.retry(id:)`: asks for the offset, and goes on.
    fn retry(&mut self) -> bool {
        let url = self.url.clone().expect("it was created");
        let offset = (0..=Self::RETRIES).find_map(|_| {
            let response = self.request("HEAD", &url, &[], b"", Network::Good)?;
            let length = response.header("upload-length")?.parse().ok();
            (response.status / 100 == 2 && length == Some(self.content.len()))
                .then_some(offset_of(&response)?)
        });
        offset.is_some_and(|offset| offset == self.content.len() || self.send(offset, None))
    }

    /// Chunk after chunk. It reads `Upload-Offset` and not the status.
    fn send(&mut self, mut offset: usize, mut bad: Option<(usize, Network)>) -> bool {
        let url = self.url.clone().expect("it was created");
        let mut failures = 0;
        while offset < self.content.len() {
            let end = (offset + Self::CHUNK).min(self.content.len());
            let at = offset.to_string();
            let headers =
                [("Content-Type", "application/offset+octet-stream"), ("Upload-Offset", &at)];
            let network = bad.take_if(|(bad, _)| (offset..end).contains(bad));
            let network = network.map_or(Network::Good, |(_, network)| network);
            let body = &self.content[offset..end];
            let response = self.request("PATCH", &url, &headers, body, network);
            match response.as_ref().and_then(offset_of) {
                Some(stored) if stored != offset => offset = stored,
                _ if failures < Self::RETRIES => failures += 1,
                _ => return false,
            }
        }
        true
    }
}

fn receive(client: &mut Client, method: &str) -> io::Result<Response> {
    if method == "HEAD" {
        let (status, headers) = client.response_head()?;
        return Ok(Response { status, headers, body: Vec::new() });
    }
    client.try_response()
}

#[test]
fn tuskit_uploads_in_chunks() {
    let world = setup().start();
    for length in [1, TusKit::CHUNK, 3 * TusKit::CHUNK, 5 * MIB + 3] {
        let content = noise(length, 1);
        let mut app = TusKit::new(&world, &content);
        assert!(app.upload(None), "{length}: {:?}", app.statuses);
        assert_eq!(app.statuses.len(), 1 + length.div_ceil(TusKit::CHUNK), "{:?}", app.statuses);
        assert_stored(&world, "tuskit.mp4", &content);
        world.control("POST", "reset", "");
    }
}

/// What arrived of a chunk is stored, so the same chunk does not fit any more.
#[test]
fn tuskit_continues_by_its_retry_after_a_chunk_was_interrupted() {
    for bytes in [0, 1, 300_000] {
        let world = setup().start();
        let content = noise(2 * MIB + 7, 1);
        let mut app = TusKit::new(&world, &content);
        let bad = (TusKit::CHUNK, Network::ResetAfter(bytes));
        if bytes == 0 {
            assert!(app.upload(Some(bad)), "{:?}", app.statuses);
        } else {
            assert!(!app.upload(Some(bad)), "{:?}", app.statuses);
            assert_eq!(app.statuses, [201, 204, 0, 409, 409]);
            assert!(world.objects().iter().all(|object| object["key"] != "tuskit.mp4"));
            assert!(app.retry(), "{:?}", app.statuses);
        }
        assert_stored(&world, "tuskit.mp4", &content);
        assert_eq!(app.statuses.iter().filter(|status| **status == 201).count(), 1);
    }
}

#[test]
fn tuskit_takes_no_failure_for_a_success() {
    let content = noise(MIB + 7, 1);
    // The last chunk fails, and its bytes may be stored all the same.
    for (status, code, times) in
        [(500, "InternalError", 1), (503, "SlowDown", 2), (403, "AccessDenied", 2)]
    {
        let world = setup().start();
        world.faults(&json!([
            {"stage": "complete", "fault": "status", "status": status, "code": code, "times": times}
        ]));
        let mut app = TusKit::new(&world, &content);
        let is_done = app.upload(None) || app.retry();
        assert!(is_done, "{code}: {:?}", app.statuses);
        assert_stored(&world, "tuskit.mp4", &content);
    }
    // For good.
    let world = setup().start();
    let mut app = TusKit::new(&world, &content);
    assert!(app.create());
    let url = app.url.clone().expect("it was created");
    let deletion = app.request("DELETE", &url, &[], b"", Network::Good).expect("a response");
    assert_eq!(deletion.status, 204);
    assert!(!app.send(0, None));
    assert!(!app.retry());
    assert_eq!(app.statuses, [201, 204, 404, 404, 404, 404, 404, 404]);
    assert!(world.objects().is_empty(), "{:?}", world.objects());
}

/// tus-java-client: requests of 10 MiB in chunked encoding that wait for `100 Continue`; `TusExecutor` tries again after
/// exceptions of the connection, 5xx and 423.
struct TusJava<'a> {
    world: &'a World,
    content: &'a [u8],
    /// The JDK's client has no PATCH; that of Android has.
    has_patch: bool,
    /// Where resuming is enabled, it is in the preferences.
    url: Option<String>,
    statuses: Vec<u16>,
}

#[derive(Debug, PartialEq)]
enum Failure {
    /// `IOException`
    Connection,
    /// `ProtocolException`
    Status(u16),
}

impl Failure {
    fn is_retried(&self) -> bool {
        match self {
            Self::Connection => true,
            Self::Status(status) => status / 100 == 5 || *status == 423,
        }
    }
}

impl<'a> TusJava<'a> {
    const PAYLOAD: usize = 10 * MIB;
    const BUFFER: usize = 2 * MIB;
    /// `TusExecutor`'s delays: 0.5, 1, 2 and 3 s, without the waiting.
    const RETRIES: usize = 4;

    fn new(world: &'a World, content: &'a [u8], has_patch: bool) -> Self {
        Self { world, content, has_patch, url: None, statuses: Vec::new() }
    }

    fn headers<'h>(&self, authorization: &'h str) -> Vec<(&'h str, &'h str)> {
        vec![
            ("Tus-Resumable", "1.0.0"),
            ("Authorization", authorization),
            ("User-Agent", "Dalvik/2.1.0 (Linux; U; Android 14; Pixel 8 Build/UD1A)"),
            ("Connection", "Keep-Alive"),
            ("Accept-Encoding", "gzip"),
        ]
    }

    fn checked(&mut self, response: io::Result<Response>) -> Result<Response, Failure> {
        let response = response.map_err(|_| Failure::Connection);
        self.statuses.push(response.as_ref().map_or(0, |response| response.status));
        let response = response?;
        match response.status / 100 {
            2 => Ok(response),
            _ => Err(Failure::Status(response.status)),
        }
    }

    fn call(
        &mut self,
        method: &str,
        target: &str,
        more: &[(&str, &str)],
    ) -> Result<Response, Failure> {
        let authorization = format!("Bearer {KEY}");
        let mut client = self.world.client();
        client.send_head(method, target, &[self.headers(&authorization), more.to_vec()].concat());
        let response = receive(&mut client, method);
        self.checked(response)
    }

    fn create(&mut self) -> Result<(), Failure> {
        let length = self.content.len().to_string();
        let metadata = metadata(&[("filename", "a.mp4"), ("path", "android.mp4")]);
        let headers = [
            ("Upload-Metadata", metadata.as_str()),
            ("Upload-Length", &length),
            ("Content-Length", "0"),
        ];
        let response = self.call("POST", "/v1/uploads", &headers)?;
        self.url = Some(path_of(&response));
        Ok(())
    }

    /// `resumeOrCreateUpload`: the offset.
    fn resume_or_create(&mut self) -> Result<usize, Failure> {
        let Some(url) = self.url.clone() else {
            return self.create().map(|()| 0);
        };
        match self.call("HEAD", &url, &[]) {
            Ok(response) => Ok(offset_of(&response).expect("an offset")),
            Err(Failure::Status(404)) => self.create().map(|()| 0),
            Err(failure) => Err(failure),
        }
    }

    /// `uploadChunk` until the file ends, and `finish`. A request is opened before the file's end is seen, so the last one
    /// may be empty.
    fn attempt(&mut self, network: Network) -> Result<(), Failure> {
        let mut offset = self.resume_or_create()?;
        let url = self.url.clone().expect("it was created");
        loop {
            let end = (offset + Self::PAYLOAD).min(self.content.len());
            let is_last = end < offset + Self::PAYLOAD;
            let response = self.send(&url, offset, end, network);
            let response = self.checked(response)?;
            assert_eq!(offset_of(&response), Some(end), "else it gives up");
            if is_last {
                return Ok(());
            }
            offset = end;
        }
    }

    fn send(&self, url: &str, offset: usize, end: usize, network: Network) -> io::Result<Response> {
        let (authorization, at) = (format!("Bearer {KEY}"), offset.to_string());
        let mut headers = self.headers(&authorization);
        headers.extend([
            ("Upload-Offset", at.as_str()),
            ("Content-Type", "application/offset+octet-stream"),
            ("Expect", "100-continue"),
            ("Transfer-Encoding", "chunked"),
        ]);
        if !self.has_patch {
            headers.push(("X-HTTP-Method-Override", "PATCH"));
        }
        let mut client = self.world.client();
        client.send_head(if self.has_patch { "PATCH" } else { "POST" }, url, &headers);
        let (status, head) = client.response_head()?;
        if status != 100 {
            return Ok(Response { status, headers: head, body: Vec::new() });
        }
        let mut sent = 0;
        for chunk in self.content[offset..end].chunks(Self::BUFFER) {
            if let Network::ResetAfter(bytes) = network
                && sent + chunk.len() > bytes
            {
                client.send(format!("{:x}\r\n", chunk.len()).as_bytes());
                client.send(&chunk[..bytes - sent]);
                client.finish();
                let _ = client.try_response();
                client.reset();
                return Err(io::Error::from(io::ErrorKind::ConnectionReset));
            }
            client.send_chunk(chunk);
            sent += chunk.len();
        }
        client.send(b"0\r\n\r\n");
        client.try_response()
    }

    /// `makeAttempts`. The network is bad for the first attempts.
    fn upload(&mut self, bad: &[Network]) -> Result<(), Failure> {
        for attempt in 0.. {
            let network = bad.get(attempt).copied().unwrap_or(Network::Good);
            match self.attempt(network) {
                Err(failure) if failure.is_retried() && attempt < Self::RETRIES => {}
                result => return result,
            }
        }
        unreachable!("it returns")
    }
}

#[test]
fn tus_android_uploads_in_chunked_requests() {
    let world = setup().start();
    for has_patch in [true, false] {
        for (length, requests) in [(1, 1), (3 * MIB + 5, 1), (10 * MIB, 2), (12 * MIB, 2)] {
            let content = noise(length, 1);
            let mut app = TusJava::new(&world, &content, has_patch);
            assert_eq!(app.upload(&[]), Ok(()), "{length}: {:?}", app.statuses);
            let sent = vec![204; requests];
            assert_eq!(app.statuses, [vec![201], sent].concat(), "{length}");
            assert_stored(&world, "android.mp4", &content);
            world.control("POST", "reset", "");
        }
    }
}

#[test]
fn tus_android_continues_after_interruptions_and_failures_of_cos() {
    let content = noise(12 * MIB + 5, 1);
    for has_patch in [true, false] {
        let world = setup().start();
        let mut app = TusJava::new(&world, &content, has_patch);
        let bad = [1, 3 * MIB + 1, 5 * MIB].map(Network::ResetAfter);
        assert_eq!(app.upload(&bad), Ok(()), "{:?}", app.statuses);
        assert_eq!(app.statuses.iter().filter(|status| **status == 201).count(), 1);
        assert_stored(&world, "android.mp4", &content);
    }
    for (stage, fault) in [
        ("complete", json!({"fault": "status", "status": 500, "times": 1})),
        ("complete", json!({"fault": "error_200", "times": 2})),
        ("part", json!({"fault": "status", "status": 403, "code": "AccessDenied", "times": 2})),
    ] {
        let world = setup().start();
        let mut rule = fault.clone();
        rule["stage"] = json!(stage);
        world.faults(&json!([rule]));
        let mut app = TusJava::new(&world, &content, true);
        assert_eq!(app.upload(&[]), Ok(()), "{stage} {fault}: {:?}", app.statuses);
        assert_stored(&world, "android.mp4", &content);
    }
}

#[test]
fn tus_android_creates_an_upload_anew_only_where_there_is_none() {
    let world = setup().set("upload.max_file_size", "16MiB").start();
    let content = noise(3 * MIB, 1);
    let mut app = TusJava::new(&world, &content, true);
    app.create().expect("it is created");
    let url = app.url.clone().expect("it was created");
    app.call("DELETE", &url, &[]).expect("it is deleted");
    assert_eq!(app.upload(&[]), Ok(()), "{:?}", app.statuses);
    assert_eq!(app.statuses, [201, 204, 404, 201, 204]);
    assert_stored(&world, "android.mp4", &content);
    // Whole, and told again where the response was lost.
    assert_eq!(app.upload(&[]), Ok(()), "{:?}", app.statuses);
    assert_eq!(app.statuses[5..], [200, 204]);

    let large = noise(17 * MIB, 1);
    let mut app = TusJava::new(&world, &large, true);
    assert_eq!(app.upload(&[]), Err(Failure::Status(413)));
    assert_eq!(app.statuses, [413], "it is final");
    // Another offset is final, too: it would have asked.
    let mut app = TusJava::new(&world, &content, true);
    app.create().expect("it is created");
    let url = app.url.clone().expect("it was created");
    let refused = app.send(&url, MIB, 2 * MIB, Network::Good);
    assert_eq!(app.checked(refused).err(), Some(Failure::Status(409)));
    assert!(!Failure::Status(409).is_retried());
}
