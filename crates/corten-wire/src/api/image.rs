//! Images.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::container::Healthcheck;
use super::port::Port;
use super::{Empty, TextMap, TextSet, is_default};

/// An OCI descriptor, as the API shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type.
    pub media_type: String,
    /// `sha256:…`.
    pub digest: String,
    /// Bytes.
    pub size: i64,
    /// Other places to get it from.
    #[serde(skip_serializing_if = "is_default")]
    pub urls: Vec<String>,
    /// Free text.
    #[serde(skip_serializing_if = "is_default")]
    pub annotations: TextMap,
    /// In an index, and in `ImageManifestDescriptor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<OciPlatform>,
    /// Kind of artefact.
    #[serde(skip_serializing_if = "is_default")]
    pub artifact_type: String,
}

/// A platform with the keys of the OCI specification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OciPlatform {
    /// `amd64`.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// Windows only.
    #[serde(rename = "os.version", skip_serializing_if = "is_default")]
    pub os_version: String,
    /// Windows only.
    #[serde(rename = "os.features", skip_serializing_if = "is_default")]
    pub os_features: Vec<String>,
    /// `v8`.
    #[serde(skip_serializing_if = "is_default")]
    pub variant: String,
}

/// One line of `GET /images/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageSummary {
    /// Containers that use it; -1 where it was not counted.
    pub containers: i64,
    /// Seconds since the epoch.
    pub created: i64,
    /// Id: digest of manifest or index.
    pub id: String,
    /// Labels.
    pub labels: TextMap,
    /// Id of the image this one was built or committed from.
    pub parent_id: String,
    /// Only with `manifests=1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifests: Option<Vec<ManifestSummary>>,
    /// Target of the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<Descriptor>,
    /// `name@sha256:…`.
    pub repo_digests: Vec<String>,
    /// `name:tag`.
    pub repo_tags: Vec<String>,
    /// Bytes shared with other images; -1 where it was not counted.
    pub shared_size: i64,
    /// Bytes, unpacked and packed.
    pub size: i64,
}

/// Where an image comes from, as far as the daemon saw it happen. Signatures are not looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Identity {
    /// Repositories that it was pulled from or pushed to.
    #[serde(skip_serializing_if = "is_default")]
    pub pull: Vec<PullIdentity>,
}

/// A repository of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PullIdentity {
    /// With the registry.
    pub repository: String,
}

/// One line of `GET /images/{name}/attestations`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct AttestationStatement {
    /// Its blob.
    pub descriptor: Descriptor,
    /// Type of what is stated, an URI.
    pub predicate_type: String,
    /// The statement, with `statement=true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statement: Option<serde_json::Value>,
}

/// A manifest of an image, with `manifests=1`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ManifestSummary {
    /// Digest.
    #[serde(rename = "ID")]
    pub id: String,
    /// Descriptor.
    #[serde(rename = "Descriptor")]
    pub descriptor: Descriptor,
    /// All of its content is here.
    #[serde(rename = "Available")]
    pub available: bool,
    /// Bytes.
    #[serde(rename = "Size")]
    pub size: ManifestSize,
    /// `image`, `attestation`, `unknown`.
    #[serde(rename = "Kind")]
    pub kind: String,
    /// Only of kind `image`.
    #[serde(rename = "ImageData", skip_serializing_if = "Option::is_none")]
    pub image_data: Option<ManifestImageData>,
    /// Only of kind `attestation`.
    #[serde(rename = "AttestationData", skip_serializing_if = "Option::is_none")]
    pub attestation_data: Option<AttestationData>,
}

/// Bytes of a manifest's content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ManifestSize {
    /// All.
    pub total: i64,
    /// Packed.
    pub content: i64,
}

/// What a manifest of kind `image` holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ManifestImageData {
    /// Platform.
    pub platform: OciPlatform,
    /// Only with `identity=1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Containers that use it.
    pub containers: Vec<String>,
    /// Bytes.
    pub size: UnpackedSize,
}

/// Bytes of the unpacked layers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct UnpackedSize {
    /// Unpacked.
    pub unpacked: i64,
}

/// What a manifest of kind `attestation` is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct AttestationData {
    /// Digest of the image manifest.
    pub r#for: String,
}

