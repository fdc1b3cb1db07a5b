//! A file of the spool: bytes are appended, and read again from any position. Reads and writes run on the threads for
//! blocking operations, so that a slow disk does not stop a worker.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use tokio::task::spawn_blocking;

use super::SpoolError;
use crate::file_stream::{FileEnd, FileEvent, Source};
use crate::memory::budget::Charge;

/// Bytes of one read.
const READ: usize = 256 * 1024;

/// An open file, with its part of the quota.
#[derive(Debug)]
pub struct SpoolFile {
    file: Arc<File>,
    len: u64,
    /// `None`: it has no name, and is gone once it is closed.
    path: Option<PathBuf>,
    charge: Charge,
    /// Bytes of the quota.
    charged: u64,
}

impl SpoolFile {
    /// `charge`: of the quota, for as many bytes as `charged` already; more are charged when the file grows beyond.
    pub(super) fn new(
        file: File,
        path: Option<PathBuf>,
        charge: Charge,
        charged: u64,
    ) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self { file: Arc::new(file), len, path, charge, charged })
    }

    pub fn length(&self) -> u64 {
        self.len
    }

    /// Appends bytes. After an error, none or some of them may be in the file; they do not count.
    pub async fn append(&mut self, bytes: Bytes) -> Result<(), SpoolError> {
        let end = self.len + bytes.len() as u64;
        if end > self.charged {
            self.charge.grow((end - self.charged) as usize)?;
            self.charged = end;
        }
        let (file, at, written) = (self.file.clone(), self.len, bytes.clone());
        blocking(move || file.write_all_at(&written, at)).await?;
        // Dropped here last: the buffer goes back to the pool of the worker that took it.
        drop(bytes);
        self.len = end;
        Ok(())
    }

    /// Makes the file shorter.
    pub async fn truncate(&mut self, len: u64) -> Result<(), SpoolError> {
        let file = self.file.clone();
        blocking(move || file.set_len(len)).await?;
        self.len = len;
        Ok(())
    }

    pub(super) fn shorten_now(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        self.len = len;
        Ok(())
    }

    /// Waits until the bytes are on the disk. One without a name ends with the process, so it need not be there.
    pub async fn sync(&self) -> Result<(), SpoolError> {
        if self.path.is_none() {
            return Ok(());
        }
        let file = self.file.clone();
        Ok(blocking(move || file.sync_data()).await?)
    }

    /// At most `length` bytes from `at` on; fewer at the file's end.
    pub async fn read(&self, at: u64, length: usize) -> Result<Bytes, SpoolError> {
        Ok(read(self.file.clone(), at, length.min((self.len - at.min(self.len)) as usize)).await?)
    }

    /// The content, from its beginning. What is appended later is not part of it.
    pub fn source(&self) -> Source {
        let (file, len) = (self.file.clone(), self.len);
        Box::pin(stream::unfold(Some(0), move |at| {
            let file = file.clone();
            async move {
                let at: u64 = at?;
                if at == len {
                    let end = FileEnd { last: true, epilogue: Bytes::new() };
                    return Some((Ok(FileEvent::End(end)), None));
                }
                let length = (len - at).min(READ as u64);
                match read(file, at, length as usize).await {
                    Ok(bytes) => Some((Ok(FileEvent::Content(bytes)), Some(at + length))),
                    Err(error) => Some((Err(SpoolError::Io(error).into()), None)),
                }
            }
        }))
    }

    /// Deletes the file. One without a name is gone once it is closed.
    pub async fn remove(self) -> Result<(), SpoolError> {
        match self.path {
            Some(path) => Ok(blocking(move || std::fs::remove_file(path)).await?),
            None => Ok(()),
        }
    }
}

async fn read(file: Arc<File>, at: u64, length: usize) -> io::Result<Bytes> {
    // Allocated here: the allocator would retain memory for each of the threads.
    let mut bytes = vec![0; length];
    blocking(move || {
        file.read_exact_at(&mut bytes, at)?;
        Ok(bytes.into())
    })
    .await
}

async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(run).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
