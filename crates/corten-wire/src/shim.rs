//! The protocol between the daemon and a container's shim.
//!
//! One packet of a `SOCK_SEQPACKET` socket is one JSON message. A message longer than [`INLINE`] travels in a
//! sealed memfd: the packet is then [`BODY_FOLLOWS`] and the memfd is the first descriptor. Nothing is longer
//! than [`MAX_MESSAGE`].
//!
//! ```text
//!  daemon                                    shim
//!    | spawn, fd 0 = socket                    |
//!    |-- Bootstrap  (+ one fd per attach) ---->|   creates and starts the container
//!    |<- BootstrapReply -----------------------|   Started, or a Fault and the shim leaves
//!    |-- Request{seq, call} (+ fds) ---------->|   any number, replies in any order
//!    |<- Message::Reply{seq, ..} (+ fds) ------|
//!    |<- Message::Notice ----------------------|   Oom, ExecExited, Exited
//!    |-- Request{Ack} ------------------------>|   after Exited: the shim may leave
//!
//!  a later daemon connects to <dir>/shim.sock, sends Hello first, and gets the notices from then on;
//!  an Exited that happened meanwhile is the first thing it hears after Hello's reply.
//! ```
//!
//! Requests are idempotent. A shim speaks to every daemon whose [`VERSION`] is its own or up to two later.

use std::collections::BTreeMap;
use std::path::PathBuf;

use corten_base::Kind;
use serde::{Deserialize, Serialize};

use crate::oci_runtime::{ConsoleSize, Resources, Spec};

/// Version of this protocol.
pub const VERSION: u32 = 1;
/// The longest message that is put into a packet itself.
pub const INLINE: usize = 64 * 1024;
/// The longest message at all (environment, custom seccomp profile).
pub const MAX_MESSAGE: usize = 8 * 1024 * 1024;
/// The packet that announces a message in a memfd.
pub const BODY_FOLLOWS: &[u8] = b"@";
/// The most descriptors one packet carries.
pub const MAX_FDS: usize = 32;
/// Name of the shim's socket in the container's directory.
pub const SOCKET_NAME: &str = "shim.sock";
/// Name of the exit record in the container's directory: an [`Exit`].
pub const EXIT_NAME: &str = "exit.json";
/// Name of the file with a running shim's facts: a [`ShimRecord`].
pub const SHIM_NAME: &str = "shim.json";

/// Everything a shim needs to create and start its container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bootstrap {
    /// [`VERSION`] of the daemon.
    pub version: u32,
    /// The container's full id.
    pub id: String,
    /// `<exec-root>/containers/<id>`; must exist. The shim's socket and records live there.
    pub dir: PathBuf,
    /// What to run. `root.path` is not used, `root.readonly` is.
    pub spec: Box<Spec>,
    /// Where the root file system comes from. With a user namespace its files belong to the ids inside: an owner 0 on
    /// disk is the container's root, and what that one makes has the owner 0 on disk.
    pub rootfs: Rootfs,
    /// Names to be looked up in the container's own passwd and group files; replaces `process.user`.
    pub user: Option<UserSpec>,
    /// Run `process.args` below our own tiny init, visible as `/sbin/docker-init`.
    #[serde(default)]
    pub init: bool,
    /// Apply Docker's default seccomp profile for the capabilities of the container; `linux.seccomp` must then
    /// be absent. Not set and no `linux.seccomp`: no filter.
    #[serde(default)]
    pub default_seccomp: bool,
    /// The OCI runtime that makes and runs the container; absent: our own, inside the shim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<ForeignRuntime>,
    /// Images of a checkpoint: the processes are made from these instead of being started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<PathBuf>,
    /// Standard input.
    pub stdin: Stdin,
    /// Where output is recorded.
    pub logging: Logging,
    /// Clients attached before the first byte; one descriptor (unix stream socket) each, in this order. Descriptors
    /// beyond those are kept for the next daemon, see [`Call::Hello`].
    #[serde(default)]
    pub attach: Vec<Attach>,
}

/// A program with runc's command line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignRuntime {
    /// Absolute.
    pub path: PathBuf,
    /// Before everything else on its command line.
    #[serde(default)]
    pub args: Vec<String>,
}

impl ForeignRuntime {
    /// The program of the shim itself in its other role: it honours hooks.
    #[must_use]
    pub fn own_command_line() -> Self {
        Self { path: "/proc/self/exe".into(), args: vec!["oci".to_owned()] }
    }
}

