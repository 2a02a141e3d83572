//! Standard streams and a container's: terminal input with detach keys, output split by frame headers, signals.

use std::io::Read;

use anyhow::anyhow;
use corten_client::{Hijacked, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use crate::cli::Cli;
use crate::error::Result;
use crate::term;

/// How a session of streams ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The other side closed.
    Closed,
    /// The user typed the detach keys.
    Detached,
}

/// What to connect.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    /// One raw stream, as a terminal makes it, instead of frames.
    pub(crate) tty: bool,
    /// Send our standard input.
    pub(crate) stdin: bool,
    /// Detach keys in docker's notation; empty for the default.
    pub(crate) detach_keys: &'a str,
    /// Show what comes as standard output.
    pub(crate) stdout: bool,
    /// Show what comes as standard error.
    pub(crate) stderr: bool,
}

/// Connects our streams with a container's until one side ends.
pub(crate) async fn run(cli: &Cli, stream: Hijacked, session: &Session<'_>) -> Result<End> {
    let keys = detach_keys(session.detach_keys)?;
    let raw = if session.tty && session.stdin { term::Raw::enable() } else { None };
    let Hijacked { mut read, mut write, .. } = stream;
    let output = copy_output(cli, &mut read, session);
    if !session.stdin {
        write.close().await.ok();
        output.await?;
        return Ok(End::Closed);
    }
    let input = copy_input(&mut write, session.tty.then_some(keys));
    tokio::pin!(output, input);
    let end = tokio::select! {
        done = &mut output => done.map(|()| End::Closed),
        end = &mut input => match end {
            End::Detached => Ok(End::Detached),
            // Our input is at its end; the container may go on writing.
            End::Closed => output.await.map(|()| End::Closed),
        },
    };
    drop(raw);
    end
}

async fn copy_output(cli: &Cli, read: &mut ReadHalf, session: &Session<'_>) -> Result {
    let mut splitter = Splitter::default();
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        let n = match read.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            // A daemon that was killed resets the connection: for us the stream is at its end.
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        if session.tty {
            cli.write_out(&buffer[..n])?;
        } else {
            splitter.feed(&buffer[..n], &mut |channel, bytes| match channel {
                2 if session.stderr => cli.write_err(bytes),
                0 | 1 if session.stdout => cli.write_out(bytes),
                3 => Err(anyhow!("error from daemon in stream: {}", String::from_utf8_lossy(bytes))),
                0..=3 => Ok(()),
                other => Err(anyhow!("Unrecognized input header: {other}")),
            })?;
        }
    }
}

/// Sends standard input; ends with it, with a broken connection, or with the detach keys.
async fn copy_input(write: &mut WriteHalf, keys: Option<Vec<u8>>) -> End {
    let mut stdin = stdin_chunks();
    let mut matcher = keys.map(|keys| Matcher { keys, at: 0 });
    while let Some(chunk) = stdin.recv().await {
        let (bytes, detached) = match &mut matcher {
            None => (chunk, false),
            Some(matcher) => matcher.feed(&chunk),
        };
        if !bytes.is_empty() && write.write_all(&bytes).await.is_err() {
            return End::Closed;
        }
        if detached {
            return End::Detached;
        }
    }
    write.close().await.ok();
    End::Closed
}

