//! Published ports where the packet filter cannot translate: from IPv6 to containers without it, and at ::1.
//!
//! The filter translates addresses, not families, and the kernel lets nothing from ::1 leave the host, so that here
//! connections end and others begin. One thread
//! (`net-relay`) does it for all ports: the sockets that hold them listen, what arrives goes on by splice(2) from socket
//! to socket, and datagrams have a socket for each client until nothing was said for a while.
//!
//! Connections end with the daemon; the next one listens again. The container sees the bridge as its client. Ports that
//! are not held by a socket (long rows) and SCTP are not carried.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use crate::endpoint::Protocol;
use crate::worker::Worker;

mod server;
mod stream;

/// A port of the host.
pub(crate) type Port = (Protocol, u16, IpAddr);

/// What is carried where.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) port: Port,
    /// Bound, listening if it is TCP, not blocking.
    pub(crate) socket: Arc<OwnedFd>,
    pub(crate) target: SocketAddr,
}

/// What the thread is told.
#[derive(Debug)]
enum Order {
    Open(Vec<Line>),
    Close(Vec<Port>),
}

/// The handle; the thread starts with the first port.
#[derive(Debug, Default)]
pub(crate) struct Relay(Mutex<Option<Worker<Order>>>);

impl Relay {
    /// Carries what arrives at these ports from now on.
    pub(crate) fn open(&self, lines: Vec<Line>) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut worker = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if worker.is_none() {
            *worker = Some(Worker::start("net-relay", |orders| {
                let server = server::Server::new(orders)?;
                Ok(move || server.run())
            })?);
        }
        worker.as_ref().map_or(Ok(()), |w| w.order(Order::Open(lines)))
    }

    /// Ends what goes through these ports. Those that are not carried are no error.
    pub(crate) fn close(&self, ports: Vec<Port>) {
        if let Some(worker) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner)
            && !ports.is_empty()
        {
            // A thread that has ended carries nothing.
            let _ = worker.order(Order::Close(ports));
        }
    }
}

#[cfg(test)]
mod tests;
