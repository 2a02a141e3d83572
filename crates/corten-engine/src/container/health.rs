//! Health checks: a probe per container that runs the check in it and mails the result to its task.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use corten_base::{Id, time};
use corten_wire::api::container::ContainerConfig;
use corten_wire::api::exec::ExecCreateRequest;
use corten_wire::api::inspect::{Health, HealthResult};
use corten_wire::shim::Call;
use tokio::io::AsyncReadExt;

use super::{Container, Mail, call_shim};
use crate::exec::{Exec, ExecEntry, ExecStart};
use crate::signal;

/// What of a check's output is kept.
const MAX_OUTPUT: usize = 4096;
/// How many results are kept.
const MAX_LOG: usize = 5;

/// A health check with defaults filled in.
#[derive(Debug, Clone)]
pub(super) struct Check {
    command: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: i64,
}

impl Check {
    /// The check of a configuration, if it has one.
    pub(super) fn of(config: &ContainerConfig) -> Option<Self> {
        let check = config.healthcheck.as_ref()?;
        let test = check.test.as_deref()?;
        let (kind, rest) = test.split_first()?;
        let command = match kind.as_str() {
            "CMD" if !rest.is_empty() => rest.to_vec(),
            "CMD-SHELL" => {
                let shell = config.shell.clone().unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
                shell.into_iter().chain([rest.first()?.clone()]).collect()
            }
            _ => return None,
        };
        let span = |ns: i64, default: u64| match u64::try_from(ns) {
            Ok(ns) if ns > 0 => Duration::from_nanos(ns),
            _ => Duration::from_secs(default),
        };
        Some(Self {
            command,
            interval: span(check.interval, 30),
            timeout: span(check.timeout, 30),
            start_period: span(check.start_period, 0),
            start_interval: span(check.start_interval, 5),
            retries: if check.retries > 0 { check.retries } else { 3 },
        })
    }

    /// Probes until it is aborted.
    pub(super) async fn run(self, container: Container) {
        let began = tokio::time::Instant::now();
        let mut status = "starting".to_owned();
        let (mut streak, mut log) = (0i64, VecDeque::new());
        loop {
            let starting = status == "starting" && began.elapsed() < self.start_period;
            tokio::time::sleep(if starting { self.start_interval.min(self.interval) } else { self.interval })
                .await;
            let result = self.probe(&container).await;
            corten_base::metrics::HEALTH_CHECKS.add();
            if result.exit_code != 0 {
                corten_base::metrics::HEALTH_CHECKS_FAILED.add();
            }
            let before = status.clone();
            if result.exit_code == 0 {
                status = "healthy".into();
                streak = 0;
            } else if before != "starting" || began.elapsed() >= self.start_period {
                streak += 1;
                if streak >= self.retries {
                    status = "unhealthy".into();
                }
            }
            log.push_back(result);
            if log.len() > MAX_LOG {
                log.pop_front();
            }
            let health =
                Health { status: status.clone(), failing_streak: streak, log: log.iter().cloned().collect() };
            if !container.view().is_running() || !container.post(Mail::Health(Arc::new(health))).await {
                return;
            }
            if status != before {
                container.publish_plain(&format!("health_status: {status}"));
            }
        }
    }

    async fn probe(&self, container: &Container) -> HealthResult {
        let start = time::now_ns();
        let request = ExecCreateRequest {
            cmd: Some(self.command.clone()),
            attach_stdout: true,
            attach_stderr: true,
            ..ExecCreateRequest::default()
        };
        let id = Id::random().to_string();
        let entry = Arc::new(ExecEntry::new(
            id.clone(),
            container.id().clone(),
            request,
            super::DetachKeys::default(),
        ));
        container.shared().execs().insert(id.clone(), entry.clone());
        let mut output = Vec::new();
        let ran = tokio::time::timeout(self.timeout, run(container, &id, &mut output)).await;
        let exit_code = match ran {
            Ok(Ok(())) => entry.exit_code().map_or(-1, i64::from),
            Ok(Err(error)) => {
                output = error.chain().into_bytes();
                -1
            }
            Err(_) => {
                if let Ok(shim) = container.shim() {
                    let call = Call::KillExec { id: id.clone(), signal: signal::KILL };
                    // It may have ended just now; then there is nothing to kill.
                    let _ended = call_shim(&shim, call, &[]).await;
                }
                let seen = text(&output);
                output = format!(
                    "Health check exceeded timeout ({}){}{seen}",
                    corten_base::units::format_duration(self.timeout),
                    if seen.is_empty() { "" } else { ": " }
                )
                .into_bytes();
                -1
            }
        };
        container.shared().execs().remove(&id);
        HealthResult {
            start: time::rfc3339_nano(start),
            end: time::rfc3339_nano(time::now_ns()),
            exit_code,
            output: text(&output),
        }
    }
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(&output[..output.len().min(MAX_OUTPUT)]).into_owned()
}

/// Runs the exec and collects what it writes, without the frames.
async fn run(container: &Container, id: &str, output: &mut Vec<u8>) -> crate::Result<()> {
    let exec = Exec::find(container.shared(), id)?;
    let Some(mut stream) = exec.start(ExecStart::default()).await? else { return Ok(()) };
    let mut head = [0u8; 8];
    let mut body = Vec::new();
    while stream.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        body.clear();
        let mut part = (&mut stream).take(u64::from(length));
        if part.read_to_end(&mut body).await.is_err() {
            break;
        }
        let room = MAX_OUTPUT.saturating_sub(output.len());
        output.extend_from_slice(&body[..body.len().min(room)]);
    }
    Ok(())
}
