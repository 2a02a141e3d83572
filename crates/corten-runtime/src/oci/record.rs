//! What is kept of a container between two commands: `<root>/<id>/state.json`, replaced atomically.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use corten_base::fs::{Durability, replace};
use corten_sys::process;
use corten_wire::oci_runtime::{Spec, State};
use serde::{Deserialize, Serialize};

use super::OciError;
use crate::cgroup::Cgroup;
use crate::cgroup::systemd::Unit;

const RECORD_NAME: &str = "state.json";
/// Where init waits; there as long as it was not started.
pub(super) const DOOR_NAME: &str = "start.sock";
/// Largest record that we read.
const MAX_RECORD: u64 = 16 << 20;

/// All containers of one `--root`.
#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
}

/// The facts of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) pid: i32,
    /// In clock ticks since boot: tells a process from a later one of the same number.
    pub(super) start_time: u64,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    /// RFC 3339.
    pub(super) created: String,
    pub(super) cgroup: PathBuf,
    /// systemd's, if that has made the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unit: Option<Unit>,
    /// Its processes have the session keyring of whoever made them.
    #[serde(default)]
    pub(super) no_keyring: bool,
    /// As read, for further processes and hooks.
    pub(super) spec: Spec,
}

/// A container on record.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) dir: PathBuf,
    pub(super) record: Record,
}

/// Where in its life a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

fn check_id(id: &str) -> Result<(), OciError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_+-.".contains(&b);
    if id.is_empty() || id == "." || id == ".." || id.len() > 1024 || !id.bytes().all(good) {
        return Err(OciError::refused("invalid container ID format"));
    }
    Ok(())
}

impl Store {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Takes the id; fails if somebody has it.
    pub(super) fn reserve(&self, id: &str) -> Result<PathBuf, OciError> {
        use std::os::unix::fs::DirBuilderExt;
        check_id(id)?;
        let dir = self.root.join(id);
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o711);
        let all = builder.recursive(true).create(&self.root);
        all.map_err(OciError::io(format_args!("mkdir {}", self.root.display())))?;
        match builder.recursive(false).create(&dir) {
            Ok(()) => Ok(dir),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(OciError::refused("container with given ID already exists"))
            }
            Err(e) => Err(OciError::io(format_args!("mkdir {}", dir.display()))(e)),
        }
    }

    pub(super) fn load(&self, id: &str) -> Result<Container, OciError> {
        use std::io::Read;
        check_id(id)?;
        let dir = self.root.join(id);
        let path = dir.join(RECORD_NAME);
        let mut bytes = Vec::new();
        let read = std::fs::File::open(&path).and_then(|f| f.take(MAX_RECORD).read_to_end(&mut bytes));
        match read {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(OciError::refused("container does not exist"));
            }
            other => other.map_err(OciError::io(format_args!("read {}", path.display())))?,
        };
        let record = serde_json::from_slice(&bytes)
            .map_err(|e| OciError::refused(format!("{}: {e}", path.display())))?;
        Ok(Container { dir, record })
    }

    /// Removes what `create` left that did not get as far as a record.
    pub(super) fn remove_unrecorded(&self, id: &str) -> Result<(), OciError> {
        check_id(id)?;
        let dir = self.root.join(id);
        if dir.join(RECORD_NAME).exists() { Ok(()) } else { remove(&dir) }
    }

    /// Every container on record, by id; those that vanish meanwhile are left out.
    pub(super) fn all(&self) -> Result<Vec<Container>, OciError> {
        let entries = match std::fs::read_dir(&self.root) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(OciError::io(format_args!("read {}", self.root.display())))?,
        };
        let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
        let mut all: Vec<Container> = names.filter_map(|n| self.load(&n).ok()).collect();
        all.sort_by(|a, b| a.record.id.cmp(&b.record.id));
        Ok(all)
    }
}

/// Removes a container's directory.
pub(super) fn remove(dir: &Path) -> Result<(), OciError> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(OciError::io(format_args!("remove {}", dir.display()))(e))
        }
        _ => Ok(()),
    }
}

impl Record {
    pub(super) fn save(&self, dir: &Path) -> Result<(), OciError> {
        let bytes = serde_json::to_vec(self).map_err(|e| OciError::refused(e.to_string()))?;
        replace(&dir.join(RECORD_NAME), &bytes, 0o600, Durability::Process)
            .map_err(|e| OciError::refused(e.to_string()))
    }

    /// For hooks, without pid and status.
    pub(super) fn state(&self) -> State {
        State {
            oci_version: self.spec.oci_version.clone(),
            id: self.id.clone(),
            bundle: self.bundle.clone(),
            annotations: self.spec.annotations.clone(),
            ..State::default()
        }
    }
}

impl Container {
    pub(super) fn cgroup(&self) -> Result<Cgroup, OciError> {
        let none = self.record.cgroup.components().count() < 2;
        if none {
            Ok(Cgroup::none())
        } else {
            Ok(Cgroup::recorded(&self.record.cgroup, self.record.unit.clone())?)
        }
    }

    /// The first process, if it lives.
    pub(super) fn init(&self) -> Option<OwnedFd> {
        let pidfd = process::pidfd_open(self.record.pid).ok()?;
        (start_time(self.record.pid) == Some(self.record.start_time)).then_some(pidfd)
    }

    pub(super) fn status(&self) -> Status {
        if start_time(self.record.pid) != Some(self.record.start_time) {
            return Status::Stopped;
        }
        if self.cgroup().is_ok_and(|g| g.is_frozen()) {
            return Status::Paused;
        }
        if self.dir.join(DOOR_NAME).exists() { Status::Created } else { Status::Running }
    }
}

/// When a living process began; `None` for one that is gone or waits to be reaped.
pub(super) fn start_time(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_and_processes_have_a_beginning() {
        for (id, good) in [("a-b_c.1+", true), ("", false), ("..", false), ("a/b", false), ("a b", false)] {
            assert_eq!(check_id(id).is_ok(), good, "{id:?}");
        }
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(start_time(own).unwrap() > start_time(1).unwrap());
        assert_eq!(start_time(0), None);
    }
}
