//! System calls as safe, RAII, synchronous functions; the only crate with unsafe code. No policy, no logging.

pub mod inherited;
pub mod memfd;
pub mod memory;
pub mod netlink;
pub mod netns;
pub mod process;
pub mod seccomp;
pub mod seqpacket;
pub mod signal;
