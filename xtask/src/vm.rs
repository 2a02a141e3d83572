//! `cargo xtask vm [systemd|hybrid|selinux] [TESTS…]`: tests in a virtual machine with a whole Debian, where systemd is
//! the first process, the kernel has AppArmor (or SELinux), and podman is installed.
//!
//! ```text
//!  debootstrap ─▶ tree ─▶ disk image, made once ───┐
//!  kernel, modules ─▶ initramfs ──────────────────┼─▶ qemu ─▶ systemd ─▶ corten-vm.service ─▶ serial console
//!  our programs and tests ─▶ initramfs, copied in ─┘
//! ```
//!
//! The image is never written to: what a machine changes is gone with it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::build::{self, Profile};
use crate::machine::{self, DIST, END, MODULES, Machine, Run, Tree};
use crate::packages;
use crate::run::{run, target};

const NEEDS: &[(&str, &str)] = &[
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/bin/cpio", "cpio"),
    ("/bin/busybox", "busybox-static"),
    ("/usr/sbin/debootstrap", "debootstrap"),
    ("/sbin/mkfs.ext4", "e2fsprogs"),
    ("/sbin/setfiles", "policycoreutils"),
    ("depmod", "kmod"),
];
/// What the machine has besides the smallest Debian.
const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "dbus",
    "dbus-user-session",
    "libpam-systemd",
    "apparmor",
    "selinux-policy-default",
    "selinux-utils",
    "policycoreutils",
    "podman",
    "netavark",
    "crun",
    "uidmap",
    "slirp4netns",
    "procps",
    "iproute2",
    "iptables",
    "kmod",
    "busybox-static",
];
const RELEASE: &str = "bookworm";
/// Of the disk, of podman's networks, and of those of ordinary users.
const MORE_MODULES: &[&str] = &[
    "tun",
    "virtio_pci",
    "virtio_blk",
    "ext4",
    "xt_MASQUERADE",
    "xt_addrtype",
    "xt_comment",
    "xt_conntrack",
    "xt_multiport",
    "xt_tcpudp",
];

/// One way to boot, and what is tested there.
struct Kind {
    name: &'static str,
    /// Of the kernel's command line.
    append: &'static str,
    runtime: &'static str,
    daemon: &'static str,
}

const KINDS: &[Kind] = &[
    Kind {
        name: "systemd",
        append: "apparmor=1 security=apparmor",
        runtime: "systemd:: peers::podman_under_systemd",
        daemon: "systemd:: apparmor:: rootless::control_groups",
    },
    Kind {
        name: "hybrid",
        append: "apparmor=1 security=apparmor systemd.unified_cgroup_hierarchy=0",
        runtime: "systemd::",
        daemon: "systemd::",
    },
    Kind {
        name: "selinux",
        append: "security=selinux selinux=1 enforcing=0",
        runtime: "",
        daemon: "selinux::",
    },
];

