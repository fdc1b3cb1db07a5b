//! GET Object: objects out, by a signed link.

use std::rc::Rc;

use super::conn::{Conn, Flow};
use super::cos_reply::{Refusal, change, key_of, request_id, target};
use super::fault::{self, Stage};
use super::http::{Broken, Content, Head, Response};
use super::world::World;

pub async fn handle(world: &Rc<World>, conn: &mut Conn, head: &Head) -> Result<Flow, Broken> {
    world.record.count("get_object");
    let rule = world.faults.borrow_mut().strike(Stage::Object, target(head).1.unwrap_or_default());
    while conn.chunk().await?.is_some() {}
    let mut reply = match object_reply(world, head) {
        Ok(reply) => reply,
        Err(refusal) => {
            refusal.note(world, target(head).1);
            refusal.reply(&head.path)
        }
    };
    change(&mut reply, rule.as_ref(), &head.path);
    fault::answer(conn, rule.as_ref(), reply, &world.faults_lifted).await
}

fn object_reply(world: &World, head: &Head) -> Result<Response, Refusal> {
    let key = key_of(world, head)?;
    let key = key.ok_or_else(|| Refusal::new(403, "AccessDenied", "Access Denied."))?;
    world.links.verify_download(key, head.parameter("sign"), head.parameter("t"))?;
    let store = world.store.borrow();
    let object = store
        .get(key)
        .filter(|object| object.fileid_ok)
        .ok_or_else(|| Refusal::new(404, "NoSuchKey", "The specified key does not exist."))?;
    let mut file = store.content(object).map_err(|error| Refusal::internal(&error))?;

    let mut headers = vec![
        ("ETag", object.etag()),
        ("Accept-Ranges", "bytes".to_owned()),
        ("x-cos-hash-crc64ecma", object.crc64.clone()),
        ("x-cos-request-id", request_id()),
    ];
    match &object.content_type {
        Some(content_type) => headers.push(("Content-Type", content_type.clone())),
        // Without the form's field a browser downloads it instead of showing it (doc 14690).
        None => {
            headers.push(("Content-Type", "application/octet-stream".to_owned()));
            headers.push(("Content-Disposition", "attachment".to_owned()));
        }
    }
    let (status, length) = match head.header("range").and_then(|range| wanted(range, object.size)) {
        None => (200, object.size),
        Some(None) => {
            return Err(Refusal::new(
                416,
                "InvalidRange",
                "The requested range is not satisfiable.",
            ));
        }
        Some(Some((first, last))) => {
            std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(first))
                .map_err(|error| Refusal::internal(&error))?;
            headers.push(("Content-Range", format!("bytes {first}-{last}/{}", object.size)));
            (206, last - first + 1)
        }
    };
    Ok(Response { status, headers, content: Content::File(file, length) })
}

/// One range of bytes, first and last; `Some(None)` when it lies outside, `None` when the header is not understood.
fn wanted(range: &str, size: u64) -> Option<Option<(u64, u64)>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last) = match (first, last) {
        ("", suffix) => (size.saturating_sub(suffix.parse().ok()?), size.wrapping_sub(1)),
        (first, "") => (first.parse().ok()?, size.wrapping_sub(1)),
        (first, last) => (first.parse().ok()?, last.parse::<u64>().ok()?.min(size.wrapping_sub(1))),
    };
    Some((size > 0 && first < size && first <= last).then_some((first, last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(wanted("bytes=0-9", 100), Some(Some((0, 9))));
        assert_eq!(wanted("bytes=90-", 100), Some(Some((90, 99))));
        assert_eq!(wanted("bytes=-5", 100), Some(Some((95, 99))));
        assert_eq!(wanted("bytes=50-500", 100), Some(Some((50, 99))));
        assert_eq!(wanted("bytes=100-", 100), Some(None));
        assert_eq!(wanted("bytes=-5", 0), Some(None));
        assert_eq!(wanted("bytes=5-4", 100), Some(None));
        assert_eq!(wanted("lines=1-2", 100), None);
        assert_eq!(wanted("bytes=0-1,4-5", 100), None);
    }
}
