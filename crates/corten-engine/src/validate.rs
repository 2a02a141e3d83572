//! Checks of a create or update request that need nothing but the request and facts of the host. Pure.
//!
//! Texts and order are the reference engine's: first the configuration, then the host configuration, then limits.

use std::collections::{BTreeMap, BTreeSet};

use corten_runtime::cgroup::Cgroup;
use corten_wire::api::container::{ContainerConfig, Healthcheck};
use corten_wire::api::host_config::{HostConfig, RestartPolicy};
use corten_wire::api::mount::Mount;
use corten_wire::api::port::{Port, PortBinding};

use crate::config::EngineConfig;
use crate::error::{Result, invalid};
use crate::{signal, spec};

/// Facts of the host that limits are checked against.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) cpus: u32,
    /// As in `/sys/devices/system/cpu/online`.
    pub(crate) cpu_list: String,
    /// As in `/sys/devices/system/node/online`.
    pub(crate) node_list: String,
    pub(crate) cgroup_v2: bool,
    /// None was handed over to this daemon.
    pub(crate) no_cgroups: bool,
}

impl Host {
    /// Reads them.
    pub(crate) fn read() -> Self {
        let read = |path: &str, default: &str| {
            std::fs::read_to_string(path).map_or_else(|_| default.to_owned(), |t| t.trim().to_owned())
        };
        let cpu_list = read("/sys/devices/system/cpu/online", "0");
        Self {
            cpus: parse_list(&cpu_list).map_or(1, |set| u32::try_from(set.len()).unwrap_or(1)),
            cpu_list,
            node_list: read("/sys/devices/system/node/online", "0"),
            cgroup_v2: std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
            no_cgroups: Cgroup::at(std::path::Path::new("/docker")).is_ok_and(|g| g.is_none()),
        }
    }
}

const MIN_MEMORY: i64 = 6 << 20;
const MIN_HEALTH_NS: i64 = 1_000_000;

/// Checks the configuration; returns it normalised.
pub(crate) fn config(mut config: ContainerConfig) -> Result<ContainerConfig> {
    if !config.working_dir.is_empty() {
        if !config.working_dir.starts_with('/') {
            return Err(invalid(format!(
                "the working directory '{}' is invalid, it needs to be an absolute path",
                config.working_dir
            )));
        }
        config.working_dir = clean(&config.working_dir);
    }
    if !config.stop_signal.is_empty() && signal::parse(&config.stop_signal).is_none() {
        return Err(invalid(format!("invalid signal: {}", config.stop_signal)));
    }
    for env in config.env.iter().flatten() {
        if env.is_empty() || env.starts_with('=') || env.contains('\0') {
            return Err(invalid(format!("invalid environment variable: {env}")));
        }
    }
    if config.hostname.contains(['/', '\0']) || config.hostname.len() > 64 {
        return Err(invalid(format!("invalid hostname: {}", config.hostname)));
    }
    if let Some(check) = &config.healthcheck {
        health(check)?;
    }
    Ok(config)
}

fn health(check: &Healthcheck) -> Result<()> {
    let spans = [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ];
    if let Some((name, _)) = spans.iter().find(|(_, ns)| *ns != 0 && *ns < MIN_HEALTH_NS) {
        return Err(invalid(format!("{name} in Healthcheck cannot be less than 1ms")));
    }
    if check.retries < 0 {
        return Err(invalid("Retries in Healthcheck cannot be negative"));
    }
    match check.test.as_deref().and_then(|t| t.first()).map(String::as_str) {
        None | Some("NONE" | "CMD" | "CMD-SHELL" | "") => Ok(()),
        Some(other) => Err(invalid(format!(
            "unknown type {other:?} in Healthcheck (must be one of NONE, CMD, CMD-SHELL)"
        ))),
    }
}

