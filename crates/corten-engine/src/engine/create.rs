//! Making a container: checks, image, record.
//!
//! ```text
//!  checks (pure) ─▶ image ─▶ merge (pure) ─▶ mounts (pure) ─▶ name ─▶ writable layer ─▶ volumes ─▶ one commit ─▶ task
//! ```
//! There is one durable commit: {record, hold on the image}. What was made before it is named by the id and swept
//! after a crash. A container that goes when it exits needs not even that: its record is in memory (tmpfs) too.

use std::collections::BTreeMap;
use std::sync::Arc;

use corten_base::db::Commit;
use corten_base::{Id, Platform};
use corten_image::{Image, Overlay};
use corten_wire::api::TextMap;
use corten_wire::api::container::{ContainerConfig, CreateRequest, CreateResponse};
use corten_wire::api::host_config::HostConfig;
use corten_wire::api::image::{Descriptor, OciPlatform};
use corten_wire::api::network::{EndpointSettings, NetworkingConfig};

use super::Engine;
use crate::container::{
    self, Container, Phase, Start, blocking, check_endpoints, fill_volumes, write_transient,
};
use crate::error::{Error, Result, invalid};
use crate::failpoint::failpoint;
use crate::links::{self, LinkRecord};
use crate::mounts::{self, Wanted};
use crate::record::{CONTAINERS, ContainerRecord, MountKind, MountRecord, RootfsRecord, StateRecord};
use crate::selinux::{self, Labels};
use crate::shared::Shared;
use crate::volumes::now;
use crate::{merge, names, spec, validate};

/// What a container is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Lasting,
    BuildStep,
}

impl Engine {
    /// `POST /containers/create`.
    ///
    /// # Errors
    /// What Docker refuses, in its words.
    pub async fn create(
        &self,
        name: Option<&str>,
        request: CreateRequest,
        platform: Option<&Platform>,
    ) -> Result<CreateResponse> {
        self.create_for(Purpose::Lasting, name, request, platform).await
    }

    /// For a step of a build. An ordinary container, but that what it writes need not survive a power cut: when the
    /// step has ended it becomes a layer, which is a blob as well. So its end need not wait for the disk.
    ///
    /// # Errors
    /// As [`Engine::create`].
    pub async fn create_step(&self, request: CreateRequest) -> Result<CreateResponse> {
        self.create_for(Purpose::BuildStep, None, request, None).await
    }

    async fn create_for(
        &self,
        purpose: Purpose,
        name: Option<&str>,
        request: CreateRequest,
        platform: Option<&Platform>,
    ) -> Result<CreateResponse> {
        let CreateRequest { config, mut host_config, networking_config } = request;
        let config = validate::config(config)?;
        if config.network_disabled {
            host_config.network_mode = "none".into();
        }
        validate::shared_network(&config, &host_config)?;
        let warnings = validate::host_config(&host_config, &self.shared.host, &self.shared.config())?;
        let networks = self.named(wanted_networks(&host_config.network_mode, networking_config)?);
        check_endpoints(&self.shared, &networks)?;
        if config.image.is_empty() {
            return Err(invalid("config cannot be empty in order to create a container"));
        }
        let (shared, wanted) = (self.shared.clone(), (config.image.clone(), platform.cloned()));
        let image = blocking(move || Ok(shared.images.resolve_for(&wanted.0, wanted.1.as_ref())?)).await?;
        let config = merge::config(config, &image.config.config)?;
        let host = merge::host_config(host_config, &self.shared.config(), self.shared.host.cgroup_v2);
        let made = self.make(name, config, host, networks, (purpose, image)).await?;
        Ok(CreateResponse { id: made.id().to_string(), warnings })
    }

    /// COMPAT: a network may be named by its id; containers know it by its name.
    fn named(&self, wanted: BTreeMap<String, EndpointSettings>) -> BTreeMap<String, EndpointSettings> {
        let name = |key: String| self.shared.networks.find(&key).map_or(key, |entry| entry.name);
        wanted.into_iter().map(|(key, settings)| (name(key), settings)).collect()
    }

