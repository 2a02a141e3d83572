//! The handle of one container: requests go to its task, reads look at what the task published.

mod attach;
mod checkpoint;
mod copy;
mod files;
mod health;
mod launch;
mod network;
mod phase;
mod stats;
mod task;
mod top;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use corten_base::Id;
use corten_runtime::client::{CallResult, News, Shim, ShimError};
use corten_wire::api::container::{WaitError, WaitResponse};
use corten_wire::api::host_config::{UpdateRequest, UpdateResponse};
use corten_wire::api::inspect::ContainerInspect;
use corten_wire::oci_runtime::ConsoleSize;
use corten_wire::shim::Call;
use std::os::fd::BorrowedFd;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::attach::{AttachSpec, Attached, DetachKeys};
pub(crate) use self::attach::{Pipes, Terminal, ending};
pub use self::files::{ByteStream, CommitSpec, PutOptions};
pub(crate) use self::launch::{
    Run, destroy_cgroup, has_receiver, load_run, load_state, load_transient, read_exit, sweep_orphan,
    was_left_running, write_transient,
};
pub(crate) use self::network::{check_endpoint, check_endpoints, host_gateway};
use self::phase::{Answer, Event, Refusal};
pub(crate) use self::phase::{Found, Phase};
pub(crate) use self::task::{Edit, Mail, Start, spawn};
use crate::error::{Error, Result, conflict, forbidden, internal, invalid};
use crate::shared::Shared;
use crate::view::{ContainerView, Status};
use crate::{names, signal, validate};
use corten_logs::{LogQuery, LogSource, LogStream};

/// Whether a request changed anything; `Unchanged` is 304 at the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It already was so.
    Unchanged,
}

/// What `wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WaitCondition {
    /// That it does not run; at once if it does not now.
    #[default]
    NotRunning,
    /// The next exit.
    NextExit,
    /// That it is gone.
    Removed,
}

impl std::str::FromStr for WaitCondition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "" | "not-running" => Ok(Self::NotRunning),
            "next-exit" => Ok(Self::NextExit),
            "removed" => Ok(Self::Removed),
            other => Err(invalid(format!("invalid condition: {other:?}"))),
        }
    }
}

/// How to remove a container.
#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveOptions {
    /// Kill it if it runs.
    pub force: bool,
    /// Anonymous volumes too.
    pub volumes: bool,
    /// Remove a link, not the container; refused, there are none.
    pub link: bool,
}

/// One container. Clones are the same.
#[derive(Debug, Clone)]
pub struct Container {
    entry: Arc<Entry>,
}

#[derive(Debug)]
struct Entry {
    id: Id,
    shared: Arc<Shared>,
    /// To its task, while it has one.
    lines: Mutex<Option<Lines>>,
    view: watch::Sender<Arc<ContainerView>>,
    /// While it runs. Requests that change no state go to the shim directly.
    shim: Arc<Mutex<Option<Shim>>>,
}

/// The ends that others hold of a task's channels.
#[derive(Debug)]
pub(crate) struct Lines {
    mail: mpsc::Sender<Mail>,
    news: mpsc::UnboundedSender<News>,
}

impl Container {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &Id {
        &self.entry.id
    }

    /// Its name, without Docker's slash.
    #[must_use]
    pub fn name(&self) -> String {
        self.view().record.name.clone()
    }

    /// What was published last.
    #[must_use]
    pub fn view(&self) -> Arc<ContainerView> {
        self.entry.view.borrow().clone()
    }

    /// Whether it has a terminal: its streams are raw then.
    #[must_use]
    pub fn tty(&self) -> bool {
        self.view().record.config.tty
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.entry.shared
    }

    /// Called by the monitor's thread.
    pub(crate) fn tell(&self, news: News) {
        if let Some(lines) = self.lines().as_ref() {
            let _gone = lines.news.send(news);
        }
    }

    /// The shim, if the container runs.
    pub(crate) fn shim(&self) -> Result<Shim> {
        let shim = self.entry.shim.lock().unwrap_or_else(PoisonError::into_inner).clone();
        shim.ok_or_else(|| Error::NotRunning(self.id().to_string()))
    }

