//! The effects that touch the host: launch, clean-up, deletion. Blocking; every one is "ensure" and has an inverse.
//!
//! ```text
//!  launch:  run dir ─▶ volumes ─▶ sandbox ─▶ endpoints ─▶ files ─▶ shim        (a failure undoes what was done)
//!  clean up:                      endpoints ◀─ sandbox ◀─ volumes              (the run dir stays: exit.json is there)
//!  delete:  record ─▶ writable layer ─▶ directories ─▶ volumes
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use corten_base::db::Commit;
use corten_base::fs::{Durability, replace};
use corten_base::{Id, Kind};
use corten_net::{EndpointSpec, PortSpec, Protocol, SandboxSpec, Upstream};
use corten_runtime::client::{Shim, ShimError};
use corten_wire::api::network::EndpointSettings;
use corten_wire::shim::{self, Attach, Bootstrap, Logging, Rootfs, Started, Stdin, UserSpec};
use serde::{Deserialize, Serialize};

use super::phase::Exit;
use crate::error::{Error, Result, conflict, invalid, not_found};
use crate::failpoint::failpoint;
use crate::hosts::{self, DnsOptions};
use crate::record::{CONTAINERS, ContainerRecord, MountKind, NetworkEntry, STATES, StateRecord};
use crate::shared::Shared;
use crate::spec::Surroundings;
use crate::view::Endpoint;
use crate::{merge, networks, spec, validate};

/// What exists of a container only while it runs; kept in `run.json` for the next daemon.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) endpoints: Arc<Vec<Endpoint>>,
    /// It has a sandbox of its own, with these name servers behind its embedded DNS.
    pub(crate) sandbox: bool,
    pub(crate) upstreams: Vec<Upstream>,
}

/// A successful launch.
pub(crate) struct Launched {
    pub(crate) shim: Shim,
    pub(crate) started: Started,
    pub(crate) run: Run,
}

const RUN: &str = "run.json";
const STATE: &str = "state.json";
const SHM: &str = "shm";
const TRANSIENT: &str = "record.json";

/// `exit.json` of a run directory.
pub(crate) fn read_exit(dir: &Path) -> Option<Exit> {
    let text = std::fs::read(dir.join(shim::EXIT_NAME)).ok()?;
    let exit: shim::Exit = serde_json::from_slice(&text).ok()?;
    Some(Exit { code: exit.code, oom: exit.oom, at: i128::from(exit.at) })
}

/// `run.json` of a run directory.
pub(crate) fn load_run(dir: &Path) -> Run {
    std::fs::read(dir.join(RUN)).ok().and_then(|t| serde_json::from_slice(&t).ok()).unwrap_or_default()
}

pub(crate) fn write_run(shared: &Shared, id: &Id, run: &Run) -> Result<()> {
    let text = serde_json::to_vec(run).map_err(|e| Error::io("encode run.json", std::io::Error::other(e)))?;
    Ok(replace(&shared.run_dir(id).join(RUN), &text, 0o600, Durability::Process)?)
}

/// `state.json`: best effort, the database has it a little later.
pub(crate) fn write_state(shared: &Shared, id: &Id, state: &StateRecord) {
    let dir = shared.run_dir(id);
    if let Ok(text) = serde_json::to_vec(state)
        && dir.exists()
        && let Err(error) = replace(&dir.join(STATE), &text, 0o600, Durability::Process)
    {
        tracing::warn!(container.id = %id, error = crate::error::chain(&error), "state cannot be noted");
    }
}

/// `state.json` of a run directory: newer than what the database has, if it is there.
pub(crate) fn load_state(dir: &Path) -> Option<StateRecord> {
    serde_json::from_slice(&std::fs::read(dir.join(STATE)).ok()?).ok()
}

/// When the last run began, as the shim noted it.
pub(crate) fn read_started(dir: &Path) -> Option<i64> {
    let text = std::fs::read(dir.join(shim::SHIM_NAME)).ok()?;
    serde_json::from_slice::<shim::ShimRecord>(&text).ok().map(|r| r.started.started_at)
}

