//! Image references: `[domain/]path[:tag][@digest]`, normalised as Docker does.
//!
//! A familiar name (`busybox`, `me/app`) has an implied domain `docker.io`, and an implied path prefix
//! `library/` where it has one component. The grammar is that of the distribution project's `reference`
//! package; errors carry its wording, because clients show it.

use std::fmt;
use std::str::FromStr;

use crate::Digest;

/// The registry of references that name none.
pub const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";

/// A normalised reference. Without tag and digest it names a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// The text is not a reference. `Display` is Docker's wording.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// Does not match the grammar.
    #[error("invalid reference format")]
    Format,
    /// Would match if it were in lower case.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// 64 hexadecimal digits could be an id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    /// More than 255 bytes.
    #[error("repository name must not be more than 255 characters")]
    TooLong,
    /// The part after `@`.
    #[error("{0}")]
    Digest(crate::digest::InvalidDigest),
    /// The empty text.
    #[error("repository name must have at least one component")]
    Empty,
}

impl Reference {
    /// Domain of the registry, `docker.io` where none was given.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Path of the repository within the registry (`library/busybox`).
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `domain/path`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The tag, if one was given.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The repository as people write it: `busybox`, `me/app`, `example.com/x`.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        match self.path.strip_prefix(OFFICIAL) {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The whole reference as people write it.
    #[must_use]
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest.as_str());
        }
        text
    }

    /// With `:latest` where neither tag nor digest was given.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".into());
        }
        self
    }

    /// The repository alone.
    #[must_use]
    pub fn without_tag(&self) -> Self {
        Self { tag: None, digest: None, ..self.clone() }
    }

    /// The same repository with this tag and no digest.
    ///
    /// # Errors
    /// [`InvalidTag`] where the tag does not match `[\w][\w.-]{0,127}`.
    pub fn with_tag(&self, tag: &str) -> Result<Self, InvalidTag> {
        if !valid_tag(tag) {
            return Err(InvalidTag);
        }
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same repository with this digest and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }
}

/// A tag that does not match `[\w][\w.-]{0,127}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid tag format")]
pub struct InvalidTag;

