//! Where an ordinary user's own daemon and its clients meet.

use std::path::PathBuf;

/// The user's directory for sockets: `$XDG_RUNTIME_DIR`, `/run/user/<uid>`, or one in `/tmp` that whoever makes it has
/// to make safe.
#[must_use]
pub fn runtime_dir(uid: u32) -> PathBuf {
    let given = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|p| p.is_absolute());
    given.unwrap_or_else(|| {
        let usual = PathBuf::from(format!("/run/user/{uid}"));
        if usual.is_dir() { usual } else { format!("/tmp/corten-{uid}").into() }
    })
}
