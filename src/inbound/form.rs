//! A multipart/form-data body: fields, then files with what can be known of their length.
//!
//! One state machine reads the body from its first byte to its last. It hands out a file's bytes as they come, and
//! says that a file has ended only when everything up to the next file, or the form's end, has been read and is valid:
//! an object that is finished only behind [`FileEvent::End`] is never a truncated one.

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
use super::error::InboundError;
pub use super::fields::Fields;
use super::fields::{self, FormFields};
use super::head::{self, HeadFault, PartHead};
use super::scan::{Scanner, Step};
use super::stray::{self, Passed};
use super::text::printable;
use crate::file_stream::{FileEnd, FileEvent, Source};

/// So long may one part's headers be, or what stands before the first delimiter.
const MAX_HEAD: usize = 16 * 1024;
/// What is looked through for their end at a time: they are short, and a file is behind them.
const HEAD_STEP: usize = 512;
/// White space between a delimiter and its line break (RFC 2046 5.1.1 allows it).
const MAX_PADDING: usize = 256;
/// White space behind the closing delimiter. It is mirrored towards COS where the file's length is a guess.
pub const MAX_EPILOGUE: usize = 4 * 1024;

const BARE_CR: InboundError = InboundError::Malformed(
    "a boundary's line ends in a CR without an LF, and must end in both (RFC 2046): write `\\r\\n`",
);
const WRITTEN_OUT: InboundError = InboundError::Malformed(
    "a boundary is followed by a backslash: the line breaks of the form were sent as the letters `\\r\\n` and not as the \
     two bytes CR and LF (in PHP and in shells, single quotes do that)",
);

/// A file part whose content is next.
#[derive(Debug)]
pub struct FilePart {
    pub head: PartHead,
    /// If this is the form's last part, its content and the form's epilogue are together this long. `None` when the
    /// request announced no length.
    pub framed: Option<u64>,
}

/// A form being read.
pub struct Form {
    length: Option<u64>,
    body: Body,
    chunk: Bytes,
    scanner: Scanner,
    state: State,
    fields: FormFields,
    /// Parts whose head was read.
    part_count: usize,
    file_seen: bool,
    next: Option<FilePart>,
    /// How long the file that is being read can still be, as far as the request's length tells.
    room: Option<u64>,
    /// What has passed of it.
    passed: Passed,
    /// A file's content ended in an error: where the reading stands means nothing any more.
    broken: bool,
}

enum State {
    /// Before the first delimiter: what came.
    Preamble(Vec<u8>),
    /// A delimiter was read; what follows it in its line.
    Delimiter {
        /// White space so far.
        padding: usize,
        /// The first of the two bytes that say what follows.
        first: Option<u8>,
    },
    Head(Vec<u8>),
    Field {
        head: PartHead,
        value: Vec<u8>,
    },
    /// Within a file.
    Content,
    /// A file's head was read; its content is next.
    AtFile,
    /// Behind the closing delimiter: what came.
    Epilogue(Vec<u8>),
    /// The body has ended validly.
    Ended {
        epilogue: Bytes,
    },
}

impl State {
    const DELIMITER: Self = Self::Delimiter { padding: 0, first: None };
}

impl Form {
    /// A form from a request's headers and body.
    pub fn new(request: &HeaderMap, body: Body) -> Result<Self, InboundError> {
        let boundary = boundary::of(request)?;
        Ok(Self {
            length: announced_length(request),
            body,
            chunk: Bytes::new(),
            scanner: Scanner::new(&boundary),
            state: State::Preamble(Vec::new()),
            fields: FormFields::default(),
            part_count: 0,
            file_seen: false,
            next: None,
            room: None,
            passed: Passed::default(),
            broken: false,
        })
    }

    /// Why a form that has ended without a file has none.
    pub fn no_file(&self) -> InboundError {
        // Where a file input was left empty the fields are not to blame.
        if self.file_seen { InboundError::NoFile } else { self.fields.no_file() }
    }

    /// The fields read so far.
    pub fn fields(&self) -> &Fields {
        &self.fields.named
    }

    /// Reads on to the next file part; `None` at the form's valid end. The content of the file before must have been
    /// read to its end.
    pub async fn next_file(form: &Rc<RefCell<Self>>) -> Result<Option<FilePart>, InboundError> {
        poll_fn(|cx| form.borrow_mut().poll_next_file(cx)).await
    }

    /// The content of the file part that [`Self::next_file`] gave last.
    pub fn content(form: &Rc<RefCell<Self>>) -> Source {
        form.borrow_mut().enter_file();
        let form = form.clone();
        Box::pin(stream::poll_fn(move |cx| {
            form.borrow_mut().poll_content(cx).map(|piece| piece.map_err(Into::into)).map(Some)
        }))
    }

