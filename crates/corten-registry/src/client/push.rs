//! Writing to a registry: blobs (mounted, in one piece, in chunks, resumed) and manifests.
//!
//! ```text
//!   HEAD blobs/<digest> ── there already ─▶ done
//!   POST uploads/[?mount=&from=] ── 201 ─▶ done (mounted)
//!        └─ 202 + Location ─▶ PATCH* (resumed after GET Location says how far it got) ─▶ PUT ?digest=
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use corten_base::Digest;
use futures_util::StreamExt;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{Method, Response, StatusCode, Uri};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::transport::{Body, Call, full, resolve};
use super::{Live, Repository, Target};
use crate::error::RegistryError;

/// Blobs up to this size are sent with the closing `PUT`.
const SMALL: u64 = 64 << 10;
/// Read size of files.
const BLOCK: usize = 256 << 10;

/// Where the bytes of a blob to push are.
#[derive(Debug, Clone)]
pub enum BlobSource {
    /// In memory (a config).
    Bytes(Bytes),
    /// In a file of exactly that content.
    File(PathBuf),
}

/// Called with the number of bytes sent so far, from the tasks that send.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

impl Repository {
    /// Size of the blob, if the repository has it.
    ///
    /// # Errors
    /// `Unauthorized`, or that the registry cannot be reached.
    pub async fn has_blob(&self, digest: &Digest) -> Result<Option<u64>, RegistryError> {
        let live = self.origin().await?;
        let uri = live.uri(&format!("/v2/{}/blobs/{digest}", self.path()), "")?;
        let response = self.request(live, Call::new(Method::HEAD, uri.clone()), &self.push_scope()).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let response = self.expect(response, (&Method::HEAD, &uri), StatusCode::OK, None).await?;
        let length = response.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        Ok(Some(length.unwrap_or(0)))
    }

    /// Makes a blob of repository `from` (a path of the same registry) ours too; says whether that worked.
    /// If not, nothing is left behind and the blob has to be pushed.
    ///
    /// # Errors
    /// `Unauthorized`, or that the registry cannot be reached.
    pub async fn mount(&self, digest: &Digest, from: &str) -> Result<bool, RegistryError> {
        let live = self.origin().await?;
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("mount", digest.as_str())
            .append_pair("from", from)
            .finish();
        let uri = live.uri(&format!("/v2/{}/blobs/uploads/", self.path()), &query)?;
        let mut scopes = self.push_scope();
        scopes.push(format!("repository:{from}:pull"));
        let call = Call::new(Method::POST, uri.clone()).header(CONTENT_LENGTH, "0")?;
        let response = self.request(live, call, &scopes).await?;
        match response.status() {
            StatusCode::CREATED => Ok(true),
            StatusCode::ACCEPTED => {
                let started = location(&response, &uri)?;
                self.abandon(live, started).await;
                Ok(false)
            }
            // A token service may refuse the scope of the other repository.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => Ok(false),
            _ => self.expect(response, (&Method::POST, &uri), StatusCode::CREATED, None).await.map(|_| true),
        }
    }

    /// Ends an upload that nobody will finish; the registry would purge it anyway.
    async fn abandon(&self, live: &Live, upload: Uri) {
        let result = self.request(live, Call::new(Method::DELETE, upload), &self.push_scope()).await;
        if let Err(e) = result {
            tracing::debug!(error = %e.text(), "could not cancel an upload");
        }
    }

    /// Uploads a blob. An interrupted upload is resumed where the registry says it got to.
    ///
    /// # Errors
    /// The registry's refusal, a broken connection after all attempts, or reading the source.
    pub async fn push_blob(
        &self,
        digest: &Digest,
        size: u64,
        source: &BlobSource,
        progress: Option<Progress>,
    ) -> Result<(), RegistryError> {
        let live = self.origin().await?;
        let uri = live.uri(&format!("/v2/{}/blobs/uploads/", self.path()), "")?;
        let call = Call::new(Method::POST, uri.clone()).header(CONTENT_LENGTH, "0")?;
        let response = self.request(live, call, &self.push_scope()).await?;
        let response = self.expect(response, (&Method::POST, &uri), StatusCode::ACCEPTED, None).await?;
        let mut upload = Upload {
            repository: self,
            live,
            location: location(&response, &uri)?,
            digest,
            size,
            source,
            sent: Arc::new(AtomicU64::new(0)),
            progress,
        };
        if size <= SMALL {
            let bytes = upload.read_small().await?;
            upload.finish(bytes).await?;
        } else {
            upload.send_all().await?;
            upload.finish(Bytes::new()).await?;
        }
        upload.report(size);
        Ok(())
    }

