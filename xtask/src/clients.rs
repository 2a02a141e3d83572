//! `cargo xtask clients`: docker-py's own tests against our daemon. Only fetching them needs the internet.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::run::{root, run as run_command, target};
use crate::test::{NEEDS, python_clients};
use crate::{build, packages};

/// The last version whose source distribution contains the tests.
const SUITE: &str = "7.0.0";
/// What the suite imports beside docker-py.
const IMPORTS: &str = "import pytest, pytest_timeout, paramiko";

/// Prepares everything once, and runs the suite; `args` go to pytest.
pub fn run(args: &[String]) -> Result<()> {
    packages::ensure(NEEDS)?;
    let python = python_clients()?;
    let ready = Command::new(&python).args(["-c", IMPORTS]).output().is_ok_and(|o| o.status.success());
    if !ready {
        println!("installing pytest");
        let pip = ["-m", "pip", "install", "--quiet", "pytest", "pytest-timeout", "paramiko"];
        run_command(Command::new(&python).args(pip))?;
    }
    let sdist = sdist(&python)?;
    let dist = build::dist(build::Profile::Debug)?;
    run_command(
        Command::new(&python)
            .arg(root().join("tests/clients/run_docker_py.py"))
            .arg("--bin")
            .arg(dist)
            .arg("--sdist")
            .arg(sdist)
            .arg("--timeout=60")
            .args(args),
    )
}

fn sdist(python: &PathBuf) -> Result<PathBuf> {
    let dir = target().join("clients");
    let file = dir.join(format!("docker-{SUITE}.tar.gz"));
    if !file.exists() {
        println!("fetching the tests of docker-py {SUITE}");
        run_command(
            Command::new(python)
                .args(["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"])
                .arg(format!("docker=={SUITE}"))
                .arg("--dest")
                .arg(&dir),
        )?;
    }
    Ok(file)
}
