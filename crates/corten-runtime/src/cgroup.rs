//! Control groups of a container, v1 (and hybrid) and v2: plain files.
//!
//! The same relative path, `/docker/<id>`, is used in every hierarchy. A [`Cgroup`] is a handle made from that
//! path alone, so that the daemon can read and clean up without asking the shim. Where the path is
//! `slice:prefix:name`, systemd makes and removes the groups ([`systemd`]); all else is the same.

mod devices;
mod joins;
mod limits;
mod stats;
pub mod systemd;

pub use joins::FastJoins;
pub use stats::{BlkioEntry, BlkioStats, CpuStats, MemoryStats, PidsStats, Stats};

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use corten_wire::oci_runtime::{Resources, Spec};

use crate::fault::errno_text;
use systemd::{Unit, UnitError};

/// A control group could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file of it.
    #[error("failed to {what} {path}: {reason}", path = path.display(), reason = errno_text(source))]
    File {
        /// `write "5"`, `read`, `create`, …
        what: String,
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The unit that it belongs to.
    #[error(transparent)]
    Unit(#[from] UnitError),
}

impl CgroupError {
    /// For the API's status.
    #[must_use]
    pub fn kind(&self) -> corten_base::Kind {
        match self {
            Self::File { source, .. } => match source.raw_os_error() {
                Some(libc_errno::EINVAL | libc_errno::ERANGE) => corten_base::Kind::InvalidArgument,
                _ => corten_base::Kind::Internal,
            },
            Self::Unit(e) => e.kind(),
        }
    }
}

/// Error numbers, without a dependency on libc.
mod libc_errno {
    pub(super) const EINVAL: i32 = 22;
    pub(super) const ERANGE: i32 = 34;
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    /// Controllers; none for named ones and for v2.
    controllers: Vec<String>,
    /// Its name below `/sys/fs/cgroup`.
    name: String,
    /// Where the container's group is.
    group: PathBuf,
    unified: bool,
}

/// The control groups of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    hierarchies: Vec<Hierarchy>,
    relative: PathBuf,
    /// systemd makes and removes them.
    unit: Option<Unit>,
}

