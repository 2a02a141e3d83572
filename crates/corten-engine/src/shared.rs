//! What all tasks of one engine share: owners of other facts, the index of containers, the writer of states.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
};
use std::time::{Duration, Instant};

use corten_base::Id;
use corten_base::db::{Commit, Db};
use corten_base::event::Bus;
use corten_image::Images;
use corten_runtime::cgroup::FastJoins;
use corten_runtime::client::{Launcher, Monitor};
use corten_wire::api::host_config::HostConfig;
use corten_wire::api::network::EndpointSettings;
use tokio::sync::mpsc;

use crate::config::EngineConfig;
use crate::container::Container;
use crate::error::{Error, Result, invalid};
use crate::exec::ExecEntry;
use crate::networks::Networks;
use crate::record::{ContainerRecord, MountRecord, STATES, StateRecord};
use crate::validate::Host;
use crate::view::Paths;
use crate::volumes::Volumes;

/// A state to be written when there is time.
pub(crate) type StateWrite = (Id, StateRecord);

#[derive(Debug)]
pub(crate) struct Shared {
    /// Replaced as a whole when the daemon's configuration is read again.
    config: RwLock<Arc<EngineConfig>>,
    pub(crate) db: Db,
    pub(crate) images: Images,
    pub(crate) bus: Bus,
    pub(crate) networks: Networks,
    pub(crate) volumes: Volumes,
    pub(crate) logs: corten_logs::Forwarders,
    pub(crate) launcher: Launcher,
    pub(crate) monitor: OnceLock<Monitor>,
    /// Held while the daemon runs, where it was asked for.
    pub(crate) joins: OnceLock<FastJoins>,
    pub(crate) host: Host,
    pub(crate) states: mpsc::UnboundedSender<StateWrite>,
    index: RwLock<Index>,
    hosts: Pool<HostConfig>,
    endpoints: Pool<BTreeMap<String, EndpointSettings>>,
    mounts: Pool<Vec<MountRecord>>,
    lowers: Pool<Vec<PathBuf>>,
    execs: Mutex<HashMap<String, Arc<ExecEntry>>>,
    departed: Mutex<VecDeque<(Instant, Container)>>,
}

/// How long, and how many at most, containers that removed themselves are remembered.
const DEPARTED_FOR: Duration = Duration::from_secs(10);
const MOST_DEPARTED: usize = 32;

/// Values that many containers have in common are kept once. Only the latest are compared with: containers come in
/// series.
#[derive(Debug)]
struct Pool<T>(Mutex<VecDeque<Weak<T>>>);

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: PartialEq> Pool<T> {
    const LATEST: usize = 16;

    fn share(&self, value: Arc<T>) -> Arc<T> {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = latest.iter().filter_map(Weak::upgrade).find(|known| *known == value) {
            return same;
        }
        latest.retain(|known| known.strong_count() > 0);
        latest.truncate(Self::LATEST - 1);
        latest.push_front(Arc::downgrade(&value));
        value
    }
}

#[derive(Debug, Default)]
struct Index {
    by_id: BTreeMap<Id, Container>,
    /// `None` while a creation has reserved the name.
    by_name: HashMap<String, Option<Id>>,
}

impl Shared {
    #[expect(clippy::too_many_arguments, reason = "the one place where everything comes together")]
    pub(crate) fn new(
        config: EngineConfig,
        db: Db,
        images: Images,
        bus: Bus,
        networks: Networks,
        volumes: Volumes,
        launcher: Launcher,
        states: mpsc::UnboundedSender<StateWrite>,
    ) -> Self {
        Self {
            config: RwLock::new(Arc::new(config)),
            db,
            images,
            bus,
            networks,
            volumes,
            logs: corten_logs::Forwarders::default(),
            launcher,
            monitor: OnceLock::new(),
            joins: OnceLock::new(),
            host: Host::read(),
            states,
            index: RwLock::default(),
            hosts: Pool::default(),
            endpoints: Pool::default(),
            mounts: Pool::default(),
            lowers: Pool::default(),
            execs: Mutex::default(),
            departed: Mutex::default(),
        }
    }

