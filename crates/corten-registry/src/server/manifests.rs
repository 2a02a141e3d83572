//! Manifests: get, put (checked), delete.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use corten_base::Digest;
use corten_wire::distribution::{
    DOCKER_LIST, DOCKER_MANIFEST, MANIFEST_LIMIT, ManifestOutline, OCI_INDEX, OCI_MANIFEST, code,
};
use http::header::CONTENT_TYPE;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::answer::{Answer, Refusal, build, empty, full, plain};
use super::route::{App, Name};

/// Most descriptors of one document.
const MAX_TARGETS: usize = 4096;

impl App {
    pub(crate) async fn get_manifest(
        self: &Arc<Self>,
        name: String,
        target: Name,
        is_head: bool,
    ) -> Result<Answer, Refusal> {
        self.run(move |app| {
            let (digest, media_type) = app.find_manifest(&name, &target)?;
            let bytes = app.read_manifest(&digest)?;
            let headers = [
                ("content-type", media_type),
                ("content-length", bytes.len().to_string()),
                ("docker-content-digest", digest.to_string()),
                ("etag", format!("\"{digest}\"")),
            ];
            Ok(build(StatusCode::OK, &headers, if is_head { empty() } else { full(bytes) }))
        })
        .await
    }

    fn find_manifest(&self, name: &str, target: &Name) -> Result<(Digest, String), Refusal> {
        let unknown = || Refusal::new(StatusCode::NOT_FOUND, code::MANIFEST_UNKNOWN);
        let digest = match target {
            Name::Digest(digest) => digest.clone(),
            Name::Tag(tag) => self.store.tag(name, tag)?.ok_or_else(unknown)?,
        };
        let media_type = self.store.manifest_type(name, &digest)?.ok_or_else(unknown)?;
        Ok((digest, media_type))
    }

