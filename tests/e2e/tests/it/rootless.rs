//! The daemon of an ordinary user, who is made for the test: `corten run` simply works.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use corten_testkit::daemon::bin_dir;
use corten_testkit::image;

/// A new user with subordinate ids, a home, and our programs; all is gone with it.
struct User {
    name: String,
    dir: tempfile::TempDir,
    tun: Option<std::fs::Permissions>,
}

fn must(command: &mut Command) -> String {
    let output = command.output().expect("a test's own files and commands");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

impl User {
    fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("corten-rootless-")
            .tempdir()
            .expect("a test's own files and commands");
        let open = |path: &Path| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
                .expect("a test's own files and commands")
        };
        open(dir.path());
        for program in ["corten", "corten-runtime"] {
            std::fs::copy(bin_dir().join(program), dir.path().join(program))
                .expect("a test's own files and commands");
            open(&dir.path().join(program));
        }
        std::fs::write(
            dir.path().join("busybox.tar"),
            image::busybox_tar().expect("a test's own files and commands"),
        )
        .expect("a test's own files and commands");
        let name = format!("ctr{}", std::process::id());
        let home = dir.path().join("home");
        must(Command::new("useradd").args(["-m", "-s", "/bin/sh", "-d"]).arg(&home).arg(&name));
        // Machines with udev have this already.
        let tun = Path::new("/dev/net/tun");
        let before = std::fs::metadata(tun).expect("a test's own files and commands").permissions();
        let closed = before.mode() & 0o666 != 0o666;
        if closed {
            std::fs::set_permissions(tun, std::fs::Permissions::from_mode(0o666))
                .expect("a test's own files and commands");
        }
        must(Command::new("install").args(["-d", "-m", "700", "-o", &name]).arg(dir.path().join("run")));
        Self { name, dir, tun: closed.then_some(before) }
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("runuser");
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.dir.path().display());
        command
            .args(["-u", &self.name, "--", "env", "-i", "DOCKER_BUILDKIT=0"])
            .arg(format!("HOME={}", self.dir.path().join("home").display()))
            .arg(format!("XDG_RUNTIME_DIR={}", self.dir.path().join("run").display()))
            .arg(format!("PATH={path}"))
            .arg(program)
            .current_dir("/");
        command
    }

    fn corten(&self, args: &[&str]) -> Output {
        self.command(self.dir.path().join("corten"))
            .args(args)
            .output()
            .expect("a test's own files and commands")
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.corten(args);
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {err}\n{}", self.log());
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("run/corten.log")).unwrap_or_default()
    }

    /// The outermost of the daemon's processes.
    fn daemon(&self) -> Option<i32> {
        let text = must(Command::new("pgrep").args(["-o", "-u", &self.name, "-f", "corten daemon"]));
        text.parse().ok()
    }

    fn processes(&self) -> bool {
        Command::new("pgrep")
            .args(["-u", &self.name])
            .output()
            .expect("a test's own files and commands")
            .status
            .success()
    }
}

fn eventually<T>(what: &str, mut f: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = f() {
            return value;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if self.processes() {
            // The user was made for this test: so are all their processes.
            let pids = Command::new("pgrep")
                .args(["-u", &self.name])
                .output()
                .expect("a test's own files and commands")
                .stdout;
            Command::new("kill")
                .arg("-9")
                .args(String::from_utf8_lossy(&pids).split_whitespace())
                .output()
                .ok();
            eventually("all processes are gone", || (!self.processes()).then_some(()));
        }
        Command::new("userdel").arg(&self.name).output().ok();
        if let Some(before) = self.tun.take() {
            std::fs::set_permissions("/dev/net/tun", before).ok();
        }
    }
}

