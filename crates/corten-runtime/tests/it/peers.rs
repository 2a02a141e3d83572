//! Other people's engines run their containers with our runtime: Debian's podman, docker.io and containerd, where
//! installed.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::harness::privileged;
use crate::systemd::{has_systemd, show};

/// A directory, a network namespace and the runtime under the name `corten-oci`, for one engine.
struct Place {
    dir: PathBuf,
    netns: String,
    daemon: Option<Child>,
    /// podman's `--cgroup-manager`.
    manager: &'static str,
}

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let netns = format!("cp{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(&netns);
        std::fs::create_dir_all(dir.join("rootfs/bin")).unwrap();
        std::fs::copy("/bin/busybox", dir.join("rootfs/bin/busybox")).unwrap();
        for applet in ["sh", "echo", "id", "sleep", "true", "tty", "cat", "ls", "tr", "cut"] {
            std::os::unix::fs::symlink("busybox", dir.join("rootfs/bin").join(applet)).unwrap();
        }
        let program = env!("CARGO_BIN_EXE_corten-runtime");
        std::os::unix::fs::symlink(program, dir.join("corten-oci")).unwrap();
        let limits = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n";
        std::fs::write(dir.join("containers.conf"), limits).unwrap();
        let place = Self { dir, netns, daemon: None, manager: "cgroupfs" };
        assert!(Command::new("ip").args(["netns", "add", &place.netns]).status().unwrap().success());
        assert!(place.inside("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        place
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).arg(program).stdin(Stdio::null());
        command
    }

    fn podman(&self) -> Command {
        let mut command = self.inside("podman");
        command.args(["--root", &self.path("root"), "--runroot", &self.path("run")]);
        command.args(["--cgroup-manager", self.manager, "--runtime", &self.path("corten-oci")]);
        command.env("CONTAINERS_CONF", self.dir.join("containers.conf"));
        command
    }

    fn docker(&self) -> Command {
        let mut command = self.inside("docker");
        command.args(["-H", &format!("unix://{}", self.path("s"))]);
        command.env("DOCKER_CONFIG", self.dir.join("config"));
        command
    }

    fn start_dockerd(&mut self) {
        let log = std::fs::File::create(self.dir.join("log")).unwrap();
        let mut command = self.inside("dockerd");
        command
            .args(["-H", &format!("unix://{}", self.path("s"))])
            .args(["--data-root", &self.path("data"), "--exec-root", &self.path("exec")])
            .args(["--pidfile", &self.path("pid")])
            .args(["--add-runtime", &format!("corten={}", self.path("corten-oci"))])
            .args(["--default-runtime", "corten"])
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.daemon = Some(command.spawn().unwrap());
        for _ in 0..600 {
            if self.docker().arg("version").output().unwrap().status.success() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("{}", std::fs::read_to_string(self.dir.join("log")).unwrap_or_default());
    }

    fn ctr(&self) -> Command {
        let mut command = self.inside("ctr");
        command.args(["-a", &self.path("s")]);
        command
    }

    fn start_containerd(&mut self) {
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\n  address = {:?}\n[ttrpc]\n  address = {:?}\n",
            self.path("data"),
            self.path("exec"),
            self.path("s"),
            self.path("s.ttrpc"),
        );
        std::fs::write(self.dir.join("config.toml"), config).unwrap();
        let log = std::fs::File::create(self.dir.join("log")).unwrap();
        let mut command = self.inside("containerd");
        command.args(["-c", &self.path("config.toml")]).stdout(log.try_clone().unwrap()).stderr(log);
        self.daemon = Some(command.spawn().unwrap());
        for _ in 0..600 {
            if self.ctr().arg("version").output().unwrap().status.success() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("{}", std::fs::read_to_string(self.dir.join("log")).unwrap_or_default());
    }

    fn tar(&self) -> PathBuf {
        let tar = self.dir.join("image.tar");
        let mut command = Command::new("tar");
        command.arg("-C").arg(self.dir.join("rootfs")).arg("-cf").arg(&tar).arg(".");
        assert!(command.status().unwrap().success());
        tar
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            Command::new("kill").args(["-TERM", &daemon.id().to_string()]).status().ok();
            daemon.wait().ok();
        } else {
            self.podman().args(["system", "reset", "-f"]).output().ok();
        }
        Command::new("ip").args(["netns", "del", &self.netns]).output().ok();
        corten_testkit::leak::unmount_below(&self.dir);
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

/// The smoke test of an engine: every command that reaches the runtime once.
fn smoke(place: &Place, engine: impl Fn() -> Command) {
    let say = |args: &[&str]| {
        let output = engine().args(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code().unwrap_or(-1), text, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let tar = place.tar();
    let (code, _, err) = say(&["import", tar.to_str().unwrap(), "busybox:latest"]);
    assert_eq!(code, 0, "{err}");
    let (code, out, err) = say(&["run", "--rm", "busybox", "sh", "-c", "echo hello; id -u; exit 5"]);
    assert_eq!((code, out.as_str()), (5, "hello\n0\n"), "{err}");
    let (code, _, err) = say(&["run", "--rm", "busybox", "nope"]);
    assert_eq!(code, 127, "{err}");
    assert!(err.contains("executable file not found in $PATH"), "{err}");
    let script = "trap 'echo bye; exit 7' TERM; echo ready; while true; do sleep 0.05; done";
    let (code, _, err) = say(&["run", "-d", "--name", "box", "busybox", "sh", "-c", script]);
    assert_eq!(code, 0, "{err}");
    let (code, out, err) =
        say(&["exec", "-e", "A=1", "-u", "5", "box", "sh", "-c", "echo $A; id -u; exit 9"]);
    assert_eq!((code, out.as_str()), (9, "1\n5\n"), "{err}");
    for args in [&["pause", "box"][..], &["unpause", "box"], &["kill", "-s", "TERM", "box"]] {
        let (code, _, err) = say(args);
        assert_eq!(code, 0, "{args:?}: {err}");
    }
    assert_eq!(say(&["wait", "box"]).1.trim(), "7");
    assert_eq!(say(&["logs", "box"]).1, "ready\nbye\n");
    assert_eq!(say(&["rm", "box"]).0, 0);
    let script = "cat /etc/hosts >/dev/null; echo x > /tmp/x; echo y > /y";
    let (code, _, err) =
        say(&["run", "--rm", "--read-only", "--tmpfs", "/tmp", "busybox", "sh", "-c", script]);
    assert!(code == 1 && err.contains("can't create /y: Read-only file system"), "{err}");
    let text = on_terminal(engine());
    assert!(text.contains("/dev/pts/0") && text.contains("got it"), "{text:?}");
}

/// What only podman asks of a runtime.
fn podmans_own(place: &Place) {
    let say = |args: &[&str]| {
        let output = place.podman().args(args).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{args:?}: {err}");
        out.trim().to_owned()
    };
    let users = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"];
    let run = |flags: &[&str], script: &str| {
        say(&[&["run", "--rm"], flags, &["busybox", "sh", "-c", script]].concat())
    };
    let map = run(&users, "echo $(cat /proc/self/uid_map)");
    assert_eq!(map, "0 100000 65536");
    // Owners of a bind mount: those of the container's users, and named ones.
    let shared = place.path("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(place.dir.join("shared/file"), "x").unwrap();
    let owner = "ls -ln /v/file | tr -s ' ' | cut -d' ' -f3,4";
    let bind = |options: &str| format!("{shared}:/v:{options}");
    assert_eq!(run(&[&users[..], &["-v", &bind("idmap")]].concat(), owner), "0 0");
    assert_eq!(run(&["-v", &bind("idmap=uids=0-5-10;gids=0-7-10")], owner), "5 7");
    assert_eq!(run(&[&users[..], &["-v", &bind("idmap=uids=@0-5-10;gids=@0-7-10")]].concat(), owner), "5 7");
    // A pod: namespaces joined by path.
    say(&["pod", "create", "--name", "p", "--infra-image", "busybox", "--infra-command", "sleep 1000"]);
    say(&["run", "-d", "--pod", "p", "--name", "one", "busybox", "sleep", "1000"]);
    let namespace = |name: &str| {
        say(&["exec", name, "ls", "-l", "/proc/self/ns/net"]).rsplit_once(' ').unwrap().1.to_owned()
    };
    let other = run(&["--pod", "p"], "ls -l /proc/self/ns/net");
    assert_eq!(other.rsplit_once(' ').unwrap().1, namespace("one"));
    for args in [
        &["pod", "pause", "p"][..],
        &["pod", "unpause", "p"],
        &["stats", "--no-stream", "one"],
        &["top", "one"],
        &["update", "--memory", "100m", "one"],
        &["cp", "one:/bin/busybox", &place.path("copied")],
        &["exec", "-d", "one", "true"],
        &["restart", "-t", "0", "one"],
    ] {
        say(args);
    }
    let health = [
        "run",
        "-d",
        "--name",
        "h",
        "--health-cmd",
        "true",
        "--health-interval",
        "disable",
        "busybox",
        "sleep",
        "1000",
    ];
    say(&health);
    say(&["healthcheck", "run", "h"]);
    say(&["rm", "-f", "-t", "0", "h"]);
    say(&["pod", "rm", "-f", "-t", "0", "p"]);
}

/// Runs a container on a terminal of our side; what it says.
///
/// It stays until its first words were read and answered: podman loses the output of a container that ends at once
/// (one time in ten, with runc as well).
fn on_terminal(command: Command) -> String {
    let mut line = String::new();
    let set = command.get_envs().filter_map(|(k, v)| Some((k.to_str()?, v?.to_str()?)));
    for (name, value) in set {
        write!(line, "{name}={value} ").unwrap();
    }
    for word in std::iter::once(command.get_program()).chain(command.get_args()) {
        write!(line, "{} ", word.to_str().unwrap()).unwrap();
    }
    line.push_str("run --rm -it busybox sh -c 'tty; read x; echo got $x'");
    let mut script = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = script.stdout.take().unwrap();
    // Kept open to the end, which would be one more character.
    let mut input = script.stdin.take().unwrap();
    let (mut text, mut block, mut answered) = (String::new(), [0; 1024], false);
    while let Ok(n @ 1..) = output.read(&mut block) {
        text.push_str(&String::from_utf8_lossy(&block[..n]));
        if text.contains("/dev/pts/0") && !answered {
            input.write_all(b"it\n").unwrap();
            answered = true;
        }
    }
    assert!(script.wait().unwrap().success(), "{text:?}");
    text
}

/// containerd has its own shim, which asks for everything that a runtime can do.
#[test]
fn containerd_runs_its_containers_with_it() {
    if !privileged() || !installed(&["/usr/bin/containerd", "/usr/bin/ctr", "/usr/bin/script"]) {
        return;
    }
    let mut place = Place::new();
    place.start_containerd();
    let runtime = place.path("corten-oci");
    let with =
        ["--env", "PATH=/bin", "--runtime", "io.containerd.runc.v2", "--runc-binary", &runtime, "--rootfs"];
    let rootfs = place.path("rootfs");
    // Files, as shims and containers keep what they are given.
    let say = |args: &[&str]| {
        let file = |name: &str| std::fs::File::create(place.dir.join(name)).unwrap();
        let status = place.ctr().args(args).stdout(file("stdout")).stderr(file("stderr")).status().unwrap();
        let text = |name: &str| std::fs::read_to_string(place.dir.join(name)).unwrap();
        (status.code().unwrap_or(-1), text("stdout"), text("stderr"))
    };
    let run = |flags: &[&str], id: &str, program: &[&str]| {
        say(&[&["run"], flags, &with[..], &[rootfs.as_str(), id], program].concat())
    };
    let (code, out, err) = run(&["--rm"], "first", &["sh", "-c", "id -u; echo hello; exit 5"]);
    assert_eq!((code, out.as_str()), (5, "0\nhello\n"), "{err}");
    let (code, _, err) = run(&["--rm"], "missing", &["nope"]);
    assert!(code == 1 && err.contains("executable file not found in $PATH"), "{err}");
    let (code, _, err) = run(&["--rm", "--no-pivot"], "staying", &["true"]);
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = run(&["-d", "--memory-limit", "67108864"], "box", &["sleep", "1000"]);
    assert_eq!(code, 0, "{err}");
    let exec =
        ["tasks", "exec", "--exec-id", "e1", "--cwd", "/bin", "box", "sh", "-c", "echo in; pwd; exit 9"];
    let (code, out, err) = say(&exec);
    assert_eq!((code, out.as_str()), (9, "in\n/bin\n"), "{err}");
    let status = || say(&["tasks", "ls"]).1.lines().nth(1).unwrap_or_default().to_owned();
    for (args, wanted) in [
        (&["tasks", "pause", "box"][..], "PAUSED"),
        (&["tasks", "resume", "box"], "RUNNING"),
        (&["tasks", "metrics", "box"], "RUNNING"),
        (&["tasks", "ps", "box"], "RUNNING"),
    ] {
        let (code, _, err) = say(args);
        assert_eq!(code, 0, "{args:?}: {err}");
        assert!(status().ends_with(wanted), "{args:?}: {}", status());
    }
    assert_eq!(say(&["tasks", "kill", "-s", "KILL", "box"]).0, 0);
    for _ in 0..600 {
        if status().ends_with("STOPPED") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let (_, _, err) = say(&["tasks", "rm", "box"]);
    assert!(err.contains("137"), "{err}");
    assert_eq!(say(&["containers", "rm", "box"]).0, 0);
}

fn installed(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|p| !Path::new(p).exists());
    if let Some(missing) = missing {
        corten_testkit::say(format_args!("skipped: needs {missing}"));
    }
    missing.is_none()
}

#[test]
fn podman_runs_its_containers_with_it() {
    if privileged() && installed(&["/usr/bin/podman", "/usr/bin/script"]) {
        let place = Place::new();
        smoke(&place, || place.podman());
        podmans_own(&place);
    }
}

/// podman's own choice where systemd runs.
#[test]
fn podman_under_systemd() {
    if has_systemd() && installed(&["/usr/bin/podman", "/usr/bin/script"]) {
        let mut place = Place::new();
        place.manager = "systemd";
        smoke(&place, || place.podman());
        let say = |args: &[&str]| {
            let output = place.podman().args(args).output().unwrap();
            assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        let id = say(&["run", "-d", "-m", "32m", "--pids-limit", "50", "busybox", "sleep", "600"]);
        let unit = format!("libpod-{id}.scope");
        assert_eq!((show(&unit, "ActiveState").as_str(), show(&unit, "TasksMax").as_str()), ("active", "50"));
        assert_eq!(show(&unit, "Slice"), "machine.slice");
        say(&["rm", "-f", "-t", "0", &id]);
        assert_eq!(show(&unit, "LoadState"), "not-found");
    }
}

#[test]
fn docker_runs_its_containers_with_it() {
    if privileged() && installed(&["/usr/sbin/dockerd", "/usr/bin/docker", "/usr/bin/script"]) {
        let mut place = Place::new();
        place.start_dockerd();
        smoke(&place, || place.docker());
    }
}
