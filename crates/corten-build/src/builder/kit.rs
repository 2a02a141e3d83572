//! Builds by BuildKit's rules.
//!
//! ```text
//!   Dockerfile ─▶ graph: the stages that are needed, and what each waits for
//!                   └─▶ one thread per stage ─▶ steps as in the classic builder ─▶ layers, configuration, history
//! ```
//! A step is known by the layers it stands on and by what goes into it, so changes of the configuration that a command
//! cannot see do not spoil what comes after them. The layers of a step belong to an image without configuration that
//! only the cache holds (`NewImage::cached`); the record of the step says which, and whether the step made a layer.

mod context;
mod describe;
mod graph;
mod receive;
mod solved;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use corten_base::{Cancel, Digest, Platform};
use corten_image::{Layer, LayerPhase, ProgressEvent};
use corten_wire::oci_image::History;

use super::stage::{Finished, Stage};
use super::{Build, Builder, CacheStep, Work, counted};
use crate::args::Args;
use crate::dockerfile::{CheckOptions, Dockerfile, Instruction, check, rule_url};
use crate::error::BuildError;
use crate::request::{BuildEvent, BuildRequest};
use crate::solve::{
    BuildClient, Checked, Lazy, Materials, SolveError, SolveEvent, SolveEventKind, SolveRequest, Solved,
    SourceFile, Warning,
};
use crate::step::Puller;

pub(crate) use context::{KEPT, Named};
pub use describe::{Described, Parameter, Target};
pub use solved::{INLINE_CACHE, ImageOptions, LayerForm};

/// What every stage of one build shares.
pub(crate) struct Shared<'a> {
    pub(crate) request: &'a SolveRequest,
    pub(crate) client: &'a dyn BuildClient,
    pub(crate) say: &'a (dyn Fn(SolveEvent) + Sync),
    pub(crate) cancel: &'a Cancel,
    /// Part of all vertices: the same step of two builds must not be the same vertex.
    pub(crate) salt: String,
    /// Directories with files of the client that its next build will want again.
    pub(crate) kept: Mutex<Vec<context::Kept>>,
    /// What the build took from elsewhere so far.
    pub(crate) materials: Mutex<Materials>,
    /// Keys of the steps that are running: who comes to the same step waits for its result.
    running: Mutex<BTreeSet<String>>,
    ran: Condvar,
}

impl<'a> Shared<'a> {
    fn new(
        request: &'a SolveRequest,
        client: &'a dyn BuildClient,
        say: &'a (dyn Fn(SolveEvent) + Sync),
        cancel: &'a Cancel,
    ) -> Self {
        Self {
            request,
            client,
            say,
            cancel,
            salt: corten_base::Id::random().to_string(),
            kept: Mutex::default(),
            materials: Mutex::default(),
            running: Mutex::default(),
            ran: Condvar::new(),
        }
    }

