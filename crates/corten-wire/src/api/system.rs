//! `/version`, `/info`, `/system/df`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::build::BuildCache;
use super::container::ContainerSummary;
use super::image::ImageSummary;
use super::volume::Volume;
use super::{TextMap, is_default};

/// Answer of `GET /version`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Version {
    /// Who made it.
    pub platform: VersionPlatform,
    /// Parts.
    pub components: Vec<VersionComponent>,
    /// Engine.
    pub version: String,
    /// Newest API.
    pub api_version: String,
    /// Oldest API.
    #[serde(rename = "MinAPIVersion")]
    pub min_api_version: String,
    /// Commit.
    pub git_commit: String,
    /// Always there, though we are not written in Go.
    pub go_version: String,
    /// `linux`.
    pub os: String,
    /// `amd64`.
    pub arch: String,
    /// `uname -r`.
    pub kernel_version: String,
    /// Experimental features are on.
    #[serde(skip_serializing_if = "is_default")]
    pub experimental: bool,
    /// RFC 3339.
    pub build_time: String,
}

/// Who made the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct VersionPlatform {
    /// Name.
    pub name: String,
}

/// A part of the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct VersionComponent {
    /// `Engine`.
    pub name: String,
    /// Version.
    pub version: String,
    /// More.
    pub details: TextMap,
}

/// Answer of `GET /info`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Info {
    /// Of the daemon.
    #[serde(rename = "ID")]
    pub id: String,
    /// Containers.
    pub containers: i64,
    /// Running.
    pub containers_running: i64,
    /// Paused.
    pub containers_paused: i64,
    /// Neither.
    pub containers_stopped: i64,
    /// Images.
    pub images: i64,
    /// Storage driver.
    pub driver: String,
    /// Its properties.
    pub driver_status: Vec<[String; 2]>,
    /// Known drivers.
    pub plugins: PluginsInfo,
    /// Limits that the kernel can enforce.
    pub memory_limit: bool,
    /// Kernel feature.
    pub swap_limit: bool,
    /// Kernel feature.
    pub cpu_cfs_period: bool,
    /// Kernel feature.
    pub cpu_cfs_quota: bool,
    /// Kernel feature.
    #[serde(rename = "CPUShares")]
    pub cpu_shares: bool,
    /// Kernel feature.
    #[serde(rename = "CPUSet")]
    pub cpu_set: bool,
    /// Kernel feature.
    pub pids_limit: bool,
    /// Kernel setting.
    #[serde(rename = "IPv4Forwarding")]
    pub ipv4_forwarding: bool,
    /// Debug logging.
    pub debug: bool,
    /// Open files.
    pub n_fd: i64,
    /// Kernel feature, cgroup v1.
    pub oom_kill_disable: bool,
    /// Threads.
    pub n_goroutines: i64,
    /// RFC 3339.
    pub system_time: String,
    /// Default log driver.
    pub logging_driver: String,
    /// `cgroupfs` or `systemd`.
    pub cgroup_driver: String,
    /// `1` or `2`.
    #[serde(skip_serializing_if = "is_default")]
    pub cgroup_version: String,
    /// Readers of events.
    pub n_events_listener: i64,
    /// `uname -r`.
    pub kernel_version: String,
    /// From os-release.
    pub operating_system: String,
    /// From os-release.
    #[serde(rename = "OSVersion")]
    pub os_version: String,
    /// `linux`.
    #[serde(rename = "OSType")]
    pub os_type: String,
    /// `x86_64`.
    pub architecture: String,
    /// Default registry.
    pub index_server_address: String,
    /// Registries.
    pub registry_config: RegistryConfig,
    /// CPUs.
    #[serde(rename = "NCPU")]
    pub ncpu: i64,
    /// Bytes.
    pub mem_total: i64,
    /// Swarm.
    pub generic_resources: Option<Vec<serde_json::Value>>,
    /// `--data-root`.
    pub docker_root_dir: String,
    /// Proxy.
    pub http_proxy: String,
    /// Proxy.
    pub https_proxy: String,
    /// Proxy.
    pub no_proxy: String,
    /// Host name.
    pub name: String,
    /// Labels of the daemon.
    pub labels: Vec<String>,
    /// Experimental features are on.
    pub experimental_build: bool,
    /// Engine.
    pub server_version: String,
    /// By name.
    pub runtimes: BTreeMap<String, Runtime>,
    /// Name.
    pub default_runtime: String,
    /// Cluster.
    pub swarm: SwarmInfo,
    /// Containers live on without the daemon.
    pub live_restore_enabled: bool,
    /// Windows only.
    pub isolation: String,
    /// Of `--init`.
    pub init_binary: String,
    /// Parts.
    pub containerd_commit: Commit,
    /// Parts.
    pub runc_commit: Commit,
    /// Parts.
    pub init_commit: Commit,
    /// `name=seccomp,profile=builtin`, …
    pub security_options: Vec<String>,
    /// Name of the licence.
    #[serde(skip_serializing_if = "is_default")]
    pub product_license: String,
    /// Pools that networks get their subnets from.
    #[serde(skip_serializing_if = "is_default")]
    pub default_address_pools: Vec<AddressPool>,
    /// Who programs the firewall.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firewall_backend: Option<FirewallInfo>,
    /// Directories of CDI specifications.
    #[serde(rename = "CDISpecDirs")]
    pub cdi_spec_dirs: Vec<String>,
    /// Devices that can be asked for.
    #[serde(skip_serializing_if = "is_default")]
    pub discovered_devices: Vec<DeviceInfo>,
    /// The address and namespaces of containerd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub containerd: Option<ContainerdInfo>,
    /// For a person.
    pub warnings: Option<Vec<String>>,
}

