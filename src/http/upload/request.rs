//! What a request that was let in may store: where each file goes, how long it is, and on its way with it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use actix_web::HttpRequest;
use jiff::Timestamp;
use utoipa::IntoParams;
use uuid::Uuid;

use super::transfer::{OutgoingFile, TargetPath, transfer};
use crate::cos::error::CosError;
use crate::cos::relay::Relay;
use crate::file_stream::{FileEnd, FileLength, Source};
use crate::guard::idempotency::IdempotencyGuard;
use crate::guard::limits::Slot;
use crate::guard::policy::Client;
use crate::guard::types::Declared;
use crate::http::extract::schemas::Folder;
use crate::http::extract::{file_url, query};
use crate::http::middleware::server_timing::Times;
use crate::http::problem::{Code, Problem};
use crate::http::response::outcome::Stored;
use crate::http::response::profile;
use crate::http::state::Worker;
use crate::inbound::error::InboundError;
use crate::inbound::form::{FilePart, Form, MAX_EPILOGUE};
use crate::inbound::hold::{Held, hold};
use crate::inbound::limit::limited;
use crate::inbound::sniff::{Look, Magic, peek};
use crate::key::{self, Key, Values};
use crate::memory::replay_buffer::ReplayBuffer;
use crate::settings::{self, ReplyProfile};

/// What an upload's address may say.
#[derive(Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UploadQuery {
    /// The object's path, where the caller may choose it and the form has one file.
    #[param(value_type = Key, required = false)]
    path: Option<String>,
    /// A folder for the generated path.
    #[param(value_type = Folder, required = false)]
    dir: Option<String>,
    /// The shape of the reply, for the editor or widget that reads it; not set: `upload.reply`.
    #[param(value_type = ReplyProfile, required = false)]
    reply: Option<String>,
    /// `1`: more files may follow the first, so each is held until it is complete.
    multiple: Option<String>,
}

impl UploadQuery {
    pub fn of(request: &HttpRequest) -> Result<Self, Problem> {
        let names = ["path", "dir", "reply", "multiple"];
        let [path, dir, reply, multiple] = query::parameters(request, names)?;
        Ok(Self { path, dir, reply, multiple })
    }

    pub fn profile(&self, worker: &Worker) -> Result<ReplyProfile, Problem> {
        let by_default = worker.shared.settings.upload.reply;
        self.reply.as_deref().map_or(Ok(by_default), profile::named)
    }
}

