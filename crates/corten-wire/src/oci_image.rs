//! OCI image format 1.1: descriptors, manifests, indexes, configurations, with Docker's additional fields.
//!
//! Fields we do not know are kept (`extra`), so that reading and writing a document loses nothing. Bytes that came
//! from outside are parsed with [`Document::parse`], which refuses a document that could be read as both a
//! manifest and an index (CVE-2021-41190).

use std::collections::BTreeMap;

use corten_base::{Digest, Platform};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Media types of manifests, indexes, configurations and layers.
pub mod media_type {
    /// OCI image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer, uncompressed.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI layer, gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI layer, zstd.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker layer, gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker layer, uncompressed.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker layer, zstd.
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
    /// Docker foreign layer, gzip.
    pub const DOCKER_FOREIGN_GZIP: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    /// Docker manifest, schema 1; refused.
    pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

    /// Whether documents of this type list layers.
    #[must_use]
    pub fn is_manifest(media_type: &str) -> bool {
        matches!(media_type, MANIFEST | DOCKER_MANIFEST)
    }

    /// Whether documents of this type list manifests.
    #[must_use]
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, INDEX | DOCKER_LIST)
    }

    /// Whether blobs of this type are layers that may be distributed from their own place only.
    #[must_use]
    pub fn is_foreign_layer(media_type: &str) -> bool {
        media_type.contains(".nondistributable.") || media_type.contains(".foreign.")
    }

    /// Whether blobs of this type are file-system layers.
    #[must_use]
    pub fn is_layer(media_type: &str) -> bool {
        media_type.starts_with("application/vnd.oci.image.layer.")
            || media_type.starts_with("application/vnd.docker.image.rootfs.")
    }
}

/// Largest manifest, index or configuration that is read into memory.
pub const MAX_DOCUMENT: u64 = 4 << 20;
/// Most layers of one image; overlayfs stacks at most 500.
pub const MAX_LAYERS: usize = 480;
/// Most entries of one index.
pub const MAX_MANIFESTS: usize = 1000;

/// `{}` of a JSON set (`ExposedPorts`, `Volumes`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// Reads `null` as the default, as Go does.
fn null_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// Points to content by digest and size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Other places to fetch it from; never followed by us (CVE-2020-15157).
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Annotations.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// For entries of an index: what the manifest's image runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<OciPlatform>,
    /// Fields we do not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Descriptor {
    /// A descriptor without decoration.
    #[must_use]
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            extra: Map::new(),
        }
    }

    /// Describes these bytes.
    #[must_use]
    pub fn of(media_type: impl Into<String>, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }
}

/// `platform` of an index entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciPlatform {
    /// Go's `GOARCH`.
    pub architecture: String,
    /// Go's `GOOS`.
    pub os: String,
    /// Windows build number.
    #[serde(rename = "os.version", default, skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Windows features.
    #[serde(
        rename = "os.features",
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
    /// `v7` and the like.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl OciPlatform {
    /// Normalised platform without the Windows fields.
    #[must_use]
    pub fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
        }
        .normalised()
    }
}

impl From<&Platform> for OciPlatform {
    fn from(p: &Platform) -> Self {
        Self {
            architecture: p.architecture.clone(),
            os: p.os.clone(),
            variant: p.variant.clone(),
            ..Self::default()
        }
    }
}

/// An image manifest: one configuration and its layers, from the lowest to the highest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// [`media_type::MANIFEST`] or [`media_type::DOCKER_MANIFEST`]; may be missing in OCI documents.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The configuration.
    pub config: Descriptor,
    /// The layers.
    #[serde(deserialize_with = "null_default")]
    pub layers: Vec<Descriptor>,
    /// Annotations.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Fields we do not know, and `subject`, `artifactType`.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// An image index: manifests for several platforms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// [`media_type::INDEX`] or [`media_type::DOCKER_LIST`]; may be missing in OCI documents.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The manifests.
    #[serde(deserialize_with = "null_default")]
    pub manifests: Vec<Descriptor>,
    /// Annotations.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Fields we do not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[expect(clippy::large_enum_variant, reason = "documents are read one at a time and taken apart at once")]
/// A manifest or an index, told apart by media type and checked to agree with it.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// An image manifest.
    Manifest(Manifest),
    /// An index.
    Index(Index),
}

