//! An admitted upload request: resolves each file's target and length, and stores it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix_web::HttpRequest;
use jiff::Timestamp;
use utoipa::IntoParams;
use uuid::Uuid;

use super::metadata::FileAbout;
use super::outgoing::{ContentHeaders, OutgoingFile, TargetPath};
use super::transfer::transfer;
use super::{disposition, metadata};
use crate::cos::error::CosError;
use crate::cos::verdict::Receipt;
use crate::file_stream::{FileLength, Source};
use crate::guard::idempotency::IdempotencyGuard;
use crate::guard::limits::Slot;
use crate::guard::policy::Client;
use crate::guard::types::DeclaredType;
use crate::http::extract::schemas::Folder;
use crate::http::extract::{file_url, query};
use crate::http::middleware::request_context::RequestContext;
use crate::http::middleware::server_timing::StageTimes;
use crate::http::problem::{Code, Problem};
use crate::http::quota;
use crate::http::response::outcome::Stored;
use crate::http::response::profile;
use crate::http::state::Worker;
use crate::http::{audit, notify};
use crate::inbound::error::InboundError;
use crate::inbound::form::{FilePart, Form};
use crate::inbound::sniff::{Magic, SniffDepth, peek};
use crate::key::{self, Generated, Key, Template, Values};
use crate::metrics::Stage;
use crate::quota::amount::{Amount, Wanted};
use crate::quota::quotas::Lifetime;
use crate::quota::reservation::Reservation;
use crate::settings::{self, ReplyProfile};

/// The query of an upload.
#[derive(Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UploadQuery {
    /// The object's path, if the client may choose paths and the form has one file.
    #[param(value_type = Key, required = false)]
    path: Option<String>,
    /// A folder for the generated path.
    #[param(value_type = Folder, required = false)]
    dir: Option<String>,
    /// The format of the response, for the editor or widget that reads it; default: `upload.reply`.
    #[param(value_type = ReplyProfile, required = false)]
    reply: Option<String>,
    /// `1`: more files may follow the first, so each is buffered until it is complete.
    multiple: Option<String>,
}

impl UploadQuery {
    pub fn of(request: &HttpRequest) -> Result<Self, Problem> {
        let names = ["path", "dir", "reply", "multiple"];
        let [path, dir, reply, multiple] = query::parameters(request, names)?;
        Ok(Self { path, dir, reply, multiple })
    }

    pub fn profile(&self, worker: &Worker) -> Result<ReplyProfile, Problem> {
        let settings = &worker.shared.settings;
        let profile = self.reply.as_deref().map_or(Ok(settings.upload.reply), profile::parse)?;
        if profile == ReplyProfile::Hook && !settings.hooks.wait {
            let detail =
                "there is no response of a back end to send: `reply=hook` needs hooks.wait";
            return Err(Problem::new(Code::InvalidRequest, detail));
        }
        Ok(profile)
    }
}

/// One admitted upload request. It occupies an upload slot.
pub struct UploadRequest<'a> {
    pub(super) worker: &'a Worker,
    context: Rc<RequestContext>,
    pub client: Arc<Client>,
    query: &'a UploadQuery,
    profile: ReplyProfile,
    base_url: String,
    pub claim: Option<IdempotencyGuard>,
    times: &'a StageTimes<'a>,
    pub(super) slot: Slot,
    /// What it has reserved of the client's quota, if there is one.
    pub quota: Option<Box<Reservation>>,
}

/// Why a file was not stored.
pub struct FileFailure {
    pub problem: Problem,
    pub path: Option<Key>,
}

impl<E: Into<Problem>> From<E> for FileFailure {
    fn from(error: E) -> Self {
        Self { problem: error.into(), path: None }
    }
}

impl<'a> UploadRequest<'a> {
    /// Takes an upload slot. Fails if none is free or the gateway is shutting down.
    pub fn admit(
        request: &HttpRequest,
        worker: &'a Worker,
        client: Arc<Client>,
        query: &'a UploadQuery,
        profile: ReplyProfile,
        claim: Option<IdempotencyGuard>,
        times: &'a StageTimes<'a>,
    ) -> Result<Self, Problem> {
        let shared = &worker.shared;
        if shared.requests.is_closed() {
            return Err(Problem::draining());
        }
        let slot = shared.limits.take_slot(&client)?;
        let base_url = file_url::base(request, shared);
        let quota = None;
        let context = RequestContext::of(request);
        Ok(Self { worker, context, client, query, profile, base_url, claim, times, slot, quota })
    }

