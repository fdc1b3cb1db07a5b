//! The syntax of single values: each function parses a text and returns the value, or the problem, which is worded to
//! be printed after the value ("… is not a whole number"). Knows neither keys nor layers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytesize::ByteSize;
use ipnet::IpNet;
use secrecy::SecretString;

use crate::key::Key;

/// In bytes: the most that COS accepts in one form or one PUT (doc 14690).
pub const COS_MAX_FORM: u64 = 5 << 30;
/// In bytes: the least and the most of a part that is not the last one (doc 7750).
pub const COS_MIN_PART: u64 = 1 << 20;
pub const COS_MAX_PART: u64 = 5 << 30;
/// Parts of a file.
pub const COS_MAX_PARTS: u64 = 10_000;
/// In bytes: the most that COS accepts in parts.
pub const COS_MAX_FILE_SIZE: u64 = COS_MAX_PARTS * COS_MAX_PART;

/// The least value of a duration that must not be zero: timers count in milliseconds.
pub(super) const MIN_DURATION: Duration = Duration::from_millis(1);

/// Longer than any useful timeout, and short enough that adding it to an `Instant` does not overflow.
const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);

const RATE_UNITS: [(&str, u64); 3] = [("s", 1), ("m", 60), ("h", 3600)];

/// The placeholders of `upload.path_template`.
const PLACEHOLDERS: [&str; 8] = ["yyyy", "mm", "dd", "uuid", "ext", "client", "dir", "name"];

/// A number of requests per period. All of them may come at once where none came for a whole period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    pub requests: NonZeroU32,
    /// A second, a minute or an hour.
    pub per: Duration,
}

pub(super) fn number(text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("is not a whole number from {} to {}", range.start(), range.end()))
}

pub(super) fn size(text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let Ok(ByteSize(bytes)) = text.parse() else {
        return Err(
            "is not a size such as \"256KiB\" or \"20MiB\", or a number of bytes".to_owned()
        );
    };
    if bytes < *range.start() {
        return Err(format!("is too small: at least {}", size_text(*range.start())));
    }
    if bytes > *range.end() {
        return Err(format!("is too large: at most {}", size_text(*range.end())));
    }
    Ok(bytes)
}

