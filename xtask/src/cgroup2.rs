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

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::build::{self, Profile};
use crate::packages;
use crate::run::{capture, cargo, run, target};

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
/// Modules, by the beginnings of their names; those that they need come along.
const MODULES: &[&str] = &[
    // Asked for by name when nf_tables begins.
    "crc32c_generic",
    "overlay",
    "unix_diag",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "raw_diag",
    "af_packet_diag",
    "netlink_diag",
    "nf_tables",
    "nf_conntrack_netlink",
    "nft_",
    "xt_mark",
    "veth",
    "bridge",
    "tun",
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
const PATIENCE: Duration = Duration::from_secs(1200);
/// Where the machine has what an installation has.
const DIST: &str = "/corten";
/// The last line of the machine.
const END: &str = "corten-vm: end";

pub fn run_all(tests: &[String]) -> Result<()> {
    if machine(tests, &mut |_| ())? { Ok(()) } else { bail!("tests failed in the machine") }
}

/// Runs the tests (the usual ones unless named) and passes on every line that the machine says; whether all passed.
pub fn machine(tests: &[String], heard: &mut dyn FnMut(&str)) -> Result<bool> {
    packages::ensure(NEEDS)?;
    let place = target().join("cgroup2");
    std::fs::create_dir_all(&place)?;
    let kernel = kernel(&place)?;
    let named: Vec<&str> = tests.iter().map(String::as_str).collect();
    let of = |usual: &[&str]| if named.is_empty() { usual.join(" ") } else { named.join(" ") };
    let dist = build::dist(Profile::Debug)?;
    let runs = [
        Run { program: program("corten-runtime")?, tests: of(TESTS), threads: 2 },
        // A daemon is given ten seconds to come up, which is little for an emulated processor that does more than that.
        Run { program: program("corten-e2e")?, tests: of(DAEMON_TESTS), threads: 1 },
    ];
    let image = initramfs(&place, &kernel, &dist, &runs)?;
    boot(&kernel.join("vmlinuz"), &image, heard)
}

/// Debian's kernel and the modules that are needed, in a directory. The modules are numbered in the order in which they
/// can be loaded.
fn kernel(place: &Path) -> Result<PathBuf> {
    let dir = place.join("kernel");
    let modules = dir.join("modules");
    if modules.exists() {
        return Ok(dir);
    }
    let tree = place.join("tree");
    std::fs::create_dir_all(&tree)?;
    std::fs::create_dir_all(&dir)?;
    let depends = || capture(Command::new("apt-cache").args(["depends", "linux-image-amd64"]));
    // A machine may never have fetched the lists.
    let depends = depends().or_else(|_| {
        run(Command::new("apt-get").args(["update", "-qq"]))?;
        depends()
    })?;
    let package =
        depends.lines().find_map(|l| l.trim().strip_prefix("Depends: ")).context("no kernel package")?;
    run(Command::new("apt-get").args(["download", "-q", package.trim()]).current_dir(place))?;
    let archive = std::fs::read_dir(place)?.flatten().map(|e| e.path());
    let archive =
        archive.filter(|p| p.extension().is_some_and(|e| e == "deb")).max().context("no archive")?;
    run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&tree))?;
    std::fs::remove_file(archive)?;
    let boot = tree.join("boot");
    let image = std::fs::read_dir(&boot)?.flatten().map(|e| e.path());
    let image = image.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz-")));
    std::fs::copy(image.max().context("no vmlinuz")?, dir.join("vmlinuz"))?;
    let half = dir.join("modules.new");
    std::fs::remove_dir_all(&half).ok();
    std::fs::create_dir_all(&half)?;
    for (number, module) in wanted_modules(&tree)?.iter().enumerate() {
        let name = module.file_name().context("a module")?.to_string_lossy();
        std::fs::copy(module, half.join(format!("{number:03}-{name}")))?;
    }
    std::fs::rename(half, modules)?;
    std::fs::remove_dir_all(tree)?;
    Ok(dir)
}

/// Those of [`MODULES`] with all that they need, each after what it needs.
fn wanted_modules(tree: &Path) -> Result<Vec<PathBuf>> {
    // Since Debian 13 the package has them below usr.
    let root = [tree.to_owned(), tree.join("usr")].into_iter().find(|t| t.join("lib/modules").exists());
    let root = root.context("a package without modules")?;
    let version = std::fs::read_dir(root.join("lib/modules"))?.flatten().next().context("no version")?;
    run(Command::new("depmod").arg("-b").arg(&root).arg(version.file_name()))?;
    let text = std::fs::read_to_string(version.path().join("modules.dep"))?;
    let needs: BTreeMap<&str, Vec<&str>> = text
        .lines()
        .filter_map(|l| {
            l.split_once(':').map(|(file, needs)| (file, needs.split_ascii_whitespace().collect()))
        })
        .collect();
    let mut order = Vec::new();
    for file in needs.keys() {
        let name = file.rsplit('/').next().unwrap_or(file).replace('-', "_");
        let name = name.split(".ko").next().unwrap_or_default();
        if MODULES.iter().any(|m| if m.ends_with('_') { name.starts_with(m) } else { name == *m }) {
            // depmod lists what a module needs, all of it, the last first.
            for file in needs[file].iter().rev().chain([file]) {
                if !order.contains(file) {
                    order.push(file);
                }
            }
        }
    }
    Ok(order.into_iter().map(|file| version.path().join(file)).collect())
}

