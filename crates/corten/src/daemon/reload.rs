//! SIGHUP: flags and file are read again, and what dockerd changes while it runs is changed.
//!
//! Debug, labels, live restore, shutdown timeout, runtimes, default runtime, default sizes and modes of containers,
//! parallel transfers, download attempts, insecure registries and mirrors, the log level. Everything else in the file
//! waits for the next start. A file that is wrong changes nothing.

use std::collections::BTreeMap;
use std::ffi::OsString;

use corten_api::Services;

use super::config::Config;
use super::settings::Settings;
use super::{host, logging};

/// Applies the file as it is now; `running` is what is in force, and changes with it.
pub(super) fn reload(args: &[OsString], running: &mut Config, services: &Services) {
    let read = Settings::from_args(args).and_then(|flags| super::configuration(&flags));
    let new = match read {
        Ok(new) => new,
        Err(error) => {
            tracing::error!(%error, "configuration not reloaded");
            return;
        }
    };
    adopt(running, new);
    logging::set_level(&running.log_level, running.debug);
    services.engine.reconfigure(&running.engine);
    services.images.set_parallel(running.downloads, running.uploads);
    services.registries.reconfigure(running.registry.clone());
    match host::facts(running) {
        Ok(facts) => services.set_daemon(facts),
        Err(error) => tracing::warn!(%error, "GET /info shows the old configuration"),
    }
    let info = &services.daemon().info;
    services.engine.bus().publish("daemon", "reload", info.id.as_str(), attributes(running, &info.name));
    tracing::info!("configuration reloaded");
}

fn adopt(running: &mut Config, new: Config) {
    running.debug = new.debug;
    running.log_level = new.log_level;
    running.labels = new.labels;
    running.downloads = new.downloads;
    running.uploads = new.uploads;
    running.registry.insecure = new.registry.insecure;
    running.registry.mirrors = new.registry.mirrors;
    running.registry.attempts = new.registry.attempts;
    running.engine.live_restore = new.engine.live_restore;
    running.engine.shutdown_timeout = new.engine.shutdown_timeout;
    running.engine.runtimes = new.engine.runtimes;
    running.engine.default_runtime = new.engine.default_runtime;
    running.engine.shm_size = new.engine.shm_size;
    running.engine.ipc_mode = new.engine.ipc_mode;
}

/// COMPAT: what dockerd tells with its event.
fn attributes(config: &Config, host: &str) -> BTreeMap<String, String> {
    let json = |list: &[String]| serde_json::Value::from(list).to_string();
    let engine = &config.engine;
    let mut insecure = config.registry.insecure.networks();
    insecure.extend(config.registry.insecure.hosts().iter().cloned());
    let runtimes: Vec<&str> = engine.runtimes.keys().map(String::as_str).collect();
    [
        ("name", host.to_owned()),
        ("debug", config.debug.to_string()),
        ("labels", json(&config.labels)),
        ("live-restore", engine.live_restore.to_string()),
        ("max-concurrent-downloads", config.downloads.to_string()),
        ("max-concurrent-uploads", config.uploads.to_string()),
        ("max-download-attempts", config.registry.attempts.to_string()),
        ("shutdown-timeout", engine.shutdown_timeout.as_secs().to_string()),
        ("insecure-registries", json(&insecure)),
        ("registry-mirrors", json(&config.registry.mirrors)),
        ("authorization-plugins", "[]".to_owned()),
        ("default-runtime", engine.default_runtime.clone()),
        ("runtimes", runtimes.join(" ")),
        ("default-shm-size", engine.shm_size.to_string()),
        ("default-ipc-mode", engine.ipc_mode.clone()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}
