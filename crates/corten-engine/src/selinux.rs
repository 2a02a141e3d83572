//! SELinux: under which label a container runs, and which its files have.
//!
//! The policy says what containers are (`lxc_contexts`). Each container has two categories of its own, so that one
//! cannot get at another's files, and keeps them as long as it is on record. Nothing is labelled unless the daemon was
//! started with `--selinux-enabled`.
//!
//! COMPAT: labels, options and texts are the reference engine's.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use corten_wire::api::host_config::HostConfig;
use rustix::fs::{Dir, Mode, OFlags, XattrFlags};

use crate::error::{Error, Result, conflict, invalid};
use crate::record::MountRecord;

/// Where policies are, and what the one in force is called.
const POLICIES: &str = "/etc/selinux";
/// Where there is no file for containers in the policy itself.
const FALLBACK: &str = "/usr/share/containers/selinux/contexts";
/// Categories that containers are given two of.
const CATEGORIES: u32 = 1024;
/// What only those may use that nothing confines.
const PRIVILEGED: &str = "s0:c1022,c1023";
const ATTRIBUTE: &str = "security.selinux";

/// Of a container. Empty: none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    /// Of its processes.
    pub(crate) process: String,
    /// Of its files.
    pub(crate) mount: String,
}

/// The kernel labels with SELinux.
#[must_use]
pub fn is_enabled() -> bool {
    corten_runtime::spec::has_selinux() && corten_sys::users::initial()
}

/// `user:role:type:level`; the level has colons of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Context<'a>([&'a str; 4]);

impl<'a> Context<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let mut parts = text.splitn(4, ':');
        Some(Self([parts.next()?, parts.next()?, parts.next()?, parts.next().unwrap_or_default()]))
    }

    fn set(&mut self, key: &str, value: &'a str) -> bool {
        let at = ["user", "role", "type", "level"].iter().position(|k| *k == key);
        at.map(|at| self.0[at] = value).is_some()
    }

    fn text(&self) -> String {
        let [rest @ .., level] = self.0;
        if level.is_empty() { rest.join(":") } else { self.0.join(":") }
    }
}

/// What the policy says of containers: labels of processes and of files. `None` for one that knows none.
fn policy() -> Option<(String, String)> {
    let config = std::fs::read_to_string(Path::new(POLICIES).join("config")).unwrap_or_default();
    let name = config.lines().find_map(|l| l.trim().strip_prefix("SELINUXTYPE=")).unwrap_or("targeted");
    let own = Path::new(POLICIES).join(name.trim()).join("contexts/lxc_contexts");
    let text = std::fs::read_to_string(own).or_else(|_| std::fs::read_to_string(FALLBACK)).ok()?;
    contexts(&text)
}

fn contexts(text: &str) -> Option<(String, String)> {
    let value = |key: &str| {
        let line = text.lines().filter_map(|l| l.split_once('=')).find(|(k, _)| k.trim() == key);
        line.map(|(_, v)| v.trim().trim_matches('"').to_owned())
    };
    Some((value("process")?, value("file")?))
}

/// The labels of a new container. `taken` are the levels of the others; `shared` is the label of processes of the one
/// whose memory or processes it shares.
pub(crate) fn labels(
    h: &HostConfig,
    options: &[String],
    shared: Option<&str>,
    taken: &BTreeSet<String>,
) -> Result<Labels> {
    let Some((process, file)) = policy() else { return Ok(Labels::default()) };
    let unconfined = h.privileged || h.pid_mode == "host" || h.ipc_mode == "host";
    let own: Vec<String>;
    let options = match shared {
        _ if !options.is_empty() => options,
        _ if unconfined => {
            own = vec!["disable".to_owned()];
            &own
        }
        Some(label) => {
            own = same_as(label);
            &own
        }
        None => options,
    };
    choose((&process, &file), options, || free_level(taken))
}

/// The options that make a label the same as this one.
fn same_as(label: &str) -> Vec<String> {
    match Context::of(label) {
        Some(Context(parts)) if !label.is_empty() => {
            let keys = ["user", "role", "type", "level"].iter().zip(parts);
            keys.filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!("{k}:{v}")).collect()
        }
        _ => vec!["disable".to_owned()],
    }
}

