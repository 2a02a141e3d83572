//! Containers from create to remove, by the real client and by ours.

use corten_testkit::{Client, Daemon};

const BOTH: [Client; 2] = [Client::Docker, Client::Corten];

fn run(daemon: &Daemon, client: Client, args: &[&str]) -> corten_testkit::Ran {
    daemon.run_with(client, args, b"")
}

#[test]
fn run_prints_and_returns_the_exit_code() {
    let daemon = Daemon::start();
    for client in BOTH {
        let ran =
            run(&daemon, client, &["run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 42"]);
        assert_eq!(
            (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
            (42, "out\n", "err\n"),
            "{client:?}"
        );
        assert_eq!(run(&daemon, client, &["ps", "-aq"]).ok(), "", "{client:?}: --rm removes");
    }
}

#[test]
fn exit_codes_of_what_cannot_start() {
    let daemon = Daemon::start();
    for client in BOTH {
        let missing = run(&daemon, client, &["run", "--rm", "busybox", "no-such-program"]).fails(127);
        assert!(missing.contains("executable file not found in $PATH"), "{client:?}: {missing}");
        let directory = run(&daemon, client, &["run", "--rm", "busybox", "/etc"]).fails(126);
        assert!(directory.contains("permission denied"), "{client:?}: {directory}");
        let flag = run(&daemon, client, &["run", "--no-such-flag", "busybox"]).fails(125);
        assert!(flag.contains("unknown flag: --no-such-flag"), "{client:?}: {flag}");
        assert_eq!(run(&daemon, client, &["ps", "-aq"]).ok(), "", "{client:?}: nothing half-made");
    }
}

#[test]
fn a_life() {
    let daemon = Daemon::start();
    let id = daemon.docker(["run", "-d", "--name", "web", "--label", "k=v", "busybox", "sleep", "1000"]).ok();
    assert_eq!(daemon.docker(["ps", "-q", "--no-trunc"]).ok(), id);
    assert_eq!(daemon.corten(["ps", "-q", "--no-trunc", "--filter", "label=k=v"]).ok(), id);
    assert_eq!(daemon.docker(["inspect", "-f", "{{.State.Status}} {{.Name}}", "web"]).ok(), "running /web");
    daemon.docker(["pause", "web"]).ok();
    assert_eq!(daemon.docker(["inspect", "-f", "{{.State.Paused}}", "web"]).ok(), "true");
    daemon.docker(["unpause", "web"]).ok();
    daemon.docker(["rename", "web", "www"]).ok();
    assert!(
        daemon.docker(["rm", "www"]).fails(1).contains("container is running"),
        "rm of a running container"
    );
    daemon.docker(["restart", "-t", "0", "www"]).ok();
    assert_eq!(daemon.docker(["inspect", "-f", "{{.State.Running}}", "www"]).ok(), "true");
    assert!(daemon.docker(["top", "www"]).ok().contains("sleep 1000"));
    daemon.docker(["update", "--memory", "64m", "--memory-swap", "64m", "--pids-limit", "50", "www"]).ok();
    assert_eq!(daemon.docker(["inspect", "-f", "{{.HostConfig.Memory}}", "www"]).ok(), "67108864");
    let stats = daemon.docker(["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "www"]).ok();
    assert!(stats.contains("/ 64MiB 1"), "{stats}");
    daemon.docker(["kill", "www"]).ok();
    assert_eq!(daemon.docker(["wait", "www"]).ok(), "137");
    daemon.docker(["start", "www"]).ok();
    daemon.docker(["stop", "-t", "0", "www"]).ok();
    assert_eq!(daemon.docker(["inspect", "-f", "{{.State.ExitCode}}", "www"]).ok(), "137");
    daemon.docker(["rm", "www"]).ok();
    assert_eq!(daemon.docker(["ps", "-aq"]).ok(), "");
}

#[test]
fn stop_sends_the_stop_signal_first() {
    let daemon = Daemon::start();
    let script = "trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    daemon.docker(["run", "-d", "--name", "polite", "busybox", "sh", "-c", script]).ok();
    daemon.eventually("the trap is set", || {
        daemon.docker(["logs", "polite"]).ok().contains("ready").then_some(())
    });
    daemon.docker(["stop", "polite"]).ok();
    assert_eq!(daemon.docker(["inspect", "-f", "{{.State.ExitCode}}", "polite"]).ok(), "9");
    assert!(daemon.docker(["logs", "polite"]).ok().contains("got it"));
}

#[test]
fn restart_policies() {
    let daemon = Daemon::start();
    daemon
        .docker([
            "run",
            "-d",
            "--name",
            "again",
            "--restart",
            "on-failure:2",
            "busybox",
            "sh",
            "-c",
            "exit 3",
        ])
        .ok();
    daemon.eventually("two retries", || {
        let got = daemon.docker(["inspect", "-f", "{{.RestartCount}} {{.State.Status}}", "again"]).ok();
        (got == "2 exited").then_some(())
    });
    daemon
        .docker(["run", "-d", "--name", "always", "--restart", "always", "busybox", "sh", "-c", "sleep 0.2"])
        .ok();
    daemon.eventually("a restart", || {
        let count = daemon.docker(["inspect", "-f", "{{.RestartCount}}", "always"]).ok();
        count.parse::<u32>().is_ok_and(|n| n > 0).then_some(())
    });
    daemon.docker(["stop", "-t", "1", "always"]).ok();
    assert_eq!(daemon.docker(["inspect", "-f", "{{.State.Status}}", "always"]).ok(), "exited");
}

#[test]
fn health_checks() {
    let daemon = Daemon::start();
    daemon
        .docker([
            "run",
            "-d",
            "--name",
            "hh",
            "--health-cmd",
            "test -e /tmp/ok",
            "--health-interval",
            "200ms",
            "--health-retries",
            "2",
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    let status = || daemon.docker(["inspect", "-f", "{{.State.Health.Status}}", "hh"]).ok();
    daemon.eventually("unhealthy", || (status() == "unhealthy").then_some(()));
    daemon.docker(["exec", "hh", "touch", "/tmp/ok"]).ok();
    daemon.eventually("healthy", || (status() == "healthy").then_some(()));
    assert!(
        daemon
            .docker(["ps", "--filter", "health=healthy", "--format", "{{.Status}}"])
            .ok()
            .contains("(healthy)")
    );
}

#[test]
fn an_init_reaps_and_forwards() {
    let daemon = Daemon::start();
    daemon.docker(["run", "-d", "--init", "--name", "ii", "busybox", "sleep", "1000"]).ok();
    assert!(daemon.docker(["exec", "ii", "cat", "/proc/1/comm"]).ok().contains("init"));
    daemon.docker(["stop", "-t", "5", "ii"]).ok();
    assert_eq!(
        daemon.docker(["inspect", "-f", "{{.State.ExitCode}}", "ii"]).ok(),
        "143",
        "sleep died of SIGTERM"
    );
}

#[test]
fn pruning() {
    let daemon = Daemon::start();
    daemon.docker(["run", "--name", "old", "--label", "a=1", "busybox", "true"]).ok();
    daemon.docker(["run", "-d", "--name", "kept", "busybox", "sleep", "1000"]).ok();
    assert!(daemon.docker(["container", "prune", "-f"]).ok().contains("Deleted Containers"));
    assert_eq!(daemon.docker(["ps", "-a", "--format", "{{.Names}}"]).ok(), "kept");
}

/// What a container that removes itself writes is never synced; the kernel marks its layer, and the next start takes the
/// mark away. What another one wrote is there even though its root is still being unmounted.
#[test]
fn what_was_written_is_there_after_a_restart() {
    let daemon = Daemon::start();
    daemon.import_busybox();
    for flags in [&["run", "-d", "--rm", "--name", "box"][..], &["run", "-d", "--name", "box"]] {
        let script = "echo line >> /written; sync; exec sleep 1000";
        daemon.docker([flags, &["busybox", "sh", "-c", script]].concat()).ok();
        for lines in ["2", "3"] {
            daemon.docker(["exec", "box", "sh", "-c", "until [ -s /written ]; do :; done"]).ok();
            daemon.docker(["restart", "-t", "0", "box"]).ok();
            let count = format!("until [ $(wc -l < /written) = {lines} ]; do :; done; cat /written");
            assert_eq!(
                daemon.docker(["exec", "box", "sh", "-c", &count]).ok().lines().count().to_string(),
                lines
            );
        }
        daemon.docker(["rm", "-f", "box"]).ok();
        daemon.docker(["wait", "box"]).fails(1);
    }
}

/// Clients start a container with `--rm` and only then wait for it: dockerode does.
#[test]
fn who_waits_late_hears_of_a_container_that_is_gone() {
    let daemon = Daemon::start();
    let body = serde_json::json!({
        "Image": "busybox", "Cmd": ["sh", "-c", "exit 3"], "HostConfig": { "AutoRemove": true }
    });
    let (_, made) = daemon.request("POST", "/containers/create?name=late", Some(&body));
    let id = made["Id"].as_str().expect("an id").to_owned();
    assert_eq!(daemon.request("POST", &format!("/containers/{id}/start"), None).0, 204);
    daemon.eventually("its removal", || {
        (daemon.request("GET", &format!("/containers/{id}/json"), None).0 == 404).then_some(())
    });
    for path in [format!("/containers/{id}/wait"), "/containers/late/wait?condition=removed".into()] {
        let (status, answer) = daemon.request("POST", &path, None);
        assert_eq!((status, &answer["StatusCode"]), (200, &serde_json::json!(3)), "{path}: {answer}");
    }
    daemon.docker(["run", "--name", "late", "busybox", "true"]).ok();
    let (_, answer) = daemon.request("POST", "/containers/late/wait", None);
    assert_eq!(answer["StatusCode"], 0, "a new one of that name");
    assert_eq!(daemon.request("POST", "/containers/other/wait", None).0, 404);
}
