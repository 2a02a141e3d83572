//! What the daemon tells the engine once, at start: dockerd's flags that concern containers.

use std::net::IpAddr;
use std::path::PathBuf;

use corten_wire::api::TextMap;
use corten_wire::api::host_config::{LogConfig, Ulimit};

/// Everything [`crate::Engine::open`] needs to know.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// `--data-root`.
    pub root: PathBuf,
    /// `--exec-root`.
    pub exec_root: PathBuf,
    /// `--log-driver` and `--log-opt`.
    pub log: LogConfig,
    /// `--default-ulimit`.
    pub ulimits: Vec<Ulimit>,
    /// `--default-shm-size`, bytes.
    pub shm_size: i64,
    /// `--init`: an init in every container that does not say otherwise.
    pub init: bool,
    /// `--dns`.
    pub dns: Vec<String>,
    /// `--dns-opt`.
    pub dns_options: Vec<String>,
    /// `--dns-search`.
    pub dns_search: Vec<String>,
    /// `--cgroup-parent`; `/docker` where nothing is said.
    pub cgroup_parent: String,
    /// `--live-restore`: containers go on when the daemon is told to end.
    pub live_restore: bool,
    /// `--shutdown-timeout`: how long containers are given then.
    pub shutdown_timeout: std::time::Duration,
    /// `--host-gateway-ip`: what `host-gateway` in `--add-host` means; the default bridge's address otherwise.
    pub host_gateway: Option<IpAddr>,
    /// `--default-ipc-mode`: `private` or `shareable`.
    pub ipc_mode: String,
    /// `--default-cgroupns-mode`: empty for what the host's cgroup version suggests.
    pub cgroupns_mode: String,
    /// `--no-new-privileges`.
    pub no_new_privileges: bool,
    /// `--seccomp-profile`: text of a profile that replaces the built-in one, or `unconfined`.
    pub seccomp_profile: Option<String>,
    /// `--ipv6`: networks have IPv6 unless they say otherwise.
    pub ipv6: bool,
    /// `--default-network-opt` by driver.
    pub network_options: std::collections::BTreeMap<String, TextMap>,
    /// `--exec-opt native.cgroup-favordynmods=true`: moving processes into control groups is fast, forking a little
    /// slower, on the whole host while the daemon runs.
    pub fast_joins: bool,
    /// The host's resolver configuration.
    pub resolv_conf: PathBuf,
}

impl EngineConfig {
    /// Docker's defaults.
    #[must_use]
    pub fn new(root: PathBuf, exec_root: PathBuf) -> Self {
        Self {
            root,
            exec_root,
            log: LogConfig { kind: "json-file".into(), config: TextMap::new() },
            ulimits: Vec::new(),
            shm_size: 64 << 20,
            init: false,
            dns: Vec::new(),
            dns_options: Vec::new(),
            dns_search: Vec::new(),
            cgroup_parent: "/docker".into(),
            live_restore: false,
            shutdown_timeout: std::time::Duration::from_secs(15),
            host_gateway: None,
            ipc_mode: "private".into(),
            cgroupns_mode: String::new(),
            no_new_privileges: false,
            seccomp_profile: None,
            ipv6: false,
            network_options: std::collections::BTreeMap::new(),
            fast_joins: false,
            resolv_conf: "/etc/resolv.conf".into(),
        }
    }
}
