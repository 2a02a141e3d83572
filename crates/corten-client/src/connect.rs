//! Opens the byte stream to a daemon: socket, TLS session or the pipes of an `ssh` process.

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::endpoint::Target;
use crate::{Endpoint, Error, tls};

/// A stream of one of the transports.
#[derive(Debug)]
pub(crate) enum Transport {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    Ssh(Box<Ssh>),
}

/// An `ssh` process whose pipes are the connection; it dies with us.
#[derive(Debug)]
pub(crate) struct Ssh {
    _child: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
}

pub(crate) async fn open(endpoint: &Endpoint) -> Result<Transport, Error> {
    let refused = |source: io::Error| match source.kind() {
        io::ErrorKind::PermissionDenied => Error::Permission { host: endpoint.text.clone() },
        _ => Error::Connect { host: endpoint.text.clone(), source },
    };
    match &endpoint.target {
        Target::Unix(path) => Ok(Transport::Unix(UnixStream::connect(path).await.map_err(refused)?)),
        Target::Tcp { host, port, tls, .. } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(refused)?;
            stream.set_nodelay(true).ok();
            match tls {
                None => Ok(Transport::Tcp(stream)),
                Some(files) => Ok(Transport::Tls(Box::new(tls::wrap(stream, host, files).await?))),
            }
        }
        Target::Ssh { args } => {
            let mut child = Command::new("ssh")
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .map_err(refused)?;
            let stdin = child.stdin.take();
            let stdout = child.stdout.take().ok_or_else(|| Error::Http("ssh has no output".into()))?;
            Ok(Transport::Ssh(Box::new(Ssh { _child: child, stdin, stdout })))
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_read(cx, buf),
            Self::Ssh(s) => Pin::new(&mut s.stdout).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_write(cx, buf),
            Self::Ssh(s) => match &mut s.stdin {
                Some(stdin) => Pin::new(stdin).poll_write(cx, buf),
                None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            },
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_flush(cx),
            Self::Tcp(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_flush(cx),
            Self::Ssh(s) => match &mut s.stdin {
                Some(stdin) => Pin::new(stdin).poll_flush(cx),
                None => Poll::Ready(Ok(())),
            },
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_shutdown(cx),
            // Closing the pipe is the only half-close a process understands.
            Self::Ssh(s) => {
                s.stdin = None;
                Poll::Ready(Ok(()))
            }
        }
    }
}
