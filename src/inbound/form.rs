//! Parses a multipart/form-data body: its fields, and its files with what can be known of their length.
//!
//! One state machine reads the body from its first byte to its last. A file's bytes are returned as they come. A file's
//! end is returned only after everything up to the next file, or up to the form's end, has been read and is valid:
//! an object that is completed only after [`FileEvent::End`] is never truncated.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_web::http::header::HeaderMap;
use bytes::{Buf, Bytes};
use futures::stream;
use memchr::memmem;
use tokio::task::coop;

use super::body::{Body, announced_length};
use super::boundary;
use super::delimiter_line::{DelimiterLine, Follows};
use super::error::InboundError;
pub use super::fields::PathFields;
use super::fields::{self, FormFields};
use super::head::{self, HeadFault, PartHead};
use super::misplaced_boundary::{self, FileContentCheck};
use super::scan::{Scanner, Step};
use super::text::printable;
use crate::file_stream::{FileEnd, FileEvent, Source};

/// The longest head of a part, and the longest text before the first delimiter, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// How many bytes are searched at a time for the end of a head: heads are short, and a file may follow in the same
/// chunk.
const HEAD_STEP: usize = 512;
/// The most white space after the closing delimiter, in bytes. It is repeated in the form to COS where the file's
/// length is assumed.
pub const MAX_EPILOGUE: usize = 4 * 1024;

/// A file part whose content follows.
#[derive(Debug)]
pub struct FilePart {
    pub head: PartHead,
    /// If this is the form's last part, the length of its content and the form's epilogue together, in bytes. `None`
    /// when the request has no Content-Length.
    pub length_if_last: Option<u64>,
}

/// A form being read.
pub struct Form {
    /// The request's Content-Length.
    length: Option<u64>,
    body: Body,
    chunk: Bytes,
    scanner: Scanner,
    state: State,
    /// In [`State::Head`]: the head so far, with the line break before it.
    head: Vec<u8>,
    fields: FormFields,
    /// Parts whose head was read.
    part_count: usize,
    has_file: bool,
    next_file: Option<FilePart>,
    /// The most bytes that the rest of the current file can have, by the request's length.
    file_bytes_left: Option<u64>,
    /// Checks the current file's content.
    content_check: FileContentCheck,
    /// A file's content ended in an error, after which the state is meaningless.
    failed: bool,
}

enum State {
    /// Before the first delimiter; the bytes so far.
    Preamble(Vec<u8>),
    /// After `--boundary`, in the rest of its line.
    Delimiter(DelimiterLine),
    Head,
    Field {
        head: PartHead,
        value: Vec<u8>,
    },
    /// A file's head was read; its content follows.
    AtFile,
    /// In a file's content.
    Content,
    /// After the closing delimiter; the bytes so far.
    Epilogue(Vec<u8>),
    /// The body has ended validly.
    Ended {
        epilogue: Bytes,
    },
}

impl Form {
    /// A form from a request's headers and body.
    pub fn new(request: &HeaderMap, body: Body) -> Result<Self, InboundError> {
        let boundary = boundary::from_headers(request)?;
        Ok(Self {
            length: announced_length(request),
            body,
            chunk: Bytes::new(),
            scanner: Scanner::new(&boundary),
            state: State::Preamble(Vec::new()),
            head: Vec::new(),
            fields: FormFields::default(),
            part_count: 0,
            has_file: false,
            next_file: None,
            file_bytes_left: None,
            content_check: FileContentCheck::default(),
            failed: false,
        })
    }

    /// The error for a form that has ended without a file.
    pub fn no_file(&self) -> InboundError {
        // With an empty file input, no field was sent in place of the file.
        if self.has_file { InboundError::NoFile } else { self.fields.no_file() }
    }

    /// The fields read so far.
    pub fn fields(&self) -> &PathFields {
        &self.fields.path_fields
    }

    /// The other fields with text that came so far: names and values.
    pub fn other_fields(&self) -> &[(String, String)] {
        &self.fields.others
    }

    /// Reads up to the next file part; `None` at the form's valid end. The content of the previous file must have been
    /// read to its end.
    pub async fn next_file(form: &Rc<RefCell<Self>>) -> Result<Option<FilePart>, InboundError> {
        poll_fn(|cx| form.borrow_mut().poll_next_file(cx)).await
    }

