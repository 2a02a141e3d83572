//! From a container's record to what the runtime is told. Pure but for looking up devices' numbers and reading
//! a seccomp profile that the request names.

use std::path::{Path, PathBuf};

use corten_runtime::spec::{
    Built, DeviceRequest, Namespaces, Ns, SeccompChoice, Shm, SpecInput, build, parse_device_rule,
};
use corten_wire::api::host_config::{HostConfig, ThrottleDevice, Ulimit, UpdateRequest, WeightDevice};
use corten_wire::oci_runtime::{self as oci, ConsoleSize, Mount, Resources, Rlimit};

use crate::apparmor;
use crate::config::{CgroupDriver, EngineConfig, UserMap, check_cgroup_parent};
use crate::error::{Error, Result, internal, invalid};
use crate::record::{ContainerRecord, MountKind, MountRecord};
use crate::userns::{self, outside, parse_idmap};
use crate::view::command;

/// Decisions that need other objects: made by the task, put into the spec here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    /// Sandbox to join; `None` is the host's network.
    pub(crate) sandbox: Option<PathBuf>,
    /// Init's pid of the containers whose namespaces are joined.
    pub(crate) pid_of: Option<i32>,
    pub(crate) ipc_of: Option<i32>,
    pub(crate) network_of: Option<i32>,
    /// Names of volumes that are directories of ours, without a file system of their own.
    pub(crate) plain_volumes: Vec<String>,
    /// One whose user namespace is joined, because another of its namespaces is.
    pub(crate) users_of: Option<i32>,
    /// `/dev/shm` on the host, of a container that shares it or of the one it is shared with.
    pub(crate) shm: Option<PathBuf>,
    /// Variables of links.
    pub(crate) link_env: Vec<String>,
    /// Generated files, in `<root>/containers/<id>`.
    pub(crate) files: PathBuf,
    /// Mount them (not in build steps that must leave no trace).
    pub(crate) mount_files: bool,
}

/// `--security-opt` taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Security {
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp: Option<String>,
    pub(crate) writable_cgroups: Option<bool>,
    pub(crate) apparmor: Option<String>,
    /// `disable`, or `user:`, `role:`, `type:`, `level:` with a value.
    pub(crate) labels: Vec<String>,
}

/// Reads `SecurityOpt`; refuses what this kernel cannot enforce.
pub(crate) fn security(options: &[String]) -> Result<Security> {
    let mut security = Security::default();
    for option in options {
        if option == "no-new-privileges" {
            security.no_new_privileges = true;
            continue;
        }
        if option == "writable-cgroups" {
            security.writable_cgroups = Some(true);
            continue;
        }
        let (key, value) = option
            .split_once(['=', ':'])
            .ok_or_else(|| invalid(format!("invalid --security-opt 1: {option:?}")))?;
        match key {
            "no-new-privileges" => {
                security.no_new_privileges = match value {
                    "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return Err(invalid(format!("invalid --security-opt 2: {option:?}"))),
                };
            }
            "seccomp" => security.seccomp = Some(value.to_owned()),
            "apparmor" if !apparmor::is_enabled() && !matches!(value, "unconfined" | apparmor::DEFAULT) => {
                return Err(invalid(format!(
                    "AppArmor profile {value:?} cannot be applied: AppArmor is not enabled on this host"
                )));
            }
            "apparmor" => security.apparmor = Some(value.to_owned()),
            // COMPAT: who does without SELinux takes labels and does without.
            "label" => security.labels.push(value.to_owned()),
            "systempaths" if value == "unconfined" => {}
            "writable-cgroups" => {
                security.writable_cgroups = match value {
                    "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
                    "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
                    _ => return Err(invalid(format!("invalid --security-opt 2: {option:?}"))),
                };
            }
            _ => return Err(invalid(format!("invalid --security-opt 2: {option:?}"))),
        }
    }
    Ok(security)
}

