//! Deletes files at WeChat. Calls for more than 50 files are split.

use std::collections::HashMap;

use futures::future::join_all;

use super::api::{FILES_PER_CALL, Wechat, no_result};
use super::by_file::by_file;
use super::error::FileError;
use super::wire;

impl Wechat {
    /// Deletes files with concurrent calls of 50 each; a repeated id is sent once. A file that does not exist is an
    /// error ([`FileError::is_missing`]).
    pub async fn delete(&self, env: &str, file_ids: &[String]) -> Vec<Result<(), FileError>> {
        let mut unique: Vec<&str> = file_ids.iter().map(String::as_str).collect();
        unique.sort_unstable();
        unique.dedup();
        // Links are dropped before the calls as well, in case the caller drops this future during them, and whatever their
        // results: an unnecessary fetch costs less than a cached link to a deleted file.
        drop(self.invalidate_links(&unique));
        let calls = unique.chunks(FILES_PER_CALL).map(|ids| self.delete_call(env, ids));
        let results: Vec<_> = join_all(calls).await.into_iter().flatten().collect();
        self.invalidate_links(&unique).await;
        let results: HashMap<_, _> = unique.into_iter().zip(results).collect();
        let result = |id: &String| results.get(id.as_str()).cloned();
        let none = || Err(no_result("batchdeletefile").into());
        file_ids.iter().map(|id| result(id).unwrap_or_else(none)).collect()
    }

    /// Deletes one file; a file that does not exist counts as deleted.
    pub async fn delete_one(&self, file_id: &str) -> Result<(), FileError> {
        let result = self.delete(self.env(), &[file_id.to_owned()]).await.pop();
        match result.unwrap_or_else(|| Err(no_result("batchdeletefile").into())) {
            Err(error) if error.is_missing() => Ok(()),
            result => result,
        }
    }

    async fn delete_call(&self, env: &str, ids: &[&str]) -> Vec<Result<(), FileError>> {
        const CALL: &str = "batchdeletefile";
        let body = wire::BatchDeleteRequest { env, fileid_list: ids };
        let reply: Result<wire::BatchDeleteReply, _> = self.call(CALL, &body).await;
        let list = match reply {
            Ok(reply) => reply.delete_list,
            Err(error) => return ids.iter().map(|_| Err(error.clone().into())).collect(),
        };
        // A response without results for single files means that all files were deleted.
        if list.is_empty() {
            return ids.iter().map(|_| Ok(())).collect();
        }
        let results = by_file(ids, list, wire::DeleteResult::file_id);
        let mode = self.shared.auth.mode();
        let deleted = |result: Option<wire::DeleteResult>| match result {
            Some(wire::DeleteResult::Id(_) | wire::DeleteResult::Item { status: 0, .. }) => Ok(()),
            Some(wire::DeleteResult::Item { status, errmsg, .. }) => {
                Err(FileError::refused(status, &errmsg, mode))
            }
            None => Err(no_result(CALL).into()),
        };
        results.into_iter().map(deleted).collect()
    }
}