/// Standard input in chunks, read by a thread: a blocking read cannot be taken back, and making the descriptor
/// non-blocking would change it for every process that shares it.
pub(crate) fn stdin_chunks() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0u8; 32 << 10];
        let mut stdin = std::io::stdin().lock();
        while let Ok(n) = stdin.read(&mut buffer) {
            if n == 0 || sender.blocking_send(buffer[..n].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Finds the detach keys in what is typed. A part of them is held back until it is clear what follows.
#[derive(Debug)]
struct Matcher {
    keys: Vec<u8>,
    at: usize,
}

impl Matcher {
    fn feed(&mut self, chunk: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(chunk.len());
        for &byte in chunk {
            if self.keys.get(self.at) == Some(&byte) {
                self.at += 1;
                if self.at == self.keys.len() {
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.at]);
            self.at = 0;
            if self.keys.first() == Some(&byte) {
                self.at = 1;
            } else {
                out.push(byte);
            }
        }
        (out, false)
    }
}

/// `ctrl-p,ctrl-q` as bytes.
pub(crate) fn detach_keys(text: &str) -> Result<Vec<u8>> {
    let text = if text.is_empty() { "ctrl-p,ctrl-q" } else { text };
    let one = |key: &str| -> Result<u8> {
        let bad = || anyhow!("invalid detach keys ({text}): Unknown character: '{key}'");
        match key.as_bytes() {
            [c] => Ok(*c),
            _ => match key.strip_prefix("ctrl-").map(str::as_bytes) {
                Some([c @ b'a'..=b'z']) => Ok(c - b'a' + 1),
                Some([b'@']) => Ok(0),
                Some([c @ (b'[' | b'\\' | b']' | b'^' | b'_')]) => Ok(c - b'[' + 27),
                _ => Err(bad()),
            },
        }
    };
    text.split(',').map(one).collect()
}

/// Takes the eight-byte headers out of a multiplexed stream. Frames may be split anywhere.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    header: Vec<u8>,
    channel: u8,
    left: usize,
}

impl Splitter {
    /// Hands the frames' content to `sink`, as much of it at once as lies together.
    pub(crate) fn feed(&mut self, mut input: &[u8], sink: &mut dyn FnMut(u8, &[u8]) -> Result) -> Result {
        let mut run: Vec<u8> = Vec::new();
        let mut run_channel = self.channel;
        while !input.is_empty() {
            if self.left == 0 {
                let take = (8 - self.header.len()).min(input.len());
                self.header.extend_from_slice(&input[..take]);
                input = &input[take..];
                if self.header.len() < 8 {
                    break;
                }
                self.channel = self.header[0];
                self.left =
                    u32::from_be_bytes([self.header[4], self.header[5], self.header[6], self.header[7]])
                        as usize;
                self.header.clear();
                continue;
            }
            let take = self.left.min(input.len());
            if run_channel != self.channel && !run.is_empty() {
                sink(run_channel, &run)?;
                run.clear();
            }
            run_channel = self.channel;
            run.extend_from_slice(&input[..take]);
            self.left -= take;
            input = &input[take..];
        }
        if run.is_empty() { Ok(()) } else { sink(run_channel, &run) }
    }
}

/// The signals that are passed on to a container, with their names.
const SIGNALS: [(i32, &str); 11] = [
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (10, "USR1"),
    (12, "USR2"),
    (14, "ALRM"),
    (15, "TERM"),
    (18, "CONT"),
    (20, "TSTP"),
    (21, "TTIN"),
    (22, "TTOU"),
];

/// Signals sent to us, by name, from now on.
pub(crate) fn signals() -> mpsc::Receiver<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let (sender, receiver) = mpsc::channel(16);
    for (number, name) in SIGNALS {
        let Ok(mut stream) = signal(SignalKind::from_raw(number)) else { continue };
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if sender.send(name).await.is_err() {
                    break;
                }
            }
        });
    }
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_split_anywhere() {
        let mut wire = Vec::new();
        for (channel, text) in [(1u8, "out"), (1, "put"), (2, "err"), (1, "")] {
            wire.extend_from_slice(&[channel, 0, 0, 0]);
            wire.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
            wire.extend_from_slice(text.as_bytes());
        }
        for size in 1..wire.len() {
            let (mut splitter, mut out, mut err) = (Splitter::default(), Vec::new(), Vec::new());
            for chunk in wire.chunks(size) {
                splitter
                    .feed(chunk, &mut |channel, bytes| {
                        if channel == 1 {
                            out.extend_from_slice(bytes)
                        } else {
                            err.extend_from_slice(bytes)
                        }
                        Ok(())
                    })
                    .unwrap();
            }
            assert_eq!((out.as_slice(), err.as_slice()), (&b"output"[..], &b"err"[..]), "{size}");
        }
    }

    #[test]
    fn keys() {
        assert_eq!(detach_keys("").unwrap(), [16, 17]);
        assert_eq!(detach_keys("a,ctrl-@,ctrl-]").unwrap(), [b'a', 0, 29]);
        assert!(detach_keys("ctrl-Q").is_err());
        let mut m = Matcher { keys: vec![16, 17], at: 0 };
        assert_eq!(m.feed(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(m.feed(b"b\x10"), (b"\x10b".to_vec(), false));
        assert_eq!(m.feed(b"\x10\x11z"), (b"\x10".to_vec(), true));
    }
}
