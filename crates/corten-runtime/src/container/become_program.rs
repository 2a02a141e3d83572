//! The last steps: limits, identity, capabilities, seccomp, and the program itself.
//!
//! The order matters. Groups and user are set while everything is still permitted; the program is looked up as
//! that user; the seccomp filter comes late, so that it needs to allow nothing but capset, prctl and execve; the
//! final capabilities come after it, because installing a filter without no-new-privileges needs `CAP_SYS_ADMIN`.
//!
//! [`Program::of`] makes all texts and tables before there is a process; [`Program::run`] only makes system calls.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use corten_sys::process::Strings;
use corten_sys::{allocation, caps, process, seqpacket};
use corten_wire::oci_runtime::{Capabilities, Linux, Process, Rlimit};
use corten_wire::shim::UserSpec;
use rustix::fs::{Access, AtFlags, CWD, FileType, Gid, Mode, Uid};
use rustix::process::Resource;

use super::attributes::Attributes;
use super::failure::{self, Failure, Outcome, Step, nth, of};
use super::labels::Labels;
use super::{Alone, hooks};
use crate::fault::{StepError, errno_text};
use crate::seccomp;
use crate::spec::ALL_CAPABILITIES;
use crate::user::{self, Identity, Miss, Room};

/// What to become.
#[derive(Debug)]
pub(super) struct Program<'a> {
    process: &'a Process,
    limits: Vec<(Resource, rustix::process::Rlimit)>,
    attributes: Attributes,
    sets: Sets,
    who: Who<'a>,
    cwd: CString,
    search: Search,
    args: Strings,
    env: Strings,
    /// Room for the variable, where there is none.
    home: Option<Vec<u8>>,
    labels: Labels,
    seccomp: Option<&'a seccomp::Program>,
    /// Our own program, to run the container's as `docker-init`, and its name.
    own_init: Option<(OwnedFd, CString)>,
    alone: Option<&'a Alone<'a>>,
}

/// Where and as whom a process is when it becomes its program.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) root: BorrowedFd<'a>,
    /// Where failures are reported.
    pub(super) report: BorrowedFd<'a>,
    /// This process as its creator sees it.
    pub(super) pid: i32,
}

/// What a container that could not execute its program ends with, as with runc.
const EXEC_FAILED: i32 = 255;

/// Longest home directory; the kernel takes no longer path.
const MAX_HOME: usize = 4096;

impl<'a> Program<'a> {
    /// Makes everything ready.
    pub(super) fn of(
        process: &'a Process,
        linux: Option<&Linux>,
        user: Option<&'a UserSpec>,
        seccomp: Option<&'a seccomp::Program>,
        init: bool,
        alone: Option<&'a Alone<'a>>,
    ) -> Result<Self, StepError> {
        let mut limits = Vec::with_capacity(process.rlimits.len());
        for limit in &process.rlimits {
            let Some(kind) = resource(&limit.kind) else {
                return Err(StepError::new("rlimit", format!("invalid rlimit type: {}", limit.kind)));
            };
            limits.push((kind, limit_of(limit)));
        }
        let own_init = init.then(own_program).transpose()?;
        let lead: &[&str] = if init { &["/sbin/docker-init", "--"] } else { &[] };
        let args = lead.iter().copied().chain(process.args.iter().map(String::as_str));
        let home = !process.env.iter().any(|e| e.starts_with("HOME="));
        Ok(Self {
            limits,
            attributes: Attributes::of(process, linux)?,
            sets: Sets::of(process.capabilities.as_ref()),
            who: Who::of(process, user, home),
            cwd: super::c_path("cwd", &process.cwd)?,
            search: Search::of(&process.args, &process.env, alone.is_some())?,
            args: Strings::of(args.map(c_string).collect::<Result<_, _>>()?),
            env: Strings::of(process.env.iter().map(|e| c_string(e)).collect::<Result<_, _>>()?),
            home: home.then(|| Vec::with_capacity("HOME=".len() + MAX_HOME + 1)),
            labels: Labels::of(process),
            process,
            seccomp,
            own_init,
            alone,
        })
    }

