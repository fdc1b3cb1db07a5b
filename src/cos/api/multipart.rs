//! The calls of a multipart upload, its parts aside, which are streamed.

use jiff::Timestamp;
use quick_xml::escape::partial_escape;

use super::client::{CallOptions, Client, ObjectFields};
use super::request::Request;
use super::response::Stored;
use super::xml;
use crate::cos::error::CosError;

/// The parts of an upload (doc 7750).
pub const MAX_PARTS: u32 = 10_000;
/// Entries of a page.
const PAGE: &str = "1000";
/// The longest UploadId that is accepted, in bytes; those of COS have about 60.
const MAX_UPLOAD_ID: usize = 1024;
/// COS puts many parts together in minutes (doc 7742): the time limit of other calls is multiplied by this.
const COMPLETE_FACTOR: u32 = 5;

const UNREADABLE: CosError = CosError::NoVerdict("its document cannot be read");

/// A part that COS has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// From 1.
    pub number: u32,
    /// Bytes.
    pub size: u64,
    /// With its quotes.
    pub etag: String,
}

/// A page of an upload's parts, in the order of their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartsPage {
    pub parts: Vec<Part>,
    /// The next page begins after this number; `None` at the end.
    pub next: Option<u32>,
}

/// An upload that was neither completed nor aborted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PendingUpload {
    pub key: String,
    pub upload_id: String,
    /// `None` where COS's time cannot be read.
    pub initiated: Option<Timestamp>,
}

/// The place of an upload in the list of uploads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UploadsMarker {
    pub key: String,
    pub upload_id: String,
}

/// A page of the bucket's uploads, in the order of their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UploadsPage {
    pub uploads: Vec<PendingUpload>,
    /// The next page begins after this; `None` at the end.
    pub next: Option<UploadsMarker>,
}

impl Client {
    /// Initiate Multipart Upload (doc 7746): the UploadId.
    pub async fn initiate(&self, key: &str, fields: ObjectFields<'_>) -> Result<String, CosError> {
        let request = Request {
            method: "POST",
            key,
            parameters: &[("uploads", "")],
            fields: &fields.headers(),
            length: Some(0),
        };
        // A second upload would be left behind.
        let options = CallOptions { is_repeatable: false, ..self.repeatable() };
        let response = self.call(&request, b"", options).await?;
        upload_id(&response.body)
    }

    /// Complete Multipart Upload (doc 7742) from `parts`, numbers and ETags in the order of the numbers. Where it fails
    /// without a refusal, the object may have been stored.
    pub async fn complete<'a>(
        &self,
        key: &str,
        upload_id: &str,
        parts: impl IntoIterator<Item = (u32, &'a str)>,
    ) -> Result<Stored, CosError> {
        let body = complete_document(parts);
        let request = Request {
            method: "POST",
            key,
            parameters: &[("uploadId", upload_id)],
            fields: &[("Content-Type", "application/xml")],
            length: Some(body.len() as u64),
        };
        let limit = self.timeouts().response * COMPLETE_FACTOR;
        let options = CallOptions { is_repeatable: false, limit };
        let response = self.call(&request, body.as_bytes(), options).await?;
        let etag = completed_etag(&response.body)?;
        Ok(Stored { etag, crc64: response.headers.crc64 })
    }

    /// Abort Multipart Upload (doc 7740). `false`: there is no such upload.
    pub async fn abort(&self, key: &str, upload_id: &str) -> Result<bool, CosError> {
        let request = Request {
            method: "DELETE",
            key,
            parameters: &[("uploadId", upload_id)],
            fields: &[],
            length: None,
        };
        match self.call(&request, b"", self.repeatable()).await {
            Err(CosError::Refused { status: 404, code, .. }) if code == "NoSuchUpload" => Ok(false),
            other => other.map(|_| true),
        }
    }

