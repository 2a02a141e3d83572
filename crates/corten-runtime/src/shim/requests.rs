//! Answers daemons.

use std::os::fd::{AsFd, OwnedFd};

use corten_base::Kind;
use corten_sys::{process, pty};
use corten_wire::oci_runtime::{Capabilities, ConsoleSize, Process};
use corten_wire::shim::{Attach, Call, ExecSpec, Fault, Message, Notice, Reply, Request, ShimState, VERSION};

use super::attached::Attached;
use super::runtime::{Further, fault};
use super::{Exec, Shim};
use crate::channel::{self, Received};
use crate::container::Stdio;
use crate::spec::ALL_CAPABILITIES;

/// Daemons at a time; a restarting one overlaps with its successor at most.
pub(super) const MAX_CONNECTIONS: usize = 8;
/// Clients and execs at a time.
const MAX_CLIENTS: usize = 256;

type Answer = Result<(Reply, Vec<OwnedFd>), Fault>;

fn done() -> Answer {
    Ok((Reply::Done, Vec::new()))
}

impl Shim {
    /// Handles one request of a connection.
    pub(super) fn serve(&mut self, index: usize) {
        let Some(connection) = self.connections.get(index) else { return };
        let received = channel::recv::<Request>(connection.socket.as_fd(), &mut self.block, false);
        let (request, fds) = match received {
            Ok(Received::Message(request, fds)) => (request, fds),
            Ok(Received::Nothing) => return,
            Ok(Received::End) | Err(_) => return self.hang_up(index),
        };
        let hello = matches!(request.call, Call::Hello { .. });
        let answer = self.answer(request.call, fds);
        let (result, fds) = match answer {
            Ok((reply, fds)) => (Ok(reply), fds),
            Err(fault) => (Err(fault), Vec::new()),
        };
        let accepted = hello && result.is_ok();
        let message = Message::Reply { seq: request.seq, result };
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let connection = &mut self.connections[index];
        if channel::send(connection.socket.as_fd(), &message, &borrowed, false).is_err() {
            return self.hang_up(index);
        }
        if accepted {
            connection.greeted = true;
            if let Some(exit) = self.exit {
                let notice = Message::Notice(Notice::Exited(exit));
                channel::send(connection.socket.as_fd(), &notice, &[], false).ok();
            }
        }
    }

    /// Only marks it: indices stay valid until the end of this round of events.
    fn hang_up(&mut self, index: usize) {
        self.connections[index].gone = true;
    }

    fn answer(&mut self, call: Call, mut fds: Vec<OwnedFd>) -> Answer {
        match call {
            // Older daemons than ourselves do not exist: they would have to have started us.
            Call::Hello { version } if version < VERSION => {
                Err(fault(Kind::Unsupported, "hello", "the daemon is older than the shim"))
            }
            Call::Hello { .. } if self.exit.is_none() && !fds.is_empty() => {
                self.kept = fds;
                Ok((Reply::State(self.state()), Vec::new()))
            }
            Call::Hello { .. } => {
                let kept = self.kept.iter().map(OwnedFd::try_clone).collect::<Result<_, _>>();
                // A daemon without them opens new ones.
                Ok((Reply::State(self.state()), kept.unwrap_or_default()))
            }
            Call::State => Ok((Reply::State(self.state()), Vec::new())),
            Call::Kill { signal, all } => self.kill(signal, all),
            Call::Pause => self.freeze(true),
            Call::Resume => self.freeze(false),
            Call::Exec(spec) => self.exec(*spec),
            Call::KillExec { id, signal } => {
                if let Some(exec) = self.execs.iter().find(|e| e.id == id) {
                    process::signal(exec.child.pidfd.as_fd(), signal).ok();
                }
                done()
            }
            Call::Resize { exec, size } => self.resize(exec.as_deref(), size),
            Call::Attach(wants) => self.attach(wants, fds.pop()),
            Call::Update(resources) => {
                self.runtime.update(&resources)?;
                done()
            }
            Call::ReopenLogs => {
                if let Some(log) = &mut self.log {
                    log.reopen().map_err(|e| fault(Kind::Internal, "log", e.to_string()))?;
                }
                done()
            }
            Call::Checkpoint { images, exit } => {
                if self.exit.is_some() {
                    return Err(fault(Kind::Conflict, "checkpoint", "the container has ended"));
                }
                self.runtime.checkpoint(&self.init, &images, exit)?;
                done()
            }
            Call::Ack => {
                self.acked = self.exit.is_some();
                done()
            }
        }
    }

