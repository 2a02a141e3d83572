//! Accepting, serving, and ending.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use corten_base::Cancel;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use crate::body::{Response, full};
use crate::call::{Call, failed};
use crate::compat;
use crate::edge_io::{EdgeIo, Link, Unread, is_hijack_path};
use crate::error::ApiError;
use crate::handlers::Disconnect;
use crate::listen::Listener;
use crate::query::Query;
use crate::router;
use crate::services::Services;
use crate::version::{self, NEWEST};

/// Time for a client to send the head of its next request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);

/// Without a request for so long the server is idle.
const IDLE: Duration = Duration::from_secs(3);

/// Serves the API on any number of listeners.
#[derive(Debug, Clone)]
pub struct Server {
    services: Arc<Services>,
    stop: Cancel,
    /// Told of every request.
    asked: Arc<Notify>,
}

impl Server {
    /// A server of these services; it ends its listeners when `stop` is set.
    #[must_use]
    pub fn new(services: Arc<Services>, stop: Cancel) -> Self {
        Self { services, stop, asked: Arc::default() }
    }

    /// Calls `rest` on a thread for blocking work whenever requests have come and then none did for three seconds.
    /// Does not return.
    pub async fn when_idle(self, rest: fn()) {
        loop {
            self.asked.notified().await;
            while tokio::time::timeout(IDLE, self.asked.notified()).await.is_ok() {}
            // That it panicked is in the log.
            let _ended = tokio::task::spawn_blocking(rest).await;
        }
    }

    /// Accepts until the server is stopped.
    pub async fn serve(self, listener: Listener) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                done = self.accept(&listener) => done,
            };
            if let Err(error) = accepted {
                // Out of descriptors, most likely: others will close theirs.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    async fn accept(&self, listener: &Listener) -> io::Result<()> {
        match listener {
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(self.clone().connection(stream, Reach::Trusted));
            }
            Listener::Tcp(listener, None) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let here = stream.local_addr()?.ip().is_loopback();
                let reach = if here { Reach::Loopback } else { Reach::Trusted };
                tokio::spawn(self.clone().connection(stream, reach));
            }
            Listener::Tcp(listener, Some(tls)) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let (server, tls) = (self.clone(), tls.clone());
                tokio::spawn(async move {
                    match tokio::time::timeout(Duration::from_secs(10), tls.accept(stream)).await {
                        Ok(Ok(stream)) => server.connection(stream, Reach::Trusted).await,
                        Ok(Err(error)) => tracing::info!(%peer, %error, "TLS handshake failed"),
                        Err(_) => tracing::info!(%peer, "TLS handshake took too long"),
                    }
                });
            }
        }
        Ok(())
    }

    async fn connection<S: AsyncRead + AsyncWrite + Unread + Send + Unpin + 'static>(
        self,
        stream: S,
        reach: Reach,
    ) {
        let link = Arc::new(Link::default());
        let io = TokioIo::new(EdgeIo::new(stream, Arc::clone(&link)));
        let stop = self.stop.clone();
        let service = service_fn(move |request| {
            // Before anything is awaited: hyper looks for the end of input right after this returns.
            if request.headers().contains_key(header::UPGRADE) && is_upgrade_path(request.uri().path()) {
                link.hold_end();
            }
            let (server, link) = (self.clone(), Arc::clone(&link));
            async move { Ok::<_, Infallible>(server.request(request, link, reach).await) }
        });
        let connection = http1::Builder::new()
            .title_case_headers(true)
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(io, service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection");
        }
    }

    async fn request(self, request: Request<Incoming>, link: Arc<Link>, reach: Reach) -> Response {
        self.asked.notify_one();
        let experimental = self.services.daemon().experimental;
        let path = request.uri().path().to_owned();
        let mut response = match version::split(&path) {
            _ if !reach.admits(request.headers()) => {
                failed(&ApiError::new(corten_base::Kind::Forbidden, "cross-origin requests are not allowed"))
            }
            Err(refused) => {
                let (error, plain) = refused.answer();
                if plain { plain_text(&error) } else { failed(&error) }
            }
            Ok((version, rest)) => match self.dispatch(request, version, rest, Arc::clone(&link)).await {
                Ok(response) => response,
                Err(error) => failed(&error),
            },
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            link.release_end();
            common_headers(response.headers_mut(), experimental);
        }
        response
    }

    async fn dispatch(
        &self,
        mut request: Request<Incoming>,
        version: version::ApiVersion,
        path: &str,
        link: Arc<Link>,
    ) -> Result<Response, ApiError> {
        let found = router::find(request.method(), path)
            .ok_or_else(|| ApiError { status: StatusCode::NOT_FOUND, message: "page not found".into() })?;
        let upgrade =
            request.headers().contains_key(header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
        let (head, body) = request.into_parts();
        let mut query = Query::parse(head.uri.query().unwrap_or_default());
        compat::query(found.route.pattern, version, &mut query);
        let call = Call {
            services: Arc::clone(&self.services),
            version,
            route: found.route,
            method: head.method,
            variables: found.variables,
            query,
            headers: head.headers,
            body,
            upgrade,
            link,
        };
        tracing::debug!(method = %call.method, path, "request");
        let handled = (found.route.handler)(call);
        match found.route.disconnect {
            Disconnect::Cancel => handled.await,
            Disconnect::Detach => tokio::spawn(handled)
                .await
                .unwrap_or_else(|e| Err(ApiError::internal(format!("request handler: {e}")))),
        }
    }
}