    async fn make(
        &self,
        name: Option<&str>,
        mut config: ContainerConfig,
        mut host: HostConfig,
        networks: BTreeMap<String, EndpointSettings>,
        (purpose, image): (Purpose, Arc<Image>),
    ) -> Result<Container> {
        let _timer = corten_base::metrics::CONTAINER_CREATE.timer();
        let shared = self.shared.clone();
        corten_logs::Options::parse(&host.log_config.kind, &host.log_config.config)?.check_host()?;
        spec::check_security(&host, &shared.config())?;
        spec::check_sysctls(&host)?;
        for mode in [&host.network_mode, &host.pid_mode, &host.ipc_mode] {
            shared.joined(mode)?;
        }
        let links = links(&shared, &host)?;
        let id = Id::random();
        hostname(&mut config, &host, &id);
        let wanted = mounts::collect(&host, &config, |reference| {
            Ok(shared.find(reference)?.view().record.mounts.as_ref().clone())
        })?;
        let name = reserve(&shared, name)?;
        shown_links(&mut host, &links, &name);
        let links =
            links.into_iter().map(|(other, alias)| LinkRecord { container: other.id().clone(), alias });
        let links = links.collect();
        let making = Making { id, name: name.clone(), config, host, networks, links, purpose, image, wanted };
        let made = blocking({
            let shared = shared.clone();
            move || making.run(&shared)
        })
        .await;
        let record = match made {
            Ok(record) => record,
            Err(error) => {
                shared.unreserve(&name);
                return Err(error);
            }
        };
        failpoint!("engine.create.after_record");
        let start = Start {
            record: Arc::new(shared.compact(record)),
            state: StateRecord::default(),
            phase: Phase::Created,
            found: None,
        };
        let container = container::spawn(&shared, start);
        shared.insert(&name, container.clone());
        container.publish_plain("create");
        Ok(container)
    }
}

/// The blocking part of a creation.
struct Making {
    id: Id,
    name: String,
    config: ContainerConfig,
    host: HostConfig,
    networks: BTreeMap<String, EndpointSettings>,
    links: Vec<LinkRecord>,
    purpose: Purpose,
    image: Arc<Image>,
    wanted: Vec<Wanted>,
}

impl Making {
    fn run(self, shared: &Shared) -> Result<ContainerRecord> {
        let id = self.id.clone();
        let made = self.prepared(shared);
        if made.is_err() {
            // The id is ours alone: what is left of it is ours to take away.
            let _swept_later = shared.images.snapshots().remove(id.as_str());
            std::fs::remove_dir_all(shared.run_dir(&id)).ok();
            std::fs::remove_dir_all(shared.dir(&id)).ok();
            shared.volumes.release(id.as_str());
        }
        made
    }

    fn prepared(self, shared: &Shared) -> Result<ContainerRecord> {
        let snapshots = shared.images.snapshots();
        let overlay = snapshots.prepare(self.id.as_str(), &self.image)?;
        let mounts = volumes(shared, &self.id, self.wanted)?;
        fill_volumes(shared, &self.id, &overlay, &mounts)?;
        let labels = labels(shared, &self.host)?;
        let record = ContainerRecord {
            id: self.id.clone(),
            name: self.name,
            created_ns: now(),
            image: Some(self.image.id.clone()),
            manifest: Some(descriptor(&self.image)),
            platform: "linux".into(),
            config: Arc::new(self.config),
            host: Arc::new(self.host),
            mounts: Arc::new(mounts),
            networks: Arc::new(self.networks),
            rootfs: rootfs(overlay),
            links: Arc::new(self.links),
            build_step: self.purpose == Purpose::BuildStep,
            process_label: labels.process,
            mount_label: labels.mount,
        };
        failpoint!("engine.create.before_record");
        let transient = record.host.auto_remove;
        if transient {
            write_transient(shared, &record)?;
        }
        save(shared, &record, if transient { Commit::Lazy } else { Commit::Durable })?;
        Ok(record)
    }
}

/// The SELinux labels of a new container; none where SELinux is not used.
fn labels(shared: &Shared, host: &HostConfig) -> Result<Labels> {
    if !shared.config().selinux {
        return Ok(Labels::default());
    }
    let security = spec::security(host.security_opt.as_deref().unwrap_or_default())?;
    let taken =
        shared.containers().into_iter().filter_map(|c| selinux::level_of(&c.view().record.mount_label));
    let mut same: Option<String> = None;
    for mode in [&host.ipc_mode, &host.pid_mode] {
        let Some(other) = shared.joined(mode)? else { continue };
        let label = other.view().record.process_label.clone();
        if same.replace(label.clone()).is_some_and(|s| s != label) {
            return Err(invalid("--ipc and --pid containers SELinux labels aren't the same"));
        }
    }
    selinux::labels(host, &security.labels, same.as_deref(), &taken.collect())
}

/// Writes a record and its hold on the image together.
pub(super) fn save(shared: &Shared, record: &ContainerRecord, commit: Commit) -> Result<()> {
    shared.db.write::<_, Error>(commit, |w| {
        w.put(CONTAINERS, record.id.as_str(), record)?;
        for image in record.image.iter().chain(record.mounts.iter().filter_map(|m| m.image.as_ref())) {
            shared.images.hold(w, image, record.id.as_str())?;
        }
        Ok(())
    })
}

fn rootfs(overlay: Overlay) -> RootfsRecord {
    RootfsRecord { lowers: Arc::new(overlay.lowers), upper: overlay.upper, work: overlay.work }
}

