//! Uploads: the stages in order, for each file of a form or for one raw body.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::address::PathParameter;
use super::docs::Folder;
use super::problem::{Code, Problem};
use super::repeat::{self, Repeat};
use super::reply::{self, Outcome, Stored};
use super::store::{File, Path, deliver};
use super::timing::Times;
use super::trace::RequestId;
use super::{Worker, address, caller};
use crate::cos::CosError;
use crate::cos::relay::Relay;
use crate::cos::source::{End, Framed, Source};
use crate::guard::idempotency::Turn;
use crate::guard::limits::Slot;
use crate::guard::policy::Client;
use crate::guard::types::Declared;
use crate::inbound::body::{Body, announced_length, refuse_encoding};
use crate::inbound::form::{FilePart, Form};
use crate::inbound::hold::{Held, hold};
use crate::inbound::sniff::{Look, Magic, peek};
use crate::inbound::{InboundError, limited, raw};
use crate::key::{self, Key, Values};
use crate::memory::Blocks;
use crate::metrics::{InFlight, Metrics};
use crate::settings::{self, Action, ReplyProfile};

/// What a request may be longer than its files: heads, fields, delimiters.
const FORM_OVERHEAD: u64 = 1024 * 1024;

/// What an upload's address may say.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Query {
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

/// The form of an upload, as its description has it; fields stand before the file.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a description; `inbound::form` reads it")]
struct UploadForm {
    /// As in the address.
    #[schema(required = false)]
    dir: Folder,
    /// As in the address.
    #[schema(required = false)]
    path: Key,
    /// The file: any part that has a file name or this name. Several files are best called `files[]`.
    #[schema(format = Binary)]
    file: String,
}

/// `POST /v1/files`: a form with one or several files.
#[utoipa::path(
    post, path = "/v1/files", operation_id = "upload", tag = "upload",
    summary = "Upload the files of a form",
    description = "Streamed into COS while it arrives. Of several files each is tried: the status is then the first \
                   failure's, and the reply names every file.",
    params(
        Query,
        ("idempotency-key" = Option<String>, Header, max_length = 255, pattern = "^[!-~]+$",
         description = "An upload that is sent again under the same key gets the reply of the first"),
    ),
    request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses(
        (status = 201, description = "Stored", content(
            (reply::Reply = "application/json"),
            (String = "text/plain"),
        ), headers(
            ("location", description = "The file's stable address, when it was one file"),
        ), links(
            ("its address" = (operation_id = "file", parameters(("path" = "$response.body#/files/0/path")))),
            ("its end" = (operation_id = "delete_file", parameters(("path" = "$response.body#/files/0/path")))),
        )),
        (status = 200, description = "An editor's own shape, as `?reply=` asks for it",
         content((serde_json::Value = "application/json"), (String = "text/plain"))),
    )
)]
pub async fn form(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let query = Query::of(&request)?;
    let profile = query.profile(&worker)?;
    let watch = Watch::new(&request, &worker);
    let files = form_files(&request, payload, &worker, query, profile, &watch.times).await;
    watch.end(profile, files)
}

/// `PUT /v1/files/{path}`: the body is the file.
#[utoipa::path(
    put, path = "/v1/files/{path}", operation_id = "upload_raw", tag = "upload",
    summary = "Upload one file to a path",
    description = "The body is the file. Its type is the request's Content-Type, or what the path's extension tells.",
    params(
        PathParameter,
        ("reply" = Option<ReplyProfile>, Query, description = "The shape of the reply; not set: `upload.reply`"),
        ("idempotency-key" = Option<String>, Header, max_length = 255, pattern = "^[!-~]+$",
         description = "An upload that is sent again under the same key gets the reply of the first"),
    ),
    request_body(content = Option<Vec<u8>>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "Stored", content(
            (reply::Reply = "application/json"),
            (String = "text/plain"),
        ), headers(
            ("location", description = "The file's stable address"),
        ), links(
            ("its address" = (operation_id = "file", parameters(("path" = "$response.body#/files/0/path")))),
            ("its end" = (operation_id = "delete_file", parameters(("path" = "$response.body#/files/0/path")))),
        )),
        (status = 200, description = "An editor's own shape, as `?reply=` asks for it",
         content((serde_json::Value = "application/json"), (String = "text/plain"))),
    )
)]
pub async fn raw(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let query = Query::of(&request)?;
    let profile = query.profile(&worker)?;
    let watch = Watch::new(&request, &worker);
    let file = raw_file(&request, payload, &worker, query, profile, &watch.times).await;
    watch.end(profile, file)
}

/// How an upload request ended that was not refused as a whole.
enum Done {
    Files(Vec<Outcome>, Option<Turn>),
    /// An earlier request had done it.
    Before(HttpResponse),
}

