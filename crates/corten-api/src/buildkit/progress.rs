//! What a build says, kept for those who ask for its status, from its beginning.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bollard_buildkit_proto::google::protobuf::Timestamp;
use bollard_buildkit_proto::moby::buildkit::v1::{
    StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning,
};
use bollard_buildkit_proto::pb;
use corten_base::{Digest, time};
use corten_build::{SolveEvent, SolveEventKind, SourceFile, StepStream, Warning};
use futures_util::Stream;
use tokio::sync::Notify;

use crate::grpc::Status;

/// Bytes of logs that are kept of one build for those who ask late; what is beyond is told to those who listen.
const LOGS: usize = 16 << 20;
/// Messages in one answer.
const AT_ONCE: usize = 512;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Progress {
    state: Mutex<State>,
    changed: Notify,
}

/// A build that is over: everything that it said, and how many steps there were.
pub(super) struct Summary {
    pub(super) messages: Vec<Arc<StatusResponse>>,
    pub(super) total: i32,
    pub(super) cached: i32,
    pub(super) completed: i32,
    pub(super) warnings: i32,
}

#[derive(Debug, Default)]
struct State {
    messages: Vec<Arc<StatusResponse>>,
    vertices: HashMap<Digest, Vertex>,
    statuses: HashMap<(Digest, String), Timestamp>,
    logged: usize,
    over: bool,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The builder says something.
    pub(super) fn event(&self, event: SolveEvent) {
        let mut state = self.lock();
        if let Some(message) = state.message(event) {
            state.messages.push(Arc::new(message));
            drop(state);
            self.changed.notify_waiters();
        }
    }

    /// Runs something as a vertex of its own.
    pub(super) async fn vertex<T>(
        &self,
        name: &str,
        work: impl AsyncFnOnce(&Digest) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let vertex = Digest::of(format!("{name} {}", corten_base::Id::random()).as_bytes());
        let tell = |what| self.event(SolveEvent { vertex: vertex.clone(), what });
        tell(SolveEventKind::Started { name: name.to_owned(), inputs: Vec::new() });
        let done = work(&vertex).await;
        tell(SolveEventKind::Done(done.as_ref().err().map(|e| e.message.clone()).unwrap_or_default()));
        done
    }

    /// Something within a vertex is done.
    pub(super) fn step(&self, vertex: &Digest, id: impl Into<String>, done: bool) {
        let id = id.into();
        let what = SolveEventKind::Progress { id, current: 0, total: 0, done };
        self.event(SolveEvent { vertex: vertex.clone(), what });
    }

    /// There is no more to come.
    pub(super) fn end(&self) {
        self.lock().over = true;
        self.changed.notify_waiters();
    }

    /// What there was.
    pub(super) fn summary(&self) -> Summary {
        let state = self.lock();
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let vertices = || state.vertices.values();
        Summary {
            total: count(vertices().count()),
            cached: count(vertices().filter(|v| v.cached).count()),
            completed: count(vertices().filter(|v| v.completed.is_some()).count()),
            warnings: count(state.messages.iter().map(|m| m.warnings.len()).sum()),
            messages: state.messages.clone(),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().over
    }

    /// Everything from the beginning to the end.
    pub(super) fn follow(
        job: Arc<super::job::Job>,
    ) -> impl Stream<Item = Result<StatusResponse, Status>> + Send + 'static {
        futures_util::stream::unfold((job, 0), |(job, at)| async move {
            let (message, end) = job.progress.after(at).await?;
            Some((Ok(message), (job, end)))
        })
    }

    /// What was said after the first `at` messages, and how many there are then; `None` at the end.
    async fn after(&self, at: usize) -> Option<(StatusResponse, usize)> {
        loop {
            let changed = self.changed.notified();
            {
                let state = self.lock();
                if at < state.messages.len() {
                    let end = state.messages.len().min(at + AT_ONCE);
                    return Some((merged(&state.messages[at..end]), end));
                }
                if state.over {
                    return None;
                }
            }
            changed.await;
        }
    }
}