/// Keeps groups until the first process is in them, see [`Cgroup::create`].
#[derive(Debug)]
#[must_use = "groups may vanish before there is a process in them"]
pub(crate) struct Kept(#[expect(dead_code, reason = "ends when it is dropped")] Option<systemd::Placeholder>);

const REMOVE_WITHIN: Duration = Duration::from_secs(2);

impl Cgroup {
    /// The groups at this path below every hierarchy's root, or of the unit `slice:prefix:name`; nothing is made. Parts
    /// such as `..` are dropped.
    ///
    /// # Errors
    /// [`CgroupError`] if the mount table cannot be read or shows no hierarchy, or there is no systemd for a unit.
    pub fn at(path: &Path) -> Result<Self, CgroupError> {
        match Unit::named(path) {
            Some(unit) => Self::recorded(&unit.path()?, Some(unit)),
            None => Self::recorded(path, None),
        }
    }

    /// The groups at a path below the hierarchies' roots, whoever made them.
    pub(crate) fn recorded(path: &Path, unit: Option<Unit>) -> Result<Self, CgroupError> {
        let relative: PathBuf = path.components().filter(|c| matches!(c, Component::Normal(_))).collect();
        let table = PathBuf::from("/proc/self/mountinfo");
        let fail = |source| CgroupError::File { what: "read".into(), path: table.clone(), source };
        // One line for each hierarchy of the kernel: when all are found, a table with the mounts of a thousand
        // containers need not be read to its end.
        let count = read_file(Path::new("/proc/self/cgroup")).map_err(fail)?.lines().count();
        let lines = File::open(&table).map(io::BufReader::new).map_err(fail)?.lines();
        let mut hierarchies = parse_mounts(lines.map_while(io::Result::ok), count, &relative);
        // Who has not been given any goes without: nothing is limited, counted or frozen then.
        let given = |h: &Hierarchy| {
            let existing = h.group.ancestors().find(|a| a.exists());
            existing.is_some_and(|p| rustix::fs::access(p, rustix::fs::Access::WRITE_OK).is_ok())
        };
        let anywhere = !hierarchies.is_empty();
        if !(corten_sys::users::initial() && rustix::process::geteuid().is_root()) {
            hierarchies.retain(given);
        }
        if !anywhere || relative.as_os_str().is_empty() {
            return Err(fail(io::ErrorKind::NotFound.into()));
        }
        Ok(Self { hierarchies, relative, unit })
    }

    /// systemd's unit, where it has one.
    pub(crate) fn unit(&self) -> Option<&Unit> {
        self.unit.as_ref()
    }

    /// Groups below these, one for the hierarchy of each controller, or with no controller for all of them. They are
    /// not made.
    ///
    /// # Errors
    /// A text, for a path that leads out or a controller that there is not.
    pub(crate) fn below(&self, list: &[(Option<&str>, &str)]) -> Result<Self, String> {
        let mut all = self.clone();
        for (controller, path) in list {
            let path = Path::new(path.trim_start_matches('/'));
            if !path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
                return Err(format!("{} is not a sub cgroup path", path.display()));
            }
            let known = |h: &Hierarchy, name: &str| {
                h.controllers.iter().any(|c| c == name) || h.name.trim_start_matches("name=") == name
            };
            let of = |h: &Hierarchy| controller.is_none_or(|name| known(h, name.trim_start_matches("name=")));
            let mut found = all.hierarchies.iter_mut().filter(|h| of(h)).peekable();
            if found.peek().is_none() {
                let name = controller.unwrap_or_default();
                return Err(format!("unknown controller {name} in SubCgroupPaths"));
            }
            found.for_each(|h| h.group.push(path));
        }
        Ok(all)
    }

    /// No groups at all: the container stays in those of its creator, and nothing limits or counts it.
    pub(crate) fn none() -> Self {
        Self { hierarchies: Vec::new(), relative: PathBuf::new(), unit: None }
    }

    /// There are none that this process may use, or wants to, see [`Cgroup::none`].
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.hierarchies.is_empty()
    }

    /// Only the second version is mounted.
    #[must_use]
    pub fn is_v2(&self) -> bool {
        if self.is_none() {
            return Self::host_is_v2();
        }
        self.hierarchies.iter().all(|h| h.unified)
    }

    /// Whether this machine has only the second version, as Docker's default of `--cgroupns` depends on it.
    #[must_use]
    pub fn host_is_v2() -> bool {
        Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
    }

    /// The path below the hierarchies' roots.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new("/").join(&self.relative)
    }

    /// Makes the groups and sets the limits of this configuration. What comes back is dropped when the first process is
    /// in them.
    ///
    /// # Errors
    /// [`CgroupError`]; what was made stays, see [`Cgroup::destroy`].
    pub(crate) fn create(&self, spec: &Spec) -> Result<Kept, CgroupError> {
        if self.is_none() {
            // Whoever chose it asked for no limits.
            return Ok(Kept(None));
        }
        let none = Resources::default();
        let resources = spec.linux.as_ref().and_then(|l| l.resources.as_ref()).unwrap_or(&none);
        let unit =
            self.unit.as_ref().map(|u| u.start(resources, &spec.annotations, self.is_v2())).transpose()?;
        self.make_directories()?;
        limits::apply(self, resources)?;
        devices::apply(self, &resources.devices)?;
        Ok(Kept(unit))
    }

    fn make_directories(&self) -> Result<(), CgroupError> {
        for h in &self.hierarchies {
            let parents: Vec<&Path> = h.group.ancestors().take(self.relative.components().count()).collect();
            for dir in parents.iter().rev() {
                match fs::create_dir(dir) {
                    Ok(()) => {}
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                        if h.unified && *dir != h.group {
                            self.delegate(dir);
                        }
                        continue;
                    }
                    Err(source) => {
                        return Err(CgroupError::File {
                            what: "create".into(),
                            path: dir.to_path_buf(),
                            source,
                        });
                    }
                }
                if h.controllers.iter().any(|c| c == "cpuset") {
                    limits::inherit_cpuset(dir)?;
                }
                if h.unified && self.is_v2() {
                    self.delegate(dir.parent().unwrap_or(dir));
                    if *dir != h.group {
                        self.delegate(dir);
                    }
                }
            }
        }
        Ok(())
    }

    /// What cannot be done without groups.
    fn needed(&self, what: &str) -> Result<(), CgroupError> {
        if !self.is_none() {
            return Ok(());
        }
        let source = io::Error::other("there are none that this user may use");
        Err(CgroupError::File { what: what.into(), path: "the container's control groups".into(), source })
    }

    /// v2: lets the children of a group have controllers. What the kernel refuses shows when a limit is set.
    fn delegate(&self, dir: &Path) {
        if self.is_v2() {
            for controller in ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"] {
                fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")).ok();
            }
        }
    }

    /// Changes limits; devices are left as they are.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn update(&self, resources: &Resources) -> Result<(), CgroupError> {
        self.needed("update")?;
        if let Some(unit) = &self.unit {
            unit.set(resources, self.is_v2())?;
        }
        limits::apply(self, resources)
    }

    /// Files to write a process's number into for joining, one per hierarchy of v1. (v2: see [`Cgroup::directory`].)
    pub(crate) fn membership_files(&self) -> Result<Vec<File>, CgroupError> {
        let open = |h: &Hierarchy| {
            let path = h.group.join("cgroup.procs");
            OpenOptions::new().write(true).open(&path).map_err(|source| CgroupError::File {
                what: "open".into(),
                path,
                source,
            })
        };
        self.hierarchies.iter().filter(|_| !self.is_v2()).map(open).collect()
    }

    /// Moves a process that exists into the groups of every hierarchy.
    pub(crate) fn adopt(&self, pid: i32) -> Result<(), CgroupError> {
        self.hierarchies
            .iter()
            .try_for_each(|h| write_file(&h.group.join("cgroup.procs"), &[pid.to_string()]))
    }

    /// The directory whose processes can be frozen.
    pub(crate) fn freezer(&self) -> Option<&Path> {
        self.of("freezer")
    }

    /// The one directory of v2, for making a process straight in it.
    pub(crate) fn directory(&self) -> Result<Option<OwnedFd>, CgroupError> {
        let Some(Hierarchy { group: path, .. }) = self.hierarchies.first().filter(|_| self.is_v2()) else {
            return Ok(None);
        };
        let open = File::open(path).map_err(|source| CgroupError::File {
            what: "open".into(),
            path: path.clone(),
            source,
        })?;
        Ok(Some(open.into()))
    }

    /// Name below `/sys/fs/cgroup` and directory of each v1 hierarchy, for the container's view.
    pub(crate) fn v1_view(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.hierarchies.iter().filter(|h| !h.unified).map(|h| (h.name.as_str(), h.group.as_path()))
    }

    /// Other names of v1 hierarchies with several controllers: `cpu` → `cpu,cpuacct`.
    pub(crate) fn v1_links(&self) -> impl Iterator<Item = (&str, &str)> {
        self.hierarchies.iter().filter(|h| !h.unified && h.controllers.len() > 1).flat_map(|h| {
            h.controllers.iter().filter(|c| **c != h.name).map(|c| (c.as_str(), h.name.as_str()))
        })
    }

    /// The group's directory in the hierarchy of a v1 controller, or the one of v2.
    fn of(&self, controller: &str) -> Option<&Path> {
        let has = |h: &&Hierarchy| h.controllers.iter().any(|c| c == controller) || h.unified && self.is_v2();
        self.hierarchies.iter().find(has).map(|h| h.group.as_path())
    }

    fn write(&self, controller: &str, file: &str, value: &str) -> Result<(), CgroupError> {
        self.write_each(controller, file, &[value])
    }

    /// One write for each value.
    fn write_each<S: AsRef<str>>(
        &self,
        controller: &str,
        file: &str,
        values: &[S],
    ) -> Result<(), CgroupError> {
        let path = self.of(controller).unwrap_or(Path::new("/sys/fs/cgroup")).join(file);
        write_file(&path, values)
    }

    fn read(&self, controller: &str, file: &str) -> Option<String> {
        read_file(&self.of(controller)?.join(file)).ok()
    }

    /// Freezes or thaws all processes and waits until they are.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn set_frozen(&self, frozen: bool) -> Result<(), CgroupError> {
        self.needed("freeze")?;
        let until = Instant::now() + Duration::from_secs(10);
        let v2 = self.is_v2();
        let (file, value) = match (v2, frozen) {
            (true, true) => ("cgroup.freeze", "1"),
            (true, false) => ("cgroup.freeze", "0"),
            (false, true) => ("freezer.state", "FROZEN"),
            (false, false) => ("freezer.state", "THAWED"),
        };
        loop {
            self.write("freezer", file, value)?;
            let done = if v2 {
                let events = self.read("", "cgroup.events").unwrap_or_default();
                events.contains("frozen 1") == frozen
            } else {
                self.read("freezer", file).unwrap_or_default().trim() == value
            };
            if done {
                return Ok(());
            }
            if Instant::now() > until {
                let path = self.of("freezer").unwrap_or(Path::new("")).join(file);
                let source = io::ErrorKind::TimedOut.into();
                return Err(CgroupError::File { what: format!("write {value:?}"), path, source });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether the processes are suspended, by whomever.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        if self.is_none() {
            return false;
        }
        if self.is_v2() {
            self.read("", "cgroup.events").unwrap_or_default().contains("frozen 1")
        } else {
            // On the way there counts as well.
            self.read("freezer", "freezer.state").is_some_and(|s| s.trim() != "THAWED")
        }
    }

    /// Processes of the container, those of nested groups included, as this process's namespace numbers them.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        let mut all = Vec::new();
        let dir = self
            .of("pids")
            .or_else(|| self.of("memory"))
            .or(self.hierarchies.first().map(|h| h.group.as_path()));
        if let Some(dir) = dir {
            collect_pids(dir, 0, &mut all);
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Sends a signal to every process.
    pub fn kill_all(&self, signal: i32) {
        if signal == 9 && self.is_v2() && self.write("", "cgroup.kill", "1").is_ok() {
            return;
        }
        for pid in self.pids() {
            corten_sys::process::kill(pid, signal).ok();
        }
    }

    /// How many processes the kernel killed for want of memory.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        let file = if self.is_v2() { "memory.events" } else { "memory.oom_control" };
        let text = self.read("memory", file).unwrap_or_default();
        let count = text.lines().find_map(|l| l.strip_prefix("oom_kill "));
        count.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
    }

    /// A descriptor that becomes ready when a process was killed for want of memory: readable on v1, with an
    /// exceptional condition on v2. `None` where the kernel cannot tell.
    pub(crate) fn oom_events(&self) -> Option<OwnedFd> {
        let dir = self.of("memory")?;
        if self.is_v2() {
            let mut file = File::open(dir.join("memory.events")).ok()?;
            file.read_to_end(&mut Vec::new()).ok()?;
            return Some(file.into());
        }
        use std::os::fd::AsRawFd;
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let event = rustix::event::eventfd(0, flags).ok()?;
        let control = File::open(dir.join("memory.oom_control")).ok()?;
        let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
        write_file(&dir.join("cgroup.event_control"), &[line]).ok()?;
        Some(event)
    }

    /// Kills what is left and removes the groups; that they are not there is a success.
    ///
    /// # Errors
    /// [`CgroupError`] if a group is still busy after two seconds.
    pub fn destroy(&self) -> Result<(), CgroupError> {
        let stopped = match &self.unit {
            Some(unit) => {
                self.kill_all(9);
                unit.stop()
            }
            None => Ok(()),
        };
        let until = Instant::now() + REMOVE_WITHIN;
        let mut wait = Duration::from_micros(200);
        loop {
            let mut failed = None;
            for h in &self.hierarchies {
                if let Err(source) = remove_tree(&h.group, 0) {
                    failed = Some(CgroupError::File { what: "remove".into(), path: h.group.clone(), source });
                }
            }
            match failed {
                None => return Ok(stopped?),
                Some(error) if Instant::now() > until => return Err(error),
                Some(_) => {}
            }
            self.kill_all(9);
            std::thread::sleep(wait);
            wait = (wait * 2).min(Duration::from_millis(50));
        }
    }
}

