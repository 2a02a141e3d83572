//! Logs of containers: drivers and their options, reading back, delivery to receivers.
//!
//! ```text
//!  container ──pipe──▶ shim ──▶ <id>-json.log, .1, .2.gz …  ──▶ read     GET /containers/{id}/logs
//!                                        │
//!                                        └─▶ forward ──▶ syslog, journald, fluentd, gelf
//!                                              cursor: <dir>/delivered
//! ```
//!
//! The shim writes files and nothing else, whatever the driver: it stays small, and a container's output does not
//! depend on the daemon. Where a driver has a receiver, a task of the daemon reads the files behind the shim and
//! delivers them. What has been delivered is a position in the files, kept beside them: after `kill -9` the next
//! daemon goes on there, and delivers at most one batch twice. The same files answer `docker logs`.
//!
//! Invariants: only the shim writes log files; only [`Forwarders`] writes cursors; everything here may be asked
//! about a container whose shim is gone.

mod connection;
mod driver;
mod error;
mod forward;
mod info;
mod json;
mod options;
mod read;
mod spool;
mod watch;

pub use error::LogError;
pub use forward::{Forwarders, Job};
pub use info::Info;
pub use options::{DRIVERS, Options};
pub use read::{LogQuery, LogSource, LogStream, read};
pub use watch::CURSOR;
