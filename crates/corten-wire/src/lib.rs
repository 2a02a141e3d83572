//! Types that cross a process or disk-format boundary; serde only, no I/O.

pub mod api;
pub mod distribution;
pub mod oci_image;
pub mod oci_runtime;
pub mod shim;