/// A size exactly, in the largest unit that divides it; reads back as the same number.
pub(super) fn size_text(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = UNITS.iter().find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or_else(|| format!("{bytes}B"), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

pub(super) fn duration(text: &str, least: Duration) -> Result<Duration, String> {
    let Ok(duration) = humantime::parse_duration(text) else {
        return Err(
            "is not a duration with its unit, such as \"500ms\", \"30s\" or \"2h\"".to_owned()
        );
    };
    if duration < least {
        return Err(format!("is too short: at least {}", humantime::format_duration(least)));
    }
    if duration > MAX_DURATION {
        return Err("is too long: at most a year".to_owned());
    }
    Ok(duration)
}

pub(super) fn text(text: &str) -> Result<String, String> {
    match text.chars().any(char::is_control) {
        true => Err("has control characters".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// The value of a header that COS stores with each file.
pub(super) fn header_value(text: &str) -> Result<String, String> {
    const MAX_LENGTH: usize = 256;
    let is_printable = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    match is_printable && text.len() <= MAX_LENGTH {
        true => Ok(text.to_owned()),
        false => {
            Err(format!("is not a header's value: at most {MAX_LENGTH} printable ASCII characters"))
        }
    }
}

/// An id that becomes part of the vendor's URLs and JSON.
pub(super) fn id(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match text.chars().all(plain) {
        true => Ok(text.to_owned()),
        false => Err("is not an id: letters, digits, `-`, `_` and `.`".to_owned()),
    }
}

/// The URL of a bucket, with the placeholders `{bucket}` and `{region}` or without.
pub(super) fn cos_endpoint(text: &str) -> Result<String, String> {
    let filled = text.replace("{bucket}", "bucket").replace("{region}", "region");
    if filled.contains(['{', '}']) {
        return Err("has a placeholder that is neither {bucket} nor {region}".to_owned());
    }
    base_url(&filled)?;
    Ok(text.trim_end_matches('/').to_owned())
}

/// A secret. White space is an error: files and copying add line ends and blanks, and WeChat would only say that the
/// secret is wrong.
pub(super) fn secret(text: &str) -> Result<SecretString, String> {
    match text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        true => Err("has white space or control characters in it".to_owned()),
        false => Ok(text.to_owned().into()),
    }
}

/// `redis[s]://[[USER]:PASSWORD@]HOST[:PORT][/DB]`, or `unix:///PATH`. No `#insecure`: certificates are verified.
pub(super) fn redis_url(text: &str) -> Result<SecretString, String> {
    match redis::parse_redis_url(text) {
        Some(url)
            if url.fragment().is_none()
                && ["redis", "rediss", "redis+unix", "unix"].contains(&url.scheme()) =>
        {
            Ok(text.to_owned().into())
        }
        _ => Err("is not a Redis URL such as redis://:PASSWORD@HOST:6379/0".to_owned()),
    }
}

/// A secret (for HS256) or a key in PEM, whose line ends are preserved. Whether it fits the algorithm is checked in
/// `rules`.
pub(super) fn jwt_key(text: &str) -> Result<SecretString, String> {
    match text.trim() {
        pem if pem.starts_with("-----BEGIN ") => Ok(pem.to_owned().into()),
        _ => secret(text),
    }
}

/// A secret that only the gateway uses: it must be too long to be guessed by trial.
pub(super) fn signing_key(text: &str) -> Result<SecretString, String> {
    const MIN_LENGTH: usize = 16;
    match text.len() < MIN_LENGTH {
        true => Err(format!("is shorter than {MIN_LENGTH} characters: openssl rand -hex 32")),
        false => secret(text),
    }
}

pub(super) fn sealing_key(text: &str) -> Result<SecretString, String> {
    const MIN_LENGTH: usize = 32;
    match text.len() < MIN_LENGTH {
        true => Err(format!("is shorter than {MIN_LENGTH} bytes: openssl rand -hex 32")),
        false => secret(text),
    }
}

/// A secret of Standard Webhooks: `whsec_` and the base64 of 24 to 64 bytes.
pub(super) fn webhook_secret(text: &str) -> Result<SecretString, String> {
    let encoded = text.strip_prefix("whsec_");
    let key = encoded.and_then(|encoded| STANDARD.decode(encoded).ok());
    match key {
        Some(key) if (24..=64).contains(&key.len()) => Ok(text.to_owned().into()),
        _ => Err("is not `whsec_` and the base64 of 24 to 64 bytes: \
                  echo whsec_$(openssl rand -base64 32)"
            .to_owned()),
    }
}

pub(super) fn digest(text: &str) -> Result<[u8; 32], String> {
    // The output of `printf %s "$KEY" | sha256sum` where KEY is not set.
    const OF_EMPTY_TEXT: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let text = text.trim();
    let mut digest = [0; 32];
    if hex::decode_to_slice(text, &mut digest).is_err() {
        return Err("is not a SHA-256: 64 hexadecimal digits".to_owned());
    }
    match text.eq_ignore_ascii_case(OF_EMPTY_TEXT) {
        true => Err("is the SHA-256 of an empty text, not of a key".to_owned()),
        false => Ok(digest),
    }
}

/// `10.0.0.0/8`, `::1/128`, or one IP address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let network = text.parse::<IpNet>().or_else(|_| address());
    network.map(|network| network.trunc()).map_err(|_| {
        "is neither an IP address nor a network such as 10.0.0.0/8 or fd00::/8".to_owned()
    })
}

/// `100/s`, `600/m`, `1000/h`.
pub(super) fn rate(text: &str) -> Result<Rate, String> {
    let rate = || {
        let (requests, unit) = text.split_once('/')?;
        let (_, per) = RATE_UNITS.iter().find(|(name, _)| *name == unit.trim())?;
        Some(Rate { requests: requests.trim().parse().ok()?, per: Duration::from_secs(*per) })
    };
    rate().ok_or_else(|| "is not a rate such as \"10/s\", \"600/m\" or \"1000/h\"".to_owned())
}

/// The text that [`rate`] parses as the same rate.
pub(super) fn rate_text(rate: Rate) -> String {
    let unit = RATE_UNITS.iter().find(|(_, per)| *per == rate.per.as_secs());
    format!("{}/{}", rate.requests, unit.map_or("s", |(name, _)| name))
}

/// `image/png`, `image/*` or `*/*`, lower case.
/// A media type or `image/*`, in lower case.
pub fn media_type(text: &str) -> Result<String, String> {
    let token = |part: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b);
        part == "*" || (!part.is_empty() && part.bytes().all(plain))
    };
    match text.split_once('/') {
        Some((kind, subtype))
            if token(kind) && token(subtype) && (kind != "*" || subtype == "*") =>
        {
            Ok(text.to_ascii_lowercase())
        }
        _ => Err("is not a media type such as image/png, or image/* for all of a kind".to_owned()),
    }
}

pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "is not IP:PORT, such as 127.0.0.1:8080 or [::1]:8080 (names such as localhost are not resolved)".to_owned()
    })
}