/// Requests that may turn into a stream in both directions.
fn is_upgrade_path(path: &str) -> bool {
    is_hijack_path(path) || path.ends_with("/attach/ws")
}

/// Who can be behind a connection. Web pages are kept out everywhere: they name their origin, which no client of
/// Docker does. On loopback without TLS that is not enough: a page whose name was made to point here is of the same
/// origin, and is known by that name only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// A socket file, TLS, or the network (whose owner was warned).
    Trusted,
    /// 127.0.0.1 without TLS: also the browser of a user of this machine.
    Loopback,
}

impl Reach {
    fn admits(self, headers: &HeaderMap) -> bool {
        let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok()).unwrap_or_default();
        let host = text(header::HOST);
        let name = host.rsplit_once(':').filter(|(_, p)| !p.contains(']')).map_or(host, |(name, _)| name);
        let literal = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
        // Names without a dot are not in the DNS that a stranger can write to.
        let ours = literal || !name.contains('.') || name.ends_with(".localhost");
        let origin = text(header::ORIGIN);
        let same = origin.is_empty() || (ours && origin.split_once("://").is_some_and(|(_, h)| h == host));
        same && (ours || self == Self::Trusted)
    }
}

fn common_headers(headers: &mut HeaderMap, experimental: bool) {
    let set = |headers: &mut HeaderMap, name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set(headers, "api-version", &NEWEST.to_string());
    set(headers, "docker-experimental", if experimental { "true" } else { "false" });
    set(headers, "ostype", "linux");
    set(headers, "server", concat!("Corten/", env!("CARGO_PKG_VERSION"), " (linux)"));
}

/// As Go's `http.Error`.
fn plain_text(error: &ApiError) -> Response {
    let mut response = http::Response::new(full(format!("{}\n", error.message)));
    *response.status_mut() = error.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_kept_out() {
        for (reach, host, origin, want) in [
            (Reach::Trusted, "docker", "", true),
            (Reach::Trusted, "api.moby.localhost", "", true),
            (Reach::Trusted, "docker.example.test:2376", "", true),
            (Reach::Trusted, "docker", "http://evil.test", false),
            (Reach::Loopback, "127.0.0.1:2375", "", true),
            (Reach::Loopback, "localhost:2375", "", true),
            (Reach::Loopback, "[::1]:2375", "", true),
            (Reach::Loopback, "localhost:2375", "http://localhost:2375", true),
            (Reach::Loopback, "localhost:2375", "http://evil.test", false),
            (Reach::Loopback, "evil.test:2375", "", false),
            (Reach::Loopback, "evil.test:2375", "http://evil.test:2375", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            if !origin.is_empty() {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            assert_eq!(reach.admits(&headers), want, "{reach:?} {host} {origin}");
        }
    }
}
