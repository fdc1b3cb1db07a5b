//! One file to COS: a link, the form, the verdict; again where that may help and every byte is still there.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use secrecy::ExposeSecret;

use crate::cos::error::CosError;
use crate::cos::form::{Fields, FormEnvelope};
use crate::cos::relay::Relay;
use crate::cos::verdict::Receipt;
use crate::file_stream::FileLength;
use crate::http::middleware::server_timing::Times;
use crate::http::problem::Problem;
use crate::http::state::Worker;
use crate::key::Key;
use crate::metrics::Stage;
use crate::wechat::wire::UploadLink;

/// A file is sent at most this often.
const ATTEMPTS: u32 = 3;

/// A file whose length is settled as far as it can be.
pub struct OutgoingFile {
    pub relay: Rc<Relay>,
    pub framed: FileLength,
}

/// Where a file goes.
pub struct TargetPath {
    pub key: Key,
    /// Nothing else was ever stored there, so it may be deleted.
    pub unique: bool,
}

/// Stores a file, and gives its id and COS's receipt.
pub async fn transfer(
    worker: &Worker,
    path: &TargetPath,
    content_type: &str,
    file: &OutgoingFile,
    times: &Times<'_>,
) -> Result<(String, Receipt), Problem> {
    // While WeChat is asked, the client goes on sending.
    let link = pin!(upload_link(worker, &path.key, times));
    let mut link = poll_while(link, pin!(file.relay.read_ahead())).await?;
    match send(worker, &path.key, content_type, file, &mut link, times).await {
        Ok(receipt) => {
            // Of a file that was never there nobody has a link.
            if !path.unique {
                worker.wechat.forget_link(&link.file_id).await;
            }
            Ok((link.file_id, receipt))
        }
        Err(problem) => {
            // The client is told that its file is not stored; then it should not be.
            let wrong = matches!(problem, SendError::Cos(CosError::Integrity { .. }));
            if wrong || (file.relay.is_outcome_unknown() && path.unique) {
                discard(worker, &link).await;
            }
            Err(problem.into())
        }
    }
}

/// Runs `aside` as long as `main` takes, and no longer. They stay where they are: taken by value, they would be there twice,
/// in every upload.
async fn poll_while<T>(
    mut main: Pin<&mut impl Future<Output = T>>,
    aside: Pin<&mut impl Future<Output = ()>>,
) -> T {
    let mut aside = aside.fuse();
    poll_fn(|cx| {
        let result = main.as_mut().poll(cx);
        if result.is_pending() {
            let _ = aside.poll_unpin(cx);
        }
        result
    })
    .await
}

async fn upload_link(worker: &Worker, key: &Key, times: &Times<'_>) -> Result<UploadLink, Problem> {
    let asked = Instant::now();
    let link = worker.wechat.upload_link(key.as_str()).await;
    times.add(Stage::Link, asked.elapsed());
    link.map_err(|error| Problem::from(error).about(key.as_str()))
}

/// Why a file was not stored.
enum SendError {
    Cos(CosError),
    Problem(Problem),
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
        }
    }
}

async fn send(
    worker: &Worker,
    key: &Key,
    content_type: &str,
    file: &OutgoingFile,
    link: &mut UploadLink,
    times: &Times<'_>,
) -> Result<Receipt, SendError> {
    let shared = &worker.shared;
    let content_type = shared.settings.cos.send_content_type.then_some(content_type);
    // What was declared must come true; what was guessed need not be, once it is known.
    let mut framed = match (file.framed, file.relay.known_length()) {
        (FileLength::Assumed(_), Some(length)) => FileLength::Known(length),
        (framed, _) => framed,
    };
    let mut attempt = 1;
    loop {
        let target = shared.allowed_hosts.check(&link.url, &link.file_id, key.as_str())?;
        let frame = FormEnvelope::new(&Fields {
            key: key.as_str(),
            signature: link.authorization.expose_secret(),
            security_token: link.token.expose_secret(),
            file_id: link.cos_file_id.expose_secret(),
            content_type,
        })?;
        let result = file.relay.attempt(&worker.upstream, &target, frame, framed).await;
        let took = file.relay.took();
        times.add(Stage::Send, took.send);
        if let Some(verdict) = took.verdict {
            times.add(Stage::Verdict, verdict);
        }
        let class = result.as_ref().map_or_else(CosError::answer_class, |_| Some("2xx"));
        class.into_iter().for_each(|class| shared.metrics.cos(class));
        let error = match result {
            Ok(receipt) => return Ok(receipt),
            Err(error) => error,
        };
        if !file.relay.is_replayable() {
            return Err(error.into());
        }
        match error {
            // It was not the last part, but all of it is here: now its length is known.
            CosError::NotLast { content } => {
                shared.metrics.replay(error.cause());
                framed = FileLength::Known(content);
            }
            error if error.is_transient() && attempt < ATTEMPTS => {
                let pause = Duration::from_millis(50 << attempt).mul_f64(0.5 + fastrand::f64());
                tracing::info!(%key, %error, ?pause, "sending again");
                shared.metrics.replay(error.cause());
                tokio::time::sleep(pause).await;
                attempt += 1;
                if error.wants_fresh_link() {
                    // Rare, and large: every upload would make room for it.
                    let fresh = Box::pin(upload_link(worker, key, times)).await;
                    *link = fresh.map_err(SendError::Problem)?;
                }
            }
            error => return Err(error.into()),
        }
    }
}

async fn discard(worker: &Worker, link: &UploadLink) {
    if let Err(error) = worker.wechat.delete_one(&link.file_id).await {
        tracing::error!(file_id = link.file_id, %error, "a file that failed may still be stored");
    }
}