/// Checks the host configuration of a new container; returns warnings.
pub(crate) fn host_config(h: &HostConfig, host: &Host, daemon: &EngineConfig) -> Result<Vec<String>> {
    let restarts = !matches!(h.restart_policy.name.as_str(), "" | "no");
    if h.auto_remove && restarts {
        return Err(invalid("can't create 'AutoRemove' container with restart policy"));
    }
    for mount in h.mounts.iter().flatten() {
        self::mount(mount)?;
    }
    for entry in h.extra_hosts.iter().flatten() {
        extra_host(entry)?;
    }
    bindings(&h.port_bindings)?;
    rates(&[h.net_rate_in, h.net_rate_out])?;
    restart_policy(&h.restart_policy)?;
    let (add, drop) = (h.cap_add.as_deref().unwrap_or_default(), h.cap_drop.as_deref().unwrap_or_default());
    corten_runtime::spec::capabilities(add, drop, h.privileged).map_err(|e| invalid(e.to_string()))?;
    if !matches!(h.isolation.as_str(), "" | "default") {
        return Err(invalid(format!("invalid isolation {:?} on linux", h.isolation)));
    }
    if h.annotations.keys().any(String::is_empty) {
        return Err(invalid("invalid Annotations: the empty string is not permitted as an annotation key"));
    }
    limits(&Limits::of(h), host, false)?;
    modes(h)?;
    if h.shm_size < 0 {
        return Err(invalid("SHM size can not be less than 0"));
    }
    if !(-1000..=1000).contains(&h.oom_score_adj) {
        return Err(invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            h.oom_score_adj
        )));
    }
    if !daemon.knows_runtime(&h.runtime) {
        return Err(invalid(format!("unknown or invalid runtime name: {}", h.runtime)));
    }
    spec::check_parent(h, daemon)?;
    crate::userns::check(daemon, h)?;
    refuse_unsupported(h)?;
    let mut warnings = Vec::new();
    if h.network_mode == "host" && !h.port_bindings.is_empty() {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    if h.oom_kill_disable == Some(true) && h.memory == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources."
                .to_owned(),
        );
    }
    if host.no_cgroups {
        warnings.extend(discarded(h));
    }
    Ok(warnings)
}

/// COMPAT: moby goes on without limits that the kernel cannot set, and says so.
fn discarded(h: &HostConfig) -> Vec<String> {
    let cpu = h.cpu_period != 0 || h.cpu_quota != 0 || h.nano_cpus != 0;
    let sets = !h.cpuset_cpus.is_empty() || !h.cpuset_mems.is_empty();
    let rates = [
        &h.blkio_device_read_bps,
        &h.blkio_device_write_bps,
        &h.blkio_device_read_iops,
        &h.blkio_device_write_iops,
    ];
    let throttled = rates.iter().any(|l| l.as_ref().is_some_and(|l| !l.is_empty()));
    [
        (h.memory != 0, "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded."),
        (h.memory_reservation != 0, "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded."),
        (h.pids_limit.is_some_and(|l| l > 0), "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded."),
        (h.cpu_shares != 0, "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded."),
        (cpu, "Your kernel does not support CPU CFS quota or the cgroup is not mounted. Quota discarded."),
        (sets, "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded."),
        (h.blkio_weight != 0, "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."),
        (throttled, "Your kernel does not support Block I/O throttling or the cgroup is not mounted. Limits discarded."),
    ]
    .into_iter()
    .filter(|(wanted, _)| *wanted)
    .map(|(_, text)| text.to_owned())
    .collect()
}

/// Ports and where they are to be published.
pub(crate) fn bindings(all: &BTreeMap<Port, Option<Vec<PortBinding>>>) -> Result<()> {
    for (port, bindings) in all {
        if !matches!(port.protocol(), "tcp" | "udp" | "sctp") {
            return Err(invalid(format!("invalid proto: {:?}", port.protocol())));
        }
        for binding in bindings.iter().flatten() {
            host_port(&binding.host_port)?;
            if !binding.host_ip.is_empty() && binding.host_ip.parse::<std::net::IpAddr>().is_err() {
                return Err(invalid(format!("invalid host IP address: {:?}", binding.host_ip)));
            }
        }
    }
    Ok(())
}

/// Bandwidth limits: none, or at least what a link needs to be of any use.
pub(crate) fn rates(all: &[i64]) -> Result<()> {
    const LEAST: i64 = 8_000;
    match all.iter().find(|rate| **rate != 0 && **rate < LEAST) {
        Some(rate) => {
            Err(invalid(format!("invalid bandwidth limit {rate}: it is less than {LEAST} bits per second")))
        }
        None => Ok(()),
    }
}

