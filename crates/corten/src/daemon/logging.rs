//! Logs on standard error, with a level that can be changed while we run.

use std::fmt;
use std::sync::OnceLock;

use anyhow::Context;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
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
        registry.with(text.event_format(Json)).try_init().context("start logging")
    } else {
        registry.with(text).try_init().context("start logging")
    }
}

/// One JSON object per line, with dockerd's names: `level`, `msg`, `time`, and the fields of the event.
struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields(serde_json::Map::new());
        event.record(&mut fields);
        let level = match *event.metadata().level() {
            Level::TRACE => "trace",
            Level::DEBUG => "debug",
            Level::INFO => "info",
            Level::WARN => "warning",
            Level::ERROR => "error",
        };
        fields.0.insert("level".into(), level.into());
        let now = corten_base::time::rfc3339_nano(corten_base::time::now_ns());
        fields.0.insert("time".into(), now.into());
        writeln!(out, "{}", serde_json::Value::Object(fields.0))
    }
}

struct Fields(serde_json::Map<String, serde_json::Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<serde_json::Value>) {
        let name = if field.name() == "message" { "msg" } else { field.name() };
        self.0.insert(name.to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

/// Changes the level.
pub(crate) fn set_level(name: &str, debug: bool) {
    if let Some(handle) = LEVEL.get()
        && let Err(error) = handle.reload(level(name, debug))
    {
        tracing::warn!(%error, "cannot change the log level");
    }
}
