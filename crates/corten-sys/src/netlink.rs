//! Netlink sockets: raw datagrams of the route and netfilter families, nothing about their contents.
//!
//! A socket belongs to the network namespace of the thread that opened it, whoever uses it later.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Which part of the kernel the socket speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Links, addresses, routes, neighbours.
    Route,
    /// Packet filtering.
    Netfilter,
}

/// An open netlink socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
}

/// The largest datagram [`Socket::receive`] takes in; the kernel cuts dumps at 32 KiB.
pub const MAX_DATAGRAM: usize = 64 * 1024;

impl Socket {
    /// Opens a socket in the calling thread's namespace. An answer that does not come within ten seconds is an
    /// error (`WouldBlock`), so that a caller never hangs for ever.
    pub fn open(family: Family) -> io::Result<Self> {
        let protocol = match family {
            Family::Route => libc::NETLINK_ROUTE,
            Family::Netfilter => libc::NETLINK_NETFILTER,
        };
        // SAFETY: socket(2) takes three integers and touches no memory of ours.
        let raw = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` is a descriptor that socket(2) has just given us and nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let socket = Self { fd };
        // CAP_ACK: acknowledgements without a copy of the request; EXT_ACK is not asked for, errno is enough.
        socket.option(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1)?;
        rustix::net::sockopt::set_socket_timeout(
            &socket.fd,
            rustix::net::sockopt::Timeout::Recv,
            Some(Duration::from_secs(10)),
        )?;
        // SAFETY: an all-zero sockaddr_nl is a valid value (family is set next, port 0 = chosen by the kernel).
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        // SAFETY: `address` is a live sockaddr_nl and the length given is its size.
        let result = unsafe {
            libc::bind(
                socket.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_nl>() as libc::socklen_t,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
    }

    /// The socket's own number, by which the kernel says who caused something.
    pub fn port(&self) -> io::Result<u32> {
        // SAFETY: an all-zero sockaddr_nl is a valid value to be overwritten.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // SAFETY: `address` is a live sockaddr_nl, `length` holds its size, and both outlive the call.
        let result =
            unsafe { libc::getsockname(self.fd.as_raw_fd(), (&raw mut address).cast(), &raw mut length) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(address.nl_pid) }
    }

    /// Receives from now on what the kernel tells this multicast group.
    pub fn join(&self, group: u32) -> io::Result<()> {
        self.option(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group as libc::c_int)
    }

    /// Sends one datagram to the kernel. Large ones make the send buffer grow first.
    pub fn send(&self, datagram: &[u8]) -> io::Result<()> {
        if datagram.len() > 128 * 1024 {
            let size = datagram.len().saturating_mul(2).min(1 << 30);
            self.option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, size as libc::c_int)?;
        }
        let sent = rustix::net::send(&self.fd, datagram, rustix::net::SendFlags::empty())?;
        if sent == datagram.len() { Ok(()) } else { Err(io::Error::other("netlink message sent in part")) }
    }

    /// Receives one datagram, replacing what `buffer` holds.
    pub fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.resize(MAX_DATAGRAM, 0);
        loop {
            match rustix::net::recv(&self.fd, &mut buffer[..], rustix::net::RecvFlags::TRUNC) {
                Ok((_, length)) if length > MAX_DATAGRAM => {
                    return Err(io::Error::other("netlink message larger than the buffer"));
                }
                Ok((_, length)) => {
                    buffer.truncate(length);
                    return Ok(());
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn option(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
        // SAFETY: `value` is a live c_int and the length given is its size.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                name,
                (&raw const value).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
