//! The errors of image operations. `Display` is Docker's wording; causes are in `source()`.

use corten_base::Kind;
use corten_base::db::DbError;
use corten_base::fs::FileError;
use corten_base::reference::{InvalidReference, InvalidTag};
use corten_wire::oci_image::InvalidDocument;

use crate::tar::TarError;

/// What went wrong with an image, a layer or an archive.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No image has this name or id.
    #[error("No such image: {0}")]
    NotFound(String),
    /// Several images have ids that begin like this.
    #[error("ambiguous reference")]
    Ambiguous,
    /// The text is not a reference.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// The text is not a tag.
    #[error(transparent)]
    Tag(#[from] InvalidTag),
    /// A tag was asked for where a digest stands.
    #[error("refusing to create a tag with a digest reference")]
    TagIsDigest,
    /// An image is in use or has several names.
    #[error("conflict: unable to {action} (must be forced) - {reason}")]
    SoftConflict {
        /// `delete 1234…` or `delete name:tag`.
        action: String,
        /// Why.
        reason: String,
    },
    /// As above, and force does not help.
    #[error("conflict: unable to {action} (cannot be forced) - {reason}")]
    HardConflict {
        /// `delete 1234…`.
        action: String,
        /// Why.
        reason: String,
    },
    /// A filter nobody knows.
    #[error("invalid filter '{0}'")]
    UnknownFilter(String),
    /// A filter with a value it cannot have.
    #[error("invalid filter '{name}=[{value}]'")]
    FilterValue {
        /// Name of the filter.
        name: String,
        /// Its values.
        value: String,
    },
    /// `push` of a tag that does not exist here.
    #[error("tag does not exist: {0}")]
    NoTag(String),
    /// `push` of a repository that does not exist here.
    #[error("An image does not exist locally with the tag: {0}")]
    NotLocal(String),
    /// The image exists, but not for the platform that was asked for.
    #[error(
        "image with reference {reference} was found but does not provide the specified platform ({platform})"
    )]
    PlatformMismatch {
        /// Familiar reference or id.
        reference: String,
        /// What was asked for.
        platform: String,
    },
    /// An index has no entry for the platform.
    #[error("no matching manifest for {0} in the manifest list entries")]
    NoPlatform(String),
    /// A manifest, index or configuration cannot be read.
    #[error(transparent)]
    Document(#[from] InvalidDocument),
    /// An image configuration cannot be read or contradicts its manifest.
    #[error("invalid image configuration: {0}")]
    Config(&'static str),
    /// A loaded archive is neither a docker archive nor an OCI layout.
    #[error("unrecognized image format")]
    NotAnImageArchive,
    /// An archive names something that it does not contain.
    #[error("invalid archive: {what} {name:?} is missing")]
    MissingInArchive {
        /// `layer`, `config`, `blob`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// Content has another digest than it should.
    #[error("failed to verify content: expected {wanted}, got {got}")]
    DigestMismatch {
        /// What was promised.
        wanted: String,
        /// What came.
        got: String,
    },
    /// Content has another size than it should.
    #[error("failed to verify content: expected {wanted} bytes, got {got}")]
    SizeMismatch {
        /// What was promised.
        wanted: u64,
        /// What came.
        got: u64,
    },
    /// A blob that should be there is not.
    #[error("content {0} not found")]
    MissingBlob(String),
    /// Something outside exceeds a limit.
    #[error("{what} exceeds the limit of {limit}")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A feature of the input that is not supported.
    #[error("{0}")]
    Unsupported(String),
    /// A layer whose media type is not one of a file-system layer.
    #[error("unsupported layer media type {0:?}")]
    LayerType(String),
    /// An archive cannot be read or extracted.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// The registry refused or could not be reached.
    #[error(transparent)]
    Registry(#[from] corten_registry::RegistryError),
    /// The caller gave up.
    #[error("context canceled")]
    Cancelled,
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The metadata database failed.
    #[error(transparent)]
    Db(#[from] DbError),
    /// Reading what the client sends or writing what it reads failed.
    #[error("stream of the request")]
    Stream(#[source] std::io::Error),
}

impl ImageError {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_)
            | Self::Ambiguous
            | Self::NotLocal(_)
            | Self::NoTag(_)
            | Self::PlatformMismatch { .. } => Kind::NotFound,
            Self::NoPlatform(_) => Kind::NotFound,
            Self::Reference(_)
            | Self::Tag(_)
            | Self::TagIsDigest
            | Self::UnknownFilter(_)
            | Self::FilterValue { .. }
            | Self::Document(_)
            | Self::Config(_)
            | Self::NotAnImageArchive
            | Self::MissingInArchive { .. }
            | Self::Limit { .. }
            | Self::LayerType(_) => Kind::InvalidArgument,
            Self::SoftConflict { .. } | Self::HardConflict { .. } => Kind::Conflict,
            Self::Unsupported(_) => Kind::Unsupported,
            Self::Cancelled | Self::Tar(TarError::Cancelled) => Kind::Cancelled,
            Self::Registry(e) => e.kind(),
            Self::Tar(_)
            | Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. }
            | Self::MissingBlob(_)
            | Self::File(_)
            | Self::Db(_)
            | Self::Stream(_) => Kind::Internal,
        }
    }
}