/// An http(s) URL that paths are appended to: without a query; a trailing slash is removed.
pub(super) fn base_url(text: &str) -> Result<String, String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err("is not a URL: it begins with https:// or http://".to_owned());
    };
    let scheme = scheme.to_ascii_lowercase();
    if !["http", "https"].contains(&scheme.as_str()) {
        return Err("is not an http:// or https:// URL".to_owned());
    }
    if rest.contains(['?', '#']) {
        return Err("has a query or a fragment; a base URL must have neither".to_owned());
    }
    if rest.contains('@') {
        return Err("has user info, which is not supported".to_owned());
    }
    if !rest.chars().all(|c| c.is_ascii_graphic() && !"\\\"<>^`{|}".contains(c)) {
        return Err(
            "has characters that must be percent-encoded in a URL (in a host: punycode)".to_owned()
        );
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let authority = Authority::parse(authority)?;
    Ok(format!("{scheme}://{authority}{}", path.trim_end_matches('/')))
}

/// An origin as a browser or an app's web view sends it: scheme, host, and the port where it is not the scheme's
/// default. With the schemes of apps and files the host may have another form, or be missing: `file://`, `app://.`.
pub(super) fn origin(text: &str) -> Result<String, String> {
    if text == "null" {
        return Ok(text.to_owned());
    }
    if text.contains('*') {
        return Err("has a wildcard; origins are listed one by one".to_owned());
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err("is not an origin such as https://www.example.com".to_owned());
    };
    if rest.contains(['/', '?', '#']) {
        return Err(
            "continues after the host; an origin has no path and no trailing slash".to_owned()
        );
    }
    let scheme = scheme.to_ascii_lowercase();
    let mut letters = scheme.chars();
    if !letters.next().is_some_and(|c| c.is_ascii_alphabetic())
        || !letters.all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    {
        return Err("does not begin with a scheme such as https://".to_owned());
    }
    if !["http", "https"].contains(&scheme.as_str()) {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        return match rest.bytes().all(plain) {
            true => Ok(format!("{scheme}://{}", rest.to_ascii_lowercase())),
            false => Err("has a host with characters that are invalid there".to_owned()),
        };
    }
    let mut authority = Authority::parse(rest)?;
    if matches!((scheme.as_str(), authority.port), ("https", Some(443)) | ("http", Some(80))) {
        authority.port = None;
    }
    Ok(format!("{scheme}://{authority}"))
}

/// `host`, `*.host` or an IP literal, with or without a port; lower case, IPv6 in brackets.
pub(super) fn host_pattern(text: &str) -> Result<String, String> {
    if text.contains('/') {
        return Err("is not a host: leave out the scheme and the path".to_owned());
    }
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Ok(format!("[{address}]"));
    }
    match text.strip_prefix("*.") {
        Some(parent) => {
            let parent = Authority::parse(parent)?;
            match parent.is_name() {
                true => Ok(format!("*.{parent}")),
                false => Err("has a wildcard before an IP address".to_owned()),
            }
        }
        None if text.contains('*') => {
            Err("has a wildcard that is not a leading `*.` before a host".to_owned())
        }
        None => Authority::parse(text).map(|authority| authority.to_string()),
    }
}

