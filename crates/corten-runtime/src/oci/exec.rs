//! `exec`: a further process in a container.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use corten_sys::users;
use corten_wire::oci_runtime::{Capabilities, Hooks, Process, User};

use super::arguments::Arguments;
use super::create::{pass_sockets, write_pid};
use super::foreground::{self, Terminal, send_pidfd};
use super::record::{Container, Status};
use super::{Context, OciError, Place, config, preserved, protect};
use crate::cgroup::Cgroup;
use crate::container::notify::Answers;
use crate::container::{self, Alone, ExecPlan, Launched};
use crate::fault::StepError;
use crate::seccomp;

pub(super) fn exec(context: &Context, given: &Arguments) -> Result<i32, OciError> {
    let container = context.store.load(given.id())?;
    if users::ordinary() && container.init().is_some() {
        users::enter_maker_of(container.record.pid).map_err(OciError::io("setns user"))?;
    }
    match container.status() {
        Status::Stopped => return Err(OciError::refused("cannot exec in a stopped container")),
        Status::Paused if !given.has("ignore-paused") => {
            let text = "cannot exec in a paused container (use --ignore-paused to override)";
            return Err(OciError::refused(text));
        }
        _ => {}
    }
    protect(Place::Container)?;
    let mut process = process_of(&container, given)?;
    pass_sockets(&mut process);
    let detach = given.has("detach");
    let terminal = Terminal::of(given, process.terminal, detach)?;
    let signals = if detach { None } else { Some(foreground::signals()?) };
    let (pid_file, pidfd_socket) = (given.path("pid-file")?, given.path("pidfd-socket")?);
    let Launched { child, stdio, .. } = launch(&container, &process, given)?;
    let master = terminal
        .hand_over(stdio)
        .and_then(|m| write_pid(pid_file.as_deref(), child.pid).map(|()| m))
        .and_then(|m| send_pidfd(pidfd_socket.as_deref(), "setns", child.pidfd.as_fd()).map(|()| m));
    let master = master.inspect_err(|_| {
        corten_sys::process::signal(child.pidfd.as_fd(), 9).ok();
    })?;
    match signals {
        Some(signals) => foreground::wait(&child, &signals, master),
        None => Ok(0),
    }
}

fn launch(container: &Container, process: &Process, given: &Arguments) -> Result<Launched, OciError> {
    let step = |step| OciError::Step { verb: "exec", step };
    let Some(init) = container.init() else {
        return Err(OciError::refused("cannot exec in a stopped container"));
    };
    let given_filter = container.record.spec.linux.as_ref().and_then(|l| l.seccomp.as_ref());
    let filter = given_filter.map(seccomp::compile).transpose();
    let filter =
        filter.map_err(|e| step(StepError::new("seccomp", format!("unable to init seccomp: {e}"))))?;
    let (hooks, state, cgroup) = (Hooks::default(), container.record.state(), cgroup(container, given)?);
    let answers = Answers::of(filter.as_ref(), &state);
    let alone = Alone {
        door: None,
        hooks: &hooks,
        state: &state,
        preserve: preserved(given)?,
        program: None,
        no_pivot: false,
        born: &|_| Ok(()),
    };
    let plan = ExecPlan {
        process,
        user: None,
        seccomp: filter.as_ref(),
        cgroup: &cgroup,
        init: init.as_fd(),
        init_pid: container.record.pid,
        linux: container.record.spec.linux.as_ref(),
        stdin: false,
        keyring: (!container.record.no_keyring).then_some(container.record.id.as_str()),
        answers: answers.as_ref(),
        alone: Some(&alone),
    };
    container::exec(&plan).map_err(step)
}

/// The container's groups, or those below them that `--cgroup [CONTROLLER,…:]PATH` names.
fn cgroup(container: &Container, given: &Arguments) -> Result<Cgroup, OciError> {
    let wanted = given.values("cgroup");
    let mut below = Vec::new();
    for text in wanted {
        let invalid = |why: &str| OciError::refused(format!("invalid --cgroup argument: {text}{why}"));
        match text.split_once(':') {
            None if wanted.len() > 1 => return Err(invalid(" (missing <controller>: prefix)")),
            None => below.push((None, text.as_str())),
            Some((_, path)) if path.contains(':') => return Err(invalid("")),
            Some((controllers, path)) => below.extend(controllers.split(',').map(|c| (Some(c), path))),
        }
    }
    container.cgroup()?.below(&below).map_err(OciError::refused)
}

/// The process file, or the container's own process with what the flags say.
fn process_of(container: &Container, given: &Arguments) -> Result<Process, OciError> {
    if let Some(path) = given.value("process").filter(|p| !p.is_empty()) {
        let process: Process = config::read(Path::new(path))?;
        config::check_process(&process)?;
        return Ok(process);
    }
    let mut process = container.record.spec.process.clone().unwrap_or_default();
    process.args = given.positional.get(1..).unwrap_or_default().to_vec();
    if process.args.is_empty() {
        return Err(OciError::refused("process args cannot be empty"));
    }
    if let Some(cwd) = given.value("cwd").filter(|c| !c.is_empty()) {
        process.cwd = PathBuf::from(cwd);
    }
    process.env.extend_from_slice(given.values("env"));
    process.terminal = given.has("tty");
    process.no_new_privileges |= given.has("no-new-privs");
    if let Some(user) = given.value("user").filter(|u| !u.is_empty()) {
        set_user(&mut process.user, user)?;
    }
    if let Some(label) = given.value("process-label").filter(|l| !l.is_empty()) {
        process.selinux_label = label.to_owned();
    }
    if let Some(profile) = given.value("apparmor").filter(|p| !p.is_empty()) {
        process.apparmor_profile = profile.to_owned();
    }
    for gid in given.values("additional-gids") {
        let gid = gid.parse().map_err(|_| OciError::Usage(format!("parsing {gid:?} as a gid failed")))?;
        process.user.additional_gids.push(gid);
    }
    if !given.values("cap").is_empty() {
        let all = process.capabilities.get_or_insert_with(Capabilities::default);
        for name in given.values("cap") {
            for set in [&mut all.bounding, &mut all.effective, &mut all.permitted] {
                if !set.contains(name) {
                    set.push(name.clone());
                }
            }
        }
    }
    config::check_process(&process)?;
    Ok(process)
}

/// COMPAT: numbers only, as with runc: it is the caller who looks names up.
fn set_user(user: &mut User, text: &str) -> Result<(), OciError> {
    let (uid, gid) = text.split_once(':').map_or((text, None), |(u, g)| (u, Some(g)));
    let number = |n: &str, what: &str| -> Result<u32, OciError> {
        n.parse().map_err(|_| OciError::refused(format!("parsing {n} as int for {what} failed")))
    };
    user.uid = number(uid, "uid")?;
    if let Some(gid) = gid {
        user.gid = number(gid, "gid")?;
    }
    Ok(())
}
