//! Checkpoints of a container: directories of images, by name, in the container's own or a given place.
//!
//! The shim writes and reads the images; what the engine adds is names, places, and that a container which ended for a
//! checkpoint is not started again by its restart policy.

use std::path::{Path, PathBuf};

use corten_wire::api::container::{CheckpointCreateRequest, CheckpointSummary};
use corten_wire::shim::Call;

use super::phase::Event;
use super::task::{Mail, Restore};
use super::{Container, Outcome, busy, call_shim, settled, shim_error};
use crate::error::{Error, Result, internal, invalid};
use crate::names;

/// How long the end of a container may take after its checkpoint is complete.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

impl Container {
    /// Writes its processes to files; with `exit` it has ended when this returns.
    ///
    /// # Errors
    /// Not running; a terminal; `--init`; a name that is bad or taken; what criu says, and nothing is left then.
    pub async fn checkpoint(&self, wanted: CheckpointCreateRequest) -> Result<()> {
        let view = self.view();
        if !view.is_running() {
            return Err(Error::NotRunning(self.id().to_string()));
        }
        // COMPAT: the reference engine can do no more.
        if view.record.config.tty {
            return Err(internal("checkpoint not support on containers with tty"));
        }
        if view.record.host.init == Some(true) {
            return Err(internal("checkpoint not support on containers with --init"));
        }
        let (id, name) = (&wanted.checkpoint_id, self.name());
        if !names::valid(id) {
            return Err(internal(format!(
                "Invalid checkpoint ID ({id}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            )));
        }
        let failed = |lead: &str, e: &Error| Error::Refused {
            kind: e.kind(),
            text: format!("{lead} checkpoint container {name}: {}", e.chain()),
        };
        let images = self.checkpoints_dir(&wanted.checkpoint_dir)?.join(id);
        make_new(&images, id, &name).map_err(|e| failed("cannot", &e))?;
        let mut watch = self.watch();
        let before = watch.borrow().exits;
        let exit = wanted.exit;
        let made = self.send(|reply| Mail::Checkpoint { images: images.clone(), exit, reply }).await;
        if let Err(error) = made {
            std::fs::remove_dir_all(&images).ok();
            return Err(failed("Cannot", &error));
        }
        if exit {
            let ended = settled(&mut watch, |v| v.gone || v.exits > before || !busy(v));
            let _late = tokio::time::timeout(PATIENCE, ended).await;
        }
        self.publish_plain("checkpoint");
        Ok(())
    }

    /// Its checkpoints, by name.
    ///
    /// # Errors
    /// A place that cannot be read.
    pub fn checkpoints(&self, dir: &str) -> Result<Vec<CheckpointSummary>> {
        let place = self.checkpoints_dir(dir)?;
        let fail = |e| Error::io(format!("open {}", place.display()), e);
        let entries = match std::fs::read_dir(&place) {
            // None was ever made.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && dir.is_empty() => return Ok(Vec::new()),
            other => other.map_err(fail)?,
        };
        let directories = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        let mut all: Vec<_> = directories
            .filter_map(|e| e.file_name().into_string().ok())
            .map(|name| CheckpointSummary { name })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Removes one.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn remove_checkpoint(&self, id: &str, dir: &str) -> Result<()> {
        let images = self.existing_checkpoint(id, dir)?;
        std::fs::remove_dir_all(&images).map_err(|e| Error::io(format!("remove {}", images.display()), e))
    }

    /// Starts it from a checkpoint; returns when its processes run.
    ///
    /// # Errors
    /// As [`Container::start`]; there is no such checkpoint; what criu says.
    pub async fn start_from(&self, id: &str, dir: &str) -> Result<Outcome> {
        let images = self.existing_checkpoint(id, dir)?;
        self.settle(self.send(|reply| Mail::Restore(Restore { images }, reply)).await?)
    }

    fn checkpoints_dir(&self, given: &str) -> Result<PathBuf> {
        if given.is_empty() {
            return Ok(self.shared().dir(self.id()).join("checkpoints"));
        }
        let path = PathBuf::from(given);
        if path.is_absolute() {
            Ok(path)
        } else {
            Err(invalid("checkpoint directory must be an absolute path"))
        }
    }

    fn existing_checkpoint(&self, id: &str, dir: &str) -> Result<PathBuf> {
        let images = self.checkpoints_dir(dir)?.join(id);
        // Nothing that is no name can be one: it could lead elsewhere.
        if !names::valid(id) || std::fs::symlink_metadata(&images).is_err() {
            return Err(internal(format!("checkpoint {id} does not exist for container {}", self.name())));
        }
        if images.is_dir() { Ok(images) } else { Err(not_a_directory(&images)) }
    }
}

fn not_a_directory(path: &Path) -> Error {
    internal(format!("{} exists and is not a directory", path.display()))
}

fn make_new(images: &Path, id: &str, name: &str) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let fail = |e| Error::io(format!("mkdir {}", images.display()), e);
    if let Some(parent) = images.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(fail)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(images) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Err(if images.is_dir() {
            internal(format!("checkpoint with name {id} already exists for container {name}"))
        } else {
            not_a_directory(images)
        }),
        other => other.map_err(fail),
    }
}

/// What the task does for [`Container::checkpoint`]: when the shim has done it, the coming exit is a wanted one, before
/// anybody hears of it.
impl super::task::Task {
    pub(super) async fn checkpoint(&mut self, images: PathBuf, exit: bool) -> Result<()> {
        let shim = self.container.shim()?;
        call_shim(&shim, Call::Checkpoint { images, exit }, &[]).await.map_err(shim_error)?;
        if exit {
            self.quietly(Event::Leaving).await;
        }
        Ok(())
    }
}