/// Nesting that we follow inside a container's group.
const MAX_DEPTH: usize = 32;

fn collect_pids(dir: &Path, depth: usize, all: &mut Vec<i32>) {
    if let Ok(text) = read_file(&dir.join("cgroup.procs")) {
        all.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|p| *p > 0));
    }
    for child in children(dir, depth) {
        collect_pids(&child, depth + 1, all);
    }
}

fn children(dir: &Path, depth: usize) -> Vec<PathBuf> {
    if depth >= MAX_DEPTH {
        return Vec::new();
    }
    let is_dir = |e: &fs::DirEntry| e.file_type().is_ok_and(|t| t.is_dir());
    fs::read_dir(dir).into_iter().flatten().flatten().filter(is_dir).map(|e| e.path()).collect()
}

fn remove_tree(dir: &Path, depth: usize) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    for child in children(dir, depth) {
        remove_tree(&child, depth + 1)?;
    }
    fs::remove_dir(dir)
}

/// One write for each value; the file is opened once.
fn write_file<S: AsRef<str>>(path: &Path, values: &[S]) -> Result<(), CgroupError> {
    let failed = |value: &str, source| CgroupError::File {
        what: format!("write {value:?} to"),
        path: path.to_owned(),
        source,
    };
    let [first, ..] = values else { return Ok(()) };
    let mut file =
        OpenOptions::new().write(true).open(path).map_err(|source| failed(first.as_ref(), source))?;
    let mut write = |value: &str| file.write_all(value.as_bytes()).map_err(|source| failed(value, source));
    values.iter().try_for_each(|value| write(value.as_ref()))
}