/// The record of a container that goes when it exits: it need not survive the machine, only the daemon.
pub(crate) fn write_transient(shared: &Shared, record: &ContainerRecord) -> Result<()> {
    let dir = shared.run_dir(&record.id);
    make_dir(&dir, 0o711)?;
    let text =
        serde_json::to_vec(record).map_err(|e| Error::io("encode record.json", std::io::Error::other(e)))?;
    Ok(replace(&dir.join(TRANSIENT), &text, 0o600, Durability::Process)?)
}

/// The transient record of a run directory.
pub(crate) fn load_transient(dir: &Path) -> Option<ContainerRecord> {
    serde_json::from_slice(&std::fs::read(dir.join(TRANSIENT)).ok()?).ok()
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|e| Error::io(format!("mkdir {}", path.display()), e))
}

/// Makes everything a run needs and starts it.
pub(crate) fn launch(
    shared: &Arc<Shared>,
    record: &ContainerRecord,
    attach: Vec<(Attach, OwnedFd)>,
) -> Result<Launched> {
    let dir = shared.run_dir(&record.id);
    make_dir(&dir, 0o711)?;
    for name in [shim::EXIT_NAME, shim::SOCKET_NAME, shim::SHIM_NAME, RUN] {
        corten_base::fs::ensure_absent(&dir.join(name))?;
    }
    let mut run = Run::default();
    let started = prepare(shared, record, &mut run).and_then(|around| {
        failpoint!("engine.start.after_network");
        start(shared, record, &around, attach)
    });
    match started {
        Ok((shim, started)) => Ok(Launched { shim, started, run }),
        Err(error) => {
            clean_up(shared, record, &run);
            Err(error)
        }
    }
}

fn prepare(shared: &Shared, record: &ContainerRecord, run: &mut Run) -> Result<Surroundings> {
    let mut around = Surroundings {
        files: shared.dir(&record.id),
        mount_files: true,
        pid_of: joined_pid(shared, &record.host.pid_mode, "PID")?,
        ipc_of: joined_pid(shared, &record.host.ipc_mode, "IPC")?,
        ..Surroundings::default()
    };
    make_dir(&around.files, 0o710)?;
    around.shm = shared_memory(shared, record)?;
    volumes(shared, record)?;
    if let Some(other) = shared.joined(&record.host.network_mode)? {
        let view = other.view();
        if !view.is_running() {
            return Err(conflict(format!("cannot join network of a non running container: {}", other.id())));
        }
        around.network_of = Some(view.pid);
        // It has the other container's names too.
        around.files = shared.dir(other.id());
        return Ok(around);
    }
    network(shared, record, run, &mut around)?;
    Ok(around)
}

/// `/dev/shm` of a container that shares it is a tmpfs on the host, because a mount of one container's namespace cannot
/// be bound into another's.
fn shared_memory(shared: &Shared, record: &ContainerRecord) -> Result<Option<PathBuf>> {
    use rustix::mount::MountFlags;
    if let Some(other) = shared.joined(&record.host.ipc_mode)? {
        return Ok(Some(shared.run_dir(other.id()).join(SHM)));
    }
    if record.host.ipc_mode != "shareable" {
        return Ok(None);
    }
    let dir = shared.run_dir(&record.id).join(SHM);
    make_dir(&dir, 0o755)?;
    let failed = |e: rustix::io::Errno| Error::io(format!("mount {}", dir.display()), e);
    let options = format!("mode=1777,size={}", record.host.shm_size);
    let options =
        std::ffi::CString::new(options).map_err(|e| Error::io("mount options", std::io::Error::other(e)))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("shm", &dir, "tmpfs", flags, Some(options.as_c_str())).map_err(failed)?;
    Ok(Some(dir))
}