    /// Notes what comes from elsewhere.
    pub(crate) fn note(&self, note: impl FnOnce(&mut Materials)) {
        note(&mut self.materials.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits until nobody else of this build is doing the step of this key.
    pub(crate) fn claim(&self, key: &str) -> Result<(), BuildError> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        while running.contains(key) {
            if self.cancel.is_cancelled() {
                return Err(BuildError::Cancelled);
            }
            let waited = self.ran.wait_timeout(running, Duration::from_millis(100));
            running = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        running.insert(key.to_owned());
        Ok(())
    }

    fn unclaim(&self, key: &str) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        self.ran.notify_all();
    }

    /// A vertex of this build by a text that is its own.
    pub(crate) fn vertex(&self, text: &str) -> Digest {
        Digest::of(format!("{}\0{text}", self.salt).as_bytes())
    }

    pub(crate) fn tell(&self, vertex: &Digest, what: SolveEventKind) {
        (self.say)(SolveEvent { vertex: vertex.clone(), what });
    }

    /// Tells what the checks find; an error where the file wants it to be one.
    fn report(&self, file: &Dockerfile, source: &Arc<SourceFile>) -> Result<(), SolveError> {
        let (error, warnings) = findings(self.request, file, source)?;
        let Some(first) = warnings.first() else { return Ok(()) };
        let place = Some((Arc::clone(source), first.lines));
        let mut rules: Vec<&str> = warnings.iter().map(|w| w.rule).collect();
        rules.sort_unstable();
        rules.dedup();
        let message = format!("lint violation found for rules: {}", rules.join(", "));
        let vertex = self.vertex(&context::definition_title(self.request));
        warnings.into_iter().for_each(|w| self.tell(&vertex, SolveEventKind::Warning(w)));
        match error {
            true => Err(SolveError { place, ..BuildError::invalid(message).into() }),
            false => Ok(()),
        }
    }

    /// Does something as a vertex: it is shown to begin and to end.
    pub(crate) fn within<T>(
        &self,
        name: &str,
        inputs: Vec<Digest>,
        work: impl FnOnce(&Digest) -> Result<T, BuildError>,
    ) -> Result<T, SolveError> {
        let vertex = self.vertex(name);
        self.tell(&vertex, SolveEventKind::Started { name: name.to_owned(), inputs });
        let done = work(&vertex);
        let text = done.as_ref().err().map(explain).unwrap_or_default();
        self.tell(&vertex, SolveEventKind::Done(text));
        done.map_err(|error| SolveError { vertex: Some(vertex), ..error.into() })
    }
}

/// What the checks find in a file, and whether that is an error.
fn findings(
    request: &SolveRequest,
    file: &Dockerfile,
    source: &Arc<SourceFile>,
) -> Result<(bool, Vec<Warning>), BuildError> {
    let text = request.build_args.get("BUILDKIT_DOCKERFILE_CHECK").unwrap_or(&file.directives.check);
    let options = CheckOptions::parse(text).map_err(BuildError::invalid)?;
    let warnings = check(file, &options).into_iter().map(|f| Warning {
        rule: f.rule,
        description: f.description,
        url: rule_url(f.rule),
        detail: f.detail,
        lines: f.lines,
        source: Arc::clone(source),
    });
    Ok((options.error, warnings.collect()))
}

/// The error and its causes as one text.
pub(crate) fn explain(error: &BuildError) -> String {
    let mut text = error.in_buildkits_words();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// Of one stage under way.
pub(crate) struct Kit<'a> {
    pub(crate) shared: &'a Shared<'a>,
    /// The step being done.
    pub(crate) vertex: Option<Digest>,
    /// Nothing of this stage may come from the cache.
    pub(crate) no_cache: bool,
    /// `[name 2/5] ` of the steps: the name, how many there are, how many began.
    pub(crate) name: String,
    pub(crate) total: usize,
    pub(crate) count: usize,
    /// The step does not look at what is below it.
    pub(crate) alone: bool,
    /// Key of the step that others wait for.
    pub(crate) claimed: Option<String>,
}

impl Kit<'_> {
    /// The step is over: others may look for its result.
    pub(crate) fn unclaim(&mut self) {
        if let Some(key) = self.claimed.take() {
            self.shared.unclaim(&key);
        }
    }

    /// What a pull says.
    pub(crate) fn pulled(&self, event: &ProgressEvent) {
        let (Some(vertex), ProgressEvent::Layer { id, phase, bytes }) = (&self.vertex, event) else { return };
        let (current, total) = bytes.unwrap_or_default();
        let done = matches!(phase, LayerPhase::PullComplete | LayerPhase::AlreadyExists);
        let id = format!("{phase} {id}");
        self.shared.tell(vertex, SolveEventKind::Progress { id, current, total, done });
    }
}

/// What a stage is made of so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct KitState {
    pub(crate) layers: Vec<Layer>,
    pub(crate) history: Vec<History>,
    /// The last vertex.
    pub(crate) last: Option<Digest>,
    /// Arguments of the stage, for stages that stand on it.
    pub(crate) args: Option<Args>,
    /// Steps that made it.
    pub(crate) steps: Vec<CacheStep>,
    /// How many of the layers are those of an image that it stands on.
    pub(crate) base: usize,
}