/// An upload request from its first stage to its reply: what is counted of it.
struct Watch<'a> {
    request: &'a HttpRequest,
    metrics: &'a Metrics,
    times: Times<'a>,
    ended: bool,
    _in_flight: InFlight,
}

impl<'a> Watch<'a> {
    fn new(request: &'a HttpRequest, worker: &'a Worker) -> Self {
        let metrics = &*worker.shared.metrics;
        let (times, in_flight) = (Times::new(metrics), metrics.in_flight());
        Self { request, metrics, times, ended: false, _in_flight: in_flight }
    }

    /// The reply in the profile's shape.
    fn end(
        mut self,
        profile: ReplyProfile,
        done: Result<Done, Problem>,
    ) -> Result<HttpResponse, Problem> {
        self.ended = true;
        let (files, turn) = match done {
            Ok(Done::Before(reply)) => return Ok(reply),
            Ok(Done::Files(outcomes, turn)) => (Ok(outcomes), turn),
            Err(problem) => (Err(problem), None),
        };
        match &files {
            Err(problem) => self.metrics.upload(problem.code.name()),
            Ok(outcomes) => outcomes.iter().for_each(|outcome| match outcome {
                Outcome::Stored(stored) => self.metrics.stored(stored.receipt.size),
                Outcome::Failed { problem, .. } => self.metrics.upload(problem.code.name()),
            }),
        }
        if let Some(timing) = self.times.header() {
            self.request.extensions_mut().insert(timing);
        }
        let id = RequestId::of_running(self.request);
        let reply = files.and_then(|outcomes| {
            let reply = profile.reply(&outcomes, &id)?;
            let all = outcomes.iter().all(|outcome| matches!(outcome, Outcome::Stored(_)));
            Ok(match turn.filter(|_| all) {
                Some(turn) => repeat::keep(turn, reply),
                None => reply,
            })
        });
        reply.or_else(|problem| profile.failure(&problem, &id).ok_or(problem))
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        // The client went away, and the request with it.
        if !self.ended {
            self.metrics.upload(Code::TruncatedBody.name());
        }
    }
}

async fn form_files(
    request: &HttpRequest,
    payload: web::Payload,
    worker: &Worker,
    query: Query,
    profile: ReplyProfile,
    times: &Times<'_>,
) -> Result<Done, Problem> {
    let client = may_upload(request, worker)?;
    let turn = match repeat::begin(request, worker, &client).await? {
        Repeat::Go(turn) => turn,
        Repeat::Reply(reply) => return Ok(Done::Before(reply)),
    };
    let upload = Upload::admit(request, worker, client, query, profile, turn, times)?;
    let (settings, client) = (upload.settings(), &upload.client);
    let most = (client.max_files as u64)
        .saturating_mul(client.max_file_size)
        .saturating_add(FORM_OVERHEAD);
    if announced_length(request.headers()).is_some_and(|length| length > most) {
        return Err(InboundError::FileTooLarge(client.max_file_size).into());
    }
    let body = Body::new(payload.into_inner(), settings.idle_timeout);
    let form = Rc::new(RefCell::new(Form::new(request.headers(), body)?));

    let mut outcomes = Vec::new();
    let mut next = Form::next_file(&form).await?;
    while let Some(part) = next.take() {
        let more = upload.expects_more(&part);
        let name = part.head.file_name.clone().unwrap_or_default();
        let first = outcomes.is_empty();
        let readable = match upload.part(&form, part, first, outcomes.len()).await {
            Ok(Some(stored)) => {
                outcomes.push(Outcome::Stored(Box::new(stored)));
                true
            }
            Ok(None) => true,
            Err(Failure { problem, path }) => {
                let more = more && problem.code != Code::TooManyFiles;
                outcomes.push(Outcome::Failed { name, path, problem: Box::new(problem) });
                // The next file is behind the rest of this one.
                more && Form::skip(&form, most).await
            }
        };
        if !readable {
            break;
        }
        next = Form::next_file(&form).await?;
    }
    if outcomes.is_empty() {
        return Err(InboundError::NoFile.into());
    }
    Ok(Done::Files(outcomes, upload.turn))
}