fn joined_pid(shared: &Shared, mode: &str, what: &str) -> Result<Option<i32>> {
    let Some(other) = shared.joined(mode)? else { return Ok(None) };
    let view = other.view();
    if !view.is_running() {
        return Err(conflict(format!(
            "cannot join {what} namespace of a non running container: {}",
            other.id()
        )));
    }
    if what == "IPC" && view.record.host.ipc_mode != "shareable" {
        return Err(invalid(format!(
            "cannot join IPC of a container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
            other.id()
        )));
    }
    Ok(Some(view.pid))
}

/// Volumes are there and mounted; missing bind sources are made where that was asked for.
fn volumes(shared: &Shared, record: &ContainerRecord) -> Result<()> {
    for mount in record.mounts.iter() {
        match mount.kind {
            MountKind::Volume => {
                let path = shared.volumes.use_volume(&mount.name, record.id.as_str())?;
                if !mount.subpath.is_empty() {
                    subpath(&path, &mount.subpath)?;
                }
            }
            MountKind::Bind => {
                let path = Path::new(&mount.source);
                if path.exists() {
                    continue;
                }
                if !mount.create_source {
                    return Err(invalid(format!(
                        "invalid mount config for type \"bind\": bind source path does not exist: {}",
                        mount.source
                    )));
                }
                std::fs::create_dir_all(path).map_err(|e| {
                    Error::io(
                        format!("error while creating mount source path '{0}': mkdir {0}", mount.source),
                        e,
                    )
                })?;
            }
            MountKind::Tmpfs => {}
        }
    }
    Ok(())
}

/// A directory in a volume must be in the volume, links or not.
fn subpath(volume: &Path, sub: &str) -> Result<()> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
    let full = volume.join(sub);
    let root = openat(CWD, volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::io(format!("open {}", volume.display()), e))?;
    let flags = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(&root, sub, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), flags).map_err(|e| {
        let why = match e {
            rustix::io::Errno::NOENT => "no such file or directory".to_owned(),
            rustix::io::Errno::XDEV | rustix::io::Errno::LOOP => "path escapes from the volume".to_owned(),
            other => other.to_string(),
        };
        not_found(format!("cannot access path {0}: lstat {0}: {why}", full.display()))
    })?;
    Ok(())
}

fn network(
    shared: &Shared,
    record: &ContainerRecord,
    run: &mut Run,
    around: &mut Surroundings,
) -> Result<()> {
    let host = &record.host;
    let failed = |e: Error| Error::Net {
        kind: e.kind(),
        text: format!("failed to set up container networking: {}", e.chain()),
    };
    let mut wanted = Vec::new();
    for (name, settings) in record.networks.iter() {
        wanted.push((shared.networks.find(name).map_err(failed)?, settings.clone()));
    }
    // The network of `--network` first: it becomes eth0.
    let primary = shared.networks.find(&host.network_mode).map(|e| e.id).ok();
    wanted.sort_by_key(|(entry, _)| Some(&entry.id) != primary.as_ref());
    let own = host.network_mode != "host";
    let user =
        wanted.iter().any(|(e, _)| e.plan.as_ref().is_some_and(corten_net::NetworkRecord::resolves_names));
    let resolution = resolv_conf(shared, record, own, user);
    run.upstreams = resolution
        .upstream
        .iter()
        .map(|ip| Upstream { address: SocketAddr::new(*ip, 53), from_host: ip.is_loopback() })
        .collect();
    if own {
        let sandbox = SandboxSpec { container: record.id.clone(), upstreams: run.upstreams.clone() };
        around.sandbox =
            Some(shared.networks.net().ensure_sandbox(sandbox).map_err(Error::from).map_err(failed)?);
        run.sandbox = true;
    }
    let published = wanted
        .iter()
        .position(|(e, _)| e.plan.as_ref().is_some_and(|p| !p.internal))
        .map(|at| wanted[at].0.id.clone());
    for (entry, settings) in &wanted {
        let ports = if published.as_ref() == Some(&entry.id) { ports(record)? } else { Vec::new() };
        let endpoint = self::attach(shared, record, entry, settings, ports).map_err(failed)?;
        Arc::make_mut(&mut run.endpoints).push(endpoint);
    }
    write_run(shared, &record.id, run)?;
    files(shared, record, run, &resolution.text)?;
    for (entry, _) in &wanted {
        shared.networks.publish("connect", entry, Some(&record.id));
    }
    Ok(())
}

