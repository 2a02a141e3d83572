//! What can be wrong with a log driver, in Docker's words.

use corten_base::Kind;

/// A driver that cannot be used as asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Driver or options that cannot be right.
    #[error("{0}")]
    Option(String),
    /// The options are right, but the receiver cannot be reached.
    #[error("failed to create task for container: failed to initialize logging driver: {0}")]
    Receiver(String),
}

impl LogError {
    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Option(_) => Kind::InvalidArgument,
            Self::Receiver(_) => Kind::Internal,
        }
    }
}

/// Shorthand for the checks of options.
pub(crate) fn bad(text: impl Into<String>) -> LogError {
    LogError::Option(text.into())
}
