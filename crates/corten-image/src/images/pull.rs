//! `docker pull`: blobs in parallel, each hashed, stored, decompressed and unpacked in one pass.
//!
//! ```text
//!   manifest ─▶ configuration ─▶ per layer, a few at a time:
//!     BlobStream ──channel──▶ blocking thread: tee ─▶ ingest (hash, file)
//!                                               └──▶ decompress ─▶ hash (diff id) ─▶ extract
//! ```
//! INVARIANT: a layer is published only after the digest of its blob and its diff id were both right. What was
//! downloaded before a failure stays as `.partial` and is continued by the next pull. Addresses in descriptors
//! (`urls`) are never followed (CVE-2020-15157).

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use corten_base::{Cancel, Digest, Kind, Platform, Reference};
use corten_registry::{Client, Credentials, Repository, Target};
use corten_wire::oci_image::{Descriptor, Document, ImageConfig, Index, MAX_DOCUMENT, Manifest, media_type};
use tokio::sync::{Semaphore, mpsc};

use super::Images;
use super::load::is_attestation;
use super::manifests::{MAX_STATEMENT, is_about};
use super::records::read_config;
use crate::content::{Ingest, Pins};
use crate::snapshot::Staged;
use crate::{Image, ImageError, Layer, LayerPhase, Progress, ProgressEvent};

/// Chunks between network and unpacking.
const QUEUE: usize = 16;
/// Shortest time between two lines about one layer.
const TICK: Duration = Duration::from_millis(100);

impl Images {
    /// Pulls an image by tag (`latest` without) or digest, for the host's platform or another one. Publishes
    /// `pull`. A repository's tags are listed by [`Repository::tags`].
    ///
    /// # Errors
    /// `Registry`, `NoPlatform`, `Document`, digest mismatches, `Cancelled`. Nothing half-made is named.
    pub async fn pull(
        &self,
        client: &Client,
        credentials: &Credentials,
        reference: &Reference,
        platform: Option<&Platform>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Arc<Image>, ImageError> {
        let repository = client.repository(reference, credentials);
        let pull = Pull { images: self, repository: &repository, platform, progress, cancel };
        let pulled = pull.one(&reference.clone().or_latest()).await;
        // Buffers of downloads and decompression are large and not needed for a while.
        corten_sys::memory::trim();
        pulled
    }
}

/// Runs a future until it is done or the caller gives up.
pub(super) async fn until_cancelled<T>(
    cancel: &Cancel,
    future: impl Future<Output = T>,
) -> Result<T, ImageError> {
    tokio::select! {
        value = future => Ok(value),
        () = cancel.cancelled() => Err(ImageError::Cancelled),
    }
}

struct Pull<'a> {
    images: &'a Images,
    repository: &'a Repository,
    platform: Option<&'a Platform>,
    progress: &'a Progress,
    cancel: &'a Cancel,
}

/// One layer to get.
#[derive(Debug, Clone)]
struct Wanted {
    layer: Layer,
    id: String,
}

