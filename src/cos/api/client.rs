//! A worker's client of one bucket: it makes small calls as a whole, and gives the heads of the requests whose bodies
//! are streamed.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::credentials::Credentials;
use super::endpoint::BucketEndpoint;
use super::keys::Keys;
use super::request::Request;
use super::response::{ApiResponse, ObjectHeaders, Stored};
use super::sign::unix_now;
use crate::cos::error::CosError;
use crate::cos::upstream::{Timeouts, connect_error};
use crate::cos::verdict::is_success;
use crate::net::http_client::call::{Call, CallError};
use crate::net::http_client::{Endpoint, IDLE_TIMEOUT, Pool, SAFE_IDLE_TIME};

/// Bytes of a response: List Parts and List Multipart Uploads give up to 1,000 entries of some hundred bytes.
pub const MAX_RESPONSE: usize = 1024 * 1024;

/// What an object is stored with.
#[derive(Debug, Clone, Copy, Default)]
pub struct ObjectFields<'a> {
    pub content_type: Option<&'a str>,
    pub content_disposition: Option<&'a str>,
    pub cache_control: Option<&'a str>,
    /// `x-cos-meta-fileid`, byte for byte; an object stored without it can never be downloaded.
    pub file_id: Option<&'a str>,
    /// Further headers `x-cos-meta-*`, names in lower case.
    pub metadata: &'a [(&'static str, &'a str)],
}

impl<'a> ObjectFields<'a> {
    pub(super) fn headers(self) -> Vec<(&'static str, &'a str)> {
        let headers = [
            ("Content-Type", self.content_type),
            ("Content-Disposition", self.content_disposition),
            ("Cache-Control", self.cache_control),
            ("x-cos-meta-fileid", self.file_id),
        ];
        let headers = headers.into_iter().filter_map(|(name, value)| Some((name, value?)));
        headers.chain(self.metadata.iter().copied()).collect()
    }
}

/// An object that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Bytes.
    pub size: u64,
    /// With its quotes.
    pub etag: Option<String>,
    /// A decimal number.
    pub crc64: Option<String>,
    pub content_type: Option<String>,
    /// An HTTP date.
    pub last_modified: Option<String>,
    /// `x-cos-meta-fileid`.
    pub file_id: Option<String>,
    /// The other headers `x-cos-meta-*`, by their names in lower case.
    pub metadata: Vec<(String, String)>,
}

impl ObjectInfo {
    /// The value of a header `x-cos-meta-*`.
    pub fn metadata(&self, name: &str) -> Option<&str> {
        self.metadata.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// From the headers of a response to HEAD or GET.
    pub fn of(headers: ObjectHeaders) -> Result<Self, CosError> {
        let ObjectHeaders {
            content_length,
            etag,
            crc64,
            content_type,
            last_modified,
            file_id,
            metadata,
            ..
        } = headers;
        let size = content_length.ok_or(CosError::NoVerdict("its response has no length"))?;
        Ok(Self { size, etag, crc64, content_type, last_modified, file_id, metadata })
    }
}

/// A worker's connections to a bucket, and the keys that requests are signed with.
pub struct Client {
    pool: Rc<Pool>,
    keys: Keys,
    bucket: BucketEndpoint,
    timeouts: Timeouts,
}

/// How a small call is made.
#[derive(Clone, Copy)]
pub(super) struct CallOptions {
    /// Whether it may be sent twice.
    pub is_repeatable: bool,
    /// For all of it but connecting.
    pub limit: Duration,
}

/// A worker's connections to buckets and to `getauth`. Must be called on the worker.
pub fn pool(tls: Arc<rustls::ClientConfig>, timeouts: Timeouts) -> Rc<Pool> {
    Pool::new(tls, timeouts.connect, MAX_RESPONSE)
}

impl Client {
    /// `pool` is from [`pool`] and belongs to the calling worker.
    pub fn new(pool: Rc<Pool>, keys: Keys, bucket: BucketEndpoint, timeouts: Timeouts) -> Self {
        Self { pool, keys, bucket, timeouts }
    }

    /// For requests whose bodies are streamed.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Where these requests are sent.
    pub fn origin(&self) -> &Endpoint {
        &self.bucket.origin
    }

    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// What the next request is to be signed with.
    pub async fn credentials(&self) -> Result<Arc<Credentials>, CosError> {
        self.keys.get(&self.pool).await
    }

    /// A request that was signed with `used` has failed. Returns whether COS refused the keys, so that another attempt
    /// with [`Self::credentials`] makes sense.
    pub async fn reject_credentials(&self, used: &Arc<Credentials>, error: &CosError) -> bool {
        self.keys.reject(used, error).await
    }

    /// The head of PUT Object (doc 7749), whose body has `length` bytes; the response is judged by
    /// [`ApiResponse::stored`].
    pub fn put_head(
        &self,
        credentials: &Credentials,
        key: &str,
        fields: ObjectFields<'_>,
        length: u64,
    ) -> Result<String, CosError> {
        let request = Request {
            method: "PUT",
            key,
            parameters: &[],
            fields: &fields.headers(),
            length: Some(length),
        };
        request.head(&self.bucket, credentials, unix_now())
    }