/// The bytes are not a document of the stated type.
#[derive(Debug, thiserror::Error)]
pub enum InvalidDocument {
    /// Larger than [`MAX_DOCUMENT`].
    #[error("manifest of {0} bytes is too large")]
    TooLarge(u64),
    /// Not JSON, or required fields are missing.
    #[error("invalid manifest")]
    Json(#[from] serde_json::Error),
    /// A media type we do not read.
    #[error("unsupported media type {0:?}")]
    MediaType(String),
    /// Docker schema 1.
    #[error(
        "[DEPRECATION NOTICE] Docker Image Format v1 and Docker Image manifest version 2, schema 1 support has been removed"
    )]
    Schema1,
    /// A document that is both manifest and index, or whose `mediaType` contradicts how it was announced.
    #[error("ambiguous manifest: {0}")]
    Ambiguous(&'static str),
    /// A limit was exceeded.
    #[error("manifest has too many {0}")]
    TooMany(&'static str),
}

impl Document {
    /// Reads a document that was announced as `announced` (empty: unknown, the document's own word is taken).
    ///
    /// # Errors
    /// [`InvalidDocument`]; no input makes this panic.
    pub fn parse(announced: &str, bytes: &[u8]) -> Result<Self, InvalidDocument> {
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(InvalidDocument::TooLarge(bytes.len() as u64));
        }
        let shape: Shape = serde_json::from_slice(bytes)?;
        if shape.schema_version == 1 || shape.fs_layers.is_some() || announced == media_type::DOCKER_SCHEMA1 {
            return Err(InvalidDocument::Schema1);
        }
        if shape.manifests.is_some() && (shape.layers.is_some() || shape.config.is_some()) {
            return Err(InvalidDocument::Ambiguous("it has both manifests and layers"));
        }
        let own = shape.media_type.as_deref().unwrap_or("");
        let known = |t: &str| media_type::is_manifest(t) || media_type::is_index(t);
        let media_type = match (announced, own) {
            (a, o) if known(a) && (o.is_empty() || o == a) => a,
            (a, o) if known(o) && !known(a) => o,
            (a, o) if known(a) && !o.is_empty() => {
                return Err(InvalidDocument::Ambiguous("its media type differs from the announced one"));
            }
            (_, "") if shape.manifests.is_some() => media_type::INDEX,
            (_, "") if shape.layers.is_some() => media_type::MANIFEST,
            (a, _) => return Err(InvalidDocument::MediaType(a.to_owned())),
        };
        if media_type::is_index(media_type) {
            if shape.manifests.is_none() {
                return Err(InvalidDocument::Ambiguous("an index without manifests"));
            }
            let mut index: Index = serde_json::from_slice(bytes)?;
            if index.manifests.len() > MAX_MANIFESTS {
                return Err(InvalidDocument::TooMany("entries"));
            }
            index.media_type = media_type.to_owned();
            return Ok(Self::Index(index));
        }
        if shape.manifests.is_some() {
            return Err(InvalidDocument::Ambiguous("a manifest with manifests"));
        }
        let mut manifest: Manifest = serde_json::from_slice(bytes)?;
        if manifest.layers.len() > MAX_LAYERS {
            return Err(InvalidDocument::TooMany("layers"));
        }
        manifest.media_type = media_type.to_owned();
        Ok(Self::Manifest(manifest))
    }

    /// The media type the document was read as.
    #[must_use]
    pub fn media_type(&self) -> &str {
        match self {
            Self::Manifest(m) => &m.media_type,
            Self::Index(i) => &i.media_type,
        }
    }
}

/// Which of the telling fields are there.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    schema_version: u32,
    media_type: Option<String>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// An image configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Go's `GOARCH`.
    #[serde(default)]
    pub architecture: String,
    /// `v7` and the like.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Go's `GOOS`.
    #[serde(default)]
    pub os: String,
    /// Windows build number.
    #[serde(rename = "os.version", default, skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Windows features.
    #[serde(
        rename = "os.features",
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
    /// How a container of it runs.
    #[serde(default, deserialize_with = "null_default")]
    pub config: ContainerConfig,
    /// The layers by diff id.
    #[serde(default)]
    pub rootfs: RootFs,
    /// How it was made, from the oldest step to the newest.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// Docker's comment of `commit` and `import`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Version of the engine that made it (Docker only).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub docker_version: String,
    /// Fields we do not know (`container`, `container_config`, `moby.buildkit.…`).
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl ImageConfig {
    /// Normalised platform.
    #[must_use]
    pub fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
        }
        .normalised()
    }
}

