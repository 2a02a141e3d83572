//! API versions: which are spoken, and the part of the path that names one.

use std::fmt;

use crate::error::ApiError;

/// `major.minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ApiVersion(pub(crate) u16, pub(crate) u16);

/// What we report, and speak where no version is asked for. COMPAT: the recorded reference engine says 1.55.
pub(crate) const NEWEST: ApiVersion = ApiVersion(1, 55);
/// What we accept: 1.56 has begun and changed nothing yet.
const NEWEST_ACCEPTED: ApiVersion = ApiVersion(1, 56);
/// What we accept. COMPAT: the reference engine names 1.40 in its refusal, though it can be told to accept 1.24.
pub(crate) const OLDEST: ApiVersion = ApiVersion(1, 24);
const OLDEST_IN_WORDS: ApiVersion = ApiVersion(1, 40);

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// Splits `/v1.50/info` into the version and `/info`; paths without a version are of the newest.
///
/// # Errors
/// The version is not spoken.
pub(crate) fn split(path: &str) -> Result<(ApiVersion, &str), Refused> {
    let Some((version, rest)) = path.strip_prefix("/v").and_then(|p| p.split_once('/')) else {
        return Ok((NEWEST, path));
    };
    let Some((major, minor)) = version.split_once('.') else { return Ok((NEWEST, path)) };
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(major) || !digits(minor) {
        return Ok((NEWEST, path));
    }
    let asked = ApiVersion(major.parse().unwrap_or(u16::MAX), minor.parse().unwrap_or(u16::MAX));
    if asked < OLDEST {
        return Err(Refused::TooOld(asked));
    }
    if asked > NEWEST_ACCEPTED {
        return Err(Refused::TooNew(asked));
    }
    Ok((asked, &path[path.len() - rest.len() - 1..]))
}

/// A version that is not spoken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Answered as plain text, which such clients expect.
    TooOld(ApiVersion),
    /// Answered as JSON.
    TooNew(ApiVersion),
}

impl Refused {
    /// The answer, and whether it is plain text.
    #[must_use]
    pub(crate) fn answer(&self) -> (ApiError, bool) {
        match self {
            Self::TooOld(asked) => (
                ApiError::invalid(format!(
                    "client version {asked} is too old. Minimum supported API version is {OLDEST_IN_WORDS}, \
                     please upgrade your client to a newer version"
                )),
                true,
            ),
            Self::TooNew(asked) => (
                ApiError::invalid(format!(
                    "client version {asked} is too new. Maximum supported API version is {NEWEST}"
                )),
                false,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        assert_eq!(split("/info"), Ok((NEWEST, "/info")));
        assert_eq!(split("/v1.50/images/a/b/json"), Ok((ApiVersion(1, 50), "/images/a/b/json")));
        assert_eq!(split("/vabc/info"), Ok((NEWEST, "/vabc/info")));
        assert_eq!(split("/volumes"), Ok((NEWEST, "/volumes")));
        assert_eq!(split("/v1.56/info"), Ok((ApiVersion(1, 56), "/info")));
        assert_eq!(split("/v1.10/info"), Err(Refused::TooOld(ApiVersion(1, 10))));
        assert_eq!(split("/v1.999/info"), Err(Refused::TooNew(ApiVersion(1, 999))));
        assert_eq!(
            Refused::TooNew(ApiVersion(1, 999)).answer().0.message,
            "client version 1.999 is too new. Maximum supported API version is 1.55"
        );
    }
}