fn choose(
    (process, file): (&str, &str),
    options: &[String],
    level: impl FnOnce() -> Option<String>,
) -> Result<Labels> {
    let bad = || invalid("the policy's labels of containers cannot be read");
    let (mut process, mut file) = (Context::of(process).ok_or_else(bad)?, Context::of(file).ok_or_else(bad)?);
    if options.iter().any(|o| o == "disable") {
        file.set("level", PRIVILEGED);
        return Ok(Labels { process: String::new(), mount: file.text() });
    }
    let mut given = None;
    for option in options {
        let (key, value) = option.split_once(':').ok_or_else(|| {
            invalid(format!(
                "bad label option {option:?}, valid options 'disable' or \n'user, role, level, type, filetype' followed by ':' and a value"
            ))
        })?;
        let known = match key {
            "filetype" => file.set("type", value),
            "level" => {
                given = Some(value);
                true
            }
            "user" => process.set(key, value) && file.set(key, value),
            _ => process.set(key, value),
        };
        if !known {
            return Err(invalid(format!(
                "bad label option {option:?}, valid options 'disable, user, role, level, type, filetype'"
            )));
        }
    }
    // A policy without levels has none to give.
    let levels = !process.0[3].is_empty();
    let free = if given.is_none() && levels { level() } else { None };
    if given.is_none() && levels && free.is_none() {
        return Err(conflict("no SELinux categories are left for another container"));
    }
    if let Some(level) = given.or(free.as_deref()) {
        process.set("level", level);
        file.set("level", level);
    }
    Ok(Labels { process: process.text(), mount: file.text() })
}

/// The level of a label, as others may not have it.
pub(crate) fn level_of(label: &str) -> Option<String> {
    Context::of(label).map(|c| c.0[3].to_owned()).filter(|l| l.contains(":c"))
}

/// Two categories that nobody has.
fn free_level(taken: &BTreeSet<String>) -> Option<String> {
    let of = |n: u32| {
        let (a, b) = (n / CATEGORIES, n % CATEGORIES);
        (a < b).then(|| format!("s0:c{a},c{b}")).filter(|l| l != PRIVILEGED && !taken.contains(l))
    };
    let first = u32::from_str_radix(&corten_base::Id::random().as_str()[..5], 16).unwrap_or(0);
    let all = CATEGORIES * CATEGORIES;
    (0..all).find_map(|n| of((first + n) % all))
}

/// Whether the options of a mount ask for its files to be the container's: `z` for all containers', `Z` for its alone.
fn wish(mode: &str) -> Option<bool> {
    mode.split(',').find_map(|word| match word {
        "z" => Some(true),
        "Z" => Some(false),
        _ => None,
    })
}

/// Gives the files of a mount the container's label, if its options say so.
pub(crate) fn relabel_mount(m: &MountRecord, label: &str) -> Result<()> {
    match wish(&m.mode) {
        Some(shared) if !label.is_empty() => relabel(Path::new(&m.source), label, shared),
        _ => Ok(()),
    }
}

/// Directories that a machine needs as they are.
const NEVER: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/log",
];

/// Labels a file, or a directory and everything below it. What has the label already is taken for done.
pub(crate) fn relabel(path: &Path, label: &str, shared: bool) -> Result<()> {
    if NEVER.iter().any(|n| Path::new(n) == path) {
        return Err(invalid(format!("SELinux relabeling of {} is not allowed", path.display())));
    }
    let label = match Context::of(label) {
        Some(mut context) if shared => {
            context.set("level", "s0");
            context.text()
        }
        _ => label.to_owned(),
    };
    let fail = |e: io::Error| Error::io(format!("relabel failed: {}", path.display()), e);
    let mut now = vec![0; 4096];
    let has = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut now[..]);
    if has.is_ok_and(|n| now[..n].strip_suffix(b"\0").unwrap_or(&now[..n]) == label.as_bytes()) {
        return Ok(());
    }
    let label = CString::new(label).map_err(|e| fail(e.into()))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(directory) => below(directory.as_fd(), &label, 0).map_err(fail)?,
        Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {}
        Err(e) => return Err(fail(e.into())),
    }
    // The top last: a walk that was broken off is done again.
    set(path, &label).map_err(fail)
}

