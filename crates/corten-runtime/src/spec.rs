//! Assembles the OCI configuration of a container as Docker would: default mounts, capabilities, masked and
//! read-only paths, devices.
//!
//! [`build`] only reads the host's device nodes; it decides everything else from its input.

mod defaults;
mod devices;

pub use crate::container::labels::{has_apparmor, has_selinux};
pub use defaults::{ALL_CAPABILITIES, DEFAULT_CAPABILITIES, MASKED_PATHS, READONLY_PATHS, capabilities};
pub use devices::{DeviceRequest, parse_device_rule};

use std::collections::BTreeMap;
use std::path::PathBuf;

use corten_base::Kind;
use corten_wire::oci_runtime::{
    Capabilities, ConsoleSize, DeviceRule, IdMapping, Linux, Mount, Namespace, NamespaceKind, Process,
    Resources, Rlimit, Root, Spec,
};

/// What distinguishes one container from another, in plain terms.
#[derive(Debug, Clone, Default)]
pub struct SpecInput {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Complete, in Docker's order (`PATH`, `HOSTNAME`, `TERM`, image's, user's); `HOME` is added at the start.
    pub env: Vec<String>,
    /// Empty is `/`. Made if it does not exist.
    pub cwd: String,
    /// A pseudo-terminal.
    pub tty: bool,
    /// First size of it.
    pub console_size: Option<ConsoleSize>,
    /// Empty leaves it alone (host's UTS namespace).
    pub hostname: String,
    /// Empty leaves it alone.
    pub domainname: String,
    /// `--read-only`.
    pub readonly_root: bool,
    /// `--privileged`.
    pub privileged: bool,
    /// `--security-opt writable-cgroups=…`; absent: as `privileged` says.
    pub writable_cgroups: Option<bool>,
    /// `--cap-add`, as given.
    pub cap_add: Vec<String>,
    /// `--cap-drop`, as given.
    pub cap_drop: Vec<String>,
    /// `--security-opt no-new-privileges`.
    pub no_new_privileges: bool,
    /// AppArmor profile; empty for none.
    pub apparmor_profile: String,
    /// SELinux label; empty for none.
    pub selinux_label: String,
    /// SELinux label of the files; empty for none.
    pub mount_label: String,
    /// System-call filter.
    pub seccomp: SeccompChoice,
    /// `--ulimit`.
    pub rlimits: Vec<Rlimit>,
    /// `--oom-score-adj`.
    pub oom_score_adj: Option<i32>,
    /// Binds, volumes, tmpfs and the generated files, in any order; they replace default mounts of the same
    /// destination. For a bind use type `bind` and options such as `rbind`, `ro`, `rro`, `rprivate`.
    pub mounts: Vec<Mount>,
    /// What `/dev/shm` is.
    pub shm: Shm,
    /// Namespaces; the mount namespace is always new.
    pub namespaces: Namespaces,
    /// Users of a user namespace of its own; empty leaves it in the engine's. The root file system then belongs to
    /// the ids inside ([`corten_wire::shim::Bootstrap`]), binds that are to do so need the option `idmap`.
    pub uid_mappings: Vec<IdMapping>,
    /// Groups of it.
    pub gid_mappings: Vec<IdMapping>,
    /// Join this one, which has these mappings, instead of making one.
    pub user_namespace: Option<PathBuf>,
    /// The network namespace is the container's own: set Docker's two default sysctls.
    pub private_network: bool,
    /// `/docker/<id>`.
    pub cgroup_path: PathBuf,
    /// Limits, without devices.
    pub resources: Resources,
    /// `--device`.
    pub devices: Vec<DeviceRequest>,
    /// `--device-cgroup-rule`, see [`parse_device_rule`].
    pub device_rules: Vec<DeviceRule>,
    /// `--sysctl`.
    pub sysctls: BTreeMap<String, String>,
    /// Absent: Docker's list (none if privileged).
    pub masked_paths: Option<Vec<PathBuf>>,
    /// Absent: Docker's list (none if privileged).
    pub readonly_paths: Option<Vec<PathBuf>>,
    /// Copied.
    pub annotations: BTreeMap<String, String>,
}

/// `--security-opt seccomp=…`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SeccompChoice {
    /// Docker's profile (none if privileged).
    #[default]
    Default,
    /// None.
    Unconfined,
    /// A profile in Docker's format: the file's contents.
    Profile(String),
}

/// Where `/dev/shm` comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shm {
    /// Its own, of so many bytes (Docker's default is 64 MiB).
    Private(u64),
    /// The host's.
    Host,
    /// That of the container whose init has this pid.
    Of(i32),
    /// None is mounted (`--ipc none`).
    None,
}

impl Default for Shm {
    fn default() -> Self {
        Self::Private(64 << 20)
    }
}

/// One namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Ns {
    /// Its own.
    #[default]
    New,
    /// The host's.
    Host,
    /// The one at this path: `/proc/<pid>/ns/ipc`, `<exec-root>/netns/<id>`.
    Join(PathBuf),
}

/// The namespaces that can be chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Processes.
    pub pid: Ns,
    /// Network.
    pub network: Ns,
    /// IPC.
    pub ipc: Ns,
    /// Host name.
    pub uts: Ns,
    /// View of control groups: Docker's default is `Host` on v1 and `New` on v2.
    pub cgroup: Ns,
}