    /// The same record, with what it has in common with others kept once.
    pub(crate) fn compact(&self, mut record: ContainerRecord) -> ContainerRecord {
        record.host = self.hosts.share(record.host);
        record.networks = self.endpoints.share(record.networks);
        record.mounts = self.mounts.share(record.mounts);
        record.rootfs.lowers = self.lowers.share(record.rootfs.lowers);
        record
    }

    /// What is configured now.
    pub(crate) fn config(&self) -> Arc<EngineConfig> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn reconfigure(&self, change: impl FnOnce(&mut EngineConfig)) {
        let mut config = self.config.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut config));
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// By id, name, or unique prefix of the id.
    pub(crate) fn find(&self, reference: &str) -> Result<Container> {
        let index = self.read();
        let bare = reference.strip_prefix('/').unwrap_or(reference);
        if let Ok(id) = reference.parse::<Id>()
            && let Some(container) = index.by_id.get(&id)
        {
            return Ok(container.clone());
        }
        if let Some(Some(id)) = index.by_name.get(bare)
            && let Some(container) = index.by_id.get(id)
        {
            return Ok(container.clone());
        }
        let unknown = || Error::NoSuchContainer(reference.to_owned());
        if reference.is_empty() || !reference.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(unknown());
        }
        let mut matching = index.by_id.iter().filter(|(id, _)| id.as_str().starts_with(reference));
        match (matching.next(), matching.next()) {
            (Some((_, container)), None) => Ok(container.clone()),
            (Some(_), Some(_)) => Err(Error::AmbiguousId(reference.to_owned())),
            (None, _) => Err(unknown()),
        }
    }

    pub(crate) fn get(&self, id: &Id) -> Option<Container> {
        self.read().by_id.get(id).cloned()
    }

    pub(crate) fn containers(&self) -> Vec<Container> {
        self.read().by_id.values().cloned().collect()
    }

    /// Reserves a name for a container to come.
    pub(crate) fn reserve(&self, name: &str) -> Result<()> {
        let mut index = self.write();
        match index.by_name.get(name) {
            None => {
                index.by_name.insert(name.to_owned(), None);
                Ok(())
            }
            Some(owner) => Err(Error::NameInUse {
                name: name.to_owned(),
                owner: owner.as_ref().map(ToString::to_string).unwrap_or_default(),
            }),
        }
    }

    /// Gives a reserved name back.
    pub(crate) fn unreserve(&self, name: &str) {
        self.write().by_name.remove(name);
    }

    pub(crate) fn insert(&self, name: &str, container: Container) {
        let mut index = self.write();
        index.by_name.insert(name.to_owned(), Some(container.id().clone()));
        index.by_id.insert(container.id().clone(), container);
    }

    /// After a rename whose new name was reserved.
    pub(crate) fn renamed(&self, id: &Id, old: &str, new: &str) {
        let mut index = self.write();
        index.by_name.remove(old);
        index.by_name.insert(new.to_owned(), Some(id.clone()));
    }

    pub(crate) fn forget(&self, id: &Id, name: &str) {
        let mut index = self.write();
        let removed = index.by_id.remove(id);
        index.by_name.remove(name);
        drop(index);
        if let Some(container) = removed.filter(|c| c.view().record.host.auto_remove) {
            let mut departed = self.departed();
            departed.retain(|(at, _)| at.elapsed() < DEPARTED_FOR);
            departed.truncate(MOST_DEPARTED - 1);
            departed.push_front((Instant::now(), container));
        }
        self.execs().retain(|_, exec| exec.container != *id);
    }

    fn departed(&self) -> MutexGuard<'_, VecDeque<(Instant, Container)>> {
        self.departed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn forget_departed(&self, id: &Id) {
        self.departed().retain(|(_, container)| container.id() != id);
    }

    /// As [`Shared::find`], and by its whole id or name a container that has just removed itself.
    ///
    /// COMPAT: clients start a container with `--rm` and wait for it afterwards. The reference engine takes so long to
    /// remove one that they find it.
    pub(crate) fn find_late(&self, reference: &str) -> Result<Container> {
        self.find(reference).or_else(|error| {
            let bare = reference.strip_prefix('/').unwrap_or(reference);
            let is_it = |c: &Container| c.id().as_str() == reference || c.name() == bare;
            let departed = self.departed();
            let mut recent = departed.iter().filter(|(at, _)| at.elapsed() < DEPARTED_FOR);
            recent.find(|(_, c)| is_it(c)).map(|(_, c)| c.clone()).ok_or(error)
        })
    }

    pub(crate) fn execs(&self) -> MutexGuard<'_, HashMap<String, Arc<ExecEntry>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `<root>/containers/<id>`.
    pub(crate) fn dir(&self, id: &Id) -> PathBuf {
        self.config().root.join("containers").join(id.as_str())
    }

    /// `<exec-root>/containers/<id>`.
    pub(crate) fn run_dir(&self, id: &Id) -> PathBuf {
        self.config().exec_root.join("containers").join(id.as_str())
    }

    pub(crate) fn paths(&self, id: &Id, driver: &str) -> Paths {
        let dir = self.dir(id);
        let log = match driver {
            "local" => dir.join("local-logs").join("container.log"),
            _ => dir.join(format!("{id}-json.log")),
        };
        Paths { log, sandbox: self.networks.net().sandbox_path(id), dir }
    }

    pub(crate) fn monitor(&self) -> &Monitor {
        self.monitor.get().expect("set before the first container is known")
    }

    /// Remembers a state lazily.
    pub(crate) fn remember(&self, id: &Id, state: &StateRecord) {
        // The writer ends last; if it has, the daemon is going down and recovery will look again.
        let _closed = self.states.send((id.clone(), state.clone()));
    }

    /// A container that another one joins (`container:…`): it must run.
    pub(crate) fn joined(&self, mode: &str) -> Result<Option<Container>> {
        match mode.strip_prefix("container:") {
            None => Ok(None),
            Some("") => Err(invalid("invalid container format container:<name|id>")),
            Some(reference) => self.find(reference).map(Some),
        }
    }
}

