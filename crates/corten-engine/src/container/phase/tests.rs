//! Every law of the life of a container that Docker's users rely on, and random sequences of events.

use proptest::prelude::*;

use super::*;

const SECOND: Time = 1_000_000_000;

fn facts() -> Facts {
    Facts {
        policy: Policy::No,
        restart_count: 0,
        auto_remove: false,
        manually_stopped: false,
        started_before: true,
        last_exit: 0,
        stop_signal: 15,
        stop_timeout: 10,
    }
}

fn running() -> Phase {
    Phase::Running(Run { pid: 7, started: 0, paused: false, exit_on_next: false, backoff: Duration::ZERO })
}

fn exit(code: i32, at: Time) -> Exit {
    Exit { code, oom: false, at }
}

#[test]
fn start_is_idempotent_and_fails_back_to_rest() {
    let s = step(&facts(), Phase::Created, Event::Start, 0);
    assert_eq!(s.effects, [Effect::Launch { count: false, reset: true }]);
    let s = step(&facts(), s.phase, Event::LaunchFailed(exit(127, 5)), 5);
    assert_eq!((s.phase, s.effects), (Phase::Exited(exit(127, 5)), vec![Effect::RecordExit(exit(127, 5))]));
    assert_eq!(step(&facts(), running(), Event::Start, 0).answer, Answer::Unchanged);
}

#[test]
fn stop_escalates_and_cancels_the_restart_policy() {
    let f = Facts { policy: Policy::Always, ..facts() };
    let s = step(&f, running(), Event::Stop { signal: None, timeout: Some(2) }, 0);
    assert!(s.effects.contains(&Effect::Signal(15)));
    assert_eq!(s.phase.deadline(), Some(2 * SECOND));
    assert_eq!(step(&f, s.phase.clone(), Event::Timer, SECOND).answer, Answer::Unchanged);
    let s = step(&f, s.phase, Event::Timer, 2 * SECOND);
    assert!(s.effects.contains(&Effect::Signal(9)));
    let s = step(&f, s.phase, Event::Ended(exit(137, 3 * SECOND)), 3 * SECOND);
    assert_eq!(s.phase, Phase::Exited(exit(137, 3 * SECOND)));
    assert_eq!(step(&f, s.phase, Event::Stop { signal: None, timeout: None }, 0).answer, Answer::Unchanged);
}

#[test]
fn a_negative_timeout_waits_for_ever() {
    let s = step(&facts(), running(), Event::Stop { signal: None, timeout: Some(-1) }, 0);
    assert_eq!(s.phase.deadline(), None);
}

#[test]
fn backoff_doubles_and_resets() {
    let f = Facts { policy: Policy::OnFailure(0), ..facts() };
    let (mut phase, mut now, mut waits) = (running(), 0, Vec::new());
    for _ in 0..12 {
        let s = step(&f, phase, Event::Ended(exit(1, now)), now);
        let Phase::Restarting(b) = s.phase.clone() else { panic!("{s:?}") };
        waits.push(b.wait.as_millis());
        now = b.until;
        let s = step(&f, s.phase, Event::Timer, now);
        assert_eq!(s.effects, [Effect::Launch { count: true, reset: false }]);
        phase = step(&f, s.phase, Event::Launched { pid: 8, started: now }, now).phase;
    }
    assert_eq!(&waits[..5], [100, 200, 400, 800, 1600]);
    assert_eq!(waits[11], 60_000);
    let s = step(&f, phase, Event::Ended(exit(1, now + 11 * SECOND)), now + 11 * SECOND);
    assert!(matches!(s.phase, Phase::Restarting(b) if b.wait.as_millis() == 100));
}

#[test]
fn policies() {
    let cases = [
        (Policy::No, 1, false),
        (Policy::Always, 0, true),
        (Policy::UnlessStopped, 0, true),
        (Policy::OnFailure(0), 0, false),
        (Policy::OnFailure(0), 1, true),
        (Policy::OnFailure(2), 1, false),
    ];
    for (policy, code, restarts) in cases {
        let f = Facts { policy, restart_count: 2, ..facts() };
        let s = step(&f, running(), Event::Ended(exit(code, 1)), 1);
        assert_eq!(matches!(s.phase, Phase::Restarting(_)), restarts, "{policy:?} {code}");
    }
    let f = Facts { policy: Policy::UnlessStopped, manually_stopped: true, ..facts() };
    assert_eq!(step(&f, Phase::Exited(exit(0, 0)), Event::DaemonReady, 0).answer, Answer::Unchanged);
    let f = Facts { policy: Policy::Always, ..f };
    assert!(matches!(step(&f, Phase::Exited(exit(0, 0)), Event::DaemonReady, 0).phase, Phase::Starting(_)));
}

