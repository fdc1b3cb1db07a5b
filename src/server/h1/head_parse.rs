//! Parses a request's head and checks it: how the body is framed, what the client expects, why the head is refused.
//!
//! actix-http answers a head that it cannot parse with an empty 400, without CORS headers, a log line or an orderly
//! close. So every head is parsed here first, by the same parser (httparse) and with the same rules about lengths, and
//! actix-http is given only heads that it accepts ([`head_for_actix`](super::head_for_actix)).

use std::mem::MaybeUninit;

use memchr::memchr;

use super::head_error::{HeadError, MAX_FIELDS};
use super::head_for_actix::{Filler, MASKED_TRANSFER_ENCODING, Mask};
use super::head_scan::is_token_char;
use super::request_target::{find_target, with_escaped_target};

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
    /// The head for actix-http, where it differs from what was received.
    pub for_actix: Option<Vec<u8>>,
    pub body: BodyFraming,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// `Connection: close`, alone or among other options.
    pub connection_close: bool,
}

/// Parses and checks a whole head, as [`head_scan::find_end`](super::head_scan::find_end) delimits it.
pub fn parse(head: &[u8]) -> Result<Head, HeadError> {
    let target = find_target(head)?;
    let mut for_actix = with_escaped_target(head, target)?;
    let fields = parse_fields(for_actix.as_deref().unwrap_or(head))?;
    if !fields.masks.is_empty() {
        let bytes = for_actix.get_or_insert_with(|| head.to_vec());
        fields.masks.iter().for_each(|mask| mask.apply(bytes));
    }
    let Fields { body, expects_continue, connection_close, .. } = fields;
    Ok(Head { for_actix, body, expects_continue, connection_close })
}

/// What the header fields of a head say.
struct Fields {
    body: BodyFraming,
    expects_continue: bool,
    connection_close: bool,
    /// What actix-http must not see of them.
    masks: Vec<Mask>,
}

fn parse_fields(head: &[u8]) -> Result<Fields, HeadError> {
    let mut parsed = [MaybeUninit::uninit(); MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut parsed) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(HeadError::RequestLine),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyFields),
        Err(_) => return Err(malformed_line(head)),
    }
    let is_http10 = request.version == Some(0);
    let range = |part: &[u8]| {
        let start = part.as_ptr().addr() - head.as_ptr().addr();
        start..start + part.len()
    };
    let fill = |part: &[u8], byte| Mask { at: range(part), with: Filler::Byte(byte) };

    let mut masks = Vec::new();
    let (mut hosts, mut length, mut chunked) = (0, None, false);
    let (mut expects_continue, mut connection_close) = (false, false);
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
            // With `upgrade` in it actix-http would close the connection after the response.
            10 if header.name.eq_ignore_ascii_case("connection") => {
                // actix-http does not recognize `close` among other options.
                connection_close |= has_token(header.value, b"close");
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
                if chunked || !plain || is_http10 {
                    return Err(HeadError::TransferEncoding);
                }
                chunked = true;
                let name = Filler::Name(MASKED_TRANSFER_ENCODING.as_bytes());
                masks.push(Mask { at: range(header.name.as_bytes()), with: name });
            }
            _ => {}
        }
    }
    if hosts > 1 || (hosts == 0 && !is_http10) {
        return Err(HeadError::Host);
    }
    let body = match (length, chunked) {
        (Some(_), true) => return Err(HeadError::TwoFramings),
        (Some(length), false) => BodyFraming::Length(length),
        (None, true) => BodyFraming::Chunked,
        (None, false) if is_http10 && request.method == Some("POST") => {
            return Err(HeadError::LengthRequired);
        }
        (None, false) => BodyFraming::None,
    };
    // HTTP/1.0 has no interim responses (RFC 9110, 10.1.1).
    let expects_continue = expects_continue && !is_http10 && !matches!(body, BodyFraming::None);
    Ok(Fields { body, expects_continue, connection_close, masks })
}

/// The members of a comma-separated list. Quoted parameters are not parsed: the tokens looked for have none.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(|token| token.trim_ascii())
}

fn has_token(value: &[u8], wanted: &[u8]) -> bool {
    tokens(value).any(|token| token.eq_ignore_ascii_case(wanted))
}

/// Names the first line that httparse cannot have parsed.
fn malformed_line(head: &[u8]) -> HeadError {
    for (index, line) in head.split(|byte| *byte == b'\n').enumerate().skip(1) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        if matches!(line[0], b' ' | b'\t') {
            return HeadError::FoldedField(index + 1);
        }
        let has_name = memchr(b':', line).is_some_and(|colon| {
            colon > 0 && line[..colon].iter().all(|byte| is_token_char(*byte))
        });
        let is_text = |byte: &u8| matches!(byte, b'\t' | b' '..=0x7e | 0x80..);
        if !has_name || !line.iter().all(is_text) {
            return HeadError::Field(index + 1);
        }
    }
    HeadError::RequestLine
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(line: &str, fields: &str) -> Vec<u8> {
        format!("{line}\r\nHost: a\r\n{fields}\r\n").into_bytes()
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    #[test]
    fn the_body_framing_is_masked() {
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
            let parsed = parse(&sent).expect("a good head");
            assert_eq!(parsed.body, body, "{fields}");
            let given = parsed.for_actix.unwrap_or(sent);
            assert_eq!(text(&given), text(&head("PUT /a HTTP/1.1", masked)));
        }
    }

    #[test]
    fn a_client_that_waits_for_100_continue_is_recognized() {
        let expects =
            |line: &str, fields: &str| parse(&head(line, fields)).unwrap().expects_continue;
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
        let given = parse(&sent).unwrap().for_actix.unwrap();
        let line = "GET /v1/files/%E6%8A%A5%E5%91%8A.png?dir=%C3%A9 HTTP/1.1";
        assert_eq!(text(&given), text(&head(line, "Content-Length: 0\r\n")));
    }

    #[test]
    fn refusals_name_their_cause() {
        use HeadError as E;
        for (line, error) in [
            ("GET /a b HTTP/1.1", E::Target("white space", "%20")),
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
            assert_eq!(parse(&head(line, "")), Err(error), "{line}");
        }
        let gbk = b"GET /v1/files?dir=\xb1\xa8\xb8\xe6 HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(parse(gbk), Err(E::TargetEncoding));
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
            assert_eq!(parse(&head("PUT / HTTP/1.1", fields)), Err(error), "{fields}");
        }
        let plain = |head: &str| parse(head.as_bytes()).map(drop);
        assert_eq!(plain("GET / HTTP/1.1\r\n\r\n"), Err(E::Host));
        assert_eq!(plain("POST / HTTP/1.0\r\n\r\n"), Err(E::LengthRequired));
        let old_chunked = "PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(plain(old_chunked), Err(E::TransferEncoding));
        assert_eq!(plain("GET / HTTP/1.0\r\n\r\n"), Ok(()));
        assert!(parse(&head("GET http://a/b?c HTTP/1.1", "")).is_ok());
        assert!(parse(&head("OPTIONS * HTTP/1.1", "")).is_ok());
    }
}
