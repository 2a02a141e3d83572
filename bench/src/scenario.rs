//! The scenarios. Each runs on every engine in turn.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::Options;
use crate::api::Api;
use crate::crowd;
use crate::engine::Engine;
use crate::measure::{Row, median_ms};
use crate::network;

type Scenario = fn(&[Engine], usize) -> Result<Vec<Row>>;

const SCENARIOS: &[(&str, Scenario)] = &[
    ("start", daemon_start),
    ("idle", idle_memory),
    ("run", run_rm),
    ("api", api_cycle),
    ("exec", exec),
    ("hundred", hundred),
    ("eight", crowd::eight_clients),
    ("thousand", crowd::thousand_running),
    ("crowd", crowd::ten_thousand_stopped),
    ("logs", logs),
    ("build", build),
    ("ship", ship),
    ("paths", network::paths),
    ("networks", network::changes),
    ("ports", network::ports),
    ("names", network::names),
];

/// Runs all of them, or the one asked for.
///
/// # Errors
/// When a scenario cannot be set up; an engine that fails one gets a dash.
pub fn run_all(engines: &[Engine], options: &Options) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, scenario) in SCENARIOS {
        if options.only.as_deref().is_some_and(|only| only != *name) {
            continue;
        }
        eprintln!("… {name}");
        rows.extend(scenario(engines, options.runs)?);
    }
    Ok(rows)
}

/// `runs` rounds in which every engine does `once`; the medians.
pub(crate) fn rounds(
    engines: &[Engine],
    runs: usize,
    once: impl Fn(&Engine) -> Result<Duration>,
) -> Vec<Option<f64>> {
    let mut samples: Vec<Vec<Duration>> = engines.iter().map(|_| Vec::new()).collect();
    let mut failed = vec![false; engines.len()];
    for round in 0..=runs {
        for (i, engine) in engines.iter().enumerate() {
            if failed[i] {
                continue;
            }
            match once(engine) {
                // The first round warms caches.
                Ok(took) if round > 0 => samples[i].push(took),
                Ok(_) => {}
                Err(e) => {
                    eprintln!("{}: {e:#}", engine.name);
                    failed[i] = true;
                    samples[i].clear();
                }
            }
        }
    }
    samples.into_iter().map(median_ms).collect()
}

/// One measurement per engine.
pub(crate) fn each(engines: &[Engine], once: impl Fn(&Engine) -> Result<f64>) -> Vec<Option<f64>> {
    engines
        .iter()
        .map(|engine| once(engine).inspect_err(|e| eprintln!("{}: {e:#}", engine.name)).ok())
        .collect()
}

pub(crate) fn row(name: impl Into<String>, unit: &'static str, values: Vec<Option<f64>>) -> Row {
    Row { name: name.into(), unit, values }
}

fn daemon_start(engines: &[Engine], _: usize) -> Result<Vec<Row>> {
    let values = engines.iter().map(|e| e.cold_start.map(|d| d.as_secs_f64() * 1e3)).collect();
    Ok(vec![row("daemon, cold start to the first ping", "ms", values)])
}

#[expect(clippy::cast_precision_loss, reason = "kilobytes fit")]
fn idle_memory(engines: &[Engine], _: usize) -> Result<Vec<Row>> {
    std::thread::sleep(Duration::from_secs(3));
    let of = |f: fn(&crate::engine::Memory) -> u64| {
        engines.iter().map(|e| e.socket().map(|_| f(&e.memory()) as f64 / 1024.0)).collect::<Vec<_>>()
    };
    Ok(vec![
        row("idle daemon, resident", "MB", of(|m| m.daemon_rss)),
        row("idle daemon, proportional", "MB", of(|m| m.daemon_pss)),
    ])
}

fn run_rm(engines: &[Engine], runs: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for network in ["bridge", "none", "host"] {
        let values =
            rounds(engines, runs, |e| e.timed(&["run", "--rm", "--network", network, "busybox", "true"]));
        rows.push(row(format!("`run --rm busybox true`, network {network}"), "ms", values));
    }
    Ok(rows)
}

