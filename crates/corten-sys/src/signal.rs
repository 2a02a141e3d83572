//! Signals as descriptors: blocked once, read with poll.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A received signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Number.
    pub signal: i32,
    /// The kernel made it (a key on the terminal), not another process.
    pub from_kernel: bool,
}

/// Signals arrive here instead of interrupting. Linux 2.6.27.
#[derive(Debug)]
pub struct SignalFd {
    fd: OwnedFd,
}

impl SignalFd {
    /// Blocks every signal of this thread that can be blocked and opens a non-blocking descriptor for them.
    /// Programs started by `std::process` begin with an empty mask all the same.
    ///
    /// # Errors
    /// `EMFILE`, `ENOMEM`.
    pub fn all() -> io::Result<Self> {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigfillset initialises the set it is given, which is large enough by its type.
        let set = unsafe {
            libc::sigfillset(set.as_mut_ptr());
            set.assume_init()
        };
        // SAFETY: the set is initialised; the old mask is not asked for.
        let failed =
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
        if failed != 0 {
            return Err(io::Error::from_raw_os_error(failed));
        }
        // SAFETY: the set is initialised; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd has just returned this descriptor and nobody else knows it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// The next pending signal, `None` when there is none.
    ///
    /// # Errors
    /// Any but `EAGAIN`.
    pub fn next(&self) -> io::Result<Option<Received>> {
        let mut info = std::mem::MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer is writable for exactly `size` bytes.
        let n = unsafe { libc::read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        if n < 0 {
            let e = io::Error::last_os_error();
            return if e.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(e) };
        }
        // SAFETY: the kernel writes whole records only, so a non-negative count is a whole record.
        let info = unsafe { info.assume_init() };
        Ok(Some(Received {
            signal: i32::try_from(info.ssi_signo).unwrap_or(0),
            from_kernel: info.ssi_code == libc::SI_KERNEL,
        }))
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
            let signals = SignalFd::all().unwrap();
            assert_eq!(signals.next().unwrap(), None);
            // SAFETY: tgkill takes plain numbers; the signal is blocked in this very thread.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), libc::SIGUSR1) };
            assert_eq!(signals.next().unwrap(), Some(Received { signal: libc::SIGUSR1, from_kernel: false }));
        })
        .join()
        .unwrap();
    }
}
