//! Many containers at once. The long scenarios run on ours alone: the peers would need most of an hour for them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::api::Api;
use crate::engine::Engine;
use crate::measure::{Row, median_ms};
use crate::scenario::{each, row};

const CLIENTS: usize = 8;

const LIVES_ON: &str = r#"{"Image":"busybox","Cmd":["sleep","10000"]}"#;
const ENDS_AT_ONCE: &str = r#"{"Image":"busybox","Cmd":["true"],"HostConfig":{"NetworkMode":"none"}}"#;

/// Creates and starts containers `PREFIX0…`.
fn make(engine: &Engine, prefix: &str, count: usize, body: &str) -> Result<Duration> {
    by_clients(engine, count, |api, i| {
        api.call("POST", &format!("/containers/create?name={prefix}{i}"), body)?;
        api.call("POST", &format!("/containers/{prefix}{i}/start"), "")?;
        Ok(())
    })
}

/// Removes them.
fn remove(engine: &Engine, prefix: &str, count: usize) -> Result<Duration> {
    by_clients(engine, count, |api, i| {
        api.call("DELETE", &format!("/containers/{prefix}{i}?force=1"), "")?;
        Ok(())
    })
}

/// Calls `once` for each of `0..count` over [`CLIENTS`] connections at a time.
fn by_clients(
    engine: &Engine,
    count: usize,
    once: impl Fn(&mut Api, usize) -> Result<()> + Sync,
) -> Result<Duration> {
    let begin = Instant::now();
    let client = &|first: usize| -> Result<()> {
        let mut api = Api::connect(engine)?;
        (first..count).step_by(CLIENTS).try_for_each(|i| once(&mut api, i))
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|first| scope.spawn(move || client(first))).collect();
        clients.into_iter().try_for_each(|c| c.join().expect("a client never panics"))
    })?;
    Ok(begin.elapsed())
}

/// 100 containers by eight clients: how many per second.
///
/// # Errors
/// Never; an engine that fails gets a dash.
pub(crate) fn eight_clients(engines: &[Engine], _: usize) -> Result<Vec<Row>> {
    const COUNT: usize = 100;
    let rates = each(engines, |engine| {
        let took = make(engine, "e", COUNT, LIVES_ON);
        remove(engine, "e", COUNT)?;
        Ok(COUNT as f64 / took?.as_secs_f64())
    });
    Ok(vec![row("100 containers created and started by 8 clients", "per s", rates)])
}

/// 1,000 running: memory, a restart of the daemon, removal.
///
/// # Errors
/// Never; an engine that fails gets a dash.
#[expect(clippy::cast_precision_loss, reason = "kilobytes fit")]
pub(crate) fn thousand_running(engines: &[Engine], _: usize) -> Result<Vec<Row>> {
    const COUNT: usize = 1000;
    let values = each_of_ours(engines, |engine| {
        let before = engine.memory();
        let started = make(engine, "t", COUNT, LIVES_ON)?;
        let after = engine.memory();
        let ready = engine.restart()?;
        let removed = remove(engine, "t", COUNT)?;
        let daemon = after.daemon_private.saturating_sub(before.daemon_private);
        Ok(vec![
            started.as_secs_f64(),
            after.shims_private as f64 / COUNT as f64,
            daemon as f64 / COUNT as f64,
            ready.as_secs_f64() * 1e3,
            removed.as_secs_f64(),
        ])
    });
    let names = [
        ("1,000 containers started by 8 clients", "s"),
        ("… private memory of a shim", "kB"),
        ("… private memory of the daemon for each", "kB"),
        ("… daemon killed and started again, to the first ping", "ms"),
        ("… removed by 8 clients", "s"),
    ];
    Ok(rows(&names, &values))
}

/// 10,000 stopped and 200 running.
///
/// # Errors
/// Never; an engine that fails gets a dash.
#[expect(clippy::cast_precision_loss, reason = "kilobytes fit")]
pub(crate) fn ten_thousand_stopped(engines: &[Engine], runs: usize) -> Result<Vec<Row>> {
    const STOPPED: usize = 10_000;
    const RUNNING: usize = 200;
    let values = each_of_ours(engines, |engine| {
        make(engine, "s", STOPPED, ENDS_AT_ONCE)?;
        make(engine, "r", RUNNING, LIVES_ON)?;
        let list = |args: &[&str]| -> Result<f64> {
            let times = (0..runs).map(|_| engine.timed(args)).collect::<Result<Vec<_>>>()?;
            median_ms(times).context("at least one run")
        };
        let all = list(&["ps", "-a"])?;
        let running = list(&["ps"])?;
        let mut api = Api::connect(engine)?;
        let mut times = Vec::new();
        for i in 0..runs {
            let begin = Instant::now();
            api.call("GET", &format!("/containers/s{}/json", i * 37 % STOPPED), "")?;
            times.push(begin.elapsed());
        }
        let inspect = median_ms(times).context("at least one run")?;
        let resident = engine.memory().daemon_rss as f64 / 1024.0;
        let ready = engine.restart()?.as_secs_f64() * 1e3;
        let fresh = engine.memory().daemon_rss as f64 / 1024.0;
        remove(engine, "r", RUNNING)?;
        let removed = remove(engine, "s", STOPPED)?.as_secs_f64();
        Ok(vec![all, running, inspect, resident, ready, fresh, removed])
    });
    let names = [
        ("10,000 stopped and 200 running: `ps -a`", "ms"),
        ("… `ps`", "ms"),
        ("… inspect of one over the socket", "ms"),
        ("… daemon, resident", "MB"),
        ("… daemon killed and started again, to the first ping", "ms"),
        ("… daemon, resident after that", "MB"),
        ("… the 10,000 removed by 8 clients", "s"),
    ];
    Ok(rows(&names, &values))
}

type Measured = Vec<Option<Vec<f64>>>;

fn each_of_ours(engines: &[Engine], once: impl Fn(&Engine) -> Result<Vec<f64>>) -> Measured {
    let ours = |e: &&Engine| e.name == "corten";
    engines
        .iter()
        .map(|engine| {
            let engine = Some(engine).filter(ours)?;
            once(engine).inspect_err(|e| eprintln!("{}: {e:#}", engine.name)).ok()
        })
        .collect()
}

fn rows(names: &[(&str, &'static str)], values: &Measured) -> Vec<Row> {
    let row_of = |(i, (name, unit)): (usize, &(&str, &'static str))| {
        row(*name, unit, values.iter().map(|v| v.as_ref().map(|v| v[i])).collect())
    };
    names.iter().enumerate().map(row_of).collect()
}
