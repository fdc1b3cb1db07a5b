//! Sends one file to COS as a form: gets an upload link, posts the form, reads the verdict. Retries if that may help and
//! every byte is still buffered.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::ExposeSecret;

use super::outgoing::{
    ContentHeaders, OutgoingFile, PathLink, TargetPath, delete_object, path_link, poll_while,
    upload_link,
};
use crate::cos::error::CosError;
use crate::cos::form::{Fields, FormEnvelope};
use crate::cos::relay::Relay;
use crate::cos::replayable_file::{BufferLimits, Slowness};
use crate::cos::verdict::{Receipt, VerifiedBy, compare};
use crate::file_stream::{FileLength, Source};
use crate::http::middleware::server_timing::StageTimes;
use crate::http::problem::Problem;
use crate::http::state::{AppState, Worker};
use crate::key::Key;
use crate::memory::budget::Share;
use crate::settings::{Settings, Verify};
use crate::spool::content::Content;
use crate::wechat::api::DEFAULT_LINK_MAX_AGE;
use crate::wechat::links::LinkRequest;

const MAX_ATTEMPTS: u32 = 3;
/// A link that was asked for in advance has lost up to half of its life. A larger file may need all of it, and the time
/// of one call is nothing to it. In bytes.
const LARGEST_WITH_WARM_LINK: u64 = 64 * 1024 * 1024;

/// A file whose length is known as well as it can be.
pub(super) struct FormFile {
    relay: Rc<Relay>,
    length: FileLength,
    share: Arc<Share>,
}

impl FormFile {
    pub fn new(file: OutgoingFile, worker: &Worker) -> Result<Self, CosError> {
        let OutgoingFile { buffer, end, source, length, share } = file;
        let length = length.ok_or(CosError::OutOfMemory)?;
        let Settings { upload, cos, .. } = &worker.shared.settings;
        let window = upload.replay_window;
        let whole = usize::try_from(length.length()).unwrap_or(usize::MAX);
        let window_max = match length {
            // Switched off.
            _ if window == 0 => 0,
            // A window that cannot become large enough for the whole file, or for a decision to buffer it, is not worth
            // its memory.
            FileLength::Known(_)
                if whole > upload.replay_window_max.max(upload.max_buffered_file) =>
            {
                window
            }
            // An assumed length may be too large, since other files may follow.
            FileLength::Known(_) | FileLength::Assumed(_) => whole.min(upload.replay_window_max),
        };
        let limits = BufferLimits {
            window,
            window_max: window_max.max(window),
            slow_file: upload.max_buffered_file,
            slow_limit: cos.slow_limit,
            has_spool: worker.shared.uploads.folder().is_some(),
        };
        let verify = cos.verify != Verify::None;
        let relay = Relay::new(buffer, end, source, limits, verify);
        Ok(Self { relay: Rc::new(relay), length, share })
    }
}

/// What became of a file.
pub(super) enum Sent {
    /// It is stored: its id, and COS's receipt.
    Stored(String, Receipt),
    /// Its client is slow, and it does not fit into memory: it is to be received first. Boxed, since it is rare.
    Slow(Box<SlowFile>),
}

/// A file that is to be received before it is sent.
pub(super) struct SlowFile {
    pub source: Source,
    pub length: FileLength,
    pub share: Arc<Share>,
    /// Of no bytes yet, with room for all.
    pub content: Content,
}