/// Answer of `GET /images/{name}/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageInspect {
    /// Id: digest of manifest or index.
    pub id: String,
    /// `name:tag`.
    pub repo_tags: Vec<String>,
    /// `name@sha256:…`.
    pub repo_digests: Vec<String>,
    /// Image this one was built from.
    pub parent: String,
    /// Message of commit or import.
    pub comment: String,
    /// RFC 3339.
    #[serde(skip_serializing_if = "is_default")]
    pub created: String,
    /// Always empty today.
    pub docker_version: String,
    /// Who made it.
    pub author: String,
    /// Configuration of containers made from it.
    pub config: Option<ImageConfig>,
    /// `amd64`.
    pub architecture: String,
    /// `v8`.
    #[serde(skip_serializing_if = "is_default")]
    pub variant: String,
    /// `linux`.
    pub os: String,
    /// Windows only.
    #[serde(skip_serializing_if = "is_default")]
    pub os_version: String,
    /// Bytes.
    pub size: i64,
    /// Before API 1.44.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_size: Option<i64>,
    /// Storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graph_driver: Option<GraphDriver>,
    /// Layers.
    #[serde(rename = "RootFS")]
    pub root_fs: RootFs,
    /// Local facts.
    pub metadata: ImageMetadata,
    /// Target of the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<Descriptor>,
    /// Only with `manifests=1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifests: Option<Vec<ManifestSummary>>,
    /// Where it comes from, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
}

/// Configuration of containers made from an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageConfig {
    /// `user[:group]`.
    pub user: String,
    /// Ports.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<Port, Empty>,
    /// `NAME=value`.
    pub env: Option<Vec<String>>,
    /// Program and first arguments.
    pub entrypoint: Option<Vec<String>>,
    /// Arguments, or the whole command.
    pub cmd: Option<Vec<String>>,
    /// Paths that get a volume.
    pub volumes: Option<TextSet>,
    /// Where the process starts.
    pub working_dir: String,
    /// Labels.
    pub labels: Option<TextMap>,
    /// Signal of `stop`.
    #[serde(skip_serializing_if = "is_default")]
    pub stop_signal: String,
    /// Windows only.
    #[serde(skip_serializing_if = "is_default")]
    pub args_escaped: bool,
    /// Health check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Instructions for images built upon this one.
    pub on_build: Option<Vec<String>>,
    /// Shell of shell-form instructions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
}

/// Storage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct GraphDriver {
    /// `null` with snapshotters.
    pub data: Option<TextMap>,
    /// `overlayfs`.
    pub name: String,
}

/// Layers of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// Diff ids.
    #[serde(skip_serializing_if = "is_default")]
    pub layers: Vec<String>,
}

/// Local facts about an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageMetadata {
    /// RFC 3339.
    #[serde(skip_serializing_if = "is_default")]
    pub last_tag_time: String,
}

/// One line of `GET /images/{name}/history`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HistoryItem {
    /// Message of commit or import.
    pub comment: String,
    /// Seconds since the epoch.
    pub created: i64,
    /// Instruction.
    pub created_by: String,
    /// Id of the image, or `<missing>`.
    pub id: String,
    /// Bytes.
    pub size: i64,
    /// `name:tag`; `null` for none.
    pub tags: Option<Vec<String>>,
}

/// One line of `DELETE /images/{name}`: exactly one of the two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DeleteItem {
    /// Reference that is gone.
    #[serde(skip_serializing_if = "is_default")]
    pub untagged: String,
    /// Id that is gone.
    #[serde(skip_serializing_if = "is_default")]
    pub deleted: String,
}

/// Answer of `POST /images/prune`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImagesPruneResponse {
    /// What is gone; `null` for nothing.
    pub images_deleted: Option<Vec<DeleteItem>>,
    /// Bytes.
    pub space_reclaimed: u64,
}

/// One line of `GET /images/search`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SearchResult {
    /// Name.
    pub name: String,
    /// For a person.
    pub description: String,
    /// Curated.
    pub is_official: bool,
    /// Always false today.
    pub is_automated: bool,
    /// Stars.
    pub star_count: i64,
}

/// Answer of `GET /distribution/{name}/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DistributionInspect {
    /// What the registry has.
    pub descriptor: Descriptor,
    /// Platforms of it.
    pub platforms: Vec<OciPlatform>,
}

/// Header `X-Registry-Auth` (base64url of its JSON), and body of `POST /auth`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthConfig {
    /// User.
    #[serde(skip_serializing_if = "is_default")]
    pub username: String,
    /// Password.
    #[serde(skip_serializing_if = "is_default")]
    pub password: String,
    /// base64 of `user:password`, from old configuration files.
    #[serde(skip_serializing_if = "is_default")]
    pub auth: String,
    /// Ignored.
    #[serde(skip_serializing_if = "is_default")]
    pub email: String,
    /// Registry.
    #[serde(rename = "serveraddress", skip_serializing_if = "is_default")]
    pub server_address: String,
    /// Refresh token.
    #[serde(rename = "identitytoken", skip_serializing_if = "is_default")]
    pub identity_token: String,
    /// Bearer token.
    #[serde(rename = "registrytoken", skip_serializing_if = "is_default")]
    pub registry_token: String,
}

/// Secrets are not printed.
impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

/// Answer of `POST /auth`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct AuthResponse {
    /// `Login Succeeded`.
    pub status: String,
    /// Refresh token.
    #[serde(skip_serializing_if = "is_default")]
    pub identity_token: String,
}
