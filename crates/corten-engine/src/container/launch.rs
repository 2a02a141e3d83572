//! The effects that touch the host: launch, clean-up, deletion. Blocking; every one is "ensure" and has an inverse.
//!
//! ```text
//!  launch:  run dir ─▶ volumes ─▶ sandbox ─▶ endpoints ─▶ files ─▶ shim        (a failure undoes what was done)
//!  clean up:                      endpoints ◀─ sandbox ◀─ volumes              (the run dir stays: exit.json is there)
//!  delete:  record ─▶ writable layer ─▶ directories ─▶ volumes
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use corten_base::db::Commit;
use corten_base::fs::{Durability, replace};
use corten_base::{Id, Kind};
use corten_net::Upstream;
use corten_runtime::client::{Reconnected, Shim, ShimError};
use corten_wire::shim::{self, Attach, Bootstrap, ForeignRuntime, Logging, Rootfs, Started, Stdin, UserSpec};
use serde::{Deserialize, Serialize};

use super::network;
use super::phase::Exit;
use crate::config::{BUILT_IN_RUNTIMES, EngineConfig, UserMap};
use crate::error::{Error, Result, conflict, invalid, not_found};
use crate::failpoint::failpoint;
use crate::forward::Forwarder;
use crate::record::{CONTAINERS, ContainerRecord, MountKind, MountRecord, STATES, StateRecord};
use crate::shared::Shared;
use crate::spec::Surroundings;
use crate::view::Endpoint;
use crate::{apparmor, devices, selinux, spec, userns};

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

/// Whether a run was not cleaned up after: the last thing that [`clean_up`] does is to remove its description.
pub(crate) fn was_left_running(dir: &Path) -> bool {
    dir.join(RUN).exists()
}

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

/// How a run begins.
#[derive(Debug)]
pub(crate) struct Begin {
    /// Clients that get the first byte.
    pub(crate) attach: Vec<(Attach, OwnedFd)>,
    /// Somebody asked for it.
    pub(crate) by_hand: bool,
    /// From these images of a checkpoint.
    pub(crate) restore: Option<PathBuf>,
}

/// Makes everything a run needs and starts it.
pub(crate) fn launch(shared: &Arc<Shared>, record: &ContainerRecord, begin: Begin) -> Result<Launched> {
    // COMPAT: a receiver that is not there fails a start, but not a restart by policy.
    let job = delivery(shared, record, begin.by_hand)?;
    let dir = shared.run_dir(&record.id);
    make_dir(&dir, 0o711)?;
    for name in [shim::EXIT_NAME, shim::SOCKET_NAME, shim::SHIM_NAME, RUN] {
        corten_base::fs::ensure_absent(&dir.join(name))?;
    }
    let mut run = Run::default();
    let started = prepare(shared, record, &mut run).and_then(|around| {
        failpoint!("engine.start.after_network");
        start(shared, record, &around, begin)
    });
    match started {
        Ok((shim, started)) => {
            deliver(shared, record, job);
            shared.volumes.publish_mounts(record);
            Ok(Launched { shim, started, run })
        }
        Err(error) => {
            clean_up(shared, record, &run);
            Err(error)
        }
    }
}