async fn raw_file(
    request: &HttpRequest,
    payload: web::Payload,
    worker: &Worker,
    query: Query,
    profile: ReplyProfile,
    times: &Times<'_>,
) -> Result<Done, Problem> {
    let client = may_upload(request, worker)?;
    let key = client.own_key(&address::path(request)?)?;
    let turn = match repeat::begin(request, worker, &client).await? {
        Repeat::Go(turn) => turn,
        Repeat::Reply(reply) => return Ok(Done::Before(reply)),
    };
    let upload = Upload::admit(request, worker, client, query, profile, turn, times)?;
    let settings = upload.settings();
    let name = key.as_str().rsplit('/').next().unwrap_or_default().to_owned();
    let declared = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        // What curl says of a body it knows nothing of.
        .filter(|value| *value != "application/x-www-form-urlencoded");
    let types = &upload.client.types;
    let declared = types.admit(declared, [&name, key.as_str()])?;

    let max = upload.client.max_file_size;
    let length = announced_length(request.headers());
    if length.is_some_and(|length| length > max) {
        return Err(InboundError::FileTooLarge(max).into());
    }
    let source = raw::content(Body::new(payload.into_inner(), settings.idle_timeout));
    let (source, magic) = looked_at(source, types.look(&declared)).await?;
    let content_type = types.confirm(&declared, magic)?;
    let source = limited(source, max);
    let file = match length {
        Some(length) => upload.streamed(source, Framed::Exact(length)),
        None => upload.held(source, settings.hold_limit, None).await?,
    };
    let path = Path { key, unique: false };
    let stored =
        upload.store(path, name, content_type, file).await.map_err(|failure| failure.problem)?;
    Ok(Done::Files(vec![Outcome::Stored(Box::new(stored))], upload.turn))
}

/// What can be refused before a byte of the body is read.
fn may_upload(request: &HttpRequest, worker: &Worker) -> Result<Arc<Client>, Problem> {
    let client = caller::identify(request, worker)?;
    client.may(Action::Upload)?;
    refuse_encoding(request.headers())?;
    Ok(client)
}

/// `source` as it was, and what its first bytes are, if anybody wants to know.
async fn looked_at(source: Source, look: Option<Look>) -> Result<(Source, Option<Magic>), Problem> {
    match look {
        None => Ok((source, None)),
        Some(look) => {
            let (source, magic) = peek(source, look).await.map_err(CosError::Source)?;
            Ok((source, Some(magic)))
        }
    }
}

impl Query {
    fn of(request: &HttpRequest) -> Result<Self, Problem> {
        web::Query::from_query(request.query_string())
            .map(web::Query::into_inner)
            .map_err(|error| Problem::new(Code::InvalidRequest, format!("the query: {error}")))
    }

    fn profile(&self, worker: &Worker) -> Result<ReplyProfile, Problem> {
        let by_default = worker.shared.settings.upload.reply;
        self.reply.as_deref().map_or(Ok(by_default), reply::named)
    }
}

/// One request that may upload.
struct Upload<'a> {
    worker: &'a Worker,
    client: Arc<Client>,
    query: Query,
    profile: ReplyProfile,
    base: String,
    turn: Option<Turn>,
    times: &'a Times<'a>,
    _slot: Slot,
}

/// Why a file was not stored.
struct Failure {
    problem: Problem,
    path: Option<Key>,
}

impl<E: Into<Problem>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { problem: error.into(), path: None }
    }
}

impl<'a> Upload<'a> {
    /// Takes a place.
    fn admit(
        request: &HttpRequest,
        worker: &'a Worker,
        client: Arc<Client>,
        query: Query,
        profile: ReplyProfile,
        turn: Option<Turn>,
        times: &'a Times<'a>,
    ) -> Result<Self, Problem> {
        let shared = &worker.shared;
        if shared.requests.is_closed() {
            return Err(Problem::draining());
        }
        let slot = shared.limits.take(&client)?;
        let base = address::base(request, shared);
        Ok(Self { worker, client, query, profile, base, turn, times, _slot: slot })
    }

