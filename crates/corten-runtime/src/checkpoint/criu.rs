//! A conversation with `criu swrk`: one request, its notifications, one response.
//!
//! ```text
//!  we                                    criu (descriptor 3 is the socket)
//!    | spawn ──────────────────────────────▶ |
//!    |-- request: dump, pre-dump, restore ──▶ |
//!    |◀─ notify: setup-namespaces, … ──────── |   any number, each answered before it goes on
//!    |-- notify, success ───────────────────▶ |
//!    |◀─ response ─────────────────────────── |   success, or an error number; the reason is in its log
//! ```
//!
//! Messages are Protocol Buffers (criu's `rpc.proto`). We write a dozen of its options and read six numbers and words
//! of its answers, which is [`Fields`] and [`fields`] here and would be a code generator otherwise.

use std::ffi::{CString, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use corten_sys::process::{self, Child, Ended};
use corten_sys::seqpacket;

use crate::fault::errno_text;

/// What a request is about, with criu's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    Notify = 6,
}

impl Kind {
    fn of(number: u64) -> Option<Self> {
        [Self::Dump, Self::Restore, Self::PreDump, Self::Notify].into_iter().find(|k| *k as u64 == number)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Dump => "DUMP",
            Self::Restore => "RESTORE",
            Self::PreDump => "PRE_DUMP",
            Self::Notify => "NOTIFY",
        }
    }
}

/// criu could not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CriuError {
    /// It is not installed.
    #[error("CRIU version check failed: exec: {0:?}: executable file not found in $PATH")]
    Missing(String),
    /// It says no.
    #[error("criu failed: type {kind} errno {errno}: {reason}")]
    Failed {
        /// `DUMP`, `RESTORE`, …
        kind: &'static str,
        /// Its own number for what went wrong; often 0.
        errno: i64,
        /// The errors of its log.
        reason: String,
    },
    /// It ended in the middle.
    #[error("criu failed: {ended}: {reason}")]
    Ended {
        /// How.
        ended: String,
        /// The errors of its log.
        reason: String,
    },
    /// What we do beside it failed.
    #[error("{what}: {reason}", reason = errno_text(source))]
    Io {
        /// What was done.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// The container cannot be checkpointed, or its configuration not be restored.
    #[error("{0}")]
    Refused(String),
}

impl CriuError {
    pub(super) fn io(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_string();
        move |source| Self::Io { what, source }
    }
}

/// A message in the making.
#[derive(Debug, Default, Clone)]
pub(super) struct Fields(Vec<u8>);

impl Fields {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// A number; negative ones do not occur.
    pub(super) fn number(&mut self, tag: u32, value: impl Into<i64>) -> &mut Self {
        self.varint(u64::from(tag) << 3);
        self.varint(value.into() as u64);
        self
    }

    /// A flag; not written where it is false, as that is criu's default for all that we use.
    pub(super) fn flag(&mut self, tag: u32, value: bool) -> &mut Self {
        if value { self.number(tag, 1) } else { self }
    }

    pub(super) fn text(&mut self, tag: u32, text: &str) -> &mut Self {
        self.varint(u64::from(tag) << 3 | 2);
        self.varint(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    pub(super) fn message(&mut self, tag: u32, message: &Self) -> &mut Self {
        self.varint(u64::from(tag) << 3 | 2);
        self.varint(message.0.len() as u64);
        self.0.extend_from_slice(&message.0);
        self
    }

    /// Two words, as most of criu's small messages are.
    pub(super) fn pair(&mut self, tag: u32, first: &str, second: &str) -> &mut Self {
        let mut pair = Self::default();
        pair.text(1, first).text(2, second);
        self.message(tag, &pair)
    }
}

/// One field of a message that was received.
#[derive(Debug, PartialEq, Eq)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message; `None` once it is not well formed.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = Option<(u32, Value<'_>)>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = one_field(&mut rest);
        if field.is_none() {
            rest = &[];
        }
        Some(field)
    })
}

