//! Real bridges, real packet filter, real connections: each test in namespaces of its own, nothing left behind.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on should stop; figures are printed"
)]

mod bench;
mod dns;
mod firewalls;
mod modes;
mod networks;
mod ports;
mod world;
