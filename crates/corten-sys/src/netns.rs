//! Network namespaces: make, enter, keep alive by a mounted file.
//!
//! INVARIANT: only threads that exist for it change their namespace. [`run_in`] makes such a thread; [`enter`] is
//! for threads that belong to the caller from start to end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::UnmountFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// The calling thread's namespace.
pub fn current() -> io::Result<OwnedFd> {
    open(Path::new("/proc/thread-self/ns/net"))
}

/// The namespace behind a file made by [`pin`], or behind `/proc/<pid>/ns/net`.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Moves the calling thread into the namespace, for good.
pub fn enter(ns: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(ns, Some(LinkNameSpaceType::Network))?)
}

/// Moves the calling thread into a new, empty namespace, for good.
pub fn unshare() -> io::Result<()> {
    // SAFETY: `unshare_unsafe` is unsafe because CLONE_FILES would separate the descriptor table that other
    // threads believe to share; CLONE_NEWNET touches nothing but the thread's own network namespace.
    unsafe { Ok(rustix::thread::unshare_unsafe(UnshareFlags::NEWNET)?) }
}

/// A new, empty namespace, made on a thread of its own; the caller stays where it is.
pub fn create() -> io::Result<OwnedFd> {
    create_with(|| Ok(())).map(|(ns, ())| ns)
}

/// A new namespace, and what `work` made inside it on the same thread.
pub fn create_with<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<(OwnedFd, T)> {
    on_thread(|| {
        unshare()?;
        Ok((current()?, work()?))
    })
}

/// Whose a namespace is to be.
#[derive(Debug, Clone, Copy)]
pub enum Owner<'a> {
    /// Of a new user namespace, with these lines of its `uid_map` and `gid_map`.
    New(&'a str, &'a str),
    /// Of the user namespace behind this file.
    Of(BorrowedFd<'a>),
}

/// A new, empty namespace that belongs to another user namespace: whoever is root there has power over it. A process
/// that makes nothing but system calls has both until we have a descriptor of the network namespace, which keeps its
/// owner alive.
///
/// # Errors
/// Those of clone3(2), setns(2), unshare(2), and of writing the maps.
pub fn create_for(owner: Owner<'_>) -> io::Result<OwnedFd> {
    use crate::process::{self, namespace};
    let (ready, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let kinds = match owner {
        Owner::New(..) => namespace::USER | namespace::NET,
        Owner::Of(_) => 0,
    };
    let holder = process::clone_process(kinds, None, || {
        crate::caps::die_with_parent().ok();
        if let Owner::Of(users) = owner {
            let moved =
                process::enter(users, namespace::USER).and_then(|()| process::unshare(namespace::NET));
            if let Err(e) = moved {
                return e.raw_os_error().unwrap_or(1);
            }
        }
        rustix::io::write(&tell, b"!").ok();
        loop {
            rustix::event::poll(&mut [], None).ok();
        }
    })?;
    drop(tell);
    let pid = holder.pid;
    let made = (|| {
        if rustix::io::read(&ready, &mut [0u8; 1])? == 0 {
            let ended = process::wait(holder.pidfd.as_fd())?;
            return Err(io::Error::from_raw_os_error(ended.code()));
        }
        if let Owner::New(uids, gids) = owner {
            std::fs::write(format!("/proc/{pid}/uid_map"), uids)?;
            std::fs::write(format!("/proc/{pid}/gid_map"), gids)?;
        }
        open(Path::new(&format!("/proc/{pid}/ns/net")))
    })();
    process::signal(holder.pidfd.as_fd(), 9).ok();
    process::wait(holder.pidfd.as_fd()).ok();
    made
}

/// The user namespace that a namespace of another kind belongs to; none for one that is a user namespace itself.
///
/// # Errors
/// Those of ioctl_ns(2): `EPERM` for one that is not below ours.
pub fn owner(ns: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    if ask(ns, NS_GET_NSTYPE)? == libc::CLONE_NEWUSER {
        return Ok(None);
    }
    users_of(ns).map(Some)
}

/// The user namespace that a namespace belongs to; for a user namespace the one that it was made in.
///
/// # Errors
/// Those of ioctl_ns(2): `EPERM` for one that is not below ours.
pub(crate) fn users_of(ns: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    let fd = ask(ns, NS_GET_USERNS)?;
    // SAFETY: on success the kernel has made a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A request of ioctl_ns(2) that takes no argument.
fn ask(ns: BorrowedFd<'_>, request: libc::c_ulong) -> io::Result<libc::c_int> {
    use std::os::fd::AsRawFd;
    // SAFETY: the requests of the two callers take no argument and touch no memory of the process.
    let result = unsafe { libc::ioctl(ns.as_raw_fd(), request as _) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Runs `work` inside the namespace, on a thread of its own, and waits for it.
pub fn run_in<T: Send>(ns: BorrowedFd<'_>, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    on_thread(|| {
        enter(ns)?;
        work()
    })
}

fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .stack_size(128 * 1024)
            .spawn_scoped(scope, work)?;
        thread.join().map_err(|_| io::Error::other("the namespace thread panicked"))?
    })
}

/// Mounts the namespace on `path` (a new file), so that it lives without a process. An existing file is replaced.
pub fn pin(ns: impl AsFd, path: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    unpin(path)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o444))?;
    let source = format!("/proc/thread-self/fd/{}", ns.as_fd().as_raw_fd());
    if let Err(error) = rustix::mount::mount_bind(source.as_str(), path) {
        rustix::fs::unlink(path)?;
        return Err(error.into());
    }
    Ok(())
}

/// Takes the mount and the file away; nothing there is success.
pub fn unpin(path: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // INVAL: a file that is no mount, left by a crash between creation and mounting.
        Ok(()) | Err(Errno::NOENT | Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{self, namespace};

    #[test]
    fn a_namespace_can_belong_to_other_users() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let id = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|s| s.st_ino).unwrap();
        let own = open(Path::new("/proc/self/ns/user")).unwrap();
        let plain = create().unwrap();
        assert_eq!(id(&owner(plain.as_fd()).unwrap().unwrap()), id(&own));
        assert!(owner(own.as_fd()).unwrap().is_none());
        let theirs = create_for(Owner::New("0 100000 65536\n", "0 100000 65536\n")).unwrap();
        let users = owner(theirs.as_fd()).unwrap().unwrap();
        assert_ne!(id(&users), id(&own));
        let second = create_for(Owner::Of(users.as_fd())).unwrap();
        assert_ne!(id(&second), id(&theirs));
        assert_eq!(id(&owner(second.as_fd()).unwrap().unwrap()), id(&users));
        // It can be entered from outside, and by who is root inside.
        run_in(theirs.as_fd(), || Ok(())).unwrap();
        let child = process::clone_process(0, None, || {
            let enter = |fd: &OwnedFd, kind| process::enter(fd.as_fd(), kind).is_ok();
            i32::from(!(enter(&users, namespace::USER) && enter(&theirs, namespace::NET)))
        });
        assert_eq!(process::wait(child.unwrap().pidfd.as_fd()).unwrap().code(), 0);
    }
}
