//! What an upload is answered with: its outcome, in the shape that the client reads.

pub mod editors;
pub mod json;
pub mod outcome;
pub mod profile;
