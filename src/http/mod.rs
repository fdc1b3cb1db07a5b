//! The gateway's own HTTP: handlers that call the stages in order, and the only place that knows statuses.

pub mod api;
pub mod console;
pub mod extract;
pub mod middleware;
pub mod openapi;
pub mod problem;
pub mod response;
pub mod routes;
pub mod state;
pub mod tcb;
pub mod upload;
