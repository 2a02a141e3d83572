//! OCI runtime and shim, synchronous; builds the program `corten-runtime`.
//!
//! [`client`] is what the daemon uses, [`spec`] makes the configuration of a container, [`cgroup`] reads what the
//! kernel counts, [`oci`] is the command line for callers with a shim of their own. Everything else runs in our shim.

pub mod cgroup;
mod channel;
mod checkpoint;
pub mod client;
mod container;
pub mod fault;
pub mod fuzz;
pub mod init;
mod mounts;
pub mod oci;
pub mod seccomp;
pub mod shim;
pub mod spec;
pub mod user;
