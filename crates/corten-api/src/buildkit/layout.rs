//! Contexts in OCI layouts of the client (`--build-context NAME=oci-layout://…@sha256:…`): the image is brought into
//! the store before the build begins, and is to the build what another build made.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use corten_base::{Digest, Platform};
use corten_build::{ContextSource, LayerSource, Solved};
use corten_image::Layer;
use corten_wire::oci_image::{Descriptor, Document, ImageConfig, MAX_DOCUMENT, Manifest};
use tokio::runtime::Handle;

use super::job::Job;
use super::session::SessionClient;
use super::store::{Store, StoreLayers};
use crate::error::chain;
use crate::grpc::{Code, Status};
use crate::services::Services;

const SCHEME: &str = "oci-layout://";

fn unknown(message: impl Into<String>) -> Status {
    Status::new(Code::Unknown, message)
}

/// Whether an address of a context is one of these.
pub(super) fn is_layout(address: &str) -> bool {
    address.starts_with(SCHEME)
}

/// Brings the layouts that the attributes name, for each of the platforms.
pub(super) async fn contexts(
    services: &Arc<Services>,
    job: &Job,
    client: &SessionClient,
    attributes: &HashMap<String, String>,
    platforms: &[Platform],
) -> Result<BTreeMap<String, ContextSource>, Status> {
    let mut out = BTreeMap::new();
    for (name, address) in attributes {
        let Some(name) = name.strip_prefix("context:") else { continue };
        let Some(rest) = address.strip_prefix(SCHEME) else { continue };
        let (store, digest) = rest
            .split_once('@')
            .ok_or_else(|| unknown(format!("could not parse oci-layout reference {rest:?}: no digest")))?;
        // A tag before the digest says nothing more.
        let store = store.split(':').next().unwrap_or(store);
        let digest: Digest = digest.parse().map_err(|e| unknown(format!("{e}")))?;
        let store = Store::new(Arc::clone(&client.main), format!("oci:{store}"));
        let title = format!("[context {name}] {address}");
        let all = match platforms {
            [] => vec![None],
            platforms => platforms.iter().map(Some).collect(),
        };
        let brought = Box::pin(async {
            let mut brought = Vec::new();
            for platform in all {
                let solved = bring(services, job, &store, &digest, platform).await?;
                let name = platform.map_or_else(|| name.to_owned(), |p| format!("{name}::{p}"));
                brought.push((name, ContextSource::Result(Box::new(solved))));
            }
            Ok(brought)
        });
        out.extend(job.progress.vertex(&title, async |_| brought.await).await?);
    }
    Ok(out)
}

async fn bring(
    services: &Arc<Services>,
    job: &Job,
    store: &Store,
    digest: &Digest,
    platform: Option<&Platform>,
) -> Result<Solved, Status> {
    let manifest = manifest(store, digest, platform).await?;
    let config = store.read(&manifest.config.digest, limit()).await?;
    let config: ImageConfig = serde_json::from_slice(&config).map_err(|e| unknown(e.to_string()))?;
    if config.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(unknown("layers and diff ids differ in number"));
    }
    let pairs = config.rootfs.diff_ids.iter().cloned().zip(manifest.layers);
    let wanted: Vec<Layer> = pairs.map(|(diff_id, blob)| Layer { diff_id, blob }).collect();
    let source = StoreLayers { store: store.clone(), runtime: Handle::current() };
    let (images, cancel) = (services.images.clone(), job.cancel.clone());
    let layers = tokio::task::spawn_blocking(move || {
        let mut layers = Vec::new();
        for layer in wanted {
            if images.has_layer(&layer) {
                layers.push(layer);
                continue;
            }
            let mut blob = source.open(&layer.blob, &cancel).map_err(|e| unknown(chain(&e)))?;
            let brought = images.put_layer(&mut blob, &cancel).map_err(|e| unknown(chain(&e)))?;
            if brought.diff_id != layer.diff_id {
                return Err(unknown(format!("layer {} is {}", layer.diff_id, brought.diff_id)));
            }
            layers.push(brought);
        }
        Ok(layers)
    });
    let layers = layers.await.map_err(Status::protocol)??;
    let platform = config.platform();
    let base_layers = layers.len();
    Ok(Solved {
        layers,
        history: config.history,
        author: config.author,
        platform,
        created: config.created.unwrap_or_default(),
        config: config.config,
        steps: Vec::new(),
        base_layers,
        build: Arc::default(),
    })
}

/// The manifest for a platform.
async fn manifest(store: &Store, digest: &Digest, platform: Option<&Platform>) -> Result<Manifest, Status> {
    let host = Platform::host();
    let wanted = platform.unwrap_or(&host);
    let parse = |bytes: &[u8]| Document::parse("", bytes).map_err(|e| unknown(e.to_string()));
    let index = match parse(&store.read(digest, limit()).await?)? {
        Document::Manifest(manifest) => return Ok(manifest),
        Document::Index(index) => index,
    };
    let fits = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| p.platform().matches(wanted));
    let entry = index.manifests.iter().find(fits);
    let entry =
        entry.ok_or_else(|| unknown(format!("no match for platform in manifest {digest}: not found")))?;
    match parse(&store.read(&entry.digest, limit()).await?)? {
        Document::Manifest(manifest) => Ok(manifest),
        Document::Index(_) => Err(unknown("an index within an index")),
    }
}

fn limit() -> usize {
    usize::try_from(MAX_DOCUMENT).unwrap_or(usize::MAX)
}
