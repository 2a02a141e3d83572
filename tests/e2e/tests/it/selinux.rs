//! `--selinux-enabled` on a kernel that labels (`cargo xtask vm selinux`); elsewhere the switch changes nothing.

use std::path::Path;
use std::process::Command;

use corten_testkit::Daemon;
use corten_testkit::daemon::{Client, DaemonOptions, Ran};

fn enabled() -> bool {
    let enabled = Path::new("/sys/fs/selinux/enforce").exists();
    if !enabled {
        corten_testkit::say("skipped: needs a kernel with SELinux (cargo xtask vm)");
    }
    enabled
}

fn start(args: &[&str]) -> Daemon {
    let args = args.iter().map(ToString::to_string).collect();
    let daemon = Daemon::start_with(DaemonOptions { args, ..DaemonOptions::default() });
    daemon.import_busybox();
    daemon
}

fn corten(daemon: &Daemon, args: &[&str]) -> Ran {
    daemon.run_with(Client::Corten, args, b"")
}

/// The label of the program that runs.
fn label(daemon: &Daemon, flags: &[&str]) -> String {
    let run = [&["run", "--rm"], flags, &["busybox", "cat", "/proc/self/attr/current"]].concat();
    corten(daemon, &run).ok().trim_matches(['\0', '\n']).to_owned()
}

/// Under which label the daemon itself runs.
fn own(daemon: &Daemon) -> String {
    let label = std::fs::read_to_string(format!("/proc/{}/attr/current", daemon.pid())).expect("a label");
    label.trim_matches(['\0', '\n']).to_owned()
}

fn inspect(daemon: &Daemon, name: &str, field: &str) -> String {
    corten(daemon, &["inspect", "-f", &format!("{{{{.{field}}}}}"), name]).ok()
}

