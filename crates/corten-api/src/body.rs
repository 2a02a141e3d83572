//! Bodies: what is sent, and the two bridges to code that reads and writes synchronously.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Body as _, Frame, Incoming};
use tokio::runtime::Handle;
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
    Box::pin(Polite { body: Some(body) })
}

/// How much of a body nobody wants is read all the same. Clients stop when they see the answer.
const POLITE_BYTES: usize = 1 << 30;
/// And for how long.
const POLITE_TIME: Duration = Duration::from_secs(5);

/// A body that is read on a little when it is dropped early. A client that is still sending would else find its
/// connection closed and never read the answer that says why; Go's server does the same.
struct Polite {
    body: Option<Incoming>,
}

impl Stream for Polite {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                }
                Some(Err(e)) => {
                    self.body = None;
                    return Poll::Ready(Some(Err(io::Error::other(e))));
                }
                None => self.body = None,
            }
        }
    }
}

impl Drop for Polite {
    fn drop(&mut self) {
        let (Some(mut body), Ok(runtime)) = (self.body.take(), Handle::try_current()) else { return };
        if body.is_end_stream() {
            return;
        }
        let rest = async move {
            let mut left = POLITE_BYTES;
            while let Some(Ok(frame)) = body.frame().await {
                let n = frame.data_ref().map_or(0, Bytes::len);
                if n >= left {
                    return;
                }
                left -= n;
            }
        };
        // It ends by itself, at the latest after the time.
        runtime.spawn(tokio::time::timeout(POLITE_TIME, rest));
    }
}

/// See [`BodyReader`]. To be called on the runtime.
pub(crate) fn reader(body: Incoming) -> BodyReader {
    stream_reader(byte_stream(body))
}

/// Any stream for code that reads synchronously. To be called on the runtime.
pub(crate) fn stream_reader(stream: BodyStream) -> BodyReader {
    SyncIoBridge::new(StreamReader::new(stream))
}

/// A file being downloaded, as a body.
pub(crate) fn download_stream(download: corten_registry::Download) -> BodyStream {
    Box::pin(futures_util::stream::unfold(download, |mut download| async move {
        let next = download.next().await.map_err(io::Error::other).transpose()?;
        Some((next, download))
    }))
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
