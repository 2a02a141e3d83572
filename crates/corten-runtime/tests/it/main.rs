//! Containers on the real kernel, as root: the shim is started through the client as the daemon does.

#![expect(clippy::unwrap_used, reason = "tests")]

mod attacks;
mod attributes;
mod bench;
mod cgroup2;
mod checkpoint;
mod command_line;
mod harness;
mod inside;
mod lifecycle;
mod oci;
mod peers;
mod races;
mod streams;
mod systemd;
mod users;
