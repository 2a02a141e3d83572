//! Durable files whose errors name the path.

use std::io::{self, Write};
use std::path::Path;

/// A file operation failed; says which and where.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {path}")]
pub struct FileError {
    /// `write`, `rename`, `read`, …
    pub operation: &'static str,
    /// The path it was tried on.
    pub path: String,
    /// What the kernel said.
    pub source: io::Error,
}

/// Adds operation and path to an I/O result.
pub trait Context<T> {
    /// Turns the error into a [`FileError`].
    ///
    /// # Errors
    /// The wrapped error, named.
    fn at(self, operation: &'static str, path: impl AsRef<Path>) -> Result<T, FileError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn at(self, operation: &'static str, path: impl AsRef<Path>) -> Result<T, FileError> {
        self.map_err(|e| FileError { operation, path: path.as_ref().display().to_string(), source: e.into() })
    }
}

/// How far a write must reach before we return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Survives a power cut: file and directory are synced.
    Power,
    /// Survives the death of the process only (tmpfs, or state that can be made again).
    Process,
}

/// Replaces `path` with `bytes`, atomically: readers see the old or the new content, never a part.
///
/// # Errors
/// The step that failed, with its path; `path` is then unchanged and no temporary file is left.
pub fn replace(path: &Path, bytes: &[u8], mode: u32, durability: Durability) -> Result<(), FileError> {
    use std::os::unix::fs::OpenOptionsExt;
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut temp_name = path.file_name().unwrap_or_default().to_owned();
    temp_name.push(format!(".tmp{}", std::process::id()));
    let temp = dir.join(temp_name);
    let written = (|| {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temp)
            .at("create", &temp)?;
        file.write_all(bytes).at("write", &temp)?;
        if durability == Durability::Power {
            file.sync_all().at("sync", &temp)?;
        }
        std::fs::rename(&temp, path).at("rename", path)?;
        if durability == Durability::Power {
            std::fs::File::open(dir).and_then(|d| d.sync_all()).at("sync", dir)?;
        }
        Ok(())
    })();
    if written.is_err() {
        std::fs::remove_file(&temp).ok();
    }
    written
}

/// Removes a file; that it was not there is a success.
///
/// # Errors
/// Any error but `NotFound`.
pub fn ensure_absent(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).at("remove", path),
        _ => Ok(()),
    }
}
