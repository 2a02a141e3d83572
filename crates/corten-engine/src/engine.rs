//! The engine: opens and recovers, creates and finds, and combines what concerns several objects.

mod create;
mod net;
mod recover;

use std::collections::HashMap;
use std::sync::Arc;

use corten_base::event::Bus;
use corten_base::{Id, time};
use corten_wire::api::container::{ContainerSummary, ContainersPruneResponse};
use corten_wire::api::volume::{Volume, VolumeCreateRequest, VolumeList, VolumesPruneResponse};
use corten_wire::api::{Filters, TextMap};

use crate::container::{Container, RemoveOptions, blocking};
use crate::error::{Result, invalid};
use crate::exec::Exec;
use crate::filters::{self, ContainerFilter, Context};
use crate::shared::Shared;
use crate::view::{ContainerView, Status};

/// Containers, volumes and networks of one daemon. Clones are the same.
#[derive(Debug, Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

/// Parameters of `GET /containers/json`.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Also those that do not run.
    pub all: bool,
    /// The newest so many, running or not; 0 for no limit.
    pub limit: usize,
    /// With sizes.
    pub size: bool,
    /// Filters.
    pub filters: Filters,
}

/// How many containers there are, for `GET /info`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All.
    pub total: usize,
    /// Running.
    pub running: usize,
    /// Paused.
    pub paused: usize,
    /// The others.
    pub stopped: usize,
}

/// The engine's part of `GET /system/df`.
#[derive(Debug, Clone, Default)]
pub struct EngineUsage {
    /// With sizes.
    pub containers: Vec<ContainerSummary>,
    /// With usage.
    pub volumes: Vec<Volume>,
}

/// The containers of a [`Engine::list`], newest first.
#[derive(Debug)]
pub struct Listing<'a> {
    engine: &'a Engine,
    views: std::vec::IntoIter<Arc<ContainerView>>,
    /// What the names of images mean.
    names: HashMap<String, Option<String>>,
    /// Names that links give, by the linked container.
    aliases: HashMap<Id, Vec<String>>,
    now: i128,
    size: bool,
}

/// `/OWNER/ALIAS` of all links, by the container that is linked.
fn aliases(views: &[Arc<ContainerView>]) -> HashMap<Id, Vec<String>> {
    let mut aliases: HashMap<Id, Vec<String>> = HashMap::new();
    for owner in views.iter().map(|v| &v.record) {
        for link in owner.links.iter() {
            let name = format!("/{}/{}", owner.name, link.alias);
            aliases.entry(link.container.clone()).or_default().push(name);
        }
    }
    aliases
}

impl Listing<'_> {
    /// The next one.
    pub async fn next(&mut self) -> Option<ContainerSummary> {
        let view = self.views.next()?;
        let image = self.engine.image_name(&view, &mut self.names);
        let aliases = self.aliases.get(&view.record.id).map_or(&[][..], Vec::as_slice);
        let mut summary = view.summary(image, aliases, self.now);
        // It may have gone since: then its sizes stay unknown.
        if self.size
            && let Ok(container) = self.engine.find(&summary.id)
            && let Ok((rw, root)) = container.sizes().await
        {
            summary.size_rw = Some(rw);
            summary.size_root_fs = Some(root);
        }
        Some(summary)
    }
}

