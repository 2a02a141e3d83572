//! What the configuration says of a process besides its program: scheduling, personality, keyring, filters that ask.

use std::os::fd::AsFd;

use corten_sys::seqpacket;
use serde_json::{Value, json};

use crate::harness::privileged;
use crate::oci::Bundle;

/// Runs a shell script in a container of a changed configuration.
fn run(script: &str, change: impl FnOnce(&mut Value)) -> (i32, String) {
    Bundle::with(&["sh", "-c", script], |c| {
        c["linux"]["maskedPaths"] = json!([]);
        change(c);
    })
    .run(&[])
}

#[test]
fn each_has_its_effect() {
    if !privileged() {
        return;
    }
    let ok = |text: &str| (0, text.to_owned());
    // Fields 19 and 41 of the kernel's list: nice, and 3 for SCHED_BATCH.
    let script = "cut -d' ' -f19,41 /proc/$$/stat";
    let wanted = json!({ "policy": "SCHED_BATCH", "nice": 5 });
    assert_eq!(run(script, |c| c["process"]["scheduler"] = wanted), ok("5 3\n"));
    let wanted = json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 0 });
    assert_eq!(run("busybox ionice -p $$", |c| c["process"]["ioPriority"] = wanted), ok("idle\n"));
    let (_, machine) =
        run("busybox uname -m", |c| c["linux"]["personality"] = json!({ "domain": "LINUX32" }));
    assert!(!machine.contains("64"), "{machine}");
    let wanted = json!({ "mode": "MPOL_BIND", "nodes": "0" });
    let policy = run("cut -d' ' -f2 /proc/$$/numa_maps | sort -u", |c| c["linux"]["memoryPolicy"] = wanted);
    if std::path::Path::new("/proc/self/numa_maps").exists() {
        assert_eq!(policy, ok("bind:0\n"));
    } else {
        let want = "failed to set memory policy: function not implemented";
        assert!(policy.0 != 0 && policy.1.contains(want), "{policy:?}");
    }
    let (_, name) = run("cat /proc/sys/kernel/domainname", |c| c["domainname"] = json!("dom"));
    assert!(name.ends_with("dom\n"), "{name}");
    let b = Bundle::with(&["sleep", "60"], |c| c["linux"]["maskedPaths"] = json!([]));
    assert_eq!(b.run(&["-d"]).0, 0);
    // That of the session, here of a further process, is the container's.
    let name = format!(" _ses.{}: ", b.id);
    assert_eq!(b.say(&["exec", &b.id, "grep", "-c", &name, "/proc/keys"]), ok("1\n"));
}

#[test]
fn what_cannot_be_is_refused() {
    if !privileged() {
        return;
    }
    for (path, value, want) in [
        (
            "/process/scheduler",
            json!({ "policy": "SCHED_NOPE" }),
            "invalid scheduler policy: \\\"SCHED_NOPE\\\"",
        ),
        (
            "/process/ioPriority",
            json!({ "class": "IOPRIO_CLASS_BE", "priority": 8 }),
            "invalid ioPriority.Priority: 8",
        ),
        ("/linux/personality", json!({ "domain": "BSD" }), "invalid personality domain"),
        ("/linux/memoryPolicy", json!({ "mode": "MPOL_NOPE" }), "invalid memory policy mode"),
        ("/linux/rootfsPropagation", json!("sideways"), "rootfsPropagation=sideways is not supported"),
        (
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_NOTIFY" }),
            "SCMP_ACT_NOTIFY cannot be used as default action",
        ),
        (
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }] }),
            "listenerPath not set",
        ),
    ] {
        let (code, text) = run("true", |c| {
            let (parent, key) = path.rsplit_once('/').unwrap();
            c.pointer_mut(parent).unwrap()[key] = value;
        });
        assert!(code == 1 && text.contains(want), "{path}: {text}");
    }
    // Of a kernel that has these, the next test would need a policy; of one that has not, refusal is all there is.
    if !std::path::Path::new("/sys/module/apparmor").exists() {
        let (code, text) = run("true", |c| c["process"]["apparmorProfile"] = json!("docker-default"));
        assert!(code == 1 && text.contains("apparmor: config provided but apparmor not supported"), "{text}");
    }
    if !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        for (path, key) in [("process", "selinuxLabel"), ("linux", "mountLabel")] {
            let (code, text) = run("true", |c| c[path][key] = json!("system_u:system_r:container_t:s0"));
            assert!(code == 1 && text.contains("selinux is disabled or not supported"), "{text}");
        }
    }
}