/// Source of the root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rootfs {
    /// A directory of the host.
    Path(PathBuf),
    /// An overlay mounted inside the container's mount namespace only.
    Overlay {
        /// Topmost first.
        lowers: Vec<PathBuf>,
        /// Absent makes a read-only root.
        upper: Option<PathBuf>,
        /// On the same file system as `upper`; needed with it.
        work: Option<PathBuf>,
        /// What is written need not survive a power cut: nothing is ever synced.
        #[serde(default)]
        volatile: bool,
    },
}

/// `--user` and `--group-add`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserSpec {
    /// `name`, `uid`, `name:group`, `uid:gid` …; empty is root.
    pub user: String,
    /// Names or numbers.
    #[serde(default)]
    pub group_add: Vec<String>,
}

/// What the container reads from. With a terminal only `once` matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stdin {
    /// A pipe instead of `/dev/null`.
    pub open: bool,
    /// Close it when the first attached client that gave input is done.
    pub once: bool,
}

/// Where a container's output goes besides to attached clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logging {
    /// Format.
    pub driver: LogDriver,
    /// File to append to; unused for `None`. Rotated files are `<path>.1`, `<path>.2` (`.gz` if compressed).
    pub path: PathBuf,
    /// Rotate before the file grows over this; absent never rotates.
    pub max_size: Option<u64>,
    /// How many files, the current one included; at least 1.
    pub max_file: u32,
    /// Compress rotated files with gzip.
    pub compress: bool,
    /// Put into every record as `attrs` (labels, environment).
    #[serde(default)]
    pub attrs: BTreeMap<String, String>,
    /// File with a [`Delivered`]: the container waits while rotation would drop what lies behind it.
    #[serde(default)]
    pub hold: Option<PathBuf>,
}

/// How far a log is delivered to its driver's receiver. Written by the daemon, read by a shim that must not lose
/// anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// [`Delivered::identity_of`] the first line of a log file. It survives renaming and compression, where an inode
    /// would not, and no two first lines are the same: they carry a time in nanoseconds.
    pub identity: u64,
    /// Bytes of that file, not compressed, that are delivered.
    pub offset: u64,
}

impl Delivered {
    /// FNV-1a of a line without its end: neither secret nor hostile, only different.
    #[must_use]
    pub fn identity_of(line: &[u8]) -> u64 {
        line.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
    }

    /// Reads the text of [`Display`](std::fmt::Display).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (identity, offset) = text.trim_end().split_once(' ')?;
        Some(Self { identity: u64::from_str_radix(identity, 16).ok()?, offset: offset.parse().ok()? })
    }
}

/// One line, always of the same length.
impl std::fmt::Display for Delivered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:016x} {:020}", self.identity, self.offset)
    }
}

/// Log formats.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    /// Docker's `{"log":"…\n","stream":"stdout","time":"…"}`.
    #[default]
    JsonFile,
    /// The same records; a separate name because its defaults differ.
    Local,
    /// Nothing is recorded.
    None,
}

/// What an attached client wants. Its socket carries output one way (stdcopy frames, raw with a terminal) and
/// standard input the other way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Bytes read from the socket go to the container.
    pub stdin: bool,
    /// The client gets standard output.
    pub stdout: bool,
    /// The client gets standard error.
    pub stderr: bool,
}

/// The one reply to [`Bootstrap`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootstrapReply {
    /// The program runs.
    Started(Started),
    /// Nothing runs and nothing is left.
    Failed(Fault),
}

/// A started container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Of the container's init, as the host sees it.
    pub pid: i32,
    /// Nanoseconds since the epoch.
    pub started_at: i64,
}

/// One request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the daemon, repeated in the reply.
    pub seq: u64,
    /// What to do.
    pub call: Call,
}

