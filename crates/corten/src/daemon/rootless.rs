//! The daemon of an ordinary user: user, mount, network and PID namespaces around the same daemon.
//!
//! ```text
//!  corten daemon (the user)                        in the namespaces
//!    clone ──────────────────────────────────────▶ waits
//!    newuidmap, newgidmap                            |
//!    slirp4netns: tap0, name server, host's ports    |
//!      ── go ────────────────────────────────────▶ becomes root, mounts /proc, turns into an init (process 1)
//!    passes signals on, waits                        └─ corten daemon --rootless: the daemon, told where to listen
//! ```
//!
//! All containers are in the PID namespace: they end with the daemon, however that ends. When we end, the kernel ends
//! the init, and slirp4netns finds its `--exit-fd` closed.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use corten_sys::mount::{self, Propagation, attr};
use corten_sys::process::{self, Child, namespace};
use corten_sys::signal::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Tells the daemon inside where its forwarder and its name server are.
const VARIABLE: &str = "CORTEN_ROOTLESS";
/// slirp4netns's own name server, as seen inside.
const NAME_SERVER: &str = "10.0.2.3";
const NETWORK_WITHIN: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
const TERM: i32 = 15;
const INT: i32 = 2;
const HUP: i32 = 1;
const CHLD: i32 = 17;

/// Where a daemon of an ordinary user has its things.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// `$XDG_RUNTIME_DIR`: socket and exec root.
    pub(crate) runtime: PathBuf,
    /// `$XDG_DATA_HOME`: data root.
    pub(crate) data: PathBuf,
    /// `$XDG_CONFIG_HOME`: configuration file.
    pub(crate) config: PathBuf,
    /// Of this one run: the forwarder's socket, and what the name server is.
    net: PathBuf,
}

impl Places {
    /// Inside: as the outside told us.
    pub(crate) fn inside() -> Option<Self> {
        let net = PathBuf::from(std::env::var_os(VARIABLE)?);
        Self::of(net.parent()?.to_owned(), net)
    }

    fn of(runtime: PathBuf, net: PathBuf) -> Option<Self> {
        let home = PathBuf::from(std::env::var_os("HOME")?);
        let xdg = |variable: &str, default: &str| {
            let given = std::env::var_os(variable).map(PathBuf::from).filter(|p| p.is_absolute());
            given.unwrap_or_else(|| home.join(default)).join("corten")
        };
        let (data, config) = (xdg("XDG_DATA_HOME", ".local/share"), xdg("XDG_CONFIG_HOME", ".config"));
        Some(Self { runtime, data, config, net })
    }

    /// The socket on which slirp4netns takes orders.
    pub(crate) fn forwarder(&self) -> PathBuf {
        self.net.join("slirp.sock")
    }

    /// Resolver configuration for containers.
    pub(crate) fn resolv_conf(&self) -> PathBuf {
        self.net.join("resolv.conf")
    }
}

/// Whether this process has to go the long way round.
pub(super) fn is_needed() -> bool {
    !rustix::process::geteuid().is_root()
}

/// Runs the daemon in namespaces of its own; the exit code.
pub(super) fn main(args: &[OsString]) -> i32 {
    match run(args) {
        Ok(code) => code,
        Err(e) => super::complain(&format!("failed to start the rootless daemon: {e:#}"), 1),
    }
}

fn run(args: &[OsString]) -> Result<i32> {
    let uid = rustix::process::geteuid().as_raw();
    let runtime = corten_base::own::runtime_dir(uid);
    make_private(&runtime, uid)?;
    let net = runtime.join(format!("corten-net-{}", std::process::id()));
    make_private(&net, uid)?;
    let places = Places::of(runtime, net.clone()).context("HOME is not set")?;
    make_room();
    let done = serve(args, uid, &places);
    std::fs::remove_dir_all(&net).ok();
    done
}

/// The control group of a daemon whose user was given one (systemd's `Delegate=yes`), below that one: the kernel lets
/// a group have controllers for its children only if it has no processes of its own (cgroups(7)).
const OWN_GROUP: &str = "corten-daemon";
const GROUPS: &str = "/sys/fs/cgroup";

/// The control group that this process is in, where there is only the second version.
fn own_group() -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    text.strip_prefix("0::").filter(|_| text.lines().count() == 1).map(|path| PathBuf::from(path.trim_end()))
}

fn below_root(group: &Path) -> PathBuf {
    Path::new(GROUPS).join(group.strip_prefix("/").unwrap_or(group))
}

/// Leaves a control group that belongs to the user to the groups of containers, and goes into one beside them. Where
/// there is none, containers go without limits.
fn make_room() {
    use rustix::fs::Access;
    let Some(group) = own_group().filter(|g| g.file_name().is_some_and(|name| name != OWN_GROUP)) else {
        return;
    };
    let dir = below_root(&group);
    let ours = |name: &str| rustix::fs::access(dir.join(name), Access::WRITE_OK).is_ok();
    if !["", "cgroup.procs", "cgroup.subtree_control"].into_iter().all(ours) {
        return;
    }
    let own = dir.join(OWN_GROUP).join("cgroup.procs");
    std::fs::create_dir(dir.join(OWN_GROUP)).ok();
    let all = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in all.lines() {
        // One that has ended meanwhile.
        std::fs::write(&own, pid).ok();
    }
}

