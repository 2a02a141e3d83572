//! Makes connections for hyper's pool: direct or through a proxy, plain or TLS, with Go's error texts.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::config::{ClientConfig, split_port};
use super::tls;
use crate::credentials::basic;
use crate::error::{RegistryError, TransportError, errno_text};

/// Longest answer to `CONNECT` that we read.
const PROXY_ANSWER_LIMIT: usize = 8 << 10;

/// TLS settings by authority and whether certificates are verified.
type TlsConfigs = HashMap<(String, bool), Arc<rustls::ClientConfig>>;

/// The connector; clones share the TLS settings.
#[derive(Clone)]
pub(crate) struct Connector {
    config: Arc<ClientConfig>,
    tls: Arc<Mutex<TlsConfigs>>,
}

impl Connector {
    pub(crate) fn new(config: Arc<ClientConfig>) -> Self {
        Self { config, tls: Arc::default() }
    }

    /// The addresses of a host; empty where it has none.
    pub(crate) async fn addresses(host: &str, port: u16) -> Vec<SocketAddr> {
        tokio::net::lookup_host((host, port)).await.map(Iterator::collect).unwrap_or_default()
    }

    /// Whether `authority` may be talked to without verified TLS.
    pub(crate) async fn is_insecure(&self, authority: &str) -> bool {
        if self.config.insecure.covers(authority, &[]) {
            return true;
        }
        let (host, port) = split_port(authority);
        // A name must be looked up only for the sake of listed networks.
        if host.parse::<std::net::IpAddr>().is_ok() || self.config.insecure.networks().len() <= 2 {
            return false;
        }
        let ips: Vec<_> =
            Self::addresses(host, port.unwrap_or(443)).await.iter().map(SocketAddr::ip).collect();
        self.config.insecure.covers(authority, &ips)
    }

    async fn tls_config(&self, authority: &str) -> Result<Arc<rustls::ClientConfig>, RegistryError> {
        let verify = !self.is_insecure(authority).await;
        let key = (authority.to_owned(), verify);
        if let Some(found) = self.tls.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Arc::clone(found));
        }
        let dir = self.config.certs_dir.clone();
        let name = authority.to_owned();
        let made = tokio::task::spawn_blocking(move || tls::client_config(&dir, &name, verify))
            .await
            .map_err(|e| RegistryError::protocol(e.to_string()))??;
        self.tls.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::clone(&made));
        Ok(made)
    }

    async fn connect(self, uri: Uri) -> Result<TokioIo<Stream>, ConnectError> {
        let is_tls = uri.scheme_str() == Some("https");
        let authority = uri.authority().map(|a| a.as_str().to_owned()).unwrap_or_default();
        let (host, port) = split_port(&authority);
        let port = port.unwrap_or(if is_tls { 443 } else { 80 });
        let Some(proxy) = self.config.proxy.for_host(is_tls, host, port) else {
            let tcp = self.dial(host, port).await?;
            return if is_tls {
                self.handshake(tcp, &authority, host).await
            } else {
                Ok(TokioIo::new(Stream::plain(tcp, false)))
            };
        };
        let proxy = Proxy::parse(proxy)?;
        let mut tcp = self.dial(&proxy.host, proxy.port).await?;
        if !is_tls {
            return Ok(TokioIo::new(Stream::plain(tcp, true)));
        }
        let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        proxy.tunnel(&mut tcp, &target).await?;
        self.handshake(tcp, &authority, host).await
    }

    async fn dial(&self, host: &str, port: u16) -> Result<TcpStream, TransportError> {
        let addresses = Self::addresses(host, port).await;
        let mut failure = TransportError::Lookup { host: host.to_owned() };
        for address in addresses {
            match tokio::time::timeout(self.config.connect_timeout, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => {
                    tcp.set_nodelay(true).ok();
                    return Ok(tcp);
                }
                Ok(Err(e)) => {
                    failure = TransportError::Dial { address: address.to_string(), reason: errno_text(&e) }
                }
                Err(_) => failure = TransportError::DialTimeout { address: address.to_string() },
            }
        }
        Err(failure)
    }

    async fn handshake(
        &self,
        tcp: TcpStream,
        authority: &str,
        host: &str,
    ) -> Result<TokioIo<Stream>, ConnectError> {
        let config = self.tls_config(authority).await.map_err(Box::new)?;
        let name = ServerName::try_from(host.to_owned()).map_err(|e| TransportError::Tls(e.to_string()))?;
        let connecting = TlsConnector::from(config).connect(name, tcp);
        match tokio::time::timeout(self.config.connect_timeout, connecting).await {
            Ok(Ok(stream)) => Ok(TokioIo::new(Stream::Tls(Box::new(stream)))),
            Ok(Err(e)) => Err(tls::handshake_error(&e, host).into()),
            Err(_) => Err(TransportError::Tls("TLS handshake timeout".into()).into()),
        }
    }
}

