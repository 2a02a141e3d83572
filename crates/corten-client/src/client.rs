//! Connections, and requests over them.

use std::sync::Mutex;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;

use crate::endpoint::Target;
use crate::request::OutBody;
use crate::{Body, ByteStream, Endpoint, Error, Hijacked, JsonLines, Request, connect};

/// The newest API version this client speaks.
pub const MAX_API_VERSION: (u16, u16) = (1, 50);

/// Answers read into memory are at most this long.
const MAX_ANSWER: usize = 256 << 20;
/// Idle connections kept.
const MAX_IDLE: usize = 4;

type Answer = (http::Response<Incoming>, SendRequest<OutBody>);

/// A client of one daemon.
#[derive(Debug)]
pub struct Client {
    endpoint: Endpoint,
    headers: HeaderMap,
    idle: Mutex<Vec<SendRequest<OutBody>>>,
    version: Mutex<Version>,
}

#[derive(Debug, Clone, Copy)]
struct Version {
    current: (u16, u16),
    /// Set by the user or learned from the daemon: no need to ask before a body that goes only once.
    settled: bool,
}

impl Client {
    /// A client that connects at its first request. `version` pins the API version.
    ///
    /// # Errors
    /// A header that HTTP does not allow.
    pub fn new(
        endpoint: Endpoint,
        version: Option<(u16, u16)>,
        headers: &[(String, String)],
    ) -> Result<Self, Error> {
        let bad = |e: &dyn std::fmt::Display| Error::Endpoint(format!("invalid HTTP header: {e}"));
        let header = |(name, value): &(String, String)| {
            Ok((
                name.parse::<HeaderName>().map_err(|e| bad(&e))?,
                value.parse::<HeaderValue>().map_err(|e| bad(&e))?,
            ))
        };
        let headers = headers.iter().map(header).collect::<Result<HeaderMap, Error>>()?;
        let version = match version {
            Some(current) => Version { current, settled: true },
            None => Version { current: MAX_API_VERSION, settled: false },
        };
        Ok(Self { endpoint, headers, idle: Mutex::default(), version: Mutex::new(version) })
    }

    /// Where the daemon is.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The version in use so far.
    #[must_use]
    pub fn api_version(&self) -> (u16, u16) {
        self.lock_version().current
    }

    fn lock_version(&self) -> std::sync::MutexGuard<'_, Version> {
        self.version.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Asks `/_ping` for the daemon's version, unless it is known.
    ///
    /// # Errors
    /// The daemon cannot be reached.
    pub async fn negotiate(&self) -> Result<(u16, u16), Error> {
        let version = *self.lock_version();
        if version.settled {
            return Ok(version.current);
        }
        let (answer, sender) = self.exchange(Request::new(Method::HEAD, "/_ping"), false).await?;
        let theirs =
            answer.headers().get("api-version").and_then(|v| v.to_str().ok()).and_then(parse_version);
        let current = theirs.unwrap_or((1, 24)).min(MAX_API_VERSION);
        self.give_back(sender);
        *self.lock_version() = Version { current, settled: true };
        Ok(current)
    }

