//! Places where a test can make the daemon die.
//!
//! `failpoint!("name")` does nothing unless the environment variable `CORTEN_FAILPOINT` names it; then the process
//! aborts there, as by `kill -9`. The variable is read once.
//!
//! All names, and what must hold after each, are in `docs/failpoints.md`.

use std::sync::OnceLock;

/// Environment variable that names the one failpoint to die at.
pub const VARIABLE: &str = "CORTEN_FAILPOINT";

#[doc(hidden)]
pub(crate) fn reached(name: &str) {
    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
    if CHOSEN.get_or_init(|| std::env::var(VARIABLE).ok()).as_deref() == Some(name) {
        std::process::abort();
    }
}

macro_rules! failpoint {
    ($name:literal) => {
        $crate::failpoint::reached($name)
    };
}
pub(crate) use failpoint;