fn one_field<'a>(rest: &mut &'a [u8]) -> Option<(u32, Value<'a>)> {
    let key = varint(rest)?;
    let tag = u32::try_from(key >> 3).ok()?;
    let value = match key & 7 {
        0 => Value::Number(varint(rest)?),
        1 => Value::Bytes(take(rest, 8)?),
        2 => {
            let length = varint(rest)?;
            Value::Bytes(take(rest, length)?)
        }
        5 => Value::Bytes(take(rest, 4)?),
        _ => return None,
    };
    Some((tag, value))
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = left;
    Some(taken)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, left) = rest.split_first()?;
        *rest = left;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// What criu said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    kind: u64,
    success: bool,
    /// Of the restored first process, or the one that a notification is about.
    pid: i32,
    /// Name of a notification.
    script: String,
    errno: i64,
    message: String,
}

impl Said {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut said = Self::default();
        for field in fields(bytes) {
            match field? {
                (1, Value::Number(kind)) => said.kind = kind,
                (2, Value::Number(success)) => said.success = success != 0,
                (4, Value::Bytes(restored)) => said.inner(restored, 1)?,
                (5, Value::Bytes(notify)) => said.inner(notify, 2)?,
                (7, Value::Number(errno)) => said.errno = i64::from(errno as i32),
                (9, Value::Bytes(text)) => said.message = String::from_utf8_lossy(text).into_owned(),
                _ => {}
            }
        }
        Some(said)
    }

    /// A process number at `pid`, and the name of a notification.
    fn inner(&mut self, bytes: &[u8], pid: u32) -> Option<()> {
        for field in fields(bytes) {
            match field? {
                // Negative where there is no process yet.
                (tag, Value::Number(number)) if tag == pid => self.pid = number as i32,
                (1, Value::Bytes(name)) => self.script = String::from_utf8_lossy(name).into_owned(),
                _ => {}
            }
        }
        Some(())
    }
}

/// Where criu looks for its helpers, and we for criu.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// criu's descriptors 0, 1 and 2 are nothing, 3 is its socket.
const SOCKET: RawFd = 3;
const FIRST_EXTRA: RawFd = 4;
/// How long criu may say nothing: it writes gigabytes between two words.
const SILENCE: Duration = Duration::from_secs(600);
const MAX_ANSWER: usize = 64 * 1024;
/// What is read of a log.
const MAX_LOG: u64 = 16 << 20;

/// The program, by our own `PATH` if we have one.
fn program(name: &Path) -> Result<PathBuf, CriuError> {
    let own = std::env::var_os("PATH").unwrap_or_else(|| OsString::from(PATH.trim_start_matches("PATH=")));
    let found = std::env::split_paths(&own).map(|dir| dir.join(name)).find(|p| {
        p.is_absolute() && rustix::fs::access(p, rustix::fs::Access::EXEC_OK).is_ok() && p.is_file()
    });
    found.ok_or_else(|| CriuError::Missing(name.display().to_string()))
}

/// A criu that waits for its request. Descriptors given to [`Criu::start`] have the numbers from [`Criu::extra`] on.
#[derive(Debug)]
pub(super) struct Criu {
    socket: OwnedFd,
    child: Option<Child>,
    log: PathBuf,
}

/// What a notification tells.
pub(super) struct Notice<'a> {
    /// `setup-namespaces`, `post-restore`, …
    pub(super) name: &'a str,
    /// Of the process that it is about.
    pub(super) pid: i32,
    /// The master of a terminal, with `orphan-pts-master`.
    pub(super) fd: Option<OwnedFd>,
}

impl Criu {
    /// The number that the descriptor `index` of those given has for criu.
    pub(super) fn extra(index: usize) -> i64 {
        i64::from(FIRST_EXTRA) + index as i64
    }