/// A test program, and what it is to run.
struct Run {
    program: PathBuf,
    tests: String,
    threads: u32,
}

/// The test program `it` of a package. The runtime's names corten-runtime by its path, so both keep theirs in the
/// machine.
fn program(package: &str) -> Result<PathBuf> {
    let text =
        capture(cargo().args(["test", "-p", package, "--test", "it", "--no-run", "--message-format=json"]))?;
    let last = text.lines().rfind(|l| l.contains("\"executable\":\"") && l.contains("\"name\":\"it\""));
    let path = last.and_then(|l| l.split("\"executable\":\"").nth(1)?.split('"').next());
    Ok(path.context("cargo names no test program")?.into())
}

/// Everything that the machine has.
fn initramfs(place: &Path, kernel: &Path, dist: &Path, runs: &[Run]) -> Result<PathBuf> {
    let tree = place.join("root");
    std::fs::remove_dir_all(&tree).ok();
    let put = |from: &Path, to: &Path| -> Result<()> {
        let to = tree.join(to.strip_prefix("/").unwrap_or(to));
        std::fs::create_dir_all(to.parent().context("a directory")?)?;
        std::fs::copy(from, &to).with_context(|| format!("copy {}", from.display()))?;
        Ok(())
    };
    for dir in ["proc", "sys", "dev", "tmp", "run", "new", "root", "etc"] {
        std::fs::create_dir_all(tree.join(dir))?;
    }
    put(Path::new("/bin/busybox"), Path::new("/bin/busybox"))?;
    for module in std::fs::read_dir(kernel.join("modules"))?.flatten() {
        put(&module.path(), &Path::new("/modules").join(module.file_name()))?;
    }
    let runtime = target().join("debug").join("corten-runtime");
    let ours = ["corten", "corten-runtime"].map(|name| dist.join(name));
    let mut programs: Vec<(&Path, PathBuf)> =
        ours.iter().map(|p| (p.as_path(), Path::new(DIST).join(p.file_name().unwrap_or_default()))).collect();
    programs.push((&runtime, runtime.clone()));
    programs.extend(runs.iter().map(|r| (r.program.as_path(), r.program.clone())));
    for (program, place) in &programs {
        put(program, place)?;
        run(Command::new("strip").arg(tree.join(place.strip_prefix("/").unwrap_or(place))))?;
    }
    for helper in HELPERS {
        put(Path::new(helper), Path::new(helper))?;
    }
    for program in programs.iter().map(|(p, _)| *p).chain(HELPERS.iter().map(Path::new)) {
        // A static program has none, which is an error for ldd.
        let libraries = Command::new("ldd").arg(program).output()?.stdout;
        let libraries = String::from_utf8_lossy(&libraries);
        for library in libraries.split_ascii_whitespace().filter(|w| w.starts_with('/') && !w.ends_with(':'))
        {
            put(Path::new(library), Path::new(library))?;
        }
    }
    for extension in ["libxt_mark.so", "libxt_standard.so"] {
        let path =
            PathBuf::from(format!("/usr/lib/{}-linux-gnu/xtables/{extension}", std::env::consts::ARCH));
        if path.exists() {
            put(&path, &path)?;
        }
    }
    std::fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    std::fs::write(tree.join("etc/group"), "root:x:0:\n")?;
    let init = tree.join("init");
    std::fs::write(&init, script(runs))?;
    std::fs::set_permissions(&init, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let image = place.join("initramfs");
    let pack = "find . | cpio -o -H newc --quiet";
    let out = std::fs::File::create(&image)?;
    run(Command::new("sh").args(["-c", pack]).current_dir(&tree).stdout(out))?;
    Ok(image)
}

/// What the machine does. The root of an initramfs cannot be pivoted away from, so all is moved to a tmpfs first.
fn script(runs: &[Run]) -> String {
    let skipped: String = SKIPPED.iter().map(|s| format!(" --skip {s}")).collect();
    let runs: String = runs
        .iter()
        .map(|Run { program, tests, threads }| {
            format!("{} --test-threads={threads} {tests}{skipped} || result=1\n", program.display())
        })
        .collect();
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

/// Boots, shows what the machine says, and takes its result for ours.
fn boot(kernel: &Path, image: &Path, heard: &mut dyn FnMut(&str)) -> Result<bool> {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-m", "2048", "-smp", "2", "-nographic", "-no-reboot", "-nic", "none", "-cpu", "max"]);
    // A /dev/kvm inside a virtual machine may be there and not work; emulation always does.
    command.args(["-accel", "tcg"]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(image);
    command.args(["-append", "console=ttyS0 quiet panic=-1 psi=1 cgroup_no_v1=all"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start qemu")?;
    let output = child.stdout.take().context("output of qemu")?;
    let (line, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let all = BufReader::new(output).split(b'\n').map_while(Result::ok);
        all.map(|l| String::from_utf8_lossy(&l).trim_end().to_owned()).try_for_each(|l| line.send(l))
    });
    let (until, mut passed, mut done) = (Instant::now() + PATIENCE, false, false);
    while !done && let Ok(line) = lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
        writeln!(std::io::stdout(), "{line}").ok();
        heard(&line);
        passed |= line.contains("corten-vm: result 0");
        done = line.contains(END);
    }
    child.kill().ok();
    child.wait()?;
    if !done {
        bail!("the machine ended early, or was not done after {} seconds", PATIENCE.as_secs());
    }
    Ok(passed)
}
