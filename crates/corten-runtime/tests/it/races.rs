//! Attacks by somebody who changes things while the runtime looks: a thread swaps a directory for a link and back as
//! fast as it can. A start may fail then; what it must not do is touch anything outside of the container.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use corten_wire::oci_runtime::Mount;
use serde_json::json;

use crate::harness::{Fixture, privileged, read_all};
use crate::oci::Bundle;

/// Swaps `name` in `dir` between a directory (what is in its place) and a link, until it is dropped.
struct Swapper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Swapper {
    fn new(dir: &Path, name: &str, target: &Path) -> Self {
        let (real, link) = (dir.join(name), dir.join(format!(".{name}.link")));
        std::fs::create_dir_all(&real).unwrap();
        symlink(target, &link).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            while !told.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(rustix::fs::CWD, &real, rustix::fs::CWD, &link, flags).ok();
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().count() == 0
}

/// Nothing of the host's mount table is below this place.
fn not_mounted(dir: &Path) -> bool {
    !std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(dir.to_str().unwrap())
}

const ROUNDS: usize = 40;

/// CVE-2021-30465, CVE-2024-45310: two containers share a volume; one swaps a directory that the other's mount goes
/// into for a link to the host's.
#[test]
fn a_mount_destination_is_swapped_for_a_link() {
    if !privileged() {
        return;
    }
    let mut started = 0;
    for _ in 0..ROUNDS {
        let mut b = Fixture::new(&["sh", "-c", "ls /volume/target/inside"]);
        let (volume, outside) = (b.base.join("volume"), b.base.join("outside"));
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::create_dir_all(&volume).unwrap();
        let bind = |source: PathBuf, destination: &str| Mount {
            destination: destination.into(),
            fstype: "bind".into(),
            source: source.display().to_string(),
            options: vec!["rbind".into()],
            ..Mount::default()
        };
        b.bootstrap.spec.mounts.push(bind(volume.clone(), "/volume"));
        b.bootstrap.spec.mounts.push(bind("/usr".into(), "/volume/target/inside"));
        // The link is absolute: followed on the host it leads out, inside it leads to where nothing is.
        let swapper = Swapper::new(&volume, "target", &outside);
        if let Ok((shim, _)) = b.start() {
            started += 1;
            b.exit();
            shim.ack();
        }
        drop(swapper);
        assert!(is_empty(&outside) && not_mounted(&outside), "something was made or mounted on the host");
    }
    assert!(started > 0, "the race was never won by the runtime: the test shows nothing");
}

/// CVE-2023-27561, CVE-2019-16884: /proc of a shared root directory is swapped for a link to a directory of the
/// attacker's, so that masks and read-only paths are applied to something else.
#[test]
fn proc_is_swapped_for_a_link() {
    if !privileged() {
        return;
    }
    // Wherever a procfs is in the container's sight, it must have its masks.
    let script = "for p in /proc /evil /.proc.link; do [ -e $p/1/status ] || continue; \
                  (echo 4096 > $p/sys/kernel/shmmni) 2>/dev/null && echo written >> /result; \
                  cat $p/version >> /result; done; echo done >> /result";
    let mut started = 0;
    for _ in 0..ROUNDS {
        let b = Bundle::with(&["/bin/sh", "-c", script], |c| {
            c["linux"]["maskedPaths"] = json!(["/proc/version"]);
            c["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
        });
        let root = b.base.join("bundle/rootfs");
        std::fs::create_dir(root.join("evil")).unwrap();
        let swapper = Swapper::new(&root, "proc", Path::new("/evil"));
        let (code, _) = b.say(&["create", "--bundle", &b.path("bundle"), &b.id]);
        drop(swapper);
        if code == 0 && b.say(&["start", &b.id]).0 == 0 {
            b.wait_for("stopped");
            started += 1;
            assert_eq!(std::fs::read_to_string(root.join("result")).unwrap(), "done\n");
        }
    }
    assert!(started > 0, "the race was never won by the runtime: the test shows nothing");
}

/// CVE-2018-15664's kin: the working directory, which is made where it is missing, is swapped for a link.
#[test]
fn the_working_directory_is_swapped_for_a_link() {
    if !privileged() {
        return;
    }
    for _ in 0..ROUNDS {
        let b = Bundle::with(&["true"], |c| c["process"]["cwd"] = json!("/work/deep/place"));
        let outside = b.base.join("outside");
        std::fs::create_dir(&outside).unwrap();
        let swapper = Swapper::new(&b.base.join("bundle/rootfs"), "work", &outside);
        b.run(&[]);
        drop(swapper);
        assert!(is_empty(&outside), "made on the host");
    }
}

/// CVE-2016-9962, CVE-2019-5736: a process inside looks at, and tries to write to, everything that enters by exec.
#[test]
fn what_enters_cannot_be_looked_into() {
    if !privileged() {
        return;
    }
    let script = "while true; do for p in /proc/[0-9]*; do \
                  ls -l $p/fd 2>/dev/null | grep -E 'socket:|memfd:|corten' >> /seen; \
                  readlink $p/exe $p/cwd 2>/dev/null | grep -E 'memfd:|corten' >> /seen; \
                  (echo x > $p/exe) 2>/dev/null && echo written >> /seen; done; done";
    let b = Fixture::new(&["sh", "-c", script]);
    let program = std::fs::read(env!("CARGO_BIN_EXE_corten-runtime")).unwrap();
    let (shim, _) = b.start().unwrap_or_else(|f| panic!("{f:?}"));
    for i in 0..ROUNDS {
        let spec = corten_wire::shim::ExecSpec {
            id: format!("e{i}"),
            args: vec!["/bin/true".into()],
            stdout: true,
            ..corten_wire::shim::ExecSpec::default()
        };
        let mut started = shim.exec(spec).unwrap();
        read_all(started.fds.pop().unwrap());
    }
    shim.kill(9, false).unwrap();
    b.exit();
    shim.ack();
    let seen = std::fs::read_to_string(b.base.join("upper/seen")).unwrap_or_default();
    assert_eq!(seen, "");
    assert!(std::fs::read(env!("CARGO_BIN_EXE_corten-runtime")).unwrap() == program);
}

/// CVE-2019-5736: the program of an exec is the runtime itself, by way of `#!/proc/self/exe`, while another process
/// tries to write to it.
#[test]
fn the_runtime_run_as_an_interpreter_cannot_be_overwritten() {
    if !privileged() {
        return;
    }
    let script = "while true; do for p in /proc/[0-9]*; do [ $p = /proc/1 ] || (echo evil > $p/exe) 2>/dev/null; done; done";
    let b = Bundle::new(&["sh", "-c", script]);
    let evil = b.base.join("bundle/rootfs/evil");
    std::fs::write(&evil, "#!/proc/self/exe\n").unwrap();
    std::fs::set_permissions(&evil, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // A copy of the runtime of this test's own, to be attacked.
    let copy = b.base.join("runtime");
    std::fs::copy(env!("CARGO_BIN_EXE_corten-runtime"), &copy).unwrap();
    let before = std::fs::read(&copy).unwrap();
    assert_eq!(b.run(&["-d"]).0, 0);
    for _ in 0..ROUNDS {
        let root = b.path("root");
        std::process::Command::new(&copy)
            .args(["oci", "--root", &root, "exec", &b.id, "/evil"])
            .output()
            .unwrap();
        assert!(std::fs::OpenOptions::new().append(true).open(&copy).is_ok(), "it is busy");
    }
    assert!(std::fs::read(&copy).unwrap() == before, "overwritten");
}