pub fn run_all(args: &[String]) -> Result<()> {
    let named = args.first().and_then(|a| KINDS.iter().find(|k| k.name == a));
    let (kinds, tests) = match named {
        Some(kind) => (std::slice::from_ref(kind), &args[1..]),
        None => (KINDS, args),
    };
    packages::ensure(NEEDS)?;
    let place = target().join("vm");
    let modules = [MODULES, MORE_MODULES].concat();
    let kernel = machine::kernel(&place, &modules)?;
    let disk = disk(&place)?;
    let dist = build::dist(Profile::Debug)?;
    let mut failed = Vec::new();
    for kind in kinds {
        let begun = Instant::now();
        let of = |usual: &str| if tests.is_empty() { usual.to_owned() } else { tests.join(" ") };
        let all = [("corten-runtime", kind.runtime), ("corten-e2e", kind.daemon)];
        let runs = all.iter().filter(|(_, tests)| !tests.is_empty());
        let runs = runs.map(|(package, tests)| {
            Ok(Run { program: machine::program(package)?, tests: of(tests), threads: 1 })
        });
        let runs = runs.collect::<Result<Vec<_>>>()?;
        let passed = boot(&place, &kernel, &disk, &dist, kind, &runs)?;
        println!("{}: {} after {} s", kind.name, passed, begun.elapsed().as_secs());
        if !passed {
            failed.push(kind.name);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("tests failed in the machine: {}", failed.join(", ")) }
}

fn boot(place: &Path, kernel: &Path, disk: &Path, dist: &Path, kind: &Kind, runs: &[Run]) -> Result<bool> {
    let tree = Tree::new(place.join("root"), kernel, INIT)?;
    tree.programs("/payload", dist, runs)?;
    tree.script("payload/corten/test", &test(runs))?;
    let image = place.join("initramfs");
    tree.pack(&image)?;
    let drive = format!("file={},if=virtio,format=raw,snapshot=on", disk.display());
    let append = format!("systemd.unit=corten-vm.target {}", kind.append);
    let further = ["-drive".to_owned(), drive];
    let machine = Machine { kernel, initramfs: &image, append: &append, memory: "3072", further: &further };
    machine::boot(&machine, &mut |_| ())
}

/// The disk image: made anew when it is to have other packages.
fn disk(place: &Path) -> Result<PathBuf> {
    let (image, made) = (place.join("disk"), place.join("disk.made"));
    let wanted = format!("{RELEASE} {}\n{TARGET}{SERVICE}{POLICY}", PACKAGES.join(" "));
    if image.exists() && std::fs::read_to_string(&made).is_ok_and(|m| m == wanted) {
        return Ok(image);
    }
    let tree = place.join("debian");
    let installed = tree.join("var/lib/corten-vm");
    if !std::fs::read_to_string(&installed).is_ok_and(|had| had == PACKAGES.join(" ")) {
        std::fs::remove_dir_all(&tree).ok();
        let include = format!("--include={}", PACKAGES.join(","));
        run(Command::new("debootstrap").args(["--variant=minbase", &include, RELEASE]).arg(&tree))?;
        std::fs::write(installed, PACKAGES.join(" "))?;
    }
    for dir in ["var/cache/apt/archives", "usr/share/doc", "usr/share/man", "usr/share/locale"] {
        std::fs::remove_dir_all(tree.join(dir)).ok();
    }
    let units = tree.join("etc/systemd/system");
    std::fs::write(units.join("corten-vm.target"), TARGET)?;
    std::fs::write(units.join("corten-vm.service"), SERVICE)?;
    for unit in QUIET {
        let link = units.join(unit);
        std::fs::remove_file(&link).ok();
        std::os::unix::fs::symlink("/dev/null", link)?;
    }
    std::fs::write(tree.join("etc/hostname"), "corten-vm\n")?;
    std::fs::write(tree.join("etc/fstab"), "")?;
    std::fs::write(tree.join("var/lib/container.cil"), POLICY)?;
    run(Command::new("chroot").arg(&tree).args([
        "semodule",
        "-n",
        "-s",
        "default",
        "-i",
        "/var/lib/container.cil",
    ]))?;
    // Labels are kept by the image, and set here, which takes a minute less than in the machine.
    let contexts = tree.join("etc/selinux/default/contexts/files/file_contexts");
    run(Command::new("setfiles").args(["-q", "-F", "-r"]).arg(&tree).arg(contexts).arg(&tree))?;
    std::fs::remove_file(&image).ok();
    run(Command::new("mkfs.ext4").args(["-q", "-d"]).arg(&tree).arg(&image).arg("2G"))?;
    std::fs::write(made, wanted).context("write what the disk has")?;
    Ok(image)
}

/// Units that only take time.
const QUIET: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "podman-auto-update.timer",
    "podman-auto-update.service",
    "podman-restart.service",
    "podman.service",
    "podman.socket",
    "systemd-timesyncd.service",
    "getty.target",
];

/// Debian's policy has no containers, though its list of their labels names these types.
const POLICY: &str = "(type container_t)
(type container_other_t)
(roletype system_r container_t)
(roletype system_r container_other_t)
(typeattributeset domain (container_t container_other_t))
(type container_file_t)
(roletype object_r container_file_t)
(typeattributeset file_type (container_file_t))
";

const TARGET: &str = "[Unit]
Requires=multi-user.target corten-vm.service
AllowIsolate=yes
";
const SERVICE: &str = "[Unit]
After=dbus.socket systemd-logind.service multi-user.target
[Service]
Type=oneshot
ExecStart=/corten/test
StandardOutput=file:/dev/ttyS0
StandardError=inherit
Environment=HOME=/root
Delegate=yes
TasksMax=infinity
";

/// Brings up the disk, puts what is new on it, and leaves the rest to systemd.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for m in /modules/*; do insmod $m; done
until [ -b /dev/vda ]; do sleep 0.1; done
mount -t ext4 /dev/vda /new
cp -a /payload/. /new/
umount /proc
exec switch_root /new /sbin/init
";

fn test(runs: &[Run]) -> String {
    let runs = machine::lines(runs, &[]);
    format!(
        "#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin CORTEN_BIN_DIR={DIST}
ip link set lo up
echo \"corten-vm: $(uname -r), systemd $(systemctl --version | sed -n '1s/systemd \\([0-9]*\\).*/\\1/p'), \
         $(cat /sys/kernel/security/lsm), $(cut -d. -f1 /proc/uptime) s\"
result=0
{runs}echo \"corten-vm: result $result\"
echo {END}
systemctl poweroff --force --force
"
    )
}
