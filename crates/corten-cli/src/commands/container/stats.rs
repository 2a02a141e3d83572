//! `stats`: one reader per container, a table drawn twice a second.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use corten_base::units;
use corten_client::{Client, Filters, Query};
use serde_json::Value;

use super::lifecycle::finish;
use super::list::short;
use crate::cli::Cli;
use crate::error::Result;
use crate::flags::Flags;
use crate::format::{Row, Table, text};

const TABLE: Table<'static> = Table {
    context: "*container.statsContext",
    raw: &[],
    default: "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}",
    quiet: "{{.ID}}",
    headers: &[
        ("Container", "CONTAINER"),
        ("Name", "NAME"),
        ("ID", "CONTAINER ID"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", "NET I/O"),
        ("BlockIO", "BLOCK I/O"),
        ("PIDs", "PIDS"),
    ],
};

/// What is shown of one container.
#[derive(Debug, Clone, Default)]
struct Sample {
    container: String,
    name: String,
    id: String,
    cpu: f64,
    memory: f64,
    limit: f64,
    received: f64,
    sent: f64,
    read: f64,
    written: f64,
    pids: u64,
    valid: bool,
    error: Option<String>,
}

type Samples = Arc<Mutex<BTreeMap<usize, Sample>>>;

pub(super) async fn stats(cli: &Cli, flags: &Flags) -> Result {
    let client = cli.client()?;
    let format = cli.format_for(flags, "statsFormat");
    let named = flags.args();
    let all = flags.on("all");
    let samples: Samples = Arc::default();
    if flags.on("no-stream") {
        let names = if named.is_empty() { running(client, all).await? } else { named };
        let mut errors = Vec::new();
        let reads = names.iter().map(|name| read_once(client, name));
        for sample in futures_util::future::join_all(reads).await {
            match sample {
                Ok(sample) => {
                    let mut map = samples.lock().unwrap_or_else(PoisonError::into_inner);
                    let next = map.len();
                    map.insert(next, sample);
                }
                Err(e) => errors.push(e.to_string()),
            }
        }
        if !errors.is_empty() {
            return finish(errors);
        }
        return cli.print(&render(&samples, &format, flags)?);
    }
    live(cli, client, &named, all, &format, flags, &samples).await
}

async fn running(client: &Client, all: bool) -> Result<Vec<String>> {
    let list: Vec<Value> = client.container_list(Query::new().with_flag("all", all)).await?;
    Ok(list.iter().filter_map(|c| c["Id"].as_str()).map(str::to_owned).collect())
}

async fn read_once(client: &Client, name: &str) -> Result<Sample, corten_client::Error> {
    let mut stream = client.container_stats(name, false).await?;
    let value = stream.next().await?.unwrap_or_default();
    Ok(sample(name, &value))
}

/// Draws until interrupted, or until all named containers are gone.
async fn live(
    cli: &Cli,
    client: &Client,
    named: &[String],
    all: bool,
    format: &str,
    flags: &Flags,
    samples: &Samples,
) -> Result {
    let mut tasks = tokio::task::JoinSet::new();
    let mut known: Vec<String> = Vec::new();
    let mut watch = |id: String, tasks: &mut tokio::task::JoinSet<usize>| {
        if !known.contains(&id) {
            let slot = known.len();
            known.push(id.clone());
            if let Ok(own) = Client::new(client.endpoint().clone(), Some(client.api_version()), &[]) {
                tasks.spawn(follow(own, id, slot, Arc::clone(samples)));
            }
        }
    };
    let first = if named.is_empty() { running(client, all).await? } else { named.to_vec() };
    for id in first {
        watch(id, &mut tasks);
    }
    let mut filters = Filters::one("type", "container");
    for event in ["start", "create"].iter().take(if all { 2 } else { 1 }) {
        filters.add("event", event);
    }
    let mut events = client.events("", "", &filters).await?;
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    tick.tick().await;
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let table = render(samples, format, flags)?;
                let clear = if format.is_empty() || format.starts_with("table") { "\x1b[H" } else { "" };
                let body = if clear.is_empty() { table } else { table.replace('\n', "\x1b[K\n") };
                cli.print(&format!("{clear}{body}{}", if clear.is_empty() { "" } else { "\x1b[J" }))?;
            }
            event = events.next(), if named.is_empty() => {
                if let Some(event) = event? && let Some(id) = event["Actor"]["ID"].as_str() {
                    watch(id.to_owned(), &mut tasks);
                }
            }
            Some(done) = tasks.join_next() => {
                if let Ok(slot) = done && !named.is_empty() {
                    let error = samples.lock().unwrap_or_else(PoisonError::into_inner).get(&slot).and_then(|s| s.error.clone());
                    if let Some(error) = error {
                        return finish(vec![error]);
                    }
                }
                if tasks.is_empty() && !named.is_empty() {
                    return Ok(());
                }
            }
        }
    }
}

