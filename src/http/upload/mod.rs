//! Uploads: `handler` calls the stages in order, `request` decides what is stored where, `transfer` sends it to COS,
//! `by_form` or `by_api` (with `outgoing`, what both need).

pub mod by_api;
mod by_form;
pub mod disposition;
pub mod handler;
pub mod kept;
mod length;
pub mod metadata;
pub mod outgoing;
pub mod partial;
pub mod request;
pub mod transfer;
