//! What the daemon tells the engine once, at start: dockerd's flags that concern containers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use corten_wire::api::TextMap;
use corten_wire::api::host_config::{LogConfig, Ulimit};
use corten_wire::oci_runtime::IdMapping;

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
    /// `--cgroup-parent`; `/docker` where nothing is said, and `system.slice` with systemd.
    pub cgroup_parent: String,
    /// `--exec-opt native.cgroupdriver=`: who makes control groups.
    pub cgroup_driver: CgroupDriver,
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
    /// `--selinux-enabled`, where the kernel has it.
    pub selinux: bool,
    /// `--no-new-privileges`.
    pub no_new_privileges: bool,
    /// `--seccomp-profile`: text of a profile that replaces the built-in one, or `unconfined`.
    pub seccomp_profile: Option<String>,
    /// `--ipv6`: networks have IPv6 unless they say otherwise.
    pub ipv6: bool,
    /// `--default-network-opt` by driver.
    pub network_options: BTreeMap<String, TextMap>,
    /// `--exec-opt native.cgroup-favordynmods=true`: moving processes into control groups is fast, forking a little
    /// slower, on the whole host while the daemon runs.
    pub fast_joins: bool,
    /// The host's resolver configuration.
    pub resolv_conf: PathBuf,
    /// `--add-runtime`: further OCI runtimes by name.
    pub runtimes: BTreeMap<String, RuntimeConfig>,
    /// The daemon is an ordinary user's: slirp4netns's socket, which opens ports on the host.
    pub forwarder: Option<PathBuf>,
    /// `--userns-remap`: containers have a user namespace with this mapping.
    pub userns: Option<UserMap>,
    /// `--cdi-spec-dir`: where devices are specified, a later directory before an earlier one; empty switches them off.
    pub cdi_dirs: Vec<PathBuf>,
    /// `--default-runtime`: what a container that names none gets.
    pub default_runtime: String,
}

/// Who makes the control groups of containers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CgroupDriver {
    /// The runtime itself.
    #[default]
    Cgroupfs,
    /// systemd, on the runtime's behalf: each container is a transient scope.
    Systemd,
}

impl CgroupDriver {
    /// As `docker info` and the daemon's options have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }

    /// Where containers' groups are unless somebody says otherwise.
    #[must_use]
    pub fn parent(self) -> &'static str {
        match self {
            Self::Cgroupfs => "/docker",
            Self::Systemd => "system.slice",
        }
    }
}

/// Refuses a parent of control groups that this driver cannot have.
///
/// # Errors
/// The text for whoever asked.
pub fn check_cgroup_parent(driver: CgroupDriver, parent: &str) -> Result<(), &'static str> {
    if driver == CgroupDriver::Systemd && !corten_runtime::cgroup::systemd::is_slice(parent) {
        return Err("cgroup-parent for systemd cgroup should be a valid slice named as \"xxx.slice\"");
    }
    Ok(())
}

/// Whose ids those of a container are on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserMap {
    /// The user that the ranges belong to.
    pub name: String,
    /// Users.
    pub uids: Vec<IdMapping>,
    /// Groups.
    pub gids: Vec<IdMapping>,
}

/// A program with runc's command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// A path, or a name to be looked up in `PATH`.
    pub path: String,
    /// Before everything else on its command line.
    pub args: Vec<String>,
}

/// Where specifications of devices are looked for.
const CDI_DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// Names of the runtime that is built in.
pub const BUILT_IN_RUNTIMES: [&str; 3] = ["runc", "io.containerd.runc.v2", "corten"];

impl EngineConfig {
    /// Whether a container may name this runtime.
    #[must_use]
    pub fn knows_runtime(&self, name: &str) -> bool {
        name.is_empty() || BUILT_IN_RUNTIMES.contains(&name) || self.runtimes.contains_key(name)
    }

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
            cgroup_parent: CgroupDriver::default().parent().into(),
            cgroup_driver: CgroupDriver::default(),
            live_restore: false,
            shutdown_timeout: std::time::Duration::from_secs(15),
            host_gateway: None,
            ipc_mode: "private".into(),
            cgroupns_mode: String::new(),
            selinux: false,
            no_new_privileges: false,
            seccomp_profile: None,
            ipv6: false,
            network_options: BTreeMap::new(),
            fast_joins: false,
            resolv_conf: "/etc/resolv.conf".into(),
            runtimes: BTreeMap::new(),
            default_runtime: "runc".into(),
            forwarder: None,
            userns: None,
            cdi_dirs: CDI_DIRS.iter().map(PathBuf::from).collect(),
        }
    }
}