    /// The content of the file part that [`Self::next_file`] returned last.
    pub fn content(form: &Rc<RefCell<Self>>) -> Source {
        form.borrow_mut().enter_file();
        let form = form.clone();
        Box::pin(stream::poll_fn(move |cx| {
            form.borrow_mut().poll_content(cx).map(|event| event.map_err(Into::into)).map(Some)
        }))
    }

    /// Reads and drops the rest of the file part that [`Self::next_file`] returned last, at most `limit` bytes, so that
    /// the next one can be read. Returns whether the file ended validly within the limit.
    pub async fn skip(form: &Rc<RefCell<Self>>, limit: u64) -> bool {
        let mut skipped = 0;
        poll_fn(|cx| {
            let mut form = form.borrow_mut();
            if let (State::AtFile, None) = (&form.state, &form.next_file) {
                form.enter_file();
            }
            while skipped <= limit && !form.failed {
                match ready!(form.poll_content(cx)) {
                    Ok(FileEvent::Content(bytes)) => skipped += bytes.len() as u64,
                    Ok(FileEvent::End(_)) => return Poll::Ready(true),
                    Err(_) => return Poll::Ready(false),
                }
            }
            Poll::Ready(false)
        })
        .await
    }

    fn enter_file(&mut self) {
        debug_assert!(matches!(self.state, State::AtFile));
        self.scanner.at_line_start();
        self.content_check.reset();
        self.state = State::Content;
    }

