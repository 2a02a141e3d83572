//! Further processes in running containers.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use corten_base::Id;
use corten_wire::api::exec::{ExecCreateRequest, ExecInspect, ExecProcessConfig};
use corten_wire::oci_runtime::ConsoleSize;
use corten_wire::shim::{Call, ExecSpec, Reply, UserSpec};
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use crate::container::{Attached, Container, DetachKeys, Pipes, Terminal, call_shim, ending, shim_error};
use crate::error::{Error, Result, conflict, invalid};
use crate::shared::Shared;
use crate::view::Status;

/// Where an exec is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExecState {
    Created,
    Starting,
    Running {
        pid: i32,
    },
    /// It could not be started.
    Failed {
        code: i32,
    },
    Ended {
        pid: i32,
        code: i32,
    },
}

/// One exec, kept until its container goes or some time after its end.
#[derive(Debug)]
pub(crate) struct ExecEntry {
    pub(crate) id: String,
    pub(crate) container: Id,
    request: ExecCreateRequest,
    keys: DetachKeys,
    state: watch::Sender<ExecState>,
}

impl ExecEntry {
    pub(crate) fn new(id: String, container: Id, request: ExecCreateRequest, keys: DetachKeys) -> Self {
        Self { id, container, request, keys, state: watch::channel(ExecState::Created).0 }
    }

    /// COMPAT: inspect of a container lists execs that are yet to run or run.
    pub(crate) fn listed(&self) -> bool {
        !matches!(*self.state.borrow(), ExecState::Ended { .. } | ExecState::Failed { .. })
    }

    /// The shim reports its end.
    pub(crate) fn exited(&self, code: i32) {
        self.state.send_modify(|s| {
            let pid = match s {
                ExecState::Running { pid } => *pid,
                _ => 0,
            };
            *s = ExecState::Ended { pid, code };
        });
    }

    /// Its container ended, and so did it.
    pub(crate) fn container_ended(&self) {
        if matches!(*self.state.borrow(), ExecState::Starting | ExecState::Running { .. }) {
            self.exited(137);
        }
    }

    /// Resolves when it does not run any more.
    pub(crate) async fn ended(&self) {
        let mut state = self.state.subscribe();
        let _closed = state
            .wait_for(|s| matches!(s, ExecState::Ended { .. } | ExecState::Failed { .. }))
            .await
            .map(|_| ());
    }

    pub(crate) fn exit_code(&self) -> Option<i32> {
        match *self.state.borrow() {
            ExecState::Ended { code, .. } | ExecState::Failed { code } => Some(code),
            _ => None,
        }
    }
}

/// How to start an exec.
#[derive(Debug, Clone, Default)]
pub struct ExecStart {
    /// Do not connect; return when it runs.
    pub detach: bool,
    /// Rows and columns of its terminal.
    pub console_size: Option<[u32; 2]>,
}

/// The handle of one exec.
#[derive(Debug, Clone)]
pub struct Exec {
    entry: Arc<ExecEntry>,
    container: Container,
}

impl Exec {
    pub(crate) fn find(shared: &Shared, id: &str) -> Result<Self> {
        let unknown = || Error::NoSuchExec(id.to_owned());
        let entry = shared.execs().get(id).cloned().ok_or_else(unknown)?;
        let container = shared.get(&entry.container).ok_or_else(unknown)?;
        Ok(Self { entry, container })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.entry.id
    }

    /// Whether it has a terminal.
    #[must_use]
    pub fn tty(&self) -> bool {
        self.entry.request.tty
    }

    /// The container it runs in.
    #[must_use]
    pub fn container(&self) -> &Container {
        &self.container
    }

    /// `GET /exec/{id}/json`.
    #[must_use]
    pub fn inspect(&self) -> ExecInspect {
        let r = &self.entry.request;
        let state = *self.entry.state.borrow();
        let mut command = r.cmd.clone().unwrap_or_default().into_iter();
        ExecInspect {
            id: self.entry.id.clone(),
            running: matches!(state, ExecState::Running { .. } | ExecState::Starting),
            exit_code: self.entry.exit_code().map(i64::from),
            process_config: ExecProcessConfig {
                tty: r.tty,
                entrypoint: command.next().unwrap_or_default(),
                arguments: command.collect(),
                privileged: r.privileged,
                user: r.user.clone(),
            },
            open_stdin: r.attach_stdin,
            open_stderr: r.attach_stderr,
            open_stdout: r.attach_stdout,
            can_remove: false,
            container_id: self.entry.container.to_string(),
            detach_keys: String::new(),
            pid: match state {
                ExecState::Running { pid } | ExecState::Ended { pid, .. } => pid,
                _ => 0,
            },
        }
    }

