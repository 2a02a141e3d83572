//! The result of a build: complete history, and what is made of it.

use std::sync::Arc;

use corten_base::{Reference, time};
use corten_image::{Image, NewImage};
use corten_wire::oci_image::{History, ImageConfig};

use super::super::stage::Stage;
use super::Builder;
use crate::error::BuildError;
use crate::solve::{Solved, SolvedFiles};

/// The result of a stage. Entries of the history that made no layer get the time of the first layer after them, or
/// of the last before, so that the same build makes the same image again.
pub(crate) fn solved(mut stage: Stage, epoch: Option<i64>) -> Solved {
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

impl Builder {
    /// Makes an image of a result and gives it names; with `cached` nobody sees it.
    ///
    /// # Errors
    /// The image store.
    pub fn image_of(
        &self,
        solved: &Solved,
        references: Vec<Reference>,
        cached: bool,
    ) -> Result<Arc<Image>, BuildError> {
        let config = solved.image_config();
        let layers = solved.layers.clone();
        let new = NewImage { config, layers, parent: None, references, cached };
        Ok(self.inner.images.create_image(new)?)
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
