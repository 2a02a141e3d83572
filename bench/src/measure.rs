//! Medians, ratios and the table.

use std::time::Duration;

use serde_json::{Value, json};

use crate::engine::Engine;

/// One row: a value per engine, `None` where it does not apply or failed.
#[derive(Debug)]
pub struct Row {
    /// What was done.
    pub name: String,
    /// `ms`, `MB`, `kB`, `s`.
    pub unit: &'static str,
    /// In the order of the engines.
    pub values: Vec<Option<f64>>,
}

/// The median in milliseconds.
#[must_use]
pub fn median_ms(mut samples: Vec<Duration>) -> Option<f64> {
    samples.sort();
    samples.get(samples.len() / 2).map(|d| d.as_secs_f64() * 1e3)
}

/// CPU, memory and kernel of this machine in one line.
#[must_use]
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model =
        cpuinfo.lines().find_map(|l| l.strip_prefix("model name\t: ")).unwrap_or("unknown CPU").to_owned();
    let cpus = cpuinfo.lines().filter(|l| l.starts_with("processor")).count();
    let memory = read("/proc/meminfo");
    let kb: u64 = memory.lines().next().and_then(|l| l.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{cpus} × {model}, {} GiB, Linux {}", kb >> 20, kernel.trim())
}

/// A Markdown table; every peer's value is followed by its ratio to ours.
#[must_use]
pub fn table(engines: &[Engine], rows: &[Row]) -> String {
    let mut text = String::from("| scenario |");
    for engine in engines {
        text.push_str(&format!(" {} |", engine.name));
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(engines.len()));
    for row in rows {
        text.push_str(&format!("\n| {} |", row.name));
        let ours = engines.iter().position(|e| e.name == "corten").and_then(|i| row.values[i]);
        for (engine, value) in engines.iter().zip(&row.values) {
            let cell = match (value, ours) {
                (None, _) => "–".to_owned(),
                (Some(v), Some(o)) if engine.name != "corten" && o > 0.0 => {
                    format!("{} {} (× {:.1})", number(*v), row.unit, v / o)
                }
                (Some(v), _) => format!("{} {}", number(*v), row.unit),
            };
            text.push_str(&format!(" {cell} |"));
        }
    }
    text
}

fn number(v: f64) -> String {
    if v >= 100.0 { format!("{v:.0}") } else { format!("{v:.1}") }
}

/// The same as JSON.
#[must_use]
pub fn json(engines: &[Engine], rows: &[Row]) -> Value {
    let names: Vec<&str> = engines.iter().map(|e| e.name.as_str()).collect();
    let rows: Vec<Value> =
        rows.iter().map(|r| json!({"scenario": r.name, "unit": r.unit, "values": r.values})).collect();
    json!({"machine": machine(), "engines": names, "rows": rows})
}
