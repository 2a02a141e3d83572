//! The daemon as a service: configuration read again, metrics, debugging, its own log.

use std::io::{Read, Write};

use corten_testkit::{Daemon, DaemonOptions};
use serde_json::json;

fn daemon_with(args: &[&str]) -> Daemon {
    let args = args.iter().map(|a| (*a).to_owned()).collect();
    let daemon = Daemon::start_with(DaemonOptions { args, ..DaemonOptions::default() });
    daemon.import_busybox();
    daemon
}

/// SIGHUP, by the command: no crate for one signal.
fn hang_up(daemon: &Daemon) {
    let status = std::process::Command::new("kill").args(["-HUP", &daemon.pid().to_string()]).status();
    assert!(status.expect("kill runs").success());
}

#[test]
fn the_file_is_read_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("daemon.json");
    let write = |value: serde_json::Value| std::fs::write(&file, value.to_string()).expect("written");
    write(json!({"labels": ["a=1"]}));
    let daemon = daemon_with(&["--config-file", &file.display().to_string()]);
    assert_eq!(daemon.get("/info")["Labels"], json!(["a=1"]));
    assert_eq!(daemon.get("/info")["LiveRestoreEnabled"], true);
    write(json!({
        "labels": ["a=2", "b=3"],
        "debug": true,
        "live-restore": false,
        "insecure-registries": ["r.test:5000"],
        "registry-mirrors": ["http://m.test"],
        "max-concurrent-downloads": 1,
        "shutdown-timeout": 3,
        "runtimes": {"other": {"path": "/usr/bin/other"}},
    }));
    hang_up(&daemon);
    let info = daemon.eventually("other labels", || {
        let info = daemon.get("/info");
        (info["Labels"] == json!(["a=2", "b=3"])).then_some(info)
    });
    assert_eq!((&info["Debug"], &info["LiveRestoreEnabled"]), (&json!(true), &json!(false)));
    assert_eq!(info["RegistryConfig"]["Mirrors"], json!(["http://m.test"]));
    assert_eq!(info["RegistryConfig"]["IndexConfigs"]["r.test:5000"]["Secure"], false);
    assert!(info["Runtimes"]["other"].is_object(), "{}", info["Runtimes"]);
    let event = daemon.eventually("the event", || {
        let events =
            ["events", "--since", "1h", "--until", "0s", "--filter", "type=daemon", "--format", "json"];
        serde_json::from_str::<serde_json::Value>(daemon.docker(events).ok().lines().next()?).ok()
    });
    assert_eq!((&event["Action"], &event["Actor"]["ID"]), (&json!("reload"), &info["ID"]));
    let attributes = &event["Actor"]["Attributes"];
    assert_eq!(attributes["labels"], "[\"a=2\",\"b=3\"]");
    assert_eq!(attributes["max-concurrent-downloads"], "1");
    assert_eq!(attributes["shutdown-timeout"], "3");
    // What is wrong changes nothing.
    std::fs::write(&file, "{").expect("written");
    hang_up(&daemon);
    daemon.eventually("the complaint", || daemon.log().contains("configuration not reloaded").then_some(()));
    assert_eq!(daemon.get("/info")["Labels"], json!(["a=2", "b=3"]));
}

/// A daemon that does not leave containers running ends them, and starts those that are to be restarted.
#[test]
fn without_live_restore_containers_end_with_the_daemon() {
    let mut daemon = daemon_with(&["--live-restore=false", "--shutdown-timeout=20"]);
    let script = "trap 'echo bye; exit 7' TERM; while :; do sleep 0.1; done";
    for (name, policy) in [("once", "no"), ("again", "always")] {
        daemon.docker(["run", "-d", "--name", name, "--restart", policy, "busybox", "sh", "-c", script]).ok();
    }
    daemon.stop();
    daemon.restart();
    let state = |name: &str| daemon.get(&format!("/containers/{name}/json"))["State"].clone();
    assert_eq!((&state("once")["Status"], &state("once")["ExitCode"]), (&json!("exited"), &json!(7)));
    daemon.eventually("a restart", || (state("again")["Status"] == "running").then_some(()));
    assert_eq!(daemon.docker(["logs", "once"]).ok(), "bye");
}

#[test]
fn metrics_and_debugging() {
    let daemon = daemon_with(&["--metrics-addr", "127.0.0.1:9323", "--log-format=json"]);
    daemon.docker(["run", "--rm", "busybox", "true"]).ok();
    daemon.docker(["run", "-d", "--name", "mm", "busybox", "sleep", "1000"]).ok();
    let text = daemon.eventually("metrics", || daemon.fetch("http://127.0.0.1:9323/metrics"));
    for line in [
        "engine_daemon_container_states_containers{state=\"running\"} 1",
        "engine_daemon_container_actions_seconds_count{action=\"create\"} 2",
        "engine_daemon_container_actions_seconds_count{action=\"start\"} 2",
        "engine_daemon_network_actions_seconds_count{action=\"allocate\"} 2",
        "builder_builds_triggered_total 0",
        "# TYPE engine_daemon_events_total counter",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in:\n{text}");
    }
    assert_eq!(daemon.request("GET", "/debug/vars", None).0, 404, "only with --debug");
    let log = daemon.log();
    let ready = log.lines().find(|l| l.contains("daemon is ready")).expect("a line");
    let ready: serde_json::Value = serde_json::from_str(ready).expect("JSON");
    assert_eq!((&ready["level"], &ready["msg"]), (&json!("info"), &json!("daemon is ready")));
    drop(daemon);
    let daemon = daemon_with(&["--debug"]);
    assert!(daemon.get("/debug/vars")["memstats"]["Resident"].as_u64() > Some(0));
    let mut stream = std::os::unix::net::UnixStream::connect(daemon.socket()).expect("connected");
    stream
        .write_all(b"GET /debug/pprof/goroutine HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
        .expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("read");
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("threads: total"), "{text}");
    assert_eq!(daemon.request("GET", "/debug/pprof/heap", None).0, 501);
}

#[test]
fn volumes_and_prunes_are_events() {
    let daemon = daemon_with(&[]);
    let id = daemon.docker(["run", "-d", "-v", "vv:/data:ro", "busybox", "true"]).ok();
    daemon.docker(["wait", id.trim()]).ok();
    daemon.docker(["image", "prune", "-f"]).ok();
    let wanted = ["mount vv", "start", "die", "unmount vv", "prune"];
    let lines = daemon.eventually("all events", || {
        let format = "{{.Action}} {{if eq .Type \"volume\"}}{{.Actor.ID}} {{.Actor.Attributes}}{{end}}";
        let text = daemon.docker(["events", "--since", "1h", "--until", "0s", "--format", format]).ok();
        wanted.iter().all(|w| text.lines().any(|l| l.starts_with(w))).then_some(text)
    });
    let at = |what: &str| lines.lines().position(|l| l.starts_with(what));
    assert!(at("mount vv") < at("start") && at("start") < at("unmount vv"), "{lines}");
    let mount = lines.lines().find(|l| l.starts_with("mount")).expect("found above");
    for part in ["destination:/data", "driver:local", "read/write:false", id.trim()] {
        assert!(mount.contains(part), "{part} in {mount}");
    }
}
