//! `Builder`: one build from its context to its names.

mod cache;
mod copy;
mod fetch;
mod git;
mod kit;
mod owner;
mod remote_cache;
mod run;
mod stage;
mod tree;

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use corten_base::db::Db;
use corten_base::ignore::Ignore;
use corten_base::{Cancel, Id, Platform};
use corten_image::archive::{self, PutOptions};
use corten_image::{Image, Images};
use rustix::fs::OFlags;
use tokio::runtime::Handle;

use crate::args::Args;
use crate::dockerfile::{Command, Dockerfile, Instruction, parse, parse_trigger};
use crate::error::{At, BuildError};
use crate::request::{BuildEvent, BuildRequest};
use crate::solve::Lazy;
use crate::step::{Puller, StepRunner};
pub use cache::{CacheEntry, CachePrune};
use git::Git;
use git::address::GitAddress;
pub use git::address::without_secrets;
pub(crate) use kit::explain;
pub use kit::{Described, INLINE_CACHE, ImageOptions, LayerForm, Parameter, Target};
pub use remote_cache::{CacheStep, ImportedCache, LayerSource, RemoteCache};
use stage::{Finished, Stage};

/// Largest Dockerfile that is read.
const DOCKERFILE_LIMIT: u64 = 4 << 20;
/// Nested triggers cannot grow without end, because triggers of triggers do not exist; this bounds one image's.
const TRIGGERS: usize = 256;

/// Builds images. Clones share it; several builds may run side by side.
#[derive(Clone)]
pub struct Builder {
    inner: Arc<Inner>,
}

struct Inner {
    images: Images,
    db: Db,
    runner: Arc<dyn StepRunner>,
    registries: corten_registry::Client,
    runtime: Handle,
    root: PathBuf,
    /// Directory in memory for secrets and sockets of steps.
    private: PathBuf,
    /// Directories of cache mounts in use, and by how many steps.
    busy: Mutex<BTreeMap<String, usize>>,
    /// When the cache was looked through last; a new daemon waits an hour.
    collected_ns: std::sync::atomic::AtomicI64,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("root", &self.inner.root).finish_non_exhaustive()
    }
}

/// Counts a build, and its failure.
fn counted<T>(build: impl FnOnce() -> Result<T, BuildError>) -> Result<T, BuildError> {
    corten_base::metrics::BUILDS.add();
    let built = build();
    if built.is_err() {
        corten_base::metrics::BUILDS_FAILED.add();
    }
    built
}

