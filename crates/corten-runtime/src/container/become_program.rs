//! The last steps: limits, identity, capabilities, seccomp, and the program itself.
//!
//! The order matters. Groups and user are set while everything is still permitted; the program is looked up as
//! that user; the seccomp filter comes late, so that it needs to allow nothing but capset, prctl and execve; the
//! final capabilities come after it, because installing a filter without no-new-privileges needs `CAP_SYS_ADMIN`.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use corten_sys::{caps, process, seqpacket};
use corten_wire::oci_runtime::{Capabilities, Linux, Process, Rlimit};
use rustix::fs::{Access, AtFlags, CWD, FileType, Gid, Mode, Uid};
use rustix::process::Resource;

use super::labels::Labels;
use crate::fault::{StepError, errno_text};
use crate::seccomp;
use crate::spec::ALL_CAPABILITIES;
use crate::user::Identity;

/// What to become.
#[derive(Debug)]
pub(super) struct Program<'a> {
    pub(super) process: &'a Process,
    pub(super) linux: Option<&'a Linux>,
    pub(super) labels: &'a Labels,
    pub(super) identity: &'a Identity,
    pub(super) seccomp: Option<&'a seccomp::Program>,
    pub(super) root: BorrowedFd<'a>,
    /// Our own program, to run below it as `docker-init`.
    pub(super) own_init: Option<BorrowedFd<'a>>,
    pub(super) alone: Option<&'a super::Alone<'a>>,
    /// Where failures are reported.
    pub(super) report: BorrowedFd<'a>,
    /// This process as its creator sees it.
    pub(super) pid: i32,
}

/// What a container that could not execute its program ends with, as with runc.
const EXEC_FAILED: i32 = 255;

/// Becomes the program; returns only if something fails before that.
pub(super) fn run(program: &Program<'_>) -> Result<Infallible, StepError> {
    let process = program.process;
    for limit in &process.rlimits {
        set_limit(limit)?;
    }
    super::attributes::apply(process, program.linux)?;
    let env = environment(program);
    let sets = Sets::of(process.capabilities.as_ref());
    let fail = |e: io::Error| StepError::os("caps", "unable to apply caps", &e);
    caps::limit_bounding(sets.bounding).map_err(fail)?;
    caps::keep_over_setuid(true).map_err(fail)?;
    set_identity(program.identity)?;
    let admin = 1 << 21;
    let permitted = caps::permitted().map_err(fail)?;
    let for_filter = if program.seccomp.is_some() { admin & permitted } else { 0 };
    let inheritable = sets.inheritable & permitted;
    caps::set(
        (sets.effective | for_filter) & permitted,
        (sets.permitted | for_filter) & permitted,
        inheritable,
    )
    .map_err(fail)?;
    enter_directory(&process.cwd)?;
    if let (true, Some(alone)) = (process.args.is_empty(), program.alone) {
        // Something can be created without a program, but not started.
        wait_at_door(program, alone)?;
        return Err(StepError::new("exec", "process property must not be empty"));
    }
    let path = look_up(&process.args, &env)?;
    program.labels.apply()?;
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true)
            .map_err(|e| StepError::os("no_new_privs", "set no new privileges", &e.into()))?;
    }
    rustix::process::umask(Mode::from_raw_mode(process.user.umask.unwrap_or(0o022)));
    let (path, args) = match program.own_init {
        Some(fd) => {
            let lead = ["/sbin/docker-init", "--"].map(str::to_owned);
            let all: Vec<String> = lead.into_iter().chain(process.args.iter().cloned()).collect();
            (c_string(&format!("/proc/self/fd/{}", fd.as_raw_fd()))?, c_strings(&all)?)
        }
        None => (c_string(&path)?, c_strings(&process.args)?),
    };
    if let Some(alone) = program.alone {
        wait_at_door(program, alone)?;
    }
    let env = c_strings(&env)?;
    let preserved = program.alone.map_or(0, |a| a.preserve);
    process::close_on_exec_from(3 + preserved).map_err(|e| StepError::os("exec", "close_range", &e))?;
    // Without new privileges anybody may install a filter: then it comes last of all.
    let early = program.seccomp.filter(|_| !process.no_new_privileges);
    let late = program.seccomp.filter(|_| process.no_new_privileges);
    if let Some(filter) = early {
        super::notify::install(filter, program.report)?;
    }
    caps::set(sets.effective & permitted, sets.permitted & permitted, inheritable).map_err(fail)?;
    caps::set_ambient(sets.ambient & inheritable & sets.permitted & permitted).map_err(fail)?;
    if program.alone.is_none() {
        caps::die_with_parent().map_err(|e| StepError::os("exec", "prctl", &e))?;
    }
    if let Some(filter) = late {
        super::notify::install(filter, program.report)?;
    }
    let error = process::exec(&path, &args, &env);
    if program.own_init.is_some() && error.kind() == io::ErrorKind::NotFound {
        // A development build needs a loader that the container does not have: be init without executing it.
        process::close_inherited_from(3).map_err(|e| StepError::os("exec", "close_range", &e))?;
        process::exit_now(crate::init::serve_program(&args[2..], &env));
    }
    // COMPAT: with runc the container has started by now, so that this is the container's own output and end.
    let text = format!("exec {}: {}\n", path.to_string_lossy(), errno_text(&error));
    rustix::io::write(rustix::stdio::stderr(), text.as_bytes()).ok();
    process::exit_now(EXEC_FAILED);
}

