//! From blobs to directories: verified by diff id, published by rename.

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use corten_base::fs::{Context, Durability};
use corten_base::{Cancel, Digest};
use serde::{Deserialize, Serialize};

use super::Snapshots;
use crate::content::{HashingReader, make_dir};
use crate::tar::{ExtractOptions, Reader, extract};
use crate::{ImageError, Layer, beneath, compress};

/// Size of a blob from which on two threads work on it.
const PARALLEL_FROM: u64 = 2 << 20;

/// `layer.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LayerInfo {
    /// Bytes of its files.
    pub(crate) size: u64,
    /// Members of its tar.
    pub(crate) entries: u64,
    /// Directories its tar does not describe.
    #[serde(default)]
    pub(crate) implicit: Vec<String>,
    /// Boot in which it was made.
    boot: String,
    /// Whether its files are known to be on disk.
    flushed: bool,
}

/// A layer extracted in `tmp`, its diff id known, not yet published. Dropped, it is deleted.
#[derive(Debug)]
pub(crate) struct Staged {
    dir: PathBuf,
    pub(crate) diff_id: Digest,
    size: u64,
    entries: u64,
    implicit: Vec<String>,
}

impl Drop for Staged {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

impl Snapshots {
    pub(super) fn layer_dir(&self, diff_id: &Digest) -> PathBuf {
        self.inner.root.join("layers").join(diff_id.hex())
    }

    /// What is known about an unpacked layer.
    pub(crate) fn layer(&self, diff_id: &Digest) -> Option<Arc<LayerInfo>> {
        if let Some(info) = self.lock(&self.inner.layers).get(diff_id) {
            return Some(Arc::clone(info));
        }
        let bytes = std::fs::read(self.layer_dir(diff_id).join("layer.json")).ok()?;
        let info = Arc::new(serde_json::from_slice::<LayerInfo>(&bytes).ok()?);
        self.lock(&self.inner.layers).insert(diff_id.clone(), Arc::clone(&info));
        Some(info)
    }

    /// The lock under which a layer is unpacked.
    pub(crate) fn layer_lock(&self, diff_id: &Digest) -> Arc<Mutex<()>> {
        let mut locks = self.lock(&self.inner.locks);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(diff_id.clone()).or_default())
    }

