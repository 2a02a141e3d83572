//! `build`.

use std::sync::atomic::Ordering;

use base64::Engine as _;
use corten_base::error::errno_text;
use corten_base::{Reference, units};
use corten_client::Query;
use serde_json::{Map, Value, json};

use crate::cli::Cli;
use crate::commands::PROXY_KEYS;
use crate::error::{Result, fail};
use crate::flags::Kind::{Bool, Bytes, Int64, List, Strings, SwapBytes, Text, Ulimit};
use crate::flags::{Flag, Flags, flag, long};
use crate::progress::{Display, Target};
use crate::tree::{Arity, Command};
use crate::{build_context, opts};

const FLAGS: &[Flag] = &[
    long("add-host", List, "Extra line of /etc/hosts (name:ip)").check(|t| opts::extra_host(t).map(drop)),
    long("build-arg", List, "Build argument"),
    long("cache-from", Strings, "Image whose layers may be used as cache"),
    long("cgroup-parent", Text, "Cgroup to make the steps' cgroups in"),
    long("compress", Bool, "Send the context compressed"),
    long("cpu-period", Int64, "Period of the CPU quota in microseconds"),
    long("cpu-quota", Int64, "CPU time per period in microseconds"),
    flag("cpu-shares", 'c', Int64, "Relative CPU weight"),
    long("cpuset-cpus", Text, "CPUs that may be used"),
    long("cpuset-mems", Text, "Memory nodes that may be used"),
    long("disable-content-trust", Bool, "Do not verify signatures").default("true").hidden(),
    flag("file", 'f', Text, "The Dockerfile; - for standard input"),
    long("force-rm", Bool, "Remove intermediate containers in any case"),
    long("iidfile", Text, "File to write the image's ID to"),
    long("isolation", Text, "Isolation technology"),
    long("label", List, "Label of the image"),
    long("load", Bool, "Load the result into the engine (always done)").hidden(),
    flag("memory", 'm', Bytes, "Memory limit"),
    long("memory-swap", SwapBytes, "Limit of memory and swap together"),
    long("network", Text, "Network of the steps").default("default"),
    long("no-cache", Bool, "Do not use the cache"),
    long("platform", Text, "Platform of the image: os/architecture"),
    long("progress", Text, "For scripts: auto, plain or tty; the output is always plain").default("auto"),
    long("pull", Bool, "Look for newer base images"),
    flag("quiet", 'q', Bool, "Only the image's ID"),
    long("rm", Bool, "Remove intermediate containers after success").default("true"),
    long("security-opt", Strings, "Security option"),
    long("shm-size", Bytes, "Size of /dev/shm"),
    long("squash", Bool, "One layer for all steps"),
    flag("tag", 't', List, "Name of the image: name[:tag]")
        .check(|t| t.parse::<Reference>().map(drop).map_err(|e| e.to_string())),
    long("target", Text, "Stage to build"),
    long("ulimit", Ulimit, "Resource limit of the steps"),
];

const BUILD: Command = Command {
    group: "builder",
    names: &["build"],
    top: &["build"],
    about: "Build an image from a Dockerfile",
    usage: "[OPTIONS] PATH | URL | -",
    arity: Arity::Exactly(1),
    flags: &[FLAGS],
    interspersed: true,
    run: |c, f| Box::pin(build(c, f)),
};

pub(super) const COMMANDS: &[Command] = &[BUILD, Command { group: "image", top: &[], ..BUILD }];

fn is_url(context: &str) -> bool {
    ["http://", "https://", "git://", "github.com/", "git@"].iter().any(|p| context.starts_with(p))
}

