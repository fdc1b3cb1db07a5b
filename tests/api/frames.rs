//! An h2 client that sends single frames, valid or not.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};

use crate::harness::{World, authorization};
use crate::tls::Certificate;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GO_AWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

const ACK: u8 = 1;
/// The identifier of SETTINGS_INITIAL_WINDOW_SIZE, and its default.
const INITIAL_WINDOW: u8 = 4;
const UNASKED: i64 = 65_535;
/// The default SETTINGS_MAX_FRAME_SIZE.
const PIECE: usize = 16 << 10;
/// The length of a frame's header.
const HEAD: usize = 9;
/// Bytes per write. A full frame with its header is nine bytes longer than a TLS record's payload, so each alone would
/// take two records.
const BATCH: usize = 64 << 10;

/// An h2 connection that sends the frames that a test makes.
pub struct H2 {
    tls: StreamOwned<ClientConnection, TcpStream>,
    stream: u32,
}

impl H2 {
    pub fn connect(world: &World, certificate: &Certificate, settings: &[(u16, u32)]) -> Self {
        let mut connection = Self { tls: tls(world, certificate, "h2"), stream: 0 };
        connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("it takes the preface");
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(key, value)| [&key.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
            .collect();
        connection.send(&frame(SETTINGS, 0, 0, &settings)).expect("it takes settings");
        // The connection's window is no setting; it is opened once, wide enough for all responses of a test.
        let window = frame(WINDOW_UPDATE, 0, 0, &(1u32 << 30).to_be_bytes());
        connection.send(&window).expect("it takes a window");
        connection
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tls.write_all(bytes)
    }

    /// The next unused stream id.
    pub fn fresh(&mut self) -> u32 {
        self.stream += if self.stream == 0 { 1 } else { 2 };
        self.stream
    }

    /// A HEADERS frame with the whole head, on a new stream.
    pub fn request(&mut self, head: &[u8], flags: u8) -> (u32, Vec<u8>) {
        let stream = self.fresh();
        (stream, frame(HEADERS, flags | END_HEADERS, stream, head))
    }

    /// Sends frames from `next` up to `most` of them, or until a write fails; gives how many were sent.
    pub fn flood(&mut self, most: usize, mut next: impl FnMut(&mut Self) -> Vec<u8>) -> usize {
        let mut sent = 0;
        while sent < most {
            let mut batch = Vec::new();
            while sent < most && batch.len() < 8 << 10 {
                batch.extend(next(self));
                sent += 1;
            }
            if self.send(&batch).is_err() {
                break;
            }
        }
        sent
    }

    fn read_frame(&mut self) -> io::Result<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.tls.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.tls.read_exact(&mut payload)?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Ok((head[3], head[4], stream, payload))
    }

