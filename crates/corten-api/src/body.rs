//! Bodies: what is sent, and the two bridges to code that reads and writes synchronously.

use std::io;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use tokio::sync::mpsc;
use tokio_util::io::{StreamReader, SyncIoBridge};

/// Body of every answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;
/// Body of every answer with its head.
pub(crate) type Response = http::Response<Body>;

/// What is sent at once by [`ChannelWriter`].
const BLOCK: usize = 128 * 1024;

/// A body that is there already.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that comes in pieces. Dropping it (the client has gone) drops the stream.
pub(crate) fn streamed(stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    StreamBody::new(stream.map_ok(Frame::data)).boxed_unsync()
}

/// The stream of what a channel receives; `guard` is dropped with it.
pub(crate) fn channel_stream<G: Send + 'static>(
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    guard: G,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    futures_util::stream::unfold((receiver, guard), |(mut receiver, guard)| async move {
        receiver.recv().await.map(|item| (item, (receiver, guard)))
    })
}

/// A request's body for code that reads synchronously; read it on a blocking thread only.
pub(crate) type BodyReader = SyncIoBridge<StreamReader<BodyStream, Bytes>>;
/// A request's body as it comes.
pub(crate) type BodyStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// See [`BodyStream`].
pub(crate) fn byte_stream(body: Incoming) -> BodyStream {
    Box::pin(body.into_data_stream().map(|item| item.map_err(io::Error::other)))
}

/// See [`BodyReader`]. To be called on the runtime.
pub(crate) fn reader(body: Incoming) -> BodyReader {
    SyncIoBridge::new(StreamReader::new(byte_stream(body)))
}

/// Sends what is written synchronously; write on a blocking thread only. Fails once the client has gone.
#[derive(Debug)]
pub(crate) struct ChannelWriter {
    sender: mpsc::Sender<io::Result<Bytes>>,
    block: Vec<u8>,
}

impl ChannelWriter {
    pub(crate) fn new(sender: mpsc::Sender<io::Result<Bytes>>) -> Self {
        Self { sender, block: Vec::new() }
    }

    fn send(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let block = Bytes::from(std::mem::take(&mut self.block));
        self.sender.blocking_send(Ok(block)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl io::Write for ChannelWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.block.is_empty() {
            self.block.reserve(BLOCK);
        }
        self.block.extend_from_slice(buf);
        if self.block.len() >= BLOCK {
            self.send()?;
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}
