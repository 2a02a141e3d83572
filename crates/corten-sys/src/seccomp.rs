//! Installing a filter of system calls.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// The filter asks somebody for some of its answers.
pub const NEW_LISTENER: u32 = 1 << 3;

/// One instruction of a classic BPF program; the layout is the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if the condition holds.
    pub jt: u8,
    /// Instructions to skip if it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Installs a filter on the calling thread. Needs `CAP_SYS_ADMIN` or no-new-privileges.
///
/// # Errors
/// Those of seccomp(2); `InvalidInput` for a program that is too long.
///
/// With [`NEW_LISTENER`] among the flags, the descriptor (close-on-exec) of who answers.
pub fn install(program: &[Instruction], flags: u32) -> io::Result<Option<OwnedFd>> {
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let filter = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: Instruction has the layout of sock_filter, the pointer covers len of them and lives during the
    // call; the kernel only reads and verifies the program.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: with this flag, and only then, a success is a new descriptor that nobody else owns.
    Ok((flags & NEW_LISTENER != 0).then(|| unsafe { OwnedFd::from_raw_fd(result as i32) }))
}
