//! `docker push`: what the registry has not, from the blobs that are here; nothing is compressed again.

use std::sync::Arc;

use bytes::Bytes;
use corten_base::db::Commit;
use corten_base::{Cancel, Digest, Platform, Reference};
use corten_registry::{BlobSource, Client, Credentials, Repository, Target};
use corten_wire::oci_image::{Descriptor, Document, MAX_DOCUMENT, Manifest, media_type};
use tokio::sync::Semaphore;

use super::Images;
use super::manifests::attestations_about;
use super::pull::until_cancelled;
use crate::{Image, ImageError, LayerPhase, NewArtifact, Progress, ProgressEvent};

impl Images {
    /// Pushes a name, or all tags of a repository where the reference has no tag. With a platform only its
    /// manifest is pushed. Publishes `push`.
    ///
    /// # Errors
    /// `NotLocal`, `NoTag`, `PlatformMismatch`, `Registry`, `Cancelled`.
    pub async fn push(
        &self,
        client: &Client,
        credentials: &Credentials,
        reference: &Reference,
        platform: Option<&Platform>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<(), ImageError> {
        progress.message(format!("The push refers to repository [{}]", reference.name()));
        let names = self.names_to_push(reference)?;
        let repository = client.repository(reference, credentials);
        for (name, image) in names {
            let image = match platform {
                Some(_) => self.resolve_for(&name.familiar(), platform)?,
                None => image,
            };
            let push = Push {
                images: self,
                repository: &repository,
                name: &name,
                image: &image,
                whole: platform.is_none(),
                progress,
                cancel,
            };
            push.run().await?;
            let (id, repository) = (image.id.clone(), name.name());
            self.update_as(Commit::Lazy, |draft| draft.change(&id, |r| r.add_origin(Some(&repository))))?;
            self.event("push", &name.familiar(), &name.familiar_name(), Some(&image));
        }
        Ok(())
    }

    /// Pushes something that is no image: blobs that are here, one that is not, and the manifest that lists them.
    ///
    /// # Errors
    /// `MissingBlob`, `Registry`, `Cancelled`.
    pub async fn push_artifact(
        &self,
        client: &Client,
        credentials: &Credentials,
        reference: &Reference,
        artifact: NewArtifact,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<(), ImageError> {
        let repository = client.repository(reference, credentials);
        let pushed = async {
            for blob in artifact.blobs {
                let task = BlobTask {
                    path: self.content().path(&blob.digest),
                    sources: self.mount_sources(reference, &blob.digest),
                    repository: repository.clone(),
                    id: blob.digest.to_string(),
                    progress: progress.clone(),
                    blob,
                };
                task.run().await?;
            }
            let (digest, size) = (Digest::of(&artifact.config), artifact.config.len() as u64);
            if repository.has_blob(&digest).await?.is_none() {
                let source = BlobSource::Bytes(artifact.config.into());
                repository.push_blob(&digest, size, &source, None).await?;
            }
            let target = Target::of(reference);
            repository.put_manifest(&target, &artifact.media_type, artifact.manifest.into()).await?;
            Ok(())
        };
        until_cancelled(cancel, pushed).await?
    }

    /// The content of a blob.
    ///
    /// # Errors
    /// `MissingBlob`.
    pub fn open_blob(&self, digest: &Digest) -> Result<std::fs::File, ImageError> {
        self.content().open_blob(digest)
    }

    fn names_to_push(&self, reference: &Reference) -> Result<Vec<(Reference, Arc<Image>)>, ImageError> {
        let state = self.state();
        let chosen =
            state.references.values().filter(|(name, _)| match (reference.tag(), reference.digest()) {
                (None, None) => name.name() == reference.name() && name.tag().is_some(),
                _ => name == reference,
            });
        let names: Vec<_> =
            chosen.filter_map(|(name, id)| Some((name.clone(), state.images.get(id)?.clone()))).collect();
        if names.is_empty() {
            return Err(match reference.tag() {
                Some(_) => ImageError::NoTag(reference.familiar()),
                None => ImageError::NotLocal(reference.familiar_name()),
            });
        }
        Ok(names)
    }

    /// Repositories of the same registry that may have a blob.
    fn mount_sources(&self, repository: &Reference, blob: &Digest) -> Vec<String> {
        let state = self.state();
        let mut paths: Vec<String> = Vec::new();
        for (name, id) in state.references.values() {
            let has =
                state.images.get(id).is_some_and(|i| i.manifest.layers.iter().any(|l| l.digest == *blob));
            let candidate = name.domain() == repository.domain() && name.path() != repository.path();
            if has && candidate && !paths.iter().any(|p| p == name.path()) && paths.len() < 3 {
                paths.push(name.path().to_owned());
            }
        }
        paths
    }

    fn read_manifest(&self, descriptor: &Descriptor) -> Result<(Bytes, Document), ImageError> {
        let bytes = self.content().read(&descriptor.digest, MAX_DOCUMENT)?;
        let document = Document::parse(&descriptor.media_type, &bytes)?;
        Ok((bytes.into(), document))
    }
}

struct Push<'a> {
    images: &'a Images,
    repository: &'a Repository,
    name: &'a Reference,
    image: &'a Image,
    /// The index, if it is one, and not only the image's own manifest.
    whole: bool,
    progress: &'a Progress,
    cancel: &'a Cancel,
}

impl Push<'_> {
    async fn run(&self) -> Result<(), ImageError> {
        let mut pins = self.images.content().pins();
        let (bytes, document) = self.images.read_manifest(&self.image.target)?;
        let (descriptor, bytes) = match document {
            Document::Manifest(manifest) => {
                self.content(&manifest, &mut pins).await?;
                (self.image.target.clone(), bytes)
            }
            Document::Index(index) => {
                let mut complete = self.images.complete_manifests(&self.image.target)?;
                let about: Vec<_> = complete.iter().map(|d| &d.digest).collect();
                let attestations =
                    attestations_about(self.images.content(), &self.image.target, &about).into_iter();
                let attestations: Vec<_> = attestations.map(|(descriptor, _)| descriptor).collect();
                complete.extend(attestations);
                if self.whole && complete.len() == index.manifests.len() {
                    for entry in &complete {
                        let bytes = self.manifest_and_content(entry, &mut pins).await?;
                        self.put(&Target::Digest(entry.digest.clone()), entry, bytes).await?;
                    }
                    (self.image.target.clone(), bytes)
                } else {
                    // COMPAT: an index of which only some platforms are here cannot be pushed; the image that is
                    // here is.
                    let entry = self.image.manifest_descriptor.clone();
                    let bytes = self.manifest_and_content(&entry, &mut pins).await?;
                    (entry, bytes)
                }
            }
        };
        let size = bytes.len() as u64;
        self.put(&Target::of(self.name), &descriptor, bytes).await?;
        let tag = self.name.tag().unwrap_or(descriptor.digest.as_str()).to_owned();
        self.progress.message(format!("{tag}: digest: {} size: {size}", descriptor.digest));
        self.progress.send(ProgressEvent::Pushed { tag, digest: descriptor.digest, size });
        Ok(())
    }

