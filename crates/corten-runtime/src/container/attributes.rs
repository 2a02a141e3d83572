//! Properties of a process that have a system call each: scheduling, processors, memory nodes, personality, keyring.

use std::ffi::{CStr, CString};
use std::io;

use corten_sys::sched::{self, Policy};
use corten_wire::oci_runtime::{IoPriority, Linux, MemoryPolicy, Personality, Process, Scheduler};

use super::failure::{Outcome, Step, of};
use crate::fault::StepError;

/// All of them, checked and in the kernel's numbers.
#[derive(Debug)]
pub(super) struct Attributes {
    scheduler: Option<Policy>,
    io_priority: Option<(u32, u32)>,
    memory_policy: Option<(u32, Vec<u64>)>,
    personality: Option<u32>,
    /// Where a further process runs before it executes its program, and from then on.
    pub(super) processors: [Vec<u64>; 2],
}

impl Attributes {
    /// Says before anything is made what could not be applied.
    pub(super) fn of(process: &Process, linux: Option<&Linux>) -> Result<Self, StepError> {
        let affinity = process.exec_cpu_affinity.as_ref();
        Ok(Self {
            scheduler: process.scheduler.as_ref().map(policy).transpose()?,
            io_priority: process.io_priority.as_ref().map(io_priority).transpose()?,
            memory_policy: linux.and_then(|l| l.memory_policy.as_ref()).map(memory_policy).transpose()?,
            personality: linux.and_then(|l| l.personality.as_ref()).map(domain).transpose()?,
            processors: [
                set_of(affinity.map_or("", |a| &a.initial))?,
                set_of(affinity.map_or("", |a| &a.last))?,
            ],
        })
    }

    /// Applies what the configuration says. Afterwards the process may not be permitted to do it any more.
    pub(super) fn apply(&self) -> Outcome {
        if let Some(wanted) = self.scheduler {
            sched::set_policy(wanted).map_err(of(Step::Scheduler))?;
        }
        if let Some((class, priority)) = self.io_priority {
            sched::set_io_priority(class, priority).map_err(of(Step::IoPriority))?;
        }
        if let Some((mode, nodes)) = &self.memory_policy {
            sched::set_memory_policy(*mode, nodes).map_err(of(Step::MemoryPolicy))?;
        }
        if let Some(domain) = self.personality {
            sched::set_personality(domain).map_err(of(Step::Personality))?;
        }
        Ok(())
    }
}

/// Lets this process run on these processors only; none at all changes nothing.
pub(super) fn run_on(processors: &[u64]) -> Outcome {
    if processors.is_empty() {
        return Ok(());
    }
    sched::set_processors(processors).map_err(of(Step::Affinity))
}

/// The name of a container's session keyring.
pub(super) fn keyring(container: Option<&str>) -> Result<Option<CString>, StepError> {
    let name = container.map(|id| CString::new(format!("_ses.{id}"))).transpose();
    name.map_err(|_| StepError::new("keyring", "the id has a NUL byte"))
}

/// Gives this process the container's own session keyring, so that it does not have its creator's. To be called while
/// it is still of the host: others may have few keys.
pub(super) fn join_keyring(name: Option<&CStr>) -> Outcome {
    let Some(name) = name else { return Ok(()) };
    match sched::join_keyring(name) {
        // A kernel without keys has nothing to separate.
        Err(e) if e.kind() == io::ErrorKind::Unsupported => Ok(()),
        other => other.map_err(of(Step::Keyring)),
    }
}

fn unknown(what: &str, name: &str) -> StepError {
    StepError::new("attributes", format!("invalid {what}: {name:?}"))
}

fn look_up(what: &str, table: &[(&str, u32)], name: &str) -> Result<u32, StepError> {
    table.iter().find(|(n, _)| *n == name).map(|(_, v)| *v).ok_or_else(|| unknown(what, name))
}