/// Waits for `start`, which takes the place of the creator as the one that failures are reported to, and runs the
/// hooks that come then.
fn wait_at_door(program: &Program<'_>, alone: &super::Alone<'_>) -> Result<(), StepError> {
    if let Some(door) = alone.door {
        let fail = |e: io::Error| StepError::os("start", "wait for start", &e);
        seqpacket::send(program.report, &[super::report::READY], &[], true).map_err(fail)?;
        let visitor = loop {
            if let Some(visitor) = seqpacket::accept(door).map_err(fail)? {
                break visitor;
            }
        };
        process::duplicate_to(visitor.as_fd(), program.report.as_raw_fd()).map_err(fail)?;
        rustix::io::fcntl_setfd(program.report, rustix::io::FdFlags::CLOEXEC).map_err(|e| fail(e.into()))?;
    }
    let env = Some(program.process.env.as_slice());
    super::hooks::run(
        "startContainer",
        &alone.hooks.start_container,
        alone.state,
        program.pid,
        "created",
        env,
    )
}

fn c_string(text: &str) -> Result<CString, StepError> {
    CString::new(text)
        .map_err(|_| StepError::new("exec", "argument or environment with a NUL byte: invalid argument"))
}

fn c_strings(all: &[String]) -> Result<Vec<CString>, StepError> {
    all.iter().map(|s| c_string(s)).collect()
}

/// Adds `HOME` where it is missing. Names without a value are passed on as they are.
fn environment(program: &Program<'_>) -> Vec<String> {
    let mut env = program.process.env.clone();
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        env.push(format!("HOME={}", crate::user::home(program.root, program.identity.uid)));
    }
    env
}

#[derive(Debug, Default)]
struct Sets {
    bounding: u64,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
}

impl Sets {
    /// COMPAT: names that this machine does not know are ignored, as runc does; what the machine does not have
    /// is cut off later.
    fn of(capabilities: Option<&Capabilities>) -> Self {
        let mask = |names: &[String]| {
            let bit = |n: &String| ALL_CAPABILITIES.iter().position(|c| c == n);
            names.iter().filter_map(bit).fold(0u64, |set, bit| set | 1 << bit)
        };
        capabilities.map_or_else(Self::default, |c| Self {
            bounding: mask(&c.bounding),
            effective: mask(&c.effective),
            permitted: mask(&c.permitted),
            inheritable: mask(&c.inheritable),
            ambient: mask(&c.ambient),
        })
    }
}

