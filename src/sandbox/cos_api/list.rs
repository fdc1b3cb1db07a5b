//! List Objects (doc 7734), List Multipart Uploads (doc 7736) and List Parts (doc 7747), page by page.

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
    let keys = Selection::read(request, "key-marker");
    // Ignored without a key marker (doc 7736).
    let id_marker = parameter(request, "upload-id-marker").filter(|_| !keys.marker.is_empty());
    let store = request.sandbox.multipart.borrow();
    let uploads = store.all().map(|(id, upload)| (upload.key.as_str(), (id, upload)));
    let after = uploads.filter(|(key, (id, _))| {
        keys.is_after(key) || *key == keys.marker && id_marker.is_some_and(|marker| *id > marker)
    });
    let (entries, truncated) = keys.page(after, page);
    let mut text = String::from("<ListMultipartUploadsResult>\n");
    element(&mut text, "Bucket", &request.sandbox.bucket);
    encoding.write(&mut text);
    element(&mut text, "KeyMarker", &encoding.of(keys.marker));
    element(&mut text, "UploadIdMarker", id_marker.unwrap_or_default());
    element(&mut text, "Prefix", &encoding.of(keys.prefix));
    keys.write_delimiter(&mut text, &encoding);
    element(&mut text, "MaxUploads", &page.to_string());
    if let Some(last) = entries.last().filter(|_| truncated) {
        let (key, id) = match last {
            Entry::One(key, (id, _)) => (*key, *id),
            Entry::CommonPrefix(prefix) => (*prefix, ""),
        };
        element(&mut text, "NextKeyMarker", &encoding.of(key));
        element(&mut text, "NextUploadIdMarker", id);
    }
    element(&mut text, "IsTruncated", &truncated.to_string());
    for entry in &entries {
        match entry {
            Entry::CommonPrefix(prefix) => write_common_prefix(&mut text, &encoding.of(prefix)),
            Entry::One(key, (id, upload)) => {
                let _ = writeln!(
                    text,
                    "\t<Upload>\n\t\t<Key>{}</Key>\n\t\t<UploadId>{id}</UploadId>\n\t\t<StorageClass>STANDARD</StorageClass>\n\
                     \t\t<Initiator>\n\t\t{OWNER}\n\t\t</Initiator>\n\t\t<Owner>\n\t\t{OWNER}\n\t\t</Owner>\n\
                     \t\t<Initiated>{}</Initiated>\n\t</Upload>",
                    escaped(&encoding.of(key)),
                    time(upload.initiated)
                );
            }
        }
    }
    text.push_str("</ListMultipartUploadsResult>\n");
    Ok(xml(text))
}

/// The parameters of List Objects; others ask for something else of the bucket.
const OBJECTS_PARAMETERS: [&str; 5] =
    ["prefix", "delimiter", "encoding-type", "marker", "max-keys"];

