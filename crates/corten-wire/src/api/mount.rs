//! `--mount`, and mounts as inspect shows them.

use serde::{Deserialize, Serialize};

use super::{TextMap, is_default};

/// A mount that the user asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Mount {
    /// `bind`, `volume`, `tmpfs`, `image`, `npipe`, `cluster`.
    #[serde(rename = "Type", skip_serializing_if = "is_default")]
    pub kind: String,
    /// Path on the host or name of a volume.
    #[serde(skip_serializing_if = "is_default")]
    pub source: String,
    /// Path in the container.
    #[serde(skip_serializing_if = "is_default")]
    pub target: String,
    /// Not writable.
    #[serde(skip_serializing_if = "is_default")]
    pub read_only: bool,
    /// `consistent`, `cached`, `delegated`; no meaning on Linux.
    #[serde(skip_serializing_if = "is_default")]
    pub consistency: String,
    /// Only with `bind`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_options: Option<BindOptions>,
    /// Only with `volume`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_options: Option<VolumeOptions>,
    /// Only with `image`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_options: Option<ImageOptions>,
    /// Only with `tmpfs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs_options: Option<TmpfsOptions>,
}

/// Options of a bind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct BindOptions {
    /// `private`, `rprivate`, `shared`, `rshared`, `slave`, `rslave`.
    #[serde(skip_serializing_if = "is_default")]
    pub propagation: String,
    /// Without the mounts below it.
    #[serde(skip_serializing_if = "is_default")]
    pub non_recursive: bool,
    /// Make the source if it is missing.
    #[serde(skip_serializing_if = "is_default")]
    pub create_mountpoint: bool,
    /// Only the top is read-only.
    #[serde(skip_serializing_if = "is_default")]
    pub read_only_non_recursive: bool,
    /// Fail where it cannot be recursively read-only.
    #[serde(skip_serializing_if = "is_default")]
    pub read_only_force_recursive: bool,
    /// Other owners than on disk; ours, not Docker's: `uids=FROM-TO-SIZE#…;gids=…`, empty for those of the container's
    /// user namespace.
    #[serde(rename = "IDMap", skip_serializing_if = "Option::is_none")]
    pub id_map: Option<String>,
}

/// Options of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct VolumeOptions {
    /// Do not fill the volume from the image.
    #[serde(skip_serializing_if = "is_default")]
    pub no_copy: bool,
    /// Labels if it is made now.
    #[serde(skip_serializing_if = "is_default")]
    pub labels: TextMap,
    /// Directory in the volume.
    #[serde(skip_serializing_if = "is_default")]
    pub subpath: String,
    /// Driver if it is made now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_config: Option<Driver>,
}

/// A driver and its options.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Driver {
    /// `local`.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Options of the driver.
    #[serde(skip_serializing_if = "is_default")]
    pub options: TextMap,
}

/// Options of an image mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageOptions {
    /// Directory in the image.
    #[serde(skip_serializing_if = "is_default")]
    pub subpath: String,
}

/// Options of a tmpfs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TmpfsOptions {
    /// Bytes; 0 for no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub size_bytes: i64,
    /// Mode of its root.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: u32,
    /// `[["noexec"], ["uid", "1000"]]`.
    #[serde(skip_serializing_if = "is_default")]
    pub options: Vec<Vec<String>>,
}

/// A mount of a container, as inspect and list show it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct MountPoint {
    /// `bind`, `volume`, `tmpfs`, `image`.
    #[serde(rename = "Type", skip_serializing_if = "is_default")]
    pub kind: String,
    /// Name of the volume.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Path on the host.
    pub source: String,
    /// Path in the container.
    pub destination: String,
    /// Driver of the volume.
    #[serde(skip_serializing_if = "is_default")]
    pub driver: String,
    /// Options as they were given.
    pub mode: String,
    /// Writable.
    #[serde(rename = "RW")]
    pub rw: bool,
    /// `rprivate` and so on; empty for volumes.
    pub propagation: String,
}
