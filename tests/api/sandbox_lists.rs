//! The sandbox's lists of objects and uploads with prefix, delimiter and markers, and the conditions of GET and HEAD.

use serde_json::json;

use crate::harness::Response;
use crate::sandbox_cos::{BUCKET, Call, Cos, code, element, start};

/// In their order, which is that of UTF-8.
const KEYS: [&str; 7] =
    ["a", "d/1", "d/2", "d/sub/3", "e&<>.txt", "f/4", "\u{76ee}\u{5f55}/5 +.png"];

/// The texts of all elements with this name.
fn elements(xml: &str, name: &str) -> Vec<String> {
    let tag = format!("<{name}>");
    let rest = xml.split(&tag).skip(1);
    rest.map(|rest| rest.split("</").next().unwrap_or_default().to_owned()).collect()
}

/// The `name`s of each `parent`.
fn within(xml: &str, parent: &str, name: &str) -> Vec<String> {
    let tag = format!("<{parent}>");
    let parents = xml.split(&tag).skip(1);
    parents.map(|parent| element(parent, name).expect("an element")).collect()
}

fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8().expect("UTF-8").into_owned()
}

fn list(cos: &Cos, parameters: &[(&str, &str)]) -> Response {
    let call = Call::new("GET", "");
    cos.send(&parameters.iter().fold(call, |call, (name, value)| call.parameter(name, value)))
}

/// One page: keys, common prefixes, and the marker of the next page.
fn page(cos: &Cos, parameters: &[(&str, &str)]) -> (Vec<String>, Vec<String>, Option<String>) {
    let response = list(cos, parameters);
    assert_eq!(response.status, 200, "{}", response.text());
    let xml = response.text();
    let plain = |texts: Vec<String>| texts.iter().map(|text| unescaped(text)).collect::<Vec<_>>();
    let (item, marker) = match parameters.first() {
        Some(("uploads", _)) => ("Upload", "NextKeyMarker"),
        _ => ("Contents", "NextMarker"),
    };
    let next = element(&xml, marker).map(|next| unescaped(&next));
    assert_eq!(element(&xml, "IsTruncated"), Some(next.is_some().to_string()));
    (plain(within(&xml, item, "Key")), plain(within(&xml, "CommonPrefixes", "Prefix")), next)
}

/// All pages of `size` entries, in the order of the list.
fn pages(cos: &Cos, fixed: &[(&str, &str)], names: [&str; 2], size: &str) -> Vec<String> {
    let (mut all, mut marker) = (Vec::new(), String::new());
    loop {
        let mut parameters = fixed.to_vec();
        parameters.extend([(names[0], size), (names[1], &*marker)]);
        let (keys, prefixes, next) = page(cos, &parameters);
        assert!(keys.len() + prefixes.len() <= size.parse::<usize>().expect("a number"));
        let mut entries = [keys, prefixes].concat();
        entries.sort();
        all.extend(entries);
        match next {
            Some(next) => marker = next,
            None => return all,
        }
    }
}

fn stored() -> Cos {
    let cos = start(|_| {});
    for key in KEYS.iter().rev() {
        assert_eq!(cos.send(&Call::new("PUT", key).body(key.as_bytes())).status, 200);
    }
    cos
}

