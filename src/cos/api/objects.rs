//! Lists the bucket's objects.

use jiff::Timestamp;

use super::client::Client;
use super::request::Request;
use super::xml;
use crate::cos::error::CosError;

/// Entries of a page.
const PAGE: &str = "1000";

/// An object in a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListedObject {
    pub key: String,
    /// `None` where COS's time cannot be read.
    pub last_modified: Option<Timestamp>,
}

/// A page of objects, in the order of their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectsPage {
    pub objects: Vec<ListedObject>,
    /// The next page begins after this key; `None` at the end.
    pub next: Option<String>,
}

impl Client {
    /// GET Bucket (doc 7734): a page of the objects whose keys begin with `prefix`, after the key `after`.
    pub async fn list_objects(&self, prefix: &str, after: &str) -> Result<ObjectsPage, CosError> {
        let parameters = [("max-keys", PAGE), ("prefix", prefix), ("marker", after)];
        let request =
            Request { method: "GET", key: "", parameters: &parameters, fields: &[], length: None };
        let response = self.call(&request, b"", self.repeatable()).await?;
        objects_page(&response.body, after)
    }
}

/// The keys must be those after `after`: without this check a list could have no end.
fn objects_page(document: &[u8], after: &str) -> Result<ObjectsPage, CosError> {
    const UNREADABLE: CosError = CosError::NoVerdict("its list of objects cannot be read");
    let mut page = ObjectsPage::default();
    let mut object = ListedObject::default();
    let (mut is_truncated, mut next) = (false, String::new());
    xml::read(document, "ListBucketResult", |path, text| match path {
        ["IsTruncated"] => is_truncated = text == "true",
        ["NextMarker"] => text.clone_into(&mut next),
        ["Contents", "Key"] => text.clone_into(&mut object.key),
        ["Contents", "LastModified"] => object.last_modified = text.parse().ok(),
        ["Contents"] => page.objects.push(std::mem::take(&mut object)),
        _ => {}
    })
    .map_err(|xml::Malformed| UNREADABLE)?;
    if is_truncated {
        // Without a delimiter, the marker may be left out.
        let last = page.objects.last().map(|object| object.key.clone()).unwrap_or_default();
        let next = if next.is_empty() { last } else { next };
        if next.as_str() <= after {
            return Err(UNREADABLE);
        }
        page.next = Some(next);
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_goes_on_after_its_marker_or_its_last_key() {
        let document = |truncated, next: &str| {
            format!(
                "<ListBucketResult><Name>b</Name><IsTruncated>{truncated}</IsTruncated>{next}\
                 <Contents><Key>a/&lt;b&gt;</Key><LastModified>2026-11-29T12:00:00.000Z</LastModified>\
                 <Size>1</Size></Contents><Contents><Key>c</Key></Contents></ListBucketResult>"
            )
        };
        let page = |text: String, after| objects_page(text.as_bytes(), after);
        let read = page(document(false, ""), "").unwrap();
        assert_eq!((read.objects.len(), read.next), (2, None));
        assert_eq!(read.objects[0].key, "a/<b>");
        assert_eq!(read.objects[0].last_modified, Some("2026-11-29T12:00:00Z".parse().unwrap()));
        assert_eq!(read.objects[1].last_modified, None);
        assert_eq!(page(document(true, ""), "").unwrap().next.as_deref(), Some("c"));
        let next = "<NextMarker>d</NextMarker>";
        assert_eq!(page(document(true, next), "c").unwrap().next.as_deref(), Some("d"));
        for (text, after) in
            [(document(true, ""), "c"), (document(true, next), "d"), ("<x/>".to_owned(), "")]
        {
            assert!(page(text, after).is_err(), "{after}");
        }
    }
}
