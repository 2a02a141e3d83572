//! Messages of progress streams (pull, push, load, import, build), and the frames of multiplexed output.

use serde::{Deserialize, Serialize};

use super::{ErrorResponse, is_default};

/// Output with a terminal: bytes as they come.
pub const RAW_STREAM: &str = "application/vnd.docker.raw-stream";
/// Output without a terminal: frames of [`frame_header`].
pub const MULTIPLEXED_STREAM: &str = "application/vnd.docker.multiplexed-stream";

/// One message of a progress stream; only what is said is there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JsonMessage {
    /// Text to print as it is (build output, `Loaded image: …`).
    #[serde(skip_serializing_if = "is_default")]
    pub stream: String,
    /// `Downloading`, `Pull complete`, …
    #[serde(skip_serializing_if = "is_default")]
    pub status: String,
    /// How far.
    #[serde(rename = "progressDetail", skip_serializing_if = "Option::is_none")]
    pub progress_detail: Option<ProgressDetail>,
    /// The bar as text, for old clients.
    #[serde(skip_serializing_if = "is_default")]
    pub progress: String,
    /// Short id of the layer.
    #[serde(skip_serializing_if = "is_default")]
    pub id: String,
    /// Same text as in the detail, for old clients; before it, as the reference engine writes it.
    #[serde(skip_serializing_if = "is_default")]
    pub error: String,
    /// Last message of a stream that failed.
    #[serde(rename = "errorDetail", skip_serializing_if = "Option::is_none")]
    pub error_detail: Option<ErrorDetail>,
    /// What programs want to know (`{"ID": …}`, `{"Tag", "Digest", "Size"}`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aux: Option<serde_json::Value>,
}

/// How far something is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgressDetail {
    /// Bytes done.
    #[serde(skip_serializing_if = "is_default")]
    pub current: i64,
    /// Bytes in all.
    #[serde(skip_serializing_if = "is_default")]
    pub total: i64,
    /// Other than bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub units: String,
    /// No numbers after the bar.
    #[serde(rename = "hidecounts", skip_serializing_if = "is_default")]
    pub hide_counts: bool,
}

/// Why a stream ended early.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorDetail {
    /// Exit code of a failed `RUN`.
    #[serde(skip_serializing_if = "is_default")]
    pub code: i64,
    /// For a person.
    pub message: String,
}

impl JsonMessage {
    /// Text to print.
    #[must_use]
    pub fn stream(text: impl Into<String>) -> Self {
        Self { stream: text.into(), ..Self::default() }
    }

    /// A status line, of a layer if `id` is not empty.
    #[must_use]
    pub fn status(id: impl Into<String>, text: impl Into<String>) -> Self {
        Self { id: id.into(), status: text.into(), ..Self::default() }
    }

    /// The end of a stream that failed; `code` of a failed command, else 0.
    #[must_use]
    pub fn error(message: impl Into<String>, code: i64) -> Self {
        let message = message.into();
        Self { error: message.clone(), error_detail: Some(ErrorDetail { code, message }), ..Self::default() }
    }

    /// For programs.
    #[must_use]
    pub fn aux(value: serde_json::Value) -> Self {
        Self { aux: Some(value), ..Self::default() }
    }
}

/// The error of a failed stream, as the client sees it.
impl From<ErrorResponse> for JsonMessage {
    fn from(e: ErrorResponse) -> Self {
        Self::error(e.message, 0)
    }
}

/// Which standard stream a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// 0; never sent by the engine.
    Stdin,
    /// 1.
    Stdout,
    /// 2.
    Stderr,
    /// 3: the message is an error of the engine.
    SystemError,
}

/// Head of a frame of `len` bytes.
#[must_use]
pub fn frame_header(kind: StreamKind, len: u32) -> [u8; 8] {
    let [a, b, c, d] = len.to_be_bytes();
    [kind as u8, 0, 0, 0, a, b, c, d]
}

/// Reads the head of a frame.
#[must_use]
pub fn parse_frame_header(head: [u8; 8]) -> Option<(StreamKind, u32)> {
    let kind = match head[0] {
        0 => StreamKind::Stdin,
        1 => StreamKind::Stdout,
        2 => StreamKind::Stderr,
        3 => StreamKind::SystemError,
        _ => return None,
    };
    (head[1..4] == [0, 0, 0]).then(|| (kind, u32::from_be_bytes([head[4], head[5], head[6], head[7]])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_go_both_ways() {
        let head = frame_header(StreamKind::Stderr, 258);
        assert_eq!(head, [2, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(parse_frame_header(head), Some((StreamKind::Stderr, 258)));
        assert_eq!(parse_frame_header(*b"hello wo"), None);
    }

    #[test]
    fn only_what_is_said_is_written() {
        let text = serde_json::to_string(&JsonMessage::error("no", 9)).unwrap();
        assert_eq!(text, r#"{"error":"no","errorDetail":{"code":9,"message":"no"}}"#);
    }
}
