//! The command line beside docker's own: the same command lines through both, against one daemon.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::run::{capture, root};

/// What docker's own client must be for its words to be the ones we compare with.
const REFERENCE: u32 = 28;

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// No difference but the explained ones.
    pub passed: bool,
    /// The lines that say how many.
    pub totals: Vec<String>,
}

/// Runs `tests/transcript` with the programs in `dist`; `None` where the docker in `PATH` is too old to compare with.
pub fn run(python: &Path, dist: &Path, args: &[String]) -> Result<Option<Outcome>> {
    let version = capture(Command::new("docker").arg("--version"))?;
    let major = version.split_whitespace().nth(2).and_then(|v| v.split('.').next()?.parse::<u32>().ok());
    if major.is_none_or(|major| major < REFERENCE) {
        println!("skipped: {}: older than {REFERENCE}", version.trim());
        return Ok(None);
    }
    let output = Command::new(python)
        .arg(root().join("tests/transcript/transcript.py"))
        .arg("--bin")
        .arg(dist)
        .args(args)
        .stderr(Stdio::inherit())
        .output()
        .context("start the comparison")?;
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    let totals = text.lines().filter(|l| l.contains(" equal, ")).map(str::to_owned).collect();
    Ok(Some(Outcome { passed: output.status.success(), totals }))
}
