//! POST Object (doc 14690): takes a form from the socket, verifies it as it comes, and keeps the file when the whole
//! of it was right.

use std::rc::Rc;

use super::conn::{Conn, Flow};
use super::cos_reply::{self, LINGER, Refusal};
use super::fault::{self, Kind, Rule, Stage, Then};
use super::fields::{Fields, Ticket};
use super::form::{self, Event, Form};
use super::http::{Broken, Content, Head, Response};
use super::record::InFlight;
use super::store::{Draft, Object};
use super::world::World;

/// At most 5 GB an object, and some room for the form around it.
const BODY_MAX: u64 = 5 * 1024 * 1024 * 1024 + 64 * 1024;

/// Why the receiving of a form stopped.
enum Stop {
    Refused(Refusal),
    Broken(Broken),
    /// A fault struck in the middle.
    Struck,
}

impl<E: Into<Refusal>> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop::Refused(error.into())
    }
}

/// A file whose form was right to the end.
struct Received {
    draft: Draft,
    ticket: Ticket,
    file_name: Option<String>,
    fields: Fields,
}

pub async fn handle(world: &Rc<World>, conn: &mut Conn, head: &Head) -> Result<Flow, Broken> {
    world.record.count("post_object");
    let url_key = cos_reply::target(head).1.unwrap_or_default();
    let upload = world.record.begin(url_key, head.length);
    let rule = world.faults.borrow_mut().strike(Stage::Cos, url_key);
    let rule = rule.as_ref();
    match rule {
        Some(rule) if rule.is(Kind::ResetBefore) => return Ok(Flow::Reset),
        Some(rule) if rule.is(Kind::Slow) => conn.bytes_per_second = rule.bytes_per_second,
        _ => {}
    }
    let received = receive(world, conn, head, rule, &upload).await;
    conn.bytes_per_second = None;
    match received {
        Ok(received) => conclude(world, conn, head, rule, &upload, received).await,
        Err(Stop::Refused(refusal)) => {
            refusal.note(world, Some(url_key));
            let flow = conn.send(refusal.reply(&head.path)).await?;
            conn.drain().await;
            Ok(flow)
        }
        Err(Stop::Broken(broken)) => {
            let refusal = Refusal::new(
                400,
                "IncompleteBody",
                "You did not provide the number of bytes specified by the Content-Length HTTP header.",
            );
            refusal.note(world, Some(url_key));
            if matches!(broken, Broken::Closed) {
                // Only its writing half may be closed.
                conn.send(refusal.reply(&head.path)).await?;
            }
            Err(broken)
        }
        Err(Stop::Struck) => match rule {
            Some(rule) => strike(world, conn, head, rule, &upload).await,
            None => Ok(Flow::Close),
        },
    }
}

async fn receive(
    world: &World,
    conn: &mut Conn,
    head: &Head,
    rule: Option<&Rule>,
    upload: &InFlight,
) -> Result<Received, Stop> {
    let url_key = check_head(world, head)?;
    let content_type = head.header("content-type").unwrap_or_default();
    let boundary = form::boundary(content_type).ok_or_else(|| {
        Refusal::malformed("the Content-Type is not multipart/form-data with a plain boundary")
    })?;

    let mut form = Form::new(boundary);
    let mut fields = Fields::default();
    let mut file: Option<(Draft, Ticket, Option<String>)> = None;
    let mut content = 0;
    while let Some(chunk) = conn.chunk().await.map_err(Stop::Broken)? {
        form.push(chunk);
        while let Some(event) = form.next()? {
            match event {
                Event::Field { name, value } => fields.take(name, value)?,
                Event::File { file_name } => {
                    let ticket = fields.verify(&world.links, url_key, file_name.as_deref())?;
                    let draft =
                        world.store.borrow().draft().map_err(|error| Refusal::internal(&error))?;
                    file = Some((draft, ticket, file_name));
                }
                Event::Data(mut bytes) => {
                    if let Some(after) = strikes_at(rule) {
                        bytes.truncate(usize::try_from(after - content).unwrap_or(usize::MAX));
                    }
                    if let Some((draft, ..)) = &mut file {
                        draft.write(&bytes).map_err(|error| Refusal::internal(&error))?;
                    }
                    content += bytes.len() as u64;
                    upload.received(bytes.len() as u64);
                }
            }
            if file.is_some() && strikes_at(rule).is_some_and(|after| content >= after) {
                return Err(Stop::Struck);
            }
        }
        // The file was written with blocking calls: other connections get their turn.
        tokio::task::yield_now().await;
    }
    form.finish()?;
    let (draft, ticket, file_name) =
        file.ok_or_else(|| Refusal::malformed("a form without a file"))?;
    Ok(Received { draft, ticket, file_name, fields })
}

fn check_head<'a>(world: &World, head: &'a Head) -> Result<Option<&'a str>, Refusal> {
    let key = cos_reply::key_of(world, head)?;
    match head.length {
        None => Err(Refusal::new(
            411,
            "MissingContentLength",
            "You must provide the Content-Length HTTP header.",
        )),
        Some(length) if length > BODY_MAX => Err(Refusal::new(
            400,
            "EntityTooLarge",
            "Your proposed upload exceeds the maximum allowed object size.",
        )),
        Some(_) => Ok(key),
    }
}

