//! Where the bytes are.
//!
//! ```text
//! <root>/blobs/sha256/<2>/<hex>                      content of blobs and manifests
//! <root>/uploads/<id>                                bytes of an upload so far; the id is a random 64-digit Id
//! <root>/repositories/<name>/_layers/<hex>           empty: the repository has this blob
//! <root>/repositories/<name>/_manifests/<hex>        media type of this manifest
//! <root>/repositories/<name>/_tags/<tag>             digest
//! <root>/repositories/<name>/_referrers/<hex>/<hex>  empty: the second refers to the first
//! ```
//! INVARIANT: components of repository names begin with a letter or digit, so `_…` cannot be part of a name.
//! INVARIANT: a file below `blobs` has the content its name says; it gets there by a rename after the check.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use corten_base::fs::{Durability, replace};
use corten_base::{Digest, Id};
use sha2::{Digest as _, Sha256};

/// Storage of content, addressed by digest, with uploads that can be continued. All calls block.
pub trait Blobs: Send + Sync + 'static {
    /// Size of a blob, if it is there.
    ///
    /// # Errors
    /// The disk's.
    fn size(&self, digest: &Digest) -> io::Result<Option<u64>>;
    /// Opens a blob for reading.
    ///
    /// # Errors
    /// `NotFound`, or the disk's.
    fn open(&self, digest: &Digest) -> io::Result<File>;
    /// Removes a blob; says whether it was there.
    ///
    /// # Errors
    /// The disk's.
    fn remove(&self, digest: &Digest) -> io::Result<bool>;
    /// Begins an upload.
    ///
    /// # Errors
    /// The disk's.
    fn begin(&self, upload: &Id) -> io::Result<()>;
    /// Bytes of an upload so far; `None` where there is no such upload.
    ///
    /// # Errors
    /// The disk's.
    fn progress(&self, upload: &Id) -> io::Result<Option<u64>>;
    /// Opens an upload for appending (and for reading from its start).
    ///
    /// # Errors
    /// `NotFound`, or the disk's.
    fn append(&self, upload: &Id) -> io::Result<File>;
    /// Makes an upload the blob `digest`, which its bytes have been checked to be.
    ///
    /// # Errors
    /// The disk's.
    fn commit(&self, upload: &Id, digest: &Digest) -> io::Result<()>;
    /// Drops an upload; says whether it was there.
    ///
    /// # Errors
    /// The disk's.
    fn abort(&self, upload: &Id) -> io::Result<bool>;
    /// Directory of repositories.
    fn repositories(&self) -> &Path;
}

/// [`Blobs`] in a directory.
#[derive(Debug)]
pub struct FileBlobs {
    blobs: PathBuf,
    uploads: PathBuf,
    repositories: PathBuf,
}

impl FileBlobs {
    /// Opens or makes the directory.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(root: &Path) -> io::Result<Self> {
        let new = Self {
            blobs: root.join("blobs/sha256"),
            uploads: root.join("uploads"),
            repositories: root.join("repositories"),
        };
        for dir in [&new.blobs, &new.uploads, &new.repositories] {
            fs::create_dir_all(dir)?;
        }
        Ok(new)
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(&digest.hex()[..2]).join(digest.hex())
    }

    pub(crate) fn all(&self) -> io::Result<Vec<(Digest, PathBuf)>> {
        let mut out = Vec::new();
        for shard in fs::read_dir(&self.blobs)? {
            for blob in fs::read_dir(shard?.path())? {
                let blob = blob?;
                if let Ok(digest) = format!("sha256:{}", blob.file_name().to_string_lossy()).parse() {
                    out.push((digest, blob.path()));
                }
            }
        }
        Ok(out)
    }
}

