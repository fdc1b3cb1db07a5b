//! Complete Multipart Upload (doc 7742): the list of parts is checked, then they are joined to the object.

use md5::{Digest, Md5};
use quick_xml::Reader;
use quick_xml::events::Event;

use super::super::conn::Conn;
use super::super::cos_response::{Refusal, escaped};
use super::super::fault::FaultKind;
use super::super::http::Response;
use super::super::multipart::{MultipartUpload, Part};
use super::body::{self, Stop};
use super::multipart::{no_such_upload, upload_id, with_upload, xml};
use super::put_object::{check_overwrite, forbids_overwrite};
use super::request::Request;

/// In bytes; a list of 10,000 parts has less than 900 KiB.
const BODY_MAX: usize = 1024 * 1024;
/// In bytes, for every part but the last.
const PART_MIN: u64 = 1024 * 1024;

/// A part's number and its ETag without quotes, as the request lists them.
type Listed = (u32, String);

pub async fn handle(request: &Request<'_>, conn: &mut Conn) -> Result<Response, Stop> {
    let key = request.object_key()?;
    let id = upload_id(request)?;
    let body = conn.whole_body(BODY_MAX).await.map_err(Stop::Connection)?;
    if let Some(expected) = request.head.header("content-md5") {
        body::check_md5(expected, Md5::digest(&body).into())?;
    }
    let forbids = with_upload(request, id, |upload| upload.forbids_overwrite)?;
    let listed = read_list(&body).ok_or_else(|| {
        Refusal::new(400, "MalformedXML", "The XML you provided was not well-formed.")
    })?;
    let parts = with_upload(request, id, |upload| check(upload, &listed))??;
    check_overwrite(request, forbids || forbids_overwrite(request.head))?;
    if request.has_fault(FaultKind::Error200) {
        let refusal = Refusal::new(
            200,
            "InternalError",
            "We encountered an internal error. Please try again.",
        );
        return Ok(refusal.response(&request.head.path));
    }
    if !request.executes() {
        return Ok(Response::text(500, ""));
    }
    let upload = request.sandbox.multipart.borrow_mut().take(key, id);
    let upload = upload.ok_or_else(no_such_upload)?;
    let (etag, crc64) =
        join(request, &upload, &parts).await.map_err(|error| Refusal::internal(&error))?;
    let location = request.sandbox.links.url(key);
    let mut response = xml(format!(
        "<CompleteMultipartUploadResult>\n\t<Location>{}</Location>\n\t<Bucket>{}</Bucket>\n\t<Key>{}</Key>\n\
         \t<ETag>{}</ETag>\n</CompleteMultipartUploadResult>\n",
        escaped(&location),
        escaped(&request.sandbox.bucket),
        escaped(key),
        quoted(&request.reported_etag(&etag)),
    ));
    response.headers.extend(request.crc_header(crc64));
    Ok(response)
}

/// An ETag with its quotes, as COS writes it in XML.
pub fn quoted(etag: &str) -> String {
    etag.replace('"', "&quot;")
}

fn check(upload: &MultipartUpload, listed: &[Listed]) -> Result<Vec<Part>, Refusal> {
    if !listed.is_sorted_by(|(first, _), (second, _)| first < second) {
        let message =
            "The list of parts was not in ascending order. Parts must be ordered by part number.";
        return Err(Refusal::new(400, "InvalidPartOrder", message));
    }
    let mut parts = Vec::new();
    for (expected, (number, etag)) in (1..).zip(listed) {
        let part = upload.parts.get(number).filter(|part| part.etag.eq_ignore_ascii_case(etag));
        match part {
            Some(part) if *number == expected => parts.push(part.clone()),
            _ => {
                let message =
                    "One or more of the specified parts could not be found, or had another ETag.";
                return Err(Refusal::new(400, "InvalidPart", message));
            }
        }
    }
    let Some((_, all_but_last)) = parts.split_last() else {
        return Err(Refusal::new(400, "MalformedXML", "The list of parts is empty."));
    };
    if all_but_last.iter().any(|part| part.size < PART_MIN) {
        let message = "Your proposed upload is smaller than the minimum allowed object size.";
        return Err(Refusal::new(400, "EntityTooSmall", message));
    }
    Ok(parts)
}

