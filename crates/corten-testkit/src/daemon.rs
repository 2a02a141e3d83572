//! A daemon for one test: own directory, own network namespace, own socket; killed, restarted and checked.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{http, image, leak};

static NEXT: AtomicU32 = AtomicU32::new(0);
/// An emulated processor takes ten seconds for AppArmor's profile alone.
const COME_UP: Duration = Duration::from_secs(60);

/// Which client runs a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// The real `docker` from `PATH`.
    Docker,
    /// Ours.
    Corten,
}

/// What to start.
#[derive(Debug, Default, Clone)]
pub struct DaemonOptions {
    /// Further flags of `corten daemon`.
    pub args: Vec<String>,
    /// Environment of the daemon (failpoints).
    pub env: Vec<(String, String)>,
}

/// A finished command.
#[derive(Debug)]
pub struct Ran {
    /// The command line, for messages.
    pub command: String,
    /// Exit code, 128+n for a signal.
    pub code: i32,
    /// Standard output, lossily decoded.
    pub stdout: String,
    /// Standard error, lossily decoded.
    pub stderr: String,
}

impl Ran {
    fn from(command: String, output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
        Self {
            command,
            code,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Standard output without surrounding white space; panics unless the exit code is 0.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}\nstdout: {}\nstderr: {}", self.command, self.stdout, self.stderr);
        self.stdout.trim().to_owned()
    }

    /// Standard error without surrounding white space; panics unless the exit code is this one.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}\nstdout: {}\nstderr: {}", self.command, self.stdout, self.stderr);
        self.stderr.trim().to_owned()
    }
}

/// A running daemon; dropping it removes all that it made and panics if something remains.
#[derive(Debug)]
pub struct Daemon {
    dir: tempfile::TempDir,
    netns: String,
    child: Option<Child>,
    options: DaemonOptions,
}

/// The directory with `corten` and `corten-runtime`.
///
/// # Panics
/// When they have not been built.
#[must_use]
pub fn bin_dir() -> PathBuf {
    let dir = std::env::var_os("CORTEN_BIN_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/dist/debug"), PathBuf::from);
    assert!(dir.join("corten").exists(), "no program to test in {}: run `cargo xtask build`", dir.display());
    dir.canonicalize().expect("the directory exists")
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

impl Daemon {
    /// Starts a daemon with default options and imports `busybox:latest` into it.
    ///
    /// # Panics
    /// When it does not come up within a minute, which is for emulated machines.
    #[must_use]
    pub fn start() -> Self {
        let daemon = Self::start_with(DaemonOptions::default());
        daemon.import_busybox();
        daemon
    }

    /// Starts a daemon without any image.
    ///
    /// # Panics
    /// When it does not come up within a minute, which is for emulated machines.
    #[must_use]
    pub fn start_with(options: DaemonOptions) -> Self {
        let dir = tempfile::Builder::new().prefix("corten-e2e-").tempdir().expect("a temporary directory");
        let netns = format!("ct{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run(Command::new("ip").args(["netns", "add", &netns])).expect("a network namespace (root, iproute2)");
        let mut daemon = Self { dir, netns, child: None, options };
        run(daemon.in_netns("ip").args(["link", "set", "lo", "up"])).expect("loopback up");
        daemon.spawn();
        daemon
    }

    /// The directory of this daemon.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir().join("s")
    }