impl Builder {
    /// A builder that keeps contexts and cache mounts below `root` (`<data root>/build`, emptied of what a crash
    /// left), its cache in `db`, and secrets of steps below `private`, which should be in memory.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn new(
        images: Images,
        db: Db,
        runner: Arc<dyn StepRunner>,
        registries: corten_registry::Client,
        runtime: Handle,
        root: &Path,
        private: &Path,
    ) -> Result<Self, BuildError> {
        let work = root.join("work");
        if work.exists() {
            std::fs::remove_dir_all(&work).at("remove", work.as_os_str().as_encoded_bytes())?;
        }
        for dir in [&work, &root.join("cache")] {
            std::fs::create_dir_all(dir).at("mkdir", dir.as_os_str().as_encoded_bytes())?;
        }
        let inner = Inner {
            images,
            db,
            runner,
            registries,
            runtime,
            root: root.to_owned(),
            private: private.to_owned(),
            busy: Mutex::default(),
            collected_ns: i64::try_from(corten_base::time::now_ns()).unwrap_or_default().into(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Where its files are.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Builds from a tar of the context (compressed or not). Blocks until the end. An error before the first event
    /// has not been told to anybody.
    ///
    /// # Errors
    /// See [`BuildError`]; nothing is left behind but the images of the steps that succeeded.
    pub fn build(
        &self,
        tar: &mut dyn Read,
        request: BuildRequest,
        puller: &dyn Puller,
        say: &mut dyn FnMut(BuildEvent),
        cancel: &Cancel,
    ) -> Result<Arc<Image>, BuildError> {
        counted(|| self.build_tar(tar, request, puller, say, cancel))
    }

    fn build_tar(
        &self,
        tar: &mut dyn Read,
        request: BuildRequest,
        puller: &dyn Puller,
        say: &mut dyn FnMut(BuildEvent),
        cancel: &Cancel,
    ) -> Result<Arc<Image>, BuildError> {
        let work = Work::new(&self.inner.root)?;
        let context = work.directory("context")?;
        archive::put(context.as_fd(), "/", tar, PutOptions::default(), cancel)?;
        self.build_directory(&work, context, request, puller, say, cancel)
    }

    /// Builds from the tar, or the Dockerfile, at an `http` or `https` address, or from a git repository.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn build_remote(
        &self,
        url: &str,
        request: BuildRequest,
        puller: &dyn Puller,
        say: &mut dyn FnMut(BuildEvent),
        cancel: &Cancel,
    ) -> Result<Arc<Image>, BuildError> {
        counted(|| {
            let work = Work::new(&self.inner.root)?;
            let mut request = request;
            if let Some(address) = GitAddress::parse(url)? {
                let git = Git { inner: &self.inner, work: &work, client: None, cancel };
                let found = git.checkout(&address, "context", false, &|_| {})?;
                let context = work.directory(&found.path)?;
                return self.build_directory(&work, context, request, puller, say, cancel);
            }
            let context = work.directory("context")?;
            if self.fetch_context(url, &work, &context, cancel)?.is_dockerfile {
                request.dockerfile = String::new();
            }
            self.build_directory(&work, context, request, puller, say, cancel)
        })
    }

    fn build_directory(
        &self,
        work: &Work,
        context: OwnedFd,
        mut request: BuildRequest,
        puller: &dyn Puller,
        say: &mut dyn FnMut(BuildEvent),
        cancel: &Cancel,
    ) -> Result<Arc<Image>, BuildError> {
        if request.squash {
            return Err(BuildError::unsupported("squash is not supported: use a multi-stage build"));
        }
        let (name, text) = read_dockerfile(&context, &request.dockerfile)?;
        let mut file = parse(&name, &text)?;
        drop_ignored(&context, &name)?;
        if !request.labels.is_empty() {
            add_labels(&mut file, &request.labels);
        }
        let target = request.platform.clone().unwrap_or_else(Platform::host);
        let args = Args::new(std::mem::take(&mut request.build_args), &target);
        let mut held = Vec::new();
        let quiet = request.quiet;
        let mut output = |event: BuildEvent| if quiet { held.push(event) } else { say(event) };
        let context = Lazy::ready(context);
        let contexts = BTreeMap::new();
        let build = Build {
            inner: &self.inner,
            request: &request,
            puller,
            say: &mut output,
            cancel,
            context: &context,
            contexts: &contexts,
            kit: None,
            work,
            args,
            platform: target,
            escape: file.directives.escape,
            finished: Vec::new(),
            kept: Vec::new(),
            step: 0,
            steps: 0,
        };
        let built = build.run(&file);
        match built {
            Ok(image) => {
                if quiet {
                    say(BuildEvent::Stream(format!("{}\n", image.id)));
                }
                Ok(image)
            }
            Err(e) => {
                held.into_iter().for_each(say);
                Err(e)
            }
        }
    }
}

/// Whether an address is one of a git repository.
#[must_use]
pub fn is_git_address(text: &str) -> bool {
    !matches!(GitAddress::parse(text), Ok(None))
}

/// Root of the files that a step copies from.
pub(crate) struct Files {
    pub(crate) fd: OwnedFd,
    /// A mounted image: its snapshot must stay as long as the mount is looked at.
    snapshot: Option<(corten_image::Snapshots, Id)>,
}

impl Files {
    fn plain(fd: OwnedFd) -> Self {
        Self { fd, snapshot: None }
    }
}

impl AsFd for Files {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let Some((snapshots, id)) = self.snapshot.take() else { return };
        if let Err(e) = snapshots.remove(id.as_str()) {
            tracing::warn!(error = %e, "could not remove a build's snapshot");
        }
    }
}

/// Directory of one build, removed with everything in it when the build ends.
pub(crate) struct Work {
    path: PathBuf,
}

impl Work {
    fn new(root: &Path) -> Result<Self, BuildError> {
        let path = root.join("work").join(Id::random().short());
        std::fs::create_dir_all(&path).at("mkdir", path.as_os_str().as_encoded_bytes())?;
        Ok(Self { path })
    }

    /// Makes and opens a directory.
    fn directory(&self, name: &str) -> Result<OwnedFd, BuildError> {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path).at("mkdir", path.as_os_str().as_encoded_bytes())?;
        let file = std::fs::File::open(&path).at("open", path.as_os_str().as_encoded_bytes())?;
        Ok(file.into())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), error = %e, "could not remove a build's directory");
        }
    }
}

