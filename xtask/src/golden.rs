//! The comparison with the recorded answers of the reference engine.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::build;
use crate::run::root;

/// What must be equal for the tests to pass.
pub const AT_LEAST: u64 = 440;

/// Equal and unequal exchanges.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Equal.
    pub passed: u64,
    /// Unequal.
    pub failed: u64,
}

/// Where the recording lies: `CORTEN_GOLDEN`, or beside the repository.
fn directory() -> Option<PathBuf> {
    let dir =
        std::env::var_os("CORTEN_GOLDEN").map_or_else(|| root().join("../shared/golden"), PathBuf::from);
    dir.join("against").exists().then_some(dir)
}

/// Runs a fresh daemon against the recording and prints the differences; `None` where there is no recording.
pub fn run(args: &[String]) -> Result<Option<Outcome>> {
    let Some(dir) = directory() else {
        println!("skipped: no recorded answers on this machine (set CORTEN_GOLDEN)");
        return Ok(None);
    };
    let dist = build::dist(build::Profile::Debug)?;
    let output = Command::new(dir.join("against"))
        .arg(dist.join("corten"))
        .args(args)
        .output()
        .context("start the golden comparison")?;
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    let last =
        text.lines().rev().find(|l| l.contains(" passed, ")).context("the comparison printed no result")?;
    let numbers: Vec<u64> = last.split_whitespace().filter_map(|w| w.parse().ok()).collect();
    let [passed, failed] = numbers[..] else { anyhow::bail!("unexpected result line: {last}") };
    Ok(Some(Outcome { passed, failed }))
}
