//! The life of a container as a pure function: `step(facts, phase, event, now)` says what comes next and what to do.
//!
//! ```text
//!            Start            Launched                Stop/Restart/Remove{force}
//!  Created ────────▶ Starting ────────▶ Running ──────────────────────────────▶ Stopping
//!     ▲                │ ▲  ▲              │ Ended                                 │ Ended
//!     │ LaunchFailed   │ │  │ (then start) ▼                                       ▼
//!     └── Exited ◀─────┘ │  └──────────── decide: restart policy, auto-remove, then-start
//!           │            │ Timer           │            │                   │
//!           │            └─────────── Restarting      Exited            Removing ──Removed──▶ Gone
//!           └─ Remove ────────────────────────────────────────────────────▶ │
//!                                                                     RemoveFailed ──▶ Dead
//! ```
//! The task feeds events, performs the effects in order and feeds their results back. Nothing here does I/O, knows
//! the time other than by argument, or can fail; a request that makes no sense in a phase is answered by a
//! [`Refusal`] and changes nothing.

use std::time::Duration;

/// Nanoseconds since the epoch.
pub(crate) type Time = i128;

/// `docker restart` waits this long between restarts at first, and doubles it each time …
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// … up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A run at least this long starts the waiting times anew.
const BACKOFF_RESET: Duration = Duration::from_secs(10);
/// After SIGKILL a container whose processes hang in the kernel is given this long before we say so.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

const SIGKILL: i32 = 9;

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Never started.
    Created,
    /// The launch effect is being performed.
    Starting(Attempt),
    /// The program runs.
    Running(Run),
    /// It was told to end.
    Stopping(Run, Stop),
    /// It ended and will be started again.
    Restarting(Backoff),
    /// It ended, or could not be started.
    Exited(Exit),
    /// Its parts are being removed.
    Removing,
    /// Removal failed; only removal can be tried again.
    Dead(String),
    /// Nothing is left of it. The task ends.
    Gone,
}

/// What a launch goes on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Attempt {
    /// Waiting time of the restart that follows if this run is short.
    pub(crate) backoff: Duration,
    /// The launch is the second half of a restart command.
    pub(crate) restarted: bool,
}

/// A running program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) pid: i32,
    pub(crate) started: Time,
    pub(crate) paused: bool,
    /// A stop or a deadly signal was asked for: restart policies do not apply to the coming exit.
    pub(crate) exit_on_next: bool,
    pub(crate) backoff: Duration,
}

/// A stop in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stop {
    /// When to use SIGKILL; `None` waits for ever.
    pub(crate) deadline: Option<Time>,
    /// SIGKILL was sent.
    pub(crate) killed: bool,
    /// What happens after the exit.
    pub(crate) then: Then,
}

/// What follows a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Nothing,
    Start,
    Remove,
}

/// Waiting for the next automatic start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) until: Time,
    pub(crate) wait: Duration,
    pub(crate) exit: Exit,
}

/// The end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) oom: bool,
    pub(crate) at: Time,
}

/// What `step` must know of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) policy: Policy,
    pub(crate) restart_count: u32,
    pub(crate) auto_remove: bool,
    pub(crate) manually_stopped: bool,
    pub(crate) started_before: bool,
    /// Exit code of the last run.
    pub(crate) last_exit: i32,
    pub(crate) stop_signal: i32,
    /// Seconds; negative waits for ever.
    pub(crate) stop_timeout: i64,
}

/// Restart policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    No,
    Always,
    UnlessStopped,
    /// 0 is without limit.
    OnFailure(u32),
}