/// The AppArmor profile that a container starts with, or would; empty for none.
pub(crate) fn apparmor_profile(h: &HostConfig) -> Result<String> {
    let security = security(h.security_opt.as_deref().unwrap_or_default())?;
    Ok(apparmor::profile(h, security.apparmor.as_deref()))
}

/// Refuses security options that cannot be had: writable control groups are a container's own only where it sees no
/// others, and where its root owns them.
pub(crate) fn check_security(h: &HostConfig, daemon: &EngineConfig) -> Result<()> {
    let security = security(h.security_opt.as_deref().unwrap_or_default())?;
    if security.writable_cgroups != Some(true) || h.privileged {
        return Ok(());
    }
    if h.cgroupns_mode == "host" {
        return Err(invalid("option writable-cgroups conflicts with the host's cgroup namespace"));
    }
    if userns::of(daemon, h).is_some() || !corten_sys::users::initial() {
        return Err(invalid("option writable-cgroups conflicts with user namespaces"));
    }
    Ok(())
}

/// Namespaced sysctls are checked before anything is made.
pub(crate) fn check_sysctls(h: &HostConfig) -> Result<()> {
    for name in h.sysctls.keys() {
        let net = name.starts_with("net.");
        let ipc = name.starts_with("fs.mqueue.")
            || matches!(
                name.as_str(),
                "kernel.msgmax"
                    | "kernel.msgmnb"
                    | "kernel.msgmni"
                    | "kernel.sem"
                    | "kernel.shmall"
                    | "kernel.shmmax"
                    | "kernel.shmmni"
                    | "kernel.shm_rmid_forced"
            );
        if net && h.network_mode == "host" {
            return Err(invalid(format!("sysctl {name:?} not allowed in host network namespace")));
        }
        if ipc && h.ipc_mode == "host" {
            return Err(invalid(format!("sysctl {name:?} not allowed in host ipc namespace")));
        }
        if !net && !ipc && !matches!(name.as_str(), "kernel.domainname" | "kernel.hostname") {
            return Err(invalid(format!("sysctl {name:?} is not in a separate kernel namespace")));
        }
    }
    Ok(())
}

/// A container may have been made when the daemon had another driver of control groups.
pub(crate) fn check_parent(h: &HostConfig, daemon: &EngineConfig) -> Result<()> {
    match h.cgroup_parent.as_str() {
        "" => Ok(()),
        parent => check_cgroup_parent(daemon.cgroup_driver, parent).map_err(invalid),
    }
}

