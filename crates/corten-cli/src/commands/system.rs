//! `version`, `info`, `system df`, `events`, `dial-stdio`.

use corten_base::units;
use serde_json::{Value, json};

use super::{container, image, volume};
use crate::cli::Cli;
use crate::commands::{FILTER_HELP, FORMAT_HELP};
use crate::error::{Result, exit, fail};
use crate::flags::Kind::{Bool, Filter, Text};
use crate::flags::{Flag, Flags, flag, long};
use crate::format::{self, Row, Table, text};
use crate::opts;
use crate::tree::{Arity, Command, PLAIN};

mod info;

const FORMAT: Flag = flag("format", 'f', Text, "How to show it: json, or a Go template");

const BASE: Command = Command { group: "system", usage: "[OPTIONS]", arity: Arity::None, ..PLAIN };

pub(super) const COMMANDS: &[Command] = &[
    Command {
        group: "",
        top: &["version"],
        about: "Show the versions of client and engine",
        flags: &[&[FORMAT]],
        run: |c, f| Box::pin(version(c, f)),
        ..BASE
    },
    Command {
        names: &["info"],
        top: &["info"],
        about: "Show what the engine is and has",
        flags: &[&[FORMAT]],
        run: |c, f| Box::pin(info::info(c, f)),
        ..BASE
    },
    Command {
        names: &["df"],
        about: "Show what takes space on disk",
        flags: &[&[long("format", Text, FORMAT_HELP), flag("verbose", 'v', Bool, "Every object")]],
        run: |c, f| Box::pin(df(c, f)),
        ..BASE
    },
    Command {
        names: &["events"],
        top: &["events"],
        about: "Show what happens in the engine, as it happens",
        flags: &[&[
            flag("filter", 'f', Filter, FILTER_HELP),
            long("format", Text, "How to show it: json, or a Go template"),
            long("since", Text, "Events since this time"),
            long("until", Text, "Events until this time"),
        ]],
        run: |c, f| Box::pin(events(c, f)),
        ..BASE
    },
    Command {
        names: &["dial-stdio"],
        about: "Connect standard input and output with the engine",
        usage: "",
        run: |c, _| Box::pin(dial_stdio(c)),
        ..BASE
    },
];

/// Client and server as `version` knows them; the server is null where none answers.
async fn versions(cli: &Cli) -> (Value, Option<String>) {
    let server = match cli.client() {
        Ok(client) => match client.negotiate().await {
            Ok(_) => client.version().await.map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        },
        Err(e) => Err(format!("{e:#}")),
    };
    let max = corten_client::MAX_API_VERSION;
    let api = cli.client().map_or(max, corten_client::Client::api_version);
    let mut out = json!({
        "Client": {
            "Version": crate::CLIENT_VERSION,
            "ApiVersion": format!("{}.{}", api.0, api.1),
            "DefaultAPIVersion": format!("{}.{}", max.0, max.1),
            "GitCommit": format!("corten-{}", env!("CARGO_PKG_VERSION")),
            "GoVersion": "none (Rust)",
            "Os": "linux",
            "Arch": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
            "BuildTime": "",
            "Context": cli.context_name(),
        },
        "Server": null,
    });
    match server {
        Ok(server) => {
            out["Server"] = server;
            (out, None)
        }
        Err(e) => (out, Some(e)),
    }
}

async fn version(cli: &Cli, flags: &Flags) -> Result {
    // An endpoint that cannot even be named is an error of the command line, not of a server.
    cli.client()?;
    let (all, error) = versions(cli).await;
    match flags.text("format") {
        "" => cli.print(&version_text(&all))?,
        "json" => cli.line(&all.to_string())?,
        template => {
            // Templates name the fields as Go does, JSON as the API does.
            let mut named = all.clone();
            for side in ["Client", "Server"] {
                if let Some(version) = named[side].get("ApiVersion").cloned() {
                    named[side]["APIVersion"] = version;
                }
            }
            let line = format::render(template, &named.to_string(), &[]);
            cli.line(&line.map_err(|e| fail(e.to_string(), 1))?)?;
        }
    }
    match error {
        None => Ok(()),
        Some(text) => Err(fail(text, 1)),
    }
}

