//! Containers: what they are made from, and lists, waits, processes, changes.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::decode::{DecodeError, GoValue};
use super::host_config::HostConfig;
use super::image::Descriptor;
use super::mount::MountPoint;
use super::network::{EndpointSettings, NetworkingConfig};
use super::port::{Port, PortSummary};
use super::{Empty, TextMap, TextSet, is_default};

/// `Config`: what runs in the container, independent of the host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// Host name; the engine puts the short id where it is empty.
    pub hostname: String,
    /// Domain name.
    pub domainname: String,
    /// `user[:group]`, names or numbers.
    pub user: String,
    /// `run` is attached to it.
    pub attach_stdin: bool,
    /// `run` is attached to it.
    pub attach_stdout: bool,
    /// `run` is attached to it.
    pub attach_stderr: bool,
    /// Ports that the program listens on.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<Port, Empty>,
    /// With a terminal.
    pub tty: bool,
    /// Standard input stays open.
    pub open_stdin: bool,
    /// Close standard input when the first attached client leaves.
    pub stdin_once: bool,
    /// `NAME=value`; `NAME` alone removes one of the image.
    pub env: Option<Vec<String>>,
    /// Arguments of the entry point, or the whole command.
    #[serde(deserialize_with = "one_or_many")]
    pub cmd: Option<Vec<String>>,
    /// How to see that it is healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Windows only.
    #[serde(skip_serializing_if = "is_default")]
    pub args_escaped: bool,
    /// Image as the user named it.
    pub image: String,
    /// Paths that get an anonymous volume.
    pub volumes: Option<TextSet>,
    /// Where the process starts.
    pub working_dir: String,
    /// Program and first arguments.
    #[serde(deserialize_with = "one_or_many")]
    pub entrypoint: Option<Vec<String>>,
    /// No network at all.
    #[serde(skip_serializing_if = "is_default")]
    pub network_disabled: bool,
    /// Before API 1.44; now per endpoint.
    #[serde(skip_serializing_if = "is_default")]
    pub mac_address: String,
    /// Instructions for images built upon this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
    /// Labels.
    pub labels: Option<TextMap>,
    /// Signal of `stop`; empty for SIGTERM.
    #[serde(skip_serializing_if = "is_default")]
    pub stop_signal: String,
    /// Seconds that `stop` waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// Shell of shell-form instructions.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "one_or_many")]
    pub shell: Option<Vec<String>>,
}

/// A string or a list of strings, as Docker's `strslice`.
fn one_or_many<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<String>>, D::Error> {
    struct Words;

    impl<'de> de::Visitor<'de> for Words {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a string or a list of strings")
        }

        fn visit_str<E: de::Error>(self, one: &str) -> Result<Vec<String>, E> {
            Ok(vec![one.to_owned()])
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
            let mut words = Vec::new();
            while let Some(word) = list.next_element()? {
                words.push(word);
            }
            Ok(words)
        }
    }

    struct Either(Vec<String>);

    impl<'de> Deserialize<'de> for Either {
        fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
            d.deserialize_any(Words).map(Self)
        }
    }

    Ok(Option::<Either>::deserialize(d)?.map(|e| e.0))
}

/// Health check of an image or container; times in nanoseconds, 0 for "inherit".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["CMD", …]`, `["CMD-SHELL", text]`, `["NONE"]`, or empty to inherit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<Vec<String>>,
    /// Between two checks.
    #[serde(skip_serializing_if = "is_default")]
    pub interval: i64,
    /// A check that takes longer has failed.
    #[serde(skip_serializing_if = "is_default")]
    pub timeout: i64,
    /// Failures do not count yet.
    #[serde(skip_serializing_if = "is_default")]
    pub start_period: i64,
    /// Between two checks during the start period.
    #[serde(skip_serializing_if = "is_default")]
    pub start_interval: i64,
    /// Failures in a row until unhealthy.
    #[serde(skip_serializing_if = "is_default")]
    pub retries: i64,
}

/// Body of `POST /containers/create`: the configuration with two more keys beside its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CreateRequest {
    /// The keys at the top.
    #[serde(flatten)]
    pub config: ContainerConfig,
    /// Key `HostConfig`.
    #[serde(rename = "HostConfig")]
    pub host_config: HostConfig,
    /// Key `NetworkingConfig`.
    #[serde(rename = "NetworkingConfig")]
    pub networking_config: NetworkingConfig,
}

impl CreateRequest {
    /// Reads the body.
    ///
    /// # Errors
    /// What is wrong with the JSON.
    pub fn decode(body: &[u8]) -> Result<Option<Self>, DecodeError> {
        Self::read(&GoValue::parse_body(body)?)
    }

