//! A multipart/form-data body: fields, then files with what can be known of their length.
//!
//! One state machine reads the body from its first byte to its last. It hands out a file's bytes as they come, and
//! says that a file has ended only when everything up to the next file, or the form's end, has been read and is valid:
//! whoever waits for [`Piece::End`] before finishing an object cannot finish a truncated one.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_web::http::header::{CONTENT_TYPE, HeaderMap};
use bytes::Bytes;
use futures::stream;

use super::InboundError;
use super::body::{Body, announced_length};
use super::head::{self, PartHead};
use super::scan::{Scanner, Step};
use crate::cos::source::{End, Piece, Source};

/// Form fields beside the files: this many,
const MAX_FIELDS: usize = 32;
/// this many bytes together,
const MAX_FIELD_BYTES: usize = 64 * 1024;
/// and so long may one part's headers be.
const MAX_HEAD: usize = 16 * 1024;
/// What is looked through for their end at a time: they are short, and a file is behind them.
const HEAD_STEP: usize = 512;

/// Fields that say where a file goes, and so must stand before it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Fields {
    /// The object's key, as the client names it.
    pub path: Option<String>,
    /// A folder for the template.
    pub dir: Option<String>,
}

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
    fields: Fields,
    field_count: usize,
    field_bytes: usize,
    file_seen: bool,
    next: Option<FilePart>,
    /// A file's content ended in an error: where the reading stands means nothing any more.
    broken: bool,
}

enum State {
    /// Before the first delimiter: bytes skipped.
    Preamble(usize),
    /// A delimiter was read; the next two bytes say what follows (the first, once it is there).
    Delimiter(Option<u8>),
    Head(Vec<u8>),
    Field {
        name: String,
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
        epilogue: &'static [u8],
    },
}

impl Form {
    /// A form from a request's headers and body.
    pub fn new(request: &HeaderMap, body: Body) -> Result<Self, InboundError> {
        let boundary = boundary(request)?;
        let mut scanner = Scanner::new(&boundary);
        scanner.at_line_start();
        Ok(Self {
            length: announced_length(request),
            body,
            chunk: Bytes::new(),
            scanner,
            state: State::Preamble(0),
            fields: Fields::default(),
            field_count: 0,
            field_bytes: 0,
            file_seen: false,
            next: None,
            broken: false,
        })
    }

    /// The fields read so far.
    pub fn fields(&self) -> &Fields {
        &self.fields
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
                    Ok(Piece::Content(bytes)) => skipped += bytes.len() as u64,
                    Ok(Piece::End(_)) => return Poll::Ready(true),
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
        self.state = State::Content;
    }