/// Why no connection was made; travels through hyper's error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Network or peer.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Our own settings.
    #[error(transparent)]
    Config(#[from] Box<RegistryError>),
}

struct Proxy {
    host: String,
    port: u16,
    authorization: Option<String>,
}

impl Proxy {
    fn parse(text: &str) -> Result<Self, TransportError> {
        let rest = text.strip_prefix("http://").unwrap_or(text);
        if rest.contains("://") {
            return Err(TransportError::Proxy(format!("unsupported proxy address {:?}", redact(text))));
        }
        let rest = rest.split('/').next().unwrap_or_default();
        let (user, authority) = rest.rsplit_once('@').map_or((None, rest), |(u, a)| (Some(u), a));
        let (host, port) = split_port(authority);
        let authorization = proxy_authorization_of(user);
        Ok(Self { host: host.to_owned(), port: port.unwrap_or(80), authorization })
    }

    async fn tunnel(&self, tcp: &mut TcpStream, target: &str) -> Result<(), TransportError> {
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(value) = &self.authorization {
            request.push_str(&format!("Proxy-Authorization: {value}\r\n"));
        }
        request.push_str("\r\n");
        let broken = |e: io::Error| TransportError::Proxy(errno_text(&e));
        tcp.write_all(request.as_bytes()).await.map_err(broken)?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            // One byte at a time: what follows the answer belongs to the TLS handshake.
            answer.push(tcp.read_u8().await.map_err(broken)?);
            if answer.len() > PROXY_ANSWER_LIMIT {
                return Err(TransportError::Proxy("answer too long".into()));
            }
        }
        let line = String::from_utf8_lossy(&answer);
        let status = line.lines().next().unwrap_or_default().split_once(' ').map_or("", |(_, s)| s);
        if status.starts_with("200") { Ok(()) } else { Err(TransportError::Proxy(status.to_owned())) }
    }
}

fn proxy_authorization_of(user: Option<&str>) -> Option<String> {
    let user = user?;
    let decode = |t: &str| percent_decode_str(t).decode_utf8_lossy().into_owned();
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    Some(basic(&decode(name), &decode(password)))
}

/// `Proxy-Authorization` for requests that go to a proxy in plain HTTP.
pub(crate) fn proxy_authorization(proxy: &str) -> Option<String> {
    Proxy::parse(proxy).ok()?.authorization
}

fn redact(proxy: &str) -> String {
    proxy.rsplit_once('@').map_or(proxy, |(_, rest)| rest).to_owned()
}

/// A connection, plain or encrypted.
pub(crate) enum Stream {
    Plain { tcp: TcpStream, proxied: bool },
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    const fn plain(tcp: TcpStream, proxied: bool) -> Self {
        Self::Plain { tcp, proxied }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(matches!(self, Self::Plain { proxied: true, .. }))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { tcp, .. } => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain { tcp, .. } => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { tcp, .. } => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { tcp, .. } => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Stream>, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}