impl Builder {
    /// Builds with the builtin Dockerfile front end, by BuildKit's rules: one result for each platform, in their
    /// order. Blocks until the end; `cancel` is set when it fails.
    ///
    /// # Errors
    /// What is wrong, and where in the Dockerfile.
    pub fn solve(
        &self,
        request: &SolveRequest,
        client: &dyn BuildClient,
        puller: &dyn Puller,
        say: &(dyn Fn(SolveEvent) + Sync),
        cancel: &Cancel,
    ) -> Result<Vec<Solved>, SolveError> {
        let mut failed = None;
        let shared = Shared::new(request, client, say, cancel);
        let solved = counted(|| {
            self.solve_within(&shared, puller).map_err(|e| {
                let SolveError { error, place, vertex } = e;
                failed = Some((place, vertex));
                *error
            })
        });
        if let Err(error) = self.collect_cache() {
            tracing::warn!(%error, "could not look through the build cache");
        }
        solved.map_err(|error| {
            let (place, vertex) = failed.unwrap_or_default();
            SolveError { error: Box::new(error), place, vertex }
        })
    }

    /// Reads the Dockerfile and checks it, without building anything.
    ///
    /// # Errors
    /// The file cannot be had, or has errors.
    pub fn check(
        &self,
        request: &SolveRequest,
        client: &dyn BuildClient,
        say: &(dyn Fn(SolveEvent) + Sync),
        cancel: &Cancel,
    ) -> Result<Checked, SolveError> {
        let (file, source) = self.read(request, client, say, cancel)?;
        let (_, warnings) = findings(request, &file, &source)?;
        Ok(Checked { warnings, source })
    }

    /// The Dockerfile, for questions about it.
    fn read(
        &self,
        request: &SolveRequest,
        client: &dyn BuildClient,
        say: &(dyn Fn(SolveEvent) + Sync),
        cancel: &Cancel,
    ) -> Result<(Dockerfile, Arc<SourceFile>), SolveError> {
        let shared = Shared::new(request, client, say, cancel);
        let work = Work::new(&self.inner.root)?;
        let sources = context::Sources::new(self, &shared, &work);
        let main = sources.main()?;
        let (source, _) = sources.dockerfile(main.as_ref())?;
        let file =
            crate::dockerfile::parse(&source.name, &source.text).map_err(|e| at_line(e.into(), &source))?;
        Ok((file, source))
    }

    fn solve_within(&self, shared: &Shared<'_>, puller: &dyn Puller) -> Result<Vec<Solved>, SolveError> {
        let work = Work::new(&self.inner.root)?;
        let sources = context::Sources::new(self, shared, &work);
        let main = sources.main()?;
        let (source, ignore) = sources.dockerfile(main.as_ref())?;
        let mut file =
            crate::dockerfile::parse(&source.name, &source.text).map_err(|e| at_line(e.into(), &source))?;
        shared.report(&file, &source)?;
        if !shared.request.labels.is_empty() {
            super::add_labels(&mut file, &shared.request.labels);
        }
        let given: BTreeMap<_, _> =
            shared.request.build_args.iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect();
        let context = sources.context(main, ignore, graph::context_paths(&file));
        let contexts = sources.named()?;
        let targets = match &shared.request.platforms[..] {
            [] => vec![None],
            platforms => platforms.iter().map(|p| Some(p.clone())).collect(),
        };
        let classic: Vec<BuildRequest> =
            targets.iter().map(|t| classic_request(shared.request, t.clone())).collect();
        let jobs: Vec<Job<'_>> = classic
            .iter()
            .map(|classic| {
                let target = classic.platform.clone().unwrap_or_else(Platform::host);
                Job {
                    builder: self,
                    shared,
                    puller,
                    classic,
                    context: &context,
                    contexts: context::for_platform(&contexts, &target),
                    work: &work,
                    source: Arc::clone(&source),
                    target,
                    several: targets.len() > 1,
                }
            })
            .collect();
        let mut failed: Option<SolveError> = None;
        let mut done = Vec::new();
        std::thread::scope(|scope| {
            let (file, given) = (&file, &given);
            let running: Vec<_> = jobs
                .iter()
                .map(|job| scope.spawn(move || job.run(file, Args::new(given.clone(), &job.target))))
                .collect();
            for running in running {
                let ended = running
                    .join()
                    .unwrap_or_else(|_| Err(BuildError::invalid("the build of a platform panicked").into()));
                match ended {
                    Ok(finished) => done.push(finished),
                    // What others say is that they were stopped.
                    Err(e) if failed.as_ref().is_none_or(|f| matches!(*f.error, BuildError::Cancelled)) => {
                        failed = Some(e);
                    }
                    Err(_) => {}
                }
            }
        });
        match failed {
            Some(failed) => Err(failed),
            None => Ok(solved::all_solved(shared, source, done)),
        }
    }
}

