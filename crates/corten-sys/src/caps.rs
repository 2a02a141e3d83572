//! Capability sets of the calling thread, as bit masks.

use std::io;

fn prctl(option: libc::c_int, a: u64, b: u64) -> io::Result<libc::c_int> {
    // SAFETY: the options used here take integers only.
    let result = unsafe { libc::prctl(option, a, b, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Takes everything but `keep` out of the bounding set.
///
/// # Errors
/// Those of prctl(2).
pub fn limit_bounding(keep: u64) -> io::Result<()> {
    for bit in (0..64).filter(|bit| keep >> bit & 1 == 0) {
        // What is not in the set may be dropped from it by anybody who may drop at all; so look first.
        match prctl(libc::PR_CAPBSET_READ, bit, 0) {
            Ok(1) => prctl(libc::PR_CAPBSET_DROP, bit, 0).map(drop)?,
            Ok(_) => {}
            // The kernel knows no more than those before it.
            Err(_) => break,
        }
    }
    Ok(())
}

/// Sets the three sets of old.
///
/// # Errors
/// `EPERM` for what is not permitted now.
pub fn set(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
    Ok(set_capabilities(
        None,
        CapabilitySets {
            effective: CapabilitySet::from_bits_retain(effective),
            permitted: CapabilitySet::from_bits_retain(permitted),
            inheritable: CapabilitySet::from_bits_retain(inheritable),
        },
    )?)
}

/// What is permitted now.
///
/// # Errors
/// Those of capget(2).
pub fn permitted() -> io::Result<u64> {
    Ok(rustix::thread::capabilities(None)?.permitted.bits())
}

/// Makes the ambient set exactly `wanted` (each must be permitted and inheritable).
///
/// # Errors
/// Those of prctl(2).
pub fn set_ambient(wanted: u64) -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0)?;
    for bit in (0..64).filter(|bit| wanted >> bit & 1 == 1) {
        prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, bit)?;
    }
    Ok(())
}

/// Keeps the permitted set over the next change of user.
///
/// # Errors
/// Those of prctl(2).
pub fn keep_over_setuid(keep: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, u64::from(keep), 0).map(drop)
}

/// Nobody may trace this process or read its memory through /proc, unless privileged.
///
/// # Errors
/// Those of prctl(2).
pub fn forbid_tracing() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0, 0).map(drop)
}

/// Takes [`forbid_tracing`] back: files of this process below /proc are its user's again.
///
/// # Errors
/// Those of prctl(2).
pub fn permit_tracing() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 1, 0).map(drop)
}

/// The kernel kills this process when the thread that made it ends. Forgotten when the user or the
/// capabilities change, so set last.
///
/// # Errors
/// Those of prctl(2).
pub fn die_with_parent() -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0).map(drop)
}

/// Orphans among this process's descendants become its children.
///
/// # Errors
/// Those of prctl(2).
pub fn adopt_orphans() -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).map(drop)
}