#[test]
fn an_ordinary_user_simply_runs_containers() {
    let user = User::new();
    let tar = user.dir.path().join("busybox.tar").display().to_string();
    let first = user.corten(&["import", &tar, "busybox"]);
    let said = String::from_utf8_lossy(&first.stderr).into_owned();
    assert!(
        first.status.success() && said.contains("No daemon is running: started one"),
        "{said}\n{}",
        user.log()
    );
    assert_eq!(
        user.ok(&["run", "--rm", "busybox", "sh", "-c", "id -u; echo x > /dev/null; hostname > /h"]),
        "0"
    );
    assert_eq!(user.ok(&["run", "--rm", "-u", "alice", "-v", "vol:/v", "busybox", "id", "-u"]), "1000");
    let info = user.ok(&["info", "-f", "{{.SecurityOptions}} {{.DockerRootDir}}"]);
    assert!(info.contains("name=rootless") && info.contains("/home/.local/share/corten"), "{info}");
    // Nothing but the user's own files and processes is involved.
    user.ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "127.0.0.1:38081:80",
        "busybox",
        "sh",
        "-c",
        "while :; do nc -l -p 80 -e echo hello; done",
    ]);
    let answer = eventually("the port answers", || {
        let out = Command::new("busybox")
            .args(["nc", "-w", "2", "127.0.0.1", "38081"])
            .stdin(std::process::Stdio::null())
            .output()
            .ok()?;
        (!out.stdout.is_empty()).then(|| String::from_utf8_lossy(&out.stdout).into_owned())
    });
    assert_eq!(answer, "hello\n");
    let taken = user.corten(&["run", "--rm", "-p", "38081:81", "busybox", "true"]);
    assert!(!taken.status.success());
    let low = user.corten(&["run", "--rm", "-p", "80:80", "busybox", "true"]);
    let said = String::from_utf8_lossy(&low.stderr);
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if first.trim() == "1024" {
        assert!(said.contains("cannot expose privileged port 80, you can add 'net.ipv4.ip_"), "{said}");
    }
    assert_eq!(user.ok(&["exec", "web", "sh", "-c", "id -u; echo in"]), "0\nin");
    assert!(user.ok(&["top", "web"]).contains("nc -l -p 80"));
    user.ok(&["rm", "-f", "web"]);
    eventually("the port is closed", || {
        std::net::TcpStream::connect("127.0.0.1:38081").is_err().then_some(())
    });
    let limited = user.corten(&["run", "--rm", "-m", "64m", "busybox", "true"]);
    let said = String::from_utf8_lossy(&limited.stderr).into_owned();
    let limits = user.ok(&["info", "-f", "{{.MemoryLimit}}"]) == "true";
    assert_eq!(said.contains("Limitation discarded"), !limits, "{said}");
    // Names on a network of its own, and a container that the host's users see as theirs.
    user.ok(&["network", "create", "own"]);
    user.ok(&["run", "-d", "--name", "first", "--network", "own", "busybox", "sleep", "1000"]);
    assert!(user.ok(&["exec", "first", "cat", "/etc/resolv.conf"]).contains("nameserver 127.0.0.11"));
    let ping = ["run", "--rm", "--network", "own", "busybox", "ping", "-c1", "-W2", "first"];
    assert!(user.ok(&ping).contains("1 packets received"));
    if !limits {
        let paused = user.corten(&["pause", "first"]);
        let said = String::from_utf8_lossy(&paused.stderr);
        assert!(said.contains("control groups: there are none that this user may use"), "{said}");
    }
    let home = user.dir.path().join("home");
    user.ok(&["run", "--rm", "-v", &format!("{}:/h", home.display()), "busybox", "touch", "/h/mine"]);
    let owner = must(Command::new("stat").args(["-c", "%U"]).arg(home.join("mine")));
    assert_eq!(owner, user.name);
    user.ok(&["rm", "-f", "first"]);
    user.ok(&["network", "rm", "own"]);
    let context = user.dir.path().join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(
        context.join("Dockerfile"),
        "FROM busybox\nRUN rm -r /home && mkdir /home && touch /home/new\n",
    )
    .unwrap();
    user.ok(&["build", "-t", "built", context.to_str().unwrap()]);
    assert_eq!(user.ok(&["run", "--rm", "built", "ls", "/home"]), "new");
    let file = user.dir.path().join("home/copied");
    user.ok(&["create", "--name", "files", "busybox", "true"]);
    user.ok(&["cp", "files:/etc/passwd", file.to_str().unwrap()]);
    assert!(file.exists());
    // The daemon's end is the end of its containers, however it comes.
    user.ok(&["run", "-d", "--name", "lasting", "busybox", "sleep", "1000"]);
    // What is noted a little later than the start is answered; a crash before that leaves it created.
    let runs = user.dir.path().join("run/corten/containers");
    eventually("the state is noted", || {
        let entries = std::fs::read_dir(&runs).ok()?.flatten();
        let states = entries.filter_map(|e| std::fs::read_to_string(e.path().join("state.json")).ok());
        states.into_iter().any(|s| s.contains("\"standing\":\"running\"")).then_some(())
    });
    let pid = rustix::process::Pid::from_raw(user.daemon().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    eventually("everything has ended", || (!user.processes()).then_some(()));
    assert_eq!(user.ok(&["ps", "-a", "-f", "name=lasting", "--format", "{{.State}}"]), "exited");
    user.ok(&["start", "lasting"]);
    user.ok(&["rm", "-f", "lasting", "files"]);
    let pid = rustix::process::Pid::from_raw(user.daemon().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    eventually("the daemon ends", || (!user.processes()).then_some(()));
}

/// A control group that was given to the user, as systemd does with `Delegate=yes`; gone with this.
struct Group(std::path::PathBuf);

impl Group {
    fn new(user: &str) -> Self {
        let root = Path::new("/sys/fs/cgroup");
        for controller in ["cpu", "memory", "pids"] {
            std::fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"))
                .expect("the machine's own root");
        }
        let group = Self(root.join(format!("corten-e2e-{}", std::process::id())));
        std::fs::create_dir(&group.0).expect("the machine's own root");
        must(Command::new("chown").arg(user).arg(&group.0));
        for file in ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
            must(Command::new("chown").arg(user).arg(group.0.join(file)));
        }
        group
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let find = Command::new("find").arg(&self.0).args(["-depth", "-type", "d"]).output();
        for dir in String::from_utf8_lossy(&find.map(|f| f.stdout).unwrap_or_default()).lines() {
            std::fs::remove_dir(dir).ok();
        }
    }
}

