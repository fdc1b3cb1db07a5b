//! Files as requests name them, by id (`cloud://…`) or by path, and whether the client may reach them.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::guard::policy::Client;
use crate::http::problem::{Code, Problem};
use crate::http::state::Worker;
use crate::key::{Key, MAX_KEY};
use crate::wechat::error::FileError;

/// A file that a request names.
pub struct FileRef {
    pub file_id: String,
    pub path: String,
    id_given: bool,
}

impl FileRef {
    /// What to tell of it when its call failed.
    pub fn problem(&self, error: &FileError) -> Problem {
        let problem = Problem::of_file(error, &self.path);
        if self.id_given { problem.of_given_id() } else { problem }
    }
}

/// Why a name leads nowhere.
pub enum ResolveError {
    /// The name is wrong, or not for this client.
    Name(Problem),
    /// WeChat did not answer.
    Call(Problem),
}

/// One file by its id or its path, as `text` has it.
pub async fn file_ref(worker: &Worker, client: &Client, text: &str) -> Result<FileRef, Problem> {
    let (file_id, path) = id_or_path(text);
    find(worker, client, file_id, path).await.map_err(Problem::from)
}

pub fn id_or_path(text: &str) -> (Option<&str>, Option<&str>) {
    if text.starts_with(FILE_ID) { (Some(text), None) } else { (None, Some(text)) }
}

impl From<ResolveError> for Problem {
    fn from(lost: ResolveError) -> Self {
        match lost {
            ResolveError::Name(problem) | ResolveError::Call(problem) => problem,
        }
    }
}

/// One file by its id, its path, or both of them.
pub async fn find(
    worker: &Worker,
    client: &Client,
    file_id: Option<&str>,
    path: Option<&str>,
) -> Result<FileRef, ResolveError> {
    let wrong = |detail: &str| ResolveError::Name(Problem::new(Code::InvalidRequest, detail));
    let name = |problem: Problem| ResolveError::Name(problem);
    let by_id = file_id.map(path_of).transpose().map_err(name)?;
    let by_path =
        path.map(|path| Key::parse(path).map_err(Problem::from)).transpose().map_err(name)?;
    let path = match (by_id, &by_path) {
        (None, None) => return Err(wrong("a file is named by its `file_id` or its `path`")),
        (Some(path), Some(key)) if path != key.as_str() => {
            return Err(wrong("`file_id` and `path` name different files"));
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
            client.reach(path).map_err(|error| name(error.into()))?;
            worker.wechat.file_id(path).await.map_err(|error| match error.errcode() {
                // This one's, not all paths'.
                Some(-501007) => name(Problem::from(error).with_path(path)),
                _ => ResolveError::Call(error.into()),
            })?
        }
    };
    Ok(FileRef { file_id, path: path.to_owned(), id_given })
}

/// How often a path may have been percent-encoded.
const MOST_ESCAPED: usize = 4;

/// What every file id begins with.
pub const FILE_ID: &str = "cloud://";

/// Whether a client may reach a file by its id, whose path is `path`. One that is kept to a folder is kept to our own
/// bucket, too, as are callers without any credential.
pub async fn check_scope(
    worker: &Worker,
    client: Option<&Client>,
    file_id: &str,
    path: &str,
) -> Result<(), ResolveError> {
    if let Some(client) = client {
        client.reach(path).map_err(|error| ResolveError::Name(error.into()))?;
    }
    if is_ambiguous(path) {
        let detail = "the path of the file id has an empty, `.` or `..` folder, a backslash, or a percent-escape of one";
        return Err(ResolveError::Name(Problem::new(Code::InvalidPath, detail)));
    }
    match client.is_none_or(Client::is_confined) {
        true => own_bucket(worker, file_id, path).await,
        false => Ok(()),
    }
}

/// Whether a file id, whose path is `path`, is of our own environment and bucket. Those of another environment are told
/// without asking WeChat; the bucket is asked for once.
async fn own_bucket(worker: &Worker, file_id: &str, path: &str) -> Result<(), ResolveError> {
    let other = || {
        let detail = "the file id is of another environment";
        ResolveError::Name(Problem::new(Code::PathNotAllowed, detail))
    };
    if !worker.wechat.may_be_own(file_id) {
        return Err(other());
    }
    let own =
        worker.wechat.file_id(path).await.map_err(|error| ResolveError::Call(error.into()))?;
    if own == file_id { Ok(()) } else { Err(other()) }
}

/// The path in `cloud://ENV.BUCKET/PATH`. Files that others stored may have paths that we would not give.
pub fn path_of(file_id: &str) -> Result<&str, Problem> {
    let wrong = |detail: &str| Err(Problem::new(Code::InvalidPath, detail));
    // The longest key, each byte of it escaped, behind an environment's and a bucket's name.
    if file_id.len() > 4 * MAX_KEY {
        return wrong("the file id is too long");
    }
    let path = file_id.strip_prefix(FILE_ID).and_then(|rest| rest.split_once('/'));
    match path {
        Some((place, path))
            if !place.is_empty() && !path.is_empty() && !file_id.contains(char::is_control) =>
        {
            Ok(path)
        }
        _ => wrong("a file id is of the form cloud://ENV.BUCKET/PATH"),
    }
}

/// Whether a path may become another one: by being tidied up, or by being percent-decoded, once or several times.
fn is_ambiguous(path: &str) -> bool {
    let odd = |segment: &str| {
        matches!(segment, "" | "." | "..")
            || segment.contains(|c: char| c == '\\' || c.is_control())
    };
    let mut path = Cow::Borrowed(path);
    let folders = path.matches('/').count();
    for _ in 0..MOST_ESCAPED {
        if path.split('/').any(odd) || path.matches('/').count() != folders {
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
    fn a_path_that_may_become_another_one_is_ambiguous() {
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
