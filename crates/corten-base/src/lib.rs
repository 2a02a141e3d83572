//! Shared vocabulary of all crates: kinds of errors, ids, digests, references, platforms, events, records on disk.
//!
//! No domain policy and no async runtime: what is here can be used by the shim and by the daemon alike.

pub mod cancel;
pub mod db;
pub mod digest;
pub mod error;
pub mod event;
pub mod fs;
pub mod id;
pub mod ignore;
pub mod kind;
pub mod metrics;
pub mod own;
pub mod platform;
pub mod reference;
pub mod secret;
pub mod signal;
pub mod time;
#[cfg(feature = "tls")]
pub mod tls;
pub mod units;

pub use cancel::Cancel;
pub use digest::Digest;
pub use id::Id;
pub use kind::Kind;
pub use platform::Platform;
pub use reference::Reference;
pub use secret::Secret;
