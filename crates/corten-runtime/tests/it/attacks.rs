//! Attacks that other runtimes fell to; each test fails if the attack succeeds.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use crate::harness::{Fixture, privileged, sh};
use corten_runtime::spec::Ns;
use corten_wire::oci_runtime::{IdMapping, Mount};
use serde_json::json;

use crate::oci::Bundle;

/// CVE-2019-5736: the program that runs is a sealed copy.
#[test]
fn the_runtime_cannot_be_overwritten_through_proc_self_exe() {
    if !privileged() {
        return;
    }
    let mut b = Fixture::new(&["sh", "-c", "(echo x > /proc/1/exe) 2>&1 | sed 's/.*: //'"]);
    b.bootstrap.init = true;
    let (_, out, _) = b.run();
    assert!(!out.is_empty(), "init's program could be opened for writing");
}

/// CVE-2019-5736, by a container with every capability: the runtime of the OCI command line runs from a read-only mount
/// of its file. A process that has that file by way of `/proc` can neither write to it nor make the mount writable,
/// nor mount it elsewhere; also when the runtime, which keeps it from being written to by running it, is gone.
#[test]
fn the_mount_that_the_runtime_runs_from_stays_read_only() {
    if !privileged() {
        return;
    }
    let everything = |c: &mut serde_json::Value| {
        let all = json!(corten_runtime::spec::ALL_CAPABILITIES);
        for set in ["bounding", "effective", "permitted"] {
            c["process"]["capabilities"][set] = all.clone();
        }
    };
    let b = Bundle::with(&["sh", "-c", "exec sleep 600"], everything);
    let runtime = b.base.join("runtime");
    std::fs::copy(env!("CARGO_BIN_EXE_corten-runtime"), &runtime).unwrap();
    let before = std::fs::read(&runtime).unwrap();
    let own = |args: &[&str]| {
        let output = b.base.join("output");
        let file = std::fs::File::create(&output).unwrap();
        let mut command = std::process::Command::new(&runtime);
        command.args(["oci", "--root", &b.path("root")]).args(args).stdin(std::process::Stdio::null());
        let status = command.stdout(file.try_clone().unwrap()).stderr(file).status().unwrap();
        (status.code(), std::fs::read_to_string(output).unwrap())
    };
    assert_eq!(own(&["create", "-b", &b.path("bundle"), &b.id]), (Some(0), String::new()));
    let attack = "exec 9< /proc/1/exe || exit 1; touch /file; echo ready; while [ ! -e /go ]; do sleep 0.01; done; \
                  file=/proc/self/fd/9; try() { \"$@\" 2> /dev/null && echo \"$@\"; }; \
                  try sh -c 'echo evil > /proc/self/fd/9'; try sh -c 'echo evil >> /proc/self/fd/9'; \
                  try busybox chmod 777 $file; try busybox mount -o remount,bind,rw $file; \
                  try busybox mount --bind $file /file; try sh -c 'echo evil > /proc/self/fd/9'; echo done";
    let spec = json!({
        "args": ["sh", "-c", attack], "cwd": "/", "user": { "uid": 0, "gid": 0 }, "env": ["PATH=/bin"],
        "capabilities": {
            "bounding": corten_runtime::spec::ALL_CAPABILITIES,
            "effective": corten_runtime::spec::ALL_CAPABILITIES,
            "permitted": corten_runtime::spec::ALL_CAPABILITIES,
        },
    });
    std::fs::write(b.base.join("process.json"), spec.to_string()).unwrap();
    let said = std::thread::scope(|scope| {
        let attacker = scope.spawn(|| own(&["exec", "-p", &b.path("process.json"), &b.id]));
        let output = b.base.join("output");
        while !std::fs::read_to_string(&output).unwrap_or_default().contains("ready")
            && !attacker.is_finished()
        {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        // The container's first process becomes its program; nobody runs the runtime for a moment.
        let started = std::process::Command::new(&runtime)
            .args(["oci", "--root", &b.path("root"), "start", &b.id])
            .output()
            .unwrap();
        assert!(started.status.success(), "{started:?}");
        std::fs::write(b.base.join("bundle/rootfs/go"), "").unwrap();
        attacker.join().unwrap()
    });
    assert_eq!(said, (Some(0), "ready\ndone\n".to_owned()));
    assert!(std::fs::read(&runtime).unwrap() == before, "overwritten");
}

/// CVE-2019-5736: a read-only mount of the runtime is safe once it is unmounted, which needs a mount namespace.
#[test]
fn without_mounts_of_its_own_the_runtime_is_a_copy() {
    if !privileged() {
        return;
    }
    let without = |c: &mut serde_json::Value| {
        c["mounts"] = json!([]);
        c["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "mount");
        for paths in ["maskedPaths", "readonlyPaths"] {
            c["linux"].as_object_mut().unwrap().remove(paths);
        }
    };
    for (b, flags, copy) in [
        (Bundle::new(&["true"]), &[][..], false),
        (Bundle::new(&["true"]), &["--no-pivot"][..], true),
        (Bundle::with(&["true"], without), &[][..], true),
    ] {
        let bundle = b.path("bundle");
        let made = b.say(&[&["create", "-b", &bundle], flags, &[&b.id]].concat());
        assert_eq!(made, (0, String::new()));
        let exe = PathBuf::from(format!("/proc/{}/exe", b.state()["pid"]));
        assert_eq!(std::fs::read_link(&exe).unwrap().starts_with("/memfd:corten-oci (deleted)"), copy);
        let mount = rustix::fs::statvfs(&exe).unwrap().f_flag;
        assert_eq!(mount.contains(rustix::fs::StatVfsMountFlags::RDONLY), !copy);
    }
}

/// CVE-2024-21626: a working directory by way of a leaked descriptor.
#[test]
fn no_descriptor_of_the_host_as_working_directory() {
    if !privileged() {
        return;
    }
    for fd in 3..12 {
        let b = Fixture::with(&["sh", "-c", "pwd; ls ../../.."], |i| i.cwd = format!("/proc/self/fd/{fd}"));
        match b.start() {
            Err(_) => {}
            Ok((shim, _)) => {
                b.exit();
                shim.ack();
                let (out, _) = b.logs();
                assert!(!out.contains("vmlinuz") && !out.contains("boot"), "{fd}: {out}");
            }
        }
    }
}

/// CVE-2026-41579: /dev of the image is a link.
#[test]
fn a_link_at_dev_does_not_lead_out() {
    if !privileged() {
        return;
    }
    let b = Fixture::new(&["true"]);
    let outside = b.base.join("outside");
    std::fs::create_dir(&outside).unwrap();
    symlink(&outside, b.base.join("lower/dev")).unwrap();
    if let Ok((shim, _)) = b.start() {
        b.exit();
        shim.ack();
    }
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

/// CVE-2019-16884: /proc of the image is a link, so that masks and labels go nowhere.
#[test]
fn a_link_at_proc_is_refused() {
    if !privileged() {
        return;
    }
    let b = Fixture::new(&["true"]);
    std::fs::create_dir_all(b.base.join("lower/evil")).unwrap();
    symlink("evil", b.base.join("lower/proc")).unwrap();
    let fault = b.start().unwrap_err();
    assert!(fault.message.contains("must be mounted on ordinary directory"), "{}", fault.message);
}

/// CVE-2021-30465, CVE-2024-45310: a mount destination is a link out of the root.
#[test]
fn mount_destinations_stay_inside() {
    if !privileged() {
        return;
    }
    let b = Fixture::with(&["sh", "-c", "ls /volume/inside"], |i| {
        i.mounts = vec![Mount {
            destination: "/volume/inside".into(),
            fstype: "bind".into(),
            source: "/usr".into(),
            options: vec!["rbind".into()],
            ..Mount::default()
        }];
    });
    let outside = b.base.join("outside");
    std::fs::create_dir(&outside).unwrap();
    symlink(&outside, b.base.join("lower/volume")).unwrap();
    let (code, out, _) = b.run();
    assert_eq!(code, 0);
    assert!(out.contains("bin"), "{out}");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "made on the host");
}

/// Nothing is mounted inside /proc but the few files that tools replace.
#[test]
fn no_mounts_inside_proc() {
    if !privileged() {
        return;
    }
    let b = Fixture::with(&["true"], |i| {
        i.mounts = vec![Mount {
            destination: "/proc/sys/kernel".into(),
            fstype: "bind".into(),
            source: "/tmp".into(),
            options: vec!["rbind".into()],
            ..Mount::default()
        }];
    });
    let fault = b.start().unwrap_err();
    assert!(fault.message.contains("cannot be mounted because it is inside /proc"), "{}", fault.message);
}

/// CVE-2025-31133: masked files are the null device, whatever the image has at /dev/null.
#[test]
fn masks_hide() {
    if !privileged() {
        return;
    }
    let out = sh(
        "for f in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts; do [ -e $f ] && wc -c < $f; done; ls /sys/firmware /proc/acpi 2>/dev/null | wc -l",
    );
    assert!(out.lines().all(|l| l == "0" || l.starts_with('/') || l.is_empty() || l == "3"), "{out}");
}

/// CVE-2020-15257: the shim has no abstract socket.
#[test]
fn no_abstract_socket() {
    if !privileged() {
        return;
    }
    let b = Fixture::with(&["sh", "-c", "grep -c '@.*shim' /proc/net/unix; true"], |i| {
        i.namespaces.network = Ns::Host
    });
    assert_eq!(b.run().1, "0\n");
}

/// CVE-2016-8867, CVE-2022-24769: nothing is inheritable, nothing ambient.
#[test]
fn inheritable_and_ambient_are_empty() {
    if !privileged() {
        return;
    }
    let out = sh("grep -E 'CapInh|CapAmb' /proc/self/status | cut -f2 | sort -u");
    assert_eq!(out, "0000000000000000\n");
}

/// CVE-2018-10892 and friends: what may not be written.
#[test]
fn kernel_settings_are_read_only() {
    if !privileged() {
        return;
    }
    for file in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/uevent_helper",
    ] {
        let out = sh(&format!("[ -e {file} ] && (echo x > {file}) 2>/dev/null && echo written; true"));
        assert_eq!(out, "", "{file}");
    }
}

/// CVE-2024-21626 through exec.
#[test]
fn no_descriptor_of_the_host_as_working_directory_of_an_exec() {
    if !privileged() {
        return;
    }
    let b = Fixture::new(&["sleep", "60"]);
    let (shim, _) = b.start().unwrap();
    for fd in 3..16 {
        let spec = corten_wire::shim::ExecSpec {
            id: format!("e{fd}"),
            args: ["sh", "-c", "ls ../../.."].map(str::to_owned).to_vec(),
            env: vec!["PATH=/bin".into()],
            cwd: Some(format!("/proc/self/fd/{fd}").into()),
            stdout: true,
            ..corten_wire::shim::ExecSpec::default()
        };
        if let Ok(mut started) = shim.exec(spec) {
            let out = String::from_utf8(crate::harness::read_all(started.fds.pop().unwrap())).unwrap();
            assert!(!out.contains("boot") && !out.contains("lib64"), "{fd}: {out}");
        }
    }
    shim.kill(9, false).unwrap();
    b.exit();
    shim.ack();
}

/// CVE-2025-31133: without a /dev of its own, the image's /dev/null is a link to what the mask would then show.
#[test]
fn a_mask_is_never_something_else_than_the_null_device() {
    if !privileged() {
        return;
    }
    let b = Bundle::with(&["cat", "/secret"], |c| {
        c["mounts"] = json!([{ "destination": "/proc", "type": "proc", "source": "proc" }]);
        c["linux"]["maskedPaths"] = json!(["/secret"]);
        c["linux"]["readonlyPaths"] = json!([]);
    });
    let root = b.base.join("bundle/rootfs");
    std::fs::create_dir(root.join("dev")).unwrap();
    std::fs::write(root.join("secret"), "secret").unwrap();
    symlink("/proc/sys/kernel/core_pattern", root.join("dev/null")).unwrap();
    let (code, text) = b.run(&[]);
    assert!(code == 1 && text.contains("is not the null device"), "{text}");
}

/// CVE-2025-52565: the image has a link where the terminal is shown.
#[test]
fn a_link_at_dev_console_is_not_followed() {
    if !privileged() {
        return;
    }
    let mut b = Fixture::with(&["tty"], |i| i.tty = true);
    b.bootstrap.spec.process.as_mut().unwrap().terminal = true;
    let outside = b.base.join("outside");
    std::fs::write(&outside, "untouched").unwrap();
    std::fs::create_dir(b.base.join("lower/dev")).unwrap();
    symlink(&outside, b.base.join("lower/dev/console")).unwrap();
    let (code, out, _) = b.run();
    assert_eq!((code, out.trim()), (0, "/dev/pts/0"));
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "untouched");
}

