//! Volumes: records, directories, the local driver's mounts. One lock, held for the look only.
//!
//! A volume is a record and a directory `<root>/volumes/<name>/_data`. With `type`/`device`/`o` the directory is a
//! mount point: mounted when the first running container uses it, unmounted behind the last. Mounting may take as
//! long as a server likes, so it happens under a lock of the one volume.

mod local;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use corten_base::db::{Commit, Db};
use corten_base::event::Bus;
use corten_base::{Id, time};
use corten_wire::api::volume::{Volume, VolumeCreateRequest, VolumeUsage};
use corten_wire::api::{Filters, TextMap};

use crate::error::{Error, Result, conflict, invalid, not_found, unsupported};
use crate::names;
use crate::record::{VOLUMES, VolumeRecord};

/// Label that marks volumes nobody named.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// All volumes. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Volumes {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    db: Db,
    bus: Bus,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    records: BTreeMap<String, VolumeRecord>,
    /// Containers that refer to a volume.
    holders: BTreeMap<String, BTreeSet<String>>,
    /// Volumes with a mount of their own that are in use.
    mounted: BTreeMap<String, Mounted>,
}

/// A volume with a mount of its own.
#[derive(Debug, Default)]
struct Mounted {
    /// Running containers that use it.
    users: BTreeSet<String>,
    /// Held while it is mounted or unmounted. INVARIANT: never taken with the state locked.
    changing: Arc<Mutex<()>>,
}

