//! `cargo xtask test`: every test there is, and their totals.
//!
//! A test that fails is run once more, alone: kernels and other people's programs have races that are not ours.
//! Both runs are printed, a test that passes only then is named in the totals, and one that fails twice fails all.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run::{cargo, root, run as run_command, target};
use crate::{build, cgroup2, clients, conformance, golden, packages, reference, transcript};

/// Counted test results.
#[derive(Debug, Default)]
struct Totals {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// Names of the tests that failed.
    failures: Vec<String>,
    /// Names of the tests that failed and passed when run again.
    flaky: Vec<String>,
}

impl Totals {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.failures.extend(other.failures);
        self.flaky.extend(other.flaky);
    }

    /// Takes note of what a line of a test program says.
    fn hear(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("test ").and_then(|l| l.strip_suffix(" ... FAILED")) {
            self.failures.push(name.to_owned());
        }
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        let number = |word: &str| -> u64 {
            let words: Vec<&str> = rest.split([' ', ';']).filter(|w| !w.is_empty()).collect();
            words.windows(2).find(|w| w[1] == word).and_then(|w| w[0].parse().ok()).unwrap_or(0)
        };
        self.passed += number("passed");
        self.failed += number("failed");
        self.ignored += number("ignored");
    }
}

/// What the tests need beside a Rust toolchain and a C compiler.
pub const NEEDS: &[(&str, &str)] = &[
    ("/bin/busybox", "busybox-static"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    // Never active on the machine itself: tests have their own in namespaces.
    ("ufw", "ufw"),
    ("firewalld", "firewalld"),
    ("dbus-daemon", "dbus-daemon"),
    ("skopeo", "skopeo"),
    // Repositories as contexts of builds.
    ("git", "git"),
    // A foreign runtime of the daemon.
    ("runc", "runc"),
    // What the daemon of an ordinary user needs.
    ("newuidmap", "uidmap"),
    ("slirp4netns", "slirp4netns"),
    ("python3", "python3"),
    // Makes certificates for the tests of TLS.
    ("openssl", "openssl"),
    // Runs its containers with our runtime.
    ("podman", "podman"),
    // Brings its own shim.
    ("ctr", "containerd"),
    // The docker client; a machine that has a newer one keeps it.
    ("docker", "docker.io"),
];

/// Runs unit tests, end-to-end tests, and the comparisons with the reference engine and its client.
pub fn run(args: &[String]) -> Result<()> {
    packages::ensure(NEEDS)?;
    let python = python_clients()?;
    println!("building");
    let dist = build::dist(build::Profile::Debug)?;
    let plugins = clients::plugins()?;
    let mut totals = Totals::default();
    let mut broken = Vec::new();
    let mut suite = |name: &str, packages: &[&str]| -> Result<()> {
        println!("\n== {name}");
        let command = || {
            let mut command = cargo();
            command.arg("test").args(packages).arg("--no-fail-fast");
            command.env("CORTEN_BIN_DIR", &dist).env("CORTEN_CLIENTS_PYTHON", &python);
            if let Some(plugins) = &plugins {
                command.env("CORTEN_CLI_PLUGINS", plugins);
            }
            let seccomp = root().join("../shared/reference/seccomp-default.json");
            if seccomp.exists() && std::env::var_os("CORTEN_SECCOMP_REFERENCE").is_none() {
                command.env("CORTEN_SECCOMP_REFERENCE", seccomp);
            }
            command
        };
        let (mut found, mut ok) = count(command().args(args))?;
        if !ok && !found.failures.is_empty() && found.failures.len() <= AGAIN_AT_MOST {
            (found, ok) = again(found, command)?;
        }
        totals.add(found);
        if !ok {
            broken.push(name.to_owned());
        }
        Ok(())
    };
    suite("unit and integration tests", &["--workspace", "--exclude", "corten-e2e"])?;
    suite("end-to-end tests (docker client, corten client)", &["-p", "corten-e2e"])?;
    println!("\n== answers of the reference engine");
    let golden = golden::run(&[])?;
    println!("\n== the Engine API's document");
    let reference = reference::run(&python, &dist, &[])?;
    println!("\n== transcript: docker's client and ours");
    let mut transcript = transcript::run(&python, &dist, &[])?;
    if transcript.as_ref().is_some_and(|t| !t.passed) {
        println!("\n== once more: the transcript");
        transcript = transcript::run(&python, &dist, &[])?;
    }
    broken.extend(clients::all(&python, &dist).into_iter().map(str::to_owned));
    println!("\n== validation programs of the OCI");
    let conformance = conformance::compare(&dist, &[])?;
    if !conformance.good() {
        broken.push("conformance".into());
    }
    println!("\n== control groups of the second version, in a virtual machine");
    let machine = count_machine(&mut totals)?;
    if !machine {
        broken.push("cgroup2".into());
    }
    println!("\n== totals");
    for name in &totals.flaky {
        println!("flaky: {name} failed and passed when run again");
    }
    println!("tests: {} passed, {} failed, {} ignored", totals.passed, totals.failed, totals.ignored);
    // Its package would start a daemon of its own, so nothing installs it.
    if !packages::exists("/usr/sbin/dockerd") {
        println!("skipped: peers::docker_runs_its_containers_with_it (needs /usr/sbin/dockerd)");
    }
    if plugins.is_none() {
        println!("skipped: buildx (8 tests; need a Go to build docker's plugins with)");
    }
    println!("conformance: {conformance}");
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
    match reference {
        Some(outcome) => {
            println!("{}", outcome.total);
            if !outcome.passed {
                broken.push("api".into());
            }
        }
        None => println!("api: 1 suite skipped (no document on this machine; set CORTEN_API_REFERENCE)"),
    }
    match transcript {
        Some(outcome) => {
            outcome.totals.iter().for_each(|line| println!("transcript: {line}"));
            if !outcome.passed {
                broken.push("transcript".into());
            }
        }
        None => println!("transcript: 1 suite skipped (needs docker 28 or newer in PATH)"),
    }
    if !broken.is_empty() {
        bail!("failed: {}", broken.join(", "));
    }
    Ok(())
}

/// The tests in the virtual machine, once more if one fails; whether all passed.
fn count_machine(totals: &mut Totals) -> Result<bool> {
    let once = || -> Result<(Totals, bool)> {
        let mut found = Totals::default();
        let passed = cgroup2::machine(&[], &mut |line| found.hear(line))?;
        Ok((found, passed))
    };
    let (mut found, mut passed) = once()?;
    if !passed {
        println!("\n== once more: the virtual machine");
        let first = found.failures;
        (found, passed) = once()?;
        if passed {
            found.flaky = first;
        }
    }
    totals.add(found);
    Ok(passed)
}

/// More failures than these are not bad luck.
const AGAIN_AT_MOST: usize = 5;

/// Runs the failed tests once more, one after the other and nothing beside them.
fn again(mut first: Totals, command: impl Fn() -> Command) -> Result<(Totals, bool)> {
    let names = std::mem::take(&mut first.failures);
    println!("\n== once more, alone: {}", names.join(", "));
    let (second, ok) = count(command().args(["--", "--exact", "--test-threads=1"]).args(&names))?;
    let passed = names.iter().filter(|n| !second.failures.contains(n));
    // A name that ran nowhere (a crashed test program) must not count as passed.
    if ok && second.passed >= names.len() as u64 {
        first.failed -= names.len() as u64;
        first.passed += names.len() as u64;
        first.flaky.extend(passed.cloned());
        return Ok((first, true));
    }
    first.failures = names;
    Ok((first, false))
}

/// The day in the life of the end-to-end tests, at length.
pub fn soak(minutes: &str) -> Result<()> {
    let minutes: u64 = minutes.parse().context("soak: minutes as a number")?;
    packages::ensure(NEEDS)?;
    let dist = build::dist(build::Profile::Debug)?;
    run_command(
        cargo()
            .args(["test", "-p", "corten-e2e", "soak", "--", "--nocapture"])
            .env("CORTEN_BIN_DIR", dist)
            .env("CORTEN_SOAK_SECONDS", (minutes * 60).to_string()),
    )
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
        totals.hear(&line);
        if line.contains(" 0 passed; 0 failed; 0 ignored") {
            continue;
        }
        if !(line.is_empty() || line == "running 0 tests" || line.ends_with("... ok")) {
            println!("{line}");
        }
    }
    let ok = child.wait().with_context(|| format!("wait in {}", root().display()))?.success();
    Ok((totals, ok))
}
