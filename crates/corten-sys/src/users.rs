//! The user namespace that this process is in.

use std::io;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use crate::netns;
use crate::process::{self, namespace};

/// Every id there is, as the kernel counts the first namespace's.
const ALL: u64 = u32::MAX as u64;

/// How many ids from 0 on are known here, by one of the kernel's files.
fn known(file: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    let mut next = 0;
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace().filter_map(|f| f.parse::<u64>().ok());
        if let (Some(inside), Some(_), Some(size)) = (fields.next(), fields.next(), fields.next())
            && inside == next
        {
            next += size;
        }
    }
    next
}

/// Whether it is the machine's own. In any other one root may less: no devices, no `trusted.` attributes, only
/// control groups that were handed over.
#[must_use]
pub fn initial() -> bool {
    static INITIAL: OnceLock<bool> = OnceLock::new();
    *INITIAL.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/self/uid_map");
        // Without the file there are no such namespaces.
        text.map_or(true, |t| t.split_ascii_whitespace().eq(["0", "0", "4294967295"]))
    })
}

/// Whether an ordinary user of the machine's own namespace runs this. (Not kept, as [`enter_own`] changes it.)
#[must_use]
pub fn ordinary() -> bool {
    !rustix::process::geteuid().is_root() && known("uid_map") == ALL
}

/// Enters a user namespace and a mount namespace of the caller's own, in which their user and group are the only ids
/// and have their numbers. With it come all capabilities there. To be called before anybody asks for [`initial`].
///
/// # Errors
/// Those of unshare(2), and of writing the maps; `EINVAL` with more than one thread.
pub fn enter_own() -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    process::unshare(namespace::USER | namespace::MOUNT)?;
    // The kernel lets nobody map a group who could still drop the one that keeps them out.
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

/// Enters the user namespace that the one of a process was made in, as [`enter_own`] did for who made that process.
///
/// # Errors
/// Those of opening the namespace, of ioctl_ns(2) and setns(2).
pub fn enter_maker_of(pid: i32) -> io::Result<()> {
    let users = std::fs::File::open(format!("/proc/{pid}/ns/user"))?;
    let parent = netns::users_of(users.as_fd())?;
    process::enter(parent.as_fd(), namespace::USER)
}

/// The last group that is known here.
#[must_use]
pub fn last_group() -> u32 {
    let count = known("gid_map");
    u32::try_from(count.clamp(1, ALL) - 1).unwrap_or(u32::MAX)
}

/// The beginning of the attributes that an overlay mounted here keeps its marks in.
#[must_use]
pub fn overlay_prefix() -> &'static str {
    if initial() { "trusted.overlay." } else { "user.overlay." }
}
