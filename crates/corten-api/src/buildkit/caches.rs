//! Caches elsewhere: `--cache-from` and `--cache-to` of the types `registry`, `local` and `inline`.
//!
//! ```text
//!   cache manifest ─┬─ config  application/vnd.buildkit.cacheconfig.v0: which step made which layers
//!                   └─ layers
//!   image           ─── configuration ─ moby.buildkit.cache.v0: the same about the image's own layers
//! ```
//! A cache that cannot be had is told, and the build goes on without.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;

use bollard_buildkit_proto::moby::buildkit::v1::CacheOptionsEntry;
use corten_base::{Cancel, Digest, Reference};
use corten_build::{BuildError, CacheStep, INLINE_CACHE, ImportedCache, LayerSource, RemoteCache, Solved};
use corten_image::{Layer, NewArtifact, Progress};
use corten_registry::{BlobStream, Repository, Target};
use corten_wire::oci_image::{Descriptor, Document, ImageConfig, Index, MAX_DOCUMENT, Manifest, media_type};
use tokio::runtime::Handle;

use super::job::Job;
use super::session::SessionClient;
use super::store::{Store, StoreLayers};
use crate::error::chain;
use crate::grpc::{Code, Status, base64_decode};
use crate::services::Services;

type Attributes = HashMap<String, String>;

/// Largest configuration of a cache.
const LARGEST: u64 = 32 << 20;

fn unknown(message: impl Into<String>) -> Status {
    Status::new(Code::Unknown, message)
}

fn text<'a>(attributes: &'a Attributes, name: &str) -> &'a str {
    attributes.get(name).map_or("", String::as_str)
}

fn flag(attributes: &Attributes, name: &str, default: bool) -> Result<bool, Status> {
    match attributes.get(name).map(String::as_str) {
        None | Some("") => Ok(default),
        Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(unknown(format!("failed to parse {name}: invalid value {other:?}"))),
    }
}

fn reference(attributes: &Attributes) -> Result<Reference, Status> {
    let name = text(attributes, "ref");
    if name.is_empty() {
        return Err(unknown("missing ref"));
    }
    let parsed = name.parse::<Reference>().map_err(|e| unknown(format!("failed to parse {name}: {e}")))?;
    Ok(parsed.or_latest())
}

/// One of `--cache-from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Import {
    kind: String,
    attributes: Attributes,
}

impl Import {
    fn shown(&self) -> &str {
        ["ref", "src"].iter().find_map(|n| self.attributes.get(*n)).map_or(self.kind.as_str(), String::as_str)
    }
}

