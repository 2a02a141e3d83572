//! Finding images: by name, id or prefix; lists, history, disk usage.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use corten_base::reference::InvalidReference;
use corten_base::{Digest, Platform, Reference, time, units};

use super::records::{self, State};
use super::{Filters, Images};
use crate::{DiskUsage, HistoryItem, Image, ImageError, ImageUsage, Summary};

/// How a name led to its image.
#[derive(Debug)]
pub(super) enum Match {
    /// By this reference.
    Name(Reference, Digest),
    /// By its id, or the beginning of it.
    Id(Digest),
}

impl Match {
    pub(super) const fn id(&self) -> &Digest {
        match self {
            Self::Name(_, id) | Self::Id(id) => id,
        }
    }
}

impl State {
    /// COMPAT: moby's order: reference with `:latest` implied, then an id prefix of at least four digits.
    pub(super) fn find(&self, name: &str) -> Result<Match, ImageError> {
        if let Ok(id) = name.parse::<Digest>() {
            return if self.records.contains_key(&id) {
                Ok(Match::Id(id))
            } else {
                Err(ImageError::NotFound(name.to_owned()))
            };
        }
        let reference = match name.parse::<Reference>() {
            Ok(reference) => Some(reference.or_latest()),
            Err(InvalidReference::LooksLikeId(_)) => None,
            Err(e) => return Err(e.into()),
        };
        if let Some(reference) = &reference
            && let Some(found) = self.find_reference(reference)
        {
            return Ok(found);
        }
        if let Some(id) = self.find_prefix(name)? {
            return Ok(Match::Id(id));
        }
        Err(ImageError::NotFound(reference.map_or_else(|| format!("sha256:{name}"), |r| r.familiar())))
    }

    fn find_reference(&self, reference: &Reference) -> Option<Match> {
        if let Some((found, id)) = self.references.get(&reference.to_string()) {
            return Some(Match::Name(found.clone(), id.clone()));
        }
        // `name@digest` fits every name of that repository whose image has the digest.
        let digest = reference.digest()?;
        let (_, id) =
            self.references.values().find(|(r, id)| id == digest && r.name() == reference.name())?;
        Some(Match::Id(id.clone()))
    }

    fn find_prefix(&self, name: &str) -> Result<Option<Digest>, ImageError> {
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        let is_prefix = (4..=64).contains(&prefix.len())
            && prefix.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !is_prefix {
            return Ok(None);
        }
        let mut found = self.records.keys().filter(|id| id.hex().starts_with(prefix) && self.is_visible(id));
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => Err(ImageError::Ambiguous),
            (first, _) => Ok(first.cloned()),
        }
    }
}

impl Images {
    /// Finds an image by reference (`:latest` implied), id, or prefix of an id (with or without `sha256:`).
    ///
    /// # Errors
    /// `NotFound` (`No such image: x`), `Ambiguous`, `Reference`.
    pub fn resolve(&self, name: &str) -> Result<Arc<Image>, ImageError> {
        let state = self.state();
        let found = state.find(name)?;
        self.get(found.id()).ok_or_else(|| ImageError::NotFound(name.to_owned()))
    }

    /// As [`Images::resolve`], but the view for this platform (same id, other manifest and configuration).
    ///
    /// # Errors
    /// As `resolve`, and `PlatformMismatch`.
    pub fn resolve_for(&self, name: &str, platform: Option<&Platform>) -> Result<Arc<Image>, ImageError> {
        let image = self.resolve(name)?;
        let Some(wanted) = platform else { return Ok(image) };
        if image.platform().matches(wanted) {
            return Ok(image);
        }
        let state = self.state();
        if let Some(record) = state.records.get(&image.id) {
            for manifest in record.manifests.iter().skip(1) {
                let view = records::view(
                    &image.id,
                    record,
                    manifest,
                    &image.references,
                    &self.inner.content,
                    &self.inner.snapshots,
                )?;
                if view.platform().matches(wanted) {
                    return Ok(Arc::new(view));
                }
            }
        }
        let reference =
            name.parse::<Reference>().map_or_else(|_| name.to_owned(), |r| r.or_latest().familiar());
        Err(ImageError::PlatformMismatch { reference, platform: wanted.to_string() })
    }

    /// The image with exactly this id.
    #[must_use]
    pub fn get(&self, id: &Digest) -> Option<Arc<Image>> {
        let image = self.state().images.get(id).cloned()?;
        Some(self.measured(image))
    }

    /// Layers are unpacked when they are first needed; sizes follow.
    fn measured(&self, image: Arc<Image>) -> Arc<Image> {
        if image.layer_sizes.iter().all(Option::is_some) {
            return image;
        }
        let mut now = Image::clone(&image);
        records::measure(&mut now, &self.inner.snapshots);
        Arc::new(now)
    }

    /// Number of images (`Images` of `GET /info`).
    #[must_use]
    pub fn count(&self) -> usize {
        let state = self.state();
        state.images.keys().filter(|id| state.is_visible(id)).count()
    }

