//! JSON messages over a `SOCK_SEQPACKET` socket, both sides; see [`corten_wire::shim`] for the protocol.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use corten_sys::{memfd, seqpacket};
use corten_wire::shim::{BODY_FOLLOWS, INLINE, MAX_MESSAGE};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "message too large")
}

/// Sends one message; a long one goes into a sealed memfd.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    message: &impl Serialize,
    fds: &[BorrowedFd<'_>],
    wait: bool,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() <= INLINE {
        return seqpacket::send(socket, &bytes, fds, wait);
    }
    if bytes.len() > MAX_MESSAGE {
        return Err(too_large());
    }
    let body = memfd::sealed_bytes("message", &bytes)?;
    let mut all = vec![body.as_fd()];
    all.extend_from_slice(fds);
    seqpacket::send(socket, BODY_FOLLOWS, &all, wait)
}

/// A buffer that holds every message that is sent in one packet.
pub(crate) fn buffer() -> Vec<u8> {
    vec![0; INLINE]
}

/// What [`recv`] found.
#[derive(Debug)]
pub(crate) enum Received<T> {
    /// A message with its descriptors.
    Message(T, Vec<OwnedFd>),
    /// Nothing to read now.
    Nothing,
    /// The peer is gone.
    End,
}

/// Receives one message.
pub(crate) fn recv<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    wait: bool,
) -> io::Result<Received<T>> {
    let mut fds = Vec::new();
    let n = match seqpacket::recv(socket, buffer, &mut fds, wait) {
        Ok(0) => return Ok(Received::End),
        Ok(n) => n,
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
        Err(e) => return Err(e),
    };
    if &buffer[..n] != BODY_FOLLOWS {
        return Ok(Received::Message(serde_json::from_slice(&buffer[..n])?, fds));
    }
    if fds.is_empty() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = Vec::new();
    std::fs::File::from(fds.remove(0)).take(MAX_MESSAGE as u64 + 1).read_to_end(&mut body)?;
    if body.len() > MAX_MESSAGE {
        return Err(too_large());
    }
    Ok(Received::Message(serde_json::from_slice(&body)?, fds))
}
