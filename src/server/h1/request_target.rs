//! The target of a request line: where it is, whether it is a URL, how its raw UTF-8 is percent-encoded.

use std::ops::Range;

use actix_web::http::{Method, Uri};
use memchr::{memchr, memrchr};

use super::head_error::{HeadError, MAX_TARGET};

/// The range of the request's target in a head whose first line is a good request line.
pub(super) fn find_target(head: &[u8]) -> Result<Range<usize>, HeadError> {
    let line = &head[..memchr(b'\n', head).ok_or(HeadError::RequestLine)?];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let (Some(method), Some(version)) = (memchr(b' ', line), memrchr(b' ', line)) else {
        return Err(HeadError::RequestLine);
    };
    match &line[version + 1..] {
        b"HTTP/1.1" | b"HTTP/1.0" if version > method => {}
        other if other.starts_with(b"HTTP/") => return Err(HeadError::Version),
        _ => return Err(HeadError::RequestLine),
    }
    if Method::from_bytes(&line[..method]).is_err() {
        return Err(HeadError::RequestLine);
    }
    match &line[..method] {
        b"CONNECT" => return Err(HeadError::Connect),
        b"OPTIONS" if &line[method + 1..version] == b"*" => return Ok(method + 1..version),
        _ => {}
    }
    check_target(&line[method + 1..version])?;
    Ok(method + 1..version)
}

/// Checks what a URL may contain by the rules of the `http` crate, which actix-http uses and which would cut the URL at
/// a `#`.
fn check_target(target: &[u8]) -> Result<(), HeadError> {
    let path = memchr(b'?', target).unwrap_or(target.len());
    for (at, byte) in target.iter().enumerate() {
        let (name, code) = match byte {
            b' ' | b'\t' => ("white space", "%20"),
            b'#' => ("a `#`", "%23"),
            b'<' => ("a `<`", "%3C"),
            b'>' => ("a `>`", "%3E"),
            b'"' if at >= path => ("a quote", "%22"),
            b'`' if at < path => ("a backquote", "%60"),
            0..=0x1f | 0x7f => ("a control character", "%00 to %1F, %7F"),
            _ => continue,
        };
        return Err(HeadError::Target(name, code));
    }
    match target {
        [b'/', ..] => Ok(()),
        // The absolute form, which proxies send.
        _ if target.starts_with(b"http://") || target.starts_with(b"https://") => {
            let uri = escape(target).ok().and_then(|target| Uri::try_from(target).ok());
            uri.map(drop).ok_or(HeadError::TargetForm)
        }
        _ => Err(HeadError::TargetForm),
    }
}

/// The head with the raw UTF-8 of its target percent-encoded; `None` where there is none. Browsers encode it before
/// they send it, curl does not.
pub(super) fn with_escaped_target(
    head: &[u8],
    target: Range<usize>,
) -> Result<Option<Vec<u8>>, HeadError> {
    if head[target.clone()].is_ascii() {
        return Ok(None);
    }
    let escaped = escape(&head[target.clone()])?;
    if escaped.len() > MAX_TARGET {
        return Err(HeadError::TargetTooLong);
    }
    Ok(Some([&head[..target.start], escaped.as_bytes(), &head[target.end..]].concat()))
}

/// A target with its raw UTF-8 percent-encoded.
pub(super) fn escape(target: &[u8]) -> Result<String, HeadError> {
    let target = std::str::from_utf8(target).map_err(|_| HeadError::TargetEncoding)?;
    // `CONTROLS` leaves ASCII as it is, which was checked before.
    Ok(percent_encoding::utf8_percent_encode(target, percent_encoding::CONTROLS).to_string())
}

/// The path of a malformed request line, for the log: up to the first byte that a plain path does not have, and without
/// a query.
pub(super) fn readable_path(line: &[u8]) -> Option<String> {
    const LONGEST: usize = 1024;
    let rest = &line[memchr(b' ', line)? + 1..];
    let is_plain = |byte: &&u8| byte.is_ascii_alphanumeric() || b"/-_.~%".contains(byte);
    let path: Vec<u8> = rest.iter().take(LONGEST).take_while(is_plain).copied().collect();
    String::from_utf8(path).ok()
}
