//! Aborts multipart uploads that were left behind: a gateway that was killed could neither complete nor abort its own.
//! Deletes the helper objects of resumable uploads that were given up.

use std::time::Duration;

use jiff::Timestamp;

use super::client::Client;
use super::resumable::{HELPER_PREFIX, is_helper};
use crate::cos::error::CosError;

/// Time between two sweeps.
pub const INTERVAL: Duration = Duration::from_secs(3600);

fn is_older(time: Timestamp, age: Duration) -> bool {
    Timestamp::now().duration_since(time).unsigned_abs() >= age
}

/// Deletes the helper objects that were last written longer ago than `age`; returns how many there were. Files of others
/// under the same prefix stay.
pub async fn sweep_helpers(client: &Client, age: Duration) -> Result<usize, CosError> {
    let (mut deleted, mut after) = (0, String::new());
    loop {
        let page = client.list_objects(HELPER_PREFIX, &after).await?;
        for object in page.objects {
            if is_helper(&object.key) && object.last_modified.is_some_and(|at| is_older(at, age)) {
                client.delete(&object.key).await?;
                deleted += 1;
            }
        }
        match page.next {
            Some(next) => after = next,
            None => return Ok(deleted),
        }
    }
}

/// Aborts every upload of the bucket that began longer ago than `age`; returns how many there were.
pub async fn sweep(client: &Client, age: Duration) -> Result<usize, CosError> {
    let (mut aborted, mut after) = (0, None);
    loop {
        let page = client.list_uploads("", after.as_ref()).await?;
        for upload in page.uploads {
            // Where COS's time cannot be read, the age is not known.
            if upload.initiated.is_some_and(|time| is_older(time, age)) {
                client.abort(&upload.key, &upload.upload_id).await?;
                aborted += 1;
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(aborted);
        }
    }
}
