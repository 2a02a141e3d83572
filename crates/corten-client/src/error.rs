//! What can go wrong between the client and the daemon; `Display` is the text a person sees.

use corten_base::Kind;

/// A request failed.
#[derive(Debug, thiserror::Error)]
#[expect(clippy::error_impl_error, reason = "the only error of this crate")]
pub enum Error {
    /// The daemon answered with an error status.
    #[error("Error response from daemon: {message}")]
    Api {
        /// HTTP status.
        status: u16,
        /// The daemon's `message`.
        message: String,
    },
    /// Nobody listens there.
    #[error("Cannot connect to the Docker daemon at {host}. Is the docker daemon running?")]
    Connect {
        /// The endpoint as the user wrote it.
        host: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The socket exists, but we may not use it.
    #[error("permission denied while trying to connect to the Docker daemon socket at {host}")]
    Permission {
        /// The endpoint as the user wrote it.
        host: String,
    },
    /// The endpoint's text is wrong.
    #[error("{0}")]
    Endpoint(String),
    /// Certificates could not be read or used.
    #[error("{0}")]
    Tls(String),
    /// The connection broke, or what came was not HTTP.
    #[error("error during connect: {0}")]
    Http(String),
    /// The answer was not what the API promises.
    #[error("invalid answer from the daemon: {0}")]
    Answer(String),
}

impl Error {
    /// The kind, for callers that branch.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Api { status, .. } => match status {
                404 => Kind::NotFound,
                400 => Kind::InvalidArgument,
                409 => Kind::Conflict,
                401 => Kind::Unauthorized,
                403 => Kind::Forbidden,
                503 => Kind::Unavailable,
                501 => Kind::Unsupported,
                _ => Kind::Internal,
            },
            Self::Connect { .. } => Kind::Unavailable,
            Self::Permission { .. } => Kind::Forbidden,
            Self::Endpoint(_) | Self::Tls(_) => Kind::InvalidArgument,
            Self::Http(_) | Self::Answer(_) => Kind::Internal,
        }
    }

    /// The daemon's own words, or the whole text where it said nothing.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::Api { message, .. } => message.clone(),
            other => other.to_string(),
        }
    }
}

impl From<hyper::Error> for Error {
    fn from(e: hyper::Error) -> Self {
        let mut text = e.to_string();
        let mut source = std::error::Error::source(&e);
        while let Some(s) = source {
            text.push_str(": ");
            text.push_str(&s.to_string());
            source = s.source();
        }
        if e.is_parse() {
            text.push_str("\n* Are you trying to connect to a TLS-enabled daemon without TLS?");
        }
        Self::Http(text)
    }
}
