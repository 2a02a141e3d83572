//! Garbage collection: removes content that no manifest of any repository needs.
//!
//! A blob younger than the grace period stays, because its manifest may be on its way; so the server may run
//! meanwhile.

use std::collections::HashSet;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, SystemTime};

use corten_base::Digest;
use corten_wire::distribution::{MANIFEST_LIMIT, ManifestOutline};

use super::storage::{Blobs, FileBlobs, Store};

/// How to collect.
#[derive(Debug, Clone)]
pub struct GcOptions {
    /// Manifests that no tag leads to go too.
    pub delete_untagged: bool,
    /// Only say what would go.
    pub dry_run: bool,
    /// Content and uploads younger than this stay.
    pub grace: Duration,
}

/// What was (or would be) removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Blobs.
    pub blobs: Vec<Digest>,
    /// Manifests taken out of their repositories, as `name@digest`.
    pub manifests: Vec<String>,
    /// Their bytes.
    pub bytes: u64,
}

/// Collects the garbage below `root`. Blocks.
///
/// # Errors
/// The disk's; what was removed until then stays removed.
pub fn collect_garbage(root: &Path, options: &GcOptions) -> io::Result<GcReport> {
    let store = Store::open(FileBlobs::open(root)?);
    let blobs = FileBlobs::open(root)?;
    let mut report = GcReport::default();
    let mut needed = HashSet::new();
    for name in store.repositories()? {
        let all = store.manifests(&name)?;
        let kept =
            if options.delete_untagged { reachable(&store, &name)? } else { all.iter().cloned().collect() };
        for digest in all {
            let outline = read(&blobs, &digest)?;
            if !kept.contains(&digest) {
                report.manifests.push(format!("{name}@{digest}"));
                if !options.dry_run {
                    let subject = outline.subject.as_ref().and_then(|s| s.digest.parse().ok());
                    store.remove_manifest(&name, &digest, subject.as_ref())?;
                }
                continue;
            }
            let targets = outline.config.iter().chain(outline.layers.iter().flatten());
            needed.extend(targets.filter_map(|t| t.digest.parse::<Digest>().ok()));
            needed.insert(digest);
        }
    }
    for (digest, path) in blobs.all()? {
        let meta = std::fs::metadata(&path)?;
        if needed.contains(&digest) || is_young(&meta, options.grace) {
            continue;
        }
        report.bytes += meta.len();
        if !options.dry_run {
            for name in store.repositories()? {
                store.unlink_blob(&name, &digest)?;
            }
            blobs.remove(&digest)?;
        }
        report.blobs.push(digest);
    }
    if !options.dry_run {
        drop_old_uploads(root, options.grace)?;
    }
    Ok(report)
}

fn is_young(meta: &std::fs::Metadata, grace: Duration) -> bool {
    let age = meta.modified().ok().and_then(|m| SystemTime::now().duration_since(m).ok());
    age.is_none_or(|age| age < grace)
}

/// Manifests that a tag leads to: directly, through an index, or as referrers of such.
fn reachable(store: &Store, name: &str) -> io::Result<HashSet<Digest>> {
    let mut seen = HashSet::new();
    let mut next: Vec<Digest> = Vec::new();
    for tag in store.tags(name)? {
        next.extend(store.tag(name, &tag)?);
    }
    while let Some(digest) = next.pop() {
        if store.manifest_type(name, &digest)?.is_none() || !seen.insert(digest.clone()) {
            continue;
        }
        let outline = read(store.blobs.as_ref(), &digest)?;
        next.extend(outline.manifests.iter().flatten().filter_map(|t| t.digest.parse::<Digest>().ok()));
        next.extend(store.referrers(name, &digest)?);
    }
    Ok(seen)
}

fn read(blobs: &dyn Blobs, digest: &Digest) -> io::Result<ManifestOutline> {
    let mut bytes = Vec::new();
    if let Some(file) = super::storage::found(blobs.open(digest))? {
        file.take(MANIFEST_LIMIT as u64).read_to_end(&mut bytes)?;
    }
    Ok(serde_json::from_slice(&bytes).unwrap_or_default())
}

fn drop_old_uploads(root: &Path, grace: Duration) -> io::Result<()> {
    for entry in std::fs::read_dir(root.join("uploads"))? {
        let entry = entry?;
        if !is_young(&entry.metadata()?, grace) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
