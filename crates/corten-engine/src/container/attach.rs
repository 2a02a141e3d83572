//! Attached clients: a stream that is read and written, detach keys, what was written before.
//!
//! A container's client talks to the shim through a socket pair; output comes framed already and is passed through.
//! An exec's client reads the process's pipes, which are framed here, or its terminal.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use corten_wire::shim::Attach;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use super::{Container, Mail};
use crate::error::{Error, Result, conflict, invalid};
use crate::view::Status;
use corten_logs::{LogQuery, LogStream};

/// What a client of `attach` wants.
#[derive(Debug, Clone, Default)]
pub struct AttachSpec {
    /// It sends input.
    pub stdin: bool,
    /// It gets standard output.
    pub stdout: bool,
    /// It gets standard error.
    pub stderr: bool,
    /// First what was written until now.
    pub logs: bool,
    /// Then what is written from now on.
    pub stream: bool,
    /// Only with a terminal.
    pub detach_keys: DetachKeys,
}

/// Keys that end the connection and leave the program running; `ctrl-p,ctrl-q` by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

impl Default for DetachKeys {
    fn default() -> Self {
        Self(vec![16, 17])
    }
}

impl std::str::FromStr for DetachKeys {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let bad = || invalid(format!("Invalid detach keys ({text}) provided"));
        text.split(',')
            .map(|key| match key.strip_prefix("ctrl-").map(str::as_bytes) {
                Some([c @ b'a'..=b'z']) => Ok(c - b'a' + 1),
                Some([b'@']) => Ok(0),
                Some([c @ (b'[' | b'\\' | b']' | b'^' | b'_')]) => Ok(c - b'[' + 27),
                Some(_) => Err(bad()),
                None if key.len() == 1 => Ok(key.as_bytes()[0]),
                None => Err(bad()),
            })
            .collect::<Result<_>>()
            .map(Self)
    }
}

/// A connected client's stream. Reading gives output until the program ends; writing is its input.
pub struct Attached {
    io: Io,
    /// What comes before the stream.
    prefix: Option<LogStream>,
    ready: Bytes,
    tty: bool,
    keys: Option<Scanner>,
    detached: bool,
    reader: Option<Waker>,
    /// Told when detach keys were typed.
    on_detach: Option<Box<dyn FnOnce() + Send>>,
}

impl std::fmt::Debug for Attached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attached")
            .field("tty", &self.tty)
            .field("detached", &self.detached)
            .finish_non_exhaustive()
    }
}

enum Io {
    Nothing,
    Socket(UnixStream),
    Pipes(Box<Pipes>),
    Terminal(Box<Terminal>),
}

/// The end of an exec, awaited before its client reads the end of the stream: `inspect` then knows the exit code.
pub(crate) type Ending = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Pipes of an exec, framed.
pub(crate) struct Pipes {
    pub(crate) stdin: Option<pipe::Sender>,
    pub(crate) outputs: Vec<(u8, pipe::Receiver)>,
    pub(crate) ending: Ending,
}

/// Terminal of an exec.
pub(crate) struct Terminal {
    pub(crate) fd: AsyncFd<OwnedFd>,
    pub(crate) read: bool,
    pub(crate) ending: Ending,
}

impl Attached {
    fn new(io: Io, tty: bool) -> Self {
        Self {
            io,
            prefix: None,
            ready: Bytes::new(),
            tty,
            keys: None,
            detached: false,
            reader: None,
            on_detach: None,
        }
    }

    pub(crate) fn pipes(pipes: Pipes) -> Self {
        Self::new(Io::Pipes(Box::new(pipes)), false)
    }

    pub(crate) fn terminal(terminal: Terminal) -> Self {
        Self::new(Io::Terminal(Box::new(terminal)), true)
    }

    pub(crate) fn with_keys(mut self, keys: DetachKeys, on_detach: impl FnOnce() + Send + 'static) -> Self {
        self.keys = Some(Scanner { keys: keys.0, matched: 0 });
        self.on_detach = Some(Box::new(on_detach));
        self
    }

    /// Raw bytes, not frames.
    #[must_use]
    pub fn tty(&self) -> bool {
        self.tty
    }