    /// The response's body on `stream`.
    pub fn body(&mut self, stream: u32) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let (kind, flags, of, payload) = self.read_frame()?;
            if kind == DATA && of == stream {
                body.extend(&payload);
            }
            if of == stream && matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                return Ok(body);
            }
            if kind == GO_AWAY || kind == RST_STREAM && of == stream {
                return Err(io::Error::other(format!("ended: {payload:?}")));
            }
        }
    }

    /// The windows that the gateway announces before it has read anything: of a stream, and of the connection.
    pub fn announced_windows(&mut self) -> io::Result<(i64, i64)> {
        let number =
            |bytes: &[u8]| i64::from(u32::from_be_bytes(bytes.try_into().expect("4 bytes")));
        let (mut of_stream, mut of_connection) = (UNASKED, UNASKED);
        self.send(&frame(PING, 0, 0, &[0; 8]))?;
        loop {
            let (kind, flags, stream, payload) = self.read_frame()?;
            match kind {
                SETTINGS if flags & ACK == 0 => {
                    for setting in payload.chunks_exact(6) {
                        if setting[..2] == [0, INITIAL_WINDOW] {
                            of_stream = number(&setting[2..]);
                        }
                    }
                }
                WINDOW_UPDATE if stream == 0 => of_connection += number(&payload),
                PING if flags & ACK != 0 => return Ok((of_stream, of_connection)),
                _ => {}
            }
        }
    }

    /// Sends a request's body, as frames made by [`body_of`], on `stream` as fast as the windows allow; gives the
    /// response's body. It must be the first upload of a connection, whose windows it counts from their initial size.
    pub fn upload(&mut self, stream: u32, frames: &[u8]) -> io::Result<Vec<u8>> {
        self.paced_upload(stream, frames, Duration::ZERO)
    }

    /// As [`Self::upload`], with a pause after each batch of at most [`BATCH`] bytes.
    pub fn paced_upload(
        &mut self,
        stream: u32,
        mut frames: &[u8],
        pause: Duration,
    ) -> io::Result<Vec<u8>> {
        let (mut own, mut all) = (UNASKED, UNASKED);
        while !frames.is_empty() {
            let open = usize::try_from(own.min(all)).unwrap_or(0) / PIECE;
            if open == 0 {
                let (kind, flags, of, payload) = self.read_frame()?;
                let number = |at: usize| {
                    i64::from(u32::from_be_bytes(*payload[at..].first_chunk().expect("4 bytes")))
                };
                match kind {
                    SETTINGS if flags & ACK == 0 => {
                        let windows = (0..payload.len())
                            .step_by(6)
                            .filter(|at| payload[*at + 1] == INITIAL_WINDOW);
                        own += windows.map(|at| number(at + 2) - UNASKED).sum::<i64>();
                        self.send(&frame(SETTINGS, ACK, 0, &[]))?;
                    }
                    WINDOW_UPDATE if of == 0 => all += number(0),
                    WINDOW_UPDATE => own += number(0),
                    HEADERS | RST_STREAM | GO_AWAY => {
                        return Err(io::Error::other(format!("ended: {payload:?}")));
                    }
                    _ => {}
                }
                continue;
            }
            let count = open.min(BATCH / PIECE);
            let (now, then) = frames.split_at(frames.len().min(count * (HEAD + PIECE)));
            self.send(now)?;
            own -= (count * PIECE) as i64;
            all -= (count * PIECE) as i64;
            frames = then;
            std::thread::sleep(pause);
        }
        self.body(stream)
    }

    /// Reads until the connection is closed.
    pub fn assert_closed(&mut self) {
        let began = Instant::now();
        loop {
            match self.read_frame() {
                Ok(_) => assert!(began.elapsed() < Duration::from_secs(30), "it goes on"),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("it stays open"),
                Err(_) => return,
            }
        }
    }
}

pub fn tls(
    world: &World,
    certificate: &Certificate,
    protocol: &str,
) -> StreamOwned<ClientConnection, TcpStream> {
    let tcp = TcpStream::connect(world.gateway.address).expect("it accepts");
    tcp.set_nodelay(true).expect("an option");
    tcp.set_read_timeout(Some(Duration::from_secs(30))).expect("an option");
    tcp.set_write_timeout(Some(Duration::from_secs(30))).expect("an option");
    let name = "localhost".try_into().expect("a name");
    let tls = ClientConnection::new(Arc::new(certificate.client(protocol)), name).expect("TLS");
    StreamOwned::new(tls, tcp)
}

/// An HTTP/1.1 connection over TLS, for comparison.
pub struct H1(StreamOwned<ClientConnection, TcpStream>);

impl H1 {
    pub fn connect(world: &World, certificate: &Certificate) -> Self {
        let mut tls = tls(world, certificate, "http/1.1");
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock).expect("TLS");
        }
        Self(tls)
    }

    /// Sends a whole file with `Connection: close`; gives the whole response.
    pub fn put(&mut self, path: &str, body: &[u8]) -> io::Result<String> {
        let (name, value) = authorization();
        let length = body.len();
        write!(
            self.0,
            "PUT {path} HTTP/1.1\r\nhost: localhost\r\n{name}: {value}\r\ncontent-length: {length}\r\n\
             connection: close\r\n\r\n"
        )?;
        for piece in body.chunks(BATCH) {
            self.0.write_all(piece)?;
        }
        let mut response = Vec::new();
        // The connection may close without a TLS close_notify.
        let _ = self.0.read_to_end(&mut response);
        Ok(String::from_utf8_lossy(&response).into_owned())
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The DATA frames of a request's whole body on `stream`.
pub fn body_of(stream: u32, content: &[u8]) -> Vec<u8> {
    let mut pieces = content.chunks(PIECE).peekable();
    let mut frames = Vec::new();
    while let Some(piece) = pieces.next() {
        let flags = if pieces.peek().is_none() { END_STREAM } else { 0 };
        frames.extend(frame(DATA, flags, stream, piece));
    }
    frames
}

/// HPACK without indexing: each field as a literal.
pub fn head(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            bytes.push(text.len() as u8);
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}
