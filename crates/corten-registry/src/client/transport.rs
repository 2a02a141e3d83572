//! Sends one request: retries, redirects, time limits. Knows nothing of tokens; what it is given as
//! `Authorization` it never sends to another origin than the request's own (CVE-2020-15157).

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, LOCATION, PROXY_AUTHORIZATION, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::config::ClientConfig;
use super::connect::{ConnectError, Connector, proxy_authorization};
use crate::error::{ApiError, RegistryError, TransportError, errno_text};

/// Body of a request.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

const MAX_REDIRECTS: usize = 10;
const MAX_RETRY_WAIT: Duration = Duration::from_secs(30);
/// Longest error body that we read.
const ERROR_BODY_LIMIT: usize = 64 << 10;

/// A body that can be sent again.
pub(crate) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|e| match e {}).boxed_unsync()
}

/// What to send.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Call {
    pub(crate) fn new(method: Method, uri: Uri) -> Self {
        Self { method, uri, headers: HeaderMap::new(), body: Bytes::new() }
    }

    pub(crate) fn header(mut self, name: http::HeaderName, value: &str) -> Result<Self, RegistryError> {
        let value = HeaderValue::from_str(value)
            .map_err(|_| RegistryError::protocol(format!("invalid {name} header")))?;
        self.headers.append(name, value);
        Ok(self)
    }
}

/// The pool and its settings; clones share it.
#[derive(Clone)]
pub(crate) struct Transport {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) connector: Connector,
    pool: legacy::Client<Connector, Body>,
}

impl Transport {
    pub(crate) fn new(config: Arc<ClientConfig>) -> Self {
        let connector = Connector::new(Arc::clone(&config));
        let pool = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(15))
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(8)
            .build(connector.clone());
        Self { config, connector, pool }
    }

    /// Sends a request whose body can be repeated: retries on broken connections, 429 and 5xx; follows
    /// redirects of GET and HEAD. Any status is a success here.
    pub(crate) async fn send(&self, call: &Call) -> Result<Response<Incoming>, RegistryError> {
        let mut call = call.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send_with_retries(&call).await?;
            let redirects =
                response.status().is_redirection() && response.status() != StatusCode::NOT_MODIFIED;
            if !redirects || !(call.method == Method::GET || call.method == Method::HEAD) {
                return Ok(response);
            }
            let Some(location) = response.headers().get(LOCATION).and_then(|l| l.to_str().ok()) else {
                return Ok(response);
            };
            let target = resolve(&call.uri, location)?;
            if !same_origin(&call.uri, &target) {
                call.headers.remove(AUTHORIZATION);
            }
            if call.uri.scheme_str() == Some("https") && target.scheme_str() != Some("https") {
                let what = format!("refusing to follow a redirect from TLS to {}", without_query(&target));
                return Err(failed(&call.method, &call.uri, TransportError::Redirect(what)));
            }
            call.uri = target;
        }
        Err(failed(&call.method, &call.uri, TransportError::Redirect("stopped after 10 redirects".into())))
    }

    async fn send_with_retries(&self, call: &Call) -> Result<Response<Incoming>, RegistryError> {
        let mut attempt = 1;
        loop {
            let result = self.send_once(call, full(call.body.clone())).await;
            let wait = match &result {
                Ok(r) if r.status() == StatusCode::TOO_MANY_REQUESTS || is_passing(r.status()) => {
                    retry_after(r)
                }
                Err(e) if e.is_transient() => None,
                _ => return result,
            };
            if attempt >= self.config.attempts {
                return result;
            }
            tokio::time::sleep(wait.unwrap_or_else(|| backoff(attempt)).min(MAX_RETRY_WAIT)).await;
            attempt += 1;
        }
    }

    /// Sends a request once; the body may be a stream.
    pub(crate) async fn send_once(
        &self,
        call: &Call,
        body: Body,
    ) -> Result<Response<Incoming>, RegistryError> {
        let mut request = Request::new(body);
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = call.uri.clone();
        *request.headers_mut() = call.headers.clone();
        if let Ok(agent) = HeaderValue::from_str(&self.config.user_agent) {
            request.headers_mut().insert(USER_AGENT, agent);
        }
        self.add_proxy_authorization(&mut request);
        let answer = self.pool.request(request);
        match tokio::time::timeout(
            self.config.idle_timeout.saturating_mul(body_patience(&call.method)),
            answer,
        )
        .await
        {
            Ok(Ok(response)) => {
                tracing::debug!(method = %call.method, url = %without_query(&call.uri), status = response.status().as_u16(), "registry");
                Ok(response)
            }
            Ok(Err(e)) => Err(self.explain(call, &e)),
            Err(_) => Err(failed(&call.method, &call.uri, TransportError::Timeout)),
        }
    }

    fn add_proxy_authorization(&self, request: &mut Request<Body>) {
        let uri = request.uri();
        if uri.scheme_str() != Some("http") {
            return;
        }
        let proxy =
            self.config.proxy.for_host(false, uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80));
        if let Some(value) = proxy.and_then(proxy_authorization).and_then(|v| HeaderValue::from_str(&v).ok())
        {
            request.headers_mut().insert(PROXY_AUTHORIZATION, value);
        }
    }

    /// Digs our own error out of hyper's.
    fn explain(&self, call: &Call, e: &legacy::Error) -> RegistryError {
        let mut cause = e.source();
        let mut last = e.to_string();
        while let Some(c) = cause {
            if let Some(connect) = c.downcast_ref::<ConnectError>() {
                return match connect {
                    ConnectError::Transport(t) => failed(&call.method, &call.uri, t.clone()),
                    ConnectError::Config(c) => RegistryError::Config { what: c.to_string() },
                };
            }
            last = match c.downcast_ref::<std::io::Error>() {
                Some(io) => errno_text(io),
                None => c.to_string(),
            };
            cause = c.source();
        }
        failed(&call.method, &call.uri, TransportError::Broken(last))
    }
}

