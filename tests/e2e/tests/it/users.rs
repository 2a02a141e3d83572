//! User namespaces: root inside, nobody outside.

use std::os::unix::fs::MetadataExt;

use corten_testkit::Daemon;
use corten_testkit::daemon::{Client, DaemonOptions};

/// The user whose ranges the tests use is made if it is not there, as the daemon makes its own.
fn daemon() -> Daemon {
    let args = vec!["--userns-remap=default".to_owned()];
    let daemon = Daemon::start_with(DaemonOptions { args, ..DaemonOptions::default() });
    daemon.import_busybox();
    daemon
}

/// Who the containers' root is outside.
fn outside() -> u32 {
    let text = std::fs::read_to_string("/etc/subuid").expect("the file is there");
    let line = text.lines().find(|l| l.starts_with("dockremap:")).expect("a range");
    line.split(':').nth(1).and_then(|n| n.parse().ok()).expect("name:first:count")
}

fn sh(daemon: &Daemon, flags: &[&str], script: &str) -> String {
    daemon.docker([&["run", "--rm"], flags, &["busybox", "sh", "-c", script]].concat()).ok()
}

/// `box`: a shell with a volume.
fn start_box(daemon: &Daemon, script: &str) {
    daemon.docker(["run", "-d", "--name", "box", "-v", "vol:/vol", "busybox", "sh", "-c", script]).ok();
}

#[test]
fn root_is_an_ordinary_user_outside() {
    let mut daemon = daemon();
    let root = outside();
    assert!(daemon.get("/info")["SecurityOptions"].to_string().contains("name=userns"));
    start_box(&daemon, "id -u; touch /made /vol/in; exec sleep 1000");
    daemon.docker(["exec", "box", "sh", "-c", "until [ -e /vol/in ]; do :; done"]).ok();
    let pid = daemon.docker(["inspect", "-f", "{{.State.Pid}}", "box"]).ok();
    assert_eq!(std::fs::metadata(format!("/proc/{pid}")).unwrap().uid(), root);
    assert_eq!(
        daemon
            .docker([
                "exec",
                "box",
                "sh",
                "-c",
                "id -u; stat -c %u /made /vol/in /etc/hosts /bin/busybox; hostname x 2>&1 | cut -c1-8"
            ])
            .ok(),
        "0\n0\n0\n0\n0\nhostname"
    );
    assert_eq!(daemon.docker(["exec", "-u", "alice", "box", "id", "-u"]).ok(), "1000");
    assert_eq!(daemon.docker(["exec", "-t", "box", "tty"]).ok(), "/dev/pts/0");
    // A volume is the same for a container without.
    assert_eq!(
        sh(
            &daemon,
            &["--userns=host", "-v", "vol:/vol"],
            "stat -c %u /vol/in; cat /proc/self/uid_map | xargs"
        ),
        "0\n0 0 4294967295"
    );
    daemon.kill();
    daemon.restart();
    assert_eq!(daemon.docker(["exec", "box", "id", "-u"]).ok(), "0");
    assert_eq!(daemon.docker(["diff", "box"]).ok().lines().filter(|l| l.ends_with("/made")).count(), 1);
    daemon.docker(["commit", "box", "made:1"]).ok();
    assert_eq!(
        daemon.docker(["run", "--rm", "--userns=host", "made:1", "stat", "-c", "%u", "/made"]).ok(),
        "0"
    );
}