/// Deeper trees are no container's.
const DEPTH: usize = 256;

/// The tree may change meanwhile: every step is from a directory that is held.
fn below(directory: BorrowedFd<'_>, label: &CString, depth: usize) -> io::Result<()> {
    if depth > DEPTH {
        return Err(rustix::io::Errno::LOOP.into());
    }
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(directory, name, flags, Mode::empty()) {
            Ok(child) => below(child.as_fd(), label, depth + 1)?,
            Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {}
            // Removed in between.
            Err(rustix::io::Errno::NOENT) => continue,
            Err(e) => return Err(e.into()),
        }
        let held = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let path = Path::new(&held).join(OsStr::from_bytes(name.to_bytes()));
        match set(&path, label) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

fn set(path: &Path, label: &CString) -> io::Result<()> {
    match rustix::fs::lsetxattr(path, ATTRIBUTE, label.as_bytes_with_nul(), XattrFlags::empty()) {
        // A file system without labels has the one of its mount.
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: (&str, &str) =
        ("system_u:system_r:container_t:s0", "system_u:object_r:container_file_t:s0");

    fn of(options: &[&str]) -> std::result::Result<(String, String), String> {
        let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        let labels = choose(POLICY, &options, || Some("s0:c1,c2".into())).map_err(|e| e.to_string())?;
        Ok((labels.process, labels.mount))
    }

    #[test]
    fn options_change_the_policys_labels() {
        for (options, process, mount) in [
            (
                &[][..],
                "system_u:system_r:container_t:s0:c1,c2",
                "system_u:object_r:container_file_t:s0:c1,c2",
            ),
            (&["disable"], "", "system_u:object_r:container_file_t:s0:c1022,c1023"),
            (
                &["type:spc_t", "user:x_u"],
                "x_u:system_r:spc_t:s0:c1,c2",
                "x_u:object_r:container_file_t:s0:c1,c2",
            ),
            (
                &["level:s0:c7,c9", "filetype:f_t", "role:r_r"],
                "system_u:r_r:container_t:s0:c7,c9",
                "system_u:object_r:f_t:s0:c7,c9",
            ),
        ] {
            assert_eq!(of(options).unwrap(), (process.to_owned(), mount.to_owned()), "{options:?}");
        }
        assert!(
            of(&["nonsense"])
                .unwrap_err()
                .starts_with("bad label option \"nonsense\", valid options 'disable' or")
        );
        assert_eq!(
            of(&["color:red"]).unwrap_err(),
            "bad label option \"color:red\", valid options 'disable, user, role, level, type, filetype'"
        );
        let label = "system_u:system_r:container_t:s0:c1,c2";
        let same = same_as(label);
        assert_eq!(of(&same.iter().map(String::as_str).collect::<Vec<_>>()).unwrap().0, label);
        assert_eq!(same_as(""), ["disable"]);
    }

    #[test]
    fn levels_are_free_ones() {
        let mut taken = BTreeSet::new();
        for _ in 0..100 {
            let level = free_level(&taken).unwrap();
            let (a, b) = level.strip_prefix("s0:c").unwrap().split_once(",c").unwrap();
            assert!(a.parse::<u32>().unwrap() < b.parse::<u32>().unwrap() && level != PRIVILEGED);
            assert_eq!(level_of(&format!("u:r:t:{level}")), Some(level.clone()));
            assert!(taken.insert(level));
        }
        assert_eq!(level_of("u:r:t:s0"), None);
    }

    #[test]
    fn the_policys_file() {
        let text = "# of containers\nprocess = \"u:r:t:s0\"\nfile=\"u:object_r:f:s0\"\nro_file = \"x\"\n";
        assert_eq!(contexts(text), Some(("u:r:t:s0".into(), "u:object_r:f:s0".into())));
        assert_eq!(contexts("process = \"x\"\n"), None);
        assert_eq!((wish("ro,Z"), wish("z"), wish("ro")), (Some(false), Some(true), None));
    }

    #[test]
    fn the_machines_own_directories_stay() {
        let error = relabel(Path::new("/usr"), "u:r:t:s0", true).unwrap_err().to_string();
        assert_eq!(error, "SELinux relabeling of /usr is not allowed");
    }
}
