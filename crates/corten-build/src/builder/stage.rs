//! One stage: its base, its state, and how a step becomes an image.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use corten_base::{Platform, Reference, time};
use corten_image::{Image, ImageError, Layer, NewImage, Progress};
use corten_wire::oci_image::{ContainerConfig, History, ImageConfig};

use super::kit::KitState;
use super::{Build, tree};
use crate::config::{DEFAULT_PATH, Editor, expand, join, lookup, shell};
use crate::dockerfile::{Expander, Instruction};
use crate::error::{At, BuildError};
use crate::request::BuildEvent;
use std::os::fd::AsFd;

/// State of the stage being built.
#[derive(Clone)]
pub(crate) struct Stage {
    /// `None` for `scratch` before the first step, and by BuildKit's rules, where a step is no image.
    pub(crate) image: Option<Arc<Image>>,
    pub(crate) config: ContainerConfig,
    pub(crate) author: String,
    pub(crate) cmd_set: bool,
    pub(crate) platform: Platform,
    /// By BuildKit's rules.
    pub(crate) kit: Option<KitState>,
}

/// A stage that is done, or is not needed.
#[derive(Clone)]
pub(crate) struct Finished {
    pub(crate) name: String,
    pub(crate) stage: Option<Stage>,
}

impl Stage {
    pub(crate) fn on(image: Option<Arc<Image>>, platform: Platform) -> Self {
        let mut config = image.as_ref().map(|i| i.config.config.clone()).unwrap_or_default();
        let env = config.env.get_or_insert_default();
        if lookup(env, "PATH").is_none() {
            env.push(DEFAULT_PATH.to_owned());
        }
        let platform = image.as_ref().map_or(platform, |i| i.platform());
        Self { image, config, author: String::new(), cmd_set: false, platform, kit: None }
    }

    pub(crate) fn layers(&self) -> Vec<Layer> {
        if let Some(kit) = &self.kit {
            return kit.layers.clone();
        }
        self.image.as_ref().map(|i| i.layers()).unwrap_or_default()
    }

    pub(crate) fn env(&self) -> Vec<String> {
        self.config.env.clone().unwrap_or_default()
    }
}