/// Connects the container's sandbox to one network.
pub(crate) fn attach(
    shared: &Shared,
    record: &ContainerRecord,
    entry: &NetworkEntry,
    settings: &EndpointSettings,
    ports: Vec<PortSpec>,
) -> Result<Endpoint> {
    let id = Id::random();
    let mut endpoint = Endpoint {
        name: entry.name.clone(),
        network: entry.id.clone(),
        id: id.clone(),
        dns_names: Vec::new(),
        attached: None,
    };
    let Some(plan) = &entry.plan else { return Ok(endpoint) };
    if plan.resolves_names() {
        endpoint.dns_names = dns_names(record, settings);
    }
    let ipam = settings.ipam_config.clone().unwrap_or_default();
    let driver = |key: &str| settings.driver_opts.as_ref().and_then(|o| o.get(key)).map(String::as_str);
    let mac = [settings.mac_address.as_str(), record.config.mac_address.as_str()]
        .into_iter()
        .find(|m| !m.is_empty())
        .map(|m| m.parse().map_err(|_| invalid(format!("invalid MAC address: {m}"))))
        .transpose()?;
    let spec = EndpointSpec {
        id,
        container: record.id.clone(),
        network: entry.id.clone(),
        name: record.name.clone(),
        dns_names: endpoint.dns_names.clone(),
        ipv4: ipam.ipv4_address.parse().ok(),
        ipv6: ipam.ipv6_address.parse().ok(),
        mac,
        ifname: driver("com.docker.network.endpoint.ifname").map(str::to_owned),
        gw_priority: settings.gw_priority,
        ports,
        sysctls: driver("com.docker.network.endpoint.sysctls")
            .map(|s| s.split(',').map(str::to_owned).collect())
            .unwrap_or_default(),
    };
    endpoint.attached = Some(shared.networks.net().attach(spec)?);
    Ok(endpoint)
}