/// Assembles everything.
pub(crate) fn assemble(
    record: &ContainerRecord,
    daemon: &EngineConfig,
    around: &Surroundings,
) -> Result<Built> {
    let (c, h) = (&record.config, &record.host);
    check_parent(h, daemon)?;
    let security = security(h.security_opt.as_deref().unwrap_or_default())?;
    let (path, args) = command(record);
    let users = userns::of(daemon, h);
    let mut mounts = user_mounts(record, users, &around.plain_volumes)?;
    let shm_target = Path::new("/dev/shm");
    if let Some(source) = around.shm.as_ref().filter(|_| mounts.iter().all(|m| m.destination != shm_target)) {
        mounts.push(Mount {
            destination: shm_target.into(),
            fstype: "bind".into(),
            source: source.display().to_string(),
            options: ["bind", "rprivate", "nosuid", "noexec", "nodev"].map(str::to_owned).to_vec(),
            ..Mount::default()
        });
    }
    if around.mount_files {
        generated(&mut mounts, around, h.readonly_rootfs, users.is_some());
    }
    let uts_host = h.uts_mode == "host";
    let input = SpecInput {
        args: std::iter::once(path).chain(args).collect(),
        env: environment(record, &around.link_env),
        cwd: c.working_dir.clone(),
        tty: c.tty,
        console_size: console_size(h.console_size),
        hostname: if uts_host { String::new() } else { c.hostname.clone() },
        domainname: if uts_host { String::new() } else { c.domainname.clone() },
        readonly_root: h.readonly_rootfs,
        privileged: h.privileged,
        cap_add: h.cap_add.clone().unwrap_or_default(),
        cap_drop: h.cap_drop.clone().unwrap_or_default(),
        no_new_privileges: security.no_new_privileges || daemon.no_new_privileges,
        apparmor_profile: apparmor_profile(h)?,
        selinux_label: record.process_label.clone(),
        mount_label: record.mount_label.clone(),
        writable_cgroups: security.writable_cgroups,
        seccomp: seccomp(&security, h, daemon),
        rlimits: rlimits(h.ulimits.as_deref().unwrap_or_default())?,
        oom_score_adj: Some(h.oom_score_adj),
        mounts,
        shm: shm(h),
        namespaces: namespaces(h, around),
        private_network: around.sandbox.is_some() && around.network_of.is_none(),
        cgroup_path: cgroup_path(record, daemon),
        resources: resources(h)?,
        devices: devices(h)?,
        device_rules: h
            .device_cgroup_rules
            .iter()
            .flatten()
            .map(|r| parse_device_rule(r).map_err(|e| invalid(e.to_string())))
            .collect::<Result<_>>()?,
        sysctls: h.sysctls.clone(),
        masked_paths: h.masked_paths.as_ref().map(|p| p.iter().map(PathBuf::from).collect()),
        readonly_paths: h.readonly_paths.as_ref().map(|p| p.iter().map(PathBuf::from).collect()),
        annotations: h.annotations.clone(),
        uid_mappings: users.map(|u| u.uids.clone()).unwrap_or_default(),
        gid_mappings: users.map(|u| u.gids.clone()).unwrap_or_default(),
        user_namespace: users.and_then(|_| users_to_join(around)),
    };
    build(input).map_err(|e| Error::Refused { kind: e.kind(), text: e.to_string() })
}

/// Another container's users, or those that the sandbox was made for: namespaces belong to a user namespace.
fn users_to_join(around: &Surroundings) -> Option<PathBuf> {
    let of = around.users_of.map(|pid| format!("/proc/{pid}/ns/user").into());
    of.or_else(|| around.sandbox.clone())
}

