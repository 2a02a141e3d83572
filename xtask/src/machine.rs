//! Virtual machines with Debian's kernel, under qemu: what those of `cgroup2` and `vm` share.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::run::{capture, cargo, run, target};

/// Modules that containers need, by the beginnings of their names; those that they need come along.
pub const MODULES: &[&str] = &[
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
const PATIENCE: Duration = Duration::from_secs(1200);
/// Where a machine has what an installation has.
pub const DIST: &str = "/corten";
/// The last line of a machine.
pub const END: &str = "corten-vm: end";

/// What to boot.
pub struct Machine<'a> {
    /// As [`kernel`] made it.
    pub kernel: &'a Path,
    pub initramfs: &'a Path,
    /// More of the kernel's command line.
    pub append: &'a str,
    /// Megabytes.
    pub memory: &'a str,
    /// More of qemu's.
    pub further: &'a [String],
}

/// Debian's kernel and the modules that are needed, in a directory. The modules are numbered in the order in which they
/// can be loaded.
pub fn kernel(place: &Path, wanted: &[&str]) -> Result<PathBuf> {
    std::fs::create_dir_all(place)?;
    let dir = place.join("kernel");
    let (modules, list) = (dir.join("modules"), dir.join("wanted"));
    let names = wanted.join("\n");
    if modules.exists() && std::fs::read_to_string(&list).is_ok_and(|l| l == names) {
        return Ok(dir);
    }
    std::fs::remove_dir_all(&modules).ok();
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
    for (number, module) in wanted_modules(&tree, wanted)?.iter().enumerate() {
        let name = module.file_name().context("a module")?.to_string_lossy();
        std::fs::copy(module, half.join(format!("{number:03}-{name}")))?;
    }
    std::fs::rename(half, modules)?;
    std::fs::write(list, names)?;
    std::fs::remove_dir_all(tree)?;
    Ok(dir)
}

/// Those whose names are, or begin with, these, with all that they need, each after what it needs.
fn wanted_modules(tree: &Path, wanted: &[&str]) -> Result<Vec<PathBuf>> {
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
        if wanted.iter().any(|m| if m.ends_with('_') { name.starts_with(m) } else { name == *m }) {
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
pub struct Run {
    pub program: PathBuf,
    pub tests: String,
    pub threads: u32,
}

/// The test program `it` of a package. The runtime's names corten-runtime by its path, so both keep theirs in the
/// machine.
pub fn program(package: &str) -> Result<PathBuf> {
    let text =
        capture(cargo().args(["test", "-p", package, "--test", "it", "--no-run", "--message-format=json"]))?;
    let last = text.lines().rfind(|l| l.contains("\"executable\":\"") && l.contains("\"name\":\"it\""));
    let path = last.and_then(|l| l.split("\"executable\":\"").nth(1)?.split('"').next());
    Ok(path.context("cargo names no test program")?.into())
}

/// Files that an initramfs is made of.
pub struct Tree {
    dir: PathBuf,
}

impl Tree {
    /// With the kernel's modules, busybox, and this as the first program.
    pub fn new(dir: PathBuf, kernel: &Path, init: &str) -> Result<Self> {
        std::fs::remove_dir_all(&dir).ok();
        let tree = Self { dir };
        for dir in ["proc", "sys", "dev", "tmp", "run", "new", "root", "etc"] {
            std::fs::create_dir_all(tree.dir.join(dir))?;
        }
        tree.put(Path::new("/bin/busybox"), Path::new("/bin/busybox"))?;
        for module in std::fs::read_dir(kernel.join("modules"))?.flatten() {
            tree.put(&module.path(), &Path::new("/modules").join(module.file_name()))?;
        }
        tree.script("init", init)?;
        Ok(tree)
    }

    pub fn script(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        std::fs::create_dir_all(path.parent().context("a directory")?)?;
        std::fs::write(&path, text)?;
        Ok(std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?)
    }

    pub fn put(&self, from: &Path, to: &Path) -> Result<()> {
        let to = self.dir.join(to.strip_prefix("/").unwrap_or(to));
        std::fs::create_dir_all(to.parent().context("a directory")?)?;
        std::fs::copy(from, &to).with_context(|| format!("copy {}", from.display()))?;
        Ok(())
    }

    /// Our programs and the tests, below `below`. The runtime's tests name corten-runtime by its path, so both keep
    /// theirs.
    pub fn programs(&self, below: &str, dist: &Path, runs: &[Run]) -> Result<Vec<PathBuf>> {
        let runtime = target().join("debug").join("corten-runtime");
        let mut programs: Vec<(PathBuf, PathBuf)> = ["corten", "corten-runtime"]
            .iter()
            .map(|name| (dist.join(name), Path::new(DIST).join(name)))
            .collect();
        programs.push((runtime.clone(), runtime));
        programs.extend(runs.iter().map(|r| (r.program.clone(), r.program.clone())));
        for (program, place) in &programs {
            let place = Path::new(below).join(place.strip_prefix("/").unwrap_or(place));
            self.put(program, &place)?;
            run(Command::new("strip").arg(self.dir.join(place.strip_prefix("/").unwrap_or(&place))))?;
        }
        Ok(programs.into_iter().map(|(from, _)| from).collect())
    }

    pub fn pack(&self, image: &Path) -> Result<()> {
        let out = std::fs::File::create(image)?;
        let pack = "find . | cpio -o -H newc --quiet";
        run(Command::new("sh").args(["-c", pack]).current_dir(&self.dir).stdout(out))
    }
}

/// The lines of a script that run the tests.
pub fn lines(runs: &[Run], skipped: &[&str]) -> String {
    let skipped: String = skipped.iter().map(|s| format!(" --skip {s}")).collect();
    let line = |Run { program, tests, threads }: &Run| {
        format!("{} --test-threads={threads} {tests}{skipped} || result=1\n", program.display())
    };
    runs.iter().map(line).collect()
}

/// Boots, shows what the machine says, and takes its result for ours.
pub fn boot(machine: &Machine<'_>, heard: &mut dyn FnMut(&str)) -> Result<bool> {
    let mut command = Command::new("qemu-system-x86_64");
    command.args([
        "-m",
        machine.memory,
        "-smp",
        "2",
        "-nographic",
        "-no-reboot",
        "-nic",
        "none",
        "-cpu",
        "max",
    ]);
    // A /dev/kvm inside a virtual machine may be there and not work; emulation always does.
    command.args(["-accel", "tcg"]);
    command.arg("-kernel").arg(machine.kernel.join("vmlinuz")).arg("-initrd").arg(machine.initramfs);
    command.args(["-append", &format!("console=ttyS0 quiet panic=-1 psi=1 {}", machine.append)]);
    command.args(machine.further);
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
