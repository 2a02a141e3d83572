//! Addresses of git repositories: `https://host/repo.git#ref:directory`, `git@host:repo`, `?branch=…`. Pure.

use crate::error::BuildError;

/// What part of which repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GitAddress {
    /// For the git program.
    pub(crate) remote: String,
    /// Branch, tag or commit; empty for the repository's own choice.
    pub(crate) reference: String,
    /// Directory that is wanted; empty for all.
    pub(crate) subdirectory: String,
    /// The commit it must be, or its beginning.
    pub(crate) checksum: String,
    pub(crate) submodules: bool,
    /// Whether `.git` stays; where the address says so.
    pub(crate) keep_git_dir: Option<bool>,
}

fn invalid(message: impl Into<String>) -> BuildError {
    BuildError::invalid(message)
}

impl GitAddress {
    /// `None` where the text is the address of something else.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, BuildError> {
        let (main, fragment) = text.split_once('#').unwrap_or((text, ""));
        let Some((remote, query)) = split(main) else { return Ok(None) };
        let (reference, subdirectory) = fragment.split_once(':').unwrap_or((fragment, ""));
        let mut address = Self {
            remote,
            reference: reference.to_owned(),
            subdirectory: subdirectory.to_owned(),
            checksum: String::new(),
            submodules: true,
            keep_git_dir: None,
        };
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            address.option(name, value)?;
        }
        // Neither may become an option of the program.
        for word in [&address.remote, &address.reference] {
            if word.starts_with('-') || word.chars().any(|c| c.is_whitespace() || c.is_control()) {
                return Err(invalid(format!("invalid git address {text:?}")));
            }
        }
        Ok(Some(address))
    }

    fn option(&mut self, name: &str, value: &str) -> Result<(), BuildError> {
        let on = || match value {
            "" | "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            other => Err(invalid(format!("invalid {name} value: {other:?}"))),
        };
        match name {
            "ref" => value.clone_into(&mut self.reference),
            "branch" => self.reference = format!("refs/heads/{value}"),
            "tag" => self.reference = format!("refs/tags/{value}"),
            "subdir" => value.clone_into(&mut self.subdirectory),
            "checksum" | "commit" => value.clone_into(&mut self.checksum),
            "submodules" => self.submodules = on()?,
            "keep-git-dir" => self.keep_git_dir = Some(on()?),
            other => return Err(invalid(format!("unexpected query {other:?}"))),
        }
        Ok(())
    }

    /// Host of the repository, for secrets that are for it only.
    pub(crate) fn host(&self) -> &str {
        let rest = self.remote.split_once("://").map_or(self.remote.as_str(), |(_, rest)| rest);
        let authority = rest.split('/').next().unwrap_or_default();
        let host = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
        host.split(':').next().unwrap_or_default()
    }

    pub(crate) fn is_ssh(&self) -> bool {
        self.remote.starts_with("ssh://") || !self.remote.contains("://")
    }

    /// The name of the repository without `.git`.
    #[cfg(test)]
    fn shown(&self) -> String {
        format!("{} {} {}", self.remote, self.reference, self.subdirectory)
    }
}

/// The repository, and what is asked of it.
fn split(main: &str) -> Option<(String, &str)> {
    let (address, query) = main.split_once('?').unwrap_or((main, ""));
    if address.starts_with("github.com/") {
        return Some((format!("https://{address}"), query));
    }
    if let Some((scheme, rest)) = address.split_once("://") {
        let is_web = matches!(scheme, "http" | "https");
        let is_git = matches!(scheme, "git" | "ssh") || (is_web && address.ends_with(".git"));
        return (is_git && !rest.is_empty()).then(|| (address.to_owned(), query));
    }
    // `user@host:path`, as scp has it.
    let (user, rest) = address.split_once('@')?;
    let (host, path) = rest.split_once(':')?;
    let is_word = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    (is_word(user) && is_word(host) && !path.is_empty()).then(|| (address.to_owned(), query))
}

/// An address without user and password.
#[must_use]
pub fn without_secrets(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let (authority, path) = rest.find('/').map_or((rest, ""), |n| rest.split_at(n));
    match authority.rsplit_once('@') {
        Some((user, host)) if user.contains(':') => format!("{scheme}://xxxxx:xxxxx@{host}{path}"),
        Some((_, host)) if scheme.starts_with("http") => format!("{scheme}://xxxxx@{host}{path}"),
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, want) in [
            ("https://a.test/x.git", Some("https://a.test/x.git  ")),
            ("https://a.test/x.git#main:sub/dir", Some("https://a.test/x.git main sub/dir")),
            ("https://a.test/x.git?branch=b&subdir=s", Some("https://a.test/x.git refs/heads/b s")),
            ("github.com/me/x#v1", Some("https://github.com/me/x v1 ")),
            ("git@a.test:me/x.git#:sub", Some("git@a.test:me/x.git  sub")),
            ("git://a.test/x", Some("git://a.test/x  ")),
            ("ssh://git@a.test:22/x", Some("ssh://git@a.test:22/x  ")),
            ("https://a.test/x.tar.gz", None),
            ("https://a.test/x", None),
            ("./dir", None),
            ("dir/git@x", None),
        ] {
            let parsed = GitAddress::parse(text).unwrap();
            assert_eq!(parsed.map(|a| a.shown()), want.map(str::to_owned), "{text}");
        }
        for bad in [
            "https://a.test/x.git#--upload-pack=evil",
            "git://a.test/x#a b",
            "https://a.test/x.git?what=1",
            "https://a.test/x.git?submodules=maybe",
        ] {
            assert!(GitAddress::parse(bad).is_err(), "{bad}");
        }
        let host = |text| GitAddress::parse(text).unwrap().unwrap().host().to_owned();
        assert_eq!(
            (host("https://u:p@a.test:1/x.git"), host("git@b.test:x")),
            ("a.test".into(), "b.test".into())
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        for (address, want) in [
            ("https://u:p@a.test/x.git#main", "https://xxxxx:xxxxx@a.test/x.git#main"),
            ("https://token@a.test/x", "https://xxxxx@a.test/x"),
            ("git@a.test:x", "git@a.test:x"),
            ("ssh://git@a.test/x@y", "ssh://git@a.test/x@y"),
        ] {
            assert_eq!(without_secrets(address), want);
        }
    }
}
