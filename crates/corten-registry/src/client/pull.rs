//! Reading from a registry: manifests, verified, and blobs as streams that resume by themselves.

use bytes::Bytes;
use corten_base::Digest;
use corten_wire::distribution::{MANIFEST_LIMIT, MANIFEST_TYPES, ManifestOutline, OCI_INDEX};
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, Method, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::transport::{Call, failed, read_body};
use super::{Endpoint, Live, Repository, Target, broken};
use crate::error::{RegistryError, TransportError};

/// A manifest or index as the registry has it; the digest has been computed from the bytes.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// One of [`MANIFEST_TYPES`].
    pub media_type: String,
    /// Of `bytes`.
    pub digest: Digest,
    /// As sent.
    pub bytes: Bytes,
}

/// What a registry says about a manifest without sending it.
#[derive(Debug, Clone)]
pub struct ManifestHead {
    /// As in the header.
    pub media_type: String,
    /// As in the header; absent with some registries.
    pub digest: Option<Digest>,
    /// Length in bytes.
    pub size: u64,
}

impl Repository {
    /// Fetches the manifest or index that `target` names; mirrors first. Digest and media type are verified.
    ///
    /// # Errors
    /// `NotFound` in Docker's words, `Unauthorized`, or that no endpoint could be reached.
    pub async fn resolve(&self, target: &Target) -> Result<Manifest, RegistryError> {
        let mut failure = None;
        for endpoint in &self.inner.endpoints {
            match self.resolve_at(endpoint, target).await {
                Ok(manifest) => return Ok(manifest),
                Err(e) if endpoint.is_mirror => {
                    tracing::info!(mirror = %endpoint.authority, error = %e.text(), "mirror does not serve the manifest");
                    failure = Some(e);
                }
                Err(e) => failure = Some(e),
            }
        }
        Err(failure.unwrap_or_else(|| RegistryError::protocol("no endpoint")))
    }

    async fn resolve_at(&self, endpoint: &Endpoint, target: &Target) -> Result<Manifest, RegistryError> {
        let live = endpoint.live(self.transport()).await?;
        let call = self.manifest_call(live, Method::GET, target)?;
        let at = (&call.method.clone(), &call.uri.clone());
        let response = self.request(live, call, &self.pull_scope()).await?;
        let response = self.expect(response, at, StatusCode::OK, Some(target)).await?;
        let header_type = media_type_of(response.headers());
        let header_digest = digest_of(response.headers());
        let bytes =
            read_body(response.into_body(), MANIFEST_LIMIT, self.transport().config.idle_timeout, at).await?;
        let digest = Digest::of(&bytes);
        let expected = match target {
            Target::Digest(wanted) => Some(wanted.clone()),
            Target::Tag(_) => header_digest,
        };
        if let Some(expected) = expected.filter(|e| *e != digest) {
            return Err(RegistryError::Digest { what: "manifest", expected: expected.to_string() });
        }
        let media_type = check_manifest(&header_type, &bytes)?;
        Ok(Manifest { media_type, digest, bytes })
    }

    /// Asks about a manifest without fetching it; `None` where there is no such.
    ///
    /// # Errors
    /// As [`Repository::resolve`].
    pub async fn head(&self, target: &Target) -> Result<Option<ManifestHead>, RegistryError> {
        let live = self.origin().await?;
        let call = self.manifest_call(live, Method::HEAD, target)?;
        let at = (&call.method.clone(), &call.uri.clone());
        let response = self.request(live, call, &self.pull_scope()).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let response = self.expect(response, at, StatusCode::OK, Some(target)).await?;
        let headers = response.headers();
        Ok(Some(ManifestHead {
            media_type: media_type_of(headers),
            digest: digest_of(headers),
            size: number(headers, &CONTENT_LENGTH).unwrap_or(0),
        }))
    }

