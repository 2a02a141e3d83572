//! Descriptors that this process was started with (systemd's socket activation).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first descriptor that systemd passes.
const FIRST: RawFd = 3;
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes the `count` descriptors from 3 on, and keeps them from children. Only the first call gets any: after it the
/// numbers may have been given to others.
///
/// # Errors
/// One of the numbers is no descriptor; none is taken then.
pub fn take(count: usize) -> io::Result<Vec<OwnedFd>> {
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let end = FIRST + RawFd::try_from(count).map_err(io::Error::other)?;
    for fd in FIRST..end {
        // SAFETY: F_SETFD takes any number and fails if it is no descriptor.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: they are open, as the calls above have shown, and were opened by the process that started us for us
    // alone; `TAKEN` makes sure that no second owner is made.
    Ok((FIRST..end).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect())
}
