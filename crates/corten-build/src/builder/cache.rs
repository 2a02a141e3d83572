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

use super::kit::KEPT;
use super::stage::Stage;
use super::{Build, Builder};
use crate::error::{At, BuildError};

pub(crate) const CACHE: Table<CacheRecord> = Table::new("build_cache");
/// Records beyond this many are forgotten, the oldest first.
const RECORDS: usize = 50_000;

/// One step that ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CacheRecord {
    /// The image that the step made; by BuildKit's rules one that only the cache holds.
    pub(crate) image: Digest,
    pub(crate) created_ns: i64,
    /// By BuildKit's rules: whether the last layer of the image is the step's.
    #[serde(default)]
    pub(crate) layer: bool,
    /// What the step was, for lists.
    #[serde(default)]
    pub(crate) step: String,
    /// When it was used last, and how often.
    #[serde(default)]
    pub(crate) used_ns: i64,
    #[serde(default)]
    pub(crate) uses: u64,
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
        let record = CacheRecord {
            image: image.id.clone(),
            created_ns,
            layer: false,
            step: String::new(),
            used_ns: created_ns,
            uses: 1,
        };
        Ok(self.inner.db.write::<_, DbError>(Commit::Lazy, |w| w.put(CACHE, key, &record))?)
    }
}

/// A line of the cache's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    /// Its name.
    pub id: String,
    /// `regular`, `exec.cachemount` or `source.local`.
    pub kind: &'static str,
    /// What made it.
    pub description: String,
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since the epoch.
    pub created_ns: i64,
    /// Nanoseconds since the epoch.
    pub used_ns: i64,
    /// How often.
    pub uses: u64,
    /// A build is using it.
    pub in_use: bool,
    /// An image has it, too: that it goes frees nothing.
    pub shared: bool,
    /// It changes when it is used.
    pub mutable: bool,
}

/// What may stay when the cache is emptied.
#[derive(Debug, Clone, Copy, Default)]
pub struct CachePrune {
    /// Entries that were used in the last nanoseconds.
    pub keep_ns: i64,
    /// So many bytes in any case; 0 for none.
    pub reserved: u64,
    /// All of it as long as it has no more bytes; 0 for no such limit.
    pub max_used: u64,
    /// What is not needed for so many bytes of the disk to be free; 0 for no such wish.
    pub min_free: u64,
}

impl CachePrune {
    /// Whether nothing is to stay.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        self.keep_ns == 0 && self.may_stay(0, 0).is_none()
    }

    /// How many of `total` bytes may stay on a disk with `free` bytes left; `None` where nothing was said.
    fn may_stay(&self, total: u64, free: u64) -> Option<u64> {
        if (self.reserved, self.max_used, self.min_free) == (0, 0, 0) {
            return None;
        }
        let limit = match self.max_used {
            // Only a reserve was given: all beyond it goes.
            0 if self.min_free == 0 => 0,
            0 => u64::MAX,
            limit => limit,
        };
        let missing = self.min_free.saturating_sub(free);
        let limit = if missing > 0 { limit.min(total.saturating_sub(missing)) } else { limit };
        Some(limit.max(self.reserved))
    }
}

impl Builder {
    /// The cache: steps that made a layer by BuildKit's rules, and cache mounts. Oldest use first.
    ///
    /// # Errors
    /// The database or the directory.
    pub fn cache_entries(&self) -> Result<Vec<CacheEntry>, BuildError> {
        let inner = &self.inner;
        let mut entries = Vec::new();
        for (id, record) in inner.db.all(CACHE)? {
            // The classic builder's steps are images, and counted as such.
            let Some(image) = inner.images.get(&record.image).filter(|_| !record.step.is_empty()) else {
                continue;
            };
            let layer = image.layers().pop().filter(|_| record.layer);
            let size = layer
                .as_ref()
                .map_or(0, |l| l.blob.size + image.layer_sizes.last().copied().flatten().unwrap_or(0));
            entries.push(CacheEntry {
                id: id[..id.len().min(25)].to_owned(),
                kind: "regular",
                description: record.step,
                size,
                created_ns: record.created_ns,
                used_ns: record.used_ns.max(record.created_ns),
                uses: record.uses,
                in_use: false,
                shared: layer.is_some_and(|l| inner.images.is_in_an_image(&l.diff_id)),
                mutable: false,
            });
        }
        entries.extend(self.cache_mounts()?);
        entries.sort_by_key(|e| e.used_ns);
        Ok(entries)
    }

    fn cache_mounts(&self) -> Result<Vec<CacheEntry>, BuildError> {
        let inner = &self.inner;
        let busy = inner.busy.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(inner.root.join("cache")).at("list", "cache")? {
            let entry = entry.at("list", "cache")?;
            let id = entry.file_name().to_string_lossy().into_owned();
            let metadata = entry.metadata().at("stat", &id)?;
            let time = |t: std::io::Result<std::time::SystemTime>| {
                let since = t.ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
                since.and_then(|d| i64::try_from(d.as_nanos()).ok()).unwrap_or_default()
            };
            let (kind, description) = match id.starts_with(KEPT) {
                true => ("source.local", "local source for context"),
                false => ("exec.cachemount", "cached mount of RUN --mount=type=cache"),
            };
            entries.push(CacheEntry {
                kind,
                description: description.to_owned(),
                size: size_below(&entry.path()),
                created_ns: time(metadata.created()),
                used_ns: time(metadata.modified()),
                uses: 1,
                in_use: busy.contains_key(&id),
                shared: false,
                mutable: true,
                id,
            });
        }
        Ok(entries)
    }