#[test]
fn files_are_copied_with_the_owners_inside() {
    let daemon = daemon();
    start_box(&daemon, "touch /a; chown 7:8 /a; exec sleep 1000");
    daemon.docker(["exec", "box", "sh", "-c", "until [ -e /a ]; do :; done"]).ok();
    let listing = |args: &[&str]| {
        let tar = daemon.command(Client::Docker).args(args).output().unwrap().stdout;
        let mut list = std::process::Command::new("tar")
            .args(["--numeric-owner", "-tvf", "-"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut list.stdin.take().unwrap(), &tar).unwrap();
        String::from_utf8(list.wait_with_output().unwrap().stdout).unwrap()
    };
    daemon.eventually("the owner is set", || listing(&["cp", "box:/a", "-"]).contains(" 7/8 ").then_some(()));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    std::fs::write(&file, "text").unwrap();
    for target in ["box:/in", "box:/vol/in", "box:/tmp"] {
        daemon.docker(["cp", file.to_str().unwrap(), target]).ok();
    }
    assert_eq!(
        daemon.docker(["exec", "box", "stat", "-c", "%u:%g", "/in", "/vol/in", "/tmp/f"]).ok(),
        "0:0\n0:0\n0:0"
    );
    daemon.docker(["stop", "-t", "0", "box"]).ok();
    daemon.docker(["cp", file.to_str().unwrap(), "box:/stopped"]).ok();
    assert!(listing(&["cp", "box:/stopped", "-"]).contains(" 0/0 "));
    daemon.docker(["start", "box"]).ok();
    assert_eq!(daemon.docker(["exec", "box", "stat", "-c", "%u:%g", "/stopped"]).ok(), "0:0");
}

#[test]
fn build_binds_and_refusals() {
    let daemon = daemon();
    let dockerfile = b"FROM busybox\nRUN id -u > /who && touch /run-made && chown 5:6 /run-made\nCOPY --chown=3:4 . /c\nRUN stat -c %u:%g /run-made /c\n";
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Dockerfile"), dockerfile).unwrap();
    let built = daemon.docker(["build", "-t", "b", dir.path().to_str().unwrap()]).ok();
    assert!(built.contains("5:6\n3:4"), "{built}");
    assert_eq!(sh(&daemon, &["--userns=host", "-v", "fresh:/x"], "stat -c %u /x"), "0");
    let host = dir.path().join("bind");
    std::fs::create_dir(&host).unwrap();
    std::os::unix::fs::chown(&host, Some(1000), Some(1000)).unwrap();
    std::fs::set_permissions(&host, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let bind = |mode: &str| format!("{}:/b{mode}", host.display());
    assert_eq!(
        sh(&daemon, &["-v", &bind("")], "stat -c %u /b; touch /b/x 2>/dev/null || echo denied"),
        "65534\ndenied"
    );
    let mapped = bind(":idmap=uids=1000-0-1;gids=1000-0-1");
    assert_eq!(
        sh(&daemon, &["-v", &mapped], "stat -c %u:%g /b; touch /b/mine; stat -c %u /b/mine"),
        "0:0\n0"
    );
    assert_eq!(std::fs::metadata(host.join("mine")).unwrap().uid(), 1000);
    // Without a user namespace as well, and by ours of the long syntax.
    let long = format!("type=bind,src={},dst=/b,idmap=uids=1000-2000-1;gids=1000-2000-1", host.display());
    let ran = daemon.corten([
        "run",
        "--rm",
        "--userns=host",
        "--mount",
        &long,
        "busybox",
        "stat",
        "-c",
        "%u",
        "/b",
    ]);
    assert_eq!(ran.ok(), "2000");
    let fresh = dir.path().join("fresh");
    let made = format!("{}:/b", fresh.display());
    assert_eq!(sh(&daemon, &["-v", &made], "touch /b/x && stat -c %u /b"), "0");
    assert_eq!(std::fs::metadata(&fresh).unwrap().uid(), outside());
    for (flag, want) in [
        ("--privileged", "privileged mode is incompatible with user namespaces.  You must run"),
        ("--pid=host", "cannot share the host PID namespace when user namespaces are enabled"),
        ("--network=host", "cannot share the host's network namespace when user namespaces are enabled"),
    ] {
        let refused = daemon.docker(["run", "--rm", flag, "busybox", "true"]).fails(125);
        assert!(refused.contains(want), "{refused}");
    }
    assert_eq!(sh(&daemon, &["--privileged", "--userns=host"], "id -u"), "0");
    assert_eq!(
        sh(
            &daemon,
            &["--sysctl", "net.core.somaxconn=777", "--device", "/dev/null:/dev/n", "--shm-size", "8m"],
            "cat /proc/sys/net/core/somaxconn; echo x > /dev/n; df -k /dev/shm | awk 'END{print $2}'"
        ),
        "777\n8192"
    );
    daemon.docker(["run", "-d", "--name", "donor", "--ipc", "shareable", "busybox", "sleep", "1000"]).ok();
    for shared in ["--pid=container:donor", "--ipc=container:donor", "--network=container:donor"] {
        assert_eq!(sh(&daemon, &[shared], "echo x > /dev/shm/f; echo fine"), "fine", "{shared}");
    }
}

/// The network namespace is the property of the container's users: its root has power over it, and over it alone.
#[test]
fn root_inside_has_power_over_its_network() {
    let daemon = daemon();
    let admin = ["--cap-add", "NET_ADMIN"];
    let script = "ip addr add 10.9.8.7/24 dev lo && ip link set lo mtu 1500 && \
                  cat /sys/class/net/lo/mtu && ping -c 1 -w 10 127.0.0.1 >/dev/null && echo pinged";
    assert_eq!(sh(&daemon, &admin, script), "1500\npinged");
    let refused =
        daemon.docker(["run", "--rm", "busybox", "ip", "link", "set", "lo", "mtu", "1500"]).fails(2);
    assert!(refused.contains("Operation not permitted"), "{refused}");
    // Who shares the network shares its owner.
    daemon.docker(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    let shared = [admin.as_slice(), &["--network", "container:box"]].concat();
    assert_eq!(sh(&daemon, &shared, "ip link set lo mtu 1400 && cat /sys/class/net/lo/mtu"), "1400");
    assert_eq!(daemon.docker(["exec", "box", "cat", "/sys/class/net/lo/mtu"]).ok(), "1400");
    // Another's process space means another's users, too.
    let joined = [admin.as_slice(), &["--pid", "container:box"]].concat();
    assert_eq!(sh(&daemon, &joined, "ip link set lo mtu 1300 && cat /sys/class/net/lo/mtu"), "1300");
}
