//! Between archives, which block, and requests, which do not: a thread on one side, a channel between.

use std::io::{self, Read, Write};

use bytes::Bytes;
use tokio::sync::mpsc;

/// A writer whose bytes become a request's body, made in a thread of its own.
pub(crate) struct Pipe {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Pipe {
    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(64 << 10));
        self.sender.blocking_send(Ok(chunk.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= 64 << 10 {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// A body made by `fill` in a thread; an error breaks the request off.
pub(crate) fn body(
    media_type: &'static str,
    fill: impl FnOnce(&mut Pipe) -> io::Result<()> + Send + 'static,
) -> corten_client::Body {
    let (sender, receiver) = mpsc::channel(8);
    std::thread::spawn(move || {
        let mut pipe = Pipe { sender: sender.clone(), buffer: Vec::new() };
        if let Err(e) = fill(&mut pipe).and_then(|()| pipe.flush()) {
            sender.blocking_send(Err(e)).ok();
        }
    });
    let receiver = std::sync::Mutex::new(receiver);
    let stream = futures_util::stream::poll_fn(move |cx| {
        receiver.lock().unwrap_or_else(std::sync::PoisonError::into_inner).poll_recv(cx)
    });
    corten_client::Body::stream(media_type, stream)
}

/// Bytes read from a channel, as a blocking reader.
pub(crate) struct ChannelReader {
    receiver: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl ChannelReader {
    pub(crate) fn new(receiver: mpsc::Receiver<Bytes>) -> Self {
        Self { receiver, current: Bytes::new() }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let n = self.current.len().min(out.len());
        out[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}
