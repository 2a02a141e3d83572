//! `corten-runtime oci`: the OCI runtime with runc's command line, for callers that bring their own shim, such as
//! podman and containerd.
//!
//! ```text
//!  create ── clones init, writes <root>/<id>/state.json, leaves ──▶ init waits at <root>/<id>/start.sock
//!  start ─── connects there; hears of a failure, or of the program by the end of the connection
//!  delete ── removes the control groups and <root>/<id>
//! ```
//!
//! Nothing but the directory `<root>/<id>` is kept between two commands; what can be asked of the kernel (does the
//! process live, is it frozen) is asked for each time. A process number is only believed with its start time.

mod arguments;
mod checkpoint;
pub(crate) mod config;
mod create;
mod exec;
mod foreground;
mod idmap;
mod log;
mod manage;
mod record;
mod report;
mod templates;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_sys::process::Strings;
use corten_sys::{caps, process, program, users};

use crate::container::OwnProgram;
use crate::fault::{StepError, errno_text};
use arguments::{Arguments, Command, parse};
use log::{Format, Log};
use record::Store;

/// A command failed.
#[derive(Debug, thiserror::Error)]
enum OciError {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// The command does not exist.
    #[error("No help topic for '{0}'")]
    NoSuchCommand(String),
    /// Asked for something that we do not do.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// The configuration or the state does not permit it, in runc's words.
    #[error("{0}")]
    Refused(String),
    /// A step of starting a process failed.
    #[error("{}", step.runc_text(verb))]
    Step {
        /// `create`, `run`, `start` or `exec`.
        verb: &'static str,
        /// What failed.
        step: StepError,
    },
    /// A control group could not be used.
    #[error(transparent)]
    Cgroup(#[from] crate::cgroup::CgroupError),
    /// criu could not do it, or not be asked.
    #[error(transparent)]
    Criu(#[from] crate::checkpoint::CriuError),
    /// A file could not be read or written.
    #[error("{what}: {reason}", reason = errno_text(source))]
    Io {
        /// What was done, and to which file.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
}

impl OciError {
    fn io(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.to_string();
        move |source| Self::Io { what, source }
    }

    fn file(error: corten_base::fs::FileError) -> Self {
        Self::Io { what: error.to_string(), source: error.source }
    }

    fn refused(text: impl Into<String>) -> Self {
        Self::Refused(text.into())
    }
}

/// What the global flags say.
#[derive(Debug)]
struct Context {
    store: Store,
    /// New containers get control groups.
    cgroups: bool,
    /// From systemd.
    systemd: bool,
    /// `--criu`: the program for checkpoints; absent: by `PATH`.
    criu: Option<PathBuf>,
}

const DEFAULT_ROOT: &str = "/run/corten/oci";

/// Runs one command; the program's exit code.
#[must_use]
pub fn main(args: &[String]) -> i32 {
    let mut log = Log::stderr();
    let result = global(args, &mut log);
    match result {
        Ok(code) => code,
        Err((command, error)) => {
            let (text, code) = told(command, &error);
            log.error(&text);
            code
        }
    }
}

/// COMPAT: runc's words and exit codes. Its callers tell a failed exec from the end of its program by 255.
fn told(command: Option<Command>, error: &OciError) -> (String, i32) {
    match (command, error) {
        (_, OciError::NoSuchCommand(_)) => (error.to_string(), 3),
        (_, OciError::Usage(_)) => (error.to_string(), 1),
        (Some(Command::Exec), OciError::Step { .. }) => (error.to_string(), 255),
        (Some(Command::Exec), _) => (format!("exec failed: {error}"), 255),
        (_, OciError::Step { .. }) => (error.to_string(), 1),
        (Some(Command::Create), _) => (format!("runc create failed: {error}"), 1),
        (Some(Command::Run), _) => (format!("runc run failed: {error}"), 1),
        _ => (error.to_string(), 1),
    }
}

type Failed = (Option<Command>, OciError);

fn global(args: &[String], log: &mut Log) -> Result<i32, Failed> {
    let early = |e| (None, e);
    let flags = parse(arguments::GLOBAL, args, true).map_err(early)?;
    let format = match flags.value("log-format") {
        None | Some("text") => Format::Text,
        Some("json") => Format::Json,
        Some(other) => return Err(early(OciError::Usage(format!("invalid log-format: {other}")))),
    };
    let path = flags.value("log").filter(|p| !p.is_empty() && *p != "/dev/stderr").map(absolute).transpose();
    log.configure(path.map_err(early)?.as_deref(), format, flags.has("debug")).map_err(early)?;
    if flags.has("version") {
        report::version();
        return Ok(0);
    }
    if let Some(other) = flags.value("rootless").filter(|r| !["auto", "true", "false"].contains(r)) {
        return Err(early(OciError::Usage(format!(
            "invalid value {other:?} for flag -rootless: parse error"
        ))));
    }
    let Some((name, rest)) = flags.positional.split_first() else {
        report::usage();
        return Ok(0);
    };
    if flags.has("help") || name == "help" {
        report::usage();
        return Ok(0);
    }
    let Some(command) = Command::of(name) else {
        return Err(early(OciError::NoSuchCommand(name.clone())));
    };
    let failed = |e| (Some(command), e);
    let given = parse(command.flags(), rest, command.flags_end_with_id()).map_err(failed)?;
    if given.has("help") {
        report::usage();
        return Ok(0);
    }
    command.check(&given).map_err(failed)?;
    let root = absolute(flags.value("root").unwrap_or(DEFAULT_ROOT)).map_err(failed)?;
    let (cgroups, systemd) = match flags.value("cgroup-manager") {
        None => (true, flags.has("systemd-cgroup")),
        Some("cgroupfs") => (true, false),
        Some("systemd") => (true, true),
        Some("disabled") => (false, false),
        Some(other) => return Err(early(OciError::Unsupported(format!("--cgroup-manager {other}")))),
    };
    let context = Context { store: Store::new(root), cgroups, systemd, criu: criu(&flags) };
    log.debug(&format!("{name} {rest:?}"));
    if matches!(command, Command::Create | Command::Run | Command::Exec) {
        prepare(&given, log).map_err(failed)?;
    }
    run(&context, command, &given).map_err(failed)
}

fn run(context: &Context, command: Command, given: &Arguments) -> Result<i32, OciError> {
    match command {
        Command::Create => create::create(context, given).map(|()| 0),
        Command::Start => create::start(context, given).map(|()| 0),
        Command::Run => create::run(context, given),
        Command::Exec => exec::exec(context, given),
        Command::Kill => manage::kill(context, given).map(|()| 0),
        Command::Delete => manage::delete(context, given).map(|()| 0),
        Command::Pause => manage::freeze(context, given, true).map(|()| 0),
        Command::Resume => manage::freeze(context, given, false).map(|()| 0),
        Command::Update => manage::update(context, given).map(|()| 0),
        Command::State => report::state(context, given).map(|()| 0),
        Command::List => report::list(context, given).map(|()| 0),
        Command::Ps => report::ps(context, given).map(|()| 0),
        Command::Events => report::events(context, given).map(|()| 0),
        Command::Spec => templates::spec(given).map(|()| 0),
        Command::Features => {
            templates::features();
            Ok(0)
        }
        Command::Checkpoint => checkpoint::checkpoint(context, given).map(|()| 0),
        Command::Restore => checkpoint::restore(context, given),
    }
}

/// A name alone is looked for, as other callers of runc expect; a path is taken from where we were started.
fn criu(flags: &Arguments) -> Option<PathBuf> {
    let given = flags.value("criu").filter(|p| !p.is_empty() && *p != "criu")?;
    Some(if given.contains('/') { absolute(given).ok()? } else { given.into() })
}

/// How many descriptors from 3 on the container's program gets: those asked for, and those of socket activation.
fn preserved(given: &Arguments) -> Result<i32, OciError> {
    let asked = given.number::<i32>("preserve-fds")?.unwrap_or(0);
    let all = asked + listen_fds();
    if !(0..=4096).contains(&all) {
        return Err(OciError::Usage(format!("invalid number of preserved fds: {all}")));
    }
    for fd in 3..3 + all {
        if !Path::new(&format!("/proc/self/fd/{fd}")).exists() {
            return Err(OciError::refused(format!("unable to stat preserved-fd {} (of {all})", fd - 3)));
        }
    }
    Ok(all)
}

/// `LISTEN_FDS`, the number of sockets that systemd's protocol passes.
fn listen_fds() -> i32 {
    std::env::var("LISTEN_FDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .filter(|n| (0..=1024).contains(n))
        .unwrap_or(0)
}

/// Gets rid of what was inherited but for the descriptors that the container's program gets.
fn prepare(given: &Arguments, log: &Log) -> Result<(), OciError> {
    process::close_inherited_from(3 + preserved(given)?, [log.descriptor()])
        .map_err(OciError::io("close_range"))?;
    rustix::thread::set_name(c"corten-oci").ok();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    Ok(())
}

/// What the process that is to be made begins in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A mount namespace of its own, whose old root it lets go of.
    OwnMounts,
    /// A new container without that.
    Other,
    /// A container that exists.
    Container,
}

/// Makes this a process whose program nobody can write to: what runs inside a container for a moment must not be a way
/// to the file on the host (CVE-2019-5736). To be called before anything is made.
///
/// A read-only mount of the program is safe once it has ended, and it ends with the old root of the new process. Who
/// has none works on a copy in memory, which takes 2 ms.
fn protect(place: Place) -> Result<Option<OwnProgram>, OciError> {
    let mut own = None;
    if !program::is_protected() {
        if place == Place::OwnMounts {
            own = OwnProgram::protected();
        }
        if own.is_none() {
            let copy = program::sealed_copy("corten-oci").map_err(OciError::io("copy own program"))?;
            if program::become_of(copy.as_fd()).is_err() || !program::is_protected() {
                return Err(start_again(&copy).map_or_else(|e| e, |never| match never {}));
            }
        }
    }
    if place != Place::Container && users::ordinary() {
        // What an ordinary user needs for a container's namespaces and mounts they get from a namespace of their own.
        // Here and not before: starting again would have lost the capabilities.
        users::enter_own().map_err(OciError::io("unshare user namespace"))?;
    }
    caps::forbid_tracing().map_err(OciError::io("prctl"))?;
    Ok(own)
}

/// Starts our program again from another file of its content.
fn start_again(file: &OwnedFd) -> Result<std::convert::Infallible, OciError> {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStringExt;
    let fail = || OciError::io("start own program");
    let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|e| fail()(e.into()))?;
    let args = std::env::args_os().map(|a| CString::new(a.into_vec()));
    let args = args.collect::<Result<Vec<_>, _>>().map_err(|e| fail()(e.into()))?;
    let env = std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        CString::new(name.into_vec())
    });
    let env = env.collect::<Result<Vec<_>, _>>().map_err(|e| fail()(e.into()))?;
    Err(fail()(process::exec(&path, &Strings::of(args), &mut Strings::of(env), None)))
}

fn absolute(path: impl AsRef<Path>) -> Result<PathBuf, OciError> {
    let path = path.as_ref();
    std::path::absolute(path).map_err(OciError::io(path.display()))
}
