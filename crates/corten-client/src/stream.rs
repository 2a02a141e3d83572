//! Answers that come bit by bit.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use http_body_util::BodyStream;
use hyper::body::Incoming;

use crate::Error;

/// One line of a JSON stream is at most this long.
const MAX_LINE: usize = 16 << 20;

/// The body of an answer, chunk by chunk.
#[derive(Debug)]
pub struct ByteStream(BodyStream<Incoming>);

impl ByteStream {
    pub(crate) fn from_answer(answer: http::Response<Incoming>) -> Self {
        Self(BodyStream::new(answer.into_body()))
    }

    /// The next chunk; `None` at the end.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            match self.0.next().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// An answer made of JSON values one after the other.
#[derive(Debug)]
pub struct JsonLines {
    stream: ByteStream,
    buffer: BytesMut,
    ready: VecDeque<serde_json::Value>,
}

impl JsonLines {
    pub(crate) fn new(stream: ByteStream) -> Self {
        Self { stream, buffer: BytesMut::new(), ready: VecDeque::new() }
    }

    /// The next value; `None` at the end.
    ///
    /// # Errors
    /// The connection broke, or what came is not JSON.
    pub async fn next(&mut self) -> Result<Option<serde_json::Value>, Error> {
        loop {
            if let Some(value) = self.ready.pop_front() {
                return Ok(Some(value));
            }
            let chunk = self.stream.next().await?;
            let end = chunk.is_none();
            if let Some(chunk) = chunk {
                self.buffer.extend_from_slice(&chunk);
            }
            let mut values =
                serde_json::Deserializer::from_slice(&self.buffer).into_iter::<serde_json::Value>();
            let mut consumed = 0;
            loop {
                match values.next() {
                    Some(Ok(value)) => {
                        consumed = values.byte_offset();
                        self.ready.push_back(value);
                    }
                    Some(Err(e)) if e.is_eof() => break,
                    Some(Err(e)) => return Err(Error::Answer(e.to_string())),
                    None => {
                        consumed = self.buffer.len();
                        break;
                    }
                }
            }
            self.buffer.advance(consumed);
            if self.buffer.len() > MAX_LINE {
                return Err(Error::Answer("a line of the stream is too long".into()));
            }
            if end && self.ready.is_empty() {
                return if self.buffer.iter().all(u8::is_ascii_whitespace) {
                    Ok(None)
                } else {
                    Err(Error::Answer("unexpected EOF".into()))
                };
            }
        }
    }
}
