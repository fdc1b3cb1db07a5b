//! References to stored files in requests, by id (`cloud://…`) or by path: resolved, and checked against what the
//! client may use.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::guard::policy::Client;
use crate::http::problem::{Code, Problem};
use crate::http::state::Worker;
use crate::key::{Key, MAX_KEY};
use crate::wechat::error::FileError;

/// A stored file that a request names.
pub struct FileRef {
    pub file_id: String,
    pub path: String,
    id_given: bool,
}

impl FileRef {
    /// The problem to report when the call to WeChat for this file failed.
    pub fn problem(&self, error: &FileError) -> Problem {
        let problem = Problem::of_file(error, &self.path);
        if self.id_given { problem.of_given_id() } else { problem }
    }
}

/// Why a file reference was not resolved.
pub enum ResolveError {
    /// The reference is invalid, or this client may not use the file.
    Reference(Problem),
    /// A call to WeChat failed.
    Call(Problem),
}

/// Resolves `text`, which is a file's id or its path.
pub async fn file_ref(worker: &Worker, client: &Client, text: &str) -> Result<FileRef, Problem> {
    let (file_id, path) = id_or_path(text);
    resolve_file(worker, client, file_id, path).await.map_err(Problem::from)
}

/// `text` as a file id or as a path.
pub fn id_or_path(text: &str) -> (Option<&str>, Option<&str>) {
    if text.starts_with(FILE_ID) { (Some(text), None) } else { (None, Some(text)) }
}

impl From<ResolveError> for Problem {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Reference(problem) | ResolveError::Call(problem) => problem,
        }
    }
}

/// Resolves a file by its id, its path, or both; both must name the same file.
pub async fn resolve_file(
    worker: &Worker,
    client: &Client,
    file_id: Option<&str>,
    path: Option<&str>,
) -> Result<FileRef, ResolveError> {
    let invalid =
        |detail: &str| ResolveError::Reference(Problem::new(Code::InvalidRequest, detail));
    let by_id = file_id.map(path_of).transpose().map_err(ResolveError::Reference)?;
    let by_path = path
        .map(|path| Key::parse(path).map_err(Problem::from))
        .transpose()
        .map_err(ResolveError::Reference)?;
    let path = match (by_id, &by_path) {
        (None, None) => return Err(invalid("a file is named by its `file_id` or its `path`")),
        (Some(path), Some(key)) if path != key.as_str() => {
            return Err(invalid("`file_id` and `path` name different files"));
        }
        (Some(path), _) => path,
        (None, Some(key)) => key.as_str(),
    };
    let id_given = file_id.is_some();
    let file_id = match file_id {
        Some(file_id) => {
            check_scope(worker, Some(client), file_id, path).await?;
            file_id.to_owned()
        }
        None => {
            client.may_reach(path).map_err(|error| ResolveError::Reference(error.into()))?;
            worker.wechat.file_id(path).await.map_err(|error| match error.errcode() {
                // The path is invalid; other paths of the request may be valid.
                Some(-501007) => ResolveError::Reference(Problem::from(error).with_path(path)),
                _ => ResolveError::Call(error.into()),
            })?
        }
    };
    Ok(FileRef { file_id, path: path.to_owned(), id_given })
}

/// How many layers of percent-encoding are examined in a path.
const MAX_DECODINGS: usize = 4;

/// The prefix of every file id.
pub const FILE_ID: &str = "cloud://";

/// Whether a client may use the file `file_id`, whose path is `path`. A client that is restricted to a folder or path,
/// or that has no credential, is also restricted to the bucket of the gateway's environment.
pub async fn check_scope(
    worker: &Worker,
    client: Option<&Client>,
    file_id: &str,
    path: &str,
) -> Result<(), ResolveError> {
    if let Some(client) = client {
        client.may_reach(path).map_err(|error| ResolveError::Reference(error.into()))?;
    }
    if is_ambiguous(path) {
        let detail = "the path of the file id has an empty, `.` or `..` folder, a backslash, or one percent-encoded";
        return Err(ResolveError::Reference(Problem::new(Code::InvalidPath, detail)));
    }
    match client.is_none_or(Client::is_scoped) {
        true => own_bucket(worker, file_id, path).await,
        false => Ok(()),
    }
}

