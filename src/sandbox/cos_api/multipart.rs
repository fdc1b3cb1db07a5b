//! Initiate Multipart Upload (doc 7746), Upload Part (7750), Abort Multipart Upload (7740).

use super::super::conn::Conn;
use super::super::cos_response::{Refusal, escaped, request_id};
use super::super::http::{Content, Response};
use super::super::multipart::MultipartUpload;
use super::body::{self, Stop};
use super::put_object::{ObjectHeaders, check_overwrite, forbids_overwrite, stored_response};
use super::request::Request;

const PART_NUMBERS: std::ops::RangeInclusive<u32> = 1..=10_000;

pub fn initiate(request: &Request) -> Result<Response, Refusal> {
    let key = request.object_key()?;
    let forbids = forbids_overwrite(request.head);
    check_overwrite(request, forbids)?;
    let ObjectHeaders { content_type, fileid_ok, stored } = ObjectHeaders::read(request)?;
    let mut uploads = request.sandbox.multipart.borrow_mut();
    let id = uploads
        .initiate(key, content_type, fileid_ok, forbids, stored)
        .map_err(|error| Refusal::internal(&error))?;
    Ok(xml(format!(
        "<InitiateMultipartUploadResult>\n\t<Bucket>{}</Bucket>\n\t<Key>{}</Key>\n\t<UploadId>{id}</UploadId>\n\
         </InitiateMultipartUploadResult>\n",
        escaped(&request.sandbox.bucket),
        escaped(key)
    )))
}

pub async fn upload_part(request: &Request<'_>, conn: &mut Conn) -> Result<Response, Stop> {
    let key = request.object_key()?;
    let id = upload_id(request)?;
    let number = request.head.parameter("partNumber").and_then(|number| number.parse().ok());
    let number = number.filter(|number| PART_NUMBERS.contains(number)).ok_or_else(|| {
        let message = "Part number must be an integer between 1 and 10000, inclusive.";
        Refusal::new(400, "InvalidArgument", message)
    })?;
    body::check_length(request)?;
    let draft =
        with_upload(request, id, |upload| request.sandbox.multipart.borrow().draft(upload))?;
    let draft = draft.map_err(|error| Refusal::internal(&error))?;
    let in_flight = request.sandbox.record.begin(key, request.head.length);
    let (draft, etag) = body::receive(request, conn, draft, &in_flight).await?;
    if !request.executes() {
        return Ok(Response::text(500, ""));
    }
    let mut uploads = request.sandbox.multipart.borrow_mut();
    let part = uploads
        .commit(key, id, number, draft, etag)
        .map_err(|error| Refusal::internal(&error))?
        .ok_or_else(no_such_upload)?;
    in_flight.stored();
    Ok(stored_response(request, &format!("\"{}\"", part.etag), part.crc64))
}

pub fn abort(request: &Request) -> Result<Response, Refusal> {
    let id = upload_id(request)?;
    let mut uploads = request.sandbox.multipart.borrow_mut();
    let upload = uploads.take(request.key, id).ok_or_else(no_such_upload)?;
    uploads.remove_files(&upload).map_err(|error| Refusal::internal(&error))?;
    let headers = vec![("x-cos-request-id", request_id())];
    Ok(Response::with_headers(204, headers, Content::Bytes(Default::default())))
}

pub fn upload_id<'a>(request: &Request<'a>) -> Result<&'a str, Refusal> {
    request.head.parameter("uploadId").ok_or_else(no_such_upload)
}

/// Calls `read` with the upload that the request names.
pub fn with_upload<T>(
    request: &Request,
    id: &str,
    read: impl FnOnce(&MultipartUpload) -> T,
) -> Result<T, Refusal> {
    let uploads = request.sandbox.multipart.borrow();
    uploads.get(request.key, id).map(read).ok_or_else(no_such_upload)
}

pub fn no_such_upload() -> Refusal {
    let message = "The specified upload does not exist. The upload ID may be invalid, or the upload may have been \
                   aborted or completed.";
    Refusal::new(404, "NoSuchUpload", message)
}

/// A successful response with this XML behind the prolog.
pub fn xml(content: String) -> Response {
    let text = format!("<?xml version='1.0' encoding='utf-8' ?>\n{content}");
    let mut response = Response::new(200, "application/xml", text);
    response.headers.push(("x-cos-request-id", request_id()));
    response
}