/// Inside: where containers have their groups, if [`make_room`] made room for them.
pub(super) fn cgroup_parent() -> Option<String> {
    let group = own_group().filter(|g| g.file_name().is_some_and(|name| name == OWN_GROUP))?;
    Some(group.parent()?.join("docker").to_str()?.to_owned())
}

/// A directory of ours that nobody else can write to.
fn make_private(dir: &Path, uid: u32) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("create {}", dir.display()))?;
    let meta = std::fs::symlink_metadata(dir).with_context(|| format!("stat {}", dir.display()))?;
    if !meta.is_dir() || meta.uid() != uid || meta.mode() & 0o022 != 0 {
        bail!("{} must be a directory of user {uid} that nobody else can write to", dir.display());
    }
    Ok(())
}

fn serve(args: &[OsString], uid: u32, places: &Places) -> Result<i32> {
    let ranges = Ranges::of(uid)?;
    let program = std::env::current_exe().context("find our own program")?;
    let mut line = vec![c_string(program.as_os_str())?, c"daemon".to_owned(), c"--rootless".to_owned()];
    for arg in args {
        line.push(c_string(arg)?);
    }
    let env = environment(places)?;
    // Before the clone: process 1 blocks them as well until it has its own way of hearing them.
    let signals = SignalFd::of(&[TERM, INT, HUP, CHLD]).context("signalfd")?;
    let (go, told) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("pipe")?;
    let kinds = namespace::USER | namespace::MOUNT | namespace::NET | namespace::PID | namespace::IPC;
    let child = process::clone_process(kinds, None, || inside(&go, &line, &env));
    let child = child.context("make a user namespace (is user.max_user_namespaces 0?)")?;
    drop(go);
    ranges.map(child.pid, uid)?;
    let network = Slirp::start(child.pid, places)?;
    if let Ok(first) = std::fs::read("/proc/sys/net/ipv4/ip_unprivileged_port_start") {
        let path = places.net.join(corten_engine::FIRST_PORT);
        std::fs::write(&path, first).with_context(|| format!("write {}", path.display()))?;
    }
    rustix::io::write(&told, b"g").context("let the daemon go")?;
    let code = wait(&child, &signals);
    drop(network);
    code
}

fn c_string(text: &std::ffi::OsStr) -> Result<CString> {
    CString::new(text.as_bytes()).context("an argument with a NUL byte")
}

fn environment(places: &Places) -> Result<Vec<CString>> {
    let ours = [(VARIABLE, &places.net), ("XDG_RUNTIME_DIR", &places.runtime)];
    let mut all = Vec::new();
    for (name, value) in std::env::vars_os() {
        if !ours.iter().any(|(n, _)| name == *n) {
            all.push(CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())?);
        }
    }
    for (name, value) in ours {
        all.push(CString::new([name.as_bytes(), b"=", value.as_os_str().as_bytes()].concat())?);
    }
    Ok(all)
}

/// What the clone does; its exit code.
fn inside(go: &OwnedFd, line: &[CString], env: &[CString]) -> i32 {
    if rustix::io::read(go, &mut [0; 1]) != Ok(1) {
        return 1;
    }
    if let Err(e) = settle() {
        return super::complain(&format!("failed to start the rootless daemon: {e:#}"), 1);
    }
    corten_runtime::init::serve_program(line.to_vec(), env.to_vec())
}

/// Root, a session of its own, and a /proc that shows this PID namespace.
fn settle() -> Result<()> {
    let (uid, gid) = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
    rustix::thread::set_thread_groups(&[]).context("setgroups")?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).context("setgid")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).context("setuid")?;
    corten_sys::caps::die_with_parent().context("prctl")?;
    // The terminal's signals reach the daemon by way of its creator only.
    rustix::process::setsid().context("setsid")?;
    mount::change_all(Propagation::Slave).context("make mounts private")?;
    let proc =
        mount::new("proc", "proc", &[], attr::NOSUID | attr::NODEV | attr::NOEXEC).context("mount proc")?;
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let place = rustix::fs::open("/proc", flags, rustix::fs::Mode::empty()).context("open /proc")?;
    mount::attach(proc.as_fd(), place.as_fd()).context("mount proc")
}

/// Passes signals on until the end.
fn wait(child: &Child, signals: &SignalFd) -> Result<i32> {
    loop {
        let mut fds = [PollFd::new(signals, PollFlags::IN), PollFd::new(&child.pidfd, PollFlags::IN)];
        poll(&mut fds, None).ok();
        while let Ok(Some(signal)) = signals.next() {
            if signal != CHLD {
                process::signal(child.pidfd.as_fd(), signal).ok();
            }
        }
        let mut ended = [PollFd::new(&child.pidfd, PollFlags::IN)];
        if poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|n| n > 0) {
            return Ok(process::wait(child.pidfd.as_fd()).context("wait for the daemon")?.code());
        }
    }
}

