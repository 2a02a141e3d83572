//! How the calling thread is scheduled, where its memory comes from, and which kernel it believes to run on.

use std::io;

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Scheduling policy and its parameters; the layout is the kernel's `struct sched_attr` of 48 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Policy {
    /// Filled in by [`set_policy`].
    pub size: u32,
    /// `SCHED_…`.
    pub policy: u32,
    /// `SCHED_FLAG_…`.
    pub flags: u64,
    /// -20 to 19, for the time-sharing policies.
    pub nice: i32,
    /// 1 to 99, for the real-time policies.
    pub priority: u32,
    /// Nanoseconds, as the next two: for `SCHED_DEADLINE`.
    pub runtime: u64,
    /// By when the runtime is had.
    pub deadline: u64,
    /// How often.
    pub period: u64,
}

/// Sets the policy of the calling thread.
///
/// # Errors
/// Those of sched_setattr(2).
pub fn set_policy(policy: Policy) -> io::Result<()> {
    let policy = Policy { size: size_of::<Policy>() as u32, ..policy };
    // SAFETY: the struct has the layout and size that it says, and lives during the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const policy, 0u32) })
}

/// Lets the calling thread run on these processors only.
///
/// # Errors
/// Those of sched_setaffinity(2).
pub fn set_processors(all: &[u64]) -> io::Result<()> {
    // SAFETY: the pointer covers the given number of bytes and lives during the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, std::mem::size_of_val(all), all.as_ptr()) })
}

/// Sets the class (1 real time, 2 best effort, 3 idle) and priority (0 to 7) for block devices.
///
/// # Errors
/// Those of ioprio_set(2).
pub fn set_io_priority(class: u32, priority: u32) -> io::Result<()> {
    const WHO_PROCESS: i32 = 1;
    // SAFETY: the call takes integers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, class << 13 | priority) })
}

/// Takes memory from these nodes, as the mode says (`MPOL_…`, flags included).
///
/// # Errors
/// Those of set_mempolicy(2); `ENOSYS` for a kernel without nodes.
pub fn set_memory_policy(mode: u32, nodes: &[u64]) -> io::Result<()> {
    let pointer = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // The kernel takes one bit less than it is told.
    let bits = if nodes.is_empty() { 0 } else { nodes.len() * 64 + 1 };
    // SAFETY: the pointer is null or covers as many bits as given, rounded up to words: the kernel reads
    // ceil((bits - 1) / 64) of them.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) })
}

/// Sets the execution domain and its flags.
///
/// # Errors
/// Those of personality(2).
pub fn set_personality(domain: u32) -> io::Result<()> {
    // SAFETY: the call takes an integer.
    check(unsafe { libc::syscall(libc::SYS_personality, libc::c_ulong::from(domain)) })
}

/// Gives the calling process the session keyring of this name, made if there is none; a later process of the same
/// user finds it.
///
/// # Errors
/// Those of keyctl(2); `ENOSYS` for a kernel without keys.
pub fn join_keyring(name: &std::ffi::CStr) -> io::Result<()> {
    const JOIN_SESSION_KEYRING: i32 = 1;
    const SETPERM: i32 = 5;
    // What a new one has (everything for who has it; view, read and link for its user), and search.
    const PERMISSIONS: u32 = 0x3F1B_0000;
    // SAFETY: the name is NUL-terminated and lives during the call.
    let id = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) };
    check(id)?;
    // SAFETY: the call takes integers.
    check(unsafe { libc::syscall(libc::SYS_keyctl, SETPERM, id, PERMISSIONS) })
}