fn label_of(path: impl AsRef<Path>) -> String {
    let output = Command::new("stat").args(["-c", "%C"]).arg(path.as_ref()).output().expect("run stat");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

const PROCESS: &str = "system_u:system_r:container_t:s0:c";
const FILE: &str = "system_u:object_r:container_file_t:s0";

#[test]
fn elsewhere_nothing_is_labelled() {
    if Path::new("/sys/fs/selinux/enforce").exists() {
        return;
    }
    let daemon = start(&["--selinux-enabled"]);
    assert!(!corten(&daemon, &["info", "-f", "{{.SecurityOptions}}"]).ok().contains("selinux"));
    let flags = ["--security-opt", "label=type:x_t", "--security-opt", "label=nonsense"];
    corten(&daemon, &[&["run", "-d", "--name", "box"], &flags[..], &["busybox", "sleep", "600"]].concat())
        .ok();
    assert_eq!(
        (inspect(&daemon, "box", "ProcessLabel"), inspect(&daemon, "box", "MountLabel")),
        Default::default()
    );
    corten(&daemon, &["rm", "-f", "box"]).ok();
}

#[test]
fn each_container_has_labels_of_its_own() {
    if !enabled() {
        return;
    }
    let daemon = start(&["--selinux-enabled"]);
    assert!(corten(&daemon, &["info", "-f", "{{.SecurityOptions}}"]).ok().contains("name=selinux"));
    let (one, two) = (label(&daemon, &[]), label(&daemon, &[]));
    assert!(one.starts_with(PROCESS) && two.starts_with(PROCESS) && one != two, "{one} {two}");
    corten(&daemon, &["run", "-d", "--name", "box", "--ipc", "shareable", "busybox", "sleep", "600"]).ok();
    let (process, mount) = (inspect(&daemon, "box", "ProcessLabel"), inspect(&daemon, "box", "MountLabel"));
    assert!(process.starts_with(PROCESS) && mount.starts_with(FILE), "{process} {mount}");
    assert_eq!(process.rsplit_once(":s0").unwrap().1, mount.rsplit_once(":s0").unwrap().1);
    let inside = corten(&daemon, &["exec", "box", "cat", "/proc/self/attr/current"]).ok();
    assert_eq!(inside.trim_matches(['\0', '\n']), process);
    let root = format!("/proc/{}/root", inspect(&daemon, "box", "State.Pid"));
    corten(&daemon, &["exec", "box", "touch", "/made", "/dev/shm/made"]).ok();
    for file in ["bin", "made", "dev", "dev/pts", "etc/hosts", "etc/resolv.conf", "dev/shm/made"] {
        assert_eq!(label_of(Path::new(&root).join(file)), mount, "{file}");
    }
    assert_eq!(label(&daemon, &["--ipc", "container:box"]), process);
    corten(&daemon, &["restart", "-t", "0", "box"]).ok();
    assert_eq!(inspect(&daemon, "box", "ProcessLabel"), process);
    corten(&daemon, &["rm", "-f", "box"]).ok();
}

#[test]
fn options_change_labels() {
    if !enabled() {
        return;
    }
    let daemon = start(&["--selinux-enabled"]);
    let opt = |value: &str| label(&daemon, &["--security-opt", value]);
    assert_eq!(opt("label=level:s0:c100,c200"), format!("{PROCESS}100,c200"));
    assert!(opt("label=type:container_other_t").starts_with("system_u:system_r:container_other_t:s0:c"));
    for flags in
        [&["--security-opt", "label=disable"][..], &["--privileged"], &["--pid", "host"], &["--ipc", "host"]]
    {
        assert_eq!(label(&daemon, flags), own(&daemon), "{flags:?}");
    }
    let said = corten(&daemon, &["run", "--security-opt", "label=nonsense", "busybox", "true"]).fails(125);
    assert!(said.contains("bad label option \"nonsense\", valid options 'disable' or"), "{said}");
    // The policy knows no such type.
    let said = corten(&daemon, &["run", "--security-opt", "label=type:none_such_t", "busybox", "true"]);
    assert!(said.code != 0 && said.stderr.contains("invalid argument"), "{said:?}");
}

#[test]
fn volumes_are_relabelled_when_asked_for() {
    if !enabled() {
        return;
    }
    let daemon = start(&["--selinux-enabled"]);
    let dir = daemon.dir().join("files");
    corten_testkit::image::write_tree(&dir, &[("a", "a"), ("sub/b", "b")]).unwrap();
    let path = dir.to_str().unwrap();
    let before = label_of(dir.join("sub/b"));
    let run = |mode: &str, level: &str| {
        let (bind, level) = (format!("{path}:/x{mode}"), format!("label=level:{level}"));
        corten(&daemon, &["run", "--rm", "--security-opt", &level, "-v", &bind, "busybox", "cat", "/x/sub/b"])
    };
    run("", "s0:c1,c2").ok();
    assert_eq!(label_of(dir.join("sub/b")), before);
    run(":Z", "s0:c1,c2").ok();
    run(":ro,Z", "s0:c1,c3").ok();
    for file in ["", "a", "sub", "sub/b"] {
        assert_eq!(label_of(dir.join(file)), format!("{FILE}:c1,c3"), "{file}");
    }
    run(":z", "s0:c1,c2").ok();
    assert_eq!(label_of(dir.join("sub/b")), FILE);
    let said = corten(&daemon, &["run", "--rm", "-v", "/usr:/x:z", "busybox", "true"]).fails(125);
    assert!(said.contains("SELinux relabeling of /usr is not allowed"), "{said}");
    corten(&daemon, &["run", "--rm", "-v", "named:/x", "busybox", "touch", "/x/f"]).ok();
    assert_eq!(label_of(daemon.dir().join("data/volumes/named/_data")), FILE);
}

#[test]
fn nothing_is_labelled_unless_the_daemon_is_told_to() {
    if !enabled() {
        return;
    }
    let daemon = start(&[]);
    assert_eq!(label(&daemon, &["--security-opt", "label=type:container_t"]), own(&daemon));
}
