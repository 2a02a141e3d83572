//! Content digests (`sha256:…`), as the OCI image specification 1.1 defines them.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// A validated SHA-256 digest. Other algorithms are refused: no registry we know serves them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// The text is not a digest. `Display` is Docker's wording.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDigest {
    /// Neither algorithm, colon nor the right number of digits.
    #[error("invalid checksum digest format")]
    Format,
    /// Well formed, but not SHA-256.
    #[error("unsupported digest algorithm")]
    Algorithm,
    /// SHA-256 with the wrong number of digits.
    #[error("invalid checksum digest length")]
    Length,
}

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_sha256(&Sha256::digest(bytes))
    }

    /// Wraps the 32 bytes of a finished hash.
    #[must_use]
    pub fn from_sha256(hash: &[u8]) -> Self {
        assert_eq!(hash.len(), 32, "a SHA-256 hash has 32 bytes");
        Self(format!("sha256:{}", hex::encode(hash)))
    }

    /// `sha256:…`
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 digits after the colon.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(s: &str) -> Result<Self, InvalidDigest> {
        let (algorithm, digits) = s.split_once(':').ok_or(InvalidDigest::Format)?;
        if algorithm.is_empty() || digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(InvalidDigest::Format);
        }
        if algorithm != "sha256" {
            return Err(InvalidDigest::Algorithm);
        }
        if digits.len() != 64 {
            return Err(InvalidDigest::Length);
        }
        if !digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(InvalidDigest::Format);
        }
        Ok(Self(s.to_owned()))
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(s: String) -> Result<Self, InvalidDigest> {
        s.parse()
    }
}

impl From<Digest> for String {
    fn from(d: Digest) -> Self {
        d.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