    /// `GET /images/json`: filters `reference`, `dangling`, `label`, `label!`, `before`, `since`, `until`. Newest first.
    /// Without `all`, untagged images that have children are left out.
    ///
    /// # Errors
    /// `UnknownFilter`, `FilterValue`, and `NotFound` of `before` and `since`.
    pub fn list(&self, filters: &Filters, all: bool) -> Result<Vec<Summary>, ImageError> {
        let allowed = ["reference", "dangling", "label", "label!", "before", "since", "until"];
        check_names(filters, &allowed)?;
        let state = self.state();
        let dangling = boolean(filters, "dangling")?;
        let until = until(filters)?;
        let created =
            |name: &str| self.resolve(name).map(|i| i.created_ns().unwrap_or(i128::from(i.added_ns)));
        let before = values(filters, "before").map(created).collect::<Result<Vec<_>, _>>()?;
        let since = values(filters, "since").map(created).collect::<Result<Vec<_>, _>>()?;
        let patterns: Vec<&str> = values(filters, "reference").collect();
        let mut out = Vec::new();
        for image in state.images.values() {
            let named = !image.references.is_empty();
            let time = image.created_ns().unwrap_or(i128::from(image.added_ns));
            let skip = !state.is_visible(&image.id)
                || dangling.is_some_and(|d| d == named)
                || (!named && !all && state.has_children(&image.id))
                || before.iter().any(|t| time >= *t)
                || since.iter().any(|t| time <= *t)
                || until.is_some_and(|t| time >= t)
                || !labels_match(filters, &image.labels());
            if !skip && let Some(summary) = summary(self.measured(Arc::clone(image)), &patterns) {
                out.push(summary);
            }
        }
        out.sort_by_key(|s| std::cmp::Reverse(s.image.created_ns().unwrap_or(0)));
        Ok(out)
    }

    /// `GET /images/{name}/history`, newest step first. Steps that are images of their own here (parents) have
    /// ids and tags.
    ///
    /// # Errors
    /// As [`Images::resolve_for`].
    pub fn history(&self, name: &str, platform: Option<&Platform>) -> Result<Vec<HistoryItem>, ImageError> {
        let image = self.resolve_for(name, platform)?;
        let mut sizes = image.layer_sizes.iter();
        let mut items: Vec<HistoryItem> = Vec::new();
        for step in &image.config.history {
            let size = if step.empty_layer { 0 } else { sizes.next().copied().flatten().unwrap_or(0) };
            items.push(HistoryItem {
                id: None,
                created_ns: step.created.as_deref().and_then(time::parse_rfc3339).unwrap_or(0),
                created_by: step.created_by.clone(),
                tags: Vec::new(),
                size,
                comment: step.comment.clone(),
            });
        }
        items.reverse();
        let mut current = Some(image);
        for item in &mut items {
            let Some(image) = current.take() else { break };
            item.id = Some(image.id.clone());
            item.tags = image.repo_tags();
            current = image.parent.as_ref().and_then(|p| self.get(p));
        }
        Ok(items)
    }

    /// For `GET /system/df`.
    ///
    /// # Errors
    /// The database or directories cannot be read.
    pub fn disk_usage(&self) -> Result<DiskUsage, ImageError> {
        let holders = self.holders()?;
        let summaries = self.list(&Filters::new(), false)?;
        let mut users: HashMap<Digest, usize> = HashMap::new();
        for summary in &summaries {
            let layers: HashSet<_> = summary.image.layers().into_iter().map(|l| l.diff_id).collect();
            for diff_id in layers {
                *users.entry(diff_id).or_default() += 1;
            }
        }
        let mut layers_size = self.content().usage()?;
        for diff_id in users.keys() {
            layers_size += self.inner.snapshots.layer(diff_id).map_or(0, |i| i.size);
        }
        let images = summaries.into_iter().map(|summary| {
            let image = &summary.image;
            let shared = |(layer, size): (crate::Layer, &Option<u64>)| {
                let is_shared = users.get(&layer.diff_id).is_some_and(|n| *n > 1);
                if is_shared { size.unwrap_or(0) + layer.blob.size } else { 0 }
            };
            let shared_size = image.layers().into_iter().zip(&image.layer_sizes).map(shared).sum();
            let holders = holders.get(&image.id).map_or(0, Vec::len);
            ImageUsage { summary, shared_size, holders }
        });
        Ok(DiskUsage { layers_size, images: images.collect() })
    }
}

/// The line of one image, or none where no name passes the patterns.
fn summary(image: Arc<Image>, patterns: &[&str]) -> Option<Summary> {
    let names: Vec<&Reference> = image
        .references
        .iter()
        .filter(|r| patterns.is_empty() || patterns.iter().any(|p| matches(p, r)))
        .collect();
    if names.is_empty() && !patterns.is_empty() {
        return None;
    }
    let repo_tags = names.iter().filter(|r| r.tag().is_some()).map(|r| r.familiar()).collect();
    // COMPAT: the reference engine lists the digest for the last of the names only.
    let repo_digests = names.last().map(|r| r.with_digest(image.id.clone()).familiar()).into_iter().collect();
    Some(Summary { image, repo_tags, repo_digests })
}