/// Known drivers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PluginsInfo {
    /// Volumes.
    pub volume: Vec<String>,
    /// Networks.
    pub network: Vec<String>,
    /// Authorization; `null` for none.
    pub authorization: Option<Vec<String>>,
    /// Logs.
    pub log: Vec<String>,
}

/// Registries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RegistryConfig {
    /// Networks whose registries may speak plain HTTP.
    #[serde(rename = "InsecureRegistryCIDRs")]
    pub insecure_registry_cidrs: Vec<String>,
    /// By host.
    pub index_configs: BTreeMap<String, IndexInfo>,
    /// Of the default registry.
    pub mirrors: Vec<String>,
}

/// One registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct IndexInfo {
    /// Host.
    pub name: String,
    /// Mirrors of it.
    pub mirrors: Vec<String>,
    /// Only TLS with a known certificate.
    pub secure: bool,
    /// The default registry.
    pub official: bool,
}

/// A device that a driver has found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DeviceInfo {
    /// The driver: `cdi`.
    pub source: String,
    /// As `--device` takes it.
    #[serde(rename = "ID")]
    pub id: String,
}

/// An OCI runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Runtime {
    /// Program.
    #[serde(skip_serializing_if = "is_default")]
    pub path: String,
    /// Arguments.
    #[serde(rename = "runtimeArgs", skip_serializing_if = "is_default")]
    pub runtime_args: Vec<String>,
    /// Features.
    #[serde(skip_serializing_if = "is_default")]
    pub status: TextMap,
}

/// A commit of a part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Commit {
    /// Commit.
    #[serde(rename = "ID")]
    pub id: String,
}

/// State of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct SwarmInfo {
    /// This node.
    #[serde(rename = "NodeID")]
    pub node_id: String,
    /// Its address.
    pub node_addr: String,
    /// `inactive`.
    pub local_node_state: String,
    /// It is a manager.
    pub control_available: bool,
    /// For a person.
    pub error: String,
    /// Managers; `null` outside a swarm.
    pub remote_managers: Option<Vec<serde_json::Value>>,
}

/// A pool of addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct AddressPool {
    /// CIDR.
    pub base: String,
    /// Prefix length of each subnet.
    pub size: u8,
}

/// Who programs the firewall.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct FirewallInfo {
    /// `nftables`.
    pub driver: String,
    /// Properties.
    #[serde(skip_serializing_if = "is_default")]
    pub info: Vec<[String; 2]>,
}

/// The address and namespaces of containerd.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ContainerdInfo {
    /// Socket.
    pub address: String,
    /// Namespaces.
    pub namespaces: ContainerdNamespaces,
}

/// Namespaces in containerd.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ContainerdNamespaces {
    /// Of containers.
    pub containers: String,
    /// Of plugins.
    pub plugins: String,
}

/// Answer of `GET /system/df`; `None` for types that were not asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DiskUsage {
    /// Images; the size is that of all layers, each counted once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_usage: Option<Usage<ImageSummary>>,
    /// Containers: what they have written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_usage: Option<Usage<ContainerSummary>>,
    /// Volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_usage: Option<Usage<Volume>>,
    /// Build cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_cache_usage: Option<Usage<BuildCache>>,
}

/// What objects of one type take.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Usage<T> {
    /// In use.
    pub active_count: i64,
    /// All of them.
    pub total_count: i64,
    /// Bytes that removing what is not in use would free.
    pub reclaimable: i64,
    /// Bytes.
    pub total_size: i64,
    /// The objects, where they are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<T>>,
}

impl<T> Usage<T> {
    /// Adds up; `look` says of an object whether it is in use, and how many bytes it takes (unknown is less than 0).
    pub fn of(items: Vec<T>, look: impl Fn(&T) -> (bool, i64)) -> Self {
        let mut usage = Self { total_count: items.len().try_into().unwrap_or(i64::MAX), ..Self::none() };
        for (active, size) in items.iter().map(look) {
            let size = size.max(0);
            usage.active_count += i64::from(active);
            usage.total_size += size;
            usage.reclaimable += if active { 0 } else { size };
        }
        usage.items = Some(items);
        usage
    }

    fn none() -> Self {
        Self { active_count: 0, total_count: 0, reclaimable: 0, total_size: 0, items: None }
    }
}