/// What happened, or what is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The daemon came up and looked for the shim.
    Recover(Found),
    /// Recovery is over everywhere: restart policies may act.
    DaemonReady,
    Start,
    Launched {
        pid: i32,
        started: Time,
    },
    LaunchFailed(Exit),
    Ended(Exit),
    Stop {
        signal: Option<i32>,
        timeout: Option<i64>,
    },
    Restart {
        signal: Option<i32>,
        timeout: Option<i64>,
    },
    Kill {
        signal: i32,
    },
    /// It is about to end, as somebody asked for in another way than by a signal.
    Leaving,
    Pause,
    Frozen,
    Unpause,
    Thawed,
    Remove {
        force: bool,
    },
    Removed,
    RemoveFailed(String),
    /// The daemon ends and takes its containers along: a stop that nobody asked for.
    Shutdown,
    /// A deadline of the phase has passed.
    Timer,
}

/// What recovery found of a container that was running when the daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Alive { pid: i32, started: Time, paused: bool },
    Ended(Exit),
    Nothing,
}

/// One thing for the task to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Sandbox, files, shim: result is `Launched` or `LaunchFailed`. `count` raises the restart count, `reset` zeroes it.
    Launch { count: bool, reset: bool },
    /// To init. Its failure is the request's failure.
    Signal(i32),
    /// Result is `Frozen`.
    Freeze,
    /// Result is `Thawed`.
    Thaw,
    /// After a run: sandbox, volumes, shim.
    CleanUp,
    /// Remembers the outcome of a run.
    RecordExit(Exit),
    /// Remembers that a person wants it stopped (or no longer does).
    RecordManual(bool),
    /// Everything of the container; result is `Removed` or `RemoveFailed`.
    Delete,
    /// Tells the world.
    Emit(Happening),
}

/// Container events in Docker's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happening {
    Start,
    Kill(i32),
    Die(Exit, Duration),
    Oom,
    Stop,
    Restart,
    Pause,
    Unpause,
    Destroy,
}

/// How a request was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Accepted,
    /// It already is so.
    Unchanged,
    Refused(Refusal),
}

/// Why a request makes no sense now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    NotRunning,
    Paused,
    AlreadyPaused,
    NotPaused,
    Restarting,
    /// Removal of a container in this state needs force.
    InUse(&'static str),
    Removing,
    Dead,
}

/// Result of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) phase: Phase,
    pub(crate) effects: Vec<Effect>,
    pub(crate) answer: Answer,
}

impl Phase {
    /// When the task must feed [`Event::Timer`].
    pub(crate) fn deadline(&self) -> Option<Time> {
        match self {
            Self::Stopping(_, stop) => stop.deadline,
            Self::Restarting(backoff) => Some(backoff.until),
            _ => None,
        }
    }

    /// The run, while there is one.
    pub(crate) fn run(&self) -> Option<&Run> {
        match self {
            Self::Running(run) | Self::Stopping(run, _) => Some(run),
            _ => None,
        }
    }
}

fn after(now: Time, d: Duration) -> Time {
    now + i128::try_from(d.as_nanos()).unwrap_or(i128::MAX / 2)
}

fn go(phase: Phase, effects: Vec<Effect>) -> Step {
    Step { phase, effects, answer: Answer::Accepted }
}

fn stay(phase: Phase, answer: Answer) -> Step {
    Step { phase, effects: Vec::new(), answer }
}

fn refuse(phase: Phase, refusal: Refusal) -> Step {
    stay(phase, Answer::Refused(refusal))
}