fn version_text(all: &Value) -> String {
    let field = |v: &Value, key: &str| v[key].as_str().unwrap_or_default().to_owned();
    let client = &all["Client"];
    let (api, max) = (field(client, "ApiVersion"), field(client, "DefaultAPIVersion"));
    let api = if api == max { api } else { format!("{api} (downgraded from {max})") };
    let mut out = String::from("Client:\n");
    for (label, value) in [
        ("Version:", field(client, "Version")),
        ("API version:", api),
        ("Go version:", field(client, "GoVersion")),
        ("Git commit:", field(client, "GitCommit")),
        ("Built:", field(client, "BuildTime")),
        ("OS/Arch:", format!("{}/{}", field(client, "Os"), field(client, "Arch"))),
        ("Context:", field(client, "Context")),
    ] {
        out.push_str(&format!(" {label:<18} {value}\n"));
    }
    let server = &all["Server"];
    if server.is_null() {
        return out;
    }
    let platform = server["Platform"]["Name"].as_str().unwrap_or_default();
    out.push_str(&format!("\nServer:{}{platform}\n", if platform.is_empty() { "" } else { " " }));
    for component in server["Components"].as_array().into_iter().flatten() {
        out.push_str(&format!(" {}:\n", field(component, "Name")));
        let details = &component["Details"];
        let line = |label: &str, value: &str| format!("  {label:<17} {value}\n");
        out.push_str(&line("Version:", &field(component, "Version")));
        if component["Name"] == "Engine" {
            let minimum = field(details, "MinAPIVersion");
            out.push_str(&line(
                "API version:",
                &format!("{} (minimum version {minimum})", field(details, "ApiVersion")),
            ));
            out.push_str(&line("Go version:", &field(details, "GoVersion")));
            out.push_str(&line("Git commit:", &field(details, "GitCommit")));
            out.push_str(&line("Built:", &reformat(&field(details, "BuildTime"))));
            out.push_str(&line("OS/Arch:", &format!("{}/{}", field(details, "Os"), field(details, "Arch"))));
            out.push_str(&line("Experimental:", &field(details, "Experimental")));
        } else {
            for (key, value) in details.as_object().into_iter().flatten() {
                out.push_str(&line(&format!("{key}:"), value.as_str().unwrap_or_default()));
            }
        }
    }
    out
}

/// An RFC 3339 time as C's `asctime` has it; anything else stays.
fn reformat(time: &str) -> String {
    let parsed =
        corten_base::time::parse_rfc3339(time).and_then(|ns| jiff::Timestamp::from_nanosecond(ns).ok());
    parsed.map_or_else(
        || time.to_owned(),
        |t| t.to_zoned(jiff::tz::TimeZone::UTC).strftime("%a %b %e %H:%M:%S %Y").to_string(),
    )
}

async fn events(cli: &Cli, flags: &Flags) -> Result {
    let filters = opts::filters(&flags.list("filter"));
    let template = flags.text("format").to_owned();
    let time = |name: &str| container::timestamp(flags.text(name));
    let mut stream = cli.client()?.events(&time("since")?, &time("until")?, &filters).await?;
    while let Some(event) = stream.next().await? {
        let line = match template.as_str() {
            "" => event_line(&event),
            "json" => event_json(&event),
            template => {
                format::render(template, &event_json(&event), &["Actor.Attributes", "from", "id", "status"])?
            }
        };
        cli.line(&line)?;
    }
    Ok(())
}

/// An event in docker's order of members.
fn event_json(event: &Value) -> String {
    let mut members = Vec::new();
    for key in ["status", "id", "from", "Type", "Action"] {
        if let Some(value) = event.get(key) {
            members.push(format!("\"{key}\":{value}"));
        }
    }
    let actor = &event["Actor"];
    members.push(format!("\"Actor\":{{\"ID\":{},\"Attributes\":{}}}", actor["ID"], actor["Attributes"]));
    for key in ["scope", "time", "timeNano"] {
        if let Some(value) = event.get(key) {
            members.push(format!("\"{key}\":{value}"));
        }
    }
    format!("{{{}}}", members.join(","))
}

fn event_line(event: &Value) -> String {
    let field = |key: &str| event[key].as_str().unwrap_or_default();
    let time = match (event["timeNano"].as_i64(), event["time"].as_i64()) {
        (Some(ns), _) if ns != 0 => nano_time(ns),
        (_, Some(s)) => nano_time(s.saturating_mul(1_000_000_000)),
        _ => String::new(),
    };
    let mut out = format!(
        "{time} {} {} {}",
        field("Type"),
        field("Action"),
        event["Actor"]["ID"].as_str().unwrap_or_default()
    );
    let attributes = event["Actor"]["Attributes"].as_object();
    let pairs: Vec<String> = attributes
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    if !pairs.is_empty() {
        out.push_str(&format!(" ({})", pairs.join(", ")));
    }
    out
}

