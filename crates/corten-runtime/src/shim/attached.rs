//! Clients that read the container's output and write its input, over one stream socket each.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use corten_wire::shim::Attach;
use rustix::net::{RecvFlags, SendFlags};

use super::log::Stream;

/// A client may lag behind by so much before we stop reading what it wants.
const LAG: usize = 1 << 20;

/// One client.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) wants: Attach,
    socket: OwnedFd,
    buffer: Vec<u8>,
    sent: usize,
    /// It will send no more input.
    pub(super) input_done: bool,
    /// The socket is broken or closed.
    pub(super) gone: bool,
}

impl Attached {
    pub(super) fn new(wants: Attach, socket: OwnedFd) -> Self {
        Self { wants, socket, buffer: Vec::new(), sent: 0, input_done: !wants.stdin, gone: false }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn wants(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.wants.stdout,
            Stream::Stderr => self.wants.stderr,
        }
    }

    /// Something is not sent yet.
    pub(super) fn behind(&self) -> bool {
        self.sent < self.buffer.len()
    }

    /// The output that it wants must wait.
    pub(super) fn stalls(&self, stream: Stream) -> bool {
        self.wants(stream) && self.buffer.len() - self.sent >= LAG
    }

    /// Passes a block on: framed as Docker's stdcopy, or raw from a terminal.
    pub(super) fn output(&mut self, stream: Stream, block: &[u8], raw: bool) {
        if !self.wants(stream) {
            return;
        }
        if !raw {
            let length = u32::try_from(block.len()).unwrap_or(u32::MAX).to_be_bytes();
            self.buffer.extend_from_slice(&[stream as u8 + 1, 0, 0, 0]);
            self.buffer.extend_from_slice(&length);
        }
        self.buffer.extend_from_slice(block);
        self.flush();
    }

    /// Sends as much as the socket takes.
    pub(super) fn flush(&mut self) {
        while self.behind() && !self.gone {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.socket, &self.buffer[self.sent..], flags) {
                Ok(n) => self.sent += n,
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => self.gone = true,
            }
        }
        self.sent = 0;
        self.buffer.clear();
        self.buffer.shrink_to(64 * 1024);
    }

    /// Reads input; `Ok(None)` if there is none now. The end is noted in `input_done`.
    pub(super) fn input(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::net::recv(&self.socket, buffer, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => {
                self.input_done = true;
                Ok(None)
            }
            Ok((_, n)) => Ok(Some(n)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(_) => {
                self.input_done = true;
                self.gone = true;
                Ok(None)
            }
        }
    }
}
