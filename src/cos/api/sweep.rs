//! Aborts multipart uploads that were left behind: a gateway that was killed could neither complete nor abort its own.

use std::time::Duration;

use jiff::Timestamp;

use super::client::Client;
use crate::cos::error::CosError;

/// Time between two sweeps.
pub const INTERVAL: Duration = Duration::from_secs(3600);

/// Aborts every upload of the bucket that began longer ago than `age`; returns how many there were.
pub async fn sweep(client: &Client, age: Duration) -> Result<usize, CosError> {
    let is_old =
        |initiated: Timestamp| Timestamp::now().duration_since(initiated).unsigned_abs() >= age;
    let (mut aborted, mut after) = (0, None);
    loop {
        let page = client.list_uploads("", after.as_ref()).await?;
        for upload in page.uploads {
            // Where COS's time cannot be read, the age is not known.
            if upload.initiated.is_some_and(is_old) {
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
