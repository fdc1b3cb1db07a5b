//! Responses: complete, cut anywhere, endless, and at each bound.

use super::*;
use proptest::prelude::*;

#[derive(Default)]
struct Seen(Vec<(String, Vec<u8>)>);

impl HeaderVisitor for Seen {
    fn visit(&mut self, name: &str, value: &[u8]) {
        self.0.push((name.to_owned(), value.to_owned()));
    }
}

/// The result of parsing `bytes` that are received `step` at a time, and whether the connection can be used again.
fn parsed(bytes: &[u8], step: usize) -> (Result<Response, ResponseError>, bool) {
    parsed_in(bytes.chunks(step))
}

fn parsed_in<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (Result<Response, ResponseError>, bool) {
    let mut parser = ResponseParser::new(64);
    let mut result = None;
    for part in parts {
        parser.buffer().extend_from_slice(part);
        if let Some(advanced) = result.is_none().then(|| parser.advance(&mut ())) {
            result = advanced.transpose();
        }
    }
    let result = result.unwrap_or_else(|| parser.end(None));
    let reusable = result.is_ok() && parser.is_reusable();
    (result, reusable)
}

/// Without the causes, which depend on the bytes received when the fault is seen.
fn without_causes(
    (result, reusable): (Result<Response, ResponseError>, bool),
) -> (Result<Response, Option<u16>>, bool) {
    let failed = |failure| match failure {
        ResponseError::NoResponse(_) => None,
        ResponseError::BadBody { status, .. } => Some(status),
    };
    (result.map_err(failed), reusable)
}

/// The result for `text`, which is the same however it is cut.
fn response(text: &str) -> (Result<Response, ResponseError>, bool) {
    let whole = parsed(text.as_bytes(), usize::MAX);
    for step in 1..text.len() {
        assert_eq!(parsed(text.as_bytes(), step), whole, "{text:?} by {step}");
    }
    whole
}

#[test]
fn a_response_ends_where_it_says() {
    for (text, status, body, reusable) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", 204, "", true),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", 204, "", true),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, "", false),
        ("HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", 304, "", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, "abc", true),
        ("HTTP/1.1 200\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc", 200, "abc", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc", 200, "abc", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, Close\r\n\r\n", 200, "", false),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close, keep-alive\r\n\r\n",
            200,
            "",
            false,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd", 200, "abc", false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, "abc", false),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc",
            200,
            "abc",
            true,
        ),
        ("HTTP/1.1 200 OK\r\n\r\nabc", 200, "abc", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc", 200, "abc", false),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\na: b\r\n\r\nHTTP/1.1 403 x\r\nContent-Length: 1\r\n\r\ny",
            403,
            "y",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0a;x=y\r\n0123456789\r\n0\r\n\r\n",
            200,
            "abc0123456789",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: x, Chunked\r\n\r\n0\r\nA: b\r\n\r\n",
            200,
            "",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            200,
            "a",
            false,
        ),
    ] {
        let expected = Response { status, body: Bytes::from_static(body.as_bytes()) };
        assert_eq!(response(text), (Ok(expected), reusable), "{text:?}");
    }
}

#[test]
fn what_is_not_a_response_is_an_error() {
    let long = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(2 * HEAD_LIMIT));
    for text in [
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 099 x\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
        "SSH-2.0-x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ] {
        assert!(matches!(response(text).0, Err(ResponseError::NoResponse(_))), "{text:?}");
    }
    assert!(matches!(parsed(long.as_bytes(), 999).0, Err(ResponseError::NoResponse(_))));
    let long = "b".repeat(65);
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: 65\r\n\r\n",
        &format!("HTTP/1.1 200 OK\r\n\r\n{long}"),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n41\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n;x=y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
    ] {
        let bad_body = matches!(response(text).0, Err(ResponseError::BadBody { status: 200, .. }));
        assert!(bad_body, "{text:?}");
    }
}

