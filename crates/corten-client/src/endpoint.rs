//! Where a daemon listens: `unix://`, `tcp://`, `ssh://`, `fd://` texts as `DOCKER_HOST` and contexts hold them.

use std::path::PathBuf;

use crate::Error;

/// Certificate files of a TLS endpoint.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// Authorities to trust; the host's where absent.
    pub ca: Option<PathBuf>,
    /// Our certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// Check the server's certificate.
    pub verify: bool,
    /// Name to check it against instead of the host.
    pub server_name: Option<String>,
}

/// A daemon's address.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// As the user wrote it, for messages.
    pub text: String,
    pub(crate) target: Target,
}

#[derive(Debug, Clone)]
pub(crate) enum Target {
    Unix(PathBuf),
    Tcp { host: String, port: u16, base: String, tls: Option<TlsFiles> },
    Ssh { args: Vec<String> },
}

impl Endpoint {
    /// Reads `unix://path`, `tcp://host:port[/base]`, `http(s)://…`, `ssh://[user@]host[:port][/socket]`.
    ///
    /// # Errors
    /// [`Error::Endpoint`] with Docker's wording.
    pub fn parse(text: &str, tls: Option<TlsFiles>) -> Result<Self, Error> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(Error::Endpoint(format!("unable to parse docker host `{text}`")));
        };
        let target = match scheme {
            "unix" if rest.is_empty() => Target::Unix("/var/run/docker.sock".into()),
            "unix" => Target::Unix(rest.into()),
            "tcp" | "http" | "https" => {
                let tls = if scheme == "https" { Some(tls.unwrap_or_default()) } else { tls };
                let (authority, base) = rest.split_once('/').unwrap_or((rest, ""));
                let (host, port) = split_port(authority, if tls.is_some() { 2376 } else { 2375 })
                    .ok_or_else(|| Error::Endpoint(format!("unable to parse docker host `{text}`")))?;
                Target::Tcp { host, port, base: base.trim_end_matches('/').to_owned(), tls }
            }
            "ssh" => Target::Ssh { args: ssh_args(text, rest)? },
            _ => return Err(Error::Endpoint(format!("invalid bind address format: {text}"))),
        };
        Ok(Self { text: text.to_owned(), target })
    }

    /// The socket's path, if it is a unix socket.
    #[must_use]
    pub fn unix_path(&self) -> Option<&std::path::Path> {
        match &self.target {
            Target::Unix(path) => Some(path),
            _ => None,
        }
    }
}

fn split_port(authority: &str, default: u16) -> Option<(String, u16)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, tail) = rest.split_once(']')?;
        let port = if tail.is_empty() { default } else { tail.strip_prefix(':')?.parse().ok()? };
        return Some((host.to_owned(), port));
    }
    match authority.rsplit_once(':') {
        Some((host, port)) => {
            Some((if host.is_empty() { "localhost" } else { host }.to_owned(), port.parse().ok()?))
        }
        None if authority.is_empty() => Some(("localhost".into(), default)),
        None => Some((authority.to_owned(), default)),
    }
}

/// The arguments of `ssh` that reach the daemon. Host and user never look like an option.
fn ssh_args(text: &str, rest: &str) -> Result<Vec<String>, Error> {
    let bad = |why: &str| Error::Endpoint(format!("invalid SSH URL: {text}: {why}"));
    let (authority, path) = match rest.find('/') {
        Some(i) => (&rest[..i], &rest[i..]),
        None => (rest, ""),
    };
    let (user, hostport) = match authority.rsplit_once('@') {
        Some((u, h)) => (Some(u), h),
        None => (None, authority),
    };
    if user.is_some_and(|u| u.contains(':')) {
        return Err(bad("plain-text password is not supported"));
    }
    let (host, port) = match hostport.rsplit_once(':') {
        Some((h, p)) if !h.contains(':') || h.ends_with(']') => {
            (h, Some(p.parse::<u16>().map_err(|_| bad("invalid port"))?))
        }
        _ => (hostport, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(bad("no host specified"));
    }
    if host.starts_with('-') || user.is_some_and(|u| u.is_empty() || u.starts_with('-')) {
        return Err(bad("host and user must not begin with a dash"));
    }
    let mut args = vec!["-o".to_owned(), "ConnectTimeout=30".into(), "-T".into()];
    if let Some(user) = user {
        args.extend(["-l".to_owned(), user.to_owned()]);
    }
    if let Some(port) = port {
        args.extend(["-p".to_owned(), port.to_string()]);
    }
    args.extend(["--".to_owned(), host.to_owned(), "docker".into()]);
    if !path.is_empty() && path != "/" {
        if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b)) {
            return Err(bad("unusual characters in the socket's path"));
        }
        args.extend(["--host".to_owned(), format!("unix://{path}")]);
    }
    args.extend(["system".to_owned(), "dial-stdio".into()]);
    Ok(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let tcp = |t: &str| match Endpoint::parse(t, None).unwrap().target {
            Target::Tcp { host, port, base, tls } => (host, port, base, tls.is_some()),
            other => panic!("{other:?}"),
        };
        assert_eq!(tcp("tcp://10.0.0.1:99"), ("10.0.0.1".into(), 99, String::new(), false));
        assert_eq!(tcp("tcp://[::1]:80/x/"), ("::1".into(), 80, "x".into(), false));
        assert_eq!(tcp("tcp://:2375"), ("localhost".into(), 2375, String::new(), false));
        assert_eq!(tcp("https://h"), ("h".into(), 2376, String::new(), true));
        assert!(Endpoint::parse("foo", None).is_err());
        assert!(Endpoint::parse("quic://x", None).is_err());
    }

    #[test]
    fn ssh_commands() {
        let args = |t: &str| match Endpoint::parse(t, None).map(|e| e.target) {
            Ok(Target::Ssh { args }) => args.join(" "),
            other => format!("{other:?}"),
        };
        assert_eq!(
            args("ssh://me@h:22"),
            "-o ConnectTimeout=30 -T -l me -p 22 -- h docker system dial-stdio"
        );
        assert!(args("ssh://h/run/d.sock").ends_with("docker --host unix:///run/d.sock system dial-stdio"));
        assert!(args("ssh://-oProxyCommand=x").contains("dash"));
        assert!(args("ssh://h/$(x)").contains("unusual"));
    }
}
