//! The calls to the deployment, and what its responses say: an upload, the download of a stored file, a deletion.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER,
};
use hyper::{Method, Request, Uri};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::arguments::RunPlan;
use super::connection::{Body, Client, ConnectionError, Whole, body};
use super::request::{Content, file};

/// The stages of `Server-Timing`, by the gateway's names for them.
pub const STAGES: [&str; 4] = ["link", "send", "verdict", "hook"];

const BOUNDARY: &str = "----tcb-upload-gateway-bench-7MA4YWxkTrZu0gWq";
/// Up to this size in bytes a form is one run, which one system call can send.
const ONE_RUN: u64 = 1 << 20;
/// What the deployment says of an error is cut to this many characters.
const MAX_TEXT: usize = 300;

/// A form with one file, the same for each upload.
pub struct Form {
    runs: Vec<Bytes>,
    length: u64,
    /// The file alone.
    pub content: Vec<Bytes>,
    crc: String,
}

/// Why an upload or a deletion failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Connection(#[from] ConnectionError),
    #[error("{status} {code}: {detail} (request {request_id})")]
    Refused {
        status: u16,
        code: String,
        detail: String,
        request_id: String,
        retry_after: Option<Duration>,
    },
    #[error("{status}, a redirect to {location}, which is not followed")]
    Redirected { status: u16, location: String },
    #[error("{status}, and not a response as the gateway's")]
    NotAGateway { status: u16, retry_after: Option<Duration> },
    #[error("the CRC-64 of the stored file differs")]
    Damaged { file_id: String },
}

impl Failure {
    /// Failures with the same label are counted together.
    pub fn label(&self) -> String {
        match self {
            Self::Connection(ConnectionError::Unreachable { .. }) => "unreachable".to_owned(),
            Self::Connection(ConnectionError::TimedOut(_)) => "timed out".to_owned(),
            Self::Connection(_) => "connection broken".to_owned(),
            Self::Refused { status, code, .. } => format!("{status} {code}"),
            Self::Redirected { status, .. } => format!("{status} redirect"),
            Self::NotAGateway { status, .. } => format!("{status} not a gateway's response"),
            Self::Damaged { .. } => "CRC-64 differs".to_owned(),
        }
    }

    /// Whether the file may be stored, although no response says so.
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            Self::Connection(error) => !matches!(error, ConnectionError::Unreachable { .. }),
            // COS may have stored a file whose verdict the gateway did not get; 503 is sent before that.
            Self::Refused { status, .. } | Self::NotAGateway { status, .. } => {
                *status >= 500 && *status != 503
            }
            Self::Redirected { .. } | Self::Damaged { .. } => false,
        }
    }

    /// How long to wait, if the deployment refused because it is busy.
    pub fn pause(&self) -> Option<Duration> {
        match self {
            Self::Refused { status: 429 | 503, retry_after, .. }
            | Self::NotAGateway { status: 429 | 503, retry_after } => {
                Some(retry_after.unwrap_or(Duration::from_secs(1)))
            }
            _ => None,
        }
    }
}

/// A stored file.
#[derive(Debug)]
pub struct Stored {
    pub file_id: String,
    pub path: String,
    pub url: String,
    /// Milliseconds of each of [`STAGES`], where the response tells them.
    pub stages: [Option<f64>; STAGES.len()],
}

impl Form {
    pub fn new(size: u64) -> Self {
        let (content, crc) = file(Content::Random, size);
        let opening = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"bench.bin\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        let closing = format!("\r\n--{BOUNDARY}--\r\n");
        let length = size + (opening.len() + closing.len()) as u64;
        let mut runs = vec![Bytes::from(opening)];
        runs.extend(content.iter().cloned());
        runs.push(closing.into());
        if length <= ONE_RUN {
            runs = vec![runs.concat().into()];
        }
        Self { runs, length, content, crc: crc.to_string() }
    }
}

/// The deployment's calls, in the name of one run.
pub struct Calls<'a> {
    pub plan: &'a RunPlan,
    /// The run's name: part of its files' folder and of its requests' ids.
    pub run: String,
}