fn policy(wanted: &Scheduler) -> Result<Policy, StepError> {
    const POLICIES: [(&str, u32); 6] = [
        ("SCHED_OTHER", 0),
        ("SCHED_FIFO", 1),
        ("SCHED_RR", 2),
        ("SCHED_BATCH", 3),
        ("SCHED_IDLE", 5),
        ("SCHED_DEADLINE", 6),
    ];
    const FLAGS: [(&str, u32); 7] = [
        ("SCHED_FLAG_RESET_ON_FORK", 0x1),
        ("SCHED_FLAG_RECLAIM", 0x2),
        ("SCHED_FLAG_DL_OVERRUN", 0x4),
        ("SCHED_FLAG_KEEP_POLICY", 0x8),
        ("SCHED_FLAG_KEEP_PARAMS", 0x10),
        ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
        ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
    ];
    let number = look_up("scheduler policy", &POLICIES, &wanted.policy)?;
    let mut flags = 0;
    for flag in &wanted.flags {
        flags |= u64::from(look_up("scheduler flag", &FLAGS, flag)?);
    }
    let wrong = |text: &str| Err(StepError::new("scheduler", text));
    if !(-20..=19).contains(&wanted.nice) {
        return wrong("invalid scheduler.nice");
    }
    let priority = u32::try_from(wanted.priority);
    let Ok(priority) = priority.or(if wanted.priority == 0 { Ok(0) } else { priority }) else {
        return wrong("invalid scheduler.priority");
    };
    if priority != 0 && !matches!(number, 1 | 2) {
        return wrong("scheduler.priority can only be specified for SchedFIFO or SchedRR policy");
    }
    let timing = [wanted.runtime, wanted.deadline, wanted.period].map(Option::unwrap_or_default);
    if number != 6 && timing != [0; 3] {
        return wrong("scheduler runtime/deadline/period can only be specified for SchedDeadline policy");
    }
    let [runtime, deadline, period] = timing;
    let nice = wanted.nice;
    Ok(Policy { policy: number, flags, nice, priority, runtime, deadline, period, ..Policy::default() })
}

fn io_priority(wanted: &IoPriority) -> Result<(u32, u32), StepError> {
    const CLASSES: [(&str, u32); 3] =
        [("IOPRIO_CLASS_RT", 1), ("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)];
    let class = look_up("ioPriority.Class", &CLASSES, &wanted.class)?;
    match u32::try_from(wanted.priority) {
        Ok(priority @ 0..=7) => Ok((class, priority)),
        _ => Err(StepError::new("scheduler", format!("invalid ioPriority.Priority: {}", wanted.priority))),
    }
}

fn memory_policy(wanted: &MemoryPolicy) -> Result<(u32, Vec<u64>), StepError> {
    const MODES: [(&str, u32); 7] = [
        ("MPOL_DEFAULT", 0),
        ("MPOL_PREFERRED", 1),
        ("MPOL_BIND", 2),
        ("MPOL_INTERLEAVE", 3),
        ("MPOL_LOCAL", 4),
        ("MPOL_PREFERRED_MANY", 5),
        ("MPOL_WEIGHTED_INTERLEAVE", 6),
    ];
    const FLAGS: [(&str, u32); 3] = [
        ("MPOL_F_NUMA_BALANCING", 1 << 13),
        ("MPOL_F_RELATIVE_NODES", 1 << 14),
        ("MPOL_F_STATIC_NODES", 1 << 15),
    ];
    let mut mode = look_up("memory policy mode", &MODES, &wanted.mode)?;
    for flag in &wanted.flags {
        mode |= look_up("memory policy flag", &FLAGS, flag)?;
    }
    Ok((mode, set_of(&wanted.nodes)?))
}

fn domain(wanted: &Personality) -> Result<u32, StepError> {
    if let Some(flag) = wanted.flags.first() {
        return Err(unknown("personality flag", flag));
    }
    look_up("personality domain", &[("LINUX", 0), ("LINUX32", 8)], &wanted.domain)
}

/// Highest number in a list of processors or nodes.
const HIGHEST: usize = 8191;

/// A list such as `0,2-3` as a bit set.
fn set_of(list: &str) -> Result<Vec<u64>, StepError> {
    let wrong = || unknown("list", list);
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|n| *n <= HIGHEST).ok_or_else(wrong);
    let mut all = Vec::new();
    for part in list.split(',').filter(|p| !p.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(wrong());
        }
        if all.len() <= last / 64 {
            all.resize(last / 64 + 1, 0);
        }
        for n in first..=last {
            all[n / 64] |= 1 << (n % 64);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_sets() {
        for (list, want) in [("", Some(vec![])), ("0,2-3", Some(vec![0b1101])), ("64", Some(vec![0, 1]))] {
            assert_eq!(set_of(list).ok(), want, "{list}");
        }
        for list in ["x", "3-1", "-1", "99999999"] {
            assert!(set_of(list).is_err(), "{list}");
        }
    }

    #[test]
    fn combinations_that_the_specification_forbids() {
        let scheduler = |policy: &str, nice, priority, runtime| {
            let policy = policy.to_owned();
            super::policy(&Scheduler { policy, nice, priority, runtime, ..Scheduler::default() }).is_ok()
        };
        assert!(scheduler("SCHED_OTHER", 5, 0, None) && scheduler("SCHED_FIFO", 0, 50, None));
        assert!(scheduler("SCHED_DEADLINE", 0, 0, Some(1)));
        assert!(!scheduler("SCHED_OTHER", 20, 0, None) && !scheduler("SCHED_OTHER", 0, 1, None));
        assert!(!scheduler("SCHED_RR", 0, 1, Some(1)) && !scheduler("NOPE", 0, 0, None));
        assert!(!scheduler("SCHED_RR", 0, -1, None));
    }
}