/// What `--cache-from` names, in the attributes of the front end.
pub(super) fn imports(attributes: &Attributes) -> Result<Vec<Import>, Status> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Entry {
        r#type: String,
        #[serde(default)]
        attrs: Option<Attributes>,
    }
    let list = attributes.get("cache-imports").map_or("[]", String::as_str);
    let entries: Vec<Entry> = serde_json::from_str(list)
        .map_err(|e| unknown(format!("failed to unmarshal cache-imports ({list:?}): {e}")))?;
    let entries =
        entries.into_iter().map(|e| Import { kind: e.r#type, attributes: e.attrs.unwrap_or_default() });
    let old = attributes.get("cache-from").map_or("", String::as_str);
    let old = old.split(',').filter(|n| !n.is_empty()).map(|name| Import {
        kind: "registry".to_owned(),
        attributes: [("ref".to_owned(), name.to_owned())].into(),
    });
    Ok(entries.chain(old).collect())
}

/// Reads what the caches know; layers come when they are needed.
pub(super) async fn import(
    services: &Services,
    job: &Job,
    client: &Arc<SessionClient>,
    imports: &[Import],
) -> Vec<Arc<ImportedCache>> {
    let mut out = Vec::new();
    for one in imports {
        let title = format!("importing cache manifest from {}", one.shown());
        let read = Box::pin(read(services, client, one));
        match job.progress.vertex(&title, async |_| read.await).await {
            Ok(caches) => out.extend(caches.into_iter().map(Arc::new)),
            Err(error) => tracing::debug!(%error, "cache import"),
        }
    }
    out
}

async fn read(
    services: &Services,
    client: &Arc<SessionClient>,
    import: &Import,
) -> Result<Vec<ImportedCache>, Status> {
    match import.kind.as_str() {
        "registry" => from_registry(services, client, &import.attributes).await,
        "local" => from_local(client, &import.attributes).await,
        // COMPAT: inline caches are part of images, which registries have.
        other => Err(unknown(format!("unknown cache importer: {other}"))),
    }
}

async fn from_registry(
    services: &Services,
    client: &Arc<SessionClient>,
    attributes: &Attributes,
) -> Result<Vec<ImportedCache>, Status> {
    let name = reference(attributes)?;
    // COMPAT: an image that is here is its own cache.
    if let Ok(image) = services.images.resolve(&name.to_string())
        && let Some(cache) = inline(&image.config, &image.layers(), Arc::new(Here(services.images.clone())))?
    {
        return Ok(vec![cache]);
    }
    let credentials = client.credentials(&name).await;
    let repository = services.registries.repository(&name, &credentials);
    let found = repository.resolve(&Target::of(&name)).await.map_err(|e| unknown(e.text()))?;
    parse(&found.media_type, &found.bytes, &Blobs::Registry(repository)).await
}

async fn from_local(
    client: &Arc<SessionClient>,
    attributes: &Attributes,
) -> Result<Vec<ImportedCache>, Status> {
    let digest = text(attributes, "digest");
    if digest.is_empty() {
        return Err(unknown("local cache importer requires explicit digest"));
    }
    let source = text(attributes, "src");
    if source.is_empty() {
        return Err(unknown("local cache importer requires src"));
    }
    let digest: Digest = digest.parse().map_err(|e| unknown(format!("{e}")))?;
    let store = Store::new(Arc::clone(&client.main), format!("local:{source}"));
    let limit = usize::try_from(LARGEST).unwrap_or(usize::MAX);
    let bytes = store.read(&digest, limit).await?;
    parse("", &bytes, &Blobs::Store(store)).await
}

/// Where the blobs of a cache are.
enum Blobs {
    Registry(Repository),
    Store(Store),
}

impl Blobs {
    async fn read(&self, blob: &Descriptor) -> Result<Vec<u8>, Status> {
        match self {
            Self::Registry(repository) => read_blob(repository, blob).await,
            Self::Store(store) => {
                store.read(&blob.digest, usize::try_from(LARGEST).unwrap_or(usize::MAX)).await
            }
        }
    }

    fn layers(&self) -> Arc<dyn LayerSource> {
        let runtime = Handle::current();
        match self {
            Self::Registry(repository) => {
                Arc::new(RegistryLayers { repository: repository.clone(), runtime })
            }
            Self::Store(store) => Arc::new(StoreLayers { store: store.clone(), runtime }),
        }
    }
}

/// Reads a manifest of a cache, or the images of an index.
async fn parse(kind: &str, bytes: &[u8], blobs: &Blobs) -> Result<Vec<ImportedCache>, Status> {
    let failed = |e: BuildError| unknown(chain(&e));
    let is_config = |d: &&Descriptor| d.media_type == RemoteCache::CONFIG;
    match Document::parse(kind, bytes).map_err(|e| unknown(e.to_string()))? {
        Document::Manifest(manifest) if is_config(&&manifest.config) => {
            let config = blobs.read(&manifest.config).await?;
            Ok(vec![ImportedCache::parse(&config, &manifest.layers, blobs.layers()).map_err(failed)?])
        }
        Document::Index(index) if index.manifests.iter().any(|d| is_config(&d)) => {
            let Some(config) = index.manifests.iter().find(is_config) else { return Ok(Vec::new()) };
            let config = blobs.read(config).await?;
            Ok(vec![ImportedCache::parse(&config, &index.manifests, blobs.layers()).map_err(failed)?])
        }
        Document::Manifest(manifest) => Ok(of_image(manifest, blobs).await?.into_iter().collect()),
        Document::Index(index) => {
            let mut out = Vec::new();
            for entry in index.manifests {
                let bytes = blobs.read(&entry).await?;
                if let Ok(Document::Manifest(manifest)) = Document::parse(&entry.media_type, &bytes) {
                    out.extend(of_image(manifest, blobs).await?);
                }
            }
            Ok(out)
        }
    }
}

async fn of_image(manifest: Manifest, blobs: &Blobs) -> Result<Option<ImportedCache>, Status> {
    let config = blobs.read(&manifest.config).await?;
    let Ok(config) = serde_json::from_slice::<ImageConfig>(&config) else { return Ok(None) };
    if config.rootfs.diff_ids.len() != manifest.layers.len() {
        return Ok(None);
    }
    let pairs = config.rootfs.diff_ids.iter().cloned().zip(manifest.layers);
    let all: Vec<Layer> = pairs.map(|(diff_id, blob)| Layer { diff_id, blob }).collect();
    inline(&config, &all, blobs.layers())
}

fn inline(
    config: &ImageConfig,
    layers: &[Layer],
    source: Arc<dyn LayerSource>,
) -> Result<Option<ImportedCache>, Status> {
    let Some(records) = config.extra.get(INLINE_CACHE).and_then(|v| v.as_str()) else { return Ok(None) };
    let records = base64_decode(records).ok_or_else(|| unknown("invalid inline cache"))?;
    let cache = ImportedCache::parse_inline(&records, layers, source);
    cache.map(Some).map_err(|e| unknown(chain(&e)))
}

async fn read_blob(repository: &Repository, blob: &Descriptor) -> Result<Vec<u8>, Status> {
    if blob.size > LARGEST {
        return Err(unknown(format!("blob {} is too large ({} > {LARGEST})", blob.digest, blob.size)));
    }
    // Manifests are not among the blobs of a registry.
    if media_type::is_manifest(&blob.media_type) && blob.size <= MAX_DOCUMENT {
        let found = repository.resolve(&Target::Digest(blob.digest.clone())).await;
        return Ok(found.map_err(|e| unknown(e.text()))?.bytes.to_vec());
    }
    let failed = |e: corten_registry::RegistryError| unknown(e.text());
    let mut stream = repository.blob(&blob.digest, Some(blob.size), 0).await.map_err(failed)?;
    let mut bytes = Vec::new();
    while let Some(block) = stream.next().await.map_err(failed)? {
        bytes.extend_from_slice(&block);
    }
    match Digest::of(&bytes) == blob.digest {
        true => Ok(bytes),
        false => Err(unknown(format!("blob {} has other content", blob.digest))),
    }
}

/// Layers of an image that is here.
#[derive(Debug)]
struct Here(corten_image::Images);

impl LayerSource for Here {
    fn open<'a>(&'a self, blob: &Descriptor, _: &'a Cancel) -> Result<Box<dyn Read + Send + 'a>, BuildError> {
        Ok(Box::new(self.0.open_blob(&blob.digest)?))
    }
}

/// Layers in a registry.
#[derive(Debug)]
struct RegistryLayers {
    repository: Repository,
    runtime: Handle,
}

impl LayerSource for RegistryLayers {
    fn open<'a>(
        &'a self,
        blob: &Descriptor,
        cancel: &'a Cancel,
    ) -> Result<Box<dyn Read + Send + 'a>, BuildError> {
        let opened = self.runtime.block_on(self.repository.blob(&blob.digest, Some(blob.size), 0));
        let stream = opened.map_err(|e| BuildError::Client(e.text()))?;
        let rest = bytes::Bytes::new();
        Ok(Box::new(Reading { stream, runtime: &self.runtime, cancel, rest }))
    }
}