/// A `reference` filter: a glob on the familiar name, with or without its tag.
fn matches(pattern: &str, reference: &Reference) -> bool {
    glob(pattern.as_bytes(), reference.familiar().as_bytes())
        || glob(pattern.as_bytes(), reference.familiar_name().as_bytes())
}

/// Go's `path.Match`: `*` and `?` do not cross slashes, `[a-z]` and `[^a]` are classes, a backslash quotes.
pub(super) fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', rest @ ..] => {
            let end = text.iter().position(|b| *b == b'/').unwrap_or(text.len());
            (0..=end).any(|n| glob(rest, &text[n..]))
        }
        [b'?', rest @ ..] => text.first().is_some_and(|b| *b != b'/') && glob(rest, &text[1..]),
        [b'[', rest @ ..] => {
            let Some(first) = text.first() else { return false };
            let Some(end) = rest.iter().skip(1).position(|b| *b == b']').map(|n| n + 1) else { return false };
            let (negated, class) = match &rest[..end] {
                [b'^', class @ ..] => (true, class),
                class => (false, class),
            };
            in_class(class, *first) != negated && glob(&rest[end + 1..], &text[1..])
        }
        [b'\\', quoted, rest @ ..] => text.first() == Some(quoted) && glob(rest, &text[1..]),
        [literal, rest @ ..] => text.first() == Some(literal) && glob(rest, &text[1..]),
    }
}

fn in_class(class: &[u8], byte: u8) -> bool {
    match class {
        [] => false,
        [low, b'-', high, rest @ ..] => (*low..=*high).contains(&byte) || in_class(rest, byte),
        [one, rest @ ..] => *one == byte || in_class(rest, byte),
    }
}

pub(super) fn check_names(filters: &Filters, allowed: &[&str]) -> Result<(), ImageError> {
    match filters.keys().find(|name| !allowed.contains(&name.as_str())) {
        Some(name) => Err(ImageError::UnknownFilter(name.clone())),
        None => Ok(()),
    }
}

pub(super) fn values<'a>(filters: &'a Filters, name: &str) -> impl Iterator<Item = &'a str> {
    filters.get(name).into_iter().flatten().map(String::as_str)
}

/// A boolean filter in Docker's spellings; several contradicting values are an error.
pub(super) fn boolean(filters: &Filters, name: &str) -> Result<Option<bool>, ImageError> {
    let mut out = None;
    for value in values(filters, name) {
        let parsed = match value {
            "1" | "true" | "t" | "T" | "TRUE" | "True" => true,
            "0" | "false" | "f" | "F" | "FALSE" | "False" => false,
            _ => return Err(bad_value(filters, name)),
        };
        if out.is_some_and(|b| b != parsed) {
            return Err(bad_value(filters, name));
        }
        out = Some(parsed);
    }
    Ok(out)
}

fn bad_value(filters: &Filters, name: &str) -> ImageError {
    let value = values(filters, name).collect::<Vec<_>>().join(" ");
    ImageError::FilterValue { name: name.to_owned(), value }
}

/// `until`: a time, a Unix time, or a duration before now; nanoseconds since the epoch.
pub(super) fn until(filters: &Filters) -> Result<Option<i128>, ImageError> {
    let mut given = values(filters, "until");
    let Some(text) = given.next() else { return Ok(None) };
    let parsed = units::parse_duration(text)
        .map(|d| time::now_ns() - i128::try_from(d.as_nanos()).unwrap_or(0))
        .or_else(|| time::parse_rfc3339(text))
        .or_else(|| time::parse_rfc3339(&format!("{text}Z")))
        .or_else(|| time::parse_rfc3339(&format!("{text}T00:00:00Z")))
        .or_else(|| {
            let (seconds, nanos) = text.split_once('.').unwrap_or((text, "0"));
            let nanos = format!("{nanos:0<9}").get(..9)?.parse::<i128>().ok()?;
            Some(i128::from(seconds.parse::<i64>().ok()?) * 1_000_000_000 + nanos)
        });
    match (parsed, given.next()) {
        (Some(t), None) => Ok(Some(t)),
        _ => Err(bad_value(filters, "until")),
    }
}

pub(super) fn labels_match(filters: &Filters, labels: &BTreeMap<String, String>) -> bool {
    let has = |wanted: &str| match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
        None => labels.contains_key(wanted),
    };
    values(filters, "label").all(has) && !values(filters, "label!").any(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, text, want) in [
            ("copy", "copy", true),
            ("*/team/*:v1", "example.test:5000/team/app:v1", true),
            ("*", "a/b", false),
            ("b?x", "box", true),
            ("b[a-z]x", "box", true),
            ("b[^o]x", "box", false),
            ("b[", "b[", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), want, "{pattern} {text}");
        }
    }
}
