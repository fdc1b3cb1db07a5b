//! List Parts (doc 7747) and List Multipart Uploads (doc 7736), page by page.

use std::fmt::Write;

use super::super::cos_response::{Refusal, escaped};
use super::super::http::Response;
use super::super::sign;
use super::complete::quoted;
use super::multipart::{upload_id, with_upload, xml};
use super::request::Request;

const PAGE_MAX: usize = 1000;
/// The owner, which is also the initiator: in COS, the number of the account.
const OWNER: &str = "<ID>1250000000</ID>\n\t\t<DisplayName>1250000000</DisplayName>";

pub fn parts(request: &Request) -> Result<Response, Refusal> {
    let page = page_size(request, "max-parts")?;
    let marker: u32 = number(request, "part-number-marker")?.unwrap_or(0);
    let encoding = Encoding::read(request)?;
    let id = upload_id(request)?;
    with_upload(request, id, |upload| {
        let after = || upload.parts.range(marker.saturating_add(1)..);
        let mut text = String::from("<ListPartsResult>\n");
        element(&mut text, "Bucket", &request.sandbox.bucket);
        encoding.write(&mut text);
        element(&mut text, "Key", &encoding.of(&upload.key));
        element(&mut text, "UploadId", id);
        let _ = writeln!(text, "\t<Owner>\n\t\t{OWNER}\n\t</Owner>");
        let _ = writeln!(text, "\t<Initiator>\n\t\t{OWNER}\n\t</Initiator>");
        element(&mut text, "StorageClass", "STANDARD");
        element(&mut text, "PartNumberMarker", &marker.to_string());
        element(&mut text, "MaxParts", &page.to_string());
        let truncated = after().nth(page).is_some();
        if let Some((last, _)) = after().take(page).last().filter(|_| truncated) {
            element(&mut text, "NextPartNumberMarker", &last.to_string());
        }
        element(&mut text, "IsTruncated", &truncated.to_string());
        for (number, part) in after().take(page) {
            let _ = writeln!(
                text,
                "\t<Part>\n\t\t<PartNumber>{number}</PartNumber>\n\t\t<LastModified>{}</LastModified>\n\
                 \t\t<ETag>{}</ETag>\n\t\t<Size>{}</Size>\n\t</Part>",
                time(part.modified),
                quoted(&format!("\"{}\"", part.etag)),
                part.size
            );
        }
        text.push_str("</ListPartsResult>\n");
        xml(text)
    })
}

pub fn uploads(request: &Request) -> Result<Response, Refusal> {
    let page = page_size(request, "max-uploads")?;
    let encoding = Encoding::read(request)?;
    let prefix = parameter(request, "prefix").unwrap_or_default();
    let key_marker = parameter(request, "key-marker").unwrap_or_default();
    // Ignored without a key marker (doc 7736).
    let id_marker = parameter(request, "upload-id-marker").filter(|_| !key_marker.is_empty());
    if parameter(request, "delimiter").is_some() {
        let message = "The sandbox lists multipart uploads without a delimiter only.";
        return Err(Refusal::new(501, "NotImplemented", message));
    }
    let store = request.sandbox.multipart.borrow();
    let after = || {
        store.all().filter(|(id, upload)| {
            let key = upload.key.as_str();
            let past = key > key_marker
                || key_marker.is_empty()
                || (key == key_marker && id_marker.is_some_and(|marker| *id > marker));
            past && key.starts_with(prefix)
        })
    };
    let mut text = String::from("<ListMultipartUploadsResult>\n");
    element(&mut text, "Bucket", &request.sandbox.bucket);
    encoding.write(&mut text);
    element(&mut text, "KeyMarker", &encoding.of(key_marker));
    element(&mut text, "UploadIdMarker", id_marker.unwrap_or_default());
    element(&mut text, "Prefix", &encoding.of(prefix));
    element(&mut text, "MaxUploads", &page.to_string());
    let truncated = after().nth(page).is_some();
    if let Some((id, upload)) = after().take(page).last().filter(|_| truncated) {
        element(&mut text, "NextKeyMarker", &encoding.of(&upload.key));
        element(&mut text, "NextUploadIdMarker", id);
    }
    element(&mut text, "IsTruncated", &truncated.to_string());
    for (id, upload) in after().take(page) {
        let _ = writeln!(
            text,
            "\t<Upload>\n\t\t<Key>{}</Key>\n\t\t<UploadId>{id}</UploadId>\n\t\t<StorageClass>STANDARD</StorageClass>\n\
             \t\t<Initiator>\n\t\t{OWNER}\n\t\t</Initiator>\n\t\t<Owner>\n\t\t{OWNER}\n\t\t</Owner>\n\
             \t\t<Initiated>{}</Initiated>\n\t</Upload>",
            escaped(&encoding.of(&upload.key)),
            time(upload.initiated)
        );
    }
    text.push_str("</ListMultipartUploadsResult>\n");
    Ok(xml(text))
}

/// How keys are written: plain, or with `encoding-type=url` percent-encoded.
struct Encoding {
    url: bool,
}

impl Encoding {
    fn read(request: &Request) -> Result<Encoding, Refusal> {
        match parameter(request, "encoding-type") {
            None => Ok(Encoding { url: false }),
            Some("url") => Ok(Encoding { url: true }),
            Some(_) => Err(invalid("encoding-type")),
        }
    }

    fn write(&self, text: &mut String) {
        if self.url {
            element(text, "EncodingType", "url");
        }
    }

    fn of(&self, key: &str) -> String {
        if self.url { sign::encoded(key) } else { key.to_owned() }
    }
}

/// A parameter that is there and not empty: the SDK for Python sends empty ones for those that are not set.
fn parameter<'a>(request: &Request<'a>, name: &str) -> Option<&'a str> {
    request.head.parameter(name).filter(|value| !value.is_empty())
}

fn number<T: std::str::FromStr>(request: &Request, name: &str) -> Result<Option<T>, Refusal> {
    parameter(request, name).map(|digits| digits.parse().map_err(|_| invalid(name))).transpose()
}

fn page_size(request: &Request, name: &str) -> Result<usize, Refusal> {
    match number(request, name)?.unwrap_or(PAGE_MAX) {
        size if (1..=PAGE_MAX).contains(&size) => Ok(size),
        _ => Err(invalid(name)),
    }
}

fn invalid(name: &str) -> Refusal {
    Refusal::new(400, "InvalidArgument", &format!("{name} is not valid."))
}

fn element(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "\t<{name}>{}</{name}>", escaped(value));
}

fn time(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or_default();
    let time = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string()
}