impl Volumes {
    pub(crate) fn open(root: PathBuf, db: Db, bus: Bus) -> Result<Self> {
        let dir = root.join("volumes");
        std::fs::create_dir_all(&dir).map_err(|e| Error::io(format!("create {}", dir.display()), e))?;
        use std::os::unix::fs::PermissionsExt;
        // CVE-2021-41091: others must not walk into the data root.
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o701)).ok();
        let records = db.all(VOLUMES)?.into_iter().collect();
        let state = Mutex::new(State { records, ..State::default() });
        Ok(Self { inner: Arc::new(Inner { root: dir, db, bus, state }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The volume's directory on the host.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.inner.root.join(name).join("_data")
    }

    fn view(&self, record: &VolumeRecord) -> Volume {
        Volume {
            created_at: seconds(record.created_ns),
            driver: "local".into(),
            labels: record.labels.clone(),
            mountpoint: self.path(&record.name).display().to_string(),
            name: record.name.clone(),
            options: record.options.clone(),
            scope: "local".into(),
            status: TextMap::new(),
            usage_data: None,
        }
    }

    /// A container begins to use its volumes.
    pub(crate) fn publish_mounts(&self, record: &crate::record::ContainerRecord) {
        for mount in record.mounts.iter().filter(|m| m.kind == crate::record::MountKind::Volume) {
            let attributes = [
                ("driver", mount.driver.as_str()),
                ("container", record.id.as_str()),
                ("destination", &mount.destination),
                ("read/write", if mount.rw { "true" } else { "false" }),
                ("propagation", &mount.propagation),
            ];
            let attributes = attributes.map(|(k, v)| (k.to_owned(), v.to_owned()));
            self.inner.bus.publish("volume", "mount", mount.name.as_str(), attributes.into());
        }
    }

    /// A container no longer uses its volumes.
    pub(crate) fn publish_unmounts(&self, record: &crate::record::ContainerRecord) {
        for mount in record.mounts.iter().filter(|m| m.kind == crate::record::MountKind::Volume) {
            let attributes = [("driver", mount.driver.as_str()), ("container", record.id.as_str())];
            let attributes = attributes.map(|(k, v)| (k.to_owned(), v.to_owned()));
            self.inner.bus.publish("volume", "unmount", mount.name.as_str(), attributes.into());
        }
    }

    fn publish(&self, action: &str, name: &str) {
        let attributes = BTreeMap::from([("driver".to_owned(), "local".to_owned())]);
        self.inner.bus.publish("volume", action, name, attributes);
    }

    /// `POST /volumes/create`: makes it, or returns the one that is there.
    pub(crate) fn create(&self, request: VolumeCreateRequest) -> Result<Volume> {
        if request.cluster_volume_spec.is_some() {
            return Err(unsupported("cluster volumes are not supported by this engine"));
        }
        if !matches!(request.driver.as_str(), "" | "local") {
            return Err(not_found(format!(
                "create {}: error looking up volume plugin {1}: plugin {1:?} not found",
                request.name, request.driver
            )));
        }
        let anonymous = request.name.is_empty();
        let name = if anonymous { Id::random().to_string() } else { request.name };
        let labels = if anonymous {
            let mut labels = request.labels.unwrap_or_default();
            labels.insert(ANONYMOUS.into(), String::new());
            Some(labels)
        } else {
            request.labels
        };
        let record = self.ensure(&name, labels, request.driver_opts.filter(|o| !o.is_empty()))?;
        Ok(self.view(&record))
    }

    /// Makes the volume if it is not there.
    pub(crate) fn ensure(
        &self,
        name: &str,
        labels: Option<TextMap>,
        options: Option<TextMap>,
    ) -> Result<VolumeRecord> {
        if let Some(record) = self.state().records.get(name) {
            if options.as_ref().is_some_and(|o| record.options.as_ref() != Some(o)) {
                return Err(conflict(format!(
                    "create {name}: conflict: volume name must be unique: a volume with different options exists"
                )));
            }
            return Ok(record.clone());
        }
        if !names::valid(name) {
            return Err(invalid(format!(
                "create {name}: {name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
            )));
        }
        options.as_ref().map_or(Ok(()), |o| local::check(name, o))?;
        let created_ns = now();
        let record = VolumeRecord { name: name.to_owned(), created_ns, labels, options };
        let path = self.path(name);
        std::fs::create_dir_all(&path).map_err(|e| Error::io(format!("create {}", path.display()), e))?;
        self.inner.db.write::<_, Error>(Commit::Durable, |w| Ok(w.put(VOLUMES, name, &record)?))?;
        self.state().records.insert(name.to_owned(), record.clone());
        self.publish("create", name);
        Ok(record)
    }

    /// An anonymous volume of a container.
    pub(crate) fn ensure_anonymous(&self, name: &str) -> Result<VolumeRecord> {
        self.ensure(name, Some(TextMap::from([(ANONYMOUS.to_owned(), String::new())])), None)
    }

    /// `GET /volumes/{name}`.
    pub(crate) fn get(&self, name: &str) -> Result<Volume> {
        let record = self.state().records.get(name).cloned();
        record.map(|r| self.view(&r)).ok_or_else(|| Error::NoSuchVolume(name.to_owned()))
    }

    /// `GET /volumes`.
    pub(crate) fn list(&self, filters: &Filters) -> Result<Vec<Volume>> {
        filters
            .validate(&["dangling", "driver", "label", "label!", "name"])
            .map_err(|e| invalid(e.to_string()))?;
        let dangling = match filters.contains("dangling") {
            true => Some(filters.bool_or("dangling", false).map_err(|e| invalid(e.to_string()))?),
            false => None,
        };
        let names: Vec<regex::Regex> =
            filters.get("name").filter_map(|n| regex::Regex::new(n).ok()).collect();
        let state = self.state();
        Ok(state
            .records
            .values()
            .filter(|v| names.is_empty() || names.iter().any(|r| r.is_match(&v.name)))
            .filter(|v| dangling.is_none_or(|want| want != in_use(&state, &v.name)))
            .filter(|_| filters.exact_match("driver", "local"))
            .filter(|v| {
                let labels = v.labels.clone().unwrap_or_default();
                filters.match_labels("label", &labels) && filters.match_no_labels("label!", &labels)
            })
            .map(|v| self.view(v))
            .collect())
    }

    /// `DELETE /volumes/{name}`.
    pub(crate) fn remove(&self, name: &str, force: bool) -> Result<()> {
        {
            let mut state = self.state();
            if !state.records.contains_key(name) {
                return if force { Ok(()) } else { Err(Error::NoSuchVolume(name.to_owned())) };
            }
            if let Some(holders) = state.holders.get(name).filter(|h| !h.is_empty()) {
                let ids: Vec<&str> = holders.iter().map(String::as_str).collect();
                return Err(conflict(format!("remove {name}: volume is in use - [{}]", ids.join(", "))));
            }
            // A daemon that was killed may have left it mounted: the files of a server are not ours to delete.
            local::unmount(&self.path(name))?;
            state.mounted.remove(name);
            state.records.remove(name);
        }
        self.inner.db.write::<_, Error>(Commit::Durable, |w| {
            w.remove(VOLUMES, name)?;
            Ok(())
        })?;
        let dir = self.inner.root.join(name);
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(format!("remove {}", dir.display()), e));
            }
            _ => {}
        }
        self.publish("destroy", name);
        Ok(())
    }

    /// `POST /volumes/prune`: unused anonymous volumes, with `all` the named ones too. Names and bytes.
    pub(crate) fn prune(&self, filters: &Filters) -> Result<(Vec<String>, u64)> {
        filters.validate(&["label", "label!", "all"]).map_err(|e| invalid(e.to_string()))?;
        let all = filters.bool_or("all", false).map_err(|e| invalid(e.to_string()))?;
        let unused: Vec<VolumeRecord> = {
            let state = self.state();
            state.records.values().filter(|v| !in_use(&state, &v.name)).cloned().collect()
        };
        let (mut removed, mut bytes) = (Vec::new(), 0);
        for record in unused {
            let labels = record.labels.clone().unwrap_or_default();
            // COMPAT: a volume with a mount of its own is the user's to remove.
            let chosen = (all || labels.contains_key(ANONYMOUS)) && record.options.is_none();
            if !chosen
                || !filters.match_labels("label", &labels)
                || !filters.match_no_labels("label!", &labels)
            {
                continue;
            }
            let size = tree_size(&self.path(&record.name));
            // Somebody may have begun to use it since we looked: then it stays.
            if self.remove(&record.name, false).is_ok() {
                removed.push(record.name);
                bytes += size;
            }
        }
        let attributes = BTreeMap::from([("reclaimed".to_owned(), bytes.to_string())]);
        self.inner.bus.publish("volume", "prune", "", attributes);
        Ok((removed, bytes))
    }

    /// For `GET /system/df`.
    pub(crate) fn usage(&self) -> Vec<Volume> {
        let (records, holders) = {
            let state = self.state();
            (state.records.clone(), state.holders.clone())
        };
        records
            .values()
            .map(|record| {
                let count = holders.get(&record.name).map_or(0, BTreeSet::len);
                let size = if record.options.is_some() {
                    -1
                } else {
                    i64::try_from(tree_size(&self.path(&record.name))).unwrap_or(-1)
                };
                let mut view = self.view(record);
                view.usage_data = Some(VolumeUsage { ref_count: i64::try_from(count).unwrap_or(0), size });
                view
            })
            .collect()
    }

    /// Notes that a container refers to these volumes.
    pub(crate) fn hold(&self, container: &str, names: impl Iterator<Item = String>) {
        let mut state = self.state();
        for name in names {
            state.holders.entry(name).or_default().insert(container.to_owned());
        }
    }

    /// The container is gone; returns the names it referred to.
    pub(crate) fn release(&self, container: &str) {
        let mut state = self.state();
        for holders in state.holders.values_mut() {
            holders.remove(container);
        }
        state.holders.retain(|_, h| !h.is_empty());
    }

    /// Whether a volume is a directory of ours, without a file system of its own.
    pub(crate) fn is_plain(&self, name: &str) -> bool {
        self.state().records.get(name).is_some_and(|r| r.options.is_none())
    }

    /// Before a container starts: the directory is there, and mounted if it has to be. Returns its path.
    pub(crate) fn use_volume(&self, name: &str, container: &str) -> Result<PathBuf> {
        let path = self.path(name);
        let record = self.ensure(name, None, None)?;
        std::fs::create_dir_all(&path).map_err(|e| Error::io(format!("create {}", path.display()), e))?;
        let Some(options) = &record.options else { return Ok(path) };
        let changing = self.note_user(name, container);
        let _one_at_a_time = changing.lock().unwrap_or_else(PoisonError::into_inner);
        if !local::is_mounted(&path)
            && let Err(error) = local::mount(options, &path)
        {
            self.drop_user(name, container);
            return Err(error);
        }
        Ok(path)
    }

    fn note_user(&self, name: &str, container: &str) -> Arc<Mutex<()>> {
        let mut state = self.state();
        let mounted = state.mounted.entry(name.to_owned()).or_default();
        mounted.users.insert(container.to_owned());
        Arc::clone(&mounted.changing)
    }

    fn drop_user(&self, name: &str, container: &str) {
        if let Some(mounted) = self.state().mounted.get_mut(name) {
            mounted.users.remove(container);
        }
    }

    /// Behind a container: unmounts what nobody uses any more.
    pub(crate) fn unuse(&self, container: &str) {
        let mut idle = Vec::new();
        for (name, mounted) in &mut self.state().mounted {
            if mounted.users.remove(container) && mounted.users.is_empty() {
                idle.push((name.clone(), Arc::clone(&mounted.changing)));
            }
        }
        for (name, changing) in idle {
            let _one_at_a_time = changing.lock().unwrap_or_else(PoisonError::into_inner);
            // Somebody may have begun to use it since.
            if self.state().mounted.get(&name).is_some_and(|m| !m.users.is_empty()) {
                continue;
            }
            if let Err(error) = local::unmount(&self.path(&name)) {
                tracing::warn!(volume = name, error = error.chain(), "volume cannot be unmounted");
            }
        }
    }

    /// After a restart of the daemon: a running container uses its volumes.
    pub(crate) fn recover_use(&self, name: &str, container: &str) {
        let mut state = self.state();
        if state.records.get(name).is_some_and(|r| r.options.is_some()) {
            state.mounted.entry(name.to_owned()).or_default().users.insert(container.to_owned());
        }
    }
}

