//! The loop that owns one container: it feeds events to `step`, performs the effects, publishes views.
//!
//! # Tasks and channels
//!
//! A container at rest (never started, or ended) has no task and no channels, only what it last published: ten
//! thousand of them cost little. The first mail starts a task from that, and it goes to sleep when the container
//! rests again and no mail is left; both happen under the lock of the mailbox's other end.
//!
//! `mail` (bounded) brings requests, `news` (unbounded, from the monitor's thread) what the shim reports; news and
//! deadlines go first. Effects are awaited one after another: nothing else happens to this container meanwhile. A
//! health probe is a task of its own that mails its results.

mod edit;
mod recover;

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use corten_base::db::Commit;
use corten_base::time;
use corten_runtime::client::{News, Shim};
use corten_wire::api::inspect::Health;
use corten_wire::shim::{Attach, Call};
use tokio::sync::{mpsc, oneshot, watch};

use super::launch::{self, Launched, Run};
use super::phase::{Answer, Effect, Event, Exit, Facts, Found, Happening, Phase, Policy, step};
use super::{Container, Entry, Lines, RemoveOptions, blocking, call_shim, health, shim_error};
use crate::error::{Error, Result};
use crate::failpoint::failpoint;
use crate::record::{ContainerRecord, STATES, Standing, StateRecord};
use crate::shared::Shared;
use crate::signal;
use crate::view::{ContainerView, Status};
pub(crate) use edit::Edit;

/// What comes into a container's mailbox.
#[derive(Debug)]
pub(crate) enum Mail {
    Event(Event, oneshot::Sender<Result<Answer>>),
    Remove {
        options: RemoveOptions,
        reply: oneshot::Sender<Result<Answer>>,
    },
    Attach {
        wants: Attach,
        stream: OwnedFd,
        reply: oneshot::Sender<Result<()>>,
    },
    Edit(Edit, oneshot::Sender<Result<()>>),
    Health(Arc<Health>),
    Checkpoint {
        images: PathBuf,
        exit: bool,
        reply: oneshot::Sender<Result<()>>,
    },
    /// A start from a checkpoint.
    Restore(Restore, oneshot::Sender<Result<Answer>>),
}

/// What the next launch goes on from, instead of the program's beginning.
#[derive(Debug)]
pub(crate) struct Restore {
    /// Directory of the images.
    pub(crate) images: PathBuf,
}

/// What a task begins with.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) record: Arc<ContainerRecord>,
    pub(crate) state: StateRecord,
    pub(crate) phase: Phase,
    /// Of recovery: what was found of its run.
    pub(crate) found: Option<(Found, Option<Shim>, Run)>,
}

pub(super) struct Task {
    pub(super) container: Container,
    shared: Arc<Shared>,
    record: Arc<ContainerRecord>,
    state: StateRecord,
    phase: Phase,
    run: Run,
    shim: Arc<Mutex<Option<Shim>>>,
    health: Option<Arc<Health>>,
    probe: Option<tokio::task::AbortHandle>,
    waiting: Vec<(Attach, OwnedFd)>,
    exits: u64,
    /// Anonymous volumes go too when it is deleted.
    remove_volumes: bool,
    failure: Option<Error>,
    /// For one launch only.
    restore: Option<Restore>,
}

/// Requests that may wait for a task.
const MAILBOX: usize = 16;

/// Makes the handle of a container; its task starts if there is something to recover.
pub(crate) fn spawn(shared: &Arc<Shared>, start: Start) -> Container {
    let auto_remove = start.record.host.auto_remove;
    let container = Container {
        entry: Arc::new(Entry {
            id: start.record.id.clone(),
            shared: shared.clone(),
            lines: Mutex::new(None),
            view: watch::Sender::new(Arc::new(view_of(
                &start.record,
                &start.state,
                &start.phase,
                &Run::default(),
                None,
                0,
            ))),
            shim: Arc::new(Mutex::new(None)),
        }),
    };
    if let Some((found, shim, run)) = start.found {
        let task = Task {
            container: container.clone(),
            shared: shared.clone(),
            record: start.record,
            state: start.state,
            phase: start.phase,
            run: Run::default(),
            shim: container.entry.shim.clone(),
            health: None,
            probe: None,
            waiting: Vec::new(),
            exits: 0,
            remove_volumes: auto_remove,
            failure: None,
            restore: None,
        };
        let mut lines = container.lines();
        *lines = Some(task.begin(Some((found, shim, run))));
    }
    container
}

