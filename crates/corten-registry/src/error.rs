//! What can go wrong between us and a registry, in Docker's words.
//!
//! `Display` of each error is one link; the edge joins the chain of `source()` with `: `, which gives Go's
//! texts (`Get "https://…/v2/": dial tcp …: connect: connection refused`).

use std::io;

use corten_base::Kind;
use corten_base::error::chain;
pub(crate) use corten_base::error::errno_text;
use corten_wire::distribution::{ErrorBody, code};

/// A failure of the client.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No answer, or the answer broke off.
    #[error("{method} \"{url}\"")]
    Request {
        /// `Get`, `Head`, … as Go writes them.
        method: &'static str,
        /// Without query secrets.
        url: String,
        /// Why.
        source: TransportError,
    },
    /// The registry refused, and pulling was what we wanted.
    #[error("pull access denied for {name}, repository does not exist or may require 'docker login'")]
    PullDenied {
        /// Familiar name.
        name: String,
        /// The registry's words.
        source: ApiError,
    },
    /// No such tag or digest.
    #[error("manifest for {reference} not found")]
    ManifestUnknown {
        /// Familiar reference.
        reference: String,
        /// The registry's words.
        source: ApiError,
    },
    /// No such repository.
    #[error("repository {name} not found")]
    NameUnknown {
        /// Familiar name.
        name: String,
        /// The registry's words.
        source: ApiError,
    },
    /// The credentials, or their lack, were not accepted while pulling or pushing.
    #[error(transparent)]
    Credentials(ApiError),
    /// Any other refusal.
    #[error(transparent)]
    Api(ApiError),
    /// A registry that wants a name and a password, and there is none.
    #[error("{method} \"{url}\": no basic auth credentials")]
    NoCredentials {
        /// `Get`, `Head`, …
        method: &'static str,
        /// What was asked for.
        url: String,
    },
    /// `POST /auth`: the registry did not accept the credentials.
    #[error("login attempt to {url} failed with status: {status}")]
    Login {
        /// `https://…/v2/`.
        url: String,
        /// `401 Unauthorized`.
        status: String,
    },
    /// The token service sent something else than a token.
    #[error("authorization server did not include a token in the response")]
    NoToken,
    /// A registry reached by TLS wants the password sent in clear text.
    #[error("refusing to send credentials to {0} without TLS")]
    ClearText(String),
    /// An answer that does not follow the protocol.
    #[error("{what}")]
    Protocol {
        /// What is wrong with it.
        what: String,
    },
    /// Content whose hash is another than the one it was asked by.
    #[error("{what} verification failed for digest {expected}")]
    Digest {
        /// `manifest` or `blob`.
        what: &'static str,
        /// What it was asked by.
        expected: String,
    },
    /// Neither OCI nor Docker schema 2.
    #[error("not supported: media type {media_type:?} is not an image manifest or index that can be pulled")]
    MediaType {
        /// What the registry sent.
        media_type: String,
    },
    /// Reading what is to be pushed.
    #[error("read blob {digest}")]
    Source {
        /// Which.
        digest: String,
        /// Why.
        source: io::Error,
    },
    /// A file of `certs.d`, or an address of the configuration.
    #[error("{what}")]
    Config {
        /// What is wrong.
        what: String,
    },
}

impl RegistryError {
    /// What callers may branch on.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::PullDenied { .. } | Self::ManifestUnknown { .. } | Self::NameUnknown { .. } => {
                Kind::NotFound
            }
            Self::Login { .. } => Kind::Unauthorized,
            // COMPAT: 401 at the engine's own API would make docker's client ask its user for a password and send
            // the request again; the reference answers 500 where the registry wants credentials.
            Self::NoCredentials { .. } | Self::Credentials(_) | Self::NoToken => Kind::Internal,
            Self::Api(e) => e.kind(),
            Self::ClearText(_) => Kind::Forbidden,
            Self::MediaType { .. } => Kind::Unsupported,
            Self::Config { .. } => Kind::InvalidArgument,
            Self::Request { .. } | Self::Protocol { .. } | Self::Digest { .. } | Self::Source { .. } => {
                Kind::Internal
            }
        }
    }

    /// The whole chain as one text, as a client sees it.
    #[must_use]
    pub fn text(&self) -> String {
        chain(self)
    }

    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol { what: what.into() }
    }

    /// Whether another endpoint, or the same one a little later, may well answer.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Request { source, .. } => source.is_transient(),
            Self::Api(e) => e.is_transient(),
            _ => false,
        }
    }
}

