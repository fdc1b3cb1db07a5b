//! WeChat's part of the upstream: the link call, the access token, and how much the upstream has received.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::upstream::Seen;

/// Lengths of the fields in real links.
const SIGNATURE: usize = 340;
const SECURITY_TOKEN: usize = 900;
const FILE_ID: usize = 220;

/// The parts of a link call's response before and after the path.
pub struct Links {
    bases: [String; 2],
    before: String,
    after: String,
}

/// What is answered to a request.
pub struct Answer {
    pub response: String,
    /// Milliseconds until it is sent.
    pub delay: u64,
    /// Whether the connection is closed then.
    pub is_last: bool,
}

impl Links {
    pub fn new(cos: SocketAddr, cos_tls: SocketAddr) -> Self {
        // By IP address, so that no name look-up is measured.
        let bases = [format!("http://{cos}"), format!("https://{cos_tls}")];
        let filler = |length| "q-sign-algorithm=sha1&q-ak=".chars().cycle().take(length);
        let before = format!(
            "{{\"errcode\":0,\"errmsg\":\"ok\",\"token\":\"{}\",\"authorization\":\"{}\",\"cos_file_id\":\"{}\"",
            filler(SECURITY_TOKEN).collect::<String>(),
            filler(SIGNATURE).collect::<String>(),
            filler(FILE_ID).collect::<String>(),
        );
        Self { bases, before, after: "bench.6265-bench-1250000000".to_owned() }
    }

    /// The response's JSON for `path`.
    fn link(&self, https: bool, path: &str) -> String {
        let (before, bucket) = (&self.before, &self.after);
        let base = &self.bases[usize::from(https)];
        format!(
            "{before},\"url\":\"{base}/6265-bench-1250000000/{path}\",\"file_id\":\"cloud://{bucket}/{path}\"}}"
        )
    }

    /// Answers a whole request, whose body is from `start` on. An error: it is no text.
    pub fn answer(&self, request: &[u8], start: usize, seen: &Seen) -> io::Result<Answer> {
        let request = std::str::from_utf8(request).map_err(io::Error::other)?;
        // `/https/30/tcb/uploadfile?access_token=…`
        let target = request.split(' ').nth(1).unwrap_or_default();
        let mut steps = target.trim_start_matches('/').splitn(3, '/');
        let scheme = steps.next().unwrap_or_default();
        let link_delay = steps.next().and_then(|delay| delay.parse().ok()).unwrap_or(0);
        let call = steps.next().unwrap_or_default();
        let mut delay = 0;
        let body = if scheme == "counts" {
            let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            format!("{} {}", count(&seen.links), count(&seen.uploads))
        } else if call.starts_with("tcb/uploadfile") {
            let path = request[start..].split("\"path\":\"").nth(1).unwrap_or_default();
            let path = path.split('"').next().unwrap_or_default();
            seen.links.fetch_add(1, Ordering::Relaxed);
            delay = link_delay;
            self.link(scheme == "https", path)
        } else if call.starts_with("cgi-bin/") {
            format!("{{\"access_token\":\"{}\",\"expires_in\":7200}}", "t".repeat(200))
        } else {
            "{\"errcode\":40066,\"errmsg\":\"invalid url\"}".to_owned()
        };
        let is_last = request[..start].contains("connection: close");
        let response = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=UTF-8\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        Ok(Answer { response, delay, is_last })
    }
}
