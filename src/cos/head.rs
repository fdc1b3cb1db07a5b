//! A HEAD request for a stored object over a URL that is signed already, such as a download link.

use bytes::Bytes;
use tokio::time::timeout;

use super::api::response::ObjectHeaders;
use super::error::CosError;
use super::target::Target;
use super::upstream::{Upstream, connect_error};
use crate::net::http_client::IDLE_TIMEOUT;
use crate::net::http_client::call::{Call, CallError};
use crate::net::http_client::exchange::head;

impl Upstream {
    /// What the storage says of the object at `target`: length and CRC-64 among other things.
    pub async fn head(&self, target: &Target) -> Result<ObjectHeaders, CosError> {
        let (waited_for, limit) = ("the response to HEAD", self.timeouts().response);
        let call = Call {
            endpoint: &target.origin,
            request: Bytes::from(head("HEAD", &target.path, &target.authority, &[], None)),
            is_head: true,
            max_idle: IDLE_TIMEOUT,
            is_repeatable: true,
        };
        let sent = timeout(limit, call.send::<ObjectHeaders>(self.pool())).await;
        let sent = sent.map_err(|_| CosError::Timeout { waited_for, limit })?;
        let (response, headers) = sent.map_err(|error| match error {
            CallError::Connect(error) => connect_error(error),
            other => CosError::Unreachable(other.to_string()),
        })?;
        match response.is_success() {
            true => Ok(headers),
            false => Err(CosError::Refused {
                status: response.status,
                code: String::new(),
                message: "HEAD of the object".to_owned(),
                request_id: headers.request_id,
            }),
        }
    }
}