pub fn objects(request: &Request) -> Result<Response, Refusal> {
    let mut names = request.head.query.iter().map(|(name, _)| name.as_str());
    if let Some(name) = names.find(|name| {
        !OBJECTS_PARAMETERS.contains(name) && !name.starts_with("q-") && !name.starts_with("x-cos-")
    }) {
        let message = format!("The sandbox does not know {name} of a bucket.");
        return Err(Refusal::new(501, "NotImplemented", &message));
    }
    let page = page_size(request, "max-keys")?;
    let encoding = Encoding::read(request)?;
    let keys = Selection::read(request, "marker");
    let store = request.sandbox.store.borrow();
    let after = store.keys(keys.prefix).filter(|key| keys.is_after(key)).map(|key| (key, ()));
    let (entries, truncated) = keys.page(after, page);
    let mut text = String::from("<ListBucketResult>\n");
    element(&mut text, "Name", &request.sandbox.bucket);
    encoding.write(&mut text);
    element(&mut text, "Prefix", &encoding.of(keys.prefix));
    element(&mut text, "Marker", &encoding.of(keys.marker));
    element(&mut text, "MaxKeys", &page.to_string());
    keys.write_delimiter(&mut text, &encoding);
    element(&mut text, "IsTruncated", &truncated.to_string());
    if let Some(last) = entries.last().filter(|_| truncated) {
        element(&mut text, "NextMarker", &encoding.of(last.key()));
    }
    for entry in &entries {
        match entry {
            Entry::CommonPrefix(prefix) => write_common_prefix(&mut text, &encoding.of(prefix)),
            Entry::One(key, ()) => {
                let Some(object) = store.get(key) else { continue };
                let _ = writeln!(
                    text,
                    "\t<Contents>\n\t\t<Key>{}</Key>\n\t\t<LastModified>{}</LastModified>\n\t\t<ETag>{}</ETag>\n\
                     \t\t<Size>{}</Size>\n\t\t<Owner>\n\t\t{OWNER}\n\t\t</Owner>\n\
                     \t\t<StorageClass>STANDARD</StorageClass>\n\t</Contents>",
                    escaped(&encoding.of(key)),
                    time(object.modified()),
                    quoted(&request.reported_etag(&object.etag())),
                    object.size
                );
            }
        }
    }
    text.push_str("</ListBucketResult>\n");
    Ok(xml(text))
}

/// Which keys a list has, and how they are grouped.
struct Selection<'a> {
    prefix: &'a str,
    /// The list begins after it; it may be the common prefix that the page before ended with.
    marker: &'a str,
    delimiter: Option<&'a str>,
}

/// An entry of a list, which counts as one (doc 7734).
enum Entry<'a, T> {
    One(&'a str, T),
    /// All keys that are the same up to the first delimiter behind the prefix, with that delimiter.
    CommonPrefix(&'a str),
}

impl<'a, T> Entry<'a, T> {
    fn key(&self) -> &'a str {
        match self {
            Self::One(key, _) | Self::CommonPrefix(key) => key,
        }
    }
}

impl<'a> Selection<'a> {
    fn read(request: &Request<'a>, marker: &str) -> Self {
        Self {
            prefix: parameter(request, "prefix").unwrap_or_default(),
            marker: parameter(request, marker).unwrap_or_default(),
            delimiter: parameter(request, "delimiter"),
        }
    }

    fn is_after(&self, key: &str) -> bool {
        self.marker.is_empty() || key > self.marker
    }

    /// The first `size` entries of `items`, which are in the order of their keys, and whether there are more.
    fn page<'b, T>(
        &self,
        items: impl Iterator<Item = (&'b str, T)>,
        size: usize,
    ) -> (Vec<Entry<'b, T>>, bool) {
        let mut entries: Vec<Entry<'b, T>> = Vec::new();
        for (key, item) in items.filter(|(key, _)| key.starts_with(self.prefix)) {
            let entry = match self.common_prefix(key) {
                None => Entry::One(key, item),
                Some(prefix) if prefix == self.marker => continue,
                Some(prefix) => match entries.last() {
                    Some(Entry::CommonPrefix(last)) if *last == prefix => continue,
                    _ => Entry::CommonPrefix(prefix),
                },
            };
            if entries.len() == size {
                return (entries, true);
            }
            entries.push(entry);
        }
        (entries, false)
    }

    fn common_prefix<'b>(&self, key: &'b str) -> Option<&'b str> {
        let delimiter = self.delimiter?;
        let at = key[self.prefix.len()..].find(delimiter)?;
        Some(&key[..self.prefix.len() + at + delimiter.len()])
    }

    fn write_delimiter(&self, text: &mut String, encoding: &Encoding) {
        if let Some(delimiter) = self.delimiter {
            element(text, "Delimiter", &encoding.of(delimiter));
        }
    }
}

fn write_common_prefix(text: &mut String, prefix: &str) {
    let prefix = escaped(prefix);
    let _ =
        writeln!(text, "\t<CommonPrefixes>\n\t\t<Prefix>{prefix}</Prefix>\n\t</CommonPrefixes>");
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