/// Stores a file, or says that it is to be received first.
pub(super) async fn store(
    worker: &Worker,
    path: &mut TargetPath,
    headers: &ContentHeaders<'_>,
    file: FormFile,
    times: &StageTimes<'_>,
) -> Result<Sent, Problem> {
    let verify = worker.shared.settings.cos.verify;
    let spool = worker.shared.uploads.folder();
    // The file is read ahead while the link is fetched.
    let may_be_warm = file.length.length() <= LARGEST_WITH_WARM_LINK;
    let mut link = {
        let link = pin!(path_link(worker, path, may_be_warm, times));
        poll_while(link, pin!(file.relay.read_ahead())).await?
    };
    let mut sent = send(worker, &path.key, headers, &file, &mut link, times).await;
    if let (Err(SendError::MustSpool), Some(folder)) = (&sent, spool) {
        match Content::unnamed(folder, file.length.length()) {
            Ok(content) => {
                let (source, FormFile { length, share, .. }) = (file.relay.take_source(), file);
                return Ok(Sent::Slow(Box::new(SlowFile { source, length, share, content })));
            }
            Err(error) => {
                tracing::warn!(key = %path.key, %error, "a slow upload cannot be spooled");
                file.relay.stream_slow();
                let again = send(worker, &path.key, headers, &file, &mut link, times);
                sent = Box::pin(again).await;
            }
        }
    }
    match sent {
        Ok(receipt) if receipt.verified_by.is_none() && verify == Verify::Head => {
            // Boxed, since it is rare and large: otherwise the future of every upload would contain it.
            let checked = Box::pin(check_by_head(worker, path, &link.link.file_id, receipt)).await;
            match checked {
                Ok(receipt) => Ok(Sent::Stored(link.link.file_id, receipt)),
                Err(error) => {
                    delete_object(worker, &link.link).await;
                    Err(error.into())
                }
            }
        }
        Ok(receipt) => Ok(Sent::Stored(link.link.file_id, receipt)),
        Err(problem) => {
            // The client is told that the file is not stored, so an object that may have been stored is deleted.
            let is_corrupt = matches!(problem, SendError::Cos(CosError::Integrity { .. }));
            if is_corrupt || (file.relay.is_outcome_unknown() && path.unique) {
                delete_object(worker, &link.link).await;
            }
            Err(problem.into())
        }
    }
}

/// Compares the length and the CRC-64 that a HEAD request over a temporary download link returns. Where it fails, or
/// returns no CRC-64, the file stays unverified. So it does where the path is not new: a cache in front of the storage may
/// respond for the object that was there before.
async fn check_by_head(
    worker: &Worker,
    path: &TargetPath,
    file_id: &str,
    receipt: Receipt,
) -> Result<Receipt, CosError> {
    let request = LinkRequest { file_id: file_id.to_owned(), max_age: DEFAULT_LINK_MAX_AGE };
    let object = async {
        let link =
            worker.wechat.download_link(&request).await.map_err(|error| error.to_string())?;
        let target = worker.shared.allowed_hosts.check_download(&link.url);
        let target = target.map_err(|error| error.to_string())?;
        worker.upstream.head(&target).await.map_err(|error| error.to_string())
    };
    match object.await {
        Err(error) => {
            tracing::warn!(key = %path.key, error, "the stored file could not be verified");
            Ok(receipt)
        }
        Ok(object) => {
            let is_new = path.unique;
            let length = object.content_length.filter(|length| *length != receipt.size);
            if let (Some(length), true) = (length, is_new) {
                let theirs = format!("of {length} bytes");
                return Err(CosError::Integrity { ours: receipt.crc64, theirs });
            }
            let agrees = compare(receipt.crc64, object.crc64.as_deref(), is_new)?;
            Ok(Receipt { verified_by: agrees.then_some(VerifiedBy::Head), ..receipt })
        }
    }
}

/// Why a file was not stored.
enum SendError {
    Cos(CosError),
    Problem(Problem),
    /// Its client is slow, and it does not fit into memory.
    MustSpool,
}

impl From<CosError> for SendError {
    fn from(error: CosError) -> Self {
        Self::Cos(error)
    }
}

impl From<SendError> for Problem {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Cos(error) => error.into(),
            SendError::Problem(problem) => problem,
            SendError::MustSpool => CosError::SlowClient.into(),
        }
    }
}