fn set_identity(identity: &Identity) -> Result<(), StepError> {
    let fail = |what: &'static str| move |e: rustix::io::Errno| StepError::os("user", what, &e.into());
    let groups: Vec<Gid> = identity.groups.iter().map(|g| Gid::from_raw(*g)).collect();
    rustix::thread::set_thread_groups(&groups).map_err(fail("setgroups"))?;
    let gid = Gid::from_raw(identity.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(fail("setgid"))?;
    let uid = Uid::from_raw(identity.uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(fail("setuid"))
}

pub(super) fn resource(name: &str) -> Option<Resource> {
    let name = name.strip_prefix("RLIMIT_").unwrap_or(name).to_ascii_uppercase();
    Some(match name.as_str() {
        "AS" => Resource::As,
        "CORE" => Resource::Core,
        "CPU" => Resource::Cpu,
        "DATA" => Resource::Data,
        "FSIZE" => Resource::Fsize,
        "LOCKS" => Resource::Locks,
        "MEMLOCK" => Resource::Memlock,
        "MSGQUEUE" => Resource::Msgqueue,
        "NICE" => Resource::Nice,
        "NOFILE" => Resource::Nofile,
        "NPROC" => Resource::Nproc,
        "RSS" => Resource::Rss,
        "RTPRIO" => Resource::Rtprio,
        "RTTIME" => Resource::Rttime,
        "SIGPENDING" => Resource::Sigpending,
        "STACK" => Resource::Stack,
        _ => return None,
    })
}

/// As the kernel has it: all bits set is no limit.
pub(super) fn limit_of(limit: &Rlimit) -> rustix::process::Rlimit {
    let value = |v: u64| (v != u64::MAX).then_some(v);
    rustix::process::Rlimit { current: value(limit.soft), maximum: value(limit.hard) }
}

fn set_limit(limit: &Rlimit) -> Result<(), StepError> {
    let Some(kind) = resource(&limit.kind) else {
        return Err(StepError::new("rlimit", format!("invalid rlimit type: {}", limit.kind)));
    };
    rustix::process::setrlimit(kind, limit_of(limit))
        .map_err(|e| StepError::os("rlimit", format!("error setting rlimit {}", limit.kind), &e.into()))
}

/// The working directory must be inside: one reached through a descriptor of the host would show as
/// unreachable (CVE-2024-21626).
fn enter_directory(cwd: &Path) -> Result<(), StepError> {
    let text = || format!("chdir to cwd ({:?}) set in config.json failed", cwd.display().to_string());
    rustix::process::chdir(cwd).map_err(|e| StepError::os("cwd", text(), &e.into()))?;
    let now = rustix::process::getcwd(Vec::new()).map_err(|e| StepError::os("cwd", text(), &e.into()))?;
    if now.as_bytes().starts_with(b"/") {
        Ok(())
    } else {
        let text = "current working directory is outside of container mount namespace root -- possible container breakout detected";
        Err(StepError::new("cwd", text))
    }
}

fn executable(path: &str) -> Result<(), (io::Error, &'static str)> {
    let stat = rustix::fs::stat(path).map_err(|e| (e.into(), "stat"))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err((rustix::io::Errno::ISDIR.into(), "directory"));
    }
    match rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) if stat.st_mode & 0o111 != 0 => Ok(()),
        Err(_) => Err((rustix::io::Errno::ACCESS.into(), "access")),
        Ok(()) => Ok(()),
    }
}

/// Finds the program as Go's `exec.LookPath` does, with its words.
fn look_up(args: &[String], env: &[String]) -> Result<String, StepError> {
    let Some(name) = args.first() else {
        return Err(StepError::new("exec", "no command specified"));
    };
    let error = |reason: String, errno: Option<i32>| {
        let mut e = StepError::new("exec", format!("exec: {name:?}: {reason}"));
        e.errno = errno;
        e
    };
    if name.contains('/') {
        return executable(name).map(|()| name.clone()).map_err(|(e, what)| {
            let reason = match what {
                "stat" => format!("stat {name}: {}", errno_text(&e)),
                // COMPAT: the two halves come from two layers of runc.
                "directory" => "is a directory: permission denied".to_owned(),
                _ => errno_text(&e),
            };
            error(reason, e.raw_os_error())
        });
    }
    let path = env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default();
    for directory in path.split(':').filter(|_| !name.is_empty()) {
        let candidate = if directory.is_empty() { name.clone() } else { format!("{directory}/{name}") };
        if executable(&candidate).is_ok() {
            return Ok(candidate);
        }
    }
    Err(error("executable file not found in $PATH".into(), Some(rustix::io::Errno::NOENT.raw_os_error())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_and_missed_in_gos_words() {
        let env = ["PATH=/nowhere:/bin".to_owned()];
        let find = |name: &str| look_up(&[name.to_owned()], &env).map_err(|e| e.text);
        for (name, want) in [
            ("sh", Ok("/bin/sh")),
            ("/bin/sh", Ok("/bin/sh")),
            ("nope", Err("exec: \"nope\": executable file not found in $PATH")),
            ("/no/such", Err("exec: \"/no/such\": stat /no/such: no such file or directory")),
            ("/etc", Err("exec: \"/etc\": is a directory: permission denied")),
            ("/etc/passwd", Err("exec: \"/etc/passwd\": permission denied")),
            ("", Err("exec: \"\": executable file not found in $PATH")),
        ] {
            assert_eq!(find(name), want.map(str::to_owned).map_err(str::to_owned));
        }
    }
}