    /// Starts the program. `log` is the file that it was told to write.
    pub(super) fn start(
        wanted: Option<&Path>,
        extra: &[BorrowedFd<'_>],
        log: PathBuf,
    ) -> Result<Self, CriuError> {
        let program = program(wanted.unwrap_or(Path::new("criu")))?;
        let fail = |source| CriuError::Io { what: format!("start {}", program.display()), source };
        let (socket, theirs) = seqpacket::pair().map_err(fail)?;
        rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, Some(SILENCE))
            .map_err(|e| fail(e.into()))?;
        let null = std::fs::File::options().read(true).write(true).open("/dev/null").map_err(fail)?;
        let streams = [null.as_fd(), null.as_fd(), null.as_fd(), theirs.as_fd()];
        // Away from the numbers that they are put to: one could be overwritten before its turn.
        let high = FIRST_EXTRA + extra.len() as RawFd;
        let moved = streams.iter().chain(extra).map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, high));
        let moved = moved.collect::<Result<Vec<_>, _>>().map_err(|e| fail(e.into()))?;
        let fds: Vec<_> = moved.iter().map(AsFd::as_fd).zip(0..).collect();
        let text = |s: &str| CString::new(s).map_err(|e| fail(e.into()));
        let path = text(&program.display().to_string())?;
        let args = [text("criu")?, text("swrk")?, text(&SOCKET.to_string())?];
        let child = process::spawn_path(&path, &args, &[text(PATH)?], &fds).map_err(fail)?;
        Ok(Self { socket, child: Some(child), log })
    }

    /// Its number.
    pub(super) fn pid(&self) -> i32 {
        self.child.as_ref().map_or(0, |c| c.pid)
    }

    /// Makes the request and waits for its end; the number of the restored first process. Whoever hears the notices
    /// can refuse, which ends criu and takes back what it did.
    pub(super) fn ask(
        mut self,
        kind: Kind,
        options: &Fields,
        heard: &mut dyn FnMut(Notice<'_>) -> Result<(), CriuError>,
    ) -> Result<i32, CriuError> {
        let mut request = Fields::default();
        request.number(1, kind as u32).message(2, options);
        self.say(&request)?;
        let mut buffer = vec![0; MAX_ANSWER];
        loop {
            let mut fds = Vec::new();
            let n = seqpacket::recv(self.socket.as_fd(), &mut buffer, &mut fds, true).map_err(|e| match e
                .kind()
            {
                // Dropping it ends it.
                io::ErrorKind::WouldBlock => CriuError::Ended {
                    ended: format!("no word for {} seconds", SILENCE.as_secs()),
                    reason: reason(&self.log, ""),
                },
                _ => CriuError::io("read from criu")(e),
            })?;
            if n == 0 {
                return Err(self.ended());
            }
            let said = Said::read(&buffer[..n])
                .ok_or_else(|| CriuError::Refused("unable to parse the response of criu".into()))?;
            let told = Kind::of(said.kind);
            if !said.success {
                self.end();
                return Err(CriuError::Failed {
                    kind: told.unwrap_or(kind).name(),
                    errno: said.errno,
                    reason: reason(&self.log, said.message.trim()),
                });
            }
            if told != Some(Kind::Notify) {
                self.end();
                return Ok(said.pid);
            }
            heard(Notice { name: &said.script, pid: said.pid, fd: fds.pop() })?;
            let mut answer = Fields::default();
            answer.number(1, Kind::Notify as u32).flag(3, true);
            self.say(&answer)?;
        }
    }

    fn say(&mut self, message: &Fields) -> Result<(), CriuError> {
        match seqpacket::send(self.socket.as_fd(), &message.0, &[], true) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(self.ended()),
            other => other.map_err(CriuError::io("write to criu")),
        }
    }

    /// It ended without an answer.
    fn ended(&mut self) -> CriuError {
        let ended = match self.end() {
            Some(Ended::Exited(code)) => format!("exit status {code}"),
            Some(Ended::Signaled(signal)) => format!("signal {signal}"),
            None => "unexpected EOF".to_owned(),
        };
        CriuError::Ended { ended, reason: reason(&self.log, "") }
    }

    /// Waits for the program after its last word: it holds what it has dumped until it ends. A pre-dump would wait
    /// for the next request; the end of the connection tells it that there is none.
    fn end(&mut self) -> Option<Ended> {
        let child = self.child.take()?;
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both).ok();
        process::wait(child.pidfd.as_fd()).ok()
    }
}

