//! Commands that change a container: `kill`, `delete`, `pause`, `resume`, `update`.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use corten_base::signal::{self, KILL, TERM};
use corten_sys::process;
use corten_wire::oci_runtime::{BlockIo, Cpu, Memory, NamespaceKind, Pids, Resources};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::arguments::Arguments;
use super::record::{Container, Status, remove};
use super::{Context, OciError, config};
use crate::container::hooks;

/// How long a killed container may take to end.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

pub(super) fn kill(context: &Context, given: &Arguments) -> Result<(), OciError> {
    let container = context.store.load(given.id())?;
    let signal = match given.positional.get(1) {
        None => TERM,
        // What number is none the kernel says; 0 asks whether there is somebody.
        Some(name) => (name.parse().ok().or_else(|| signal::parse(name)))
            .ok_or_else(|| OciError::Usage(format!("unknown signal {name:?}")))?,
    };
    let Some(init) = container.init() else {
        // A container without a PID namespace can have processes left.
        if given.has("all") {
            container.cgroup()?.kill_all(signal);
            return Ok(());
        }
        return Err(OciError::refused("container not running"));
    };
    let group = container.cgroup()?;
    if given.has("all") {
        group.kill_all(signal);
    } else {
        process::signal(init.as_fd(), signal).map_err(|e| match e.raw_os_error() {
            Some(3) => OciError::refused("container not running"),
            _ => OciError::io("unable to signal init")(e),
        })?;
    }
    // A frozen process does not even die.
    if signal == KILL && group.is_frozen() {
        group.set_frozen(false)?;
    }
    Ok(())
}

pub(super) fn delete(context: &Context, given: &Arguments) -> Result<(), OciError> {
    let (id, force) = (given.id(), given.has("force"));
    let container = match context.store.load(id) {
        Err(OciError::Refused(_)) if force => return context.store.remove_unrecorded(id),
        other => other?,
    };
    let status = container.status();
    match (status, force) {
        (Status::Running | Status::Paused, false) => {
            let text = format!("cannot delete container {id} that is not stopped: {}", status.name());
            return Err(OciError::refused(text));
        }
        (Status::Stopped, _) => {}
        _ => end(&container)?,
    }
    destroy(&container)
}

/// Kills the first process and waits for its end.
fn end(container: &Container) -> Result<(), OciError> {
    let Some(init) = container.init() else { return Ok(()) };
    let group = container.cgroup()?;
    process::signal(init.as_fd(), KILL).ok();
    if group.is_frozen() {
        group.set_frozen(false)?;
    }
    if ended_within(init.as_fd(), &PATIENCE) {
        Ok(())
    } else {
        Err(OciError::refused("container init still running"))
    }
}

fn ended_within(pidfd: BorrowedFd<'_>, limit: &Timespec) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    loop {
        match poll(&mut fds, Some(limit)) {
            Ok(n) => return n > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Removes what a container that has ended leaves, and runs the hooks of its end.
pub(super) fn destroy(container: &Container) -> Result<(), OciError> {
    let spec = &container.record.spec;
    let group = container.cgroup()?;
    let namespaces = spec.linux.iter().flat_map(|l| &l.namespaces);
    if !namespaces.clone().any(|n| n.kind == NamespaceKind::Pid && n.path.is_none()) {
        group.kill_all(KILL);
    }
    group.destroy()?;
    remove(&container.dir)?;
    if let Some(all) = &spec.hooks {
        // Nothing is left that could be taken back.
        hooks::run("poststop", &all.poststop, &container.record.state(), 0, "stopped", None).ok();
    }
    Ok(())
}

pub(super) fn freeze(context: &Context, given: &Arguments, frozen: bool) -> Result<(), OciError> {
    let container = context.store.load(given.id())?;
    match (container.status(), frozen) {
        (Status::Running | Status::Created, true) | (Status::Paused, false) => {}
        (_, true) => return Err(OciError::refused("container not running")),
        (_, false) => return Err(OciError::refused("container not paused")),
    }
    Ok(container.cgroup()?.set_frozen(frozen)?)
}

pub(super) fn update(context: &Context, given: &Arguments) -> Result<(), OciError> {
    let container = context.store.load(given.id())?;
    if let Some(flag) = ["l3-cache-schema", "mem-bw-schema"].into_iter().find(|f| given.has(f)) {
        return Err(OciError::Unsupported(format!("--{flag} (Intel RDT)")));
    }
    if container.status() == Status::Stopped {
        return Err(OciError::refused("container not running"));
    }
    let resources: Resources = match given.value("resources").filter(|r| !r.is_empty()) {
        Some(path) => config::read(Path::new(path))?,
        None => resources_of(given)?,
    };
    Ok(container.cgroup()?.update(&resources)?)
}

/// Bytes, with the units that runc knows.
fn bytes(given: &Arguments, name: &str) -> Result<Option<i64>, OciError> {
    let wrong = |text: &str| OciError::Usage(format!("invalid value for {name}: invalid size: '{text}'"));
    let Some(text) = given.value(name) else { return Ok(None) };
    if text == "-1" {
        return Ok(Some(-1));
    }
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match lower[digits.len()..].trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(wrong(text)),
    };
    let number: i64 = digits.parse().map_err(|_| wrong(text))?;
    number.checked_mul(1 << shift).filter(|n| *n >= 0).map(Some).ok_or_else(|| wrong(text))
}

fn resources_of(given: &Arguments) -> Result<Resources, OciError> {
    let text = |name: &str| given.value(name).map(str::to_owned);
    Ok(Resources {
        memory: Some(Memory {
            limit: bytes(given, "memory")?,
            reservation: bytes(given, "memory-reservation")?,
            swap: bytes(given, "memory-swap")?,
            ..Memory::default()
        }),
        cpu: Some(Cpu {
            shares: given.number("cpu-share")?,
            quota: given.number("cpu-quota")?,
            period: given.number("cpu-period")?,
            realtime_runtime: given.number("cpu-rt-runtime")?,
            realtime_period: given.number("cpu-rt-period")?,
            cpus: text("cpuset-cpus"),
            mems: text("cpuset-mems"),
            burst: given.number("cpu-burst")?,
            idle: given.number("cpu-idle")?,
        }),
        pids: given.number("pids-limit")?.map(|limit| Pids { limit }),
        block_io: given.number("blkio-weight")?.map(|w| BlockIo { weight: Some(w), ..BlockIo::default() }),
        ..Resources::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::arguments::{Command, parse};

    #[test]
    fn sizes() {
        for (text, want) in
            [("64m", Some(64 << 20)), ("-1", Some(-1)), ("7", Some(7)), ("1GiB", Some(1 << 30)), ("m", None)]
        {
            let args = [format!("--memory={text}"), "x".to_owned()];
            let given = parse(Command::Update.flags(), &args, false).unwrap();
            assert_eq!(bytes(&given, "memory").ok().flatten(), want, "{text}");
        }
    }
}
