//! Uploads: `handler` calls the stages in order, `request` decides what is stored where, `transfer` sends it to COS.

pub mod handler;
pub mod partial;
pub mod request;
pub mod transfer;
