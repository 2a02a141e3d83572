//! Containers that another OCI runtime runs, by runc's command line.

use corten_testkit::Daemon;
use corten_testkit::daemon::{Client, DaemonOptions, bin_dir};

/// A daemon with Debian's runc and with our own command line as further runtimes.
fn daemon() -> Daemon {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("daemon.json");
    let own = bin_dir().join("corten-runtime");
    let text = serde_json::json!({"runtimes": {
        "debian": {"path": "/usr/sbin/runc"},
        "own": {"path": own, "runtimeArgs": ["oci"]},
        "missing": {"path": "/nowhere/runtime"},
    }});
    std::fs::write(&file, text.to_string()).expect("daemon.json");
    let args = vec!["--config-file".to_owned(), file.display().to_string()];
    let daemon = Daemon::start_with(DaemonOptions { args, ..DaemonOptions::default() });
    // Kept for restarts; removed with the daemon's directory.
    let kept = daemon.dir().join("daemon.json");
    std::fs::copy(&file, &kept).expect("copy daemon.json");
    let mut daemon = daemon;
    daemon.options_mut().args[1] = kept.display().to_string();
    daemon.import_busybox();
    daemon
}

const RUNTIMES: [&str; 2] = ["debian", "own"];

#[test]
fn output_input_and_exit_codes() {
    let daemon = daemon();
    for runtime in RUNTIMES {
        let run = |args: &[&str]| {
            let lead = ["run", "--rm", "--runtime", runtime];
            daemon.docker([&lead[..], args].concat())
        };
        assert_eq!(run(&["busybox", "echo", "hello"]).ok(), "hello", "{runtime}");
        assert_eq!(run(&["busybox", "sh", "-c", "exit 7"]).code, 7, "{runtime}");
        let missing = run(&["busybox", "no-such-program"]);
        assert!(
            missing.code == 127 && missing.stderr.contains("executable file not found in $PATH"),
            "{missing:?}"
        );
        assert_eq!(
            run(&["-u", "alice", "--group-add", "77", "busybox", "sh", "-c", "id -u; id -G; echo $HOME"])
                .ok(),
            "1000\n1000 10 77\n/home",
            "{runtime}"
        );
        // The primary group is among the others (CVE-2022-36109).
        let groups = ["grep", "^Groups", "/proc/self/status"];
        let groups = [&["-u", "alice", "--group-add", "77", "busybox"], &groups[..]].concat();
        assert_eq!(run(&groups).ok(), "Groups:\t10 77 1000", "{runtime}");
        assert_eq!(
            run(&["--init", "busybox", "sh", "-c", "cat /proc/1/comm; exit 3"]).fails(3),
            "",
            "{runtime}"
        );
        assert_eq!(run(&["-t", "busybox", "sh", "-c", "tty"]).ok(), "/dev/pts/0", "{runtime}");
        assert_eq!(
            run(&[
                "--read-only",
                "--tmpfs",
                "/t",
                "-v",
                "/data",
                "busybox",
                "sh",
                "-c",
                "touch /t/a /data/b && ! touch /c 2>/dev/null && echo fine"
            ])
            .ok(),
            "fine",
            "{runtime}"
        );
        let caps = "grep -E 'CapEff|Seccomp:' /proc/self/status | awk '{print $2}' | xargs";
        assert_eq!(run(&["busybox", "sh", "-c", caps]).ok(), "00000000a80425fb 2", "{runtime}");
        assert_eq!(
            run(&["-m", "64m", "busybox", "cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]).ok(),
            "67108864",
            "{runtime}"
        );
        let cat = daemon.run_with(
            Client::Docker,
            ["run", "--rm", "-i", "--runtime", runtime, "busybox", "cat"],
            b"from outside\n",
        );
        assert_eq!(cat.ok(), "from outside", "{runtime}");
    }
}

#[test]
fn everything_that_is_done_to_a_running_container() {
    let mut daemon = daemon();
    for runtime in RUNTIMES {
        daemon
            .docker([
                "run",
                "-d",
                "--name",
                runtime,
                "--runtime",
                runtime,
                "-p",
                "127.0.0.1::80",
                "busybox",
                "sh",
                "-c",
                "trap 'echo got it; exit 5' TERM; echo started; while :; do sleep 0.1; done",
            ])
            .ok();
        let docker = |args: &[&str]| daemon.docker(args.iter().copied());
        assert_eq!(docker(&["inspect", "-f", "{{.HostConfig.Runtime}}", runtime]).ok(), runtime);
        assert_eq!(docker(&["exec", runtime, "sh", "-c", "echo out; exit 4"]).fails(4), "");
        assert_eq!(
            docker(&[
                "exec",
                "-u",
                "alice",
                "-w",
                "/tmp",
                "-e",
                "X=y",
                runtime,
                "sh",
                "-c",
                "id -u; pwd; echo $X"
            ])
            .ok(),
            "1000\n/tmp\ny",
            "{runtime}"
        );
        assert_eq!(docker(&["exec", "-t", runtime, "tty"]).ok(), "/dev/pts/0", "{runtime}");
        let cat = daemon.run_with(Client::Docker, ["exec", "-i", runtime, "cat"], b"abc");
        assert_eq!(cat.ok(), "abc", "{runtime}");
        let missing = docker(&["exec", runtime, "nope"]);
        assert!(
            missing.code == 127 && missing.stdout.contains("OCI runtime exec failed: exec failed"),
            "{missing:?}"
        );
        docker(&["pause", runtime]).ok();
        assert_eq!(docker(&["inspect", "-f", "{{.State.Status}}", runtime]).ok(), "paused");
        docker(&["unpause", runtime]).ok();
        docker(&["update", "--pids-limit", "99", runtime]).ok();
        assert_eq!(docker(&["exec", runtime, "cat", "/sys/fs/cgroup/pids/pids.max"]).ok(), "99", "{runtime}");
        assert!(docker(&["top", runtime]).ok().contains("sleep 0.1"));
        assert!(docker(&["stats", "--no-stream", "--format", "{{.PIDs}}", runtime]).ok() != "0");
    }
    daemon.kill();
    daemon.restart();
    for runtime in RUNTIMES {
        assert_eq!(daemon.docker(["exec", runtime, "echo", "again"]).ok(), "again");
        daemon.docker(["kill", "-s", "TERM", runtime]).ok();
        assert_eq!(daemon.docker(["wait", runtime]).ok(), "5");
        let logs = daemon.docker(["logs", runtime]).ok();
        assert_eq!(logs, "started\ngot it");
        daemon.docker(["start", runtime]).ok();
        daemon.docker(["kill", runtime]).ok();
        assert_eq!(daemon.docker(["wait", runtime]).ok(), "137");
    }
}

#[test]
fn a_shim_that_was_killed_leaves_nothing_in_the_way() {
    let daemon = daemon();
    for runtime in RUNTIMES {
        daemon
            .docker(["run", "-d", "--name", runtime, "--runtime", runtime, "busybox", "sleep", "1000"])
            .ok();
        let id = daemon.docker(["inspect", "-f", "{{.Id}}", runtime]).ok();
        let record = daemon.dir().join("exec/containers").join(&id).join("shim.json");
        let record: serde_json::Value =
            daemon.eventually("shim.json", || serde_json::from_slice(&std::fs::read(&record).ok()?).ok());
        let shim = i32::try_from(record["shim_pid"].as_i64().unwrap()).unwrap();
        let shim = rustix::process::Pid::from_raw(shim).unwrap();
        rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
        daemon.eventually("the exit is seen", || {
            (daemon.docker(["inspect", "-f", "{{.State.Running}}", runtime]).ok() == "false").then_some(())
        });
        daemon.docker(["start", runtime]).ok();
        assert_eq!(daemon.docker(["exec", runtime, "echo", "up"]).ok(), "up");
    }
}

#[test]
fn names_and_refusals() {
    let daemon = daemon();
    let info = daemon.get("/info");
    assert_eq!(info["Runtimes"]["debian"]["path"], "/usr/sbin/runc");
    assert_eq!(info["Runtimes"]["own"]["runtimeArgs"][0], "oci");
    assert_eq!(info["DefaultRuntime"], "runc");
    let unknown = daemon.docker(["run", "--rm", "--runtime", "kata", "busybox", "true"]);
    assert!(unknown.fails(125).contains("unknown or invalid runtime name: kata"));
    let missing = daemon.docker(["run", "--rm", "--runtime", "missing", "busybox", "true"]).fails(127);
    assert!(missing.contains("fork/exec /nowhere/runtime: no such file or directory"), "{missing}");
}
