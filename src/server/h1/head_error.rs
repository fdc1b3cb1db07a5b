//! Why a request's head is refused, and the limits that a head has.

/// Bytes of a head, its blank line included.
pub const MAX_HEAD: usize = 32 * 1024;
/// Bytes of a request's target, which percent-encoding may treble; the `http` crate takes no more.
pub(super) const MAX_TARGET: usize = u16::MAX as usize - 1;
/// Header fields of a head; actix-http takes no more.
pub const MAX_FIELDS: usize = 96;

/// Why a head is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("the connection carries something other than HTTP/1.1")]
    NotHttp,
    #[error("the first line is not of the form `METHOD /path HTTP/1.1`")]
    RequestLine,
    #[error("the request line's version is neither HTTP/1.1 nor HTTP/1.0")]
    Version,
    /// What the URL contains, and how it is percent-encoded.
    #[error("the request's URL contains {0}, which must be percent-encoded ({1})")]
    Target(&'static str, &'static str),
    #[error("the request's URL contains bytes that are not UTF-8: percent-encode it in UTF-8")]
    TargetEncoding,
    #[error("the request's URL has more than {MAX_TARGET} bytes once it is percent-encoded")]
    TargetTooLong,
    #[error("the request's URL does not begin with `/`")]
    TargetForm,
    #[error("CONNECT is for proxies, and this server is not a proxy")]
    Connect,
    /// The line's number, from 1.
    #[error(
        "line {0} of the request's head begins with white space: a header field must be in one line (RFC 9112, 5.2)"
    )]
    FoldedField(usize),
    /// The line's number, from 1.
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
    #[error("the only supported Transfer-Encoding is `chunked`, once, in HTTP/1.1")]
    TransferEncoding,
    #[error("an HTTP/1.0 POST needs a Content-Length")]
    LengthRequired,
    /// Seconds.
    #[error("the request's head did not arrive within {0} s")]
    TimedOut(u64),
}