    /// Reads what is left of the file part that [`Self::next_file`] gave last and forgets it, so that the next one can
    /// be read; at most `limit` bytes. Says whether it ended well.
    pub async fn skip(form: &Rc<RefCell<Self>>, limit: u64) -> bool {
        let mut skipped = 0;
        poll_fn(|cx| {
            let mut form = form.borrow_mut();
            if let (State::AtFile, None) = (&form.state, &form.next) {
                form.enter_file();
            }
            while skipped <= limit && !form.broken {
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
        self.passed.clear();
        self.state = State::Content;
    }

    fn poll_next_file(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<FilePart>, InboundError>> {
        ready!(self.poll_to_file_or_end(cx))?;
        Poll::Ready(Ok(self.next.take()))
    }

    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Result<FileEvent, InboundError>> {
        let polled = self.poll_piece(cx);
        self.broken |= matches!(polled, Poll::Ready(Err(_)));
        polled
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<FileEvent, InboundError>> {
        while let State::Content = self.state {
            ready!(self.poll_fill(cx))?;
            match self.scanner.step(&mut self.chunk) {
                Step::Content(bytes) => {
                    let (opening, look_alikes) =
                        (self.scanner.opening(), self.scanner.look_alikes());
                    self.passed.push(&bytes, opening, look_alikes)?;
                    let length = bytes.len() as u64;
                    match self.room.map(|room| room.checked_sub(length)) {
                        // The closing delimiter does not fit behind it any more. The body's end tells why.
                        Some(None) => {}
                        room => {
                            self.room = room.flatten();
                            return Poll::Ready(Ok(FileEvent::Content(bytes)));
                        }
                    }
                }
                Step::Delimiter => self.state = State::DELIMITER,
                Step::More => {}
            }
        }
        ready!(self.poll_to_file_or_end(cx))?;
        Poll::Ready(Ok(FileEvent::End(match &self.state {
            // Nothing but the epilogue stood behind the file when no field was read since; fields do not matter to
            // an exact length, and a guess notices them by its sum.
            State::Ended { epilogue } => FileEnd { last: true, epilogue: epilogue.clone() },
            _ => FileEnd { last: false, epilogue: Bytes::new() },
        })))
    }

    fn poll_to_file_or_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), InboundError>> {
        while !matches!(self.state, State::AtFile | State::Ended { .. }) {
            // A form may consist of nothing but tiny parts: others have their turn between them.
            let turn = ready!(coop::poll_proceed(cx));
            ready!(self.poll_fill(cx))?;
            turn.made_progress();
            self.step()?;
        }
        Poll::Ready(Ok(()))
    }

    /// Makes sure that a byte is there, or that the form has ended: a body that ends elsewhere is an error.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), InboundError>> {
        if self.chunk.is_empty() {
            match ready!(self.body.poll_chunk(cx))? {
                Some(chunk) => self.chunk = chunk,
                None => return Poll::Ready(self.end()),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The body has ended: validly, or what is wrong with it.
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
            State::Head(head) => self.refuse_head(head)?,
            State::Field { value, .. } => stray::in_field(value, opening)?,
            State::Content => self.passed.refuse_closing(opening)?,
            _ => {}
        }
        Err(InboundError::Unclosed(printable(self.scanner.boundary())))
    }

    /// Refuses a head that has not ended and will not, where it shows why: the empty line behind it is missing.
    fn refuse_head(&self, head: &[u8]) -> Result<(), InboundError> {
        stray::in_head(head)?;
        // The first two bytes are the delimiter's line break; the last line may be cut off.
        let end = head.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let closing = [self.scanner.opening(), b"--"].concat();
        let end = if head[end..].starts_with(&closing) { head.len() } else { end };
        match head::parse(&head[2..end]) {
            Err(fault @ (HeadFault::Line(_) | HeadFault::Unended)) => {
                Err(InboundError::Head { part: self.part_count + 1, fault })
            }
            _ => Ok(()),
        }
    }

    fn boundary_not_found(&self, seen: &[u8]) -> InboundError {
        InboundError::BoundaryNotFound {
            declared: printable(self.scanner.boundary()),
            found: stray::first_delimiter(seen).map(printable),
        }
    }

    /// Takes what it can from the chunk, outside of files.
    fn step(&mut self) -> Result<(), InboundError> {
        match &mut self.state {
            State::Preamble(seen) => {
                let opening = self.scanner.opening();
                // Nearly always.
                if seen.is_empty() && self.chunk.starts_with(opening) {
                    self.chunk.advance(opening.len());
                    self.state = State::DELIMITER;
                    return Ok(());
                }
                let from = seen.len().saturating_sub(opening.len() - 1);
                let taken = self.chunk.len().min(HEAD_STEP);
                seen.extend_from_slice(&self.chunk[..taken]);
                match memmem::find(&seen[from..], opening) {
                    Some(at) => {
                        let unused = seen.len() - (from + at + opening.len());
                        // The boundary that the body has is longer: it begins with hyphens that the declared one lacks.
                        if stray::is_hyphens(&seen[..from + at]) {
                            let seen = std::mem::take(seen);
                            return Err(self.boundary_not_found(&seen));
                        }
                        stray::in_preamble(&seen[..from + at])?;
                        self.chunk.advance(taken - unused);
                        self.state = State::DELIMITER;
                    }
                    None if seen.len() > MAX_HEAD => {
                        let seen = std::mem::take(seen);
                        return Err(self.boundary_not_found(&seen));
                    }
                    None => self.chunk.advance(taken),
                }
            }
            State::Delimiter { padding, first } => {
                match (*first, self.chunk.get_u8()) {
                    (None, b' ' | b'\t') if *padding < MAX_PADDING => *padding += 1,
                    (None, b'\r') => *first = Some(b'\r'),
                    (None, b'-') if *padding == 0 => *first = Some(b'-'),
                    (None, b'\n') => return Err(InboundError::LineFeeds),
                    // The head's lines begin behind this line break, which also counts as the first half of the
                    // blank line that ends an empty head.
                    (Some(b'\r'), b'\n') => self.state = State::Head(b"\r\n".to_vec()),
                    (Some(b'\r'), _) => return Err(BARE_CR),
                    (None, b'\\') => return Err(WRITTEN_OUT),
                    (Some(b'-'), b'-') => self.state = State::Epilogue(Vec::new()),
                    _ => {
                        return Err(InboundError::Malformed(
                            "a boundary is followed by something other than a line break or `--`; the Content-Type may \
                             not name all of it",
                        ));
                    }
                }
            }
            State::Head(head) => {
                let before = head.len().saturating_sub(3);
                let room = (MAX_HEAD + 2 - head.len()).min(self.chunk.len()).min(HEAD_STEP);
                head.extend_from_slice(&self.chunk[..room]);
                match memmem::find(&head[before..], b"\r\n\r\n") {
                    Some(at) => {
                        let end = before + at + 4;
                        let unused = head.len() - end;
                        head.truncate(end);
                        self.chunk.advance(room - unused);
                        let head = std::mem::take(head);
                        self.take_head(&head)?;
                    }
                    None if head.len() >= MAX_HEAD + 2 => {
                        let head = std::mem::take(head);
                        self.refuse_head(&head)?;
                        return Err(InboundError::HeadTooLarge(MAX_HEAD));
                    }
                    None => self.chunk.advance(room),
                }
            }
            State::Field { head, value } => match self.scanner.step(&mut self.chunk) {
                Step::Content(bytes) => {
                    let room = self.fields.room(bytes.len());
                    value.extend_from_slice(&bytes[..room]);
                    if room < bytes.len() {
                        stray::in_field(value, self.scanner.opening())?;
                        return Err(fields::too_large(head));
                    }
                }
                Step::Delimiter => {
                    stray::in_field(value, self.scanner.opening())?;
                    let (head, value) = (std::mem::take(head), std::mem::take(value));
                    self.state = State::DELIMITER;
                    self.fields.take(head, value)?;
                }
                Step::More => {}
            },
            State::Epilogue(seen) => {
                let chunk = std::mem::take(&mut self.chunk);
                if !chunk.iter().all(|byte| stray::is_blank(*byte)) {
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
        stray::in_head(&raw[..raw.len() - 1])?;
        let head = head::parse(&raw[2..]).map_err(|fault| InboundError::Head { part, fault })?;
        // An empty file input is no file, and there is no other limit on such parts.
        if !head.is_file() || head.file_name.as_deref() == Some("") {
            self.fields.count(&head)?;
        }
        if head.is_file() {
            return self.take_file_head(head);
        }
        if self.file_seen && matches!(head.field.as_str(), "path" | "dir") {
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
        self.file_seen = true;
        let offset = self.body.offset() - self.chunk.len() as u64;
        let framed = match self.length {
            None => None,
            // What is left must at least hold the closing delimiter.
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
        self.room = framed;
        self.next = Some(FilePart { head, framed });
        self.state = State::AtFile;
        Ok(())
    }
}
