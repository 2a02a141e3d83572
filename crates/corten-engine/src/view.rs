//! Published snapshots of containers, and Docker's answers made of them. Pure; reads never wait for a task.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use corten_base::{Id, time, units};
use corten_net::{EndpointRecord, Protocol};
use corten_wire::api::container::{
    ContainerSummary, HealthSummary, SummaryHostConfig, SummaryNetworkSettings,
};
use corten_wire::api::inspect::{ContainerInspect, ContainerState, Health, NetworkSettings};
use corten_wire::api::network::EndpointSettings;
use corten_wire::api::port::{Port, PortBinding, PortSummary};

use crate::record::{ContainerRecord, StateRecord};

/// Docker's `State.Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Never ran.
    Created,
    /// Runs.
    Running,
    /// Frozen.
    Paused,
    /// Between two runs.
    Restarting,
    /// Going away.
    Removing,
    /// Ended.
    Exited,
    /// Could not be removed.
    Dead,
}

impl Status {
    /// As filters and inspect write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
}

/// One container as it was when it was published.
#[derive(Debug, Clone)]
pub struct ContainerView {
    /// What the user asked for.
    pub record: Arc<ContainerRecord>,
    /// What came of it.
    pub state: StateRecord,
    /// Where it stands.
    pub status: Status,
    /// Of init, as the host sees it; 0 when not running.
    pub pid: i32,
    /// Attachments while running.
    pub endpoints: Arc<Vec<Endpoint>>,
    /// Where there is a health check and it runs.
    pub health: Option<Arc<Health>>,
    /// Number of exits seen, so that waiters miss none.
    pub exits: u64,
    /// A start is under way.
    pub starting: bool,
    /// Nothing is left of it; the view is the last one.
    pub gone: bool,
}

/// A running container's attachment to one network.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Endpoint {
    /// Name of the network.
    pub name: String,
    /// Id of the network.
    pub network: Id,
    /// Id of the endpoint.
    pub id: Id,
    /// Names in DNS, as inspect shows them; none on the predefined networks.
    pub dns_names: Vec<String>,
    /// What corten-net made; none on `host` and `none`.
    pub attached: Option<EndpointRecord>,
}

impl ContainerView {
    /// Id.
    #[must_use]
    pub fn id(&self) -> &Id {
        &self.record.id
    }

