//! The mount table as text, and a mount namespace for what the host's shall not show.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use corten_sys::{mount, process};
use rustix::fs::{Mode, OFlags};

/// Where each mount of a table (`/proc/…/mountinfo`) is attached, in its order.
pub(crate) fn points(table: &str) -> impl Iterator<Item = PathBuf> {
    let unescape = |field: &str| {
        PathBuf::from(field.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
    };
    table.lines().filter_map(|l| l.split(' ').nth(4)).map(unescape)
}

/// Where the mount is attached that `path` is on.
pub(crate) fn point_of(table: &str, path: &Path) -> PathBuf {
    points(table)
        .filter(|p| path.starts_with(p))
        .max_by_key(|p| p.components().count())
        .unwrap_or_else(|| "/".into())
}

/// A mount namespace for this process. The mount that `dir` is on becomes private in it, so that what is mounted below
/// `dir` does not show outside; all others stay what they were, for binds that are to propagate.
pub(crate) fn own_namespace(dir: &Path) -> io::Result<()> {
    process::unshare(process::namespace::MOUNT)?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let fd = rustix::fs::open(point_of(&table, dir).as_path(), flags, Mode::empty())?;
    let private =
        mount::Change { propagation: Some(mount::Propagation::Private), ..mount::Change::default() };
    mount::change(fd.as_fd(), private, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_point_counts() {
        let table = "1 0 8:1 / / rw - ext4 x rw\n2 1 0:5 / /run rw - tmpfs x rw\n3 2 0:6 / /run/a\\040b rw - tmpfs x rw\n";
        for (path, want) in
            [("/var/x", "/"), ("/run/c", "/run"), ("/run/a b/c", "/run/a b"), ("/runner", "/")]
        {
            assert_eq!(point_of(table, Path::new(path)), Path::new(want));
        }
    }
}
