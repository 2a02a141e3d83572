//! Debian packages that a task needs, installed when missing.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::run;

/// Makes sure that each program exists; installs the packages of those that do not. Says what it does.
pub fn ensure(wanted: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> =
        wanted.iter().filter(|(program, _)| !exists(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(" "));
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        run(&mut command)
    };
    // The second try is with fresh lists: a machine may never have fetched any.
    let install: Vec<&str> = [&["install", "-y", "-qq", "--no-install-recommends"], &missing[..]].concat();
    if apt(&install).is_err() {
        apt(&["update", "-qq"])?;
        apt(&install).context("this task needs root and Debian's package archive")?;
    }
    for (program, package) in wanted {
        if !exists(program) {
            bail!("{package} is installed, but there is no {program}");
        }
    }
    Ok(())
}

/// Whether a program is in `PATH` (or at its absolute path).
pub fn exists(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .any(|dir| dir.join(program).is_file())
    })
}