/// Keeps one container's sample up to date; returns its slot at the end.
async fn follow(client: Client, id: String, slot: usize, samples: Samples) -> usize {
    let put = |sample: Option<Sample>| {
        let mut map = samples.lock().unwrap_or_else(PoisonError::into_inner);
        match sample {
            Some(sample) => drop(map.insert(slot, sample)),
            None => drop(map.remove(&slot)),
        }
    };
    put(Some(Sample { container: id.clone(), ..Sample::default() }));
    match client.container_stats(&id, true).await {
        Ok(mut stream) => {
            while let Ok(Some(value)) = stream.next().await {
                put(Some(sample(&id, &value)));
            }
            put(None);
        }
        Err(e) => {
            put(Some(Sample { container: id.clone(), error: Some(e.to_string()), ..Sample::default() }))
        }
    }
    slot
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

fn sample(container: &str, v: &Value) -> Sample {
    let (cpu, before) = (&v["cpu_stats"], &v["precpu_stats"]);
    let used = number(&cpu["cpu_usage"]["total_usage"]) - number(&before["cpu_usage"]["total_usage"]);
    let system = number(&cpu["system_cpu_usage"]) - number(&before["system_cpu_usage"]);
    let online = match number(&cpu["online_cpus"]) {
        n if n > 0.0 => n,
        _ => cpu["cpu_usage"]["percpu_usage"]
            .as_array()
            .map_or(1.0, |a| f64::from(u32::try_from(a.len()).unwrap_or(1))),
    };
    let percent = if system > 0.0 && used > 0.0 { used / system * online * 100.0 } else { 0.0 };
    let memory = &v["memory_stats"];
    let usage = number(&memory["usage"]);
    // The page cache that can go at once does not count: cgroup v1 and v2 name it differently.
    let cache = ["total_inactive_file", "inactive_file"]
        .iter()
        .map(|k| number(&memory["stats"][k]))
        .find(|c| *c > 0.0 && *c < usage);
    let networks = || v["networks"].as_object().into_iter().flatten().map(|(_, n)| n);
    let io = |name: &str| {
        let entries = v["blkio_stats"]["io_service_bytes_recursive"].as_array().into_iter().flatten();
        entries
            .filter(|e| e["op"].as_str().is_some_and(|op| op.eq_ignore_ascii_case(name)))
            .map(|e| number(&e["value"]))
            .sum()
    };
    Sample {
        container: container.to_owned(),
        name: v["name"].as_str().unwrap_or_default().trim_start_matches('/').to_owned(),
        id: v["id"].as_str().unwrap_or_default().to_owned(),
        cpu: percent,
        memory: usage - cache.unwrap_or(0.0),
        limit: number(&memory["limit"]),
        received: networks().map(|n| number(&n["rx_bytes"])).sum(),
        sent: networks().map(|n| number(&n["tx_bytes"])).sum(),
        read: io("read"),
        written: io("write"),
        pids: v["pids_stats"]["current"].as_u64().unwrap_or(0),
        valid: true,
        error: None,
    }
}

fn render(samples: &Samples, format: &str, flags: &Flags) -> Result<String> {
    let no_trunc = flags.on("no-trunc");
    let map = samples.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let rows: Vec<Row> = map.values().filter(|s| s.error.is_none()).map(|s| row(s, no_trunc)).collect();
    TABLE.render(format, false, &rows)
}

fn row(s: &Sample, no_trunc: bool) -> Row {
    let or_dashes = |value: String| text(if s.valid { value } else { "--".into() });
    let pair = |a: String, b: String| text(if s.valid { format!("{a} / {b}") } else { "-- / --".into() });
    let percent = if s.limit > 0.0 { s.memory / s.limit * 100.0 } else { 0.0 };
    let id = if s.id.is_empty() { &s.container } else { &s.id };
    Row::from([
        (
            "Container",
            text(if no_trunc || s.container.len() != 64 {
                s.container.as_str()
            } else {
                short(&s.container)
            }),
        ),
        ("Name", text(if s.name.is_empty() { "--" } else { &s.name })),
        ("ID", text(if no_trunc { id.as_str() } else { short(id) })),
        ("CPUPerc", or_dashes(format!("{:.2}%", s.cpu))),
        ("MemUsage", pair(units::bytes_size(s.memory), units::bytes_size(s.limit))),
        ("MemPerc", or_dashes(format!("{percent:.2}%"))),
        ("NetIO", pair(units::human_size3(s.received), units::human_size3(s.sent))),
        ("BlockIO", pair(units::human_size3(s.read), units::human_size3(s.written))),
        ("PIDs", or_dashes(s.pids.to_string())),
    ])
}