    /// Process id of the daemon.
    ///
    /// # Panics
    /// When it is not running.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running daemon").id()
    }

    /// A command that runs in the daemon's network namespace (`nsenter`, so that `/sys` stays as it is).
    #[must_use]
    pub fn in_netns(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).arg(program);
        command
    }

    /// The name of its network namespace, for `ip link set … netns`.
    #[must_use]
    pub fn netns(&self) -> &str {
        &self.netns
    }

    fn spawn(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir().join("log"))
            .expect("the daemon's log file");
        let mut command = self.in_netns(bin_dir().join("corten"));
        command
            .arg("daemon")
            .args(["-H", &format!("unix://{}", self.socket().display())])
            .args([OsStr::new("--data-root"), self.dir().join("data").as_os_str()])
            .args([OsStr::new("--exec-root"), self.dir().join("exec").as_os_str()])
            .args([OsStr::new("--pidfile"), self.dir().join("pid").as_os_str()])
            .args(&self.options.args)
            .envs(self.options.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("dup"))
            .stderr(log);
        self.child = Some(command.spawn().expect("spawn the daemon"));
        let deadline = Instant::now() + COME_UP;
        while UnixStream::connect(self.socket()).is_err() || self.try_get("/_ping").is_err() {
            assert!(Instant::now() < deadline, "the daemon did not come up:\n{}", self.log());
            if let Some(status) = self.child.as_mut().and_then(|c| c.try_wait().ok().flatten()) {
                panic!("the daemon ended with {status}:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What the daemon has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("log")).unwrap_or_default()
    }

    /// `SIGKILL`, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Starts it again after [`Daemon::kill`] or [`Daemon::stop`].
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "the daemon still runs");
        self.spawn();
    }

    /// As after a power cut: no process, mount or network of before is left, the data directory is. Starts the daemon
    /// again.
    ///
    /// # Panics
    /// When something cannot be taken away.
    pub fn reboot(&mut self) {
        let mut pids: Vec<i32> = Vec::new();
        for id in self.container_ids() {
            let pid = self.get(&format!("/containers/{id}/json"))["State"]["Pid"].as_i64().unwrap_or(0);
            if pid == 0 {
                continue;
            }
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let parent = status.lines().find_map(|l| l.strip_prefix("PPid:")?.trim().parse::<i32>().ok());
            pids.extend(parent);
            pids.push(i32::try_from(pid).expect("a process id"));
        }
        self.kill();
        for pid in pids.iter().filter_map(|pid| rustix::process::Pid::from_raw(*pid)) {
            // Whoever is gone already is gone.
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while pids.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
            assert!(Instant::now() < deadline, "processes survive: {pids:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        let exec = self.dir().join("exec");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        for point in
            mounts.lines().filter_map(|l| l.split(' ').nth(4)).filter(|p| Path::new(p).starts_with(&exec))
        {
            rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH).expect("unmount");
        }
        std::fs::remove_dir_all(&exec).expect("remove the exec root");
        run(Command::new("ip").args(["netns", "del", &self.netns])).expect("delete the network namespace");
        run(Command::new("ip").args(["netns", "add", &self.netns])).expect("a network namespace");
        run(self.in_netns("ip").args(["link", "set", "lo", "up"])).expect("loopback up");
        self.spawn();
    }

    /// `SIGTERM`, and waits for the end.
    ///
    /// # Panics
    /// When it takes longer than 15 seconds.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        let deadline = Instant::now() + Duration::from_secs(15);
        while child.try_wait().ok().flatten().is_none() {
            if Instant::now() > deadline {
                child.kill().ok();
                child.wait().ok();
                panic!("the daemon did not stop:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the daemon has died by itself (a failpoint).
    ///
    /// # Panics
    /// When it lives on for 10 seconds.
    pub fn wait_death(&mut self) {
        let mut child = self.child.take().expect("a running daemon");
        let deadline = Instant::now() + Duration::from_secs(10);
        while child.try_wait().ok().flatten().is_none() {
            assert!(Instant::now() < deadline, "the daemon lives on:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The options for the next start.
    pub fn options_mut(&mut self) -> &mut DaemonOptions {
        &mut self.options
    }

    /// A client command, not started yet; runs in the daemon's network namespace with a config of its own.
    #[must_use]
    pub fn command(&self, client: Client) -> Command {
        let mut command = match client {
            Client::Docker => self.in_netns("docker"),
            Client::Corten => self.in_netns(bin_dir().join("corten")),
        };
        command
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
            .env("DOCKER_CONFIG", self.dir().join("config"))
            .env("DOCKER_BUILDKIT", "0")
            .env_remove("DOCKER_CONTEXT");
        command
    }

    /// Runs a client command to its end with this standard input.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run_with<S: AsRef<OsStr>>(
        &self,
        client: Client,
        args: impl IntoIterator<Item = S>,
        stdin: &[u8],
    ) -> Ran {
        let mut command = self.command(client);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let text = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{text}: {e}"));
        let mut input = child.stdin.take().expect("piped");
        let stdin = stdin.to_vec();
        let writer = std::thread::spawn(move || input.write_all(&stdin).ok());
        let output = child.wait_with_output().unwrap_or_else(|e| panic!("{text}: {e}"));
        writer.join().ok();
        Ran::from(text, output)
    }

    /// `docker ARGS…` with the real client.
    pub fn docker<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        self.run_with(Client::Docker, args, b"")
    }

    /// `docker run -d ARGS… busybox` with its web server, which answers `hello from busybox` on port 80.
    pub fn serve<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Ran {
        let server = ["busybox", "httpd", "-f", "-p", "80", "-h", "/www"];
        self.docker(["run", "-d"].into_iter().chain(args).chain(server))
    }

    /// `corten ARGS…`.
    pub fn corten<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        self.run_with(Client::Corten, args, b"")
    }

    /// `GET path` as JSON.
    ///
    /// # Panics
    /// When the status is not 2xx or the body is no JSON.
    #[must_use]
    pub fn get(&self, path: &str) -> Value {
        self.try_get(path).unwrap_or_else(|e| panic!("GET {path}: {e:#}"))
    }

    fn try_get(&self, path: &str) -> Result<Value> {
        let response = http::request(&self.socket(), "GET", path, None)?;
        if !(200..300).contains(&response.status) {
            bail!("{} {}", response.status, String::from_utf8_lossy(&response.body));
        }
        Ok(serde_json::from_slice(&response.body).unwrap_or(Value::Null))
    }

    /// Any exchange with a JSON body; the status and the answer.
    ///
    /// # Panics
    /// When the connection breaks.
    #[must_use]
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let bytes = body.map(|b| b.to_string().into_bytes());
        let r =
            http::request(&self.socket(), method, path, bytes.as_deref().map(|b| ("application/json", b)))
                .unwrap_or_else(|e| panic!("{method} {path}: {e:#}\n{}", self.log()));
        (r.status, serde_json::from_slice(&r.body).unwrap_or(Value::Null))
    }

    /// Imports `busybox:latest`.
    ///
    /// # Panics
    /// When the daemon refuses it.
    pub fn import_busybox(&self) {
        let tar = image::busybox_tar().expect("a busybox tar");
        let response = http::request(
            &self.socket(),
            "POST",
            "/images/create?fromSrc=-&repo=busybox&tag=latest",
            Some(("application/x-tar", &tar)),
        )
        .expect("import");
        let text = String::from_utf8_lossy(&response.body);
        assert!(
            response.status == 200 && !text.contains("error"),
            "import busybox: {} {text}",
            response.status
        );
    }

    /// Polls until `f` gives a value.
    ///
    /// # Panics
    /// After 10 seconds, naming `what`.
    pub fn eventually<T>(&self, what: &str, mut f: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(value) = f() {
                return value;
            }
            assert!(Instant::now() < deadline, "not within 10 s: {what}\ndaemon log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Fetches a page (`http://IPv4:PORT/PATH`) from inside the daemon's network namespace; the body, or `None`
    /// while nobody answers. By `nc`: the static busybox's wget cannot look names up.
    #[must_use]
    pub fn fetch(&self, url: &str) -> Option<String> {
        let (authority, path) = url.strip_prefix("http://")?.split_once('/')?;
        let (host, port) = authority.split_once(':')?;
        let mut nc = self.in_netns("busybox");
        nc.args(["nc", "-w", "3", host, port])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = nc.spawn().ok()?;
        child.stdin.take()?.write_all(format!("GET /{path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
        let output = child.wait_with_output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (head, body) = text.split_once("\r\n\r\n")?;
        head.contains(" 200 ").then(|| body.to_owned())
    }

    /// Whether somebody listens on this loopback port of the daemon's network namespace.
    #[must_use]
    pub fn listens(&self, port: u16) -> bool {
        let mut nc = self.in_netns("busybox");
        nc.args(["nc", "-w", "1", "127.0.0.1", &port.to_string()]).stdin(Stdio::null());
        nc.output().is_ok_and(|o| o.status.success())
    }

    fn container_ids(&self) -> Vec<String> {
        let Ok(Value::Array(list)) = self.try_get("/containers/json?all=1") else { return Vec::new() };
        list.iter().filter_map(|c| c["Id"].as_str().map(str::to_owned)).collect()
    }

    fn tear_down(&mut self) -> Result<(), String> {
        let mut problems = Vec::new();
        if self.child.is_none() {
            self.spawn();
        }
        let ids = self.container_ids();
        for id in &ids {
            let path = format!("/containers/{id}?force=1&v=1");
            match http::request(&self.socket(), "DELETE", &path, None) {
                Ok(r) if r.status == 204 || r.status == 404 => {}
                Ok(r) => {
                    problems.push(format!("remove {id}: {} {}", r.status, String::from_utf8_lossy(&r.body)))
                }
                Err(e) => problems.push(format!("remove {id}: {e:#}")),
            }
        }
        self.stop();
        problems.extend(leak::check(self.dir(), &ids));
        if problems.is_empty() {
            Ok(())
        } else {
            Err(format!("{}\nlog:\n{}", problems.join("\n"), self.log()))
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.tear_down()));
        self.kill();
        Command::new("ip").args(["netns", "del", &self.netns]).output().ok();
        let problem = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(problem)) => problem,
            Err(_) => "tear-down panicked".to_owned(),
        };
        // A second panic while unwinding would abort the whole test run and hide the first.
        assert!(std::thread::panicking(), "left over after the test:\n{problem}");
        std::io::stderr().write_all(format!("also left over: {problem}\n").as_bytes()).ok();
    }
}
