//! Requests and their bodies.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body_util::StreamBody;
use http_body_util::combinators::BoxBody;
use hyper::body::Frame;

use crate::Query;

pub(crate) type OutBody = BoxBody<Bytes, std::io::Error>;

/// What a request carries.
#[derive(Default)]
pub enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// JSON text.
    Json(Bytes),
    /// Bytes that come as they are made, with their media type.
    Stream(&'static str, OutBody),
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Json(_) => "Json",
            Self::Stream(..) => "Stream",
        })
    }
}

impl Body {
    /// A body made from a stream of chunks.
    pub fn stream(
        media_type: &'static str,
        chunks: impl Stream<Item = std::io::Result<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        Self::Stream(media_type, BoxBody::new(StreamBody::new(chunks.map(|c| c.map(Frame::data)))))
    }

    /// A value as JSON.
    #[must_use]
    pub fn json(value: &impl serde::Serialize) -> Self {
        Self::Json(serde_json::to_vec(value).unwrap_or_default().into())
    }
}

/// One request, its path without the version.
#[derive(Debug, Default)]
pub struct Request {
    /// Method.
    pub method: Method,
    /// `/containers/…`, percent-encoded.
    pub path: String,
    /// Parameters.
    pub query: Query,
    /// Further headers.
    pub headers: HeaderMap,
    /// Content.
    pub body: Body,
}

impl Request {
    /// A request without a body.
    #[must_use]
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), ..Self::default() }
    }

    /// The same request again, where its body can be sent twice.
    pub(crate) fn replay(&self) -> Option<Self> {
        let body = match &self.body {
            Body::Stream(..) => return None,
            Body::Empty => Body::Empty,
            Body::Json(bytes) => Body::Json(bytes.clone()),
        };
        let (method, headers) = (self.method.clone(), self.headers.clone());
        Some(Self { method, path: self.path.clone(), query: self.query.clone(), headers, body })
    }

    /// With parameters.
    #[must_use]
    pub fn query(mut self, query: Query) -> Self {
        self.query = query;
        self
    }

    /// With a body.
    #[must_use]
    pub fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    /// With a header; one whose value has forbidden bytes is left out.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }
}