struct Reading<'a> {
    stream: BlobStream,
    runtime: &'a Handle,
    cancel: &'a Cancel,
    rest: bytes::Bytes,
}

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            let next = self.runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = self.cancel.cancelled() => Err(io::Error::other("context canceled")),
                    next = self.stream.next() => next.map_err(|e| io::Error::other(e.text())),
                }
            })?;
            let Some(next) = next else { return Ok(0) };
            self.rest = next;
        }
        let n = buffer.len().min(self.rest.len());
        buffer[..n].copy_from_slice(&self.rest.split_to(n));
        Ok(n)
    }
}

/// One of `--cache-to`.
#[derive(Debug)]
pub(super) struct Export {
    /// The image carries it.
    pub(super) inline: bool,
    max: bool,
    ignore_error: bool,
    image_manifest: bool,
    target: Destination,
}

#[derive(Debug)]
enum Destination {
    Inline,
    Registry(Reference),
    Local(String),
}

/// Reads `--cache-to`; what cannot be done is refused before anything is built.
pub(super) fn exports(entries: &[CacheOptionsEntry]) -> Result<Vec<Export>, Status> {
    entries.iter().map(read_export).collect()
}

fn read_export(entry: &CacheOptionsEntry) -> Result<Export, Status> {
    let attributes = &entry.attrs;
    let target = match entry.r#type.as_str() {
        "inline" => Destination::Inline,
        "registry" => Destination::Registry(reference(attributes)?),
        "local" => match text(attributes, "dest") {
            "" => return Err(unknown("local cache exporter requires dest")),
            destination => Destination::Local(destination.to_owned()),
        },
        other => return Err(unknown(format!("unknown cache exporter: {other:?}"))),
    };
    match text(attributes, "compression") {
        "" | "gzip" => {}
        other => {
            return Err(unknown(format!("cache option compression={other} is not supported by this daemon")));
        }
    }
    let oci = flag(attributes, "oci-mediatypes", true)?;
    let image_manifest = flag(attributes, "image-manifest", oci)?;
    if !oci {
        let message = match image_manifest {
            true => {
                "invalid configuration for remote cache, OCI mediatypes are required for image-manifest cache format"
            }
            false => "cache option oci-mediatypes=false is not supported by this daemon",
        };
        return Err(unknown(message));
    }
    let max = match text(attributes, "mode") {
        "max" => true,
        "" | "min" => false,
        other => return Err(unknown(format!("invalid cache mode {other:?}"))),
    };
    let inline = matches!(target, Destination::Inline);
    Ok(Export { inline, max, ignore_error: flag(attributes, "ignore-error", false)?, image_manifest, target })
}