    /// Starts it. The client's stream, or `None` when detached. Without any attached stream, the stream ends when the
    /// process does.
    ///
    /// # Errors
    /// Already run; the container is not running; [`Error::Start`] where the program cannot be executed.
    pub async fn start(&self, start: ExecStart) -> Result<Option<Attached>> {
        let entry = &self.entry;
        let container = self.container.id();
        match self.container.view().status {
            Status::Running => {}
            Status::Paused => {
                return Err(conflict(format!(
                    "Container {container} is paused, unpause the container before exec"
                )));
            }
            _ => return Err(Error::NotRunning(container.to_string())),
        }
        let first = entry.state.send_if_modified(|s| {
            let fresh = *s == ExecState::Created;
            if fresh {
                *s = ExecState::Starting;
            }
            fresh
        });
        if !first {
            return Err(match *entry.state.borrow() {
                ExecState::Running { .. } | ExecState::Starting => {
                    conflict(format!("exec command {} is already running", entry.id))
                }
                _ => conflict(format!("exec command {} has already run", entry.id)),
            });
        }
        match self.launch(&start).await {
            Ok((pid, fds)) => {
                entry.state.send_if_modified(|s| {
                    match *s {
                        // The end may have been reported before the reply to the start was read.
                        ExecState::Ended { code, .. } => *s = ExecState::Ended { pid, code },
                        _ => *s = ExecState::Running { pid },
                    }
                    true
                });
                self.publish("exec_start");
                self.watch_end();
                if start.detach {
                    return Ok(None);
                }
                self.connect(fds).map(Some)
            }
            Err(error) => {
                let code = match &error {
                    Error::Start { exit_code, .. } => *exit_code,
                    _ => 126,
                };
                entry.state.send_replace(ExecState::Failed { code });
                // Whatever it was, it was because the container ended meanwhile.
                if !self.container.view().is_running() {
                    return Err(Error::NotRunning(container.to_string()));
                }
                Err(error)
            }
        }
    }

    async fn launch(&self, start: &ExecStart) -> Result<(i32, Vec<OwnedFd>)> {
        let r = &self.entry.request;
        let size = start.console_size.or(r.console_size);
        let console_size = size.and_then(|[height, width]| {
            Some(ConsoleSize { height: u16::try_from(height).ok()?, width: u16::try_from(width).ok()? })
        });
        let mut env = r.env.clone().unwrap_or_default();
        if r.tty && !env.iter().any(|e| e.starts_with("TERM=")) {
            env.insert(0, "TERM=xterm".into());
        }
        let spec = ExecSpec {
            id: self.entry.id.clone(),
            args: r.cmd.clone().unwrap_or_default(),
            env,
            inherit_env: true,
            cwd: (!r.working_dir.is_empty()).then(|| r.working_dir.clone().into()),
            user: (!r.user.is_empty()).then(|| UserSpec { user: r.user.clone(), group_add: Vec::new() }),
            privileged: r.privileged,
            tty: r.tty,
            console_size: if r.tty { console_size } else { None },
            stdin: r.attach_stdin && !start.detach,
            stdout: r.attach_stdout && !start.detach,
            stderr: r.attach_stderr && !start.detach,
        };
        let call = Call::Exec(Box::new(spec));
        match call_shim(&self.container.shim()?, call, &[]).await {
            Ok((Reply::ExecStarted { pid }, fds)) => Ok((pid, fds)),
            Ok(_) => Err(crate::error::internal("the container's shim gave an unexpected reply")),
            Err(corten_runtime::client::ShimError::Fault(fault)) if matches!(fault.exit_code, 126 | 127) => {
                Err(Error::Start { text: fault.message, exit_code: fault.exit_code })
            }
            Err(error) => Err(shim_error(error)),
        }
    }