impl Engine {
    /// Where events are published.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.shared.bus
    }

    /// What `host-gateway` means in `--add-host`.
    #[must_use]
    pub fn host_gateway(&self) -> Option<std::net::IpAddr> {
        crate::container::host_gateway(&self.shared)
    }

    /// By name, id, or unique prefix of an id.
    ///
    /// # Errors
    /// None or several.
    pub fn find(&self, reference: &str) -> Result<Container> {
        self.shared.find(reference)
    }

    /// As [`Engine::find`], for those who wait: also a container that has removed itself in the last ten seconds.
    ///
    /// # Errors
    /// As of `find`.
    pub fn find_late(&self, reference: &str) -> Result<Container> {
        self.shared.find_late(reference)
    }

    /// An exec by its id.
    ///
    /// # Errors
    /// None.
    pub fn exec(&self, id: &str) -> Result<Exec> {
        Exec::find(&self.shared, id)
    }

    /// What all containers published, newest first.
    #[must_use]
    pub fn views(&self) -> Vec<Arc<ContainerView>> {
        let mut views: Vec<_> = self.shared.containers().iter().map(Container::view).collect();
        views.sort_by(|a, b| {
            b.record.created_ns.cmp(&a.record.created_ns).then_with(|| a.record.id.cmp(&b.record.id))
        });
        views
    }

    /// Devices that containers can ask for by name, as the specification files say now.
    #[must_use]
    pub fn discovered_devices(&self) -> Vec<corten_wire::api::system::DeviceInfo> {
        crate::devices::discovered(&self.shared.config().cdi_dirs)
    }

    /// How many containers there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for view in self.views() {
            counts.total += 1;
            match view.status {
                Status::Running | Status::Restarting => counts.running += 1,
                Status::Paused => counts.paused += 1,
                _ => counts.stopped += 1,
            }
        }
        counts
    }

    /// Ids of containers that run: their images cannot be removed.
    #[must_use]
    pub fn running_ids(&self) -> Vec<String> {
        self.views().iter().filter(|v| v.is_running()).map(|v| v.record.id.to_string()).collect()
    }

    /// `GET /containers/json`, one container at a time: ten thousand are not made at once.
    ///
    /// # Errors
    /// Filters that cannot be right.
    pub fn list(&self, options: &ListOptions) -> Result<Listing<'_>> {
        filters::check(&options.filters)?;
        let filter = ContainerFilter::new(&options.filters, self.context(&options.filters)?)?;
        let all = options.all || options.limit > 0 || filter.implies_all();
        let limit = if options.limit > 0 { options.limit } else { usize::MAX };
        let views = self.views();
        let aliases = aliases(&views);
        let shown = |v: &Arc<ContainerView>| {
            let aliases = aliases.get(&v.record.id).map_or(&[][..], Vec::as_slice);
            (all || v.is_running() || v.status == Status::Restarting) && filter.matches(v, aliases)
        };
        let views: Vec<_> = views.into_iter().filter(shown).take(limit).collect();
        Ok(Listing {
            engine: self,
            views: views.into_iter(),
            names: HashMap::new(),
            aliases,
            now: time::now_ns(),
            size: options.size,
        })
    }

    /// COMPAT: the image's name as it was given, or its id where the name now means another image.
    fn image_name(&self, view: &ContainerView, known: &mut HashMap<String, Option<String>>) -> String {
        let r = &view.record;
        let Some(id) = &r.image else { return r.config.image.clone() };
        let resolved = known
            .entry(r.config.image.clone())
            .or_insert_with(|| self.shared.images.resolve(&r.config.image).ok().map(|i| i.id.to_string()));
        if resolved.as_deref() == Some(id.as_str()) { r.config.image.clone() } else { id.to_string() }
    }

    fn context(&self, f: &Filters) -> Result<Context> {
        let created = |key: &str| -> Result<Option<i64>> {
            match f.get(key).next() {
                Some(reference) => Ok(Some(self.find(reference)?.view().record.created_ns)),
                None => Ok(None),
            }
        };
        let ancestors = f.contains("ancestor").then(|| {
            let mut ids: Vec<String> = f
                .get("ancestor")
                .filter_map(|name| self.shared.images.resolve(name).ok())
                .map(|image| image.id.to_string())
                .collect();
            // Images that descend from the wanted ones, by their parents.
            let images: Vec<_> = self
                .views()
                .iter()
                .filter_map(|v| self.shared.images.get(v.record.image.as_ref()?))
                .collect();
            for image in images {
                let mut next = image.parent.clone();
                while let Some(parent) = next {
                    if ids.iter().any(|i| i == parent.as_str()) {
                        ids.push(image.id.to_string());
                        break;
                    }
                    next = self.shared.images.get(&parent).and_then(|i| i.parent.clone());
                }
            }
            ids
        });
        Ok(Context { ancestors, before: created("before")?, since: created("since")? })
    }

    /// `POST /containers/prune`: removes those that do not run.
    ///
    /// # Errors
    /// Filters that cannot be right.
    pub async fn prune_containers(&self, f: &Filters) -> Result<ContainersPruneResponse> {
        let until = prune_filter(f, &["label", "label!", "until"])?;
        let (mut deleted, mut bytes) = (Vec::new(), 0u64);
        for view in self.views() {
            let labels = view.record.config.labels.clone().unwrap_or_default();
            let stopped = matches!(view.status, Status::Created | Status::Exited | Status::Dead);
            if !stopped || !chosen(f, &labels, i128::from(view.record.created_ns), until) {
                continue;
            }
            let Some(container) = self.shared.get(&view.record.id) else { continue };
            let size = container.sizes().await.map_or(0, |(rw, _)| u64::try_from(rw).unwrap_or(0));
            // It may have been started or removed since we looked.
            if container.remove(RemoveOptions::default()).await.is_ok() {
                deleted.push(view.record.id.to_string());
                bytes += size;
            }
        }
        let reclaimed = std::collections::BTreeMap::from([("reclaimed".to_owned(), bytes.to_string())]);
        self.shared.bus.publish("container", "prune", "", reclaimed);
        Ok(ContainersPruneResponse {
            containers_deleted: (!deleted.is_empty()).then_some(deleted),
            space_reclaimed: bytes,
        })
    }

    /// `POST /volumes/create`.
    ///
    /// # Errors
    /// Bad name, driver or options.
    pub async fn create_volume(&self, request: VolumeCreateRequest) -> Result<Volume> {
        let shared = self.shared.clone();
        blocking(move || shared.volumes.create(request)).await
    }

    /// `GET /volumes/{name}`.
    ///
    /// # Errors
    /// None of this name.
    pub fn volume(&self, name: &str) -> Result<Volume> {
        self.shared.volumes.get(name)
    }

    /// `GET /volumes`.
    ///
    /// # Errors
    /// Filters that cannot be right.
    pub fn volumes(&self, f: &Filters) -> Result<VolumeList> {
        Ok(VolumeList { volumes: self.shared.volumes.list(f)?, warnings: None })
    }

    /// `DELETE /volumes/{name}`.
    ///
    /// # Errors
    /// None of this name unless forced; in use.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        let (shared, name) = (self.shared.clone(), name.to_owned());
        blocking(move || shared.volumes.remove(&name, force)).await
    }

    /// `POST /volumes/prune`.
    ///
    /// # Errors
    /// Filters that cannot be right.
    pub async fn prune_volumes(&self, f: &Filters) -> Result<VolumesPruneResponse> {
        let (shared, f) = (self.shared.clone(), f.clone());
        let (deleted, bytes) = blocking(move || shared.volumes.prune(&f)).await?;
        Ok(VolumesPruneResponse {
            volumes_deleted: (!deleted.is_empty()).then_some(deleted),
            space_reclaimed: bytes,
        })
    }

    /// The engine's part of `GET /system/df`.
    ///
    /// # Errors
    /// Directories that cannot be read.
    pub async fn disk_usage(&self) -> Result<EngineUsage> {
        let mut containers = Vec::new();
        let mut listing = self.list(&ListOptions { all: true, size: true, ..ListOptions::default() })?;
        while let Some(container) = listing.next().await {
            containers.push(container);
        }
        let shared = self.shared.clone();
        let volumes = blocking(move || Ok(shared.volumes.usage())).await?;
        Ok(EngineUsage { containers, volumes })
    }

    /// Takes over what may change while the daemon runs: runtimes, live restore, the time containers get at the end,
    /// default sizes and modes.
    pub fn reconfigure(&self, new: &crate::EngineConfig) {
        self.shared.reconfigure(|config| {
            config.live_restore = new.live_restore;
            config.shutdown_timeout = new.shutdown_timeout;
            config.runtimes.clone_from(&new.runtimes);
            config.default_runtime.clone_from(&new.default_runtime);
            config.shm_size = new.shm_size;
            config.ipc_mode.clone_from(&new.ipc_mode);
        });
    }

    /// The daemon ends. Without `--live-restore` containers are stopped; states are on disk when this returns.
    pub async fn shutdown(&self) {
        if !self.shared.config().live_restore {
            let limit = self.shared.config().shutdown_timeout;
            let mut stops = tokio::task::JoinSet::new();
            for container in self.shared.containers() {
                if container.view().is_running() {
                    stops.spawn(async move { container.stop_for_shutdown().await });
                }
            }
            let all = async { while stops.join_next().await.is_some() {} };
            if tokio::time::timeout(limit, all).await.is_err() {
                tracing::warn!("some containers did not stop in time and go on running");
            }
        }
        self.flush().await;
        let shared = self.shared.clone();
        let retired = blocking(move || {
            shared.images.close()?;
            // With a container attached, everything stays as it is for the next daemon.
            Ok(shared.networks.net().retire()?)
        })
        .await;
        if let Err(error) = retired {
            tracing::warn!(error = error.chain(), "not everything was put away");
        }
    }

    /// Makes what was written lazily durable.
    async fn flush(&self) {
        let shared = self.shared.clone();
        let flushed = blocking(move || {
            shared.db.write::<_, crate::Error>(corten_base::db::Commit::Durable, |w| {
                for container in shared.containers() {
                    let view = container.view();
                    if !view.gone {
                        w.put(crate::record::STATES, view.record.id.as_str(), &view.state)?;
                    }
                }
                Ok(())
            })
        })
        .await;
        if let Err(error) = flushed {
            tracing::error!(error = error.chain(), "states of containers cannot be written");
        }
    }
}