    /// Uploads a manifest under a tag or its digest; returns the digest.
    ///
    /// # Errors
    /// The registry's refusal.
    pub async fn put_manifest(
        &self,
        target: &Target,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Digest, RegistryError> {
        let live = self.origin().await?;
        let digest = Digest::of(&bytes);
        let uri = live.uri(&format!("/v2/{}/manifests/{}", self.path(), target.as_str()), "")?;
        let mut call = Call::new(Method::PUT, uri.clone()).header(CONTENT_TYPE, media_type)?;
        call.body = bytes;
        let response = self.request(live, call, &self.push_scope()).await?;
        let response = self.expect(response, (&Method::PUT, &uri), StatusCode::CREATED, None).await?;
        let answered = response.headers().get("docker-content-digest").and_then(|v| v.to_str().ok());
        if answered.is_some_and(|a| a != digest.as_str()) {
            return Err(RegistryError::Digest { what: "manifest", expected: digest.to_string() });
        }
        Ok(digest)
    }
}

/// One upload session.
struct Upload<'a> {
    repository: &'a Repository,
    live: &'a Live,
    location: Uri,
    digest: &'a Digest,
    size: u64,
    source: &'a BlobSource,
    sent: Arc<AtomicU64>,
    progress: Option<Progress>,
}