impl Pull<'_> {
    async fn one(&self, reference: &Reference) -> Result<Arc<Image>, ImageError> {
        let target = until_cancelled(self.cancel, self.repository.resolve(&Target::of(reference))).await??;
        let tag = reference.digest().map_or_else(|| reference.tag().unwrap_or("latest"), Digest::as_str);
        let text = format!("Pulling from {}", reference.path());
        self.progress.send(ProgressEvent::Subject { id: tag.to_owned(), text });
        let mut pins = self.images.content().pins();
        let top = self.keep_document(&target, &mut pins)?;
        let (manifest, descriptor, index) = match Document::parse(&target.media_type, &target.bytes)? {
            Document::Manifest(manifest) => (manifest, top.clone(), None),
            Document::Index(index) => {
                let (manifest, descriptor) = self.choose(&index, &mut pins).await?;
                (manifest, descriptor, Some(index))
            }
        };
        let config = self.config(&manifest, reference, &mut pins).await?;
        let before =
            self.images.state().references.get(&name_of(reference).to_string()).map(|(_, id)| id.clone());
        self.layers(&manifest, &config, &mut pins).await?;
        if let Some(index) = index {
            self.attestations(&index, &descriptor.digest, &mut pins).await?;
        }
        let name = name_of(reference);
        self.images.record_found(&top, vec![descriptor], Some(&name), Some(&name.name()))?;
        self.progress.message(format!("Digest: {}", top.digest));
        let familiar = name.familiar();
        self.progress.message(if before.as_ref() == Some(&top.digest) {
            format!("Status: Image is up to date for {familiar}")
        } else {
            format!("Status: Downloaded newer image for {familiar}")
        });
        let image = self.images.get(&top.digest).ok_or_else(|| ImageError::NotFound(familiar.clone()))?;
        self.images.event("pull", &familiar, &reference.familiar_name(), Some(&image));
        Ok(image)
    }

    fn keep_document(
        &self,
        document: &corten_registry::Manifest,
        pins: &mut Pins,
    ) -> Result<Descriptor, ImageError> {
        let digest = self.images.content().put(&document.bytes, pins)?;
        Ok(Descriptor::new(document.media_type.clone(), digest, document.bytes.len() as u64))
    }

    /// The entry of an index for the platform.
    async fn choose(&self, index: &Index, pins: &mut Pins) -> Result<(Manifest, Descriptor), ImageError> {
        let host = Platform::host();
        let wanted = self.platform.unwrap_or(&host);
        let fits = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| p.platform().matches(wanted));
        let entry = index
            .manifests
            .iter()
            .filter(|d| !is_attestation(d))
            .find(fits)
            .ok_or_else(|| ImageError::NoPlatform(wanted.to_string()))?;
        let target = Target::Digest(entry.digest.clone());
        let document = until_cancelled(self.cancel, self.repository.resolve(&target)).await??;
        let mut descriptor = self.keep_document(&document, pins)?;
        descriptor.platform.clone_from(&entry.platform);
        match Document::parse(&entry.media_type, &document.bytes)? {
            Document::Manifest(manifest) => Ok((manifest, descriptor)),
            Document::Index(_) => Err(ImageError::Config("an index within an index")),
        }
    }

    /// What is said about how the image was made. An image is none the worse for a registry that has lost it.
    async fn attestations(
        &self,
        index: &Index,
        manifest: &Digest,
        pins: &mut Pins,
    ) -> Result<(), ImageError> {
        for entry in index.manifests.iter().filter(|d| is_about(d, manifest)) {
            match self.attestation(entry, pins).await {
                Err(ImageError::Cancelled) => return Err(ImageError::Cancelled),
                Err(error) => tracing::warn!(%error, digest = %entry.digest, "an attestation is left out"),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    async fn attestation(&self, entry: &Descriptor, pins: &mut Pins) -> Result<(), ImageError> {
        pins.add(&entry.digest);
        let bytes = match self.images.content().read(&entry.digest, MAX_DOCUMENT) {
            Ok(bytes) => bytes.into(),
            Err(_) => {
                let target = Target::Digest(entry.digest.clone());
                let document = until_cancelled(self.cancel, self.repository.resolve(&target)).await??;
                self.keep_document(&document, pins)?;
                document.bytes
            }
        };
        let Document::Manifest(manifest) = Document::parse(&entry.media_type, &bytes)? else {
            return Err(ImageError::Config("an index within an index"));
        };
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            if blob.size > MAX_STATEMENT {
                return Err(ImageError::Limit { what: "attestation", limit: MAX_STATEMENT });
            }
            self.blob(blob, pins).await?;
        }
        Ok(())
    }

    /// A blob that is no layer.
    async fn blob(&self, wanted: &Descriptor, pins: &mut Pins) -> Result<(), ImageError> {
        pins.add(&wanted.digest);
        if self.images.content().contains(&wanted.digest) {
            return Ok(());
        }
        let download = async {
            let mut stream = self.repository.blob(&wanted.digest, Some(wanted.size), 0).await?;
            let mut ingest = self.images.content().ingest()?;
            while let Some(bytes) = stream.next().await? {
                ingest.write_all(&bytes).map_err(ImageError::Stream)?;
            }
            ingest.finish(Some((&wanted.digest, wanted.size)), pins)
        };
        until_cancelled(self.cancel, download).await?.map(drop)
    }

    async fn config(
        &self,
        manifest: &Manifest,
        reference: &Reference,
        pins: &mut Pins,
    ) -> Result<ImageConfig, ImageError> {
        let wanted = &manifest.config;
        if wanted.size > MAX_DOCUMENT {
            return Err(ImageError::Limit { what: "image configuration", limit: MAX_DOCUMENT });
        }
        self.blob(wanted, pins).await?;
        let config = read_config(self.images.content(), &wanted.digest)?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(ImageError::Config("layers and diff ids differ in number"));
        }
        if let Some(layer) = manifest.layers.iter().find(|l| !media_type::is_layer(&l.media_type)) {
            return Err(ImageError::LayerType(layer.media_type.clone()));
        }
        if let Some(wanted) = self.platform
            && !config.platform().matches(wanted)
        {
            let (reference, platform) = (reference.familiar(), wanted.to_string());
            return Err(ImageError::PlatformMismatch { reference, platform });
        }
        Ok(config)
    }

    async fn layers(
        &self,
        manifest: &Manifest,
        config: &ImageConfig,
        pins: &mut Pins,
    ) -> Result<(), ImageError> {
        let mut seen = HashSet::new();
        let mut wanted = Vec::new();
        for (diff_id, blob) in config.rootfs.diff_ids.iter().zip(&manifest.layers) {
            pins.add(&blob.digest);
            pins.add(diff_id);
            let id = blob.digest.hex()[..12].to_owned();
            let here = self.images.content().size(&blob.digest) == Some(blob.size)
                && self.images.inner.snapshots.layer(diff_id).is_some();
            if here {
                self.progress.layer(&id, LayerPhase::AlreadyExists, None);
            } else if seen.insert(diff_id.clone()) {
                self.progress.layer(&id, LayerPhase::PullingFsLayer, None);
                wanted.push(Wanted { layer: Layer { diff_id: diff_id.clone(), blob: blob.clone() }, id });
            }
        }
        let parallel = self.images.parallel_downloads();
        let slots = Arc::new(Semaphore::new(parallel));
        // Cancelling stops all layers, also when one of them failed.
        let stop = Cancel::new();
        let _stop_all = stop.on_drop();
        let mut tasks = tokio::task::JoinSet::new();
        for (n, wanted) in wanted.into_iter().enumerate() {
            if n >= parallel {
                self.progress.layer(&wanted.id, LayerPhase::Waiting, None);
            }
            let task = LayerTask {
                images: self.images.clone(),
                repository: self.repository.clone(),
                wanted,
                progress: self.progress.clone(),
                stop: stop.clone(),
            };
            let slots = Arc::clone(&slots);
            tasks.spawn(async move {
                let _slot = slots.acquire_owned().await;
                task.run().await
            });
        }
        let all = async {
            while let Some(done) = tasks.join_next().await {
                done.unwrap_or(Err(ImageError::Cancelled))?;
            }
            Ok(())
        };
        let result = until_cancelled(self.cancel, all).await.flatten();
        stop.cancel();
        // Blocking threads end at their next read; until then they write to the ingest.
        while tasks.join_next().await.is_some() {}
        result
    }
}