impl Calls<'_> {
    /// The path of an upload, if the run chooses it.
    pub fn path(&self, name: &str) -> Option<String> {
        let prefix = self.plan.prefix.as_ref()?;
        Some(format!("{}/{}/{name}", prefix.trim_end_matches('/'), self.run))
    }

    /// Uploads the form's file.
    pub async fn upload(
        &self,
        client: &mut Client,
        form: &Form,
        name: &str,
    ) -> Result<Stored, Failure> {
        let folder = match self.path(name) {
            Some(path) => format!("path={}", utf8_percent_encode(&path, NON_ALPHANUMERIC)),
            // A folder for templates that have one.
            None => format!("dir=bench%2F{}", self.run),
        };
        let mut request = self.request(
            Method::POST,
            &format!("/v1/files?reply=default&{folder}"),
            body(form.runs.clone()),
        )?;
        let kind = format!("multipart/form-data; boundary={BOUNDARY}");
        set(request.headers_mut(), CONTENT_TYPE.as_str(), &kind);
        set(request.headers_mut(), CONTENT_LENGTH.as_str(), &form.length.to_string());
        set(request.headers_mut(), "x-request-id", &format!("bench-{}-{name}", self.run));
        let response = client.exchange(request).await?;
        let told: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        let file = &told["files"][0];
        let text = |name: &str| file[name].as_str().unwrap_or_default().to_owned();
        if response.status != 201 || !file["file_id"].is_string() {
            return Err(self.failure(&response));
        }
        if file["crc64"].as_str().is_some_and(|crc| crc != form.crc) {
            return Err(Failure::Damaged { file_id: text("file_id") });
        }
        let stages = stages(&response.headers);
        Ok(Stored { file_id: text("file_id"), path: text("path"), url: text("url"), stages })
    }

    /// Downloads a stored file by its URL and compares it. The key is sent to the deployment's own origin only.
    pub async fn compare(&self, client: &Client, url: &str, form: &Form) -> Result<(), Comparison> {
        let failed = |cause: String| Comparison::NotCompared(self.clean(&cause));
        let mut url: Uri = url.parse().map_err(|_| failed(format!("no URL: {url:?}")))?;
        let mut is_first = true;
        for _ in 0..3 {
            let mut there = client.to(&url).map_err(|error| failed(error.to_string()))?;
            let path = url.path_and_query().map_or("/", |path| path.as_str());
            let mut request = Request::get(path).body(body(Vec::new()));
            if let (Ok(request), Some(key)) = (&mut request, &self.plan.authorization)
                && is_first
                && (url.scheme(), url.authority())
                    == (self.plan.base.scheme(), self.plan.base.authority())
            {
                request.headers_mut().insert(AUTHORIZATION, key.clone());
            }
            let request = request.map_err(|error| failed(error.to_string()))?;
            let response = there.exchange(request).await;
            let response = response.map_err(|error| failed(error.to_string()))?;
            let location = response.headers.get(LOCATION).and_then(|to| to.to_str().ok());
            match (response.status, location) {
                (200, _) if response.body == form.content.concat() => return Ok(()),
                (200, _) => return Err(Comparison::Differs),
                (300..=399, Some(to)) => {
                    url = to.parse().map_err(|_| failed("a redirect to no URL".to_owned()))?;
                    is_first = false;
                }
                (status, _) => {
                    let host = url.authority().map_or("", |authority| authority.as_str());
                    return Err(failed(format!("{status} from {host}")));
                }
            }
        }
        Err(failed("too many redirects".to_owned()))
    }

    /// Deletes files by their ids or paths; returns those that were not deleted, and why the first was not.
    pub async fn delete(
        &self,
        client: &mut Client,
        files: &[String],
    ) -> Result<Vec<(String, String)>, Failure> {
        let list = json!({"files": files}).to_string();
        let mut request =
            self.request(Method::POST, "/v1/delete", body(vec![Bytes::from(list)]))?;
        set(request.headers_mut(), CONTENT_TYPE.as_str(), "application/json");
        let response = client.exchange(request).await?;
        let told: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        let Some(results) = told["files"].as_array().filter(|_| response.status < 300) else {
            return Err(self.failure(&response));
        };
        let mut remaining = Vec::new();
        for (index, file) in files.iter().enumerate() {
            let result = results.get(index);
            if result.is_none_or(|result| result["deleted"] != true) {
                let error = result.and_then(|result| result["error"]["detail"].as_str());
                remaining.push((file.clone(), self.clean(error.unwrap_or("no result"))));
            }
        }
        Ok(remaining)
    }

    /// The gateway's version, by its metrics or else by its description; `None` if neither is readable.
    pub async fn version(&self, client: &mut Client) -> Option<String> {
        let mut told = None;
        for path in ["/metrics", "/openapi.json"] {
            let request = self.request(Method::GET, path, body(Vec::new())).ok()?;
            let response = client.exchange(request).await.ok()?;
            if response.status != 200 {
                continue;
            }
            let text = String::from_utf8_lossy(&response.body);
            let metric = text.split_once("gateway_build_info{version=\"").map(|(_, rest)| rest);
            let description: Value = serde_json::from_str(&text).unwrap_or_default();
            told = metric
                .and_then(|rest| Some(rest.split_once('"')?.0.to_owned()))
                .or_else(|| description["info"]["version"].as_str().map(ToOwned::to_owned));
            if told.is_some() {
                break;
            }
        }
        told.map(|version| self.clean(&version))
    }

    fn request(&self, method: Method, path: &str, body: Body) -> Result<Request<Body>, Failure> {
        let base = self.plan.base.path().trim_end_matches('/');
        let invalid = |_| ConnectionError::Url(self.plan.base.clone());
        let mut request = Request::builder().method(method).uri(format!("{base}{path}"));
        if let Some(key) = &self.plan.authorization {
            request = request.header(AUTHORIZATION, key.clone());
        }
        Ok(request.body(body).map_err(invalid)?)
    }

    fn failure(&self, response: &Whole) -> Failure {
        let header = |name: &str| response.headers.get(name).and_then(|value| value.to_str().ok());
        let retry_after = header(RETRY_AFTER.as_str()).and_then(|text| text.trim().parse().ok());
        let retry_after = retry_after.map(Duration::from_secs);
        let status = response.status;
        if let (300..=399, Some(location)) = (status, header(LOCATION.as_str())) {
            return Failure::Redirected { status, location: self.clean(location) };
        }
        let problem: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        let code = problem["code"].as_str().filter(|code| is_code(code));
        let (Some(code), Some(detail)) = (code, problem["detail"].as_str()) else {
            return Failure::NotAGateway { status, retry_after };
        };
        Failure::Refused {
            status,
            code: code.to_owned(),
            detail: self.clean(detail),
            request_id: self.clean(problem["request_id"].as_str().unwrap_or("without an id")),
            retry_after,
        }
    }

    /// A text of the deployment for the terminal: without the key, control characters and great length.
    pub fn clean(&self, text: &str) -> String {
        let text = match self.plan.key() {
            Some(key) => text.replace(key, "[key]"),
            None => text.to_owned(),
        };
        let readable = |character: char| if character.is_control() { ' ' } else { character };
        text.chars().take(MAX_TEXT).map(readable).collect()
    }
}

/// Why a downloaded file was not the uploaded one.
#[derive(Debug, thiserror::Error)]
pub enum Comparison {
    #[error("the downloaded file differs from the uploaded one")]
    Differs,
    #[error("not compared: {0}")]
    NotCompared(String),
}

fn is_code(code: &str) -> bool {
    (1..=40).contains(&code.len())
        && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = value.try_into() {
        headers.insert(name, value);
    }
}

/// `link;dur=60.1, send;dur=1.2`
fn stages(headers: &HeaderMap) -> [Option<f64>; STAGES.len()] {
    let text = headers.get("server-timing").and_then(|value| value.to_str().ok());
    let entries: Vec<_> = text.unwrap_or_default().split(',').collect();
    STAGES.map(|stage| {
        let entry = entries.iter().find_map(|entry| entry.trim().strip_prefix(stage));
        let duration: f64 = entry?.strip_prefix(";dur=")?.parse().ok()?;
        (0.0..=3_600_000.0).contains(&duration).then_some(duration)
    })
}
