//! Unix `SOCK_SEQPACKET` sockets: whole messages with descriptors attached, and a reliable end-of-stream.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// Descriptors one message can carry here.
pub const MAX_FDS: usize = 32;

/// Two connected sockets, close-on-exec.
///
/// # Errors
/// Those of socketpair(2).
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Two connected byte streams, close-on-exec.
///
/// # Errors
/// Those of socketpair(2).
pub fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// The address `directory/name` in a form that fits into 108 bytes, however long the directory's path is.
fn address(directory: BorrowedFd<'_>, name: &str) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))?)
}

/// Listens at `directory/name` (removing a stale socket there), non-blocking.
///
/// # Errors
/// Those of socket(2), bind(2) and listen(2).
pub fn listen(directory: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    listen_as(SocketType::SEQPACKET, directory, name)
}

/// As [`listen`], for byte streams.
///
/// # Errors
/// Those of [`listen`].
pub fn listen_stream(directory: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    listen_as(SocketType::STREAM, directory, name)
}

fn listen_as(kind: SocketType, directory: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
    let address = address(directory, name)?;
    match net::bind(&socket, &address) {
        Err(rustix::io::Errno::ADDRINUSE) => {
            rustix::fs::unlinkat(directory, name, rustix::fs::AtFlags::empty())?;
            net::bind(&socket, &address)?;
        }
        other => other?,
    }
    net::listen(&socket, 8)?;
    Ok(socket)
}

/// Accepts one connection; `None` if there is none.
///
/// # Errors
/// Those of accept4(2).
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    match net::accept_with(listener, SocketFlags::CLOEXEC) {
        Ok(socket) => Ok(Some(socket)),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNABORTED) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Connects to the socket at `path`.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` if nobody listens there.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = rustix::fs::open(
        directory,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    net::connect(&socket, &address(directory.as_fd(), name)?)?;
    Ok(socket)
}

/// Connects to the stream socket at `path`, however long that is.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` if nobody listens there.
pub fn connect_stream(path: &Path) -> io::Result<OwnedFd> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, rustix::fs::Mode::empty())?;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    net::connect(&socket, &address(directory.as_fd(), name)?)?;
    Ok(socket)
}

/// Sends one message with descriptors. Without `wait`, a full socket is `WouldBlock`.
///
/// # Errors
/// `BrokenPipe` if the peer is gone; those of sendmsg(2).
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>], wait: bool) -> io::Result<()> {
    if fds.len() > MAX_FDS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let mut flags = SendFlags::NOSIGNAL;
    if !wait {
        flags |= SendFlags::DONTWAIT;
    }
    loop {
        match net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Receives one message into `buffer` and its descriptors into `fds` (close-on-exec). 0 means that the peer is
/// gone. Without `wait`, nothing there is `WouldBlock`.
///
/// # Errors
/// `InvalidData` if the message was longer than `buffer` or carried too many descriptors.
pub fn recv(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    wait: bool,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut flags = RecvFlags::CMSG_CLOEXEC;
    if !wait {
        flags |= RecvFlags::DONTWAIT;
    }
    let received = loop {
        match net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Ok(received) => break received,
            // LINUX: a peer that closes without having read all is reported as reset, once, before what it had sent.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
            Err(e) => return Err(e.into()),
        }
    };
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_bounds_and_descriptors() {
        let (a, b) = pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        send(a.as_fd(), b"one", &[null.as_fd()], true).unwrap();
        send(a.as_fd(), b"two", &[], true).unwrap();
        let (mut buffer, mut fds) = ([0; 16], Vec::new());
        assert_eq!(recv(b.as_fd(), &mut buffer, &mut fds, true).unwrap(), 3);
        assert_eq!((&buffer[..3], fds.len()), (&b"one"[..], 1));
        assert_eq!(
            recv(b.as_fd(), &mut buffer[..2], &mut fds, true).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        drop(a);
        assert_eq!(recv(b.as_fd(), &mut buffer, &mut fds, true).unwrap(), 0);
    }

    #[test]
    fn what_was_sent_before_the_end_is_received_though_the_sender_left_something_unread() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), b"unread", &[], true).unwrap();
        send(b.as_fd(), b"last words", &[], true).unwrap();
        drop(b);
        let (mut buffer, mut fds) = ([0; 16], Vec::new());
        assert_eq!(recv(a.as_fd(), &mut buffer, &mut fds, true).unwrap(), 10);
        assert_eq!(recv(a.as_fd(), &mut buffer, &mut fds, true).unwrap(), 0);
        assert_eq!(recv(a.as_fd(), &mut buffer, &mut fds, false).unwrap(), 0);
    }

    #[test]
    fn long_directories_can_be_bound_and_found() {
        let base = std::env::temp_dir().join(format!("seqpacket-{}", std::process::id()));
        let long = base.join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&long).unwrap();
        let directory = std::fs::File::open(&long).unwrap();
        let listener = listen(directory.as_fd(), "s.sock").unwrap();
        let _again = listen(directory.as_fd(), "s.sock").unwrap();
        drop(listener);
        let client = connect(&long.join("s.sock")).unwrap();
        drop(client);
        std::fs::remove_dir_all(base).unwrap();
    }
}