    /// Runs, frozen or not.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.status, Status::Running | Status::Paused)
    }

    /// Program and arguments.
    #[must_use]
    pub fn command(&self) -> (String, Vec<String>) {
        command(&self.record)
    }

    /// Attributes of its events: labels, image, name.
    #[must_use]
    pub fn attributes(&self) -> BTreeMap<String, String> {
        attributes(&self.record)
    }

    /// Wanted and actual endpoints by the name of the network.
    #[must_use]
    pub fn networks(&self) -> BTreeMap<String, EndpointSettings> {
        let mut all: BTreeMap<String, EndpointSettings> = self.record.networks.as_ref().clone();
        for endpoint in self.endpoints.iter() {
            let settings = all.entry(endpoint.name.clone()).or_default();
            settings.network_id = endpoint.network.to_string();
            settings.endpoint_id = endpoint.id.to_string();
            if !endpoint.dns_names.is_empty() {
                settings.dns_names = Some(endpoint.dns_names.clone());
            }
            if let Some(e) = &endpoint.attached {
                settings.ip_address = e.ipv4.map(|a| a.to_string()).unwrap_or_default();
                settings.ip_prefix_len = e.ipv4_prefix;
                settings.gateway = e.gateway.map(|a| a.to_string()).unwrap_or_default();
                settings.global_ipv6_address = e.ipv6.map(|a| a.to_string()).unwrap_or_default();
                settings.global_ipv6_prefix_len = e.ipv6_prefix;
                settings.ipv6_gateway = e.gateway_v6.map(|a| a.to_string()).unwrap_or_default();
                settings.mac_address = e.mac.to_string();
            }
        }
        all
    }

    /// Published ports, and exposed ones with `None`, while running.
    #[must_use]
    pub fn ports(&self) -> BTreeMap<Port, Option<Vec<PortBinding>>> {
        let mut ports: BTreeMap<Port, Option<Vec<PortBinding>>> = BTreeMap::new();
        if !self.is_running() || self.endpoints.iter().all(|e| e.attached.is_none()) {
            return ports;
        }
        for port in self.record.config.exposed_ports.keys() {
            ports.insert(port.clone(), None);
        }
        for record in self.endpoints.iter().filter_map(|e| e.attached.as_ref()).flat_map(|e| &e.ports) {
            let protocol = match record.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Sctp => "sctp",
            };
            let binding =
                PortBinding { host_ip: record.host_ip.to_string(), host_port: record.host_port.to_string() };
            ports
                .entry(Port::new(record.container_port, protocol))
                .or_default()
                .get_or_insert_default()
                .push(binding);
        }
        ports
    }

    fn port_summaries(&self) -> Vec<PortSummary> {
        let mut list = Vec::new();
        for (port, bindings) in self.ports() {
            let base = PortSummary {
                private_port: port.number(),
                kind: port.protocol().to_owned(),
                ..PortSummary::default()
            };
            match bindings {
                None => list.push(base),
                Some(bindings) => list.extend(bindings.into_iter().map(|b| PortSummary {
                    ip: b.host_ip,
                    public_port: b.host_port.parse().unwrap_or(0),
                    ..base.clone()
                })),
            }
        }
        list
    }

    /// `State` of inspect.
    #[must_use]
    pub fn state(&self) -> ContainerState {
        let at = |ns: i64| if ns == 0 { time::ZERO.to_owned() } else { time::rfc3339_nano(i128::from(ns)) };
        ContainerState {
            status: self.status.as_str().into(),
            running: self.is_running() || self.status == Status::Restarting,
            paused: self.status == Status::Paused,
            restarting: self.status == Status::Restarting,
            oom_killed: self.state.oom_killed,
            dead: self.status == Status::Dead,
            pid: self.pid,
            exit_code: i64::from(self.state.exit_code),
            error: self.state.error.clone(),
            started_at: at(self.state.started_ns),
            finished_at: at(self.state.finished_ns),
            health: self.health.as_deref().cloned(),
        }
    }

    /// `docker ps`'s STATUS.
    #[must_use]
    pub fn status_text(&self, now_ns: i128) -> String {
        let since = |ns: i64| {
            let seconds = (now_ns - i128::from(ns)) / 1_000_000_000;
            units::human_duration(i64::try_from(seconds).unwrap_or(0))
        };
        let code = self.state.exit_code;
        match self.status {
            Status::Created => "Created".into(),
            Status::Paused => format!("Up {} (Paused)", since(self.state.started_ns)),
            Status::Running => {
                let up = format!("Up {}", since(self.state.started_ns));
                match self.health.as_deref().map(|h| h.status.as_str()) {
                    Some("starting") => format!("{up} (health: starting)"),
                    Some(health) if !health.is_empty() && health != "none" => format!("{up} ({health})"),
                    _ => up,
                }
            }
            Status::Restarting => format!("Restarting ({code}) {} ago", since(self.state.finished_ns)),
            Status::Removing => "Removal In Progress".into(),
            Status::Dead => "Dead".into(),
            Status::Exited => format!("Exited ({code}) {} ago", since(self.state.finished_ns)),
        }
    }

    /// One line of `GET /containers/json`. `image` is what to show as the image's name, `names` are those that
    /// links give it beside its own.
    #[must_use]
    pub fn summary(&self, image: String, names: &[String], now_ns: i128) -> ContainerSummary {
        let r = &self.record;
        let (path, args) = self.command();
        let quoted: Vec<String> =
            args.iter().map(|a| if a.contains(' ') { format!("'{a}'") } else { a.clone() }).collect();
        let command = if quoted.is_empty() { path } else { format!("{path} {}", quoted.join(" ")) };
        ContainerSummary {
            id: r.id.to_string(),
            names: std::iter::once(format!("/{}", r.name)).chain(names.iter().cloned()).collect(),
            image,
            image_id: r.image.as_ref().map(ToString::to_string).unwrap_or_default(),
            image_manifest_descriptor: r.manifest.clone(),
            command,
            created: r.created_ns / 1_000_000_000,
            ports: self.port_summaries(),
            size_rw: None,
            size_root_fs: None,
            labels: r.config.labels.clone().unwrap_or_default(),
            state: self.status.as_str().into(),
            status: self.status_text(now_ns),
            host_config: SummaryHostConfig {
                network_mode: r.host.network_mode.clone(),
                annotations: r.host.annotations.clone(),
            },
            health: Some(self.health.as_deref().map_or_else(
                || HealthSummary { status: "none".into(), failing_streak: 0 },
                |h| HealthSummary { status: h.status.clone(), failing_streak: h.failing_streak },
            )),
            network_settings: SummaryNetworkSettings { networks: self.networks() },
            mounts: r.mounts.iter().filter(|m| !m.hidden).map(crate::MountRecord::view).collect(),
        }
    }

    /// `GET /containers/{id}/json` without sizes.
    #[must_use]
    pub(crate) fn inspect(&self, paths: &Paths, exec_ids: Vec<String>) -> ContainerInspect {
        let r = &self.record;
        let (path, args) = self.command();
        let started = self.state.started_ns != 0;
        let file = |p: PathBuf| if started { p.display().to_string() } else { String::new() };
        let log = match r.host.log_config.kind.as_str() {
            "json-file" => file(paths.log.clone()),
            _ => String::new(),
        };
        ContainerInspect {
            id: r.id.to_string(),
            created: time::rfc3339_nano(i128::from(r.created_ns)),
            path,
            args,
            state: self.state(),
            image: r.image.as_ref().map(ToString::to_string).unwrap_or_default(),
            resolv_conf_path: file(paths.dir.join("resolv.conf")),
            hostname_path: file(paths.dir.join("hostname")),
            hosts_path: file(paths.dir.join("hosts")),
            log_path: log,
            name: format!("/{}", r.name),
            restart_count: i64::from(self.state.restart_count),
            driver: "overlayfs".into(),
            platform: "linux".into(),
            mount_label: r.mount_label.clone(),
            process_label: r.process_label.clone(),
            app_armor_profile: if started {
                crate::spec::apparmor_profile(&r.host).unwrap_or_default()
            } else {
                String::new()
            },
            exec_ids: (!exec_ids.is_empty()).then_some(exec_ids),
            host_config: r.host.as_ref().clone(),
            graph_driver: Some(corten_wire::api::image::GraphDriver {
                name: "overlayfs".into(),
                ..Default::default()
            }),
            size_rw: None,
            size_root_fs: None,
            image_manifest_descriptor: r.manifest.clone(),
            mounts: r.mounts.iter().filter(|m| !m.hidden).map(crate::MountRecord::view).collect(),
            config: r.config.as_ref().clone(),
            network_settings: self.network_settings(paths),
        }
    }

    fn network_settings(&self, paths: &Paths) -> NetworkSettings {
        let networks = self.networks();
        let sandboxed = self.is_running() && !self.endpoints.is_empty();
        let mut settings = NetworkSettings {
            sandbox_id: if sandboxed { corten_net::sandbox_id(&self.record.id) } else { String::new() },
            sandbox_key: if sandboxed { paths.sandbox.display().to_string() } else { String::new() },
            ports: self.ports(),
            ..NetworkSettings::default()
        };
        if let Some(bridge) = networks.get("bridge") {
            settings.set_default_bridge(bridge);
        }
        settings.networks = networks;
        settings
    }
}

/// Where the files of one container are.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    pub(crate) dir: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) sandbox: PathBuf,
}

/// Program and arguments of a container: the entry point with the command behind it.
pub(crate) fn command(record: &ContainerRecord) -> (String, Vec<String>) {
    let mut all = record
        .config
        .entrypoint
        .iter()
        .flatten()
        .chain(record.config.cmd.iter().flatten())
        .cloned()
        .collect::<std::collections::VecDeque<_>>();
    let path = all.pop_front().unwrap_or_default();
    (path, all.into())
}

/// Attributes of a container's events.
pub(crate) fn attributes(record: &ContainerRecord) -> BTreeMap<String, String> {
    let mut all = record.config.labels.clone().unwrap_or_default();
    all.insert("image".into(), record.config.image.clone());
    all.insert("name".into(), record.name.clone());
    all
}