    fn detach(&mut self) {
        self.detached = true;
        self.io = Io::Nothing;
        if let Some(told) = self.on_detach.take() {
            told();
        }
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// Looks for the detach keys in what is typed.
#[derive(Debug)]
struct Scanner {
    keys: Vec<u8>,
    matched: usize,
}

impl Scanner {
    /// What of `typed` goes to the program, and whether the keys are complete.
    fn scan(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut pass = Vec::with_capacity(typed.len());
        for &byte in typed {
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (pass, true);
                }
                continue;
            }
            // Held back in vain: the keys so far were meant for the program.
            pass.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(byte == self.keys[0]);
            if self.matched == 0 {
                pass.push(byte);
            } else if self.keys.len() == 1 {
                return (pass, true);
            }
        }
        (pass, false)
    }
}

impl AsyncRead for Attached {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.ready.has_remaining() {
                let n = this.ready.len().min(buf.remaining());
                buf.put_slice(&this.ready.split_to(n));
                return Poll::Ready(Ok(()));
            }
            match &mut this.prefix {
                Some(prefix) => match ready!(prefix.as_mut().poll_next(cx)) {
                    Some(Ok(bytes)) => this.ready = bytes,
                    Some(Err(error)) => return Poll::Ready(Err(error)),
                    None => this.prefix = None,
                },
                None => break,
            }
        }
        if this.detached {
            return Poll::Ready(Ok(()));
        }
        let polled = match &mut this.io {
            Io::Nothing => Poll::Ready(Ok(())),
            Io::Socket(socket) => match Pin::new(socket).poll_read(cx, buf) {
                // The shim left without reading everything we sent.
                Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::ConnectionReset => Poll::Ready(Ok(())),
                other => other,
            },
            Io::Pipes(pipes) => pipes.poll_read(cx, buf, &mut this.ready),
            Io::Terminal(terminal) => terminal.poll_read(cx, buf),
        };
        if polled.is_pending() {
            this.reader = Some(cx.waker().clone());
        }
        polled
    }
}

impl Pipes {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        ready: &mut Bytes,
    ) -> Poll<io::Result<()>> {
        const MOST: usize = 32 * 1024;
        let mut at = 0;
        while at < self.outputs.len() {
            let (number, output) = &mut self.outputs[at];
            let mut frame = vec![0; 8 + MOST];
            let mut body = ReadBuf::new(&mut frame[8..]);
            match Pin::new(output).poll_read(cx, &mut body) {
                Poll::Pending => at += 1,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) if body.filled().is_empty() => {
                    self.outputs.remove(at);
                }
                Poll::Ready(Ok(())) => {
                    let length = body.filled().len();
                    frame[0] = *number;
                    frame[4..8].copy_from_slice(&u32::try_from(length).unwrap_or(0).to_be_bytes());
                    frame.truncate(8 + length);
                    // The other stream goes first next time.
                    self.outputs.rotate_left(1);
                    let mut frame = Bytes::from(frame);
                    let n = frame.len().min(buf.remaining());
                    buf.put_slice(&frame.split_to(n));
                    *ready = frame;
                    return Poll::Ready(Ok(()));
                }
            }
        }
        if self.outputs.is_empty() {
            ready!(self.ending.as_mut().poll(cx));
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }
}

