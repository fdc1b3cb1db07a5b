//! A request's head: where it ends, how its body is framed, and why it cannot be served.
//!
//! actix-http answers a head that it cannot parse with an empty 400, without CORS headers, a log line or an orderly
//! close. So every head is read here first, by the same parser (httparse) and with the same rules about lengths, and
//! actix-http is given only heads that it takes: the framing of the body, which is read past it, is masked in place, and
//! a refused head is replaced by a plain one that leads to the refusal.

use std::mem::MaybeUninit;
use std::ops::Range;

use actix_web::http::{Method, Uri};
use memchr::{memchr, memchr_iter, memrchr};

/// Bytes of a head, its blank line included.
pub const MAX_HEAD: usize = 32 * 1024;
/// Bytes of a target, which percent-encoding may treble; the `http` crate takes no more.
const MAX_TARGET: usize = u16::MAX as usize - 1;
/// Fields of a head; actix-http takes no more.
pub const MAX_FIELDS: usize = 96;

/// How a request's body is framed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BodyFraming {
    /// No body: neither a length nor a transfer encoding.
    #[default]
    None,
    /// `Content-Length`, in bytes.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// A head that can be served.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// The head for actix-http, where it differs from what was sent.
    pub rewritten: Option<Vec<u8>>,
    pub body: BodyFraming,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// `Connection: close`, alone or among other options.
    pub closes: bool,
}

/// Why a head cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("the connection carries something else than HTTP/1.1")]
    NotHttp,
    #[error("the first line is not of the form `METHOD /path HTTP/1.1`")]
    RequestLine,
    #[error("the request line's version is neither HTTP/1.1 nor HTTP/1.0")]
    Version,
    #[error("the request's URL holds {0}, which must be percent-encoded ({1})")]
    Target(&'static str, &'static str),
    #[error("the request's URL holds bytes that are not UTF-8: percent-encode it in UTF-8")]
    TargetEncoding,
    #[error("the request's URL has more than {MAX_TARGET} bytes once it is percent-encoded")]
    TargetTooLong,
    #[error("the request's URL does not begin with `/`")]
    TargetForm,
    #[error("CONNECT is for proxies; this is a server of its own")]
    Connect,
    #[error(
        "line {0} of the request's head begins with a blank: a field goes on in one line (RFC 9112, 5.2)"
    )]
    FoldedField(usize),
    #[error("line {0} of the request's head is not of the form `Name: value`")]
    Field(usize),
    #[error("a request's head has at most {MAX_FIELDS} fields")]
    TooManyFields,
    #[error("a request's head has at most {MAX_HEAD} bytes")]
    TooLong,
    #[error("an HTTP/1.1 request needs exactly one Host field")]
    Host,
    #[error("the Content-Length is not one plain number of bytes")]
    Length,
    #[error(
        "the request has a Content-Length and a Transfer-Encoding, and they may disagree: send one of them"
    )]
    TwoFramings,
    #[error("the only Transfer-Encoding that is taken is `chunked`, once, in HTTP/1.1")]
    TransferEncoding,
    #[error("an HTTP/1.0 POST needs a Content-Length")]
    LengthRequired,
    #[error("the request's head did not arrive within {0} s")]
    TimedOut(u64),
}

/// The end of the head that `bytes` begin with, behind its first blank line. `from` is how far an earlier call for the
/// same head, with fewer bytes, has looked: [`scanned`].
pub fn find_end(bytes: &[u8], from: usize) -> Option<usize> {
    memchr_iter(b'\n', &bytes[from..]).find_map(|at| {
        let next = from + at + 1;
        match bytes[next..] {
            [b'\n', ..] => Some(next + 1),
            [b'\r', b'\n', ..] => Some(next + 2),
            _ => None,
        }
    })
}

/// How far `bytes` need not be searched again by [`find_end`] when more have come.
pub fn scanned(bytes: &[u8]) -> usize {
    bytes.len().saturating_sub(2)
}

/// The line breaks in front of a request, which some clients send behind the body before (RFC 9112, 2.2).
pub fn leading_line_breaks(bytes: &[u8]) -> usize {
    let mut length = 0;
    loop {
        match bytes[length..] {
            [b'\n', ..] => length += 1,
            [b'\r', b'\n', ..] => length += 2,
            _ => return length,
        }
    }
}