async fn build(cli: &Cli, flags: &Flags) -> Result {
    let context = flags.arg(0);
    if !["auto", "plain", "tty"].contains(&flags.text("progress")) {
        return Err(fail(format!("invalid progress mode: {}", flags.text("progress")), 1));
    }
    let iidfile = flags.text("iidfile");
    if !iidfile.is_empty() {
        corten_base::fs::ensure_absent(std::path::Path::new(iidfile))?;
    }
    let mut query = parameters(cli, flags)?;
    let quiet = flags.on("quiet");
    let mut sent = None;
    let body = if is_url(&context) {
        query = query.with("remote", context.clone()).with_text("dockerfile", flags.text("file"));
        corten_client::Body::Empty
    } else {
        let packed = match context.as_str() {
            "-" => build_context::from_stdin(flags.text("file"))?,
            dir => build_context::from_directory(dir, flags.text("file"), flags.on("compress"))?,
        };
        query = query.with("dockerfile", packed.dockerfile);
        sent = Some(packed.sent);
        packed.body
    };
    let all = cli.config().borrow().all_credentials();
    let auths: Map<String, Value> = all.iter().map(|(server, c)| (server.clone(), c.to_json())).collect();
    let config = base64::engine::general_purpose::URL_SAFE.encode(Value::Object(auths).to_string());
    let announce = |sent: Option<std::sync::Arc<std::sync::atomic::AtomicU64>>| match sent.filter(|_| !quiet)
    {
        Some(sent) => {
            #[expect(clippy::cast_precision_loss, reason = "for display")]
            let size = units::human_size(sent.load(Ordering::Relaxed) as f64);
            // COMPAT: docker's progress line ends with two carriage returns before the line feed.
            cli.print(&format!("Sending build context to Docker daemon {size:>8}\r\r\n"))
        }
        None => Ok(()),
    };
    let mut stream = match cli.client()?.build(query, &config, body).await {
        Ok(stream) => stream,
        Err(e) => {
            if matches!(e, corten_client::Error::Api { .. }) {
                announce(sent)?;
            }
            return Err(e.into());
        }
    };
    let mut display = Display::new(if quiet { Target::Nowhere } else { Target::Stdout });
    let (mut id, mut log) = (String::new(), String::new());
    while let Some(message) = stream.next().await? {
        announce(sent.take())?;
        if let Some(found) = message["aux"]["ID"].as_str() {
            id = found.to_owned();
            continue;
        }
        if quiet {
            log.push_str(message["stream"].as_str().unwrap_or_default());
        }
        if let Err(e) = display.message(&message) {
            cli.write_err(log.as_bytes())?;
            return Err(e);
        }
    }
    if quiet {
        // Older daemons stream the id instead of sending it as a result.
        let last = log.lines().last().unwrap_or_default().trim();
        cli.line(if id.is_empty() { last } else { &id })?;
    }
    if !iidfile.is_empty() {
        if id.is_empty() {
            return Err(fail("cannot write image ID: the daemon did not report it".to_owned(), 1));
        }
        std::fs::write(iidfile, &id).map_err(|e| fail(format!("open {iidfile}: {}", errno_text(&e)), 1))?;
    }
    Ok(())
}

/// The query of `POST /build`.
fn parameters(cli: &Cli, flags: &Flags) -> Result<Query> {
    let mut query = Query::new();
    for tag in flags.list("tag") {
        query = query.with("t", tag);
    }
    if flags.changed("isolation") && flags.text("isolation") != "default" {
        return Err(fail("--isolation is only supported on Windows", 1));
    }
    let hosts: Result<Vec<String>, String> =
        flags.list("add-host").iter().map(|h| opts::extra_host(h)).collect();
    for host in hosts.map_err(|e| fail(e, 1))? {
        query = query.with("extrahosts", host);
    }
    let ulimits: Result<Vec<Value>, String> = flags.list("ulimit").iter().map(|u| opts::ulimit(u)).collect();
    let labels = opts::labels(&flags.list("label"), &[]).map_err(|e| fail(e, 1))?;
    let number = |name: &str| flags.int(name).to_string();
    for (key, name) in [("cpuperiod", "cpu-period"), ("cpuquota", "cpu-quota"), ("cpushares", "cpu-shares")] {
        if flags.changed(name) {
            query = query.with(key, number(name));
        }
    }
    for (key, name) in [("memory", "memory"), ("memswap", "memory-swap"), ("shmsize", "shm-size")] {
        if flags.changed(name) {
            query = query.with(key, flags.bytes(name).to_string());
        }
    }
    for (key, name) in [
        ("cpusetcpus", "cpuset-cpus"),
        ("cpusetmems", "cpuset-mems"),
        ("cgroupparent", "cgroup-parent"),
        ("target", "target"),
    ] {
        query = query.with_text(key, flags.text(name));
    }
    for (key, name) in [
        ("q", "quiet"),
        ("nocache", "no-cache"),
        ("pull", "pull"),
        ("forcerm", "force-rm"),
        ("squash", "squash"),
    ] {
        query = query.with_flag(key, flags.on(name));
    }
    if !flags.on("rm") {
        query = query.with("rm", "0");
    }
    let query = query
        .with("networkmode", flags.text("network"))
        .with("version", "1")
        .with_text("platform", &cli.platform(flags))
        .with("buildargs", Value::Object(arguments(cli, flags)).to_string())
        .with("labels", Value::Object(labels).to_string())
        .with("ulimits", json!(ulimits.map_err(|e| fail(e, 1))?).to_string())
        .with("cachefrom", json!(flags.list("cache-from")).to_string());
    Ok(flags
        .list("security-opt")
        .iter()
        .fold(query, |query, option| query.with("securityopt", option.as_str())))
}

/// Build arguments: null for a bare name that our environment does not have; the proxies of config.json.
fn arguments(cli: &Cli, flags: &Flags) -> Map<String, Value> {
    let mut out = Map::new();
    for arg in flags.list("build-arg") {
        match arg.split_once('=') {
            Some((key, value)) => out.insert(key.into(), value.into()),
            None => out.insert(arg.clone(), crate::env::value_of(&arg).map_or(Value::Null, Value::from)),
        };
    }
    let config = cli.config().borrow();
    let proxies = config.get("proxies").and_then(|p| p.get("default"));
    for (key, name) in PROXY_KEYS {
        let Some(value) = proxies.and_then(|p| p.get(*key)).and_then(Value::as_str).filter(|v| !v.is_empty())
        else {
            continue;
        };
        for name in [(*name).to_owned(), name.to_lowercase()] {
            out.entry(name).or_insert_with(|| value.into());
        }
    }
    out
}
