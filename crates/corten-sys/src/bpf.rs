//! Extended BPF programs on control groups (v2): the device filter.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// One instruction; the layout is the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination in the lower half, source in the upper.
    pub registers: u8,
    /// Of memory, or of a jump.
    pub offset: i16,
    /// Operand.
    pub value: i32,
}

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The beginning of `union bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Attaches a device filter to a control group; it lives as long as the group. A device must pass it and all others,
/// those that are there (systemd's) and those that groups below may get (of containers inside).
///
/// # Errors
/// Those of bpf(2), among them `EINVAL` for a program that the kernel's verifier refuses.
pub fn attach_device_filter(cgroup: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    let load = Load {
        kind: TYPE_CGROUP_DEVICE,
        instructions: u32::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        code: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: the struct is a prefix of bpf_attr whose size is passed; the pointers in it cover the given
    // number of instructions and a NUL-terminated string, and live during the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, std::mem::size_of::<Load>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    let loaded = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let attach = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: loaded.as_raw_fd() as u32,
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: as above; no pointers are passed.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attach, std::mem::size_of::<Attach>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
