//! Connections to receivers: streams and datagrams, with one way to write and to learn that the other side is gone.
//!
//! A stream counts as written when the other side's kernel has acknowledged it (over TCP), or its program has read it
//! (unix): only then may the log's cursor go on.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use corten_base::error::errno_text;
use corten_base::tls::{AcceptAny, provider};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, UnixStream};
use tokio_rustls::client::TlsStream;

use crate::driver::Packets;

/// Making a connection takes no longer.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the other side may take to acknowledge what it was sent, unless the driver says otherwise.
const WRITE: Duration = Duration::from_secs(60);

/// Where a receiver listens.
#[derive(Debug, Clone)]
pub(crate) enum Endpoint {
    /// `host:port`.
    Tcp(String),
    Tls(String, Box<TlsFiles>),
    Udp(String),
    Unix(PathBuf),
    Unixgram(PathBuf),
    /// Datagrams, or else a stream.
    AnyUnix(PathBuf),
}

/// Files of the options `…-tls-…`.
#[derive(Debug, Clone, Default)]
pub(crate) struct TlsFiles {
    pub(crate) authority: Option<PathBuf>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) skip_verify: bool,
}

/// Go's words for a failed connection.
pub(crate) fn dial_error(endpoint: &Endpoint, error: &io::Error) -> String {
    let (network, address) = match endpoint {
        Endpoint::Tcp(a) | Endpoint::Tls(a, _) => ("tcp", a.clone()),
        Endpoint::Udp(a) => ("udp", a.clone()),
        Endpoint::Unix(p) => ("unix", p.display().to_string()),
        Endpoint::Unixgram(p) | Endpoint::AnyUnix(p) => ("unixgram", p.display().to_string()),
    };
    match error.kind() {
        _ if error.raw_os_error().is_some() => {
            format!("dial {network} {address}: connect: {}", errno_text(error))
        }
        io::ErrorKind::TimedOut => format!("dial {network} {address}: i/o timeout"),
        _ => format!("dial {network} {address}: {error}"),
    }
}

impl Endpoint {
    /// Whether somebody listens; blocks. Datagrams have nobody to ask but the kernel.
    pub(crate) fn probe(&self, limit: Duration) -> io::Result<()> {
        use std::net::ToSocketAddrs;
        match self {
            Self::Tcp(host) | Self::Tls(host, _) => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "no such host");
                for address in host.to_socket_addrs()? {
                    match std::net::TcpStream::connect_timeout(&address, limit) {
                        Ok(_) => return Ok(()),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
            Self::Udp(host) => host.to_socket_addrs().map(|_| ()),
            Self::Unix(path) => std::os::unix::net::UnixStream::connect(path).map(|_| ()),
            Self::Unixgram(path) => std::os::unix::net::UnixDatagram::unbound()?.connect(path),
            Self::AnyUnix(path) => std::os::unix::net::UnixDatagram::unbound()?
                .connect(path)
                .or_else(|_| std::os::unix::net::UnixStream::connect(path).map(|_| ())),
        }
    }
}

/// An open connection.
#[derive(Debug)]
pub(crate) enum Connection {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
    Udp(UdpSocket),
    Unixgram(UnixDatagram),
}

fn timed_out() -> io::Error {
    io::ErrorKind::TimedOut.into()
}

impl Connection {
    pub(crate) async fn open(endpoint: &Endpoint) -> io::Result<Self> {
        tokio::time::timeout(CONNECT, Self::dial(endpoint)).await.map_err(|_| timed_out())?
    }

    async fn dial(endpoint: &Endpoint) -> io::Result<Self> {
        Ok(match endpoint {
            Endpoint::Tcp(host) => Self::Tcp(TcpStream::connect(host).await?),
            Endpoint::Tls(host, files) => {
                let stream = TcpStream::connect(host).await?;
                let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
                let name = name.trim_matches(['[', ']']).to_owned();
                let name = ServerName::try_from(name).map_err(io::Error::other)?;
                let connector = tokio_rustls::TlsConnector::from(Arc::new(tls(files)?));
                Self::Tls(Box::new(connector.connect(name, stream).await?))
            }
            Endpoint::Udp(host) => {
                let mut last = io::Error::from(io::ErrorKind::NotFound);
                for address in tokio::net::lookup_host(host).await? {
                    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                    let socket = UdpSocket::bind(any).await?;
                    match socket.connect(address).await {
                        Ok(()) => return Ok(Self::Udp(socket)),
                        Err(error) => last = error,
                    }
                }
                return Err(last);
            }
            Endpoint::Unix(path) => Self::Unix(UnixStream::connect(path).await?),
            Endpoint::Unixgram(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                Self::Unixgram(socket)
            }
            Endpoint::AnyUnix(path) => {
                let socket = UnixDatagram::unbound()?;
                match socket.connect(path) {
                    Ok(()) => Self::Unixgram(socket),
                    Err(_) => Self::Unix(UnixStream::connect(path).await?),
                }
            }
        })
    }

