//! The OCI command line beside Debian's runc, where that is installed: the same options, and the same words and exit
//! codes for the same commands.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::privileged;
use crate::oci::Bundle;

const RUNC: &str = "/usr/sbin/runc";

fn runc_is_there() -> bool {
    let there = Path::new(RUNC).exists();
    if !there {
        corten_testkit::say(format_args!("skipped: needs {RUNC}"));
    }
    there
}

/// Options of a command of runc's, as its help has them: all names, and whether a value follows.
fn options(command: &[&str]) -> Vec<(Vec<String>, bool)> {
    let output = Command::new(RUNC).args(command).arg("--help").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(str::trim_start).filter(|l| l.starts_with("--"));
    let option = |line: &str| {
        let names = line.split("  ").next().unwrap();
        let value = names.contains(" value");
        (names.split(", ").map(|n| n.replace(" value", "")).collect(), value)
    };
    lines.map(option).collect()
}

#[test]
fn every_option_of_runc_is_known() {
    if !privileged() || !runc_is_there() {
        return;
    }
    let ours = |args: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_corten-runtime")).arg("oci").args(args).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let commands = [
        "checkpoint",
        "create",
        "delete",
        "events",
        "exec",
        "features",
        "kill",
        "list",
        "pause",
        "ps",
        "restore",
        "resume",
        "run",
        "spec",
        "start",
        "state",
        "update",
    ];
    let mut seen = 0;
    for (names, value) in options(&[]) {
        for name in
            names.iter().filter(|n| !["--help", "-h", "--version", "-v", "--root"].contains(&n.as_str()))
        {
            let text = match name.as_str() {
                "--log-format" => "json",
                "--rootless" => "auto",
                "--log" => "/dev/stderr",
                _ => "x",
            };
            let flags = if value { &[name.as_str(), text][..] } else { &[name.as_str()] };
            let (code, text) = ours(&[flags, &["state", "--help"]].concat());
            assert!(code == 0 || text.contains("not supported"), "{name}: {text}");
            seen += 1;
        }
    }
    for command in commands {
        for (names, value) in options(&[command]) {
            for name in &names {
                let flags = if value { &[name.as_str(), "1"][..] } else { &[name.as_str()] };
                assert_eq!(
                    ours(&[&[command], flags, &["--help"]].concat()),
                    (0, String::new()),
                    "{command} {name}"
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 100, "runc's help is not what it was: {seen} options");
}

/// Two containers of the same bundle, one of runc's and one of ours.
struct Pair {
    bundle: Bundle,
    theirs: String,
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.theirs(&["delete", "-f", "CID"]);
    }
}

impl Pair {
    fn theirs(&self, args: &[&str]) -> (i32, String) {
        let args: Vec<_> = args.iter().map(|a| a.replace("CID", &self.theirs)).collect();
        let out = self.bundle.base.join("theirs");
        let file = std::fs::File::create(&out).unwrap();
        let status = Command::new(RUNC)
            .args(["--root", &self.bundle.path("runc")])
            .args(args)
            .current_dir(self.bundle.base.join("bundle"))
            .stdin(std::process::Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .status()
            .unwrap();
        (status.code().unwrap(), std::fs::read_to_string(out).unwrap().replace(&self.theirs, "CID"))
    }

    fn ours(&self, args: &[&str]) -> (i32, String) {
        let args: Vec<_> = args.iter().map(|a| a.replace("CID", &self.bundle.id)).collect();
        let out = self.bundle.base.join("ours");
        let file = std::fs::File::create(&out).unwrap();
        let status = self
            .bundle
            .oci(&args.iter().map(String::as_str).collect::<Vec<_>>())
            .current_dir(self.bundle.base.join("bundle"))
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .status()
            .unwrap();
        (status.code().unwrap(), std::fs::read_to_string(out).unwrap().replace(&self.bundle.id, "CID"))
    }

    /// What was said, but for times, numbers of processes and runc's warnings.
    fn said(text: &str) -> String {
        let text = text.replace(env!("CARGO_BIN_EXE_corten-runtime"), "PROGRAM").replace(RUNC, "PROGRAM");
        let lines = text.lines().filter(|l| !l.contains("level=warning")).map(|l| {
            let line = l.split_once("level=").map_or(l, |(_, rest)| rest);
            if line.starts_with('[') && line.ends_with(']') { "[PIDS]" } else { line }
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[track_caller]
    fn same(&self, args: &[&str]) {
        let ((code, text), (our_code, our_text)) = (self.theirs(args), self.ours(args));
        // The help that runc shows with a wrong command line is its own.
        let text = match text.find("time=") {
            Some(at) if text.starts_with("Incorrect Usage.") => text[at..].to_owned(),
            _ => text,
        };
        assert_eq!((our_code, Self::said(&our_text)), (code, Self::said(&text)), "{args:?}");
    }
}

#[test]
fn the_words_and_codes_are_those_of_runc() {
    if !privileged() || !runc_is_there() {
        return;
    }
    let bundle = Bundle::new(&["sleep", "1000"]);
    let pair = Pair { theirs: format!("{}-runc", bundle.id), bundle };
    std::fs::create_dir(pair.bundle.base.join("empty")).unwrap();
    let empty = pair.bundle.path("empty");
    let table = |rows: &[&[&str]]| rows.iter().for_each(|args| pair.same(args));
    // Before there is a container.
    table(&[
        &["create"],
        &["create", "CID", "extra"],
        &["start"],
        &["start", "CID"],
        &["state"],
        &["state", "CID"],
        &["kill"],
        &["kill", "CID"],
        &["kill", "CID", "TERM", "extra"],
        &["delete", "CID"],
        &["delete", "--force", "CID"],
        &["pause", "CID"],
        &["resume", "CID"],
        &["exec"],
        &["exec", "CID", "true"],
        &["ps"],
        &["ps", "CID"],
        &["update", "CID"],
        &["events", "--stats", "CID"],
        &["checkpoint", "CID"],
        &["list", "-q"],
        &["list", "-f", "json"],
        &["list", "-f", "xml"],
        &["--log-format", "xml", "list"],
        &["run", "--bundle", "/nowhere", "CID"],
        &["create", "--bundle", &empty, "CID"],
        &["create", "a/b"],
        &["run", "--console-socket", "/x", "CID"],
        &["create", "--console-socket", "/x", "CID"],
        &["spec"],
        &["features", "x"],
        &["create", "CID"],
    ]);
    // Created.
    table(&[
        &["create", "CID"],
        &["exec", "CID", "echo", "early"],
        &["exec", "CID", "nope"],
        &["exec", "CID"],
        &["exec", "--cwd", "relative", "CID", "true"],
        &["exec", "-e", "A=b", "-e", "C=d", "CID", "sh", "-c", "echo $A $C; exit 7"],
        &["exec", "--cap", "CAP_NET_ADMIN", "CID", "grep", "CapBnd", "/proc/self/status"],
        &["exec", "--no-new-privs", "CID", "grep", "NoNewPrivs", "/proc/self/status"],
        &[
            "exec",
            "-u",
            "5:6",
            "-g",
            "7",
            "-g",
            "8",
            "CID",
            "grep",
            "-E",
            "^(Uid|Gid|Groups)",
            "/proc/self/status",
        ],
        &["exec", "CID", "grep", "^Groups", "/proc/self/status"],
        &["exec", "--cgroup", "cpu:x:y", "CID", "true"],
        &["exec", "--cgroup", "x", "--cgroup", "y", "CID", "true"],
        &["exec", "--process", "/nowhere", "CID"],
        &["pause", "CID"],
        &["pause", "CID"],
        &["exec", "CID", "true"],
        &["resume", "CID"],
        &["resume", "CID"],
        &["kill", "CID", "0"],
        &["kill", "CID", "99"],
        &["start", "CID"],
    ]);
    // Running.
    table(&[
        &["start", "CID"],
        &["delete", "CID"],
        &["update", "CID"],
        &["update", "--pids-limit", "20", "CID"],
        &["update", "--cpu-share", "512", "--cpu-period", "50000", "--cpu-quota", "25000", "CID"],
        &["update", "-r", "/nowhere", "CID"],
        &["ps", "-f", "json", "CID"],
        &["ps", "-f", "xml", "CID"],
        &["ps", "CID", "-o", "cmd"],
        &["events", "--interval", "0s", "--stats", "CID"],
        &["kill", "--all", "CID", "WINCH"],
        &["kill", "CID", "SIGKILL"],
    ]);
    pair.bundle.wait_for("stopped");
    while !pair.theirs(&["state", "CID"]).1.contains("stopped") {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    table(&[
        &["kill", "CID", "KILL"],
        &["kill", "--all", "CID", "KILL"],
        &["exec", "CID", "true"],
        &["pause", "CID"],
        &["resume", "CID"],
        &["start", "CID"],
        &["update", "--memory", "100m", "CID"],
        &["events", "--stats", "CID"],
        &["delete", "CID"],
        &["delete", "CID"],
        &["delete", "-f", "CID"],
    ]);
}

/// What runc 1.1 does not have, or not here.
#[test]
fn options_of_a_further_process_and_of_its_groups() {
    if !privileged() || !Path::new("/sys/fs/cgroup/pids").exists() {
        return;
    }
    let b = Bundle::new(&["sleep", "1000"]);
    assert_eq!(b.run(&["-d"]), (0, String::new()));
    // A group below the container's, of one controller or of all.
    let show =
        ["sed", "-nE", "s/^[0-9]+:(pids|freezer):.*\\/([^/]*\\/?[^/]*)$/\\1 \\2/p", "/proc/self/cgroup"];
    let in_group = |flags: &[&str]| b.say(&[&["exec"], flags, &[&b.id], &show[..]].concat());
    std::fs::create_dir(b.group().join("sub")).unwrap();
    let (code, text) = in_group(&["--cgroup", "pids:/sub"]);
    assert!(code == 0 && text.contains("pids ") && text.matches("sub").count() == 1, "{text}");
    let (code, text) = in_group(&["--cgroup", "pids:/missing"]);
    assert!(code == 255 && text.contains("missing/cgroup.procs: no such file or directory"), "{text}");
    let (code, text) = in_group(&["--cgroup", "../.."]);
    assert!(code == 255 && text.contains("is not a sub cgroup path"), "{text}");
    let (code, text) = in_group(&["--cgroup", "nope:/sub"]);
    assert!(code == 255 && text.contains("unknown controller nope in SubCgroupPaths"), "{text}");
    std::fs::remove_dir(b.group().join("sub")).unwrap();
    // A descriptor of the process for who asks.
    let socket = b.path("pidfd");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert_eq!(b.say(&["exec", "-d", "--pidfd-socket", &socket, &b.id, "sleep", "1000"]), (0, String::new()));
    let (peer, _) = listener.accept().unwrap();
    let (mut block, mut fds) = ([0; 64], Vec::new());
    let n = corten_sys::seqpacket::recv(std::os::fd::AsFd::as_fd(&peer), &mut block, &mut fds, true).unwrap();
    assert_eq!((&block[..n], fds.len()), (&b"setns"[..], 1));
    rustix::process::pidfd_send_signal(&fds[0], rustix::process::Signal::KILL).unwrap();
    // Resources from a file, and what there is no hardware for.
    let file = b.path("resources");
    std::fs::write(
        &file,
        json!({ "pids": { "limit": 77 }, "cpu": { "quota": 20_000, "period": 100_000, "burst": 5000 } })
            .to_string(),
    )
    .unwrap();
    assert_eq!(b.say(&["update", "-r", &file, &b.id]), (0, String::new()));
    assert_eq!(std::fs::read_to_string(b.group().join("pids.max")).unwrap().trim(), "77");
    let burst = Path::new("/sys/fs/cgroup/cpu").join(&b.id).join("cpu.cfs_burst_us");
    assert_eq!(std::fs::read_to_string(&burst).unwrap().trim(), "5000");
    assert_eq!(b.say(&["update", "--cpu-burst", "4000", &b.id]), (0, String::new()));
    assert_eq!(std::fs::read_to_string(&burst).unwrap().trim(), "4000");
    let (code, text) = b.say(&["update", "--l3-cache-schema", "x", &b.id]);
    assert!(code == 1 && text.contains("--l3-cache-schema (Intel RDT) is not supported"), "{text}");
    // A process as a file says it.
    let process = json!({ "args": ["sh", "-c", "id -u; pwd; echo $A"], "cwd": "/bin", "env": ["PATH=/bin", "A=b"],
        "user": { "uid": 9, "gid": 8 } });
    let file = b.path("process.json");
    std::fs::write(&file, process.to_string()).unwrap();
    assert_eq!(b.say(&["exec", "--process", &file, &b.id]), (0, "9\n/bin\nb\n".into()));
}

/// `spec --rootless` makes what an ordinary user can run, without any control group.
#[test]
fn an_ordinary_user_runs_a_container() {
    if !privileged() {
        return;
    }
    let b = Bundle::new(&["sh", "-c", "id -u; cat /proc/self/uid_map | tr -s ' '; touch /made; echo done"]);
    let dir = b.path("bundle");
    std::fs::remove_file(b.base.join("bundle/config.json")).unwrap();
    let program = b.path("program");
    std::fs::copy(env!("CARGO_BIN_EXE_corten-runtime"), &program).unwrap();
    let root = b.path("user-root");
    assert!(Command::new("chown").args(["-R", "65534:65534", &b.path("")]).status().unwrap().success());
    let user = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--",
            &program,
            "oci",
            "--root",
            &root,
        ]);
        // Files, as containers that go on keep them open.
        let file = |name: &str| std::fs::File::create(b.base.join(name)).unwrap();
        command.args(args).stdin(std::process::Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
        let code = command.status().unwrap().code().unwrap();
        let text = |name: &str| std::fs::read_to_string(b.base.join(name)).unwrap();
        (code, text("stdout"), text("stderr"))
    };
    let done = (0, String::new(), String::new());
    assert_eq!(user(&["spec", "--rootless", "-b", &dir]), done);
    let file = b.base.join("bundle/config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config["process"]["args"] =
        json!(["sh", "-c", "id -u; tr -s ' ' < /proc/self/uid_map; touch /made; echo done"]);
    config["process"]["terminal"] = json!(false);
    config["root"]["readonly"] = json!(false);
    std::fs::write(&file, config.to_string()).unwrap();
    assert_eq!(user(&["run", "-b", &dir, &b.id]), (0, "0\n 0 65534 1\ndone\n".into(), String::new()));
    config["process"]["args"] = json!(["sleep", "1000"]);
    std::fs::write(&file, config.to_string()).unwrap();
    assert_eq!(user(&["--rootless", "true", "run", "-d", "-b", &dir, &b.id]), done);
    assert_eq!(user(&["exec", &b.id, "id", "-u"]), (0, "0\n".into(), String::new()));
    assert_eq!(user(&["kill", &b.id, "KILL"]), done);
    assert_eq!(user(&["delete", "-f", &b.id]), done);
}
