//! Writing file data to disk ahead of a sync.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Begins to write a range of a file to disk and does not wait for it; a later `fdatasync` then has little left to
/// do. No guarantee of any kind by itself.
///
/// # Errors
/// The kernel's; `ESPIPE` for what is no file.
pub fn start(fd: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<()> {
    let offset = libc::off64_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let length = libc::off64_t::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: sync_file_range takes no pointers; the fd is open as long as it is borrowed.
    let done = unsafe { libc::sync_file_range(fd.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    #[test]
    fn works_on_files_only() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        super::start(file.as_fd(), 0, 4096).unwrap();
        let (pipe, _end) = std::io::pipe().unwrap();
        assert!(super::start(pipe.as_fd(), 0, 1).is_err());
    }
}