    /// Whether the other side has hung up.
    pub(crate) fn is_closed(&self) -> bool {
        let mut byte = [0; 1];
        // Receivers do not talk, but for acknowledgements, which are waited for before the next batch.
        let read = match self {
            Self::Tcp(s) => s.try_read(&mut byte),
            Self::Unix(s) => s.try_read(&mut byte),
            Self::Tls(s) => s.get_ref().0.peek_closed(),
            Self::Udp(_) | Self::Unixgram(_) => return false,
        };
        match read {
            Ok(0) => true,
            Ok(_) => false,
            Err(e) => e.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Writes a batch and waits until it has arrived as far as can be known.
    pub(crate) async fn send(&mut self, packets: &Packets, limit: Option<Duration>) -> io::Result<()> {
        let limit = limit.unwrap_or(WRITE);
        tokio::time::timeout(limit, self.write(packets)).await.map_err(|_| timed_out())?
    }

    async fn write(&mut self, packets: &Packets) -> io::Result<()> {
        match self {
            Self::Tcp(s) => s.write_all(&packets.bytes).await?,
            Self::Unix(s) => s.write_all(&packets.bytes).await?,
            Self::Tls(s) => {
                s.write_all(&packets.bytes).await?;
                s.flush().await?;
            }
            Self::Udp(s) => {
                for packet in packets.packets() {
                    allowed(s.send(packet).await)?;
                }
                // Where nobody listens, a host that is near has told us by now.
                return s.take_error()?.map_or(Ok(()), Err);
            }
            Self::Unixgram(s) => {
                for packet in packets.packets() {
                    large(s, packet).await?;
                }
                return Ok(());
            }
        }
        self.arrived().await
    }

    /// Waits until the other side has everything.
    async fn arrived(&self) -> io::Result<()> {
        let mut pause = Duration::from_micros(200);
        loop {
            let left = match self {
                Self::Tcp(s) => corten_sys::outq::unread(s.as_fd())?,
                Self::Tls(s) => corten_sys::outq::unread(s.get_ref().0.as_fd())?,
                Self::Unix(s) => corten_sys::outq::unread(s.as_fd())?,
                Self::Udp(_) | Self::Unixgram(_) => 0,
            };
            if left == 0 {
                return Ok(());
            }
            if self.is_closed() {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Reads what comes next.
    pub(crate) async fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.read(buffer).await,
            Self::Tls(s) => s.read(buffer).await,
            Self::Unix(s) => s.read(buffer).await,
            Self::Udp(_) | Self::Unixgram(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// TCP without taking bytes out of the stream: they belong to TLS.
trait PeekClosed {
    fn peek_closed(&self) -> io::Result<usize>;
}

impl PeekClosed for TcpStream {
    fn peek_closed(&self) -> io::Result<usize> {
        use rustix::net::{RecvFlags, recv};
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let (read, _) = recv(self.as_fd(), &mut [0u8; 1][..], flags)?;
        Ok(read)
    }
}

/// A packet that is too long for the network is left out: it would stand in the way of all others for ever.
fn allowed(sent: io::Result<usize>) -> io::Result<()> {
    match sent {
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {
            tracing::warn!("a log record is too long for a datagram and is left out");
            Ok(())
        }
        other => other.map(|_| ()),
    }
}

/// Sends a datagram; one that is too long goes as a sealed file, which journald understands.
async fn large(socket: &UnixDatagram, packet: &[u8]) -> io::Result<()> {
    match socket.send(packet).await {
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {}
        other => return other.map(|_| ()),
    }
    let file = corten_sys::memfd::sealed_bytes("journal", packet)?;
    allowed(corten_sys::seqpacket::send(socket.as_fd(), b"", &[file.as_fd()], false).map(|()| 0))
}

fn pem(path: &std::path::Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let failed = |e| io::Error::other(format!("could not read certificate {:?}: {e}", path.display()));
    let all = CertificateDer::pem_file_iter(path).map_err(|e| failed(e.to_string()))?;
    all.collect::<Result<Vec<_>, _>>().map_err(|e| failed(e.to_string()))
}

fn tls(files: &TlsFiles) -> io::Result<rustls::ClientConfig> {
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let builder = if files.skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny))
    } else {
        let mut roots = RootCertStore::empty();
        match &files.authority {
            Some(path) => drop(roots.add_parsable_certificates(pem(path)?)),
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        builder.with_root_certificates(roots)
    };
    match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
            builder.with_client_auth_cert(pem(certificate)?, key).map_err(io::Error::other)
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}
