//! info, version, events, df, version negotiation.

use corten_testkit::{Client, Daemon};

#[test]
fn the_client_sees_a_daemon() {
    let daemon = Daemon::start();
    assert!(daemon.docker(["version"]).ok().contains("Server:"));
    assert!(daemon.docker(["info"]).ok().contains("Storage Driver: overlayfs"));
    assert_eq!(daemon.docker(["info", "-f", "{{.Images}} {{.Containers}}"]).ok(), "1 0");
    assert!(daemon.corten(["version"]).ok().contains("Server:"));
    assert!(daemon.docker(["system", "df"]).ok().contains("Images"));
    assert!(daemon.corten(["system", "df"]).ok().contains("Images"));
}

#[test]
fn api_versions() {
    let daemon = Daemon::start();
    for version in ["1.24", "1.30", "1.41", "1.44", "1.50"] {
        let (status, body) = daemon.request("GET", &format!("/v{version}/containers/json?all=1"), None);
        assert_eq!((status, body.is_array()), (200, true), "{version}: {body}");
    }
    for version in ["1.44", "1.45", "1.50"] {
        let mut command = daemon.command(Client::Docker);
        let out = command
            .env("DOCKER_API_VERSION", version)
            .args(["run", "--rm", "busybox", "echo", "hi"])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&out.stdout),
            "hi\n",
            "{version}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
}

#[test]
fn events_are_told() {
    let daemon = Daemon::start();
    daemon.docker(["run", "--rm", "--name", "ee", "busybox", "true"]).ok();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let until = (now.as_secs() + 1).to_string();
    for client in [Client::Docker, Client::Corten] {
        let ran = daemon.run_with(
            client,
            [
                "events",
                "--since",
                "5m",
                "--until",
                &until,
                "--filter",
                "type=container",
                "--format",
                "{{.Action}}",
            ],
            b"",
        );
        let ran = ran.ok();
        let actions: Vec<&str> = ran.lines().collect();
        for action in ["create", "attach", "start", "die", "destroy"] {
            assert!(actions.contains(&action), "{client:?}: {action} in {actions:?}");
        }
    }
}

#[test]
fn idle_memory_is_small() {
    let daemon = Daemon::start();
    daemon.docker(["run", "--rm", "busybox", "true"]).ok();
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let kb: u64 = status
        .lines()
        .find_map(|l| l.strip_prefix("RssAnon:"))
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .trim()
        .parse()
        .unwrap();
    assert!(kb < 15_000, "anonymous memory of the daemon: {kb} kB");
}
