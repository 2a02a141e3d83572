//! The distribution protocol: a client (resolve, fetch, push, log in) and a server.
//!
//! At this boundary content is bytes with a media type and a digest; what the bytes mean is the business of
//! `corten-image`. Neither side ever holds a blob in memory.
//!
//! ```text
//!   Client ── one per daemon: pool of connections, TLS, mirrors, insecure registries
//!     └─ Repository ── one per pull or push: endpoint found, credentials, tokens
//!          ├─ resolve / head ─▶ Manifest            GET manifests/<tag|digest>
//!          ├─ blob           ─▶ BlobStream          GET blobs/<digest>, resumes by itself
//!          ├─ push_blob, mount, has_blob            POST, PATCH, PUT uploads/
//!          └─ put_manifest, tags, referrers
//! ```

pub mod client;
pub mod credentials;
pub mod error;
pub mod server;

pub use client::config::{ClientConfig, InsecureRegistries, ProxyConfig};
pub use client::download::Download;
pub use client::pull::{BlobStream, Manifest, ManifestHead};
pub use client::push::{BlobSource, Progress};
pub use client::{Client, LoginOutcome, Repository, Target};
pub use credentials::Credentials;
pub use error::{ApiError, RegistryError, TransportError};
pub use server::{ServerConfig, ServerError, serve};

#[cfg(test)]
mod tests;
