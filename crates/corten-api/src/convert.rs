//! From the views of the image store to the shapes of the API.

use std::collections::BTreeMap;

use corten_build::CacheEntry;
use corten_image::{HistoryItem, Image, ManifestEntry, ManifestKind, Pruned, Removed, Summary};
use corten_wire::api::build::BuildCache;
use corten_wire::api::container::Healthcheck;
use corten_wire::api::image as api;
use corten_wire::api::{Empty, TextSet};
use corten_wire::oci_image as oci;

fn signed(n: impl TryInto<i64>) -> i64 {
    n.try_into().unwrap_or(i64::MAX)
}

/// Seconds since the epoch.
fn seconds(ns: i128) -> i64 {
    i64::try_from(ns / 1_000_000_000).unwrap_or_default()
}

/// A descriptor.
pub(crate) fn descriptor(d: &oci::Descriptor) -> api::Descriptor {
    let artifact = d.extra.get("artifactType").and_then(serde_json::Value::as_str);
    api::Descriptor {
        media_type: d.media_type.clone(),
        digest: d.digest.to_string(),
        size: signed(d.size),
        urls: d.urls.clone(),
        annotations: d.annotations.clone(),
        platform: d.platform.as_ref().map(platform),
        artifact_type: artifact.unwrap_or_default().to_owned(),
    }
}

/// A platform.
pub(crate) fn platform(p: &oci::OciPlatform) -> api::OciPlatform {
    api::OciPlatform {
        architecture: p.architecture.clone(),
        os: p.os.clone(),
        variant: p.variant.clone(),
        os_version: p.os_version.clone(),
        os_features: p.os_features.clone(),
    }
}

/// One line of a list; sizes shared and containers are not counted.
pub(crate) fn summary(s: &Summary) -> api::ImageSummary {
    let image = &s.image;
    api::ImageSummary {
        containers: -1,
        created: seconds(image.created_ns().unwrap_or_default()),
        id: image.id.to_string(),
        labels: image.labels(),
        parent_id: image.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        manifests: None,
        descriptor: Some(descriptor(&image.target)),
        repo_digests: s.repo_digests.clone(),
        repo_tags: s.repo_tags.clone(),
        shared_size: -1,
        size: signed(image.size),
    }
}

/// Where an image comes from.
pub(crate) fn identity(image: &Image) -> Option<api::Identity> {
    let pull = |repository: &String| api::PullIdentity { repository: repository.clone() };
    let pull: Vec<_> = image.origins.iter().map(pull).collect();
    (!pull.is_empty()).then_some(api::Identity { pull })
}

/// One record of the build cache.
pub(crate) fn build_cache(entry: CacheEntry) -> BuildCache {
    let time = |ns: i64| corten_base::time::rfc3339_nano(ns.into());
    BuildCache {
        id: entry.id,
        parents: Vec::new(),
        kind: entry.kind.to_owned(),
        description: entry.description,
        in_use: entry.in_use,
        shared: entry.shared,
        size: signed(entry.size),
        created_at: time(entry.created_ns),
        last_used_at: Some(time(entry.used_ns)),
        usage_count: signed(entry.uses),
    }
}

