//! `corten registry serve`: the distribution API over a directory.
//!
//! Uploads are written to disk as they arrive and become visible by a rename after their digest was checked;
//! an upload survives a restart of the server. No blob is ever held in memory.

mod answer;
mod auth;
mod blobs;
pub mod gc;
mod lists;
mod manifests;
mod route;
mod storage;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use corten_base::{Cancel, Kind};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::client::tls;
use crate::error::RegistryError;
use auth::Passwords;
use route::App;
use storage::Store;
pub use storage::{Blobs, FileBlobs};

/// Connections served at the same time.
const MAX_CONNECTIONS: usize = 1024;

/// Settings of the server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where to listen; port 0 takes any.
    pub address: SocketAddr,
    /// Directory of all data; made if absent.
    pub root: PathBuf,
    /// File with `name:bcrypt hash` lines; without it everybody may do everything.
    pub htpasswd: Option<PathBuf>,
    /// Certificate chain and key (PEM); without them plain HTTP.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Whether `DELETE` is allowed.
    pub delete_enabled: bool,
    /// Refuses everything that writes.
    pub read_only: bool,
    /// Largest blob.
    pub max_blob_bytes: u64,
}

impl ServerConfig {
    /// Defaults for a directory and an address.
    #[must_use]
    pub fn new(address: SocketAddr, root: PathBuf) -> Self {
        Self {
            address,
            root,
            htpasswd: None,
            tls: None,
            delete_enabled: true,
            read_only: false,
            max_blob_bytes: 64 << 30,
        }
    }
}

/// The server cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Address in use and the like.
    #[error("listen tcp {address}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Its directory cannot be used.
    #[error("registry storage {path}")]
    Storage {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Certificate, key or password file.
    #[error("registry configuration")]
    Config(#[from] RegistryError),
    /// Certificate and key do not fit.
    #[error("certificate and key")]
    Tls(#[from] rustls::Error),
}

impl ServerError {
    /// What callers may branch on.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Config(_) | Self::Tls(_) => Kind::InvalidArgument,
            Self::Listen { .. } | Self::Storage { .. } => Kind::Internal,
        }
    }
}

/// A server that listens, but does not answer yet.
pub struct Server {
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    app: Arc<App>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("listener", &self.listener).finish_non_exhaustive()
    }
}

/// Serves until `cancel` is set.
///
/// # Errors
/// As [`Server::bind`].
pub async fn serve(config: ServerConfig, cancel: &Cancel) -> Result<(), ServerError> {
    Server::bind(config).await?.run(cancel).await;
    Ok(())
}

impl Server {
    /// Opens storage and socket.
    ///
    /// # Errors
    /// What is wrong with the settings or the host.
    pub async fn bind(config: ServerConfig) -> Result<Self, ServerError> {
        let root = config.root.clone();
        let store = Store::open(
            FileBlobs::open(&root)
                .map_err(|source| ServerError::Storage { path: root.display().to_string(), source })?,
        );
        let passwords = config.htpasswd.as_deref().map(Passwords::open).transpose()?;
        let acceptor = config.tls.as_ref().map(acceptor).transpose()?;
        let listener = TcpListener::bind(config.address)
            .await
            .map_err(|source| ServerError::Listen { address: config.address, source })?;
        Ok(Self { listener, acceptor, app: Arc::new(App { config, store, passwords }) })
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `cancel` is set; connections still open then are closed.
    pub async fn run(self, cancel: &Cancel) {
        let mut connections = tokio::task::JoinSet::new();
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                () = cancel.cancelled() => break,
                accepted = self.listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            let Ok((tcp, _)) = accepted else {
                // Out of file descriptors: accepting again at once would spin.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
            let (app, acceptor) = (Arc::clone(&self.app), self.acceptor.clone());
            connections.spawn(async move {
                let _place = place;
                if let Err(e) = connection(app, acceptor, tcp).await {
                    tracing::debug!(error = %e, "connection ended");
                }
            });
        }
        connections.shutdown().await;
    }
}

async fn connection(
    app: Arc<App>,
    acceptor: Option<TlsAcceptor>,
    tcp: TcpStream,
) -> Result<(), hyper::Error> {
    tcp.set_nodelay(true).ok();
    match acceptor {
        None => http(app, tcp).await,
        Some(acceptor) => match tokio::time::timeout(Duration::from_secs(10), acceptor.accept(tcp)).await {
            Ok(Ok(stream)) => http(app, stream).await,
            _ => Ok(()),
        },
    }
}

async fn http<S>(app: Arc<App>, stream: S) -> Result<(), hyper::Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let app = Arc::clone(&app);
        async move { Ok::<_, std::convert::Infallible>(app.answer(request).await) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(60))
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn acceptor(files: &(PathBuf, PathBuf)) -> Result<TlsAcceptor, ServerError> {
    let chain = tls::certificates(&files.0)?;
    let key = tls::private_key(&files.1)?;
    let mut config = rustls::ServerConfig::builder_with_provider(corten_base::tls::provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
