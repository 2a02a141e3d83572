//! Attacks that other runtimes fell to; each test fails if the attack succeeds.

use std::os::unix::fs::symlink;

use crate::harness::{Fixture, privileged, sh};
use corten_runtime::spec::Ns;
use corten_wire::oci_runtime::Mount;

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
