//! `cargo xtask conformance`: the validation programs of the OCI's runtime-tools against `corten-runtime oci`.
//!
//! They are built from their Go module (a Go toolchain is needed, and the module proxy or cache). Each prints its
//! checks; one that is not fulfilled fails the command unless [`KNOWN`] has the program, with the reason. Some
//! programs race with what they look at, so that one is only wrong when it is wrong [`TRIES`] times.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::build::{self, Profile};
use crate::packages;
use crate::run::{capture, run, target};

const MODULE: &str = "github.com/opencontainers/runtime-tools";
const VERSION: &str = "v0.9.1-0.20250523060157-0ea5ed0382a2";

/// Programs that fail here, or may, and why. `docs/conformance.md` has the same list.
const KNOWN: &[(&str, &str)] = &[
    ("delete", "wants a created container to survive `delete`; runc's, which callers rely on, removes it"),
    ("hooks_stdin", "wants the state `created` in prestart; since 1.0.2 it is `creating`"),
    ("killsig", "deletes right after the signal, whether the process has ended or not"),
    ("linux_cgroups_blkio", "needs the disk 8:0 and weights for it"),
    ("linux_cgroups_hugetlb", "needs the controller hugetlb"),
    ("linux_cgroups_memory", "reads back limits of kernel memory, which kernels have not had since 5.16"),
    ("linux_cgroups_network", "needs the controllers net_cls and net_prio"),
    ("linux_cgroups_relative_blkio", "needs the disk 8:0 and weights for it"),
    ("linux_cgroups_relative_hugetlb", "needs the controller hugetlb"),
    ("linux_cgroups_relative_memory", "reads back limits of kernel memory"),
    ("linux_cgroups_relative_network", "needs the controllers net_cls and net_prio"),
    ("linux_mount_label", "needs SELinux"),
    ("linux_ns_itype", "mounts without a mount namespace: refused, they would be the host's"),
    ("linux_ns_path", "mounts in somebody else's mount namespace: refused"),
    ("linux_process_apparmor_profile", "needs AppArmor and a profile of the program's own"),
    ("misc_props", "its bundle lacks the program that it names"),
    ("mounts", "takes the order of /proc/self/mountinfo, which is by number, for that of mounting"),
    ("pidfile", "kills `true`, which may have ended"),
    ("process_capabilities", "needs every capability that the kernel knows"),
    ("process_capabilities_fail", "wants an error for unknown capabilities; since 1.0.3 it is a warning"),
    ("process_rlimits", "reads RLIMIT_NOFILE after Go's start-up has raised it"),
    ("start", "counts it as wrong that starting without `process` is an error, and says that it must be one"),
];

/// How long one program may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often a program is run before it counts as wrong.
const TRIES: usize = 3;
/// Where Go's own distribution puts it; preferred to what is in `PATH`.
const GO: &str = "/usr/local/go/bin/go";

/// What came of all programs.
#[derive(Debug, Default)]
pub struct Outcome {
    passed: usize,
    known: usize,
    /// Programs that passed at a later try.
    again: Vec<String>,
    wrong: Vec<String>,
}

impl Outcome {
    /// Nothing is wrong that is not known to be.
    pub fn good(&self) -> bool {
        self.wrong.is_empty()
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { passed, known, again, wrong } = self;
        write!(f, "{passed} programs passed, {known} known, {} wrong", wrong.len())?;
        for (what, names) in [("; passed when run again", again), ("; wrong", wrong)] {
            if !names.is_empty() {
                write!(f, "{what}: {}", names.join(", "))?;
            }
        }
        Ok(())
    }
}

pub fn run_all(only: &[String]) -> Result<()> {
    let dist = build::dist(Profile::Debug)?;
    let outcome = compare(&dist, only)?;
    if outcome.good() { Ok(()) } else { bail!("not as the specification says: {}", outcome.wrong.join(", ")) }
}