    /// Reserves a part of the client's quota.
    pub async fn reserve(&mut self, request: &HttpRequest, wanted: Wanted) -> Result<(), Problem> {
        let (worker, client) = (self.worker, &self.client);
        let quota = quota::reserve(request, worker, client, wanted, Lifetime::Running).await?;
        self.quota = quota.map(Box::new);
        Ok(())
    }

    /// Bytes of the largest file that may be stored now.
    pub fn max_file_size(&self) -> u64 {
        let max = self.client.max_file_size;
        self.quota.as_ref().map_or(max, |quota| max.min(quota.left().bytes))
    }

    /// `problem`, or that the quota is exceeded, where a file is too large for the rest of it only.
    pub fn of_quota(&self, problem: Problem) -> Problem {
        match &self.quota {
            Some(quota)
                if problem.code == Code::FileTooLarge
                    && self.max_file_size() < self.client.max_file_size =>
            {
                quota::exceeded(quota, Amount { bytes: 1, files: 0 })
            }
            _ => problem,
        }
    }

    pub fn settings(&self) -> &'a settings::Upload {
        &self.worker.shared.settings.upload
    }

    /// Whether another part may follow this file, so that the file's length cannot be inferred from the request's.
    pub fn expects_more(&self, part: &FilePart) -> bool {
        part.head.field.ends_with(']')
            || self.profile.sends_fields_last()
            || self.query.multiple.as_deref().is_some_and(|value| value != "0")
    }

    /// Stores one file part; `None` for an empty file input, which is no file.
    pub async fn store_part(
        &self,
        form: &Rc<RefCell<Form>>,
        part: &FilePart,
        first: bool,
        seen: usize,
    ) -> Result<Option<Stored>, FileFailure> {
        let Some((path, about, file)) = self.prepare(form, part, first, seen).await? else {
            return Ok(None);
        };
        self.store(path, about, file, seen).await.map(Some)
    }

    /// Decides on a part's path, type and length; `None` for an empty file input.
    async fn prepare(
        &self,
        form: &Rc<RefCell<Form>>,
        part: &FilePart,
        first: bool,
        seen: usize,
    ) -> Result<Option<(TargetPath, FileAbout, OutgoingFile)>, FileFailure> {
        if seen >= self.client.max_files {
            return Err(InboundError::TooManyFiles(self.client.max_files).into());
        }
        if let Some(quota) = self.quota.as_ref().filter(|quota| quota.left().files == 0) {
            return Err(quota::exceeded(quota, Amount { bytes: 0, files: 1 }).into());
        }
        let nameless = part.head.file_name.as_deref() == Some("");
        let target = self.resolve_target(&form.borrow(), part, first, seen);
        // Before the file is read: its end may be known only after the fields behind it.
        let metadata = metadata::of_form(&self.worker.shared, form.borrow().other_fields());
        let look = target.as_ref().ok().and_then(|(_, declared)| self.client.types.look(declared));
        let (source, magic) = sniffed(Form::content(form), look).await?;
        let file = self.resolve_length(source, part, nameless).await?;
        if nameless && file.length == Some(FileLength::Known(0)) {
            return Ok(None);
        }
        let (path, declared) = target?;
        let content_type = self.client.types.confirm(&declared, magic)?;
        let name = part.head.file_name.clone().unwrap_or_default();
        let about = FileAbout { name, content_type, metadata: metadata? };
        Ok(Some((path, about, file)))
    }

    /// Where a part's file is stored, and the type that the part declares.
    fn resolve_target(
        &self,
        form: &Form,
        part: &FilePart,
        first: bool,
        index: usize,
    ) -> Result<(TargetPath, DeclaredType), Problem> {
        let name = part.head.file_name.as_deref().unwrap_or_default();
        let path = self.target_path(form, name, first, index)?;
        let declared = part.head.content_type.as_deref();
        let declared = self.client.types.admit(declared, [name, path.key.as_str()])?;
        Ok((path, declared))
    }

    /// The object's key: the path that the request or the ticket names, for one file only; otherwise from the template.
    fn target_path(
        &self,
        form: &Form,
        name: &str,
        first: bool,
        index: usize,
    ) -> Result<TargetPath, Problem> {
        let fields = form.fields();
        let dir = query_or_field("dir", &self.query.dir, &fields.dir)?;
        let path = query_or_field("path", &self.query.path, &fields.path)?;
        if !first && (path.is_some() || self.client.path.is_some()) {
            dir.map(key::folder).transpose()?;
            let detail = "a path names one file, and the form has several; name a `dir` instead";
            return Err(Problem::new(Code::InvalidRequest, detail));
        }
        let named = self.claim.as_ref().map(|claim| (claim.uuid(index), claim.first_used()));
        target_path(&self.worker.shared.template, &self.client, path, dir, name, named)
    }

    /// Sends a file to COS, and tells the back end of it. `index` is the file's among those of the request.
    pub async fn store(
        &self,
        mut path: TargetPath,
        about: FileAbout,
        file: OutgoingFile,
        index: usize,
    ) -> Result<Stored, FileFailure> {
        let file = match &self.quota {
            Some(quota) => self.followed(quota, file),
            None => file,
        };
        let disposition = disposition::header(self.settings().content_disposition, &about.name);
        let (content_type, disposition) = (about.content_type.as_str(), disposition.as_deref());
        let headers = ContentHeaders { content_type, disposition };
        let stored = match transfer(self.worker, &mut path, &headers, file, self.times).await {
            Ok((file_id, receipt)) => self.report(path, about, file_id, receipt, index).await,
            Err(problem) => Err(FileFailure { problem, path: Some(path.key) }),
        };
        if let Some(quota) = &self.quota {
            quota.sent(stored.as_ref().ok().map(|stored| stored.size));
        }
        stored
    }

    /// A file whose end is noticed, so that it counts even if the client disconnects then.
    fn followed(&self, quota: &Reservation, file: OutgoingFile) -> OutgoingFile {
        let OutgoingFile { buffer, end, source, length, share } = file;
        let source = quota.follow(source, buffer.len() as u64, end.is_some());
        OutgoingFile { buffer, end, source, length, share }
    }

    /// Counts and records a file that is stored, and tells the back end of it.
    async fn report(
        &self,
        path: TargetPath,
        about: FileAbout,
        file_id: String,
        receipt: Receipt,
        index: usize,
    ) -> Result<Stored, FileFailure> {
        let FileAbout { name, content_type, metadata } = about;
        // There is no cached download link for a key that is new.
        let is_replaced = !path.unique;
        let invalidated =
            is_replaced.then(|| self.worker.wechat.invalidate_links(&[file_id.as_str()]));
        let mut url = file_url::of_file(&self.base_url, &path.key);
        url.push_str(&self.worker.shared.links.query(&path.key, Timestamp::now()));
        let signer = self.worker.shared.receipts.as_ref();
        let signed_receipt = signer.and_then(|signer| {
            let (path, crc64) = (path.key.as_str(), Some(receipt.crc64));
            signer.sign(&self.client, &file_id, path, receipt.size, crc64, &metadata)
        });
        let mut stored = Stored {
            file_id,
            key: path.key,
            name,
            content_type,
            size: receipt.size,
            crc64: Some(receipt.crc64),
            verified_by: receipt.verified_by,
            url,
            metadata,
            signed_receipt,
            hook: None,
        };
        self.set_object(&stored.key);
        let mut counted = Counted { request: self, size: stored.size, is_refused: false };
        // No await before both have begun: the client may disconnect at any.
        audit::stored(self.worker, &self.context, &self.client, &stored);
        let told = match self.worker.hooks.is_some() {
            // Boxed: otherwise the future of every upload would contain it.
            true => Box::pin(self.notify(&mut stored, index)).await,
            false => Ok(()),
        };
        if let Some(invalidated) = invalidated {
            invalidated.await;
        }
        counted.is_refused = told.is_err();
        drop(counted);
        told.map(|()| stored)
    }
}