fn prepare(shared: &Shared, record: &ContainerRecord, run: &mut Run) -> Result<Surroundings> {
    let _timer = corten_base::metrics::NETWORK_ALLOCATE.timer();
    let mut around = Surroundings {
        files: shared.dir(&record.id),
        mount_files: true,
        pid_of: joined_pid(shared, &record.host.pid_mode, "PID")?,
        ipc_of: joined_pid(shared, &record.host.ipc_mode, "IPC")?,
        ..Surroundings::default()
    };
    // COMPAT: namespaces belong to a user namespace: who shares one of them shares that.
    around.users_of = around.pid_of.or(around.ipc_of);
    make_dir(&around.files, 0o710)?;
    around.shm = shared_memory(shared, record)?;
    around.plain_volumes = volumes(shared, record)?;
    if let Some(other) = shared.joined(&record.host.network_mode)? {
        let view = other.view();
        if !view.is_running() {
            return Err(conflict(format!("cannot join network of a non running container: {}", other.id())));
        }
        around.network_of = Some(view.pid);
        around.users_of = Some(view.pid);
        // It has the other container's names too.
        around.files = shared.dir(other.id());
        return Ok(around);
    }
    network::join(shared, record, run, &mut around)?;
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

/// Labels what the container is to use of the host's files.
fn label(record: &ContainerRecord, around: &Surroundings) -> Result<()> {
    let label = &record.mount_label;
    if label.is_empty() {
        return Ok(());
    }
    if around.mount_files {
        for name in ["resolv.conf", "hostname", "hosts"] {
            // Those of another container are for both.
            selinux::relabel(&around.files.join(name), label, around.network_of.is_some())?;
        }
    }
    if let Some(shm) = &around.shm {
        selinux::relabel(shm, label, around.ipc_of.is_some())?;
    }
    record.mounts.iter().try_for_each(|m| selinux::relabel_mount(m, label))
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
fn volumes(shared: &Shared, record: &ContainerRecord) -> Result<Vec<String>> {
    let root = userns::of(&shared.config(), &record.host).and_then(UserMap::root);
    let mut plain = Vec::new();
    for mount in record.mounts.iter() {
        match mount.kind {
            MountKind::Volume => {
                let path = shared.volumes.use_volume(&mount.name, record.id.as_str())?;
                if shared.volumes.is_plain(&mount.name) {
                    plain.push(mount.name.clone());
                }
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
                make_source(path, root).map_err(|e| {
                    Error::io(
                        format!("error while creating mount source path '{0}': mkdir {0}", mount.source),
                        e,
                    )
                })?;
            }
            MountKind::Tmpfs => {}
            MountKind::Image => image(shared, mount)?,
        }
    }
    Ok(plain)
}

/// Mounts an image at its place in the run directory.
fn image(shared: &Shared, mount: &MountRecord) -> Result<()> {
    let gone = || Error::NoSuchImage(mount.name.clone());
    let image = mount.image.as_ref().and_then(|id| shared.images.get(id)).ok_or_else(gone)?;
    let tree = shared.images.snapshots().mount_files(&image.layers())?;
    let place = Path::new(&mount.source);
    make_dir(place, 0o755)?;
    let failed = |e: std::io::Error| Error::io(format!("mount image {}", mount.name), e);
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let target = rustix::fs::open(place, flags, rustix::fs::Mode::empty()).map_err(|e| failed(e.into()))?;
    corten_sys::mount::attach(tree.as_fd(), target.as_fd()).map_err(failed)?;
    if mount.subpath.is_empty() { Ok(()) } else { subpath(place, &mount.subpath) }
}

/// Makes the directories of a path that are not there; `owner` is the container's root where that is not ours.
fn make_source(path: &Path, owner: Option<(u32, u32)>) -> std::io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|p| !p.exists()).collect();
    std::fs::create_dir_all(path)?;
    if let Some((uid, gid)) = owner {
        for dir in missing {
            std::os::unix::fs::chown(dir, Some(uid), Some(gid))?;
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

fn start(
    shared: &Shared,
    record: &ContainerRecord,
    around: &Surroundings,
    begin: Begin,
) -> Result<(Shim, Started)> {
    let mut built = spec::assemble(record, &shared.config(), around)?;
    if built.spec.process.as_ref().is_some_and(|p| p.apparmor_profile == apparmor::DEFAULT) {
        apparmor::ensure_default()?;
    }
    label(record, around)?;
    let devices = devices::inject(
        &mut built.spec,
        record.host.device_requests.as_deref().unwrap_or_default(),
        &shared.config().cdi_dirs,
        record.config.user.split(':').next().and_then(|u| u.parse().ok()).filter(|uid| *uid != 0),
    )?;
    let (wants, mut streams): (Vec<Attach>, Vec<OwnedFd>) = begin.attach.into_iter().unzip();
    streams.extend(name_sockets(shared, &record.id));
    let (c, h) = (&record.config, &record.host);
    let mut group_add = h.group_add.clone().unwrap_or_default();
    group_add.extend(devices.groups.iter().map(u32::to_string));
    let runtime = foreign_runtime(&shared.config(), &h.runtime)?
        // Hooks belong to the OCI command line: the shim runs the container by its own.
        .or_else(|| devices.hooks.then(ForeignRuntime::own_command_line));
    if runtime.is_some() && userns::of(&shared.config(), h).is_some() {
        return Err(invalid(
            "user namespaces are supported by the built-in runtime only: use --userns=host for another runtime or for CDI devices with hooks",
        ));
    }
    let bootstrap = Bootstrap {
        version: shim::VERSION,
        id: record.id.to_string(),
        dir: shared.run_dir(&record.id),
        spec: Box::new(built.spec),
        rootfs: Rootfs::Overlay {
            lowers: record.rootfs.lowers.to_vec(),
            upper: Some(record.rootfs.upper.clone()),
            work: Some(record.rootfs.work.clone()),
            // The next daemon after a power cut removes it, see ARCHITECTURE.md.
            volatile: h.auto_remove || record.build_step,
        },
        user: Some(UserSpec { user: c.user.clone(), group_add }),
        init: h.init.unwrap_or(shared.config().init),
        default_seccomp: built.default_seccomp,
        runtime,
        restore: begin.restore,
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

/// The program of a runtime that is not ours.
fn foreign_runtime(daemon: &EngineConfig, name: &str) -> Result<Option<ForeignRuntime>> {
    if name.is_empty() || BUILT_IN_RUNTIMES.contains(&name) {
        return Ok(None);
    }
    // It was known when the container was made.
    let runtime = daemon
        .runtimes
        .get(name)
        .ok_or_else(|| invalid(format!("unknown or invalid runtime name: {name}")))?;
    let path = find_program(&runtime.path).ok_or_else(|| Error::Start {
        text: format!(
            "failed to create task for container: failed to create shim task: OCI runtime create failed: \
             exec: {:?}: executable file not found in $PATH",
            runtime.path
        ),
        exit_code: 127,
    })?;
    Ok(Some(ForeignRuntime { path, args: runtime.args.clone() }))
}

/// A path as it is, a name in `PATH`.
fn find_program(name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    if name.contains('/') {
        return std::path::absolute(name).ok();
    }
    let is_program =
        |p: &PathBuf| std::fs::metadata(p).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(is_program)
}

/// How the container's output is recorded.
fn logging(shared: &Shared, record: &ContainerRecord) -> Result<Logging> {
    let (options, info) = log_options(record)?;
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
        attrs: options.record_attributes(&info)?,
        hold: options.hold.then(|| shared.dir(&record.id).join(corten_logs::CURSOR)),
    })
}

fn log_options(record: &ContainerRecord) -> Result<(corten_logs::Options, corten_logs::Info)> {
    let config = &record.config;
    let log = &record.host.log_config;
    let (path, args) = crate::view::command(record);
    let info = corten_logs::Info {
        id: record.id.to_string(),
        name: record.name.clone(),
        image_id: record.image.as_ref().map(ToString::to_string).unwrap_or_default(),
        image_name: config.image.clone(),
        command: std::iter::once(path).chain(args).collect(),
        created: corten_base::time::rfc3339_nano(i128::from(record.created_ns)),
        env: config.env.clone().unwrap_or_default(),
        labels: config.labels.clone().unwrap_or_default(),
        options: log.config.clone(),
    };
    Ok((corten_logs::Options::parse(&log.kind, &log.config)?, info))
}

/// Whether its log goes elsewhere. Most do not.
pub(crate) fn has_receiver(record: &ContainerRecord) -> bool {
    !matches!(record.host.log_config.kind.as_str(), "json-file" | "local" | "none")
}

/// The delivery of its log to the driver's receiver, if it has one. `probe`: the receiver must be there.
pub(crate) fn delivery(
    shared: &Shared,
    record: &ContainerRecord,
    probe: bool,
) -> Result<Option<corten_logs::Job>> {
    if !has_receiver(record) {
        return Ok(None);
    }
    let (options, info) = log_options(record)?;
    let path = shared.paths(&record.id, &record.host.log_config.kind).log;
    Ok(corten_logs::Job::new(&options, &info, path, probe)?)
}

/// Begins to deliver. What cannot be delivered now is when the container starts again.
pub(crate) fn deliver(shared: &Shared, record: &ContainerRecord, job: Option<corten_logs::Job>) {
    if let Some(job) = job
        && let Err(error) = shared.logs.start(record.id.as_str(), job)
    {
        tracing::error!(container.id = %record.id, %error, "log is not delivered");
    }
}

/// Ends what is left in the container's control group and removes it: the shim could not.
pub(crate) fn destroy_cgroup(shared: &Shared, record: &ContainerRecord) {
    let Ok(group) = corten_runtime::cgroup::Cgroup::at(&spec::cgroup_path(record, &shared.config())) else {
        return;
    };
    group.kill_all(crate::signal::KILL);
    if let Err(error) = group.destroy() {
        tracing::warn!(container.id = %record.id, %error, "control group cannot be removed");
    }
}

/// Takes away what a run needed. Never fails: what is left is named by the container's id and swept later.
pub(crate) fn clean_up(shared: &Shared, record: &ContainerRecord, run: &Run) {
    let _timer = corten_base::metrics::NETWORK_RELEASE.timer();
    let net = shared.networks.net();
    for endpoint in run.endpoints.iter().filter_map(|e| e.attached.as_ref()) {
        if let Some(forwarder) = Forwarder::of(shared.config().forwarder.as_ref()) {
            forwarder.close(&endpoint.ports);
        }
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
    for mount in record.mounts.iter().filter(|m| m.kind == MountKind::Image) {
        // The container has a mount of its own, as long as it lives.
        rustix::mount::unmount(&mount.source, rustix::mount::UnmountFlags::DETACH).ok();
    }
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
        for image in record.image.iter().chain(record.mounts.iter().filter_map(|m| m.image.as_ref())) {
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
    tokio::spawn(async move {
        shared.logs.drain(id.as_str()).await;
        let _ended = tokio::task::spawn_blocking(move || delete_files(&shared, &id)).await;
    });
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

/// What the shim keeps, so that questions for names wait for the next daemon.
fn name_sockets(shared: &Shared, id: &Id) -> Vec<OwnedFd> {
    shared.networks.net().name_sockets(id).unwrap_or_else(|error| {
        tracing::warn!(container.id = %id, %error, "names are not asked for while no daemon runs");
        Vec::new()
    })
}

/// Has the shim of a running container keep the sockets that [`launch`] could not give it yet.
pub(crate) fn entrust_names(shared: &Shared, id: &Id) {
    let sockets = name_sockets(shared, id);
    let borrowed: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    if !borrowed.is_empty()
        && let Err(error) = Shim::entrust(&shared.run_dir(id), &borrowed)
    {
        tracing::warn!(container.id = %id, error = crate::error::chain(&error), "names are not asked for while no daemon runs");
    }
}

/// Ends what runs without a record, and removes its directory.
pub(crate) fn sweep_orphan(shared: &Shared, id: &Id) {
    let dir = shared.run_dir(id);
    if let Ok(Reconnected { shim, .. }) = Shim::connect(shared.monitor(), id.as_str(), &dir) {
        tracing::warn!(container.id = %id, "a container without a record is ended");
        shim.kill(crate::signal::KILL, true).ok();
        shim.ack();
    }
    std::fs::remove_dir_all(&dir).ok();
}