/// Runs the programs (those named, if any are) against the runtime in `dist`.
pub fn compare(dist: &Path, only: &[String]) -> Result<Outcome> {
    if !packages::exists(GO) {
        packages::ensure(&[("go", "golang-go")])?;
    }
    let place = target().join("conformance");
    let programs = programs(&place)?;
    let runtime = place.join("corten-oci");
    std::fs::remove_file(&runtime).ok();
    std::os::unix::fs::symlink(dist.join("corten-runtime"), &runtime)?;
    let mut outcome = Outcome::default();
    for program in programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !only.is_empty() && !only.contains(&name) {
            continue;
        }
        let reason = KNOWN.iter().find(|(n, _)| *n == name).map(|(_, why)| *why);
        let mut wrong = one(&place, &program, &runtime)?;
        for _ in 1..TRIES {
            let Some(text) = wrong.take_if(|_| reason.is_none()) else { break };
            println!("again   {name}\n{text}");
            wrong = one(&place, &program, &runtime)?;
            if wrong.is_none() {
                outcome.again.push(name.clone());
            }
        }
        match (wrong, reason) {
            (None, _) => outcome.passed += 1,
            (Some(_), Some(why)) => {
                outcome.known += 1;
                println!("known   {name}: {why}");
            }
            (Some(text), None) => {
                println!("WRONG   {name}\n{text}");
                outcome.wrong.push(name);
            }
        }
    }
    println!("{outcome}");
    Ok(outcome)
}

/// Builds the programs once; all but the one that runs inside the containers.
fn programs(place: &Path) -> Result<Vec<PathBuf>> {
    let bin = place.join("bin");
    std::fs::create_dir_all(&bin)?;
    let go = || {
        let mut go = Command::new(if packages::exists(GO) { GO } else { "go" });
        go.current_dir(place).env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=mod");
        go
    };
    std::fs::write(
        place.join("go.mod"),
        format!("module conformance\n\ngo 1.21\n\nrequire {MODULE} {VERSION}\n"),
    )?;
    let all = format!("{MODULE}/validation/...");
    run(go().args(["build", "-o", "bin/", &format!("{MODULE}/cmd/runtimetest"), &all]))
        .context("building the programs needs a Go toolchain (1.21 or later)")?;
    let source = capture(go().args(["list", "-m", "-f", "{{.Dir}}", MODULE]))?;
    let root = format!("rootfs-{}.tar.gz", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" });
    std::fs::copy(Path::new(source.trim()).join(&root), place.join(&root))?;
    std::fs::copy(bin.join("runtimetest"), place.join("runtimetest"))?;
    let mut found: Vec<PathBuf> = std::fs::read_dir(&bin)?.flatten().map(|e| e.path()).collect();
    found.retain(|p| p.file_name().is_some_and(|n| n != "runtimetest"));
    found.sort();
    Ok(found)
}

/// What a program says that is not as it should be.
fn one(place: &Path, program: &Path, runtime: &Path) -> Result<Option<String>> {
    let name = program.file_name().unwrap_or_default();
    let (out, err) = (place.join(name).with_extension("out"), place.join(name).with_extension("err"));
    let mut child = Command::new(program)
        .current_dir(place)
        .env("RUNTIME", runtime)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&out)?)
        .stderr(std::fs::File::create(&err)?)
        .spawn()?;
    let until = std::time::Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break Some(status),
            None if std::time::Instant::now() > until => {
                child.kill()?;
                child.wait()?;
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let text = String::from_utf8_lossy(&std::fs::read(&out)?).into_owned();
    let wrong: Vec<&str> = text.lines().filter(|l| l.starts_with("not ok")).collect();
    match status {
        Some(status) if status.success() && wrong.is_empty() => Ok(None),
        Some(status) => {
            let said = String::from_utf8_lossy(&std::fs::read(&err)?).into_owned();
            Ok(Some(format!("{}\n{said}{status}", wrong.join("\n"))))
        }
        None => Ok(Some(format!("not done after {} seconds", PATIENCE.as_secs()))),
    }
}