    fn poll_next_file(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<FilePart>, InboundError>> {
        ready!(self.poll_to_file_or_end(cx))?;
        Poll::Ready(Ok(self.next.take()))
    }

    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, InboundError>> {
        let polled = self.poll_piece(cx);
        self.broken |= matches!(polled, Poll::Ready(Err(_)));
        polled
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, InboundError>> {
        while let State::Content = self.state {
            ready!(self.poll_fill(cx))?;
            match self.scanner.step(&mut self.chunk) {
                Step::Content(bytes) => return Poll::Ready(Ok(Piece::Content(bytes))),
                Step::Delimiter => self.state = State::Delimiter(None),
                Step::More => {}
            }
        }
        ready!(self.poll_to_file_or_end(cx))?;
        Poll::Ready(Ok(match self.state {
            // Nothing but the epilogue stood behind the file when no field was read since; fields do not matter to
            // an exact length, and a guess notices them by its sum.
            State::Ended { epilogue } => Piece::End(End { last: true, epilogue }),
            _ => Piece::End(End { last: false, epilogue: b"" }),
        }))
    }

    fn poll_to_file_or_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), InboundError>> {
        loop {
            if matches!(self.state, State::AtFile | State::Ended { .. }) {
                return Poll::Ready(Ok(()));
            }
            if let State::Epilogue(seen) = &mut self.state {
                if self.chunk.is_empty()
                    && let Some(chunk) = ready!(self.body.poll_chunk(cx))?
                {
                    self.chunk = chunk;
                }
                if self.chunk.is_empty() {
                    let epilogue = epilogue(seen)?;
                    self.state = State::Ended { epilogue };
                    continue;
                }
                seen.extend_from_slice(&self.chunk[..self.chunk.len().min(3)]);
                self.chunk.clear();
                if !b"\r\n".starts_with(seen) {
                    return Poll::Ready(Err(JUNK));
                }
                continue;
            }
            ready!(self.poll_fill(cx))?;
            self.step()?;
        }
    }

    /// Makes sure that a byte is there; a body that ends here is cut short.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), InboundError>> {
        if self.chunk.is_empty() {
            match ready!(self.body.poll_chunk(cx))? {
                Some(chunk) => self.chunk = chunk,
                None => return Poll::Ready(Err(InboundError::Truncated)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what it can from the chunk, outside of files.
    fn step(&mut self) -> Result<(), InboundError> {
        match &mut self.state {
            State::Preamble(skipped) => match self.scanner.step(&mut self.chunk) {
                Step::Content(bytes) => {
                    *skipped += bytes.len();
                    if *skipped > MAX_HEAD {
                        return Err(InboundError::Malformed(
                            "the form does not begin with its boundary",
                        ));
                    }
                }
                Step::Delimiter => self.state = State::Delimiter(None),
                Step::More => {}
            },
            State::Delimiter(first) => {
                let byte = self.chunk.split_to(1)[0];
                match (*first, byte) {
                    (None, b'\r' | b'-') => *first = Some(byte),
                    // The head's lines begin behind this line break, which also counts as the first half of the
                    // blank line that ends an empty head.
                    (Some(b'\r'), b'\n') => self.state = State::Head(b"\r\n".to_vec()),
                    (Some(b'-'), b'-') => self.state = State::Epilogue(Vec::new()),
                    _ => {
                        return Err(InboundError::Malformed(
                            "a boundary is followed by something other than a line break or `--`",
                        ));
                    }
                }
            }
            State::Head(head) => {
                let before = head.len().saturating_sub(3);
                let room = (MAX_HEAD + 2 - head.len()).min(self.chunk.len()).min(HEAD_STEP);
                head.extend_from_slice(&self.chunk[..room]);
                match memchr::memmem::find(&head[before..], b"\r\n\r\n") {
                    Some(at) => {
                        let end = before + at + 4;
                        let unused = head.len() - end;
                        head.truncate(end);
                        let _ = self.chunk.split_to(room - unused);
                        let head = std::mem::take(head);
                        self.take_head(&head[2..])?;
                    }
                    None if head.len() >= MAX_HEAD + 2 => {
                        return Err(InboundError::HeadTooLarge(MAX_HEAD));
                    }
                    None => {
                        let _ = self.chunk.split_to(room);
                    }
                }
            }
            State::Field { name, value } => match self.scanner.step(&mut self.chunk) {
                Step::Content(bytes) => {
                    self.field_bytes += bytes.len();
                    if self.field_bytes > MAX_FIELD_BYTES {
                        return Err(FIELDS);
                    }
                    value.extend_from_slice(&bytes);
                }
                Step::Delimiter => {
                    let (name, value) = (std::mem::take(name), std::mem::take(value));
                    self.state = State::Delimiter(None);
                    self.take_field(&name, value)?;
                }
                Step::More => {}
            },
            State::Content | State::AtFile | State::Epilogue(_) | State::Ended { .. } => {}
        }
        Ok(())
    }

    fn take_head(&mut self, raw: &[u8]) -> Result<(), InboundError> {
        let head = head::parse(raw)?;
        if head.is_file() {
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
            self.next = Some(FilePart { head, framed });
            self.state = State::AtFile;
            return Ok(());
        }
        self.field_count += 1;
        self.field_bytes += head.field.len();
        if self.field_count > MAX_FIELDS || self.field_bytes > MAX_FIELD_BYTES {
            return Err(FIELDS);
        }
        if self.file_seen && matches!(head.field.as_str(), "path" | "dir") {
            return Err(InboundError::FieldAfterFile(head.field));
        }
        self.scanner.at_line_start();
        self.state = State::Field { name: head.field, value: Vec::new() };
        Ok(())
    }

    fn take_field(&mut self, name: &str, value: Vec<u8>) -> Result<(), InboundError> {
        let slot = match name {
            "path" => &mut self.fields.path,
            "dir" => &mut self.fields.dir,
            _ => return Ok(()),
        };
        let value = String::from_utf8(value)
            .map_err(|_| InboundError::Malformed("the fields `path` and `dir` must be UTF-8"))?;
        if slot.replace(value).is_some() {
            return Err(InboundError::Malformed(
                "the field `path` or `dir` stands in the form twice",
            ));
        }
        Ok(())
    }
}

const FIELDS: InboundError =
    InboundError::FieldsTooLarge { fields: MAX_FIELDS, bytes: MAX_FIELD_BYTES };
const JUNK: InboundError =
    InboundError::Malformed("something other than a line break follows the form's last boundary");

fn epilogue(seen: &[u8]) -> Result<&'static [u8], InboundError> {
    match seen {
        b"" => Ok(b""),
        b"\r\n" => Ok(b"\r\n"),
        _ => Err(JUNK),
    }
}

/// The boundary of a multipart/form-data request, as actix-multipart reads it.
fn boundary(request: &HeaderMap) -> Result<String, InboundError> {
    let value = request.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mime: mime_guess::Mime = value.parse().map_err(|_| InboundError::NotMultipart)?;
    if mime.type_() != mime_guess::mime::MULTIPART || mime.subtype() != "form-data" {
        return Err(InboundError::NotMultipart);
    }
    match mime.get_param("boundary").map(|name| name.as_str().to_owned()) {
        // RFC 2046 5.1.1 allows 70 characters.
        Some(boundary) if (1..=70).contains(&boundary.len()) => Ok(boundary),
        _ => Err(InboundError::Malformed("the Content-Type has no usable boundary")),
    }
}
