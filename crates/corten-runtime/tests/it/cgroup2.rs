//! Control groups of the second version for real: what a limit does, not what was written. On a machine with the
//! first version these say that they were skipped; `cargo xtask cgroup2` runs them in a virtual machine.

use std::path::Path;

use corten_runtime::cgroup::Cgroup;
use serde_json::{Value, json};

use crate::harness::privileged;
use crate::oci::Bundle;

fn v2() -> bool {
    if !Cgroup::host_is_v2() {
        corten_testkit::say("skipped: needs control groups of the second version (cargo xtask cgroup2)");
    }
    privileged() && Cgroup::host_is_v2()
}

fn read(b: &Bundle, file: &str) -> String {
    let path = Path::new("/sys/fs/cgroup").join(&b.id).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
}

fn with(args: &[&str], resources: Value) -> Bundle {
    Bundle::with(args, |c| c["linux"]["resources"] = resources)
}

#[test]
fn limits_are_set_and_changed() {
    if !v2() {
        return;
    }
    let b = with(
        &["sleep", "600"],
        json!({
            "memory": { "limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20 },
            "cpu": { "shares": 2048, "quota": 50_000, "period": 100_000, "cpus": "0" },
            "pids": { "limit": 20 },
            "unified": { "memory.high": "60000000" },
        }),
    );
    assert_eq!(b.run(&["-d"]), (0, String::new()));
    for (file, want) in [
        ("memory.max", "67108864"),
        ("memory.swap.max", "33554432"),
        ("memory.low", "33554432"),
        ("memory.high", "59998208"),
        ("cpu.max", "50000 100000"),
        ("cpuset.cpus", "0"),
        ("pids.max", "20"),
    ] {
        assert_eq!(read(&b, file), want, "{file}");
    }
    assert!(read(&b, "cpu.weight").parse::<u32>().unwrap() > 50, "twice the default of v1");
    assert_eq!(
        b.say(&["update", "--memory", "80m", "--memory-swap", "80m", "--pids-limit", "30", &b.id]).0,
        0
    );
    assert_eq!((read(&b, "memory.max"), read(&b, "pids.max")), ("83886080".into(), "30".into()));
    let stats: Value = serde_json::from_str(&b.say(&["events", "--stats", &b.id]).1).unwrap();
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], 80 << 20);
    assert_eq!(stats["data"]["pids"]["limit"], 30);
    assert!(stats["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0);
}

#[test]
fn limits_have_their_effect() {
    if !v2() {
        return;
    }
    let b = with(
        &["sh", "-c", "x=$(busybox yes | head -c 200000000); echo survived"],
        json!({ "memory": { "limit": 16 << 20, "swap": 16 << 20 } }),
    );
    let (code, text) = b.run(&[]);
    assert!(code != 0 && !text.contains("survived"), "{code} {text}");
    let b = with(
        &["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do sleep 30 & done; echo all"],
        json!({ "pids": { "limit": 5 } }),
    );
    let (_, text) = b.run(&[]);
    assert!(text.contains("can't fork") || text.contains("Resource temporarily"), "{text}");
}

#[test]
fn freezing_and_killing() {
    if !v2() {
        return;
    }
    let b = with(&["sh", "-c", "sleep 600 & sleep 600 & wait"], json!({}));
    assert_eq!(b.run(&["-d"]).0, 0);
    assert_eq!(b.say(&["pause", &b.id]), (0, String::new()));
    assert!(read(&b, "cgroup.events").contains("frozen 1"));
    assert_eq!(b.state()["status"], "paused");
    assert_eq!(b.say(&["resume", &b.id]).0, 0);
    assert!(read(&b, "cgroup.events").contains("frozen 0"));
    assert_eq!(b.say(&["pause", &b.id]).0, 0);
    // A frozen container can be killed as well.
    assert_eq!(b.say(&["kill", "--all", &b.id, "KILL"]).0, 0);
    b.wait_for("stopped");
    for _ in 0..1000 {
        if read(&b, "cgroup.events").contains("populated 0") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(read(&b, "cgroup.events").contains("populated 0"));
    assert_eq!(b.say(&["delete", &b.id]).0, 0);
    assert!(!Path::new("/sys/fs/cgroup").join(&b.id).exists());
}

#[test]
fn devices_are_filtered() {
    if !v2() {
        return;
    }
    // A node of a device that nothing has: what is forbidden is EPERM, what is allowed is ENXIO.
    let script = "echo x > /dev/null && cat /dev/null; busybox mknod /tmp/x c 240 77; cat /tmp/x";
    let run = |rules: Value| {
        let b = Bundle::with(&["sh", "-c", script], |c| {
            c["linux"]["resources"] = json!({ "devices": rules });
            for set in ["bounding", "effective", "permitted"] {
                c["process"]["capabilities"][set] = json!(["CAP_MKNOD"]);
            }
        });
        std::fs::create_dir(b.base.join("bundle/rootfs/tmp")).unwrap();
        b.run(&[]).1
    };
    let denied = run(json!([{ "allow": false, "access": "rwm" }]));
    assert!(denied.contains("Operation not permitted"), "{denied}");
    let rule = json!({ "allow": true, "type": "c", "major": 240, "minor": 77, "access": "rw" });
    let allowed = run(json!([{ "allow": false, "access": "rwm" }, rule]));
    assert!(allowed.contains("No such device or address"), "{allowed}");
}

#[test]
fn a_container_manages_the_groups_below_its_own() {
    if !v2() {
        return;
    }
    let script = "cat /proc/self/cgroup; cd /sys/fs/cgroup; cat memory.max; cat cpu.pressure | head -n1 | cut -d' ' -f1; \
                  mkdir inner && echo $$ > inner/cgroup.procs && echo +pids > cgroup.subtree_control && cat inner/pids.max";
    let b = Bundle::with(&["sh", "-c", script], |c| {
        c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "cgroup" }));
        c["linux"]["resources"] = json!({ "memory": { "limit": 64 << 20 } });
        for m in c["mounts"].as_array_mut().unwrap() {
            if m["destination"] == "/sys/fs/cgroup" {
                m["options"] = json!(["nosuid", "noexec", "nodev"]);
            }
        }
    });
    assert_eq!(b.run(&[]), (0, "0::/\n67108864\nsome\nmax\n".into()));
}