/// Makes the volumes that are not there yet, and fills in where they are.
fn volumes(shared: &Shared, id: &Id, wanted: Vec<Wanted>) -> Result<Vec<MountRecord>> {
    let names: Vec<String> =
        wanted.iter().filter(|w| w.record.kind == MountKind::Volume).map(|w| w.record.name.clone()).collect();
    // Held first, so that no prune takes one away that is just being made.
    shared.volumes.hold(id.as_str(), names.into_iter());
    let mut mounts = Vec::new();
    for Wanted { mut record, labels, options } in wanted {
        if record.kind == MountKind::Image {
            // Not "not found": clients would pull the container's own image and try again.
            let image = shared.images.resolve_for(&record.name, None).map_err(|_| {
                invalid(format!("invalid mount config for type \"image\": No such image: {}", record.name))
            })?;
            record.image = Some(image.id.clone());
            // It is mounted there while the container runs.
            let place = shared.run_dir(id).join(format!("image-{}", mounts.len()));
            record.source = place.display().to_string();
        }
        if record.kind == MountKind::Volume {
            if record.anonymous {
                shared.volumes.ensure_anonymous(&record.name)?;
            } else {
                let given = |m: TextMap| (!m.is_empty()).then_some(m);
                shared.volumes.ensure(&record.name, given(labels), given(options))?;
            }
            record.source = shared.volumes.path(&record.name).display().to_string();
        }
        mounts.push(record);
    }
    Ok(mounts)
}

fn descriptor(image: &Image) -> Descriptor {
    let d = &image.manifest_descriptor;
    let platform = image.platform();
    Descriptor {
        media_type: d.media_type.clone(),
        digest: d.digest.to_string(),
        size: i64::try_from(d.size).unwrap_or(i64::MAX),
        platform: Some(OciPlatform {
            architecture: platform.architecture,
            os: platform.os,
            variant: platform.variant,
            ..OciPlatform::default()
        }),
        ..Descriptor::default()
    }
}

fn hostname(config: &mut ContainerConfig, host: &HostConfig, id: &Id) {
    if !config.hostname.is_empty() {
        return;
    }
    config.hostname = if host.network_mode == "host" || host.uts_mode == "host" {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    } else {
        id.short().to_owned()
    };
}

/// The name that was asked for, or a random one that is free.
fn reserve(shared: &Shared, name: Option<&str>) -> Result<String> {
    if let Some(name) = name.map(|n| n.strip_prefix('/').unwrap_or(n)).filter(|n| !n.is_empty()) {
        if !names::valid(name) {
            return Err(invalid(format!(
                "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            )));
        }
        shared.reserve(name)?;
        return Ok(name.to_owned());
    }
    let mut attempt = 0;
    loop {
        let name = names::random(attempt);
        match shared.reserve(&name) {
            Ok(()) => return Ok(name),
            Err(error) if attempt > 1000 => return Err(error),
            Err(_) => attempt += 1,
        }
    }
}

/// The containers that a new one on the default bridge is linked to, and what they are called there.
fn links(shared: &Shared, host: &HostConfig) -> Result<Vec<(Container, String)>> {
    // COMPAT: on user networks the endpoint's own links count.
    if !matches!(host.network_mode.as_str(), "default" | "bridge") {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for text in host.links.iter().flatten() {
        let (name, alias) = links::parse(text).map_err(invalid)?;
        let other = shared
            .find(&name)
            .map_err(|e| invalid(format!("could not get container for {name}: {}", e.chain())))?;
        if other.view().record.host.network_mode == "host" {
            return Err(invalid(
                "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
            ));
        }
        found.push((other, alias));
    }
    Ok(found)
}

/// Links as inspect shows them: `/OTHER:/OWN/ALIAS`.
fn shown_links(host: &mut HostConfig, links: &[(Container, String)], own: &str) {
    if !links.is_empty() {
        let shown =
            links.iter().map(|(other, alias)| format!("/{}:/{own}/{alias}", other.view().record.name));
        host.links = Some(shown.collect());
    }
}

/// Endpoints by name of the network: those of the request and that of the network mode.
fn wanted_networks(mode: &str, given: NetworkingConfig) -> Result<BTreeMap<String, EndpointSettings>> {
    let mode = if matches!(mode, "" | "default") { "bridge" } else { mode };
    let mut networks: BTreeMap<String, EndpointSettings> = BTreeMap::new();
    for (name, settings) in given.endpoints_config {
        let name = if name == "default" { "bridge".to_owned() } else { name };
        networks.insert(name, wished(settings.unwrap_or_default()));
    }
    if mode.starts_with("container:") {
        if !networks.is_empty() {
            return Err(invalid(
                "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
            ));
        }
        return Ok(networks);
    }
    if matches!(mode, "host" | "none") && networks.keys().any(|n| n != mode) {
        return Err(invalid(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
        ));
    }
    networks.entry(mode.to_owned()).or_default();
    Ok(networks)
}

/// What a user may ask of an endpoint; the rest is ours to fill in.
pub(super) fn wished(settings: EndpointSettings) -> EndpointSettings {
    EndpointSettings {
        ipam_config: settings.ipam_config,
        links: settings.links,
        aliases: settings.aliases,
        driver_opts: settings.driver_opts,
        gw_priority: settings.gw_priority,
        mac_address: settings.mac_address,
        ..EndpointSettings::default()
    }
}