impl Export {
    /// Writes the cache of these results; answers with what the client wants to know of it.
    pub(super) async fn run(
        &self,
        services: &Services,
        job: &Job,
        client: &Arc<SessionClient>,
        results: &[Arc<Solved>],
    ) -> Result<Attributes, Status> {
        let title = match &self.target {
            Destination::Inline => return Ok(Attributes::new()),
            Destination::Registry(_) => "exporting cache to registry",
            Destination::Local(_) => "exporting cache to client directory",
        };
        let written = job.progress.vertex(title, async |vertex| {
            let steps: Vec<CacheStep> = match (self.max, results.first()) {
                (true, Some(first)) => first.build.steps.clone(),
                _ => results.iter().flat_map(|r| r.steps.iter().cloned()).collect(),
            };
            let progress = &job.progress;
            let cache = RemoteCache::of(&steps);
            if cache.layers.is_empty() {
                progress.step(vertex, "skipping cache export for empty result", true);
                return Ok(Attributes::new());
            }
            let config = Descriptor::of(RemoteCache::CONFIG, &cache.config);
            let (media_type, manifest) = self.manifest(&cache, &config);
            let top = Descriptor::of(media_type, &manifest);
            match &self.target {
                Destination::Inline => {}
                Destination::Registry(name) => {
                    let credentials = client.credentials(name).await;
                    let artifact = NewArtifact {
                        blobs: cache.layers,
                        config: cache.config,
                        manifest,
                        media_type: media_type.to_owned(),
                    };
                    let (images, registries) = (&services.images, &services.registries);
                    let pushing = Progress::none();
                    images
                        .push_artifact(registries, &credentials, name, artifact, &pushing, &job.cancel)
                        .await
                        .map_err(|e| unknown(format!("error writing cache to {name}: {}", chain(&e))))?;
                }
                Destination::Local(destination) => {
                    let store = Store::new(Arc::clone(&client.main), format!("local:{destination}"));
                    for layer in &cache.layers {
                        let step = format!("writing layer {}", layer.digest);
                        progress.step(vertex, step.clone(), false);
                        let file =
                            services.images.open_blob(&layer.digest).map_err(|e| unknown(chain(&e)))?;
                        let mut file = tokio::fs::File::from_std(file);
                        store.write(&layer.digest, layer.size, &mut file).await?;
                        progress.step(vertex, step, true);
                    }
                    store.write(&config.digest, config.size, &mut &cache.config[..]).await?;
                    store.write(&top.digest, top.size, &mut &manifest[..]).await?;
                }
            }
            progress.step(vertex, format!("writing config {}", config.digest), true);
            let kind = if self.image_manifest { "cache image manifest" } else { "cache manifest" };
            progress.step(vertex, format!("writing {kind} {}", top.digest), true);
            let shown = serde_json::to_string(&top).map_err(Status::protocol)?;
            Ok([("cache.manifest".to_owned(), shown)].into())
        });
        match written.await {
            Err(error) if self.ignore_error && !error.is(Code::Cancelled) => {
                tracing::warn!(%error, "cache export");
                Ok(Attributes::new())
            }
            written => written,
        }
    }

