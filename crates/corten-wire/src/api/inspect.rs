//! Answer of `GET /containers/{id}/json`.

use std::collections::BTreeMap;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use super::container::ContainerConfig;
use super::host_config::HostConfig;
use super::image::{Descriptor, GraphDriver};
use super::is_default;
use super::mount::MountPoint;
use super::network::EndpointSettings;
use super::port::{Port, PortBinding};

/// Everything about a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ContainerInspect {
    /// Full id.
    pub id: String,
    /// RFC 3339.
    pub created: String,
    /// Program.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// State.
    pub state: ContainerState,
    /// Id of the image.
    pub image: String,
    /// Generated file.
    pub resolv_conf_path: String,
    /// Generated file.
    pub hostname_path: String,
    /// Generated file.
    pub hosts_path: String,
    /// Log file of json-file.
    pub log_path: String,
    /// `/name`.
    pub name: String,
    /// Restarts by policy.
    pub restart_count: i64,
    /// `overlayfs`.
    pub driver: String,
    /// `linux`.
    pub platform: String,
    /// SELinux.
    pub mount_label: String,
    /// SELinux.
    pub process_label: String,
    /// AppArmor.
    pub app_armor_profile: String,
    /// Known execs; `null` for none.
    #[serde(rename = "ExecIDs")]
    pub exec_ids: Option<Vec<String>>,
    /// Host configuration.
    pub host_config: HostConfig,
    /// Storage; absent from API 1.52 where a snapshotter is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graph_driver: Option<GraphDriver>,
    /// Bytes written; only with `size=1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_rw: Option<i64>,
    /// Bytes with the image; only with `size=1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_root_fs: Option<i64>,
    /// Manifest that was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_manifest_descriptor: Option<Descriptor>,
    /// Mounts.
    pub mounts: Vec<MountPoint>,
    /// Configuration.
    pub config: ContainerConfig,
    /// Networks.
    pub network_settings: NetworkSettings,
}

/// State of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ContainerState {
    /// `created`, `running`, `paused`, `restarting`, `removing`, `exited`, `dead`.
    pub status: String,
    /// Also while paused.
    pub running: bool,
    /// Frozen.
    pub paused: bool,
    /// Between two runs.
    pub restarting: bool,
    /// The kernel killed one of its processes for lack of memory.
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    /// Could not be removed.
    pub dead: bool,
    /// Of the first process, on the host; 0 when not running.
    pub pid: i32,
    /// Of the last run.
    pub exit_code: i64,
    /// Why the last start failed.
    pub error: String,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339.
    pub finished_at: String,
    /// Where there is a health check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// Health of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Health {
    /// `starting`, `healthy`, `unhealthy`.
    pub status: String,
    /// Failures in a row.
    pub failing_streak: i64,
    /// The last five checks.
    pub log: Vec<HealthResult>,
}

/// One health check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HealthResult {
    /// RFC 3339.
    pub start: String,
    /// RFC 3339.
    pub end: String,
    /// 0 healthy, 1 unhealthy, 2 reserved, -1 could not run.
    pub exit_code: i64,
    /// At most 4096 bytes.
    pub output: String,
}

/// Networks of a container. The fields that are `Option` are those of the default bridge: absent where the
/// container is not attached to it, and from API 1.52 on.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NetworkSettings {
    /// 64 digits of the network namespace.
    #[serde(rename = "SandboxID")]
    pub sandbox_id: String,
    /// Path of the network namespace.
    pub sandbox_key: String,
    /// Published and exposed ports; `null` for those exposed only.
    pub ports: BTreeMap<Port, Option<Vec<PortBinding>>>,
    /// Default bridge.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: Option<String>,
    /// Default bridge.
    pub gateway: Option<String>,
    /// Default bridge.
    #[serde(rename = "GlobalIPv6Address")]
    pub global_ipv6_address: Option<String>,
    /// Default bridge.
    #[serde(rename = "GlobalIPv6PrefixLen")]
    pub global_ipv6_prefix_len: Option<u8>,
    /// Default bridge.
    #[serde(rename = "IPAddress")]
    pub ip_address: Option<String>,
    /// Default bridge.
    #[serde(rename = "IPPrefixLen")]
    pub ip_prefix_len: Option<u8>,
    /// Default bridge.
    #[serde(rename = "IPv6Gateway")]
    pub ipv6_gateway: Option<String>,
    /// Default bridge.
    pub mac_address: Option<String>,
    /// Endpoints by network name.
    pub networks: BTreeMap<String, EndpointSettings>,
}

impl Serialize for NetworkSettings {
    /// COMPAT: in the order of the reference engine, which is alphabetical where the old fields are there.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("NetworkSettings", 12)?;
        let old = self.has_default_bridge();
        if old {
            out.serialize_field("EndpointID", &self.endpoint_id)?;
            out.serialize_field("Gateway", &self.gateway)?;
            out.serialize_field("GlobalIPv6Address", &self.global_ipv6_address)?;
            out.serialize_field("GlobalIPv6PrefixLen", &self.global_ipv6_prefix_len)?;
            out.serialize_field("IPAddress", &self.ip_address)?;
            out.serialize_field("IPPrefixLen", &self.ip_prefix_len)?;
            out.serialize_field("IPv6Gateway", &self.ipv6_gateway)?;
            out.serialize_field("MacAddress", &self.mac_address)?;
            out.serialize_field("Networks", &self.networks)?;
        }
        out.serialize_field("SandboxID", &self.sandbox_id)?;
        out.serialize_field("SandboxKey", &self.sandbox_key)?;
        out.serialize_field("Ports", &self.ports)?;
        if !old {
            out.serialize_field("Networks", &self.networks)?;
        }
        out.end()
    }
}

impl NetworkSettings {
    /// Repeats the endpoint of the default bridge in the old fields.
    pub fn set_default_bridge(&mut self, endpoint: &EndpointSettings) {
        self.endpoint_id = Some(endpoint.endpoint_id.clone());
        self.gateway = Some(endpoint.gateway.clone());
        self.global_ipv6_address = Some(endpoint.global_ipv6_address.clone());
        self.global_ipv6_prefix_len = Some(endpoint.global_ipv6_prefix_len);
        self.ip_address = Some(endpoint.ip_address.clone());
        self.ip_prefix_len = Some(endpoint.ip_prefix_len);
        self.ipv6_gateway = Some(endpoint.ipv6_gateway.clone());
        self.mac_address = Some(endpoint.mac_address.clone());
    }

    /// Whether the old fields are there.
    #[must_use]
    pub fn has_default_bridge(&self) -> bool {
        !is_default(&self.endpoint_id)
    }
}
