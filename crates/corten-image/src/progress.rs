//! Progress of long operations as typed events. Only the API renders them as Docker's JSON messages.

use std::fmt;
use std::sync::Arc;

use corten_base::Digest;

/// One step of a pull, push, load or import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgressEvent {
    /// A line without a subject: `{"status": text}`.
    Message(String),
    /// A line about a subject (`{"status": text, "id": id}`), e.g. `Pulling from library/x` with the tag as id.
    Subject {
        /// Tag or short id.
        id: String,
        /// The text.
        text: String,
    },
    /// A layer moved on: `{"status": phase, "id": id, "progressDetail": {…}}`.
    Layer {
        /// First 12 digits of the layer's digest.
        id: String,
        /// Where it is.
        phase: LayerPhase,
        /// Bytes done and total, where the phase counts bytes.
        bytes: Option<(u64, u64)>,
    },
    /// Output of a load: `{"stream": text}`.
    Stream(String),
    /// A tag was pushed: the `aux` object, after a message `tag: digest: … size: …`.
    Pushed {
        /// The tag (or digest).
        tag: String,
        /// Digest of the manifest.
        digest: Digest,
        /// Its size.
        size: u64,
    },
}

/// Where a layer is. `Display` is Docker's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerPhase {
    /// Known, not begun.
    PullingFsLayer,
    /// Waits for a free slot.
    Waiting,
    /// Bytes arrive.
    Downloading,
    /// All bytes are here; the digest is checked.
    VerifyingChecksum,
    /// Verified.
    DownloadComplete,
    /// Being unpacked.
    Extracting,
    /// Done.
    PullComplete,
    /// Nothing to do.
    AlreadyExists,
    /// Push: known, not begun.
    Preparing,
    /// Push: bytes go out.
    Pushing,
    /// Push: done.
    Pushed,
    /// Push: the registry has it.
    LayerAlreadyExists,
    /// Push: the registry took it from another repository.
    MountedFrom(String),
    /// Load: bytes come in.
    LoadingLayer,
}

impl fmt::Display for LayerPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PullingFsLayer => "Pulling fs layer",
            Self::Waiting => "Waiting",
            Self::Downloading => "Downloading",
            Self::VerifyingChecksum => "Verifying Checksum",
            Self::DownloadComplete => "Download complete",
            Self::Extracting => "Extracting",
            Self::PullComplete => "Pull complete",
            Self::AlreadyExists => "Already exists",
            Self::Preparing => "Preparing",
            Self::Pushing => "Pushing",
            Self::Pushed => "Pushed",
            Self::LayerAlreadyExists => "Layer already exists",
            Self::MountedFrom(from) => return write!(f, "Mounted from {from}"),
            Self::LoadingLayer => "Loading layer",
        })
    }
}

/// Where progress goes. Called from any thread; must not block.
#[derive(Clone)]
pub struct Progress {
    sink: Option<Arc<dyn Fn(ProgressEvent) + Send + Sync>>,
}

impl Progress {
    /// Sends every event to `sink`.
    #[must_use]
    pub fn new(sink: impl Fn(ProgressEvent) + Send + Sync + 'static) -> Self {
        Self { sink: Some(Arc::new(sink)) }
    }

    /// Nobody listens.
    #[must_use]
    pub fn none() -> Self {
        Self { sink: None }
    }

    /// Sends one event.
    pub fn send(&self, event: ProgressEvent) {
        if let Some(sink) = &self.sink {
            sink(event);
        }
    }

    pub(crate) fn message(&self, text: impl Into<String>) {
        self.send(ProgressEvent::Message(text.into()));
    }

    pub(crate) fn layer(&self, id: &str, phase: LayerPhase, bytes: Option<(u64, u64)>) {
        self.send(ProgressEvent::Layer { id: id.to_owned(), phase, bytes });
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}
