//! The life of the daemon, from the lock on its root to the last connection.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use corten_api::listen::{self, Listener};
use corten_api::{BuildKit, Server, Services};
use corten_base::Cancel;
use corten_base::db::Db;
use corten_base::event::Bus;
use corten_build::Builder;
use corten_engine::Engine;
use corten_image::Images;
use corten_net::Net;
use corten_runtime::client::Launcher;
use tokio::runtime::{Handle, Runtime};

use super::config::Config;
use super::reload::reload;
use super::steps::EngineSteps;
use super::{host, logging, signals, systemd};

/// Threads that serve requests; more would only cost memory.
const WORKERS: usize = 2;
/// Threads for what blocks; they end when idle.
const BLOCKING: usize = 128;
const BLOCKING_IDLE: Duration = Duration::from_secs(5);
/// How long open connections are waited for at the end.
const DRAIN: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(config: Config, args: Vec<OsString>) -> anyhow::Result<()> {
    let begin = Instant::now();
    // Each worker would otherwise keep an arena of its own at the size of its busiest moment.
    let capped = corten_sys::memory::cap_arenas(2) && corten_sys::memory::map_from(256 * 1024);
    logging::start(&config.log_level, config.debug, config.json_logs)?;
    if !capped {
        tracing::debug!("the allocator cannot be tuned");
    }
    make_dir(&config.root, 0o700)?;
    make_dir(&config.exec_root, 0o711)?;
    let _lock = lock(&config.root)?;
    let pidfile = Pidfile::write(&config.pidfile)?;
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING)
        .thread_keep_alive(BLOCKING_IDLE)
        .thread_name("corten")
        .enable_all()
        .build()
        .context("start the runtime")?;
    let served = serve(&runtime, config, &args, begin);
    runtime.shutdown_timeout(DRAIN);
    drop(pidfile);
    served
}

fn serve(runtime: &Runtime, mut config: Config, args: &[OsString], begin: Instant) -> anyhow::Result<()> {
    let stop = Cancel::new();
    if config.selinux_missing {
        // COMPAT: no reason for dockerd not to start.
        tracing::warn!("--selinux-enabled: this host has no SELinux, nothing is labelled");
    }
    let mut activated = systemd::activated().context("socket activation")?;
    let (services, listeners, metrics) = runtime.block_on(async {
        let services = open(&config, runtime.handle()).await?;
        // Only now: who can connect finds a daemon that is ready.
        let listeners = bind_all(&config, &mut activated)?;
        let metrics = match config.metrics {
            Some(address) => Some(
                tokio::net::TcpListener::bind(address)
                    .await
                    .with_context(|| format!("failed to start metrics server: listen on {address}"))?,
            ),
            None => None,
        };
        anyhow::Ok((services, listeners, metrics))
    })?;
    runtime.block_on(async {
        let server = Server::new(Arc::clone(&services), stop.clone());
        let mut tasks: Vec<_> =
            listeners.into_iter().map(|l| tokio::spawn(server.clone().serve(l))).collect();
        if let Some(listener) = metrics {
            tracing::info!(address = ?listener.local_addr().ok(), "metrics are served");
            let serving = corten_api::metrics::serve(Arc::clone(&services), listener, stop.clone());
            tasks.push(tokio::spawn(serving));
        }
        let idle = tokio::spawn(server.when_idle(corten_sys::memory::rest));
        systemd::notify("READY=1");
        let started_ms = begin.elapsed().as_millis();
        // What starting took is not needed again.
        tokio::task::spawn_blocking(corten_sys::memory::rest);
        tracing::info!(started_ms, version = env!("CARGO_PKG_VERSION"), "daemon is ready");
        until_told(args, &mut config, &services).await;
        systemd::notify("STOPPING=1");
        tracing::info!("daemon ends");
        stop.cancel();
        idle.abort();
        for task in tasks {
            // A listener that panicked is gone as well.
            let _ = task.await;
        }
        let again = signals::ended();
        tokio::select! {
            () = services.engine.shutdown() => {}
            () = again => tracing::warn!("told twice: not waiting any longer"),
        }
        let images = services.images.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || images.close()).await {
            tracing::warn!(%error, "layers are not on disk; after a power cut they would be unpacked again");
        }
    });
    Ok(())
}

