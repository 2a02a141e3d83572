//! One engine under measurement: started in its own network namespace, told the same things as the others.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use corten_testkit::{http, image};

/// A running engine (podman has no daemon).
#[derive(Debug)]
pub struct Engine {
    /// `corten`, `docker`, `podman`.
    pub name: String,
    /// Time from exec of the daemon to the first answered ping.
    pub cold_start: Option<Duration>,
    dir: PathBuf,
    netns: String,
    daemon: Mutex<Option<Child>>,
}

fn quiet(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Engine {
    /// Starts it with an empty state and the image `busybox`.
    ///
    /// # Errors
    /// When it is not installed or does not come up.
    pub fn start(name: &str) -> Result<Self> {
        let program = match name {
            "corten" => corten_testkit::daemon::bin_dir().join("corten"),
            "docker" => PathBuf::from("/usr/sbin/dockerd"),
            "podman" => PathBuf::from("/usr/bin/podman"),
            _ => bail!("unknown engine"),
        };
        if !program.exists() {
            bail!("{} is not installed", program.display());
        }
        let dir = std::env::temp_dir().join(format!("corten-bench-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let netns = format!("ctb{}{}", std::process::id(), &name[..1]);
        quiet(Command::new("ip").args(["netns", "add", &netns]))?;
        let mut engine =
            Self { name: name.to_owned(), cold_start: None, dir, netns, daemon: Mutex::new(None) };
        quiet(engine.inside("ip").args(["link", "set", "lo", "up"]))?;
        if name != "podman" {
            engine.cold_start = Some(engine.start_daemon(&program)?);
        }
        // podman's own default asks for more open files than this process may grant.
        std::fs::write(
            engine.dir.join("containers.conf"),
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n",
        )?;
        engine.import_busybox()?;
        Ok(engine)
    }

    /// Directory of its state.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its API socket; podman is measured by its command line only.
    #[must_use]
    pub fn socket(&self) -> Option<PathBuf> {
        (self.name != "podman").then(|| self.dir.join("s"))
    }

    /// A command in its network namespace.
    #[must_use]
    pub fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).arg(program);
        command
    }

    /// Kills the daemon and starts it again: the time until it answers.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart(&self) -> Result<Duration> {
        if let Some(mut daemon) = self.daemon().take() {
            daemon.kill()?;
            daemon.wait()?;
        }
        let program = if self.name == "corten" {
            corten_testkit::daemon::bin_dir().join("corten")
        } else {
            PathBuf::from("/usr/sbin/dockerd")
        };
        self.start_daemon(&program)
    }

    fn daemon(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_daemon(&self, program: &Path) -> Result<Duration> {
        let log = std::fs::File::create(self.dir.join("log"))?;
        let mut command = self.inside(program);
        if self.name == "corten" {
            command.arg("daemon");
        }
        command
            .args(["-H", &format!("unix://{}", self.dir.join("s").display())])
            .args(["--data-root", &self.dir.join("data").display().to_string()])
            .args(["--exec-root", &self.dir.join("exec").display().to_string()])
            .args(["--pidfile", &self.dir.join("pid").display().to_string()])
            .args(["--insecure-registry", "127.0.0.0/8"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let begin = Instant::now();
        *self.daemon() = Some(command.spawn()?);
        let socket = self.dir.join("s");
        while UnixStream::connect(&socket).is_err()
            || http::request(&socket, "GET", "/_ping", None).map_or(true, |r| r.status != 200)
        {
            if begin.elapsed() > Duration::from_secs(30) {
                bail!(
                    "did not come up: {}",
                    std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
                );
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(begin.elapsed())
    }

    /// A client command: docker's own client for docker, ours for Corten.
    #[must_use]
    pub fn cli(&self, args: &[&str]) -> Command {
        let mut command = match self.name.as_str() {
            "corten" => self.inside(corten_testkit::daemon::bin_dir().join("corten")),
            "docker" => self.inside("docker"),
            _ => {
                let mut command = self.inside("podman");
                command.args(["--root", &self.dir.join("root").display().to_string()]);
                command.args(["--runroot", &self.dir.join("run").display().to_string()]);
                command.args(["--cgroup-manager", "cgroupfs", "--runtime", "crun"]);
                command.env("CONTAINERS_CONF", self.dir.join("containers.conf"));
                command
            }
        };
        if self.name != "podman" {
            command
                .env("DOCKER_HOST", format!("unix://{}", self.dir.join("s").display()))
                .env("DOCKER_CONFIG", self.dir.join("config"))
                .env("DOCKER_BUILDKIT", "0");
        }
        command.args(args).env("LC_ALL", "C");
        command
    }

    /// Runs a client command to its end and times it.
    ///
    /// # Errors
    /// When it fails.
    pub fn timed(&self, args: &[&str]) -> Result<Duration> {
        let mut command = self.cli(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let begin = Instant::now();
        let output = command.output()?;
        let took = begin.elapsed();
        if !output.status.success() {
            bail!("{} {args:?}: {}", self.name, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(took)
    }

    /// Runs a client command and returns what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn say(&self, args: &[&str]) -> Result<String> {
        quiet(&mut self.cli(args))
    }

    /// What the engine calls itself.
    #[must_use]
    pub fn version(&self) -> String {
        let format = if self.name == "podman" { "{{.Client.Version}}" } else { "{{.Server.Version}}" };
        self.say(&["version", "--format", format]).unwrap_or_else(|e| format!("{e:#}"))
    }

    fn import_busybox(&self) -> Result<()> {
        let tar = image::busybox_tar()?;
        let mut child = self
            .cli(&["import", "-", "busybox:latest"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()?;
        child.stdin.take().context("piped")?.write_all(&tar)?;
        if !child.wait()?.success() {
            bail!("import failed");
        }
        Ok(())
    }

    /// Proportional set size of the daemon's own processes and of the shims, in kB.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let mut memory = Memory::default();
        let dir = self.dir.display().to_string();
        // Our shims are named by their container only.
        let ids: Vec<String> = std::fs::read_dir(self.dir.join("exec/containers"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let ours = command.contains(&dir) || ids.iter().any(|id| command.contains(id.as_str()));
            if !ours || command.starts_with("nsenter") {
                continue;
            }
            let rollup = std::fs::read_to_string(entry.path().join("smaps_rollup")).unwrap_or_default();
            let field = |name: &str| -> u64 {
                let line = rollup.lines().find_map(|l| l.strip_prefix(name));
                line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
            };
            let private = field("Private_Clean:") + field("Private_Dirty:");
            if ["shim", "conmon", "docker-proxy"].iter().any(|w| command.contains(w)) {
                memory.shims_private += private;
                memory.shims += 1;
            } else {
                memory.daemon_rss += field("Rss:");
                memory.daemon_pss += field("Pss:");
                memory.daemon_private += private;
            }
        }
        memory
    }
}

/// Ends the daemon and removes every trace.
impl Drop for Engine {
    fn drop(&mut self) {
        if let Ok(ids) = self.say(&["ps", "-aq"]) {
            for id in ids.split_whitespace() {
                self.say(&["rm", "-f", "-v", id]).ok();
            }
        }
        if let Some(mut daemon) = self.daemon().take() {
            Command::new("kill").args(["-TERM", &daemon.id().to_string()]).status().ok();
            daemon.wait().ok();
        }
        if self.name == "podman" {
            self.say(&["system", "reset", "-f"]).ok();
        }
        Command::new("ip").args(["netns", "del", &self.netns]).output().ok();
        corten_testkit::leak::unmount_below(&self.dir);
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

/// Memory in kB.
#[derive(Debug, Default, Clone, Copy)]
pub struct Memory {
    /// Resident set of the daemon's processes.
    pub daemon_rss: u64,
    /// Proportional set of the daemon's processes.
    pub daemon_pss: u64,
    /// Private memory of the daemon's processes.
    pub daemon_private: u64,
    /// Private memory of all shims together.
    pub shims_private: u64,
    /// Number of shims.
    pub shims: u64,
}
