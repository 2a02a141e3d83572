//! The build cache: which image a step made of the image before it.
//!
//! ```text
//!   build_cache   key → CacheRecord      key = SHA-256 of (image before, history text, configuration after,
//!                                              content and options that the text does not show)
//! ```
//! Only steps that ran here are recorded, so an image from elsewhere that claims to be the result of some
//! instruction is never believed (CVE-2024-24557). A record whose image is gone is no hit.

use std::sync::Arc;

use corten_base::db::{Commit, DbError, Table};
use corten_base::{Digest, time};
use corten_image::Image;
use serde::{Deserialize, Serialize};

use super::stage::Stage;
use super::{Build, Builder};
use crate::error::{At, BuildError};

const CACHE: Table<CacheRecord> = Table::new("build_cache");
/// Records beyond this many are forgotten, the oldest first.
const RECORDS: usize = 50_000;

/// One step that ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CacheRecord {
    image: Digest,
    created_ns: i64,
}

impl Build<'_> {
    /// Identity of a step. `hidden` is what matters and is not in the text or configuration.
    pub(crate) fn key(&self, stage: &Stage, created_by: &str, hidden: &str) -> String {
        let before =
            stage.image.as_ref().map_or_else(|| format!("scratch {}", stage.platform), |i| i.id.to_string());
        let config = serde_json::to_value(&stage.config).unwrap_or_default();
        let parts = serde_json::json!([before, created_by, config, stage.author, hidden]);
        Digest::of(parts.to_string().as_bytes()).hex().to_owned()
    }

    /// Looks a step up; on a hit the stage moves on to its image.
    pub(crate) fn probe(&mut self, stage: &mut Stage, key: &str) -> Result<bool, BuildError> {
        if self.request.no_cache {
            return Ok(false);
        }
        let record = self.inner.db.get(CACHE, key)?;
        let Some(image) = record.and_then(|r| self.inner.images.get(&r.image)) else { return Ok(false) };
        if !self.among_sources(&image) {
            return Ok(false);
        }
        self.print(" ---> Using cache\n".to_owned());
        stage.image = Some(image);
        Ok(true)
    }

    /// Whether `--cache-from` admits this image: there is none, or an image it names begins with the same steps. An
    /// image that is not here admits nothing.
    fn among_sources(&self, image: &Image) -> bool {
        let names = &self.request.cache_from;
        let begins = |source: &Image| {
            source.config.history.starts_with(&image.config.history)
                && source.config.rootfs.diff_ids.starts_with(&image.config.rootfs.diff_ids)
        };
        names.is_empty()
            || names.iter().any(|n| self.inner.images.resolve(n).is_ok_and(|source| begins(&source)))
    }

    pub(crate) fn remember(&self, key: &str, image: &Arc<Image>) -> Result<(), BuildError> {
        let created_ns = i64::try_from(time::now_ns()).unwrap_or(i64::MAX);
        let record = CacheRecord { image: image.id.clone(), created_ns };
        Ok(self.inner.db.write::<_, DbError>(Commit::Lazy, |w| w.put(CACHE, key, &record))?)
    }
}

impl Builder {
    /// Forgets all cached steps and empties the cache mounts that no build uses; returns the bytes freed. The
    /// images of steps are images: `docker image prune` removes those.
    ///
    /// # Errors
    /// The database or the directory.
    pub fn prune(&self) -> Result<u64, BuildError> {
        let inner = &self.inner;
        inner.db.write::<_, DbError>(Commit::Lazy, |w| {
            for (key, _) in w.all(CACHE)? {
                w.remove(CACHE, &key)?;
            }
            Ok(())
        })?;
        let mut freed = 0;
        let busy = inner.busy.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let root = inner.root.join("cache");
        for entry in std::fs::read_dir(&root).at("list", "cache")? {
            let entry = entry.at("list", "cache")?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if busy.contains_key(&name) {
                continue;
            }
            freed += size_below(&entry.path());
            std::fs::remove_dir_all(entry.path()).at("remove", &name)?;
        }
        Ok(freed)
    }

    /// Drops records whose image is gone, and the oldest beyond a limit; for the daemon's start.
    ///
    /// # Errors
    /// The database.
    pub fn sweep(&self) -> Result<(), BuildError> {
        let inner = &self.inner;
        Ok(inner.db.write::<_, DbError>(Commit::Lazy, |w| {
            let mut all = w.all(CACHE)?;
            all.sort_by_key(|(_, r)| std::cmp::Reverse(r.created_ns));
            for (i, (key, record)) in all.iter().enumerate() {
                if i >= RECORDS || inner.images.get(&record.image).is_none() {
                    w.remove(CACHE, key)?;
                }
            }
            Ok(())
        })?)
    }
}

/// Bytes of the files below a directory; links are not followed.
fn size_below(path: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    entries
        .filter_map(Result::ok)
        .map(|e| match e.metadata() {
            Ok(m) if m.is_dir() => size_below(&e.path()),
            Ok(m) => m.len(),
            Err(_) => 0,
        })
        .sum()
}