fn in_use(state: &State, name: &str) -> bool {
    state.holders.get(name).is_some_and(|h| !h.is_empty())
}

pub(crate) fn now() -> i64 {
    i64::try_from(time::now_ns()).unwrap_or(i64::MAX)
}

/// Docker prints creation times of volumes without a fraction.
fn seconds(ns: i64) -> String {
    time::rfc3339_nano(i128::from(ns - ns.rem_euclid(1_000_000_000)))
}

/// Bytes below a directory; hard links count once, other file systems not at all.
pub(crate) fn tree_size(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(root) = std::fs::symlink_metadata(path) else { return 0 };
    let (mut total, mut seen, mut todo) = (0, BTreeSet::new(), vec![path.to_owned()]);
    while let Some(dir) = todo.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != root.dev() {
                continue;
            }
            if meta.is_dir() {
                todo.push(entry.path());
            }
            if meta.nlink() < 2 || meta.is_dir() || seen.insert(meta.ino()) {
                total += meta.len();
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> (tempfile::TempDir, Volumes) {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("meta.db")).unwrap();
        let volumes = Volumes::open(dir.path().to_owned(), db, Bus::new()).unwrap();
        (dir, volumes)
    }

    fn create(v: &Volumes, json: &str) -> Result<Volume, String> {
        v.create(serde_json::from_str(json).unwrap()).map_err(|e| e.chain())
    }

    #[test]
    fn create_list_remove_prune() {
        let (_dir, v) = open();
        create(&v, r#"{"Name":"vol1","Labels":{"a":"b"}}"#).unwrap();
        assert_eq!(create(&v, r#"{"Name":"vol1"}"#).unwrap().labels.unwrap()["a"], "b");
        create(&v, "{}").unwrap();
        create(&v, r#"{"Name":"vtmp","DriverOpts":{"type":"tmpfs","device":"tmpfs","o":"size=1m"}}"#)
            .unwrap();
        v.hold("c1", ["vol1".to_owned()].into_iter());
        assert_eq!(v.remove("vol1", false).unwrap_err().to_string(), "remove vol1: volume is in use - [c1]");
        let dangling = Filters::parse(r#"{"dangling":["true"]}"#).unwrap();
        assert_eq!(v.list(&dangling).unwrap().len(), 2);
        assert_eq!(v.prune(&Filters::default()).unwrap().0.len(), 1);
        v.release("c1");
        assert_eq!(v.prune(&Filters::parse(r#"{"all":["true"]}"#).unwrap()).unwrap().0, ["vol1"]);
        assert_eq!(v.remove("vol1", false).unwrap_err().to_string(), "get vol1: no such volume");
        assert!(v.remove("vol1", true).is_ok());
    }

    #[test]
    fn refusals() {
        let (_dir, v) = open();
        for (json, want) in [
            (
                r#"{"Name":"v2","Driver":"nope"}"#,
                "create v2: error looking up volume plugin nope: plugin \"nope\" not found",
            ),
            (r#"{"Name":"v2","DriverOpts":{"bogus":"1"}}"#, "create v2: invalid option: \"bogus\""),
            (
                r#"{"Name":"a/b"}"#,
                "create a/b: \"a/b\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path",
            ),
        ] {
            assert_eq!(create(&v, json).unwrap_err(), want);
        }
    }
}
