//! `GET /events`: what is remembered, then what happens, until the client leaves or the window ends.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use corten_base::event::{Event, Subscription};
use http::{HeaderValue, header};
use serde_json::Value;

use crate::body::streamed;
use crate::call::{Answer, Call};

/// Which times are wanted, in nanoseconds since the epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EventWindow {
    pub(crate) since: i128,
    pub(crate) until: Option<i128>,
}

impl EventWindow {
    fn holds(&self, time_ns: i128) -> bool {
        time_ns >= self.since && self.until.is_none_or(|until| time_ns <= until)
    }

    fn left(&self) -> Option<Duration> {
        let until = self.until?;
        Some(Duration::from_nanos(u64::try_from(until - corten_base::time::now_ns()).unwrap_or(0)))
    }
}

#[derive(Debug, Clone, Copy)]
enum Format {
    Json,
    Lines,
    Sequence,
}

impl Format {
    fn chosen(accept: &str) -> (Self, &'static str) {
        for wanted in accept.split(',') {
            match wanted.split(';').next().unwrap_or_default().trim() {
                "application/json-seq" => return (Self::Sequence, "application/json-seq"),
                "application/jsonl" => return (Self::Lines, "application/jsonl"),
                "application/x-ndjson" => return (Self::Lines, "application/x-ndjson"),
                "application/json" => break,
                _ => {}
            }
        }
        (Self::Json, "application/json")
    }

    fn write(self, value: &Value) -> io::Result<Bytes> {
        let mut text = Vec::with_capacity(512);
        if let Self::Sequence = self {
            text.push(0x1e);
        }
        serde_json::to_writer(&mut text, value)?;
        text.push(b'\n');
        Ok(text.into())
    }
}

/// The stream of the events that `encode` has something to say about.
pub(crate) fn events(
    call: &Call,
    window: EventWindow,
    past: Vec<Arc<Event>>,
    mut subscription: Subscription,
    encode: impl Fn(&Arc<Event>) -> Option<Value> + Send + Sync + 'static,
) -> Answer {
    let (format, content_type) = Format::chosen(call.header("accept"));
    let (sender, receiver) = tokio::sync::mpsc::channel::<io::Result<Bytes>>(64);
    tokio::spawn(async move {
        let wanted = |event: &Arc<Event>| window.holds(event.time_ns).then(|| encode(event)).flatten();
        for value in past.iter().filter_map(&wanted) {
            if sender.send(format.write(&value)).await.is_err() {
                return;
            }
        }
        drop(past);
        let end = async {
            match window.left() {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        let mut end = std::pin::pin!(end);
        loop {
            let event = tokio::select! {
                biased;
                () = sender.closed() => return,
                event = subscription.receive() => event,
                () = end.as_mut() => return,
            };
            if let Some(value) = wanted(&event)
                && sender.send(format.write(&value)).await.is_err()
            {
                return;
            }
        }
    });
    let mut response = http::Response::new(streamed(crate::body::channel_stream(receiver, ())));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        for (accept, want) in [
            ("", "application/json"),
            ("*/*", "application/json"),
            ("application/json-seq, application/json", "application/json-seq"),
            ("application/json;q=1, application/jsonl", "application/json"),
            ("application/x-ndjson", "application/x-ndjson"),
        ] {
            assert_eq!(Format::chosen(accept).1, want, "{accept}");
        }
        assert_eq!(&Format::Sequence.write(&Value::Null).unwrap()[..], b"\x1enull\n");
    }
}
