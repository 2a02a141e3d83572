//! What the builder needs from above: containers for `RUN`, and images from registries.

use std::path::PathBuf;
use std::sync::Arc;

use corten_base::{Cancel, Kind, Platform, Reference};
use corten_image::{Image, Progress};
use corten_wire::oci_image::ContainerConfig;

use crate::StepLimits;

/// Runs `RUN` steps; `corten` implements it with engine containers.
///
/// One step is exactly:
/// ```text
///   id = create(spec)        a stopped container on spec.image; its writable layer is snapshot `id`
///   run(id, output, cancel)  starts it, passes on its output until the end, returns the exit code; when it
///                            returns, nothing of the container runs and its root is unmounted
///   images.take_layer(id)    by the builder: the writable layer becomes a layer of the image (success only)
///   remove(id)               by the builder, unless `--rm=false`: the container goes; that its writable
///                            layer is gone already is no error
/// ```
/// All three block. `run` returns soon after `cancel` was set (it kills the container), with
/// [`StepError::Cancelled`].
pub trait StepRunner: Send + Sync {
    /// Makes the container of a step; returns its full id.
    ///
    /// # Errors
    /// What the engine says to `create`.
    fn create(&self, spec: &StepSpec) -> Result<String, StepError>;

    /// Starts the container, waits for its end and returns the exit code.
    ///
    /// # Errors
    /// The container could not be started, or `cancel` was set.
    fn run(
        &self,
        id: &str,
        output: &mut dyn FnMut(StepStream, &[u8]),
        cancel: &Cancel,
    ) -> Result<i64, StepError>;

    /// Removes the container by force.
    ///
    /// # Errors
    /// What the engine says; the builder logs it.
    fn remove(&self, id: &str) -> Result<(), StepError>;
}

/// Brings base images that are not here.
pub trait Puller: Send + Sync {
    /// Pulls, with the credentials of the build's request.
    ///
    /// # Errors
    /// The text and kind that `docker pull` would show.
    fn pull(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Arc<Image>, StepError>;
}

/// Which output of a step's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Everything about the container of one step.
#[derive(Debug, Clone)]
pub struct StepSpec {
    /// The image of the step before; the container's root. Its own `Cmd`, `Entrypoint` and `Healthcheck` do not
    /// apply: `config` is complete.
    pub image: Arc<Image>,
    /// `cmd` is the whole command line, `entrypoint` is empty; `env` has the build arguments; user, working
    /// directory, labels and volumes are as the image has them.
    pub config: ContainerConfig,
    /// Network mode as at `POST /build`: empty or `default`, `none`, `host`, `container:x`, or a name.
    pub network: String,
    /// `name:address` lines of `/etc/hosts`.
    pub extra_hosts: Vec<String>,
    /// Limits.
    pub limits: StepLimits,
    /// Mounts of `RUN --mount`.
    pub mounts: Vec<StepMount>,
}

/// One mount of a step. Targets are absolute and clean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepMount {
    /// A host path, prepared by the builder under its own directory; never one that the Dockerfile names.
    Bind {
        /// Where it is.
        source: PathBuf,
        /// Where it appears.
        target: String,
        /// Not writable.
        read_only: bool,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Where it appears.
        target: String,
        /// Bytes; `None` for the kernel's default.
        size: Option<u64>,
    },
}

impl StepMount {
    /// Where it appears.
    #[must_use]
    pub fn target(&self) -> &str {
        match self {
            Self::Bind { target, .. } | Self::Tmpfs { target, .. } => target,
        }
    }
}

/// A step could not be run, or an image not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// `cancel` was set.
    #[error("context canceled")]
    Cancelled,
    /// What the engine or the registry said, in Docker's words.
    #[error("{message}")]
    Failed {
        /// Its kind.
        kind: Kind,
        /// The whole chain as one text.
        message: String,
    },
}

impl StepError {
    /// What sort of failure this is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Cancelled => Kind::Cancelled,
            Self::Failed { kind, .. } => *kind,
        }
    }
}
