//! AppArmor on a kernel that has it (`cargo xtask vm`); what is refused where it has not.

use std::path::Path;
use std::process::Command;

use corten_testkit::Daemon;
use corten_testkit::daemon::{Client, Ran};

fn enabled() -> bool {
    let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.starts_with(b"Y"));
    let ready = enabled && Path::new("/usr/sbin/apparmor_parser").exists();
    if !ready {
        corten_testkit::say("skipped: needs a kernel with AppArmor, and its parser (cargo xtask vm)");
    }
    ready
}

fn corten(daemon: &Daemon, args: &[&str]) -> Ran {
    daemon.run_with(Client::Corten, args, b"")
}

const WHICH: &[&str] = &["cat", "/proc/self/attr/current"];

fn run(daemon: &Daemon, flags: &[&str], program: &[&str]) -> Ran {
    corten(daemon, &[&["run", "--rm"], flags, &["busybox"], program].concat())
}

fn sh(daemon: &Daemon, flags: &[&str], script: &str) -> Ran {
    run(daemon, flags, &["sh", "-c", script])
}

#[test]
fn containers_are_confined_unless_told_otherwise() {
    if !enabled() {
        return;
    }
    let daemon = Daemon::start();
    assert!(corten(&daemon, &["info", "-f", "{{.SecurityOptions}}"]).ok().contains("name=apparmor"));
    assert_eq!(run(&daemon, &[], WHICH).ok(), "docker-default (enforce)");
    assert_eq!(run(&daemon, &["--security-opt", "apparmor=unconfined"], WHICH).ok(), "unconfined");
    assert_eq!(run(&daemon, &["--privileged"], WHICH).ok(), "unconfined");
    corten(&daemon, &["run", "-d", "--name", "box", "busybox", "sleep", "600"]).ok();
    let format = "{{.AppArmorProfile}}";
    assert_eq!(corten(&daemon, &["inspect", "-f", format, "box"]).ok(), "docker-default");
    assert_eq!(corten(&daemon, &[&["exec", "box"], WHICH].concat()).ok(), "docker-default (enforce)");
    assert_eq!(corten(&daemon, &[&["exec", "--privileged", "box"], WHICH].concat()).ok(), "unconfined");
    corten(&daemon, &["rm", "-f", "box"]).ok();
}

/// Each of these a container may do with the capabilities that it has; only the profile forbids it.
#[test]
fn the_profile_forbids() {
    if !enabled() {
        return;
    }
    let daemon = Daemon::start();
    let all = [
        "--cap-add",
        "ALL",
        "--security-opt",
        "seccomp=unconfined",
        "--security-opt",
        "systempaths=unconfined",
    ];
    let free = [&all[..], &["--security-opt", "apparmor=unconfined"]].concat();
    for script in [
        "mkdir /m && mount -t tmpfs none /m",
        "mount -o remount,rw /sys && echo x > /sys/kernel/profiling",
        "echo h > /proc/sysrq-trigger",
        "head -c 1 /proc/kcore",
        "echo 1 > /proc/sys/vm/drop_caches",
    ] {
        let ran = sh(&daemon, &all, script);
        assert!(ran.code != 0 && ran.stderr.contains("denied"), "{script}: {ran:?}");
    }
    // The same without the profile, where it does no harm.
    sh(&daemon, &free, "mkdir /m && mount -t tmpfs none /m").ok();
    sh(&daemon, &free, "echo h > /proc/sysrq-trigger").ok();
}

#[test]
fn signals_and_tracing_stay_among_containers() {
    if !enabled() {
        return;
    }
    let daemon = Daemon::start();
    let mut outside = Command::new("sleep").arg("600").spawn().unwrap();
    let script = format!("kill -CONT {}", outside.id());
    let host = ["--pid", "host", "--cap-add", "ALL"];
    let ran = sh(&daemon, &host, &script);
    assert!(ran.code != 0 && ran.stderr.contains("denied"), "{ran:?}");
    let ran = sh(&daemon, &host, &format!("cat /proc/{}/environ", outside.id()));
    assert!(ran.code != 0 && ran.stderr.contains("denied"), "{ran:?}");
    outside.kill().unwrap();
    outside.wait().unwrap();
    corten(&daemon, &["run", "-d", "--name", "box", "busybox", "sleep", "600"]).ok();
    sh(&daemon, &["--pid", "container:box"], "kill -CONT 1").ok();
    corten(&daemon, &["stop", "-t", "0", "box"]).ok();
    corten(&daemon, &["rm", "-f", "box"]).ok();
}

#[test]
fn profiles_of_ones_own() {
    if !enabled() {
        return;
    }
    let daemon = Daemon::start();
    let ran = run(&daemon, &["--security-opt", "apparmor=none-such"], &["true"]);
    let said = ran.fails(127);
    assert!(said.contains("unable to apply apparmor profile: apparmor failed to apply profile: "), "{said}");
    assert!(said.contains("no such file or directory"), "{said}");
    let file = daemon.dir().join("profile");
    let text = "profile corten-test-own flags=(attach_disconnected) {\n  file,\n  capability,\n  network,\n  \
                signal,\n  deny /secret r,\n}\n";
    std::fs::write(&file, text).unwrap();
    let parser = |flag: &str| Command::new("apparmor_parser").arg(flag).arg(&file).status().unwrap();
    assert!(parser("-Kr").success());
    let own = ["--security-opt", "apparmor=corten-test-own"];
    assert_eq!(run(&daemon, &own, WHICH).ok(), "corten-test-own (enforce)");
    let ran = sh(&daemon, &own, "echo x > /secret; cat /secret");
    assert!(ran.code != 0 && ran.stderr.contains("denied"), "{ran:?}");
    parser("-R");
}

/// Somebody unloads the profile: the next container brings it back.
#[test]
fn it_is_loaded_again() {
    if !enabled() {
        return;
    }
    let daemon = Daemon::start();
    assert_eq!(run(&daemon, &[], WHICH).ok(), "docker-default (enforce)");
    std::fs::write("/sys/kernel/security/apparmor/.remove", "docker-default").unwrap();
    assert_eq!(run(&daemon, &[], WHICH).ok(), "docker-default (enforce)");
}