/// Names that others find it by: name, aliases, short id, host name; each once.
fn dns_names(record: &ContainerRecord, settings: &EndpointSettings) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let short = record.id.short().to_owned();
    let all = std::iter::once(record.name.clone())
        .chain(settings.aliases.iter().flatten().cloned())
        .chain([short, record.config.hostname.clone()]);
    for name in all.filter(|n| !n.is_empty()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// What is to be published: bindings, and with `--publish-all` the exposed ports without one.
pub(crate) fn ports(record: &ContainerRecord) -> Result<Vec<PortSpec>> {
    let protocol = |p: &str| match p {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        other => Err(invalid(format!("invalid proto: {other:?}"))),
    };
    let mut list = Vec::new();
    for (port, bindings) in &record.host.port_bindings {
        let any = [corten_wire::api::port::PortBinding::default()];
        let given = bindings.as_deref().unwrap_or_default();
        for binding in if given.is_empty() { &any[..] } else { given } {
            list.push(PortSpec {
                container_port: port.number(),
                protocol: protocol(port.protocol())?,
                host_ip: binding.host_ip.parse().ok(),
                host_ports: validate::parse_host_port(&binding.host_port)
                    .ok_or_else(|| invalid(format!("invalid port specification: {:?}", binding.host_port)))?,
            });
        }
    }
    if record.host.publish_all_ports {
        for port in record.config.exposed_ports.keys().filter(|p| !record.host.port_bindings.contains_key(p))
        {
            list.push(PortSpec {
                container_port: port.number(),
                protocol: protocol(port.protocol())?,
                host_ip: None,
                host_ports: (0, 0),
            });
        }
    }
    Ok(list)
}

fn resolv_conf(shared: &Shared, record: &ContainerRecord, own: bool, user: bool) -> hosts::Resolution {
    let daemon = &shared.config;
    let host = std::fs::read_to_string(&daemon.resolv_conf).unwrap_or_default();
    let choose = |own: &Option<Vec<String>>, default: &[String]| match own.as_deref() {
        None | Some([]) => default.to_vec(),
        Some(list) => list.to_vec(),
    };
    let h = &record.host;
    let (servers, search, options) = (
        choose(&h.dns, &daemon.dns),
        choose(&h.dns_search, &daemon.dns_search),
        choose(&h.dns_options, &daemon.dns_options),
    );
    let dns = DnsOptions { servers: &servers, search: &search, options: &options };
    if user {
        hosts::embedded(&host, &dns)
    } else {
        hosts::plain(&host, &dns, own && h.network_mode != "none")
    }
}

/// Writes hosts, hostname and resolv.conf.
fn files(shared: &Shared, record: &ContainerRecord, run: &Run, resolv: &str) -> Result<()> {
    let dir = shared.dir(&record.id);
    let own: Vec<IpAddr> = run
        .endpoints
        .iter()
        .filter_map(|e| e.attached.as_ref())
        .flat_map(|e| e.ipv4.map(IpAddr::V4).into_iter().chain(e.ipv6.map(IpAddr::V6)))
        .collect();
    let mut extra = Vec::new();
    for entry in record.host.extra_hosts.iter().flatten() {
        let Some((name, address)) = entry.split_once([':', '=']) else { continue };
        let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
        match address {
            "host-gateway" => extra.extend(host_gateway(shared).map(|ip| (name.to_owned(), ip))),
            address => extra.extend(address.parse().ok().map(|ip| (name.to_owned(), ip))),
        }
    }
    extra.extend(links(shared, record, run));
    let c = &record.config;
    let mut text = hosts::hosts(&extra, &own, &c.hostname, &c.domainname);
    if record.host.network_mode == "host" {
        // COMPAT: on the host's network the names are the host's.
        let host = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        let lines: String = extra.iter().map(|(n, a)| format!("{a}\t{n}\n")).collect();
        text = format!("{host}{lines}");
    }
    for (name, text) in
        [("hosts", text.as_str()), ("hostname", &format!("{}\n", c.hostname)), ("resolv.conf", resolv)]
    {
        // In place, not by rename: a running container that joined our network has the old file mounted.
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|e| Error::io(format!("write {}", path.display()), e))?;
    }
    Ok(())
}

/// Names of an endpoint's links (`container:alias`): the address that the other container has on that network now.
fn links(shared: &Shared, record: &ContainerRecord, run: &Run) -> Vec<(String, IpAddr)> {
    let mut names = Vec::new();
    for endpoint in run.endpoints.iter() {
        let wanted = record.networks.get(&endpoint.name).and_then(|s| s.links.as_deref()).unwrap_or_default();
        for link in wanted {
            let (name, alias) = link.split_once(':').unwrap_or((link, link));
            // One that is not there (yet) has no address, as in Docker.
            let Ok(other) = shared.find(name) else { continue };
            let view = other.view();
            let attached = view
                .endpoints
                .iter()
                .find(|e| e.network == endpoint.network)
                .and_then(|e| e.attached.as_ref());
            if let Some(address) = attached.and_then(|a| a.ipv4.map(IpAddr::V4).or(a.ipv6.map(IpAddr::V6))) {
                names.push((alias.to_owned(), address));
            }
        }
    }
    names
}

fn host_gateway(shared: &Shared) -> Option<IpAddr> {
    shared.config.host_gateway.or_else(|| {
        let bridge = shared.networks.find("bridge").ok()?;
        bridge.plan?.ipam.iter().find_map(|c| c.gateway)
    })
}