#[test]
fn processors_of_a_further_process() {
    if !privileged() {
        return;
    }
    let b = Bundle::with(&["sleep", "60"], |c| {
        c["process"]["execCPUAffinity"] = json!({ "initial": "0", "final": "0" })
    });
    assert_eq!(b.run(&["-d"]).0, 0);
    let allowed = b.say(&["exec", &b.id, "grep", "Cpus_allowed_list", "/proc/self/status"]);
    assert_eq!(allowed, (0, "Cpus_allowed_list:\t0\n".into()));
}

#[test]
fn the_root_spreads_as_it_is_told() {
    if !privileged() {
        return;
    }
    for (wanted, field) in [("private", ""), ("shared", "shared:"), ("unbindable", "unbindable"), ("", "")] {
        let (code, text) = Bundle::with(&["sh", "-c", "cat /proc/self/mountinfo"], |c| {
            c["linux"]["rootfsPropagation"] = json!(wanted);
        })
        .run(&[]);
        let root = text.lines().find(|l| l.split(' ').nth(4) == Some("/")).unwrap_or_default();
        let optional = root.split(' ').nth(6).unwrap_or_default().trim_start_matches('-');
        assert!(code == 0 && optional.starts_with(field), "{wanted}: {root}");
    }
}

/// A filter that asks. The listener only takes the descriptor and closes it: the kernel then answers that there is no
/// such call. One of the calls is what a report would be sent with.
#[test]
fn a_filter_asks_its_listener() {
    if !privileged() {
        return;
    }
    for by in ["run", "create", "exec"] {
        let b = Bundle::new(&["sh", "-c", "mkdir /x; echo $?; sleep 60"]);
        let path = b.base.join("listener");
        let file = b.base.join("bundle/config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        if by == "exec" {
            config["process"]["args"] = json!(["sleep", "60"]);
        }
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "listenerPath": path,
            "listenerMetadata": "about",
            "syscalls": [{ "names": ["mkdir", "mkdirat", "sendmsg"], "action": "SCMP_ACT_NOTIFY" }],
        });
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        std::fs::write(&file, config.to_string()).unwrap();
        let id = b.id.clone();
        let answers = std::thread::spawn(move || {
            let mut told = Vec::new();
            let rounds = if by == "exec" { 2 } else { 1 };
            for _ in 0..rounds {
                let (peer, _) = listener.accept().unwrap();
                let (mut block, mut fds) = (vec![0; 8192], Vec::new());
                let n = seqpacket::recv(peer.as_fd(), &mut block, &mut fds, true).unwrap();
                let state: Value = serde_json::from_slice(&block[..n]).unwrap();
                assert_eq!((&state["fds"], &state["metadata"]), (&json!(["seccompFd"]), &json!("about")));
                assert_eq!(state["state"]["id"], json!(id));
                told.push(state["pid"].as_i64().unwrap());
                let name = corten_sys::path::name_of(fds.pop().unwrap().as_fd()).unwrap();
                assert_eq!(name.to_str(), Some("anon_inode:seccomp notify"));
            }
            told
        });
        match by {
            "run" => assert_eq!(b.run(&["-d"]).0, 0),
            _ => {
                b.create();
                assert_eq!(b.say(&["start", &b.id]).0, 0, "{by}");
            }
        }
        if by == "exec" {
            let (code, text) = b.say(&["exec", &b.id, "mkdir", "/y"]);
            assert!(code == 1 && text.contains("Function not implemented"), "{text}");
        }
        assert!(!b.base.join("bundle/rootfs/x").exists() && !b.base.join("bundle/rootfs/y").exists());
        let told = answers.join().unwrap();
        assert_eq!(told[0], b.state()["pid"].as_i64().unwrap());
    }
}