impl Blobs for FileBlobs {
    fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        found(fs::metadata(self.path(digest)).map(|m| m.len()))
    }

    fn open(&self, digest: &Digest) -> io::Result<File> {
        File::open(self.path(digest))
    }

    fn remove(&self, digest: &Digest) -> io::Result<bool> {
        found(fs::remove_file(self.path(digest))).map(|f| f.is_some())
    }

    fn begin(&self, upload: &Id) -> io::Result<()> {
        File::create_new(self.uploads.join(upload.as_str())).map(|_| ())
    }

    fn progress(&self, upload: &Id) -> io::Result<Option<u64>> {
        found(fs::metadata(self.uploads.join(upload.as_str())).map(|m| m.len()))
    }

    fn append(&self, upload: &Id) -> io::Result<File> {
        fs::OpenOptions::new().read(true).append(true).open(self.uploads.join(upload.as_str()))
    }

    fn commit(&self, upload: &Id, digest: &Digest) -> io::Result<()> {
        let from = self.uploads.join(upload.as_str());
        let to = self.path(digest);
        File::open(&from)?.sync_all()?;
        let dir = to.parent().unwrap_or(&self.blobs);
        fs::create_dir_all(dir)?;
        fs::rename(&from, &to)?;
        File::open(dir)?.sync_all()
    }

    fn abort(&self, upload: &Id) -> io::Result<bool> {
        found(fs::remove_file(self.uploads.join(upload.as_str()))).map(|f| f.is_some())
    }

    fn repositories(&self) -> &Path {
        &self.repositories
    }
}

/// Turns "not found" into `None`.
pub(crate) fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Hash of an upload's bytes up to an offset.
#[derive(Clone, Default)]
pub(crate) struct Running {
    pub(crate) offset: u64,
    pub(crate) hash: Sha256,
}

/// Repositories over [`Blobs`], and the uploads under way. All calls block.
pub(crate) struct Store {
    pub(crate) blobs: Box<dyn Blobs>,
    /// Hash states; lost at a restart, then made again from the file. The lock of an entry is held while its
    /// upload is written.
    uploads: Mutex<HashMap<Id, Arc<tokio::sync::Mutex<Running>>>>,
    /// Links of one name are written through one temporary name.
    links: Mutex<()>,
}

impl Store {
    pub(crate) fn open(blobs: impl Blobs) -> Self {
        Self { blobs: Box::new(blobs), uploads: Mutex::default(), links: Mutex::default() }
    }

    fn dir(&self, repository: &str) -> PathBuf {
        self.blobs.repositories().join(repository)
    }

    /// Whether anything was ever pushed to it.
    pub(crate) fn exists(&self, repository: &str) -> bool {
        ["_layers", "_manifests"].iter().any(|d| self.dir(repository).join(d).is_dir())
    }

    /// Size of a blob that the repository has.
    pub(crate) fn blob_size(&self, repository: &str, digest: &Digest) -> io::Result<Option<u64>> {
        let linked = |kind: &str| self.dir(repository).join(kind).join(digest.hex()).exists();
        if linked("_layers") || linked("_manifests") { self.blobs.size(digest) } else { Ok(None) }
    }

    pub(crate) fn link_blob(&self, repository: &str, digest: &Digest) -> io::Result<()> {
        // Empty files: that the name is there is all, so there is nothing to sync.
        self.write(&self.dir(repository).join("_layers").join(digest.hex()), b"", Durability::Process)
    }

    pub(crate) fn unlink_blob(&self, repository: &str, digest: &Digest) -> io::Result<bool> {
        found(fs::remove_file(self.dir(repository).join("_layers").join(digest.hex()))).map(|f| f.is_some())
    }

    /// Media type of a manifest that the repository has.
    pub(crate) fn manifest_type(&self, repository: &str, digest: &Digest) -> io::Result<Option<String>> {
        found(fs::read_to_string(self.dir(repository).join("_manifests").join(digest.hex())))
    }

    pub(crate) fn tag(&self, repository: &str, tag: &str) -> io::Result<Option<Digest>> {
        let text = found(fs::read_to_string(self.dir(repository).join("_tags").join(tag)))?;
        Ok(text.and_then(|t| t.trim().parse().ok()))
    }

    pub(crate) fn tags(&self, repository: &str) -> io::Result<Vec<String>> {
        names(&self.dir(repository).join("_tags"))
    }

    pub(crate) fn manifests(&self, repository: &str) -> io::Result<Vec<Digest>> {
        let all = names(&self.dir(repository).join("_manifests"))?;
        Ok(all.iter().filter_map(|hex| format!("sha256:{hex}").parse().ok()).collect())
    }

    pub(crate) fn referrers(&self, repository: &str, subject: &Digest) -> io::Result<Vec<Digest>> {
        let all = names(&self.dir(repository).join("_referrers").join(subject.hex()))?;
        Ok(all.iter().filter_map(|hex| format!("sha256:{hex}").parse().ok()).collect())
    }