/// The input cannot be honoured.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// `--cap-add` or `--cap-drop` of something unknown.
    #[error("invalid {option}: unknown capability: {name:?}")]
    UnknownCapability {
        /// `CapAdd` or `CapDrop`.
        option: &'static str,
        /// As normalised.
        name: String,
    },
    /// `--device`.
    #[error("error gathering device information while adding custom device {path:?}: {reason}")]
    Device {
        /// On the host.
        path: String,
        /// In words.
        reason: String,
    },
    /// `--device-cgroup-rule`.
    #[error("invalid device cgroup rule format: '{0}'")]
    DeviceRule(String),
    /// `--security-opt seccomp=`.
    #[error("decoding seccomp profile failed: {0}")]
    Seccomp(String),
}

impl SpecError {
    /// For the API's status.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Device { .. } => Kind::Internal,
            Self::UnknownCapability { .. } | Self::DeviceRule(_) | Self::Seccomp(_) => Kind::InvalidArgument,
        }
    }
}

/// The configuration, and whether the shim is to add Docker's default seccomp profile
/// ([`corten_wire::shim::Bootstrap::default_seccomp`]).
#[derive(Debug, Clone)]
pub struct Built {
    /// `config.json`.
    pub spec: Spec,
    /// For the bootstrap message.
    pub default_seccomp: bool,
}

/// Assembles the configuration.
///
/// # Errors
/// See [`SpecError`].
pub fn build(input: SpecInput) -> Result<Built, SpecError> {
    let names = capabilities(&input.cap_add, &input.cap_drop, input.privileged)?;
    let (seccomp, default_seccomp) = match &input.seccomp {
        SeccompChoice::Default => (None, !input.privileged),
        SeccompChoice::Unconfined => (None, false),
        SeccompChoice::Profile(text) => {
            let profile = crate::seccomp::profile::resolve(text, &names)
                .map_err(|e| SpecError::Seccomp(e.to_string()))?;
            (Some(profile), false)
        }
    };
    let mut resources = input.resources.clone();
    let (nodes, rules) = devices::resolve(&input)?;
    resources.devices = rules;
    let default_paths = |given: &Option<Vec<PathBuf>>, docker: &[&str]| match given {
        Some(paths) => paths.clone(),
        None if input.privileged => Vec::new(),
        None => docker.iter().map(PathBuf::from).collect(),
    };
    let mut all_namespaces = namespaces(&input.namespaces);
    if !input.uid_mappings.is_empty() {
        all_namespaces.push(Namespace { kind: NamespaceKind::User, path: input.user_namespace.clone() });
    }
    let linux = Linux {
        namespaces: all_namespaces,
        uid_mappings: input.uid_mappings.clone(),
        gid_mappings: input.gid_mappings.clone(),
        devices: nodes,
        cgroups_path: Some(input.cgroup_path.clone()),
        resources: Some(resources),
        rootfs_propagation: propagation_of_root(&input.mounts).to_owned(),
        seccomp,
        sysctl: sysctls(&input),
        masked_paths: default_paths(&input.masked_paths, MASKED_PATHS),
        readonly_paths: default_paths(&input.readonly_paths, READONLY_PATHS),
        mount_label: input.mount_label.clone(),
        ..Linux::default()
    };
    let process = Process {
        terminal: input.tty,
        console_size: input.console_size,
        args: input.args.clone(),
        env: input.env.clone(),
        cwd: if input.cwd.is_empty() { "/".into() } else { input.cwd.clone().into() },
        capabilities: Some(Capabilities {
            bounding: names.clone(),
            effective: names.clone(),
            permitted: names,
            ..Capabilities::default()
        }),
        rlimits: input.rlimits.clone(),
        no_new_privileges: input.no_new_privileges,
        apparmor_profile: input.apparmor_profile.clone(),
        selinux_label: input.selinux_label.clone(),
        oom_score_adj: input.oom_score_adj,
        ..Process::default()
    };
    let spec = Spec {
        oci_version: "1.3.0".into(),
        process: Some(process),
        root: Some(Root { path: "rootfs".into(), readonly: input.readonly_root }),
        hostname: input.hostname.clone(),
        domainname: input.domainname.clone(),
        mounts: defaults::mounts(&input),
        hooks: None,
        annotations: input.annotations,
        linux: Some(linux),
    };
    Ok(Built { spec, default_seccomp })
}

fn namespaces(chosen: &Namespaces) -> Vec<Namespace> {
    let mut all = vec![Namespace { kind: NamespaceKind::Mount, path: None }];
    for (kind, ns) in [
        (NamespaceKind::Network, &chosen.network),
        (NamespaceKind::Uts, &chosen.uts),
        (NamespaceKind::Pid, &chosen.pid),
        (NamespaceKind::Ipc, &chosen.ipc),
        (NamespaceKind::Cgroup, &chosen.cgroup),
    ] {
        match ns {
            Ns::New => all.push(Namespace { kind, path: None }),
            Ns::Host => {}
            Ns::Join(path) => all.push(Namespace { kind, path: Some(path.clone()) }),
        }
    }
    all
}

/// A bind that is to propagate needs a root that does: the strongest wish wins.
fn propagation_of_root(mounts: &[Mount]) -> &'static str {
    let any = |names: [&str; 2]| mounts.iter().any(|m| m.options.iter().any(|o| names.contains(&o.as_str())));
    if any(["shared", "rshared"]) {
        "rshared"
    } else if any(["slave", "rslave"]) {
        "rslave"
    } else {
        ""
    }
}

fn sysctls(input: &SpecInput) -> BTreeMap<String, String> {
    let mut all = input.sysctls.clone();
    if input.private_network {
        // COMPAT: moby lets unprivileged users of a container bind low ports and send pings.
        let groups = format!("0 {}", corten_sys::users::last_group().min(i32::MAX as u32));
        for (name, value) in
            [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", groups.as_str())]
        {
            all.entry(name.into()).or_insert_with(|| value.into());
        }
    }
    all
}

#[cfg(test)]
mod tests;