    /// Finds out who the program runs as.
    pub(super) fn identify(&mut self, root: BorrowedFd<'_>) -> Outcome {
        self.who.find(root)
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.who.identity
    }

    pub(super) fn cwd(&self) -> &CStr {
        &self.cwd
    }

    /// Opens what [`Program::run`] writes to; /proc is the host's still.
    pub(super) fn open_labels(&mut self) -> Outcome {
        self.labels.open()
    }

    pub(super) fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// Becomes the program; returns only if something fails before that.
    pub(super) fn run(&mut self, place: Place<'_>) -> Outcome<Infallible> {
        for (i, (kind, limit)) in self.limits.iter().enumerate() {
            rustix::process::setrlimit(*kind, *limit).map_err(nth(Step::Rlimit, i))?;
        }
        self.attributes.apply()?;
        if let Some(home) = &mut self.home {
            let found = user::home_in(place.root, self.who.identity.uid, &mut self.who.room);
            set_home(home, found);
        }
        let fail = of::<io::Error>(Step::Capabilities);
        let sets = &self.sets;
        caps::limit_bounding(sets.bounding).map_err(&fail)?;
        caps::keep_over_setuid(true).map_err(&fail)?;
        set_identity(&self.who.identity)?;
        let admin = 1 << 21;
        let permitted = caps::permitted().map_err(&fail)?;
        let for_filter = if self.seccomp.is_some() { admin & permitted } else { 0 };
        let inheritable = sets.inheritable & permitted;
        caps::set(
            (sets.effective | for_filter) & permitted,
            (sets.permitted | for_filter) & permitted,
            inheritable,
        )
        .map_err(&fail)?;
        enter_directory(&self.cwd)?;
        if let (true, Some(alone)) = (self.process.args.is_empty(), self.alone) {
            // Something can be created without a program, but not started.
            self.wait_at_door(place, alone)?;
            return Err(Failure::plain(Step::NoProgram));
        }
        self.search.find()?;
        self.labels.apply()?;
        if self.process.no_new_privileges {
            rustix::thread::set_no_new_privs(true).map_err(of(Step::NoNewPrivileges))?;
        }
        rustix::process::umask(Mode::from_raw_mode(self.process.user.umask.unwrap_or(0o022)));
        if let Some(alone) = self.alone {
            self.wait_at_door(place, alone)?;
        }
        let preserved = self.alone.map_or(0, |a| a.preserve);
        process::close_on_exec_from(3 + preserved).map_err(of(Step::CloseRange))?;
        // Without new privileges anybody may install a filter: then it comes last of all.
        let early = self.seccomp.filter(|_| !self.process.no_new_privileges);
        let late = self.seccomp.filter(|_| self.process.no_new_privileges);
        if let Some(filter) = early {
            super::notify::install(filter, place.report)?;
        }
        caps::set(sets.effective & permitted, sets.permitted & permitted, inheritable).map_err(&fail)?;
        caps::set_ambient(sets.ambient & inheritable & sets.permitted & permitted).map_err(&fail)?;
        if self.alone.is_none() {
            caps::die_with_parent().map_err(of(Step::Control))?;
        }
        if let Some(filter) = late {
            super::notify::install(filter, place.report)?;
        }
        self.execute()
    }

    fn execute(&mut self) -> Outcome<Infallible> {
        let home = self.home.as_deref().and_then(|h| CStr::from_bytes_with_nul(h).ok());
        let path = match &self.own_init {
            Some((_, name)) => name.as_c_str(),
            None => self.search.found(),
        };
        let error = process::exec(path, &self.args, &mut self.env, home);
        if self.own_init.is_some() && error.kind() == io::ErrorKind::NotFound {
            // A development build needs a loader that the container does not have: be init without executing it.
            process::close_inherited_from(3, []).map_err(of(Step::CloseRange))?;
            let env = self.env.all().iter().map(CString::as_c_str).chain(home);
            let serve = || {
                let env = env.map(CStr::to_owned).collect();
                crate::init::serve_program(self.args.all()[2..].to_vec(), env)
            };
            process::exit_now(allocation::permit(serve));
        }
        // COMPAT: with runc the container has started by now, so that this is the container's own output and end.
        // It is the last that this process does, and Go's words are made from the C library's, which takes memory.
        let text = || format!("exec {}: {}\n", path.to_string_lossy(), errno_text(&error));
        rustix::io::write(rustix::stdio::stderr(), allocation::permit(text).as_bytes()).ok();
        process::exit_now(EXEC_FAILED);
    }

