//! Why a build failed, in the words of the classic builder.

use std::io;

use corten_base::Kind;
use corten_base::db::DbError;
use corten_base::reference::InvalidReference;
use corten_image::ImageError;
use corten_image::archive::ArchiveError;
use corten_registry::RegistryError;

use crate::dockerfile::{ExpandError, ParseError, go_quote};
use crate::step::StepError;

/// A build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Dockerfile is wrong.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// There is no such file in the context.
    #[error("Cannot locate specified Dockerfile: {0}")]
    NoDockerfile(String),
    /// A path that climbs out of the context.
    #[error("forbidden path outside the build context: {0} ()")]
    OutsideContext(String),
    /// A variable in an instruction.
    #[error("failed to process {word}")]
    Expand {
        /// The word, quoted.
        word: String,
        /// Why.
        source: ExpandError,
    },
    /// An instruction whose values make no sense, or that is not supported.
    #[error("{message}")]
    Instruction {
        /// Its kind.
        kind: Kind,
        /// In the reference's words.
        message: String,
    },
    /// `COPY` or `ADD`.
    #[error("{name} failed")]
    Copy {
        /// `COPY` or `ADD`.
        name: &'static str,
        /// Why.
        source: Box<BuildError>,
    },
    /// A source that is not there.
    #[error("{0}")]
    NoSource(String),
    /// A base image, by BuildKit's rules.
    #[error("{reference}: failed to resolve source metadata for {reference}")]
    Metadata {
        /// Its name.
        reference: String,
        /// Why.
        source: Box<BuildError>,
    },
    /// A command said no.
    #[error("The command '{command}' returned a non-zero code: {code}")]
    Command {
        /// The whole command line.
        command: String,
        /// Its exit code.
        code: i64,
    },
    /// The engine could not run a step, or an image not be pulled.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The image store.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The context or an archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A download of `ADD`.
    #[error(transparent)]
    Download(#[from] RegistryError),
    /// A name that is no reference.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// The records of the cache.
    #[error(transparent)]
    Db(#[from] DbError),
    /// A file.
    #[error("{operation} {path}")]
    Io {
        /// What we did.
        operation: &'static str,
        /// With what.
        path: String,
        /// The kernel's word.
        source: io::Error,
    },
    /// What the client of the build says, or that it is gone.
    #[error("{0}")]
    Client(String),
    /// The client went away.
    #[error("context canceled")]
    Cancelled,
}

impl BuildError {
    /// What callers may branch on.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Parse(e) => e.kind(),
            Self::Expand { .. } => Kind::InvalidArgument,
            Self::Instruction { kind, .. } => *kind,
            Self::Copy { source, .. } | Self::Metadata { source, .. } => source.kind(),
            Self::Step(e) => e.kind(),
            Self::Image(e) => e.kind(),
            Self::Archive(e) => e.kind(),
            Self::Download(e) => e.kind(),
            Self::Reference(_) => Kind::InvalidArgument,
            Self::Cancelled => Kind::Cancelled,
            // COMPAT: the reference answers 500 to a missing Dockerfile and to paths that climb out.
            Self::NoDockerfile(_)
            | Self::OutsideContext(_)
            | Self::NoSource(_)
            | Self::Client(_)
            | Self::Command { .. }
            | Self::Db(_)
            | Self::Io { .. } => Kind::Internal,
        }
    }

    /// `errorDetail.code`: the exit code of a command that failed.
    #[must_use]
    pub const fn exit_code(&self) -> Option<i64> {
        match self {
            Self::Command { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The error without its causes, as BuildKit would say it.
    #[must_use]
    pub(crate) fn in_buildkits_words(&self) -> String {
        match self {
            Self::Command { command, code } => {
                format!("process {} did not complete successfully: exit code: {code}", go_quote(command))
            }
            Self::NoDockerfile(name) => {
                format!("failed to read dockerfile: open {name}: no such file or directory")
            }
            Self::NoSource(text) if text.starts_with("failed to calculate") => {
                format!("failed to compute cache key: {text}")
            }
            Self::Copy { source, .. } => source.in_buildkits_words(),
            other => other.to_string(),
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Instruction { kind: Kind::InvalidArgument, message: message.into() }
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::Instruction { kind: Kind::Unsupported, message: message.into() }
    }
}

/// Names the operation of an I/O error.
pub(crate) trait At<T> {
    fn at(self, operation: &'static str, path: impl AsRef<[u8]>) -> Result<T, BuildError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, operation: &'static str, path: impl AsRef<[u8]>) -> Result<T, BuildError> {
        self.map_err(|e| BuildError::Io {
            operation,
            path: String::from_utf8_lossy(path.as_ref()).into_owned(),
            source: e.into(),
        })
    }
}