#[test]
fn control_groups_that_belong_to_the_user_limit_containers() {
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    if !controllers.contains("memory") {
        corten_testkit::say("skipped: needs control groups of the second version (cargo xtask vm)");
        return;
    }
    // Dropped after the user, whose processes are in it.
    let group;
    let user = User::new();
    group = Group::new(&user.name);
    let tar = user.dir.path().join("busybox.tar").display().to_string();
    let first = user.command(user.dir.path().join("corten"));
    let mut within = Command::new("sh");
    let enter = format!("echo 0 > {}/cgroup.procs && exec \"$0\" \"$@\"", group.0.display());
    within.arg("-c").arg(enter).arg(first.get_program()).args(first.get_args()).current_dir("/");
    must(within.args(["import", &tar, "busybox"]));
    assert_eq!(user.ok(&["info", "-f", "{{.CgroupDriver}} {{.MemoryLimit}}"]), "cgroupfs true");
    let limits =
        ["run", "-d", "--name", "box", "-m", "64m", "--pids-limit", "20", "busybox", "sleep", "1000"];
    user.ok(&limits);
    let files = ["exec", "box", "cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/pids.max"];
    assert_eq!(user.ok(&files), "67108864\n20");
    user.ok(&["update", "-m", "80m", "--memory-swap", "-1", "box"]);
    assert_eq!(user.ok(&files), "83886080\n20");
    user.ok(&["pause", "box"]);
    assert_eq!(user.ok(&["inspect", "-f", "{{.State.Status}}", "box"]), "paused");
    user.ok(&["unpause", "box"]);
    assert!(user.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "box"]).ends_with("/ 80MiB"));
    user.ok(&["rm", "-f", "box"]);
    let pid = rustix::process::Pid::from_raw(user.daemon().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    eventually("the daemon ends", || (!user.processes()).then_some(()));
}