/// A request with a body may take long to be sent; its stream has a time limit of its own.
fn body_patience(method: &Method) -> u32 {
    if *method == Method::PATCH || *method == Method::PUT { 120 } else { 1 }
}

fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(250) * 2u32.saturating_pow(attempt.saturating_sub(1).min(6))
}

fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    let seconds: u64 = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Names the request in an error.
pub(crate) fn failed(method: &Method, uri: &Uri, source: TransportError) -> RegistryError {
    RegistryError::Request { method: go_method(method), url: without_query(uri), source }
}

/// Go's spelling of a method in its errors.
pub(crate) fn go_method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "Get",
        "HEAD" => "Head",
        "POST" => "Post",
        "PUT" => "Put",
        "PATCH" => "Patch",
        "DELETE" => "Delete",
        _ => "Request",
    }
}

/// Queries may hold signatures of blob stores; they are kept out of messages.
pub(crate) fn without_query(uri: &Uri) -> String {
    let text = uri.to_string();
    text.split('?').next().unwrap_or_default().to_owned()
}

/// Scheme, host and port agree.
pub(crate) fn same_origin(a: &Uri, b: &Uri) -> bool {
    let port = |u: &Uri| u.port_u16().unwrap_or(if u.scheme_str() == Some("https") { 443 } else { 80 });
    let host = |u: &Uri| u.host().unwrap_or_default().to_ascii_lowercase();
    a.scheme_str() == b.scheme_str() && host(a) == host(b) && port(a) == port(b)
}