impl Terminal {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.read {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            let read = guard.try_io(|fd| {
                let room = buf.initialize_unfilled();
                rustix::io::read(fd.get_ref(), room).map_err(io::Error::from)
            });
            match read {
                Ok(Ok(n)) if n > 0 => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                // EIO: the last process has closed the terminal.
                Ok(Ok(_)) => self.read = false,
                Ok(Err(e)) if e.raw_os_error() == Some(libc::EIO) => self.read = false,
                Ok(Err(e)) => return Poll::Ready(Err(e)),
                Err(_would_block) => {}
            }
        }
        ready!(self.ending.as_mut().poll(cx));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Attached {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, typed: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.detached {
            return Poll::Ready(Ok(typed.len()));
        }
        if this.keys.is_none() {
            return this.io.poll_write(cx, typed);
        }
        // Typed input is short: it is scanned and written in one go, as far as the program takes it.
        let scanner = this.keys.as_mut().expect("checked just above");
        let before = scanner.matched;
        let (pass, complete) = scanner.scan(typed);
        if !pass.is_empty() {
            match this.io.poll_write(cx, &pass) {
                Poll::Pending => {
                    if let Some(scanner) = &mut this.keys {
                        scanner.matched = before;
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(_)) => {}
            }
        }
        if complete {
            this.detach();
        }
        Poll::Ready(Ok(typed.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Socket(socket) => Pin::new(socket).poll_shutdown(cx),
            Io::Pipes(pipes) => {
                pipes.stdin = None;
                Poll::Ready(Ok(()))
            }
            Io::Nothing | Io::Terminal(_) => Poll::Ready(Ok(())),
        }
    }
}

impl Io {
    fn poll_write(&mut self, cx: &mut Context<'_>, typed: &[u8]) -> Poll<io::Result<usize>> {
        let polled = match self {
            Self::Nothing => return Poll::Ready(Ok(typed.len())),
            Self::Socket(socket) => Pin::new(socket).poll_write(cx, typed),
            Self::Pipes(pipes) => match &mut pipes.stdin {
                Some(stdin) => Pin::new(stdin).poll_write(cx, typed),
                None => return Poll::Ready(Ok(typed.len())),
            },
            Self::Terminal(terminal) => loop {
                let mut guard = ready!(terminal.fd.poll_write_ready(cx))?;
                if let Ok(written) =
                    guard.try_io(|fd| rustix::io::write(fd.get_ref(), typed).map_err(io::Error::from))
                {
                    break Poll::Ready(written);
                }
            },
        };
        match polled {
            // Nobody reads it any more: input is thrown away, output goes on.
            Poll::Ready(Err(e))
                if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
                    || e.raw_os_error() == Some(libc::EIO) =>
            {
                Poll::Ready(Ok(typed.len()))
            }
            other => other,
        }
    }
}

impl Container {
    /// Connects a client. Before the start nothing is lost: the shim has the stream before the first byte is written.
    ///
    /// # Errors
    /// Paused; restarting.
    pub async fn attach(&self, spec: AttachSpec) -> Result<Attached> {
        let view = self.view();
        match view.status {
            Status::Paused => {
                return Err(conflict(format!(
                    "container {} is paused, unpause the container before attach",
                    self.id()
                )));
            }
            Status::Restarting => {
                return Err(conflict(format!(
                    "container {} is restarting, wait until the container is running",
                    self.id()
                )));
            }
            _ => {}
        }
        let tty = view.record.config.tty;
        let mut io = Io::Nothing;
        if spec.stream && (spec.stdin || spec.stdout || spec.stderr) {
            let (ours, theirs) =
                std::os::unix::net::UnixStream::pair().map_err(|e| Error::io("socketpair", e))?;
            ours.set_nonblocking(true).map_err(|e| Error::io("socketpair", e))?;
            // COMPAT: input is for containers that were made to take some.
            let stdin = spec.stdin && view.record.config.open_stdin;
            let wants = Attach { stdin, stdout: spec.stdout, stderr: spec.stderr };
            self.send(|reply| Mail::Attach { wants, stream: OwnedFd::from(theirs), reply }).await?;
            io = Io::Socket(UnixStream::from_std(ours).map_err(|e| Error::io("socketpair", e))?);
        }
        let mut attached = Attached::new(io, tty);
        if spec.logs {
            let query = LogQuery { stdout: spec.stdout, stderr: spec.stderr, ..LogQuery::default() };
            // A container without a log has nothing to show of its past.
            attached.prefix = self.logs(&query).ok();
        }
        if tty {
            let this = self.clone();
            attached = attached.with_keys(spec.detach_keys, move || this.publish_plain("detach"));
        }
        self.publish_plain("attach");
        Ok(attached)
    }
}

/// An ending that waits for a flag of an exec.
pub(crate) fn ending(entry: Arc<crate::exec::ExecEntry>) -> Ending {
    Box::pin(async move { entry.ended().await })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_docker_reads_them() {
        for (text, want) in [
            ("", Some(vec![16, 17])),
            ("ctrl-a,a", Some(vec![1, b'a'])),
            ("ctrl-@,ctrl-_", Some(vec![0, 31])),
            ("ctrl-", None),
            ("ab", None),
        ] {
            assert_eq!(text.parse::<DetachKeys>().ok().map(|k| k.0), want, "{text}");
        }
    }

    #[test]
    fn keys_are_found_and_the_rest_passes() {
        let mut s = Scanner { keys: vec![16, 17], matched: 0 };
        assert_eq!(s.scan(b"ab"), (b"ab".to_vec(), false));
        assert_eq!(s.scan(&[16]), (vec![], false));
        assert_eq!(s.scan(&[16, b'x']), (vec![16, 16, b'x'], false));
        assert_eq!(s.scan(&[b'y', 16, 17, b'z']), (vec![b'y'], true));
    }
}
