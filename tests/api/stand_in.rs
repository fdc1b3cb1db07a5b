//! A fake WeChat and COS that check nothing and record every request, byte for byte, and that send any response a test
//! wants.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Gateway, KEY};

/// Longer than 512 characters, with characters that must be escaped in a query.
pub fn token() -> String {
    "to+k/e n&=%41#".repeat(43)
}

pub const SIGNATURE: &str = "q-sign-algorithm=sha1&q-ak=AK+/ID&q-sign-time=1;2&q-signature=00ff";
pub const FILE_ID: &str = "HDze32/qZENCwWi5nvl+8A==";
pub const BUCKET: &str = "/7465-bucket-125";
pub const STORED: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// A recorded request.
#[derive(Clone)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The number of its connection.
    pub connection: usize,
}

/// Handles a connection after a request's head, in place of sending a response.
type Takeover = Arc<dyn Fn(&Seen, BufReader<TcpStream>) + Send + Sync>;

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} twice");
        value
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// A server that acts as both WeChat and COS.
pub struct Upstream {
    pub address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    address: String,
    seen: Vec<Seen>,
    /// Whole responses, by the beginning of the request target.
    responses: BTreeMap<&'static str, Vec<u8>>,
    takeovers: BTreeMap<&'static str, Takeover>,
    /// Interim responses sent before each response.
    interim: Vec<u8>,
}

impl Upstream {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let address = listener.local_addr().expect("an address");
        let responses = BTreeMap::from([
            ("/cgi-bin/stable_token", ok(&json!({"access_token": token(), "expires_in": 7200}))),
            ("/tcb/batchdeletefile", ok(&json!({"errcode": 0, "delete_list": []}))),
            (BUCKET, STORED.to_vec()),
        ]);
        let shared = Arc::new(Mutex::new(Shared {
            address: address.to_string(),
            seen: Vec::new(),
            responses,
            takeovers: BTreeMap::new(),
            interim: Vec::new(),
        }));
        let all = shared.clone();
        std::thread::spawn(move || {
            for (connection, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                let shared = all.clone();
                std::thread::spawn(move || serve(stream, connection, &shared));
            }
        });
        Self { address, shared }
    }

    /// From now on, requests whose target begins with `target` get this response.
    pub fn respond_with(&self, target: &'static str, response: impl Into<Vec<u8>>) {
        self.shared.lock().expect("the state").responses.insert(target, response.into());
    }

    /// From now on, these interim responses are sent before each response.
    pub fn interim(&self, responses: impl Into<Vec<u8>>) {
        self.shared.lock().expect("the state").interim = responses.into();
    }

    /// From now on, `takeover` gets the connection of each request whose target begins with `target`. The request's
    /// body is still to be read.
    pub fn take_over(
        &self,
        target: &'static str,
        takeover: impl Fn(&Seen, BufReader<TcpStream>) + Send + Sync + 'static,
    ) {
        let mut shared = self.shared.lock().expect("the state");
        shared.takeovers.insert(target, Arc::new(takeover));
    }

    /// Undoes [`Self::take_over`] for `target`.
    pub fn give_back(&self, target: &str) {
        self.shared.lock().expect("the state").takeovers.remove(target);
    }

    /// The requests so far whose target begins with `target`.
    pub fn seen(&self, target: &str) -> Vec<Seen> {
        let shared = self.shared.lock().expect("the state");
        shared.seen.iter().filter(|seen| seen.target.starts_with(target)).cloned().collect()
    }

    /// Clears the recorded requests.
    pub fn forget(&self) {
        self.shared.lock().expect("the state").seen.clear();
    }
}

