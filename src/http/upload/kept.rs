//! Receives files that are kept until they are complete.

use crate::cos::error::CosError;
use crate::file_stream::Source;
use crate::http::problem::Problem;
use crate::spool::content::{Content, ReceiveError};

/// Receives all that `source` gives.
pub async fn receive(content: &mut Content, source: Source) -> Result<(), Problem> {
    content.receive(source, |_| ()).await.map_err(problem_of)
}

pub fn problem_of(error: ReceiveError) -> Problem {
    match error {
        ReceiveError::Source(error) => CosError::Source(error).into(),
        ReceiveError::Spool(error) => error.into(),
    }
}