    /// Stores a manifest that has been checked, under its digest and perhaps a tag.
    pub(crate) fn put_manifest(
        &self,
        repository: &str,
        bytes: &[u8],
        media_type: &str,
        tag: Option<&str>,
        subject: Option<&Digest>,
    ) -> io::Result<Digest> {
        let digest = Digest::of(bytes);
        if self.blobs.size(&digest)?.is_none() {
            let upload = Id::random();
            self.blobs.begin(&upload)?;
            self.blobs.append(&upload)?.write_all(bytes)?;
            self.blobs.commit(&upload, &digest)?;
        }
        let dir = self.dir(repository);
        self.write(&dir.join("_manifests").join(digest.hex()), media_type.as_bytes(), Durability::Power)?;
        if let Some(subject) = subject {
            let link = dir.join("_referrers").join(subject.hex()).join(digest.hex());
            self.write(&link, b"", Durability::Process)?;
        }
        if let Some(tag) = tag {
            self.write(&dir.join("_tags").join(tag), digest.as_str().as_bytes(), Durability::Power)?;
        }
        Ok(digest)
    }

    pub(crate) fn remove_tag(&self, repository: &str, tag: &str) -> io::Result<bool> {
        found(fs::remove_file(self.dir(repository).join("_tags").join(tag))).map(|f| f.is_some())
    }

    /// Removes a manifest, its tags, and its entry among the referrers.
    pub(crate) fn remove_manifest(
        &self,
        repository: &str,
        digest: &Digest,
        subject: Option<&Digest>,
    ) -> io::Result<bool> {
        let dir = self.dir(repository);
        for tag in self.tags(repository)? {
            if self.tag(repository, &tag)?.as_ref() == Some(digest) {
                self.remove_tag(repository, &tag)?;
            }
        }
        if let Some(subject) = subject {
            found(fs::remove_file(dir.join("_referrers").join(subject.hex()).join(digest.hex())))?;
        }
        found(fs::remove_file(dir.join("_manifests").join(digest.hex()))).map(|f| f.is_some())
    }

    /// Names of all repositories that have something, sorted.
    pub(crate) fn repositories(&self) -> io::Result<Vec<String>> {
        let mut out = Vec::new();
        walk(self.blobs.repositories(), "", 0, &mut out)?;
        out.sort();
        Ok(out)
    }

    /// The state of an upload, for the one who locks it. `None` where there is no such upload.
    pub(crate) fn upload(&self, upload: &Id) -> io::Result<Option<Arc<tokio::sync::Mutex<Running>>>> {
        if self.blobs.progress(upload)?.is_none() {
            return Ok(None);
        }
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Some(Arc::clone(uploads.entry(upload.clone()).or_default())))
    }

    pub(crate) fn forget_upload(&self, upload: &Id) {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).remove(upload);
    }

    /// Brings the hash up to the end of the file, which it is behind of after a restart.
    pub(crate) fn catch_up(&self, upload: &Id, running: &mut Running) -> io::Result<()> {
        let length = self.blobs.progress(upload)?.unwrap_or(0);
        if running.offset == length {
            return Ok(());
        }
        *running = Running::default();
        let mut file = self.blobs.append(upload)?;
        file.seek(SeekFrom::Start(0))?;
        let mut block = vec![0; 256 << 10];
        loop {
            let n = file.read(&mut block)?;
            if n == 0 {
                return Ok(());
            }
            running.hash.update(&block[..n]);
            running.offset += n as u64;
        }
    }

    fn write(&self, path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
        let _one_at_a_time = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        replace(path, bytes, 0o644, durability).map_err(|e| e.source)
    }
}

/// Sorted names in a directory; none where it does not exist.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    let Some(entries) = found(fs::read_dir(dir))? else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.contains(".tmp")
            || !name.rsplit(".tmp").next().is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
        {
            out.push(name);
        }
    }
    out.sort();
    Ok(out)
}

/// Deepest repository name: 255 bytes are at most 128 components.
const MAX_DEPTH: usize = 128;

fn walk(dir: &Path, prefix: &str, depth: usize, out: &mut Vec<String>) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Ok(());
    }
    for name in names(dir)? {
        if name.starts_with('_') {
            continue;
        }
        let path = dir.join(&name);
        let full = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if path.join("_manifests").is_dir() || path.join("_layers").is_dir() {
            out.push(full.clone());
        }
        if path.is_dir() {
            walk(&path, &full, depth + 1, out)?;
        }
    }
    Ok(())
}
