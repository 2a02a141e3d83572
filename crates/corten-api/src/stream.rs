//! Streams: hijacked connections, progress, events, downloads.
//!
//! ```text
//!  hijack      client ⇄ Upgraded ⇄ pump ⇄ Attached (engine)       half-close in both directions
//!  progress    operation ──events──▶ queue ──CRLF-separated JSON──▶ body; the body's drop cancels the operation
//!  events      bus ──▶ filter ──▶ body
//! ```

mod events;
mod progress;
mod sha1;
mod websocket;

use std::io;

use bytes::Bytes;
use corten_wire::api::stream::{StreamKind, frame_header};
use futures_util::Stream;
use http::{HeaderValue, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::body::{Response, full, streamed};
use crate::call::{Answer, Call};
use crate::error::ApiError;

pub(crate) use events::{EventWindow, events};
pub(crate) use progress::{Early, Failure, Sink, progress};
pub(crate) use websocket::websocket;

/// What is copied at once.
const BLOCK: usize = 32 * 1024;

/// The client's side of a hijacked connection.
pub(crate) type Client = TokioIo<Upgraded>;

/// A streaming answer.
pub(crate) fn download(
    bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    content_type: &'static str,
) -> Response {
    let mut response = http::Response::new(streamed(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// One JSON document and what ends it.
pub(crate) fn json_line<T: Serialize>(value: &T, end: &[u8]) -> io::Result<Bytes> {
    let mut text = serde_json::to_vec(value)?;
    text.extend_from_slice(end);
    Ok(text.into())
}

/// The answer of a failed attach: the status, and the text as the client's terminal shows it.
pub(crate) fn refused(error: &ApiError) -> Response {
    let mut response = http::Response::new(full(format!("{}\r\n", error.message)));
    *response.status_mut() = error.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(corten_wire::api::stream::RAW_STREAM));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Answers `101 UPGRADED` and hands the connection to `serve`. Without `Upgrade` in the request the head becomes
/// the old `200 OK` on its way out (see `edge_io`).
pub(crate) fn hijack<F: Future<Output = io::Result<()>> + Send + 'static>(
    call: Call,
    content_type: &'static str,
    serve: impl FnOnce(Client) -> F + Send + 'static,
) -> Answer {
    let mut response = upgrade(call, "tcp", serve)?;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(response)
}

/// Answers `101 UPGRADED` and hands the connection to `serve`, which speaks `protocol` on it.
pub(crate) fn upgrade<F: Future<Output = io::Result<()>> + Send + 'static>(
    mut call: Call,
    protocol: &'static str,
    serve: impl FnOnce(Client) -> F + Send + 'static,
) -> Answer {
    let Some(upgrade) = call.upgrade.take() else {
        return Err(ApiError::invalid("this connection cannot be upgraded"));
    };
    let link = std::sync::Arc::clone(&call.link);
    tokio::spawn(async move {
        let client = upgrade.await;
        link.release_end();
        let served = match client {
            Ok(client) => serve(TokioIo::new(client)).await,
            Err(error) => Err(io::Error::other(error)),
        };
        if let Err(error) = served {
            tracing::debug!(%error, "hijacked connection");
        }
    });
    let mut response = http::Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.extensions_mut().insert(hyper::ext::ReasonPhrase::from_static(b"UPGRADED"));
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(protocol));
    Ok(response)
}

/// Copies in both directions until the far side has no more to say. The client's end of input is passed on; its
/// disappearance ends everything.
pub(crate) async fn pump<A: AsyncRead + AsyncWrite + Send + 'static>(
    client: Client,
    attached: A,
) -> io::Result<()> {
    copy_both(client, attached, false).await
}

/// As [`pump`], and raw output gets the frames of standard output.
pub(crate) async fn pump_framed<A: AsyncRead + AsyncWrite + Send + 'static>(
    client: Client,
    attached: A,
) -> io::Result<()> {
    copy_both(client, attached, true).await
}

async fn copy_both<A: AsyncRead + AsyncWrite + Send + 'static>(
    client: Client,
    attached: A,
    frame: bool,
) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut output, mut input) = tokio::io::split(attached);
    let upward = async {
        let mut block = vec![0; BLOCK];
        loop {
            let n = from_client.read(&mut block).await?;
            if n == 0 {
                return input.shutdown().await;
            }
            if input.write_all(&block[..n]).await.is_err() {
                // The process has closed its input; what the client still sends is for nobody.
                return tokio::io::copy(&mut from_client, &mut tokio::io::sink()).await.map(|_| ());
            }
            input.flush().await?;
        }
    };
    let downward = async {
        let mut block = vec![0; BLOCK];
        loop {
            let n = output.read(&mut block).await?;
            if n == 0 {
                return to_client.shutdown().await;
            }
            if frame {
                let length = u32::try_from(n).unwrap_or(u32::MAX);
                to_client.write_all(&frame_header(StreamKind::Stdout, length)).await?;
            }
            to_client.write_all(&block[..n]).await?;
            to_client.flush().await?;
        }
    };
    let mut upward = std::pin::pin!(upward);
    let mut downward = std::pin::pin!(downward);
    tokio::select! {
        done = downward.as_mut() => done,
        sent = upward.as_mut() => {
            sent?;
            downward.await
        }
    }
}

/// The text of an error as the last thing on a hijacked connection.
pub(crate) async fn last_words(mut client: Client, tty: bool, text: &str) -> io::Result<()> {
    let text = format!("{text}\r\n");
    if !tty {
        let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
        client.write_all(&frame_header(StreamKind::Stdout, len)).await?;
    }
    client.write_all(text.as_bytes()).await?;
    client.shutdown().await
}

/// Sends what a blocking function writes. The status line waits for the first block: a function that fails before it
/// has written anything is answered as any other error; a later failure breaks the connection.
pub(crate) async fn produce(
    content_type: &'static str,
    write: impl FnOnce(crate::body::ChannelWriter, corten_base::Cancel) -> Result<(), ApiError> + Send + 'static,
) -> Answer {
    let cancel = corten_base::Cancel::new();
    let guard = cancel.on_drop();
    let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
    let failed = sender.clone();
    let writing = tokio::task::spawn_blocking(move || {
        let written = write(crate::body::ChannelWriter::new(sender), cancel);
        if let Err(error) = &written {
            // After the first block this is all the client can be told.
            let _ = failed.blocking_send(Err(io::Error::other(error.message.clone())));
        }
        written
    });
    let first = match receiver.recv().await {
        Some(Ok(first)) => first,
        Some(Err(_)) | None => {
            writing.await.map_err(|e| ApiError::internal(e.to_string()))??;
            Bytes::new()
        }
    };
    let rest = crate::body::channel_stream(receiver, guard);
    let all = futures_util::StreamExt::chain(futures_util::stream::iter([Ok(first)]), rest);
    Ok(download(all, content_type))
}