/// Whether the bytes begin TLS or HTTP/2 in plain text, whose clients cannot read an HTTP/1 response.
pub fn is_other_protocol(bytes: &[u8]) -> bool {
    const TLS_HANDSHAKE: u8 = 0x16;
    bytes.first() == Some(&TLS_HANDSHAKE) || bytes.starts_with(b"PRI * HTTP/2.0")
}

/// Whether the bytes can become a request line: a method, and a blank behind it. Or the first half of a line break in front
/// of one.
pub fn may_be_http(bytes: &[u8]) -> bool {
    const LONGEST_METHOD: usize = 64;
    if bytes == b"\r" {
        return true;
    }
    let method = bytes.iter().take_while(|byte| is_token(**byte)).count();
    (1..=LONGEST_METHOD).contains(&method) && matches!(bytes.get(method), None | Some(b' '))
}

/// Reads a whole head, as [`find_end`] delimits it.
pub fn read(head: &[u8]) -> Result<Head, HeadError> {
    let target = target(head)?;
    let mut rewritten = escaped(head, target)?;
    let read = fields(rewritten.as_deref().unwrap_or(head))?;
    if !read.masks.is_empty() {
        let bytes = rewritten.get_or_insert_with(|| head.to_vec());
        read.masks.iter().for_each(|mask| mask.apply(bytes));
    }
    let Fields { body, expects_continue, closes, .. } = read;
    Ok(Head { rewritten, body, expects_continue, closes })
}