/// The parts of a request that both kinds of builds have.
fn classic_request(request: &SolveRequest, platform: Option<Platform>) -> BuildRequest {
    BuildRequest {
        platform,
        pull: request.pull,
        rm: true,
        force_rm: true,
        network: request.network.clone(),
        extra_hosts: request.extra_hosts.clone(),
        limits: request.limits.clone(),
        ..BuildRequest::default()
    }
}

/// An error of the parser knows its line.
fn at_line(error: BuildError, source: &Arc<SourceFile>) -> SolveError {
    let place = match &error {
        BuildError::Parse(crate::dockerfile::ParseError::Line { line, .. }) => {
            Some((Arc::clone(source), (*line, *line)))
        }
        _ => None,
    };
    SolveError { place, ..error.into() }
}

/// The build for one platform, after the Dockerfile was read.
struct Job<'a> {
    builder: &'a Builder,
    shared: &'a Shared<'a>,
    puller: &'a dyn Puller,
    classic: &'a BuildRequest,
    context: &'a Lazy<'a>,
    contexts: BTreeMap<String, &'a Named<'a>>,
    work: &'a Work,
    source: Arc<SourceFile>,
    target: Platform,
    /// There are other platforms.
    several: bool,
}

/// Stages that are done, and the first failure.
#[derive(Default)]
struct Board {
    done: Vec<Option<Finished>>,
    failed: Option<SolveError>,
    over: bool,
}

