//! Builds the two programs into one directory, as an installation has them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::run::{cargo, run, target};

#[cfg(target_arch = "x86_64")]
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
#[cfg(target_arch = "aarch64")]
const TRIPLE: &str = "aarch64-unknown-linux-gnu";

/// How `corten` is compiled; `corten-runtime` is always the small static program, with checks for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build: for tests.
    Debug,
    /// For measurements and users.
    Release,
}

/// Builds `corten` and `corten-runtime`; returns the directory that holds both.
pub fn dist(profile: Profile) -> Result<PathBuf> {
    let (flag, name): (&[&str], &str) = match profile {
        Profile::Debug => (&[], "debug"),
        Profile::Release => (&["--release"], "release"),
    };
    run(cargo().args(["build", "--quiet", "-p", "corten", "--bin", "corten"]).args(flag))?;
    let built = runtime(profile)?;
    let dist = target().join("dist").join(name);
    std::fs::create_dir_all(&dist).with_context(|| format!("create {}", dist.display()))?;
    install(&target().join(name).join("corten"), &dist)?;
    install(&built.join("corten-runtime"), &dist)?;
    Ok(dist)
}

/// Throws mutated input at what reads untrusted bytes. With debug assertions: an overflow is a bug.
pub fn fuzz(args: &[String]) -> Result<()> {
    run(cargo().args(["run", "--quiet", "-p", "corten-fuzz", "--"]).args(args))
}

/// Static and position independent: it starts faster, and nothing of the host's libraries is mapped into a shim. Its
/// own profile directory, which is returned, keeps these flags from rebuilding everything else.
fn runtime(profile: Profile) -> Result<PathBuf> {
    let name = match profile {
        Profile::Debug => "runtime-checked",
        Profile::Release => "runtime",
    };
    run(cargo()
        .args(["build", "--quiet", "-p", "corten-runtime", "--bin", "corten-runtime", "--profile", name])
        .args(["--target", TRIPLE])
        .env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    Ok(target().join(TRIPLE).join(name))
}

/// Replaces by rename, so that a running daemon of the same path is not disturbed.
fn install(program: &Path, dist: &Path) -> Result<()> {
    let name = program.file_name().context("a program")?;
    let temp = dist.join(".new");
    std::fs::copy(program, &temp).with_context(|| format!("copy {}", program.display()))?;
    std::fs::rename(&temp, dist.join(name)).with_context(|| format!("install into {}", dist.display()))
}

/// Runs the benchmark with a release build. The runtime alone (`raw`) needs nothing but the runtime.
pub fn bench(args: &[String]) -> Result<()> {
    if args.first().is_some_and(|a| a == "raw") {
        let place = runtime(Profile::Release)?;
        return run(cargo()
            .args(["run", "--quiet", "-p", "corten-bench", "--"])
            .args(args)
            .env("CORTEN_BIN_DIR", place));
    }
    let dist = dist(Profile::Release)?;
    run(cargo()
        .args(["run", "--quiet", "--release", "-p", "corten-bench", "--"])
        .args(args)
        .env("CORTEN_BIN_DIR", dist))
}
