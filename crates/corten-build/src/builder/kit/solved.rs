//! The result of a build: complete history, and what is made of it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use base64::Engine as _;
use corten_base::{Cancel, Reference, time};
use corten_image::{Image, Layer, LayerCompression, NewImage, NewIndex, NewManifest, Statements};
use corten_wire::oci_image::{Descriptor, History, ImageConfig};

use super::super::RemoteCache;
use super::super::stage::Stage;
use super::{Builder, CacheStep, Shared};
use crate::error::BuildError;
use crate::solve::{Built, Solved, SolvedFiles, SourceFile};

/// The results for all platforms.
pub(crate) fn all_solved(
    shared: &Shared<'_>,
    source: Arc<SourceFile>,
    done: Vec<(Stage, Vec<CacheStep>)>,
) -> Vec<Solved> {
    let materials = std::mem::take(&mut *shared.materials.lock().unwrap_or_else(PoisonError::into_inner));
    let (stages, steps): (Vec<_>, Vec<_>) = done.into_iter().unzip();
    let epoch = shared.request.epoch;
    let build = Arc::new(Built { source: Some(source), steps: steps.concat(), materials, epoch });
    stages.into_iter().map(|s| solved(s, shared.request.epoch, &build)).collect()
}

/// The result of a stage. Entries of the history that made no layer get the time of the first layer after them, or
/// of the last before, so that the same build makes the same image again.
fn solved(mut stage: Stage, epoch: Option<i64>, build: &Arc<Built>) -> Solved {
    let kit = stage.kit.take().unwrap_or_default();
    let mut history = kit.history;
    let created = fill_times(&mut history, epoch);
    Solved {
        layers: kit.layers,
        config: stage.config,
        history,
        author: stage.author,
        platform: stage.platform,
        created,
        steps: kit.steps,
        base_layers: kit.base,
        build: Arc::clone(build),
    }
}

/// Gives every entry a time; answers with that of the last.
fn fill_times(history: &mut [History], epoch: Option<i64>) -> String {
    if let Some(seconds) = epoch {
        let given = time::rfc3339_nano(i128::from(seconds) * 1_000_000_000);
        history.iter_mut().filter(|h| h.comment == super::steps::COMMENT).for_each(|h| {
            h.created = Some(given.clone());
        });
        return given;
    }
    let mut next = history.iter().rev().find_map(|h| h.created.clone());
    for entry in history.iter_mut().rev() {
        match &entry.created {
            Some(time) => next = Some(time.clone()),
            None => entry.created.clone_from(&next),
        }
    }
    let last = history.last().and_then(|h| h.created.clone());
    last.unwrap_or_else(|| time::rfc3339_nano(time::now_ns()))
}

impl Solved {
    /// Its image configuration.
    #[must_use]
    pub fn image_config(&self) -> ImageConfig {
        ImageConfig {
            created: Some(self.created.clone()),
            author: self.author.clone(),
            architecture: self.platform.architecture.clone(),
            variant: self.platform.variant.clone(),
            os: self.platform.os.clone(),
            config: self.config.clone(),
            history: self.history.clone(),
            ..ImageConfig::default()
        }
    }
}

/// How layers are wanted; those of a base image stay as they are, unless `force` is set.
#[derive(Debug, Clone, Default)]
pub struct LayerForm {
    /// `None` for what there is.
    pub compression: Option<LayerCompression>,
    /// `None` for the compressor's own choice.
    pub level: Option<u32>,
    /// Also of the base image.
    pub force: bool,
    /// No file is younger.
    pub epoch: Option<i64>,
}

fn is_compressed(layer: &Layer, as_wanted: LayerCompression) -> bool {
    let kind = layer.blob.media_type.as_str();
    let zstd = kind.ends_with("zstd");
    let gzip = kind.ends_with("gzip");
    match as_wanted {
        LayerCompression::Zstd => zstd,
        LayerCompression::Gzip => gzip,
        LayerCompression::None => !zstd && !gzip,
    }
}