/// COMPAT: `Dockerfile`, or `dockerfile` where only that exists and none was named.
fn read_dockerfile(context: &OwnedFd, asked: &str) -> Result<(String, Vec<u8>), BuildError> {
    let name = if asked.is_empty() { "Dockerfile" } else { asked };
    let path = tree::clean(name).ok_or_else(|| BuildError::OutsideContext(name.to_owned()))?;
    let mut opened = tree::open(context.as_fd(), &path, OFlags::RDONLY);
    if opened.is_err() && asked.is_empty() {
        opened = tree::open(context.as_fd(), "dockerfile", OFlags::RDONLY);
    }
    let file = std::fs::File::from(opened.map_err(|_| BuildError::NoDockerfile(name.to_owned()))?);
    let is_file = file.metadata().at("stat", name)?.is_file();
    if !is_file {
        return Err(BuildError::NoDockerfile(name.to_owned()));
    }
    let mut text = Vec::new();
    file.take(DOCKERFILE_LIMIT + 1).read_to_end(&mut text).at("read", name)?;
    Ok((name.to_owned(), text))
}

/// COMPAT: clients always send the Dockerfile and `.dockerignore`; if the latter excludes them, they must not be
/// copied.
fn drop_ignored(context: &OwnedFd, dockerfile: &str) -> Result<(), BuildError> {
    let Ok(file) = tree::open(context.as_fd(), ".dockerignore", OFlags::RDONLY) else { return Ok(()) };
    let mut text = String::new();
    if std::fs::File::from(file).take(DOCKERFILE_LIMIT).read_to_string(&mut text).is_err() {
        return Ok(());
    }
    let ignore = Ignore::parse(&text).map_err(|e| BuildError::invalid(e.to_string()))?;
    for name in [".dockerignore", dockerfile] {
        let Some(path) = tree::clean(name).filter(|p| ignore.excludes(p)) else { continue };
        let (dir, base) = path.rsplit_once('/').unwrap_or(("", &path));
        let dir = tree::open(context.as_fd(), dir, OFlags::RDONLY | OFlags::DIRECTORY).at("open", dir)?;
        rustix::fs::unlinkat(&dir, base, rustix::fs::AtFlags::empty()).at("remove", name)?;
    }
    Ok(())
}

/// `--label`: one more instruction of the last stage. The values are quoted, so that nothing in them is expanded.
fn add_labels(file: &mut Dockerfile, labels: &BTreeMap<String, String>) {
    let source: Vec<String> =
        labels.iter().map(|(k, v)| format!("{}='{v}'", crate::dockerfile::go_quote(k))).collect();
    let quote = |t: &str| format!("'{}'", t.replace('\'', "'\"'\"'"));
    let pairs = labels.iter().map(|(k, v)| (quote(k), quote(v))).collect();
    if let Some(stage) = file.stages.last_mut() {
        let (line, end) = stage.commands.last().map_or((stage.line, stage.end), |c| (c.line, c.end));
        let source = format!("LABEL {}", source.join(" "));
        stage.commands.push(Command { source, line, end, instruction: Instruction::Label(pairs) });
    }
}

/// One build under way.
struct Build<'a> {
    inner: &'a Inner,
    request: &'a BuildRequest,
    puller: &'a dyn Puller,
    say: &'a mut dyn FnMut(BuildEvent),
    cancel: &'a Cancel,
    context: &'a Lazy<'a>,
    /// `--build-context`.
    contexts: &'a BTreeMap<String, &'a kit::Named<'a>>,
    /// How a build by BuildKit's rules differs.
    kit: Option<kit::Kit<'a>>,
    work: &'a Work,
    args: Args,
    platform: Platform,
    escape: char,
    finished: Vec<Finished>,
    /// Containers of steps that are still there.
    kept: Vec<String>,
    step: usize,
    steps: usize,
}