/// Checks the syntax only; the rules for objects' paths are in `key.rs`.
pub(super) fn path_template(text: &str) -> Result<String, String> {
    let mut distinct = false;
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let Some(after) = rest[at..].strip_prefix('{') else {
            return Err("has a `}` without its `{`".to_owned());
        };
        let Some((name, remainder)) = after.split_once('}') else {
            return Err("has a `{` without its `}`".to_owned());
        };
        if !PLACEHOLDERS.contains(&name) {
            let known = PLACEHOLDERS.map(|name| format!("{{{name}}}")).join(" ");
            return Err(format!("has the unknown placeholder {{{name}}}; there are {known}"));
        }
        distinct |= ["uuid", "name"].contains(&name);
        rest = remainder;
    }
    if !distinct {
        return Err("has neither {uuid} nor {name}: every upload would overwrite the previous one"
            .to_owned());
    }
    if text.starts_with('/') || text.ends_with('/') {
        return Err(
            "begins or ends with a slash; it is a path such as uploads/{uuid}{ext}".to_owned()
        );
    }
    self::text(text)
}

/// A folder of objects, with a slash at its end.
pub(super) fn folder(text: &str) -> Result<String, String> {
    let inner = text.strip_suffix('/').unwrap_or(text);
    let folder = Key::parse(inner)
        .map_err(|error| format!("is not a folder like panel/ or panel/images/: {error}"))?;
    Ok(format!("{folder}/"))
}

/// `cloud://ENV.BUCKET`, without a trailing slash.
pub(super) fn file_id_prefix(text: &str) -> Result<String, String> {
    let form = || "is not of the form cloud://ENV.BUCKET".to_owned();
    let name = text.strip_prefix("cloud://").ok_or_else(form)?;
    let name = id(name.strip_suffix('/').unwrap_or(name)).map_err(|_| form())?;
    match name.split_once('.') {
        Some((env, bucket)) if !env.is_empty() && !bucket.is_empty() => {
            Ok(format!("cloud://{name}"))
        }
        _ => Err(form()),
    }
}

/// Host and port of a URL; lower case.
struct Authority {
    host: String,
    port: Option<u16>,
}

impl Authority {
    fn parse(text: &str) -> Result<Self, String> {
        let not_a_host =
            || "has no valid host (letters, digits, `-`, `.`; IPv6 in brackets)".to_owned();
        let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(None) => return Err(not_a_host()),
            Some(Some((address, rest))) => {
                let address: Ipv6Addr = address.parse().map_err(|_| not_a_host())?;
                let port = rest.strip_prefix(':');
                if port.is_none() && !rest.is_empty() {
                    return Err(not_a_host());
                }
                (format!("[{address}]"), port)
            }
            None => {
                let (host, port) =
                    text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
                if !is_host(host) {
                    return Err(not_a_host());
                }
                (host.to_ascii_lowercase(), port)
            }
        };
        let port = port.map(|port| match port.bytes().all(|b| b.is_ascii_digit()) {
            true => port.parse().ok().filter(|port| *port != 0),
            false => None,
        });
        match port {
            Some(None) => Err("has no valid port (1 to 65535)".to_owned()),
            port => Ok(Self { host, port: port.flatten() }),
        }
    }

    /// Whether the host is a name, not an IP address.
    fn is_name(&self) -> bool {
        !self.host.starts_with('[') && self.host.parse::<Ipv4Addr>().is_err()
    }
}

impl std::fmt::Display for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A host whose last label is a number is an IPv4 address (WHATWG URL), so 10.0.0.256 is not a valid host.
    let numeric =
        text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    text.len() <= 253
        && text.split('.').all(label)
        && (!numeric || text.parse::<Ipv4Addr>().is_ok())
}
