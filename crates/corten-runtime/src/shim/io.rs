//! Moves bytes between the container, its log and the attached clients.

use std::os::fd::{AsFd, BorrowedFd};

use corten_base::time::now_ns;
use rustix::event::PollFlags;

use super::Shim;
use super::log::Stream;

/// One read takes as much as a pipe holds.
pub(super) const BLOCK: usize = 64 * 1024;
/// Input that the container has not read yet; clients wait beyond that.
pub(super) const INPUT_LAG: usize = 64 * 1024;

/// What came of one read.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    Some,
    Nothing,
    End,
}

impl Shim {
    pub(super) fn read_output(&mut self, stream: Stream) {
        if self.read_block(stream) == Read::End {
            self.outputs[stream as usize] = None;
        }
    }

    /// Everything that is there now, without waiting for the end: a process that fled the container may hold
    /// the pipe open.
    pub(super) fn drain_output(&mut self, stream: Stream) {
        while self.read_block(stream) == Read::Some {}
    }

    fn read_block(&mut self, stream: Stream) -> Read {
        let Some(fd) = &self.outputs[stream as usize] else { return Read::End };
        let n = match rustix::io::read(fd, &mut self.block) {
            // A terminal whose other side is closed answers EIO.
            Ok(0) | Err(rustix::io::Errno::IO) => return Read::End,
            Ok(n) => n,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Read::Nothing,
            Err(_) => return Read::End,
        };
        let block = &self.block[..n];
        if let Some(log) = &mut self.log {
            log.write(stream, block, now_ns());
        }
        for client in &mut self.clients {
            client.output(stream, block, self.tty);
        }
        Read::Some
    }

    /// Where input goes: the terminal, or the pipe.
    pub(super) fn input_fd(&self) -> Option<BorrowedFd<'_>> {
        let fd = if self.tty { &self.outputs[0] } else { &self.input.pipe };
        fd.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn client_ready(&mut self, index: usize, events: PollFlags) {
        if events.contains(PollFlags::OUT) {
            self.clients[index].flush();
        }
        if events.contains(PollFlags::IN) {
            self.read_input(index);
        }
        if events.intersects(PollFlags::HUP | PollFlags::ERR) && !events.contains(PollFlags::IN) {
            self.clients[index].gone = true;
        }
    }

    fn read_input(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if let Ok(Some(n)) = client.input(&mut self.block) {
            if self.input_fd().is_some() {
                self.input.pending.extend_from_slice(&self.block[..n]);
                self.write_input();
            }
            return;
        }
        if self.clients[index].input_done && self.input.config.once {
            self.close_input();
        }
    }

    pub(super) fn write_input(&mut self) {
        let Some(fd) = self.input_fd() else {
            self.input.pending.clear();
            return;
        };
        let mut written = 0;
        let mut broken = false;
        while written < self.input.pending.len() {
            match rustix::io::write(fd, &self.input.pending[written..]) {
                Ok(n) => written += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        self.input.pending.drain(..written);
        if broken {
            self.input.pending.clear();
            self.input.pipe = None;
        }
        if self.input.pending.is_empty() && self.input.closing {
            self.input.pipe = None;
        }
    }

    /// The container reads the end of its input after what is pending. A terminal has no such end.
    pub(super) fn close_input(&mut self) {
        self.input.closing = true;
        if self.input.pending.is_empty() {
            self.input.pipe = None;
        }
    }
}
