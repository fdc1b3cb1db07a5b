//! Responses to uploads: each file's outcome, in the format that the client reads.

pub mod editors;
pub mod json;
pub mod outcome;
pub mod profile;