    fn settings(&self) -> &'a settings::Upload {
        &self.worker.shared.settings.upload
    }

    /// Whether another file is to be expected behind this one, so that the request's length says nothing of it.
    fn expects_more(&self, part: &FilePart) -> bool {
        part.head.field.ends_with(']')
            || self.profile.sends_fields_last()
            || self.query.multiple.as_deref().is_some_and(|value| value != "0")
    }

    /// Stores one file part; `None` for an empty file input, which is no file.
    async fn part(
        &self,
        form: &Rc<RefCell<Form>>,
        part: FilePart,
        first: bool,
        seen: usize,
    ) -> Result<Option<Stored>, Failure> {
        if seen >= self.client.max_files {
            return Err(InboundError::TooManyFiles(self.client.max_files).into());
        }
        let name = part.head.file_name.clone().unwrap_or_default();
        let nameless = part.head.file_name.as_deref() == Some("");
        let placed = self.place(&form.borrow(), &part, first, seen);
        let look = placed.as_ref().ok().and_then(|(_, declared)| self.client.types.look(declared));
        let (source, magic) = looked_at(Form::content(form), look).await?;
        let file = self.settle(source, &part, nameless).await?;
        if nameless && file.framed == Framed::Exact(0) {
            return Ok(None);
        }
        let (path, declared) = placed?;
        let content_type = self.client.types.confirm(&declared, magic)?;
        self.store(path, name, content_type, file).await.map(Some)
    }

    /// Where a part's file goes, and what it says it is.
    fn place(
        &self,
        form: &Form,
        part: &FilePart,
        first: bool,
        index: usize,
    ) -> Result<(Path, Declared), Problem> {
        let name = part.head.file_name.as_deref().unwrap_or_default();
        let path = self.path(form, name, first, index)?;
        let declared = part.head.content_type.as_deref();
        let declared = self.client.types.admit(declared, [name, path.key.as_str()])?;
        Ok((path, declared))
    }

    /// Finds out how long a part's file is, holding it where nothing else tells.
    async fn settle(
        &self,
        source: Source,
        part: &FilePart,
        nameless: bool,
    ) -> Result<File, Problem> {
        let settings = self.settings();
        let max = self.client.max_file_size;
        let source = limited(source, max);
        if let Some(length) = part.head.length {
            if length > max {
                return Err(InboundError::FileTooLarge(max).into());
            }
            if !nameless {
                return Ok(self.streamed(source, Framed::Exact(length)));
            }
        }
        let file = match part.framed {
            // Too long if it is the last part; if it is not, only what fits the window can be saved.
            Some(framed) if framed > max.saturating_add(2) && !self.expects_more(part) => {
                let file = self.held(source, settings.replay_window, Some(framed)).await?;
                if let Framed::Guess(_) = file.framed {
                    return Err(InboundError::FileTooLarge(max).into());
                }
                file
            }
            Some(framed) if !nameless && !self.expects_more(part) => {
                self.streamed(source, Framed::Guess(framed))
            }
            framed => self.held(source, settings.hold_limit, framed).await?,
        };
        match (part.head.length, file.framed) {
            (Some(declared), Framed::Exact(got)) if declared != got => {
                Err(InboundError::LengthMismatch { declared, got }.into())
            }
            _ => Ok(file),
        }
    }

    fn streamed(&self, source: Source, framed: Framed) -> File {
        let mut kept = Blocks::new(self.worker.shared.budget.clone());
        kept.expect(framed.length());
        self.file(kept, None, source, framed)
    }

    /// Holds a file to its end; where the room runs out, goes over to the guess if there is one.
    async fn held(
        &self,
        source: Source,
        limit: usize,
        guess: Option<u64>,
    ) -> Result<File, Problem> {
        let mut kept = Blocks::new(self.worker.shared.budget.clone());
        let (source, held) = hold(source, &mut kept, limit)
            .await
            .map_err(|error| Problem::from(CosError::Source(error)))?;
        let length = kept.len() as u64;
        match (held, guess) {
            (Held::Whole(end), _) => Ok(self.file(kept, Some(end), source, Framed::Exact(length))),
            (_, Some(framed)) => Ok(self.file(kept, None, source, Framed::Guess(framed))),
            (Held::Full, None) => Err(InboundError::LengthRequired.into()),
            (Held::NoRoom, None) => Err(InboundError::NoRoom.into()),
        }
    }

    fn file(&self, kept: Blocks, ended: Option<End>, source: Source, framed: Framed) -> File {
        let (window, verify) =
            (self.settings().replay_window, self.worker.shared.settings.cos.verify_crc64);
        File { relay: Rc::new(Relay::new(kept, ended, source, window, verify)), framed }
    }

    /// The object's key: the path the client names, for one file only, otherwise the template's.
    fn path(&self, form: &Form, name: &str, first: bool, index: usize) -> Result<Path, Problem> {
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
            return Ok(Path { key: self.client.own_key(path)?, unique: false });
        }
        let values = Values {
            client: &self.client.name,
            dir,
            name,
            now: Timestamp::now(),
            uuid: self.turn.as_ref().map_or_else(Uuid::now_v7, |turn| turn.uuid(index)),
        };
        let prefix = self.client.prefix.as_deref().unwrap_or_default();
        let template = &self.worker.shared.template;
        // A repeat's first attempt may have stored its file there.
        let unique = template.is_unique() && self.turn.is_none();
        Ok(Path { key: template.render(&values, prefix)?, unique })
    }

    async fn store(
        &self,
        path: Path,
        name: String,
        content_type: String,
        file: File,
    ) -> Result<Stored, Failure> {
        match deliver(self.worker, &path, &content_type, &file, self.times).await {
            Ok((file_id, receipt)) => {
                let mut url = address::of_file(&self.base, &path.key);
                url.push_str(&self.worker.shared.links.query(&path.key, Timestamp::now()));
                Ok(Stored { file_id, key: path.key, name, content_type, receipt, url })
            }
            Err(problem) => Err(Failure { problem, path: Some(path.key) }),
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