/// How an image is made of results. Lists of annotations are by result.
#[derive(Default)]
pub struct ImageOptions<'a> {
    /// Names.
    pub references: Vec<Reference>,
    /// Nobody sees it.
    pub cached: bool,
    /// An index, also of one image.
    pub index: bool,
    /// How its layers are.
    pub form: LayerForm,
    /// The image carries the records of the steps that made it.
    pub inline_cache: bool,
    /// Of the manifests.
    pub annotations: Vec<BTreeMap<String, String>>,
    /// Of their entries in the index.
    pub entry_annotations: Vec<BTreeMap<String, String>>,
    /// Of the index.
    pub index_annotations: BTreeMap<String, String>,
    /// What is said about an image, by its place; for an index only.
    pub statements: Option<Statements<'a>>,
}

impl std::fmt::Debug for ImageOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageOptions").field("references", &self.references).finish_non_exhaustive()
    }
}

/// Field of an image's configuration with records of a cache.
pub const INLINE_CACHE: &str = "moby.buildkit.cache.v0";

impl Builder {
    /// Makes an image of results, an index where they are several or something is said about them.
    ///
    /// # Errors
    /// The image store.
    pub fn image_of(
        &self,
        results: &[Arc<Solved>],
        options: ImageOptions<'_>,
        cancel: &Cancel,
    ) -> Result<Arc<Image>, BuildError> {
        let ImageOptions { references, cached, .. } = options;
        let annotated =
            |kind: &[BTreeMap<String, String>], n: usize| kind.get(n).cloned().unwrap_or_default();
        let mut manifests = Vec::new();
        for (n, solved) in results.iter().enumerate() {
            let mut config = solved.image_config();
            let layers = self.in_form(solved, &options.form, cancel)?;
            if options.inline_cache
                && let Some(records) = RemoteCache::inline(&solved.steps, &layers)
            {
                let records = base64::engine::general_purpose::STANDARD.encode(records);
                config.extra.insert(INLINE_CACHE.into(), records.into());
            }
            manifests.push(NewManifest {
                config,
                layers,
                annotations: annotated(&options.annotations, n),
                entry_annotations: annotated(&options.entry_annotations, n),
            });
        }
        let images = &self.inner.images;
        if !options.index
            && let [_] = &manifests[..]
            && let Some(NewManifest { config, layers, annotations, .. }) = manifests.pop()
        {
            let new = NewImage { config, layers, parent: None, references, cached, annotations };
            return Ok(images.create_image(new)?);
        }
        let new = NewIndex { manifests, annotations: options.index_annotations, references, cached };
        let nothing = |_: usize, _: &Descriptor| Vec::new();
        Ok(images.create_index(new, options.statements.unwrap_or(&nothing))?)
    }

    /// The layers as they are wanted.
    fn in_form(&self, solved: &Solved, form: &LayerForm, cancel: &Cancel) -> Result<Vec<Layer>, BuildError> {
        let images = &self.inner.images;
        let mut layers = solved.layers.clone();
        for (place, layer) in layers.iter_mut().enumerate() {
            let is_base = place < solved.base_layers;
            if let (Some(epoch), false) = (form.epoch, is_base) {
                *layer = images.with_times(layer, epoch, cancel)?;
            }
            if let Some(compression) = form.compression
                && (form.force || !is_base)
                && (form.level.is_some() || !is_compressed(layer, compression))
            {
                *layer = images.recompress(layer, compression, form.level, cancel)?;
            }
        }
        Ok(layers)
    }

    /// The files of a result, for exporters.
    ///
    /// # Errors
    /// The layers are gone or cannot be mounted.
    pub fn files_of(&self, solved: &Solved) -> Result<SolvedFiles, BuildError> {
        Ok(SolvedFiles(super::super::copy::files_of(&self.inner.images, &solved.layers)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_steps_without_layers() {
        let entry =
            |time: &str| History { created: (!time.is_empty()).then(|| time.into()), ..History::default() };
        let mut history: Vec<History> = ["", "1", "", "2", ""].map(entry).into();
        assert_eq!(fill_times(&mut history, None), "2");
        let times: Vec<_> = history.iter().filter_map(|h| h.created.as_deref()).collect();
        assert_eq!(times, ["1", "1", "2", "2", "2"]);
        assert!(fill_times(&mut [], None).ends_with('Z'));
    }
}