/// A local time with nine digits of a second, as docker prints events.
fn nano_time(ns: i64) -> String {
    let Ok(t) = jiff::Timestamp::from_nanosecond(i128::from(ns)) else { return String::new() };
    let text = t.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S.%9f%:z").to_string();
    text.strip_suffix("+00:00").map_or_else(|| text.clone(), |utc| format!("{utc}Z"))
}

const DF: Table<'static> = Table {
    context: "*formatter.diskUsageContext",
    raw: &[],
    default: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
    quiet: "{{.Type}}",
    headers: &[
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ],
};

#[expect(clippy::cast_precision_loss, reason = "for display")]
fn size(bytes: i64) -> String {
    units::human_size(bytes as f64)
}

fn items<'a>(usage: &'a Value, key: &str) -> Vec<&'a Value> {
    usage[key].as_array().into_iter().flatten().collect()
}

async fn df(cli: &Cli, flags: &Flags) -> Result {
    let usage = cli.client()?.disk_usage().await?;
    if flags.on("verbose") {
        return cli.print(&df_verbose(&usage, flags.text("format"))?);
    }
    let int = |v: &Value| v.as_i64().unwrap_or(0);
    let row = |kind: &str, total: usize, active: usize, bytes: i64, free: i64, percent: bool| {
        let mut reclaimable = size(free);
        if percent && bytes > 0 {
            reclaimable.push_str(&format!(" ({}%)", free * 100 / bytes));
        }
        Row::from([
            ("Type", text(kind)),
            ("TotalCount", text(total.to_string())),
            ("Active", text(active.to_string())),
            ("Size", text(size(bytes))),
            ("Reclaimable", text(reclaimable)),
        ])
    };
    let images = items(&usage, "Images");
    let used: i64 = images
        .iter()
        .filter(|i| int(&i["Containers"]) > 0 && int(&i["Size"]) != -1 && int(&i["SharedSize"]) != -1)
        .map(|i| int(&i["Size"]) - int(&i["SharedSize"]))
        .sum();
    let layers = int(&usage["LayersSize"]);
    let containers = items(&usage, "Containers");
    let active = |c: &&&Value| {
        ["running", "paused", "restarting"]
            .iter()
            .any(|s| c["State"].as_str().unwrap_or_default().contains(s))
    };
    let volumes = items(&usage, "Volumes");
    let volume_size = |v: &&Value| int(&v["UsageData"]["Size"]).max(0);
    let cache = items(&usage, "BuildCache");
    let flag = |v: &&&Value, key: &str| v[key].as_bool().unwrap_or(false);
    let cache_size: i64 = cache.iter().filter(|c| !flag(c, "Shared")).map(|c| int(&c["Size"])).sum();
    let cache_free: i64 =
        cache.iter().filter(|c| !flag(c, "Shared") && !flag(c, "InUse")).map(|c| int(&c["Size"])).sum();
    let in_use = |list: &[&Value], refs: &dyn Fn(&Value) -> i64| list.iter().filter(|v| refs(v) > 0).count();
    let rows = [
        row("Images", images.len(), in_use(&images, &|i| int(&i["Containers"])), layers, layers - used, true),
        row(
            "Containers",
            containers.len(),
            containers.iter().filter(active).count(),
            containers.iter().map(|c| int(&c["SizeRw"])).sum(),
            containers.iter().filter(|c| !active(c)).map(|c| int(&c["SizeRw"])).sum(),
            true,
        ),
        row(
            "Local Volumes",
            volumes.len(),
            in_use(&volumes, &|v| int(&v["UsageData"]["RefCount"])),
            volumes.iter().map(volume_size).sum(),
            volumes.iter().filter(|v| int(&v["UsageData"]["RefCount"]) == 0).map(volume_size).sum(),
            true,
        ),
        row(
            "Build Cache",
            cache.len(),
            cache.iter().filter(|c| flag(c, "InUse")).count(),
            cache_size,
            cache_free,
            false,
        ),
    ];
    cli.print(&DF.render(flags.text("format"), false, &rows)?)
}