    pub(crate) fn read_manifest(&self, digest: &Digest) -> Result<Vec<u8>, Refusal> {
        let mut bytes = Vec::new();
        self.store.blobs.open(digest)?.take(MANIFEST_LIMIT as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    pub(crate) async fn put_manifest(
        self: &Arc<Self>,
        name: String,
        target: Name,
        request: Request<Incoming>,
    ) -> Result<Answer, Refusal> {
        let header = request.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let media_type = header.split(';').next().unwrap_or_default().trim().to_owned();
        let bytes: Bytes = match Limited::new(request.into_body(), MANIFEST_LIMIT).collect().await {
            Ok(all) => all.to_bytes(),
            Err(_) => {
                return Err(invalid(
                    "the manifest is too large or was not sent completely",
                    StatusCode::PAYLOAD_TOO_LARGE,
                ));
            }
        };
        self.run(move |app| {
            let outline = outline_of(&media_type, &bytes)?;
            let media_type =
                if outline.media_type.is_empty() { media_type } else { outline.media_type.clone() };
            if let Name::Digest(digest) = &target
                && *digest != Digest::of(&bytes)
            {
                return Err(Refusal::new(StatusCode::BAD_REQUEST, code::DIGEST_INVALID));
            }
            app.check_references(&name, &outline)?;
            let subject: Option<Digest> = match &outline.subject {
                Some(subject) => Some(super::route::digest(&subject.digest)?),
                None => None,
            };
            let tag = match &target {
                Name::Tag(tag) => Some(tag.as_str()),
                Name::Digest(_) => None,
            };
            let digest = app.store.put_manifest(&name, &bytes, &media_type, tag, subject.as_ref())?;
            let mut headers = vec![
                ("location", format!("/v2/{name}/manifests/{digest}")),
                ("docker-content-digest", digest.to_string()),
                ("content-length", "0".into()),
            ];
            if let Some(subject) = subject {
                headers.push(("oci-subject", subject.to_string()));
            }
            Ok(plain(StatusCode::CREATED, &headers))
        })
        .await
    }

    /// Everything a manifest names must be in its repository, but foreign layers.
    fn check_references(&self, name: &str, outline: &ManifestOutline) -> Result<(), Refusal> {
        let blobs = outline.config.iter().chain(outline.layers.iter().flatten());
        for target in blobs.filter(|t| t.urls.as_ref().is_none_or(Vec::is_empty)) {
            let digest = super::route::digest(&target.digest)?;
            let Some(size) = self.store.blob_size(name, &digest)? else {
                return Err(Refusal::new(StatusCode::NOT_FOUND, code::MANIFEST_BLOB_UNKNOWN)
                    .because(format!("blob unknown to registry: {digest}")));
            };
            if size != target.size {
                return Err(invalid(
                    &format!("blob {digest} has {size} bytes, not {}", target.size),
                    StatusCode::BAD_REQUEST,
                ));
            }
        }
        for target in outline.manifests.iter().flatten() {
            let digest = super::route::digest(&target.digest)?;
            if self.store.manifest_type(name, &digest)?.is_none() {
                return Err(Refusal::new(StatusCode::NOT_FOUND, code::MANIFEST_UNKNOWN)
                    .because(format!("manifest unknown: {digest}")));
            }
        }
        Ok(())
    }

    pub(crate) async fn delete_manifest(
        self: &Arc<Self>,
        name: String,
        target: Name,
    ) -> Result<Answer, Refusal> {
        self.run(move |app| {
            let unknown = || Refusal::new(StatusCode::NOT_FOUND, code::MANIFEST_UNKNOWN);
            let removed = match &target {
                Name::Tag(tag) => app.store.remove_tag(&name, tag)?,
                Name::Digest(digest) => {
                    app.find_manifest(&name, &target)?;
                    let outline: ManifestOutline =
                        serde_json::from_slice(&app.read_manifest(digest)?).unwrap_or_default();
                    let subject = outline.subject.and_then(|s| s.digest.parse().ok());
                    app.store.remove_manifest(&name, digest, subject.as_ref())?
                }
            };
            if removed {
                Ok(plain(StatusCode::ACCEPTED, &[("content-length", "0".into())]))
            } else {
                Err(unknown())
            }
        })
        .await
    }
}

fn invalid(why: &str, status: StatusCode) -> Refusal {
    Refusal::new(status, code::MANIFEST_INVALID).because(format!("manifest invalid: {why}"))
}

/// Reads the document and checks that it is what it is sent as (CVE-2021-41190).
fn outline_of(media_type: &str, bytes: &[u8]) -> Result<ManifestOutline, Refusal> {
    let refuse = |why: &str| Err(invalid(why, StatusCode::BAD_REQUEST));
    let Ok(outline) = serde_json::from_slice::<ManifestOutline>(bytes) else {
        return refuse("not the JSON of a manifest");
    };
    if outline.schema_version != 2 {
        return refuse("unrecognized manifest schema version");
    }
    if !outline.media_type.is_empty() && !media_type.is_empty() && outline.media_type != media_type {
        return refuse("its media type differs from the Content-Type");
    }
    let kind = if outline.media_type.is_empty() { media_type } else { &outline.media_type };
    let is_index = match kind {
        OCI_INDEX | DOCKER_LIST => true,
        OCI_MANIFEST | DOCKER_MANIFEST => false,
        _ => return refuse("unknown media type"),
    };
    let has_image = outline.config.is_some() || outline.layers.is_some();
    if (is_index && has_image) || (!is_index && outline.manifests.is_some()) {
        return refuse("it is both a manifest and an index");
    }
    if !is_index && outline.config.is_none() {
        return refuse("no config");
    }
    let targets =
        outline.layers.as_ref().map_or(0, Vec::len) + outline.manifests.as_ref().map_or(0, Vec::len);
    if targets > MAX_TARGETS {
        return refuse("too many descriptors");
    }
    Ok(outline)
}
