//! The thread `net-filter`: makes our rules again when somebody takes them away.
//!
//! Needed where the kernel does not keep others from flushing our table: a firewall that is loaded anew must not open
//! what was closed (CVE-2025-54388, CVE-2025-54410).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use corten_sys::netlink::{Family, Socket};
use rustix::event::{EventfdFlags, PollFd, PollFlags};

use super::{Inner, lock};
use crate::{nft, nla};

/// The handle; dropping it ends the thread.
#[derive(Debug)]
pub(super) struct Watch {
    stop: Arc<OwnedFd>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    /// Starts watching the table of `inner`, from the calling thread's namespace.
    pub(super) fn start(inner: &Arc<Inner>) -> io::Result<Option<Self>> {
        let Some(filter) = &inner.filter else { return Ok(None) };
        let socket = Socket::open(Family::Netfilter)?;
        socket.join(nft::NOTICES)?;
        let own = lock(filter).port()?;
        let stop = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (inner, table, stopped) = (Arc::downgrade(inner), inner.mark(), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("net-filter".into())
            .stack_size(128 * 1024)
            .spawn(move || run(&inner, &socket, &stopped, own, &table))?;
        Ok(Some(Self { stop, thread: Some(thread) }))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        // The thread itself may hold the last reference, and cannot wait for its own end.
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

fn run(inner: &Weak<Inner>, socket: &Socket, stop: &OwnedFd, own: u32, table: &str) {
    let mut buffer = Vec::new();
    loop {
        let mut fds = [PollFd::new(socket, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "the packet filter is not watched any more");
                return;
            }
        }
        if !fds[1].revents().is_empty() {
            return;
        }
        if fds[0].revents().is_empty() {
            continue;
        }
        let removed = match socket.receive(&mut buffer) {
            Ok(()) => nla::notices(&buffer)
                .any(|(kind, port, payload)| port != own && nft::is_removal(kind, payload, table)),
            // Notices were lost: there were many.
            Err(_) => true,
        };
        if !removed {
            continue;
        }
        let Some(inner) = inner.upgrade() else { return };
        tracing::warn!(table, "somebody removed packet filter rules of ours, making them again");
        if let Err(error) = inner.commit_everything() {
            tracing::error!(%error, "cannot make the packet filter rules again");
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}