async fn send(
    worker: &Worker,
    key: &Key,
    headers: &ContentHeaders<'_>,
    file: &FormFile,
    path_link: &mut PathLink,
    times: &StageTimes<'_>,
) -> Result<Receipt, SendError> {
    let shared = &worker.shared;
    let content_type = shared.settings.cos.send_content_type.then_some(headers.content_type);
    // A declared length is checked against the file; an assumed one is replaced once the real one is known.
    let mut length = match (file.length, file.relay.known_length()) {
        (FileLength::Assumed(_), Some(known)) => FileLength::Known(known),
        (length, _) => length,
    };
    let mut attempt = 1;
    let mut slowness = Slowness::None;
    loop {
        let PathLink { link, target, .. } = &*path_link;
        let envelope = FormEnvelope::new(&Fields {
            key: key.as_str(),
            signature: link.authorization.expose_secret(),
            security_token: link.token.expose_secret(),
            file_id: link.cos_file_id.expose_secret(),
            content_type,
            content_disposition: headers.disposition,
            cache_control: shared.settings.upload.cache_control.as_deref(),
        })?;
        let error = {
            let mut post = pin!(file.relay.post(&worker.upstream, target, envelope, length));
            let result = poll_fn(|cx| {
                let result = post.as_mut().poll(cx);
                slowness = report_slowness(shared, key, slowness, file.relay.slowness());
                result
            })
            .await;
            if let Some(took) = file.relay.attempt_times() {
                times.add_attempt(took.send, took.verdict, Instant::now());
            }
            let class = result.as_ref().map_or_else(CosError::response_class, |_| Some("2xx"));
            class.into_iter().for_each(|class| shared.metrics.cos(class));
            match result {
                Ok(receipt) => return Ok(receipt),
                Err(error) => error,
            }
        };
        let is_refused_warm = path_link.is_warm && error.is_forbidden();
        if is_refused_warm {
            tracing::info!(%key, %error, "COS has refused a link that was asked for in advance");
            worker.wechat.warm_links().refused();
        }
        if !file.relay.is_replayable() {
            return Err(error.into());
        }
        match error {
            CosError::SlowClient if file.relay.slowness() == Slowness::Spooled => {
                return Err(SendError::MustSpool);
            }
            CosError::SlowClient => {
                tracing::info!(%key, "the client is slow: the file is buffered first");
                shared.metrics.replay(error.cause());
                file.relay.buffer_slow(length).await;
                // Without a link: a client that broke off or stalled has nothing to send.
                file.relay.take_read_error()?;
                if let (FileLength::Assumed(_), Some(known)) = (length, file.relay.known_length()) {
                    length = FileLength::Known(known);
                }
                // Boxed, since it is rare and large: otherwise the future of every upload would contain it.
                let fresh = Box::pin(upload_link(worker, key, times)).await;
                *path_link = fresh.map_err(SendError::Problem)?;
            }
            // The file was not the form's last part. All of it is buffered, so its length is known now.
            CosError::NotLast { content } => {
                shared.metrics.replay(error.cause());
                length = FileLength::Known(content);
            }
            // An own link would have been fetched just now.
            _ if is_refused_warm => {
                shared.metrics.replay(error.cause());
                let fresh = Box::pin(upload_link(worker, key, times)).await;
                *path_link = fresh.map_err(SendError::Problem)?;
            }
            _ if error.is_transient() && attempt < MAX_ATTEMPTS => {
                let pause = Duration::from_millis(50 << attempt).mul_f64(0.5 + fastrand::f64());
                tracing::info!(%key, %error, ?pause, "COS failed, trying again");
                shared.metrics.replay(error.cause());
                tokio::time::sleep(pause).await;
                attempt += 1;
                if error.wants_fresh_link() {
                    let fresh = Box::pin(upload_link(worker, key, times)).await;
                    *path_link = fresh.map_err(SendError::Problem)?;
                }
            }
            _ => return Err(error.into()),
        }
    }
}

/// Counts a slow client when it is noticed, and logs that its file may be refused.
fn report_slowness(shared: &AppState, key: &Key, before: Slowness, now: Slowness) -> Slowness {
    match now {
        _ if now == before => {}
        Slowness::None => {}
        Slowness::Buffered => shared.metrics.slow_client("buffered"),
        Slowness::Spooled => shared.metrics.slow_client("spooled"),
        Slowness::Streamed => {
            shared.metrics.slow_client("streamed");
            tracing::warn!(
                %key,
                "the client is so slow that COS may refuse the file after its last byte, and the file does not fit into \
                 memory to be buffered first: see cos.slow_limit"
            );
        }
    }
    now
}