#[test]
fn objects_are_listed_in_their_order() {
    let cos = stored();
    let response = list(&cos, &[]);
    let xml = response.text();
    assert_eq!(response.header("content-type"), Some("application/xml"));
    for (name, value) in [
        ("Name", BUCKET),
        ("Prefix", ""),
        ("Marker", ""),
        ("MaxKeys", "1000"),
        ("IsTruncated", "false"),
    ] {
        assert_eq!(element(&xml, name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(element(&xml, "NextMarker"), None);
    let keys: Vec<_> = elements(&xml, "Key").iter().map(|key| unescaped(key)).collect();
    assert_eq!(keys, KEYS);
    let sizes: Vec<_> = KEYS.iter().map(|key| key.len().to_string()).collect();
    assert_eq!(elements(&xml, "Size"), sizes);
    for (key, (etag, modified)) in
        KEYS.iter().zip(elements(&xml, "ETag").iter().zip(elements(&xml, "LastModified")))
    {
        let head = cos.send(&Call::new("HEAD", key));
        assert_eq!(head.header("etag"), Some(etag.replace("&quot;", "\"").as_str()), "{key}");
        let modified: jiff::Timestamp = modified.parse().expect("a time");
        let age = jiff::Timestamp::now() - modified;
        assert!(age.get_seconds().abs() < 60, "{age}");
    }
    // Host style and path style; what is not stored is not listed.
    cos.send(&Call::new("DELETE", "a"));
    cos.initiate("b");
    assert_eq!(page(&cos, &[]).0, KEYS[1..]);
    assert_eq!(cos.state()["counts"]["list_objects"], 2);
}

#[test]
fn keys_are_selected_by_prefix_and_grouped_by_delimiter() {
    let cos = stored();
    for id in KEYS {
        cos.initiate(id);
    }
    let last = KEYS[6];
    let folder = "\u{76ee}\u{5f55}/";
    for (prefix, delimiter, keys, prefixes) in [
        ("", "", &KEYS[..], &[][..]),
        ("d/", "", &["d/1", "d/2", "d/sub/3"], &[]),
        ("x", "", &[], &[]),
        ("", "/", &["a", "e&<>.txt"], &["d/", "f/", folder]),
        ("d/", "/", &["d/1", "d/2"], &["d/sub/"]),
        ("d", "/", &[], &["d/"]),
        ("e", "&", &[], &["e&"]),
        ("", "sub", &["a", "d/1", "d/2", "e&<>.txt", "f/4", last], &["d/sub"]),
    ] {
        let what = format!("{prefix} {delimiter}");
        let selection = [("prefix", prefix), ("delimiter", delimiter)];
        let uploads = [&[("uploads", "")][..], &selection].concat();
        let entries = {
            let mut entries = [keys, prefixes].concat();
            entries.sort();
            entries
        };
        for (fixed, names) in
            [(&selection[..], ["max-keys", "marker"]), (&uploads, ["max-uploads", "key-marker"])]
        {
            let (listed, grouped, next) = page(&cos, fixed);
            assert_eq!(
                (&listed[..], &grouped[..], next),
                (&owned(keys)[..], &owned(prefixes)[..], None),
                "{what}"
            );
            for size in ["1", "2", "3", "7"] {
                assert_eq!(pages(&cos, fixed, names, size), entries, "{what}, pages of {size}");
            }
        }
    }
    // A marker need not be a key.
    assert_eq!(page(&cos, &[("marker", "d/15")]).0, KEYS[2..]);
    assert_eq!(page(&cos, &[("marker", "d/1"), ("delimiter", "/")]).1, ["d/", "f/", folder]);
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn keys_are_encoded_if_that_is_asked_for() {
    let cos = stored();
    let url = ("encoding-type", "url");
    let xml = list(&cos, &[url, ("max-keys", "6"), ("marker", "a")]).text();
    let keys: Vec<_> = elements(&xml, "Key").iter().map(|key| decoded(key)).collect();
    assert_eq!(keys, KEYS[1..]);
    assert!(xml.contains("%E7%9B%AE%E5%BD%95") && !xml.contains("&amp;"), "{xml}");
    let xml = list(&cos, &[url, ("max-keys", "5"), ("delimiter", "/")]).text();
    assert_eq!(decoded(&within(&xml, "CommonPrefixes", "Prefix")[2]), "\u{76ee}\u{5f55}/");
    assert_eq!(element(&xml, "EncodingType").as_deref(), Some("url"));
    let xml = list(&cos, &[url, ("max-keys", "5")]).text();
    assert_eq!(decoded(&element(&xml, "NextMarker").expect("a marker")), "e&<>.txt");
}

#[test]
fn lists_that_are_asked_for_wrongly_are_refused() {
    let cos = stored();
    for parameter in
        [("max-keys", "0"), ("max-keys", "1001"), ("max-keys", "x"), ("encoding-type", "base64")]
    {
        let refused = list(&cos, &[parameter]);
        assert_eq!(code(&refused), (400, "InvalidArgument".to_owned()), "{parameter:?}");
    }
    for name in ["acl", "list-type", "versions"] {
        assert_eq!(code(&list(&cos, &[(name, "")])), (501, "NotImplemented".to_owned()), "{name}");
    }
    cos.faults(&json!([{"stage": "list_objects", "fault": "expire_keys", "path": "d/"}]));
    assert_eq!(list(&cos, &[("prefix", "d/")]).status, 200, "the owner's keys do not expire");
    cos.faults(&json!([{"stage": "list_objects", "fault": "status", "status": 403, "path": "d/"}]));
    assert_eq!(list(&cos, &[("prefix", "d/")]).status, 403);
    assert_eq!(list(&cos, &[("prefix", "f/")]).status, 200);
}

#[test]
fn a_read_may_have_conditions() {
    let cos = start(|_| {});
    let etag = cos
        .send(&Call::new("PUT", "k").body(b"content"))
        .header("etag")
        .expect("an ETag")
        .to_owned();
    let modified =
        cos.send(&Call::new("HEAD", "k")).header("last-modified").expect("a date").to_owned();
    let several = format!("\"x\", {etag}");
    let (etag, modified, several) = (&*etag, &*modified, &*several);
    const BEFORE: &str = "Sat, 01 Jan 2000 00:00:00 GMT";
    const AFTER: &str = "Fri, 01 Jan 2100 00:00:00 GMT";
    for (conditions, status) in [
        (&[("If-Match", etag)][..], 200),
        (&[("If-Match", several)], 200),
        (&[("If-Match", "*")], 200),
        (&[("If-Match", "\"x\"")], 412),
        (&[("If-None-Match", etag)], 304),
        (&[("If-None-Match", several)], 304),
        (&[("If-None-Match", "*")], 304),
        (&[("If-None-Match", "\"x\"")], 200),
        (&[("If-Modified-Since", BEFORE)], 200),
        (&[("If-Modified-Since", modified)], 304),
        (&[("If-Modified-Since", AFTER)], 304),
        (&[("If-Modified-Since", "no date")], 200),
        (&[("If-Unmodified-Since", BEFORE)], 412),
        (&[("If-Unmodified-Since", modified)], 200),
        (&[("If-Unmodified-Since", AFTER)], 200),
        (&[("If-Unmodified-Since", "no date")], 200),
        // The ETag counts, not the date.
        (&[("If-Match", etag), ("If-Unmodified-Since", BEFORE)], 200),
        (&[("If-Match", "\"x\""), ("If-Unmodified-Since", AFTER)], 412),
        (&[("If-None-Match", "\"x\""), ("If-Modified-Since", AFTER)], 200),
        (&[("If-None-Match", etag), ("If-Modified-Since", BEFORE)], 304),
        (&[("If-Match", "\"x\""), ("If-None-Match", etag)], 412),
    ] {
        for method in ["GET", "HEAD"] {
            let call = Call::new(method, "k");
            let call = conditions.iter().fold(call, |call, (name, value)| call.header(name, value));
            let response = cos.send(&call);
            assert_eq!(response.status, status, "{method} {conditions:?}");
            match (status, method) {
                (200, "GET") => assert_eq!(response.body, b"content"),
                (304, _) => {
                    assert_eq!(response.header("etag"), Some(etag));
                    assert_eq!(response.header("last-modified"), Some(modified));
                    assert!(response.body.is_empty());
                }
                (412, "GET") => assert_eq!(code(&response).1, "PreconditionFailed"),
                _ => {}
            }
        }
    }
    // A range of an object that has not changed, as a download that goes on asks for.
    let range = Call::new("GET", "k").header("range", "bytes=3-").header("if-match", etag);
    assert_eq!((cos.send(&range).status, cos.send(&range).body), (206, b"tent".to_vec()));
}
