//! `kill -9` of the daemon and of shims, at any moment.

use corten_testkit::{Client, Daemon, DaemonOptions};

#[test]
fn containers_outlive_the_daemon() {
    let mut daemon = Daemon::start();
    let script = "i=0; while :; do echo $i; i=$((i+1)); usleep 10000; done";
    daemon
        .docker(["run", "-d", "--name", "cc", "-p", "127.0.0.1:18080:80", "busybox", "sh", "-c", script])
        .ok();
    daemon.serve(["--name", "web", "-p", "127.0.0.1:18081:80"]).ok();
    daemon.docker(["run", "-d", "--name", "dies", "busybox", "sh", "-c", "sleep 1; exit 33"]).ok();
    let before = daemon.docker(["inspect", "-f", "{{.State.Pid}} {{.NetworkSettings.IPAddress}}", "cc"]).ok();
    daemon.kill();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(
        daemon.fetch("http://127.0.0.1:18081/").as_deref(),
        Some("hello from busybox\n"),
        "ports work without the daemon"
    );
    daemon.restart();
    assert_eq!(
        daemon.docker(["inspect", "-f", "{{.State.Pid}} {{.NetworkSettings.IPAddress}}", "cc"]).ok(),
        before
    );
    assert_eq!(
        daemon.docker(["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "dies"]).ok(),
        "exited 33"
    );
    assert_eq!(daemon.docker(["port", "cc", "80"]).ok(), "127.0.0.1:18080");
    daemon.docker(["stop", "-t", "0", "cc"]).ok();
    let logs = daemon.docker(["logs", "cc"]).ok();
    let numbers: Vec<u64> = logs.lines().map(|l| l.parse().unwrap()).collect();
    assert!(
        numbers.len() > 100 && numbers.iter().enumerate().all(|(i, n)| i as u64 == *n),
        "no line is lost"
    );
    daemon.docker(["exec", "web", "true"]).ok();
    assert_eq!(daemon.fetch("http://127.0.0.1:18081/").as_deref(), Some("hello from busybox\n"));
}

#[test]
fn a_graceful_stop_leaves_containers_too() {
    let mut daemon = Daemon::start();
    daemon.docker(["run", "-d", "--name", "cc", "busybox", "sleep", "1000"]).ok();
    let pid = daemon.docker(["inspect", "-f", "{{.State.Pid}}", "cc"]).ok();
    daemon.stop();
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    daemon.restart();
    assert_eq!(daemon.docker(["inspect", "-f", "{{.State.Pid}}", "cc"]).ok(), pid);
    daemon.docker(["exec", "cc", "true"]).ok();
}

#[test]
fn a_killed_shim_takes_its_container_along() {
    let daemon = Daemon::start();
    let id = daemon.docker(["run", "-d", "--name", "cc", "busybox", "sleep", "1000"]).ok();
    let pid: i32 = daemon.docker(["inspect", "-f", "{{.State.Pid}}", "cc"]).ok().parse().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let shim: i32 = status.lines().find_map(|l| l.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
    let shim = rustix::process::Pid::from_raw(shim).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    daemon.eventually("the daemon notices", || {
        (daemon.docker(["inspect", "-f", "{{.State.Status}}", "cc"]).ok() == "exited").then_some(())
    });
    daemon.eventually("the payload is gone", || {
        (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
    daemon.docker(["start", "cc"]).ok();
    assert_eq!(daemon.docker(["ps", "-q", "--no-trunc"]).ok(), id);
}

#[test]
fn restart_policies_hold_over_a_crash() {
    let mut daemon = Daemon::start();
    daemon
        .docker([
            "run",
            "-d",
            "--name",
            "always",
            "--restart",
            "always",
            "busybox",
            "sh",
            "-c",
            "sleep 1; exit 1",
        ])
        .ok();
    daemon
        .docker(["run", "-d", "--name", "stopped", "--restart", "unless-stopped", "busybox", "sleep", "1000"])
        .ok();
    daemon.docker(["stop", "-t", "0", "stopped"]).ok();
    daemon.kill();
    std::thread::sleep(std::time::Duration::from_millis(1300));
    daemon.restart();
    daemon.eventually("always runs again", || {
        (daemon.docker(["inspect", "-f", "{{.State.Running}}", "always"]).ok() == "true").then_some(())
    });
    assert_eq!(daemon.docker(["inspect", "-f", "{{.State.Status}}", "stopped"]).ok(), "exited");
}

#[test]
fn every_failpoint_of_create_and_start() {
    let table = include_str!("../../../../docs/failpoints.md");
    let points: Vec<&str> = table.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next()).collect();
    let of_networks = |p: &&str| p.starts_with("engine.network.") || p.starts_with("engine.publish.");
    let points: Vec<&str> = points.into_iter().filter(|p| !of_networks(p)).collect();
    assert!(!points.is_empty());
    for point in points {
        let mut daemon = Daemon::start_with(DaemonOptions::default());
        daemon.import_busybox();
        daemon.docker(["run", "-d", "--name", "old", "busybox", "sleep", "1000"]).ok();
        daemon.stop();
        daemon.options_mut().env = vec![("CORTEN_FAILPOINT".into(), point.into())];
        daemon.restart();
        let ran =
            daemon.run_with(Client::Docker, ["run", "--name", "new", "-v", "vol:/v", "busybox", "true"], b"");
        if ran.code == 0 {
            assert_ne!(daemon.docker(["rm", "new"]).code, 0, "{point} was not reached");
        }
        daemon.wait_death();
        daemon.options_mut().env.clear();
        daemon.restart();
        assert_eq!(daemon.docker(["inspect", "-f", "{{.State.Running}}", "old"]).ok(), "true", "{point}");
        // The name is either free or belongs to a container that can be removed: never something in between.
        let removed = daemon.docker(["rm", "-f", "new"]);
        assert!(
            removed.code == 0 || removed.stderr.contains("No such container"),
            "{point}: {}",
            removed.stderr
        );
        daemon.docker(["run", "--rm", "--name", "new", "busybox", "true"]).ok();
    }
}