impl Drop for Criu {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            process::signal(child.pidfd.as_fd(), 9).ok();
            process::wait(child.pidfd.as_fd()).ok();
        }
    }
}

/// Errors that only say that there was one.
const EMPTY_WORDS: [&str; 3] = ["Dumping FAILED", "Restoring FAILED", "exited, status="];

/// The last errors in a log of criu's, and where it is. The first ones, which criu itself would tell (`said`), are
/// mostly of things that it can do without.
fn reason(log: &Path, said: &str) -> String {
    let mut text = Vec::new();
    if let Ok(file) = std::fs::File::open(log) {
        file.take(MAX_LOG).read_to_end(&mut text).ok();
    }
    let text = String::from_utf8_lossy(&text);
    let errors = text.lines().filter_map(error_line);
    let telling: Vec<&str> = errors.filter(|e| !EMPTY_WORDS.iter().any(|w| e.contains(w))).collect();
    let last = telling[telling.len().saturating_sub(2)..].join("; ");
    let why = if last.is_empty() { said } else { &last };
    let space = if why.is_empty() { "" } else { " " };
    format!("{why}{space}(log file: {})", log.display())
}

/// `(00.1)      7: Error (criu/x.c:1): what` without its time and number.
fn error_line(line: &str) -> Option<&str> {
    let at = line.find("Error (")?;
    Some(line[at..].trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_protocol_buffers_write_them() {
        let mut inner = Fields::default();
        inner.number(1, 300).flag(3, true).flag(4, false).text(10, "x");
        let mut outer = Fields::default();
        outer.number(1, Kind::Restore as u32).message(2, &inner).pair(23, "a", "bc");
        let want =
            [&[8, 2, 18, 8, 8, 0xac, 2, 24, 1, 82, 1][..], b"x", &[0xba, 1, 7, 10, 1], b"a", &[18, 2], b"bc"]
                .concat();
        assert_eq!(outer.0, want);
    }

    #[test]
    fn answers_are_read_and_rubbish_is_not() {
        let mut notify = Fields::default();
        notify.text(1, "setup-namespaces").number(2, 77);
        let mut answer = Fields::default();
        answer.number(1, 6).flag(2, true).message(5, &notify).number(40, 9);
        let said = Said::read(&answer.0).unwrap();
        assert_eq!((said.kind, said.success, said.pid, &*said.script), (6, true, 77, "setup-namespaces"));
        let mut restored = Fields::default();
        restored.number(1, 4242);
        let mut answer = Fields::default();
        answer.number(1, 2).flag(2, true).message(4, &restored);
        assert_eq!(Said::read(&answer.0).unwrap().pid, 4242);
        // success is false where it is not there; -1 takes ten bytes
        let failed = [8, 1, 16, 0, 56, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert_eq!(Said::read(&failed).unwrap().errno, -1);
        for cut in 1..answer.0.len() {
            // Never a panic, and nothing that is not there.
            assert!(Said::read(&answer.0[..cut]).is_none_or(|s| s.pid != 4242));
        }
        assert_eq!(Said::read(&[255; 30]), None);
        assert_eq!(Said::read(&[0x0f]), None);
    }

    #[test]
    fn the_log_says_why() {
        let dir = std::env::temp_dir().join(format!("corten-criu-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let log = dir.join("dump.log");
        let text = "(00.0) Error (w): no matter\n(00.1)      7: Error (x.c:1): no such thing\n(00.2) Error (y): over\n";
        std::fs::write(&log, format!("{text}(00.3) Error (z): Dumping FAILED.\n")).unwrap();
        assert!(reason(&log, "w").starts_with("Error (x.c:1): no such thing; Error (y): over (log file: "));
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(reason(&log, "Error (v)").starts_with("Error (v) (log file: "));
    }
}
