//! Two connected streams, and what is on its way from one to the other.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, sockopt};
use rustix::pipe::{PipeFlags, SpliceFlags, splice};

/// The most that is taken at once: what a pipe holds.
const PORTION: usize = 64 << 10;
/// Portions of one direction before others have their turn.
const TURNS: usize = 16;

/// After so long without a word it is asked whether a peer is still there, and this often.
const QUIET: std::time::Duration = std::time::Duration::from_secs(15);

/// A pipe, empty unless something is on its way.
#[derive(Debug)]
pub(super) struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    /// What was taken and not delivered yet.
    held: Option<(Pipe, usize)>,
    /// Nothing more comes.
    ended: bool,
    /// The receiver knows.
    told: bool,
}

/// A client and the container's server, in this order.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) ends: [OwnedFd; 2],
    ways: [Way; 2],
}

/// How it goes on with a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// When one of the sockets is ready again.
    Wait,
    /// There is more to do at once.
    More,
    Done,
}

impl Pair {
    /// Connects to the container for a client; does not wait until it is connected.
    pub(super) fn new(client: OwnedFd, target: SocketAddr) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let server = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&server, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        for end in [&client, &server] {
            sockopt::set_tcp_nodelay(end, true)?;
            // A peer that is gone without a word is noticed.
            sockopt::set_socket_keepalive(end, true)?;
            sockopt::set_tcp_keepidle(end, QUIET)?;
            sockopt::set_tcp_keepintvl(end, QUIET)?;
        }
        Ok(Self { ends: [client, server], ways: Default::default() })
    }

    /// Carries what can be carried now. `spare`: an empty pipe that all pairs share.
    pub(super) fn advance(&mut self, spare: &mut Option<Pipe>) -> io::Result<Progress> {
        let [client, server] = &self.ends;
        let [forth, back] = &mut self.ways;
        let more = carry(client, server, forth, spare)? | carry(server, client, back, spare)?;
        Ok(match forth.told && back.told {
            true => Progress::Done,
            false if more => Progress::More,
            false => Progress::Wait,
        })
    }

    /// Both ends see a connection that was reset, not one that ended.
    pub(super) fn reset(self) {
        for end in &self.ends {
            let _ = sockopt::set_socket_linger(end, Some(std::time::Duration::ZERO));
        }
    }
}

/// True if it stopped with more to do.
fn carry(from: &impl AsFd, to: &impl AsFd, way: &mut Way, spare: &mut Option<Pipe>) -> io::Result<bool> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    for _ in 0..TURNS {
        let (pipe, length) = match way.held.take() {
            Some(held) => held,
            None if way.ended => break,
            None => {
                let pipe = spare.take().map_or_else(new_pipe, Ok)?;
                match splice(from, None, &pipe.into, None, PORTION, flags) {
                    Ok(0) => way.ended = true,
                    Ok(length) => {
                        way.held = Some((pipe, length));
                        continue;
                    }
                    Err(Errno::AGAIN | Errno::INTR) => {
                        *spare = Some(pipe);
                        return Ok(false);
                    }
                    Err(error) => return Err(error.into()),
                }
                *spare = Some(pipe);
                break;
            }
        };
        match splice(&pipe.out, None, to, None, length, flags) {
            Ok(sent) if sent < length => way.held = Some((pipe, length - sent)),
            Ok(_) => *spare = Some(pipe),
            Err(Errno::AGAIN | Errno::INTR) => {
                way.held = Some((pipe, length));
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
    }
    if way.ended && way.held.is_none() && !way.told {
        way.told = true;
        match rustix::net::shutdown(to, Shutdown::Write) {
            // The receiver has gone by itself.
            Ok(()) | Err(Errno::NOTCONN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(!way.told)
}

fn new_pipe() -> io::Result<Pipe> {
    let (out, into) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    Ok(Pipe { out, into })
}