impl Build<'_> {
    /// `FROM`.
    pub(crate) fn begin(&mut self, written: &crate::dockerfile::Stage) -> Result<Stage, BuildError> {
        let expander = Expander { escape: self.escape };
        let base = expand(expander, &written.base, &|n| self.args.meta_value(n))?;
        let platform = expand(expander, &written.platform, &|n| self.args.meta_value(n))?;
        if base.is_empty() {
            return Err(BuildError::invalid(format!("base name ({}) should not be blank", written.base)));
        }
        let asked = match platform.as_str() {
            "" => self.request.platform.clone(),
            text => Some(text.parse::<Platform>().map_err(|e| BuildError::invalid(e.to_string()))?),
        };
        let platform = asked.clone().unwrap_or_else(|| self.platform.clone());
        if self.kit.is_some() {
            return self.kit_begin(&base, asked.as_ref(), platform);
        }
        if let Some(earlier) = self.finished.iter().find(|f| f.name.eq_ignore_ascii_case(&base)) {
            return Ok(Stage::on(earlier.stage.as_ref().and_then(|s| s.image.clone()), platform));
        }
        if base == "scratch" {
            return Ok(Stage::on(None, platform));
        }
        let image = self.base_image(&base, asked.as_ref(), self.request.pull)?;
        Ok(Stage::on(Some(image), platform))
    }

    /// An image by name, pulled where it is not here.
    pub(crate) fn base_image(
        &mut self,
        name: &str,
        platform: Option<&Platform>,
        always_pull: bool,
    ) -> Result<Arc<Image>, BuildError> {
        let image = self.find_image(name, platform, always_pull)?;
        if let Some(kit) = &self.kit {
            let reference = name.parse::<Reference>()?.or_latest().to_string();
            let platform = platform.cloned().unwrap_or_else(|| image.platform()).to_string();
            kit.shared.note(|m| {
                m.images.insert((reference, platform), image.id.clone());
            });
        }
        Ok(image)
    }

    fn find_image(
        &mut self,
        name: &str,
        platform: Option<&Platform>,
        always_pull: bool,
    ) -> Result<Arc<Image>, BuildError> {
        if !always_pull {
            match self.inner.images.resolve_for(name, platform) {
                Ok(image) => return Ok(image),
                Err(ImageError::NotFound(_) | ImageError::PlatformMismatch { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        let reference = name.parse::<Reference>()?.or_latest();
        self.pull(&reference, platform)
    }

    /// Pulls on a thread of its own, so that progress can be passed on from this one.
    fn pull(&mut self, reference: &Reference, platform: Option<&Platform>) -> Result<Arc<Image>, BuildError> {
        let (puller, cancel) = (self.puller, self.cancel);
        let (sender, receiver) = mpsc::channel();
        let progress = Progress::new(move |event| {
            // Nobody listens any more: the pull is about to end.
            let _ = sender.send(event);
        });
        let kit = self.kit.as_ref();
        let say = &mut *self.say;
        let mut tell = |event| match kit {
            Some(kit) => kit.pulled(&event),
            None => say(BuildEvent::Progress(event)),
        };
        std::thread::scope(|scope| {
            let pull = scope.spawn(move || puller.pull(reference, platform, &progress, cancel));
            while !pull.is_finished() {
                if let Ok(event) = receiver.recv_timeout(Duration::from_millis(50)) {
                    tell(event);
                }
            }
            receiver.try_iter().for_each(tell);
            let image =
                pull.join().map_err(|_| BuildError::invalid("the pull of the base image panicked"))?;
            Ok(image?)
        })
    }

    pub(crate) fn meta_arg(&mut self, args: &[(String, Option<String>)]) -> Result<(), BuildError> {
        let expander = Expander { escape: self.escape };
        for (name, default) in args {
            let default = match default {
                Some(text) => Some(expand(expander, text, &|n| self.args.meta_value(n))?),
                None => None,
            };
            self.args.add_meta(name, default);
        }
        Ok(())
    }

    /// What variables in an instruction of this stage mean.
    pub(crate) fn variables(&self, stage: &Stage) -> impl Fn(&str) -> Option<String> + use<> {
        let env = stage.env();
        let args = self.args.in_force(&env);
        move |name: &str| lookup(&env, name).or_else(|| args.get(name).cloned())
    }

    pub(crate) fn arg(
        &mut self,
        stage: &mut Stage,
        args: &[(String, Option<String>)],
    ) -> Result<(), BuildError> {
        let expander = Expander { escape: self.escape };
        let get = self.variables(stage);
        let mut texts = Vec::new();
        for (name, default) in args {
            let default = match default {
                Some(text) => Some(expand(expander, text, &get)?),
                None => None,
            };
            texts.push(default.as_ref().map_or_else(|| name.clone(), |d| format!("{name}={d}")));
            self.args.add(name, default);
        }
        let text = format!("ARG {}", texts.join(" "));
        self.commit_config(stage, &text)
    }

    /// An instruction that changes the configuration only.
    pub(crate) fn configure(
        &mut self,
        stage: &mut Stage,
        instruction: &Instruction,
    ) -> Result<(), BuildError> {
        if let (Instruction::Healthcheck(_), Some(old)) = (instruction, &stage.config.healthcheck)
            && !old.test.is_empty()
        {
            self.print(format!("Note: overriding previous HEALTHCHECK: [{}]\n", old.test.join(" ")));
        }
        let get = self.variables(stage);
        let mut editor = Editor {
            config: &mut stage.config,
            author: &mut stage.author,
            cmd_set: &mut stage.cmd_set,
            expander: Expander { escape: self.escape },
            get: &get,
        };
        let text = editor.apply(instruction)?;
        self.commit_config(stage, &text)
    }

    fn commit_config(&mut self, stage: &mut Stage, text: &str) -> Result<(), BuildError> {
        if self.kit.is_some() {
            return self.kit_commit(stage, "", text.to_owned(), None);
        }
        let created_by = nop(stage, &format!(" {text}"));
        let key = self.key(stage, &created_by, "");
        if self.probe(stage, &key)? {
            return Ok(());
        }
        self.commit(stage, &key, created_by, None)
    }

    pub(crate) fn workdir(&mut self, stage: &mut Stage, path: &str) -> Result<(), BuildError> {
        let get = self.variables(stage);
        let path = expand(Expander { escape: self.escape }, path, &get)?;
        stage.config.working_dir = join(&stage.config.working_dir, &path);
        let directory = stage.config.working_dir.clone();
        if self.kit.is_some() {
            return self.kit_workdir(stage, &directory);
        }
        // COMPAT: one blank, where other instructions have two.
        let created_by = nop(stage, &format!("WORKDIR {directory}"));
        let key = self.key(stage, &created_by, "");
        if self.probe(stage, &key)? {
            return Ok(());
        }
        let layer = self.change_files(stage, |root| {
            tree::make_dirs(root, directory.trim_start_matches('/'), (0, 0))
                .at("mkdir", &directory)
                .map(|_| ())
        })?;
        self.commit(stage, &key, created_by, layer)
    }

    /// Lets `change` work on the files of the stage; what it changed becomes a layer.
    pub(crate) fn change_files(
        &mut self,
        stage: &Stage,
        change: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> Result<(), BuildError>,
    ) -> Result<Option<Layer>, BuildError> {
        self.change_files_on(&stage.layers(), change)
    }

    pub(crate) fn change_files_on(
        &mut self,
        layers: &[Layer],
        change: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> Result<(), BuildError>,
    ) -> Result<Option<Layer>, BuildError> {
        let images = &self.inner.images;
        let id = corten_base::Id::random();
        let result = (|| {
            let overlay = images.snapshots().prepare_files(id.as_str(), layers)?;
            let root = images.snapshots().mount_detached(&overlay, false)?;
            change(root.as_fd())?;
            // The mount goes before its upper directory is taken.
            drop(root);
            Ok(images.take_layer(id.as_str(), self.cancel)?)
        })();
        if let Err(e) = images.snapshots().remove(id.as_str()) {
            tracing::warn!(error = %e, "could not remove a build's snapshot");
        }
        result
    }

    /// Makes the image of a step and remembers it in the cache.
    pub(crate) fn commit(
        &mut self,
        stage: &mut Stage,
        key: &str,
        created_by: String,
        layer: Option<Layer>,
    ) -> Result<(), BuildError> {
        if self.kit.is_some() {
            return self.kit_commit(stage, key, created_by, layer);
        }
        let now = time::rfc3339_nano(time::now_ns());
        let before = stage.image.as_ref().map(|i| (*i.config).clone());
        let mut history = before.as_ref().map(|c| c.history.clone()).unwrap_or_default();
        history.push(History {
            created: Some(now.clone()),
            created_by,
            author: stage.author.clone(),
            comment: String::new(),
            empty_layer: layer.is_none(),
        });
        let mut layers = stage.layers();
        layers.extend(layer);
        let config = ImageConfig {
            created: Some(now),
            author: stage.author.clone(),
            architecture: stage.platform.architecture.clone(),
            variant: stage.platform.variant.clone(),
            os: stage.platform.os.clone(),
            config: stage.config.clone(),
            history,
            ..ImageConfig::default()
        };
        let parent = stage.image.as_ref().map(|i| i.id.clone());
        let new = NewImage { config, layers, parent, ..NewImage::default() };
        let image = self.inner.images.create_image(new)?;
        self.remember(key, &image)?;
        stage.image = Some(image);
        Ok(())
    }
}

/// What history says of an instruction that runs nothing.
pub(crate) fn nop(stage: &Stage, text: &str) -> String {
    format!("{} #(nop) {text}", shell(&stage.config).join(" "))
}
