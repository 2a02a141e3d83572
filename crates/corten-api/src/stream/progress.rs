//! Progress of long operations as a stream of JSON messages.
//!
//! The status line waits for the first message: an operation that fails before it has said anything is answered as
//! any other error. Later failures are the last message. The queue never blocks the operation; while the client
//! is slow, byte counts are left out, everything else is kept.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use corten_base::Cancel;
use corten_image::{Progress, ProgressEvent};
use corten_wire::api::stream::{JsonMessage, ProgressDetail};
use http::{HeaderValue, header};
use serde_json::json;
use tokio::sync::mpsc;

use crate::body::streamed;
use crate::call::Answer;
use crate::error::ApiError;

/// Byte counts are left out above this many waiting messages.
const BUSY: usize = 256;

/// Where an operation sends its messages.
#[derive(Debug, Clone)]
pub(crate) struct Sink {
    sender: mpsc::UnboundedSender<Bytes>,
    waiting: Arc<AtomicUsize>,
    cancel: Cancel,
}

impl Sink {
    /// Sends a message.
    pub(crate) fn send(&self, message: &JsonMessage) {
        let Ok(mut text) = serde_json::to_vec(message) else { return };
        text.extend_from_slice(b"\r\n");
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if self.sender.send(text.into()).is_err() {
            self.cancel.cancel();
        }
    }

    /// Sends what an image operation reports.
    pub(crate) fn event(&self, event: &ProgressEvent) {
        let counts = matches!(event, ProgressEvent::Layer { bytes: Some((done, total)), .. } if done < total);
        if counts && self.waiting.load(Ordering::Relaxed) > BUSY {
            return;
        }
        for message in messages(event) {
            self.send(&message);
        }
    }

    /// The same for code that takes a [`Progress`].
    pub(crate) fn progress(&self) -> Progress {
        let sink = self.clone();
        Progress::new(move |event| sink.event(&event))
    }
}

/// Docker's messages for an event.
fn messages(event: &ProgressEvent) -> Vec<JsonMessage> {
    match event {
        ProgressEvent::Message(text) => vec![JsonMessage::status("", text.as_str())],
        ProgressEvent::Subject { id, text } => vec![JsonMessage::status(id.as_str(), text.as_str())],
        ProgressEvent::Stream(text) => vec![JsonMessage::stream(text.as_str())],
        ProgressEvent::Layer { id, phase, bytes } => {
            let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            let detail = bytes.map_or_else(ProgressDetail::default, |(done, total)| ProgressDetail {
                current: number(done),
                total: number(total),
                ..ProgressDetail::default()
            });
            let mut message = JsonMessage::status(id.as_str(), phase.to_string());
            message.progress_detail = Some(detail);
            vec![message]
        }
        ProgressEvent::Pushed { tag, digest, size } => {
            let mut aux = JsonMessage::aux(json!({ "Tag": tag, "Digest": digest.to_string(), "Size": size }));
            aux.progress_detail = Some(ProgressDetail::default());
            vec![aux]
        }
    }
}

/// How a failure is answered that comes before the first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Early {
    /// By its status.
    Status,
    /// By 200 and a message, as later ones.
    Message,
}

/// Runs an operation in a task of its own and answers with what it says. `code` of the error message comes from
/// `exit_code`. The operation is cancelled when the client leaves.
pub(crate) async fn progress<F>(early: Early, operation: impl FnOnce(Sink, Cancel) -> F) -> Answer
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let cancel = Cancel::new();
    let guard = cancel.on_drop();
    let (sender, mut receiver) = mpsc::unbounded_channel::<Bytes>();
    let sink = Sink { sender, waiting: Arc::new(AtomicUsize::new(0)), cancel: cancel.clone() };
    let waiting = Arc::clone(&sink.waiting);
    let mut running = tokio::spawn(operation(sink, cancel));
    let first = tokio::select! {
        biased;
        first = receiver.recv() => first,
        ended = &mut running => {
            // Everything it said is in the queue by now.
            match (receiver.try_recv().ok(), flatten(ended)) {
                (None, Err(failure)) if early == Early::Status => return Err(failure.error),
                (first, ended) => return Ok(finished(first, receiver, ended)),
            }
        }
    };
    let Some(first) = first else {
        // The sink is gone: the operation has ended or is about to.
        return match flatten(running.await) {
            Err(failure) if early == Early::Status => Err(failure.error),
            ended => Ok(finished(None, receiver, ended)),
        };
    };
    let state = (Some(first), receiver, Some(running), guard, waiting);
    let messages =
        futures_util::stream::unfold(state, |(first, mut receiver, running, guard, waiting)| async move {
            let next = match first {
                Some(first) => Some(first),
                None => receiver.recv().await,
            };
            if let Some(message) = next {
                waiting.fetch_sub(1, Ordering::Relaxed);
                return Some((Ok(message), (None, receiver, running, guard, waiting)));
            }
            let failure = flatten(running?.await).err()?;
            Some((last(&failure), (None, receiver, None, guard, waiting)))
        });
    Ok(answer(messages))
}

/// Why an operation ended early.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: ApiError,
    /// Exit code of a failed build step.
    pub(crate) exit_code: i64,
}

impl<E: Into<ApiError>> From<E> for Failure {
    fn from(e: E) -> Self {
        Self { error: e.into(), exit_code: 0 }
    }
}

fn flatten(ended: Result<Result<(), Failure>, tokio::task::JoinError>) -> Result<(), Failure> {
    ended.unwrap_or_else(|e| Err(ApiError::internal(e.to_string()).into()))
}

fn last(failure: &Failure) -> io::Result<Bytes> {
    super::json_line(&JsonMessage::error(failure.error.message.as_str(), failure.exit_code), b"\r\n")
}

fn finished(
    first: Option<Bytes>,
    mut receiver: mpsc::UnboundedReceiver<Bytes>,
    ended: Result<(), Failure>,
) -> crate::body::Response {
    let mut all: Vec<io::Result<Bytes>> = first.into_iter().map(Ok).collect();
    while let Ok(message) = receiver.try_recv() {
        all.push(Ok(message));
    }
    if let Err(failure) = ended {
        all.push(last(&failure));
    }
    answer(futures_util::stream::iter(all))
}

fn answer(
    messages: impl futures_util::Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> crate::body::Response {
    let mut response = http::Response::new(streamed(messages));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn text(answer: Answer) -> String {
        let all = answer.unwrap().into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(all.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn early_failures_are_plain_errors_and_late_ones_messages() {
        let early = progress(Early::Status, |_, _| async { Err(ApiError::invalid("no").into()) }).await;
        assert_eq!(early.unwrap_err().message, "no");
        let late = progress(Early::Status, |sink, _| async move {
            sink.send(&JsonMessage::status("", "on my way"));
            tokio::task::yield_now().await;
            Err(Failure { error: ApiError::invalid("no"), exit_code: 3 })
        })
        .await;
        assert_eq!(
            text(late).await,
            "{\"status\":\"on my way\"}\r\n{\"error\":\"no\",\"errorDetail\":{\"code\":3,\"message\":\"no\"}}\r\n"
        );
        assert_eq!(text(progress(Early::Status, |_, _| async { Ok(()) }).await).await, "");
    }

    #[tokio::test]
    async fn dropping_the_answer_cancels() {
        let (tell, told) = tokio::sync::oneshot::channel();
        let answer = progress(Early::Status, |sink, cancel| async move {
            sink.send(&JsonMessage::stream("x"));
            cancel.cancelled().await;
            tell.send(()).unwrap();
            Ok(())
        })
        .await;
        drop(answer);
        told.await.unwrap();
    }
}
