//! `HostConfig`: how a container meets its host. Stored verbatim as part of the desired state.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::mount::Mount;
use super::port::{Port, PortBinding};
use super::{TextMap, is_default};

/// What the user asked of the host. Field order and presence are the reference engine's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HostConfig {
    /// `source:target[:options]`.
    pub binds: Option<Vec<String>>,
    /// File of the client that holds the id; kept for show.
    #[serde(rename = "ContainerIDFile")]
    pub container_id_file: String,
    /// Logging driver and its options.
    pub log_config: LogConfig,
    /// `bridge`, `none`, `host`, `container:<name>` or a network.
    pub network_mode: String,
    /// Published ports.
    pub port_bindings: BTreeMap<Port, Option<Vec<PortBinding>>>,
    /// What happens when it exits.
    pub restart_policy: RestartPolicy,
    /// Remove when it exits.
    pub auto_remove: bool,
    /// Driver of volumes named in `binds`.
    pub volume_driver: String,
    /// `container[:ro]` whose mounts are taken over.
    pub volumes_from: Option<Vec<String>>,
    /// Rows and columns of the first terminal.
    pub console_size: [u32; 2],
    /// Free text for the OCI configuration.
    #[serde(skip_serializing_if = "is_default")]
    pub annotations: TextMap,
    /// Capabilities beyond the default.
    pub cap_add: Option<Vec<String>>,
    /// Capabilities taken away.
    pub cap_drop: Option<Vec<String>>,
    /// `private`, `host` or empty for the default.
    pub cgroupns_mode: String,
    /// Name servers.
    pub dns: Option<Vec<String>>,
    /// Options of resolv.conf.
    pub dns_options: Option<Vec<String>>,
    /// Search domains.
    pub dns_search: Option<Vec<String>>,
    /// `name:address`.
    pub extra_hosts: Option<Vec<String>>,
    /// Further groups of the process.
    pub group_add: Option<Vec<String>>,
    /// `private`, `shareable`, `host`, `none`, `container:<name>`.
    pub ipc_mode: String,
    /// Cgroup to use (legacy).
    pub cgroup: String,
    /// `container:alias` (legacy).
    pub links: Option<Vec<String>>,
    /// Preference of the OOM killer.
    pub oom_score_adj: i32,
    /// Empty, `host`, `container:<name>`.
    pub pid_mode: String,
    /// All capabilities, all devices, no confinement.
    pub privileged: bool,
    /// Publish every exposed port.
    pub publish_all_ports: bool,
    /// The root file system is read-only.
    pub readonly_rootfs: bool,
    /// `seccomp=…`, `apparmor=…`, `no-new-privileges`, `label=…`.
    pub security_opt: Option<Vec<String>>,
    /// Options of the writable layer.
    #[serde(skip_serializing_if = "is_default")]
    pub storage_opt: TextMap,
    /// Path to options of a tmpfs.
    #[serde(skip_serializing_if = "is_default")]
    pub tmpfs: TextMap,
    /// Empty or `host`.
    #[serde(rename = "UTSMode")]
    pub uts_mode: String,
    /// Empty or `host`.
    pub userns_mode: String,
    /// Bytes of `/dev/shm`.
    pub shm_size: i64,
    /// Namespaced sysctls.
    #[serde(skip_serializing_if = "is_default")]
    pub sysctls: TextMap,
    /// Name of the OCI runtime.
    #[serde(skip_serializing_if = "is_default")]
    pub runtime: String,
    /// Windows only.
    pub isolation: String,
    /// `--mount`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounts: Option<Vec<Mount>>,
    /// `None`: the default set.
    pub masked_paths: Option<Vec<String>>,
    /// `None`: the default set.
    pub readonly_paths: Option<Vec<String>>,
    /// Run an init as PID 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,

    // limits; `POST /containers/{id}/update` changes these
    /// Relative weight of CPU time.
    pub cpu_shares: i64,
    /// Bytes.
    pub memory: i64,
    /// CPUs times 10^9.
    pub nano_cpus: i64,
    /// Parent of the container's cgroup.
    pub cgroup_parent: String,
    /// 10 to 1000, 0 for none.
    pub blkio_weight: u16,
    /// Weight per device.
    pub blkio_weight_device: Option<Vec<WeightDevice>>,
    /// Bytes per second.
    pub blkio_device_read_bps: Option<Vec<ThrottleDevice>>,
    /// Bytes per second.
    pub blkio_device_write_bps: Option<Vec<ThrottleDevice>>,
    /// Operations per second.
    #[serde(rename = "BlkioDeviceReadIOps")]
    pub blkio_device_read_iops: Option<Vec<ThrottleDevice>>,
    /// Operations per second.
    #[serde(rename = "BlkioDeviceWriteIOps")]
    pub blkio_device_write_iops: Option<Vec<ThrottleDevice>>,
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds per period.
    pub cpu_quota: i64,
    /// Microseconds.
    pub cpu_realtime_period: i64,
    /// Microseconds.
    pub cpu_realtime_runtime: i64,
    /// `0-3,5`.
    pub cpuset_cpus: String,
    /// `0,1`.
    pub cpuset_mems: String,
    /// Devices made available.
    pub devices: Option<Vec<DeviceMapping>>,
    /// Rules like `c 42:* rmw`.
    pub device_cgroup_rules: Option<Vec<String>>,
    /// GPUs and the like.
    pub device_requests: Option<Vec<DeviceRequest>>,
    /// Soft limit in bytes.
    pub memory_reservation: i64,
    /// Memory plus swap in bytes, -1 for no limit.
    pub memory_swap: i64,
    /// 0 to 100, -1 or `None` for the host's.
    pub memory_swappiness: Option<i64>,
    /// Do not kill when out of memory.
    pub oom_kill_disable: Option<bool>,
    /// Number of processes; 0 or -1 for no limit.
    pub pids_limit: Option<i64>,
    /// Resource limits of the process.
    pub ulimits: Option<Vec<Ulimit>>,
    /// Bits per second to the container, 0 for no limit. Ours, not Docker's.
    #[serde(skip_serializing_if = "is_default")]
    pub net_rate_in: i64,
    /// Bits per second from the container, 0 for no limit. Ours, not Docker's.
    #[serde(skip_serializing_if = "is_default")]
    pub net_rate_out: i64,
    /// Windows only.
    pub cpu_count: i64,
    /// Windows only.
    pub cpu_percent: i64,
    /// Windows only.
    #[serde(rename = "IOMaximumIOps")]
    pub io_maximum_iops: u64,
    /// Windows only.
    #[serde(rename = "IOMaximumBandwidth")]
    pub io_maximum_bandwidth: u64,
}

