//! Requests to COS's API with the signature of an upload link, which WeChat issues for a form. Whether COS accepts it
//! for other requests is not documented; `doctor` finds out.

use std::rc::Rc;

use super::client::{CallOptions, send};
use super::multipart::upload_id;
use super::response::{ApiResponse, Stored};
use crate::cos::error::CosError;
use crate::cos::form::Fields;
use crate::cos::target::Target;
use crate::cos::upstream::Timeouts;
use crate::net::http_client::Pool;
use crate::net::http_client::exchange::{head, request};

/// A client for the one object that an upload link is for.
pub struct LinkClient<'a> {
    pool: Rc<Pool>,
    target: &'a Target,
    fields: Fields<'a>,
    timeouts: Timeouts,
}

impl<'a> LinkClient<'a> {
    /// `pool` is from [`super::client::pool`]; `target` and `fields` are the link's.
    pub fn new(
        pool: Rc<Pool>,
        target: &'a Target,
        fields: Fields<'a>,
        timeouts: Timeouts,
    ) -> Result<Self, CosError> {
        let Fields { signature, security_token, file_id, .. } = fields;
        // A line break would end the header.
        let is_printable = |text: &str| text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if ![signature, security_token, file_id].into_iter().all(is_printable) {
            return Err(CosError::Link("a value of it is not of printable ASCII characters"));
        }
        Ok(Self { pool, target, fields, timeouts })
    }

    /// PUT Object (doc 7749).
    pub async fn put(&self, content: &[u8]) -> Result<Stored, CosError> {
        self.call("PUT", "", Some(content), true).await?.stored()
    }

    /// Initiate Multipart Upload (doc 7746): the UploadId.
    pub async fn initiate(&self) -> Result<String, CosError> {
        // A second upload would be left behind.
        let response = self.call("POST", "uploads=", Some(b""), false).await?;
        upload_id(&response.body)
    }

    /// Abort Multipart Upload (doc 7740).
    pub async fn abort(&self, upload_id: &str) -> Result<(), CosError> {
        let upload_id = percent_encoding::utf8_percent_encode(upload_id, super::sign::VALUE);
        self.call("DELETE", &format!("uploadId={upload_id}"), None, true).await.map(drop)
    }

    async fn call(
        &self,
        method: &str,
        query: &str,
        body: Option<&[u8]>,
        is_repeatable: bool,
    ) -> Result<ApiResponse, CosError> {
        let Target { origin, path, authority } = self.target;
        let mut path = path.clone();
        if !query.is_empty() {
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str(query);
        }
        let fields = [
            ("Authorization", self.fields.signature),
            ("x-cos-security-token", self.fields.security_token),
            ("x-cos-meta-fileid", self.fields.file_id),
        ];
        let request = match body {
            Some(body) => request(method, &path, authority, &fields, body),
            None => head(method, &path, authority, &fields, None).into(),
        };
        let options = CallOptions { is_repeatable, limit: self.timeouts.response };
        send(&self.pool, origin, request, false, self.timeouts.connect, options).await?.accepted()
    }
}
