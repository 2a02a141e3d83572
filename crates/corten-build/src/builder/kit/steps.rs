//! Stages and steps by BuildKit's rules: what they stand on, how they are known to the cache, what history says.

use std::sync::Arc;

use corten_base::db::{Commit, DbError};
use corten_base::{Digest, Platform, time};
use corten_image::{Image, Layer, NewImage};
use corten_wire::oci_image::{History, ImageConfig};

use super::super::cache::{CACHE, CacheRecord};
use super::super::stage::Stage;
use super::super::{Build, CacheStep, tree};
use super::{KitState, explain};
use crate::config::expand;
use crate::dockerfile::{Command, Expander, Instruction, parse_trigger};
use crate::error::{At, BuildError};
use crate::solve::SolveEventKind;

/// Marks entries of the history that a build made.
pub(crate) const COMMENT: &str = "buildkit.dockerfile.v0";

/// An error and the lines it comes from.
type Placed = (BuildError, (usize, usize));

impl Build<'_> {
    /// All of a stage.
    pub(crate) fn kit_stage(&mut self, written: &crate::dockerfile::Stage) -> Result<Stage, Placed> {
        let here = (written.line, written.end);
        let mut stage = self.begin(written).map_err(|e| (e, here))?;
        let inherited = stage.kit_mut().args.take();
        if let Some(args) = inherited {
            self.args.inherit(args);
        }
        for trigger in stage.config.on_build.take().unwrap_or_default() {
            let command = parse_trigger(&trigger).map_err(|e| (e.into(), here))?;
            if let Some(kit) = &mut self.kit {
                kit.total += usize::from(is_step(&command.instruction));
            }
            self.kit_step(&mut stage, &command, "ONBUILD ").map_err(|e| (e, here))?;
        }
        for command in &written.commands {
            self.kit_step(&mut stage, command, "").map_err(|e| (e, (command.line, command.end)))?;
        }
        stage.kit_mut().args = Some(self.args.clone());
        Ok(stage)
    }

    fn kit_step(&mut self, stage: &mut Stage, command: &Command, prefix: &str) -> Result<(), BuildError> {
        if self.cancel.is_cancelled() {
            return Err(BuildError::Cancelled);
        }
        if !is_step(&command.instruction) {
            return self.dispatch(stage, command);
        }
        let last = stage.kit_mut().last.clone();
        let shown = self.shown(stage, command);
        let vertex = self.start(&format!("{prefix}{shown}"), last.into_iter().collect());
        let done = self.dispatch(stage, command);
        if let Some(kit) = &mut self.kit {
            kit.unclaim();
            kit.alone = false;
        }
        self.end(&vertex, done.as_ref().err());
        if done.is_ok() {
            stage.kit_mut().last = Some(vertex);
            if let Some(kit) = &mut self.kit {
                kit.vertex = None;
            }
        }
        done
    }

    /// A command as the progress shows it: variables have their values.
    fn shown(&self, stage: &Stage, command: &Command) -> String {
        let (name, rest) = command.source.split_once(char::is_whitespace).unwrap_or((&command.source, ""));
        let rest = rest.trim();
        // Quotes would be lost in a command's text.
        let plain = rest.contains(['"', '\'', '\\']) || matches!(command.instruction, Instruction::Run(_));
        let expander = Expander { escape: self.escape };
        let get = self.variables(stage);
        let rest = match plain {
            true => rest.to_owned(),
            false => expander.word(rest, &get).unwrap_or_else(|_| rest.to_owned()),
        };
        format!("{} {rest}", name.to_uppercase())
    }

    /// The next step of the stage begins.
    fn start(&mut self, text: &str, inputs: Vec<Digest>) -> Digest {
        let Some(kit) = &mut self.kit else { return Digest::of(b"") };
        kit.count += 1;
        let width = kit.total.to_string().len();
        let name = format!("[{}{:>width$}/{}] {text}", kit.name, kit.count, kit.total);
        let vertex = kit.shared.vertex(&name);
        kit.shared.tell(&vertex, SolveEventKind::Started { name, inputs });
        kit.vertex = Some(vertex.clone());
        vertex
    }

    fn end(&self, vertex: &Digest, error: Option<&BuildError>) {
        if let Some(kit) = &self.kit {
            kit.shared.tell(vertex, SolveEventKind::Done(error.map(explain).unwrap_or_default()));
        }
    }

    /// What a stage stands on: a stage before it, a context of that name, nothing, or an image.
    pub(crate) fn kit_begin(
        &mut self,
        base: &str,
        asked: Option<&Platform>,
        platform: Platform,
    ) -> Result<Stage, BuildError> {
        // `FROM name:latest` and `FROM docker.io/library/name` mean the context `name`, too.
        let familiar = base.parse::<corten_base::Reference>().map(|r| r.familiar());
        let familiar = familiar.map(|f| f.strip_suffix(":latest").map(str::to_owned).unwrap_or(f));
        let base = match &familiar {
            Ok(name) if self.contexts.contains_key(name) => name,
            _ => base,
        };
        let is_named = self.contexts.contains_key(base);
        if !is_named && let Some(earlier) = self.earlier(base) {
            return Ok(earlier);
        }
        if base == "scratch" && !is_named {
            let mut stage = Stage::on(None, platform);
            stage.config.working_dir = "/".into();
            stage.kit = Some(KitState::default());
            return Ok(stage);
        }
        if let Some(kit) = &mut self.kit {
            kit.total += 1;
        }
        if is_named && let Some(stage) = self.context_stage(base, &platform)? {
            return Ok(stage);
        }
        let wanted = self.contexts.get(base).and_then(|n| n.image()).unwrap_or(base).to_owned();
        let reference = wanted.parse::<corten_base::Reference>().map(|r| r.or_latest().to_string());
        let reference = reference.unwrap_or_else(|_| wanted.clone());
        let image = self.metadata(&wanted, &reference, asked)?;
        let vertex = self.start(&format!("FROM {reference}"), Vec::new());
        if let Some(kit) = &self.kit {
            kit.shared.tell(&vertex, SolveEventKind::Cached);
        }
        self.end(&vertex, None);
        Ok(on_image(&image, platform, Some(vertex)))
    }

    /// The image, pulled if need be, as a step of its own that several stages share.
    fn metadata(
        &mut self,
        wanted: &str,
        reference: &str,
        asked: Option<&Platform>,
    ) -> Result<Arc<Image>, BuildError> {
        let Some(kit) = &mut self.kit else { return self.base_image(wanted, asked, false) };
        let shared = kit.shared;
        let name = format!("[internal] load metadata for {reference}");
        let vertex = shared.vertex(&name);
        kit.vertex = Some(vertex.clone());
        shared.tell(&vertex, SolveEventKind::Started { name, inputs: Vec::new() });
        let found = self
            .base_image(wanted, asked, self.request.pull)
            .map_err(|e| BuildError::Metadata { reference: reference.to_owned(), source: Box::new(e) });
        shared.tell(&vertex, SolveEventKind::Done(found.as_ref().err().map(explain).unwrap_or_default()));
        found
    }

    /// The stage of this name among those before.
    fn earlier(&self, base: &str) -> Option<Stage> {
        let found = self
            .finished
            .iter()
            .rev()
            .find(|f| f.stage.is_some() && !f.name.is_empty() && f.name.eq_ignore_ascii_case(base))?;
        found.stage.clone()
    }

    /// Records a step: history, the layer, the cache.
    pub(crate) fn kit_commit(
        &mut self,
        stage: &mut Stage,
        key: &str,
        created_by: String,
        layer: Option<Layer>,
    ) -> Result<(), BuildError> {
        let now = time::now_ns();
        let made_layer = layer.is_some();
        let alone = self.kit.as_ref().is_some_and(|k| k.alone);
        let kit = stage.kit_mut();
        kit.layers.extend(layer);
        if key.is_empty() {
            kit.history.push(entry(created_by, true, None));
            return Ok(());
        }
        kit.note_step(key, alone, made_layer, i64::try_from(now).unwrap_or(i64::MAX));
        kit.history.push(entry(created_by, !made_layer, Some(now)));
        let carrier = self.carrier(stage)?;
        let record = CacheRecord {
            image: carrier.id.clone(),
            created_ns: i64::try_from(now).unwrap_or(i64::MAX),
            layer: made_layer,
            step: self
                .kit
                .as_ref()
                .and_then(|k| k.vertex.as_ref())
                .map(|_| stage_text(stage))
                .unwrap_or_default(),
            used_ns: i64::try_from(now).unwrap_or(i64::MAX),
            uses: 1,
        };
        Ok(self.inner.db.write::<_, DbError>(Commit::Lazy, |w| w.put(CACHE, key, &record))?)
    }

    /// Looks a step up; on a hit the stage has its layer.
    pub(crate) fn kit_probe(
        &mut self,
        stage: &mut Stage,
        key: &str,
        created_by: &str,
    ) -> Result<bool, BuildError> {
        let Some(kit) = &self.kit else { return Ok(false) };
        if key.is_empty() || kit.no_cache {
            return Ok(false);
        }
        kit.shared.claim(key)?;
        if let Some(kit) = &mut self.kit {
            kit.claimed = Some(key.to_owned());
        }
        let Some((mut record, layer)) = self.known_step(stage, key, created_by)? else { return Ok(false) };
        let alone = self.kit.as_ref().is_some_and(|k| k.alone);
        let state = stage.kit_mut();
        state.layers.extend(layer);
        state.note_step(key, alone, record.layer, record.created_ns);
        state.history.push(entry(created_by.to_owned(), !record.layer, Some(i128::from(record.created_ns))));
        let Some(kit) = &mut self.kit else { return Ok(false) };
        kit.unclaim();
        if let Some(vertex) = &kit.vertex {
            kit.shared.tell(vertex, SolveEventKind::Cached);
        }
        // Its layers must be in an image of this stage, too: what it stood on may have been something else.
        record.image = self.carrier(stage)?.id.clone();
        record.used_ns = i64::try_from(time::now_ns()).unwrap_or(i64::MAX);
        record.uses = record.uses.saturating_add(1);
        self.inner.db.write::<_, DbError>(Commit::Lazy, |w| w.put(CACHE, key, &record))?;
        Ok(true)
    }

    /// What is recorded of a step here, or in a cache elsewhere, and its layer if it made one.
    fn known_step(
        &self,
        stage: &Stage,
        key: &str,
        created_by: &str,
    ) -> Result<Option<(CacheRecord, Option<Layer>)>, BuildError> {
        if let Some(record) = self.inner.db.get(CACHE, key)?
            && let Some(image) = self.inner.images.get(&record.image)
        {
            let layer = image.layers().pop();
            return Ok(match record.layer {
                true => layer.map(|l| (record, Some(l))),
                false => Some((record, None)),
            });
        }
        let Some(kit) = &self.kit else { return Ok(None) };
        let vertex = kit.vertex.clone();
        let mut progress = |id: &str, current: u64, total: u64| {
            let (Some(vertex), done) = (&vertex, current == total) else { return };
            let what = SolveEventKind::Progress { id: id.to_owned(), current, total, done };
            kit.shared.tell(vertex, what);
        };
        for cache in &kit.shared.request.caches {
            let Some(step) = cache.step(key, &stage.layers()) else { continue };
            // A cache that cannot be read is none.
            let layer = match cache.bring(&self.inner.images, step.layer, &mut progress, self.cancel) {
                Ok(layer) => layer,
                Err(BuildError::Cancelled) => return Err(BuildError::Cancelled),
                Err(error) => {
                    tracing::warn!(error = %explain(&error), "a layer of a cache elsewhere");
                    continue;
                }
            };
            let record = CacheRecord {
                image: Digest::of(b""),
                created_ns: step.created_ns,
                layer: layer.is_some(),
                step: created_by.to_owned(),
                used_ns: 0,
                uses: 0,
            };
            return Ok(Some((record, layer)));
        }
        Ok(None)
    }

    /// The platform of a stage, and the one that is built for where that is another.
    pub(crate) fn shown_platform(&self, written: &crate::dockerfile::Stage) -> String {
        let expander = Expander { escape: self.escape };
        let text = expand(expander, &written.platform, &|n| self.args.meta_value(n)).unwrap_or_default();
        match text.parse::<Platform>().map(Platform::normalised) {
            Ok(own) if own != self.platform && own.os == self.platform.os => {
                let target = self.platform.to_string();
                let architecture = target.split_once('/').map_or("", |(_, a)| a);
                format!("{own}->{architecture}")
            }
            Ok(own) if own != self.platform => format!("{own}->{}", self.platform),
            _ => self.platform.to_string(),
        }
    }

    /// Identity of a step by what it stands on and what goes into it.
    pub(crate) fn kit_key(&self, stage: &Stage, alone: bool, parts: &serde_json::Value) -> String {
        let below: Vec<String> = match alone {
            true => Vec::new(),
            false => stage.layers().iter().map(|l| l.diff_id.to_string()).collect(),
        };
        let platform = stage.platform.to_string();
        let whole = serde_json::json!(["buildkit", below, platform, parts]);
        Digest::of(whole.to_string().as_bytes()).hex().to_owned()
    }

    /// The image that holds a stage's layers for the cache, and on which its commands run.
    pub(crate) fn carrier(&self, stage: &Stage) -> Result<Arc<Image>, BuildError> {
        let config = ImageConfig {
            architecture: stage.platform.architecture.clone(),
            variant: stage.platform.variant.clone(),
            os: stage.platform.os.clone(),
            ..ImageConfig::default()
        };
        let layers = stage.layers();
        let new = NewImage { config, layers, cached: true, ..NewImage::default() };
        Ok(self.inner.images.create_image(new)?)
    }

    /// A base with variables expanded; as written where that fails, which the stage itself will say.
    pub(crate) fn expanded_base(&self, stage: &crate::dockerfile::Stage) -> String {
        let expander = Expander { escape: self.escape };
        expand(expander, &stage.base, &|n| self.args.meta_value(n)).unwrap_or_else(|_| stage.base.clone())
    }

    /// `WORKDIR`: the directory is made where it is not there.
    pub(crate) fn kit_workdir(&mut self, stage: &mut Stage, directory: &str) -> Result<(), BuildError> {
        let created_by = format!("WORKDIR {directory}");
        let key = self.kit_key(stage, false, &serde_json::json!(["WORKDIR", directory]));
        if self.kit_probe(stage, &key, &created_by)? {
            return Ok(());
        }
        let layer = self.change_files(stage, |root| {
            tree::make_dirs(root, directory.trim_start_matches('/'), (0, 0)).at("mkdir", directory)
        })?;
        self.kit_commit(stage, &key, created_by, layer)
    }
}