/// Body of `POST /containers/{id}/update`: limits and the restart policy. `None` leaves a limit as it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct UpdateRequest {
    /// Relative weight of CPU time.
    pub cpu_shares: i64,
    /// Bytes.
    pub memory: i64,
    /// CPUs times 10^9.
    pub nano_cpus: i64,
    /// Cannot be changed.
    #[serde(skip_serializing_if = "is_default")]
    pub cgroup_parent: String,
    /// 10 to 1000.
    pub blkio_weight: u16,
    /// Weight per device.
    pub blkio_weight_device: Option<Vec<WeightDevice>>,
    /// Bytes per second.
    pub blkio_device_read_bps: Option<Vec<ThrottleDevice>>,
    /// Bytes per second.
    pub blkio_device_write_bps: Option<Vec<ThrottleDevice>>,
    /// Operations per second.
    #[serde(rename = "BlkioDeviceReadIOps")]
    pub blkio_device_read_iops: Option<Vec<ThrottleDevice>>,
    /// Operations per second.
    #[serde(rename = "BlkioDeviceWriteIOps")]
    pub blkio_device_write_iops: Option<Vec<ThrottleDevice>>,
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds per period.
    pub cpu_quota: i64,
    /// Microseconds.
    pub cpu_realtime_period: i64,
    /// Microseconds.
    pub cpu_realtime_runtime: i64,
    /// `0-3,5`.
    pub cpuset_cpus: String,
    /// `0,1`.
    pub cpuset_mems: String,
    /// Soft limit in bytes.
    pub memory_reservation: i64,
    /// Memory plus swap in bytes.
    pub memory_swap: i64,
    /// 0 to 100.
    pub memory_swappiness: Option<i64>,
    /// Do not kill when out of memory.
    pub oom_kill_disable: Option<bool>,
    /// Number of processes.
    pub pids_limit: Option<i64>,
    /// Resource limits of the process.
    pub ulimits: Option<Vec<Ulimit>>,
    /// Empty name: unchanged.
    pub restart_policy: RestartPolicy,
    /// Ports to publish. Ours, not Docker's.
    #[serde(skip_serializing_if = "is_default")]
    pub publish_add: BTreeMap<Port, Option<Vec<PortBinding>>>,
    /// Ports to publish no longer; without a binding all of the container's port. Ours, not Docker's.
    #[serde(skip_serializing_if = "is_default")]
    pub publish_remove: BTreeMap<Port, Option<Vec<PortBinding>>>,
    /// Bits per second to the container, 0 for no limit. Ours, not Docker's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_rate_in: Option<i64>,
    /// Bits per second from the container, 0 for no limit. Ours, not Docker's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_rate_out: Option<i64>,
}

/// Answer of `POST /containers/{id}/update`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct UpdateResponse {
    /// What was ignored.
    pub warnings: Option<Vec<String>>,
}

/// Logging driver and its options.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct LogConfig {
    /// `json-file`, `local`, `none`, …; empty for the daemon's default.
    #[serde(rename = "Type")]
    pub kind: String,
    /// Options of the driver.
    pub config: TextMap,
}

/// What happens when a container exits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RestartPolicy {
    /// `no` (or empty), `always`, `on-failure`, `unless-stopped`.
    pub name: String,
    /// Only with `on-failure`; 0 for no limit.
    pub maximum_retry_count: i64,
}

impl RestartPolicy {
    /// Whether it ever starts a container again.
    #[must_use]
    pub fn restarts(&self) -> bool {
        !matches!(self.name.as_str(), "" | "no")
    }
}

/// Block I/O weight of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct WeightDevice {
    /// Device node on the host.
    pub path: String,
    /// 10 to 1000.
    pub weight: u16,
}

/// Limit of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ThrottleDevice {
    /// Device node on the host.
    pub path: String,
    /// Bytes or operations per second.
    pub rate: u64,
}

/// A device of the host inside the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DeviceMapping {
    /// Node on the host.
    pub path_on_host: String,
    /// Node in the container.
    pub path_in_container: String,
    /// Some of `rwm`.
    pub cgroup_permissions: String,
}

/// A request for devices by capability.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DeviceRequest {
    /// `nvidia`, `cdi`, …
    pub driver: String,
    /// -1 for all.
    pub count: i64,
    /// Devices by id.
    #[serde(rename = "DeviceIDs")]
    pub device_ids: Option<Vec<String>>,
    /// Alternatives of sets.
    pub capabilities: Option<Vec<Vec<String>>>,
    /// Options of the driver.
    pub options: Option<TextMap>,
}

/// One resource limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Ulimit {
    /// `nofile`, `nproc`, …
    pub name: String,
    /// -1 for none.
    pub hard: i64,
    /// -1 for none.
    pub soft: i64,
}