    /// The parsed body as a request; `Ok(None)` for an object that says nothing at all (`{}`), which Docker refuses
    /// with a message of its own.
    ///
    /// # Errors
    /// What is wrong with the JSON.
    pub fn read(value: &GoValue) -> Result<Option<Self>, DecodeError> {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "PascalCase")]
        struct Beside {
            host_config: HostConfig,
            networking_config: NetworkingConfig,
        }
        if value.is_empty_object() {
            return Ok(None);
        }
        let config: ContainerConfig = value.read()?;
        let beside: Beside = value.read()?;
        Ok(Some(Self {
            config,
            host_config: beside.host_config,
            networking_config: beside.networking_config,
        }))
    }
}

/// Answer of `POST /containers/create`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CreateResponse {
    /// The new container.
    pub id: String,
    /// What was ignored.
    pub warnings: Vec<String>,
}

/// One line of `GET /containers/json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ContainerSummary {
    /// Full id.
    pub id: String,
    /// `/name`, and names given by links.
    pub names: Vec<String>,
    /// Image as the user named it, or its id where the name has gone elsewhere.
    pub image: String,
    /// Id of the image.
    #[serde(rename = "ImageID")]
    pub image_id: String,
    /// Manifest that was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_manifest_descriptor: Option<Descriptor>,
    /// Command line.
    pub command: String,
    /// Seconds since the epoch.
    pub created: i64,
    /// Ports.
    pub ports: Vec<PortSummary>,
    /// Bytes written; only with `size=1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_rw: Option<i64>,
    /// Bytes with the image; only with `size=1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_root_fs: Option<i64>,
    /// Labels.
    pub labels: TextMap,
    /// `running`, …
    pub state: String,
    /// `Up 2 minutes (healthy)`.
    pub status: String,
    /// Part of the host configuration.
    pub host_config: SummaryHostConfig,
    /// Health, from API 1.52.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthSummary>,
    /// Endpoints.
    pub network_settings: SummaryNetworkSettings,
    /// Mounts.
    pub mounts: Vec<MountPoint>,
}

/// Health in a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HealthSummary {
    /// `none`, `starting`, `healthy`, `unhealthy`.
    pub status: String,
    /// Failures in a row.
    pub failing_streak: i64,
}

/// The part of `HostConfig` that lists show.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct SummaryHostConfig {
    /// Network mode.
    pub network_mode: String,
    /// Annotations.
    #[serde(skip_serializing_if = "is_default")]
    pub annotations: TextMap,
}

/// The part of `NetworkSettings` that lists show.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct SummaryNetworkSettings {
    /// Endpoints by network name.
    pub networks: BTreeMap<String, EndpointSettings>,
}

/// Body of `POST /containers/{id}/checkpoints`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckpointCreateRequest {
    /// Its name.
    #[serde(rename = "CheckpointID")]
    pub checkpoint_id: String,
    /// Where it is put; empty for the container's own directory.
    #[serde(rename = "CheckpointDir")]
    pub checkpoint_dir: String,
    /// The container ends.
    #[serde(rename = "Exit")]
    pub exit: bool,
}

/// One of `GET /containers/{id}/checkpoints`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CheckpointSummary {
    /// Its name.
    pub name: String,
}

/// Answer of `POST /containers/{id}/wait`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct WaitResponse {
    /// Exit code.
    pub status_code: i64,
    /// Why waiting failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<WaitError>,
}

/// Why waiting failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct WaitError {
    /// For a person.
    #[serde(skip_serializing_if = "is_default")]
    pub message: String,
}

/// Answer of `GET /containers/{id}/top`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TopResponse {
    /// Head of the columns.
    pub titles: Vec<String>,
    /// Rows.
    pub processes: Vec<Vec<String>>,
}

/// One line of `GET /containers/{id}/changes`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Change {
    /// Path in the container.
    pub path: String,
    /// 0 modified, 1 added, 2 deleted.
    pub kind: u8,
}

/// Answer of `POST /containers/prune`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ContainersPruneResponse {
    /// Ids.
    pub containers_deleted: Option<Vec<String>>,
    /// Bytes.
    pub space_reclaimed: u64,
}

/// Header `X-Docker-Container-Path-Stat` (base64 of its JSON) of archive requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PathStat {
    /// Last component.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Go's `os.FileMode`: permission bits, directory at bit 31, symbolic link at bit 27, …
    pub mode: u32,
    /// RFC 3339.
    pub mtime: String,
    /// Where a symbolic link leads.
    pub link_target: String,
}
