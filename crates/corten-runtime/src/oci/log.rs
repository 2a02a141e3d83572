//! Where failures are written: the caller's log file, in the form that containerd and podman read, and standard
//! error.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use corten_base::time::{now_ns, rfc3339_nano};

use super::OciError;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Json,
}

#[derive(Debug)]
pub(super) struct Log {
    file: Option<File>,
    format: Format,
    debug: bool,
}

impl Log {
    /// Until the flags are read.
    pub(super) fn stderr() -> Self {
        Self { file: None, format: Format::Text, debug: false }
    }

    pub(super) fn configure(
        &mut self,
        path: Option<&Path>,
        format: Format,
        debug: bool,
    ) -> Result<(), OciError> {
        (self.format, self.debug) = (format, debug);
        if let Some(path) = path {
            let open = File::options().append(true).create(true).open(path);
            self.file = Some(open.map_err(OciError::io(format_args!("open {}", path.display())))?);
        }
        Ok(())
    }

    /// The file's, if there is one.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn error(&mut self, text: &str) {
        self.line("error", text);
        if self.file.is_some() {
            writeln!(std::io::stderr(), "{text}").ok();
        }
    }

    pub(super) fn debug(&mut self, text: &str) {
        if self.debug {
            self.line("debug", text);
        }
    }

    /// A log that cannot be written has nobody to be told of it.
    fn line(&mut self, level: &str, text: &str) {
        let now = rfc3339_nano(now_ns());
        let time = now.split_once('.').map_or(now.clone(), |(seconds, _)| format!("{seconds}Z"));
        let line = match self.format {
            Format::Json => format!("{}\n", serde_json::json!({ "level": level, "msg": text, "time": time })),
            Format::Text => format!("time={time:?} level={level} msg={text:?}\n"),
        };
        match &mut self.file {
            Some(file) => file.write_all(line.as_bytes()).ok(),
            None => std::io::stderr().write_all(line.as_bytes()).ok(),
        };
    }
}
