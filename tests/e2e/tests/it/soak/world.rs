//! What the clients share: the way to the daemon, the list of what went wrong, and the host's footprint.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use corten_testkit::{Daemon, http};
use serde_json::Value;

/// An answer of the daemon, or that it went away before it could give one.
#[derive(Debug)]
pub(super) enum Answer {
    Status(u16, Vec<u8>),
    Gone,
}

#[derive(Debug)]
pub(super) struct World {
    socket: PathBuf,
    netns: String,
    problems: Mutex<Vec<String>>,
    operations: AtomicU64,
    finished: AtomicBool,
}

impl World {
    pub(super) fn new(daemon: &Daemon) -> Self {
        Self {
            socket: daemon.socket(),
            netns: daemon.netns().to_owned(),
            problems: Mutex::default(),
            operations: AtomicU64::new(0),
            finished: AtomicBool::new(false),
        }
    }

    pub(super) fn finish(&self) {
        self.finished.store(true, Ordering::Relaxed);
    }

    /// Whether the clients shall clean up and leave.
    pub(super) fn ended(&self) -> bool {
        self.finished.load(Ordering::Relaxed) || !self.problems().is_empty()
    }

    pub(super) fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    pub(super) fn problems(&self) -> Vec<String> {
        self.problems.lock().expect("never poisoned").clone()
    }

    pub(super) fn wrong(&self, what: String) {
        self.problems.lock().expect("never poisoned").push(what);
    }

    /// One request; a daemon that is away is waited for, but the request is not repeated.
    pub(super) fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.operations.fetch_add(1, Ordering::Relaxed);
        let bytes = body.map(|b| b.to_string().into_bytes());
        self.send(method, path, bytes.as_deref().map(|b| ("application/json", b)))
    }

    /// The same with a body that is no JSON.
    pub(super) fn send(&self, method: &str, path: &str, body: Option<(&str, &[u8])>) -> Answer {
        let begin = Instant::now();
        match http::request(&self.socket, method, path, body) {
            Ok(r) => Answer::Status(r.status, r.body),
            Err(e) => {
                if begin.elapsed() > Duration::from_secs(55) {
                    self.wrong(format!("{method} {path} had no answer for {:?}: {e:#}", begin.elapsed()));
                }
                self.wait_until_back();
                Answer::Gone
            }
        }
    }

    fn wait_until_back(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while http::request(&self.socket, "GET", "/_ping", None).map_or(true, |r| r.status != 200) {
            if Instant::now() > deadline {
                self.wrong("the daemon stays away".into());
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether a page comes from this loopback port of the host.
    pub(super) fn page(&self, port: u16) -> bool {
        let script =
            format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 5 busybox nc 127.0.0.1 {port} | head -1");
        let output = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.netns))
            .args(["sh", "-c", &script])
            .output();
        output.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains(" 200 "))
    }
}

/// What a daemon without containers occupies.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Footprint {
    descriptors: usize,
    links: usize,
    firewall_lines: usize,
    snapshots: Vec<String>,
    container_directories: usize,
    resident_kb: u64,
}

impl Footprint {
    /// Taken when it no longer shrinks: removals finish behind the answer.
    pub(super) fn settled(daemon: &Daemon) -> Self {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut last = Self::take(daemon);
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let next = Self::take(daemon);
            if next.descriptors == last.descriptors && next.links == last.links || Instant::now() > deadline {
                return next;
            }
            last = next;
        }
    }

    fn take(daemon: &Daemon) -> Self {
        let entries = |path: &Path| std::fs::read_dir(path).map_or(0, Iterator::count);
        let lines = |program: &str, args: &[&str]| {
            let output = daemon.in_netns(program).args(args).output().expect("the program runs");
            String::from_utf8_lossy(&output.stdout).lines().count()
        };
        let proc = PathBuf::from(format!("/proc/{}", daemon.pid()));
        let status = std::fs::read_to_string(proc.join("status")).unwrap_or_default();
        let resident = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        Self {
            descriptors: entries(&proc.join("fd")),
            links: lines("ip", &["-o", "link"]),
            firewall_lines: lines("nft", &["list", "ruleset"]),
            // Not `top`: those few empty directories are shared by all containers to come.
            snapshots: ["layers", "rw", "tmp"]
                .iter()
                .flat_map(|part| {
                    let entries = std::fs::read_dir(daemon.dir().join("data/snapshots").join(part));
                    let names = entries.into_iter().flatten().flatten();
                    names.map(move |e| format!("{part}/{}", e.file_name().to_string_lossy()))
                })
                .collect(),
            container_directories: entries(&daemon.dir().join("data/containers"))
                + entries(&daemon.dir().join("exec/containers")),
            resident_kb: resident.and_then(|r| r.split_whitespace().next()?.parse().ok()).unwrap_or(0),
        }
    }

    /// What has grown. Descriptors may vary by the pools' threads and connections, memory by what the allocator
    /// keeps.
    pub(super) fn compare(&self, after: &Self) -> Vec<String> {
        let mut grown = Vec::new();
        let mut check = |what: &str, before: usize, after: usize, slack: usize| {
            if after > before + slack {
                grown.push(format!("{what}: {before} before, {after} after"));
            }
        };
        check("file descriptors", self.descriptors, after.descriptors, 16);
        check("links", self.links, after.links, 0);
        check("lines of the firewall", self.firewall_lines, after.firewall_lines, 0);
        check("container directories", self.container_directories, after.container_directories, 0);
        let kb = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        check("resident kB", kb(self.resident_kb), kb(after.resident_kb), 48 << 10);
        for snapshot in after.snapshots.iter().filter(|s| !self.snapshots.contains(s)) {
            grown.push(format!("snapshot {snapshot} is left"));
        }
        grown
    }
}
