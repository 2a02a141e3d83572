//! Serving calls.

use std::convert::Infallible;
use std::io;

use futures_util::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use prost::Message;

use super::message::{Messages, frame};
use super::status::Status;
use crate::body::Response;
use crate::stream::Client;

/// What a stream and a connection may send before they are answered.
pub(super) const STREAM_WINDOW: u32 = 2 << 20;
pub(super) const CONNECTION_WINDOW: u32 = 8 << 20;
/// Calls at the same time on one connection.
const CALLS: u32 = 250;

/// A call.
#[derive(Debug)]
pub(crate) struct Request {
    /// `/service/Method`.
    pub(crate) path: String,
    pub(crate) metadata: HeaderMap,
    pub(crate) messages: Messages,
}

impl Request {
    /// A value of the metadata; empty where there is none.
    pub(crate) fn metadata(&self, name: &str) -> &str {
        self.metadata.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

/// Serves a connection to its end. A call whose client gives it up is dropped.
pub(crate) async fn serve<F, S>(connection: Client, service: S) -> io::Result<()>
where
    F: Future<Output = Response> + Send + 'static,
    S: Fn(Request) -> F + Send + Clone + 'static,
{
    let handle = service_fn(move |request: http::Request<Incoming>| {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let answer = service(Request { path, metadata: head.headers, messages: Messages::of_request(body) });
        async move { Ok::<_, Infallible>(answer.await) }
    });
    http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(CALLS)
        .serve_connection(connection.into_inner(), handle)
        .await
        .map_err(io::Error::other)
}

/// Answers with one message.
pub(crate) fn unary<M: Message + 'static>(answer: Result<M, Status>) -> Response {
    stream(futures_util::stream::once(std::future::ready(answer)))
}

/// Answers with messages until the first error.
pub(crate) fn stream<M: Message + 'static>(
    messages: impl Stream<Item = Result<M, Status>> + Send + 'static,
) -> Response {
    let state = Some(Box::pin(messages));
    let frames = futures_util::stream::unfold(state, |state| async move {
        let mut messages = state?;
        Some(match messages.next().await {
            Some(Ok(message)) => (Ok(Frame::data(frame(&message))), Some(messages)),
            Some(Err(status)) => (Ok::<_, io::Error>(Frame::trailers(Status::trailers(Err(&status)))), None),
            None => (Ok(Frame::trailers(Status::trailers(Ok(())))), None),
        })
    });
    let mut response = http::Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
