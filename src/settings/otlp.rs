//! The settings of `telemetry.otlp_*`: where the spans of requests are exported to, and of how many requests.

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};

use super::layers::Reader;
use super::values;

const ENDPOINT: &str = "telemetry.otlp_endpoint";
/// Bytes of `telemetry.otlp_headers`.
const MAX_HEADERS: usize = 8 * 1024;
/// Headers that the exporter sets itself.
const OWN_HEADERS: [&str; 6] =
    ["connection", "content-length", "content-type", "host", "transfer-encoding", "user-agent"];

/// The export of spans.
#[derive(Clone, Debug)]
pub struct Otlp {
    /// Without a query and a trailing slash. `None`: no request is traced.
    pub endpoint: Option<String>,
    /// As they were set; [`Otlp::fields`] takes them apart.
    pub headers: Option<SecretString>,
    /// From 0 to 1: the share of requests that are traced, of those whose client has not decided it.
    pub ratio: f64,
}

impl Otlp {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let ratio = reader.scalar("telemetry.otlp_ratio", ratio);
        Self {
            endpoint: reader.optional(ENDPOINT, values::base_url),
            headers: reader.optional("telemetry.otlp_headers", |text| {
                fields(text)?;
                Ok(text.to_owned().into())
            }),
            ratio: reader.require("telemetry.otlp_ratio", ratio).unwrap_or_default(),
        }
    }

    /// The headers' names and values, which are printable ASCII.
    pub fn fields(&self) -> Vec<(String, SecretString)> {
        let headers = self.headers.as_ref().map(|headers| fields(headers.expose_secret()));
        headers.and_then(Result::ok).unwrap_or_default()
    }

    /// `is_built`: this binary can export spans.
    pub(super) fn check(&self, is_built: bool, reader: &mut Reader) {
        if self.endpoint.is_some() && !is_built {
            reader.fault(
                ENDPOINT,
                "is set, but this binary cannot export spans: build it with `--features otlp`, or take a binary or an \
                 image of a release",
            );
        }
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| "is not a number from 0 to 1".to_owned())
}

/// `name=value,name=value`, with percent-encoded values, as `OTEL_EXPORTER_OTLP_HEADERS`.
fn fields(text: &str) -> Result<Vec<(String, SecretString)>, String> {
    if text.len() > MAX_HEADERS {
        return Err(format!("is longer than {MAX_HEADERS} bytes"));
    }
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs.map(field).collect()
}

fn field(pair: &str) -> Result<(String, SecretString), String> {
    let (name, value) = pair.split_once('=').ok_or(
        "is not a list of headers: name=value, separated by commas; a comma in a value is %2C",
    )?;
    let name = name.trim().to_ascii_lowercase();
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err("has a name that is none of a header".to_owned());
    }
    if OWN_HEADERS.contains(&name.as_str()) {
        return Err(format!("has the header {name}, which the gateway sets itself"));
    }
    let value = percent_decode_str(value.trim()).decode_utf8().unwrap_or_default();
    if value.is_empty() || !value.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err("has a header without a value of printable ASCII characters".to_owned());
    }
    Ok((name, value.into_owned().into()))
}