impl Job<'_> {
    /// The target's stage, and the steps of all stages.
    fn run(&self, file: &Dockerfile, mut args: Args) -> Result<(Stage, Vec<CacheStep>), SolveError> {
        let mut nobody = |_| {};
        let mut first = self.build(file, args.clone(), Vec::new(), &mut nobody);
        for command in &file.meta_args {
            if let Instruction::Arg(list) = &command.instruction {
                first.meta_arg(list).map_err(|e| self.at(e, (command.line, command.end), None))?;
            }
        }
        args = first.args.clone();
        let bases: Vec<String> = file.stages.iter().map(|s| first.expanded_base(s)).collect();
        drop(first);
        let named: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
        let graph = graph::Graph::new(file, &bases, &named, &self.shared.request.target)?;
        let board = Mutex::new(Board { done: vec![None; file.stages.len()], ..Board::default() });
        let changed = Condvar::new();
        std::thread::scope(|scope| {
            for index in graph.order() {
                let (board, changed, graph) = (&board, &changed, &graph);
                let args = args.clone();
                scope.spawn(move || {
                    let outcome = wait_for(board, changed, graph.needs(index))
                        .and_then(|finished| self.stage(file, index, args, finished).map(Some));
                    let mut board = board.lock().unwrap_or_else(PoisonError::into_inner);
                    match outcome {
                        Ok(Some(finished)) => board.done[index] = Some(finished),
                        Ok(None) => {}
                        Err(e) => {
                            self.shared.cancel.cancel();
                            board.over = true;
                            // What others say is that they were stopped.
                            if board.failed.as_ref().is_none_or(|f| matches!(*f.error, BuildError::Cancelled))
                            {
                                board.failed = Some(e);
                            }
                        }
                    }
                    changed.notify_all();
                });
            }
        });
        let mut board = board.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(failed) = board.failed.take() {
            return Err(failed);
        }
        let kits = board.done.iter().flatten().filter_map(|f| f.stage.as_ref()?.kit.as_ref());
        let steps = kits.flat_map(|k| k.steps.iter().cloned()).collect();
        let stage = board.done[graph.target()].take().and_then(|f| f.stage);
        let stage = stage.ok_or_else(|| BuildError::invalid("the target stage was not built"))?;
        Ok((stage, steps))
    }

    fn at(&self, error: BuildError, lines: (usize, usize), vertex: Option<Digest>) -> SolveError {
        SolveError { error: Box::new(error), place: Some((Arc::clone(&self.source), lines)), vertex }
    }

    fn build<'b>(
        &'b self,
        file: &Dockerfile,
        args: Args,
        finished: Vec<Finished>,
        say: &'b mut dyn FnMut(BuildEvent),
    ) -> Build<'b> {
        Build {
            inner: &self.builder.inner,
            request: self.classic,
            puller: self.puller,
            say,
            cancel: self.shared.cancel,
            context: self.context,
            contexts: &self.contexts,
            kit: None,
            work: self.work,
            args,
            platform: self.target.clone(),
            escape: file.directives.escape,
            finished,
            kept: Vec::new(),
            step: 0,
            steps: 0,
        }
    }

    fn stage(
        &self,
        file: &Dockerfile,
        index: usize,
        args: Args,
        finished: Vec<Finished>,
    ) -> Result<Finished, SolveError> {
        let written = &file.stages[index];
        let name = match (file.stages.len(), written.name.as_str()) {
            (1, _) => String::new(),
            (_, "") => format!("stage-{index} "),
            (_, name) => format!("{name} "),
        };
        let mut nobody = |_| {};
        let mut build = self.build(file, args, finished, &mut nobody);
        let name = match self.several {
            true => format!("{} {name}", build.shown_platform(written)),
            false => name,
        };
        let no_cache = self.shared.request.no_cache.as_ref().is_some_and(|stages| {
            stages.is_empty() || stages.iter().any(|s| s.eq_ignore_ascii_case(&written.name))
        });
        build.kit = Some(Kit {
            shared: self.shared,
            vertex: None,
            no_cache,
            name,
            total: graph::steps(written),
            count: 0,
            alone: false,
            claimed: None,
        });
        let done = build.kit_stage(written);
        if let Some(kit) = &mut build.kit {
            kit.unclaim();
        }
        for id in std::mem::take(&mut build.kept) {
            build.remove_container(&id);
        }
        let vertex = build.kit.as_ref().and_then(|k| k.vertex.clone());
        match done {
            Ok(stage) => Ok(Finished { name: written.name.clone(), stage: Some(stage) }),
            Err((error, lines)) => Err(self.at(error, lines, vertex)),
        }
    }
}

/// Waits until these stages are done; answers with a list in which those are in their places.
fn wait_for(board: &Mutex<Board>, changed: &Condvar, needs: &[usize]) -> Result<Vec<Finished>, SolveError> {
    let mut board = board.lock().unwrap_or_else(PoisonError::into_inner);
    while !board.over && needs.iter().any(|n| board.done[*n].is_none()) {
        board = changed.wait(board).unwrap_or_else(PoisonError::into_inner);
    }
    if board.over {
        return Err(BuildError::Cancelled.into());
    }
    let nothing = || Finished { name: String::new(), stage: None };
    Ok(board.done.iter().map(|f| f.clone().unwrap_or_else(nothing)).collect())
}

impl Stage {
    /// The state by BuildKit's rules; there always is one where this is called.
    fn kit_mut(&mut self) -> &mut KitState {
        self.kit.get_or_insert_default()
    }
}

#[cfg(test)]
mod tests;
