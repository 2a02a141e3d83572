//! The bundle on disk: our configuration with everything in it that our own runtime works out later.

use std::os::fd::BorrowedFd;
use std::path::Path;

use corten_wire::oci_runtime::{Capabilities, Mount, Process, Root, User};
use corten_wire::shim::{Bootstrap, UserSpec};

use crate::fault::{StepError, errno_text};
use crate::{seccomp, user};

/// Name of the program that `--init` puts before the container's.
pub(super) const INIT: &str = "docker-init";

/// What the configuration is made from.
#[derive(Debug)]
pub(super) struct Bundle<'a> {
    pub(super) bootstrap: &'a Bootstrap,
    pub(super) process: &'a Process,
    pub(super) rootfs: &'a Path,
    pub(super) root: BorrowedFd<'a>,
    /// Directory with [`INIT`].
    pub(super) init: &'a Path,
}

impl Bundle<'_> {
    /// Writes `config.json`.
    pub(super) fn write(&self, dir: &Path) -> Result<(), StepError> {
        let mut spec = (*self.bootstrap.spec).clone();
        let readonly = spec.root.as_ref().is_some_and(|r| r.readonly);
        spec.root = Some(Root { path: self.rootfs.to_owned(), readonly });
        let mut process = resolved(self.process, self.bootstrap.user.as_ref(), self.root)?;
        if self.bootstrap.init {
            let target = Path::new("/sbin").join(INIT);
            process.args.splice(0..0, [target.display().to_string(), "--".to_owned()]);
            spec.mounts.push(Mount {
                destination: target,
                fstype: "bind".into(),
                source: self.init.join(INIT).display().to_string(),
                options: ["bind", "ro"].map(str::to_owned).to_vec(),
                ..Mount::default()
            });
        }
        if self.bootstrap.default_seccomp {
            let none = Vec::new();
            let names = self.process.capabilities.as_ref().map_or(&none, |c| &c.bounding);
            spec.linux.get_or_insert_default().seccomp = Some(seccomp::default::profile(names));
        }
        spec.process = Some(process);
        let text = serde_json::to_vec(&spec).map_err(|e| StepError::new("bundle", e.to_string()))?;
        write_file(&dir.join("config.json"), &text)
    }
}

pub(super) fn write_file(path: &Path, text: &[u8]) -> Result<(), StepError> {
    corten_base::fs::replace(path, text, 0o600, corten_base::fs::Durability::Process)
        .map_err(|e| StepError::new("bundle", format!("{e}: {}", errno_text(&e.source))))
}

/// The process with its user as numbers, and with `HOME`.
pub(super) fn resolved(
    process: &Process,
    user: Option<&UserSpec>,
    root: BorrowedFd<'_>,
) -> Result<Process, StepError> {
    let mut process = process.clone();
    if let Some(wanted) = user {
        let who = user::resolve(root, wanted).map_err(|e| StepError::bare("user", e.to_string()))?;
        // The primary group too: runtimes set what is listed here and nothing else (CVE-2022-36109).
        process.user =
            User { uid: who.uid, gid: who.gid, umask: process.user.umask, additional_gids: who.groups };
    }
    if !process.env.iter().any(|e| e.starts_with("HOME=")) {
        process.env.push(format!("HOME={}", user::home(root, process.user.uid)));
    }
    if process.user.uid != 0
        && let Some(all) = process.capabilities.take()
    {
        // COMPAT: what execve(2) does anyway.
        process.capabilities = Some(Capabilities { bounding: all.bounding, ..Capabilities::default() });
    }
    Ok(process)
}