    fn poll_next_file(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<FilePart>, InboundError>> {
        ready!(self.poll_to_file_or_end(cx))?;
        Poll::Ready(Ok(self.next_file.take()))
    }

    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Result<FileEvent, InboundError>> {
        let polled = self.poll_event(cx);
        self.failed |= matches!(polled, Poll::Ready(Err(_)));
        polled
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<FileEvent, InboundError>> {
        while let State::Content = self.state {
            ready!(self.poll_fill(cx))?;
            match self.scanner.step(&mut self.chunk) {
                Step::Content(bytes) => {
                    let (opening, look_alikes) =
                        (self.scanner.opening(), self.scanner.look_alikes());
                    self.content_check.push(&bytes, opening, look_alikes)?;
                    let length = bytes.len() as u64;
                    match self.file_bytes_left.map(|left| left.checked_sub(length)) {
                        // No closing delimiter fits after these bytes. The error is found at the body's end.
                        Some(None) => {}
                        left => {
                            self.file_bytes_left = left.flatten();
                            return Poll::Ready(Ok(FileEvent::Content(bytes)));
                        }
                    }
                }
                Step::Delimiter => self.state = State::Delimiter(DelimiterLine::default()),
                Step::More => {}
            }
        }
        ready!(self.poll_to_file_or_end(cx))?;
        Poll::Ready(Ok(FileEvent::End(match &self.state {
            // Fields may have followed the file. They do not matter to a known length. With an assumed length, the sum
            // of content and epilogue is then too small.
            State::Ended { epilogue } => FileEnd { last: true, epilogue: epilogue.clone() },
            _ => FileEnd { last: false, epilogue: Bytes::new() },
        })))
    }

    fn poll_to_file_or_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), InboundError>> {
        while !matches!(self.state, State::AtFile | State::Ended { .. }) {
            // A form may consist of tiny parts only: other tasks run in between.
            let budget = ready!(coop::poll_proceed(cx));
            ready!(self.poll_fill(cx))?;
            budget.made_progress();
            self.step()?;
        }
        Poll::Ready(Ok(()))
    }

    /// Waits for a byte in the chunk, or for the form's end: a body that ends elsewhere is an error.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), InboundError>> {
        if self.chunk.is_empty() {
            match ready!(self.body.poll_chunk(cx))? {
                Some(chunk) => self.chunk = chunk,
                None => return Poll::Ready(self.end()),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Handles the end of the body; returns what is wrong if it is not the form's valid end.
    fn end(&mut self) -> Result<(), InboundError> {
        if self.length.is_some_and(|length| self.body.offset() < length) {
            return Err(InboundError::Truncated);
        }
        let opening = self.scanner.opening();
        match &self.state {
            State::Epilogue(seen) => {
                let epilogue = match seen.as_slice() {
                    b"\r\n" => Bytes::from_static(b"\r\n"),
                    seen => Bytes::copy_from_slice(seen),
                };
                self.state = State::Ended { epilogue };
                return Ok(());
            }
            State::Preamble(_) if self.body.offset() == 0 => return Err(InboundError::EmptyBody),
            State::Preamble(seen) => return Err(self.boundary_not_found(seen)),
            State::Head => self.refuse_head(&self.head)?,
            State::Field { value, .. } => misplaced_boundary::check_field(value, opening)?,
            State::Content => self.content_check.check_end(opening)?,
            _ => {}
        }
        Err(InboundError::Unclosed(printable(self.scanner.boundary())))
    }

    /// Refuses a head without an end, if its lines show that the empty line after it is missing.
    fn refuse_head(&self, head: &[u8]) -> Result<(), InboundError> {
        misplaced_boundary::check_head(head)?;
        // The first two bytes are the delimiter's line break; the last line may be cut off.
        let end = head.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let closing = [self.scanner.opening(), b"--"].concat();
        let end = if head[end..].starts_with(&closing) { head.len() } else { end };
        match head::parse(&head[2..end]) {
            Err(fault @ (HeadFault::Line(_) | HeadFault::Unterminated)) => {
                Err(InboundError::Head { part: self.part_count + 1, fault })
            }
            _ => Ok(()),
        }
    }

    fn boundary_not_found(&self, seen: &[u8]) -> InboundError {
        InboundError::BoundaryNotFound {
            declared: printable(self.scanner.boundary()),
            found: misplaced_boundary::boundary_of_first_line(seen).map(printable),
        }
    }

    /// Consumes bytes of the chunk in every state but a file's content.
    fn step(&mut self) -> Result<(), InboundError> {
        match &mut self.state {
            State::Preamble(seen) => {
                let opening = self.scanner.opening();
                // Nearly every form begins with its first delimiter.
                if seen.is_empty() && self.chunk.starts_with(opening) {
                    self.chunk.advance(opening.len());
                    self.state = State::Delimiter(DelimiterLine::default());
                    return Ok(());
                }
                let from = seen.len().saturating_sub(opening.len() - 1);
                let taken = self.chunk.len().min(HEAD_STEP);
                seen.extend_from_slice(&self.chunk[..taken]);
                match memmem::find(&seen[from..], opening) {
                    Some(at) => {
                        let unused = seen.len() - (from + at + opening.len());
                        // The body's boundary is longer: it begins with hyphens that the declared one lacks.
                        if misplaced_boundary::is_hyphens(&seen[..from + at]) {
                            let seen = std::mem::take(seen);
                            return Err(self.boundary_not_found(&seen));
                        }
                        misplaced_boundary::check_preamble(&seen[..from + at])?;
                        self.chunk.advance(taken - unused);
                        self.state = State::Delimiter(DelimiterLine::default());
                    }
                    None if seen.len() > MAX_HEAD => {
                        let seen = std::mem::take(seen);
                        return Err(self.boundary_not_found(&seen));
                    }
                    None => self.chunk.advance(taken),
                }
            }
            State::Delimiter(line) => match line.push(self.chunk.get_u8())? {
                Some(Follows::Part) => {
                    // The head's lines begin after this line break, which also counts as the first half of the blank
                    // line that ends an empty head.
                    self.head.reserve(HEAD_STEP + 2);
                    self.head.extend_from_slice(b"\r\n");
                    self.state = State::Head;
                }
                Some(Follows::Epilogue) => self.state = State::Epilogue(Vec::new()),
                None => {}
            },
            State::Head => {
                let head = &mut self.head;
                let from = head.len().saturating_sub(3);
                let taken = (MAX_HEAD + 2 - head.len()).min(self.chunk.len()).min(HEAD_STEP);
                head.extend_from_slice(&self.chunk[..taken]);
                match memmem::find(&head[from..], b"\r\n\r\n") {
                    Some(at) => {
                        let end = from + at + 4;
                        let unused = head.len() - end;
                        head.truncate(end);
                        self.chunk.advance(taken - unused);
                        let mut head = std::mem::take(head);
                        self.take_head(&head)?;
                        // It is used for the next head, unless it is large: the file that follows may take hours.
                        head.clear();
                        head.shrink_to(HEAD_STEP + 2);
                        self.head = head;
                    }
                    None if head.len() >= MAX_HEAD + 2 => {
                        self.refuse_head(&self.head)?;
                        return Err(InboundError::HeadTooLarge(MAX_HEAD));
                    }
                    None => self.chunk.advance(taken),
                }
            }
            State::Field { head, value } => match self.scanner.step(&mut self.chunk) {
                Step::Content(bytes) => {
                    let reserved = self.fields.reserve(bytes.len());
                    value.extend_from_slice(&bytes[..reserved]);
                    if reserved < bytes.len() {
                        misplaced_boundary::check_field(value, self.scanner.opening())?;
                        return Err(fields::too_large(head));
                    }
                }
                Step::Delimiter => {
                    misplaced_boundary::check_field(value, self.scanner.opening())?;
                    let (head, value) = (std::mem::take(head), std::mem::take(value));
                    self.state = State::Delimiter(DelimiterLine::default());
                    self.fields.add(head, value)?;
                }
                Step::More => {}
            },
            State::Epilogue(seen) => {
                let chunk = std::mem::take(&mut self.chunk);
                if !chunk.iter().all(|byte| misplaced_boundary::is_blank(*byte)) {
                    return Err(InboundError::Malformed(
                        "something other than white space follows the form's last boundary",
                    ));
                }
                if seen.len() + chunk.len() > MAX_EPILOGUE {
                    return Err(InboundError::Malformed(
                        "more than 4 KiB of white space follow the form's last boundary",
                    ));
                }
                seen.extend_from_slice(&chunk);
            }
            State::Content | State::AtFile | State::Ended { .. } => {}
        }
        Ok(())
    }

    /// `raw` begins with the line break that ended the delimiter.
    fn take_head(&mut self, raw: &[u8]) -> Result<(), InboundError> {
        self.part_count += 1;
        let part = self.part_count;
        misplaced_boundary::check_head(&raw[..raw.len() - 1])?;
        let head = head::parse(&raw[2..]).map_err(|fault| InboundError::Head { part, fault })?;
        // An empty file input is not a file, so that `upload.max_files` does not limit such parts.
        if !head.is_file() || head.file_name.as_deref() == Some("") {
            self.fields.count(&head)?;
        }
        if head.is_file() {
            return self.take_file_head(head);
        }
        if self.has_file && matches!(head.field.as_str(), "path" | "dir") {
            return Err(InboundError::FieldAfterFile(head.field));
        }
        self.scanner.at_line_start();
        self.state = State::Field { head, value: Vec::new() };
        Ok(())
    }

    fn take_file_head(&mut self, head: PartHead) -> Result<(), InboundError> {
        let encoded = match (head.transfer_encoding.name(), &head.compression) {
            (Some(name), _) => Some(("Content-Transfer-Encoding", name)),
            (None, Some(name)) => Some(("Content-Encoding", name.as_str())),
            (None, None) => None,
        };
        if let Some((header, encoding)) = encoded {
            let (part, encoding) = (self.part_count, encoding.to_owned());
            return Err(InboundError::PartEncoding { part, header, encoding });
        }
        self.has_file = true;
        let offset = self.body.offset() - self.chunk.len() as u64;
        let length_if_last = match self.length {
            None => None,
            // The rest of the body must at least contain the closing delimiter.
            Some(length) => Some(
                length
                    .checked_sub(offset)
                    .and_then(|left| left.checked_sub(self.scanner.closing_len()))
                    // A part without a body ends with the line break of its head.
                    .or(length
                        .saturating_add(2)
                        .checked_sub(offset + self.scanner.closing_len())
                        .map(|_| 0))
                    .ok_or(InboundError::Truncated)?,
            ),
        };
        self.file_bytes_left = length_if_last;
        self.next_file = Some(FilePart { head, length_if_last });
        self.state = State::AtFile;
        Ok(())
    }
}