/// An error answer of a registry: `denied: requested access to the resource is denied`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", self.text())]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// One of [`corten_wire::distribution::code`], empty where the answer had none.
    pub code: String,
    /// The registry's message, or what we made of the status.
    pub message: String,
}

impl ApiError {
    fn text(&self) -> String {
        if self.code.is_empty() {
            return self.message.clone();
        }
        // COMPAT: distribution's errcode prints the code in lower case with spaces.
        let code = self.code.to_ascii_lowercase().replace('_', " ");
        if self.message.is_empty() { code } else { format!("{code}: {}", self.message) }
    }

    pub(crate) fn coded(status: u16, code: &str) -> Self {
        let message = corten_wire::distribution::message_of(code).to_owned();
        Self { status, code: code.to_owned(), message }
    }

    pub(crate) fn of_body(status: u16, body: ErrorBody) -> Self {
        Self { status, code: body.code, message: body.message }
    }

    pub(crate) fn is(&self, code: &str) -> bool {
        self.code == code
    }

    pub(crate) fn is_transient(&self) -> bool {
        self.status == 429 || self.status == 408 || (self.status >= 500 && self.status != 501)
    }

    /// What callers may branch on.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.code.as_str() {
            code::UNAUTHORIZED => Kind::Unauthorized,
            code::DENIED => Kind::Forbidden,
            code::UNSUPPORTED => Kind::Unsupported,
            code::TOOMANYREQUESTS => Kind::Unavailable,
            code::MANIFEST_UNKNOWN | code::NAME_UNKNOWN | code::BLOB_UNKNOWN => Kind::NotFound,
            code::NAME_INVALID | code::TAG_INVALID | code::MANIFEST_INVALID => Kind::InvalidArgument,
            _ => match self.status {
                401 => Kind::Unauthorized,
                403 => Kind::Forbidden,
                404 => Kind::NotFound,
                429 | 503 => Kind::Unavailable,
                _ => Kind::Internal,
            },
        }
    }
}

/// Why there was no answer. The texts are those of Go's `net` and `net/http`.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransportError {
    /// The name has no address.
    #[error("dial tcp: lookup {host}: no such host")]
    Lookup {
        /// The name.
        host: String,
    },
    /// The connection was not made.
    #[error("dial tcp {address}: connect: {reason}")]
    Dial {
        /// Address and port.
        address: String,
        /// The kernel's word, as Go writes it.
        reason: String,
    },
    /// Not made in time.
    #[error("dial tcp {address}: i/o timeout")]
    DialTimeout {
        /// Address and port.
        address: String,
    },
    /// The proxy did not let us through.
    #[error("proxyconnect tcp: {0}")]
    Proxy(String),
    /// A plain HTTP server where TLS was expected.
    #[error("http: server gave HTTP response to HTTPS client")]
    NotTls,
    /// The certificate is not one we trust, or another failure of the handshake.
    #[error("tls: failed to verify certificate: x509: {0}")]
    Certificate(String),
    /// Any other failure of the handshake.
    #[error("remote error: tls: {0}")]
    Tls(String),
    /// The connection broke.
    #[error("{0}")]
    Broken(String),
    /// No answer in time.
    #[error("net/http: timeout awaiting response headers")]
    Timeout,
    /// More than ten redirects, or one that leads from TLS to plain HTTP.
    #[error("{0}")]
    Redirect(String),
}

impl TransportError {
    /// Whether trying again may help: a reset, a timeout. A refusal or a bad certificate will not go away.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Broken(_) | Self::Timeout | Self::DialTimeout { .. })
    }
}
