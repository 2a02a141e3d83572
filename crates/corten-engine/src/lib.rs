//! Containers, execs, volumes, networks, events.
//!
//! One task per container owns its phase (`container::phase`, pure), performs effects (`container::launch`) and
//! publishes an `Arc` snapshot ([`ContainerView`]); reads never touch the task. Records live in `container_*`,
//! `volume_*` and `network_*` of `meta.db`.
//!
//! ```text
//!  Engine ──create──▶ record ──▶ task ◀─mail── Container (start, stop, attach, …)
//!    │ find, list                 │ step(facts, phase, event) -> effects
//!    ▼                            ▼
//!  views (Arc, watch) ◀─publish── task ──▶ launch: volumes, corten-net, files, shim (corten-runtime::client)
//!                                 ▲
//!                                 └─news── monitor thread: exits, out of memory, ends of execs
//! ```
//!
//! # Tasks and channels
//!
//! * one task per container: bounded mail, unbounded news, see `container::task`;
//! * one task writes observed states in batches, see `shared::write_states`;
//! * one task per health check, which mails its results;
//! * one task per running exec waits for its end;
//! * blocking work (kernel, disk, shims) runs on tokio's blocking pool.
//!
//! # Errors
//!
//! All errors are [`Error`]: `kind()` decides the status, `chain()` is the text a client reads.

pub mod apparmor;
mod config;
mod container;
mod devices;
mod engine;
mod error;
mod exec;
mod failpoint;
mod filters;
mod forward;
mod hosts;
mod links;
mod merge;
mod mounts;
mod names;
mod networks;
mod record;
pub mod selinux;
mod shared;
mod spec;
mod userns;
mod validate;
mod view;
mod volumes;

use corten_base::signal;

pub use config::{
    BUILT_IN_RUNTIMES, CgroupDriver, EngineConfig, RuntimeConfig, UserMap, check_cgroup_parent,
};
pub use container::{
    AttachSpec, Attached, ByteStream, CommitSpec, Container, DetachKeys, Outcome, PutOptions, RemoveOptions,
    WaitCondition,
};
pub use corten_logs::{LogQuery, LogStream};
pub use engine::{Counts, Engine, EngineUsage, ListOptions, Listing};
pub use error::{Error, Result};
pub use exec::{Exec, ExecStart};
pub use failpoint::VARIABLE as FAILPOINT_VARIABLE;
pub use filters::EventFilter;
pub use forward::FIRST_PORT;
pub use record::{ContainerRecord, MountKind, MountRecord, RootfsRecord, Standing, StateRecord};
pub use view::{ContainerView, Endpoint, Status};
