//! A busybox root, a monitor, and short ways to run things.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use corten_runtime::cgroup::Cgroup;
use corten_runtime::client::{Event, Launcher, Monitor, News, Reconnected, Shim, ShimError};
use corten_runtime::spec::{Ns, SpecInput, build};
use corten_wire::shim::*;

/// One test's container: directory, root file system, shim.
pub(crate) struct Fixture {
    pub(crate) base: PathBuf,
    pub(crate) id: String,
    monitor: Monitor,
    events: Mutex<Receiver<Event>>,
    pub(crate) bootstrap: Bootstrap,
}

pub(crate) fn launcher() -> &'static Launcher {
    static LAUNCHER: OnceLock<Launcher> = OnceLock::new();
    LAUNCHER.get_or_init(|| {
        let program = std::env::var_os("CORTEN_TEST_RUNTIME")
            .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_corten-runtime")), PathBuf::from);
        Launcher::open(Some(&program)).unwrap()
    })
}

pub(crate) fn privileged() -> bool {
    let ready = rustix::process::geteuid().is_root() && std::path::Path::new("/bin/busybox").exists();
    if !ready {
        corten_testkit::say("skipped: needs root and /bin/busybox");
    }
    ready
}

const APPLETS: &[&str] = &[
    "sh", "cat", "echo", "env", "id", "ls", "sleep", "true", "grep", "mount", "head", "wc", "cut", "sort",
    "awk", "hostname", "touch", "mknod", "ps", "kill", "dd", "df", "stty", "tty", "readlink", "umask", "pwd",
    "seq", "tail", "sed", "yes", "nproc", "mkdir", "ln", "chroot", "unshare", "stat", "od", "tr", "printf",
    "find",
];

impl Fixture {
    pub(crate) fn new(args: &[&str]) -> Self {
        Self::with(args, |_| {})
    }

    pub(crate) fn with(args: &[&str], change: impl FnOnce(&mut SpecInput)) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:08x}{number:056x}", std::process::id());
        let base = std::env::temp_dir().join(format!("corten-runtime-{}-{number}", std::process::id()));
        for dir in ["lower/bin", "lower/etc", "lower/tmp", "upper", "work", "run"] {
            std::fs::create_dir_all(base.join(dir)).unwrap();
        }
        std::fs::copy("/bin/busybox", base.join("lower/bin/busybox")).unwrap();
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", base.join("lower/bin").join(applet)).unwrap();
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home:/bin/sh\n";
        std::fs::write(base.join("lower/etc/passwd"), passwd).unwrap();
        let groups = "root:x:0:\nwheel:x:10:alice\ndaemon:x:1:\nalice:x:1000:\n";
        std::fs::write(base.join("lower/etc/group"), groups).unwrap();
        let mut input = SpecInput {
            args: args.iter().map(ToString::to_string).collect(),
            env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()],
            hostname: "box".into(),
            cgroup_path: format!("/corten-test-{id}").into(),
            ..SpecInput::default()
        };
        input.namespaces.cgroup = Ns::Host;
        change(&mut input);
        let built = build(input).unwrap();
        let bootstrap = Bootstrap {
            version: VERSION,
            id: id.clone(),
            dir: base.join("run"),
            spec: Box::new(built.spec),
            rootfs: Rootfs::Overlay {
                lowers: vec![base.join("lower")],
                upper: Some(base.join("upper")),
                work: Some(base.join("work")),
                volatile: false,
            },
            user: Some(UserSpec::default()),
            init: false,
            default_seccomp: built.default_seccomp,
            runtime: None,
            restore: None,
            stdin: Stdin::default(),
            logging: Logging {
                driver: LogDriver::JsonFile,
                path: base.join("log"),
                max_size: None,
                max_file: 1,
                compress: false,
                attrs: BTreeMap::new(),
                hold: None,
            },
            attach: Vec::new(),
        };
        let (send, receive) = channel();
        let monitor = Monitor::start(move |event| {
            send.send(event).ok();
        })
        .unwrap();
        Self { base, id, monitor, events: Mutex::new(receive), bootstrap }
    }

    pub(crate) fn start(&self) -> Result<(Shim, Started), Fault> {
        self.start_attached(Vec::new())
    }

    pub(crate) fn start_attached(&self, fds: Vec<OwnedFd>) -> Result<(Shim, Started), Fault> {
        launcher().spawn(&self.monitor, &self.bootstrap, fds).map_err(|e| match e {
            ShimError::Fault(fault) => fault,
            other => panic!("{other:?}"),
        })
    }

    pub(crate) fn connect(&self) -> Result<(Shim, ShimState), ShimError> {
        self.reconnect().map(|found| (found.shim, found.state))
    }

    pub(crate) fn reconnect(&self) -> Result<Reconnected, ShimError> {
        Shim::connect(&self.monitor, &self.id, &self.bootstrap.dir)
    }

    pub(crate) fn next(&self) -> News {
        self.events.lock().unwrap().recv_timeout(Duration::from_secs(20)).expect("an event").news
    }

    pub(crate) fn exit(&self) -> Exit {
        loop {
            match self.next() {
                News::Exited(exit) => return exit,
                News::Lost => panic!("lost"),
                News::Oom | News::ExecExited { .. } => {}
            }
        }
    }

    /// Runs to the end: exit code, standard output, standard error.
    pub(crate) fn run(&self) -> (i32, String, String) {
        let (shim, _) = self.start().unwrap_or_else(|f| panic!("{f:?}"));
        let exit = self.exit();
        shim.ack();
        let (out, err) = self.logs();
        (exit.code, out, err)
    }

    pub(crate) fn logs(&self) -> (String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        for line in std::fs::read_to_string(self.base.join("log")).unwrap().lines() {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            let stream = if record["stream"] == "stdout" { &mut out } else { &mut err };
            stream.push_str(record["log"].as_str().unwrap());
        }
        (out, err)
    }

    /// Waits until the container has written this.
    pub(crate) fn wait_for(&self, text: &str) {
        for _ in 0..20_000 {
            if self.logs().0.contains(text) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("{text:?} was not written");
    }

    pub(crate) fn cgroup(&self) -> Cgroup {
        Cgroup::at(format!("/corten-test-{}", self.id).as_ref()).unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Ok((shim, state)) = self.connect() {
            if state.exit.is_none() {
                shim.kill(9, false).ok();
                if !std::thread::panicking() {
                    self.exit();
                }
            }
            shim.ack();
        }
        self.cgroup().destroy().ok();
        std::fs::remove_dir_all(&self.base).ok();
    }
}

/// Runs a command in a default container and gives its standard output.
pub(crate) fn output(args: &[&str], change: impl FnOnce(&mut SpecInput)) -> String {
    let (code, out, err) = Fixture::with(args, change).run();
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    out
}

pub(crate) fn sh(script: &str) -> String {
    output(&["sh", "-c", script], |_| {})
}

pub(crate) fn read_all(fd: OwnedFd) -> Vec<u8> {
    let mut bytes = Vec::new();
    std::fs::File::from(fd).read_to_end(&mut bytes).unwrap();
    bytes
}
