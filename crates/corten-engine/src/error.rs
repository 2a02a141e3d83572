//! What can go wrong in the engine, in Docker's words: `Display` is what a client reads.
//!
//! Errors that callers tell apart have a variant; a refusal whose only reader is a person is [`Error::Refused`], made
//! by the check that found it. Sources are not part of the text, except where Docker's text contains them.

use corten_base::Kind;
use corten_base::db::DbError;
pub(crate) use corten_base::error::chain;
use corten_base::fs::FileError;

/// Result of the engine's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation.
#[expect(clippy::error_impl_error, reason = "the crate's one error; users name it `corten_engine::Error`")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No container has this name, id or id prefix.
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    /// More than one container's id begins so.
    #[error("multiple IDs found with provided prefix: {0}")]
    AmbiguousId(String),
    /// No exec has this id.
    #[error("No such exec instance: {0}")]
    NoSuchExec(String),
    /// No network has this name or id.
    #[error("network {0} not found")]
    NoSuchNetwork(String),
    /// No volume has this name.
    #[error("get {0}: no such volume")]
    NoSuchVolume(String),
    /// The image of the request is not here.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// The container's name belongs to another one.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameInUse {
        /// The name that was wanted.
        name: String,
        /// Id of its owner.
        owner: String,
    },
    /// The operation needs a running container.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// The container's program could not be started; `exit_code` is 125, 126 or 127.
    #[error("{text}")]
    Start {
        /// Docker's text, also found in `State.Error`.
        text: String,
        /// What `docker run` exits with.
        exit_code: i32,
    },
    /// Refused or failed for a reason that only a person needs to understand.
    #[error("{text}")]
    Refused {
        /// Decides the status.
        kind: Kind,
        /// Docker's text.
        text: String,
    },
    /// The task of the container ended while we waited for it: the daemon shuts down.
    #[error("the daemon is shutting down")]
    ShuttingDown,
    /// Metadata could not be read or written.
    #[error("metadata store")]
    Db(#[from] DbError),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A system call failed.
    #[error("{what}")]
    Io {
        /// What we were doing.
        what: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The image store refused or failed.
    #[error("{text}")]
    Image {
        /// Decides the status.
        kind: Kind,
        /// The image store's text.
        text: String,
    },
    /// The network layer refused or failed.
    #[error("{text}")]
    Net {
        /// Decides the status.
        kind: Kind,
        /// The network layer's text.
        text: String,
    },
}

impl Error {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoSuchContainer(_)
            | Self::NoSuchExec(_)
            | Self::NoSuchNetwork(_)
            | Self::NoSuchVolume(_)
            | Self::NoSuchImage(_) => Kind::NotFound,
            Self::AmbiguousId(_) => Kind::InvalidArgument,
            Self::NameInUse { .. } | Self::NotRunning(_) => Kind::Conflict,
            // COMPAT: a program that cannot be executed is the client's mistake (400), everything else ours (500).
            Self::Start { exit_code: 126 | 127, .. } => Kind::InvalidArgument,
            Self::Start { .. } | Self::Db(_) | Self::File(_) | Self::Io { .. } => Kind::Internal,
            Self::Refused { kind, .. } | Self::Image { kind, .. } | Self::Net { kind, .. } => *kind,
            Self::ShuttingDown => Kind::Unavailable,
        }
    }

    /// The text and its causes, joined as Docker joins them.
    #[must_use]
    pub fn chain(&self) -> String {
        chain(self)
    }

    pub(crate) fn io(what: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Io { what: what.into(), source: source.into() }
    }
}

/// The request cannot be right (400).
pub(crate) fn invalid(text: impl Into<String>) -> Error {
    Error::Refused { kind: Kind::InvalidArgument, text: text.into() }
}

impl From<corten_logs::LogError> for Error {
    fn from(error: corten_logs::LogError) -> Self {
        Self::Refused { kind: error.kind(), text: error.to_string() }
    }
}

/// The request is at odds with the state (409).
pub(crate) fn conflict(text: impl Into<String>) -> Error {
    Error::Refused { kind: Kind::Conflict, text: text.into() }
}

/// Something named by the request does not exist (404).
pub(crate) fn not_found(text: impl Into<String>) -> Error {
    Error::Refused { kind: Kind::NotFound, text: text.into() }
}

/// Known but not allowed (403).
pub(crate) fn forbidden(text: impl Into<String>) -> Error {
    Error::Refused { kind: Kind::Forbidden, text: text.into() }
}

/// Not at present (503).
pub(crate) fn unavailable(text: impl Into<String>) -> Error {
    Error::Refused { kind: Kind::Unavailable, text: text.into() }
}

/// Understood, but this program or host cannot (501).
pub(crate) fn unsupported(text: impl Into<String>) -> Error {
    Error::Refused { kind: Kind::Unsupported, text: text.into() }
}

/// The host or we failed (500).
pub(crate) fn internal(text: impl Into<String>) -> Error {
    Error::Refused { kind: Kind::Internal, text: text.into() }
}