/// Makes the parts the object. The result is its quoted ETag and its CRC.
async fn join(
    request: &Request<'_>,
    upload: &MultipartUpload,
    parts: &[Part],
) -> std::io::Result<(String, u64)> {
    let mut draft = request.sandbox.store.borrow().draft()?;
    let mut md5 = Md5::new();
    for part in parts {
        draft.append(&part.path, part.size, part.crc64)?;
        md5.update(hex::decode(&part.etag).unwrap_or_default());
        // The parts are copied with blocking calls: other connections must run in between.
        tokio::task::yield_now().await;
    }
    let (crc64, etag) =
        (draft.crc64(), format!("\"{}-{}\"", hex::encode(md5.finalize()), parts.len()));
    draft.etag = Some(etag.clone());
    request.sandbox.store.borrow_mut().commit(
        draft,
        &upload.key,
        upload.content_type.clone(),
        upload.fileid_ok,
        None,
        upload.headers.clone(),
    )?;
    request.sandbox.multipart.borrow().remove_files(upload)?;
    Ok((etag, crc64))
}

/// The parts of a `CompleteMultipartUpload`; `None` if it is not one. A part's two elements come in either order.
fn read_list(body: &[u8]) -> Option<Vec<Listed>> {
    let mut reader = Reader::from_str(std::str::from_utf8(body).ok()?);
    let mut path: Vec<String> = Vec::new();
    let (mut number, mut etag) = (None, None);
    let mut text = String::new();
    let mut listed = Vec::new();
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => {
                path.push(start.name().as_ref().to_owned());
                text.clear();
            }
            Event::Text(part) => text.push_str(&part.xml10_content()),
            Event::GeneralRef(entity) => match &*entity.xml10_content() {
                "quot" | "#34" | "#x22" => text.push('"'),
                _ => return None,
            },
            Event::End(_) => {
                let names: Vec<&str> = path.iter().map(String::as_str).collect();
                match names[..] {
                    ["CompleteMultipartUpload", "Part", "PartNumber"] if number.is_none() => {
                        number = Some(text.trim().parse().ok()?);
                    }
                    ["CompleteMultipartUpload", "Part", "ETag"] if etag.is_none() => {
                        etag = Some(text.trim().trim_matches('"').to_owned());
                    }
                    ["CompleteMultipartUpload", "Part"] => {
                        listed.push((number.take()?, etag.take()?));
                    }
                    ["CompleteMultipartUpload"] => return Some(listed),
                    _ => return None,
                }
                path.pop();
            }
            Event::Eof => return None,
            Event::Decl(_) | Event::Comment(_) => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_as_the_sdks_write_them() {
        let expected = Some(vec![(1, "ab".to_owned()), (2, "cd".to_owned())]);
        for text in [
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>\"ab\"</ETag></Part>\
             <Part><PartNumber>2</PartNumber><ETag>&quot;cd&quot;</ETag></Part></CompleteMultipartUpload>",
            "<?xml version='1.0'?>\n<CompleteMultipartUpload>\n <Part>\n  <ETag>ab</ETag> <PartNumber> 1 </PartNumber>\
             </Part><Part><ETag>cd</ETag><PartNumber>2</PartNumber></Part>\n</CompleteMultipartUpload>\n",
        ] {
            assert_eq!(read_list(text.as_bytes()), expected, "{text}");
        }
        for wrong in [
            "",
            "text",
            "<Other></Other>",
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber></Part></CompleteMultipartUpload>",
            "<CompleteMultipartUpload><Part><PartNumber>x</PartNumber><ETag>a</ETag></Part></CompleteMultipartUpload>",
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>a</ETag></Part>",
        ] {
            assert_eq!(read_list(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
