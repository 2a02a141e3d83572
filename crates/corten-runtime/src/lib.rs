//! OCI runtime and shim, synchronous; builds the program `corten-runtime`.
//!
//! [`client`] is what the daemon uses, [`spec`] makes the configuration of a container, [`cgroup`] reads what the
//! kernel counts. Everything else runs in the shim.

pub mod cgroup;
mod channel;
pub mod client;
mod container;
pub mod fault;
pub mod init;
pub mod oci;
pub mod seccomp;
pub mod shim;
pub mod spec;
pub mod user;
