//! What the handlers call: the owners of everything, and the facts about the daemon.

use std::sync::{Arc, PoisonError, RwLock};

use corten_build::Builder;
use corten_engine::Engine;
use corten_image::Images;
use corten_wire::api::build::BuildCache;
use corten_wire::api::image::ImageSummary;
use corten_wire::api::system::{Info, Version};

use crate::buildkit::BuildKit;
use crate::convert::{self, summary};
use crate::error::ApiError;
use crate::puller::RequestPuller;

/// The owners of everything.
pub struct Services {
    /// Containers, networks, volumes, events.
    pub engine: Engine,
    /// Images.
    pub images: Images,
    /// Builds.
    pub builder: Builder,
    /// Sessions and builds of BuildKit's clients.
    pub buildkit: BuildKit,
    /// Registries.
    pub registries: corten_registry::Client,
    /// Facts; replaced when the configuration is read again.
    pub daemon: RwLock<Arc<DaemonInfo>>,
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").field("daemon", &self.daemon().version.version).finish_non_exhaustive()
    }
}

/// Facts about the daemon.
#[derive(Debug, Clone, Default)]
pub struct DaemonInfo {
    /// `GET /version`.
    pub version: Version,
    /// `GET /info`, without what is counted.
    pub info: Info,
    /// `--experimental`.
    pub experimental: bool,
}

impl Services {
    /// The facts.
    #[must_use]
    pub fn daemon(&self) -> Arc<DaemonInfo> {
        self.daemon.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Other facts from now on.
    pub fn set_daemon(&self, facts: DaemonInfo) {
        *self.daemon.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(facts);
    }

    /// `GET /info`: the facts and the counts of this moment.
    pub(crate) fn info(&self) -> Info {
        let counts = self.engine.counts();
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let entries = |dir: &str| std::fs::read_dir(dir).map_or(0, |d| count(d.count()));
        Info {
            containers: count(counts.total),
            containers_running: count(counts.running),
            containers_paused: count(counts.paused),
            containers_stopped: count(counts.stopped),
            images: count(self.images.count()),
            n_fd: entries("/proc/self/fd"),
            n_goroutines: entries("/proc/self/task"),
            n_events_listener: count(self.engine.bus().subscriber_count()),
            system_time: corten_base::time::rfc3339_nano(corten_base::time::now_ns()),
            discovered_devices: self.engine.discovered_devices(),
            ..self.daemon().info.clone()
        }
    }

    /// What `host-gateway` means to a build; empty where it means nothing.
    pub(crate) fn host_gateway(&self) -> String {
        self.engine.host_gateway().map(|ip| ip.to_string()).unwrap_or_default()
    }

    /// What pulls base images for a build with these credentials. To be called on the runtime.
    pub(crate) fn puller(
        &self,
        credentials: std::collections::BTreeMap<String, corten_registry::Credentials>,
    ) -> RequestPuller {
        RequestPuller {
            images: self.images.clone(),
            registries: self.registries.clone(),
            credentials,
            runtime: tokio::runtime::Handle::current(),
        }
    }

    /// Images for `GET /system/df`, and the bytes of all layers.
    pub(crate) async fn image_usage(&self) -> Result<(i64, Vec<ImageSummary>), ApiError> {
        let images = self.images.clone();
        let usage = tokio::task::spawn_blocking(move || images.disk_usage())
            .await
            .map_err(std::io::Error::other)??;
        let list = usage
            .images
            .iter()
            .map(|u| ImageSummary {
                shared_size: i64::try_from(u.shared_size).unwrap_or(i64::MAX),
                containers: i64::try_from(u.holders).unwrap_or(i64::MAX),
                ..summary(&u.summary)
            })
            .collect();
        Ok((i64::try_from(usage.layers_size).unwrap_or(i64::MAX), list))
    }

    /// Build cache for `GET /system/df`.
    pub(crate) async fn build_cache(&self) -> Result<Vec<BuildCache>, ApiError> {
        let builder = self.builder.clone();
        let entries = tokio::task::spawn_blocking(move || builder.cache_entries())
            .await
            .map_err(std::io::Error::other)?
            .map_err(|e| ApiError::from_error(e.kind(), &e))?;
        Ok(entries.into_iter().map(convert::build_cache).collect())
    }
}
