//! Typed client of the Engine API over unix sockets, TCP, TLS and `ssh`.
//!
//! One [`Client`] keeps idle HTTP/1.1 connections and speaks one API version; there is no extra request to find
//! that version: the first answer that says "too new" lowers it and the request is sent again. Bodies that cannot
//! be sent twice ask with `/_ping` first. The client never prints and reads no environment.

mod client;
mod connect;
mod endpoint;
mod error;
mod hijack;
mod ops;
mod query;
mod request;
mod stream;
mod tls;

pub use client::{Client, MAX_API_VERSION};
pub use endpoint::{Endpoint, TlsFiles};
pub use error::Error;
pub use hijack::{Hijacked, ReadHalf, WriteHalf};
pub use ops::{AttachOptions, LogOptions};
pub use query::{Filters, Query};
pub use request::{Body, Request};
pub use stream::{ByteStream, JsonLines};