    /// Removes entries that `admitted` fits, as far as `options` does not keep them; answers with those that went.
    ///
    /// # Errors
    /// The database or the directory.
    pub fn prune_cache(
        &self,
        options: &CachePrune,
        admitted: &dyn Fn(&CacheEntry) -> bool,
    ) -> Result<Vec<CacheEntry>, BuildError> {
        let inner = &self.inner;
        let all = self.cache_entries()?;
        let mut left: u64 = all.iter().map(|e| e.size).sum();
        let now = i64::try_from(time::now_ns()).unwrap_or(i64::MAX);
        let disk = rustix::fs::statvfs(&inner.root).map_err(std::io::Error::from).at("stat", "the disk")?;
        let limit = options.may_stay(left, disk.f_bavail.saturating_mul(disk.f_frsize));
        let mut gone = Vec::new();
        for entry in all {
            let young = options.keep_ns > 0 && entry.used_ns > now.saturating_sub(options.keep_ns);
            let within = limit.is_some_and(|limit| left <= limit);
            if entry.in_use || young || within || !admitted(&entry) {
                continue;
            }
            left = left.saturating_sub(entry.size);
            gone.push(entry);
        }
        let (mounts, steps): (Vec<&CacheEntry>, Vec<&CacheEntry>) = gone.iter().partition(|e| e.mutable);
        let forgotten = inner.db.write::<_, DbError>(Commit::Lazy, |w| {
            let (mut images, mut kept) = (Vec::new(), std::collections::BTreeSet::new());
            for (key, record) in w.all(CACHE)? {
                if steps.iter().any(|e| key.starts_with(&e.id)) {
                    w.remove(CACHE, &key)?;
                    images.push(record.image);
                } else {
                    kept.insert(record.image);
                }
            }
            images.retain(|i| !kept.contains(i));
            Ok(images)
        })?;
        inner.images.drop_cached(&forgotten)?;
        let busy = inner.busy.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for mount in mounts.iter().filter(|m| !busy.contains_key(&m.id)) {
            std::fs::remove_dir_all(inner.root.join("cache").join(&mount.id)).at("remove", &mount.id)?;
        }
        drop(busy);
        Ok(gone)
    }

    /// Lets go of what is old, and of the oldest where it is too much, at most once an hour: files of clients and
    /// cache mounts after two days beyond half a gigabyte, steps after sixty days, and all beyond a tenth of the disk.
    ///
    /// # Errors
    /// As [`Builder::prune_cache`].
    pub fn collect_cache(&self) -> Result<(), BuildError> {
        const HOUR: i64 = 3_600_000_000_000;
        let inner = &self.inner;
        let now = i64::try_from(time::now_ns()).unwrap_or(i64::MAX);
        let before = inner.collected_ns.swap(now, std::sync::atomic::Ordering::Relaxed);
        if now.saturating_sub(before) < HOUR {
            inner.collected_ns.store(before, std::sync::atomic::Ordering::Relaxed);
            return Ok(());
        }
        let old = CachePrune { keep_ns: 48 * HOUR, reserved: 512 << 20, ..CachePrune::default() };
        self.prune_cache(&old, &|e| e.mutable)?;
        self.prune_cache(&CachePrune { keep_ns: 60 * 24 * HOUR, ..CachePrune::default() }, &|_| true)?;
        let disk = rustix::fs::statvfs(&inner.root).at("statvfs", "build")?;
        let max_used = (disk.f_blocks.saturating_mul(disk.f_frsize) / 10).max(1);
        self.prune_cache(&CachePrune { max_used, ..CachePrune::default() }, &|_| true)?;
        Ok(())
    }

    /// Forgets all cached steps and empties the cache mounts that no build uses; returns the bytes freed. The
    /// images of steps of the classic builder are images: `docker image prune` removes those.
    ///
    /// # Errors
    /// The database or the directory.
    pub fn prune(&self) -> Result<u64, BuildError> {
        let inner = &self.inner;
        let images = inner.db.write::<_, DbError>(Commit::Lazy, |w| {
            let all = w.all(CACHE)?;
            for (key, _) in &all {
                w.remove(CACHE, key)?;
            }
            Ok(all.into_iter().map(|(_, r)| r.image).collect::<Vec<_>>())
        })?;
        let mut freed = inner.images.drop_cached(&images)?;
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

#[cfg(test)]
mod tests {
    use super::CachePrune;

    #[test]
    fn what_may_stay() {
        for (reserved, max_used, min_free, want) in [
            (0, 0, 0, None),
            (30, 0, 0, Some(30)),
            (0, 50, 0, Some(50)),
            (60, 50, 0, Some(60)),
            // 100 bytes of cache, 20 of the disk are free.
            (0, 0, 20, Some(u64::MAX)),
            (0, 0, 50, Some(70)),
            (0, 60, 50, Some(60)),
            (80, 0, 50, Some(80)),
            (0, 0, 900, Some(0)),
        ] {
            let options = CachePrune { keep_ns: 0, reserved, max_used, min_free };
            assert_eq!(options.may_stay(100, 20), want, "{options:?}");
        }
    }
}
