//! The OCI command line, as its callers use it.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::harness::privileged;
use serde_json::{Value, json};

/// One bundle, and a `--root` of its own.
pub(crate) struct Bundle {
    pub(crate) base: PathBuf,
    pub(crate) id: String,
}

impl Bundle {
    pub(crate) fn new(args: &[&str]) -> Self {
        Self::with(args, |_| {})
    }

    pub(crate) fn with(args: &[&str], change: impl FnOnce(&mut Value)) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("oci-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let base = std::env::temp_dir().join(&id);
        std::fs::create_dir_all(base.join("bundle/rootfs/bin")).unwrap();
        std::fs::copy("/bin/busybox", base.join("bundle/rootfs/bin/busybox")).unwrap();
        for applet in [
            "sh", "cat", "echo", "id", "ls", "sleep", "sort", "head", "true", "tty", "touch", "tr", "cut",
            "mkdir", "sed", "grep", "stat",
        ] {
            std::os::unix::fs::symlink("busybox", base.join("bundle/rootfs/bin").join(applet)).unwrap();
        }
        let bundle = Self { base, id };
        let made = bundle.oci(&["spec", "-b", &bundle.path("bundle")]).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let file = bundle.base.join("bundle/config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        config["process"]["args"] = json!(args);
        config["process"]["terminal"] = json!(false);
        config["root"]["readonly"] = json!(false);
        change(&mut config);
        std::fs::write(file, config.to_string()).unwrap();
        bundle
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.base.join(name).display().to_string()
    }

    pub(crate) fn oci(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_corten-runtime"));
        command.args(["oci", "--root", &self.path("root")]).args(args).stdin(Stdio::null());
        command
    }

    /// Runs a command whose output goes to a file: the container keeps it open.
    pub(crate) fn say(&self, args: &[&str]) -> (i32, String) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let path = self.base.join(format!("output-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let file = std::fs::File::create(&path).unwrap();
        let status = self.oci(args).stdout(file.try_clone().unwrap()).stderr(file).status().unwrap();
        (status.code().unwrap(), std::fs::read_to_string(path).unwrap())
    }

    pub(crate) fn create(&self) {
        let bundle = self.path("bundle");
        assert_eq!(self.say(&["create", "--bundle", &bundle, &self.id]), (0, String::new()));
    }

    pub(crate) fn run(&self, flags: &[&str]) -> (i32, String) {
        let bundle = self.path("bundle");
        self.say(&[&["run", "-b", &bundle], flags, &[&self.id]].concat())
    }

    pub(crate) fn state(&self) -> Value {
        let output: Output = self.oci(&["state", &self.id]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn wait_for(&self, status: &str) {
        for _ in 0..5000 {
            if self.state()["status"] == status {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("{} is not {status}", self.state());
    }

    pub(crate) fn group(&self) -> PathBuf {
        let v1 = Path::new("/sys/fs/cgroup/pids");
        if v1.exists() { v1.join(&self.id) } else { Path::new("/sys/fs/cgroup").join(&self.id) }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.oci(&["delete", "--force", &self.id]).output().ok();
        std::fs::remove_dir_all(&self.base).ok();
    }
}

fn line(text: &str) -> String {
    text.split_once("level=error msg=").map(|(_, m)| m.trim().to_owned()).unwrap_or_else(|| text.to_owned())
}

#[test]
fn a_container_waits_for_start_and_is_gone_after_delete() {
    if !privileged() {
        return;
    }
    let b = Bundle::new(&["sh", "-c", "echo started; touch /begun; sleep 60"]);
    let (bundle, pid_file) = (b.path("bundle"), b.path("pid"));
    let made = b.say(&["create", "--bundle", &bundle, "--pid-file", &pid_file, &b.id]);
    assert_eq!(made, (0, String::new()));
    let state = b.state();
    assert_eq!((&state["status"], &state["bundle"]), (&json!("created"), &json!(bundle)));
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), state["pid"].to_string());
    assert!(b.group().is_dir() && !b.base.join("bundle/rootfs/begun").exists());
    assert_eq!(
        line(&b.say(&["create", "-b", &bundle, &b.id]).1),
        "\"runc create failed: container with given ID already exists\""
    );
    // A further process may come before the program.
    assert_eq!(b.say(&["exec", &b.id, "echo", "early"]), (0, "early\n".into()));
    assert_eq!(b.say(&["start", &b.id]), (0, String::new()));
    b.wait_for("running");
    assert_eq!(line(&b.say(&["start", &b.id]).1), "\"cannot start an already running container\"");
    assert_eq!(b.say(&["exec", "--env", "A=7", &b.id, "sh", "-c", "echo $A; exit 4"]), (4, "7\n".into()));
    assert_eq!(b.say(&["exec", "-u", "5:6", &b.id, "id", "-u"]), (0, "5\n".into()));
    let (code, text) = b.say(&["exec", &b.id, "nope"]);
    let lead = "exec failed: unable to start container process: exec: ";
    assert_eq!(
        (code, line(&text)),
        (255, format!("{:?}", format!("{lead}\"nope\": executable file not found in $PATH")))
    );
    assert_eq!(b.say(&["ps", "-f", "json", &b.id]), (0, format!("[{}]\n", b.state()["pid"])));
    assert_eq!(b.say(&["list", "-q"]), (0, format!("{}\n", b.id)));
    let list: Value = serde_json::from_str(&b.say(&["list", "-f", "json"]).1).unwrap();
    assert_eq!((&list[0]["status"], &list[0]["owner"]), (&json!("running"), &json!("root")));
    assert_eq!(b.say(&["pause", &b.id]).0, 0);
    assert_eq!(b.state()["status"], "paused");
    assert_eq!(b.say(&["exec", &b.id, "true"]).0, 255);
    assert_eq!(b.say(&["resume", &b.id]).0, 0);
    assert_eq!(b.say(&["update", "--memory", "64m", &b.id]), (0, String::new()));
    let stats: Value = serde_json::from_str(&b.say(&["events", "--stats", &b.id]).1).unwrap();
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], 64 << 20);
    let (code, text) = b.say(&["delete", &b.id]);
    assert!(code == 1 && text.contains("that is not stopped: running"), "{text}");
    assert_eq!(b.say(&["kill", &b.id, "SIGKILL"]), (0, String::new()));
    b.wait_for("stopped");
    assert_eq!(b.state()["pid"], 0);
    assert_eq!(line(&b.say(&["kill", &b.id]).1), "\"container not running\"");
    assert_eq!(b.say(&["delete", &b.id]), (0, String::new()));
    assert!(!b.group().exists() && !b.base.join("root").join(&b.id).exists());
    assert_eq!(line(&b.say(&["state", &b.id]).1), "\"container does not exist\"");
    assert_eq!(b.say(&["delete", "--force", &b.id]).0, 0);
}

#[test]
fn run_gives_the_programs_output_and_code_and_leaves_nothing() {
    if !privileged() {
        return;
    }
    let b = Bundle::new(&["sh", "-c", "echo out; ls /proc/self/fd; exit 3"]);
    assert_eq!(b.run(&[]), (3, "out\n0\n1\n2\n3\n".into()));
    assert_eq!(b.run(&["--no-pivot"]), (3, "out\n0\n1\n2\n3\n".into()));
    assert!(!b.group().exists() && !b.base.join("root").join(&b.id).exists());
    let b = Bundle::new(&["sleep", "60"]);
    assert_eq!(b.run(&["-d"]), (0, String::new()));
    assert_eq!(b.state()["status"], "running");
}

#[test]
fn failures_are_told_in_the_callers_log_and_leave_nothing() {
    if !privileged() {
        return;
    }
    let b = Bundle::new(&["nope"]);
    let (log, bundle) = (b.path("log"), b.path("bundle"));
    let (code, text) = b.say(&["--log", &log, "--log-format", "json", "create", "-b", &bundle, &b.id]);
    let want = "runc create failed: unable to start container process: error during container init: exec: \
                \"nope\": executable file not found in $PATH";
    assert_eq!((code, text), (1, format!("{want}\n")));
    let record: Value = serde_json::from_str(&std::fs::read_to_string(log).unwrap()).unwrap();
    assert_eq!((&record["level"], &record["msg"]), (&json!("error"), &json!(want)));
    assert!(!b.group().exists() && !b.base.join("root").join(&b.id).exists());
    for (flags, want) in [
        (&["run", "--nope", "x"][..], "flag provided but not defined: -nope"),
        (&["run", "-b", &bundle, "../x"], "runc run failed: invalid container ID format"),
        (&["state", "../x"], "invalid container ID format"),
        (
            &["run", "--preserve-fds", "1", "-b", &bundle, "x"],
            "runc run failed: unable to stat preserved-fd 0 (of 1)",
        ),
    ] {
        let (code, text) = b.say(flags);
        assert_eq!((code, line(&text)), (1, format!("{want:?}")), "{flags:?}");
    }
    let b = Bundle::with(&["true"], |c| c["linux"]["intelRdt"] = json!({ "closID": "x" }));
    assert_eq!(line(&b.run(&[]).1), "\"runc run failed: config.json: linux.intelRdt is not supported\"");
}

#[test]
fn hooks_run_in_their_order_with_the_state() {
    if !privileged() {
        return;
    }
    let hook = |script: &str| json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"] }]);
    let b = Bundle::new(&["sh", "-c", "echo program"]);
    let trace = b.path("trace");
    let file = b.base.join("bundle/config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let tell = |name: &str| hook(&format!("read x; echo {name} $x >> {trace}"));
    config["hooks"] = json!({
        "prestart": tell("prestart"),
        "createRuntime": hook(&format!("cat > {}; echo createRuntime >> {trace}", b.path("state"))),
        "createContainer": hook(&format!("cat >/dev/null; hostname >> {trace}")),
        "startContainer": hook("echo startContainer"),
        "poststart": hook(&format!("echo poststart >> {trace}")),
        "poststop": tell("poststop"),
    });
    std::fs::write(&file, config.to_string()).unwrap();
    b.create();
    let state: Value = serde_json::from_slice(&std::fs::read(b.path("state")).unwrap()).unwrap();
    assert_eq!(
        (&state["status"], &state["id"], &state["pid"]),
        (&json!("creating"), &json!(b.id), &b.state()["pid"])
    );
    assert_eq!(b.say(&["start", &b.id]).0, 0);
    b.wait_for("stopped");
    assert_eq!(b.say(&["delete", &b.id]).0, 0);
    let told = std::fs::read_to_string(&trace).unwrap();
    let words: Vec<&str> = told.lines().map(|l| l.split(' ').next().unwrap()).collect();
    assert_eq!(words, ["prestart", "createRuntime", "corten", "poststart", "poststop"]);
    assert!(told.lines().last().unwrap().contains("\"stopped\""), "{told}");
    // One that fails fails the container.
    config["hooks"]["createRuntime"] = hook("echo why >&2; exit 3");
    std::fs::write(&file, config.to_string()).unwrap();
    let (code, text) = b.run(&[]);
    let want = "error running createRuntime hook #0: exit status 3, stdout: , stderr: why";
    assert!(code == 1 && text.contains(want), "{text}");
    assert!(!b.group().exists());
    // … and one that fails later is told to who starts it.
    config["hooks"] = json!({ "startContainer": [{ "path": "/no/hook" }] });
    std::fs::write(&file, config.to_string()).unwrap();
    b.create();
    let (code, text) = b.say(&["start", &b.id]);
    assert!(code == 1 && text.contains("error running startContainer hook #0: /no/hook"), "{text}");
}

#[test]
fn a_terminal_goes_to_the_console_socket() {
    if !privileged() {
        return;
    }
    let b =
        Bundle::with(&["sh", "-c", "tty; read x; echo got $x"], |c| c["process"]["terminal"] = json!(true));
    let (bundle, socket) = (b.path("bundle"), b.path("console"));
    let (code, text) = b.say(&["create", "-b", &bundle, &b.id]);
    assert!(code == 1 && text.contains("without setting console socket"), "{text}");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert_eq!(b.say(&["create", "-b", &bundle, "--console-socket", &socket, &b.id]), (0, String::new()));
    let (peer, _) = listener.accept().unwrap();
    let (mut block, mut fds) = ([0; 64], Vec::new());
    corten_sys::seqpacket::recv(peer.as_fd(), &mut block, &mut fds, true).unwrap();
    let mut master = std::fs::File::from(fds.pop().unwrap());
    assert_eq!(b.say(&["start", &b.id]).0, 0);
    master.write_all(b"hello\n").unwrap();
    let mut text = Vec::new();
    let mut block = [0; 256];
    while let Ok(n @ 1..) = master.read(&mut block) {
        text.extend_from_slice(&block[..n]);
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("/dev/pts/0") && text.contains("got hello"), "{text}");
}

#[test]
fn preserved_descriptors_reach_the_program_and_no_other() {
    if !privileged() {
        return;
    }
    use std::os::unix::process::CommandExt;
    let b = Bundle::new(&["sh", "-c", "cat <&3; ls /proc/self/fd"]);
    std::fs::write(b.base.join("gift"), "gift\n").unwrap();
    let script = format!(
        "exec 3<{gift} 7<{gift}; exec {program} oci --root {root} run --preserve-fds 1 -b {bundle} {id}",
        gift = b.path("gift"),
        program = env!("CARGO_BIN_EXE_corten-runtime"),
        root = b.path("root"),
        bundle = b.path("bundle"),
        id = b.id,
    );
    let output = Command::new("/bin/sh").arg0("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "gift\n0\n1\n2\n3\n4\n", "{output:?}");
}

#[test]
fn a_container_without_control_groups() {
    if !privileged() {
        return;
    }
    let none = ["--cgroup-manager", "disabled"];
    let b = Bundle::with(&["sleep", "60"], |c| {
        c["linux"].as_object_mut().unwrap().remove("resources");
    });
    let bundle = b.path("bundle");
    let run = [&none[..], &["run", "-d", "-b", &bundle, &b.id]].concat();
    assert_eq!(b.say(&run), (0, String::new()));
    assert!(!b.group().exists());
    assert_eq!(b.say(&["exec", &b.id, "echo", "in"]), (0, "in\n".into()));
    for command in [&["pause", &b.id][..], &["update", "--memory", "64m", &b.id]] {
        let (code, text) = b.say(command);
        assert!(code == 1 && text.contains("the container's control groups"), "{text}");
    }
    assert_eq!(b.say(&["delete", "--force", &b.id]), (0, String::new()));
    let b = Bundle::with(&["true"], |c| c["linux"]["resources"] = json!({ "pids": { "limit": 5 } }));
    let bundle = b.path("bundle");
    let (code, text) = b.say(&[&none[..], &["run", "-b", &bundle, &b.id]].concat());
    assert!(code == 1 && text.contains("needs control groups"), "{text}");
}

#[test]
fn a_link_named_runc_is_the_runtime() {
    if !privileged() {
        return;
    }
    let b = Bundle::new(&["echo", "linked"]);
    let link = b.base.join("runc");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_corten-runtime"), &link).unwrap();

    let output = Command::new(&link)
        .args(["--root", &b.path("root"), "run", "--bundle", "bundle", "--pid-file", "pid", &b.id])
        .current_dir(&b.base)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "linked\n", "{output:?}");
    assert!(b.base.join("pid").exists(), "relative to where it was started, not to the bundle");
    let features = Command::new(&link).arg("features").output().unwrap();
    let features: Value = serde_json::from_slice(&features.stdout).unwrap();
    assert_eq!(features["hooks"][5], "poststop");
}

#[test]
fn a_tmpfs_can_begin_with_what_the_image_has() {
    if !privileged() {
        return;
    }
    let b = Bundle::with(&["sh", "-c", "cd /d; cat f e/g l; ls -l f; echo x > new; echo x > r/new"], |c| {
        let mount = |place: &str, options: Value| json!({ "destination": place, "type": "tmpfs", "source": "tmpfs", "options": options });
        let all = c["mounts"].as_array_mut().unwrap();
        all.push(mount("/d", json!(["nosuid", "tmpcopyup"])));
        all.push(mount("/d/r", json!(["ro", "tmpcopyup"])));
    });
    let place = b.base.join("bundle/rootfs/d");
    std::fs::create_dir_all(place.join("e")).unwrap();
    std::fs::write(place.join("f"), "one\n").unwrap();
    std::fs::write(place.join("e/g"), "two\n").unwrap();
    std::os::unix::fs::symlink("f", place.join("l")).unwrap();
    std::os::unix::fs::chown(place.join("f"), Some(5), Some(6)).unwrap();
    std::fs::set_permissions(place.join("f"), std::os::unix::fs::PermissionsExt::from_mode(0o4755)).unwrap();
    let (code, text) = b.run(&[]);
    assert!(text.starts_with("one\ntwo\none\n-rwsr-xr-x    1 5        6"), "{text}");
    assert!(code == 1 && text.contains("r/new: Read-only file system"), "{text}");
    assert!(!place.join("new").exists());
}

/// Devices move with their addresses; where the name is taken the container does not start.
#[test]
fn network_devices_move_into_the_container() {
    if !privileged() {
        return;
    }
    let script = "grep -c . /proc/net/fib_trie >/dev/null; busybox ip -o addr show dev inside | tr -s ' '; \
                  busybox ip link show inside | grep -o UP | busybox head -1; ls /sys/class/net";
    for (name, code) in [("inside", 0), ("lo", 1)] {
        let b = Bundle::with(&["sh", "-c", script], |c| {
            c["linux"]["netDevices"] = json!({ "v0": { "name": name } })
        });
        // The devices are those of a namespace of the test's own, and go with it.
        let setup = "ip link add v0 type veth peer name v1 && ip addr add 10.1.2.3/24 dev v0 && \
                     ip -6 addr add fd00::7/64 dev v0 nodad && ip link set v1 up && \"$@\"; code=$?; \
                     ip link show v0 2>&1 | grep -c v0:; exit $code";
        let run = b.oci(&["run", "-b", &b.path("bundle"), &b.id]);
        let mut command = Command::new("unshare");
        command.args(["-n", "sh", "-c", setup, "sh"]).arg(run.get_program()).args(run.get_args());
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        if code == 0 {
            for part in ["inet 10.1.2.3/24 ", "inet6 fd00::7/64 ", "\nUP\n", "\ninside\nlo\n0\n"] {
                assert!(text.contains(part), "{part:?}: {text}");
            }
        } else {
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(errors.contains("move network device v0: file exists"), "{errors}");
        }
    }
}