    fn state(&self) -> ShimState {
        ShimState {
            version: VERSION,
            started: self.started,
            paused: self.paused,
            exit: self.exit,
            execs: self.execs.iter().map(|e| e.id.clone()).collect(),
        }
    }

    fn kill(&mut self, signal: i32, all: bool) -> Answer {
        if self.exit.is_some() {
            return done();
        }
        self.runtime.kill(&self.init, signal, all)?;
        // A frozen process does not even die.
        if signal == 9 && self.paused && self.runtime.freeze(false).is_ok() {
            self.paused = false;
        }
        done()
    }

    fn freeze(&mut self, frozen: bool) -> Answer {
        if self.exit.is_some() {
            // What has ended is not frozen: the order to thaw what a SIGKILL has thawed already may come late.
            return if frozen {
                Err(fault(Kind::Conflict, "pause", "the container has ended"))
            } else {
                done()
            };
        }
        if self.paused != frozen {
            self.runtime.freeze(frozen)?;
            self.paused = frozen;
        }
        done()
    }

    fn resize(&mut self, exec: Option<&str>, size: ConsoleSize) -> Answer {
        let terminal = match exec {
            Some(id) => self.execs.iter().find(|e| e.id == id).and_then(|e| e.master.as_ref()),
            None if self.tty => self.outputs[0].as_ref(),
            None => None,
        };
        if let Some(terminal) = terminal {
            pty::resize(terminal.as_fd(), size.height, size.width)
                .map_err(|e| fault(Kind::Internal, "resize", crate::fault::errno_text(&e)))?;
        }
        done()
    }

    pub(super) fn attach(&mut self, wants: Attach, socket: Option<OwnedFd>) -> Answer {
        let Some(socket) = socket else {
            return Err(fault(Kind::InvalidArgument, "attach", "no stream came with the request"));
        };
        if self.exit.is_some() {
            return Err(fault(Kind::Conflict, "attach", "the container has ended"));
        }
        if self.clients.len() >= MAX_CLIENTS {
            return Err(fault(Kind::Unavailable, "attach", "too many attached clients"));
        }
        self.clients.push(Attached::new(wants, socket));
        done()
    }

    fn exec(&mut self, spec: ExecSpec) -> Answer {
        if self.exit.is_some() {
            return Err(fault(Kind::Conflict, "exec", "the container has ended"));
        }
        if self.paused {
            // The new process would freeze half-made, and we with it.
            return Err(fault(Kind::Conflict, "exec", "the container is paused, unpause it before exec"));
        }
        if self.execs.len() >= MAX_CLIENTS || self.execs.iter().any(|e| e.id == spec.id) {
            return Err(fault(Kind::Conflict, "exec", "too many processes, or the id is taken"));
        }
        let process = self.process_of(&spec);
        let user = spec.user.as_ref().or(self.for_exec.user.as_ref());
        let further = Further { process: &process, user, stdin: spec.stdin };
        let launched = self.runtime.exec(&self.init, &further)?;
        let pid = launched.child.pid;
        let mut exec = Exec { id: spec.id, child: launched.child, master: None };
        let fds = match launched.stdio {
            Stdio::Terminal { master } => {
                exec.master = master.try_clone().ok();
                vec![master]
            }
            Stdio::Pipes { stdin, stdout, stderr } => {
                let wanted = [stdin, spec.stdout.then_some(stdout), spec.stderr.then_some(stderr)];
                wanted.into_iter().flatten().collect()
            }
            Stdio::Inherited => Vec::new(),
        };
        self.execs.push(exec);
        Ok((Reply::ExecStarted { pid }, fds))
    }

    /// The container's process with what the exec says instead.
    fn process_of(&self, spec: &ExecSpec) -> Process {
        let base = &self.for_exec.process;
        let mut process = Process {
            terminal: spec.tty,
            console_size: spec.console_size,
            args: spec.args.clone(),
            cwd: spec.cwd.clone().filter(|c| !c.as_os_str().is_empty()).unwrap_or_else(|| base.cwd.clone()),
            ..base.clone()
        };
        if spec.inherit_env {
            process.env.extend(spec.env.iter().cloned());
        } else {
            process.env.clone_from(&spec.env);
        }
        if spec.privileged {
            if !process.apparmor_profile.is_empty() {
                process.apparmor_profile = "unconfined".to_owned();
            }
            let all: Vec<String> = ALL_CAPABILITIES.iter().map(ToString::to_string).collect();
            process.capabilities = Some(Capabilities {
                bounding: all.clone(),
                effective: all.clone(),
                permitted: all,
                ..Capabilities::default()
            });
        }
        process
    }
}
