//! HEAD Object (doc 7745), GET Object (doc 7753) and DELETE Object (doc 7743), of any object of the bucket.

use super::super::cos_response::{Refusal, request_id};
use super::super::get_object;
use super::super::http::{Content, Response};
use super::request::Request;

/// The response to HEAD has the same headers as that to GET.
pub fn read(request: &Request) -> Result<Response, Refusal> {
    let key = request.object_key()?;
    let mut response = get_object::stored_object(request.sandbox, request.head, key, |_| true)?;
    response.headers.retain_mut(|(name, value)| match *name {
        "ETag" => {
            *value = request.reported_etag(value);
            true
        }
        "x-cos-hash-crc64ecma" => {
            let reported = request.crc_header(value.parse().unwrap_or_default());
            reported.map(|(_, reported)| *value = reported).is_some()
        }
        _ => true,
    });
    Ok(response)
}

/// A success also if there is no such object.
pub fn delete(request: &Request) -> Result<Response, Refusal> {
    let key = request.object_key()?;
    let removed = request.sandbox.store.borrow_mut().remove(key);
    removed.map_err(|error| Refusal::internal(&error))?;
    let headers = vec![("x-cos-request-id", request_id())];
    Ok(Response::with_headers(204, headers, Content::Bytes(Default::default())))
}
