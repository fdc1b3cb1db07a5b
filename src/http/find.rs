//! Files as requests name them, by id (`cloud://…`) or by path, and whether the client may reach them.

use super::Worker;
use super::problem::{Code, Problem};
use crate::guard::policy::Client;
use crate::key::Key;
use crate::wechat::FileError;

/// A file that a request names.
pub(super) struct Found {
    pub file_id: String,
    pub path: String,
    id_given: bool,
}

impl Found {
    /// What to tell of it when its call failed.
    pub fn problem(&self, error: &FileError) -> Problem {
        let problem = Problem::of_file(error, &self.path);
        if self.id_given { problem.of_given_id() } else { problem }
    }
}

/// Why a name leads nowhere.
pub enum Lost {
    /// The name is wrong, or not for this client.
    Name(Problem),
    /// WeChat did not answer.
    Call(Problem),
}

/// One file by its id or its path, as `text` has it.
pub(super) async fn find_one(
    worker: &Worker,
    client: &Client,
    text: &str,
) -> Result<Found, Problem> {
    let (file_id, path) = id_or_path(text);
    find(worker, client, file_id, path).await.map_err(Problem::from)
}

pub(super) fn id_or_path(text: &str) -> (Option<&str>, Option<&str>) {
    if text.starts_with("cloud://") { (Some(text), None) } else { (None, Some(text)) }
}

impl From<Lost> for Problem {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Name(problem) | Lost::Call(problem) => problem,
        }
    }
}

/// One file by its id, its path, or both of them.
pub(super) async fn find(
    worker: &Worker,
    client: &Client,
    file_id: Option<&str>,
    path: Option<&str>,
) -> Result<Found, Lost> {
    let wrong = |detail: &str| Lost::Name(Problem::new(Code::InvalidRequest, detail));
    let name = |problem: Problem| Lost::Name(problem);
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
            confine(worker, client, file_id, path).await?;
            file_id.to_owned()
        }
        None => {
            client.reach(path).map_err(|error| name(error.into()))?;
            worker.wechat.file_id(path).await.map_err(|error| match error.errcode() {
                // This one's, not all paths'.
                Some(-501007) => name(Problem::from(error).about(path)),
                _ => Lost::Call(error.into()),
            })?
        }
    };
    Ok(Found { file_id, path: path.to_owned(), id_given })
}

/// Who is kept to a folder is kept to our environment's, too.
pub async fn confine(
    worker: &Worker,
    client: &Client,
    file_id: &str,
    path: &str,
) -> Result<(), Lost> {
    client.reach(path).map_err(|error| Lost::Name(error.into()))?;
    if client.is_confined() {
        let own = worker.wechat.file_id(path).await.map_err(|error| Lost::Call(error.into()))?;
        if own != file_id {
            let detail = "the file id is of another environment";
            return Err(Lost::Name(Problem::new(Code::PathNotAllowed, detail)));
        }
    }
    Ok(())
}

/// The path in `cloud://ENV.BUCKET/PATH`. Files that others stored may have paths that we would not give.
pub fn path_of(file_id: &str) -> Result<&str, Problem> {
    let path = file_id.strip_prefix("cloud://").and_then(|rest| rest.split_once('/'));
    match path {
        Some((place, path))
            if !place.is_empty() && !path.is_empty() && !file_id.contains(char::is_control) =>
        {
            Ok(path)
        }
        _ => {
            Err(Problem::new(Code::InvalidPath, "a file id is of the form cloud://ENV.BUCKET/PATH"))
        }
    }
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
    }
}
