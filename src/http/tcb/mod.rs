//! WeChat's own storage API, served by the gateway: back ends that call it change only the base URL.
//!
//! Requests, responses and error codes are WeChat's, always with HTTP 200. WeChat's access token is managed by the
//! gateway; where WeChat takes `access_token` (or `cloudbase_access_token`), clients send an API key of the gateway.

pub mod error;
pub mod files;
pub mod request;
pub mod sample;
pub mod token;
pub mod wire;
