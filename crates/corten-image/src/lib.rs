//! Images: content store, snapshots, names, pull, push, load, save, import, commit, and archives of paths.
//!
//! ```text
//!   pull ─┐                                   ┌─ push, save
//!   load ─┼─▶ content (blobs/sha256/<hex>) ───┤
//!  import ┤        │ unpack, side by side      └─ list, inspect, history
//!  commit ┘        ▼
//!            snapshot (snapshots/layers/<diff id>/fs, snapshots/rw/<id>/{fs,work})
//! ```
//! The id of an image is the digest of its manifest or index. Everything is sync but `pull` and `push`; call the
//! sync functions from a blocking thread where they may take long (load, save, import, commit, remove, prune).
//! Long operations take a [`corten_base::Cancel`] and report typed [`ProgressEvent`]s.

pub mod archive;
mod beneath;
mod compress;
mod content;
mod error;
mod image;
mod images;
mod progress;
pub mod snapshot;
pub mod tar;

pub use error::ImageError;
pub use image::{
    CommitRequest, DiskUsage, HistoryItem, Image, ImageUsage, ImportRequest, Layer, LayerCompression,
    NewArtifact, NewImage, NewIndex, NewManifest, NewStatement, Pruned, RemoveOptions, Removed, Statements,
    Summary,
};
pub use images::{Filters, Images, ManifestEntry, ManifestKind, Statement};
pub use progress::{LayerPhase, Progress, ProgressEvent};
pub use snapshot::{Change, ChangeKind, Overlay, Snapshots};
