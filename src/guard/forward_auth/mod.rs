//! Forward-auth, as `auth_request` of nginx and `ForwardAuth` of Traefik: the owner's auth server decides about requests
//! without a key or ticket, so that the cookie sessions of a panel work.
//!
//! - `request`: what the auth server is sent; `response`: what its response means
//! - `server`: the calls, their cache and their bounds

pub mod request;
pub mod response;
pub mod server;