/// Resolves a `Location` against the address of the request.
pub(crate) fn resolve(base: &Uri, location: &str) -> Result<Uri, RegistryError> {
    let invalid = || RegistryError::protocol("invalid Location header in the registry's answer");
    let origin =
        format!("{}://{}", base.scheme_str().unwrap_or("https"), base.authority().map_or("", |a| a.as_str()));
    let absolute = if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{}://{rest}", base.scheme_str().unwrap_or("https"))
    } else if location.starts_with('/') {
        format!("{origin}{location}")
    } else if location.contains("://") || location.is_empty() {
        return Err(invalid());
    } else {
        let dir = base.path().rsplit_once('/').map_or("", |(dir, _)| dir);
        format!("{origin}{dir}/{location}")
    };
    absolute.parse().map_err(|_| invalid())
}

/// Reads a small body with a limit.
pub(crate) async fn read_body(
    body: Incoming,
    limit: usize,
    idle: Duration,
    call: (&Method, &Uri),
) -> Result<Bytes, RegistryError> {
    let collected = Limited::new(body, limit).collect();
    match tokio::time::timeout(idle, collected).await {
        Ok(Ok(all)) => Ok(all.to_bytes()),
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => {
            Err(RegistryError::protocol(format!("the answer of the registry is larger than {limit} bytes")))
        }
        Ok(Err(e)) => Err(failed(call.0, call.1, TransportError::Broken(e.to_string()))),
        Err(_) => Err(failed(call.0, call.1, TransportError::Timeout)),
    }
}

/// Turns an answer that is not a success into an error, after distribution's `HandleHTTPResponseError`.
pub(crate) async fn api_error(
    response: Response<Incoming>,
    idle: Duration,
    call: (&Method, &Uri),
) -> ApiError {
    use corten_wire::distribution::{Errors, code};
    let status = response.status();
    // COMPAT: what RFC 6750 says in the challenge goes before what the body says.
    let challenges: Vec<_> = response
        .headers()
        .get_all(http::header::WWW_AUTHENTICATE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(super::challenge::parse)
        .collect();
    if let Some(bearer) = challenges.iter().find(|c| c.scheme == "bearer") {
        let found = match bearer.get("error") {
            "invalid_token" => Some(code::UNAUTHORIZED),
            "insufficient_scope" => Some(code::DENIED),
            _ => None,
        };
        if let Some(found) = found {
            let mut error = ApiError::coded(status.as_u16(), found);
            if !bearer.get("error_description").is_empty() {
                error.message = bearer.get("error_description").to_owned();
            }
            return error;
        }
    }
    let body = read_body(response.into_body(), ERROR_BODY_LIMIT, idle, call).await.unwrap_or_default();
    let first = serde_json::from_slice::<Errors>(&body).ok().and_then(|e| e.errors.into_iter().next());
    match (first, status.as_u16()) {
        (Some(first), _) if !first.code.is_empty() || !first.message.is_empty() => {
            ApiError::of_body(status.as_u16(), first)
        }
        (_, 401) => ApiError::coded(401, code::UNAUTHORIZED),
        (_, 403) => ApiError::coded(403, code::DENIED),
        (_, 429) => ApiError::coded(429, code::TOOMANYREQUESTS),
        (_, number) => ApiError {
            status: number,
            code: String::new(),
            message: format!("received unexpected HTTP status: {status}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        let base: Uri = "https://r.test:5000/v2/a/blobs/uploads/".parse().unwrap();
        for (location, want) in [
            ("/v2/x", "https://r.test:5000/v2/x"),
            ("https://o.test/y?z=1", "https://o.test/y?z=1"),
            ("//o.test/y", "https://o.test/y"),
            ("id?_state=q", "https://r.test:5000/v2/a/blobs/uploads/id?_state=q"),
        ] {
            assert_eq!(resolve(&base, location).unwrap().to_string(), want);
        }
        assert!(resolve(&base, "ftp://x").is_err());
        let same = |a: &str, b: &str| same_origin(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(same("https://a.test/x", "https://A.test:443/y"));
        assert!(!same("https://a.test/x", "http://a.test/y"));
        assert!(!same("https://a.test/x", "https://a.test:444/y"));
    }
}
