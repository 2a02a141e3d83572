//! `checkpoint` and `restore`, with runc's flags.

use std::os::fd::AsFd;
use std::path::PathBuf;

use corten_sys::process;
use corten_wire::shim::Rootfs;

use super::arguments::Arguments;
use super::create::{Draft, Origin};
use super::foreground;
use super::record::{Container, Status};
use super::{Context, OciError, absolute};
use crate::checkpoint::{self, CriuError, Dump, Manner, Restore};
use crate::container::{Stdio, hooks};

/// Flags that we have to know, and cannot honour.
const REFUSED: [&str; 5] = ["lazy-pages", "status-fd", "page-server", "lsm-mount-context", "no-pivot"];

/// What both commands are told in the same words.
fn manner(context: &Context, given: &Arguments) -> Result<Manner, OciError> {
    if let Some(flag) = REFUSED.into_iter().find(|f| given.has(f)) {
        return Err(OciError::Unsupported(format!("--{flag}")));
    }
    let groups = given.value("manage-cgroups-mode").filter(|m| !m.is_empty());
    let groups = groups
        .map(|m| m.parse().map_err(|()| OciError::Usage(format!("Invalid manage-cgroups-mode value {m:?}"))));
    let empty = given.values("empty-ns");
    if let Some(other) = empty.iter().find(|n| *n != "network") {
        return Err(OciError::Usage(format!("namespace {other:?} is not supported")));
    }
    Ok(Manner {
        program: context.criu.clone(),
        tcp_established: given.has("tcp-established"),
        tcp_skip_in_flight: given.has("tcp-skip-in-flight"),
        link_remap: given.has("link-remap"),
        ext_unix_sk: given.has("ext-unix-sk"),
        shell_job: given.has("shell-job"),
        file_locks: given.has("file-locks"),
        empty_network: !empty.is_empty(),
        auto_dedup: given.has("auto-dedup"),
        groups: groups.transpose()?,
    })
}

/// COMPAT: without the flag it is `checkpoint` where the command is given.
fn images(given: &Arguments) -> Result<PathBuf, OciError> {
    given.path("image-path")?.map_or_else(|| absolute("checkpoint"), Ok)
}

pub(super) fn checkpoint(context: &Context, given: &Arguments) -> Result<(), OciError> {
    let container = context.store.load(given.id())?;
    let manner = manner(context, given)?;
    let status = container.status();
    if matches!(status, Status::Created | Status::Stopped) {
        let text = format!("Container cannot be checkpointed in {} state", status.name());
        return Err(OciError::refused(text));
    }
    let parent = given.value("parent-path").filter(|p| !p.is_empty());
    if parent.is_some_and(|p| p.starts_with('/')) {
        return Err(OciError::Usage("--parent-path must be relative to the images".into()));
    }
    let pre_dump = given.has("pre-dump");
    let keep = pre_dump || given.has("leave-running");
    checkpoint::dump(&Dump {
        spec: &container.record.spec,
        cgroup: &container.cgroup()?,
        init: container.record.pid,
        images: &images(given)?,
        work: given.path("work-path")?.as_deref(),
        leave_running: keep,
        pre_dump,
        parent,
        manner: &manner,
    })?;
    if keep { Ok(()) } else { super::manage::destroy(&container) }
}

pub(super) fn restore(context: &Context, given: &Arguments) -> Result<i32, OciError> {
    let manner = manner(context, given)?;
    let (images, work) = (images(given)?, given.path("work-path")?);
    let detach = given.has("detach");
    process::close_on_exec_from(3).map_err(OciError::io("close_range"))?;
    let draft = Draft::new(context, given, detach, Origin::Checkpoint)?;
    if !detach && !given.has("no-subreaper") {
        corten_sys::caps::adopt_orphans().map_err(OciError::io("prctl"))?;
    }
    let signals = if detach { None } else { Some(foreground::signals()?) };
    let kept = draft.make_groups();
    let _kept = kept.map_err(|step| draft.abandon(OciError::Step { verb: "restore", step }))?;
    let all = draft.record.spec.hooks.clone().unwrap_or_default();
    let state = draft.record.state();
    let mut born = |pid: i32| -> Result<(), CriuError> {
        let run = |kind, list: &_| hooks::run(kind, list, &state, pid, "creating", None);
        run("prestart", &all.prestart)
            .and_then(|()| run("createRuntime", &all.create_runtime))
            .map_err(|e| CriuError::Refused(e.text))
    };
    let terminal = draft.record.spec.process.as_ref().is_some_and(|p| p.terminal);
    let restored = checkpoint::restore(
        &mut Restore {
            spec: &draft.record.spec,
            rootfs: &Rootfs::Path(draft.record.rootfs.clone()),
            scratch: &draft.dir,
            cgroup: &draft.cgroup,
            images: &images,
            work: work.as_deref(),
            streams: [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()],
            lsm_profile: given.value("lsm-profile").filter(|p| !p.is_empty()),
            manner: &manner,
            born: &mut born,
        },
        (!terminal).then_some(Stdio::Inherited),
    );
    let launched = restored.map_err(|e| draft.abandon(e.into()))?;
    let child = launched.child;
    let told = draft
        .note(child.pid)
        .and_then(|()| draft.terminal.hand_over(launched.stdio))
        .and_then(|m| draft.announce(&child).map(|()| m));
    let master = told.map_err(|e| {
        process::signal(child.pidfd.as_fd(), 9).ok();
        draft.abandon(e)
    })?;
    let Some(signals) = signals else { return Ok(0) };
    let container = Container { dir: draft.dir, record: draft.record };
    let code = foreground::wait(&child, &signals, master)?;
    super::manage::destroy(&container)?;
    Ok(code)
}