    async fn sender(&self) -> Result<(SendRequest<OutBody>, bool), Error> {
        loop {
            let pooled = self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
            match pooled {
                Some(mut sender) => {
                    if !sender.is_closed() && sender.ready().await.is_ok() {
                        return Ok((sender, true));
                    }
                }
                None => return Ok((self.connect().await?, false)),
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<OutBody>, Error> {
        let transport = connect::open(&self.endpoint).await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(256 << 10)
            .handshake::<_, OutBody>(TokioIo::new(transport))
            .await?;
        // The driver ends with its connection: when the sender is dropped or the daemon goes away.
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    /// Makes a connection usable for the next request, once its answer has been read.
    fn give_back(&self, sender: SendRequest<OutBody>) {
        let mut idle = self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if idle.len() < MAX_IDLE && !sender.is_closed() {
            idle.push(sender);
        }
    }

    fn encode(&self, request: Request, versioned: bool) -> Result<http::Request<OutBody>, Error> {
        let (major, minor) = self.lock_version().current;
        let (host, base) = match &self.endpoint.target {
            Target::Tcp { host, port, base, .. } => {
                (format!("{host}:{port}"), if base.is_empty() { String::new() } else { format!("/{base}") })
            }
            Target::Unix(_) => ("api.moby.localhost".to_owned(), String::new()),
            Target::Ssh { .. } => ("docker.example.com".to_owned(), String::new()),
        };
        let prefix = if versioned { format!("/v{major}.{minor}") } else { String::new() };
        let uri = format!("{base}{prefix}{}{}", request.path, request.query.encode());
        let empty = || BoxBody::new(Full::default().map_err(|never| match never {}));
        let mut built = http::Request::builder().method(request.method).uri(uri).header(header::HOST, host);
        let body = match request.body {
            Body::Empty => empty(),
            Body::Json(bytes) => {
                built = built.header(header::CONTENT_TYPE, "application/json");
                BoxBody::new(Full::new(bytes).map_err(|never| match never {}))
            }
            Body::Stream(media_type, body) => {
                built = built.header(header::CONTENT_TYPE, media_type);
                body
            }
        };
        let mut built = built.body(body).map_err(|e| Error::Http(e.to_string()))?;
        for (name, value) in self.headers.iter().chain(&request.headers) {
            built.headers_mut().insert(name, value.clone());
        }
        Ok(built)
    }

    /// Sends once. The connection comes along with the answer, for it is free only when the body has been read.
    async fn exchange(&self, request: Request, versioned: bool) -> Result<Answer, Error> {
        let again = request.replay();
        let (mut sender, reused) = self.sender().await?;
        match sender.try_send_request(self.encode(request, versioned)?).await {
            Ok(answer) => Ok((answer, sender)),
            // A kept-alive connection may have been closed by the daemon in the meantime: nothing was processed.
            Err(mut error) => match (reused, error.take_message().is_some(), again) {
                (true, true, Some(again)) => {
                    let mut sender = self.connect().await?;
                    let answer = sender.send_request(self.encode(again, versioned)?).await?;
                    Ok((answer, sender))
                }
                _ => Err(error.into_error().into()),
            },
        }
    }

    /// Sends a request; an error status becomes [`Error::Api`].
    ///
    /// # Errors
    /// The daemon cannot be reached, refuses, or breaks off.
    pub async fn send(&self, request: Request) -> Result<http::Response<Incoming>, Error> {
        self.send_keeping(request).await.map(|(answer, _)| answer)
    }

    async fn send_keeping(&self, request: Request) -> Result<Answer, Error> {
        if matches!(request.body, Body::Stream(..)) {
            self.negotiate().await?;
        }
        let again = request.replay();
        let (answer, sender) = self.exchange(request, true).await?;
        if answer.status().as_u16() < 400 {
            self.lock_version().settled = true;
            return Ok((answer, sender));
        }
        let head = again.as_ref().is_some_and(|r| r.method == Method::HEAD);
        let error = api_error(answer).await;
        self.give_back(sender);
        // The answer to HEAD has no text: ask for the version instead of reading it.
        let version =
            match (head && error.kind() == corten_base::Kind::InvalidArgument, self.lock_version().settled) {
                (_, true) => None,
                (false, false) => too_new(&error),
                (true, false) => Some(MAX_API_VERSION),
            };
        if let (Some(version), Some(again)) = (version, again) {
            if head {
                self.negotiate().await?;
            } else {
                *self.lock_version() = Version { current: version.min(MAX_API_VERSION), settled: true };
            }
            let (answer, sender) = self.exchange(again, true).await?;
            return if answer.status().as_u16() < 400 {
                Ok((answer, sender))
            } else {
                Err(api_error(answer).await)
            };
        }
        Err(error)
    }

    /// Sends and reads the whole answer.
    ///
    /// # Errors
    /// As [`Self::send`]; an answer over the limit.
    pub async fn bytes(&self, request: Request) -> Result<Bytes, Error> {
        let (answer, sender) = self.send_keeping(request).await?;
        let bytes = read_all(answer.into_body(), MAX_ANSWER).await?;
        self.give_back(sender);
        Ok(bytes)
    }

    /// Sends and decodes the answer.
    ///
    /// # Errors
    /// As [`Self::send`]; an answer that is not the expected JSON.
    pub async fn json<T: DeserializeOwned>(&self, request: Request) -> Result<T, Error> {
        let bytes = self.bytes(request).await?;
        serde_json::from_slice(&bytes).map_err(|e| Error::Answer(e.to_string()))
    }

    /// Sends and forgets the answer's body.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn unit(&self, request: Request) -> Result<(), Error> {
        self.bytes(request).await.map(drop)
    }

    /// Sends and returns the answer's body as it comes.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn stream(&self, request: Request) -> Result<ByteStream, Error> {
        Ok(ByteStream::from_answer(self.send(request).await?))
    }

    /// Sends and returns the answer as a stream of JSON values.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn json_lines(&self, request: Request) -> Result<JsonLines, Error> {
        Ok(JsonLines::new(self.stream(request).await?))
    }

    /// Sends with `Upgrade: tcp` and takes the connection over.
    ///
    /// # Errors
    /// As [`Self::send`]; the daemon does not switch protocols.
    pub async fn hijack(&self, request: Request) -> Result<Hijacked, Error> {
        let request = request.header("connection", "Upgrade").header("upgrade", "tcp");
        let answer = self.send(request).await?;
        let content_type =
            answer.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).map(str::to_owned);
        if answer.status() != http::StatusCode::SWITCHING_PROTOCOLS {
            return Err(Error::Http(format!(
                "unable to upgrade to tcp, received {}",
                answer.status().as_u16()
            )));
        }
        let stream = hyper::upgrade::on(answer).await?;
        Ok(Hijacked::new(stream, content_type.as_deref()))
    }