    /// Unpacks what is missing, several layers side by side.
    pub(crate) fn ensure_layers(&self, layers: &[Layer], cancel: &Cancel) -> Result<(), ImageError> {
        let missing: Vec<&Layer> = layers.iter().filter(|l| self.layer(&l.diff_id).is_none()).collect();
        match missing[..] {
            [] => return Ok(()),
            [layer] => return self.ensure_layer(layer, cancel),
            _ => {}
        }
        let threads = std::thread::available_parallelism().map_or(2, usize::from).min(4).min(missing.len());
        let queue = Mutex::new(missing.into_iter());
        let failed = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let next = self.lock(&queue).next();
                        let Some(layer) = next else { return };
                        if let Err(e) = self.ensure_layer(layer, cancel) {
                            self.lock(&failed).get_or_insert(e);
                            return;
                        }
                    }
                });
            }
        });
        failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn ensure_layer(&self, layer: &Layer, cancel: &Cancel) -> Result<(), ImageError> {
        let lock = self.layer_lock(&layer.diff_id);
        let _one_at_a_time = self.lock(&lock);
        if self.layer(&layer.diff_id).is_some() {
            return Ok(());
        }
        let blob = self.inner.content.open_blob(&layer.blob.digest)?;
        let staged = self.stage_parallel(blob, layer.blob.size, cancel)?;
        self.publish(staged, Some(&layer.diff_id))
    }

    /// Extracts a layer, compressed or not, and reads its stream to the end.
    pub(crate) fn stage(&self, blob: impl Read, cancel: &Cancel) -> Result<Staged, ImageError> {
        let (_, decoded) = compress::decoder(blob).map_err(ImageError::Stream)?;
        self.stage_tar(decoded, cancel)
    }

    /// As `stage`, with decompression on a thread of its own where the blob is large enough to pay for it.
    pub(crate) fn stage_parallel(
        &self,
        blob: impl Read + Send,
        size: u64,
        cancel: &Cancel,
    ) -> Result<Staged, ImageError> {
        if size < PARALLEL_FROM {
            return self.stage(blob, cancel);
        }
        let open = move || compress::decoder(blob).map(|(_, decoded)| decoded);
        compress::read_ahead(open, |decoded| self.stage_tar(decoded, cancel))
    }

    /// As `stage` for what is decompressed already.
    pub(crate) fn stage_tar(&self, tar: impl Read, cancel: &Cancel) -> Result<Staged, ImageError> {
        let dir = self.temp_path();
        make_dir(&dir)?;
        // From here on the directory is deleted if anything fails.
        let mut staged = Staged { dir, diff_id: Digest::of(b""), size: 0, entries: 0, implicit: Vec::new() };
        let fs = staged.dir.join("fs");
        std::fs::create_dir(&fs).at("mkdir", &fs)?;
        set_mode(&fs, 0o755)?;
        let root = File::open(&fs).at("open", &fs)?;
        let mut reader = Reader::new(BufReader::with_capacity(64 << 10, HashingReader::new(tar)));
        let options = ExtractOptions { whiteouts: true, ..ExtractOptions::default() };
        let done = extract(root.as_fd(), &mut reader, &options, cancel)?;
        staged.diff_id = reader.drain()?.into_inner().finish();
        staged.size = done.bytes;
        staged.entries = done.entries;
        staged.implicit = done.implicit.into_iter().filter_map(|p| String::from_utf8(p).ok()).collect();
        Ok(staged)
    }

    /// Takes a directory that is in overlay's format already (an upper directory) as a staged layer.
    pub(crate) fn stage_upper(
        &self,
        id: &str,
        diff_id: Digest,
        size: u64,
        entries: u64,
    ) -> Result<Staged, ImageError> {
        let dir = self.temp_path();
        let rw = self.rw(id)?;
        std::fs::rename(&rw, &dir).at("rename", &rw)?;
        let staged = Staged { dir, diff_id, size, entries, implicit: Vec::new() };
        let work = staged.dir.join("work");
        std::fs::remove_dir_all(&work).at("remove", &work)?;
        Ok(staged)
    }

    /// Gives a staged layer its name; one that is there already wins.
    pub(crate) fn publish(&self, staged: Staged, wanted: Option<&Digest>) -> Result<(), ImageError> {
        if let Some(wanted) = wanted
            && wanted != &staged.diff_id
        {
            return Err(ImageError::DigestMismatch {
                wanted: wanted.to_string(),
                got: staged.diff_id.to_string(),
            });
        }
        if self.layer(&staged.diff_id).is_some() {
            return Ok(());
        }
        let info = LayerInfo {
            size: staged.size,
            entries: staged.entries,
            implicit: staged.implicit.clone(),
            boot: self.inner.boot.clone(),
            flushed: false,
        };
        write_info(&staged.dir, &info)?;
        let target = self.layer_dir(&staged.diff_id);
        if target.exists() {
            // Without a readable layer.json, or `layer` would have found it.
            self.discard(&target)?;
        }
        std::fs::rename(&staged.dir, &target).at("rename", &target)?;
        self.lock(&self.inner.layers).insert(staged.diff_id.clone(), Arc::new(info));
        Ok(())
    }

    /// Removes all layers but these and pinned ones; says how many bytes that freed.
    pub(crate) fn collect(&self, keep: &std::collections::HashSet<Digest>) -> Result<u64, ImageError> {
        let layers = self.inner.root.join("layers");
        let mut freed = 0;
        for entry in std::fs::read_dir(&layers).at("readdir", &layers)? {
            let entry = entry.at("readdir", &layers)?;
            let diff_id = format!("sha256:{}", entry.file_name().to_string_lossy()).parse::<Digest>();
            if let Ok(diff_id) = diff_id {
                if keep.contains(&diff_id) || self.inner.content.is_pinned(&diff_id) {
                    continue;
                }
                freed += self.layer(&diff_id).map_or(0, |i| i.size);
                self.lock(&self.inner.layers).remove(&diff_id);
            }
            self.discard(&entry.path())?;
        }
        Ok(freed)
    }

    /// Layers of an earlier boot that may not have reached the disk are unpacked again when they are needed.
    pub(super) fn drop_unflushed(&self) -> Result<(), ImageError> {
        for (dir, info) in self.infos()? {
            if !info.is_some_and(|i| i.flushed || i.boot == self.inner.boot) {
                self.discard(&dir)?;
            }
        }
        Ok(())
    }

    pub(super) fn flush_layers(&self) -> Result<(), ImageError> {
        let unflushed: Vec<_> =
            self.infos()?.into_iter().filter_map(|(d, i)| i.filter(|i| !i.flushed).map(|i| (d, i))).collect();
        for (dir, info) in unflushed {
            // File by file: a sync of the whole file system would wait for everybody else's data, too.
            sync_tree(&dir)?;
            write_info(&dir, &LayerInfo { flushed: true, ..info })?;
        }
        Ok(())
    }

    fn infos(&self) -> Result<Vec<(PathBuf, Option<LayerInfo>)>, ImageError> {
        let layers = self.inner.root.join("layers");
        let mut out = Vec::new();
        for entry in std::fs::read_dir(&layers).at("readdir", &layers)? {
            let dir = entry.at("readdir", &layers)?.path();
            let info =
                std::fs::read(dir.join("layer.json")).ok().and_then(|b| serde_json::from_slice(&b).ok());
            out.push((dir, info));
        }
        Ok(out)
    }
}

/// What the kernel has written by itself in the meantime costs next to nothing.
fn sync_tree(root: &Path) -> Result<(), ImageError> {
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).at("readdir", &dir)? {
            let entry = entry.at("readdir", &dir)?;
            let kind = entry.file_type().at("stat", entry.path())?;
            if kind.is_dir() {
                todo.push(entry.path());
            } else if kind.is_file() {
                File::open(entry.path()).and_then(|f| f.sync_data()).at("sync", entry.path())?;
            }
        }
        File::open(&dir).and_then(|d| d.sync_all()).at("sync", &dir)?;
    }
    Ok(())
}

fn write_info(dir: &Path, info: &LayerInfo) -> Result<(), ImageError> {
    let bytes = serde_json::to_vec(info).map_err(|_| ImageError::Config("layer.json"))?;
    Ok(corten_base::fs::replace(&dir.join("layer.json"), &bytes, 0o600, Durability::Process)?)
}

pub(super) fn set_mode(path: &Path, mode: u32) -> Result<(), ImageError> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).at("chmod", path)?)
}

/// Opens a layer's or upper's directory.
pub(crate) fn open_dir(path: &Path) -> Result<std::os::fd::OwnedFd, ImageError> {
    Ok(rustix::fs::open(path, beneath::DIR, rustix::fs::Mode::empty()).at("open", path)?)
}