/// After how many bytes of the file the rule strikes, for the kinds that strike in the middle.
fn strikes_at(rule: Option<&Rule>) -> Option<u64> {
    let rule = rule?;
    match rule.fault {
        Kind::ResetWithin | Kind::Early | Kind::Early2xx => Some(rule.after.unwrap_or(0)),
        Kind::Stall => rule.after,
        _ => None,
    }
}

async fn strike(
    world: &World,
    conn: &mut Conn,
    head: &Head,
    rule: &Rule,
    upload: &InFlight,
) -> Result<Flow, Broken> {
    let reply = match rule.fault {
        Kind::ResetWithin => return Ok(Flow::Reset),
        Kind::Stall => {
            upload.stalled();
            fault::stall(conn, rule, &world.faults_lifted).await;
            return Ok(Flow::Reset);
        }
        Kind::Early2xx => stored_reply(204, "\"0\"", None, String::new()),
        _ => cos_reply::faulty(rule, rule.status.unwrap_or(500), &head.path),
    };
    let flow = conn.send(reply).await?;
    match rule.then.unwrap_or(Then::KeepReading) {
        Then::KeepReading => {
            conn.drain().await;
            Ok(flow)
        }
        Then::Reset => Ok(Flow::Reset),
        Then::Close => {
            conn.finish_writing().await;
            let _ = tokio::time::timeout(LINGER, conn.wait_for_peer_to_leave()).await;
            Ok(Flow::Close)
        }
    }
}

/// The form was whole and right: keeps the file unless a fault is to lose it, and answers.
async fn conclude(
    world: &World,
    conn: &mut Conn,
    head: &Head,
    rule: Option<&Rule>,
    upload: &InFlight,
    received: Received,
) -> Result<Flow, Broken> {
    let keeps = rule.is_none_or(|rule| match rule.fault {
        Kind::Status
        | Kind::Early
        | Kind::Huge
        | Kind::Stall
        | Kind::Close
        | Kind::Garbage
        | Kind::ResetWithin => rule.store.unwrap_or(false),
        _ => true,
    });
    if !keeps {
        let mut reply = Response::text(500, "");
        cos_reply::change(&mut reply, rule, &head.path);
        // A file shorter than the rule's `after` comes here.
        let rule = rule.filter(|rule| !rule.is(Kind::ResetWithin));
        return match rule {
            None => Ok(Flow::Reset),
            rule => fault::answer(conn, rule, reply, &world.faults_lifted).await,
        };
    }
    let key = received.ticket.key.clone();
    let status = received.ticket.success_status;
    let kept = keep(world, received);
    let mut reply = match kept {
        Ok(object) => {
            upload.stored();
            let crc64 = match rule.map(|rule| rule.fault) {
                Some(Kind::NoCrc) => None,
                Some(Kind::WrongCrc) => Some(wrong(&object.crc64)),
                _ => Some(object.crc64.clone()),
            };
            stored_reply(status, &object.etag(), crc64, world.links.url(&key))
        }
        Err(refusal) => {
            refusal.note(world, Some(&key));
            refusal.reply(&head.path)
        }
    };
    cos_reply::change(&mut reply, rule, &head.path);
    match rule {
        // These had their say while the form was read.
        Some(rule) if matches!(rule.fault, Kind::Slow | Kind::Early | Kind::Early2xx) => {
            conn.send(reply).await
        }
        Some(rule) if rule.is(Kind::ResetWithin) => Ok(Flow::Reset),
        rule => fault::answer(conn, rule, reply, &world.faults_lifted).await,
    }
}

fn keep(world: &World, received: Received) -> Result<Object, Refusal> {
    let ticket = received.ticket;
    world
        .store
        .borrow_mut()
        .keep(
            received.draft,
            &ticket.key,
            ticket.content_type,
            ticket.fileid_ok,
            received.file_name,
            received.fields.all,
        )
        .map_err(|error| Refusal::internal(&error))
}

fn stored_reply(status: u16, etag: &str, crc64: Option<String>, location: String) -> Response {
    let mut headers = vec![
        ("ETag", etag.to_owned()),
        ("x-cos-request-id", cos_reply::request_id()),
        ("Server", "tencent-cos".to_owned()),
    ];
    if let Some(crc64) = crc64 {
        headers.push(("x-cos-hash-crc64ecma", crc64));
    }
    let mut content = String::new();
    if status == 201 {
        headers.push(("Content-Type", "application/xml".to_owned()));
        content = format!(
            "<?xml version='1.0' encoding='utf-8' ?>\n<PostResponse>\n\t<Location>{}</Location>\n\
             \t<ETag>{etag}</ETag>\n</PostResponse>\n",
            cos_reply::escaped(&location)
        );
    }
    if !location.is_empty() {
        headers.push(("Location", location));
    }
    Response { status, headers, content: Content::Bytes(content.into()) }
}

fn wrong(crc64: &str) -> String {
    let crc: u64 = crc64.parse().unwrap_or_default();
    (crc ^ 1).to_string()
}
