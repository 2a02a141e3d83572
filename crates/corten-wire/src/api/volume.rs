//! Volumes.

use serde::{Deserialize, Serialize};

use super::{TextMap, is_default};

/// Body of `POST /volumes/create`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct VolumeCreateRequest {
    /// Empty for an anonymous one.
    pub name: String,
    /// `local` when empty.
    pub driver: String,
    /// Options of the driver.
    pub driver_opts: Option<TextMap>,
    /// Labels.
    pub labels: Option<TextMap>,
    /// Swarm's CSI volumes; refused outside a swarm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_volume_spec: Option<serde_json::Value>,
}

/// A volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Volume {
    /// RFC 3339.
    #[serde(skip_serializing_if = "is_default")]
    pub created_at: String,
    /// `local`.
    pub driver: String,
    /// `null` where none were given.
    pub labels: Option<TextMap>,
    /// Directory on the host.
    pub mountpoint: String,
    /// Name.
    pub name: String,
    /// Options as given; `null` for none.
    pub options: Option<TextMap>,
    /// `local`.
    pub scope: String,
    /// What the driver says.
    #[serde(skip_serializing_if = "is_default")]
    pub status: TextMap,
    /// Only in `GET /system/df`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_data: Option<VolumeUsage>,
}

/// Use of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct VolumeUsage {
    /// Containers that refer to it.
    pub ref_count: i64,
    /// Bytes, -1 if unknown.
    pub size: i64,
}

/// Answer of `GET /volumes`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct VolumeList {
    /// Volumes.
    pub volumes: Vec<Volume>,
    /// Drivers that did not answer.
    pub warnings: Option<Vec<String>>,
}

/// Answer of `POST /volumes/prune`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct VolumesPruneResponse {
    /// Names.
    pub volumes_deleted: Option<Vec<String>>,
    /// Bytes.
    pub space_reclaimed: u64,
}