/// The one transition function; see the drawing above.
pub(crate) fn step(facts: &Facts, phase: Phase, event: Event, now: Time) -> Step {
    match event {
        Event::Recover(found) => recover(facts, phase, found, now),
        Event::DaemonReady => daemon_ready(facts, phase),
        Event::Start => start(phase),
        Event::Launched { pid, started } => launched(phase, pid, started),
        Event::LaunchFailed(exit) => launch_failed(facts, phase, exit),
        Event::Ended(exit) => ended(facts, phase, exit, now),
        Event::Stop { signal, timeout } => stop(facts, phase, signal, timeout, Then::Nothing, now),
        Event::Shutdown => {
            let mut s = stop(facts, phase, None, None, Then::Nothing, now);
            // COMPAT: only a person's stop keeps `unless-stopped` from starting it again.
            s.effects.retain(|e| *e != Effect::RecordManual(true));
            s
        }
        Event::Restart { signal, timeout } => restart(facts, phase, signal, timeout, now),
        Event::Kill { signal } => kill(facts, phase, signal),
        Event::Leaving => match phase {
            Phase::Running(run) => go(Phase::Running(Run { exit_on_next: true, ..run }), vec![]),
            other => stay(other, Answer::Unchanged),
        },
        Event::Pause => pause(phase),
        Event::Frozen => frozen(phase, true),
        Event::Unpause => unpause(phase),
        Event::Thawed => frozen(phase, false),
        Event::Remove { force } => remove(facts, phase, force, now),
        Event::Removed => match phase {
            Phase::Removing => go(Phase::Gone, vec![Effect::Emit(Happening::Destroy)]),
            other => stay(other, Answer::Unchanged),
        },
        Event::RemoveFailed(reason) => match phase {
            Phase::Removing => go(Phase::Dead(reason), vec![]),
            other => stay(other, Answer::Unchanged),
        },
        Event::Timer => timer(phase, now),
    }
}

fn start(phase: Phase) -> Step {
    let launch =
        || go(Phase::Starting(Attempt::default()), vec![Effect::Launch { count: false, reset: true }]);
    match phase {
        Phase::Created | Phase::Exited(_) => launch(),
        Phase::Running(run) if run.paused => refuse(Phase::Running(run), Refusal::Paused),
        Phase::Removing => refuse(phase, Refusal::Removing),
        Phase::Dead(_) | Phase::Gone => refuse(phase, Refusal::Dead),
        Phase::Starting(_) | Phase::Running(_) | Phase::Stopping(..) | Phase::Restarting(_) => {
            stay(phase, Answer::Unchanged)
        }
    }
}

fn launched(phase: Phase, pid: i32, started: Time) -> Step {
    let Phase::Starting(attempt) = phase else { return stay(phase, Answer::Unchanged) };
    let run = Run { pid, started, paused: false, exit_on_next: false, backoff: attempt.backoff };
    let mut effects = vec![Effect::Emit(Happening::Start)];
    if attempt.restarted {
        effects.push(Effect::Emit(Happening::Restart));
    }
    go(Phase::Running(run), effects)
}

fn launch_failed(facts: &Facts, phase: Phase, exit: Exit) -> Step {
    let Phase::Starting(_) = phase else { return stay(phase, Answer::Unchanged) };
    // The launch effect has undone what it did: only the outcome is left to be remembered.
    if facts.auto_remove {
        return go(Phase::Removing, vec![Effect::RecordExit(exit), Effect::Delete]);
    }
    go(Phase::Exited(exit), vec![Effect::RecordExit(exit)])
}

fn ended(facts: &Facts, phase: Phase, exit: Exit, now: Time) -> Step {
    let (run, stop) = match phase {
        Phase::Running(run) => (run, None),
        Phase::Stopping(run, stop) => (run, Some(stop)),
        other => return stay(other, Answer::Unchanged),
    };
    let lived = Duration::from_nanos(u64::try_from((exit.at - run.started).max(0)).unwrap_or(u64::MAX));
    let mut effects = vec![Effect::CleanUp, Effect::RecordExit(exit)];
    effects.push(Effect::Emit(Happening::Die(exit, lived)));
    if matches!(stop, Some(Stop { then: Then::Nothing | Then::Start, .. })) {
        effects.push(Effect::Emit(Happening::Stop));
    }
    match stop.map(|s| s.then) {
        Some(Then::Remove) => {
            effects.push(Effect::Delete);
            go(Phase::Removing, effects)
        }
        Some(Then::Start) => {
            effects.push(Effect::Launch { count: false, reset: true });
            go(Phase::Starting(Attempt { backoff: Duration::ZERO, restarted: true }), effects)
        }
        Some(Then::Nothing) | None => settle(facts, &run, exit, lived, now, effects),
    }
}

