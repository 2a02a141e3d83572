//! gRPC over a connection that is there already: both sides, as much of it as BuildKit's clients speak.
//!
//! ```text
//!   a call        POST /service/Method, HTTP/2, content-type application/grpc
//!   a message     0 | length (4 bytes, big endian) | protobuf        compressed messages are refused
//!   the end       trailers grpc-status, grpc-message, grpc-status-details-bin
//! ```
//! Connections come out of a hijack: HTTP/2 is spoken from the first byte, nothing is negotiated.

mod client;
mod message;
mod server;
mod status;

pub(crate) use client::{Channel, Sender};
pub(crate) use message::Messages;
pub(crate) use server::{Request, serve, stream, unary};
pub(crate) use status::{Code, Status, base64, base64_decode};
