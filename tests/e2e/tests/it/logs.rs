//! What containers wrote, read back.

use corten_testkit::{Client, Daemon};

#[test]
fn selections() {
    let daemon = Daemon::start();
    daemon
        .docker([
            "run",
            "--name",
            "ll",
            "busybox",
            "sh",
            "-c",
            "for i in 1 2 3 4 5; do echo line $i; done; echo bad >&2",
        ])
        .ok();
    for client in [Client::Docker, Client::Corten] {
        let logs = |args: &[&str]| daemon.run_with(client, [&["logs"], args, &["ll"]].concat(), b"");
        let all = logs(&[]);
        assert_eq!((all.stdout.lines().count(), all.stderr.trim()), (5, "bad"), "{client:?}");
        assert_eq!(
            logs(&["--tail", "2"]).stdout.trim(),
            "line 5",
            "{client:?}: the last two are line 5 and the error"
        );
        let stamped = logs(&["-t", "--tail", "3"]).stdout;
        assert!(
            stamped.lines().all(|l| l.as_bytes()[4] == b'-' && l.contains("Z line ")),
            "{client:?}: {stamped}"
        );
        assert_eq!(logs(&["--since", "1h"]).stdout.lines().count(), 5, "{client:?}");
        assert_eq!(logs(&["--until", "1h"]).stdout, "", "{client:?}");
        assert_eq!(logs(&["--since", "2030-01-01T00:00:00Z"]).stdout, "", "{client:?}");
    }
}

#[test]
fn following_ends_with_the_container() {
    let daemon = Daemon::start();
    for client in [Client::Docker, Client::Corten] {
        daemon
            .docker([
                "run",
                "-d",
                "--name",
                "ff",
                "busybox",
                "sh",
                "-c",
                "for i in 1 2 3; do echo $i; sleep 0.3; done",
            ])
            .ok();
        assert_eq!(daemon.run_with(client, ["logs", "-f", "ff"], b"").ok(), "1\n2\n3", "{client:?}");
        daemon.docker(["rm", "-f", "ff"]).ok();
    }
}

#[test]
fn rotation_keeps_the_newest() {
    let daemon = Daemon::start();
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done";
    daemon
        .docker([
            "run",
            "--name",
            "rr",
            "--log-opt",
            "max-size=100k",
            "--log-opt",
            "max-file=3",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .ok();
    let logs = daemon.docker(["logs", "rr"]).ok();
    assert!(logs.ends_with("line 19999"), "the newest line is there");
    assert!(!logs.contains("line 0\n"), "the oldest is gone");
    assert_eq!(daemon.docker(["logs", "--tail", "1000", "rr"]).ok().lines().count(), 1000);
}

#[test]
fn drivers_none_and_local() {
    let daemon = Daemon::start();
    daemon.docker(["run", "--name", "nn", "--log-driver", "none", "busybox", "echo", "x"]).ok();
    assert!(
        daemon.docker(["logs", "nn"]).fails(1).contains("configured logging driver does not support reading")
    );
    daemon
        .docker(["run", "--name", "oo", "--log-driver", "local", "busybox", "sh", "-c", "echo x; echo y >&2"])
        .ok();
    let ran = daemon.docker(["logs", "oo"]);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("x\n", "y\n"));
}

#[test]
fn many_lines_lose_nothing() {
    let daemon = Daemon::start();
    daemon.docker(["run", "-d", "--name", "mm", "busybox", "seq", "1", "200000"]).ok();
    daemon.docker(["wait", "mm"]).ok();
    let logs = daemon.corten(["logs", "mm"]).ok();
    assert_eq!(logs.lines().count(), 200_000);
    assert_eq!(logs.lines().last(), Some("200000"));
}