#[test]
fn removal() {
    assert_eq!(
        step(&facts(), running(), Event::Remove { force: false }, 0).answer,
        Answer::Refused(Refusal::InUse("running"))
    );
    let s = step(&facts(), running(), Event::Remove { force: true }, 0);
    assert!(s.effects.contains(&Effect::Signal(9)));
    let s = step(&facts(), s.phase, Event::Ended(exit(137, 1)), 1);
    assert_eq!((&s.phase, s.effects.last()), (&Phase::Removing, Some(&Effect::Delete)));
    let s = step(&facts(), s.phase, Event::RemoveFailed("busy".into()), 1);
    let s = step(&facts(), s.phase, Event::Remove { force: false }, 1);
    assert_eq!(step(&facts(), s.phase, Event::Removed, 1).phase, Phase::Gone);
    let f = Facts { auto_remove: true, ..facts() };
    assert_eq!(step(&f, running(), Event::Ended(exit(0, 1)), 1).phase, Phase::Removing);
}

#[test]
fn restart_starts_again_even_with_auto_remove() {
    let f = Facts { auto_remove: true, ..facts() };
    let s = step(&f, running(), Event::Restart { signal: None, timeout: Some(0) }, 0);
    let s = step(&f, s.phase, Event::Ended(exit(143, 1)), 1);
    assert!(matches!(s.phase, Phase::Starting(Attempt { restarted: true, .. })));
    let s = step(&f, s.phase, Event::Launched { pid: 9, started: 2 }, 2);
    assert_eq!(s.effects, [Effect::Emit(Happening::Start), Effect::Emit(Happening::Restart)]);
}

#[test]
fn recovery() {
    let alive = Found::Alive { pid: 3, started: 1, paused: true };
    assert!(
        matches!(step(&facts(), Phase::Created, Event::Recover(alive), 9).phase, Phase::Running(r) if r.pid == 3 && r.paused)
    );
    assert_eq!(
        step(&facts(), running(), Event::Recover(Found::Ended(exit(4, 2))), 9).phase,
        Phase::Exited(exit(4, 2))
    );
    assert_eq!(
        step(&facts(), running(), Event::Recover(Found::Nothing), 9).phase,
        Phase::Exited(exit(255, 9))
    );
    let s = step(&facts(), Phase::Removing, Event::Recover(Found::Nothing), 9);
    assert_eq!(s.effects, [Effect::CleanUp, Effect::Delete]);
}

fn any_event() -> impl Strategy<Value = Event> {
    let small = -1i64..3;
    prop_oneof![
        Just(Event::Start),
        Just(Event::DaemonReady),
        (1i32..9).prop_map(|pid| Event::Launched { pid, started: 0 }),
        (0i32..3).prop_map(|code| Event::LaunchFailed(exit(code, 0))),
        (0i32..3).prop_map(|code| Event::Ended(exit(code, 0))),
        small.clone().prop_map(|t| Event::Stop { signal: None, timeout: Some(t) }),
        small.prop_map(|t| Event::Restart { signal: Some(9), timeout: Some(t) }),
        prop_oneof![Just(9), Just(15), Just(1)].prop_map(|signal| Event::Kill { signal }),
        Just(Event::Pause),
        Just(Event::Frozen),
        Just(Event::Unpause),
        Just(Event::Thawed),
        any::<bool>().prop_map(|force| Event::Remove { force }),
        Just(Event::Removed),
        Just(Event::RemoveFailed(String::new())),
        Just(Event::Timer),
    ]
}

proptest! {
    #[test]
    fn any_sequence_keeps_the_laws(
        events in prop::collection::vec((any_event(), 0u32..20), 0..60),
        policy in prop_oneof![Just(Policy::No), Just(Policy::Always), Just(Policy::UnlessStopped), Just(Policy::OnFailure(2))],
        auto_remove in any::<bool>(),
    ) {
        let f = Facts { policy, auto_remove, ..facts() };
        let (mut phase, mut now) = (Phase::Created, 0);
        for (event, seconds) in events {
            now += i128::from(seconds) * SECOND;
            let before = phase.clone();
            let s = step(&f, phase, event.clone(), now);
            // A refusal or "already so" changes nothing and does nothing.
            if s.answer != Answer::Accepted {
                prop_assert_eq!(&s.phase, &before);
                prop_assert!(s.effects.is_empty());
            }
            // Signals and freezing only while something runs; launch only when nothing does.
            for effect in &s.effects {
                match effect {
                    Effect::Signal(_) | Effect::Freeze | Effect::Thaw => prop_assert!(before.run().is_some()),
                    Effect::Launch { .. } => {
                        prop_assert!(matches!(s.phase, Phase::Starting(_)));
                        prop_assert!(before.run().is_none() || s.effects.contains(&Effect::CleanUp));
                    }
                    Effect::Delete => {
                        prop_assert_eq!(&s.phase, &Phase::Removing);
                        prop_assert!(before.run().is_none() || s.effects.contains(&Effect::CleanUp));
                    }
                    _ => {}
                }
            }
            // Whoever waits has a deadline in the future, and nothing leaves the grave.
            if matches!(s.phase, Phase::Restarting(_)) && s.answer == Answer::Accepted {
                prop_assert!(s.phase.deadline().is_some_and(|d| d > now));
            }
            if before == Phase::Gone {
                prop_assert_eq!(&s.phase, &Phase::Gone);
            }
            // A run ends with its resources cleaned up.
            if before.run().is_some() && s.phase.run().is_none() {
                prop_assert!(s.effects.contains(&Effect::CleanUp));
            }
            phase = s.phase;
        }
    }
}
