//! Sends one file to COS by COS's own API, with the file id from an upload link or from metaid.

use std::pin::pin;
use std::rc::Rc;
use std::time::Instant;

use futures::{StreamExt, stream};
use secrecy::ExposeSecret;

use super::outgoing::{ContentHeaders, OutgoingFile, PathLink, TargetPath, path_link, poll_while};
use crate::cos::api::client::{Client, ObjectFields};
use crate::cos::api::road::ApiRoad;
use crate::cos::api::sent_part::{ObjectState, StoreError, UploadEvent};
use crate::cos::api::upload::{ApiUpload, IncomingFile};
use crate::cos::target::{AllowedHosts, Target};
use crate::cos::verdict::{Receipt, Verification};
use crate::file_stream::{FileEvent, FileLength, Source};
use crate::http::middleware::server_timing::StageTimes;
use crate::http::problem::Problem;
use crate::http::state::Worker;
use crate::metrics::{Metrics, Stage};
use crate::settings::Verify;
use crate::wechat::api::Wechat;

/// The path of an upload link that is requested only to learn the bucket. Nothing is stored there.
const PROBE: &str = "tcb-upload-gateway-probe";

/// What WeChat must know an object by.
pub struct ObjectId {
    /// `cloud://…`
    pub file_id: String,
    /// `x-cos-meta-fileid`
    pub metadata: String,
    /// The checked upload link, if there is one.
    pub target: Option<Target>,
}

/// Stores a file. Returns its id and COS's receipt.
pub(super) async fn store(
    worker: &Worker,
    api: &ApiRoad,
    path: &mut TargetPath,
    headers: &ContentHeaders<'_>,
    file: OutgoingFile,
    times: &StageTimes<'_>,
) -> Result<(String, Receipt), Problem> {
    let (settings, metrics) = (&worker.shared.settings, &worker.shared.metrics);
    let file = incoming(file, api, settings.upload.max_file_size);
    // The file is read while its id is fetched.
    let id = {
        let id = pin!(object_id(worker, api, path, times));
        poll_while(id, pin!(file.collect_ahead())).await?
    };
    let key = path.key.as_str();
    let client = api.client(id.target.as_ref().map(|target| (target, key)))?;
    let upload = ApiUpload {
        client: client.clone(),
        upstream: api.upstream(),
        key,
        fields: ObjectFields {
            content_type: settings.cos.send_content_type.then_some(headers.content_type),
            content_disposition: headers.disposition,
            cache_control: settings.upload.cache_control.as_deref(),
            file_id: Some(&id.metadata),
            metadata: &[],
        },
        is_key_unique: path.unique,
        verify: verification(worker),
        observe: &|event| count(metrics, event),
    };
    match upload.store(file).await {
        Ok(uploaded) => {
            times.add_attempt(uploaded.send, uploaded.verdict, uploaded.ended.into_std());
            Ok((id.file_id, uploaded.receipt))
        }
        Err(StoreError { cause, object }) => {
            // The client is told that the file is not stored, so an object that may have been stored is deleted.
            let must_delete = match object {
                ObjectState::Untouched => false,
                ObjectState::Unknown => path.unique,
                ObjectState::Damaged => true,
            };
            if must_delete && let Err(error) = client.delete(key).await {
                tracing::error!(key, %error, "a failed upload could not be deleted and may still be stored");
            }
            Err(cause.into())
        }
    }
}

/// How the bytes at COS are compared with those that were sent.
pub fn verification(worker: &Worker) -> Verification {
    match worker.shared.settings.cos.verify {
        Verify::None => Verification::Off,
        Verify::Reply => Verification::Response,
        Verify::Head => Verification::Head,
    }
}

/// The client of the bucket. Where neither the settings nor an earlier link name the bucket, one is requested for that.
pub async fn client(
    api: &ApiRoad,
    wechat: &Wechat,
    hosts: &AllowedHosts,
) -> Result<Rc<Client>, Problem> {
    if let Ok(client) = api.client(None) {
        return Ok(client);
    }
    let link = wechat.upload_link(PROBE).await?;
    let target = hosts.check(&link.url, &link.file_id, PROBE)?;
    Ok(api.client(Some((&target, PROBE)))?)
}

fn incoming(file: OutgoingFile, api: &ApiRoad, max_file_size: u64) -> IncomingFile {
    let OutgoingFile { buffer, end, source, length, share } = file;
    let sizes = api.sizes().for_file(length.map_or(max_file_size, FileLength::length));
    let source: Source = if buffer.is_empty() && end.is_none() {
        source
    } else {
        let buffered = buffer.into_segments().map(|bytes| Ok(FileEvent::Content(bytes)));
        let end = end.map(|end| Ok(FileEvent::End(end)));
        Box::pin(stream::iter(buffered.chain(end)).chain(source))
    };
    IncomingFile::new(source, length, share, sizes)
}

pub fn count(metrics: &Metrics, event: UploadEvent) {
    match event {
        UploadEvent::Response(class) => metrics.cos(class),
        UploadEvent::Replay(cause) => metrics.replay(cause),
    }
}

/// Asks for the ids of an object. A generated path may become another one, of which they are known.
pub async fn object_id(
    worker: &Worker,
    api: &ApiRoad,
    path: &mut TargetPath,
    times: &StageTimes<'_>,
) -> Result<ObjectId, Problem> {
    if !api.needs_link() {
        let started = Instant::now();
        let metrics = &worker.shared.metrics;
        let key = path.key.as_str();
        let id = api.file_id(key, &|event| count(metrics, event)).await;
        times.add_since(Stage::Link, started);
        let (metadata, bucket) = id?;
        let file_id = worker.wechat.file_id_in(bucket, key);
        return Ok(ObjectId { file_id, metadata, target: None });
    }
    let PathLink { link, target, .. } = path_link(worker, path, true, times).await?;
    let metadata = link.cos_file_id.expose_secret().to_owned();
    Ok(ObjectId { file_id: link.file_id, metadata, target: Some(target) })
}
