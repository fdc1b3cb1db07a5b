//! A server of the gateway's owner: records the requests that it is sent, and responds as a test says.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// A recorded request.
#[derive(Clone, Debug)]
pub struct Request {
    pub head: String,
    pub body: Vec<u8>,
    /// When it was there.
    pub at: Instant,
}

impl Request {
    /// A header that it has once.
    pub fn header(&self, name: &str) -> &str {
        self.find(name).unwrap_or_else(|| panic!("no {name}: {}", self.head))
    }

    fn find(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut values = lines.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let value = values.next()?.1;
        assert!(values.next().is_none(), "{name} twice");
        Some(value)
    }
}

/// Responds to a request on its connection; `Err`: the connection is closed.
type Respond = Arc<dyn Fn(&Request, &mut TcpStream) -> io::Result<()> + Send + Sync>;

/// The running server.
pub struct Recorder {
    pub address: SocketAddr,
    received: Arc<Mutex<Vec<Request>>>,
    respond: Arc<Mutex<Respond>>,
}

impl Recorder {
    pub fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").expect("a socket"))
    }

    /// Responds with 200, until told otherwise.
    pub fn on(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("an address");
        let received = Arc::<Mutex<Vec<Request>>>::default();
        let accept: Respond =
            Arc::new(|_, stream| stream.write_all(response("200 OK", "").as_bytes()));
        let respond = Arc::new(Mutex::new(accept));
        let (all, current) = (received.clone(), respond.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (all, current) = (all.clone(), current.clone());
                std::thread::spawn(move || serve(stream, &all, &current));
            }
        });
        Self { address, received, respond }
    }

    pub fn respond(
        &self,
        respond: impl Fn(&Request, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) {
        *self.respond.lock().expect("the response") = Arc::new(respond);
    }

    pub fn received(&self) -> Vec<Request> {
        self.received.lock().expect("the requests").clone()
    }

    pub fn calls(&self) -> usize {
        self.received.lock().expect("the requests").len()
    }
}

pub fn response(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Ends when the client closes the connection, or the response is an error.
fn serve(
    mut stream: TcpStream,
    all: &Mutex<Vec<Request>>,
    respond: &Mutex<Respond>,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        let request = loop {
            if let Some(request) = take_request(&mut bytes) {
                break request;
            }
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                read => bytes.extend_from_slice(&buffer[..read]),
            }
        };
        all.lock().expect("the requests").push(request.clone());
        let current = respond.lock().expect("the response").clone();
        current(&request, &mut stream)?;
    }
}

fn take_request(bytes: &mut Vec<u8>) -> Option<Request> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8(bytes[..end].to_vec()).expect("text");
    let mut request = Request { head, body: Vec::new(), at: Instant::now() };
    let length = request.find("content-length").map_or(0, |text| text.parse().expect("a length"));
    if bytes.len() < end + length {
        return None;
    }
    request.body = bytes[end..end + length].to_vec();
    bytes.drain(..end + length);
    Some(request)
}