impl Upload<'_> {
    async fn send_all(&mut self) -> Result<(), RegistryError> {
        let attempts = self.repository.transport().config.attempts;
        let chunk = self.repository.transport().config.chunk_bytes.unwrap_or(u64::MAX).max(1);
        let mut offset = 0;
        let mut failures = 0;
        while offset < self.size {
            let end = offset.saturating_add(chunk).min(self.size);
            match self.patch(offset, end).await {
                Ok(reached) => {
                    failures = 0;
                    offset = reached;
                }
                Err(e) => {
                    failures += 1;
                    if !e.is_transient() || failures >= attempts {
                        return Err(e);
                    }
                    tracing::info!(blob = %self.digest, error = %e.text(), "resuming upload");
                    tokio::time::sleep(std::time::Duration::from_millis(250) * failures).await;
                    // If even asking fails, that is the next failure.
                    offset = match self.status().await {
                        Ok(reached) => reached,
                        Err(again) if again.is_transient() => offset,
                        Err(again) => return Err(again),
                    };
                }
            }
        }
        Ok(())
    }

    /// Sends `offset..end`; returns how far the registry has got.
    async fn patch(&mut self, offset: u64, end: u64) -> Result<u64, RegistryError> {
        let mut challenged = false;
        loop {
            let mut call = Call::new(Method::PATCH, self.location.clone())
                .header(CONTENT_TYPE, "application/octet-stream")?
                .header(CONTENT_LENGTH, &(end - offset).to_string())?;
            if offset > 0 || end < self.size {
                call = call.header(CONTENT_RANGE, &format!("{offset}-{}", end - 1))?;
            }
            let scopes = self.repository.push_scope();
            self.repository.authorize(self.live, &mut call, &scopes).await?;
            let body = self.body(offset, end).await?;
            let response = self.repository.transport().send_once(&call, body).await?;
            if response.status() == StatusCode::UNAUTHORIZED
                && !challenged
                && self.live.auth.learn(response.headers())?
            {
                // The token ran out while a large blob was on its way.
                self.live.auth.forget(&scopes);
                challenged = true;
                continue;
            }
            if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
                return self.status().await;
            }
            // COMPAT: some registries answer 204 or 201 here.
            if response.status().is_success() {
                self.location = location(&response, &self.location).unwrap_or_else(|_| self.location.clone());
                return Ok(end);
            }
            let at = (&call.method, &call.uri);
            return self.repository.expect(response, at, StatusCode::ACCEPTED, None).await.map(|_| end);
        }
    }

    /// Asks how far the upload has got.
    async fn status(&mut self) -> Result<u64, RegistryError> {
        let call = Call::new(Method::GET, self.location.clone());
        let uri = call.uri.clone();
        let response = self.repository.request(self.live, call, &self.repository.push_scope()).await?;
        let response =
            self.repository.expect(response, (&Method::GET, &uri), StatusCode::NO_CONTENT, None).await?;
        self.location = location(&response, &uri).unwrap_or(uri);
        let range = response.headers().get(RANGE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let last: Option<u64> =
            range.trim_start_matches("bytes=").split_once('-').and_then(|(_, l)| l.parse().ok());
        // COMPAT: the reference registry says 0-0 both for nothing and for one byte; sending the first byte
        // again would be refused, so an upload of one byte starts afresh at worst.
        let reached = last.map_or(0, |l| if l == 0 { 0 } else { l + 1 });
        if reached > self.size {
            return Err(RegistryError::protocol("the registry has more bytes of the upload than were sent"));
        }
        Ok(reached)
    }

    async fn finish(&self, bytes: Bytes) -> Result<(), RegistryError> {
        let separator = if self.location.query().is_some() { '&' } else { '?' };
        let digest: String = form_urlencoded::byte_serialize(self.digest.as_str().as_bytes()).collect();
        let uri: Uri = format!("{}{separator}digest={digest}", self.location)
            .parse()
            .map_err(|_| RegistryError::protocol("invalid Location header in the registry's answer"))?;
        let mut call =
            Call::new(Method::PUT, uri.clone()).header(CONTENT_LENGTH, &bytes.len().to_string())?;
        if !bytes.is_empty() {
            call = call.header(CONTENT_TYPE, "application/octet-stream")?;
        }
        call.body = bytes;
        let response = self.repository.request(self.live, call, &self.repository.push_scope()).await?;
        self.repository.expect(response, (&Method::PUT, &uri), StatusCode::CREATED, None).await.map(|_| ())
    }

    async fn read_small(&self) -> Result<Bytes, RegistryError> {
        match self.source {
            BlobSource::Bytes(bytes) => Ok(bytes.clone()),
            BlobSource::File(path) => {
                let bytes = tokio::fs::read(path).await.map_err(|e| self.unreadable(e))?;
                Ok(bytes.into())
            }
        }
    }

    async fn body(&self, offset: u64, end: u64) -> Result<Body, RegistryError> {
        self.report(offset);
        match self.source {
            BlobSource::Bytes(bytes) => {
                let span = usize::try_from(offset).ok().zip(usize::try_from(end).ok());
                let (from, to) = span.filter(|(_, to)| *to <= bytes.len()).ok_or_else(|| {
                    self.unreadable(std::io::Error::from(std::io::ErrorKind::UnexpectedEof))
                })?;
                Ok(full(bytes.slice(from..to)))
            }
            BlobSource::File(path) => {
                let mut file = tokio::fs::File::open(path).await.map_err(|e| self.unreadable(e))?;
                file.seek(std::io::SeekFrom::Start(offset)).await.map_err(|e| self.unreadable(e))?;
                let sent = Arc::clone(&self.sent);
                let progress = self.progress.clone();
                let stream = ReaderStream::with_capacity(file.take(end - offset), BLOCK).map(move |block| {
                    let block = block?;
                    let now = sent.fetch_add(block.len() as u64, Ordering::Relaxed) + block.len() as u64;
                    if let Some(progress) = &progress {
                        progress(now);
                    }
                    Ok(Frame::data(block))
                });
                Ok(StreamBody::new(stream).boxed_unsync())
            }
        }
    }

    fn report(&self, position: u64) {
        self.sent.store(position, Ordering::Relaxed);
        if let Some(progress) = &self.progress {
            progress(position);
        }
    }

    fn unreadable(&self, source: std::io::Error) -> RegistryError {
        RegistryError::Source { digest: self.digest.to_string(), source }
    }
}

fn location(response: &Response<Incoming>, base: &Uri) -> Result<Uri, RegistryError> {
    let value = response
        .headers()
        .get(LOCATION)
        .and_then(|l| l.to_str().ok())
        .ok_or_else(|| RegistryError::protocol("the registry sent no Location of the upload"))?;
    resolve(base, value)
}