/// Counts a stored file when it is dropped, unless the back end has refused the file: also where the client is gone before
/// the back end responds.
struct Counted<'a, 'b> {
    request: &'a UploadRequest<'b>,
    size: u64,
    is_refused: bool,
}

impl Drop for Counted<'_, '_> {
    fn drop(&mut self) {
        if !self.is_refused {
            self.request.worker.shared.metrics.stored(self.size);
            self.request.context.upload.add_stored(self.size);
        }
    }
}

impl UploadRequest<'_> {
    /// Names the file that the request is about, in its lines.
    pub fn set_object(&self, path: &Key) {
        self.context.upload.set_object(path.as_str());
    }

    /// Records a file of the request that was refused.
    pub fn audit_refusal(&self, request: &HttpRequest, path: Option<&Key>, problem: &Problem) {
        let (worker, context, client) = (self.worker, &self.context, &self.client);
        audit::refused_file(worker, request, context, client, path.map(Key::as_str), problem);
    }

    /// Tells the back end of a stored file.
    async fn notify(&self, stored: &mut Stored, index: usize) -> Result<(), FileFailure> {
        // A repeat under the same `Idempotency-Key` is the same upload.
        let uuid = self.claim.as_ref().map_or_else(Uuid::now_v7, |claim| claim.uuid(index));
        let started = Instant::now();
        let told =
            notify::stored(self.worker, &self.context, &self.client, uuid.to_string(), stored)
                .await;
        if self.worker.shared.settings.hooks.wait {
            self.times.add_since(Stage::Hook, started);
        }
        match told {
            Ok(hook) => stored.hook = hook,
            Err(problem) => {
                return Err(FileFailure { problem, path: Some(stored.key.clone()) });
            }
        }
        Ok(())
    }
}