fn start(
    shared: &Shared,
    record: &ContainerRecord,
    around: &Surroundings,
    attach: Vec<(Attach, OwnedFd)>,
) -> Result<(Shim, Started)> {
    let built = spec::assemble(record, &shared.config, around)?;
    let (wants, streams): (Vec<Attach>, Vec<OwnedFd>) = attach.into_iter().unzip();
    let (c, h) = (&record.config, &record.host);
    let bootstrap = Bootstrap {
        version: shim::VERSION,
        id: record.id.to_string(),
        dir: shared.run_dir(&record.id),
        spec: Box::new(built.spec),
        rootfs: Rootfs::Overlay {
            lowers: record.rootfs.lowers.clone(),
            upper: Some(record.rootfs.upper.clone()),
            work: Some(record.rootfs.work.clone()),
        },
        user: Some(UserSpec { user: c.user.clone(), group_add: h.group_add.clone().unwrap_or_default() }),
        init: h.init.unwrap_or(shared.config.init),
        default_seccomp: built.default_seccomp,
        stdin: Stdin { open: c.open_stdin, once: c.stdin_once },
        logging: logging(shared, record)?,
        attach: wants,
    };
    shared.launcher.spawn(shared.monitor(), &bootstrap, streams).map_err(|e| match e {
        ShimError::Fault(fault) => match fault.exit_code {
            126 | 127 => Error::Start { text: fault.message, exit_code: fault.exit_code },
            _ => Error::Refused {
                kind: if fault.kind == Kind::NotFound { Kind::Internal } else { fault.kind },
                text: fault.message,
            },
        },
        other => Error::Refused {
            kind: other.kind(),
            text: format!("failed to create task for container: {}", crate::error::chain(&other)),
        },
    })
}

fn logging(shared: &Shared, record: &ContainerRecord) -> Result<Logging> {
    let options = merge::log_options(&record.host.log_config, &record.config)?;
    let path = shared.paths(&record.id, &record.host.log_config.kind).log;
    if let Some(dir) = path.parent() {
        make_dir(dir, 0o710)?;
    }
    Ok(Logging {
        driver: options.driver,
        path,
        max_size: options.max_size,
        max_file: options.max_file,
        compress: options.compress,
        attrs: options.attrs,
    })
}

/// Ends what is left in the container's control group and removes it: the shim could not.
pub(crate) fn destroy_cgroup(shared: &Shared, record: &ContainerRecord) {
    let Ok(group) = corten_runtime::cgroup::Cgroup::at(&spec::cgroup_path(record, &shared.config)) else {
        return;
    };
    group.kill_all(crate::signal::KILL);
    if let Err(error) = group.destroy() {
        tracing::warn!(container.id = %record.id, %error, "control group cannot be removed");
    }
}

/// Takes away what a run needed. Never fails: what is left is named by the container's id and swept later.
pub(crate) fn clean_up(shared: &Shared, record: &ContainerRecord, run: &Run) {
    let net = shared.networks.net();
    for endpoint in run.endpoints.iter().filter_map(|e| e.attached.as_ref()) {
        if let Err(error) = net.detach(endpoint) {
            tracing::warn!(container.id = %record.id, %error, "endpoint cannot be detached");
        }
    }
    if run.sandbox
        && let Err(error) = net.ensure_no_sandbox(&record.id)
    {
        tracing::warn!(container.id = %record.id, %error, "sandbox cannot be removed");
    }
    shared.volumes.unuse(record.id.as_str());
    if record.host.ipc_mode == "shareable" {
        // Not mounted is as good; who joined it has a mount of its own.
        let dir = shared.run_dir(&record.id).join(SHM);
        rustix::mount::unmount(&dir, rustix::mount::UnmountFlags::DETACH).ok();
    }
    corten_base::fs::ensure_absent(&shared.run_dir(&record.id).join(RUN)).ok();
}