/// Under which name a pulled image is kept: its tag, or its digest.
fn name_of(reference: &Reference) -> Reference {
    match reference.digest() {
        Some(digest) => reference.with_digest(digest.clone()),
        None => reference.clone(),
    }
}

struct LayerTask {
    images: Images,
    repository: Repository,
    wanted: Wanted,
    progress: Progress,
    stop: Cancel,
}

impl LayerTask {
    async fn run(self) -> Result<(), ImageError> {
        let blob = &self.wanted.layer.blob;
        // Two pulls of one blob: the second waits and finds it done.
        let flight = self.images.flight(&blob.digest);
        let _one_at_a_time = flight.lock().await;
        if self.images.content().size(&blob.digest) != Some(blob.size) {
            match self.download().await {
                // What an earlier try left was damaged; it is thrown away, so begin again, once.
                Err(ImageError::DigestMismatch { .. }) => self.download().await?,
                other => other?,
            }
        } else {
            self.phase(LayerPhase::Extracting, None);
            let (images, layer, stop) = (self.images.clone(), self.wanted.layer.clone(), self.stop.clone());
            blocking(move || images.inner.snapshots.ensure_layers(&[layer], &stop)).await?;
        }
        self.phase(LayerPhase::PullComplete, None);
        Ok(())
    }

    fn phase(&self, phase: LayerPhase, bytes: Option<(u64, u64)>) {
        self.progress.layer(&self.wanted.id, phase, bytes);
    }

