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
