//! The HTTP API: handlers, which call the stages in order, and everything around them. No other module knows HTTP
//! statuses.

pub mod api;
pub mod audit;
pub mod console;
pub mod deletion;
pub mod extract;
pub mod middleware;
pub mod notify;
pub mod openapi;
pub mod problem;
pub mod quota;
pub mod response;
pub mod resumable;
pub mod routes;
pub mod state;
pub mod tcb;
pub mod upload;
