//! Opening: what an earlier daemon left is taken over by the ordinary code, what has no record is swept.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Weak};

use corten_base::Id;
use corten_base::db::{Commit, Db};
use corten_base::event::Bus;
use corten_image::Images;
use corten_net::{Net, SandboxSpec};
use corten_runtime::cgroup::FastJoins;
use corten_runtime::client::{Event, Launcher, Monitor, News, Reconnected, Shim};
use corten_wire::shim::ShimState;
use tokio::sync::mpsc;

use super::Engine;
use super::create::save;
use crate::apparmor;
use crate::config::EngineConfig;
use crate::container::{
    self, Container, Found, Phase, Run, Start, blocking, load_run, load_state, load_transient, read_exit,
};
use crate::container::{
    WaitCondition, destroy_cgroup, has_receiver, resting, running, sweep_orphan, was_left_running,
};
use crate::error::{Error, Result};
use crate::networks::Networks;
use crate::record::{CONTAINERS, ContainerRecord, MountKind, STATES, Standing, StateRecord};
use crate::shared::{Shared, write_states};
use crate::volumes::Volumes;

const SETTLE_WITHIN: std::time::Duration = std::time::Duration::from_secs(1);
/// Threads that look for shims at most; they mostly wait for them.
const MOST_THREADS: usize = 8;

/// What was found of one container.
struct Finding {
    record: Arc<ContainerRecord>,
    state: StateRecord,
    found: Found,
    shim: Option<Shim>,
    /// What it kept: the sockets of its names.
    kept: Vec<OwnedFd>,
    run: Run,
    /// It rested when the daemon ended, and nothing of its last run is left.
    at_rest: bool,
}

impl Engine {
    /// Opens the engine and recovers: connects to shims that still run, reads the exits of those that do not, gives
    /// the networks back their endpoints, sweeps what has no record, applies restart policies.
    ///
    /// # Errors
    /// Directories, database or kernel interfaces that cannot be used.
    pub async fn open(
        config: EngineConfig,
        db: Db,
        images: Images,
        net: Net,
        bus: Bus,
        launcher: Launcher,
    ) -> Result<Self> {
        let (states, queue) = mpsc::unbounded_channel();
        tokio::spawn(write_states(db.clone(), queue));
        let (shared, findings) = blocking(move || {
            for dir in [config.root.join("containers"), config.exec_root.join("containers")] {
                std::fs::create_dir_all(&dir)
                    .map_err(|e| Error::io(format!("create {}", dir.display()), e))?;
                use std::os::unix::fs::PermissionsExt;
                std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o711)).ok();
            }
            let networks = Networks::open(&config, net, db.clone(), bus.clone())?;
            let volumes = Volumes::open(config.root.clone(), db.clone(), bus.clone())?;
            let shared = Arc::new(Shared::new(config, db, images, bus, networks, volumes, launcher, states));
            let sink = sink(Arc::downgrade(&shared));
            let monitor =
                Monitor::start(sink).map_err(|e| Error::io("start the thread that listens to shims", e))?;
            shared.monitor.set(monitor).map_err(|_| Error::ShuttingDown)?;
            if shared.config().fast_joins {
                let joins = FastJoins::on().map_err(|e| Error::io("switch favordynmods on", e))?;
                shared.joins.set(joins).map_err(|_| Error::ShuttingDown)?;
            }
            if apparmor::has_default() {
                apparmor::ensure_default()?;
            }
            let findings = look(&shared)?;
            Ok((shared, findings))
        })
        .await?;
        let engine = Self { shared };
        let (containers, ended) = engine.take_over(findings);
        settle(ended).await;
        tokio::spawn(restart(containers));
        Ok(engine)
    }

    /// Gives every container its task. Those that may have to be started, and those that are not as the record says.
    fn take_over(&self, findings: Vec<Finding>) -> (Vec<Container>, Vec<Container>) {
        let (mut containers, mut ended) = (Vec::new(), Vec::new());
        for Finding { record, state, found, shim, run, at_rest, .. } in findings {
            // A name that two records have is a damaged database: the second one gets another.
            let name = record.name.clone();
            let phase = match state.standing {
                Standing::Created | Standing::Exited => resting(&state),
                Standing::Running => running(&state),
                Standing::Removing => Phase::Removing,
            };
            let transient = record.host.auto_remove;
            let was_running = matches!(state.standing, Standing::Running);
            let found_now = (!at_rest).then_some((found, shim, run));
            let start = Start { record, state, phase, found: found_now };
            let container = container::spawn(&self.shared, start);
            self.shared.insert(&name, container.clone());
            if was_running && !matches!(found, Found::Alive { .. }) {
                ended.push(container.clone());
            }
            if transient && !matches!(found, Found::Alive { .. }) {
                let gone = container.clone();
                tokio::spawn(async move {
                    let options = crate::RemoveOptions { force: true, volumes: true, link: false };
                    // Recovery itself removes it where its exit was found.
                    let _already = gone.remove(options).await;
                });
                continue;
            }
            if container.view().record.host.restart_policy.restarts() {
                containers.push(container);
            }
        }
        (containers, ended)
    }
}

