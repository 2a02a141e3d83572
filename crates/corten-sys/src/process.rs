//! Making, signalling and reaping processes.
//!
//! Two ways to make one: [`clone_process`] copies the calling process (for the single-threaded shim only),
//! [`spawn`] starts a program without copying anything (for the multi-threaded daemon).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// A child process: its number, and a descriptor that never means another process.
#[derive(Debug)]
pub struct Child {
    /// As this process sees it.
    pub pid: i32,
    /// Readable when the child has ended.
    pub pidfd: OwnedFd,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Exited(i32),
    /// Killed by this signal.
    Signaled(i32),
}

impl Ended {
    /// As a shell counts: 128 + signal where killed.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal) => 128 + signal,
        }
    }
}

/// Namespaces as `CLONE_NEW…` bits.
pub mod namespace {
    /// Mounts.
    pub const MOUNT: u64 = libc::CLONE_NEWNS as u64;
    /// Host name.
    pub const UTS: u64 = libc::CLONE_NEWUTS as u64;
    /// System V IPC and message queues.
    pub const IPC: u64 = libc::CLONE_NEWIPC as u64;
    /// Process numbers.
    pub const PID: u64 = libc::CLONE_NEWPID as u64;
    /// Network.
    pub const NET: u64 = libc::CLONE_NEWNET as u64;
    /// View of the control groups.
    pub const CGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
    /// Users.
    pub const USER: u64 = libc::CLONE_NEWUSER as u64;
    /// Monotonic clocks.
    pub const TIME: u64 = 0x80;
}

/// libc has it as an int, which it does not fit into.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

pub(crate) fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Copies the calling process into new namespaces (and, on cgroup v2, straight into a control group) and runs
/// `child` in the copy, which ends with the code that it returns. It has to make do with the memory that is there
/// already, see [`crate::allocation::forbid`].
///
/// INVARIANT: the caller has one thread. With more, the copy could find a lock (of the allocator, say) held by
/// a thread that does not exist in it, and hang; it would not be unsound.
///
/// # Errors
/// Those of clone3(2).
pub fn clone_process(
    namespaces: u64,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> i32,
) -> io::Result<Child> {
    clone_flags(namespaces, cgroup, child)
}

/// As [`clone_process`], but the new process is a child of this one's parent.
///
/// # Errors
/// Those of clone3(2).
pub fn clone_sibling(namespaces: u64, child: impl FnOnce() -> i32) -> io::Result<Child> {
    clone_flags(namespaces | libc::CLONE_PARENT as u64, None, child)
}