/// One manifest of an image; `containers` are those made from it.
pub(crate) fn manifest(entry: &ManifestEntry, containers: Vec<String>) -> api::ManifestSummary {
    let mut shown = api::ManifestSummary {
        id: entry.descriptor.digest.to_string(),
        descriptor: descriptor(&entry.descriptor),
        available: entry.available,
        size: api::ManifestSize { total: signed(entry.content_size), content: signed(entry.content_size) },
        ..api::ManifestSummary::default()
    };
    match &entry.kind {
        ManifestKind::Image { platform: runs_on, unpacked } => {
            shown.kind = "image".to_owned();
            shown.size.total = signed(entry.content_size + unpacked);
            shown.image_data = Some(api::ManifestImageData {
                platform: platform(runs_on),
                identity: None,
                containers,
                size: api::UnpackedSize { unpacked: signed(*unpacked) },
            });
        }
        ManifestKind::Attestation { about } => {
            shown.kind = "attestation".to_owned();
            shown.attestation_data = Some(api::AttestationData { r#for: about.clone() });
        }
    }
    shown
}

/// `GET /images/{name}/json`.
pub(crate) fn inspect(image: &Image, manifests: Option<Vec<api::ManifestSummary>>) -> api::ImageInspect {
    let config = &image.config;
    let comment = config.history.last().map(|h| h.comment.clone()).filter(|c| !c.is_empty());
    api::ImageInspect {
        id: image.id.to_string(),
        repo_tags: image.repo_tags(),
        repo_digests: image.repo_digests(),
        parent: image.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        comment: comment.unwrap_or_else(|| config.comment.clone()),
        created: config.created.clone().unwrap_or_default(),
        docker_version: config.docker_version.clone(),
        author: config.author.clone(),
        config: Some(image_config(&config.config)),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
        os: config.os.clone(),
        os_version: String::new(),
        size: signed(image.size),
        virtual_size: None,
        graph_driver: Some(api::GraphDriver { data: None, name: "overlayfs".to_owned() }),
        root_fs: api::RootFs {
            kind: "layers".to_owned(),
            layers: config.rootfs.diff_ids.iter().map(ToString::to_string).collect(),
        },
        metadata: api::ImageMetadata {
            last_tag_time: image.last_tag_ns.map_or_else(
                || corten_base::time::ZERO.to_owned(),
                |ns| corten_base::time::rfc3339_nano(ns.into()),
            ),
        },
        descriptor: Some(descriptor(&image.target)),
        manifests,
        identity: identity(image),
    }
}

fn set(from: &BTreeMap<String, oci::Empty>) -> TextSet {
    from.keys().map(|k| (k.clone(), Empty {})).collect()
}

/// The configuration that an image carries, as inspect shows it.
pub(crate) fn image_config(config: &oci::ContainerConfig) -> api::ImageConfig {
    let ports = config.exposed_ports.iter().flatten().filter_map(|(port, _)| port.parse().ok());
    api::ImageConfig {
        user: config.user.clone(),
        exposed_ports: ports.map(|p| (p, Empty {})).collect(),
        env: config.env.clone(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        volumes: config.volumes.as_ref().map(set),
        working_dir: config.working_dir.clone(),
        labels: config.labels.clone(),
        stop_signal: config.stop_signal.clone(),
        args_escaped: config.args_escaped,
        healthcheck: config.healthcheck.as_ref().map(|h| Healthcheck {
            test: Some(h.test.clone()),
            interval: h.interval,
            timeout: h.timeout,
            start_period: h.start_period,
            start_interval: h.start_interval,
            retries: h.retries,
        }),
        on_build: config.on_build.clone(),
        shell: config.shell.clone(),
    }
}

/// One line of a history.
pub(crate) fn history(item: &HistoryItem) -> api::HistoryItem {
    api::HistoryItem {
        comment: item.comment.clone(),
        created: seconds(item.created_ns),
        created_by: item.created_by.clone(),
        id: item.id.as_ref().map_or_else(|| "<missing>".to_owned(), ToString::to_string),
        size: signed(item.size),
        tags: (!item.tags.is_empty()).then(|| item.tags.clone()),
    }
}

/// One line of a removal.
pub(crate) fn removed(item: &Removed) -> api::DeleteItem {
    match item {
        Removed::Untagged(name) => api::DeleteItem { untagged: name.clone(), ..api::DeleteItem::default() },
        Removed::Deleted(id) => api::DeleteItem { deleted: id.to_string(), ..api::DeleteItem::default() },
    }
}

/// `POST /images/prune`.
pub(crate) fn pruned(done: &Pruned) -> api::ImagesPruneResponse {
    api::ImagesPruneResponse {
        images_deleted: (!done.removed.is_empty()).then(|| done.removed.iter().map(removed).collect()),
        space_reclaimed: done.space_reclaimed,
    }
}