/// Checks the filters of a prune; the time of `until` in nanoseconds.
fn prune_filter(f: &Filters, known: &[&str]) -> Result<Option<i128>> {
    f.validate(known).map_err(|e| invalid(e.to_string()))?;
    let mut until = f.get("until");
    let Some(text) = until.next() else { return Ok(None) };
    if until.next().is_some() {
        return Err(invalid("more than one until filter specified"));
    }
    parse_until(text)
        .map(Some)
        .map_err(|why| invalid(format!("failed to parse value as time or duration: {why}")))
}

/// A duration before now, seconds since the epoch, or RFC 3339 (also without zone, seconds or time).
fn parse_until(text: &str) -> std::result::Result<i128, String> {
    if let Some(before) = corten_base::units::parse_duration(text) {
        return Ok(time::now_ns() - i128::try_from(before.as_nanos()).unwrap_or(0));
    }
    for tail in ["", "Z", ":00Z", ":00:00Z", "T00:00:00Z"] {
        if let Some(ns) = time::parse_rfc3339(&format!("{text}{tail}")) {
            return Ok(ns);
        }
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let seconds: i128 =
        seconds.parse().map_err(|_| format!("invalid seconds {seconds:?}: invalid syntax"))?;
    let digits = format!("{fraction:0<9}");
    let nanos: i128 =
        digits[..9].parse().map_err(|_| format!("invalid nanoseconds {fraction:?}: invalid syntax"))?;
    Ok(seconds * 1_000_000_000 + nanos)
}

fn chosen(f: &Filters, labels: &TextMap, created_ns: i128, until: Option<i128>) -> bool {
    f.match_labels("label", labels)
        && f.match_no_labels("label!", labels)
        && until.is_none_or(|until| created_ns < until)
}
