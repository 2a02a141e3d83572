//! Blobs by digest.
//!
//! ```text
//! blobs/sha256/<hex>       complete and verified; mode 0444, never changed
//! ingest/<hex>.partial     a download under way or broken off; continued by the next pull of the same digest
//! ingest/new-<random>      content whose digest is not known yet
//! ```
//! A blob appears by rename only after its digest and size were compared, and is synced before a durable record
//! refers to it, so that what has a name is whole. Blobs of build steps are synced with the first image that has a
//! name; until then their mode is 0400, and after a reboot such blobs are verified again. Blobs that nothing refers to are removed by [`Content::collect`], except those pinned in memory: an
//! operation pins what it brings in until its image is recorded.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use corten_base::fs::{Context, ensure_absent};
use corten_base::{Digest, Id};
use sha2::{Digest as _, Sha256};

use crate::ImageError;

/// How long content that the builder made waits for its image.
const LOOSE: Duration = Duration::from_secs(3600);
/// The disk begins to write a blob while it still arrives, so that the sync in the end is short.
const WRITEBACK: u64 = 8 << 20;
/// Mode of blobs that were not synced yet.
const UNSYNCED: u32 = 0o400;
/// Age at which broken-off downloads are given up.
const STALE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The store. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    blobs: PathBuf,
    ingest: PathBuf,
    pins: Mutex<HashMap<Digest, Pin>>,
    /// Blobs that were named before they were synced; see [`Content::sync`].
    unsynced: Mutex<HashSet<Digest>>,
}

#[derive(Debug, Default)]
struct Pin {
    count: usize,
    until: Option<Instant>,
}

/// Makes a directory for root only (CVE-2021-41091: nothing beneath the data root is for ordinary users).
pub(crate) fn make_dir(path: &Path) -> Result<(), ImageError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).at("mkdir", path)?;
    Ok(())
}

impl Content {
    pub(crate) fn open(root: &Path) -> Result<Self, ImageError> {
        let (blobs, ingest) = (root.join("blobs/sha256"), root.join("ingest"));
        make_dir(&blobs)?;
        make_dir(&ingest)?;
        for entry in std::fs::read_dir(&ingest).at("readdir", &ingest)? {
            let entry = entry.at("readdir", &ingest)?;
            let resumable = entry.file_name().to_string_lossy().ends_with(".partial");
            let age = entry.metadata().and_then(|m| m.modified()).ok();
            let old = age.and_then(|t| SystemTime::now().duration_since(t).ok()).is_some_and(|a| a > STALE);
            if !resumable || old {
                ensure_absent(&entry.path())?;
            }
        }
        let inner = Inner { blobs, ingest, pins: Mutex::default(), unsynced: Mutex::default() };
        let content = Self { inner: Arc::new(inner) };
        content.verify_unsynced()?;
        Ok(content)
    }

    /// Blobs that an earlier daemon did not sync: if that was in this boot they are whole, else they are hashed.
    fn verify_unsynced(&self) -> Result<(), ImageError> {
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let note = self.inner.ingest.join("boot.partial");
        let same_boot = std::fs::read(&note).is_ok_and(|b| b == boot);
        for entry in std::fs::read_dir(&self.inner.blobs).at("readdir", &self.inner.blobs)? {
            let entry = entry.at("readdir", &self.inner.blobs)?;
            if !entry.metadata().is_ok_and(|m| m.permissions().mode() & 0o777 == UNSYNCED) {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(digest) = format!("sha256:{name}").parse::<Digest>() else { continue };
            if !same_boot {
                let mut hashing = HashingReader::new(self.open_blob(&digest)?);
                io::copy(&mut hashing, &mut io::sink()).at("read", entry.path())?;
                if hashing.finish() != digest {
                    ensure_absent(&entry.path())?;
                    continue;
                }
            }
            self.inner.unsynced.lock().unwrap_or_else(PoisonError::into_inner).insert(digest);
        }
        std::fs::write(&note, &boot).at("write", &note)?;
        Ok(())
    }

    /// Makes sure that these blobs, and their names, are on disk.
    pub(crate) fn sync<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) -> Result<(), ImageError> {
        let mut any = false;
        for digest in digests {
            if !self.inner.unsynced.lock().unwrap_or_else(PoisonError::into_inner).contains(digest) {
                continue;
            }
            let file = self.open_blob(digest)?;
            file.sync_all().at("sync", self.path(digest))?;
            file.set_permissions(std::fs::Permissions::from_mode(0o444)).at("chmod", self.path(digest))?;
            self.inner.unsynced.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
            any = true;
        }
        if any {
            let blobs = &self.inner.blobs;
            File::open(blobs).and_then(|d| d.sync_all()).at("sync", blobs)?;
        }
        Ok(())
    }

