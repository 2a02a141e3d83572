//! Places where a test can make the daemon die.
//!
//! `failpoint!("name")` does nothing unless the environment variable `CORTEN_FAILPOINT` names it; then the process
//! aborts there, as by `kill -9`. The variable is read once.
//!
//! | name | the daemon dies when … | what must be true after a restart |
//! |---|---|---|
//! | `engine.create.before_record` | the snapshot is prepared, no record is written | no container, no snapshot |
//! | `engine.create.after_record` | the record is committed, the client has no answer | the container exists, `created` |
//! | `engine.start.after_network` | the sandbox is attached, no shim runs | not running; addresses free again |
//! | `engine.start.after_shim` | the shim runs, nothing is persisted | the container runs |
//! | `engine.exit.before_record` | the exit is known, not persisted | exited with the same code |
//! | `engine.remove.after_record` | the record is gone, the files are there | the container is gone, nothing of it is left |

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
