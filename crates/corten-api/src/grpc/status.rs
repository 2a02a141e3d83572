//! How a call ended.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use bollard_buildkit_proto::google;
use http::{HeaderMap, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use prost::Message;

/// More about an error, in a form of its own.
pub(crate) type Detail = google::protobuf::Any;

/// What clients do not escape in `grpc-message`.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');
/// Headers are limited by HTTP/2's peers; an error that is longer is cut.
const LONGEST_MESSAGE: usize = 4096;
const LONGEST_DETAILS: usize = 256 << 10;

/// The numbers of gRPC that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Code {
    Cancelled = 1,
    Unknown = 2,
    NotFound = 5,
    AlreadyExists = 6,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

/// A call that failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Status {
    pub(crate) code: i32,
    pub(crate) message: String,
    pub(crate) details: Vec<Detail>,
}

impl Status {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code: code as i32, message: message.into(), details: Vec::new() }
    }

    /// The other side spoke what cannot be understood.
    pub(crate) fn protocol(error: impl std::fmt::Display) -> Self {
        Self::new(Code::Internal, format!("gRPC: {error}"))
    }

    /// The connection is gone.
    pub(crate) fn gone(error: impl std::fmt::Display) -> Self {
        Self::new(Code::Unavailable, format!("the connection to the client is closed: {error}"))
    }

    pub(crate) fn is(&self, code: Code) -> bool {
        self.code == code as i32
    }

    /// Trailers of an end.
    pub(crate) fn trailers(ended: Result<(), &Self>) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        let Err(status) = ended else {
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            return trailers;
        };
        trailers.insert("grpc-status", HeaderValue::from(status.code));
        let mut end = status.message.len().min(LONGEST_MESSAGE);
        while !status.message.is_char_boundary(end) {
            end -= 1;
        }
        let message = utf8_percent_encode(&status.message[..end], ESCAPED).to_string();
        if let Ok(value) = HeaderValue::from_str(&message) {
            trailers.insert("grpc-message", value);
        }
        if !status.details.is_empty() {
            let whole = google::rpc::Status {
                code: status.code,
                message: status.message[..end].to_owned(),
                details: status.details.clone(),
            };
            let text = BASE64_STANDARD_NO_PAD.encode(whole.encode_to_vec());
            if text.len() <= LONGEST_DETAILS
                && let Ok(value) = HeaderValue::from_str(&text)
            {
                trailers.insert("grpc-status-details-bin", value);
            }
        }
        trailers
    }

    /// Reads trailers; `None` where they say nothing about the end.
    pub(crate) fn read(trailers: &HeaderMap) -> Option<Result<(), Self>> {
        let text = |name: &str| trailers.get(name).and_then(|v| v.to_str().ok());
        let code: i32 = text("grpc-status")?.parse().unwrap_or(Code::Unknown as i32);
        if code == 0 {
            return Some(Ok(()));
        }
        let message = percent_decode_str(text("grpc-message").unwrap_or_default()).decode_utf8_lossy();
        let details = text("grpc-status-details-bin").and_then(|t| {
            let bytes = BASE64_STANDARD_NO_PAD.decode(t.trim_end_matches('=')).ok()?;
            google::rpc::Status::decode(&bytes[..]).ok()
        });
        let details = details.map(|s| s.details).unwrap_or_default();
        Some(Err(Self { code, message: message.into_owned(), details }))
    }

    /// A detail in JSON, as BuildKit's typed errors are.
    pub(crate) fn detail(kind: &str, value: &serde_json::Value) -> Detail {
        let type_url = format!("github.com/moby/buildkit/{kind}+json");
        Detail { type_url, value: value.to_string().into_bytes() }
    }
}

impl From<google::rpc::Status> for Status {
    fn from(s: google::rpc::Status) -> Self {
        Self { code: s.code, message: s.message, details: s.details }
    }
}

/// Bytes within the JSON of a detail.
pub(crate) fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// What [`base64`] made of bytes.
pub(crate) fn base64_decode(text: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_say_what_was_said() {
        let mut status = Status::new(Code::NotFound, "100 % weg: ä\nnext");
        status.details.push(Status::detail("errdefs.Vertex", &serde_json::json!({"digest": "sha256:1"})));
        let trailers = Status::trailers(Err(&status));
        assert_eq!(trailers["grpc-status"], "5");
        assert_eq!(trailers["grpc-message"], "100 %25 weg: %C3%A4%0Anext");
        assert_eq!(Status::read(&trailers), Some(Err(status)));
        assert_eq!(Status::read(&Status::trailers(Ok(()))), Some(Ok(())));
        assert_eq!(Status::read(&HeaderMap::new()), None);
        let long = Status::new(Code::Unknown, "ä".repeat(LONGEST_MESSAGE));
        assert!(Status::trailers(Err(&long)).contains_key("grpc-message"));
    }
}
