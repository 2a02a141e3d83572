//! `cargo xtask test`: every test there is, and their totals.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run::{cargo, root, run as run_command, target};
use crate::{build, golden, packages};

/// Counted test results.
#[derive(Debug, Default, Clone, Copy)]
pub struct Totals {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// What the tests need beside a Rust toolchain and a C compiler.
pub const NEEDS: &[(&str, &str)] = &[
    ("/bin/busybox", "busybox-static"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("nft", "nftables"),
    ("skopeo", "skopeo"),
    ("python3", "python3"),
    // The docker client; a machine that has a newer one keeps it.
    ("docker", "docker.io"),
];

/// Runs unit tests, end-to-end tests and the comparison with the reference engine.
pub fn run(args: &[String]) -> Result<()> {
    packages::ensure(NEEDS)?;
    let python = python_clients()?;
    println!("building");
    let dist = build::dist(build::Profile::Debug)?;
    let mut totals = Totals::default();
    let mut broken = Vec::new();
    let mut suite = |name: &str, command: &mut Command| -> Result<()> {
        println!("\n== {name}");
        let (t, ok) = count(command.env("CORTEN_BIN_DIR", &dist).env("CORTEN_CLIENTS_PYTHON", &python))?;
        totals.passed += t.passed;
        totals.failed += t.failed;
        totals.ignored += t.ignored;
        if !ok {
            broken.push(name.to_owned());
        }
        Ok(())
    };
    suite(
        "unit and integration tests",
        cargo().args(["test", "--workspace", "--exclude", "corten-e2e", "--no-fail-fast"]).args(args),
    )?;
    suite(
        "end-to-end tests (docker client, corten client)",
        cargo().args(["test", "-p", "corten-e2e", "--no-fail-fast"]).args(args),
    )?;
    println!("\n== answers of the reference engine");
    let golden = golden::run(&[])?;
    println!("\n== totals");
    println!("tests: {} passed, {} failed, {} ignored", totals.passed, totals.failed, totals.ignored);
    match golden {
        Some(g) => println!(
            "golden: {} of {} equal (at least {} wanted)",
            g.passed,
            g.passed + g.failed,
            golden::AT_LEAST
        ),
        None => println!("golden: 1 suite skipped (no recorded answers on this machine; set CORTEN_GOLDEN)"),
    }
    if golden.is_some_and(|g| g.passed < golden::AT_LEAST) {
        broken.push("golden".into());
    }
    if !broken.is_empty() {
        bail!("failed: {}", broken.join(", "));
    }
    Ok(())
}

/// A Python environment with docker-py, made once; returns its interpreter.
pub fn python_clients() -> Result<PathBuf> {
    let dir = target().join("clients");
    let python = dir.join("bin/python");
    let ready = |python: &PathBuf| {
        Command::new(python)
            .args(["-c", "import docker"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    if !ready(&python) {
        println!("installing docker-py");
        if run_command(Command::new("python3").args(["-m", "venv"]).arg(&dir)).is_err() {
            packages::ensure(&[("/usr/share/doc/python3-venv", "python3-venv")])?;
            run_command(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&dir))?;
        }
        run_command(Command::new(&python).args(["-m", "pip", "install", "--quiet", "docker==7.1.0"]))?;
    }
    Ok(python)
}

/// Passes the output on and adds up cargo's result lines.
fn count(command: &mut Command) -> Result<(Totals, bool)> {
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("start {command:?}"))?;
    let mut totals = Totals::default();
    for line in BufReader::new(child.stdout.take().context("piped")?).lines() {
        let line = line?;
        if let Some(rest) = line.strip_prefix("test result: ") {
            let number = |word: &str| -> u64 {
                let words: Vec<&str> = rest.split([' ', ';']).filter(|w| !w.is_empty()).collect();
                words.windows(2).find(|w| w[1] == word).and_then(|w| w[0].parse().ok()).unwrap_or(0)
            };
            totals.passed += number("passed");
            totals.failed += number("failed");
            totals.ignored += number("ignored");
            if rest.contains(" 0 passed; 0 failed; 0 ignored") {
                continue;
            }
        }
        if !(line.is_empty() || line == "running 0 tests" || line.ends_with("... ok")) {
            println!("{line}");
        }
    }
    let ok = child.wait().with_context(|| format!("wait in {}", root().display()))?.success();
    Ok((totals, ok))
}