/// Starts the task of a container at rest from what it published.
pub(super) fn wake(container: &Container) -> Lines {
    let view = container.view();
    let task = Task {
        container: container.clone(),
        shared: container.shared().clone(),
        phase: super::resting(&view.state),
        record: view.record.clone(),
        state: view.state.clone(),
        run: Run::default(),
        shim: container.entry.shim.clone(),
        health: None,
        probe: None,
        waiting: Vec::new(),
        exits: view.exits,
        remove_volumes: view.record.host.auto_remove,
        failure: None,
        restore: None,
    };
    task.begin(None)
}

fn view_of(
    record: &Arc<ContainerRecord>,
    state: &StateRecord,
    phase: &Phase,
    run: &Run,
    health: Option<Arc<Health>>,
    exits: u64,
) -> ContainerView {
    let failed_first = state.started_ns == 0;
    let (status, pid) = match phase {
        Phase::Created => (Status::Created, 0),
        Phase::Starting(_) if failed_first => (Status::Created, 0),
        Phase::Starting(_) => (Status::Exited, 0),
        Phase::Running(run) | Phase::Stopping(run, _) if run.paused => (Status::Paused, run.pid),
        Phase::Running(run) | Phase::Stopping(run, _) => (Status::Running, run.pid),
        Phase::Restarting(_) => (Status::Restarting, 0),
        Phase::Exited(_) if failed_first => (Status::Created, 0),
        Phase::Exited(_) => (Status::Exited, 0),
        Phase::Removing | Phase::Gone => (Status::Removing, 0),
        Phase::Dead(_) => (Status::Dead, 0),
    };
    ContainerView {
        record: record.clone(),
        state: state.clone(),
        status,
        pid,
        endpoints: run.endpoints.clone(),
        health,
        exits,
        starting: matches!(phase, Phase::Starting(_)),
        gone: *phase == Phase::Gone,
    }
}

