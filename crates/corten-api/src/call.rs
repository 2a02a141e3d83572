//! One request on its way through a handler, and the ordinary answers.

use std::sync::Arc;

use bytes::Bytes;
use corten_wire::api::GoValue;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::body::{Response, full};
use crate::compat;
use crate::edge_io::{Link, RAW_HEADER};
use crate::error::ApiError;
use crate::handlers::Route;
use crate::query::Query;
use crate::services::Services;
use crate::version::ApiVersion;

/// The largest JSON document that is read.
const MAX_JSON: usize = 8 << 20;

/// What a handler answers.
pub(crate) type Answer = Result<Response, ApiError>;

/// One request.
pub(crate) struct Call {
    pub(crate) services: Arc<Services>,
    pub(crate) version: ApiVersion,
    pub(crate) route: &'static Route,
    pub(crate) method: Method,
    pub(crate) variables: Vec<String>,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Incoming,
    /// Where the client may be given the connection.
    pub(crate) upgrade: Option<OnUpgrade>,
    pub(crate) link: Arc<Link>,
}

impl Call {
    /// The first variable of the path.
    pub(crate) fn name(&self) -> &str {
        self.variables.first().map_or("", String::as_str)
    }

    /// A header as text; empty where it is not there or no text.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// Hijacked without `Upgrade` (see `edge_io`).
    pub(crate) fn is_raw_hijack(&self) -> bool {
        self.headers.contains_key(RAW_HEADER)
    }

    fn check_json(&self) -> Result<(), ApiError> {
        let text = self.header("content-type");
        let empty = hyper::body::Body::size_hint(&self.body).exact() == Some(0);
        if text.is_empty() && empty {
            return Ok(());
        }
        if text.is_empty() {
            return Err(ApiError::invalid("malformed Content-Type header (): mime: no media type"));
        }
        let kind = text.split(';').next().unwrap_or_default().trim();
        if kind.eq_ignore_ascii_case("application/json") {
            return Ok(());
        }
        Err(ApiError::invalid(format!(
            "unsupported Content-Type header ({kind}): must be 'application/json'"
        )))
    }

    /// Reads the whole body, which must say that it is JSON.
    pub(crate) async fn json_bytes(&mut self) -> Result<Bytes, ApiError> {
        self.check_json()?;
        // The body is read to its end, so nothing is lost by taking it in place.
        match Limited::new(&mut self.body, MAX_JSON).collect().await {
            Ok(all) => Ok(all.to_bytes()),
            Err(e) if e.is::<LengthLimitError>() => Err(ApiError::invalid("http: request body too large")),
            Err(e) => Err(ApiError::invalid(format!("reading the request: {e}"))),
        }
    }

    /// The body as the newest version would have sent it.
    pub(crate) async fn json_value(&mut self) -> Result<GoValue, ApiError> {
        let bytes = self.json_bytes().await?;
        let mut value = GoValue::parse_body(&bytes)?;
        compat::request(self.route.pattern, self.version, value.value_mut());
        Ok(value)
    }

    /// The body.
    pub(crate) async fn json<T: DeserializeOwned>(&mut self) -> Result<T, ApiError> {
        let value = self.json_value().await?;
        value.read().map_err(|e| corten_wire::api::DecodeError::from(e).into())
    }

    /// The body, or the default where there is none.
    pub(crate) async fn json_or_default<T: DeserializeOwned + Default>(&mut self) -> Result<T, ApiError> {
        let bytes = self.json_bytes().await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(T::default());
        }
        let mut value = GoValue::parse_body(&bytes)?;
        compat::request(self.route.pattern, self.version, value.value_mut());
        value.read().map_err(|e| corten_wire::api::DecodeError::from(e).into())
    }

    /// An answer in JSON, in the shape of the client's version.
    pub(crate) fn answer<T: Serialize>(&self, status: StatusCode, value: &T) -> Answer {
        if compat::changes_response(self.route.pattern, self.version) {
            let mut value = serde_json::to_value(value).map_err(|e| ApiError::internal(e.to_string()))?;
            compat::response(self.route.pattern, self.version, &mut value);
            return json(status, &value);
        }
        json(status, value)
    }

    /// 200 with JSON.
    pub(crate) fn ok<T: Serialize>(&self, value: &T) -> Answer {
        self.answer(StatusCode::OK, value)
    }

    /// 201 with JSON.
    pub(crate) fn created<T: Serialize>(&self, value: &T) -> Answer {
        self.answer(StatusCode::CREATED, value)
    }
}

/// An array that is written item by item, each already in the shape of the client's version.
#[derive(Debug, Default)]
pub(crate) struct Array {
    bytes: Vec<u8>,
}

impl Array {
    pub(crate) fn push<T: Serialize>(&mut self, item: &T) -> Result<(), ApiError> {
        self.bytes.push(if self.bytes.is_empty() { b'[' } else { b',' });
        serde_json::to_writer(&mut self.bytes, item).map_err(|e| ApiError::internal(e.to_string()))
    }

    /// 200 with what was pushed.
    pub(crate) fn answer(mut self) -> Response {
        if self.bytes.is_empty() {
            self.bytes.push(b'[');
        }
        self.bytes.extend_from_slice(b"]\n");
        json_bytes(StatusCode::OK, self.bytes)
    }
}

/// An answer in JSON, ended by a newline as Go's encoder does.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Answer {
    let mut bytes = serde_json::to_vec(value).map_err(|e| ApiError::internal(e.to_string()))?;
    bytes.push(b'\n');
    Ok(json_bytes(status, bytes))
}

fn json_bytes(status: StatusCode, bytes: Vec<u8>) -> Response {
    let mut response = http::Response::new(full(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Answer {
    let mut response = http::Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    Ok(response)
}

/// 204.
pub(crate) fn no_content() -> Answer {
    empty(StatusCode::NO_CONTENT)
}

/// The answer of a failed request.
pub(crate) fn failed(error: &ApiError) -> Response {
    json(error.status, &error.body()).unwrap_or_else(|_| http::Response::new(full(Bytes::new())))
}