impl Build<'_> {
    fn run(mut self, file: &Dockerfile) -> Result<Arc<Image>, BuildError> {
        let built = self.stages(file);
        // COMPAT: a container of a build that was given up goes in any case; one that failed is for looking at.
        let cancelled = built.as_ref().is_err_and(|e| e.kind() == corten_base::Kind::Cancelled);
        let remove = if built.is_ok() { self.request.rm } else { self.request.force_rm || cancelled };
        if remove {
            for id in std::mem::take(&mut self.kept) {
                self.remove_container(&id);
            }
        }
        let image = built?;
        let unused = self.args.unused().join(" ");
        if !unused.is_empty() {
            self.print(format!("[Warning] One or more build-args [{unused}] were not consumed\n"));
        }
        self.print(format!("Successfully built {}\n", image.short_id()));
        for tag in &self.request.tags {
            self.inner.images.tag(image.id.as_str(), tag)?;
            self.print(format!("Successfully tagged {}\n", tag.familiar()));
        }
        // The names are part of the image; who asked for it wants to see them.
        Ok(self.inner.images.get(&image.id).unwrap_or(image))
    }

    fn stages(&mut self, file: &Dockerfile) -> Result<Arc<Image>, BuildError> {
        let wanted = self.wanted_stages(file)?;
        self.steps = file.meta_args.len() + wanted.iter().map(|s| s.commands.len() + 1).sum::<usize>();
        for command in &file.meta_args {
            self.announce(&command.source);
            if let Instruction::Arg(args) = &command.instruction {
                self.meta_arg(args)?;
            }
        }
        let mut last = None;
        for stage in wanted {
            last = self.stage(stage)?;
        }
        last.ok_or_else(|| BuildError::invalid("No image was generated. Is your Dockerfile empty?"))
    }

    fn wanted_stages<'f>(&self, file: &'f Dockerfile) -> Result<&'f [crate::dockerfile::Stage], BuildError> {
        let mut names: Vec<&str> = Vec::new();
        for stage in &file.stages {
            if !stage.name.is_empty() && names.contains(&stage.name.as_str()) {
                return Err(BuildError::invalid(format!("{} stage name already used", stage.name)));
            }
            names.push(&stage.name);
        }
        let target = &self.request.target;
        if target.is_empty() {
            return Ok(&file.stages);
        }
        let by_name =
            file.stages.iter().position(|s| !s.name.is_empty() && s.name.eq_ignore_ascii_case(target));
        let by_number = target.parse::<usize>().ok().filter(|n| *n < file.stages.len());
        let index = by_name.or(by_number).ok_or_else(|| {
            BuildError::invalid(format!("failed to reach build target {target} in Dockerfile"))
        })?;
        Ok(&file.stages[..=index])
    }

    fn stage(&mut self, written: &crate::dockerfile::Stage) -> Result<Option<Arc<Image>>, BuildError> {
        self.announce(&written.source);
        let mut stage = self.begin(written)?;
        self.triggers(&mut stage)?;
        self.show(&stage);
        for command in &written.commands {
            if self.cancel.is_cancelled() {
                self.print("Build cancelled".to_owned());
                return Err(BuildError::Cancelled);
            }
            self.announce(&command.source);
            self.dispatch(&mut stage, command)?;
            self.show(&stage);
        }
        if let Some(image) = &stage.image {
            (self.say)(BuildEvent::Image(image.id.clone()));
        }
        self.args.end_stage();
        let image = stage.image.clone();
        self.finished.push(Finished { name: written.name.clone(), stage: Some(stage) });
        Ok(image)
    }

    /// Runs the instructions that the base image keeps for its users.
    fn triggers(&mut self, stage: &mut Stage) -> Result<(), BuildError> {
        let triggers = stage.config.on_build.take().unwrap_or_default();
        if triggers.is_empty() {
            return Ok(());
        }
        if triggers.len() > TRIGGERS {
            return Err(BuildError::invalid("the base image has too many build triggers"));
        }
        let plural = if triggers.len() > 1 { "s" } else { "" };
        self.print(format!("# Executing {} build trigger{plural}\n", triggers.len()));
        for trigger in triggers {
            let command = parse_trigger(&trigger)?;
            self.dispatch(stage, &command)?;
        }
        Ok(())
    }

    fn dispatch(&mut self, stage: &mut Stage, command: &Command) -> Result<(), BuildError> {
        match &command.instruction {
            Instruction::Run(run) => self.run_step(stage, run),
            Instruction::Copy(copy) => self.copy_step(stage, copy, "COPY"),
            Instruction::Add(copy) => self.copy_step(stage, copy, "ADD"),
            Instruction::Workdir(path) => self.workdir(stage, path),
            Instruction::Arg(args) => self.arg(stage, args),
            other => self.configure(stage, other),
        }
    }

    fn announce(&mut self, source: &str) {
        self.step += 1;
        self.print(format!("Step {}/{} : {source}\n", self.step, self.steps));
    }

    /// COMPAT: after each step the id of the image so far; an empty one for `FROM scratch`.
    fn show(&mut self, stage: &Stage) {
        let id = stage.image.as_ref().map_or("", |i| i.short_id()).to_owned();
        self.print(format!(" ---> {id}\n"));
    }

    fn print(&mut self, text: String) {
        if self.kit.is_some() {
            return;
        }
        (self.say)(BuildEvent::Stream(text));
    }
}

#[cfg(test)]
mod tests;