    fn manifest(&self, cache: &RemoteCache, config: &Descriptor) -> (&'static str, Vec<u8>) {
        if self.image_manifest {
            let manifest = Manifest {
                schema_version: 2,
                media_type: media_type::MANIFEST.into(),
                config: config.clone(),
                layers: cache.layers.clone(),
                annotations: Default::default(),
                extra: Default::default(),
            };
            return (media_type::MANIFEST, serde_json::to_vec(&manifest).unwrap_or_default());
        }
        let index = Index {
            schema_version: 2,
            media_type: media_type::INDEX.into(),
            manifests: cache.layers.iter().chain([config]).cloned().collect(),
            annotations: Default::default(),
            extra: Default::default(),
        };
        (media_type::INDEX, serde_json::to_vec(&index).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_imported() {
        let list = r#"[{"Type":"registry","Attrs":{"ref":"a:1"}},{"Type":"gha"},{"Type":"local","Attrs":{"src":"d"}}]"#;
        let given: Attributes =
            [("cache-imports", list), ("cache-from", "b,c")].map(|(k, v)| (k.into(), v.into())).into();
        let read = imports(&given).unwrap();
        let shown: Vec<(&str, &str)> = read.iter().map(|i| (i.kind.as_str(), i.shown())).collect();
        assert_eq!(
            shown,
            [("registry", "a:1"), ("gha", "gha"), ("local", "d"), ("registry", "b"), ("registry", "c")]
        );
        let bad: Attributes = [("cache-imports".to_owned(), "x".to_owned())].into();
        assert!(imports(&bad).is_err());
    }

    #[test]
    fn what_is_exported() {
        let read = |kind: &str, attributes: &[(&str, &str)]| {
            let attrs = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            read_export(&CacheOptionsEntry { r#type: kind.to_owned(), attrs })
        };
        let max = read("registry", &[("ref", "a"), ("mode", "max")]).unwrap();
        assert!(max.max && max.image_manifest && !max.inline);
        assert!(!read("local", &[("dest", "d"), ("image-manifest", "false")]).unwrap().image_manifest);
        assert!(read("inline", &[]).unwrap().inline);
        for (kind, attributes, want) in [
            ("gha", &[][..], "unknown cache exporter: \"gha\""),
            ("local", &[], "local cache exporter requires dest"),
            ("registry", &[], "missing ref"),
            ("local", &[("dest", "d"), ("mode", "all")], "invalid cache mode \"all\""),
            ("local", &[("dest", "d"), ("compression", "zstd")], "compression=zstd is not supported"),
            ("local", &[("dest", "d"), ("oci-mediatypes", "false")], "oci-mediatypes=false is not supported"),
        ] {
            let message = read(kind, attributes).unwrap_err().message;
            assert!(message.contains(want), "{message}");
        }
    }
}
