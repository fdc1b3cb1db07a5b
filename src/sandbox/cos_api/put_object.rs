//! PUT Object (doc 7749), and what it has in common with Initiate Multipart Upload: the headers that become the object's.

use super::super::conn::Conn;
use super::super::cos_response::{Refusal, request_id};
use super::super::get_object::is_stored;
use super::super::http::{Content, Head, Response};
use super::body::{self, Stop};
use super::request::Request;

/// What a request says of the object that it creates.
pub struct ObjectHeaders {
    pub content_type: Option<String>,
    pub fileid_ok: bool,
    /// Those that are sent again with the object, by their names in lower case.
    pub stored: Vec<(String, String)>,
}

impl ObjectHeaders {
    pub fn read(request: &Request) -> Result<ObjectHeaders, Refusal> {
        let file_id = request.head.header("x-cos-meta-fileid");
        if file_id.is_some_and(|id| !request.sandbox.links.is_file_id(request.key, id)) {
            let message = "x-cos-meta-fileid is not one that was issued for this path.";
            return Err(Refusal::new(400, "InvalidArgument", message));
        }
        let named = request.head.headers().map(|(name, value)| (name.to_ascii_lowercase(), value));
        let stored = named
            .filter(|(name, _)| is_stored(name))
            .map(|(name, value)| (name, value.to_owned()))
            .collect();
        Ok(ObjectHeaders {
            content_type: request.head.header("content-type").map(str::to_owned),
            fileid_ok: file_id.is_some(),
            stored,
        })
    }
}

pub fn forbids_overwrite(head: &Head) -> bool {
    head.header("x-cos-forbid-overwrite").is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

pub fn check_overwrite(request: &Request, forbids: bool) -> Result<(), Refusal> {
    if forbids && request.sandbox.store.borrow().get(request.key).is_some() {
        let message = "The object you specified already exists and can not be overwritten.";
        return Err(Refusal::new(409, "FileAlreadyExists", message));
    }
    Ok(())
}

pub async fn handle(request: &Request<'_>, conn: &mut Conn) -> Result<Response, Stop> {
    let key = request.object_key()?;
    body::check_length(request)?;
    let forbids = forbids_overwrite(request.head);
    check_overwrite(request, forbids)?;
    let headers = ObjectHeaders::read(request)?;
    let upload = request.sandbox.record.begin(key, request.head.length);
    let draft = request.sandbox.store.borrow().draft();
    let draft = draft.map_err(|error| Refusal::internal(&error))?;
    let (mut draft, etag) = body::receive(request, conn, draft, &upload).await?;
    if !request.executes() {
        return Ok(Response::text(500, ""));
    }
    // Another request may have stored the object while this one was read.
    check_overwrite(request, forbids)?;
    let (crc64, etag) = (draft.crc64(), format!("\"{etag}\""));
    draft.etag = Some(etag.clone());
    let mut store = request.sandbox.store.borrow_mut();
    let ObjectHeaders { content_type, fileid_ok, stored } = headers;
    store
        .commit(draft, key, content_type, fileid_ok, None, stored)
        .map_err(|error| Refusal::internal(&error))?;
    upload.stored();
    Ok(stored_response(request, &etag, crc64))
}

/// The response to a file or a part that was stored. `etag` is quoted.
pub fn stored_response(request: &Request, etag: &str, crc64: u64) -> Response {
    let mut headers = vec![
        ("ETag", request.reported_etag(etag)),
        ("x-cos-request-id", request_id()),
        ("Server", "tencent-cos".to_owned()),
    ];
    headers.extend(request.crc_header(crc64));
    Response::with_headers(200, headers, Content::Bytes(Default::default()))
}