/// CVE-2025-52881: kernel settings are written through a procfs of our own, whatever is mounted at /proc.
#[test]
fn a_mount_at_proc_does_not_redirect_settings() {
    if !privileged() {
        return;
    }
    let b = Bundle::with(&["true"], |c| {
        c["mounts"] =
            json!([{ "destination": "/proc", "type": "bind", "source": "../fake", "options": ["bind"] }]);
        c["linux"]["maskedPaths"] = json!([]);
        c["linux"]["readonlyPaths"] = json!([]);
        c["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    });
    let fake = b.base.join("fake/sys/net/ipv4");
    std::fs::create_dir_all(&fake).unwrap();
    symlink("../../../../victim", fake.join("ip_forward")).unwrap();
    std::fs::write(b.base.join("victim"), "untouched").unwrap();
    assert_eq!(b.run(&[]), (0, String::new()));
    assert_eq!(std::fs::read_to_string(b.base.join("victim")).unwrap(), "untouched");
}

/// CVE-2016-3697: a user whose name is a number; CVE-2022-36109: the primary group is among the groups.
#[test]
fn a_number_is_no_name_and_groups_are_complete() {
    if !privileged() {
        return;
    }
    for (user, want) in
        [("1000", "1000 1000 1000 10"), ("alice", "1000 1000 1000 10"), ("7:8", "7 8 8"), ("", "0 0 0")]
    {
        let mut b = Fixture::new(&["sh", "-c", "echo $(id -u) $(id -g) $(id -G)"]);
        let passwd = b.base.join("lower/etc/passwd");
        let before = std::fs::read_to_string(&passwd).unwrap();
        std::fs::write(&passwd, format!("1000:x:0:0::/:/bin/sh\n{before}")).unwrap();
        b.bootstrap.user.as_mut().unwrap().user = user.to_owned();
        assert_eq!(b.run().1.trim(), want, "{user:?}");
    }
}

/// CVE-2026-46680: a number that is too large for an id is never looked up as a name.
#[test]
fn a_number_that_is_too_large_is_no_name() {
    if !privileged() {
        return;
    }
    for user in ["4294967296", "2147483648", "99999999999999999999", "-5", "+4294967296", "7:4294967296"] {
        let mut b = Fixture::new(&["id", "-u"]);
        for file in ["passwd", "group"] {
            let path = b.base.join("lower/etc").join(file);
            let before = std::fs::read_to_string(&path).unwrap();
            let traps = user.split(':').map(|name| format!("{name}:x:0:0::/:/bin/sh\n"));
            std::fs::write(&path, traps.collect::<String>() + &before).unwrap();
        }
        b.bootstrap.user.as_mut().unwrap().user = user.to_owned();
        let refused = b.start().map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains("uids and gids must be in range 0-2147483647"), "{user}: {refused}");
    }
}

/// CVE-2026-47262: what an image has as its user database takes neither memory nor time without bound.
#[test]
fn user_databases_have_limits() {
    if !privileged() {
        return;
    }
    type Make = fn(&std::path::Path);
    let cases: [(&str, Make, Option<&str>); 6] = [
        (
            "more groups than a process can have",
            |path| {
                let lines = (1..200_000).map(|gid| format!("g{gid}:x:{gid}:alice\n"));
                std::fs::write(path, lines.collect::<String>()).unwrap();
            },
            // Its megabytes are more than is read of such a file.
            None,
        ),
        (
            "one group 100,000 times",
            |path| std::fs::write(path, "g:x:9:alice\n".repeat(100_000)).unwrap(),
            Some("1000 9"),
        ),
        (
            "a gigabyte of nothing",
            |path| std::fs::File::create(path).unwrap().set_len(1 << 30).unwrap(),
            None,
        ),
        ("a device without end", |path| symlink("/dev/zero", path).unwrap(), None),
        (
            "a pipe without a writer",
            |path| {
                let mode = rustix::fs::Mode::from_raw_mode(0o644);
                rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
            },
            None,
        ),
        ("a directory", |path| std::fs::create_dir(path).unwrap(), None),
    ];
    for (what, make, groups) in cases {
        let mut b = Fixture::new(&["id", "-G"]);
        let path = b.base.join("lower/etc/group");
        std::fs::remove_file(&path).unwrap();
        make(&path);
        b.bootstrap.user.as_mut().unwrap().user = "alice".into();
        match groups {
            Some(groups) => assert_eq!(b.run().1.trim(), groups, "{what}"),
            None => assert!(b.start().is_err(), "{what}"),
        }
    }
}

/// CVE-2026-30892: what `exec -u` does not understand is an error, never another user.
#[test]
fn the_user_of_an_exec_is_who_was_named() {
    if !privileged() {
        return;
    }
    let b = Bundle::new(&["sleep", "60"]);
    assert_eq!(b.run(&["-d"]).0, 0);
    for (user, want) in [("5", Some("5")), ("5:6", Some("5")), ("4294967294", Some("4294967294"))] {
        assert_eq!(b.say(&["exec", "-u", user, &b.id, "id", "-u"]).1.trim(), want.unwrap(), "{user}");
    }
    for user in ["x", ":5", "5:", "-1", "5:x", "4294967296", "5 ", "0x5", "5:6:7"] {
        let (code, text) = b.say(&["exec", "-u", user, &b.id, "id", "-u"]);
        assert!(code != 0 && !text.starts_with(char::is_numeric), "{user}: {text}");
    }
}

/// Where the machine's root stays below the container's (`--no-pivot`), nothing of it is shown, and further processes
/// and hooks have the container's root.
#[test]
fn a_root_on_top_hides_what_is_below() {
    if !privileged() {
        return;
    }
    let look = "ls -d /boot /usr /proc/1/root/usr 2>/dev/null; cut -d' ' -f2 /proc/mounts | sort | head -2";
    let hook = json!([{ "path": "/bin/sh", "args": ["sh", "-c", "cat > /dev/null"] }]);
    for hooks in [json!({}), json!({ "createContainer": hook })] {
        let b = Bundle::with(&["sleep", "1000"], |c| c["hooks"] = hooks);
        let (code, text) = b.run(&["-d", "--no-pivot"]);
        assert_eq!((code, text.as_str()), (0, ""));
        assert_eq!(b.say(&["exec", &b.id, "sh", "-c", look]).1, "/\n/dev\n");
    }
}

/// CVE-2022-0492: no way to a release agent, neither in what is mounted nor by new namespaces.
#[test]
fn release_agents_are_out_of_reach() {
    if !privileged() {
        return;
    }
    let out =
        sh("for f in $(find /sys/fs/cgroup -name release_agent -o -name notify_on_release 2>/dev/null); do \
                  (echo 1 > $f) 2>/dev/null && echo written $f; done; \
                  unshare -U true 2>/dev/null && echo unshared; \
                  mkdir /tmp/c; mount -t cgroup -o memory none /tmp/c 2>/dev/null && echo mounted; true");
    assert_eq!(out, "");
}

/// CVE-2023-25809: with users of its own and the host's view of the control groups, nothing of them is writable.
#[test]
fn control_groups_cannot_be_written() {
    if !privileged() {
        return;
    }
    let script = "for d in $(find /sys/fs/cgroup -mindepth 1 -type d); do mkdir $d/made && echo made $d; \
                  (echo 0 > $d/cgroup.procs) && echo joined $d; done 2>/dev/null; mkdir /tmp/c; \
                  for o in rw,remount rw,remount,bind; do mount -o $o /sys/fs/cgroup && echo remounted; done 2>/dev/null; \
                  grep -E ' cgroup2? ' /proc/mounts | grep -cv ' ro,'; echo $(ls /sys/fs/cgroup | wc -l) groups";
    for (users, view) in [(true, Ns::Host), (true, Ns::New), (false, Ns::Host), (false, Ns::New)] {
        let b = Fixture::with(&["sh", "-c", script], |i| {
            i.namespaces.cgroup = view.clone();
            if users {
                let all = vec![IdMapping { container_id: 0, host_id: 200_000, size: 65_536 }];
                (i.uid_mappings, i.gid_mappings) = (all.clone(), all);
            }
        });
        let (code, out, _) = b.run();
        assert!(
            code == 0 && out.starts_with("0\n") && !out.contains("\n0 groups"),
            "{users} {view:?}: {out}"
        );
    }
}
