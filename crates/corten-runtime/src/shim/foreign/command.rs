//! One run of the runtime's program, and what its failure is worded like by the reference engine's shim.

use std::ffi::{CStr, CString};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use corten_base::Kind;
use corten_sys::memfd;
use corten_sys::process::{self, Ended};
use corten_wire::shim::{Fault, ForeignRuntime};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::fault::{errno_text, exit_code};

/// How long one command may take. The shim serves nobody meanwhile.
const PATIENCE: Timespec = Timespec { tv_sec: 120, tv_nsec: 0 };
/// What is read of a log or of standard error.
const MAX_TEXT: u64 = 64 * 1024;
const ENVIRONMENT: &CStr = c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The runtime's program with the arguments that all its commands have.
#[derive(Debug)]
pub(super) struct Program {
    path: PathBuf,
    lead: Vec<String>,
    log: PathBuf,
}

/// Standard streams of one command.
pub(super) enum Streams<'a> {
    /// None; what it writes to standard error is part of the failure.
    None,
    /// Those that the container's process is to have.
    Own([BorrowedFd<'a>; 3]),
}

/// A command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It could not be started.
    Spawn { path: PathBuf, log: PathBuf, source: io::Error },
    /// It ended with something else than 0.
    Ended { path: PathBuf, ended: Ended, stderr: String, last: String },
    /// It did not end.
    Stuck { path: PathBuf },
}

impl Program {
    /// `systemd`: the container's groups are systemd's to make.
    pub(super) fn new(runtime: &ForeignRuntime, base: &Path, systemd: bool) -> Self {
        let log = base.join("log.json");
        let state = base.join("state").display().to_string();
        let own = ["--root", &state, "--log", &log.display().to_string(), "--log-format", "json"]
            .map(str::to_owned);
        let groups = systemd.then(|| "--systemd-cgroup".to_owned());
        let lead = runtime.args.iter().cloned().chain(own).chain(groups).collect();
        Self { path: runtime.path.clone(), lead, log }
    }

    /// Runs one command to its end.
    pub(super) fn run(&self, args: &[&str], streams: Streams<'_>) -> Result<(), Failure> {
        let path = self.path.clone();
        let spawn = |source| Failure::Spawn { path: path.clone(), log: self.log.clone(), source };
        corten_base::fs::ensure_absent(&self.log).ok();
        let own = self.path.display().to_string();
        let all = [own.as_str()]
            .into_iter()
            .chain(self.lead.iter().map(String::as_str))
            .chain(args.iter().copied());
        let all = all.map(CString::new).collect::<Result<Vec<_>, _>>().map_err(|e| spawn(e.into()))?;
        let program = CString::new(own.as_str()).map_err(|e| spawn(e.into()))?;
        let null = std::fs::File::options().read(true).write(true).open("/dev/null").map_err(spawn)?;
        let mut errors = memfd::scratch("stderr").map_err(spawn)?;
        let fds = match &streams {
            Streams::None => [(null.as_fd(), 0), (null.as_fd(), 1), (errors.as_fd(), 2)],
            Streams::Own([stdin, stdout, stderr]) => [(*stdin, 0), (*stdout, 1), (*stderr, 2)],
        };
        let child = process::spawn_path(&program, &all, &[ENVIRONMENT.to_owned()], &fds).map_err(spawn)?;
        let mut wait = [PollFd::new(&child.pidfd, PollFlags::IN)];
        if poll(&mut wait, Some(&PATIENCE)) == Ok(0) {
            process::signal(child.pidfd.as_fd(), 9).ok();
            process::wait(child.pidfd.as_fd()).ok();
            return Err(Failure::Stuck { path });
        }
        let ended = process::wait(child.pidfd.as_fd()).map_err(spawn)?;
        if ended == Ended::Exited(0) {
            return Ok(());
        }
        let mut stderr = String::new();
        rustix::fs::seek(&errors, rustix::fs::SeekFrom::Start(0)).ok();
        errors.by_ref().take(MAX_TEXT).read_to_string(&mut stderr).ok();
        Err(Failure::Ended { path, ended, stderr, last: last_error(&self.log) })
    }
}

/// The last message of level `error` in a log of JSON lines.
fn last_error(path: &Path) -> String {
    let mut text = String::new();
    if let Ok(file) = std::fs::File::open(path) {
        file.take(MAX_TEXT).read_to_string(&mut text).ok();
    }
    text.lines()
        .rev()
        .filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok())
        .find(|v| v["level"] == "error")
        .and_then(|v| v["msg"].as_str().map(|m| m.trim().to_owned()))
        .unwrap_or_default()
}