/// `<cgroup-parent>/<id>` below each hierarchy's root, or the scope `docker-<id>` in that slice.
pub(crate) fn cgroup_path(record: &ContainerRecord, daemon: &EngineConfig) -> PathBuf {
    let parent = match record.host.cgroup_parent.as_str() {
        "" => daemon.cgroup_parent.as_str(),
        own => own,
    };
    match daemon.cgroup_driver {
        CgroupDriver::Cgroupfs => {
            Path::new("/").join(parent.trim_start_matches('/')).join(record.id.as_str())
        }
        CgroupDriver::Systemd => format!("{parent}:docker:{}", record.id).into(),
    }
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Docker's order: `PATH`, `HOSTNAME`, `TERM`, those of links, then the configuration's, which override and `NAME` alone takes away.
fn environment(record: &ContainerRecord, links: &[String]) -> Vec<String> {
    let c = &record.config;
    let mut env = vec![PATH.to_owned(), format!("HOSTNAME={}", c.hostname)];
    if c.tty {
        env.push("TERM=xterm".into());
    }
    env.extend_from_slice(links);
    let name = |e: &str| e.split('=').next().unwrap_or_default().to_owned();
    for entry in c.env.iter().flatten() {
        let at = env.iter().position(|e| name(e) == name(entry));
        match (at, entry.contains('=')) {
            (Some(at), true) => env[at].clone_from(entry),
            (Some(at), false) => {
                env.remove(at);
            }
            (None, true) => env.push(entry.clone()),
            (None, false) => {}
        }
    }
    env
}

fn console_size([height, width]: [u32; 2]) -> Option<ConsoleSize> {
    let size = ConsoleSize { height: u16::try_from(height).ok()?, width: u16::try_from(width).ok()? };
    (height > 0 && width > 0).then_some(size)
}

fn seccomp(security: &Security, h: &HostConfig, daemon: &EngineConfig) -> SeccompChoice {
    match security.seccomp.as_deref() {
        Some("unconfined") => SeccompChoice::Unconfined,
        Some("builtin") => SeccompChoice::Default,
        Some(profile) => SeccompChoice::Profile(profile.to_owned()),
        None if h.privileged => SeccompChoice::Unconfined,
        None => match daemon.seccomp_profile.as_deref() {
            None | Some("builtin" | "") => SeccompChoice::Default,
            Some("unconfined") => SeccompChoice::Unconfined,
            Some(profile) => SeccompChoice::Profile(profile.to_owned()),
        },
    }
}

fn shm(h: &HostConfig) -> Shm {
    match h.ipc_mode.as_str() {
        "host" => Shm::Host,
        "none" => Shm::None,
        _ => Shm::Private(u64::try_from(h.shm_size).unwrap_or(64 << 20)),
    }
}

fn namespaces(h: &HostConfig, around: &Surroundings) -> Namespaces {
    let join = |pid: Option<i32>, kind: &str| match pid {
        Some(pid) => Ns::Join(format!("/proc/{pid}/ns/{kind}").into()),
        None => Ns::New,
    };
    Namespaces {
        pid: if h.pid_mode == "host" { Ns::Host } else { join(around.pid_of, "pid") },
        network: match (&around.sandbox, around.network_of) {
            (_, Some(pid)) => Ns::Join(format!("/proc/{pid}/ns/net").into()),
            (Some(path), None) => Ns::Join(path.clone()),
            (None, None) => Ns::Host,
        },
        ipc: if h.ipc_mode == "host" { Ns::Host } else { join(around.ipc_of, "ipc") },
        uts: if h.uts_mode == "host" { Ns::Host } else { Ns::New },
        cgroup: if h.cgroupns_mode == "host" { Ns::Host } else { Ns::New },
    }
}

/// Binds, volumes and tmpfs, parents before children.
fn user_mounts(record: &ContainerRecord, users: Option<&UserMap>, plain: &[String]) -> Result<Vec<Mount>> {
    let mut list: Vec<&MountRecord> = record.mounts.iter().collect();
    list.sort_by_key(|m| m.destination.split('/').count());
    list.into_iter().map(|m| user_mount(m, users, plain.contains(&m.name))).collect()
}

/// `plain`: a volume that is a directory of ours.
fn user_mount(m: &MountRecord, users: Option<&UserMap>, plain: bool) -> Result<Mount> {
    if m.kind == MountKind::Tmpfs {
        return Ok(Mount {
            destination: m.destination.clone().into(),
            fstype: "tmpfs".into(),
            source: "tmpfs".into(),
            options: m.tmpfs.clone(),
            ..Mount::default()
        });
    }
    let source = match m.subpath.as_str() {
        "" => m.source.clone(),
        // Two slashes: what is behind them is looked up beneath what is before them, when it is mounted.
        subpath => format!("{}//{subpath}", m.source),
    };
    let mut options = vec![if m.non_recursive { "bind".to_owned() } else { "rbind".to_owned() }];
    if !m.rw {
        // A read-only bind is so all the way down, as in Docker since 25.
        options.push(if m.read_only_non_recursive || m.non_recursive { "ro".into() } else { "rro".into() });
    }
    options.push(if m.propagation.is_empty() { "rprivate".into() } else { m.propagation.clone() });
    let (uids, gids) = parse_idmap(m.idmap.as_deref().unwrap_or_default())?;
    // What is on disk in a volume belongs to the ids inside; a bind shows whose the files are on the host.
    if m.idmap.is_some() && uids.is_empty() || plain && users.is_some() {
        options.push("idmap".into());
    }
    Ok(Mount {
        destination: m.destination.clone().into(),
        fstype: "bind".into(),
        source,
        options,
        uid_mappings: outside(&uids, users.map(|u| u.uids.as_slice()))?,
        gid_mappings: outside(&gids, users.map(|u| u.gids.as_slice()))?,
    })
}

/// `/etc/resolv.conf`, `/etc/hostname`, `/etc/hosts`, unless the user mounts something there.
fn generated(mounts: &mut Vec<Mount>, around: &Surroundings, readonly: bool, mapped: bool) {
    for name in ["resolv.conf", "hostname", "hosts"] {
        let destination = PathBuf::from(format!("/etc/{name}"));
        if mounts.iter().any(|m| m.destination == destination) {
            continue;
        }
        let mut options = vec!["rbind".to_owned(), "rprivate".to_owned()];
        if readonly {
            options.push("ro".into());
        }
        if mapped {
            options.push("idmap".into());
        }
        let source = around.files.join(name).display().to_string();
        mounts.push(Mount { destination, fstype: "bind".into(), source, options, ..Mount::default() });
    }
}

fn rlimits(limits: &[Ulimit]) -> Result<Vec<Rlimit>> {
    const KNOWN: &[&str] = &[
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let value = |v: i64| u64::try_from(v).unwrap_or(u64::MAX);
    limits
        .iter()
        .map(|u| {
            let name = u.name.trim_start_matches("RLIMIT_").to_ascii_lowercase();
            if !KNOWN.contains(&name.as_str()) {
                return Err(invalid(format!("invalid ulimit type: {}", u.name)));
            }
            if u.hard >= 0 && (u.soft > u.hard || u.soft < 0) {
                return Err(invalid(format!(
                    "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                    u.soft, u.hard
                )));
            }
            Ok(Rlimit {
                kind: format!("RLIMIT_{}", name.to_ascii_uppercase()),
                hard: value(u.hard),
                soft: value(u.soft),
            })
        })
        .collect()
}

fn devices(h: &HostConfig) -> Result<Vec<DeviceRequest>> {
    let mut list = Vec::new();
    for d in h.devices.iter().flatten() {
        if d.path_on_host.contains('=') && d.path_in_container.is_empty() {
            return Err(invalid(format!("CDI device {:?} is not supported by this engine", d.path_on_host)));
        }
        let permissions = if d.cgroup_permissions.is_empty() { "rwm" } else { d.cgroup_permissions.as_str() };
        if permissions.chars().any(|c| !"rwm".contains(c)) {
            return Err(invalid(format!("invalid device mode: {permissions}")));
        }
        let inside = if d.path_in_container.is_empty() { &d.path_on_host } else { &d.path_in_container };
        list.push(DeviceRequest {
            on_host: d.path_on_host.clone().into(),
            in_container: inside.clone().into(),
            access: permissions.to_owned(),
        });
    }
    Ok(list)
}

/// The limits of a host configuration; absent where nothing is asked for.
pub(crate) fn resources(h: &HostConfig) -> Result<Resources> {
    let some = |v: i64| (v != 0).then_some(v);
    let memory = oci::Memory {
        limit: some(h.memory),
        reservation: some(h.memory_reservation),
        swap: some(h.memory_swap),
        swappiness: h.memory_swappiness.and_then(|s| u64::try_from(s).ok()),
        disable_oom_killer: h.oom_kill_disable.filter(|d| *d),
        ..oci::Memory::default()
    };
    let (quota, period) = match h.nano_cpus {
        0 => (some(h.cpu_quota), u64::try_from(h.cpu_period).ok().filter(|p| *p > 0)),
        nano => (Some(nano / 10_000), Some(100_000)),
    };
    let text = |t: &str| (!t.is_empty()).then(|| t.to_owned());
    let cpu = oci::Cpu {
        shares: u64::try_from(h.cpu_shares).ok().filter(|s| *s > 0),
        quota,
        period,
        realtime_runtime: some(h.cpu_realtime_runtime),
        realtime_period: u64::try_from(h.cpu_realtime_period).ok().filter(|p| *p > 0),
        cpus: text(&h.cpuset_cpus),
        mems: text(&h.cpuset_mems),
        ..oci::Cpu::default()
    };
    let block_io = oci::BlockIo {
        weight: (h.blkio_weight != 0).then_some(h.blkio_weight),
        weight_device: weights(h.blkio_weight_device.as_deref().unwrap_or_default())?,
        throttle_read_bps_device: throttles(h.blkio_device_read_bps.as_deref().unwrap_or_default())?,
        throttle_write_bps_device: throttles(h.blkio_device_write_bps.as_deref().unwrap_or_default())?,
        throttle_read_iops_device: throttles(h.blkio_device_read_iops.as_deref().unwrap_or_default())?,
        throttle_write_iops_device: throttles(h.blkio_device_write_iops.as_deref().unwrap_or_default())?,
    };
    Ok(Resources {
        memory: (memory != oci::Memory::default()).then_some(memory),
        cpu: (cpu != oci::Cpu::default()).then_some(cpu),
        pids: h.pids_limit.filter(|l| *l > 0).map(|limit| oci::Pids { limit }),
        block_io: (block_io != oci::BlockIo::default()).then_some(block_io),
        ..Resources::default()
    })
}

fn device_number(path: &str) -> Result<(i64, i64)> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).map_err(|e| internal(format!("stat {path}: {e}")))?;
    let rdev = meta.rdev();
    Ok((i64::from(rustix::fs::major(rdev)), i64::from(rustix::fs::minor(rdev))))
}