/// Removes a container. The record goes first: what a crash leaves has no record, and is swept. Its files go behind
/// the caller's back: nothing else can use their names, and a full layer takes long.
pub(crate) fn delete(shared: &Arc<Shared>, record: &ContainerRecord, volumes: bool) -> Result<()> {
    let id = record.id.as_str();
    // The record of a transient container may come back after a power cut, and is removed again then.
    let commit = if record.host.auto_remove { Commit::Lazy } else { Commit::Durable };
    shared.db.write::<_, Error>(commit, |w| {
        w.remove(CONTAINERS, id)?;
        w.remove(STATES, id)?;
        if let Some(image) = &record.image {
            shared.images.release(w, image, id)?;
        }
        Ok(())
    })?;
    failpoint!("engine.remove.after_record");
    corten_base::fs::ensure_absent(&shared.run_dir(&record.id).join(TRANSIENT)).ok();
    shared.volumes.release(id);
    if volumes {
        for mount in record.mounts.iter().filter(|m| m.anonymous) {
            // In use by another container (`--volumes-from`): it stays.
            let _in_use = shared.volumes.remove(&mount.name, true);
        }
    }
    shared.forget(&record.id, &record.name);
    let (shared, id) = (shared.clone(), record.id.clone());
    tokio::runtime::Handle::current().spawn_blocking(move || delete_files(&shared, &id));
    Ok(())
}

fn delete_files(shared: &Shared, id: &Id) {
    let mut failures = Vec::new();
    if let Err(error) = shared.images.snapshots().remove(id.as_str()) {
        failures.push(crate::error::chain(&error));
    }
    for dir in [shared.dir(id), shared.run_dir(id)] {
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                failures.push(format!("remove {}: {e}", dir.display()))
            }
            _ => {}
        }
    }
    if !failures.is_empty() {
        let failures = failures.join("; ");
        tracing::warn!(container.id = %id, failures, "files of a removed container are left for the sweeper");
    }
}

/// Ends what runs without a record, and removes its directory.
pub(crate) fn sweep_orphan(shared: &Shared, id: &Id) {
    let dir = shared.run_dir(id);
    if let Ok((shim, _)) = Shim::connect(shared.monitor(), id.as_str(), &dir) {
        tracing::warn!(container.id = %id, "a container without a record is ended");
        shim.kill(crate::signal::KILL, true).ok();
        shim.ack();
    }
    std::fs::remove_dir_all(&dir).ok();
}

/// Checks the wanted endpoints of a new container against the networks that are there.
pub(crate) fn check_endpoints(shared: &Shared, wanted: &BTreeMap<String, EndpointSettings>) -> Result<()> {
    for (name, settings) in wanted {
        check_endpoint(shared, name, settings)?;
    }
    Ok(())
}

pub(crate) fn check_endpoint(shared: &Shared, name: &str, settings: &EndpointSettings) -> Result<()> {
    let prefix = |text: String| invalid(format!("invalid config for network {name}: {text}"));
    let ipam = settings.ipam_config.clone().unwrap_or_default();
    let addresses: Vec<IpAddr> =
        [&ipam.ipv4_address, &ipam.ipv6_address].into_iter().filter_map(|a| a.parse().ok()).collect();
    if networks::is_predefined(name) && name != "bridge" && !addresses.is_empty() {
        return Err(prefix(
            "invalid endpoint settings:\nuser-specified IP address is supported on user-defined networks only".into(),
        ));
    }
    if networks::is_predefined(name) && settings.aliases.as_ref().is_some_and(|a| !a.is_empty()) {
        return Err(prefix(
            "invalid endpoint settings:\nnetwork-scoped aliases are only supported for user-defined networks"
                .into(),
        ));
    }
    if let Ok(entry) = shared.networks.find(name)
        && let Some(plan) = entry.plan
    {
        plan.validate_addresses(&addresses).map_err(|e| prefix(e.to_string()))?;
    }
    Ok(())
}
