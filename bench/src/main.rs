//! The same scenarios on Corten and on the peers that Debian installs, in one run, as ratios.
//!
//! `cargo xtask bench raw [RUNS]` measures the runtime alone, see [`raw`].
//!
//! `cargo xtask bench [--only NAME] [--runs N] [--engines corten,docker,podman]`
//!
//! Every engine gets a network namespace and a data directory of its own; the engines take turns within each
//! scenario, so that what else the machine does hits all alike. Medians; the table goes to standard output and,
//! as JSON, to `bench/out/last.json`. Nothing here is a test: a slow machine fails nothing.

mod api;
mod crowd;
mod engine;
mod measure;
mod network;
mod raw;
mod scenario;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::engine::Engine;

/// What the command line asked for.
#[derive(Debug)]
pub struct Options {
    only: Option<String>,
    runs: usize,
    engines: Vec<String>,
}

fn options() -> Result<Options> {
    let mut options =
        Options { only: None, runs: 20, engines: ["corten", "docker", "podman"].map(str::to_owned).to_vec() };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let Some(value) = args.next() else { bail!("{flag} needs a value") };
        match flag.as_str() {
            "--only" => options.only = Some(value),
            "--runs" => options.runs = value.parse()?,
            "--engines" => options.engines = value.split(',').map(str::to_owned).collect(),
            _ => bail!("unknown flag: {flag}"),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match network::program(&args).or_else(|| raw::program(&args)) {
        Some(done) => done,
        None => options().and_then(|o| run(&o)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let mut engines = Vec::new();
    for name in &options.engines {
        match Engine::start(name) {
            Ok(engine) => engines.push(engine),
            Err(e) => eprintln!("{name}: left out ({e:#})"),
        }
    }
    println!("machine: {}", measure::machine());
    for engine in &engines {
        println!("{}: {}", engine.name, engine.version());
    }
    let results = scenario::run_all(&engines, options)?;
    println!("\n{}", measure::table(&engines, &results));
    let out = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("out");
    std::fs::create_dir_all(&out)?;
    std::fs::write(out.join("last.json"), serde_json::to_vec_pretty(&measure::json(&engines, &results))?)?;
    Ok(())
}
