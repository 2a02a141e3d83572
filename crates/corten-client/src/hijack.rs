//! The raw stream after `101 Switching Protocols`: read and write halves, the latter closable on its own.

use std::io;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A connection taken over from HTTP.
#[derive(Debug)]
pub struct Hijacked {
    /// What the other side sends.
    pub read: ReadHalf,
    /// What we send.
    pub write: WriteHalf,
    /// Whether frames carry the eight-byte header that says stdout or stderr; `None` where the daemon did not say.
    pub multiplexed: Option<bool>,
}

/// The reading half.
#[derive(Debug)]
pub struct ReadHalf(tokio::io::ReadHalf<TokioIo<Upgraded>>);

/// The writing half.
#[derive(Debug)]
pub struct WriteHalf(tokio::io::WriteHalf<TokioIo<Upgraded>>);

impl Hijacked {
    pub(crate) fn new(stream: Upgraded, content_type: Option<&str>) -> Self {
        let (read, write) = tokio::io::split(TokioIo::new(stream));
        let multiplexed = match content_type {
            Some("application/vnd.docker.multiplexed-stream") => Some(true),
            _ => None,
        };
        Self { read: ReadHalf(read), write: WriteHalf(write), multiplexed }
    }
}

impl ReadHalf {
    /// Reads some bytes; 0 at the end.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).await
    }
}

impl WriteHalf {
    /// Writes all bytes.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }

    /// Says that nothing more comes; the other direction stays open.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn close(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }
}
