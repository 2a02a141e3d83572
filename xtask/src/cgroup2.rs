//! `cargo xtask cgroup2 [TESTS…]`: the runtime's tests in a small virtual machine with Debian's kernel, where the
//! second version of control groups is all there is, and criu works.
//!
//! ```text
//!  Debian's linux-image ──▶ vmlinuz, modules ────┐
//!  test program, its libraries, corten-runtime, ─┼─▶ initramfs ─▶ qemu ─▶ serial console ─▶ the tests' own result
//!  busybox, criu and its helpers, init           ┘
//! ```
//!
//! Everything is emulated: slow, but the same everywhere.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::build::{self, Profile};
use crate::machine::{self, DIST, END, MODULES, Machine, Run, Tree};
use crate::packages;
use crate::run::target;

const NEEDS: &[(&str, &str)] = &[
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/bin/cpio", "cpio"),
    ("/bin/busybox", "busybox-static"),
    ("criu", "criu"),
    ("iptables-restore", "iptables"),
    ("/usr/bin/ip", "iproute2"),
    ("/usr/bin/nsenter", "util-linux"),
    ("depmod", "kmod"),
];
/// criu, and what it runs: it packs each tmpfs, writes down the network, and locks it meanwhile. What the end-to-end
/// tests run.
const HELPERS: &[&str] = &[
    "/usr/sbin/criu",
    "/usr/bin/tar",
    "/usr/bin/gzip",
    "/usr/bin/ip",
    "/usr/bin/nsenter",
    "/usr/sbin/iptables-restore",
    "/usr/sbin/ip6tables-restore",
];
/// What is run unless told, of the runtime's tests and of the end-to-end tests.
const TESTS: &[&str] = &["cgroup2::", "users::", "inside::", "lifecycle::", "attributes::", "checkpoint::"];
const DAEMON_TESTS: &[&str] = &["checkpoint::"];
/// What the machine has not: a tmpfs that maps ids (Linux 6.3; everything there is on tmpfs), and a tun device.
const SKIPPED: &[&str] = &[
    "users::a_bind_mount_shows_other_owners",
    "users::further_processes",
    "users::root_inside",
    "inside::options",
];

pub fn run_all(tests: &[String]) -> Result<()> {
    if machine(tests, &mut |_| ())? { Ok(()) } else { bail!("tests failed in the machine") }
}

/// Runs the tests (the usual ones unless named) and passes on every line that the machine says; whether all passed.
pub fn machine(tests: &[String], heard: &mut dyn FnMut(&str)) -> Result<bool> {
    packages::ensure(NEEDS)?;
    let place = target().join("cgroup2");
    let kernel = machine::kernel(&place, MODULES)?;
    let named: Vec<&str> = tests.iter().map(String::as_str).collect();
    let of = |usual: &[&str]| if named.is_empty() { usual.join(" ") } else { named.join(" ") };
    let dist = build::dist(Profile::Debug)?;
    let runs = [
        Run { program: machine::program("corten-runtime")?, tests: of(TESTS), threads: 2 },
        // A daemon takes long to come up on an emulated processor that does more than that.
        Run { program: machine::program("corten-e2e")?, tests: of(DAEMON_TESTS), threads: 1 },
    ];
    let image = place.join("initramfs");
    initramfs(place.join("root"), &kernel, &dist, &runs)?.pack(&image)?;
    let machine = Machine {
        kernel: &kernel,
        initramfs: &image,
        append: "cgroup_no_v1=all",
        memory: "2048",
        further: &[],
    };
    machine::boot(&machine, heard)
}

/// Everything that the machine has.
fn initramfs(tree: PathBuf, kernel: &Path, dist: &Path, runs: &[Run]) -> Result<Tree> {
    let tree = Tree::new(tree, kernel, &script(runs))?;
    let programs = tree.programs("/", dist, runs)?;
    for helper in HELPERS {
        tree.put(Path::new(helper), Path::new(helper))?;
    }
    for program in programs.iter().map(PathBuf::as_path).chain(HELPERS.iter().map(Path::new)) {
        // A static program has none, which is an error for ldd.
        let libraries = Command::new("ldd").arg(program).output()?.stdout;
        let libraries = String::from_utf8_lossy(&libraries);
        for library in libraries.split_ascii_whitespace().filter(|w| w.starts_with('/') && !w.ends_with(':'))
        {
            tree.put(Path::new(library), Path::new(library))?;
        }
    }
    for extension in ["libxt_mark.so", "libxt_standard.so"] {
        let path =
            PathBuf::from(format!("/usr/lib/{}-linux-gnu/xtables/{extension}", std::env::consts::ARCH));
        if path.exists() {
            tree.put(&path, &path)?;
        }
    }
    tree.script("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")?;
    tree.script("etc/group", "root:x:0:\n")?;
    Ok(tree)
}

/// What the machine does. The root of an initramfs cannot be pivoted away from, so all is moved to a tmpfs first.
fn script(runs: &[Run]) -> String {
    let runs = machine::lines(runs, SKIPPED);
    format!(
        "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/bin CORTEN_CRIU=works CORTEN_BIN_DIR={DIST}
if [ ! -e /moved ]; then
  mount -t proc proc /proc; for m in /modules/*; do insmod $m; done; umount /proc
  mount -t tmpfs -o size=80%,mode=755 tmpfs /new
  for d in /*; do [ -e /new$d ] || [ $d = /new ] || [ $d = /modules ] || cp -a $d /new/; done
  touch /new/moved
  exec switch_root /new /init
fi
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
echo \"corten-vm: $(uname -r), $(cat /sys/fs/cgroup/cgroup.controllers)\"
result=0
{runs}echo \"corten-vm: result $result\"
echo {END}
poweroff -f
"
    )
}