fn clone_flags(
    namespaces: u64,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> i32,
) -> io::Result<Child> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is a plain struct of integers for which all zeros is valid ("not used").
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces | libc::CLONE_PIDFD as u64;
    args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    // A sibling's is the one of its maker.
    args.exit_signal = if namespaces & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: args is valid for its whole length and lives during the call; no stack is given and CLONE_VM is
    // not set, so parent and child return on their own copies of this stack, like fork.
    let made = check(unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut args, std::mem::size_of::<libc::clone_args>())
    });
    let pid = match made {
        // Docker's seccomp profile hides clone3, to be able to look at the flags.
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) && cgroup.is_none() => {
            let flags = args.flags | libc::SIGCHLD as u64;
            // SAFETY: as above; with CLONE_PIDFD the third argument is where the descriptor is stored.
            check(unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, &raw mut pidfd, 0usize, 0usize) })?
        }
        other => other?,
    };
    if pid == 0 {
        crate::allocation::forbid();
        let code = child();
        exit_now(code);
    }
    // SAFETY: on success the kernel has stored a new descriptor, which nobody else owns.
    Ok(Child { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// Ends the process at once: no destructors, no buffers flushed.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Strings as execve(2) takes them, made before there is a process to run them.
#[derive(Debug)]
pub struct Strings {
    all: Vec<CString>,
    /// One for each, one for what [`exec`] adds, and the end.
    addresses: Vec<usize>,
}

impl Strings {
    /// Of these.
    #[must_use]
    pub fn of(all: Vec<CString>) -> Self {
        // A string stays where it is when the list of them moves.
        let addresses = all.iter().map(|s| s.as_ptr() as usize).chain([0, 0]).collect();
        Self { all, addresses }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[CString] {
        &self.all
    }
}

/// Runs a program in place of this one; returns only on failure. `more` is a further variable of its environment.
pub fn exec(program: &CStr, args: &Strings, env: &mut Strings, more: Option<&CStr>) -> io::Error {
    env.addresses[env.all.len()] = more.map_or(0, |m| m.as_ptr() as usize);
    let (argv, envp) = (args.addresses.as_ptr(), env.addresses.as_ptr());
    // SAFETY: both arrays end with a null pointer and point to NUL-terminated strings that outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.cast(), envp.cast()) };
    env.addresses[env.all.len()] = 0;
    io::Error::last_os_error()
}

/// Sets the supplementary groups of the calling thread.
///
/// # Errors
/// Those of setgroups(2).
pub fn set_groups(all: &[u32]) -> io::Result<()> {
    // SAFETY: the pointer covers the given number of ids and lives during the call.
    check(unsafe { libc::syscall(libc::SYS_setgroups, all.len(), all.as_ptr()) })?;
    Ok(())
}

/// Whether the working directory lies below the root directory: the kernel marks one that does not.
///
/// # Errors
/// Those of getcwd(2).
pub fn directory_is_inside() -> io::Result<bool> {
    let mut path = [0u8; 4096];
    // SAFETY: the pointer covers the given length and lives during the call.
    check(unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) })?;
    Ok(path[0] == b'/')
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Starts the program in `program` (a descriptor of an executable file) without copying this process. `fds`
/// lists what the child gets under which number; everything else must be close-on-exec, as all descriptors of
/// Rust programs are. Signals are at their defaults and unblocked in the child, which leads a new session.
///
/// # Errors
/// Those of posix_spawn(3) and pidfd_open(2).
pub fn spawn(
    program: BorrowedFd<'_>,
    args: &[CString],
    env: &[CString],
    fds: &[(BorrowedFd<'_>, RawFd)],
) -> io::Result<Child> {
    let path = CString::new(format!("/proc/self/fd/{}", program.as_raw_fd()))?;
    spawn_path(&path, args, env, fds)
}

/// As [`spawn`], for a program of the host that is named by its path; it may be a script.
///
/// # Errors
/// Those of posix_spawn(3) and pidfd_open(2).
pub fn spawn_path(
    path: &CStr,
    args: &[CString],
    env: &[CString],
    fds: &[(BorrowedFd<'_>, RawFd)],
) -> io::Result<Child> {
    let argv = pointers(args);
    let envp = pointers(env);
    let ok = |code: libc::c_int| if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) };
    // SAFETY: both objects are plain memory that the init functions below fill before any other use; each is
    // destroyed exactly once; the paths and arrays outlive the call; the descriptors are open.
    let pid = unsafe {
        let mut actions: libc::posix_spawn_file_actions_t = std::mem::zeroed();
        let mut attributes: libc::posix_spawnattr_t = std::mem::zeroed();
        ok(libc::posix_spawn_file_actions_init(&raw mut actions))?;
        if let Err(e) = ok(libc::posix_spawnattr_init(&raw mut attributes)) {
            libc::posix_spawn_file_actions_destroy(&raw mut actions);
            return Err(e);
        }
        let mut pid = 0;
        let result = (|| {
            for (from, to) in fds {
                ok(libc::posix_spawn_file_actions_adddup2(&raw mut actions, from.as_raw_fd(), *to))?;
            }
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            ok(libc::posix_spawnattr_setsigdefault(&raw mut attributes, &raw const all))?;
            libc::sigemptyset(&raw mut all);
            ok(libc::posix_spawnattr_setsigmask(&raw mut attributes, &raw const all))?;
            let flags = libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK | 0x80 /* SETSID */;
            ok(libc::posix_spawnattr_setflags(&raw mut attributes, flags as libc::c_short))?;
            ok(libc::posix_spawn(
                &raw mut pid,
                path.as_ptr(),
                &raw const actions,
                &raw const attributes,
                argv.as_ptr().cast(),
                envp.as_ptr().cast(),
            ))
        })();
        libc::posix_spawnattr_destroy(&raw mut attributes);
        libc::posix_spawn_file_actions_destroy(&raw mut actions);
        result.map(|()| pid)
    }?;
    Ok(Child { pid, pidfd: pidfd_open(pid)? })
}

/// A descriptor for an existing process.
///
/// # Errors
/// Those of pidfd_open(2); `ESRCH` if there is none.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// A descriptor of another process, for us as well.
///
/// # Errors
/// Those of pidfd_getfd(2).
pub fn descriptor_of(pidfd: BorrowedFd<'_>, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes integers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) })?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends a signal by number.
///
/// # Errors
/// `ESRCH` if the process has ended, `EINVAL` for a number that is no signal.
pub fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: no pointer but null is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })?;
    Ok(())
}

/// Sends a signal to a process by number; for lists read from a control group.
///
/// # Errors
/// Those of kill(2).
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: the call takes two integers.
    check(libc::c_long::from(unsafe { libc::kill(pid, signal) }))?;
    Ok(())
}

/// Reaps the child behind `pidfd`, waiting for its end.
///
/// # Errors
/// `ECHILD` if it is not a child or was reaped already.
pub fn wait(pidfd: BorrowedFd<'_>) -> io::Result<Ended> {
    loop {
        // SAFETY: siginfo_t is plain memory, valid when zeroed; waitid fills it.
        let (code, info) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let code =
                libc::waitid(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t, &raw mut info, libc::WEXITED);
            (code, info)
        };
        if code == 0 {
            return Ok(ended(&info));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn ended(info: &libc::siginfo_t) -> Ended {
    // SAFETY: waitid succeeded, so the SIGCHLD fields of the union are the ones in use.
    let status = unsafe { info.si_status() };
    if info.si_code == libc::CLD_EXITED { Ended::Exited(status) } else { Ended::Signaled(status) }
}

/// Reaps one child that has ended, whichever; `None` if none has.
///
/// # Errors
/// None but `ECHILD`, which is reported as `None`.
pub fn reap_any() -> io::Result<Option<(i32, Ended)>> {
    let mut status = 0;
    // SAFETY: status lives during the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
    match pid {
        0 => Ok(None),
        p if p > 0 && libc::WIFEXITED(status) => Ok(Some((p, Ended::Exited(libc::WEXITSTATUS(status))))),
        p if p > 0 => Ok(Some((p, Ended::Signaled(libc::WTERMSIG(status))))),
        _ => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ECHILD) => Ok(None),
            e => Err(e),
        },
    }
}

/// All signals at their default disposition, none blocked: what a program expects to be started with. (Rust's
/// start-up code ignores SIGPIPE, and an ignored signal stays ignored across exec.)
pub fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is a valid disposition; for SIGKILL, SIGSTOP and the two that libc reserves the call
        // fails without effect.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: the set is initialised before use and lives during the call.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Moves this process out of shared namespaces (`CLONE_NEW…` bits).
///
/// # Errors
/// Those of unshare(2).
pub fn unshare(namespaces: u64) -> io::Result<()> {
    // SAFETY: namespace flags do not touch memory of the process.
    check(libc::c_long::from(unsafe { libc::unshare(namespaces as libc::c_int) }))?;
    Ok(())
}

/// Enters namespaces: of one kind by a namespace descriptor, or several kinds by a process descriptor.
///
/// # Errors
/// Those of setns(2).
pub fn enter(fd: BorrowedFd<'_>, namespaces: u64) -> io::Result<()> {
    // SAFETY: the call takes two integers and touches no memory of the process.
    check(libc::c_long::from(unsafe { libc::setns(fd.as_raw_fd(), namespaces as libc::c_int) }))?;
    Ok(())
}

/// Lets this thread's files be made in the name of another user and group. Capabilities over files go with the
/// user 0; who needs them sets them again.
pub fn make_files_as(uid: u32, gid: u32) {
    // SAFETY: both calls take an integer; they report nothing but the former value.
    unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
    }
}

