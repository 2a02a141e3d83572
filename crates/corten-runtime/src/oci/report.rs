//! Commands that print: `state`, `list`, `ps`, `events`, and what the program says of itself.

use std::fmt::Write as _;
use std::io::Write;

use corten_wire::oci_runtime::State;
use serde_json::{Value, json};

use super::arguments::{Arguments, COMMANDS};
use super::record::{Container, Status};
use super::{Context, OciError};
use crate::cgroup::{BlkioEntry, Stats};

/// The version of the specification that is followed.
pub(super) const SPEC_VERSION: &str = "1.3.0";

/// Writes to standard output; that nobody reads it is not our failure.
fn print(text: &str) {
    std::io::stdout().write_all(text.as_bytes()).ok();
}

pub(super) fn print_json(value: &Value) {
    print(&format!("{}\n", serde_json::to_string_pretty(value).unwrap_or_default()));
}

pub(super) fn version() {
    print(&format!("corten-runtime version {}\nspec: {SPEC_VERSION}\n", env!("CARGO_PKG_VERSION")));
}

pub(super) fn usage() {
    let mut text = String::from(
        "corten-runtime oci - OCI runtime\n\nUsage: corten-runtime oci [global options] command [options] [arguments]\n\n\
         Global options: --root DIR, --log FILE, --log-format text|json, --debug, --systemd-cgroup, --cgroup-manager cgroupfs|systemd|disabled, --version\n\nCommands:\n",
    );
    for (name, _, flags, about) in COMMANDS {
        writeln!(text, "  {name:<11} {about}").ok();
        let names =
            flags.iter().map(|(names, value)| format!("--{}{}", names[0], if *value { " X" } else { "" }));
        let names: Vec<String> = names.filter(|n| n != "--help").collect();
        if !names.is_empty() {
            writeln!(text, "              {}", names.join(", ")).ok();
        }
    }
    print(&text);
}

/// COMPAT: runc's own shape: the specification's, and where the root is and since when.
fn view(container: &Container) -> Value {
    let (record, status) = (&container.record, container.status());
    let State { oci_version, id, bundle, annotations, .. } = record.state();
    let pid = if status == Status::Stopped { 0 } else { record.pid };
    let mut value = json!({
        "ociVersion": oci_version,
        "id": id,
        "pid": pid,
        "status": status.name(),
        "bundle": bundle,
        "rootfs": record.rootfs,
        "created": record.created,
        "owner": "",
    });
    if !annotations.is_empty() {
        value["annotations"] = json!(annotations);
    }
    value
}

pub(super) fn state(context: &Context, given: &Arguments) -> Result<(), OciError> {
    print_json(&view(&context.store.load(given.id())?));
    Ok(())
}

pub(super) fn list(context: &Context, given: &Arguments) -> Result<(), OciError> {
    let all = context.store.all()?;
    if given.has("quiet") {
        print(&all.iter().map(|c| format!("{}\n", c.record.id)).collect::<String>());
        return Ok(());
    }
    let owned = |c: &Container| {
        let mut value = view(c);
        value["owner"] = json!(owner(&c.dir));
        value
    };
    let views: Vec<Value> = all.iter().map(owned).collect();
    match given.value("format") {
        Some("json") => print(&format!("{}\n", if views.is_empty() { Value::Null } else { json!(views) })),
        None | Some("table") => {
            let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
            let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
            rows.extend(
                views
                    .iter()
                    .map(|v| ["id", "pid", "status", "bundle", "created", "owner"].map(|key| text(&v[key]))),
            );
            print(&table(&rows));
        }
        Some(_) => return Err(OciError::Usage("invalid format option".into())),
    }
    Ok(())
}

/// Columns at least 12 wide, three blanks between them.
fn table(rows: &[[String; 6]]) -> String {
    let width = |i: usize| rows.iter().map(|r| r[i].len() + 3).max().unwrap_or(0).max(12);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |row: &[String; 6]| {
        let cells: String = row.iter().zip(&widths).map(|(cell, w)| format!("{cell:<w$}")).collect();
        format!("{}\n", cells.trim_end())
    };
    rows.iter().map(line).collect()
}

