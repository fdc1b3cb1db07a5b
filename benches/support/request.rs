//! The uploads: a request's bytes, made once and sent by every connection.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use serde::{Deserialize, Serialize};

/// The gateway's API key; the other peers ignore it.
pub const KEY: &str = "key-of-the-load-test";

/// As long as a browser's.
const BOUNDARY: &str = "----WebKitFormBoundary7MA4YWxkTrZu0gWq";
/// Large files repeat a block of this size, so that a file of 4 GiB costs no more memory than one of 4 MiB.
const BLOCK: usize = 4 * 1024 * 1024;
/// Up to this size a request is one contiguous run of bytes, which one system call can send.
const ONE_RUN: usize = 1024 * 1024;

/// How a file is put into a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shape {
    /// A form: a field with the file's size, then the file.
    Form,
    /// The body is the file.
    Raw,
    /// A form with two files `files[]` of half the size each; the gateway buffers each to its end.
    TwoFiles,
}

/// The content of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    Random,
    /// Only `\r`.
    Returns,
    /// `\r\n--` repeated.
    Dashes,
    /// The delimiter without its last character, repeated.
    LookAlike,
}

/// A request that can be sent any number of times.
pub struct Request {
    /// The request's bytes in order; large files share one block.
    pub runs: Vec<Bytes>,
    /// The total size of the files.
    pub size: u64,
    /// Text that the gateway's response must contain as proof that it has stored the files.
    pub proof: String,
}

impl Request {
    /// An upload of `size` bytes to a relay.
    pub fn upload(shape: Shape, content: Content, size: u64) -> Self {
        let files = if shape == Shape::TwoFiles { 2 } else { 1 };
        let (runs, crc) = file(content, size / files);
        let proof = format!("\"crc64\":\"{crc}\"");
        let (target, kind, body) = match shape {
            Shape::Raw => ("PUT /v1/files/bench/file.bin", "application/octet-stream".into(), runs),
            Shape::Form | Shape::TwoFiles => {
                let mut body = Vec::new();
                for _ in 0..files {
                    body.push(opening(shape, size));
                    body.extend(runs.iter().cloned());
                    body.push(Bytes::from_static(b"\r\n"));
                }
                body.push(format!("--{BOUNDARY}--\r\n").into());
                let kind = format!("multipart/form-data; boundary={BOUNDARY}");
                ("POST /v1/files", kind, body)
            }
        };
        Self { runs: with_head(target, &kind, body), size: size / files * files, proof }
    }

    /// The same file posted to COS directly.
    pub fn direct(size: u64) -> Self {
        let (runs, _) = file(Content::Random, size);
        let runs = with_head("POST /bench/direct", "multipart/form-data; boundary=x", runs);
        Self { runs, size, proof: String::new() }
    }
}

/// The form's bytes before a file. They include a field with the file's size, for relays that cannot compute it.
fn opening(shape: Shape, size: u64) -> Bytes {
    let disposition = "Content-Disposition: form-data; name=";
    let (field, name) = match shape {
        Shape::TwoFiles => (String::new(), "files[]"),
        _ => (format!("--{BOUNDARY}\r\n{disposition}\"size\"\r\n\r\n{size}\r\n"), "file"),
    };
    format!(
        "{field}--{BOUNDARY}\r\n{disposition}\"{name}\"; filename=\"holiday.jpg\"\r\nContent-Type: image/jpeg\r\n\r\n"
    )
    .into()
}

fn with_head(target: &str, kind: &str, body: Vec<Bytes>) -> Vec<Bytes> {
    let length: usize = body.iter().map(Bytes::len).sum();
    let head = format!(
        "{target} HTTP/1.1\r\nHost: gateway.example.com\r\nUser-Agent: load-test\r\nAccept: */*\r\n\
         Authorization: Bearer {KEY}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    );
    let runs: Vec<Bytes> = std::iter::once(Bytes::from(head)).chain(body).collect();
    if length > ONE_RUN { runs } else { vec![runs.concat().into()] }
}

/// A file's bytes and their CRC-64/XZ.
pub fn file(content: Content, size: u64) -> (Vec<Bytes>, u64) {
    let mut block = vec![0; BLOCK.min(usize::try_from(size).unwrap_or(BLOCK))];
    let mut repeat = |pattern: &[u8]| {
        block.iter_mut().zip(pattern.iter().cycle()).for_each(|(byte, next)| *byte = *next);
    };
    match content {
        Content::Random => fastrand::Rng::with_seed(7).fill(&mut block),
        Content::Returns => repeat(b"\r"),
        Content::Dashes => repeat(b"\r\n--"),
        Content::LookAlike => {
            repeat(format!("\r\n--{}", &BOUNDARY[..BOUNDARY.len() - 1]).as_bytes());
        }
    }
    let block = Bytes::from(block);
    let mut crc = Digest::new(CrcAlgorithm::Crc64Xz);
    let mut runs = Vec::new();
    let mut left = size;
    while left > 0 {
        let run = block.slice(..block.len().min(usize::try_from(left).unwrap_or(BLOCK)));
        crc.update(&run);
        left -= run.len() as u64;
        runs.push(run);
    }
    (runs, crc.finalize())
}
