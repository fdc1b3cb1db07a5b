//! Client connections below the HTTP handlers: how HTTP/1 requests are taken off a socket.

pub mod h1;