    /// Opens a bare connection to the daemon, for `system dial-stdio`.
    ///
    /// # Errors
    /// The daemon cannot be reached.
    pub async fn dial(
        &self,
    ) -> Result<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + use<>, Error> {
        connect::open(&self.endpoint).await
    }
}

async fn read_all(mut body: Incoming, limit: usize) -> Result<Bytes, Error> {
    let mut out = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if out.len() + data.len() > limit {
                return Err(Error::Answer("the answer is too long".into()));
            }
            out.extend_from_slice(&data);
        }
    }
    Ok(out.freeze())
}

async fn api_error(answer: http::Response<Incoming>) -> Error {
    #[derive(serde::Deserialize)]
    struct Message {
        message: String,
    }
    let status = answer.status();
    let bytes = match read_all(answer.into_body(), 1 << 20).await {
        Ok(bytes) => bytes,
        Err(e) => return e,
    };
    let message = match serde_json::from_slice::<Message>(&bytes) {
        Ok(m) if !m.message.is_empty() => m.message,
        _ => {
            let text = String::from_utf8_lossy(&bytes).trim().to_owned();
            if text.is_empty() { format!("API error (status {})", status.as_u16()) } else { text }
        }
    };
    Error::Api { status: status.as_u16(), message: message.trim().to_owned() }
}

fn parse_version(text: &str) -> Option<(u16, u16)> {
    let (major, minor) = text.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `client version 1.50 is too new. Maximum supported API version is 1.41` names the version to use.
fn too_new(error: &Error) -> Option<(u16, u16)> {
    let Error::Api { message, .. } = error else { return None };
    if !message.contains("is too new") {
        return None;
    }
    parse_version(message.rsplit(' ').next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let error = Error::Api {
            status: 400,
            message: "client version 1.50 is too new. Maximum supported API version is 1.41".into(),
        };
        assert_eq!(too_new(&error), Some((1, 41)));
        assert_eq!(too_new(&Error::Api { status: 400, message: "bad".into() }), None);
        assert_eq!(parse_version("1.56"), Some((1, 56)));
    }
}