    /// List Parts (doc 7747): a page of them, after the part with the number `after`.
    pub async fn list_parts(
        &self,
        key: &str,
        upload_id: &str,
        after: u32,
    ) -> Result<PartsPage, CosError> {
        let request = Request {
            method: "GET",
            key,
            parameters: &[
                ("uploadId", upload_id),
                ("max-parts", PAGE),
                ("part-number-marker", &after.to_string()),
            ],
            fields: &[],
            length: None,
        };
        let response = self.call(&request, b"", self.repeatable()).await?;
        parts_page(&response.body, after)
    }

    /// All parts of an upload, of which there are at most [`MAX_PARTS`].
    pub async fn list_all_parts(&self, key: &str, upload_id: &str) -> Result<Vec<Part>, CosError> {
        let mut parts = Vec::new();
        let mut after = Some(0);
        while let Some(marker) = after {
            let page = self.list_parts(key, upload_id, marker).await?;
            parts.extend(page.parts);
            after = page.next;
        }
        Ok(parts)
    }

    /// List Multipart Uploads (doc 7736): a page of those whose keys begin with `prefix`, after the one at `after`.
    pub async fn list_uploads(
        &self,
        prefix: &str,
        after: Option<&UploadsMarker>,
    ) -> Result<UploadsPage, CosError> {
        let mut parameters = vec![("uploads", ""), ("max-uploads", PAGE), ("prefix", prefix)];
        if let Some(UploadsMarker { key, upload_id }) = after {
            parameters.extend([("key-marker", key.as_str()), ("upload-id-marker", upload_id)]);
        }
        let request =
            Request { method: "GET", key: "", parameters: &parameters, fields: &[], length: None };
        let response = self.call(&request, b"", self.repeatable()).await?;
        uploads_page(&response.body, after)
    }
}

pub(super) fn upload_id(document: &[u8]) -> Result<String, CosError> {
    let mut upload_id = String::new();
    xml::read(document, "InitiateMultipartUploadResult", |path, text| {
        if path == ["UploadId"] {
            text.clone_into(&mut upload_id);
        }
    })
    .map_err(|xml::Malformed| UNREADABLE)?;
    match (1..=MAX_UPLOAD_ID).contains(&upload_id.len()) {
        true => Ok(upload_id),
        false => Err(CosError::NoVerdict("its response has no UploadId")),
    }
}

fn complete_document<'a>(parts: impl IntoIterator<Item = (u32, &'a str)>) -> String {
    let mut document = "<CompleteMultipartUpload>".to_owned();
    for (number, etag) in parts {
        document.extend([
            "<Part><PartNumber>",
            &number.to_string(),
            "</PartNumber><ETag>",
            &partial_escape(etag),
            "</ETag></Part>",
        ]);
    }
    document.push_str("</CompleteMultipartUpload>");
    document
}

fn completed_etag(document: &[u8]) -> Result<String, CosError> {
    let mut etag = String::new();
    xml::read(document, "CompleteMultipartUploadResult", |path, text| {
        if path == ["ETag"] {
            text.clone_into(&mut etag);
        }
    })
    .map_err(|xml::Malformed| UNREADABLE)?;
    match etag.is_empty() {
        true => Err(CosError::NoVerdict("its response has no ETag")),
        false => Ok(etag),
    }
}

/// The parts must be those after `after`: without this check a list could have no end.
fn parts_page(document: &[u8], after: u32) -> Result<PartsPage, CosError> {
    let mut parts = Vec::new();
    let mut part = Part::default();
    let mut is_truncated = false;
    let mut last = after;
    let mut is_valid = true;
    xml::read(document, "ListPartsResult", |path, text| match path {
        ["IsTruncated"] => is_truncated = text == "true",
        ["Part", "PartNumber"] => part.number = text.parse().unwrap_or_default(),
        ["Part", "Size"] => match text.parse() {
            Ok(size) => part.size = size,
            Err(_) => is_valid = false,
        },
        ["Part", "ETag"] => text.clone_into(&mut part.etag),
        ["Part"] => {
            is_valid &= part.number > last && part.number <= MAX_PARTS && !part.etag.is_empty();
            last = part.number;
            parts.push(std::mem::take(&mut part));
        }
        _ => {}
    })
    .map_err(|xml::Malformed| UNREADABLE)?;
    if !is_valid || is_truncated && parts.is_empty() {
        return Err(UNREADABLE);
    }
    Ok(PartsPage { parts, next: is_truncated.then_some(last) })
}