    /// Waits for `start`, which takes the place of the creator as the one that failures are reported to, and runs the
    /// hooks that come then.
    fn wait_at_door(&self, place: Place<'_>, alone: &Alone<'_>) -> Outcome {
        if let Some(door) = alone.door {
            let fail = of::<io::Error>(Step::Start);
            seqpacket::send(place.report, &[super::report::READY], &[], true).map_err(&fail)?;
            let visitor = loop {
                if let Some(visitor) = seqpacket::accept(door).map_err(&fail)? {
                    break visitor;
                }
            };
            process::duplicate_to(visitor.as_fd(), place.report.as_raw_fd()).map_err(&fail)?;
            rustix::io::fcntl_setfd(place.report, rustix::io::FdFlags::CLOEXEC).map_err(of(Step::Start))?;
        }
        let hooks = &alone.hooks.start_container;
        let env = Some(self.process.env.as_slice());
        hooks::run_inside("startContainer", hooks, alone.state, (place.pid, "created"), env, place.report)
    }
}

/// The program that becomes the container's init is this very one, which lives in a sealed memfd.
fn own_program() -> Result<(OwnedFd, CString), StepError> {
    let fd = File::open("/proc/self/exe").map_err(|e| StepError::os("init", "open init", &e))?;
    let name = c_string(&format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    Ok((fd.into(), name))
}

fn c_string(text: &str) -> Result<CString, StepError> {
    CString::new(text)
        .map_err(|_| StepError::new("exec", "argument or environment with a NUL byte: invalid argument"))
}

fn set_home(variable: &mut Vec<u8>, home: &[u8]) {
    let home = if home.len() > MAX_HOME || home.contains(&0) { b"/" } else { home };
    variable.clear();
    variable.extend_from_slice(b"HOME=");
    variable.extend_from_slice(home);
    variable.push(0);
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

/// Who a process runs as: known, or to be looked up in the container's own files.
#[derive(Debug)]
struct Who<'a> {
    spec: Option<&'a UserSpec>,
    room: Room,
    identity: Identity,
}

impl<'a> Who<'a> {
    fn of(process: &Process, spec: Option<&'a UserSpec>, home: bool) -> Self {
        let Some(wanted) = spec else {
            let groups = process.user.additional_gids.clone();
            let identity = Identity { uid: process.user.uid, gid: process.user.gid, groups };
            return Self { spec: None, room: if home { Room::of_home() } else { Room::default() }, identity };
        };
        if !(wanted.user.is_empty() && wanted.group_add.is_empty()) {
            return Self { spec, room: Room::of_lookup(), identity: Identity::with_room() };
        }
        let identity = Identity { groups: Vec::with_capacity(1), ..Identity::default() };
        Self { spec, room: if home { Room::of_home() } else { Room::default() }, identity }
    }

    fn find(&mut self, root: BorrowedFd<'_>) -> Outcome {
        let Some(spec) = self.spec else { return Ok(()) };
        user::resolve_into(root, spec, &mut self.room, &mut self.identity).map_err(|miss| match miss {
            Miss::User => Failure::plain(Step::NoUser),
            Miss::Group(which) => Failure::plain(Step::NoGroup).at(which),
            Miss::Range => Failure::plain(Step::Ids),
            Miss::Passwd(e) => of(Step::Passwd)(e),
            Miss::Groups(e) => of(Step::Groups)(e),
        })
    }
}

fn set_identity(identity: &Identity) -> Outcome {
    match process::set_groups(&identity.groups) {
        // Whoever maps only their own group may not drop groups either, and asks for none.
        Err(e) if identity.groups.is_empty() && e.kind() == io::ErrorKind::PermissionDenied => {}
        other => other.map_err(of(Step::SetGroups))?,
    }
    let gid = Gid::from_raw(identity.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(of(Step::SetGid))?;
    let uid = Uid::from_raw(identity.uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(of(Step::SetUid))
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

/// The working directory must be inside: one reached through a descriptor of the host would show as
/// unreachable (CVE-2024-21626).
fn enter_directory(cwd: &CStr) -> Outcome {
    rustix::process::chdir(cwd).map_err(of(Step::Cwd))?;
    match process::directory_is_inside().map_err(of(Step::Cwd))? {
        true => Ok(()),
        false => Err(Failure::plain(Step::CwdOutside)),
    }
}

fn executable(path: &CStr) -> Outcome {
    let stat = rustix::fs::stat(path).map_err(of(Step::Stat))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(of(Step::IsDirectory)(rustix::io::Errno::ISDIR));
    }
    match rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) if stat.st_mode & 0o111 != 0 => Ok(()),
        Err(_) => Err(of(Step::NotExecutable)(rustix::io::Errno::ACCESS)),
        Ok(()) => Ok(()),
    }
}

/// Where a program can be: by its name, or in the directories of `PATH`, as Go's `exec.LookPath` does it.
#[derive(Debug)]
struct Search {
    candidates: Vec<CString>,
    by_name: bool,
    found: usize,
}

impl Search {
    /// Without arguments there is nothing to find; only one that is alone may come so far.
    fn of(args: &[String], env: &[String], alone: bool) -> Result<Self, StepError> {
        let Some(name) = args.first() else {
            let none = Self { candidates: Vec::new(), by_name: false, found: 0 };
            return if alone { Ok(none) } else { Err(StepError::new("exec", "no command specified")) };
        };
        let by_name = name.contains('/');
        if by_name {
            return Ok(Self { candidates: vec![c_string(name)?], by_name, found: 0 });
        }
        let path = env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default();
        let directories = path.split(':').filter(|_| !name.is_empty());
        let place = |d: &str| if d.is_empty() { c_string(name) } else { c_string(&format!("{d}/{name}")) };
        Ok(Self { candidates: directories.map(place).collect::<Result<_, _>>()?, by_name, found: 0 })
    }

    fn find(&mut self) -> Outcome {
        for (i, candidate) in self.candidates.iter().enumerate() {
            match executable(candidate) {
                Err(why) if self.by_name => return Err(why),
                Err(_) => {}
                Ok(()) => {
                    self.found = i;
                    return Ok(());
                }
            }
        }
        Err(failure::of(Step::NotFound)(rustix::io::Errno::NOENT))
    }

    fn found(&self) -> &CStr {
        self.candidates.get(self.found).map_or(c"", CString::as_c_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_and_missed_in_gos_words() {
        let env = ["PATH=/nowhere:/bin".to_owned()];
        for (name, want) in [
            ("sh", Ok("/bin/sh")),
            ("/bin/sh", Ok("/bin/sh")),
            ("nope", Err("exec: \"nope\": executable file not found in $PATH")),
            ("/no/such", Err("exec: \"/no/such\": stat /no/such: no such file or directory")),
            ("/etc", Err("exec: \"/etc\": is a directory: permission denied")),
            ("/etc/passwd", Err("exec: \"/etc/passwd\": permission denied")),
            ("", Err("exec: \"\": executable file not found in $PATH")),
        ] {
            let process = Process { args: vec![name.to_owned()], ..Process::default() };
            let names = failure::Names { spec: None, process: &process, user: None };
            let mut search = Search::of(&process.args, &env, false).unwrap();
            let found = search.find().map_err(|f| names.words(f).text);
            let found = found.map(|()| search.found().to_string_lossy().into_owned());
            assert_eq!(found, want.map(str::to_owned).map_err(str::to_owned));
        }
    }

    #[test]
    fn a_home_is_a_path() {
        let long = vec![b'a'; MAX_HOME + 1];
        for (home, want) in
            [(&b"/root"[..], &b"HOME=/root\0"[..]), (b"a\0b", b"HOME=/\0"), (&long, b"HOME=/\0")]
        {
            let mut variable = Vec::new();
            set_home(&mut variable, home);
            assert_eq!(variable, want);
        }
    }
}
