//! The builder: the Dockerfile language and what makes an image of it, step by step.
//!
//! ```text
//!   context tar ─▶ Context (directory)            Dockerfile ─▶ dockerfile::parse ─▶ Stage*, Instruction*
//!                        └────────────┬──────────────────────────────┘
//!                               Builder::build           (one blocking thread per build)
//!     RUN ─▶ StepRunner (an engine container) ─▶ images.take_layer ─┐
//!     COPY, ADD, WORKDIR ─▶ files beneath the fd of a snapshot ─────┼─▶ images.create_image ─▶ next step
//!     everything else ─▶ configuration only ────────────────────────┘
//! ```
//! Every step is an image of its own, as with Docker's classic builder; the build cache maps (image before,
//! instruction, content) to it in tables that only we write, so that no pulled image can claim to be a cached
//! step (CVE-2024-24557). Everything here blocks; nothing here is async.

mod args;
mod builder;
mod config;
pub mod dockerfile;
mod error;
mod request;
mod solve;
mod step;

pub use builder::{
    Builder, CacheEntry, CachePrune, CacheStep, Described, INLINE_CACHE, ImageOptions, ImportedCache,
    LayerForm, LayerSource, Parameter, RemoteCache, Target, is_git_address, without_secrets,
};
pub use config::apply_changes;
pub use error::BuildError;
pub use request::{BuildEvent, BuildRequest, StepLimits};
pub use solve::{
    BuildClient, Built, Checked, ContextSource, FileSink, FileStat, FilesWanted, Materials, SolveError,
    SolveEvent, SolveEventKind, SolveRequest, Solved, SolvedFiles, SourceFile, Warning,
};
pub use step::{Puller, StepError, StepMount, StepRunner, StepSpec, StepStream};