/// The object's key: the path that the request or the ticket names, otherwise from the template. With an
/// `Idempotency-Key`, `named` is its UUID and when it was first used.
pub fn target_path(
    template: &Template,
    client: &Client,
    path: Option<&str>,
    dir: Option<&str>,
    name: &str,
    named: Option<(Uuid, Timestamp)>,
) -> Result<TargetPath, Problem> {
    // Checked even if a path overrides it.
    dir.map(key::folder).transpose()?;
    if let Some(path) = path.or(client.path.as_ref().map(Key::as_str)) {
        return Ok(TargetPath { key: client.upload_key(path)?, unique: false, generated: None });
    }
    let (uuid, now) = named.unwrap_or_else(|| (Uuid::now_v7(), Timestamp::now()));
    let values = Values { client: &client.name, dir, name, now, uuid };
    let prefix = client.prefix.as_deref().unwrap_or_default();
    // With an `Idempotency-Key`, an earlier request may have stored its file there.
    let unique = template.is_unique() && named.is_none();
    let generated = unique.then(|| Generated { uuid, until: template.date_until(now) });
    Ok(TargetPath { key: template.render(&values, prefix)?, unique, generated })
}

/// A value from the query or from a form field. Two different values are an error.
fn query_or_field<'v>(
    name: &str,
    query: &'v Option<String>,
    field: &'v Option<String>,
) -> Result<Option<&'v str>, Problem> {
    match (query, field) {
        (Some(query), Some(field)) if query != field => Err(Problem::new(
            Code::InvalidRequest,
            format!("`{name}` is in the query and in the form, with different values"),
        )),
        (query, field) => Ok(query.as_deref().or(field.as_deref())),
    }
}

/// Recognizes the file's type by its first bytes, if `look` says that the type matters. The source still yields them.
pub async fn sniffed(
    source: Source,
    look: Option<SniffDepth>,
) -> Result<(Source, Option<Magic>), Problem> {
    match look {
        None => Ok((source, None)),
        Some(look) => {
            let (source, magic) = peek(source, look).await.map_err(CosError::Source)?;
            Ok((source, Some(magic)))
        }
    }
}
