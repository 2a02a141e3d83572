//! Plain downloads (`ADD https://…`, remote build contexts) with the same proxies, TLS and redirects, and without
//! any credentials.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, LAST_MODIFIED};
use http::{HeaderMap, Method, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::transport::{Call, failed};
use super::{Client, broken};
use crate::error::{RegistryError, TransportError};

/// A file being downloaded.
#[derive(Debug)]
pub struct Download {
    uri: Uri,
    headers: HeaderMap,
    body: Incoming,
    idle: std::time::Duration,
    left: Option<u64>,
}

impl Client {
    /// Fetches an `http` or `https` address.
    ///
    /// # Errors
    /// No answer, or a status that is not a success.
    pub async fn download(&self, url: &str) -> Result<Download, RegistryError> {
        let uri: Uri =
            url.parse().map_err(|_| RegistryError::Config { what: format!("invalid URL {url:?}") })?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            return Err(RegistryError::Config { what: format!("invalid URL {url:?}") });
        }
        let transport = self.transport();
        let response = transport.send(&Call::new(Method::GET, uri.clone())).await?;
        if !response.status().is_success() {
            // COMPAT: wording of the classic builder.
            let what = format!("failed to GET {url} with status {}", response.status());
            return Err(RegistryError::Protocol { what });
        }
        let idle = transport.config.idle_timeout;
        let (head, body) = response.into_parts();
        let left = head.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        Ok(Download { uri, headers: head.headers, body, idle, left })
    }
}

impl Download {
    /// `Last-Modified`, as sent.
    #[must_use]
    pub fn last_modified(&self) -> Option<&str> {
        self.header(&LAST_MODIFIED)
    }

    /// `Content-Type`, as sent.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.header(&CONTENT_TYPE)
    }

    fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// The connection broke, or nothing came for too long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let frame = match tokio::time::timeout(self.idle, self.body.frame()).await {
                Err(_) => return Err(failed(&Method::GET, &self.uri, TransportError::Timeout)),
                Ok(None) if self.left.is_some_and(|l| l > 0) => {
                    return Err(broken((&Method::GET, &self.uri), "unexpected EOF"));
                }
                Ok(None) => return Ok(None),
                Ok(Some(Err(e))) => return Err(broken((&Method::GET, &self.uri), e.to_string())),
                Ok(Some(Ok(frame))) => frame,
            };
            if let Ok(bytes) = frame.into_data() {
                self.left = self.left.map(|l| l.saturating_sub(bytes.len() as u64));
                return Ok(Some(bytes));
            }
        }
    }
}
