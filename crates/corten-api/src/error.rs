//! What a failed request is answered: kind → status in one place, and the text with its causes.

use corten_base::Kind;
pub(crate) use corten_base::error::chain;
use corten_base::error::errno_text;
use corten_wire::api::{DecodeError, ErrorResponse, FilterError};
use http::StatusCode;

/// A failed request.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Status line.
    pub status: StatusCode,
    /// `message` of the body.
    pub message: String,
}

/// The one place where kinds become statuses.
#[must_use]
pub fn status_of(kind: Kind) -> StatusCode {
    match kind {
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::InvalidArgument => StatusCode::BAD_REQUEST,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Unauthorized => StatusCode::UNAUTHORIZED,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Kind::Cancelled | Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl ApiError {
    /// An error of a kind.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { status: status_of(kind), message: message.into() }
    }

    /// An error of the layers below.
    #[must_use]
    pub fn from_error(kind: Kind, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(kind, chain(error))
    }

    /// The request cannot be right.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidArgument, message)
    }

    /// Known, but not done here.
    #[must_use]
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, message)
    }

    /// Our fault.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// The body of the answer.
    #[must_use]
    pub fn body(&self) -> ErrorResponse {
        ErrorResponse { message: self.message.clone() }
    }
}

impl From<DecodeError> for ApiError {
    fn from(e: DecodeError) -> Self {
        Self::invalid(e.to_string())
    }
}

impl From<FilterError> for ApiError {
    fn from(e: FilterError) -> Self {
        Self::from_error(e.kind(), &e)
    }
}

impl From<std::io::Error> for ApiError {
    fn from(e: std::io::Error) -> Self {
        Self::internal(errno_text(&e))
    }
}

macro_rules! from_kind {
    ($($error:ty),*) => {$(
        impl From<$error> for ApiError {
            fn from(e: $error) -> Self {
                Self::from_error(e.kind(), &e)
            }
        }
    )*};
}

from_kind!(corten_engine::Error, corten_image::ImageError, corten_registry::RegistryError);