/// After an exit that no command follows up: restart policy, auto-remove, or rest.
fn settle(
    facts: &Facts,
    run: &Run,
    exit: Exit,
    lived: Duration,
    now: Time,
    mut effects: Vec<Effect>,
) -> Step {
    let wanted = !run.exit_on_next && policy_restarts(facts, exit.code, false);
    if wanted {
        let base = if lived >= BACKOFF_RESET { Duration::ZERO } else { run.backoff };
        let wait = if base.is_zero() { BACKOFF_FIRST } else { (base * 2).min(BACKOFF_MAX) };
        return go(Phase::Restarting(Backoff { until: after(now, wait), wait, exit }), effects);
    }
    if facts.auto_remove {
        effects.push(Effect::Delete);
        return go(Phase::Removing, effects);
    }
    go(Phase::Exited(exit), effects)
}

/// Docker's restart policies. `manually` matters to `unless-stopped` only.
fn policy_restarts(facts: &Facts, code: i32, manually: bool) -> bool {
    match facts.policy {
        Policy::No => false,
        Policy::Always => true,
        Policy::UnlessStopped => !manually,
        Policy::OnFailure(max) => code != 0 && (max == 0 || facts.restart_count < max),
    }
}

fn stop(
    facts: &Facts,
    phase: Phase,
    signal: Option<i32>,
    timeout: Option<i64>,
    then: Then,
    now: Time,
) -> Step {
    match phase {
        Phase::Running(mut run) => {
            let signal = signal.unwrap_or(facts.stop_signal);
            let seconds = timeout.unwrap_or(facts.stop_timeout);
            run.exit_on_next = true;
            let deadline = u64::try_from(seconds).ok().map(|s| after(now, Duration::from_secs(s)));
            let killed = signal == SIGKILL;
            let deadline = if killed { Some(after(now, KILL_PATIENCE)) } else { deadline };
            let mut effects = Vec::new();
            // A removal that a crash cuts short must not end in a restart by policy.
            if then != Then::Start {
                effects.push(Effect::RecordManual(true));
            }
            effects.extend([Effect::Signal(signal), Effect::Emit(Happening::Kill(signal))]);
            if run.paused {
                // Frozen processes cannot act on a signal.
                effects.push(Effect::Thaw);
            }
            go(Phase::Stopping(run, Stop { deadline, killed, then }), effects)
        }
        Phase::Stopping(run, mut stop) => {
            // A second, more impatient request shortens the first one's patience; removal overrides everything.
            if let Some(sooner) =
                timeout.and_then(|s| u64::try_from(s).ok()).map(|s| after(now, Duration::from_secs(s)))
                && !stop.killed
                && stop.deadline.is_none_or(|d| sooner < d)
            {
                stop.deadline = Some(sooner);
            }
            stop.then = match (stop.then, then) {
                (Then::Remove, _) | (_, Then::Remove) => Then::Remove,
                (_, then) => then,
            };
            go(Phase::Stopping(run, stop), vec![])
        }
        Phase::Restarting(backoff) => {
            go(Phase::Exited(backoff.exit), vec![Effect::RecordManual(true), Effect::Emit(Happening::Stop)])
        }
        other => stay(other, Answer::Unchanged),
    }
}

fn restart(facts: &Facts, phase: Phase, signal: Option<i32>, timeout: Option<i64>, now: Time) -> Step {
    match phase {
        Phase::Running(_) | Phase::Stopping(..) => stop(facts, phase, signal, timeout, Then::Start, now),
        Phase::Created | Phase::Exited(_) | Phase::Restarting(_) => go(
            Phase::Starting(Attempt { backoff: Duration::ZERO, restarted: true }),
            vec![Effect::Launch { count: false, reset: true }],
        ),
        Phase::Starting(_) => stay(phase, Answer::Unchanged),
        Phase::Removing => refuse(phase, Refusal::Removing),
        Phase::Dead(_) | Phase::Gone => refuse(phase, Refusal::Dead),
    }
}