/// Where the request's target stands, in a line that is a request line.
fn target(head: &[u8]) -> Result<Range<usize>, HeadError> {
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

/// What a URL may hold by the rules of the `http` crate, which actix-http goes by. It would cut the URL at a `#`.
fn check_target(target: &[u8]) -> Result<(), HeadError> {
    let path = memchr(b'?', target).unwrap_or(target.len());
    for (at, byte) in target.iter().enumerate() {
        let (name, code) = match byte {
            b' ' | b'\t' => ("a blank", "%20"),
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
        // A proxy's form, with scheme and host.
        _ if target.starts_with(b"http://") || target.starts_with(b"https://") => {
            let uri = escape(target).ok().and_then(|target| Uri::try_from(target).ok());
            uri.map(drop).ok_or(HeadError::TargetForm)
        }
        _ => Err(HeadError::TargetForm),
    }
}

/// The head with the raw UTF-8 of its target percent-encoded, as browsers do it and curl does not.
fn escaped(head: &[u8], target: Range<usize>) -> Result<Option<Vec<u8>>, HeadError> {
    if head[target.clone()].is_ascii() {
        return Ok(None);
    }
    let escaped = escape(&head[target.clone()])?;
    if escaped.len() > MAX_TARGET {
        return Err(HeadError::TargetTooLong);
    }
    Ok(Some([&head[..target.start], escaped.as_bytes(), &head[target.end..]].concat()))
}

fn escape(target: &[u8]) -> Result<String, HeadError> {
    let target = std::str::from_utf8(target).map_err(|_| HeadError::TargetEncoding)?;
    // Controls only: every ASCII character that stands in a target was allowed before.
    Ok(percent_encoding::utf8_percent_encode(target, percent_encoding::CONTROLS).to_string())
}

/// What the fields of a head say.
struct Fields {
    body: BodyFraming,
    expects_continue: bool,
    closes: bool,
    masks: Vec<Mask>,
}

/// Bytes of a head that actix-http is not shown, in a way that keeps the head's length.
struct Mask {
    at: Range<usize>,
    with: Filler,
}

enum Filler {
    /// No length, or no value.
    Byte(u8),
    /// Another name of the same length.
    Name(&'static [u8]),
}

/// Stands for `Transfer-Encoding` in the head that actix-http is given. A client may send it, too: it means nothing.
pub const MASKED_TRANSFER_ENCODING: &str = "x-gateway-chunked";

impl Mask {
    fn apply(&self, head: &mut [u8]) {
        let bytes = &mut head[self.at.clone()];
        match self.with {
            Filler::Byte(byte) => bytes.fill(byte),
            Filler::Name(name) => bytes.copy_from_slice(name),
        }
    }
}

fn fields(head: &[u8]) -> Result<Fields, HeadError> {
    let mut parsed = [MaybeUninit::uninit(); MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut parsed) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(HeadError::RequestLine),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyFields),
        Err(_) => return Err(wrong_line(head)),
    }
    let is_old = request.version == Some(0);
    let range = |part: &[u8]| {
        let start = part.as_ptr().addr() - head.as_ptr().addr();
        start..start + part.len()
    };
    let fill = |part: &[u8], byte| Mask { at: range(part), with: Filler::Byte(byte) };

    let mut masks = Vec::new();
    let (mut hosts, mut length, mut chunked) = (0, None, false);
    let (mut expects_continue, mut closes) = (false, false);
    for header in request.headers.iter() {
        // Names are compared only where their length fits.
        match header.name.len() {
            4 if header.name.eq_ignore_ascii_case("host") => hosts += 1,
            6 if header.name.eq_ignore_ascii_case("expect") => {
                expects_continue |= has_token(header.value, b"100-continue");
                masks.push(fill(header.value, b' '));
            }
            7 if header.name.eq_ignore_ascii_case("upgrade") => {
                masks.push(fill(header.value, b' '));
            }
            // With an upgrade in it actix-http would end the connection behind its response.
            10 if header.name.eq_ignore_ascii_case("connection") => {
                // actix-http knows only a `close` that stands alone.
                closes |= has_token(header.value, b"close");
                let options = tokens(header.value);
                let upgrades = options.filter(|option| option.eq_ignore_ascii_case(b"upgrade"));
                masks.extend(upgrades.map(|option| fill(option, b' ')));
            }
            14 if header.name.eq_ignore_ascii_case("content-length") => {
                let digits = header.value.trim_ascii();
                let parsed =
                    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
                let plain = digits.iter().all(u8::is_ascii_digit) && length.is_none();
                length = Some(parsed.filter(|_| plain).ok_or(HeadError::Length)?);
                masks.push(fill(digits, b'0'));
            }
            17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                let plain = header.value.trim_ascii().eq_ignore_ascii_case(b"chunked");
                if chunked || !plain || is_old {
                    return Err(HeadError::TransferEncoding);
                }
                chunked = true;
                let name = Filler::Name(MASKED_TRANSFER_ENCODING.as_bytes());
                masks.push(Mask { at: range(header.name.as_bytes()), with: name });
            }
            _ => {}
        }
    }
    if hosts > 1 || (hosts == 0 && !is_old) {
        return Err(HeadError::Host);
    }
    let body = match (length, chunked) {
        (Some(_), true) => return Err(HeadError::TwoFramings),
        (Some(length), false) => BodyFraming::Length(length),
        (None, true) => BodyFraming::Chunked,
        (None, false) if is_old && request.method == Some("POST") => {
            return Err(HeadError::LengthRequired);
        }
        (None, false) => BodyFraming::None,
    };
    // Old clients do not know of interim responses (RFC 9110, 10.1.1).
    let expects_continue = expects_continue && !is_old && !matches!(body, BodyFraming::None);
    Ok(Fields { body, expects_continue, closes, masks })
}

/// The members of a list, without their parameters' quotes being looked at: none that matters here has any.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(|token| token.trim_ascii())
}

fn has_token(value: &[u8], wanted: &[u8]) -> bool {
    tokens(value).any(|token| token.eq_ignore_ascii_case(wanted))
}

/// The first line that httparse cannot have read.
fn wrong_line(head: &[u8]) -> HeadError {
    for (index, line) in head.split(|byte| *byte == b'\n').enumerate().skip(1) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        if matches!(line[0], b' ' | b'\t') {
            return HeadError::FoldedField(index + 1);
        }
        let named = memchr(b':', line)
            .is_some_and(|colon| colon > 0 && line[..colon].iter().all(|byte| is_token(*byte)));
        let is_text = |byte: &u8| matches!(byte, b'\t' | b' '..=0x7e | 0x80..);
        if !named || !line.iter().all(is_text) {
            return HeadError::Field(index + 1);
        }
    }
    HeadError::RequestLine
}

/// RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A head in place of a refused one, as far as that can be read: its method, its path, and what a response needs to be
/// read by a page and to be found again.
pub fn stand_in(head: &[u8]) -> Vec<u8> {
    const COPIED: [&[u8]; 4] = [b"origin", b"x-request-id", b"accept-language", b"traceparent"];
    let mut lines =
        head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = lines.next().unwrap_or_default();
    let method = first.split(|byte| *byte == b' ').next().unwrap_or_default();
    let method = Some(method).filter(|method| Method::from_bytes(method).is_ok());
    // A preflight is told what is wrong, too, and not that it may go on; a CONNECT would have no response body.
    let method = method.filter(|method| *method != b"CONNECT").unwrap_or(b"POST");
    let whole = target(head).ok().and_then(|target| escape(&head[target]).ok());
    let path = whole.filter(|path| path.len() <= MAX_TARGET).or_else(|| readable_path(first));
    let path = path.filter(|path| path.starts_with('/'));
    let mut stand_in = method.to_vec();
    stand_in.extend_from_slice(b" ");
    stand_in.extend_from_slice(path.as_deref().unwrap_or("/").as_bytes());
    stand_in.extend_from_slice(b" HTTP/1.1\r\nhost: -\r\nconnection: close\r\n");
    for line in lines.take_while(|line| !line.is_empty()) {
        let Some(colon) = memchr(b':', line) else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let is_copied = COPIED.iter().any(|copied| name.eq_ignore_ascii_case(copied));
        if is_copied && value.len() <= 1024 && value.iter().all(|byte| matches!(byte, b' '..=0x7e))
        {
            stand_in.extend_from_slice(name);
            stand_in.extend_from_slice(b": ");
            stand_in.extend_from_slice(value);
            stand_in.extend_from_slice(b"\r\n");
        }
    }
    stand_in.extend_from_slice(b"\r\n");
    stand_in
}

/// The path of a request line that is wrong, for the log: as far as it is plain, and without a query.
fn readable_path(line: &[u8]) -> Option<String> {
    const LONGEST: usize = 1024;
    let behind = &line[memchr(b' ', line)? + 1..];
    let is_plain = |byte: &&u8| byte.is_ascii_alphanumeric() || b"/-_.~%".contains(byte);
    let path: Vec<u8> = behind.iter().take(LONGEST).take_while(is_plain).copied().collect();
    String::from_utf8(path).ok()
}