    fn manifest_call(&self, live: &Live, method: Method, target: &Target) -> Result<Call, RegistryError> {
        let uri = live.uri(&format!("/v2/{}/manifests/{}", self.path(), target.as_str()), "")?;
        let mut call = Call::new(method, uri);
        for accepted in MANIFEST_TYPES {
            call = call.header(ACCEPT, accepted)?;
        }
        Ok(call)
    }

    /// Manifests that refer to `subject` (OCI 1.1), as an index; an empty one where the registry knows none.
    ///
    /// # Errors
    /// As [`Repository::resolve`].
    pub async fn referrers(&self, subject: &Digest) -> Result<Bytes, RegistryError> {
        let live = self.origin().await?;
        let uri = live.uri(&format!("/v2/{}/referrers/{subject}", self.path()), "")?;
        let call = Call::new(Method::GET, uri.clone()).header(ACCEPT, OCI_INDEX)?;
        let at = (&Method::GET, &uri);
        let response = self.request(live, call, &self.pull_scope()).await?;
        if response.status() == StatusCode::OK {
            return read_body(response.into_body(), MANIFEST_LIMIT, self.transport().config.idle_timeout, at)
                .await;
        }
        // Registries before 1.1 keep the same index under a tag made of the digest.
        let tag = Target::Tag(subject.as_str().replace(':', "-"));
        match self.resolve(&tag).await {
            Ok(manifest) => Ok(manifest.bytes),
            Err(e) if e.kind() == corten_base::Kind::NotFound => Ok(Bytes::from(format!(
                "{{\"schemaVersion\":2,\"mediaType\":\"{OCI_INDEX}\",\"manifests\":[]}}"
            ))),
            Err(e) => Err(e),
        }
    }

    /// Opens a blob at `offset`. The caller verifies the digest (it has to hash the bytes anyway); a stream
    /// that gives more than `size` bytes fails. Mirrors first.
    ///
    /// # Errors
    /// `NotFound` for an unknown blob.
    pub async fn blob(
        &self,
        digest: &Digest,
        size: Option<u64>,
        offset: u64,
    ) -> Result<BlobStream, RegistryError> {
        let mut failure = None;
        for (index, endpoint) in self.inner.endpoints.iter().enumerate() {
            // A mirror that did not answer for the manifest is not asked again.
            if endpoint.is_mirror && !endpoint.live.initialized() {
                continue;
            }
            let mut stream = BlobStream {
                repository: self.clone(),
                endpoint: index,
                digest: digest.clone(),
                size,
                position: offset,
                skip: 0,
                body: None,
                failures: 0,
            };
            match stream.open().await {
                Ok(()) => return Ok(stream),
                Err(e) => failure = Some(e),
            }
        }
        Err(failure.unwrap_or_else(|| RegistryError::protocol("no endpoint")))
    }
}

/// The rest of a blob from some offset on. A broken connection is opened again where it broke, a few times.
pub struct BlobStream {
    repository: Repository,
    endpoint: usize,
    digest: Digest,
    size: Option<u64>,
    position: u64,
    /// Bytes still to be dropped, where the registry does not know ranges.
    skip: u64,
    body: Option<Incoming>,
    failures: u32,
}

