//! cp, diff, export, commit.

use corten_testkit::{Client, Daemon};

#[test]
fn copying_both_ways() {
    let daemon = Daemon::start();
    let host = tempfile::tempdir().unwrap();
    std::fs::create_dir(host.path().join("tree")).unwrap();
    std::fs::write(host.path().join("tree/a"), "content").unwrap();
    for (client, name) in [(Client::Docker, "c1"), (Client::Corten, "c2")] {
        let cp = |from: &str, to: &str| daemon.run_with(client, ["cp", from, to], b"");
        daemon.docker(["run", "-d", "--name", name, "busybox", "sleep", "1000"]).ok();
        for state in ["running", "stopped"] {
            let inside = format!("{name}:/tmp/{state}");
            cp(&host.path().join("tree").display().to_string(), &inside).ok();
            let out = host.path().join(format!("{name}-{state}"));
            cp(&inside, &out.display().to_string()).ok();
            assert_eq!(std::fs::read_to_string(out.join("a")).unwrap(), "content", "{client:?} {state}");
            let missing = cp(&format!("{name}:/nope"), &out.display().to_string()).fails(1);
            assert!(
                missing.contains("Could not find the file /nope in container"),
                "{client:?} {state}: {missing}"
            );
            daemon.docker(["stop", "-t", "0", name]).ok();
        }
    }
}

#[test]
fn a_link_in_the_container_cannot_reach_the_host() {
    let daemon = Daemon::start();
    let secret = tempfile::tempdir().unwrap();
    std::fs::write(secret.path().join("secret"), "host file").unwrap();
    daemon.docker(["run", "-d", "--name", "evil", "busybox", "sleep", "1000"]).ok();
    let link = format!("ln -s {} /exit", secret.path().display());
    daemon.docker(["exec", "evil", "sh", "-c", &link]).ok();
    for state in ["running", "stopped"] {
        let out = secret.path().join("out");
        let ran = daemon.docker(["cp", "evil:/exit/secret", &out.display().to_string()]);
        assert_ne!(ran.code, 0, "{state}: read through the link");
        let ran =
            daemon.docker(["cp", &secret.path().join("secret").display().to_string(), "evil:/exit/planted"]);
        assert!(ran.code != 0 && !secret.path().join("planted").exists(), "{state}: wrote through the link");
        daemon.docker(["stop", "-t", "0", "evil"]).ok();
    }
}

#[test]
fn diff_export_and_commit() {
    let daemon = Daemon::start();
    daemon
        .docker([
            "run",
            "--name",
            "dd",
            "busybox",
            "sh",
            "-c",
            "echo new > /new; rm /www/index.html; echo x >> /etc/passwd",
        ])
        .ok();
    for client in [Client::Docker, Client::Corten] {
        let diff = daemon.run_with(client, ["diff", "dd"], b"").ok();
        for line in ["A /new", "C /www", "D /www/index.html", "C /etc/passwd"] {
            assert!(diff.lines().any(|l| l == line), "{client:?}: {line} in {diff}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let tar = dir.path().join("out.tar").display().to_string();
    daemon.corten(["export", "-o", &tar, "dd"]).ok();
    let listed = std::process::Command::new("tar").args(["tf", &tar]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.lines().any(|l| l == "new") && !listed.contains("www/index.html"), "{listed}");
    daemon.docker(["commit", "--change", "CMD [\"cat\", \"/new\"]", "-m", "note", "dd", "snap:1"]).ok();
    assert_eq!(daemon.docker(["run", "--rm", "snap:1"]).ok(), "new");
    assert_eq!(daemon.docker(["run", "--rm", "snap:1", "ls", "/www"]).ok(), "");
    daemon.docker(["import", &tar, "flat:1"]).ok();
    assert_eq!(daemon.docker(["run", "--rm", "flat:1", "cat", "/new"]).ok(), "new");
}
