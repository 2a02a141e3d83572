//! Names given and taken away, images removed, and what nothing refers to collected.

use std::collections::BTreeMap;

use corten_base::{Digest, Reference};

use super::lookup::{Match, boolean, check_names, labels_match, until};
use super::records::{ImageRecord, Reachable};
use super::{Draft, Filters, Images};
use crate::{Image, ImageError, Pruned, RemoveOptions, Removed};

/// What is to be published once a change is durable.
type Events = Vec<(&'static str, Digest, String, Option<Image>)>;

impl Images {
    /// Names an image; a name that another image has moves. Publishes `tag`.
    ///
    /// # Errors
    /// As [`Images::resolve`]; `TagIsDigest`.
    pub fn tag(&self, name: &str, target: &Reference) -> Result<(), ImageError> {
        if target.digest().is_some() {
            return Err(ImageError::TagIsDigest);
        }
        let target = target.clone().or_latest();
        let image = self.resolve(name)?;
        let layers = image.manifest.layers.iter().map(|l| &l.digest);
        self.content().sync(layers.chain([&image.manifest.config.digest, &image.id]))?;
        let id = self.update(|draft| {
            let id = draft.state.find(name)?.id().clone();
            draft.put_reference(&target, &id)?;
            draft.change(&id, |record| record.dangling = false)?;
            Ok(id)
        })?;
        self.event("tag", id.as_str(), &target.familiar(), self.get(&id).as_deref());
        Ok(())
    }

    /// `DELETE /images/{name}` by Docker's rules: a name is taken away; with its last name, or by id, the image
    /// goes, and untagged parents that nothing else needs with it.
    ///
    /// # Errors
    /// As [`Images::resolve`]; conflicts.
    pub fn remove(&self, name: &str, options: &RemoveOptions) -> Result<Vec<Removed>, ImageError> {
        if !options.platforms.is_empty() {
            return self.remove_platforms(name, options);
        }
        let mut events = Events::new();
        let removed = self.update(|draft| {
            Removal { draft, options, removed: Vec::new(), events: &mut events }.by_name(name)
        })?;
        self.publish(events);
        if removed.iter().any(|r| matches!(r, Removed::Deleted(_))) {
            self.collect()?;
        }
        Ok(removed)
    }

    /// Removes what an image has for some platforms; with the last of them it goes as a whole.
    fn remove_platforms(&self, name: &str, options: &RemoveOptions) -> Result<Vec<Removed>, ImageError> {
        let mut going: Vec<Digest> = Vec::new();
        for platform in &options.platforms {
            let manifest = self.resolve_for(name, Some(platform))?.manifest_descriptor.digest.clone();
            if let Some(container) = options.in_use.get(&manifest) {
                return Err(ImageError::HardConflict {
                    action: format!("delete {}", short(manifest.hex())),
                    reason: format!("image is being used by container {}", short(container)),
                });
            }
            if !going.contains(&manifest) {
                going.push(manifest);
            }
        }
        let all_go = self.update(|draft| {
            let id = draft.state.find(name)?.id().clone();
            let Some(record) = draft.state.records.get(&id) else { return Ok(true) };
            let mut record = ImageRecord::clone(record);
            record.manifests.retain(|m| !going.contains(&m.digest));
            if record.manifests.is_empty() {
                return Ok(true);
            }
            draft.put_image(&id, record)?;
            Ok(false)
        })?;
        if all_go {
            return self.remove(name, &RemoveOptions { platforms: Vec::new(), ..options.clone() });
        }
        self.collect()?;
        Ok(going.into_iter().map(Removed::Deleted).collect())
    }

    /// `POST /images/prune`: filters `dangling` (default true), `until`, `label`, `label!`. Images with holders stay.
    ///
    /// # Errors
    /// `UnknownFilter`, `FilterValue`.
    pub fn prune(&self, filters: &Filters) -> Result<Pruned, ImageError> {
        check_names(filters, &["dangling", "until", "label", "label!"])?;
        let dangling_only = boolean(filters, "dangling")?.unwrap_or(true);
        let until = until(filters)?;
        let mut events = Events::new();
        let removed = self.update(|draft| {
            let options = RemoveOptions { force: true, ..RemoveOptions::default() };
            let mut removal = Removal { draft, options: &options, removed: Vec::new(), events: &mut events };
            let holders = removal.draft.holders()?;
            // Children go before their parents; each round may free more.
            loop {
                let chosen = removal.draft.state.images.values().find(|image| {
                    let unused =
                        !holders.contains_key(&image.id) && !removal.draft.state.has_children(&image.id);
                    let time = image.created_ns().unwrap_or(i128::from(image.added_ns));
                    unused
                        && removal.draft.state.is_visible(&image.id)
                        && (!dangling_only || image.references.is_empty())
                        && until.is_none_or(|t| time < t)
                        && labels_match(filters, &image.labels())
                });
                let Some(id) = chosen.map(|i| i.id.clone()) else { break };
                removal.delete(&id)?;
            }
            Ok(removal.removed)
        })?;
        self.publish(events);
        let space_reclaimed = if removed.is_empty() { 0 } else { self.collect()? };
        let reclaimed = [("reclaimed".to_owned(), space_reclaimed.to_string())];
        self.inner.bus.publish("image", "prune", "", reclaimed.into());
        Ok(Pruned { removed, space_reclaimed })
    }

    /// Whether an image that users see has this layer.
    #[must_use]
    pub fn is_in_an_image(&self, diff_id: &Digest) -> bool {
        let state = self.state();
        let has = |image: &Image| image.config.rootfs.diff_ids.contains(diff_id);
        state.images.iter().any(|(id, image)| has(image) && state.is_visible(id))
    }

    /// For the builder: these images are in its cache no longer. Those that are nothing else go; says how many
    /// bytes that freed.
    ///
    /// # Errors
    /// The store.
    pub fn drop_cached(&self, ids: &[Digest]) -> Result<u64, ImageError> {
        self.update_as(corten_base::db::Commit::Lazy, |draft| {
            let holders = draft.holders()?;
            for id in ids {
                let Some(record) = draft.state.records.get(id).filter(|r| r.cached) else { continue };
                let needed =
                    record.dangling || !draft.state.references_of(id).is_empty() || holders.contains_key(id);
                if needed {
                    draft.change(id, |record| record.cached = false)?;
                } else {
                    draft.remove_image(id)?;
                }
            }
            Ok(())
        })?;
        self.collect()
    }

    fn publish(&self, events: Events) {
        for (action, id, name, image) in events {
            self.event(action, id.as_str(), &name, image.as_ref());
        }
    }

    /// Removes blobs and layers that nothing refers to; says how many bytes that freed.
    pub(crate) fn collect(&self) -> Result<u64, ImageError> {
        let _no_changes_meanwhile = self.inner.gate.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let reachable = Reachable::of(&self.state(), self.content());
        let freed = self.content().collect(&reachable.blobs)?;
        Ok(freed + self.inner.snapshots.collect(&reachable.layers)?)
    }
}

/// One removal within its transaction.
struct Removal<'a, 'b> {
    draft: &'a mut Draft<'b>,
    options: &'a RemoveOptions,
    removed: Vec<Removed>,
    events: &'a mut Events,
}

impl Removal<'_, '_> {
    fn by_name(mut self, name: &str) -> Result<Vec<Removed>, ImageError> {
        let found = self.draft.state.find(name)?;
        let id = found.id().clone();
        let all = self.draft.state.references_of(&id);
        let holders = self.draft.holders()?;
        let holders = holders.get(&id).map_or(&[][..], Vec::as_slice);
        match found {
            Match::Name(reference, _) => {
                let same = same_references(&reference, &all);
                if same.len() != all.len() {
                    for reference in &same {
                        self.untag(reference, &id)?;
                    }
                    self.drop_dangling(&id)?;
                    return Ok(self.removed);
                }
                if let Some(holder) = holders.first() {
                    self.check_name_in_use(&reference, &id, holder)?;
                    for reference in &same {
                        self.untag(reference, &id)?;
                    }
                    self.draft.keep(&id)?;
                    return Ok(self.removed);
                }
            }
            Match::Id(_) => {
                // COMPAT: `name@digest` counts as one name; an id stands for all of them.
                let repositories = all.iter().filter(|r| r.tag().is_some()).count();
                self.check_conflicts(&id, holders, repositories)?;
                if !holders.is_empty() {
                    for reference in &all {
                        self.untag(reference, &id)?;
                    }
                    self.draft.keep(&id)?;
                    return Ok(self.removed);
                }
            }
        }
        self.delete(&id)?;
        Ok(self.removed)
    }

    fn check_name_in_use(&self, reference: &Reference, id: &Digest, holder: &str) -> Result<(), ImageError> {
        if self.options.force {
            return Ok(());
        }
        Err(ImageError::SoftConflict {
            action: format!("delete {}", reference.familiar()),
            reason: format!("container {} is using its referenced image {}", short(holder), short(id.hex())),
        })
    }

    fn check_conflicts(&self, id: &Digest, holders: &[String], names: usize) -> Result<(), ImageError> {
        let action = || format!("delete {}", short(id.hex()));
        if let Some(running) = holders.iter().find(|h| self.options.running.contains(h)) {
            let reason = format!("image is being used by running container {}", short(running));
            return Err(ImageError::HardConflict { action: action(), reason });
        }
        if self.options.force {
            return Ok(());
        }
        if let Some(stopped) = holders.first() {
            let reason = format!("image is being used by stopped container {}", short(stopped));
            return Err(ImageError::SoftConflict { action: action(), reason });
        }
        if names > 1 {
            let reason = "image is referenced in multiple repositories".to_owned();
            return Err(ImageError::SoftConflict { action: action(), reason });
        }
        Ok(())
    }

    fn untag(&mut self, reference: &Reference, id: &Digest) -> Result<(), ImageError> {
        let image = self.draft.state.images.get(id).map(|i| Image::clone(i));
        self.draft.remove_reference(reference)?;
        self.removed.push(Removed::Untagged(reference.familiar()));
        self.events.push(("untag", id.clone(), reference.familiar(), image));
        Ok(())
    }

    /// COMPAT: the reference engine keeps an unnamed reference `moby-dangling@<id>` for an image whose name was
    /// loaded again, and takes it away with the next name.
    fn drop_dangling(&mut self, id: &Digest) -> Result<(), ImageError> {
        if self.draft.state.records.get(id).is_some_and(|r| r.dangling) {
            self.draft.change(id, |record| record.dangling = false)?;
            self.removed.push(Removed::Untagged(format!("moby-dangling@{id}")));
        }
        Ok(())
    }

    /// Removes an image with all its names, then parents that were only kept for it.
    fn delete(&mut self, id: &Digest) -> Result<(), ImageError> {
        for reference in self.draft.state.references_of(id) {
            self.untag(&reference, id)?;
        }
        let holders = self.draft.holders()?;
        let mut next = Some(id.clone());
        while let Some(id) = next.take() {
            let Some(record) = self.draft.state.records.get(&id).cloned() else { break };
            let image = self.draft.state.images.get(&id).map(|i| Image::clone(i));
            if record.cached {
                // The build cache still has it.
                self.draft.change(&id, |record| record.dangling = false)?;
            } else {
                self.draft.remove_image(&id)?;
            }
            self.removed.push(Removed::Deleted(id.clone()));
            self.events.push(("delete", id.clone(), id.to_string(), image));
            next = record.parent.clone().filter(|p| !self.options.no_prune && self.is_left_over(p, &holders));
        }
        Ok(())
    }

    fn is_left_over(&self, id: &Digest, holders: &BTreeMap<Digest, Vec<String>>) -> bool {
        self.draft.state.references_of(id).is_empty()
            && !self.draft.state.records.get(id).is_some_and(|r| r.cached)
            && !self.draft.state.has_children(id)
            && !holders.contains_key(id)
    }
}

/// The references that go together with one: itself, and `name@digest` of its repository if no other tag of that
/// repository is left.
fn same_references(reference: &Reference, all: &[Reference]) -> Vec<Reference> {
    let other_tags = all.iter().any(|r| r.name() == reference.name() && r.tag().is_some() && r != reference);
    all.iter()
        .filter(|r| *r == reference || (!other_tags && r.name() == reference.name() && r.tag().is_none()))
        .cloned()
        .collect()
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