    pub(crate) async fn send<T>(&self, mail: impl FnOnce(oneshot::Sender<Result<T>>) -> Mail) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let gone = || Error::NoSuchContainer(self.id().to_string());
        if !self.post(mail(reply)).await {
            return Err(gone());
        }
        answer.await.map_err(|_| gone())?
    }

    fn lines(&self) -> MutexGuard<'_, Option<Lines>> {
        self.entry.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self) -> watch::Receiver<Arc<ContainerView>> {
        self.entry.view.subscribe()
    }

    /// Brings mail to the task, which is woken if it sleeps. False: the container is gone.
    pub(crate) async fn post(&self, mut mail: Mail) -> bool {
        loop {
            let line = {
                let mut lines = self.lines();
                if self.entry.view.borrow().gone {
                    return false;
                }
                let line = &lines.get_or_insert_with(|| task::wake(self)).mail;
                match line.try_send(mail) {
                    Ok(()) => return true,
                    Err(mpsc::error::TrySendError::Closed(_)) => return false,
                    Err(mpsc::error::TrySendError::Full(back)) => {
                        mail = back;
                        line.clone()
                    }
                }
            };
            // Not under the lock. The task may have gone to sleep when there is room.
            let _room_or_asleep = line.reserve().await;
        }
    }

    async fn ask(&self, event: Event) -> Result<Answer> {
        self.send(|reply| Mail::Event(event, reply)).await
    }

    fn refuse(&self, refusal: Refusal) -> Error {
        let id = self.id();
        match refusal {
            Refusal::NotRunning => Error::NotRunning(id.to_string()),
            Refusal::Paused => conflict("cannot start a paused container, try unpause instead"),
            Refusal::AlreadyPaused => conflict(format!("container {id} is already paused")),
            Refusal::NotPaused => internal(format!("Container {id} is not paused")),
            Refusal::Restarting => {
                conflict(format!("Container {id} is restarting, wait until the container is running"))
            }
            Refusal::Removing => conflict("container is marked for removal and cannot be started"),
            Refusal::Dead => conflict("container is marked for removal and cannot be started"),
            Refusal::InUse(state) => conflict(in_use(state)),
        }
    }

    async fn done(&self, event: Event) -> Result<Outcome> {
        self.settle(self.ask(event).await?)
    }

    fn settle(&self, answer: Answer) -> Result<Outcome> {
        match answer {
            Answer::Accepted => Ok(Outcome::Done),
            Answer::Unchanged => Ok(Outcome::Unchanged),
            Answer::Refused(refusal) => Err(self.refuse(refusal)),
        }
    }

    /// Starts it; returns when the program runs.
    ///
    /// # Errors
    /// [`Error::Start`] with 126 or 127 where the program cannot be executed; whatever its network or mounts refuse.
    pub async fn start(&self) -> Result<Outcome> {
        let _timer = corten_base::metrics::CONTAINER_START.timer();
        self.done(Event::Start).await
    }

    /// Stops it: the stop signal (or `signal`), after `timeout` seconds SIGKILL; negative waits for ever. Returns when
    /// it does not run any more.
    ///
    /// # Errors
    /// A bad signal.
    pub async fn stop(&self, signal: Option<&str>, timeout: Option<i64>) -> Result<Outcome> {
        let signal = parse_signal(signal)?;
        let mut view = self.watch();
        let before = view.borrow().exits;
        let outcome = self.done(Event::Stop { signal, timeout }).await?;
        if outcome == Outcome::Done {
            settled(&mut view, |v| v.gone || v.exits > before || !busy(v)).await;
        }
        Ok(outcome)
    }

    /// Stops it if it runs, and starts it.
    ///
    /// # Errors
    /// As [`Container::stop`] and [`Container::start`].
    pub async fn restart(&self, signal: Option<&str>, timeout: Option<i64>) -> Result<()> {
        let signal = parse_signal(signal)?;
        let mut view = self.watch();
        let before = view.borrow().clone();
        self.done(Event::Restart { signal, timeout }).await?;
        let after = settled(&mut view, |v| {
            v.gone
                || v.state.started_ns > before.state.started_ns
                || (v.exits > before.exits && !busy(v) && !v.starting)
        })
        .await;
        // Without an error somebody else has stopped or removed it meanwhile.
        if after.state.started_ns > before.state.started_ns || after.gone || after.state.error.is_empty() {
            return Ok(());
        }
        Err(Error::Start { text: after.state.error.clone(), exit_code: after.state.exit_code })
    }

    /// Sends a signal, SIGKILL if none is named. Returns at once, but for a deadly one not before the exit is known
    /// or ten seconds have passed.
    ///
    /// # Errors
    /// A bad signal; not running.
    pub async fn kill(&self, signal: Option<&str>) -> Result<()> {
        let prefix = |e: Error| Error::Refused {
            kind: e.kind(),
            text: format!("cannot kill container: {}: {}", self.id(), e.chain()),
        };
        let number = parse_signal(signal).map_err(prefix)?.unwrap_or(signal::KILL);
        let mut view = self.watch();
        let before = view.borrow().exits;
        self.done(Event::Kill { signal: number }).await.map_err(prefix)?;
        if number == signal::KILL {
            let exit = settled(&mut view, |v| v.gone || v.exits > before || !busy(v));
            let _late = tokio::time::timeout(std::time::Duration::from_secs(10), exit).await;
        }
        Ok(())
    }

    /// Freezes all processes.
    ///
    /// # Errors
    /// Not running; already paused.
    pub async fn pause(&self) -> Result<()> {
        self.done(Event::Pause).await.map(|_| ())
    }

    /// Thaws them.
    ///
    /// # Errors
    /// Not paused.
    pub async fn unpause(&self) -> Result<()> {
        self.done(Event::Unpause).await.map(|_| ())
    }

    /// A future that ends when the condition holds. It begins to look now, so that nothing is missed that happens
    /// before it is polled.
    pub fn wait(&self, condition: WaitCondition) -> impl Future<Output = WaitResponse> + Send + 'static {
        let mut view = self.watch();
        let before = view.borrow_and_update().exits;
        let first = view.borrow().clone();
        async move {
            let held = |v: &ContainerView| match condition {
                // COMPAT: an exit counts, also where the restart policy starts it again.
                WaitCondition::NotRunning => !busy(v) || v.exits > before,
                WaitCondition::NextExit => v.exits > before || v.gone,
                WaitCondition::Removed => v.gone || v.status == Status::Dead,
            };
            let last = if held(&first) { first } else { settled(&mut view, held).await };
            let error = match (&last.status, condition) {
                (Status::Dead, WaitCondition::Removed) => {
                    Some(WaitError { message: last.state.error.clone() })
                }
                _ if last.exits == before && !last.state.error.is_empty() => {
                    Some(WaitError { message: last.state.error.clone() })
                }
                _ => None,
            };
            WaitResponse { status_code: i64::from(last.state.exit_code), error }
        }
    }

    /// Gives it another name.
    ///
    /// # Errors
    /// A bad name, the same name, one that is taken.
    pub async fn rename(&self, new: &str) -> Result<()> {
        if new.is_empty() {
            return Err(invalid("Neither old nor new names may be empty"));
        }
        let bare = new.strip_prefix('/').unwrap_or(new).to_owned();
        if bare == self.name() {
            return Err(invalid("Renaming a container with the same name as its current name"));
        }
        let allocating = |e: Error| Error::Refused {
            kind: e.kind(),
            text: format!("Error when allocating new name: {}", e.chain()),
        };
        if !names::valid(&bare) {
            return Err(allocating(invalid(format!(
                "Invalid container name (/{bare}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            ))));
        }
        self.entry.shared.reserve(&bare).map_err(allocating)?;
        let renamed = self.send(|reply| Mail::Edit(Edit::Rename(bare.clone()), reply)).await;
        if renamed.is_err() {
            self.entry.shared.unreserve(&bare);
        }
        renamed
    }

    /// Changes limits and the restart policy, also while it runs.
    ///
    /// # Errors
    /// Limits that cannot be.
    pub async fn update(&self, request: UpdateRequest) -> Result<UpdateResponse> {
        let limits = validate::Limits {
            memory: request.memory,
            memory_swap: request.memory_swap,
            memory_reservation: request.memory_reservation,
            swappiness: request.memory_swappiness,
            nano_cpus: request.nano_cpus,
            cpu_period: request.cpu_period,
            cpu_quota: request.cpu_quota,
            cpu_shares: request.cpu_shares,
            cpuset_cpus: &request.cpuset_cpus,
            cpuset_mems: &request.cpuset_mems,
            blkio_weight: request.blkio_weight,
        };
        validate::limits(&limits, &self.entry.shared.host, true)?;
        validate::bindings(&request.publish_add)?;
        validate::bindings(&request.publish_remove)?;
        validate::rates(&[request.net_rate_in.unwrap_or(0), request.net_rate_out.unwrap_or(0)])?;
        validate::restart_policy(&request.restart_policy)?;
        if self.view().record.host.auto_remove && !matches!(request.restart_policy.name.as_str(), "" | "no") {
            return Err(invalid(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            ));
        }
        self.send(|reply| Mail::Edit(Edit::Update(Box::new(request)), reply)).await?;
        Ok(UpdateResponse { warnings: None })
    }

    /// Removes it; returns when nothing is left.
    ///
    /// # Errors
    /// Running and not forced; parts that cannot be removed.
    pub async fn remove(&self, options: RemoveOptions) -> Result<()> {
        let _timer = corten_base::metrics::CONTAINER_DELETE.timer();
        if options.link {
            return Err(forbidden(format!("Cannot get parent /{} for name", self.name())));
        }
        let mut view = self.watch();
        let answer = self.send(|reply| Mail::Remove { options, reply }).await?;
        match answer {
            Answer::Refused(Refusal::InUse(state)) => {
                Err(conflict(format!("cannot remove container {:?}: {}", self.id().as_str(), in_use(state))))
            }
            Answer::Refused(Refusal::Removing) => {
                Err(conflict(format!("removal of container {} is already in progress", self.id())))
            }
            Answer::Refused(other) => Err(self.refuse(other)),
            Answer::Accepted | Answer::Unchanged => {
                let last = settled(&mut view, |v| v.gone || v.status == Status::Dead).await;
                if !last.gone {
                    return Err(internal(last.state.error.clone()));
                }
                // It did not remove itself.
                self.entry.shared.forget_departed(self.id());
                Ok(())
            }
        }
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// Not running.
    pub async fn resize(&self, height: u16, width: u16) -> Result<()> {
        let call = Call::Resize { exec: None, size: ConsoleSize { height, width } };
        call_shim(&self.shim()?, call, &[]).await.map_err(shim_error)?;
        let mut attributes = self.view().attributes();
        attributes.insert("height".into(), height.to_string());
        attributes.insert("width".into(), width.to_string());
        self.publish("resize", attributes);
        Ok(())
    }

    /// Everything about it; with `size`, what it has written too.
    ///
    /// # Errors
    /// Sizes that cannot be read.
    pub async fn inspect(&self, size: bool) -> Result<ContainerInspect> {
        let view = self.view();
        let paths = self.entry.shared.paths(self.id(), &view.record.host.log_config.kind);
        let mut inspect = view.inspect(&paths, self.exec_ids());
        if size {
            let (rw, root) = self.sizes().await?;
            inspect.size_rw = Some(rw);
            inspect.size_root_fs = Some(root);
        }
        Ok(inspect)
    }

    /// Bytes written, and those with the image.
    pub(crate) async fn sizes(&self) -> Result<(i64, i64)> {
        let (shared, view) = (self.entry.shared.clone(), self.view());
        blocking(move || {
            let rw = shared.images.snapshots().usage(view.record.id.as_str())?;
            let image = view.record.image.as_ref().and_then(|i| shared.images.get(i));
            let below = image.map_or(0, |i| shared.images.snapshots().layers_usage(&i));
            let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            Ok((number(rw), number(rw + below)))
        })
        .await
    }

    /// Its execs that are yet to start or run.
    pub(crate) fn exec_ids(&self) -> Vec<String> {
        let execs = self.entry.shared.execs();
        let mut ids: Vec<String> = execs
            .values()
            .filter(|e| e.container == *self.id() && e.listed())
            .map(|e| e.id.clone())
            .collect();
        ids.sort();
        ids
    }

    /// What it wrote. Frames, or raw bytes where [`Container::tty`].
    ///
    /// # Errors
    /// No stream selected; a log driver without a log.
    pub fn logs(&self, query: &LogQuery) -> Result<LogStream> {
        if !query.stdout && !query.stderr {
            return Err(invalid("must specify at least one of 'stdout' or 'stderr'"));
        }
        let view = self.view();
        let log = &view.record.host.log_config;
        if !corten_logs::Options::parse(&log.kind, &log.config)?.readable {
            return Err(crate::error::unsupported("configured logging driver does not support reading"));
        }
        let paths = self.entry.shared.paths(self.id(), &view.record.host.log_config.kind);
        let source = LogSource { path: paths.log, tty: view.record.config.tty, line_frames: query.follow };
        let mut query = query.clone();
        query.follow &= view.is_running();
        let (exits, watch) = (view.exits, self.watch());
        Ok(corten_logs::read(source, &query, move || {
            let now = watch.borrow();
            now.exits != exits || !now.is_running() || now.gone
        }))
    }

    pub(crate) fn publish(
        &self,
        action: impl Into<String>,
        attributes: std::collections::BTreeMap<String, String>,
    ) {
        self.entry.shared.bus.publish("container", action, self.id().as_str(), attributes);
    }

    pub(crate) fn publish_plain(&self, action: &str) {
        self.publish(action, self.view().attributes());
    }

    /// Connects to or disconnects from networks, also while it runs.
    pub(crate) async fn edit(&self, edit: Edit) -> Result<()> {
        self.send(|reply| Mail::Edit(edit, reply)).await
    }

    /// Fed by recovery when all containers are known.
    pub(crate) async fn daemon_ready(&self) {
        if let Err(error) = self.ask(Event::DaemonReady).await {
            tracing::warn!(container.id = %self.id(), error = error.chain(), "container cannot be restarted");
        }
    }

    /// The daemon ends: stopped, but not by a person, so that the restart policy starts it again.
    pub(crate) async fn stop_for_shutdown(&self) {
        let mut view = self.watch();
        let before = view.borrow().exits;
        if matches!(self.done(Event::Shutdown).await, Ok(Outcome::Done)) {
            settled(&mut view, |v| v.gone || v.exits > before || !busy(v)).await;
        }
    }
}

fn in_use(state: &str) -> String {
    match state {
        "paused" => "container is paused and must be unpaused first".into(),
        state => format!("container is {state}: stop the container before removing or force remove"),
    }
}

/// Runs or is about to.
fn busy(v: &ContainerView) -> bool {
    !v.gone && (v.is_running() || v.status == Status::Restarting)
}

fn parse_signal(text: Option<&str>) -> Result<Option<i32>> {
    match text {
        None | Some("") => Ok(None),
        Some(text) => signal::parse(text).map(Some).ok_or_else(|| invalid(format!("invalid signal: {text}"))),
    }
}

/// Waits for a view; the last one where the task ends before.
async fn settled(
    view: &mut watch::Receiver<Arc<ContainerView>>,
    holds: impl Fn(&ContainerView) -> bool,
) -> Arc<ContainerView> {
    loop {
        let now = view.borrow_and_update().clone();
        if holds(&now) || view.changed().await.is_err() {
            let last = view.borrow().clone();
            return if holds(&now) { now } else { last };
        }
    }
}

/// Runs `f` where it may block.
pub(crate) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(f).await.map_err(|_| Error::ShuttingDown)?
}

/// Asks a shim and waits without blocking a thread.
pub(crate) async fn call_shim(shim: &Shim, call: Call, fds: &[BorrowedFd<'_>]) -> CallResult {
    let (done, result) = oneshot::channel();
    shim.call(call, fds, move |answer| {
        let _gone = done.send(answer);
    });
    result.await.unwrap_or(Err(ShimError::Gone))
}

pub(crate) fn shim_error(error: ShimError) -> Error {
    Error::Refused { kind: error.kind(), text: crate::error::chain(&error) }
}

impl From<corten_image::ImageError> for Error {
    fn from(error: corten_image::ImageError) -> Self {
        Self::Image { kind: error.kind(), text: crate::error::chain(&error) }
    }
}

/// A shim's exit in the words of the lifecycle.
pub(crate) fn phase_exit(exit: corten_wire::shim::Exit) -> phase::Exit {
    phase::Exit { code: exit.code, oom: exit.oom, at: i128::from(exit.at) }
}

/// The phase of a container that a record says has ended.
pub(crate) fn exited(state: &crate::StateRecord) -> Phase {
    Phase::Exited(phase::Exit {
        code: state.exit_code,
        oom: state.oom_killed,
        at: i128::from(state.finished_ns),
    })
}

/// The phase of a container that does not run and is not being removed.
pub(crate) fn resting(state: &crate::StateRecord) -> Phase {
    if state.standing == crate::record::Standing::Created && state.error.is_empty() {
        Phase::Created
    } else {
        exited(state)
    }
}

/// The phase of a container that a record says was running.
pub(crate) fn running(state: &crate::StateRecord) -> Phase {
    Phase::Running(phase::Run {
        pid: 0,
        started: i128::from(state.started_ns),
        paused: false,
        exit_on_next: false,
        backoff: std::time::Duration::ZERO,
    })
}

/// Fills new volumes with what the image has at their place.
pub(crate) fn fill_volumes(
    shared: &Shared,
    id: &Id,
    overlay: &corten_image::Overlay,
    mounts: &[crate::MountRecord],
) -> Result<()> {
    use std::os::fd::AsFd;
    let mut wanting = mounts
        .iter()
        .filter(|m| m.kind == crate::MountKind::Volume && m.copy && m.subpath.is_empty())
        .peekable();
    if wanting.peek().is_none() {
        return Ok(());
    }
    let root = shared.images.snapshots().mount_detached(overlay, true)?;
    let filled = wanting.try_for_each(|mount| {
        // A volume with a mount of its own is mounted meanwhile.
        let path = shared.volumes.use_volume(&mount.name, id.as_str())?;
        copy::fill(root.as_fd(), &mount.destination, &path)
    });
    shared.volumes.unuse(id.as_str());
    filled
}
