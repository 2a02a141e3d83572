//! `cargo xtask clients`: other people's clients against our daemon. Only fetching them needs the internet.
//!
//! | suite | what | fetched from |
//! |---|---|---|
//! | `docker-py` | its own integration tests | PyPI |
//! | `dockerode` | `dockerode.test.mjs`, as its package has no tests | npm |
//! | `buildx` | our end-to-end tests with docker's plugins buildx and compose, where there is a Go | Go's proxy |
//! | `services` | testcontainers, and compose where there is a Go to build it, with redis, postgres and nginx | PyPI, Debian, Go's proxy |

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::{capture, cargo, root, run as run_command, target};
use crate::test::{NEEDS, python_clients};
use crate::{build, packages};

/// The last version of docker-py whose source distribution contains the tests.
const DOCKER_PY_TESTS: &str = "7.0.0";
const DOCKERODE: &str = "dockerode@5.0.1";
const COMPOSE: &str = "github.com/docker/compose/v2@v2.40.3";
const BUILDX: &str = "github.com/docker/buildx@v0.29.1";
/// Debian's packages in the images of tests/clients/services.
const SERVICES: &str = "redis-server,postgresql,nginx-light,python3";
const RELEASE: &str = "bookworm";

/// Runs the suites, or the one that `args` begins with; further arguments go to its test runner.
pub fn run(args: &[String]) -> Result<()> {
    packages::ensure(NEEDS)?;
    let python = python_clients()?;
    let dist = build::dist(build::Profile::Debug)?;
    let only = args.first().filter(|a| SUITES.iter().any(|(name, _)| name == a));
    let rest = if only.is_some() { &args[1..] } else { args };
    if only.is_none() && !rest.is_empty() {
        bail!("which suite are the arguments for? docker-py, dockerode, buildx or services");
    }
    let mut failed = Vec::new();
    for (name, suite) in SUITES.iter().filter(|(name, _)| only.is_none_or(|o| o == name)) {
        println!("\n== {name}");
        if let Err(error) = suite(&python, &dist, rest) {
            println!("{error:#}");
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

type Suite = fn(&Path, &Path, &[String]) -> Result<()>;

const SUITES: [(&str, Suite); 4] =
    [("docker-py", docker_py), ("dockerode", dockerode), ("buildx", buildx), ("services", services)];

/// All suites but buildx, whose tests are among the end-to-end tests; the names of those that failed.
pub fn all(python: &Path, dist: &Path) -> Vec<&'static str> {
    let mut failed = Vec::new();
    for (name, suite) in SUITES.iter().filter(|(name, _)| *name != "buildx") {
        println!("\n== {name}");
        if let Err(error) = suite(python, dist, &[]) {
            println!("{error:#}");
            failed.push(*name);
        }
    }
    failed
}

fn docker_py(python: &Path, dist: &Path, args: &[String]) -> Result<()> {
    pip(python, "pytest, pytest_timeout, paramiko", &["pytest", "pytest-timeout", "paramiko"])?;
    let sdist = target().join(format!("clients/docker-{DOCKER_PY_TESTS}.tar.gz"));
    if !sdist.exists() {
        println!("fetching the tests of docker-py {DOCKER_PY_TESTS}");
        run_command(
            Command::new(python)
                .args(["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"])
                .arg(format!("docker=={DOCKER_PY_TESTS}"))
                .arg("--dest")
                .arg(target().join("clients")),
        )?;
    }
    let mut command = script(python, "run_docker_py.py", dist);
    run_command(command.arg("--sdist").arg(sdist).arg("--timeout=60").args(args))
}

fn dockerode(python: &Path, dist: &Path, args: &[String]) -> Result<()> {
    packages::ensure(&[("node", "nodejs"), ("npm", "npm")])?;
    let dir = target().join("clients/node");
    if !dir.join("node_modules/dockerode").exists() {
        println!("installing {DOCKERODE}");
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        run_command(Command::new("npm").args(["install", "--silent", DOCKERODE]).current_dir(&dir))?;
    }
    let mut command = script(python, "run_dockerode.py", dist);
    run_command(command.arg("--modules").arg(dir.join("node_modules")).args(args))
}

fn buildx(_: &Path, dist: &Path, args: &[String]) -> Result<()> {
    let Some(plugins) = plugins()? else {
        println!("buildx: left out, there is no Go to build it with");
        return Ok(());
    };
    let mut command = cargo();
    command.args(["test", "-p", "corten-e2e", "buildx::"]).args(args);
    run_command(command.env("CORTEN_BIN_DIR", dist).env("CORTEN_CLI_PLUGINS", plugins))
}

/// A directory with buildx and compose as docker's plugins; `None` without Go.
pub fn plugins() -> Result<Option<PathBuf>> {
    let dir = target().join("clients/cli-plugins");
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let Some(compose) = compose()? else { return Ok(None) };
    let link = dir.join("docker-compose");
    if !link.exists() {
        std::os::unix::fs::symlink(compose, &link).with_context(|| format!("link {}", link.display()))?;
    }
    Ok(go_program(BUILDX, "./cmd/buildx", "version.Version", &dir.join("docker-buildx"))?.map(|_| dir))
}

fn services(python: &Path, dist: &Path, args: &[String]) -> Result<()> {
    packages::ensure(&[("debootstrap", "debootstrap")])?;
    let wanted = ["testcontainers==4.15.0", "redis", "sqlalchemy", "psycopg2-binary"];
    pip(python, "testcontainers, redis, sqlalchemy, psycopg2", &wanted)?;
    let base = base()?;
    let mut command = script(python, "run_services.py", dist);
    command.arg("--base").arg(base);
    match compose()? {
        Some(program) => command.arg("--compose").arg(program),
        None => {
            println!("compose: left out, there is no Go to build it with");
            &mut command
        }
    };
    run_command(command.args(args))
}

fn script(python: &Path, name: &str, dist: &Path) -> Command {
    let mut command = Command::new(python);
    command.arg(root().join("tests/clients").join(name)).arg("--bin").arg(dist);
    command
}

/// Installs packages of PyPI unless `imports` can be imported.
pub fn pip(python: &Path, imports: &str, wanted: &[&str]) -> Result<()> {
    let check = Command::new(python).args(["-c", &format!("import {imports}")]).output();
    if check.is_ok_and(|o| o.status.success()) {
        return Ok(());
    }
    println!("installing {}", wanted.join(" "));
    run_command(Command::new(python).args(["-m", "pip", "install", "--quiet"]).args(wanted))
}

/// A Debian with the services, as a tar; made once.
fn base() -> Result<PathBuf> {
    let tar = target().join("clients/services.tar");
    if tar.exists() {
        return Ok(tar);
    }
    println!("making a Debian with {SERVICES}");
    let tree = target().join("clients/services");
    if tree.exists() {
        std::fs::remove_dir_all(&tree).with_context(|| format!("remove {}", tree.display()))?;
    }
    run_command(
        Command::new("debootstrap")
            .args(["--variant=minbase", &format!("--include={SERVICES}"), RELEASE])
            .arg(&tree)
            .stdout(std::process::Stdio::null()),
    )?;
    let leave_out =
        ["dev", "proc", "sys", "var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man"];
    let unfinished = tar.with_extension("part");
    run_command(
        Command::new("tar")
            .args(leave_out.map(|dir| format!("--exclude=./{dir}/*")))
            .arg("-cf")
            .arg(&unfinished)
            .arg("-C")
            .arg(&tree)
            .arg("."),
    )?;
    std::fs::rename(&unfinished, &tar).with_context(|| format!("rename to {}", tar.display()))?;
    std::fs::remove_dir_all(&tree).with_context(|| format!("remove {}", tree.display()))?;
    Ok(tar)
}

fn compose() -> Result<Option<PathBuf>> {
    go_program(COMPOSE, "./cmd", "internal.Version", &target().join("clients/docker-compose"))
}

/// A program, built from its module; `None` without Go. (`go install` refuses modules that exclude others.) The
/// variable is told the version, as in its makers' builds: compose asks buildx for it.
fn go_program(module: &str, package: &str, variable: &str, program: &Path) -> Result<Option<PathBuf>> {
    let (name, version) = module.split_once('@').context("a module has a version")?;
    let metadata = || capture(Command::new(program).arg("docker-cli-plugin-metadata"));
    if program.exists() && metadata().is_ok_and(|m| m.contains(version)) {
        return Ok(Some(program.to_owned()));
    }
    if !packages::exists("go") {
        return Ok(None);
    }
    println!("building {module}");
    let answer =
        capture(Command::new("go").args(["mod", "download", "-json", module]).current_dir(target()))?;
    let answer: serde_json::Value = serde_json::from_str(&answer).context("read Go's answer")?;
    let source = answer["Dir"].as_str().context("Go says where the module is")?;
    run_command(
        Command::new("go")
            .args(["build", "-buildvcs=false", "-mod=readonly"])
            .arg(format!("-ldflags=-X {name}/{variable}={version}"))
            .arg("-o")
            .arg(program)
            .arg(package)
            .current_dir(source),
    )?;
    Ok(Some(program.to_owned()))
}
