//! Messages out of a body, and into one.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost::Message;

use super::status::{Code, Status};

/// The largest message that is read.
const LONGEST: usize = 16 << 20;
const HEAD: usize = 5;

/// A message with its head.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(HEAD + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // The buffer grows; it cannot be too small.
    let _ = message.encode(&mut bytes);
    bytes.freeze()
}

/// The answer to a call that was sent, or its body.
enum From {
    Answer(std::pin::Pin<Box<dyn Future<Output = Result<http::Response<Incoming>, Status>> + Send>>),
    Body(Incoming),
    Ended,
}

/// Messages of the other side. Dropping it before the end gives up the call.
pub(crate) struct Messages {
    from: From,
    buffer: BytesMut,
    /// Whether the end must be told by trailers: so it is for answers.
    is_answer: bool,
}

impl std::fmt::Debug for Messages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Messages").field("buffered", &self.buffer.len()).finish_non_exhaustive()
    }
}

impl Messages {
    /// Of a request.
    pub(crate) fn of_request(body: Incoming) -> Self {
        Self { from: From::Body(body), buffer: BytesMut::new(), is_answer: false }
    }

    /// Of an answer that is yet to come.
    pub(crate) fn of_answer(
        answer: impl Future<Output = Result<http::Response<Incoming>, Status>> + Send + 'static,
    ) -> Self {
        Self { from: From::Answer(Box::pin(answer)), buffer: BytesMut::new(), is_answer: true }
    }

    /// The next message; `None` at a good end.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(Some(message));
            }
            match &mut self.from {
                From::Ended => return Ok(None),
                From::Answer(answer) => {
                    let (head, body) = answer.await?.into_parts();
                    // An answer without messages has its trailers in its head.
                    if let Some(ended) = Status::read(&head.headers) {
                        self.from = From::Ended;
                        return ended.map(|()| None);
                    }
                    self.from = From::Body(body);
                }
                From::Body(body) => match body.frame().await {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => self.buffer.extend_from_slice(&data),
                        Err(frame) => {
                            let trailers = frame.into_trailers().unwrap_or_default();
                            return self.end(&trailers).map(|()| None);
                        }
                    },
                    Some(Err(e)) => return Err(Status::gone(e)),
                    None => return self.end(&HeaderMap::new()).map(|()| None),
                },
            }
        }
    }

    /// The only message.
    pub(crate) async fn only<M: Message + Default>(&mut self) -> Result<M, Status> {
        let message = self.next().await?.ok_or_else(|| Status::protocol("a message is missing"))?;
        // The end says whether the call succeeded.
        self.next::<M>().await?;
        Ok(message)
    }

    fn end(&mut self, trailers: &HeaderMap) -> Result<(), Status> {
        self.from = From::Ended;
        if !self.buffer.is_empty() {
            return Err(Status::protocol("the last message is cut off"));
        }
        match Status::read(trailers) {
            Some(ended) => ended,
            None if self.is_answer => Err(Status::gone("no status")),
            None => Ok(()),
        }
    }

    fn buffered<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        if self.buffer.len() < HEAD {
            return Ok(None);
        }
        let length = u32::from_be_bytes([self.buffer[1], self.buffer[2], self.buffer[3], self.buffer[4]]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if self.buffer[0] != 0 {
            return Err(Status::new(Code::Unimplemented, "gRPC: compressed messages are not supported"));
        }
        if length > LONGEST {
            let message = format!("gRPC: a message of {length} bytes is larger than {LONGEST}");
            return Err(Status::new(Code::ResourceExhausted, message));
        }
        if self.buffer.len() < HEAD + length {
            self.buffer.reserve(HEAD + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(HEAD);
        let bytes = self.buffer.split_to(length).freeze();
        M::decode(bytes).map(Some).map_err(Status::protocol)
    }
}
