//! Checkpoints through the engine. Where criu does not know the kernel, names, places and errors.
//!
//! `CORTEN_CRIU=works` says that it does, as in the virtual machine of `cargo xtask cgroup2`.

use std::time::{Duration, Instant};

use corten_testkit::Daemon;
use corten_testkit::daemon::{Client, DaemonOptions, Ran};

fn works() -> bool {
    std::env::var("CORTEN_CRIU").is_ok_and(|v| v == "works")
}

fn experimental() -> Daemon {
    let args = vec!["--experimental".to_owned()];
    let daemon = Daemon::start_with(DaemonOptions { args, ..DaemonOptions::default() });
    daemon.import_busybox();
    daemon
}

fn corten(daemon: &Daemon, args: &[&str]) -> Ran {
    daemon.run_with(Client::Corten, args, b"")
}

#[test]
fn they_are_for_experimental_mode() {
    let daemon = Daemon::start();
    corten(&daemon, &["run", "-d", "--name", "box", "busybox", "sleep", "600"]).ok();
    let want = "This experimental feature is disabled by default. Start the Docker daemon in experimental mode in order to enable it.";
    for args in [&["create", "box", "one"][..], &["ls", "box"], &["rm", "box", "one"]] {
        let said = corten(&daemon, &[&["checkpoint"], args].concat()).fails(1);
        assert!(said.contains(want), "{said}");
    }
    let said = corten(&daemon, &["start", "--checkpoint", "one", "box"]).fails(1);
    assert!(said.contains("checkpoint is only supported in experimental mode"), "{said}");
}

#[test]
fn names_places_and_what_cannot_be() {
    let daemon = experimental();
    corten(&daemon, &["run", "-d", "--name", "box", "busybox", "sleep", "600"]).ok();
    corten(&daemon, &["run", "-dt", "--name", "tty", "busybox", "sleep", "600"]).ok();
    corten(&daemon, &["create", "--name", "rests", "busybox", "true"]).ok();
    assert_eq!(corten(&daemon, &["checkpoint", "ls", "box"]).ok(), "CHECKPOINT NAME");
    for (args, want) in [
        (&["checkpoint", "rm", "box", "none"][..], "checkpoint none does not exist for container box"),
        (&["checkpoint", "rm", "box", ".."], "checkpoint .. does not exist for container box"),
        (
            &["checkpoint", "create", "box", "a/b"],
            "Invalid checkpoint ID (a/b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
        ),
        (&["checkpoint", "create", "tty", "one"], "checkpoint not support on containers with tty"),
        (&["checkpoint", "create", "rests", "one"], "is not running"),
        (&["checkpoint", "create", "--checkpoint-dir", "here", "box", "one"], "must be an absolute path"),
        (&["start", "--checkpoint", "none", "rests"], "checkpoint none does not exist for container rests"),
        (
            &["start", "--checkpoint", "none", "rests", "box"],
            "you cannot restore multiple containers at once",
        ),
    ] {
        let said = corten(&daemon, args).fails(1);
        assert!(said.contains(want), "{args:?}: {said}");
    }
    let made = corten(&daemon, &["checkpoint", "create", "--leave-running", "box", "one"]);
    if !works() {
        // Debian's criu is not there, or does not know the kernel; one that does is welcome.
        if made.code != 0 {
            assert!(
                made.stderr.contains("Cannot checkpoint container box: runc did not terminate"),
                "{made:?}"
            );
            assert_eq!(corten(&daemon, &["checkpoint", "ls", "box"]).ok(), "CHECKPOINT NAME");
            assert_eq!(corten(&daemon, &["inspect", "-f", "{{.State.Status}}", "box"]).ok(), "running");
        }
        return;
    }
    assert_eq!(made.ok(), "one");
    let again = corten(&daemon, &["checkpoint", "create", "box", "one"]).fails(1);
    assert!(again.contains("checkpoint with name one already exists for container box"), "{again}");
    assert_eq!(corten(&daemon, &["checkpoint", "ls", "box"]).ok(), "CHECKPOINT NAME\none");
    corten(&daemon, &["checkpoint", "rm", "box", "one"]).ok();
    assert_eq!(corten(&daemon, &["checkpoint", "ls", "box"]).ok(), "CHECKPOINT NAME");
}