fn uploads_page(document: &[u8], after: Option<&UploadsMarker>) -> Result<UploadsPage, CosError> {
    let mut uploads = Vec::new();
    let mut upload = PendingUpload::default();
    let mut is_truncated = false;
    let mut next = UploadsMarker::default();
    xml::read(document, "ListMultipartUploadsResult", |path, text| match path {
        ["IsTruncated"] => is_truncated = text == "true",
        ["NextKeyMarker"] => text.clone_into(&mut next.key),
        // The API's page shows both spellings.
        ["NextUploadIdMarker" | "NextIdMarker"] => text.clone_into(&mut next.upload_id),
        ["Upload", "Key"] => text.clone_into(&mut upload.key),
        ["Upload", "UploadId" | "UploadID"] => text.clone_into(&mut upload.upload_id),
        ["Upload", "Initiated"] => upload.initiated = text.parse().ok(),
        ["Upload"] => uploads.push(std::mem::take(&mut upload)),
        _ => {}
    })
    .map_err(|xml::Malformed| UNREADABLE)?;
    // A marker that does not advance would give the same page again.
    if is_truncated && (next.key.is_empty() || after == Some(&next)) {
        return Err(UNREADABLE);
    }
    Ok(UploadsPage { uploads, next: is_truncated.then_some(next) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unreadable<T: std::fmt::Debug>(result: Result<T, CosError>) -> bool {
        matches!(result, Err(CosError::NoVerdict(_)))
    }

    #[test]
    fn an_upload_has_an_id() {
        let document = |id: &str| {
            format!(
                "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><UploadId>{id}</UploadId>\
                 </InitiateMultipartUploadResult>"
            )
        };
        let parsed = |id: &str| upload_id(document(id).as_bytes());
        assert_eq!(parsed("1484727259f&amp;1").unwrap(), "1484727259f&1");
        assert!(parsed(&"x".repeat(MAX_UPLOAD_ID)).is_ok());
        assert!(unreadable(parsed(&"x".repeat(MAX_UPLOAD_ID + 1))));
        assert!(unreadable(parsed("")));
        assert!(unreadable(upload_id(b"")));
        assert!(unreadable(upload_id(b"<html></html>")));
    }

    #[test]
    fn an_object_is_completed_from_numbers_and_etags() {
        assert_eq!(
            complete_document([(1, "\"ab\""), (10_000, "<&>")]),
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>\"ab\"</ETag></Part>\
             <Part><PartNumber>10000</PartNumber><ETag>&lt;&amp;&gt;</ETag></Part></CompleteMultipartUpload>"
        );
        // COS sends whitespace while it puts the parts together.
        let document =
            b"\n \n <?xml version=\"1.0\"?><CompleteMultipartUploadResult><Location>l</Location>\
            <ETag>&quot;ab-2&quot;</ETag></CompleteMultipartUploadResult>";
        assert!(completed_etag(document).is_ok_and(|etag| etag == "\"ab-2\""));
        assert!(unreadable(completed_etag(b"")));
        assert!(unreadable(completed_etag(b"   ")));
        assert!(unreadable(completed_etag(
            b"<CompleteMultipartUploadResult></CompleteMultipartUploadResult>"
        )));
    }

    fn parts_document(numbers: &[u32], is_truncated: bool) -> String {
        let part = |number| {
            format!(
                "<Part><PartNumber>{number}</PartNumber><LastModified>x</LastModified><ETag>\"e{number}\"</ETag>\
                 <Size>{}</Size></Part>",
                number * 10
            )
        };
        let parts: String = numbers.iter().map(|number| part(*number)).collect();
        format!(
            "<ListPartsResult><IsTruncated>{is_truncated}</IsTruncated>{parts}</ListPartsResult>"
        )
    }

    #[test]
    fn a_page_of_parts_goes_on_after_its_last_one() {
        let page = |numbers: &[u32], is_truncated, after| {
            parts_page(parts_document(numbers, is_truncated).as_bytes(), after)
        };
        let read = page(&[3, 5], true, 2).unwrap();
        let part = |number: u32, size| Part { number, size, etag: format!("\"e{number}\"") };
        assert_eq!(read, PartsPage { parts: vec![part(3, 30), part(5, 50)], next: Some(5) });
        assert_eq!(page(&[], false, 9).unwrap(), PartsPage::default());
        assert!(page(&[MAX_PARTS], false, MAX_PARTS - 1).is_ok());
        for (numbers, after) in
            [(&[5, 3][..], 0), (&[3], 3), (&[0], 0), (&[3, 3], 0), (&[MAX_PARTS + 1, 1], 0)]
        {
            assert!(unreadable(page(numbers, false, after)), "{numbers:?} after {after}");
        }
        // Without an entry, the next page would be the same.
        assert!(unreadable(page(&[], true, 0)));
        let no_size = "<ListPartsResult><Part><PartNumber>1</PartNumber><Size>x</Size><ETag>e</ETag></Part>\
                       </ListPartsResult>";
        assert!(unreadable(parts_page(no_size.as_bytes(), 0)));
    }

    proptest! {
        /// Numbers at any bound, and documents cut anywhere.
        #[test]
        fn a_list_is_read_or_refused(
            numbers in prop::collection::vec(0..=u32::MAX / 10, 0..4),
            after in 0..=u32::MAX,
            more in "[<>/&;a-zA-Z0-9 \"'=!-]{0,30}",
            cut in 0_usize..400,
        ) {
            let mut document = parts_document(&numbers, true);
            document.insert_str(document.floor_char_boundary(cut), &more);
            if let Ok(page) = parts_page(document.as_bytes(), after) {
                prop_assert!(page.parts.iter().all(|part| part.number > after));
                prop_assert!(page.parts.is_sorted_by(|one, next| one.number < next.number));
                prop_assert!(page.next.is_none_or(|next| next > after));
            }
            document.truncate(document.floor_char_boundary(cut));
            prop_assert!(parts_page(document.as_bytes(), after).is_err());
        }
    }

    #[test]
    fn a_page_of_uploads_goes_on_at_its_marker() {
        let document = |next: &str| {
            format!(
                "<ListMultipartUploadsResult><Bucket>b</Bucket><IsTruncated>{}</IsTruncated>{next}\
                 <Upload><Key>a/&lt;b&gt;</Key><UploadId>u1</UploadId><Initiated>2026-11-29T12:00:00.000Z</Initiated>\
                 <Owner><ID>o</ID></Owner></Upload><Upload><Key>c</Key><UploadID>u2</UploadID>\
                 <Initiated>Wed Jan 18 13:02:52 2017</Initiated></Upload></ListMultipartUploadsResult>",
                !next.is_empty()
            )
        };
        let next = "<NextKeyMarker>c</NextKeyMarker><NextUploadIdMarker>u2</NextUploadIdMarker>";
        let marker = UploadsMarker { key: "c".to_owned(), upload_id: "u2".to_owned() };
        let page = uploads_page(document(next).as_bytes(), None).unwrap();
        assert_eq!(page.next, Some(marker.clone()));
        let [first, second] = &page.uploads[..] else { panic!("{page:?}") };
        assert_eq!((first.key.as_str(), first.upload_id.as_str()), ("a/<b>", "u1"));
        assert_eq!(first.initiated, Some("2026-11-29T12:00:00Z".parse().unwrap()));
        assert_eq!((second.key.as_str(), second.upload_id.as_str()), ("c", "u2"));
        assert_eq!(second.initiated, None);
        assert_eq!(uploads_page(document("").as_bytes(), None).unwrap().next, None);
        assert!(unreadable(uploads_page(document(next).as_bytes(), Some(&marker))));
        assert!(unreadable(uploads_page(document("<Other/>").as_bytes(), None)));
    }
}