impl Failure {
    /// As the library that containerd runs runtimes with words it.
    pub(super) fn as_go_runc(&self) -> String {
        match self {
            Self::Spawn { path, source, .. } => {
                format!("fork/exec {}: {}", path.display(), errno_text(source))
            }
            Self::Stuck { path } => format!("{} did not end within two minutes", path.display()),
            Self::Ended { path, ended, stderr, last } => {
                let status = match ended {
                    Ended::Exited(code) => format!("exit status {code}"),
                    Ended::Signaled(signal) => format!("signal {signal}"),
                };
                let why = if stderr.trim().is_empty() { last.as_str() } else { stderr.trim() };
                format!("{} did not terminate successfully: {status}: {why}", path.display())
            }
        }
    }

    /// COMPAT: containerd's shim takes the runtime's last logged error for the reason, if there is one.
    fn text(&self, lead: &str) -> String {
        match self {
            Self::Ended { last, .. } if !last.is_empty() => format!("{lead}: {last}"),
            Self::Spawn { log, .. } => format!(
                "{lead}: unable to retrieve OCI runtime error (open {}: no such file or directory): {}",
                log.display(),
                self.as_go_runc()
            ),
            Self::Ended { .. } | Self::Stuck { .. } => format!("{lead}: {}", self.as_go_runc()),
        }
    }

    pub(super) fn into_fault(self, lead: &str, step: &str) -> Fault {
        let message = self.text(lead);
        let exit_code = exit_code(&message);
        let kind = if exit_code == 128 { Kind::Internal } else { Kind::InvalidArgument };
        Fault { kind, step: step.to_owned(), errno: None, exit_code, message }
    }

    /// The signal came too late.
    pub(super) fn says_it_has_ended(&self) -> bool {
        let text = self.as_go_runc().to_ascii_lowercase();
        ["process already finished", "not running", "no such process", "does not exist"]
            .iter()
            .any(|w| text.contains(w))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(script: &str) -> (Program, tempdir::Dir) {
        let dir = tempdir::Dir::new("foreign-command");
        let path = dir.0.join("runtime");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        (Program::new(&ForeignRuntime { path, args: vec!["oci".into()] }, &dir.0, false), dir)
    }

    mod tempdir {
        pub(super) struct Dir(pub(super) std::path::PathBuf);

        impl Dir {
            pub(super) fn new(name: &str) -> Self {
                let dir = std::env::temp_dir().join(format!("{name}-{}", corten_base::Id::random().short()));
                std::fs::create_dir_all(&dir).unwrap();
                Self(dir)
            }
        }

        impl Drop for Dir {
            fn drop(&mut self) {
                std::fs::remove_dir_all(&self.0).ok();
            }
        }
    }

    #[test]
    fn failures_are_worded_from_log_stderr_or_kernel() {
        let (ok, _dir) = with("[ \"$1 $2\" = 'oci --root' ]");
        ok.run(&["state", "x"], Streams::None).unwrap();
        let (logged, _dir) = with(
            "echo '{\"level\":\"error\",\"msg\":\"exec: \\\"x\\\": executable file not found in $PATH\"}' >> $5; exit 3",
        );
        let fault = logged
            .run(&["create"], Streams::None)
            .unwrap_err()
            .into_fault("OCI runtime create failed", "create");
        assert_eq!(
            fault.message,
            "OCI runtime create failed: exec: \"x\": executable file not found in $PATH"
        );
        assert_eq!((fault.exit_code, fault.kind), (127, Kind::InvalidArgument));
        let (plain, dir) = with("echo container does not exist >&2; exit 1");
        let failure = plain.run(&["kill"], Streams::None).unwrap_err();
        assert!(failure.says_it_has_ended());
        let path = dir.0.join("runtime");
        assert_eq!(
            failure.as_go_runc(),
            format!(
                "{} did not terminate successfully: exit status 1: container does not exist",
                path.display()
            )
        );
        std::fs::remove_file(&path).unwrap();
        let text = plain.run(&["create"], Streams::None).unwrap_err().into_fault("lead", "create").message;
        assert!(
            text.ends_with(&format!("fork/exec {}: no such file or directory", path.display())),
            "{text}"
        );
    }
}