fn valid_tag(tag: &str) -> bool {
    let mut bytes = tag.bytes();
    tag.len() <= 128
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// `alphanumeric (separator alphanumeric)*` with separators `.`, `_`, `__` and runs of `-`.
fn valid_component(c: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let b = c.as_bytes();
    if b.is_empty() || !alnum(b[0]) || !alnum(b[b.len() - 1]) {
        return false;
    }
    let mut i = 0;
    while i < b.len() {
        if alnum(b[i]) {
            i += 1;
            continue;
        }
        let run = b[i..].iter().take_while(|x| !alnum(**x)).count();
        let separator = &b[i..i + run];
        let ok = separator == b"."
            || separator == b"_"
            || separator == b"__"
            || separator.iter().all(|x| *x == b'-');
        if !ok {
            return false;
        }
        i += run;
    }
    true
}

fn valid_domain(d: &str) -> bool {
    let (host, port) = match d.rsplit_once(':') {
        Some((h, p)) if !p.contains(']') => (h, Some(p)),
        _ => (d, None),
    };
    if port.is_some_and(|p| p.is_empty() || !p.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    if let Some(v6) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return !v6.is_empty() && v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
    }
    !host.is_empty()
        && host.split('.').all(|label| {
            let b = label.as_bytes();
            !b.is_empty()
                && b[0].is_ascii_alphanumeric()
                && b[b.len() - 1].is_ascii_alphanumeric()
                && b.iter().all(|x| x.is_ascii_alphanumeric() || *x == b'-')
        })
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        if text.is_empty() {
            return Err(InvalidReference::Format);
        }
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(InvalidReference::LooksLikeId(text.to_owned()));
        }
        // COMPAT: distribution/reference splitDockerDomain: the first component is a domain if it has a dot or
        // a colon, is localhost, or has an upper-case letter.
        let (domain, remainder) = match text.split_once('/') {
            Some((first, rest))
                if first.contains(['.', ':'])
                    || first == "localhost"
                    || first.bytes().any(|b| b.is_ascii_uppercase()) =>
            {
                (first, rest.to_owned())
            }
            _ => (DEFAULT_DOMAIN, text.to_owned()),
        };
        let domain = if domain == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { domain };
        let remainder = if domain == DEFAULT_DOMAIN && !remainder.contains('/') {
            format!("{OFFICIAL}{remainder}")
        } else {
            remainder
        };
        let (named, digest) = match remainder.split_once('@') {
            Some((named, digest)) => (named, Some(digest)),
            None => (remainder.as_str(), None),
        };
        let (path, tag) = match named.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (named, None),
        };
        // The name is checked for case up to its first colon or at sign, before anything else.
        let case_end = remainder.find([':', '@']).unwrap_or(remainder.len());
        if remainder[..case_end].bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(InvalidReference::Uppercase(remainder[..case_end].to_owned()));
        }
        if !valid_domain(domain) || path.is_empty() || !path.split('/').all(valid_component) {
            return Err(InvalidReference::Format);
        }
        if tag.is_some_and(|t| !valid_tag(t)) {
            return Err(InvalidReference::Format);
        }
        let digest = match digest {
            Some(d) => Some(d.parse().map_err(|e| match e {
                crate::digest::InvalidDigest::Format => InvalidReference::Format,
                other => InvalidReference::Digest(other),
            })?),
            None => None,
        };
        if domain.len() + 1 + path.len() > 255 {
            return Err(InvalidReference::TooLong);
        }
        Ok(Self { domain: domain.to_owned(), path: path.to_owned(), tag: tag.map(str::to_owned), digest })
    }
}

impl TryFrom<String> for Reference {
    type Error = InvalidReference;

    fn try_from(s: String) -> Result<Self, InvalidReference> {
        s.parse()
    }
}

impl From<Reference> for String {
    fn from(r: Reference) -> Self {
        r.to_string()
    }
}

/// The canonical text, domain included.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: Result<(&str, &str), &str>) {
        let got = text.parse::<Reference>().map(|r| (r.to_string(), r.familiar())).map_err(|e| e.to_string());
        let want = want.map(|(a, b)| (a.to_owned(), b.to_owned())).map_err(str::to_owned);
        assert_eq!(got, want, "{text}");
    }

    #[test]
    fn normalisation() {
        check("busybox", Ok(("docker.io/library/busybox", "busybox")));
        check("busybox:1", Ok(("docker.io/library/busybox:1", "busybox:1")));
        check("me/app", Ok(("docker.io/me/app", "me/app")));
        check("localhost/app", Ok(("localhost/app", "localhost/app")));
        check(
            "example.test:5000/team/app:v1",
            Ok(("example.test:5000/team/app:v1", "example.test:5000/team/app:v1")),
        );
        check("index.docker.io/library/x", Ok(("docker.io/library/x", "x")));
        check("Upper/x", Ok(("Upper/x", "Upper/x")));
        let digest = format!("x@sha256:{}", "a".repeat(64));
        check(&digest, Ok((&format!("docker.io/library/{digest}"), &digest)));
    }

    #[test]
    fn refusals() {
        check("", Err("invalid reference format"));
        check("UPPER", Err("invalid reference format: repository name (library/UPPER) must be lowercase"));
        check("BAD::ref", Err("invalid reference format: repository name (library/BAD) must be lowercase"));
        check("a..b", Err("invalid reference format"));
        check("x:-bad", Err("invalid reference format"));
        check("x@sha256:12", Err("invalid checksum digest length"));
        check(
            &"a".repeat(64),
            Err(&format!(
                "invalid repository name ({}), cannot specify 64-byte hexadecimal strings",
                "a".repeat(64)
            )),
        );
    }
}