    async fn put(&self, target: &Target, descriptor: &Descriptor, bytes: Bytes) -> Result<(), ImageError> {
        let put = self.repository.put_manifest(target, &descriptor.media_type, bytes);
        until_cancelled(self.cancel, put).await??;
        Ok(())
    }

    async fn manifest_and_content(
        &self,
        descriptor: &Descriptor,
        pins: &mut crate::content::Pins,
    ) -> Result<Bytes, ImageError> {
        match self.images.read_manifest(descriptor)? {
            (bytes, Document::Manifest(manifest)) => {
                self.content(&manifest, pins).await?;
                Ok(bytes)
            }
            (_, Document::Index(_)) => Err(ImageError::Config("an index within an index")),
        }
    }

    /// Layers and configuration of one manifest.
    async fn content(&self, manifest: &Manifest, pins: &mut crate::content::Pins) -> Result<(), ImageError> {
        let mut blobs: Vec<(Descriptor, bool)> = Vec::new();
        for layer in &manifest.layers {
            let known = blobs.iter().any(|(b, _)| b.digest == layer.digest);
            if !known && !media_type::is_foreign_layer(&layer.media_type) {
                blobs.push((layer.clone(), true));
            }
        }
        for (layer, _) in &blobs {
            self.progress.layer(&layer.digest.hex()[..12], LayerPhase::Preparing, None);
        }
        blobs.push((manifest.config.clone(), false));
        let parallel = self.images.parallel_uploads();
        let slots = Arc::new(Semaphore::new(parallel));
        let mut tasks = tokio::task::JoinSet::new();
        for (n, (blob, shown)) in blobs.into_iter().enumerate() {
            pins.add(&blob.digest);
            let id = blob.digest.hex()[..12].to_owned();
            let progress = if shown { self.progress.clone() } else { Progress::none() };
            if n >= parallel {
                progress.layer(&id, LayerPhase::Waiting, None);
            }
            let task = BlobTask {
                path: self.images.content().path(&blob.digest),
                sources: self.images.mount_sources(self.name, &blob.digest),
                repository: self.repository.clone(),
                blob,
                id,
                progress,
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
        // Dropping the set stops what is still under way.
        until_cancelled(self.cancel, all).await?
    }
}

struct BlobTask {
    path: std::path::PathBuf,
    sources: Vec<String>,
    repository: Repository,
    blob: Descriptor,
    id: String,
    progress: Progress,
}

impl BlobTask {
    async fn run(self) -> Result<(), ImageError> {
        let (digest, size) = (&self.blob.digest, self.blob.size);
        if self.repository.has_blob(digest).await?.is_some() {
            self.progress.layer(&self.id, LayerPhase::LayerAlreadyExists, None);
            return Ok(());
        }
        for source in &self.sources {
            if self.repository.mount(digest, source).await? {
                self.progress.layer(&self.id, LayerPhase::MountedFrom(source.clone()), None);
                return Ok(());
            }
        }
        if !self.path.exists() {
            return Err(ImageError::MissingBlob(digest.to_string()));
        }
        self.progress.layer(&self.id, LayerPhase::Pushing, Some((0, size)));
        let (progress, id) = (self.progress.clone(), self.id.clone());
        let report: corten_registry::Progress =
            Arc::new(move |sent| progress.layer(&id, LayerPhase::Pushing, Some((sent, size))));
        self.repository.push_blob(digest, size, &BlobSource::File(self.path.clone()), Some(report)).await?;
        self.progress.layer(&self.id, LayerPhase::Pushed, None);
        Ok(())
    }
}
