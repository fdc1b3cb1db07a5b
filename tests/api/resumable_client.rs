//! A client of tus that continues after whatever happens: it asks for the offset, and sends the rest from there.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::harness::{Client, Response, authorization};
use crate::resumable::{OCTETS, TUS};

/// An upload that does not get any further for so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two attempts, while nothing answers.
const PAUSE: Duration = Duration::from_millis(50);

/// An upload that exists.
pub struct Uploader {
    pub gateway: SocketAddr,
    /// The path of its URL.
    pub url: String,
    /// Bytes of a request at most.
    pub piece: usize,
    /// Bytes a second at most; 0: as fast as the gateway reads.
    pub rate: usize,
}

/// How an upload went.
#[derive(Debug, Default)]
pub struct Sent {
    pub requests: u64,
    /// Responses but 200 and 204, by their status.
    pub refusals: Vec<(u16, String)>,
}

impl Uploader {
    pub fn new(gateway: SocketAddr, url: String) -> Self {
        Self { gateway, url, piece: usize::MAX, rate: 0 }
    }

    /// Sends what is missing of `content`, until the gateway says that it is stored.
    pub fn upload(&self, content: &[u8]) -> Sent {
        let mut sent = Sent::default();
        let (mut furthest, mut since) = (0, Instant::now());
        loop {
            assert!(since.elapsed() < PATIENCE, "{}: stays at {furthest}: {sent:?}", self.url);
            let Some(at) = self.offset(&mut sent) else {
                std::thread::sleep(PAUSE);
                continue;
            };
            if at > furthest {
                (furthest, since) = (at, Instant::now());
            }
            assert!(at <= content.len(), "{at}");
            if at == content.len() {
                return sent;
            }
            sent.requests += 1;
            let end = content.len().min(at.saturating_add(self.piece));
            match self.patch(at, &content[at..end]) {
                Ok(response) if response.status == 204 => {
                    let told = response.header("upload-offset").map(str::parse);
                    assert_eq!(told, Some(Ok(end)), "{response:?}");
                }
                Ok(response) => sent.refusals.push((response.status, response.text())),
                Err(_) => {}
            }
        }
    }

    fn offset(&self, sent: &mut Sent) -> Option<usize> {
        let mut client = Client::connect(self.gateway);
        client.send_head("HEAD", &self.url, &[authorization(), TUS]);
        let (status, headers) = client.response_head().ok()?;
        let response = Response { status, headers, body: Vec::new() };
        if status != 200 {
            sent.refusals.push((status, "HEAD".to_owned()));
            return None;
        }
        response.header("upload-offset")?.parse().ok()
    }

    fn patch(&self, offset: usize, content: &[u8]) -> io::Result<Response> {
        let mut client = Client::connect(self.gateway);
        let (offset, length) = (offset.to_string(), content.len().to_string());
        let headers =
            [authorization(), TUS, OCTETS, ("upload-offset", &offset), ("content-length", &length)];
        client.send_head("PATCH", &self.url, &headers);
        let began = Instant::now();
        let mut sent = 0;
        for piece in content.chunks(64 << 10) {
            // Where the gateway has answered early, it closes the connection; the response is there still.
            if client.try_send(piece).is_err() {
                break;
            }
            sent += piece.len();
            if self.rate > 0 {
                let planned = Duration::from_secs_f64(sent as f64 / self.rate as f64);
                std::thread::sleep(planned.saturating_sub(began.elapsed()));
            }
        }
        client.try_response()
    }
}
