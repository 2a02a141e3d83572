//! `cargo xtask fuzz [SECONDS] [TARGET]`: mutated input for everything of the runtime that reads untrusted bytes.
//!
//! A mutator of its own on the stable toolchain: seeds are well-formed documents, which are cut, spliced, repeated and
//! sprinkled with words and numbers that have hurt somebody. Inputs that a target takes unusually long for, or panics
//! on, are written to `fuzz/found/` and fail the run. The same number always gives the same inputs (`--seed`). As many
//! targets run at a time as there are processors.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

mod mutate;
mod seeds;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use mutate::Mutator;

/// One input must not take longer.
const SLOW: Duration = Duration::from_secs(5);

/// What is thrown at, and from what seeds.
struct Target {
    name: &'static str,
    run: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
}

const TARGETS: &[Target] = &[
    Target { name: "config", run: corten_runtime::fuzz::config, seeds: seeds::configs },
    Target { name: "profile", run: corten_runtime::fuzz::profile, seeds: seeds::profiles },
    Target { name: "mount", run: corten_runtime::fuzz::mount, seeds: seeds::mounts },
    Target { name: "users", run: corten_runtime::fuzz::users, seeds: seeds::users },
    Target { name: "shim", run: corten_runtime::fuzz::shim, seeds: seeds::messages },
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("fuzz: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let (mut seconds, mut only, mut seed) = (60, None, 1);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--seed" {
            seed = args.next().context("--seed needs a number")?.parse()?;
        } else if let Ok(n) = arg.parse() {
            seconds = n;
        } else {
            only = Some(arg);
        }
    }
    if let Some(name) = &only
        && !TARGETS.iter().any(|t| t.name == name)
    {
        bail!(
            "no target {name:?}; there are {}",
            TARGETS.iter().map(|t| t.name).collect::<Vec<_>>().join(", ")
        );
    }
    let waiting = Mutex::new(TARGETS.iter().filter(|t| only.as_ref().is_none_or(|o| o == t.name)));
    let work = || -> Result<usize> {
        let mut found = 0;
        // The lock is held for this one statement.
        while let Some(target) = { waiting.lock().ok().and_then(|mut w| w.next()) } {
            found += throw(target, Duration::from_secs(seconds), seed)?;
        }
        Ok(found)
    };
    let found = std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..std::thread::available_parallelism()?.get()).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_fold(0, |sum, w| Ok::<_, anyhow::Error>(sum + w.join().expect("panics are caught")?))
    })?;
    if found > 0 { bail!("{found} inputs to look at in fuzz/found") } else { Ok(()) }
}

/// Throws input at a target for a time; how many were bad.
fn throw(target: &Target, time: Duration, seed: u64) -> Result<usize> {
    let place = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("found");
    let mut mutator = Mutator::new(seed, (target.seeds)());
    let (until, mut tried, mut bad) = (Instant::now() + time, 0u64, 0);
    // Each unchanged seed first: a target that does not take those is tested in vain.
    while bad < 10 && Instant::now() < until {
        let input = mutator.next(tried);
        tried += 1;
        let begin = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(&input)));
        let slow = begin.elapsed() > SLOW;
        if outcome.is_err() || slow {
            bad += 1;
            std::fs::create_dir_all(&place)?;
            let file = place.join(format!("{}-{tried}", target.name));
            std::fs::write(&file, &input)?;
            eprintln!("{}: {}: {}", target.name, if slow { "slow" } else { "panic" }, file.display());
        }
    }
    println!("{:<8} {tried} inputs, {bad} bad", target.name);
    Ok(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_what_the_targets_expect() {
        for seed in seeds::configs() {
            assert!(serde_json::from_slice::<corten_wire::oci_runtime::Spec>(&seed).is_ok());
        }
        for target in TARGETS {
            assert_eq!(
                throw(&Target { ..*target }, Duration::from_millis(50), 7).unwrap(),
                0,
                "{}",
                target.name
            );
        }
    }
}
