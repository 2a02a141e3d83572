//! Calls to the other side of a connection.

use std::io;

use bytes::Bytes;
use corten_base::Cancel;
use http::{HeaderMap, HeaderValue, header};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use prost::Message;
use tokio::sync::mpsc;

use super::message::{Messages, frame};
use super::server::{CONNECTION_WINDOW, STREAM_WINDOW};
use super::status::Status;
use crate::body::{Body, channel_stream, streamed};

/// Messages that wait to be sent.
const QUEUE: usize = 8;

/// One side of a connection that can be called.
#[derive(Debug, Clone)]
pub(crate) struct Channel {
    calls: SendRequest<Body>,
}

/// Sends messages of one call; dropping it says that there are no more.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    queue: mpsc::Sender<io::Result<Bytes>>,
}

impl Sender {
    /// Sends a message; waits while too many are on their way.
    pub(crate) async fn send(&self, message: &impl Message) -> Result<(), Status> {
        self.queue.send(Ok(frame(message))).await.map_err(|_| Status::gone("it takes no more messages"))
    }

    /// The same for code that blocks.
    pub(crate) fn blocking_send(&self, message: &impl Message) -> Result<(), Status> {
        let sent = self.queue.blocking_send(Ok(frame(message)));
        sent.map_err(|_| Status::gone("it takes no more messages"))
    }
}

impl Channel {
    /// Begins to speak HTTP/2; `closed` is set when the connection ends, and ends it when it is set.
    pub(crate) async fn open<C>(connection: C, closed: Cancel) -> io::Result<Self>
    where
        C: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    {
        let (calls, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(connection)
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(async move {
            let guard = closed.on_drop();
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "session");
                },
                () = closed.cancelled() => {}
            }
            drop(guard);
        });
        Ok(Self { calls })
    }

    /// Calls with one message, and takes one.
    pub(crate) async fn unary<A: Message + Default>(
        &self,
        path: &str,
        message: &impl Message,
    ) -> Result<A, Status> {
        let (sender, mut answers) = self.stream(path, HeaderMap::new())?;
        sender.send(message).await?;
        drop(sender);
        answers.only().await
    }

    /// Calls with any number of messages in both directions.
    pub(crate) fn stream(&self, path: &str, metadata: HeaderMap) -> Result<(Sender, Messages), Status> {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let uri = format!("http://session{path}");
        let mut request = http::Request::post(uri)
            .body(streamed(channel_stream(receiver, ())))
            .map_err(Status::protocol)?;
        let headers = request.headers_mut();
        *headers = metadata;
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        let sent = self.calls.clone().send_request(request);
        let answer = async move { sent.await.map_err(Status::gone) };
        Ok((Sender { queue }, Messages::of_answer(answer)))
    }
}
