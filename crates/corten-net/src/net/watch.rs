//! The thread `net-filter`: looks after the packet filter when other programs have changed it.
//!
//! Where the kernel does not keep others from flushing our table, it makes our rules again: a firewall that is loaded
//! anew must not open what was closed (CVE-2025-54388, CVE-2025-54410). Everywhere it makes sure of what we have in
//! other programs' tables, and follows the host's rules where published ports are subject to them.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use corten_sys::netlink::{Family, Socket};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

use super::{Inner, lock};
use crate::error::NetError;
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
        let mut own = vec![lock(filter).port()?];
        if let Some(foreign) = &inner.foreign {
            own.extend(lock(foreign).ports()?);
        }
        let stop = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (inner, table, stopped) = (Arc::downgrade(inner), inner.mark(), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("net-filter".into())
            .stack_size(128 * 1024)
            .spawn(move || run(&inner, &socket, &stopped, &own, &table))?;
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

/// Other programs change their tables in many steps, and would find chains in use that they have just emptied: this long
/// after the last change we look, or this long after the first if it does not end.
const QUIET: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(3);

/// What notices come to.
#[derive(Debug, Clone, Copy, Default)]
struct Changes {
    removed: bool,
    others: bool,
}

fn run(inner: &Weak<Inner>, socket: &Socket, stop: &OwnedFd, own: &[u32], table: &str) {
    let mut buffer = Vec::new();
    let mut changes = Changes::default();
    let mut since: Option<Instant> = None;
    loop {
        let left = since.map(|s| QUIET.min(PATIENCE.saturating_sub(s.elapsed())));
        let left = left.map(|l| Timespec { tv_sec: 0, tv_nsec: l.subsec_nanos().into() });
        let mut fds = [PollFd::new(socket, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match rustix::event::poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "the packet filter is not watched any more");
                return;
            }
        }
        if !fds[1].revents().is_empty() {
            return;
        }
        if !fds[0].revents().is_empty() {
            look(socket, &mut buffer, own, table, &mut changes);
            if changes.others && !changes.removed && since.is_none_or(|s| s.elapsed() < PATIENCE) {
                since.get_or_insert_with(Instant::now);
                continue;
            }
        }
        // What is missing of ours is made again at once.
        if !changes.removed && !changes.others {
            continue;
        }
        since = None;
        let Some(inner) = inner.upgrade() else { return };
        if let Err(error) = repair(&inner, std::mem::take(&mut changes), table) {
            tracing::error!(%error, "cannot make the packet filter rules again");
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

fn look(socket: &Socket, buffer: &mut Vec<u8>, own: &[u32], table: &str, changes: &mut Changes) {
    match socket.receive(buffer) {
        Ok(()) => {
            for (kind, _, payload) in nla::notices(buffer).filter(|(_, port, _)| !own.contains(port)) {
                changes.removed |= nft::is_removal(kind, payload, table);
                changes.others |= nft::table_of(payload).is_some_and(|t| !t.starts_with("corten-"));
            }
        }
        // Notices were lost: there were many.
        Err(_) => *changes = Changes { removed: true, others: true },
    }
}

fn repair(inner: &Inner, changes: Changes, table: &str) -> Result<(), NetError> {
    // Where the kernel protects our table, only lost notices get here.
    let ours = changes.removed && !inner.filter.as_ref().is_some_and(|f| lock(f).is_own());
    if ours {
        tracing::warn!(table, "somebody removed packet filter rules of ours, making them again");
        inner.commit_everything()?;
    }
    if changes.others { inner.others_changed() } else { Ok(()) }
}
