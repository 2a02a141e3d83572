//! System calls as safe, RAII, synchronous functions; the only crate with unsafe code. No policy, no logging.

pub mod allocation;
pub mod bpf;
pub mod caps;
pub mod datagram;
pub mod inherited;
pub mod kernel;
pub mod memfd;
pub mod memory;
pub mod mount;
pub mod netlink;
pub mod netns;
pub mod outq;
pub mod path;
pub mod process;
pub mod program;
pub mod pty;
pub mod sched;
pub mod seccomp;
pub mod seqpacket;
pub mod shared;
pub mod signal;
pub mod users;
pub mod writeback;

#[cfg(test)]
#[global_allocator]
static ALLOCATOR: allocation::Guarded = allocation::Guarded;
