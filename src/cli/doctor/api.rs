//! The steps of `cos.via = "api"`: keys, a file in one request, and a multipart upload that is aborted.

use std::rc::Rc;

use secrecy::ExposeSecret;

use super::checks::{CONTENT, CONTENT_TYPE, CheckedLink, Checks};
use super::form::whole;
use super::report::{Checked, Fault, Report};
use crate::cos::api::client::{Client, ObjectFields};
use crate::cos::api::road::ApiRoad;
use crate::cos::api::upload::{ApiUpload, IncomingFile};
use crate::cos::target::Target;
use crate::cos::verdict::{Verification, VerifiedBy};
use crate::file_stream::FileLength;
use crate::memory::budget::{Budget, Share};
use crate::settings::{CosKeys, Verify};

/// In bytes: far more than the file needs.
const BUDGET: u64 = 16 << 20;

/// An object that is to be stored.
struct Object {
    key: String,
    /// `cloud://…`
    file_id: String,
    /// `x-cos-meta-fileid`
    metadata: String,
    /// The upload link, if there is one.
    target: Option<Target>,
}

/// Whether a file can be uploaded. Without a token, nothing is tried.
pub(super) async fn check(checks: &Checks<'_>, has_token: bool, report: &mut Report) -> bool {
    let Some(api) = checks.upstreams.api() else { return false };
    let first = if api.needs_link() { "link" } else { "file_id" };
    let object = match has_token {
        true => report.step(first, object(checks, &api).await),
        false => {
            report.skipped(&[first]);
            None
        }
    };
    let client = match &object {
        Some(object) => report.step("keys", keys(checks, &api, object).await),
        None => {
            report.skipped(&["keys"]);
            None
        }
    };
    let (Some(object), Some(client)) = (object, client) else {
        report.skipped(&["upload", "download", "delete", "multipart"]);
        return false;
    };
    let is_stored = report.step("upload", upload(checks, &api, &client, &object).await).is_some();
    match is_stored {
        true => drop(report.step("download", checks.download(&object.file_id).await)),
        false => report.skipped(&["download"]),
    }
    // A failed upload may have been stored nevertheless.
    report.step("delete", checks.delete(&object.file_id).await);
    match is_stored {
        true => drop(report.step("multipart", multipart(checks, &client, &object).await)),
        false => report.skipped(&["multipart"]),
    }
    is_stored
}

async fn object(checks: &Checks<'_>, api: &ApiRoad) -> Checked<Object> {
    if api.needs_link() {
        let (CheckedLink { key, link, target }, text) = checks.link("doctor").await?;
        let metadata = link.cos_file_id.expose_secret().to_owned();
        let key = key.as_str().to_owned();
        return Ok((Object { key, file_id: link.file_id, metadata, target: Some(target) }, text));
    }
    let key = checks.unused_key("doctor")?.as_str().to_owned();
    let id = api.file_id(&key, &|_| ()).await;
    let (metadata, bucket) = id.map_err(|error| checks.metaid_fault(&error))?;
    let file_id = checks.upstreams.wechat(checks.settings).file_id_in(bucket, &key);
    let text = format!("{key} in {}, by {}", bucket, checks.settings.cos.api.metaid_url);
    Ok((Object { key, file_id, metadata, target: None }, text))
}

async fn keys(checks: &Checks<'_>, api: &ApiRoad, object: &Object) -> Checked<Rc<Client>> {
    let settings = &checks.settings.cos.api;
    let client = api.client(object.target.as_ref().map(|target| (target, object.key.as_str())));
    let client = client.map_err(|error| checks.api_fault(&error, "COS"))?;
    let host = &client.origin().host;
    client.credentials().await.map_err(|error| checks.api_fault(&error, host))?;
    let text = match settings.keys {
        CosKeys::Getauth => format!("temporary keys from {}, for {host}", settings.getauth_url),
        CosKeys::Static => format!("those of cos.api.secret_id, for {host}"),
    };
    Ok((client, text))
}

async fn upload(
    checks: &Checks<'_>,
    api: &ApiRoad,
    client: &Rc<Client>,
    object: &Object,
) -> Checked<()> {
    let verify = checks.settings.cos.verify;
    let upload = ApiUpload {
        client: client.clone(),
        upstream: api.upstream(),
        key: &object.key,
        fields: fields(checks, object),
        is_key_unique: true,
        verify: match verify {
            Verify::None => Verification::Off,
            Verify::Reply => Verification::Response,
            Verify::Head => Verification::Head,
        },
        observe: &|_| {},
    };
    let share = Share::new(Budget::new(BUDGET));
    let length = FileLength::Known(CONTENT.len() as u64);
    let file = IncomingFile::new(whole(CONTENT), Some(length), share, api.sizes());
    let uploaded = upload.store(file).await;
    let uploaded =
        uploaded.map_err(|error| checks.api_fault(&error.cause, &client.origin().host))?;
    let verified = match (uploaded.receipt.verified_by, verify) {
        (Some(VerifiedBy::Head), _) => "CRC-64 verified by HEAD",
        (Some(_), _) => "CRC-64 verified",
        (None, Verify::None) => "not verified (cos.verify)",
        (None, Verify::Reply) => "COS returned no CRC-64: set cos.verify = \"head\"",
        (None, Verify::Head) => "COS returned no CRC-64, and none for HEAD",
    };
    Ok(((), format!("{} byte stored in one request, {verified}", uploaded.receipt.size)))
}

/// Begins a multipart upload, sends a part, and aborts it.
async fn multipart(checks: &Checks<'_>, client: &Client, object: &Object) -> Checked<()> {
    let fault = |error| checks.api_fault(&error, &client.origin().host);
    let key = &object.key;
    let upload_id = client.initiate(key, fields(checks, object)).await.map_err(|error| {
        let Fault { what, change } = fault(error);
        Fault { what: format!("beginning it: {what}"), change }
    })?;
    let part = client.upload_part(key, &upload_id, 1, CONTENT).await;
    let aborted = client.abort(key, &upload_id).await;
    part.map_err(|error| {
        let Fault { what, change } = fault(error);
        Fault { what: format!("sending a part: {what}"), change }
    })?;
    aborted.map_err(|error| {
        let Fault { what, change } = fault(error);
        Fault { what: format!("aborting it: {what}; its part stays stored until it is"), change }
    })?;
    Ok(((), "begun, a part sent, aborted".to_owned()))
}

fn fields<'a>(checks: &Checks<'_>, object: &'a Object) -> ObjectFields<'a> {
    ObjectFields {
        content_type: checks.settings.cos.send_content_type.then_some(CONTENT_TYPE),
        file_id: Some(&object.metadata),
        ..ObjectFields::default()
    }
}