#[cfg(test)]
mod tests {
    use actix_http::h1::{Codec, Message, MessageType};
    use actix_web::rt;
    use bytes::BytesMut;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};
    use tokio_util::codec::Decoder;

    use super::*;

    fn head(line: &str, fields: &str) -> Vec<u8> {
        format!("{line}\r\nHost: a\r\n{fields}\r\n").into_bytes()
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    #[test]
    fn the_framing_is_masked() {
        for (fields, body, masked) in [
            ("Content-Length: 12\r\n", BodyFraming::Length(12), "Content-Length: 00\r\n"),
            ("content-length:\t7 \r\n", BodyFraming::Length(7), "content-length:\t0 \r\n"),
            (
                "TRANSFER-encoding: Chunked\r\n",
                BodyFraming::Chunked,
                "x-gateway-chunked: Chunked\r\n",
            ),
            (
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n",
                BodyFraming::None,
                "Connection:        , HTTP2-Settings\r\nUpgrade:    \r\n",
            ),
            ("X: y\r\n", BodyFraming::None, "X: y\r\n"),
        ] {
            let sent = head("PUT /a HTTP/1.1", fields);
            let read = read(&sent).expect("a good head");
            assert_eq!(read.body, body, "{fields}");
            let given = read.rewritten.unwrap_or(sent);
            assert_eq!(text(&given), text(&head("PUT /a HTTP/1.1", masked)));
        }
    }

    #[test]
    fn a_client_that_waits_for_100_is_known() {
        let expects =
            |line: &str, fields: &str| read(&head(line, fields)).unwrap().expects_continue;
        let length = "Content-Length: 5\r\n";
        let both = format!("{length}Expect: 100-Continue\r\n");
        assert!(expects("PUT / HTTP/1.1", &both));
        assert!(!expects("PUT / HTTP/1.0", &both));
        assert!(!expects("PUT / HTTP/1.1", "Expect: 100-continue\r\n"));
        assert!(!expects("PUT / HTTP/1.1", length));
    }

    #[test]
    fn raw_utf8_is_percent_encoded() {
        let sent = head("GET /v1/files/报告.png?dir=é HTTP/1.1", "Content-Length: 3\r\n");
        let given = read(&sent).unwrap().rewritten.unwrap();
        let line = "GET /v1/files/%E6%8A%A5%E5%91%8A.png?dir=%C3%A9 HTTP/1.1";
        assert_eq!(text(&given), text(&head(line, "Content-Length: 0\r\n")));
    }

    #[test]
    fn refusals_name_their_cause() {
        use HeadError as E;
        for (line, error) in [
            ("GET /a b HTTP/1.1", E::Target("a blank", "%20")),
            ("GET /a?x=\"y\" HTTP/1.1", E::Target("a quote", "%22")),
            ("GET /a#b HTTP/1.1", E::Target("a `#`", "%23")),
            ("GET /a?b<c HTTP/1.1", E::Target("a `<`", "%3C")),
            ("GET /a\x01 HTTP/1.1", E::Target("a control character", "%00 to %1F, %7F")),
            ("GET a HTTP/1.1", E::TargetForm),
            ("GET http:///a HTTP/1.1", E::TargetForm),
            ("CONNECT a:1 HTTP/1.1", E::Connect),
            ("GET /", E::RequestLine),
            ("GET", E::RequestLine),
            ("GET / HTTP/2.0", E::Version),
            ("GET / HTTP/0.9", E::Version),
            ("GET / http/1.1", E::RequestLine),
            ("G(T / HTTP/1.1", E::RequestLine),
        ] {
            assert_eq!(read(&head(line, "")), Err(error), "{line}");
        }
        let gbk = b"GET /v1/files?dir=\xb1\xa8\xb8\xe6 HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(read(gbk), Err(E::TargetEncoding));
        let many = "X: y\r\n".repeat(MAX_FIELDS);
        for (fields, error) in [
            ("Host: b\r\n", E::Host),
            ("Content-Length: 1\r\nContent-Length: 1\r\n", E::Length),
            ("Content-Length: +1\r\n", E::Length),
            ("Content-Length: 1, 1\r\n", E::Length),
            ("Content-Length:\r\n", E::Length),
            ("Content-Length: 18446744073709551616\r\n", E::Length),
            ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", E::TwoFramings),
            ("Transfer-Encoding: identity\r\n", E::TransferEncoding),
            ("Transfer-Encoding: gzip, chunked\r\n", E::TransferEncoding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", E::TransferEncoding),
            ("X: y\r\n z\r\n", E::FoldedField(4)),
            ("Content-Length : 1\r\n", E::Field(3)),
            ("X\r\n", E::Field(3)),
            ("X: \x01\r\n", E::Field(3)),
            (&many, E::TooManyFields),
        ] {
            assert_eq!(read(&head("PUT / HTTP/1.1", fields)), Err(error), "{fields}");
        }
        let plain = |head: &str| read(head.as_bytes()).map(drop);
        assert_eq!(plain("GET / HTTP/1.1\r\n\r\n"), Err(E::Host));
        assert_eq!(plain("POST / HTTP/1.0\r\n\r\n"), Err(E::LengthRequired));
        let old_chunked = "PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(plain(old_chunked), Err(E::TransferEncoding));
        assert_eq!(plain("GET / HTTP/1.0\r\n\r\n"), Ok(()));
        assert!(read(&head("GET http://a/b?c HTTP/1.1", "")).is_ok());
        assert!(read(&head("OPTIONS * HTTP/1.1", "")).is_ok());
    }

    #[test]
    fn the_end_is_found_however_the_head_is_cut() {
        let heads: [&[u8]; 2] =
            [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\nHost: a\n\n"];
        for head in heads {
            let all = [head, b"POST / HTTP/1.1\r\n\r\n"].concat();
            for cut in 0..all.len() {
                let end = find_end(&all[..cut], 0);
                assert_eq!(end, (cut >= head.len()).then_some(head.len()), "{cut}");
                if end.is_none() {
                    assert_eq!(find_end(&all, scanned(&all[..cut])), Some(head.len()), "{cut}");
                }
            }
        }
        assert_eq!(leading_line_breaks(b"\r\n\n\r\nGET"), 5);
        assert_eq!(leading_line_breaks(b"\rGET"), 0);
    }

    #[test]
    fn other_protocols_are_told_apart() {
        assert!(is_other_protocol(b"\x16\x03\x01\x02\x00"));
        assert!(is_other_protocol(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
        assert!(!is_other_protocol(b"PRIVATE / HTTP/1.1\r\n"));
        let long = [b'a'; 65];
        let cases: [(&[u8], bool); 5] =
            [(b"G", true), (b"GET ", true), (b"\0", false), (b"GET\t/", false), (&long, false)];
        for (bytes, may) in cases {
            assert_eq!(may_be_http(bytes), may, "{bytes:?}");
        }
    }

    /// What actix-http reads: how much of `bytes` the head was, and whether a body follows.
    fn decoded(bytes: &[u8]) -> Result<Option<(usize, bool)>, ()> {
        let (mut codec, mut rest) = (Codec::default(), BytesMut::from(bytes));
        match codec.decode(&mut rest) {
            Ok(None) => Ok(None),
            Ok(Some(Message::Item(_))) => {
                let has_body = !matches!(codec.message_type(), MessageType::None);
                Ok(Some((bytes.len() - rest.len(), has_body)))
            }
            Ok(Some(Message::Chunk(_))) | Err(_) => Err(()),
        }
    }

    /// actix-http takes every head that it is given, whole and as one without a body, stand-ins included; and where it
    /// would have read the head that was sent, it would have found the same end, and a body where there is one.
    #[test]
    fn actix_takes_what_it_is_given() {
        let tokens: [&[u8]; 34] = [
            b"Content-Length",
            b"content-length: 5\r\n",
            b"Content-Length: 0\r\n",
            b"transfer-encoding",
            b"chunked",
            b"Transfer-Encoding: chunked\r\n",
            b": ",
            b":",
            b"5",
            b"00",
            b"+",
            b"\r\n",
            b"\r\n\r\n",
            b"\n",
            b"\r",
            b" ",
            b"\t",
            b"X: y\r\n",
            b"X-\xe6: \xe6\r\n",
            b"Upgrade: h2c\r\n",
            b"Connection: close, upgrade\r\n",
            b"GET / HTTP/1.1\r\n",
            b"POST /a HTTP/1.0\r\n",
            b"Host: a\r\n",
            b"\0",
            b",",
            b"Expect: 100-continue\r\n",
            "é".as_bytes(),
            b"#",
            b"CONNECT a HTTP/1.1\r\n",
            b"http://a/b",
            b"Origin: http://a\r\n",
            b"HTTP/1.1",
            b"/v1/files?a=b",
        ];
        let heads = (proptest::collection::vec(0..tokens.len(), 1..24), any::<bool>());
        let check = |(pieces, begins): (Vec<usize>, bool)| {
            let begin: &[u8] =
                if begins { b"PUT /v1/files/a HTTP/1.1\r\nHost: a\r\n" } else { b"" };
            let mut bytes = begin.to_vec();
            pieces.iter().for_each(|piece| bytes.extend_from_slice(tokens[*piece]));
            bytes.extend_from_slice(b"\r\n\r\n");
            let bytes = &bytes[leading_line_breaks(&bytes)..];
            let Some(end) = find_end(bytes, 0) else { return Ok(()) };
            let sent = &bytes[..end];
            match read(sent) {
                Ok(read) => {
                    let given = read.rewritten.as_deref().unwrap_or(sent);
                    prop_assert_eq!(decoded(given), Ok(Some((given.len(), false))));
                    if let Ok(Some((length, has_body))) = decoded(sent) {
                        let is_none =
                            matches!(read.body, BodyFraming::None | BodyFraming::Length(0));
                        prop_assert_eq!((length, has_body), (end, !is_none));
                    }
                }
                Err(_) => {
                    let given = stand_in(sent);
                    prop_assert_eq!(decoded(&given), Ok(Some((given.len(), false))));
                }
            }
            Ok(())
        };
        rt::System::new().block_on(async {
            let mut runner = TestRunner::new(Config::with_cases(16384));
            runner.run(&heads, check).unwrap();
        });
    }
}
