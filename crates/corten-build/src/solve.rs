//! What is asked of the builder by a BuildKit client, what it asks of that client, and what it says while it works.
//!
//! The differences to the classic `POST /build`: only the stages that the target needs are built, side by side; the
//! client is asked for the files that are needed; a step is known by what goes into it, not by the image before it;
//! nothing but the result becomes an image that anybody sees.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};

use corten_base::{Cancel, Digest, Platform};
use corten_image::Layer;
use corten_wire::oci_image::{ContainerConfig, History};

use crate::builder::{CacheStep, ImportedCache};
use crate::error::BuildError;
use crate::request::StepLimits;
use crate::step::{StepError, StepStream};

/// A build with the builtin Dockerfile front end.
#[derive(Debug, Clone, Default)]
pub struct SolveRequest {
    /// Where the main context is.
    pub context: ContextSource,
    /// Directory within the main context that is the context; empty for all of it.
    pub subdirectory: String,
    /// Name under which the client has the Dockerfile's directory; `None` where it is in the main context.
    pub dockerfile_directory: Option<String>,
    /// Path of the Dockerfile in its directory.
    pub filename: String,
    /// `--build-context`: further contexts by name.
    pub contexts: BTreeMap<String, ContextSource>,
    /// `--target`; empty for the last stage.
    pub target: String,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--platform`; empty for the host's.
    pub platforms: Vec<Platform>,
    /// `--no-cache`: nothing, all stages (empty list), or these.
    pub no_cache: Option<Vec<String>>,
    /// `--pull`.
    pub pull: bool,
    /// `--network`: empty, `none` or `host`.
    pub network: String,
    /// `--add-host`, as `name:address`.
    pub extra_hosts: Vec<String>,
    /// Limits of the steps.
    pub limits: StepLimits,
    /// Prefix of the ids of cache mounts.
    pub cache_namespace: String,
    /// `SOURCE_DATE_EPOCH`: creation time of everything, seconds.
    pub epoch: Option<i64>,
    /// `--cache-from`: steps of builds elsewhere.
    pub caches: Vec<std::sync::Arc<ImportedCache>>,
}

/// Where the files of a context come from.
#[derive(Debug, Clone, Default)]
pub enum ContextSource {
    /// The client's directory of this name.
    Local(String),
    /// Nothing is there.
    #[default]
    Empty,
    /// `http`, `https`: an archive, or a Dockerfile.
    Url(String),
    /// A git repository, by its address.
    Git(String),
    /// A tar that the client sends when it is asked for this address.
    Upload(String),
    /// An image.
    Image(String),
    /// What another build of the same client made.
    Result(Box<Solved>),
}

/// The client of a build. All functions block.
pub trait BuildClient: Send + Sync {
    /// Brings files of one of the client's directories.
    ///
    /// # Errors
    /// The client has no such directory, or went away.
    fn files(
        &self,
        wanted: &FilesWanted<'_>,
        sink: &mut dyn FileSink,
        cancel: &Cancel,
    ) -> Result<(), BuildError>;

    /// A name for what a directory of the client is, the same in its next build; empty where it has none.
    fn shared_key(&self, directory: &str) -> String;

    /// Writes the tar of [`ContextSource::Upload`].
    ///
    /// # Errors
    /// The client has none, or went away.
    fn upload(&self, url: &str, out: &mut dyn std::io::Write, cancel: &Cancel) -> Result<(), BuildError>;

    /// A secret; `None` where the client has none of this name.
    ///
    /// # Errors
    /// The client went away.
    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, StepError>;

    /// Lets what connects to `listener` talk to the client's ssh agent, until the answer is dropped. `None` where the
    /// client forwards no agent of this name.
    ///
    /// # Errors
    /// The client went away.
    fn ssh(
        &self,
        id: &str,
        listener: std::os::unix::net::UnixListener,
    ) -> Result<Option<Box<dyn Send>>, StepError>;
}

/// Files of the client.
#[derive(Debug, Clone, Default)]
pub struct FilesWanted<'a> {
    /// Name of the directory.
    pub directory: &'a str,
    /// Patterns of `.dockerignore`.
    pub exclude: &'a [String],
    /// Only these paths, and what links on the way to them lead to; empty for all.
    pub follow: &'a [String],
}

/// One file as the client describes it. Nothing in it has been checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileStat {
    /// Relative, with slashes.
    pub path: String,
    /// Permissions and type as in `st_mode`.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since the epoch.
    pub modified_ns: i64,
    /// Of a link: where it leads; of a further name of a file: the first one.
    pub link: String,
    /// Device number.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// Takes the files that a client sends.
pub trait FileSink: Send {
    /// The next file; whether its content is wanted. Parents come before what is in them.
    ///
    /// # Errors
    /// The path climbs out, or the disk.
    fn stat(&mut self, stat: FileStat) -> Result<bool, BuildError>;

    /// A piece of the content of the `number`th file; an empty one ends it.
    ///
    /// # Errors
    /// The disk, or content that nobody asked for.
    fn data(&mut self, number: u32, bytes: &[u8]) -> Result<(), BuildError>;
}

/// What the builder says, in order for each vertex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SolveEvent {
    /// Which step.
    pub vertex: Digest,
    /// What happened to it.
    pub what: SolveEventKind,
}

/// See [`SolveEvent`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SolveEventKind {
    /// It began; what it needs were these.
    Started {
        /// As shown.
        name: String,
        /// Steps before it.
        inputs: Vec<Digest>,
    },
    /// Its result was known.
    Cached,
    /// Output of its process.
    Output(StepStream, Vec<u8>),
    /// How far a transfer is; `total` is 0 where that is unknown.
    Progress {
        /// What is transferred.
        id: String,
        /// Bytes so far.
        current: u64,
        /// Bytes in all.
        total: u64,
        /// Whether that is all.
        done: bool,
    },
    /// Something that deserves a look.
    Warning(Warning),
    /// It ended; the text is empty where it succeeded.
    Done(String),
}

/// A finding of the checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Name of the rule.
    pub rule: &'static str,
    /// What the rule is about.
    pub description: &'static str,
    /// Where it is explained.
    pub url: String,
    /// What is wrong here.
    pub detail: String,
    /// First and last line.
    pub lines: (usize, usize),
    /// The file.
    pub source: std::sync::Arc<SourceFile>,
}

/// What the checks found in a Dockerfile.
#[derive(Debug, Clone)]
pub struct Checked {
    /// In the order of their lines.
    pub warnings: Vec<Warning>,
    /// The file.
    pub source: std::sync::Arc<SourceFile>,
}

/// Text that errors and warnings point into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Path.
    pub name: String,
    /// Content.
    pub text: Vec<u8>,
}

/// What a build made.
#[derive(Debug, Clone)]
pub struct Solved {
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
    /// Its configuration.
    pub config: ContainerConfig,
    /// Its history, complete.
    pub history: Vec<History>,
    /// `MAINTAINER`.
    pub author: String,
    /// Its platform.
    pub platform: Platform,
    /// When it was made, as in RFC 3339.
    pub created: String,
    /// Steps that made it, for caches elsewhere.
    pub steps: Vec<CacheStep>,
    /// How many of the layers are those of the image that it stands on.
    pub base_layers: usize,
    /// What the build as a whole was.
    pub build: std::sync::Arc<Built>,
}

/// What is known of a build when it is done: what it stood on, and all of its steps.
#[derive(Debug, Default)]
pub struct Built {
    /// The Dockerfile.
    pub source: Option<std::sync::Arc<SourceFile>>,
    /// Steps of all stages and platforms.
    pub steps: Vec<CacheStep>,
    /// What came from elsewhere.
    pub materials: Materials,
    /// `SOURCE_DATE_EPOCH`.
    pub epoch: Option<i64>,
}

/// What a build takes from elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Materials {
    /// Images by name and platform: what was found under that name.
    pub images: BTreeMap<(String, String), Digest>,
    /// Addresses: the content that came.
    pub downloads: BTreeMap<String, Digest>,
    /// Repositories: the commit that was checked out.
    pub repositories: BTreeMap<String, String>,
    /// The client's directories.
    pub directories: std::collections::BTreeSet<String>,
    /// Secrets by id, and whether the build goes on without.
    pub secrets: BTreeMap<String, bool>,
    /// Agents by id, and whether the build goes on without.
    pub agents: BTreeMap<String, bool>,
    /// A command could reach the network.
    pub network: bool,
}

/// A build failed.
#[derive(Debug)]
pub struct SolveError {
    /// Why.
    pub error: Box<BuildError>,
    /// Where in the Dockerfile.
    pub place: Option<(std::sync::Arc<SourceFile>, (usize, usize))>,
    /// Which step.
    pub vertex: Option<Digest>,
}

impl From<BuildError> for SolveError {
    fn from(error: BuildError) -> Self {
        Self { error: Box::new(error), place: None, vertex: None }
    }
}

impl SolveError {
    /// The error and its causes, as BuildKit would say it.
    #[must_use]
    pub fn text(&self) -> String {
        crate::builder::explain(&self.error)
    }
}

/// Where the files of a result are; they may be read as long as this lives.
pub struct SolvedFiles(pub(crate) crate::builder::Files);

impl SolvedFiles {
    /// The root directory.
    #[must_use]
    pub fn root(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.0)
    }
}

impl std::fmt::Debug for SolvedFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SolvedFiles")
    }
}

/// Files of a context, brought when they are first asked for.
pub(crate) struct Lazy<'a> {
    cell: std::sync::OnceLock<Option<OwnedFd>>,
    load: Box<dyn Fn() -> Result<OwnedFd, BuildError> + Send + Sync + 'a>,
    failed: std::sync::Mutex<Option<BuildError>>,
}

impl<'a> Lazy<'a> {
    pub(crate) fn new(load: impl Fn() -> Result<OwnedFd, BuildError> + Send + Sync + 'a) -> Self {
        Self { cell: Default::default(), load: Box::new(load), failed: Default::default() }
    }

    pub(crate) fn ready(fd: OwnedFd) -> Self {
        let this = Self::new(|| Err(BuildError::Cancelled));
        this.cell.set(Some(fd)).ok();
        this
    }

    /// The directory. Who comes second waits for the first; only one of them gets the error, for the others the build
    /// is over.
    pub(crate) fn fd(&self) -> Result<BorrowedFd<'_>, BuildError> {
        let loaded = self.cell.get_or_init(|| match (self.load)() {
            Ok(fd) => Some(fd),
            Err(e) => {
                *self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(e);
                None
            }
        });
        match loaded {
            Some(fd) => Ok(std::os::fd::AsFd::as_fd(fd)),
            None => Err(self
                .failed
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .take()
                .unwrap_or(BuildError::Cancelled)),
        }
    }
}
