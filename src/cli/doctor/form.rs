//! The steps of `cos.via = "form"`, and the form that they post.

use bytes::Bytes;
use futures::stream;
use secrecy::ExposeSecret;

use super::checks::{CONTENT, CONTENT_TYPE, CheckedLink, Checks, host};
use super::report::{Checked, Report};
use crate::cos::error::CosError;
use crate::cos::form::{Fields, FormEnvelope};
use crate::cos::relay::{AttemptTimes, Relay};
use crate::cos::replayable_file::BufferLimits;
use crate::cos::verdict::Receipt;
use crate::file_stream::{FileEnd, FileEvent, FileLength, Source};
use crate::memory::budget::{Budget, Share};
use crate::memory::replay_buffer::ReplayBuffer;
use crate::settings::Verify;

/// Whether a file can be uploaded. Without a token, nothing is tried.
pub(super) async fn check(checks: &Checks<'_>, has_token: bool, report: &mut Report) -> bool {
    let link = match has_token {
        true => report.step("link", checks.link("doctor").await),
        false => {
            report.skipped(&["link"]);
            None
        }
    };
    let Some(link) = link else {
        report.skipped(&["upload", "download", "delete"]);
        return false;
    };
    let file_id = &link.link.file_id;
    let receipt = report.step("upload", upload(checks, &link).await);
    match &receipt {
        None => report.skipped(&["download"]),
        Some(receipt) => {
            report.step("download", checks.download(file_id).await);
            if receipt.verified_by.is_none() && checks.settings.cos.verify != Verify::None {
                check_by_head(checks, file_id, receipt, report).await;
            }
        }
    }
    // A failed upload may have been stored nevertheless.
    report.step("delete", checks.delete(file_id).await);
    receipt.is_some()
}

async fn upload(checks: &Checks<'_>, link: &CheckedLink) -> Checked<Receipt> {
    let (result, _) = post(checks, link, whole(CONTENT), CONTENT.len()).await;
    let receipt = result.map_err(|error| checks.cos_fault(&error, host(&link.link.url)))?;
    let verified = match (receipt.verified_by, checks.settings.cos.verify) {
        (Some(_), _) => "CRC-64 verified: COS returns one for forms",
        (None, Verify::None) => "not verified (cos.verify)",
        (None, _) => "COS returned no CRC-64",
    };
    let text = format!("{} byte stored, {verified}", receipt.size);
    Ok((receipt, text))
}

/// What `cos.verify = "head"` can do where COS's response to a form has no CRC-64.
async fn check_by_head(checks: &Checks<'_>, file_id: &str, receipt: &Receipt, report: &mut Report) {
    const STEP: &str = "verify";
    let is_used = checks.settings.cos.verify == Verify::Head;
    let found = async {
        let url = checks.download_url(file_id).await.map_err(|fault| fault.what)?;
        let target = checks.allowed_hosts().check_download(&url);
        let target = target.map_err(|error| {
            format!("the download host {}: {error}; see cos.allowed_hosts", host(&url))
        })?;
        let headers = checks.upstreams.cos().head(&target).await;
        let crc64 = headers.map_err(|error| error.to_string())?.crc64;
        crc64.ok_or_else(|| "its response has none either".to_owned())
    };
    match found.await {
        Ok(crc64) if crc64.parse() != Ok(receipt.crc64) => report.failed(
            STEP,
            &checks.cos_fault(&CosError::Integrity { ours: receipt.crc64, theirs: crc64 }, "COS"),
        ),
        Ok(_) if is_used => {
            report.line("ok", STEP, "the CRC-64 of a HEAD request over a download link")
        }
        Ok(_) => {
            report.line(
                "note",
                STEP,
                "COS returns no CRC-64 for forms, so responses have \"verified\": false",
            );
            report.advice(
                "cos.verify = \"head\" verifies them here, by a HEAD request over a download link for each file",
            );
        }
        Err(cause) => {
            report.line(
                "note",
                STEP,
                format!("no CRC-64 for forms, nor by a HEAD request over a download link: {cause}"),
            );
            report.advice(
                "responses have \"verified\": false, also with cos.verify = \"head\"; cos.via = \"api\" verifies \
                 files, and needs keys",
            );
        }
    }
}

/// Posts a form with `content`, which has `length` bytes, in one attempt.
pub(super) async fn post(
    checks: &Checks<'_>,
    CheckedLink { key, link, target }: &CheckedLink,
    content: Source,
    length: usize,
) -> (Result<Receipt, CosError>, AttemptTimes) {
    let cos = &checks.settings.cos;
    let envelope = FormEnvelope::new(&Fields {
        key: key.as_str(),
        signature: link.authorization.expose_secret(),
        security_token: link.token.expose_secret(),
        file_id: link.cos_file_id.expose_secret(),
        content_type: cos.send_content_type.then_some(CONTENT_TYPE),
        content_disposition: None,
        cache_control: None,
    });
    let envelope = match envelope {
        Ok(envelope) => envelope,
        Err(error) => return (Err(error), AttemptTimes::default()),
    };
    let buffer = ReplayBuffer::new(Share::new(Budget::new(0)));
    let limits = BufferLimits::window(0);
    let relay = Relay::new(buffer, None, content, limits, cos.verify != Verify::None);
    let length = FileLength::Known(length as u64);
    let result = relay.post(&checks.upstreams.cos(), target, envelope, length).await;
    (result, relay.attempt_times().unwrap_or_default())
}

/// A file that is there as a whole.
pub(super) fn whole(content: &'static [u8]) -> Source {
    Box::pin(stream::iter([Ok(FileEvent::Content(Bytes::from_static(content))), Ok(end())]))
}

pub(super) fn end() -> FileEvent {
    FileEvent::End(FileEnd { last: true, epilogue: Bytes::new() })
}