fn kill(facts: &Facts, phase: Phase, signal: i32) -> Step {
    let deadly = signal == SIGKILL || signal == facts.stop_signal;
    let effects = |run: &Run| {
        let mut effects = Vec::new();
        if deadly {
            effects.push(Effect::RecordManual(true));
        }
        effects.extend([Effect::Signal(signal), Effect::Emit(Happening::Kill(signal))]);
        if run.paused && signal == SIGKILL {
            effects.push(Effect::Thaw);
        }
        effects
    };
    match phase {
        Phase::Running(mut run) => {
            run.exit_on_next |= deadly;
            let effects = effects(&run);
            go(Phase::Running(run), effects)
        }
        Phase::Stopping(run, stop) => {
            let effects = effects(&run);
            go(Phase::Stopping(run, stop), effects)
        }
        Phase::Restarting(backoff) if deadly => {
            go(Phase::Exited(backoff.exit), vec![Effect::RecordManual(true)])
        }
        Phase::Restarting(_) => refuse(phase, Refusal::Restarting),
        other => refuse(other, Refusal::NotRunning),
    }
}

fn pause(phase: Phase) -> Step {
    match phase {
        Phase::Running(run) if run.paused => refuse(Phase::Running(run), Refusal::AlreadyPaused),
        Phase::Running(_) => go(phase, vec![Effect::Freeze]),
        Phase::Restarting(_) => refuse(phase, Refusal::Restarting),
        other => refuse(other, Refusal::NotRunning),
    }
}

fn unpause(phase: Phase) -> Step {
    match phase {
        Phase::Running(run) if run.paused => go(phase, vec![Effect::Thaw]),
        other => refuse(other, Refusal::NotPaused),
    }
}

fn frozen(phase: Phase, paused: bool) -> Step {
    let emit = Effect::Emit(if paused { Happening::Pause } else { Happening::Unpause });
    match phase {
        Phase::Running(run) if run.paused != paused => go(Phase::Running(Run { paused, ..run }), vec![emit]),
        Phase::Stopping(run, stop) => go(Phase::Stopping(Run { paused, ..run }, stop), vec![]),
        other => stay(other, Answer::Unchanged),
    }
}

fn remove(facts: &Facts, phase: Phase, force: bool, now: Time) -> Step {
    match phase {
        Phase::Created | Phase::Exited(_) | Phase::Dead(_) => go(Phase::Removing, vec![Effect::Delete]),
        Phase::Running(run) if !force => {
            refuse(phase, Refusal::InUse(if run.paused { "paused" } else { "running" }))
        }
        Phase::Stopping(..) | Phase::Starting(_) if !force => refuse(phase, Refusal::InUse("running")),
        Phase::Restarting(_) if !force => refuse(phase, Refusal::InUse("restarting")),
        Phase::Running(_) => stop(facts, phase, Some(SIGKILL), None, Then::Remove, now),
        Phase::Stopping(run, _) => go(
            Phase::Stopping(
                run,
                Stop { deadline: Some(after(now, KILL_PATIENCE)), killed: true, then: Then::Remove },
            ),
            vec![Effect::Signal(SIGKILL), Effect::Emit(Happening::Kill(SIGKILL))],
        ),
        Phase::Restarting(_) => go(Phase::Removing, vec![Effect::Delete]),
        Phase::Starting(_) | Phase::Removing => refuse(phase, Refusal::Removing),
        Phase::Gone => stay(phase, Answer::Unchanged),
    }
}