/// Waits until nobody is shown as running who has ended with the last daemon: the first client of this one may ask for
/// just that. A thousand of them need not hold it up for longer.
async fn settle(ended: Vec<Container>) {
    let settled = async {
        for container in ended {
            container.wait(WaitCondition::NotRunning).await;
        }
    };
    let _in_time = tokio::time::timeout(SETTLE_WITHIN, settled).await;
}

/// Applies restart policies, side by side; those that join another container's namespaces or are linked
/// to it after the others.
async fn restart(containers: Vec<Container>) {
    let joins = |c: &Container| {
        let view = c.view();
        let h = &view.record.host;
        [&h.network_mode, &h.pid_mode, &h.ipc_mode].iter().any(|m| m.starts_with("container:"))
            || !view.record.links.is_empty()
    };
    let (later, first): (Vec<_>, Vec<_>) = containers.into_iter().partition(joins);
    for group in [first, later] {
        let mut starting = tokio::task::JoinSet::new();
        for container in group {
            starting.spawn(async move { container.daemon_ready().await });
        }
        while starting.join_next().await.is_some() {}
    }
}

/// Brings the monitor's news to tasks and execs. Runs on the monitor's thread: only sends.
fn sink(shared: Weak<Shared>) -> impl Fn(Event) + Send + 'static {
    move |event| {
        let Some(shared) = shared.upgrade() else { return };
        if let News::ExecExited { id, code } = &event.news {
            let exec = shared.execs().get(id).cloned();
            if let Some(exec) = exec {
                exec.exited(*code);
            }
            return;
        }
        let container = event.container.parse::<Id>().ok().and_then(|id| shared.get(&id));
        if let Some(container) = container {
            container.tell(event.news);
        }
    }
}

/// Loads records, looks for shims and exits, restores networks, sweeps.
fn look(shared: &Shared) -> Result<Vec<Finding>> {
    let mut states: BTreeMap<String, StateRecord> = shared.db.all(STATES)?.into_iter().collect();
    let known: Vec<_> = records(shared)?
        .into_iter()
        .map(|(id, record)| {
            let stored = states.remove(&id);
            (id, record, stored)
        })
        .collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    let mut findings = std::thread::scope(|scope| {
        let parts = known.chunks(known.len().div_ceil(threads).max(1));
        let parts: Vec<_> = parts.map(|part| scope.spawn(|| find(shared, part))).collect();
        parts.into_iter().flat_map(|part| part.join().expect("looking does not panic")).collect::<Vec<_>>()
    });
    restore_networks(shared, &mut findings)?;
    sweep(shared, &findings, states.into_keys().collect())?;
    Ok(findings)
}

/// What is there of each of these. All shims are greeted before the first is heard, so that they wake side by side.
fn find(shared: &Shared, known: &[(String, Arc<ContainerRecord>, Option<StateRecord>)]) -> Vec<Finding> {
    let greeted: Vec<_> = known.iter().map(|(_, r, _)| Shim::greet(&shared.run_dir(&r.id))).collect();
    known
        .iter()
        .zip(greeted)
        .map(|((id, record, stored), greeted)| {
            let shim = greeted.and_then(|greeted| greeted.answer(shared.monitor(), id)).ok();
            find_one(shared, id, Arc::clone(record), stored.clone(), shim)
        })
        .collect()
}