fn df_verbose(usage: &Value, format: &str) -> Result<String> {
    if !format.is_empty() && format != "table" {
        let text = usage.to_string();
        return if format == "json" {
            Ok(format!("{text}\n"))
        } else {
            Ok(format!("{}\n", format::render(format, &text, &[])?))
        };
    }
    let mut out = String::from("Images space usage:\n\n");
    let images = Table {
        context: "*formatter.imageContext",
        raw: &[],
        default: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}",
        quiet: "",
        headers: image::HEADERS,
    };
    // COMPAT: an image with several names is shown under the first.
    let rows = |i| image::rows(i, false, false).into_iter().next();
    let rows: Vec<Row> = items(usage, "Images").into_iter().filter_map(rows).collect();
    out.push_str(&images.render("", false, &rows)?);
    out.push_str("\nContainers space usage:\n\n");
    let containers = Table {
        context: "*formatter.ContainerContext",
        raw: &[],
        default: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}",
        quiet: "",
        headers: container::HEADERS,
    };
    let own_size = |c: &Value| {
        let mut row = container::row(c, false);
        row.insert("Size", text(units::human_size3(c["SizeRw"].as_f64().unwrap_or(0.0))));
        row
    };
    let rows: Vec<Row> = items(usage, "Containers").into_iter().map(own_size).collect();
    out.push_str(&containers.render("", false, &rows)?);
    out.push_str("\nLocal Volumes space usage:\n\n");
    let volumes = Table { default: "{{.Name}}\t{{.Links}}\t{{.Size}}", ..volume::TABLE };
    let rows: Vec<Row> = items(usage, "Volumes").into_iter().map(volume::row).collect();
    out.push_str(&volumes.render("", false, &rows)?);
    let cache = items(usage, "BuildCache");
    let total: i64 = cache.iter().filter(|c| c["Shared"] != true).filter_map(|c| c["Size"].as_i64()).sum();
    out.push_str(&format!("\nBuild cache usage: {}\n\n", size(total)));
    let table = Table {
        context: "*formatter.buildCacheContext",
        raw: &[],
        default: "{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}",
        quiet: "",
        headers: &[
            ("ID", "CACHE ID"),
            ("CacheType", "CACHE TYPE"),
            ("Size", "SIZE"),
            ("CreatedSince", "CREATED"),
            ("LastUsedSince", "LAST USED"),
            ("UsageCount", "USAGE"),
            ("Shared", "SHARED"),
        ],
    };
    let row = |c: &&Value| {
        Row::from([
            ("ID", text(container::short(c["ID"].as_str().unwrap_or_default()))),
            ("CacheType", text(c["Type"].as_str().unwrap_or_default())),
            ("Size", text(size(c["Size"].as_i64().unwrap_or(0)))),
            ("CreatedSince", text(container::ago(c["CreatedAt"].as_str().unwrap_or_default()))),
            ("LastUsedSince", text(container::ago(c["LastUsedAt"].as_str().unwrap_or_default()))),
            ("UsageCount", text(c["UsageCount"].as_i64().unwrap_or(0).to_string())),
            ("Shared", text(c["Shared"].as_bool().unwrap_or(false).to_string())),
        ])
    };
    let rows: Vec<Row> = cache.iter().map(row).collect();
    out.push_str(&table.render("", false, &rows)?);
    Ok(out)
}

/// Copies between our standard streams and the daemon, for clients that come over ssh.
async fn dial_stdio(cli: &Cli) -> Result {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let stream = cli
        .client()?
        .dial()
        .await
        .map_err(|e| fail(format!("failed to open the raw stream connection: {e}"), 1))?;
    let (mut read, mut write) = tokio::io::split(stream);
    let mut input = crate::streams::stdin_chunks();
    let upload = async {
        while let Some(chunk) = input.recv().await {
            write.write_all(&chunk).await?;
        }
        write.shutdown().await
    };
    let download = async {
        let mut buffer = vec![0u8; 64 << 10];
        loop {
            match read.read(&mut buffer).await {
                Ok(0) => return Ok(()),
                Ok(n) => cli.write_out(&buffer[..n])?,
                Err(e) => return Err(anyhow::Error::from(e)),
            }
        }
    };
    tokio::pin!(upload, download);
    tokio::select! {
        done = &mut download => done,
        sent = &mut upload => match sent {
            Ok(()) => download.await,
            Err(_) => Err(exit(1)),
        },
    }
}
