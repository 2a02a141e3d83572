//! Volumes and mounts.

use corten_testkit::{Client, Daemon};

#[test]
fn named_volumes_keep_and_copy_up() {
    let daemon = Daemon::start();
    daemon.docker(["volume", "create", "data"]).ok();
    daemon.docker(["run", "--rm", "-v", "data:/v", "busybox", "sh", "-c", "echo kept > /v/f"]).ok();
    assert_eq!(daemon.docker(["run", "--rm", "-v", "data:/v:ro", "busybox", "cat", "/v/f"]).ok(), "kept");
    assert_eq!(
        daemon.docker(["run", "--rm", "-v", "fresh:/www", "busybox", "ls", "/www"]).ok(),
        "index.html"
    );
    assert_eq!(
        daemon
            .docker([
                "run",
                "--rm",
                "--mount",
                "type=volume,src=empty,dst=/www,volume-nocopy",
                "busybox",
                "ls",
                "/www"
            ])
            .ok(),
        ""
    );
    daemon.docker(["run", "-d", "--name", "uu", "-v", "data:/v", "busybox", "sleep", "1000"]).ok();
    assert!(daemon.docker(["volume", "rm", "data"]).fails(1).contains("volume is in use"));
    assert_eq!(daemon.docker(["run", "--rm", "--volumes-from", "uu", "busybox", "cat", "/v/f"]).ok(), "kept");
    daemon.docker(["rm", "-f", "uu"]).ok();
    daemon.docker(["volume", "rm", "data", "fresh", "empty"]).ok();
    assert_eq!(daemon.docker(["volume", "ls", "-q"]).ok(), "");
}

#[test]
fn anonymous_volumes_go_with_rm_v() {
    let daemon = Daemon::start();
    daemon.docker(["run", "--name", "aa", "-v", "/anon", "busybox", "touch", "/anon/x"]).ok();
    assert_eq!(daemon.docker(["volume", "ls", "-q"]).ok().lines().count(), 1);
    daemon.docker(["rm", "-v", "aa"]).ok();
    assert_eq!(daemon.docker(["volume", "ls", "-q"]).ok(), "");
    daemon.docker(["run", "--rm", "-v", "/anon", "busybox", "true"]).ok();
    assert_eq!(daemon.docker(["volume", "ls", "-q"]).ok(), "", "--rm takes them along");
}

#[test]
fn binds() {
    let daemon = Daemon::start();
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("f"), "from host").unwrap();
    let path = host.path().display().to_string();
    assert_eq!(
        daemon
            .docker([
                "run",
                "--rm",
                "-v",
                &format!("{path}:/h"),
                "busybox",
                "sh",
                "-c",
                "cat /h/f; echo back > /h/g"
            ])
            .ok(),
        "from host"
    );
    assert_eq!(std::fs::read_to_string(host.path().join("g")).unwrap(), "back\n");
    let ran = daemon.docker(["run", "--rm", "-v", &format!("{path}:/h:ro"), "busybox", "touch", "/h/x"]);
    assert!(ran.code == 1 && ran.stderr.contains("Read-only"), "{}", ran.stderr);
    let refused = daemon
        .docker(["run", "--rm", "--mount", "type=bind,src=/no/such/dir,dst=/h", "busybox", "true"])
        .fails(125);
    assert!(refused.contains("bind source path does not exist: /no/such/dir"), "{refused}");
    let made = host.path().join("made/by/us").display().to_string();
    daemon.docker(["run", "--rm", "-v", &format!("{made}:/h"), "busybox", "touch", "/h/x"]).ok();
    assert!(host.path().join("made/by/us/x").exists());
    assert_eq!(
        daemon
            .docker([
                "run",
                "--rm",
                "--mount",
                "type=tmpfs,dst=/t,tmpfs-size=1m",
                "busybox",
                "sh",
                "-c",
                "df -k /t | awk 'END{print $2}'"
            ])
            .ok(),
        "1024"
    );
}

#[test]
fn copying_into_a_container_that_never_ran_fills_its_volume() {
    let daemon = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    std::fs::write(&file, "kept\n").unwrap();
    daemon.docker(["create", "--name", "cc", "-v", "filled:/deep/data", "busybox", "true"]).ok();
    daemon.docker(["cp", &file.display().to_string(), "cc:/deep/data/f"]).ok();
    assert_eq!(daemon.docker(["run", "--rm", "-v", "filled:/v", "busybox", "cat", "/v/f"]).ok(), "kept");
    daemon.docker(["rm", "cc"]).ok();
}

