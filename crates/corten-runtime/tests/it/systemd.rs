//! Control groups that systemd makes, for real. Where systemd is not the first process these say that they were
//! skipped; `cargo xtask vm` runs them in a virtual machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use corten_runtime::cgroup::{Cgroup, systemd};
use serde_json::{Value, json};

use crate::harness::privileged;
use crate::oci::Bundle;

pub(crate) fn has_systemd() -> bool {
    if !systemd::is_running() {
        corten_testkit::say("skipped: needs systemd (cargo xtask vm)");
    }
    privileged() && systemd::is_running()
}

/// What systemd says of a unit.
pub(crate) fn show(unit: &str, property: &str) -> String {
    let output = Command::new("systemctl").args(["show", "--value", "-p", property, unit]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if done() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{what}");
}

struct Scope {
    b: Bundle,
    slice: &'static str,
}

impl Scope {
    fn new(slice: &'static str, args: &[&str], change: impl FnOnce(&mut Value)) -> Self {
        Self { b: Bundle::with(args, change), slice }
    }

    fn named(slice: &'static str, args: &[&str], resources: Value) -> Self {
        let mut scope = Self::new(slice, args, |c| c["linux"]["resources"] = resources);
        let path = format!("{slice}:test:{}", scope.b.id);
        scope.change(|c| c["linux"]["cgroupsPath"] = json!(path));
        scope
    }

    fn change(&mut self, change: impl FnOnce(&mut Value)) {
        let file = self.b.base.join("bundle/config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        change(&mut config);
        std::fs::write(file, config.to_string()).unwrap();
    }

    fn unit(&self) -> String {
        format!("test-{}.scope", self.b.id)
    }

    fn run(&self, flags: &[&str]) -> (i32, String) {
        let bundle = self.b.path("bundle");
        self.b.say(&[&["--systemd-cgroup", "run", "-b", &bundle], flags, &[&self.b.id]].concat())
    }

    /// A file of the group: by its name on v2, and of this hierarchy on v1.
    fn read(&self, v1: &str, v2: &str) -> String {
        let below = Path::new(self.slice).join(self.unit());
        let path = match Cgroup::host_is_v2() {
            true => PathBuf::from("/sys/fs/cgroup").join(below).join(v2),
            false => {
                let (controller, file) = v1.split_once('/').unwrap();
                Path::new("/sys/fs/cgroup").join(controller).join(below).join(file)
            }
        };
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
    }

    fn loaded(&self) -> bool {
        show(&self.unit(), "LoadState") != "not-found"
    }
}

#[test]
fn a_scope_lives_and_dies() {
    if !has_systemd() {
        return;
    }
    let resources = json!({
        "memory": { "limit": 64 << 20 },
        "cpu": { "shares": 2048, "quota": 50_000, "period": 100_000 },
        "pids": { "limit": 20 },
        "devices": [
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm" },
        ],
    });
    let s = Scope::named("system.slice", &["sleep", "600"], resources);
    assert_eq!(s.run(&["-d"]), (0, String::new()));
    let unit = s.unit();
    let v2 = Cgroup::host_is_v2();
    for (property, want) in [
        ("ActiveState", "active"),
        ("Slice", "system.slice"),
        ("Delegate", "yes"),
        ("ControlGroup", &format!("/system.slice/{unit}")),
        (if v2 { "MemoryMax" } else { "MemoryLimit" }, "67108864"),
        (if v2 { "CPUWeight" } else { "CPUShares" }, if v2 { "79" } else { "2048" }),
        ("CPUQuotaPerSecUSec", "500ms"),
        ("CPUQuotaPeriodUSec", "100ms"),
        ("TasksMax", "20"),
        ("DevicePolicy", "strict"),
        ("CPUAccounting", "yes"),
        ("MemoryAccounting", "yes"),
    ] {
        assert_eq!(show(&unit, property), want, "{property}");
    }
    assert!(show(&unit, "DeviceAllow").contains("/dev/char/1:3 rwm"));
    assert_eq!(s.read("memory/memory.limit_in_bytes", "memory.max"), "67108864");
    assert_eq!(s.read("pids/pids.max", "pids.max"), "20");
    // Nobody but the container is left in it.
    let own = s.b.state()["pid"].to_string();
    assert_eq!(s.read("pids/cgroup.procs", "cgroup.procs"), own);
    assert_eq!(
        s.b.say(&["exec", &s.b.id, "sh", "-c", "echo x > /dev/null && echo good"]),
        (0, "good\n".into())
    );
    // systemd looks at all units again, and leaves the limits.
    assert!(Command::new("systemctl").arg("daemon-reload").status().unwrap().success());
    assert_eq!(s.read("memory/memory.limit_in_bytes", "memory.max"), "67108864");
    assert_eq!(
        s.b.say(&["update", "--memory", "80m", "--memory-swap", "80m", "--pids-limit", "30", &s.b.id]).0,
        0
    );
    assert_eq!(show(&unit, if v2 { "MemoryMax" } else { "MemoryLimit" }), "83886080");
    assert_eq!(show(&unit, "TasksMax"), "30");
    assert_eq!(s.read("pids/pids.max", "pids.max"), "30");
    let stats: Value = serde_json::from_str(&s.b.say(&["events", "--stats", &s.b.id]).1).unwrap();
    assert_eq!(stats["data"]["pids"]["limit"], 30);
    assert_eq!(s.b.say(&["pause", &s.b.id]).0, 0);
    assert_eq!(s.b.state()["status"], "paused");
    assert_eq!(s.b.say(&["resume", &s.b.id]).0, 0);
    assert_eq!(s.b.say(&["ps", "-f", "json", &s.b.id]).1, format!("[{own}]\n"));
    assert_eq!(s.b.say(&["kill", &s.b.id, "KILL"]).0, 0);
    s.b.wait_for("stopped");
    assert_eq!(s.b.say(&["delete", &s.b.id]), (0, String::new()));
    assert!(!s.loaded() && !Path::new("/sys/fs/cgroup/system.slice").join(&unit).exists());
}

#[test]
fn the_same_name_serves_again_at_once() {
    if !has_systemd() {
        return;
    }
    let s = Scope::named("system.slice", &["true"], json!({}));
    for _ in 0..5 {
        assert_eq!(s.run(&[]), (0, String::new()));
        assert!(!s.loaded());
    }
}

#[test]
fn who_eats_too_much_is_killed_and_forgotten() {
    if !has_systemd() {
        return;
    }
    let limits = json!({ "memory": { "limit": 16 << 20, "swap": 16 << 20 } });
    let s = Scope::named(
        "system.slice",
        &["sh", "-c", "x=$(busybox yes | head -c 200000000); echo survived"],
        limits,
    );
    let (code, text) = s.run(&[]);
    assert!(code != 0 && !text.contains("survived"), "{code} {text}");
    wait_until("a failed unit is left", || !s.loaded());
    assert_eq!(show("system.slice", "ActiveState"), "active");
}

#[test]
fn slices_are_made_and_nested() {
    if !has_systemd() {
        return;
    }
    let s = Scope::named("cortentest-a.slice", &["sleep", "600"], json!({}));
    assert_eq!(s.run(&["-d"]), (0, String::new()));
    assert_eq!(show(&s.unit(), "ControlGroup"), format!("/cortentest.slice/cortentest-a.slice/{}", s.unit()));
    assert_eq!(s.b.say(&["delete", "--force", &s.b.id]), (0, String::new()));
    assert!(!s.loaded());
    Command::new("systemctl").args(["stop", "cortentest.slice"]).status().unwrap();
}

#[test]
fn the_default_name_and_what_annotations_ask_for() {
    if !has_systemd() {
        return;
    }
    let s = Scope::new("system.slice", &["sleep", "600"], |c| {
        c["linux"].as_object_mut().unwrap().remove("cgroupsPath");
        c["annotations"] = json!({
            "org.systemd.property.TimeoutStopSec": "uint64 7",
            "org.systemd.property.Description": "'a box'",
        });
    });
    assert_eq!(s.run(&["-d"]), (0, String::new()));
    let unit = format!("runc-{}.scope", s.b.id);
    assert_eq!(show(&unit, "ActiveState"), "active");
    assert_eq!(
        (show(&unit, "TimeoutStopUSec").as_str(), show(&unit, "Description").as_str()),
        ("7s", "a box")
    );
    assert_eq!(s.b.say(&["delete", "--force", &s.b.id]), (0, String::new()));
    assert_eq!(show(&unit, "LoadState"), "not-found");
}

#[test]
fn what_cannot_be_is_said() {
    if !has_systemd() {
        return;
    }
    for (path, annotation, want) in [
        (
            "/docker/x",
            "1",
            r#"expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \"/docker/x\" instead"#,
        ),
        ("a--b.slice:t:x", "1", "invalid slice name: a--b.slice"),
        ("system.slice:t:x", "1", "Cannot set property Nonsense, or unknown property"),
        ("system.slice:t:x", "]", "annotation org.systemd.property.Nonsense=] value parse error"),
    ] {
        let s = Scope::new("system.slice", &["true"], |c| {
            c["linux"]["cgroupsPath"] = json!(path);
            c["annotations"] = json!({ "org.systemd.property.Nonsense": annotation });
        });
        let (code, text) = s.run(&[]);
        assert!(code == 1 && text.contains(want), "{path}: {text}");
        assert_eq!(show("t-x.scope", "LoadState"), "not-found");
    }
}

#[test]
fn it_is_asked_for_with_the_flag_and_needs_systemd() {
    if !privileged() {
        return;
    }
    let b = Bundle::with(&["true"], |c| c["linux"]["cgroupsPath"] = json!("system.slice:t:x"));
    let (code, text) = b.run(&[]);
    assert!(code == 1 && text.contains("names a unit of systemd's, which needs --systemd-cgroup"), "{text}");
    if !systemd::is_running() {
        let bundle = b.path("bundle");
        let (code, text) = b.say(&["--systemd-cgroup", "run", "-b", &bundle, &b.id]);
        let want = "systemd not running on this host, cannot use systemd cgroups manager";
        assert!(code == 1 && text.contains(want), "{text}");
        assert!(!b.base.join("root").join(&b.id).exists());
    }
}
