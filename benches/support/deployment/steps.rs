//! What comes before and after the load: one upload as a check, and the deletion of what was stored.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use futures::future::{Either, select};
use tokio::time::sleep;

use super::calls::{Calls, Comparison, Failure, Form, Stored};
use super::connection::Client;
use super::report::{Deletion, First};

/// Files in one request of deletion.
const AT_ONCE: usize = 100;
/// Attempts at a request that is refused because the deployment is busy, and the longest pause between them.
const ATTEMPTS: u32 = 5;
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Names of remaining files in the report.
const EXAMPLES: usize = 3;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error("the check failed, and nothing else was sent: {0}")]
    Upload(#[from] Failure),
    #[error("the check failed, and nothing else was sent: {cause}. Its file remains at {path}")]
    Compared { cause: Comparison, path: String },
    #[error(
        "the check's file cannot be deleted, and nothing else was sent: {cause}. It remains at {path}. With --keep, \
         nothing is to be deleted"
    )]
    Deleted { cause: String, path: String },
    #[error("{0}")]
    Progress(#[from] io::Error),
}

/// Uploads one file on a new connection and downloads it again.
pub async fn check(calls: &Calls<'_>, client: &mut Client) -> Result<(First, Stored), StepError> {
    let form = Form::new(calls.plan.check_size);
    client.open().await.map_err(Failure::from)?;
    let began = Instant::now();
    let stored = calls.upload(client, &form, "check").await?;
    let upload_ms = began.elapsed().as_secs_f64() * 1e3;
    let mut first = First::new(calls.plan.check_size, client.opened, upload_ms, &stored);
    first.download = match calls.compare(client, &stored.url, &form).await {
        Ok(()) => "the same bytes".to_owned(),
        Err(Comparison::NotCompared(cause)) => format!("not compared ({cause})"),
        Err(cause) => {
            return Err(StepError::Compared { cause, path: calls.clean(&stored.path) });
        }
    };
    Ok((first, stored))
}

/// Deletes the check's file: a key that cannot delete is found out before the load.
pub async fn delete_check(
    calls: &Calls<'_>,
    client: &mut Client,
    stored: &Stored,
) -> Result<(), StepError> {
    let files = [stored.file_id.clone()];
    let cause = match delete_some(calls, client, &files).await {
        Ok(remaining) if remaining.is_empty() => return Ok(()),
        Ok(mut remaining) => remaining.remove(0).1,
        Err(failure) => failure.to_string(),
    };
    Err(StepError::Deleted { cause, path: calls.clean(&stored.path) })
}

/// Deletes the load's files. `interrupted` ends it early.
pub async fn delete(
    calls: &Calls<'_>,
    mut client: Client,
    files: &[String],
    progress: &mut dyn Write,
    interrupted: impl AsyncFn(),
) -> io::Result<Deletion> {
    let mut deletion = Deletion::default();
    let mut rest = files;
    while !rest.is_empty() {
        let (some, later) = rest.split_at(rest.len().min(AT_ONCE));
        let deleting = Box::pin(delete_some(calls, &mut client, some));
        let remaining = match select(deleting, Box::pin(interrupted())).await {
            Either::Left((Ok(remaining), _)) => remaining,
            Either::Left((Err(failure), _)) => {
                deletion.stop(calls, rest, &failure.to_string());
                break;
            }
            Either::Right(_) => {
                deletion.stop(calls, rest, "interrupted");
                break;
            }
        };
        deletion.deleted += (some.len() - remaining.len()) as u64;
        for (file, cause) in remaining {
            deletion.stop(calls, &[file], &cause);
        }
        rest = later;
        if !rest.is_empty() {
            writeln!(progress, "deleted: {} of {}", deletion.deleted, files.len())?;
        }
    }
    Ok(deletion)
}

/// Deletes some files, again after a pause while the deployment is busy; those that remain, with the cause of each.
async fn delete_some(
    calls: &Calls<'_>,
    client: &mut Client,
    files: &[String],
) -> Result<Vec<(String, String)>, Failure> {
    let mut attempts = 1;
    loop {
        let result = calls.delete(client, files).await;
        match result.as_ref().err().and_then(Failure::pause) {
            Some(pause) if attempts < ATTEMPTS && pause <= MAX_PAUSE => {
                attempts += 1;
                sleep(pause).await;
            }
            _ => return result,
        }
    }
}

impl Deletion {
    /// Nothing is to be deleted.
    pub fn of_none(calls: &Calls<'_>, files: &[String]) -> Self {
        let mut deletion = Self::default();
        deletion.remain(calls, files);
        deletion
    }

    fn stop(&mut self, calls: &Calls<'_>, files: &[String], cause: &str) {
        self.remain(calls, files);
        self.error.get_or_insert_with(|| cause.to_owned());
    }

    fn remain(&mut self, calls: &Calls<'_>, files: &[String]) {
        self.remaining += files.len() as u64;
        let free = EXAMPLES.saturating_sub(self.examples.len());
        self.examples.extend(files.iter().take(free).map(|file| calls.clean(file)));
    }
}