    async fn download(&self) -> Result<(), ImageError> {
        let blob = self.wanted.layer.blob.clone();
        let (content, digest) = (self.images.content().clone(), blob.digest.clone());
        let mut ingest = blocking(move || content.resume(&digest)).await?;
        if ingest.size() > blob.size {
            ingest.restart()?;
        }
        let start = ingest.size();
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (images, layer, stop) = (self.images.clone(), self.wanted.layer.clone(), self.stop.clone());
        let worker = tokio::task::spawn_blocking(move || {
            unpack(&images, &layer, ingest, Channel::new(receiver), &stop)
        });
        let sent = self.send(&sender, start, &blob).await;
        drop(sender);
        self.phase(LayerPhase::Extracting, Some((blob.size, blob.size)));
        let unpacked = worker.await.unwrap_or(Err(ImageError::Cancelled));
        // The network's error is the cause of the worker's "cut off".
        sent?;
        unpacked
    }

    /// Passes the blob on from the network to the worker.
    async fn send(
        &self,
        sender: &mpsc::Sender<Bytes>,
        start: u64,
        blob: &Descriptor,
    ) -> Result<(), ImageError> {
        self.phase(LayerPhase::Downloading, Some((start, blob.size)));
        if start < blob.size {
            let open = self.repository.blob(&blob.digest, Some(blob.size), start);
            let mut stream = until_cancelled(&self.stop, open).await??;
            let mut position = start;
            let mut shown = Instant::now();
            while let Some(bytes) = until_cancelled(&self.stop, stream.next()).await?? {
                position += bytes.len() as u64;
                if sender.send(bytes).await.is_err() {
                    // The worker failed; its error tells more.
                    return Ok(());
                }
                if shown.elapsed() >= TICK {
                    shown = Instant::now();
                    self.phase(LayerPhase::Downloading, Some((position, blob.size)));
                }
            }
        }
        self.phase(LayerPhase::VerifyingChecksum, None);
        // An empty chunk is the end; a channel that just closes is a failure.
        sender.send(Bytes::new()).await.ok();
        self.phase(LayerPhase::DownloadComplete, None);
        Ok(())
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(f).await.unwrap_or(Err(ImageError::Cancelled))
}

/// The blocking side of a download.
fn unpack(
    images: &Images,
    layer: &Layer,
    mut ingest: Ingest,
    network: Channel,
    stop: &Cancel,
) -> Result<(), ImageError> {
    let snapshots = &images.inner.snapshots;
    let earlier = ingest.reader()?.take(ingest.size());
    let mut pins = images.content().pins();
    let lock = snapshots.layer_lock(&layer.diff_id);
    let _one_at_a_time = lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let unpacked = snapshots.layer(&layer.diff_id).is_some();
    let mut source = earlier.chain(Keep { network, ingest: &mut ingest });
    let staged: Option<Result<Staged, ImageError>> =
        if unpacked { None } else { Some(snapshots.stage_parallel(&mut source, layer.blob.size, stop)) };
    if let Some(Err(error)) = &staged
        && error.kind() == Kind::Cancelled
    {
        return Err(ImageError::Cancelled);
    }
    // Also where unpacking failed: if the bytes are not what was promised, that is the error to tell.
    io::copy(&mut source, &mut io::sink()).map_err(ImageError::Stream)?;
    drop(source);
    ingest.finish(Some((&layer.blob.digest, layer.blob.size)), &mut pins)?;
    // Here, while other layers are still under way, rather than in the end for all.
    images.content().sync([&layer.blob.digest])?;
    match staged {
        Some(staged) => snapshots.publish(staged?, Some(&layer.diff_id)),
        None => Ok(()),
    }
}

/// Chunks from the network as a `Read`.
struct Channel {
    receiver: mpsc::Receiver<Bytes>,
    chunk: Bytes,
    ended: bool,
}

impl Channel {
    fn new(receiver: mpsc::Receiver<Bytes>) -> Self {
        Self { receiver, chunk: Bytes::new(), ended: false }
    }
}

impl Read for Channel {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.chunk.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(chunk) => {
                    self.ended = chunk.is_empty();
                    self.chunk = chunk;
                }
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "download was cut off")),
            }
        }
        let n = self.chunk.len().min(buf.len());
        buf[..n].copy_from_slice(&self.chunk.split_to(n));
        Ok(n)
    }
}

/// Writes what comes from the network to the ingest.
struct Keep<'a> {
    network: Channel,
    ingest: &'a mut Ingest,
}

impl Read for Keep<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.network.read(buf)?;
        self.ingest.write_all(&buf[..n])?;
        Ok(n)
    }
}