/// Writes states in batches, and makes lazy commits durable within a few seconds.
pub(crate) async fn write_states(db: Db, mut queue: mpsc::UnboundedReceiver<StateWrite>) {
    const SETTLE: std::time::Duration = std::time::Duration::from_secs(5);
    // Counted from the first lazy commit: a container that restarts all the time must not put it off for ever.
    let mut until = None;
    loop {
        let next = match until {
            None => queue.recv().await,
            Some(at) => match tokio::time::timeout_at(at, queue.recv()).await {
                Ok(next) => next,
                Err(_) => {
                    commit(&db, Vec::new(), Commit::Durable).await;
                    // What a burst of work needed is not needed any more.
                    let _idle = tokio::task::spawn_blocking(corten_sys::memory::rest).await;
                    until = None;
                    continue;
                }
            },
        };
        let Some(first) = next else {
            commit(&db, Vec::new(), Commit::Durable).await;
            return;
        };
        let mut batch = vec![first];
        while let Ok(more) = queue.try_recv() {
            batch.push(more);
        }
        commit(&db, batch, Commit::Lazy).await;
        until.get_or_insert_with(|| tokio::time::Instant::now() + SETTLE);
    }
}

async fn commit(db: &Db, batch: Vec<StateWrite>, commit: Commit) {
    let db = db.clone();
    let written = tokio::task::spawn_blocking(move || {
        db.write::<_, Error>(commit, |w| {
            for (id, state) in &batch {
                w.put(STATES, id.as_str(), state)?;
            }
            Ok(())
        })
    })
    .await;
    if let Ok(Err(error)) = written {
        tracing::error!(error = error.chain(), "states of containers cannot be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_kept_once() {
        let pool: Pool<String> = Pool::default();
        let first = pool.share(Arc::new("a".to_owned()));
        for i in 0..Pool::<String>::LATEST - 1 {
            drop(pool.share(Arc::new(i.to_string())));
        }
        assert!(Arc::ptr_eq(&first, &pool.share(Arc::new("a".to_owned()))));
        assert_eq!(*pool.share(Arc::new("b".to_owned())), "b");
    }
}