/// At each bound, and one byte or line beyond it.
#[test]
fn the_bounds_hold_however_a_response_is_cut() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let start = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\na: ";
    let head = |length: usize| format!("{start}{}\r\n\r\n", "b".repeat(length - start.len() - 4));
    let lines = |count| {
        format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{}\r\n", "a: b\r\n".repeat(count - 1))
    };
    let interim = |count| format!("{}{}", "HTTP/1.1 100 Continue\r\n\r\n".repeat(count), head(100));
    let interim_bytes = |length: usize| {
        let start = "HTTP/1.1 103 x\r\na: ";
        format!("{start}{}\r\n\r\n{}", "b".repeat(length - start.len() - 4), head(100))
    };
    let extension =
        |length: usize| format!("{chunked}1;{}\r\na\r\n0\r\n\r\n", "x".repeat(length - 4));
    let extensions = |count: usize| {
        // 1018 bytes of line, 1000 of which count.
        let chunk = format!("1;{}\r\na\r\n", "x".repeat(1018 - 4));
        format!("{chunked}{}0\r\n\r\n", chunk.repeat(count))
    };
    let trailers = |length: usize| format!("{chunked}0\r\na: {}\r\n\r\n", "b".repeat(length - 7));
    let trailer_lines = |count| format!("{chunked}0\r\n{}\r\n", "a: b\r\n".repeat(count));
    let sized = |length: usize| {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "b".repeat(length))
    };
    let to_end = |length| format!("HTTP/1.1 200 OK\r\n\r\n{}", "b".repeat(length));
    let chunks = |length: usize| format!("{chunked}{}0\r\n\r\n", "1\r\na\r\n".repeat(length));
    for (name, within, beyond) in [
        ("head", head(HEAD_LIMIT), head(HEAD_LIMIT + 1)),
        ("lines", lines(HEADERS), lines(HEADERS + 1)),
        ("interim responses", interim(INTERIM_LIMIT), interim(INTERIM_LIMIT + 1)),
        ("their bytes", interim_bytes(INTERIM_BYTES), interim_bytes(INTERIM_BYTES + 1)),
        ("extension", extension(1024), extension(1025)),
        ("extensions", extensions(16), extensions(17)),
        ("trailers", trailers(1024), trailers(1025)),
        ("trailer lines", trailer_lines(16), trailer_lines(17)),
        ("sized", sized(64), sized(65)),
        ("to the end", to_end(64), to_end(65)),
        ("chunks", chunks(64), chunks(65)),
    ] {
        for step in [usize::MAX, 4096, 1000, 7, 1] {
            let (result, _) = parsed(within.as_bytes(), step);
            assert!(result.is_ok(), "{name} by {step}: {result:?}");
            let (result, reusable) = parsed(beyond.as_bytes(), step);
            assert!(result.is_err(), "{name} by {step}: {result:?}");
            assert!(!reusable, "{name} by {step}");
        }
    }
}

/// Few bytes are buffered, and the response becomes an error.
#[test]
fn an_endless_response_is_an_error() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (start, again) in [
        ("", "HTTP/1.1 100 Continue\r\n\r\n"),
        ("", "HTTP/1.1 102 Processing\r\n\r\n"),
        ("", "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"),
        ("", "\r\n"),
        ("HTTP/1.1 200 ", "x"),
        ("HTTP/1.1 200 OK\r\n", "a: b\r\n"),
        ("HTTP/1.1 200 OK\r\na: ", "b"),
        ("HTTP/1.1 200 OK\r\n\r\n", "b"),
        (chunked, "1\r\na\r\n"),
        (chunked, "0"),
        (&format!("{chunked}1;"), "x"),
        (&format!("{chunked}0\r\n"), "a: b\r\n"),
        (&format!("{chunked}0\r\na: "), "b"),
    ] {
        let mut parser = ResponseParser::new(1024);
        parser.buffer().extend_from_slice(start.as_bytes());
        let mut rounds = 0;
        while let Ok(response) = parser.advance(&mut ()) {
            assert_eq!(response, None, "{start:?} {again:?}");
            assert!(rounds <= HEAD_LIMIT, "{start:?} {again:?}");
            rounds += 1;
            parser.buffer().extend_from_slice(again.as_bytes());
            assert!(parser.received.len() <= HEAD_LIMIT + again.len());
        }
    }
}

#[test]
fn one_response_follows_another_on_a_connection() {
    let mut parser = ResponseParser::new(64);
    for (name, value) in [("a", "1"), ("b", "2")] {
        let mut seen = Seen::default();
        let text =
            format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n{name}: {value}\r\n\r\n{value}");
        parser.buffer().extend_from_slice(text.as_bytes());
        let response = parser.advance(&mut seen).unwrap().unwrap();
        assert_eq!(&response.body, value);
        assert_eq!(seen.0.last(), Some(&(name.to_owned(), value.into())));
        assert!(parser.is_reusable());
        parser.clear();
    }
}

