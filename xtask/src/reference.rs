//! The comparison of a live daemon with the Engine API's OpenAPI document.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::clients;
use crate::run::root;

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// No difference but the explained ones.
    pub passed: bool,
    /// The line that says how many.
    pub total: String,
}

/// Where the document lies: `CORTEN_API_REFERENCE`, or beside the repository.
fn document() -> Option<PathBuf> {
    let path = std::env::var_os("CORTEN_API_REFERENCE")
        .map_or_else(|| root().join("../shared/reference/engine-api.yaml"), PathBuf::from);
    path.exists().then_some(path)
}

/// Runs `tests/api` with the programs in `dist`; `None` where there is no document.
pub fn run(python: &Path, dist: &Path, args: &[String]) -> Result<Option<Outcome>> {
    let Some(document) = document() else {
        println!("skipped: no document of the Engine API on this machine (set CORTEN_API_REFERENCE)");
        return Ok(None);
    };
    clients::pip(python, "yaml", &["pyyaml"])?;
    let output = Command::new(python)
        .arg(root().join("tests/api/reference.py"))
        .arg("--bin")
        .arg(dist)
        .arg("--document")
        .arg(document)
        .args(args)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stderr(Stdio::inherit())
        .output()
        .context("start the comparison")?;
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    let total = text.lines().find(|l| l.starts_with("api: ")).unwrap_or("api: no result").to_owned();
    Ok(Some(Outcome { passed: output.status.success(), total }))
}