pub fn ok(body: &Value) -> Vec<u8> {
    let body = body.to_string();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// The URL that a file of this path is posted to, with a query that must be passed on unchanged.
pub fn url(address: &str, path: &str) -> String {
    let encoded = percent_encoding::utf8_percent_encode(path, percent_encoding::NON_ALPHANUMERIC);
    format!("http://{address}{BUCKET}/{encoded}?x=%2f")
}

pub fn link(url: &str, path: &str) -> Value {
    json!({
        "errcode": 0, "errmsg": "ok", "url": url, "token": "security+token/==",
        "authorization": SIGNATURE, "file_id": format!("cloud://env.7465-bucket-125/{path}"),
        "cos_file_id": FILE_ID,
    })
}

/// Serves one connection until it is closed, or until a response has `Connection: close`.
fn serve(stream: TcpStream, connection: usize, shared: &Mutex<Shared>) {
    let mut stream = BufReader::new(stream);
    while let Ok(mut seen) = request_head(&mut stream) {
        seen.connection = connection;
        let takeover = {
            let mut shared = shared.lock().expect("the state");
            let mut takeovers = shared.takeovers.iter();
            let found = takeovers.find(|(start, _)| seen.target.starts_with(**start));
            let takeover = found.map(|(_, takeover)| takeover.clone());
            takeover.inspect(|_| shared.seen.push(seen.clone()))
        };
        if let Some(takeover) = takeover {
            return takeover(&seen, stream);
        }
        if read_body(&mut seen, &mut stream).is_err() {
            return;
        }
        let response = {
            let mut shared = shared.lock().expect("the state");
            let known = shared.responses.iter().find(|(start, _)| seen.target.starts_with(*start));
            let response = known
                .map_or(b"HTTP/1.1 404 None\r\ncontent-length: 0\r\n\r\n".to_vec(), {
                    |(_, response)| response.clone()
                });
            // Unless the test sets a response, the link is for the requested path.
            let response = match known {
                None if seen.target.starts_with("/tcb/uploadfile") => {
                    let path = seen.json()["path"].as_str().expect("a path").to_owned();
                    ok(&link(&url(&shared.address, &path), &path))
                }
                _ => response,
            };
            shared.seen.push(seen);
            [&shared.interim[..], &response].concat()
        };
        let closes = memchr::memmem::find(&response, b"connection: close").is_some();
        if stream.get_mut().write_all(&response).is_err() || closes {
            return;
        }
    }
}

/// The next request without its body; bytes beyond its Content-Length would be read as the head of another one.
fn request_head(stream: &mut BufReader<TcpStream>) -> io::Result<Seen> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end_matches("\r\n") {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut words = lines[0].split(' ').map(str::to_owned);
    let mut word = || words.next().ok_or_else(|| io::Error::other("no request line"));
    let (method, target) = (word()?, word()?);
    let pairs = lines[1..].iter().filter_map(|line| line.split_once(": "));
    let headers = pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    let headers = headers.collect();
    Ok(Seen { method, target, headers, body: Vec::new(), connection: 0 })
}

/// Reads a request's body.
pub fn read_body(seen: &mut Seen, stream: &mut BufReader<TcpStream>) -> io::Result<()> {
    let length = seen.header("content-length").and_then(|length| length.parse().ok());
    seen.body.resize(length.unwrap_or(0), 0);
    stream.read_exact(&mut seen.body)
}

/// A production gateway in front of `upstream`.
pub fn gateway(upstream: &Upstream, more: &[(&str, &str)]) -> (Gateway, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    // With a trailing slash, as it is often copied.
    let base_url = format!("http://{}/", upstream.address);
    let hosts = upstream.address.to_string();
    let key = hex::encode(Sha256::digest(KEY));
    let mut variables: BTreeMap<_, _> = [
        ("GATEWAY_PROFILE", "production"),
        ("GATEWAY__SERVER__BIND", "127.0.0.1:0"),
        ("GATEWAY__SERVER__WORKERS", "1"),
        ("GATEWAY__WECHAT__BASE_URL", &base_url),
        ("GATEWAY__WECHAT__ENV", "env"),
        ("GATEWAY__WECHAT__APPID", "wx12"),
        ("GATEWAY__WECHAT__SECRET", "0123456789"),
        ("GATEWAY__COS__ALLOWED_HOSTS", &hosts),
        ("GATEWAY__COS__ALLOW_HTTP", "true"),
        ("GATEWAY__UPLOAD__CLIENT_PATHS", "true"),
        ("GATEWAY__AUTH__KEYS__PANEL__SHA256", &key),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    variables.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    (Gateway::start(&[], &variables, folder.path()), folder)
}
