//! Listeners: `unix://`, `tcp://` (with TLS or without), `fd://` (systemd).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

/// Where to listen, as `-H` says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `unix:///run/x.sock`.
    Unix(PathBuf),
    /// `tcp://host:port`.
    Tcp(String),
    /// `fd://`: everything that systemd passes; `fd://3` or `fd://name`: one of it.
    Fd(String),
}

/// `-H` that cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InvalidAddress {
    /// Neither of the known schemes.
    #[error("Invalid bind address format: {0}")]
    Format(String),
    /// The port is no port.
    #[error("Invalid bind address (invalid port): {0}")]
    Port(String),
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let format = || InvalidAddress::Format(text.to_owned());
        let (scheme, rest) = text.split_once("://").unwrap_or(("tcp", text));
        match scheme {
            "unix" if rest.is_empty() => Ok(Self::Unix(PathBuf::from("/var/run/docker.sock"))),
            "unix" => Ok(Self::Unix(PathBuf::from(rest))),
            "fd" => Ok(Self::Fd(rest.to_owned())),
            "tcp" => {
                let (host, port) = match rest.rsplit_once(':') {
                    Some((host, port)) if !port.contains(']') => (host, port),
                    _ => (rest, ""),
                };
                if rest.contains('/') {
                    return Err(format());
                }
                let host = if host.is_empty() { "127.0.0.1" } else { host };
                let port = if port.is_empty() { "2375" } else { port };
                port.parse::<u16>().map_err(|_| InvalidAddress::Port(text.to_owned()))?;
                Ok(Self::Tcp(format!("{host}:{port}")))
            }
            _ => Err(format()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
            Self::Fd(name) => write!(f, "fd://{name}"),
        }
    }
}

/// `--tls*`.
#[derive(Debug, Clone)]
pub struct Tls {
    /// `--tlscert`.
    pub certificate: PathBuf,
    /// `--tlskey`.
    pub key: PathBuf,
    /// `--tlscacert`, with `--tlsverify`: clients need a certificate of it.
    pub client_authority: Option<PathBuf>,
}

/// A bound listener.
pub enum Listener {
    /// Local.
    Unix(UnixListener, Option<SocketFile>),
    /// Network.
    Tcp(TcpListener, Option<TlsAcceptor>),
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unix(..) => "Unix",
            Self::Tcp(..) => "Tcp",
        })
    }
}

/// Removes the socket's file when dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone already; there is nobody to tell.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Binds an address. `activated` are the descriptors from systemd, taken by `fd://`. Needs a tokio runtime.
///
/// # Errors
/// The address is in use, TLS material cannot be read, …
pub fn bind(
    address: &Address,
    group: Option<u32>,
    tls: Option<&Tls>,
    activated: &mut Vec<(String, OwnedFd)>,
) -> io::Result<Vec<Listener>> {
    match address {
        Address::Unix(path) => {
            let listener = unix(path, group)?;
            Ok(vec![Listener::Unix(listener, Some(SocketFile(path.clone())))])
        }
        Address::Tcp(host) => {
            let acceptor = tls.map(acceptor).transpose()?;
            let std = std::net::TcpListener::bind(host.as_str())?;
            std.set_nonblocking(true)?;
            Ok(vec![Listener::Tcp(TcpListener::from_std(std)?, acceptor)])
        }
        Address::Fd(name) => {
            let all = name.is_empty() || name == "*";
            let wanted = |given: &(String, OwnedFd)| {
                use std::os::fd::AsRawFd;
                all || given.0 == *name || given.1.as_raw_fd().to_string() == *name
            };
            let (chosen, rest): (Vec<_>, Vec<_>) = activated.drain(..).partition(wanted);
            *activated = rest;
            if chosen.is_empty() {
                return Err(io::Error::other(
                    "no sockets found via socket activation: make sure the service was started by systemd",
                ));
            }
            chosen.into_iter().map(|(_, fd)| from_fd(fd, tls)).collect()
        }
    }
}

/// Binds the socket; a file that nobody listens on any more is replaced, one that is in use is an error.
fn unix(path: &Path, group: Option<u32>) -> io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if std::fs::symlink_metadata(path).is_ok() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("can't create unix socket {}: is in use by another process", path.display()),
            ));
        }
        std::fs::remove_file(path)?;
    }
    // Bound under another name and renamed when it has its mode: nobody sees it half made.
    let made = path.with_extension(format!("new-{}", std::process::id()));
    let _ = std::fs::remove_file(&made);
    let listener = std::os::unix::net::UnixListener::bind(&made)?;
    std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o660))?;
    if let Some(gid) = group {
        std::os::unix::fs::chown(&made, Some(0), Some(gid))?;
    }
    std::fs::rename(&made, path)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

fn from_fd(fd: OwnedFd, tls: Option<&Tls>) -> io::Result<Listener> {
    let unix = std::os::unix::net::UnixListener::from(fd.try_clone()?);
    if unix.local_addr().is_ok() {
        unix.set_nonblocking(true)?;
        return Ok(Listener::Unix(UnixListener::from_std(unix)?, None));
    }
    drop(unix);
    let tcp = std::net::TcpListener::from(fd);
    tcp.set_nonblocking(true)?;
    Ok(Listener::Tcp(TcpListener::from_std(tcp)?, tls.map(acceptor).transpose()?))
}

/// A server configuration for `--tls*`.
fn acceptor(tls: &Tls) -> io::Result<TlsAcceptor> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let bad = |what: &str, path: &Path, e: &dyn fmt::Display| {
        io::Error::other(format!("could not load {what} {}: {e}", path.display()))
    };
    let certificates = |path: &Path, what: &str| -> io::Result<Vec<CertificateDer<'static>>> {
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|e| bad(what, path, &e))
    };
    let chain = certificates(&tls.certificate, "certificate")?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|e| bad("key", &tls.key, &e))?;
    let provider = corten_base::tls::provider();
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let builder = match &tls.client_authority {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in certificates(path, "CA certificate")? {
                roots.add(certificate).map_err(|e| bad("CA certificate", path, &e))?;
            }
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(io::Error::other)?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let config = builder.with_single_cert(chain, key).map_err(io::Error::other)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Whether anybody on the network could connect without TLS: worth a warning.
#[must_use]
pub fn is_exposed(address: &Address, tls: Option<&Tls>) -> bool {
    match address {
        Address::Tcp(host) => {
            tls.is_none() && host.parse::<SocketAddr>().is_ok_and(|a| !a.ip().is_loopback())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, want) in [
            ("unix:///run/a.sock", "unix:///run/a.sock"),
            ("unix://", "unix:///var/run/docker.sock"),
            ("tcp://0.0.0.0:2376", "tcp://0.0.0.0:2376"),
            ("tcp://", "tcp://127.0.0.1:2375"),
            (":4243", "tcp://127.0.0.1:4243"),
            ("tcp://[::1]:5", "tcp://[::1]:5"),
            ("fd://", "fd://"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), want, "{text}");
        }
        assert!("http://x".parse::<Address>().is_err());
        assert!("tcp://x:y".parse::<Address>().is_err());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let path = std::env::temp_dir().join(format!("corten-api-test-{}.sock", std::process::id()));
        let address = Address::Unix(path.clone());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let first = bind(&address, None, None, &mut Vec::new()).unwrap();
        assert!(bind(&address, None, None, &mut Vec::new()).is_err());
        drop(first);
        assert!(!path.exists());
    }
}
