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
    let _quiet = NoServices::new()?;
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
    if missing.contains(&"firewalld") {
        // Its package would have it start with the machine. Without systemd nothing does.
        Command::new("systemctl").args(["disable", "firewalld"]).output().ok();
    }
    for (program, package) in wanted {
        if !exists(program) {
            bail!("{package} is installed, but there is no {program}");
        }
    }
    Ok(())
}

/// While packages are installed, none starts a service: a test's firewall must not become the machine's.
#[derive(Debug)]
struct NoServices {
    made: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn new() -> Result<Self> {
        let made = !Path::new(POLICY).exists();
        if made {
            std::fs::write(POLICY, "#!/bin/sh\nexit 101\n").context("packages are installed as root")?;
            let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(POLICY, executable)?;
        }
        Ok(Self { made })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.made {
            std::fs::remove_file(POLICY).ok();
        }
    }
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
