//! The Engine API's HTTP edge: listeners, routes, versions, streams, errors. No logic: a handler takes a request
//! apart, makes one call to the owner of the matter, and writes the answer.
//!
//! # Tasks
//!
//! One task per listener accepts; one task per connection serves it. Requests whose route says
//! `Detach` run in a task of their own, so that a client that leaves does not stop them half
//! way; all others are dropped with their connection, which sets the [`corten_base::Cancel`] of what they started.
//! A hijacked connection is served by the task that pumps it.

mod body;
mod buildkit;
mod call;
mod compat;
mod convert;
mod edge_io;
mod error;
mod grpc;
mod handlers;
pub mod listen;
pub mod metrics;
mod puller;
mod query;
mod router;
mod server;
mod services;
mod stream;
mod version;

pub use buildkit::BuildKit;
pub use error::{ApiError, status_of};
pub use server::Server;
pub use services::{DaemonInfo, Services};
