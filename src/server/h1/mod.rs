//! HTTP/1 in front of actix-http: request heads are checked here first, and bodies are read past actix-http.
//!
//! [`reader_io`] is what actix-http reads and writes instead of the socket, and [`body_reader`] is what handlers read
//! bodies from; both are one connection. [`head_scan`] finds a head's end, [`head_parse`] checks the head
//! ([`request_target`], [`head_error`]), and [`head_for_actix`] makes the head that actix-http is given instead.

pub mod body_reader;
pub mod chunked;
pub mod head_error;
pub mod head_for_actix;
pub mod head_parse;
pub mod head_scan;
pub mod reader_io;
mod request_target;
