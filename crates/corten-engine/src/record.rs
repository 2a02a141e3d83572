//! What is written to `meta.db`, and its tables.
//!
//! | table | key | value | written |
//! |---|---|---|---|
//! | `container_records` | id | [`ContainerRecord`]: what the user asked for | durably |
//! | `container_states` | id | [`StateRecord`]: what came of it | lazily |
//! | `volume_records` | name | [`VolumeRecord`] | durably |
//! | `network_records` | id | [`NetworkEntry`] | durably |
//!
//! Endpoints of running containers are facts of the running kernel: they live in `<exec-root>/containers/<id>/run.json`
//! and go with the machine.

use std::collections::BTreeMap;
use std::sync::Arc;

use corten_base::db::Table;
use corten_base::{Digest, Id};
use corten_wire::api::TextMap;
use corten_wire::api::container::ContainerConfig;
use corten_wire::api::host_config::HostConfig;
use corten_wire::api::image::Descriptor;
use corten_wire::api::mount::MountPoint;
use corten_wire::api::network::EndpointSettings;
use serde::{Deserialize, Serialize};

pub(crate) const CONTAINERS: Table<ContainerRecord> = Table::new("container_records");
pub(crate) const STATES: Table<StateRecord> = Table::new("container_states");
pub(crate) const VOLUMES: Table<VolumeRecord> = Table::new("volume_records");
pub(crate) const NETWORKS: Table<NetworkEntry> = Table::new("network_records");

/// The desired state of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Its id.
    pub id: Id,
    /// Its name, without Docker's slash.
    pub name: String,
    /// Nanoseconds since the epoch.
    pub created_ns: i64,
    /// Image it was made from.
    pub image: Option<Digest>,
    /// The manifest that was chosen.
    #[serde(default)]
    pub manifest: Option<Descriptor>,
    /// Operating system of the image.
    #[serde(default)]
    pub platform: String,
    /// Configuration of the request merged with the image's.
    pub config: Arc<ContainerConfig>,
    /// Host configuration with defaults filled in.
    pub host: Arc<HostConfig>,
    /// Mounts in the order in which they are made.
    pub mounts: Arc<Vec<MountRecord>>,
    /// Wanted endpoints by name of the network.
    pub networks: Arc<BTreeMap<String, EndpointSettings>>,
    /// What the root file system is made of.
    pub rootfs: RootfsRecord,
    /// `--link` on the default bridge.
    #[serde(default)]
    pub links: Arc<Vec<crate::links::LinkRecord>>,
    /// What it writes need not survive a power cut: a step of a build, see [`crate::Engine::create_step`].
    #[serde(default)]
    pub build_step: bool,
    /// SELinux label of its processes; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub process_label: String,
    /// SELinux label of its files.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mount_label: String,
}

/// Directories of the root overlay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootfsRecord {
    /// Topmost first.
    pub lowers: Arc<Vec<std::path::PathBuf>>,
    /// Writable layer.
    pub upper: std::path::PathBuf,
    /// Overlay's own.
    pub work: std::path::PathBuf,
}

/// Kinds of mounts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A path of the host.
    #[default]
    Bind,
    /// A volume.
    Volume,
    /// Memory.
    Tmpfs,
    /// The files of an image, read-only.
    Image,
}

/// One mount of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountRecord {
    /// What it is.
    pub kind: MountKind,
    /// Path in the container.
    pub destination: String,
    /// Path on the host.
    pub source: String,
    /// Name of the volume.
    pub name: String,
    /// Driver of the volume.
    pub driver: String,
    /// Options as given with `-v`.
    pub mode: String,
    /// Writable.
    pub rw: bool,
    /// Propagation as inspect shows it.
    pub propagation: String,
    /// Fill an empty volume from the image.
    pub copy: bool,
    /// Make a missing bind source.
    pub create_source: bool,
    /// Directory within the volume.
    pub subpath: String,
    /// Bind without what is mounted below.
    pub non_recursive: bool,
    /// Read-only at the top only.
    pub read_only_non_recursive: bool,
    /// The volume goes with the container (`rm -v`, `--rm`).
    pub anonymous: bool,
    /// Options of a tmpfs.
    pub tmpfs: Vec<String>,
    /// The image that is mounted; its name is `name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Digest>,
    /// Other owners than on disk, see [`crate::userns::parse_idmap`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idmap: Option<String>,
    /// Came from `HostConfig.Tmpfs`, which inspect does not list among the mounts.
    pub hidden: bool,
}

impl MountRecord {
    /// As inspect and list show it.
    #[must_use]
    pub fn view(&self) -> MountPoint {
        MountPoint {
            kind: match self.kind {
                MountKind::Bind => "bind",
                MountKind::Volume => "volume",
                MountKind::Tmpfs => "tmpfs",
                MountKind::Image => "image",
            }
            .into(),
            name: self.name.clone(),
            source: if self.kind == MountKind::Tmpfs { String::new() } else { self.source.clone() },
            destination: self.destination.clone(),
            driver: self.driver.clone(),
            mode: self.mode.clone(),
            rw: self.rw,
            propagation: self.propagation.clone(),
        }
    }
}

/// Where the last known life of a container stood.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Never started, or its start failed.
    #[default]
    Created,
    /// Was running.
    Running,
    /// Ended.
    Exited,
    /// Was being removed.
    Removing,
}

/// The observed state of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StateRecord {
    /// Where it stood.
    pub standing: Standing,
    /// Nanoseconds since the epoch, 0 for never.
    pub started_ns: i64,
    /// Nanoseconds since the epoch, 0 for never.
    pub finished_ns: i64,
    /// Of the last run or failed start.
    pub exit_code: i32,
    /// The kernel killed one of its processes for want of memory.
    pub oom_killed: bool,
    /// Why the last start failed.
    pub error: String,
    /// Restarts by policy.
    pub restart_count: u32,
    /// A person stopped it.
    pub manually_stopped: bool,
    /// Volumes were filled from the image.
    pub filled: bool,
}

/// A volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct VolumeRecord {
    /// Its name.
    pub name: String,
    /// Nanoseconds since the epoch.
    pub created_ns: i64,
    /// Labels; `None` shows as `null`.
    pub labels: Option<TextMap>,
    /// `type`, `device`, `o`.
    pub options: Option<TextMap>,
}

/// A network with what Docker remembers of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NetworkEntry {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: String,
    /// `bridge`, `host`, `null`, `macvlan`.
    pub driver: String,
    /// Nanoseconds since the epoch.
    pub created_ns: i64,
    /// Labels.
    #[serde(default)]
    pub labels: TextMap,
    /// `attachable`.
    #[serde(default)]
    pub attachable: bool,
    /// Options of the address management.
    #[serde(default)]
    pub ipam_options: Option<TextMap>,
    /// What corten-net made of it; none for `host`, `none` and templates.
    #[serde(default)]
    pub plan: Option<corten_net::NetworkRecord>,
    /// It is a configuration for others, and nothing else.
    #[serde(default)]
    pub template: Option<crate::networks::template::Template>,
    /// The name of the configuration that it was made from.
    #[serde(default)]
    pub config_from: String,
}