/// Opens everything from the bottom up.
async fn open(config: &Config, runtime: &Handle) -> anyhow::Result<Arc<Services>> {
    let db = Db::open(&config.root.join("meta.db")).map_err(full).context("open meta.db")?;
    let bus = Bus::new();
    let images = Images::open(&config.root, db.clone(), bus.clone()).map_err(full).context("images")?;
    let net = Net::open(config.net.clone()).map_err(full).context("network")?;
    let launcher = Launcher::open(None).map_err(full).context("corten-runtime")?;
    let engine = Engine::open(config.engine.clone(), db.clone(), images.clone(), net, bus.clone(), launcher)
        .await
        .map_err(full)
        .context("engine")?;
    let steps = EngineSteps::new(engine.clone(), runtime.clone());
    let registries = corten_registry::Client::new(config.registry.clone());
    let work = config.root.join("build");
    let private = config.engine.exec_root.join("build");
    let (steps, runner) = (Arc::new(steps), runtime.clone());
    let builder = Builder::new(images.clone(), db, steps, registries.clone(), runner, &work, &private)
        .map_err(full)
        .context("builder")?;
    let daemon = host::facts(config)?;
    images.set_parallel(config.downloads, config.uploads);
    let daemon = std::sync::RwLock::new(Arc::new(daemon));
    let buildkit = BuildKit::default();
    Ok(Arc::new(Services { engine, images, builder, buildkit, registries, daemon }))
}

/// An error with its causes, so that `anyhow` prints them once.
fn full(e: impl std::error::Error + Send + Sync + 'static) -> anyhow::Error {
    anyhow::Error::new(e)
}

fn bind_all(
    config: &Config,
    activated: &mut Vec<(String, std::os::fd::OwnedFd)>,
) -> anyhow::Result<Vec<Listener>> {
    let group = group_id(config.group.as_deref())?;
    let mut listeners = Vec::new();
    for address in &config.hosts {
        if listen::is_exposed(address, config.tls.as_ref()) {
            tracing::warn!(%address, "anybody who can reach this address is root here: use --tlsverify");
        }
        let bound = listen::bind(address, group, config.tls.as_ref(), activated)
            .with_context(|| format!("listen on {address}"))?;
        tracing::info!(%address, "API listens");
        listeners.extend(bound);
    }
    Ok(listeners)
}

/// The group of the socket: `docker` if it exists, unless another was asked for.
fn group_id(wanted: Option<&str>) -> anyhow::Result<Option<u32>> {
    // In a user namespace the host's groups are nobody's.
    if wanted.is_none() && !corten_sys::users::initial() {
        return Ok(None);
    }
    let name = wanted.unwrap_or("docker");
    if let Ok(gid) = name.parse() {
        return Ok(Some(gid));
    }
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let found = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    match (found, wanted) {
        (None, Some(name)) => bail!("group {name} not found"),
        (found, _) => Ok(found),
    }
}

/// Waits for the end; reloads what can be reloaded in the meantime.
async fn until_told(args: &[OsString], config: &mut Config, services: &Services) {
    let ended = signals::ended();
    let mut ended = std::pin::pin!(ended);
    let Ok(mut hangup) = signals::reload() else { return ended.await };
    loop {
        tokio::select! {
            () = ended.as_mut() => return,
            Some(()) = hangup.recv() => reload(args, config, services),
        }
    }
}

fn make_dir(path: &Path, mode: u32) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| format!("create {}", path.display()))
}

/// One daemon per root.
fn lock(root: &Path) -> anyhow::Result<File> {
    let path = root.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("another daemon uses {}", root.display()))?;
    Ok(file)
}

/// Our process id in a file, removed at the end.
struct Pidfile(PathBuf);

impl Pidfile {
    fn write(path: &Path) -> anyhow::Result<Self> {
        let owner = std::fs::read_to_string(path).ok().and_then(|t| t.trim().parse::<u32>().ok());
        if let Some(pid) = owner
            && pid != std::process::id()
            && Path::new("/proc").join(pid.to_string()).exists()
        {
            bail!(
                "ensure corten is not running or delete {}: process with PID {pid} is still running",
                path.display()
            );
        }
        if let Some(parent) = path.parent() {
            make_dir(parent, 0o711)?;
        }
        let mut file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        file.write_all(std::process::id().to_string().as_bytes())?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        // The next daemon overwrites it anyway.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Thousands of containers need thousands of descriptors.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: now.maximum.or(Some(1 << 20)), maximum: now.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