impl Task {
    /// Opens the channels and goes to work.
    fn begin(mut self, recovery: Option<(Found, Option<Shim>, Run)>) -> Lines {
        let (mail, inbox) = mpsc::channel(MAILBOX);
        let (news, reports) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            if let Some((found, shim, run)) = recovery {
                self.recover(found, shim, run).await;
            }
            self.run(inbox, reports).await;
        });
        Lines { mail, news }
    }

    /// Nothing can happen to it by itself.
    fn rests(&self) -> bool {
        matches!(self.phase, Phase::Created | Phase::Exited(_)) && self.waiting.is_empty()
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Mail>, mut reports: mpsc::UnboundedReceiver<News>) {
        while self.phase != Phase::Gone {
            if self.rests() {
                let mut lines = self.container.lines();
                if inbox.is_empty() && reports.is_empty() {
                    *lines = None;
                    return;
                }
            }
            let deadline = self.phase.deadline().map(|at| {
                let left = u64::try_from((at - time::now_ns()).max(0)).unwrap_or(0);
                tokio::time::Instant::now() + Duration::from_nanos(left)
            });
            tokio::select! {
                biased;
                Some(news) = reports.recv() => self.news(news).await,
                () = tokio::time::sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)), if deadline.is_some() => {
                    self.quietly(Event::Timer).await;
                }
                mail = inbox.recv() => match mail {
                    Some(mail) => self.mail(mail).await,
                    None => return,
                },
            }
        }
    }

    async fn mail(&mut self, mail: Mail) {
        match mail {
            Mail::Event(event, reply) => {
                let _gone = reply.send(self.drive(event).await);
            }
            Mail::Remove { options, reply } => {
                let before = self.remove_volumes;
                self.remove_volumes |= options.volumes;
                let answer = self.drive(Event::Remove { force: options.force }).await;
                if !matches!(answer, Ok(Answer::Accepted)) {
                    self.remove_volumes = before;
                }
                let _gone = reply.send(answer);
            }
            Mail::Checkpoint { images, exit, reply } => {
                let _gone = reply.send(self.checkpoint(images, exit).await);
            }
            Mail::Restore(restore, reply) => {
                self.restore = Some(restore);
                let answer = self.drive(Event::Start).await;
                // It may run already.
                self.restore = None;
                let _gone = reply.send(answer);
            }
            Mail::Attach { wants, stream, reply } => {
                let _gone = reply.send(self.attach(wants, stream).await);
            }
            Mail::Edit(edit, reply) => {
                let _gone = reply.send(self.edit(edit).await);
            }
            Mail::Health(health) => {
                if self.phase.run().is_some() {
                    self.health = Some(health);
                    self.publish();
                }
            }
        }
    }

    async fn news(&mut self, news: News) {
        match news {
            News::Exited(exit) => {
                failpoint!("engine.exit.before_record");
                let exit = Exit { code: exit.code, oom: exit.oom, at: i128::from(exit.at) };
                self.quietly(Event::Ended(exit)).await;
            }
            News::Lost => {
                // Init died with its shim, unless the exit is on disk already.
                let (shared, record) = (self.shared.clone(), self.record.clone());
                let _ended = blocking(move || {
                    launch::destroy_cgroup(&shared, &record);
                    Ok(())
                })
                .await;
                let exit = launch::read_exit(&self.shared.run_dir(&self.record.id)).unwrap_or(Exit {
                    code: 137,
                    oom: false,
                    at: time::now_ns(),
                });
                self.quietly(Event::Ended(exit)).await;
            }
            News::Oom => {
                self.state.oom_killed = true;
                self.emit(Happening::Oom);
                self.publish();
            }
            // The monitor tells execs directly.
            News::ExecExited { .. } => {}
        }
    }

    /// An event that nobody waits for.
    pub(super) async fn quietly(&mut self, event: Event) {
        if let Err(error) = self.drive(event).await {
            tracing::warn!(container.id = %self.record.id, error = error.chain(), "container");
        }
    }

    async fn drive(&mut self, event: Event) -> Result<Answer> {
        let mut queue = VecDeque::from([event]);
        let mut answer = None;
        self.failure = None;
        while let Some(event) = queue.pop_front() {
            let next = step(&self.facts(), self.phase.clone(), event, time::now_ns());
            self.phase = next.phase;
            answer.get_or_insert(next.answer);
            for effect in next.effects {
                queue.extend(self.perform(effect).await);
            }
            self.publish();
        }
        match self.failure.take() {
            Some(error) => Err(error),
            None => Ok(answer.unwrap_or(Answer::Unchanged)),
        }
    }

    fn facts(&self) -> Facts {
        let policy = &self.record.host.restart_policy;
        let config = &self.record.config;
        Facts {
            policy: match policy.name.as_str() {
                "always" => Policy::Always,
                "unless-stopped" => Policy::UnlessStopped,
                "on-failure" => Policy::OnFailure(u32::try_from(policy.maximum_retry_count).unwrap_or(0)),
                _ => Policy::No,
            },
            restart_count: self.state.restart_count,
            auto_remove: self.record.host.auto_remove,
            manually_stopped: self.state.manually_stopped,
            started_before: self.state.started_ns != 0,
            last_exit: self.state.exit_code,
            stop_signal: signal::parse(&config.stop_signal).unwrap_or(signal::TERM),
            stop_timeout: config.stop_timeout.unwrap_or(10),
        }
    }

    /// Performs one effect; what came of it is the next event.
    async fn perform(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Launch { count, reset } => Some(self.launch(count, reset).await),
            Effect::Signal(number) => {
                self.tell_shim(Call::Kill { signal: number, all: false }).await;
                None
            }
            Effect::Freeze => self.tell_shim(Call::Pause).await.then_some(Event::Frozen),
            Effect::Thaw => self.tell_shim(Call::Resume).await.then_some(Event::Thawed),
            Effect::CleanUp => {
                self.clean_up().await;
                None
            }
            Effect::RecordExit(exit) => {
                self.record_exit(exit);
                None
            }
            Effect::RecordManual(manual) => {
                self.record_manual(manual).await;
                None
            }
            Effect::Delete => Some(self.delete().await),
            Effect::Emit(happening) => {
                self.emit(happening);
                None
            }
        }
    }

    async fn tell_shim(&mut self, call: Call) -> bool {
        let told = match self.container.shim() {
            Ok(shim) => call_shim(&shim, call, &[]).await.map(|_| ()).map_err(shim_error),
            Err(error) => Err(error),
        };
        match told {
            Ok(()) => true,
            Err(error) => {
                self.failure.get_or_insert(error);
                false
            }
        }
    }

    fn set_shim(&self, shim: Option<Shim>) {
        *self.shim.lock().unwrap_or_else(PoisonError::into_inner) = shim;
    }

    async fn launch(&mut self, count: bool, reset: bool) -> Event {
        if reset {
            self.state.restart_count = 0;
            self.state.manually_stopped = false;
        }
        if count {
            self.state.restart_count += 1;
        }
        self.state.error.clear();
        self.state.oom_killed = false;
        let (shared, record, attach) =
            (self.shared.clone(), self.record.clone(), std::mem::take(&mut self.waiting));
        let begin = launch::Begin { attach, by_hand: reset, restore: self.restore.take().map(|r| r.images) };
        let launched = blocking(move || launch::launch(&shared, &record, begin)).await;
        match launched {
            Ok(Launched { shim, started, run }) => {
                failpoint!("engine.start.after_shim");
                self.set_shim(Some(shim));
                self.run = run;
                self.state.standing = Standing::Running;
                self.state.started_ns = started.started_at;
                self.state.finished_ns = 0;
                self.state.exit_code = 0;
                self.remember();
                // After a power cut the restart policy applies to what was started, at once.
                if self.record.host.restart_policy.restarts()
                    && let Err(error) = self.remember_durably().await
                {
                    tracing::error!(container.id = %self.record.id, error = error.chain(), "state cannot be written");
                }
                self.start_probe();
                Event::Launched { pid: started.pid, started: i128::from(started.started_at) }
            }
            Err(error) => {
                let code = match &error {
                    Error::Start { exit_code, .. } => *exit_code,
                    _ => 128,
                };
                self.state.error = error.chain();
                self.failure.get_or_insert(error);
                Event::LaunchFailed(Exit { code, oom: false, at: time::now_ns() })
            }
        }
    }

    fn start_probe(&mut self) {
        self.stop_probe();
        if let Some(check) = health::Check::of(&self.record.config) {
            self.health =
                Some(Arc::new(Health { status: "starting".into(), failing_streak: 0, log: Vec::new() }));
            self.probe = Some(tokio::spawn(check.run(self.container.clone())).abort_handle());
        }
    }

    fn stop_probe(&mut self) {
        self.health = None;
        if let Some(probe) = self.probe.take() {
            probe.abort();
        }
    }

    fn record_exit(&mut self, exit: Exit) {
        let ran = self.state.standing == Standing::Running || self.phase.run().is_some();
        self.state.exit_code = exit.code;
        self.state.oom_killed |= exit.oom;
        if ran || self.state.started_ns != 0 {
            self.state.standing = Standing::Exited;
            self.state.finished_ns = i64::try_from(exit.at).unwrap_or(i64::MAX);
        }
        self.exits += 1;
        self.shared.logs.ended(self.record.id.as_str());
        self.remember();
    }

    /// That a person stopped it is a wish, not an observation: where a restart policy asks for it, it survives a power
    /// cut.
    async fn record_manual(&mut self, manual: bool) {
        self.state.manually_stopped = manual;
        self.remember();
        if self.facts().policy == Policy::UnlessStopped
            && let Err(error) = self.remember_durably().await
        {
            self.failure.get_or_insert(error);
        }
    }

    async fn remember_durably(&self) -> Result<()> {
        let (shared, id, state) = (self.shared.clone(), self.record.id.clone(), self.state.clone());
        blocking(move || {
            shared.db.write::<_, Error>(Commit::Durable, |w| Ok(w.put(STATES, id.as_str(), &state)?))
        })
        .await
    }

    /// Behind a run: the shim may leave, the sandbox and mounts go.
    async fn clean_up(&mut self) {
        self.stop_probe();
        let shim = self.shim.lock().unwrap_or_else(PoisonError::into_inner).take();
        let run = std::mem::take(&mut self.run);
        for endpoint in run.endpoints.iter() {
            if let Some(entry) = self.shared.networks.get(&endpoint.network) {
                self.shared.networks.publish("disconnect", &entry, Some(&self.record.id));
            }
        }
        if shim.is_some() {
            self.shared.volumes.publish_unmounts(&self.record);
        }
        self.shared
            .execs()
            .values()
            .filter(|e| e.container == self.record.id)
            .for_each(|e| e.container_ended());
        let (shared, record) = (self.shared.clone(), self.record.clone());
        let cleaned = blocking(move || {
            launch::clean_up(&shared, &record, &run);
            if let Some(shim) = shim {
                shim.ack();
            }
            Ok(())
        })
        .await;
        if let Err(error) = cleaned {
            tracing::warn!(container.id = %self.record.id, error = error.chain(), "clean-up was cut short");
        }
    }

    async fn delete(&mut self) -> Event {
        self.state.standing = Standing::Removing;
        self.publish();
        let (shared, record, volumes) = (self.shared.clone(), self.record.clone(), self.remove_volumes);
        match blocking(move || launch::delete(&shared, &record, volumes)).await {
            Ok(()) => Event::Removed,
            Err(error) => {
                let text = error.chain();
                self.state.error.clone_from(&text);
                Event::RemoveFailed(text)
            }
        }
    }

    fn emit(&self, happening: Happening) {
        let mut attributes = crate::view::attributes(&self.record);
        let action = match happening {
            Happening::Start => "start",
            Happening::Kill(number) => {
                attributes.insert("signal".into(), number.to_string());
                "kill"
            }
            Happening::Die(exit, lived) => {
                attributes.insert("exitCode".into(), exit.code.to_string());
                attributes.insert("execDuration".into(), lived.as_secs().to_string());
                "die"
            }
            Happening::Oom => "oom",
            Happening::Stop => "stop",
            Happening::Restart => "restart",
            Happening::Pause => "pause",
            Happening::Unpause => "unpause",
            Happening::Destroy => "destroy",
        };
        self.container.publish(action, attributes);
    }

    /// For the next daemon: at once in the run directory, which a crash of ours leaves alone, and some time later in
    /// the database.
    fn remember(&self) {
        if self.state.standing != Standing::Removing {
            launch::write_state(&self.shared, &self.record.id, &self.state);
            self.shared.remember(&self.record.id, &self.state);
        }
    }

    fn publish(&self) {
        let view =
            view_of(&self.record, &self.state, &self.phase, &self.run, self.health.clone(), self.exits);
        self.container.entry.view.send_replace(Arc::new(view));
    }

    async fn attach(&mut self, wants: Attach, stream: OwnedFd) -> Result<()> {
        if self.phase.run().is_none() {
            // Not started: the shim gets the stream before the first byte is written.
            self.waiting.push((wants, stream));
            return Ok(());
        }
        let shim = self.container.shim()?;
        call_shim(&shim, Call::Attach(wants), &[stream.as_fd()]).await.map(|_| ()).map_err(shim_error)
    }
}