proptest! {
    /// Responses that are good, or nearly so: cut at any byte, each is parsed as it is in one part.
    #[test]
    fn a_response_is_the_same_wherever_it_is_cut(
        interim in 0usize..3,
        status in prop_oneof![Just(200), Just(204), Just(403), Just(503)],
        framing in 0usize..5,
        body in proptest::collection::vec(any::<u8>(), 0..70),
        chunk in 1usize..9,
        after in prop_oneof![Just(""), Just("\r\n"), Just("HTTP/1.1 200 OK\r\n\r\n")],
        damaged in proptest::option::weighted(0.3, (any::<u16>(), any::<u8>())),
    ) {
        let mut bytes = "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n".repeat(interim).into_bytes();
        let fields = match framing {
            0 => format!("Content-Length: {}\r\n", body.len()),
            1 => "Transfer-Encoding: chunked\r\n".to_owned(),
            2 => format!("Content-Length: {}\r\nConnection: close\r\n", body.len()),
            3 => format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", body.len()),
            _ => String::new(),
        };
        bytes.extend(format!("HTTP/1.1 {status} x\r\n{fields}x-cos-request-id: a\r\n\r\n").bytes());
        if matches!(framing, 1 | 3) {
            for part in body.chunks(chunk) {
                bytes.extend(format!("{:x};x=y\r\n", part.len()).bytes());
                bytes.extend(part);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\nA: b\r\n\r\n");
        } else {
            bytes.extend(&body);
        }
        bytes.extend(after.bytes());
        if let Some((at, byte)) = damaged {
            let at = usize::from(at) % bytes.len();
            bytes[at] = byte;
        }
        let whole = without_causes(parsed(&bytes, usize::MAX));
        for cut in 1..bytes.len() {
            let (first, second) = bytes.split_at(cut);
            prop_assert_eq!(&without_causes(parsed_in([first, second].into_iter())), &whole, "cut at {}", cut);
        }
        prop_assert_eq!(without_causes(parsed(&bytes, 1)), whole);
    }

    /// No bytes make it panic or buffer more than its bounds, and the result does not depend on how they are cut.
    #[test]
    fn any_bytes_give_one_result_however_they_are_cut(
        picks in proptest::collection::vec(0usize..16, 0..24),
        raw in proptest::collection::vec(any::<u8>(), 0..8),
        step in 1usize..9,
    ) {
        let tokens: [&[u8]; 16] = [
            b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 x\r\n", b"HTTP/1.0 204 x\r\n", b"\r\n", b"\n",
            b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
            b"3\r\n", b"0\r\n", b"abc", b"ffffffffffffffff\r\n", b"Content-Length: ", b"x: y\r\n", b"a", &raw,
        ];
        let mut bytes = tokens[0].to_vec();
        bytes.extend(picks.iter().flat_map(|pick| tokens[*pick].iter().copied()));
        prop_assert_eq!(
            without_causes(parsed(&bytes, step)), without_causes(parsed(&bytes, usize::MAX))
        );
    }
}

#[test]
fn a_response_to_head_ends_with_its_head() {
    for (fields, is_reusable) in [
        ("Content-Length: 5000", true),
        ("Transfer-Encoding: chunked", true),
        ("ETag: x", true),
        ("Content-Length: 7\r\nConnection: close", false),
    ] {
        let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
        let mut parser = ResponseParser::new(64);
        parser.expect_no_body();
        parser.buffer().extend_from_slice(head.as_bytes());
        let response = parser.advance(&mut ()).unwrap();
        assert_eq!(response, Some(Response { status: 200, body: Bytes::new() }), "{fields}");
        assert_eq!(parser.is_reusable(), is_reusable, "{fields}");
        // A body that is sent all the same would be read as the next response.
        parser.buffer().extend_from_slice(b"body");
        assert!(!parser.is_reusable());

        parser.clear();
        parser.buffer().extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        let next = parser.advance(&mut ()).unwrap();
        assert_eq!(next, Some(Response { status: 200, body: Bytes::from_static(b"ok") }));
    }
}