fn exec(engines: &[Engine], runs: usize) -> Result<Vec<Row>> {
    for engine in engines {
        engine.say(&["run", "-d", "--name", "execs", "busybox", "sleep", "10000"]).ok();
    }
    let values = rounds(engines, runs, |e| e.timed(&["exec", "execs", "true"]));
    let direct = rounds(engines, runs, |engine| {
        let begin = Instant::now();
        Api::exec(engine, "execs", r#"["true"]"#)?;
        Ok(begin.elapsed())
    });
    for engine in engines {
        engine.say(&["rm", "-f", "execs"]).ok();
    }
    Ok(vec![
        row("`exec true`", "ms", values),
        row("create and start of an exec of `true` to the end of its output, over the socket", "ms", direct),
    ])
}

fn api_cycle(engines: &[Engine], runs: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for network in ["bridge", "none", "host"] {
        let values = rounds(engines, runs, |engine| {
            let mut api = Api::connect(engine)?;
            api.call("GET", "/_ping", "").ok();
            let begin = Instant::now();
            let id = api.create(network, r#"["true"]"#)?;
            api.call("POST", &format!("/containers/{id}/start"), "")?;
            api.call("POST", &format!("/containers/{id}/wait"), "")?;
            api.call("DELETE", &format!("/containers/{id}"), "")?;
            Ok(begin.elapsed())
        });
        rows.push(row(format!("create, start, wait, remove over the socket, {network}"), "ms", values));
    }
    Ok(rows)
}

#[expect(clippy::cast_precision_loss, reason = "kilobytes fit")]
fn hundred(engines: &[Engine], _: usize) -> Result<Vec<Row>> {
    const COUNT: usize = 100;
    let mut started = Vec::new();
    let mut list = Vec::new();
    let mut daemon = Vec::new();
    let mut shims = Vec::new();
    let mut removed = Vec::new();
    for engine in engines {
        let run = || -> Result<[f64; 5]> {
            let before = engine.memory();
            let begin = Instant::now();
            for i in 0..COUNT {
                engine.say(&["run", "-d", "--name", &format!("h{i}"), "busybox", "sleep", "10000"])?;
            }
            let start = begin.elapsed().as_secs_f64();
            let listing = engine.timed(&["ps", "-q"])?.as_secs_f64() * 1e3;
            let after = engine.memory();
            let names: Vec<String> = (0..COUNT).map(|i| format!("h{i}")).collect();
            let rm: Vec<&str> = ["rm", "-f"].into_iter().chain(names.iter().map(String::as_str)).collect();
            let rm = engine.timed(&rm)?.as_secs_f64();
            let grown = after.daemon_private.saturating_sub(before.daemon_private) as f64 / COUNT as f64;
            Ok([start, listing, grown, after.shims_private as f64 / COUNT as f64, rm])
        };
        let values = run().inspect_err(|e| eprintln!("{}: {e:#}", engine.name)).ok();
        let at = |i: usize| values.map(|v| v[i]);
        started.push(at(0));
        list.push(at(1));
        daemon.push(at(2).filter(|_| engine.socket().is_some()));
        shims.push(at(3));
        removed.push(at(4));
    }
    Ok(vec![
        row("100 × `run -d`, one after the other", "s", started),
        row("`ps -q` with 100 running", "ms", list),
        row("daemon's private memory per running container", "kB", daemon),
        row("shim's private memory per running container", "kB", shims),
        row("`rm -f` of 100 running in one command", "s", removed),
    ])
}

fn logs(engines: &[Engine], _: usize) -> Result<Vec<Row>> {
    let script = "yes 0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789 | head -1000000";
    let script = script.replace("0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789", &"x".repeat(99));
    let driver = |e: &Engine| if e.name == "podman" { "k8s-file" } else { "json-file" };
    let write = each(engines, |e| {
        Ok(e.timed(&["run", "--name", "logger", "--log-driver", driver(e), "busybox", "sh", "-c", &script])?
            .as_secs_f64())
    });
    let detached = each(engines, |e| {
        e.say(&["rm", "-f", "logger"])?;
        let begin = Instant::now();
        e.say(&["run", "-d", "--name", "logger", "--log-driver", driver(e), "busybox", "sh", "-c", &script])?;
        e.say(&["wait", "logger"])?;
        Ok(begin.elapsed().as_secs_f64())
    });
    let read = engines
        .iter()
        .zip(&detached)
        .map(|(e, wrote)| wrote.and_then(|_| e.timed(&["logs", "logger"]).ok()).map(|d| d.as_secs_f64()))
        .collect();
    for engine in engines {
        engine.say(&["rm", "-f", "logger"]).ok();
    }
    Ok(vec![
        row("1,000,000 lines of 100 bytes, attached run to exit", "s", write),
        row("the same, detached", "s", detached),
        row("… read back by `logs`", "s", read),
    ])
}

fn build(engines: &[Engine], _: usize) -> Result<Vec<Row>> {
    let mut dockerfile = String::from("FROM busybox\n");
    for i in 0..10 {
        dockerfile.push_str(&format!("RUN echo {i} > /f{i}\nCOPY f /c{i}\n"));
    }
    let take = |name: &str, cold: bool| {
        each(engines, |e| {
            let context = e.dir().join("context");
            std::fs::create_dir_all(&context)?;
            std::fs::write(context.join("Dockerfile"), &dockerfile)?;
            std::fs::write(context.join("f"), "content")?;
            let context = context.display().to_string();
            let args = match (e.name.as_str(), cold) {
                ("podman", true) => {
                    vec!["build", "--isolation", "chroot", "--layers", "--no-cache", "-t", name, &context]
                }
                ("podman", false) => vec!["build", "--isolation", "chroot", "--layers", "-t", name, &context],
                (_, true) => vec!["build", "--no-cache", "-t", name, &context],
                (_, false) => vec!["build", "-t", name, &context],
            };
            Ok(e.timed(&args)?.as_secs_f64())
        })
    };
    let cold = take("steps", true);
    let fill = take("steps", false);
    let cached = take("steps", false);
    drop(fill);
    Ok(vec![row("build of 20 steps, cold", "s", cold), row("build of 20 steps, cached", "s", cached)])
}

/// Pushes a 500 MB image to our registry in the engine's namespace and pulls it back.
fn ship(engines: &[Engine], _: usize) -> Result<Vec<Row>> {
    let (mut pushes, mut pulls) = (Vec::new(), Vec::new());
    for engine in engines {
        let times = ship_one(engine).inspect_err(|e| eprintln!("{}: {e:#}", engine.name)).ok();
        pushes.push(times.map(|t| t.0));
        pulls.push(times.map(|t| t.1));
    }
    Ok(vec![row("push of a 500 MB image", "s", pushes), row("pull of a 500 MB image", "s", pulls)])
}

fn ship_one(engine: &Engine) -> Result<(f64, f64)> {
    let context = engine.dir().join("big");
    std::fs::create_dir_all(&context)?;
    let mut dockerfile = String::from("FROM busybox\n");
    for i in 0..5u64 {
        // Half random, half repetitive: compresses about as real layers do.
        let mut file = std::fs::File::create(context.join(format!("f{i}")))?;
        let mut random = std::fs::File::open("/dev/urandom")?;
        let mut block = vec![b'a'; 2 << 20];
        for _ in 0..50 {
            random.read_exact(&mut block[..1 << 20])?;
            file.write_all(&block)?;
        }
        dockerfile.push_str(&format!("COPY f{i} /f{i}\n"));
    }
    std::fs::write(context.join("Dockerfile"), dockerfile)?;
    let name = "127.0.0.1:5000/big:1";
    engine.say(&["build", "-t", name, &context.display().to_string()])?;
    std::fs::remove_dir_all(&context)?;
    let root = engine.dir().join("registry");
    let mut registry = engine
        .inside(corten_testkit::daemon::bin_dir().join("corten"))
        .args(["registry", "serve", "--addr", "127.0.0.1:5000", "--root"])
        .arg(&root)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let begin = Instant::now();
    while !engine
        .inside("busybox")
        .args(["nc", "-w", "1", "127.0.0.1", "5000"])
        .stdin(Stdio::null())
        .output()?
        .status
        .success()
    {
        if begin.elapsed() > Duration::from_secs(10) {
            bail!("the registry did not come up");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let tls: &[&str] = if engine.name == "podman" { &["--tls-verify=false"] } else { &[] };
    let outcome = (|| {
        let push = engine.timed(&[&["push"], tls, &[name]].concat())?.as_secs_f64();
        engine.say(&["rmi", name])?;
        engine.say(&["image", "prune", "-f"]).ok();
        let pull = engine.timed(&[&["pull"], tls, &[name]].concat())?.as_secs_f64();
        engine.say(&["rmi", name])?;
        Ok((push, pull))
    })();
    Command::new("kill").args(["-TERM", &registry.id().to_string()]).status().ok();
    registry.wait()?;
    std::fs::remove_dir_all(&root)?;
    outcome
}