/// One request that may upload.
pub struct UploadRequest<'a> {
    worker: &'a Worker,
    pub client: Arc<Client>,
    query: UploadQuery,
    profile: ReplyProfile,
    base: String,
    pub claim: Option<IdempotencyGuard>,
    times: &'a Times<'a>,
    slot: Slot,
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
    /// Takes a place.
    pub fn admit(
        request: &HttpRequest,
        worker: &'a Worker,
        client: Arc<Client>,
        query: UploadQuery,
        profile: ReplyProfile,
        claim: Option<IdempotencyGuard>,
        times: &'a Times<'a>,
    ) -> Result<Self, Problem> {
        let shared = &worker.shared;
        if shared.requests.is_closed() {
            return Err(Problem::draining());
        }
        let slot = shared.limits.take(&client)?;
        let base = file_url::base(request, shared);
        Ok(Self { worker, client, query, profile, base, claim, times, slot })
    }

    pub fn settings(&self) -> &'a settings::Upload {
        &self.worker.shared.settings.upload
    }

    /// Whether another file is to be expected behind this one, so that the request's length says nothing of it.
    pub fn expects_more(&self, part: &FilePart) -> bool {
        part.head.field.ends_with(']')
            || self.profile.sends_fields_last()
            || self.query.multiple.as_deref().is_some_and(|value| value != "0")
    }

    /// Stores one file part; `None` for an empty file input, which is no file.
    pub async fn part(
        &self,
        form: &Rc<RefCell<Form>>,
        part: FilePart,
        first: bool,
        seen: usize,
    ) -> Result<Option<Stored>, FileFailure> {
        if seen >= self.client.max_files {
            return Err(InboundError::TooManyFiles(self.client.max_files).into());
        }
        let name = part.head.file_name.clone().unwrap_or_default();
        let nameless = part.head.file_name.as_deref() == Some("");
        let placed = self.resolve_target(&form.borrow(), &part, first, seen);
        let look = placed.as_ref().ok().and_then(|(_, declared)| self.client.types.look(declared));
        let (source, magic) = sniffed(Form::content(form), look).await?;
        let file = self.resolve_length(source, &part, nameless).await?;
        if nameless && file.framed == FileLength::Known(0) {
            return Ok(None);
        }
        let (path, declared) = placed?;
        let content_type = self.client.types.confirm(&declared, magic)?;
        self.store(path, name, content_type, file).await.map(Some)
    }

    /// Where a part's file goes, and what it says it is.
    fn resolve_target(
        &self,
        form: &Form,
        part: &FilePart,
        first: bool,
        index: usize,
    ) -> Result<(TargetPath, Declared), Problem> {
        let name = part.head.file_name.as_deref().unwrap_or_default();
        let path = self.path(form, name, first, index)?;
        let declared = part.head.content_type.as_deref();
        let declared = self.client.types.admit(declared, [name, path.key.as_str()])?;
        Ok((path, declared))
    }

    /// Finds out how long a part's file is, holding it where nothing else tells.
    async fn resolve_length(
        &self,
        source: Source,
        part: &FilePart,
        nameless: bool,
    ) -> Result<OutgoingFile, Problem> {
        let settings = self.settings();
        let max = self.client.max_file_size;
        let source = limited(source, max);
        if let Some(length) = part.head.length {
            if length > max {
                return Err(InboundError::FileTooLarge(max).into());
            }
            if !nameless {
                return Ok(self.streamed(source, FileLength::Known(length)));
            }
        }
        let file = match part.framed {
            // Too long if it is the last part; if it is not, only what fits the window can be saved.
            Some(framed)
                if framed > max.saturating_add(MAX_EPILOGUE as u64) && !self.expects_more(part) =>
            {
                let file = self.held(source, settings.replay_window, Some(framed)).await?;
                if let FileLength::Assumed(_) = file.framed {
                    return Err(InboundError::FileTooLarge(max).into());
                }
                file
            }
            Some(framed) if !nameless && !self.expects_more(part) => {
                self.streamed(source, FileLength::Assumed(framed))
            }
            framed => self.held(source, settings.max_buffered_file, framed).await?,
        };
        match (part.head.length, file.framed) {
            (Some(declared), FileLength::Known(got)) if declared != got => {
                Err(InboundError::LengthMismatch { declared, got }.into())
            }
            _ => Ok(file),
        }
    }

    pub fn streamed(&self, source: Source, framed: FileLength) -> OutgoingFile {
        let kept = ReplayBuffer::new(self.slot.memory());
        self.file(kept, None, source, framed)
    }

    /// Holds a file to its end; where the room runs out, goes over to the guess if there is one.
    pub async fn held(
        &self,
        source: Source,
        limit: usize,
        guess: Option<u64>,
    ) -> Result<OutgoingFile, Problem> {
        let mut kept = ReplayBuffer::new(self.slot.memory());
        let (source, held) = hold(source, &mut kept, limit)
            .await
            .map_err(|error| Problem::from(CosError::Source(error)))?;
        let length = kept.len() as u64;
        match (held, guess) {
            (Held::Whole(end), _) => {
                Ok(self.file(kept, Some(end), source, FileLength::Known(length)))
            }
            (_, Some(framed)) => Ok(self.file(kept, None, source, FileLength::Assumed(framed))),
            (Held::Full, None) => Err(InboundError::LengthRequired.into()),
            (Held::NoRoom, None) => Err(InboundError::NoRoom.into()),
        }
    }

    fn file(
        &self,
        kept: ReplayBuffer,
        ended: Option<FileEnd>,
        source: Source,
        framed: FileLength,
    ) -> OutgoingFile {
        let (window, verify) =
            (self.settings().replay_window, self.worker.shared.settings.cos.verify_crc64);
        OutgoingFile { relay: Rc::new(Relay::new(kept, ended, source, window, verify)), framed }
    }

    /// The object's key: the path the client names, for one file only, otherwise the template's.
    fn path(
        &self,
        form: &Form,
        name: &str,
        first: bool,
        index: usize,
    ) -> Result<TargetPath, Problem> {
        let fields = form.fields();
        let dir = one_of("dir", &self.query.dir, &fields.dir)?;
        // Also where a path makes it idle.
        dir.map(key::folder).transpose()?;
        let named = one_of("path", &self.query.path, &fields.path)?;
        if let Some(path) = named.or(self.client.path.as_ref().map(Key::as_str)) {
            if !first {
                let detail =
                    "a path names one file, and the form has several; name a `dir` instead";
                return Err(Problem::new(Code::InvalidRequest, detail));
            }
            return Ok(TargetPath { key: self.client.own_key(path)?, unique: false });
        }
        let values = Values {
            client: &self.client.name,
            dir,
            name,
            now: Timestamp::now(),
            uuid: self.claim.as_ref().map_or_else(Uuid::now_v7, |claim| claim.uuid(index)),
        };
        let prefix = self.client.prefix.as_deref().unwrap_or_default();
        let template = &self.worker.shared.template;
        // A repeat's first attempt may have stored its file there.
        let unique = template.is_unique() && self.claim.is_none();
        Ok(TargetPath { key: template.render(&values, prefix)?, unique })
    }

    pub async fn store(
        &self,
        path: TargetPath,
        name: String,
        content_type: String,
        file: OutgoingFile,
    ) -> Result<Stored, FileFailure> {
        match transfer(self.worker, &path, &content_type, &file, self.times).await {
            Ok((file_id, receipt)) => {
                let mut url = file_url::of_file(&self.base, &path.key);
                url.push_str(&self.worker.shared.links.query(&path.key, Timestamp::now()));
                Ok(Stored { file_id, key: path.key, name, content_type, receipt, url })
            }
            Err(problem) => Err(FileFailure { problem, path: Some(path.key) }),
        }
    }
}

/// A value that may stand in the query or in the form, but not differently in both.
fn one_of<'v>(
    name: &str,
    query: &'v Option<String>,
    field: &'v Option<String>,
) -> Result<Option<&'v str>, Problem> {
    match (query, field) {
        (Some(query), Some(field)) if query != field => Err(Problem::new(
            Code::InvalidRequest,
            format!("`{name}` stands in the address and in the form, with different values"),
        )),
        (query, field) => Ok(query.as_deref().or(field.as_deref())),
    }
}

/// `source` as it was, and what its first bytes are, if anybody wants to know.
pub async fn sniffed(
    source: Source,
    look: Option<Look>,
) -> Result<(Source, Option<Magic>), Problem> {
    match look {
        None => Ok((source, None)),
        Some(look) => {
            let (source, magic) = peek(source, look).await.map_err(CosError::Source)?;
            Ok((source, Some(magic)))
        }
    }
}
