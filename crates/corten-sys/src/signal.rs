//! Signals as descriptors: blocked once, read with poll.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// Signals arrive here instead of interrupting. Linux 2.6.27.
#[derive(Debug)]
pub struct SignalFd {
    fd: OwnedFd,
}

impl SignalFd {
    /// Blocks these signals in this thread and opens a non-blocking descriptor that reads them; numbers that are no
    /// signal are left out. Programs that are to begin with an empty mask need [`crate::process::reset_signals`].
    ///
    /// # Errors
    /// `EMFILE`, `ENOMEM`.
    pub fn of(signals: &[i32]) -> io::Result<Self> {
        // SAFETY: the set is plain memory, valid when zeroed, and initialised by sigemptyset before use; sigaddset
        // refuses what is no signal. It lives during the calls; the old mask is not asked for; -1 asks for a new
        // descriptor.
        let fd = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in signals {
                libc::sigaddset(&raw mut set, *signal);
            }
            let failed = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            if failed != 0 {
                return Err(io::Error::from_raw_os_error(failed));
            }
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd has just returned this descriptor and nobody else knows it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// The number of the next pending signal, `None` when there is none.
    ///
    /// # Errors
    /// Any but `EAGAIN`.
    pub fn next(&self) -> io::Result<Option<i32>> {
        let mut record = [0u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.fd, &mut record) {
            // The kernel writes whole records only; they begin with the number.
            Ok(n) if n == record.len() => {
                Ok(Some(i32::from_ne_bytes([record[0], record[1], record[2], record[3]])))
            }
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_sent_to_this_thread_is_read() {
        std::thread::spawn(|| {
            let signals = SignalFd::of(&[libc::SIGUSR1, 99]).unwrap();
            assert_eq!(signals.next().unwrap(), None);
            // SAFETY: tgkill takes plain numbers; the signal is blocked in this very thread.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), libc::SIGUSR1) };
            assert_eq!(signals.next().unwrap(), Some(libc::SIGUSR1));
        })
        .join()
        .unwrap();
    }
}