fn owner(dir: &std::path::Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let Ok(uid) = std::fs::metadata(dir).map(|m| m.uid()) else { return String::new() };
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = users.lines().find_map(|l| {
        let mut fields = l.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| format!("#{uid}"))
}

pub(super) fn ps(context: &Context, given: &Arguments) -> Result<(), OciError> {
    let container = context.store.load(given.id())?;
    let pids = container.cgroup()?.pids();
    match given.value("format") {
        Some("json") => {
            print(&format!("{}\n", json!(pids)));
            Ok(())
        }
        None | Some("table") => process_table(&pids, &given.positional[1..]),
        Some(_) => Err(OciError::Usage("invalid format option".into())),
    }
}

/// The lines of the host's ps that are about these processes.
fn process_table(pids: &[i32], options: &[String]) -> Result<(), OciError> {
    let default = ["-ef".to_owned()];
    let options = if options.is_empty() { &default[..] } else { options };
    let output = std::process::Command::new("ps").args(options).output().map_err(OciError::io("ps"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(OciError::refused(format!("ps: {}", text.trim())));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let title = lines.next().unwrap_or_default();
    let Some(column) = title.split_ascii_whitespace().position(|w| w == "PID") else {
        return Err(OciError::refused("couldn't find PID field in ps output"));
    };
    let ours = |line: &&str| {
        let pid = line.split_ascii_whitespace().nth(column).and_then(|p| p.parse::<i32>().ok());
        pid.is_some_and(|p| pids.contains(&p))
    };
    print(&format!("{title}\n{}", lines.filter(ours).map(|l| format!("{l}\n")).collect::<String>()));
    Ok(())
}

pub(super) fn events(context: &Context, given: &Arguments) -> Result<(), OciError> {
    let container = context.store.load(given.id())?;
    let id = container.record.id.as_str();
    let (interval, group) = (duration(given.value("interval").unwrap_or("5s"))?, container.cgroup()?);
    let event =
        |kind: &str, data: Value| print(&format!("{}\n", json!({ "type": kind, "id": id, "data": data })));
    if given.has("stats") {
        if container.status() == Status::Stopped {
            return Err(OciError::refused(format!("container with id {id} is not running")));
        }
        event("stats", stats(&group.stats()));
        return Ok(());
    }
    let mut kills = group.oom_kills();
    while container.status() != Status::Stopped {
        event("stats", stats(&group.stats()));
        let mut left = interval;
        // Killings are told soon, statistics when it is time.
        while !left.is_zero() && container.status() != Status::Stopped {
            let step = left.min(std::time::Duration::from_millis(200));
            std::thread::sleep(step);
            left -= step;
            let now = group.oom_kills();
            if now > kills {
                kills = now;
                event("oom", Value::Null);
            }
        }
    }
    Ok(())
}

fn duration(text: &str) -> Result<std::time::Duration, OciError> {
    let wrong = || OciError::Usage(format!("invalid value {text:?} for flag -interval: parse error"));
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let ms = match &text[digits.len()..] {
        "ms" => number,
        "s" => number.saturating_mul(1000),
        "m" => number.saturating_mul(60_000),
        "h" => number.saturating_mul(3_600_000),
        _ => return Err(wrong()),
    };
    if ms == 0 {
        return Err(OciError::Usage("duration interval must be greater than 0".into()));
    }
    Ok(std::time::Duration::from_millis(ms))
}

/// COMPAT: the names of runc's `types.Stats`.
fn stats(s: &Stats) -> Value {
    let entries = |list: &[BlkioEntry]| -> Vec<Value> {
        list.iter()
            .map(|e| json!({ "major": e.major, "minor": e.minor, "op": e.op, "value": e.value }))
            .collect()
    };
    let cache = s.memory.details.get("cache").or_else(|| s.memory.details.get("file")).copied().unwrap_or(0);
    json!({
        "cpu": {
            "usage": {
                "total": s.cpu.total,
                "percpu": s.cpu.per_cpu,
                "kernel": s.cpu.kernel,
                "user": s.cpu.user,
            },
            "throttling": {
                "periods": s.cpu.periods,
                "throttledPeriods": s.cpu.throttled_periods,
                "throttledTime": s.cpu.throttled,
            },
        },
        "memory": {
            "cache": cache,
            "usage": {
                "limit": s.memory.limit,
                "usage": s.memory.usage,
                "max": s.memory.max_usage,
                "failcnt": s.memory.failcnt,
            },
            "raw": s.memory.details,
        },
        "pids": { "current": s.pids.current, "limit": s.pids.limit },
        "blkio": {
            "ioServiceBytesRecursive": entries(&s.blkio.service_bytes),
            "ioServicedRecursive": entries(&s.blkio.serviced),
        },
    })
}