fn find_one(
    shared: &Shared,
    id: &str,
    record: Arc<ContainerRecord>,
    stored: Option<StateRecord>,
    shim: Option<Reconnected>,
) -> Finding {
    let dir = shared.run_dir(&record.id);
    let (shim, state, kept) = match shim {
        Some(Reconnected { shim, state, kept }) => (Some(shim), Some(state), kept),
        None => (None, None, Vec::new()),
    };
    let found = match state {
        Some(ShimState { exit: Some(exit), .. }) => Found::Ended(container::phase_exit(exit)),
        Some(state) => Found::Alive {
            pid: state.started.pid,
            started: i128::from(state.started.started_at),
            paused: state.paused,
        },
        None => read_exit(&dir).map_or(Found::Nothing, Found::Ended),
    };
    if matches!(found, Found::Nothing) && dir.exists() {
        // Its shim may have been killed together with the daemon.
        destroy_cgroup(shared, &record);
    }
    let alive = matches!(found, Found::Alive { .. });
    let run = if alive { load_run(&dir) } else { Run::default() };
    let volumes = record.mounts.iter().filter(|m| m.kind == MountKind::Volume).map(|m| m.name.clone());
    shared.volumes.hold(id, volumes);
    let state = load_state(&dir).or(stored).unwrap_or_default();
    let at_rest = shim.is_none()
        && !has_receiver(&record)
        && match (state.standing, found) {
            (Standing::Created | Standing::Exited, Found::Nothing) => !dir.exists(),
            (Standing::Exited, Found::Ended(exit)) => {
                exit.at == i128::from(state.finished_ns) && !was_left_running(&dir)
            }
            _ => false,
        };
    Finding { record, state, found, shim, kept, run, at_rest }
}

/// All records: those of the database, and transient ones that it had not written yet.
fn records(shared: &Shared) -> Result<BTreeMap<String, Arc<ContainerRecord>>> {
    let mut records = BTreeMap::new();
    shared.db.each(CONTAINERS, |id, record: ContainerRecord| {
        records.insert(id.to_owned(), Arc::new(shared.compact(record)));
    })?;
    for id in ids(&shared.config().exec_root.join("containers")) {
        if records.contains_key(id.as_str()) {
            continue;
        }
        if let Some(record) = load_transient(&shared.run_dir(&id)) {
            match save(shared, &record, Commit::Durable) {
                Ok(()) => {
                    records.insert(id.to_string(), Arc::new(record));
                }
                Err(error) => tracing::warn!(container.id = %id, error = error.chain(), "container is lost"),
            }
        }
    }
    Ok(records)
}

fn ids(dir: &Path) -> Vec<Id> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

fn restore_networks(shared: &Shared, findings: &mut [Finding]) -> Result<()> {
    let endpoints: Vec<_> =
        findings.iter().flat_map(|f| f.run.endpoints.iter().filter_map(|e| e.attached.clone())).collect();
    let sandboxes: Vec<_> = findings
        .iter()
        .filter(|f| f.run.sandbox)
        .map(|f| SandboxSpec {
            container: f.record.id.clone(),
            upstreams: f.run.upstreams.clone(),
            // It is there already, whoever it belongs to.
            users: None,
        })
        .collect();
    let kept = findings.iter_mut().map(|f| (f.record.id.clone(), std::mem::take(&mut f.kept))).collect();
    for error in shared.networks.net().restore(&shared.networks.plans(), &endpoints, &sandboxes, kept)? {
        tracing::warn!(%error, "network cannot be restored completely");
    }
    Ok(())
}

/// Removes what has no record: processes, directories, writable layers, states.
fn sweep(shared: &Shared, findings: &[Finding], stale: Vec<String>) -> Result<()> {
    let known: BTreeSet<&str> = findings.iter().map(|f| f.record.id.as_str()).collect();
    for id in ids(&shared.config().exec_root.join("containers")) {
        if !known.contains(id.as_str()) {
            sweep_orphan(shared, &id);
        }
    }
    for id in ids(&shared.config().root.join("containers")) {
        if !known.contains(id.as_str()) {
            std::fs::remove_dir_all(shared.dir(&id)).ok();
        }
    }
    for id in shared.images.snapshots().ids()? {
        if !known.contains(id.as_str())
            && let Err(error) = shared.images.snapshots().remove(&id)
        {
            tracing::warn!(snapshot = id, %error, "writable layer without a container cannot be removed");
        }
    }
    if !stale.is_empty() {
        shared.db.write::<_, Error>(Commit::Lazy, |w| {
            for id in &stale {
                w.remove(STATES, id)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}