/// Runs `work` on a thread of its own whose files are made in the name of another user and group, with all its
/// capabilities, and waits for it: for mounts that map ids, which know no others.
///
/// # Errors
/// Those of starting a thread and of capset(2).
pub fn as_owner<T: Send>((uid, gid): (u32, u32), work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("owner".into()).spawn_scoped(scope, || {
            let powers = crate::caps::permitted()?;
            make_files_as(uid, gid);
            crate::caps::set(powers, powers, 0)?;
            io::Result::Ok(work())
        })?;
        thread.join().map_err(|_| io::Error::other("the thread panicked"))?
    })
}

/// Marks every descriptor from `first` on close-on-exec.
///
/// # Errors
/// Those of close_range(2).
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    // SAFETY: the call takes three integers; it only changes flags of descriptors.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 4u32) })?;
    Ok(())
}

/// Closes every descriptor from `first` on, except some. Only for the first moments of a program, before anything else
/// that owns one of them exists.
///
/// # Errors
/// Those of close_range(2).
pub fn close_inherited_from<const N: usize>(
    first: RawFd,
    except: [Option<BorrowedFd<'_>>; N],
) -> io::Result<()> {
    let mut kept = except.map(|fd| fd.map_or(-1, |fd| fd.as_raw_fd()));
    kept.sort_unstable();
    let mut next = first;
    for kept in kept.into_iter().filter(|kept| *kept >= first) {
        if kept > next {
            close_range(next as libc::c_uint, (kept - 1) as libc::c_uint)?;
        }
        next = kept + 1;
    }
    close_range(next as libc::c_uint, libc::c_uint::MAX)
}

fn close_range(first: libc::c_uint, last: libc::c_uint) -> io::Result<()> {
    // SAFETY: descriptors inherited from the parent have no owner in this process yet; the caller's caller is the start
    // of main, before any was opened that it does not name.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) })?;
    Ok(())
}

/// Makes `fd` also available under the number `target`, without close-on-exec.
///
/// # Errors
/// Those of dup2(2).
pub fn duplicate_to(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == target {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
        return Ok(());
    }
    // SAFETY: both are numbers; the previous owner of `target` (0 to 2 in practice) is replaced on purpose.
    check(libc::c_long::from(unsafe { libc::dup2(fd.as_raw_fd(), target) }))?;
    Ok(())
}

/// Takes over a descriptor that this process was started with under a known number, such as 0.
#[must_use]
pub fn inherited(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: fcntl on any number is harmless; it tells whether the descriptor is open.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it is open, and by contract of the program's start protocol this call is its only owner.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn clone_runs_the_child_and_wait_tells_its_end() {
        let child = clone_process(0, None, || 7).unwrap();
        assert_eq!(wait(child.pidfd.as_fd()).unwrap(), Ended::Exited(7));
    }

    #[test]
    fn spawn_from_a_descriptor_gives_it_only_the_listed_descriptors() {
        let sh = std::fs::File::open("/bin/sh").unwrap();
        let (r, w) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let args = ["sh", "-c", "echo $0-$#; ls /proc/self/fd | wc -l"].map(|a| CString::new(a).unwrap());
        let env = [CString::new("PATH=/bin:/usr/bin").unwrap()];
        let child = spawn(sh.as_fd(), &args, &env, &[(w.as_fd(), 1)]).unwrap();
        drop(w);
        assert_eq!(wait(child.pidfd.as_fd()).unwrap(), Ended::Exited(0));
        let mut out = String::new();
        std::io::Read::read_to_string(&mut std::fs::File::from(r), &mut out).unwrap();
        assert!(out.starts_with("sh-0\n"), "{out}");
    }

    #[test]
    fn signal_ends_a_child() {
        let child = clone_process(0, None, || {
            std::thread::sleep(std::time::Duration::from_secs(20));
            0
        })
        .unwrap();
        signal(child.pidfd.as_fd(), 9).unwrap();
        assert_eq!(wait(child.pidfd.as_fd()).unwrap().code(), 137);
    }
}