fn weights(list: &[WeightDevice]) -> Result<Vec<oci::WeightDevice>> {
    list.iter()
        .map(|w| {
            device_number(&w.path).map(|(major, minor)| oci::WeightDevice { major, minor, weight: w.weight })
        })
        .collect()
}

fn throttles(list: &[ThrottleDevice]) -> Result<Vec<oci::ThrottleDevice>> {
    list.iter()
        .map(|t| {
            device_number(&t.path).map(|(major, minor)| oci::ThrottleDevice { major, minor, rate: t.rate })
        })
        .collect()
}

/// Go's zero value means "not given".
fn take<T: Default + PartialEq + Clone>(own: &mut T, given: &T) {
    if *given != T::default() {
        own.clone_from(given);
    }
}

/// Applies an update request to a host configuration: what is zero or absent stays.
pub(crate) fn apply_update(h: &mut HostConfig, u: &UpdateRequest) -> Result<()> {
    if h.nano_cpus != 0 && (u.cpu_period != 0 || u.cpu_quota != 0) {
        let option = if u.cpu_period != 0 { "CPU Period" } else { "CPU Quota" };
        return Err(crate::error::conflict(format!(
            "Conflicting options: {option} cannot be updated as NanoCPUs has already been set"
        )));
    }
    if u.nano_cpus != 0 && (h.cpu_period != 0 || h.cpu_quota != 0) {
        let option = if h.cpu_period != 0 { "CPU Period" } else { "CPU Quota" };
        return Err(crate::error::conflict(format!(
            "Conflicting options: Nano CPUs cannot be updated as {option} has already been set"
        )));
    }
    if u.memory != 0
        && h.memory_swap != -1
        && u.memory_swap == 0
        && h.memory_swap != 0
        && u.memory > h.memory_swap
    {
        return Err(crate::error::conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ));
    }
    for (own, given) in [(&mut h.net_rate_in, u.net_rate_in), (&mut h.net_rate_out, u.net_rate_out)] {
        *own = given.unwrap_or(*own);
    }
    take(&mut h.cpu_shares, &u.cpu_shares);
    take(&mut h.memory, &u.memory);
    take(&mut h.nano_cpus, &u.nano_cpus);
    take(&mut h.blkio_weight, &u.blkio_weight);
    take(&mut h.blkio_weight_device, &u.blkio_weight_device);
    take(&mut h.blkio_device_read_bps, &u.blkio_device_read_bps);
    take(&mut h.blkio_device_write_bps, &u.blkio_device_write_bps);
    take(&mut h.blkio_device_read_iops, &u.blkio_device_read_iops);
    take(&mut h.blkio_device_write_iops, &u.blkio_device_write_iops);
    take(&mut h.cpu_period, &u.cpu_period);
    take(&mut h.cpu_quota, &u.cpu_quota);
    take(&mut h.cpu_realtime_period, &u.cpu_realtime_period);
    take(&mut h.cpu_realtime_runtime, &u.cpu_realtime_runtime);
    take(&mut h.cpuset_cpus, &u.cpuset_cpus);
    take(&mut h.cpuset_mems, &u.cpuset_mems);
    take(&mut h.memory_reservation, &u.memory_reservation);
    take(&mut h.memory_swap, &u.memory_swap);
    take(&mut h.memory_swappiness, &u.memory_swappiness);
    take(&mut h.oom_kill_disable, &u.oom_kill_disable);
    take(&mut h.ulimits, &u.ulimits);
    if let Some(limit) = u.pids_limit {
        h.pids_limit = (limit > 0).then_some(limit);
    }
    if !u.restart_policy.name.is_empty() {
        h.restart_policy = u.restart_policy.clone();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_options() {
        let read = |o: &str| security(&[o.to_owned()]).map_err(|e| e.to_string());
        assert!(read("no-new-privileges").unwrap().no_new_privileges);
        assert!(!read("no-new-privileges:false").unwrap().no_new_privileges);
        assert_eq!(read("seccomp=unconfined").unwrap().seccomp.as_deref(), Some("unconfined"));
        assert_eq!(read("writable-cgroups").unwrap().writable_cgroups, Some(true));
        assert_eq!(read("writable-cgroups=false").unwrap().writable_cgroups, Some(false));
        assert!(read("writable-cgroups=maybe").is_err());
        assert_eq!(read("apparmor=unconfined").unwrap().apparmor.as_deref(), Some("unconfined"));
        assert_eq!(read("label=type:spc_t").unwrap().labels, ["type:spc_t"]);
        assert_eq!(read("apparmor=mine").is_ok(), apparmor::is_enabled());
        assert_eq!(read("nope=1").unwrap_err(), "invalid --security-opt 2: \"nope=1\"");
    }

    #[test]
    fn limits_and_updates() {
        let mut h = HostConfig {
            nano_cpus: 500_000_000,
            memory: 64 << 20,
            memory_swap: 128 << 20,
            ..HostConfig::default()
        };
        let r = resources(&h).unwrap();
        assert_eq!(r.cpu.unwrap().quota, Some(50_000));
        assert_eq!(r.memory.unwrap().swap, Some(128 << 20));
        assert!(
            apply_update(&mut h, &UpdateRequest { cpu_quota: 5000, ..UpdateRequest::default() }).is_err()
        );
        apply_update(&mut h, &UpdateRequest { pids_limit: Some(50), ..UpdateRequest::default() }).unwrap();
        assert_eq!((h.pids_limit, h.memory), (Some(50), 64 << 20));
    }

    #[test]
    fn read_only_binds_are_so_all_the_way_down() {
        let m = MountRecord { destination: "/h".into(), source: "/tmp".into(), ..MountRecord::default() };
        let options = |m: &MountRecord| user_mount(m, None, false).unwrap().options;
        assert_eq!(options(&m), ["rbind", "rro", "rprivate"]);
        let m = MountRecord { rw: true, propagation: "rshared".into(), ..m };
        assert_eq!(options(&m), ["rbind", "rshared"]);
    }
}