    /// The file of a blob. Digests are validated, so the name is 64 hexadecimal digits (CVE-2014-9358).
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.inner.blobs.join(digest.hex())
    }

    pub(crate) fn size(&self, digest: &Digest) -> Option<u64> {
        std::fs::metadata(self.path(digest)).ok().map(|m| m.len())
    }

    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        self.size(digest).is_some()
    }

    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<File, ImageError> {
        let path = self.path(digest);
        match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(ImageError::MissingBlob(digest.to_string())),
            other => Ok(other.at("open", &path)?),
        }
    }

    /// A small blob whole, verified again.
    pub(crate) fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        let file = self.open_blob(digest)?;
        file.take(limit + 1).read_to_end(&mut bytes).at("read", self.path(digest))?;
        if bytes.len() as u64 > limit {
            return Err(ImageError::Limit { what: "document", limit });
        }
        let got = Digest::of(&bytes);
        if &got != digest {
            return Err(ImageError::DigestMismatch { wanted: digest.to_string(), got: got.to_string() });
        }
        Ok(bytes)
    }

    /// Stores bytes; says their digest.
    pub(crate) fn put(&self, bytes: &[u8], pins: &mut Pins) -> Result<Digest, ImageError> {
        let mut ingest = self.ingest()?;
        ingest.write_all(bytes).at("write", &self.inner.ingest)?;
        Ok(ingest.finish(None, pins)?.0)
    }

    /// Begins content of unknown digest.
    pub(crate) fn ingest(&self) -> Result<Ingest, ImageError> {
        let path = self.inner.ingest.join(format!("new-{}", Id::random().short()));
        let file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).at("create", &path)?;
        Ok(Ingest {
            content: self.clone(),
            path,
            file,
            hasher: Sha256::new(),
            size: 0,
            begun: 0,
            keep: false,
            done: false,
        })
    }

    /// Begins or continues content of known digest; `size()` says how much is there already. The caller makes sure
    /// that there is one at a time.
    pub(crate) fn resume(&self, digest: &Digest) -> Result<Ingest, ImageError> {
        let path = self.inner.ingest.join(format!("{}.partial", digest.hex()));
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .at("create", &path)?;
        let mut hasher = Sha256::new();
        let mut size = 0;
        let mut buf = vec![0; 128 << 10];
        loop {
            match file.read(&mut buf).at("read", &path)? {
                0 => break,
                n => {
                    hasher.update(&buf[..n]);
                    size += n as u64;
                }
            }
        }
        Ok(Ingest { content: self.clone(), path, file, hasher, size, begun: size, keep: true, done: false })
    }

    /// A guard that keeps content from being collected.
    pub(crate) fn pins(&self) -> Pins {
        Pins { inner: Arc::clone(&self.inner), digests: Vec::new() }
    }

    /// Keeps content for a while although nothing refers to it yet.
    pub(crate) fn pin_loosely(&self, digest: &Digest) {
        let mut pins = self.inner.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.entry(digest.clone()).or_default().until = Some(Instant::now() + LOOSE);
    }

    /// Ends [`Content::pin_loosely`].
    pub(crate) fn unpin_loosely(&self, digest: &Digest) {
        let mut pins = self.inner.pins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pin) = pins.get_mut(digest) {
            pin.until = None;
            if pin.count == 0 {
                pins.remove(digest);
            }
        }
    }

    pub(crate) fn is_pinned(&self, digest: &Digest) -> bool {
        let pins = self.inner.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.get(digest).is_some_and(|p| p.count > 0 || p.until.is_some_and(|t| t > Instant::now()))
    }

    /// Removes all blobs but these and the pinned ones; says how many bytes that freed.
    pub(crate) fn collect(&self, keep: &HashSet<Digest>) -> Result<u64, ImageError> {
        let mut freed = 0;
        for entry in std::fs::read_dir(&self.inner.blobs).at("readdir", &self.inner.blobs)? {
            let entry = entry.at("readdir", &self.inner.blobs)?;
            let name = entry.file_name();
            let digest = format!("sha256:{}", name.to_string_lossy()).parse::<Digest>();
            if digest.is_ok_and(|d| keep.contains(&d) || self.is_pinned(&d)) {
                continue;
            }
            freed += entry.metadata().map_or(0, |m| m.len());
            ensure_absent(&entry.path())?;
        }
        Ok(freed)
    }

    /// Bytes of all blobs.
    pub(crate) fn usage(&self) -> Result<u64, ImageError> {
        let mut total = 0;
        for entry in std::fs::read_dir(&self.inner.blobs).at("readdir", &self.inner.blobs)? {
            total += entry.and_then(|e| e.metadata()).map_or(0, |m| m.len());
        }
        Ok(total)
    }
}

/// Keeps digests from being collected while it lives.
#[derive(Debug)]
pub(crate) struct Pins {
    inner: Arc<Inner>,
    digests: Vec<Digest>,
}

impl Pins {
    pub(crate) fn add(&mut self, digest: &Digest) {
        let mut pins = self.inner.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.entry(digest.clone()).or_default().count += 1;
        self.digests.push(digest.clone());
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut pins = self.inner.pins.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in &self.digests {
            if let Some(pin) = pins.get_mut(digest) {
                pin.count -= 1;
                if pin.count == 0 && pin.until.is_none() {
                    pins.remove(digest);
                }
            }
        }
    }
}