fn merged(messages: &[Arc<StatusResponse>]) -> StatusResponse {
    let mut all = StatusResponse::default();
    for message in messages {
        all.vertexes.extend(message.vertexes.iter().cloned());
        all.statuses.extend(message.statuses.iter().cloned());
        all.logs.extend(message.logs.iter().cloned());
        all.warnings.extend(message.warnings.iter().cloned());
    }
    all
}

impl State {
    fn message(&mut self, event: SolveEvent) -> Option<StatusResponse> {
        let SolveEvent { vertex, what } = event;
        let mut message = StatusResponse::default();
        let now = Some(now());
        match what {
            SolveEventKind::Started { name, inputs } => {
                // Stages may share a step: the first told of it.
                if self.vertices.contains_key(&vertex) {
                    return None;
                }
                let inputs = inputs.iter().map(Digest::to_string).collect();
                let digest = vertex.to_string();
                let new = Vertex { digest, name, inputs, started: now, ..Vertex::default() };
                message.vertexes.push(new.clone());
                self.vertices.insert(vertex, new);
            }
            SolveEventKind::Cached => {
                let known = self.vertices.get_mut(&vertex)?;
                known.cached = true;
                message.vertexes.push(known.clone());
            }
            SolveEventKind::Done(error) => {
                let known = self.vertices.get_mut(&vertex)?;
                if known.completed.is_some() && error.is_empty() {
                    return None;
                }
                known.completed = now;
                known.error = error;
                message.vertexes.push(known.clone());
            }
            SolveEventKind::Output(stream, bytes) => {
                self.logged += bytes.len();
                if self.logged > LOGS {
                    self.drop_old_logs();
                }
                let stream = if stream == StepStream::Stdout { 1 } else { 2 };
                message.logs.push(VertexLog {
                    vertex: vertex.to_string(),
                    timestamp: now,
                    stream,
                    msg: bytes,
                });
            }
            SolveEventKind::Progress { id, current, total, done } => {
                let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
                let started = *self.statuses.entry((vertex.clone(), id.clone())).or_insert_with(self::now);
                message.statuses.push(VertexStatus {
                    name: id.clone(),
                    id,
                    vertex: vertex.to_string(),
                    current: number(current),
                    total: number(total),
                    timestamp: now,
                    started: Some(started),
                    completed: if done { now } else { None },
                });
            }
            SolveEventKind::Warning(found) => message.warnings.push(warning(&vertex, &found)),
        }
        Some(message)
    }

    /// Makes room: the first half of the logs goes, everything else stays.
    fn drop_old_logs(&mut self) {
        let mut excess = LOGS / 2;
        for message in &mut self.messages {
            if excess == 0 {
                break;
            }
            let size: usize = message.logs.iter().map(|l| l.msg.len()).sum();
            if size > 0 {
                excess = excess.saturating_sub(size);
                self.logged = self.logged.saturating_sub(size);
                *message = Arc::default();
            }
        }
    }
}

fn warning(vertex: &Digest, found: &Warning) -> VertexWarning {
    VertexWarning {
        vertex: vertex.to_string(),
        level: 1,
        short: format!("{}: {} (line {})", found.rule, found.detail, found.lines.0).into_bytes(),
        detail: vec![found.description.as_bytes().to_vec()],
        url: found.url.clone(),
        info: Some(source_info(&found.source)),
        ranges: vec![range(found.lines)],
    }
}

/// A file as BuildKit's messages carry it.
pub(super) fn source_info(source: &SourceFile) -> pb::SourceInfo {
    pb::SourceInfo {
        filename: source.name.clone(),
        data: source.text.clone(),
        definition: None,
        language: "Dockerfile".into(),
    }
}

fn range((first, last): (usize, usize)) -> pb::Range {
    let at = |line: usize| Some(pb::Position { line: i32::try_from(line).unwrap_or(i32::MAX), character: 0 });
    pb::Range { start: at(first), end: at(last) }
}

/// This moment.
pub(super) fn now() -> Timestamp {
    timestamp(time::now_ns())
}

/// Nanoseconds since the epoch.
pub(super) fn timestamp(ns: i128) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(ns.div_euclid(1_000_000_000)).unwrap_or(i64::MAX),
        nanos: i32::try_from(ns.rem_euclid(1_000_000_000)).unwrap_or(0),
    }
}