/// What we understand but cannot do is refused, never ignored.
fn refuse_unsupported(h: &HostConfig) -> Result<()> {
    let refuse = |what: &str| Err(invalid(format!("{what} is not supported by this engine")));
    if !h.storage_opt.is_empty() {
        return refuse("--storage-opt");
    }
    for link in h.links.iter().flatten() {
        crate::links::parse(link).map_err(invalid)?;
    }
    if h.network_mode == "host" && h.links.as_ref().is_some_and(|l| !l.is_empty()) {
        return Err(invalid(
            "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
        ));
    }
    // A driver for no volume does no harm.
    let named = |spec: &String| !spec.starts_with('/');
    if !matches!(h.volume_driver.as_str(), "" | "local") && h.binds.iter().flatten().any(named) {
        return Err(invalid(format!(
            "error looking up volume plugin {0}: plugin {0:?} not found",
            h.volume_driver
        )));
    }
    Ok(())
}

/// What a container in another one's network cannot have of its own; `config` is the request's, without the image's.
pub(crate) fn shared_network(config: &ContainerConfig, h: &HostConfig) -> Result<()> {
    let has = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|l| !l.is_empty());
    if !h.network_mode.starts_with("container:") {
        return Ok(());
    }
    for (given, what) in [
        (!config.hostname.is_empty(), "hostname and the network mode"),
        (
            has(&h.links),
            "container type network can't be used with links. This would result in undefined behavior",
        ),
        (has(&h.dns), "dns and the network mode"),
        (has(&h.extra_hosts), "custom host-to-IP mapping and the network mode"),
        (
            !h.port_bindings.is_empty() || h.publish_all_ports,
            "port publishing and the container type network mode",
        ),
        (!config.exposed_ports.is_empty(), "port exposing and the container type network mode"),
    ] {
        if given {
            return Err(invalid(format!("conflicting options: {what}")));
        }
    }
    Ok(())
}

fn modes(h: &HostConfig) -> Result<()> {
    let joined = |mode: &str| mode.strip_prefix("container:").is_some_and(|c| !c.is_empty());
    if !matches!(h.uts_mode.as_str(), "" | "host") {
        return Err(invalid(format!("invalid UTS mode: {}", h.uts_mode)));
    }
    if !matches!(h.pid_mode.as_str(), "" | "host" | "private") && !joined(&h.pid_mode) {
        return Err(invalid(format!("invalid PID mode: {}", h.pid_mode)));
    }
    if !matches!(h.ipc_mode.as_str(), "" | "none" | "private" | "shareable" | "host") && !joined(&h.ipc_mode)
    {
        return Err(invalid(format!("invalid IPC mode: {}", h.ipc_mode)));
    }
    if !matches!(h.userns_mode.as_str(), "" | "host") {
        return Err(invalid(format!("invalid user namespace mode: {}", h.userns_mode)));
    }
    if !matches!(h.cgroupns_mode.as_str(), "" | "private" | "host") {
        return Err(invalid(format!("invalid cgroup namespace mode: {}", h.cgroupns_mode)));
    }
    if h.network_mode == "container:" {
        return Err(invalid("Invalid network mode: invalid container format container:<name|id>"));
    }
    Ok(())
}

/// `8080`, `8000-8010` or nothing.
fn host_port(text: &str) -> Result<()> {
    parse_host_port(text).map(|_| ()).ok_or_else(|| invalid(format!("invalid port specification: {text:?}")))
}