fn timer(phase: Phase, now: Time) -> Step {
    match phase {
        Phase::Stopping(run, stop) if stop.deadline.is_some_and(|d| d <= now) => {
            // SIGKILL again and again: it may be lost on a process that is just being forked.
            let stop = Stop { deadline: Some(after(now, KILL_PATIENCE)), killed: true, ..stop };
            let mut effects = vec![Effect::Signal(SIGKILL), Effect::Emit(Happening::Kill(SIGKILL))];
            if run.paused {
                effects.push(Effect::Thaw);
            }
            go(Phase::Stopping(run, stop), effects)
        }
        Phase::Restarting(backoff) if backoff.until <= now => go(
            Phase::Starting(Attempt { backoff: backoff.wait, restarted: false }),
            vec![Effect::Launch { count: true, reset: false }],
        ),
        other => stay(other, Answer::Unchanged),
    }
}

fn recover(facts: &Facts, phase: Phase, found: Found, now: Time) -> Step {
    match (phase, found) {
        (Phase::Removing, _) => go(Phase::Removing, vec![Effect::CleanUp, Effect::Delete]),
        (Phase::Running(_) | Phase::Starting(_), Found::Alive { pid, started, paused }) => go(
            Phase::Running(Run { pid, started, paused, exit_on_next: false, backoff: Duration::ZERO }),
            vec![],
        ),
        // A shim without a record that says "running": the daemon died between spawning and recording. It is ours.
        (Phase::Created | Phase::Exited(_) | Phase::Restarting(_), Found::Alive { pid, started, paused }) => {
            go(
                Phase::Running(Run { pid, started, paused, exit_on_next: false, backoff: Duration::ZERO }),
                vec![],
            )
        }
        // What is known already: the exit was remembered before the daemon ended.
        (Phase::Exited(known), Found::Ended(exit)) if known.at == exit.at => {
            go(Phase::Exited(known), vec![Effect::CleanUp])
        }
        (
            phase @ (Phase::Running(_)
            | Phase::Starting(_)
            | Phase::Restarting(_)
            | Phase::Created
            | Phase::Exited(_)),
            Found::Ended(exit),
        ) => {
            let started = phase.run().map_or(exit.at, |run| run.started);
            let lived = Duration::from_nanos(u64::try_from((exit.at - started).max(0)).unwrap_or(u64::MAX));
            let effects =
                vec![Effect::CleanUp, Effect::RecordExit(exit), Effect::Emit(Happening::Die(exit, lived))];
            rest_or_remove(facts, exit, effects)
        }
        (Phase::Running(_), Found::Nothing) => {
            let exit = Exit { code: 255, oom: false, at: now };
            rest_or_remove(facts, exit, vec![Effect::CleanUp, Effect::RecordExit(exit)])
        }
        // Nothing ran, or the exit is known: make sure that nothing is left of a half-done launch.
        (Phase::Starting(_), Found::Nothing) => go(Phase::Created, vec![Effect::CleanUp]),
        (Phase::Restarting(backoff), Found::Nothing) => {
            go(Phase::Exited(backoff.exit), vec![Effect::CleanUp])
        }
        (phase @ (Phase::Created | Phase::Exited(_)), _) => go(phase, vec![Effect::CleanUp]),
        (phase, _) => stay(phase, Answer::Unchanged),
    }
}

fn rest_or_remove(facts: &Facts, exit: Exit, mut effects: Vec<Effect>) -> Step {
    if facts.auto_remove {
        effects.push(Effect::Delete);
        return go(Phase::Removing, effects);
    }
    go(Phase::Exited(exit), effects)
}

fn daemon_ready(facts: &Facts, phase: Phase) -> Step {
    match phase {
        Phase::Exited(_)
            if facts.started_before && policy_restarts(facts, facts.last_exit, facts.manually_stopped) =>
        {
            go(Phase::Starting(Attempt::default()), vec![Effect::Launch { count: false, reset: false }])
        }
        other => stay(other, Answer::Unchanged),
    }
}

#[cfg(test)]
mod tests;