/// Whether a file id, whose path is `path`, is in the gateway's own environment and bucket. Ids of another environment
/// are recognised without a call to WeChat; the bucket's name is requested once.
pub async fn own_bucket(worker: &Worker, file_id: &str, path: &str) -> Result<(), ResolveError> {
    let foreign = || {
        let detail = "the file id is of another environment";
        ResolveError::Reference(Problem::new(Code::PathNotAllowed, detail))
    };
    if !worker.wechat.may_be_own(file_id) {
        return Err(foreign());
    }
    let own =
        worker.wechat.file_id(path).await.map_err(|error| ResolveError::Call(error.into()))?;
    if own == file_id { Ok(()) } else { Err(foreign()) }
}

/// The path in `cloud://ENV.BUCKET/PATH`. It need not be a valid [`Key`]: other programs store files, too.
pub fn path_of(file_id: &str) -> Result<&str, Problem> {
    let invalid = |detail: &str| Err(Problem::new(Code::InvalidPath, detail));
    // Enough for the longest key with each byte percent-encoded, after the names of environment and bucket.
    if file_id.len() > 4 * MAX_KEY {
        return invalid("the file id is too long");
    }
    let path = file_id.strip_prefix(FILE_ID).and_then(|rest| rest.split_once('/'));
    match path {
        Some((bucket, path))
            if !bucket.is_empty() && !path.is_empty() && !file_id.contains(char::is_control) =>
        {
            Ok(path)
        }
        _ => invalid("a file id is of the form cloud://ENV.BUCKET/PATH"),
    }
}

/// Whether a path may become another one when it is normalized, or percent-decoded once or several times.
fn is_ambiguous(path: &str) -> bool {
    let changes = |segment: &str| {
        matches!(segment, "" | "." | "..")
            || segment.contains(|c: char| c == '\\' || c.is_control())
    };
    let mut path = Cow::Borrowed(path);
    let folders = path.matches('/').count();
    for _ in 0..MAX_DECODINGS {
        if path.split('/').any(changes) || path.matches('/').count() != folders {
            return true;
        }
        let decoded = percent_decode_str(&path).decode_utf8_lossy();
        if decoded.len() == path.len() {
            return false;
        }
        path = Cow::Owned(decoded.into_owned());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_id_names_its_path() {
        assert_eq!(path_of("cloud://env.bucket/a/b.png").ok(), Some("a/b.png"));
        for wrong in [
            "",
            "a/b",
            "cloud://",
            "cloud://env.bucket",
            "cloud://e.b/",
            "cloud:///a",
            "cloud://e.b/a\n",
        ] {
            assert!(path_of(wrong).is_err(), "{wrong:?}");
        }
        assert!(path_of(&format!("cloud://e.b/{}", "a".repeat(4000))).is_err());
    }

    #[test]
    fn a_path_that_may_become_another_path_is_ambiguous() {
        for ambiguous in [
            "/a",
            "a//b",
            "a/../b",
            "a/.",
            "a\\b",
            "a/%2e%2E/b",
            "a/.%2e/b",
            "a%2fb",
            "a%5Cb",
            "a%0ab",
            "a/%252e%252e/b",
            "a%25252Fb",
        ] {
            assert!(is_ambiguous(ambiguous), "{ambiguous}");
        }
        for plain in ["100%.png", "100%25.png", "a?b#c", "a b", "%E4%B8%AD.png", "...", "e\u{301}"]
        {
            assert!(!is_ambiguous(plain), "{plain}");
        }
    }
}