    fn connect(&self, fds: Vec<OwnedFd>) -> Result<Attached> {
        let r = &self.entry.request;
        let mut fds = fds.into_iter();
        let broken = |e: std::io::Error| Error::io("connect to exec", e);
        let missing = || broken(std::io::ErrorKind::UnexpectedEof.into());
        if r.tty {
            let fd = fds.next().ok_or_else(missing)?;
            rustix::io::ioctl_fionbio(&fd, true).map_err(|e| broken(e.into()))?;
            #[expect(
                deprecated,
                reason = "its successor is unsafe; the descriptor is ours and stays in place"
            )]
            let fd = AsyncFd::new(fd).map_err(broken)?;
            let terminal =
                Terminal { fd, read: r.attach_stdout || r.attach_stderr, ending: ending(self.entry.clone()) };
            let this = self.clone();
            return Ok(Attached::terminal(terminal)
                .with_keys(self.entry.keys.clone(), move || this.publish("exec_detach")));
        }
        let mut pipes = Pipes { stdin: None, outputs: Vec::new(), ending: ending(self.entry.clone()) };
        if r.attach_stdin {
            pipes.stdin = Some(pipe::Sender::from_owned_fd(fds.next().ok_or_else(missing)?).map_err(broken)?);
        }
        for (number, wanted) in [(1, r.attach_stdout), (2, r.attach_stderr)] {
            if wanted {
                let fd = fds.next().ok_or_else(missing)?;
                pipes.outputs.push((number, pipe::Receiver::from_owned_fd(fd).map_err(broken)?));
            }
        }
        Ok(Attached::pipes(pipes))
    }

    /// Publishes the end, and forgets the exec some time after.
    fn watch_end(&self) {
        const KEEP: std::time::Duration = std::time::Duration::from_secs(300);
        let this = self.clone();
        tokio::spawn(async move {
            this.entry.ended().await;
            let mut attributes = this.container.view().attributes();
            attributes.insert("execID".into(), this.entry.id.clone());
            attributes.insert("exitCode".into(), this.entry.exit_code().unwrap_or(0).to_string());
            this.container.publish("exec_die", attributes);
            let (shared, id) = (this.container.shared().clone(), this.entry.id.clone());
            drop(this);
            tokio::time::sleep(KEEP).await;
            shared.execs().remove(&id);
        });
    }

    fn publish(&self, action: &str) {
        let mut attributes = self.container.view().attributes();
        attributes.insert("execID".into(), self.entry.id.clone());
        let action = match action {
            "exec_detach" => action.to_owned(),
            action => format!("{action}: {}", self.entry.request.cmd.clone().unwrap_or_default().join(" ")),
        };
        self.container.publish(action, attributes);
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// The container is not running; the exec is not started within ten seconds.
    pub async fn resize(&self, height: u16, width: u16) -> Result<()> {
        // COMPAT: clients resize as soon as they have the stream, which they have before the process runs.
        const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
        let mut state = self.entry.state.subscribe();
        let begun = state.wait_for(|s| !matches!(s, ExecState::Created | ExecState::Starting));
        match tokio::time::timeout(PATIENCE, begun).await {
            Ok(Ok(state)) if matches!(*state, ExecState::Running { .. }) => {}
            // COMPAT: an exec that has ended can be resized without complaint.
            Ok(_) => return Ok(()),
            Err(_) => return Err(crate::error::internal("timeout waiting for exec session ready")),
        }
        let call = Call::Resize { exec: Some(self.entry.id.clone()), size: ConsoleSize { height, width } };
        call_shim(&self.container.shim()?, call, &[]).await.map(|_| ()).map_err(shim_error)
    }
}

impl Container {
    /// Prepares a further process; its id.
    ///
    /// # Errors
    /// Not running; paused; no command; bad environment or detach keys.
    pub async fn exec_create(&self, request: ExecCreateRequest) -> Result<String> {
        if request.cmd.as_ref().is_none_or(Vec::is_empty) {
            return Err(invalid("No exec command specified"));
        }
        let keys = request.detach_keys.as_deref().unwrap_or_default().parse()?;
        match self.view().status {
            Status::Running => {}
            Status::Paused => {
                return Err(conflict(format!(
                    "Container {} is paused, unpause the container before exec",
                    self.id()
                )));
            }
            Status::Restarting => {
                return Err(conflict(format!(
                    "Container {} is restarting, wait until the container is running",
                    self.id()
                )));
            }
            _ => return Err(Error::NotRunning(self.id().to_string())),
        }
        if let Some(bad) = request.env.iter().flatten().find(|e| e.is_empty() || e.starts_with('=')) {
            return Err(invalid(format!("invalid environment variable: {bad}")));
        }
        let id = Id::random().to_string();
        let entry = Arc::new(ExecEntry::new(id.clone(), self.id().clone(), request, keys));
        self.shared().execs().insert(id.clone(), entry.clone());
        Exec { entry, container: self.clone() }.publish("exec_create");
        Ok(id)
    }
}