/// What a daemon may ask.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// First on a connection to `shim.sock`. Reply: [`Reply::State`].
    ///
    /// Descriptors that come along are kept, instead of those kept before, until the container's first process has
    /// ended. To a Hello without any the reply brings what is kept: so a daemon finds the sockets of the one before it
    /// with everything that arrived meanwhile.
    Hello {
        /// [`VERSION`] of the daemon.
        version: u32,
    },
    /// Reply: [`Reply::State`].
    State,
    /// Sends a signal to init, or to every process of the container.
    Kill {
        /// Number.
        signal: i32,
        /// Every process instead of init only.
        all: bool,
    },
    /// Freezes all processes.
    Pause,
    /// Thaws them.
    Resume,
    /// Starts a further process. Reply: [`Reply::ExecStarted`] with descriptors.
    Exec(Box<ExecSpec>),
    /// Sends a signal to an exec's process.
    KillExec {
        /// [`ExecSpec::id`].
        id: String,
        /// Number.
        signal: i32,
    },
    /// Sets the size of a terminal.
    Resize {
        /// An exec's; absent: the container's.
        exec: Option<String>,
        /// New size.
        size: ConsoleSize,
    },
    /// Attaches the client whose socket comes along.
    Attach(Attach),
    /// Changes limits of the running container.
    Update(Box<Resources>),
    /// Opens the log file anew (somebody moved it).
    ReopenLogs,
    /// Writes the processes to files. The shim serves nobody meanwhile.
    Checkpoint {
        /// Directory of the images.
        images: PathBuf,
        /// The container ends then (by SIGKILL).
        exit: bool,
    },
    /// The daemon has recorded the exit: the shim may leave.
    Ack,
}

/// A further process in a running container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    /// Chosen by the daemon; unique in the container.
    pub id: String,
    /// Program and arguments.
    pub args: Vec<String>,
    /// The whole environment, or with `inherit_env` what to add to the container's.
    pub env: Vec<String>,
    /// Start from the environment of the container's init.
    pub inherit_env: bool,
    /// Absent: the container's.
    pub cwd: Option<PathBuf>,
    /// Absent: the container's.
    pub user: Option<UserSpec>,
    /// All capabilities.
    pub privileged: bool,
    /// A pseudo-terminal.
    pub tty: bool,
    /// First size of it.
    pub console_size: Option<ConsoleSize>,
    /// Give the daemon the writing end of standard input (pipes only).
    pub stdin: bool,
    /// Give the daemon the reading end of standard output.
    pub stdout: bool,
    /// Give the daemon the reading end of standard error.
    pub stderr: bool,
}

/// What a shim sends.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// To one request.
    Reply {
        /// Of the request.
        seq: u64,
        /// What came of it.
        result: Result<Reply, Fault>,
    },
    /// Something happened.
    Notice(Notice),
}

/// A successful reply.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Nothing to say.
    Done,
    /// To `Hello` and `State`.
    State(ShimState),
    /// The exec runs. Descriptors: with a terminal its master; otherwise, of stdin, stdout and stderr, the
    /// requested ones in this order.
    ExecStarted {
        /// As the host sees it.
        pid: i32,
    },
}

/// What the shim knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShimState {
    /// [`VERSION`] of the shim.
    pub version: u32,
    /// Of the container's init.
    pub started: Started,
    /// All processes are frozen.
    pub paused: bool,
    /// Present when init has ended.
    pub exit: Option<Exit>,
    /// Running execs.
    pub execs: Vec<String>,
}

/// How the container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// As a shell counts: 128 + signal where killed.
    pub code: i32,
    /// The signal, where killed.
    pub signal: Option<i32>,
    /// The kernel killed some process of the container for want of memory.
    pub oom: bool,
    /// Nanoseconds since the epoch.
    pub at: i64,
}

/// Events a shim reports of its own accord.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// Init has ended, output is recorded, the cgroup is gone, `exit.json` is written.
    Exited(Exit),
    /// An exec has ended.
    ExecExited {
        /// [`ExecSpec::id`].
        id: String,
        /// As a shell counts.
        code: i32,
    },
    /// The kernel killed a process of the container for want of memory.
    Oom,
}

/// `shim.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShimRecord {
    /// [`VERSION`] of the shim.
    pub version: u32,
    /// Of the shim itself.
    pub shim_pid: i32,
    /// Of the container's init.
    pub started: Started,
    /// Path below the hierarchies' roots.
    pub cgroup: PathBuf,
}

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// For branching.
    pub kind: Kind,
    /// Where it failed, a fixed word: `mount`, `exec`, `user`, …
    pub step: String,
    /// What the kernel said.
    pub errno: Option<i32>,
    /// The exit code Docker gives a container or exec that failed so: 126, 127 or 128.
    pub exit_code: i32,
    /// Docker's full text.
    pub message: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}
