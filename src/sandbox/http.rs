//! HTTP/1.1 messages as values: parsed request heads, responses, and errors of a connection. Strict wherever a lenient
//! server would hide a mistake of the client. Does no input or output.

use std::fs::File;
use std::io;

use bytes::Bytes;
use percent_encoding::percent_decode_str;

#[derive(Debug, thiserror::Error)]
pub enum ConnError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the client closed the connection in the middle of a message")]
    Closed,
    #[error("{0}")]
    BadRequest(&'static str),
}

pub struct Head {
    pub method: String,
    /// Percent-decoded; starts with `/`.
    pub path: String,
    pub query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    pub length: Option<u64>,
    pub chunked: bool,
    pub keep_alive: bool,
}

impl Head {
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }
}

pub enum Content {
    Bytes(Bytes),
    File(File, u64),
}

impl Content {
    pub fn length(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::File(_, length) => *length,
        }
    }
}

pub struct Response {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    /// Headers that were stored with an object.
    pub metadata: Vec<(String, String)>,
    pub content: Content,
}

impl Response {
    pub fn new(status: u16, content_type: &str, content: impl Into<Bytes>) -> Response {
        let headers = vec![("Content-Type", content_type.to_owned())];
        Response::with_headers(status, headers, Content::Bytes(content.into()))
    }

    pub fn with_headers(
        status: u16,
        headers: Vec<(&'static str, String)>,
        content: Content,
    ) -> Response {
        Response { status, headers, metadata: Vec::new(), content }
    }

    pub fn json(value: &serde_json::Value) -> Response {
        Response::new(200, "application/json; charset=UTF-8", value.to_string())
    }

    /// Whether responses with its status have neither content nor its length.
    pub fn is_without_content(&self) -> bool {
        matches!(self.status, 204 | 304)
    }

    pub fn text(status: u16, text: impl Into<String>) -> Response {
        Response::new(status, "text/plain; charset=utf-8", text.into())
    }
}

/// The head at the start of these bytes, and its length; `None` if it is incomplete.
pub fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, ConnError> {
    // httparse skips empty lines before a request. Here they mean that the last request was longer than its length.
    if matches!(bytes.first(), Some(b'\r' | b'\n')) {
        return Err(ConnError::BadRequest("the request is longer than its Content-Length"));
    }
    let mut headers = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(ConnError::BadRequest("not an HTTP request")),
    };
    if request.version != Some(1) {
        return Err(ConnError::BadRequest("HTTP/1.1 only"));
    }
    let mut fields = Vec::with_capacity(request.headers.len());
    for header in request.headers.iter() {
        let value = std::str::from_utf8(header.value)
            .map_err(|_| ConnError::BadRequest("a header that is not UTF-8"))?;
        fields.push((header.name.to_owned(), value.trim().to_owned()));
    }
    let (path, query) = parse_target(request.path.unwrap_or_default())?;
    let (length_field, chunked) = body_length(&fields)?;
    let closes = fields.iter().any(|(name, value)| {
        name.eq_ignore_ascii_case("connection")
            && value.split(',').any(|v| v.trim().eq_ignore_ascii_case("close"))
    });
    let head = Head {
        method: request.method.unwrap_or_default().to_owned(),
        path,
        query,
        headers: fields,
        length: length_field,
        chunked,
        keep_alive: !closes,
    };
    Ok(Some((head, length)))
}

type Pairs = Vec<(String, String)>;

fn parse_target(target: &str) -> Result<(String, Pairs), ConnError> {
    let wrong = || ConnError::BadRequest("a wrong request target");
    if !target.starts_with('/') {
        return Err(wrong());
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = percent_decode_str(path).decode_utf8().map_err(|_| wrong())?;
    let mut pairs = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decode = |text: &str| {
            let text = text.replace('+', " ");
            percent_decode_str(&text)
                .decode_utf8()
                .map(|text| text.into_owned())
                .map_err(|_| wrong())
        };
        pairs.push((decode(name)?, decode(value)?));
    }
    Ok((path.into_owned(), pairs))
}

/// The body's length, and whether it is chunked. An ambiguous request is refused.
fn body_length(headers: &[(String, String)]) -> Result<(Option<u64>, bool), ConnError> {
    let all = |wanted: &str| -> Vec<&str> {
        let found = headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.as_str()).collect()
    };
    if all("host").len() != 1 {
        return Err(ConnError::BadRequest("a request needs one Host"));
    }
    let chunked = match all("transfer-encoding")[..] {
        [] => false,
        [coding] if coding.eq_ignore_ascii_case("chunked") => true,
        _ => return Err(ConnError::BadRequest("an unknown Transfer-Encoding")),
    };
    let length = match all("content-length")[..] {
        [] => None,
        [digits] if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            let length = digits.parse();
            Some(length.map_err(|_| ConnError::BadRequest("a Content-Length that is too large"))?)
        }
        _ => return Err(ConnError::BadRequest("a wrong Content-Length")),
    };
    if chunked && length.is_some() {
        return Err(ConnError::BadRequest("Content-Length and Transfer-Encoding together"));
    }
    Ok((length, chunked))
}

pub fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        206 => "Partial Content",
        302 => "Found",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        412 => "Precondition Failed",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}