/// The user's subordinate ids, as newuidmap and newgidmap take them.
struct Ranges {
    uids: Vec<(u32, u32)>,
    gids: Vec<(u32, u32)>,
}

impl Ranges {
    fn of(uid: u32) -> Result<Self> {
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let name = passwd.lines().find_map(|l| {
            let mut fields = l.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
        });
        let name = name.unwrap_or_else(|| uid.to_string());
        let read = |file: &str| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let range = |l: &str| {
                let mut fields = l.trim().split(':');
                let owner = fields.next()?;
                let range = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
                (owner == name || owner == uid.to_string()).then_some(range)
            };
            text.lines().filter_map(range).collect::<Vec<(u32, u32)>>()
        };
        let (uids, gids) = (read("/etc/subuid"), read("/etc/subgid"));
        if uids.is_empty() || gids.is_empty() {
            bail!(
                "user {name} has no subordinate ids in /etc/subuid and /etc/subgid; as root: \
                 usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"
            );
        }
        Ok(Self { uids, gids })
    }

    /// The user is root inside, and the subordinate ids are everybody else.
    fn map(&self, pid: i32, uid: u32) -> Result<()> {
        let gid = rustix::process::getegid().as_raw();
        for (program, own, ranges) in [("newuidmap", uid, &self.uids), ("newgidmap", gid, &self.gids)] {
            let mut command = Command::new(program);
            command.arg(pid.to_string()).args(["0".to_owned(), own.to_string(), "1".to_owned()]);
            let mut next = 1u32;
            for (first, size) in ranges {
                command.args([next.to_string(), first.to_string(), size.to_string()]);
                next = next.saturating_add(*size);
            }
            let output = command.output().with_context(|| format!("run {program} (package uidmap)"))?;
            if !output.status.success() {
                bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
            }
        }
        Ok(())
    }
}

/// The network of the namespace: a user-mode stack behind a tap device.
struct Slirp {
    child: Child,
    /// Closed, it ends.
    _leash: OwnedFd,
}

impl Slirp {
    fn start(pid: i32, places: &Places) -> Result<Self> {
        let program = find("slirp4netns")
            .context("slirp4netns is not installed: it connects the containers of an ordinary user")?;
        let text = format!("nameserver {NAME_SERVER}\n{}", search_lines());
        std::fs::write(places.resolv_conf(), text).context("write resolv.conf")?;
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("pipe");
        let ((heard, ready), (held, leash)) = (pipe()?, pipe()?);
        let mut errors = corten_sys::memfd::scratch("slirp4netns").context("memfd")?;
        let null =
            std::fs::File::options().read(true).write(true).open("/dev/null").context("open /dev/null")?;
        let socket = places.forwarder().display().to_string();
        let line = [
            "slirp4netns",
            "--configure",
            "--mtu=65520",
            "--disable-host-loopback",
            "--ready-fd=3",
            "--exit-fd=4",
            "--api-socket",
            &socket,
            &pid.to_string(),
            "tap0",
        ];
        let line = line.iter().map(|a| CString::new(*a)).collect::<Result<Vec<_>, _>>()?;
        // The two numbers that are passed on may be those of the pipes themselves: give them others first.
        let above = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 10).context("dup");
        let (ready, held) = (above(&ready)?, above(&held)?);
        let fds = [
            (null.as_fd(), 0),
            (null.as_fd(), 1),
            (errors.as_fd(), 2),
            (ready.as_fd(), 3),
            (held.as_fd(), 4),
        ];
        let path = c_string(program.as_os_str())?;
        let child =
            process::spawn_path(&path, &line, &environment(places)?, &fds).context("start slirp4netns")?;
        drop((ready, held));
        let mut wait = [PollFd::new(&heard, PollFlags::IN)];
        let up = poll(&mut wait, Some(&NETWORK_WITHIN)).is_ok_and(|n| n > 0)
            && rustix::io::read(&heard, &mut [0; 1]) == Ok(1);
        if !up {
            process::signal(child.pidfd.as_fd(), 9).ok();
            process::wait(child.pidfd.as_fd()).ok();
            let mut why = String::new();
            rustix::fs::seek(&errors, rustix::fs::SeekFrom::Start(0)).ok();
            std::io::Read::read_to_string(&mut errors, &mut why).ok();
            bail!("slirp4netns gives no network: {}", why.trim().replace('\n', "; "));
        }
        Ok(Self { child, _leash: leash })
    }
}

impl Drop for Slirp {
    fn drop(&mut self) {
        process::signal(self.child.pidfd.as_fd(), TERM).ok();
        process::wait(self.child.pidfd.as_fd()).ok();
    }
}

/// Search domains of the host's.
fn search_lines() -> String {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let kept = text.lines().filter(|l| l.starts_with("search") || l.starts_with("options"));
    kept.map(|l| format!("{l}\n")).collect()
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/bin", "/usr/bin", "/usr/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|d| d.join(name)).find(|p| p.is_file())
}

impl std::fmt::Debug for Slirp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slirp")
            .field("pid", &self.child.pid)
            .field("leash", &self._leash.as_raw_fd())
            .finish()
    }
}
