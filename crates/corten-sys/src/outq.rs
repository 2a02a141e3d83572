//! What a socket's peer has not read yet.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Memory of what was sent on a unix stream socket and not read by the other side; 0 when it has read everything.
///
/// # Errors
/// Those of ioctl(2): no socket.
pub fn unread(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut length: libc::c_int = 0;
    // SAFETY: the descriptor is borrowed for the call, and SIOCOUTQ (the number of TIOCOUTQ) writes one int to the
    // pointer, which is valid for that.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut length) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(length).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_is_read_counts_no_more() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        assert_eq!(super::unread(a.as_fd()).unwrap(), 0);
        a.write_all(b"head").unwrap();
        assert!(super::unread(a.as_fd()).unwrap() > 0);
        b.read_exact(&mut [0; 4]).unwrap();
        assert_eq!(super::unread(a.as_fd()).unwrap(), 0);
    }
}