impl std::fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobStream")
            .field("digest", &self.digest)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl BlobStream {
    /// Length of the whole blob, if the caller or the registry has told it.
    #[must_use]
    pub const fn size(&self) -> Option<u64> {
        self.size
    }

    /// Offset of the byte that comes next.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    async fn open(&mut self) -> Result<(), RegistryError> {
        let repository = self.repository.clone();
        let endpoint = &repository.inner.endpoints[self.endpoint];
        let live = endpoint.live(repository.transport()).await?;
        let uri = live.uri(&format!("/v2/{}/blobs/{}", repository.path(), self.digest), "")?;
        let mut call = Call::new(Method::GET, uri.clone());
        if self.position > 0 {
            call = call.header(RANGE, &format!("bytes={}-", self.position))?;
        }
        let response = repository.request(live, call, &repository.pull_scope()).await?;
        let at = (&Method::GET, &uri);
        if self.position > 0 && response.status() == StatusCode::PARTIAL_CONTENT {
            self.check_range(&response)?;
            self.skip = 0;
            self.body = Some(response.into_body());
            return Ok(());
        }
        if self.position > 0
            && response.status() == StatusCode::RANGE_NOT_SATISFIABLE
            && self.size == Some(self.position)
        {
            self.body = None;
            return Ok(());
        }
        let response = repository.expect(response, at, StatusCode::OK, None).await?;
        self.learn_size(number(response.headers(), &CONTENT_LENGTH))?;
        self.skip = self.position;
        self.body = Some(response.into_body());
        Ok(())
    }

    fn check_range(&mut self, response: &Response<Incoming>) -> Result<(), RegistryError> {
        let range = response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let (span, total) = range.trim_start_matches("bytes ").split_once('/').unwrap_or((range, "*"));
        let start: Option<u64> = span.split_once('-').and_then(|(s, _)| s.parse().ok());
        if start.is_some_and(|s| s != self.position) {
            return Err(RegistryError::protocol("the registry sent another range than it was asked for"));
        }
        self.learn_size(total.parse().ok())
    }

    fn learn_size(&mut self, total: Option<u64>) -> Result<(), RegistryError> {
        match (self.size, total) {
            (Some(expected), Some(total)) if expected != total => Err(RegistryError::protocol(format!(
                "blob {} has {total} bytes instead of {expected}",
                self.digest
            ))),
            (None, Some(total)) => {
                self.size = Some(total);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The next bytes; `None` at the end. After an error or when dropped, [`BlobStream::position`] says where to
    /// go on.
    ///
    /// # Errors
    /// When the connection broke too often, or the content is longer or shorter than it should be.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            match self.next_frame().await {
                Ok(Some(bytes)) if bytes.is_empty() => {}
                Ok(Some(bytes)) => {
                    self.failures = 0;
                    return Ok(Some(bytes));
                }
                Ok(None) => return Ok(None),
                Err(e) => {
                    self.failures += 1;
                    if !e.is_transient() || self.failures >= self.repository.transport().config.attempts {
                        return Err(e);
                    }
                    tracing::info!(blob = %self.digest, position = self.position, error = %e.text(), "resuming");
                    tokio::time::sleep(std::time::Duration::from_millis(250) * self.failures).await;
                    self.body = None;
                    if let Err(again) = self.open().await
                        && !again.is_transient()
                    {
                        return Err(again);
                    }
                }
            }
        }
    }

    async fn next_frame(&mut self) -> Result<Option<Bytes>, RegistryError> {
        if self.size == Some(self.position) && self.skip == 0 {
            self.drain().await?;
            return Ok(None);
        }
        let uri = Uri::default();
        let idle = self.repository.transport().config.idle_timeout;
        let Some(body) = &mut self.body else {
            return Err(self.cut("unexpected EOF"));
        };
        let frame = match tokio::time::timeout(idle, body.frame()).await {
            Err(_) => return Err(failed(&Method::GET, &uri, TransportError::Timeout)),
            Ok(None) if self.size.is_none() => return Ok(None),
            Ok(None) => return Err(self.cut("unexpected EOF")),
            Ok(Some(Err(e))) => return Err(self.cut(&e.to_string())),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(mut bytes) = frame.into_data() else { return Ok(Some(Bytes::new())) };
        if self.skip > 0 {
            let dropped = usize::try_from(self.skip).map_or(bytes.len(), |s| s.min(bytes.len()));
            self.skip -= dropped as u64;
            bytes = bytes.slice(dropped..);
        }
        let position = self.position + bytes.len() as u64;
        if self.size.is_some_and(|size| position > size) {
            return Err(RegistryError::protocol(format!("blob {} is longer than announced", self.digest)));
        }
        self.position = position;
        Ok(Some(bytes))
    }

    /// Reads the end of the body, so that the connection can be used again.
    async fn drain(&mut self) -> Result<(), RegistryError> {
        let Some(mut body) = self.body.take() else { return Ok(()) };
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return Ok(()) };
            if frame.data_ref().is_some_and(|d| !d.is_empty()) {
                return Err(RegistryError::protocol(format!(
                    "blob {} is longer than announced",
                    self.digest
                )));
            }
        }
        Ok(())
    }

    fn cut(&self, what: &str) -> RegistryError {
        let path = format!("/v2/{}/blobs/{}", self.repository.path(), self.digest);
        broken((&Method::GET, &path.parse().unwrap_or_default()), what)
    }
}

