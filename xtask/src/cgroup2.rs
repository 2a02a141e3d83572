//! `cargo xtask cgroup2 [TESTS…]`: the runtime's tests in a small virtual machine with Debian's kernel, where the
//! second version of control groups is all there is.
//!
//! ```text
//!  Debian's linux-image ──▶ vmlinuz, overlay.ko ─┐
//!  test program, its libraries, corten-runtime, ─┼─▶ initramfs ─▶ qemu ─▶ serial console ─▶ the tests' own result
//!  busybox, init                                 ┘
//! ```
//!
//! Everything is emulated: slow, but the same everywhere.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::packages;
use crate::run::{capture, cargo, run, target};

const NEEDS: &[(&str, &str)] = &[
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/bin/cpio", "cpio"),
    ("/bin/busybox", "busybox-static"),
];
/// What is run unless told.
const TESTS: &[&str] = &["cgroup2::", "users::", "inside::", "lifecycle::", "attributes::"];
/// What the machine has not: a tmpfs that maps ids (Linux 6.3; everything there is on tmpfs), and a tun device.
const SKIPPED: &[&str] = &[
    "users::a_bind_mount_shows_other_owners",
    "users::further_processes",
    "users::root_inside",
    "inside::options",
];
const PATIENCE: Duration = Duration::from_secs(900);
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
    let program = program()?;
    let tests: Vec<&str> =
        if tests.is_empty() { TESTS.to_vec() } else { tests.iter().map(String::as_str).collect() };
    let image = initramfs(&place, &kernel, &program, &tests)?;
    boot(&kernel.join("vmlinuz"), &image, heard)
}

/// Debian's kernel and the modules that are needed, in a directory.
fn kernel(place: &Path) -> Result<PathBuf> {
    let dir = place.join("kernel");
    if dir.join("vmlinuz").exists() {
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
    run(Command::new("dpkg-deb").arg("-x").arg(archive).arg(&tree))?;
    let find = |name: &str| capture(Command::new("find").arg(&tree).args(["-name", name]));
    for (pattern, name) in [("overlay.ko*", "overlay.ko"), ("vmlinuz-*", "vmlinuz")] {
        let found = find(pattern)?;
        std::fs::copy(found.lines().next().with_context(|| format!("no {pattern}"))?, dir.join(name))?;
    }
    std::fs::remove_dir_all(tree)?;
    Ok(dir)
}

/// The runtime's test program. It names corten-runtime by its path, so both keep theirs in the machine.
fn program() -> Result<PathBuf> {
    let text = capture(cargo().args([
        "test",
        "-p",
        "corten-runtime",
        "--test",
        "it",
        "--no-run",
        "--message-format=json",
    ]))?;
    let last = text.lines().rfind(|l| l.contains("\"executable\":\"") && l.contains("\"name\":\"it\""));
    let path = last.and_then(|l| l.split("\"executable\":\"").nth(1)?.split('"').next());
    Ok(path.context("cargo names no test program")?.into())
}

/// Everything that the machine has.
fn initramfs(place: &Path, kernel: &Path, program: &Path, tests: &[&str]) -> Result<PathBuf> {
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
    put(&kernel.join("overlay.ko"), Path::new("/overlay.ko"))?;
    let runtime = target().join("debug").join("corten-runtime");
    for program in [program, runtime.as_path()] {
        put(program, program)?;
        let libraries = capture(Command::new("ldd").arg(program))?;
        for library in libraries.split_ascii_whitespace().filter(|w| w.starts_with('/')) {
            put(Path::new(library), Path::new(library))?;
        }
        run(Command::new("strip").arg(tree.join(program.strip_prefix("/").unwrap_or(program))))?;
    }
    std::fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    std::fs::write(tree.join("etc/group"), "root:x:0:\n")?;
    let init = tree.join("init");
    std::fs::write(&init, script(program, tests))?;
    std::fs::set_permissions(&init, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let image = place.join("initramfs");
    let pack = "find . | cpio -o -H newc --quiet";
    let out = std::fs::File::create(&image)?;
    run(Command::new("sh").args(["-c", pack]).current_dir(&tree).stdout(out))?;
    Ok(image)
}

/// What the machine does. The root of an initramfs cannot be pivoted away from, so all is moved to a tmpfs first.
fn script(program: &Path, tests: &[&str]) -> String {
    let tests = tests.join(" ");
    let skipped: String = SKIPPED.iter().map(|s| format!(" --skip {s}")).collect();
    format!(
        "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
if [ ! -e /moved ]; then
  mount -t proc proc /proc; insmod /overlay.ko; umount /proc
  mount -t tmpfs -o size=80%,mode=755 tmpfs /new
  for d in bin lib lib64 usr work root etc init target home; do [ -e /$d ] && cp -a /$d /new/; done
  for d in /*; do [ -e /new$d ] || [ $d = /new ] || [ $d = /overlay.ko ] || cp -a $d /new/; done
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
{program} --test-threads=2 {tests}{skipped}
echo \"corten-vm: result $?\"
echo {END}
poweroff -f
",
        program = program.display()
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
