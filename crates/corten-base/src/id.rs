//! 64-digit hexadecimal ids of containers, networks, execs and layers-in-progress.

use std::fmt;
use std::str::FromStr;

/// A full object id: 64 lower-case hexadecimal digits, as Docker makes them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(String);

/// The text is not a full id.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0:?} is not an id of 64 hexadecimal digits")]
pub struct InvalidId(String);

impl Id {
    /// A new random id. Docker avoids ids whose first 12 digits are all decimal, because a host name or a
    /// reference made of them would read as a number; so do we.
    #[must_use]
    pub fn random() -> Self {
        loop {
            let mut bytes = [0u8; 32];
            let mut filled = 0;
            while filled < bytes.len() {
                filled +=
                    rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                        .expect("getrandom without flags only fails before the pool is ready");
            }
            let id = hex::encode(bytes);
            if !id[..12].bytes().all(|b| b.is_ascii_digit()) {
                return Self(id);
            }
        }
    }

    /// All 64 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, as lists show them.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl FromStr for Id {
    type Err = InvalidId;

    fn from_str(s: &str) -> Result<Self, InvalidId> {
        if s.len() == 64 && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            Ok(Self(s.to_owned()))
        } else {
            Err(InvalidId(s.to_owned()))
        }
    }
}

impl TryFrom<String> for Id {
    type Error = InvalidId;

    fn try_from(s: String) -> Result<Self, InvalidId> {
        s.parse()
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.0
    }
}

impl AsRef<str> for Id {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}