    /// The head of Upload Part (doc 7750), whose body has `length` bytes; the response is judged by
    /// [`ApiResponse::stored`]. Parts are numbered from 1.
    pub fn part_head(
        &self,
        credentials: &Credentials,
        key: &str,
        upload_id: &str,
        number: u32,
        length: u64,
    ) -> Result<String, CosError> {
        let request = Request {
            method: "PUT",
            key,
            parameters: &[("partNumber", &number.to_string()), ("uploadId", upload_id)],
            fields: &[],
            length: Some(length),
        };
        request.head(&self.bucket, credentials, unix_now())
    }

    /// Upload Part (doc 7750) of few bytes, as one call.
    pub async fn upload_part(
        &self,
        key: &str,
        upload_id: &str,
        number: u32,
        content: &[u8],
    ) -> Result<Stored, CosError> {
        let request = Request {
            method: "PUT",
            key,
            parameters: &[("partNumber", &number.to_string()), ("uploadId", upload_id)],
            fields: &[],
            length: Some(content.len() as u64),
        };
        self.call(&request, content, self.repeatable()).await?.stored()
    }

    /// HEAD Object (doc 7745); `None` where there is no such object.
    pub async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, CosError> {
        let request = Request { method: "HEAD", key, parameters: &[], fields: &[], length: None };
        match self.call(&request, b"", self.repeatable()).await {
            Ok(response) => ObjectInfo::of(response.headers).map(Some),
            Err(CosError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// GET Object (doc 7753): the bytes `range` of it, at most [`MAX_RESPONSE`]; all of it with `None`, which is an error
    /// for an object that is larger. `None` where there is no such object.
    pub async fn get(
        &self,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<Option<Bytes>, CosError> {
        let range = range.map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let fields = range.as_deref().map(|range| ("Range", range));
        let request = Request {
            method: "GET",
            key,
            parameters: &[],
            fields: fields.as_slice(),
            length: None,
        };
        match self.call(&request, b"", self.repeatable()).await {
            Ok(response) => Ok(Some(response.body)),
            Err(CosError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// PUT Object (doc 7749) of few bytes, as one call.
    pub async fn put(
        &self,
        key: &str,
        fields: ObjectFields<'_>,
        content: &[u8],
    ) -> Result<Stored, CosError> {
        let request = Request {
            method: "PUT",
            key,
            parameters: &[],
            fields: &fields.headers(),
            length: Some(content.len() as u64),
        };
        self.call(&request, content, self.repeatable()).await?.stored()
    }

    /// DELETE Object (doc 7743); a success also where there is no such object.
    pub async fn delete(&self, key: &str) -> Result<(), CosError> {
        let request = Request { method: "DELETE", key, parameters: &[], fields: &[], length: None };
        match self.call(&request, b"", self.repeatable()).await {
            Err(CosError::Refused { status: 404, code, .. }) if code == "NoSuchKey" => Ok(()),
            other => other.map(drop),
        }
    }

    pub(super) fn repeatable(&self) -> CallOptions {
        CallOptions { is_repeatable: true, limit: self.timeouts.response }
    }

    /// Makes a small call, and once more with other keys where COS refuses those in use. The response is a success.
    pub(super) async fn call(
        &self,
        request: &Request<'_>,
        body: &[u8],
        options: CallOptions,
    ) -> Result<ApiResponse, CosError> {
        let mut is_retry = false;
        loop {
            let credentials = self.credentials().await?;
            let head = request.head(&self.bucket, &credentials, unix_now())?;
            let bytes = Bytes::from([head.as_bytes(), body].concat());
            let is_head = request.method == "HEAD";
            let (origin, connect_limit) = (&self.bucket.origin, self.timeouts.connect);
            let response = send(&self.pool, origin, bytes, is_head, connect_limit, options).await;
            match response.and_then(ApiResponse::accepted) {
                Err(error) if !is_retry && self.reject_credentials(&credentials, &error).await => {
                    is_retry = true;
                }
                result => return result,
            }
        }
    }
}

/// Makes a small call, a request of head and body, to `origin`. `is_head`: its method is HEAD.
pub(super) async fn send(
    pool: &Pool,
    origin: &Endpoint,
    request: Bytes,
    is_head: bool,
    connect_limit: Duration,
    CallOptions { is_repeatable, limit }: CallOptions,
) -> Result<ApiResponse, CosError> {
    let call = Call {
        endpoint: origin,
        request,
        is_head,
        // A call that must not be repeated must not fail because COS is closing an idle connection either.
        max_idle: if is_repeatable { IDLE_TIMEOUT } else { SAFE_IDLE_TIME },
        is_repeatable,
    };
    let waited_for = "the response to a call";
    let sent = timeout(connect_limit + limit, call.send(pool)).await;
    let sent = sent.map_err(|_| CosError::Timeout { waited_for, limit })?;
    match sent {
        Ok((response, headers)) => {
            let (status, body) = (response.status, response.body);
            Ok(ApiResponse { status, headers, body, is_sent: true })
        }
        Err(CallError::Connect(error)) => Err(connect_error(error)),
        Err(CallError::NoResponse(cause)) => Err(CosError::Unreachable(cause)),
        // A refusal counts by its status alone.
        Err(CallError::BadBody { status, .. }) if !is_success(status) => {
            let (headers, body) = (ObjectHeaders::default(), Bytes::new());
            Ok(ApiResponse { status, headers, body, is_sent: true })
        }
        Err(CallError::BadBody { .. }) => {
            Err(CosError::NoVerdict("the body of its response cannot be read"))
        }
    }
}