/// First and last acceptable port; `(0, 0)` is any.
pub(crate) fn parse_host_port(text: &str) -> Option<(u16, u16)> {
    if text.is_empty() {
        return Some((0, 0));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
    (first <= last).then_some((first, last))
}

fn extra_host(entry: &str) -> Result<()> {
    let bad = || invalid(format!("bad format for add-host: {entry:?}"));
    let (name, address) = entry.split_once([':', '=']).ok_or_else(bad)?;
    if name.is_empty() {
        return Err(bad());
    }
    let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    if address != "host-gateway" && address.parse::<std::net::IpAddr>().is_err() {
        return Err(invalid(format!("invalid IP address in add-host: {address:?}")));
    }
    Ok(())
}

/// Checks a restart policy, of create and of update.
pub(crate) fn restart_policy(p: &RestartPolicy) -> Result<()> {
    match p.name.as_str() {
        "" | "no" | "always" | "unless-stopped" if p.maximum_retry_count != 0 => {
            Err(invalid("invalid restart policy: maximum retry count can only be used with 'on-failure'"))
        }
        "on-failure" if p.maximum_retry_count < 0 => {
            Err(invalid("invalid restart policy: maximum retry count cannot be negative"))
        }
        "" | "no" | "always" | "unless-stopped" | "on-failure" => Ok(()),
        other => Err(invalid(format!(
            "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        ))),
    }
}

fn mount(m: &Mount) -> Result<()> {
    let bad = |why: String| invalid(format!("invalid mount config for type {:?}: {why}", m.kind));
    if m.target.is_empty() {
        return Err(bad("field Target must not be empty".into()));
    }
    if clean(&m.target) == "/" {
        return Err(bad("invalid specification: destination can't be '/'".into()));
    }
    if !m.target.starts_with('/') {
        return Err(bad(format!("invalid mount path: '{}' mount path must be absolute", m.target)));
    }
    let alone = |name: &str, set: bool| {
        if set { Err(bad(format!("field {name} must not be specified"))) } else { Ok(()) }
    };
    match m.kind.as_str() {
        "bind" => {
            if m.source.is_empty() {
                return Err(bad("field Source must not be empty".into()));
            }
            alone("VolumeOptions", m.volume_options.is_some())?;
            alone("TmpfsOptions", m.tmpfs_options.is_some())?;
            let options = m.bind_options.clone().unwrap_or_default();
            if !is_propagation(&options.propagation) && !options.propagation.is_empty() {
                return Err(bad(format!("invalid propagation mode: {}", options.propagation)));
            }
            crate::userns::parse_idmap(options.id_map.as_deref().unwrap_or_default())
                .map_err(|e| bad(e.to_string()))?;
            if options.read_only_force_recursive && options.read_only_non_recursive {
                return Err(
                    bad("mutually exclusive: ReadOnlyNonRecursive and ReadOnlyForceRecursive".into()),
                );
            }
            if !m.source.starts_with('/') {
                return Err(bad(format!("invalid mount path: '{}' mount path must be absolute", m.source)));
            }
            if !options.create_mountpoint && !std::path::Path::new(&m.source).exists() {
                return Err(bad(format!("bind source path does not exist: {}", m.source)));
            }
            Ok(())
        }
        "volume" => {
            alone("BindOptions", m.bind_options.is_some())?;
            alone("TmpfsOptions", m.tmpfs_options.is_some())?;
            if m.source.is_empty() && m.read_only {
                return Err(bad("must not set ReadOnly mode when using anonymous volumes".into()));
            }
            let subpath = m.volume_options.as_ref().map_or("", |v| v.subpath.as_str());
            if subpath.starts_with('/') || subpath.split('/').any(|c| c == "..") {
                return Err(bad(format!("subpath must be a relative path within the volume: {subpath:?}")));
            }
            Ok(())
        }
        "tmpfs" => {
            alone("Source", !m.source.is_empty())?;
            alone("BindOptions", m.bind_options.is_some())?;
            alone("VolumeOptions", m.volume_options.is_some())
        }
        "image" => {
            if m.source.is_empty() {
                return Err(bad("field Source must not be empty".into()));
            }
            alone("BindOptions", m.bind_options.is_some())?;
            alone("VolumeOptions", m.volume_options.is_some())?;
            alone("TmpfsOptions", m.tmpfs_options.is_some())?;
            let subpath = m.image_options.as_ref().map_or("", |i| i.subpath.as_str());
            if subpath.starts_with('/') || subpath.split('/').any(|c| c == "..") {
                return Err(bad(format!("subpath must be a relative path within the image: {subpath:?}")));
            }
            Ok(())
        }
        _ => Err(bad("mount type unknown".into())),
    }
}

pub(crate) fn is_propagation(mode: &str) -> bool {
    matches!(mode, "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave")
}

/// The limits that create and update have in common.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limits<'a> {
    pub(crate) memory: i64,
    pub(crate) memory_swap: i64,
    pub(crate) memory_reservation: i64,
    pub(crate) swappiness: Option<i64>,
    pub(crate) nano_cpus: i64,
    pub(crate) cpu_period: i64,
    pub(crate) cpu_quota: i64,
    pub(crate) cpu_shares: i64,
    pub(crate) cpuset_cpus: &'a str,
    pub(crate) cpuset_mems: &'a str,
    pub(crate) blkio_weight: u16,
}

impl<'a> Limits<'a> {
    pub(crate) fn of(h: &'a HostConfig) -> Self {
        Self {
            memory: h.memory,
            memory_swap: h.memory_swap,
            memory_reservation: h.memory_reservation,
            swappiness: h.memory_swappiness,
            nano_cpus: h.nano_cpus,
            cpu_period: h.cpu_period,
            cpu_quota: h.cpu_quota,
            cpu_shares: h.cpu_shares,
            cpuset_cpus: &h.cpuset_cpus,
            cpuset_mems: &h.cpuset_mems,
            blkio_weight: h.blkio_weight,
        }
    }
}

/// Checks limits, of create and of update.
pub(crate) fn limits(l: &Limits<'_>, host: &Host, update: bool) -> Result<()> {
    if l.memory != 0 && l.memory < MIN_MEMORY {
        return Err(invalid("Minimum memory limit allowed is 6MB"));
    }
    if l.memory > 0 && l.memory_swap > 0 && l.memory_swap < l.memory {
        return Err(invalid("Minimum memoryswap limit should be larger than memory limit, see usage"));
    }
    if l.memory == 0 && l.memory_swap > 0 && !update {
        return Err(invalid("You should always set the Memory limit when using Memoryswap limit, see usage"));
    }
    if let Some(s) = l.swappiness
        && !(-1..=100).contains(&s)
    {
        return Err(invalid(format!("Invalid value: {s}, valid memory swappiness range is 0-100")));
    }
    if l.memory_reservation != 0 && l.memory_reservation < MIN_MEMORY {
        return Err(invalid("Minimum memory reservation allowed is 6MB"));
    }
    if l.memory > 0 && l.memory_reservation > 0 && l.memory < l.memory_reservation {
        return Err(invalid("Minimum memory limit can not be less than memory reservation limit, see usage"));
    }
    cpu_limits(l, host)?;
    if l.blkio_weight != 0 && !(10..=1000).contains(&l.blkio_weight) {
        return Err(invalid("Range of blkio weight is from 10 to 1000"));
    }
    Ok(())
}

fn cpu_limits(l: &Limits<'_>, host: &Host) -> Result<()> {
    if l.nano_cpus != 0 && l.cpu_period != 0 {
        return Err(invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set"));
    }
    if l.nano_cpus != 0 && l.cpu_quota != 0 {
        return Err(invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set"));
    }
    if l.nano_cpus < 0 || l.nano_cpus > i64::from(host.cpus) * 1_000_000_000 {
        return Err(invalid(format!(
            "range of CPUs is from 0.01 to {0}.00, as there are only {0} CPUs available",
            host.cpus
        )));
    }
    if l.cpu_period != 0 && !(1000..=1_000_000).contains(&l.cpu_period) {
        return Err(invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ));
    }
    if l.cpu_quota > 0 && l.cpu_quota < 1000 {
        return Err(invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
    }
    if l.cpu_shares < 0 {
        return Err(invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            l.cpu_shares
        )));
    }
    let sets = [
        (l.cpuset_cpus, "cpus", "CPUs", &host.cpu_list),
        (l.cpuset_mems, "mems", "memory nodes", &host.node_list),
    ];
    for (value, name, what, available) in sets {
        let wanted = parse_list(value)
            .map_err(|why| invalid(format!("Invalid value {value} for cpuset {name}: {why}")))?;
        let there = parse_list(available).unwrap_or_default();
        if !wanted.is_subset(&there) {
            return Err(invalid(format!(
                "Requested {what} are not available - requested {value}, available: {available}"
            )));
        }
    }
    Ok(())
}

/// `0-3,5` as a set.
fn parse_list(text: &str) -> Result<BTreeSet<u32>, String> {
    let mut set = BTreeSet::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let bad = || format!("invalid format: {text}");
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) =
            (first.parse::<u32>().map_err(|_| bad())?, last.parse::<u32>().map_err(|_| bad())?);
        if first > last || last > 8192 {
            return Err(bad());
        }
        set.extend(first..=last);
    }
    Ok(set)
}

/// Go's `path.Clean` of an absolute path.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests;
