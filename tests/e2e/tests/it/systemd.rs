//! `--exec-opt native.cgroupdriver=systemd`. Where systemd is not the first process, that is refused; `cargo xtask vm`
//! runs the rest in a virtual machine.

use std::path::Path;
use std::process::Command;

use corten_testkit::Daemon;
use corten_testkit::daemon::{Client, DaemonOptions, Ran, bin_dir};

fn running() -> bool {
    let running = Path::new("/run/systemd/system").is_dir();
    if !running {
        corten_testkit::say("skipped: needs systemd (cargo xtask vm)");
    }
    running
}

fn start(more: &[&str]) -> Daemon {
    let args = ["--exec-opt", "native.cgroupdriver=systemd"].iter().chain(more).map(ToString::to_string);
    let daemon = Daemon::start_with(DaemonOptions { args: args.collect(), ..DaemonOptions::default() });
    daemon.import_busybox();
    daemon
}

fn corten(daemon: &Daemon, args: &[&str]) -> Ran {
    daemon.run_with(Client::Corten, args, b"")
}

fn show(unit: &str, property: &str) -> String {
    let output = Command::new("systemctl")
        .args(["show", "--value", "-p", property, unit])
        .output()
        .expect("run systemctl");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn without_systemd_it_is_refused() {
    if Path::new("/run/systemd/system").is_dir() {
        return;
    }
    let output = Command::new(bin_dir().join("corten"))
        .args(["daemon", "--validate", "--exec-opt", "native.cgroupdriver=systemd"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("systemd not running on this host, cannot use systemd cgroups manager"), "{said}");
}

#[test]
fn a_container_is_a_scope() {
    if !running() {
        return;
    }
    let daemon = start(&[]);
    let format = "{{.CgroupDriver}}";
    assert_eq!(corten(&daemon, &["info", "-f", format]).ok(), "systemd");
    let run = ["run", "-d", "--name", "box", "-m", "64m", "--cpus", "0.5", "--pids-limit", "40", "busybox"];
    let id = corten(&daemon, &[&run[..], &["sleep", "600"]].concat()).ok();
    let unit = format!("docker-{id}.scope");
    let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    for (property, want) in [
        ("ActiveState", "active"),
        ("ControlGroup", &format!("/system.slice/{unit}")),
        (if v2 { "MemoryMax" } else { "MemoryLimit" }, "67108864"),
        ("CPUQuotaPerSecUSec", "500ms"),
        ("TasksMax", "40"),
    ] {
        assert_eq!(show(&unit, property), want, "{property}");
    }
    assert_eq!(corten(&daemon, &["exec", "box", "echo", "hello"]).ok(), "hello");
    let stats = corten(&daemon, &["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "box"]).ok();
    assert!(stats.contains("/ 64MiB 1"), "{stats}");
    let top = corten(&daemon, &["top", "box"]).ok();
    assert!(top.contains("sleep 600"), "{top}");
    corten(&daemon, &["update", "--memory", "80m", "--memory-swap", "-1", "box"]).ok();
    assert_eq!(show(&unit, if v2 { "MemoryMax" } else { "MemoryLimit" }), "83886080");
    corten(&daemon, &["pause", "box"]).ok();
    assert_eq!(corten(&daemon, &["inspect", "-f", "{{.State.Status}}", "box"]).ok(), "paused");
    corten(&daemon, &["unpause", "box"]).ok();
    corten(&daemon, &["restart", "-t", "0", "box"]).ok();
    assert_eq!(show(&unit, "ActiveState"), "active");
    corten(&daemon, &["rm", "-f", "box"]).ok();
    daemon.eventually("the scope goes", || (show(&unit, "LoadState") == "not-found").then_some(()));
    let script = "x=$(busybox yes | head -c 200000000)";
    corten(
        &daemon,
        &["run", "--name", "big", "-m", "16m", "--memory-swap", "16m", "busybox", "sh", "-c", script],
    );
    assert_eq!(corten(&daemon, &["inspect", "-f", "{{.State.OOMKilled}}", "big"]).ok(), "true");
}

#[test]
fn parents_are_slices() {
    if !running() {
        return;
    }
    let daemon = start(&["--cgroup-parent", "cortentest-b.slice"]);
    let id = corten(&daemon, &["run", "-d", "--name", "box", "busybox", "sleep", "600"]).ok();
    let group = format!("/cortentest.slice/cortentest-b.slice/docker-{id}.scope");
    assert_eq!(show(&format!("docker-{id}.scope"), "ControlGroup"), group);
    let own = ["run", "-d", "--cgroup-parent", "cortentest-c.slice", "busybox", "sleep", "600"];
    let other = corten(&daemon, &own).ok();
    assert_eq!(show(&format!("docker-{other}.scope"), "Slice"), "cortentest-c.slice");
    let want = "cgroup-parent for systemd cgroup should be a valid slice named as \"xxx.slice\"";
    for parent in ["/docker", "x", ".slice", "a/b.slice"] {
        let said = corten(&daemon, &["run", "--cgroup-parent", parent, "busybox", "true"]).fails(125);
        assert!(said.contains(want), "{parent}: {said}");
        let mut command = daemon.in_netns(bin_dir().join("corten"));
        command.args(["daemon", "--validate", "--exec-opt", "native.cgroupdriver=systemd"]);
        let output = command.args(["--cgroup-parent", parent]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(want), "{parent}: {said}");
    }
    corten(&daemon, &["rm", "-f", "-t", "0", &id, &other]);
    drop(daemon);
    Command::new("systemctl").args(["stop", "cortentest.slice"]).status().unwrap();
}

/// A daemon that dies leaves its containers; the next one finds them, and the end of what ended meanwhile.
#[test]
fn another_daemon_takes_over() {
    if !running() {
        return;
    }
    let mut daemon = start(&[]);
    let id = corten(&daemon, &["run", "-d", "--name", "box", "busybox", "sleep", "600"]).ok();
    let orphan = corten(&daemon, &["run", "-d", "--name", "orphan", "busybox", "sleep", "600"]).ok();
    let pid = corten(&daemon, &["inspect", "-f", "{{.State.Pid}}", "orphan"]).ok();
    daemon.kill();
    // Its shim as well: nobody but the daemon is left to clean up.
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status.unwrap_or_else(|e| panic!("{pid}: {e}: {}", daemon.log()));
    let shim = status.lines().find_map(|l| l.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
    let shim = rustix::process::Pid::from_raw(shim).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    daemon.restart();
    assert_eq!(corten(&daemon, &["exec", "box", "echo", "still"]).ok(), "still");
    assert_eq!(show(&format!("docker-{id}.scope"), "ActiveState"), "active");
    let unit = format!("docker-{orphan}.scope");
    daemon.eventually("the orphan's scope goes", || (show(&unit, "LoadState") == "not-found").then_some(()));
    let stats = corten(&daemon, &["stats", "--no-stream", "--format", "{{.PIDs}}", "box"]).ok();
    assert_eq!(stats, "1");
    corten(&daemon, &["rm", "-f", "box"]).ok();
}

#[test]
fn steps_of_a_build_are_scopes_too() {
    if !running() {
        return;
    }
    let daemon = start(&[]);
    let dir = daemon.dir().join("context");
    let file = "FROM busybox\nRUN cat /proc/self/cgroup; grep -q . /proc/1/cgroup\n";
    corten_testkit::image::write_tree(&dir, &[("Dockerfile", file)]).unwrap();
    corten(&daemon, &["build", "-t", "made", dir.to_str().unwrap()]).ok();
    let units =
        Command::new("systemctl").args(["list-units", "--all", "--plain", "--no-legend"]).output().unwrap();
    let units = String::from_utf8_lossy(&units.stdout).into_owned();
    assert!(!units.contains("docker-"), "{units}");
}