/// Largest file of a control group that we read.
const MAX_FILE: u64 = 1 << 20;

fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// The hierarchies of a mount table: at most `count`.
fn parse_mounts(lines: impl Iterator<Item = String>, count: usize, relative: &Path) -> Vec<Hierarchy> {
    let mut all: Vec<Hierarchy> = Vec::new();
    for line in lines {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut left = left.split(' ').skip(3);
        let (Some(root), Some(point)) = (left.next(), left.next()) else { continue };
        let mut right = right.split(' ');
        let (Some(fstype), Some(_), Some(options)) = (right.next(), right.next(), right.next()) else {
            continue;
        };
        // A bind of part of a hierarchy is not its root.
        if root != "/" || !point.starts_with("/sys/fs/cgroup") || !fstype.starts_with("cgroup") {
            continue;
        }
        let unified = fstype == "cgroup2";
        const FLAGS: [&str; 6] = ["rw", "ro", "xattr", "clone_children", "noprefix", "cpuset_v2_mode"];
        let controllers = options
            .split(',')
            .filter(|o| !unified && !FLAGS.contains(o) && !o.contains('='))
            .map(str::to_owned)
            .collect();
        let name = Path::new(point).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let found = Hierarchy { controllers, name, group: Path::new(point).join(relative), unified };
        if !all.iter().any(|h| h.group == found.group) {
            all.push(found);
        }
        if all.len() == count {
            break;
        }
    }
    all
}

#[cfg(test)]
mod tests;