#[test]
fn images_can_be_mounted() {
    let daemon = Daemon::start();
    daemon.docker(["tag", "busybox", "other:1"]).ok();
    let sh = |mount: &str, script: &str| {
        daemon.docker(["run", "--rm", "--mount", mount, "busybox", "sh", "-c", script])
    };
    let script = "ls /i/bin/busybox && ! touch /i/x 2>/dev/null && echo read-only";
    assert_eq!(sh("type=image,src=other:1,dst=/i", script).ok(), "/i/bin/busybox\nread-only");
    assert_eq!(
        sh("type=image,src=other:1,dst=/i,image-subpath=etc", "cut -d: -f1 /i/passwd | head -1").ok(),
        "root"
    );
    let missing = sh("type=image,src=nope:1,dst=/i", "true").fails(125);
    assert!(missing.contains("No such image: nope:1"), "{missing}");
    let outside = sh("type=image,src=other:1,dst=/i,image-subpath=no/such", "true");
    assert!(outside.stderr.contains("no such file or directory"), "{outside:?}");
    daemon
        .docker([
            "run",
            "-d",
            "--name",
            "holder",
            "--mount",
            "type=image,src=other:1,dst=/i",
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    assert_eq!(
        daemon
            .docker(["inspect", "-f", "{{(index .Mounts 0).Type}} {{(index .Mounts 0).RW}}", "holder"])
            .ok(),
        "image false"
    );
}

/// A link that a container puts in the way of a subpath leads nowhere outside the volume.
#[test]
fn links_in_a_subpath_stay_in_the_volume() {
    let daemon = Daemon::start();
    let make = "mkdir -p /v/real && echo mine > /v/real/f && ln -s real /v/good && ln -s /etc /v/bad";
    daemon.docker(["run", "--rm", "-v", "vol:/v", "busybox", "sh", "-c", make]).ok();
    let mount = |sub: &str| format!("type=volume,src=vol,dst=/s,volume-subpath={sub}");
    let cat = |sub: &str| daemon.docker(["run", "--rm", "--mount", &mount(sub), "busybox", "cat", "/s/f"]);
    assert_eq!(cat("real").ok(), "mine");
    assert_eq!(cat("good").ok(), "mine");
    assert!(cat("bad").fails(125).contains("cannot access path"));
}

#[test]
fn what_a_killed_daemon_left_mounted_is_not_deleted() {
    let mut daemon = Daemon::start();
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("f"), "theirs").unwrap();
    let device = format!("device={}", host.path().display());
    daemon.docker(["volume", "create", "-o", "type=none", "-o", &device, "-o", "o=bind", "own"]).ok();
    daemon.docker(["run", "-d", "--name", "vv", "-v", "own:/v", "busybox", "sleep", "1000"]).ok();
    assert_eq!(daemon.docker(["exec", "vv", "cat", "/v/f"]).ok(), "theirs");
    let pid = daemon.docker(["inspect", "-f", "{{.State.Pid}}", "vv"]).ok();
    daemon.kill();
    // Nobody is there to see the container end.
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    daemon.restart();
    daemon.docker(["rm", "-f", "vv"]).ok();
    daemon.docker(["volume", "rm", "own"]).ok();
    assert_eq!(std::fs::read_to_string(host.path().join("f")).unwrap(), "theirs");
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains("/volumes/own/_data"), "{mounts}");
}

/// CVE-2022-23648: what an image says of its volumes cannot lead to files of the host, by `..` or by links.
#[test]
fn volumes_of_an_image_stay_inside() {
    let daemon = Daemon::start();
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("secret"), "of the host").unwrap();
    let secrets = host.path().display();
    let dockerfile = format!(
        "FROM busybox\nRUN ln -s ../../../../../../..{secrets} /link && mkdir -p {secrets} && touch {secrets}/inside\n\
         VOLUME [\"/../../../../../../..{secrets}\", \"/link\"]\n"
    );
    daemon.run_with(Client::Docker, ["build", "-q", "-t", "climbs", "-"], dockerfile.as_bytes()).ok();
    let script = format!("ls {secrets} /link; touch {secrets}/new /link/new");
    let seen = daemon.docker(["run", "--rm", "climbs", "sh", "-c", &script]);
    assert!(!seen.stdout.contains("secret"), "{}", seen.stdout);
    let left: Vec<_> = std::fs::read_dir(host.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["secret"]);
}
