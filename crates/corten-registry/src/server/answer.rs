//! Answers: bodies, and errors in the specification's JSON.

use std::io;

use bytes::Bytes;
use corten_wire::distribution::{ErrorBody, Errors, code, message_of};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};

/// Body of an answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;
/// An answer.
pub(crate) type Answer = Response<Body>;

/// A request that is not granted.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl Refusal {
    /// With the reference registry's message.
    pub(crate) fn new(status: StatusCode, code: &'static str) -> Self {
        Self { status, code, message: message_of(code).to_owned(), headers: Vec::new() }
    }

    pub(crate) fn because(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn into_answer(self, is_head: bool) -> Answer {
        let body = Errors {
            errors: vec![ErrorBody { code: self.code.to_owned(), message: self.message, detail: None }],
        };
        let bytes = serde_json::to_vec(&body).unwrap_or_default();
        let mut answer = Response::builder()
            .status(self.status)
            .header(CONTENT_TYPE, "application/json; charset=utf-8")
            .header(CONTENT_LENGTH, bytes.len());
        for (name, value) in self.headers {
            answer = answer.header(name, value);
        }
        answer.body(if is_head { empty() } else { full(bytes) }).unwrap_or_else(|_| Response::new(empty()))
    }
}

/// The disk fails: the client hears that, the log why.
impl From<io::Error> for Refusal {
    fn from(e: io::Error) -> Self {
        tracing::error!(error = %e, "registry storage");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, code::UNKNOWN)
    }
}

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|e| match e {}).boxed_unsync()
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|e| match e {}).boxed_unsync()
}

/// An answer without a body.
pub(crate) fn plain(status: StatusCode, headers: &[(&str, String)]) -> Answer {
    build(status, headers, empty())
}

/// An answer in JSON.
pub(crate) fn json<T: serde::Serialize>(value: &T, media_type: &str, headers: &[(&str, String)]) -> Answer {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    let mut all = vec![("content-type", media_type.to_owned()), ("content-length", bytes.len().to_string())];
    all.extend(headers.iter().cloned());
    build(StatusCode::OK, &all, full(bytes))
}

/// An answer. Values come from us and from checked input; one that is no header value is left out.
pub(crate) fn build(status: StatusCode, headers: &[(&str, String)], body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (http::HeaderName::try_from(*name), http::HeaderValue::try_from(value))
        {
            answer.headers_mut().append(name, value);
        }
    }
    answer
}
