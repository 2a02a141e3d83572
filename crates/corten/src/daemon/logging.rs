//! Logs on standard error, with a level that can be changed while we run.

use std::sync::OnceLock;

use anyhow::Context;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

fn level(name: &str, debug: bool) -> LevelFilter {
    match name {
        _ if debug => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "warn" => LevelFilter::WARN,
        "error" | "fatal" | "panic" => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    }
}

/// Starts logging. Once per process.
pub(crate) fn start(name: &str, debug: bool, json: bool) -> anyhow::Result<()> {
    let (filter, handle) = reload::Layer::new(level(name, debug));
    // A second call would fail below anyway.
    let _ = LEVEL.set(handle);
    let text = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let registry = tracing_subscriber::registry().with(filter);
    if json {
        anyhow::bail!("log-format json is not supported yet: use text");
    }
    registry.with(text).try_init().context("start logging")
}

/// Changes the level.
pub(crate) fn set_level(name: &str, debug: bool) {
    if let Some(handle) = LEVEL.get()
        && let Err(error) = handle.reload(level(name, debug))
    {
        tracing::warn!(%error, "cannot change the log level");
    }
}
