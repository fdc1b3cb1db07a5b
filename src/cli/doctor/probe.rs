//! `doctor --probe`: whether COS accepts an upload link's signature, which is for a form, for its own API as well. That
//! is not documented.

use secrecy::ExposeSecret;

use super::checks::{CONTENT, CheckedLink, Checks, host};
use super::report::Report;
use crate::cos::api::with_link::LinkClient;
use crate::cos::error::CosError;
use crate::cos::form::Fields;

const STEP: &str = "probe";

/// Tries PUT and a multipart upload on a file of its own, and removes what was stored. A refusal is an answer, not a
/// failure.
pub(super) async fn check(checks: &Checks<'_>, report: &mut Report) {
    let CheckedLink { key, link, target } = match checks.link(STEP).await {
        Ok((link, _)) => link,
        Err(fault) => return report.failed(STEP, &fault),
    };
    let fields = Fields {
        key: key.as_str(),
        signature: link.authorization.expose_secret(),
        security_token: link.token.expose_secret(),
        file_id: link.cos_file_id.expose_secret(),
        content_type: None,
        content_disposition: None,
        cache_control: None,
    };
    let client = match checks.upstreams.with_link(&target, fields) {
        Ok(client) => client,
        Err(error) => return report.failed(STEP, &checks.cos_fault(&error, host(&link.url))),
    };
    let put = client.put(CONTENT).await;
    let may_be_stored = !put.as_ref().is_err_and(is_answer);
    let is_put_accepted = answer(checks, &link.url, "PUT", put.map(drop), report);
    if may_be_stored && let Err(fault) = checks.delete(&link.file_id).await {
        report.failed(STEP, &fault);
    }
    let is_multipart_accepted =
        answer(checks, &link.url, "a multipart upload", multipart(&client).await, report);
    if let (Some(put), Some(multipart)) = (is_put_accepted, is_multipart_accepted) {
        report.advice(meaning(put, multipart));
    }
}

/// Begins a multipart upload and aborts it.
async fn multipart(client: &LinkClient<'_>) -> Result<(), CosError> {
    let upload_id = client.initiate().await?;
    client.abort(&upload_id).await
}

/// Prints COS's answer; `None` if there is none.
fn answer(
    checks: &Checks<'_>,
    url: &str,
    request: &str,
    result: Result<(), CosError>,
    report: &mut Report,
) -> Option<bool> {
    let what = format!("{request} with an upload link's signature");
    match result {
        Ok(()) => {
            report.line("ok", STEP, format!("{what}: accepted, and removed again"));
            Some(true)
        }
        Err(CosError::Refused { status, code, .. }) if status < 500 => {
            report.line("note", STEP, format!("{what}: refused ({status} {code})"));
            Some(false)
        }
        Err(error) => {
            let mut fault = checks.cos_fault(&error, host(url));
            fault.what = format!("{what}: {}", fault.what);
            report.failed(STEP, &fault);
            None
        }
    }
}

/// Whether COS refused the request for what it is.
fn is_answer(error: &CosError) -> bool {
    matches!(error, CosError::Refused { status, .. } if *status < 500)
}

fn meaning(put: bool, multipart: bool) -> &'static str {
    match (put, multipart) {
        (true, true) => {
            "links are good for COS's API here: cos.via = \"api\" would work without keys; this version does not use \
             that yet, and needs keys (cos.api.keys)"
        }
        (true, false) => {
            "links are good for whole files, and not for files in parts: cos.via = \"api\" needs keys (cos.api.keys)"
        }
        (false, true) => {
            "links are good for files in parts, and not for whole ones: cos.via = \"api\" needs keys (cos.api.keys)"
        }
        (false, false) => {
            "links are signed for forms only: cos.via = \"api\" needs keys (cos.api.keys); cos.via = \"form\" needs none"
        }
    }
}