/// Content on its way in: write to it, then `finish`. Dropped before, unknown content goes and a download stays
/// for the next try.
#[derive(Debug)]
pub(crate) struct Ingest {
    content: Content,
    path: PathBuf,
    file: File,
    hasher: Sha256,
    size: u64,
    /// Up to here the kernel was asked to write to disk.
    begun: u64,
    keep: bool,
    done: bool,
}

impl Ingest {
    /// Bytes written so far, those of earlier tries included.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// Throws away what is there.
    pub(crate) fn restart(&mut self) -> Result<(), ImageError> {
        self.file.set_len(0).at("truncate", &self.path)?;
        self.hasher = Sha256::new();
        (self.size, self.begun) = (0, 0);
        Ok(())
    }

    /// A second handle that reads what was written.
    pub(crate) fn reader(&self) -> Result<File, ImageError> {
        Ok(File::open(&self.path).at("open", &self.path)?)
    }

    /// Verifies and names it. [`Content::sync`] is for those who are about to refer to it durably.
    ///
    /// # Errors
    /// `DigestMismatch`, `SizeMismatch` (then the content is thrown away), or the disk's.
    pub(crate) fn finish(
        mut self,
        wanted: Option<(&Digest, u64)>,
        pins: &mut Pins,
    ) -> Result<(Digest, u64), ImageError> {
        let got = Digest::from_sha256(&self.hasher.finalize_reset());
        if let Some((digest, size)) = wanted {
            let error = if size != self.size {
                Some(ImageError::SizeMismatch { wanted: size, got: self.size })
            } else if digest != &got {
                Some(ImageError::DigestMismatch { wanted: digest.to_string(), got: got.to_string() })
            } else {
                None
            };
            if let Some(error) = error {
                self.keep = false;
                return Err(error);
            }
        }
        pins.add(&got);
        let target = self.content.path(&got);
        if !target.exists() {
            let mode = std::fs::Permissions::from_mode(UNSYNCED);
            self.file.set_permissions(mode).at("chmod", &self.path)?;
            self.content.inner.unsynced.lock().unwrap_or_else(PoisonError::into_inner).insert(got.clone());
            std::fs::rename(&self.path, &target).at("rename", &self.path)?;
            self.done = true;
        } else {
            self.keep = false;
        }
        Ok((got, self.size))
    }
}

impl Write for Ingest {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.file.write(buf)?;
        self.hasher.update(&buf[..n]);
        self.size += n as u64;
        if self.size - self.begun >= WRITEBACK {
            // Only a hint: the sync before the record is what counts.
            corten_sys::writeback::start(self.file.as_fd(), self.begun, self.size - self.begun).ok();
            self.begun = self.size;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if !self.done && !self.keep {
            std::fs::remove_file(&self.path).ok();
        }
    }
}

/// Hashes what is read through it.
#[derive(Debug)]
pub(crate) struct HashingReader<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hasher: Sha256::new() }
    }

    pub(crate) fn finish(self) -> Digest {
        Digest::from_sha256(&self.hasher.finalize())
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hasher.update(&buf[..n]);
        Ok(n)
    }
}

/// Hashes what is written through it.
#[derive(Debug)]
pub(crate) struct HashingWriter<W> {
    inner: W,
    hasher: Sha256,
}

impl<W: Write> HashingWriter<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new() }
    }

    pub(crate) fn finish(self) -> (W, Digest) {
        (self.inner, Digest::from_sha256(&self.hasher.finalize()))
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hasher.update(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_verified_gets_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let content = Content::open(dir.path()).unwrap();
        let wanted = Digest::of(b"hello world");
        let mut pins = content.pins();
        // A download breaks off, the daemon dies, the next one continues.
        let mut part = content.resume(&wanted).unwrap();
        part.write_all(b"hello ").unwrap();
        drop(part);
        let content = Content::open(dir.path()).unwrap();
        let mut rest = content.resume(&wanted).unwrap();
        assert_eq!(rest.size(), 6);
        rest.write_all(b"world").unwrap();
        rest.finish(Some((&wanted, 11)), &mut pins).unwrap();
        assert_eq!(content.read(&wanted, 100).unwrap(), b"hello world");
        // Wrong content is thrown away, not kept for resuming.
        let other = Digest::of(b"x");
        let mut bad = content.resume(&other).unwrap();
        bad.write_all(b"y").unwrap();
        assert!(matches!(bad.finish(Some((&other, 1)), &mut pins), Err(ImageError::DigestMismatch { .. })));
        assert_eq!(content.resume(&other).unwrap().size(), 0);
        assert!(!content.contains(&other));
    }

    #[test]
    fn collection_spares_pins() {
        let dir = tempfile::tempdir().unwrap();
        let content = Content::open(dir.path()).unwrap();
        let mut pins = content.pins();
        let a = content.put(b"a", &mut pins).unwrap();
        content.collect(&HashSet::new()).unwrap();
        assert!(content.contains(&a));
        drop(pins);
        content.pin_loosely(&a);
        content.collect(&HashSet::new()).unwrap();
        assert!(content.contains(&a));
        content.unpin_loosely(&a);
        assert_eq!(content.collect(&HashSet::new()).unwrap(), 1);
        assert!(!content.contains(&a));
    }
}