impl KitState {
    /// Notes a step that made a layer, the last one, or changed nothing.
    fn note_step(&mut self, key: &str, alone: bool, layer: bool, created_ns: i64) {
        let chain = match (alone, layer) {
            (false, _) => self.layers.clone(),
            (true, true) => self.layers.last().cloned().into_iter().collect(),
            (true, false) => Vec::new(),
        };
        self.steps.push(CacheStep { key: key.to_owned(), chain, alone, created_ns });
    }
}

fn is_step(instruction: &Instruction) -> bool {
    matches!(
        instruction,
        Instruction::Run(_) | Instruction::Copy(_) | Instruction::Add(_) | Instruction::Workdir(_)
    )
}

/// A stage on an image.
pub(crate) fn on_image(image: &Arc<Image>, platform: Platform, vertex: Option<Digest>) -> Stage {
    let mut stage = Stage::on(Some(Arc::clone(image)), platform);
    stage.image = None;
    stage.kit = Some(KitState {
        layers: image.layers(),
        base: image.layers().len(),
        history: image.config.history.clone(),
        last: vertex,
        ..KitState::default()
    });
    stage
}

/// An entry of the history.
fn entry(created_by: String, empty_layer: bool, created: Option<i128>) -> History {
    History {
        created: created.map(time::rfc3339_nano),
        created_by,
        author: String::new(),
        comment: COMMENT.to_owned(),
        empty_layer,
    }
}

/// What the list of cache records says of the step that was done last.
fn stage_text(stage: &Stage) -> String {
    let history = stage.kit.as_ref().map(|k| &k.history[..]).unwrap_or_default();
    history.last().map(|h| h.created_by.clone()).unwrap_or_default()
}
