//! What tests need and products must not have: a daemon of their own, images made on the spot, a check that
//! nothing is left behind.
//!
//! ```text
//!   Daemon::start() ── own temp dir, own network namespace, own socket
//!        │  .docker([...])  the real client      .corten([...])  ours
//!        ▼
//!   drop: remove every container, SIGTERM, then `leak::check` panics about processes, mounts, cgroups, files
//! ```
//! Tests run as root. They find the programs to test through `CORTEN_BIN_DIR` (set by `cargo xtask test`), or
//! in `target/dist/debug`, where `cargo xtask build` puts them.

pub mod daemon;
pub mod hosts;
pub mod http;
pub mod image;
pub mod leak;

pub use daemon::{Client, Daemon, DaemonOptions, Ran};
pub use hosts::{Hosts, Place, Transport};

/// Says something that is seen although the test passes: what could not be tested here, or a figure.
pub fn say(text: impl std::fmt::Display) {
    // Straight to the descriptor: `println!` is kept back by the test harness.
    std::io::Write::write_all(&mut std::io::stdout(), format!("{text}\n").as_bytes()).ok();
}
