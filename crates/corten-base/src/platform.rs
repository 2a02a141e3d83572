//! Image platforms: `os[/architecture[/variant]]`.

use std::fmt;
use std::str::FromStr;

/// What an image runs on, normalised (`x86_64` is `amd64`, `aarch64` is `arm64` without `v8`).
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Platform {
    /// Go's `GOOS`: `linux`.
    pub os: String,
    /// Go's `GOARCH`: `amd64`, `arm64`, …
    pub architecture: String,
    /// `v7` and the like; empty where there is one only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// The text is not a platform. `Display` is containerd's wording.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InvalidPlatform {
    /// More than three parts, or an empty one.
    #[error("{0:?}: cannot parse platform specifier")]
    Parts(String),
    /// A part with a character outside `[A-Za-z0-9_.-]`.
    #[error(
        "{1:?} is an invalid component of {0:?}: platform specifier component must match \"^[A-Za-z0-9_.-]+$\": invalid argument"
    )]
    Component(String, String),
}

impl Platform {
    /// The platform this program was built for, which is the one containers run on.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            other => other,
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: String::new() }
    }

    /// Whether an image for `self` can run where `host` is asked for. A missing variant matches any.
    #[must_use]
    pub fn matches(&self, wanted: &Self) -> bool {
        let (a, b) = (self.clone().normalised(), wanted.clone().normalised());
        a.os == b.os
            && a.architecture == b.architecture
            && (a.variant == b.variant || a.variant.is_empty() || b.variant.is_empty())
    }

    /// The same platform in the names Go uses.
    #[must_use]
    pub fn normalised(mut self) -> Self {
        self.os = self.os.to_ascii_lowercase();
        self.architecture = match self.architecture.to_ascii_lowercase().as_str() {
            "x86_64" | "x86-64" => "amd64".into(),
            "aarch64" => "arm64".into(),
            "i386" => "386".into(),
            "armhf" => {
                self.variant = "v7".into();
                "arm".into()
            }
            "armel" => {
                self.variant = "v6".into();
                "arm".into()
            }
            other => other.to_owned(),
        };
        match (self.architecture.as_str(), self.variant.as_str()) {
            ("arm64", "v8" | "8") | ("amd64", "v1") => self.variant.clear(),
            ("arm", "5" | "6" | "7" | "8") => self.variant.insert(0, 'v'),
            _ => {}
        }
        self
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(s: &str) -> Result<Self, InvalidPlatform> {
        let parts: Vec<&str> = s.split('/').collect();
        for part in &parts {
            let ok =
                !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
            if !ok {
                return Err(InvalidPlatform::Component(s.to_owned(), (*part).to_owned()));
            }
        }
        let host = Self::host();
        let p = match parts[..] {
            ["linux"] => host,
            [architecture] => Self { architecture: architecture.into(), ..host },
            [os, architecture] => {
                Self { os: os.into(), architecture: architecture.into(), variant: String::new() }
            }
            [os, architecture, variant] => {
                Self { os: os.into(), architecture: architecture.into(), variant: variant.into() }
            }
            _ => return Err(InvalidPlatform::Parts(s.to_owned())),
        };
        Ok(p.normalised())
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}