/// What the container has counted, by its log.
fn counted(daemon: &Daemon) -> Vec<u32> {
    corten(daemon, &["logs", "box"]).ok().lines().map(|l| l.parse().expect("a number")).collect()
}

fn wait_for(daemon: &Daemon, number: u32) {
    let until = Instant::now() + Duration::from_secs(120);
    while counted(daemon).last().is_none_or(|n| *n < number) {
        assert!(Instant::now() < until, "{number} is not counted: {:?}", counted(daemon));
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_container_goes_on_where_it_was() {
    if !works() {
        return;
    }
    let daemon = experimental();
    let count = "n=0; while true; do n=$((n+1)); echo $n; sleep 0.2; done";
    let flags = [
        "run",
        "-d",
        "--name",
        "box",
        "--restart",
        "always",
        "-m",
        "64m",
        "-v",
        "data:/data",
        "--tmpfs",
        "/t",
    ];
    corten(&daemon, &[&flags[..], &["busybox", "sh", "-c", count]].concat()).ok();
    corten(&daemon, &["exec", "box", "sh", "-c", "echo kept > /t/a; echo kept > /data/a"]).ok();
    let address =
        || corten(&daemon, &["inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "box"]).ok();
    let (before, place) = (address(), daemon.dir().join("elsewhere").display().to_string());
    wait_for(&daemon, 3);

    let made = corten(
        &daemon,
        &["checkpoint", "create", "--leave-running", "--checkpoint-dir", &place, "box", "one"],
    );
    assert_eq!(made.ok(), "one");
    let now = *counted(&daemon).last().expect("a number");
    wait_for(&daemon, now + 3);

    for round in ["two", "three"] {
        assert_eq!(corten(&daemon, &["checkpoint", "create", "box", round]).ok(), round);
        let state = "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}";
        assert_eq!(corten(&daemon, &["inspect", "-f", state, "box"]).ok(), "exited 137 0");
        let last = *counted(&daemon).last().expect("a number");
        assert_eq!(corten(&daemon, &["start", "--checkpoint", round, "box"]).ok(), "");
        wait_for(&daemon, last + 3);
        assert_eq!(address(), before);
        let look =
            "cat /t/a /data/a /sys/fs/cgroup/memory.max /proc/1/comm; ip -4 addr show eth0 | grep -c inet";
        assert_eq!(corten(&daemon, &["exec", "box", "sh", "-c", look]).ok(), "kept\nkept\n67108864\nsh\n1");
    }
    // Nothing is counted twice, and nothing is lost.
    let all = counted(&daemon);
    assert!(all.iter().zip(1..).all(|(got, want)| *got == want), "{all:?}");
    // An earlier one, from the other place.
    corten(&daemon, &["stop", "-t", "0", "box"]).ok();
    corten(&daemon, &["start", "--checkpoint", "one", "--checkpoint-dir", &place, "box"]).ok();
    let until = Instant::now() + Duration::from_secs(60);
    while counted(&daemon).windows(2).all(|pair| pair[1] > pair[0]) {
        assert!(Instant::now() < until, "it did not go back");
        std::thread::sleep(Duration::from_millis(100));
    }
    let args = ["events", "--since", "1h", "--until", "0s", "--filter", "event=checkpoint"];
    // The end of the window is a whole second, which the last one may still be in.
    while corten(&daemon, &args).ok().lines().count() < 3 {
        assert!(Instant::now() < until, "{}", corten(&daemon, &args).ok());
        std::thread::sleep(Duration::from_millis(100));
    }
    // Ends as any other: its exit is the shim's to tell.
    corten(&daemon, &["kill", "box"]).ok();
    assert_eq!(corten(&daemon, &["inspect", "-f", "{{.State.ExitCode}}", "box"]).ok(), "137");
    corten(&daemon, &["rm", "box"]).ok();
    assert!(
        std::path::Path::new(&place).join("one/inventory.img").exists(),
        "images elsewhere are the user's"
    );
}