fn media_type_of(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn digest_of(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

fn number(headers: &HeaderMap, name: &http::HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// Decides the media type. Header and document must agree, and a document must not be manifest and index at
/// once (CVE-2021-41190).
fn check_manifest(header_type: &str, bytes: &[u8]) -> Result<String, RegistryError> {
    let outline: ManifestOutline = serde_json::from_slice(bytes)
        .map_err(|e| RegistryError::protocol(format!("invalid manifest: {e}")))?;
    let is_vague = matches!(header_type, "" | "application/json" | "text/plain" | "application/octet-stream");
    if !is_vague && !outline.media_type.is_empty() && outline.media_type != header_type {
        return Err(RegistryError::protocol(format!(
            "schema version 2 manifest has media type {:?}, but was served as {header_type:?}",
            outline.media_type
        )));
    }
    let is_image = outline.config.is_some() || outline.layers.is_some();
    let is_index = outline.manifests.is_some();
    if is_image && is_index {
        return Err(RegistryError::protocol("invalid manifest: it is both a manifest and an index"));
    }
    let media_type = match (is_vague, outline.media_type.is_empty()) {
        (false, _) => header_type.to_owned(),
        (true, false) => outline.media_type,
        (true, true) if is_index => OCI_INDEX.to_owned(),
        (true, true) => corten_wire::distribution::OCI_MANIFEST.to_owned(),
    };
    if !MANIFEST_TYPES.contains(&media_type.as_str()) {
        return Err(RegistryError::MediaType { media_type });
    }
    if media_type.contains("index") || media_type.contains(".list.") {
        if is_image {
            return Err(RegistryError::protocol("invalid manifest: an index has no config and no layers"));
        }
    } else if is_index {
        return Err(RegistryError::protocol("invalid manifest: a manifest has no manifests"));
    }
    Ok(media_type)
}

#[cfg(test)]
mod tests {
    use super::*;
    use corten_wire::distribution::{DOCKER_LIST, OCI_MANIFEST};

    #[test]
    fn media_types_must_agree() {
        let check =
            |header: &str, body: &str| check_manifest(header, body.as_bytes()).map_err(|e| e.to_string());
        assert_eq!(check(OCI_INDEX, r#"{"manifests":[]}"#).unwrap(), OCI_INDEX);
        assert_eq!(check("application/json", r#"{"config":{},"layers":[]}"#).unwrap(), OCI_MANIFEST);
        assert_eq!(
            check("", &format!(r#"{{"mediaType":"{DOCKER_LIST}","manifests":[]}}"#)).unwrap(),
            DOCKER_LIST
        );
        assert!(check(OCI_INDEX, r#"{"manifests":[],"layers":[]}"#).is_err());
        assert!(check(OCI_MANIFEST, r#"{"manifests":[]}"#).is_err());
        assert!(check(OCI_INDEX, &format!(r#"{{"mediaType":"{OCI_MANIFEST}","layers":[]}}"#)).is_err());
        assert!(check("application/vnd.docker.distribution.manifest.v1+prettyjws", "{}").is_err());
        assert!(check(OCI_INDEX, "nonsense").is_err());
    }
}