/// `rootfs` of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests of the uncompressed layers, lowest first.
    #[serde(default, deserialize_with = "null_default")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".into(), diff_ids: Vec::new() }
    }
}

/// One step of an image's history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The command.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// Who.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Anything.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Whether the step made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// `config` of an image configuration: Docker's container configuration, as far as images carry it.
///
/// `None` and empty differ where Docker tells them apart (`Cmd: null` inherits, `Cmd: []` clears).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// `user[:group]`.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `80/tcp` → `{}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, Empty>>,
    /// `NAME=value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// Entry point.
    #[serde(default, deserialize_with = "text_or_list", skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Command or arguments of the entry point.
    #[serde(default, deserialize_with = "text_or_list", skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Path → `{}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<BTreeMap<String, Empty>>,
    /// Working directory.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Signal name or number.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Seconds (Docker only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// Windows: the command is already escaped.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    /// Health check (Docker only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthcheckConfig>,
    /// Triggers (Docker only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
    /// Shell of the shell forms (Docker only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Fields we do not know, and the container-only ones of old engines (`Hostname`, `Tty`, …).
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Docker writes lists, but reads a text as a list of one.
fn text_or_list<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        List(Vec<String>),
    }
    Ok(Option::deserialize(d)?.map(|e| match e {
        Either::Text(t) => vec![t],
        Either::List(l) => l,
    }))
}

/// A health check; durations in nanoseconds, 0 inherits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HealthcheckConfig {
    /// `["NONE"]`, `["CMD", …]`, `["CMD-SHELL", text]`; empty inherits.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// For one check.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Grace at start.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between checks during the grace.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures until unhealthy.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(announced: &str, json: &str) -> Result<&'static str, String> {
        match Document::parse(announced, json.as_bytes()) {
            Ok(Document::Manifest(_)) => Ok("manifest"),
            Ok(Document::Index(_)) => Ok("index"),
            Err(e) => Err(e.to_string()),
        }
    }

    #[test]
    fn documents_are_what_they_were_announced_as() {
        let d = format!("sha256:{}", "a".repeat(64));
        let config = format!(r#"{{"mediaType":"c","digest":"{d}","size":1}}"#);
        let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#);
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        let both = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"manifests":[]}}"#);
        assert_eq!(parse("", &manifest), Ok("manifest"));
        assert_eq!(parse(media_type::MANIFEST, &manifest), Ok("manifest"));
        assert_eq!(parse("", index), Ok("index"));
        assert!(parse(media_type::MANIFEST, index).is_err());
        assert!(parse(media_type::INDEX, &manifest).is_err());
        assert!(parse("", &both).unwrap_err().contains("ambiguous"));
        let lying = format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, media_type::INDEX);
        assert!(parse(media_type::MANIFEST, &lying).unwrap_err().contains("ambiguous"));
        assert!(parse("", r#"{"schemaVersion":1,"fsLayers":[]}"#).unwrap_err().contains("DEPRECATION"));
        for garbage in [
            "",
            "null",
            "[]",
            "{}",
            "{\"schemaVersion\":-1}",
            "{\"schemaVersion\":2,\"config\":null,\"layers\":null}",
        ] {
            assert!(parse(media_type::MANIFEST, garbage).is_err(), "{garbage}");
        }
    }

    #[test]
    fn unknown_fields_survive() {
        let json = r#"{"architecture":"amd64","os":"linux","config":{"Cmd":"x","Hostname":"h"},"rootfs":{"type":"layers","diff_ids":null},"zzz":{"a":1}}"#;
        let config: ImageConfig = serde_json::from_str(json).unwrap();
        assert_eq!(config.config.cmd, Some(vec!["x".into()]));
        let back = serde_json::to_value(&config).unwrap();
        assert_eq!(back["zzz"]["a"], 1);
        assert_eq!(back["config"]["Hostname"], "h");
    }
}
