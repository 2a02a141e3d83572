//! What concerns a container's files: copying in and out, export, commit, changes.
//!
//! A running container is seen through `/proc/<pid>/root`, with everything that is mounted in it; of one that does
//! not run, the root is a detached overlay mount, with its volumes and binds mounted in a mount namespace of our own.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::pin::Pin;

use bytes::Bytes;
use corten_base::{Cancel, Digest, Reference, time};
use corten_image::archive::{self, ArchiveError, Root};
use corten_image::{ChangeKind, CommitRequest, Overlay};
use corten_sys as sys;
use corten_wire::api::container::{Change, PathStat};
use corten_wire::oci_image;
use futures_util::{Stream, StreamExt};
use rustix::fs::{CWD, Mode, OFlags, openat};
use tokio::sync::mpsc;

use super::{Container, blocking};
use crate::error::{Error, Result, chain, conflict, internal, invalid, not_found};
use crate::record::{ContainerRecord, MountKind, RootfsRecord};
use crate::userns;
use crate::validate::clean;
use crate::view::{ContainerView, Status, command};

/// Bytes of an archive.
pub type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// How `archive_put` treats what is there.
#[derive(Debug, Clone, Copy, Default)]
pub struct PutOptions {
    /// `noOverwriteDirNonDir`.
    pub no_overwrite_dir_non_dir: bool,
    /// `copyUIDGID`: files belong to the container's user.
    pub copy_uid_gid: bool,
}

/// What a commit makes.
#[derive(Debug, Clone)]
pub struct CommitSpec {
    /// Name of the new image.
    pub reference: Option<Reference>,
    /// `--author`.
    pub author: String,
    /// `--message`.
    pub comment: String,
    /// Freeze the container meanwhile.
    pub pause: bool,
    /// [`Container::commit_config`] with changes applied.
    pub config: oci_image::ContainerConfig,
}

fn beneath(root: &str, path: &str) -> io::Result<OwnedFd> {
    let root = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    sys::path::open(root.as_fd(), Path::new(path), OFlags::PATH, Mode::empty())
}

fn open_dir(path: &Path) -> Result<OwnedFd> {
    openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::io(format!("open {}", path.display()), e))
}

pub(crate) fn overlay(rootfs: &RootfsRecord) -> Overlay {
    Overlay { lowers: rootfs.lowers.to_vec(), upper: rootfs.upper.clone(), work: rootfs.work.clone() }
}

impl Container {
    /// Runs `work` with the container's root: with everything mounted that it has mounted when it runs.
    fn with_root<T: Send>(
        &self,
        view: &ContainerView,
        work: impl FnOnce(Root<'_>) -> Result<T> + Send,
    ) -> Result<T> {
        if view.is_running() && view.pid > 0 {
            let root = open_dir(Path::new(&format!("/proc/{}/root", view.pid)))?;
            let ids = userns::of_process(view.pid);
            return match ids.to_outside(0, 0) {
                (0, 0) => work(Root { fd: root.as_fd(), ids: &ids }),
                owner => sys::process::as_owner(owner, || work(Root { fd: root.as_fd(), ids: &ids }))
                    .map_err(|e| Error::io("become the container's root", e))?,
            };
        }
        // On disk are the ids of the container.
        let root = self.shared().images.snapshots().mount_detached(&overlay(&view.record.rootfs), false)?;
        let mut mounts: Vec<_> = view
            .record
            .mounts
            .iter()
            .filter(|m| !matches!(m.kind, MountKind::Tmpfs | MountKind::Image))
            .collect();
        if mounts.is_empty() {
            return work(root.as_fd().into());
        }
        // Parents before children.
        mounts.sort_by_key(|m| m.destination.split('/').count());
        let place = self.shared().config().root.join("containers");
        let mounted = sys::mount::in_private_namespace(|| {
            let mut trees = Vec::new();
            for mount in mounts {
                let source = Path::new(&mount.source).join(&mount.subpath);
                // Another container may change a directory on the way to a link: it leads nowhere else.
                let tree = if mount.subpath.is_empty() {
                    sys::mount::bind(&source, !mount.non_recursive)
                } else {
                    beneath(&mount.source, &mount.subpath)
                        .and_then(|fd| sys::mount::bind_fd(fd.as_fd(), true))
                };
                // A source that is gone is an empty place, as before the first start.
                if let Ok(tree) = tree {
                    let make =
                        if source.is_dir() { sys::path::Make::Directory } else { sys::path::Make::File };
                    trees.push((&mount.destination, make, tree));
                }
            }
            let failed = |e: std::io::Error| Error::io("mount the container's volumes", e);
            sys::mount::attach(root.as_fd(), open_dir(&place)?.as_fd()).map_err(failed)?;
            for (destination, make, tree) in trees {
                let mode = Mode::from_raw_mode(0o755);
                let target =
                    sys::path::ensure(root.as_fd(), Path::new(destination), make, mode).map_err(failed)?;
                sys::mount::attach(tree.as_fd(), target.as_fd()).map_err(failed)?;
            }
            work(root.as_fd().into())
        });
        mounted.map_err(|e| Error::io("enter a mount namespace", e))?
    }

    fn archive_error(&self, path: &str, error: ArchiveError) -> Error {
        match error {
            ArchiveError::NotFound(_) => {
                not_found(format!("Could not find the file {path} in container {}", self.id()))
            }
            other => Error::Refused { kind: other.kind(), text: chain(&other) },
        }
    }

    /// Looks at a path.
    ///
    /// # Errors
    /// Not there.
    pub async fn archive_stat(&self, path: &str) -> Result<PathStat> {
        let (this, path) = (self.clone(), checked(path)?);
        blocking(move || {
            this.with_root(&this.view(), |root| {
                archive::stat(root.fd, &path).map(wire).map_err(|e| this.archive_error(&path, e))
            })
        })
        .await
    }

    /// A path as tar. It is looked at before this returns, so that a missing one is an error and not a short stream.
    ///
    /// # Errors
    /// Not there.
    pub async fn archive_get(&self, path: &str) -> Result<(PathStat, ByteStream)> {
        let stat = self.archive_stat(path).await?;
        self.publish_plain("archive-path");
        let (this, wanted) = (self.clone(), checked(path)?);
        let stream = produce(move |out, cancel| {
            let got = this.with_root(&this.view(), |root| {
                archive::get(root, &wanted, out, cancel).map_err(|e| this.archive_error(&wanted, e))
            });
            got.map_err(|e| e.chain())
        });
        Ok((stat, stream))
    }

    /// Extracts a tar into a directory.
    ///
    /// # Errors
    /// Not there, no directory, a read-only root or volume, a bad archive.
    pub async fn archive_put(&self, path: &str, body: ByteStream, options: PutOptions) -> Result<()> {
        let (this, wanted) = (self.clone(), checked(path)?);
        let view = self.view();
        writable(&view.record, &wanted)?;
        let (feed, input) = mpsc::channel::<io::Result<Bytes>>(4);
        let cancel = Cancel::new();
        let guard = cancel.on_drop();
        let extract = tokio::task::spawn_blocking(move || {
            let owner = if options.copy_uid_gid { numeric_user(&view.record) } else { (0, 0) };
            let options = archive::PutOptions {
                no_overwrite_dir_non_dir: options.no_overwrite_dir_non_dir,
                copy_uid_gid: !options.copy_uid_gid,
                owner,
            };
            let mut input = Input { input, now: Bytes::new() };
            this.with_root(&view, |root| {
                archive::put(root, &wanted, &mut input, options, &cancel)
                    .map_err(|e| this.archive_error(&wanted, e))
            })
        });
        let mut body = body;
        while let Some(part) = body.next().await {
            // The extractor has stopped: its result says why.
            if feed.send(part).await.is_err() {
                break;
            }
        }
        drop(feed);
        let result = extract.await.map_err(|_| Error::ShuttingDown)?;
        drop(guard);
        result?;
        self.publish_plain("extract-to-dir");
        Ok(())
    }

    /// The whole root as tar.
    ///
    /// # Errors
    /// Being removed.
    pub async fn export(&self) -> Result<ByteStream> {
        let view = self.view();
        if view.status == Status::Removing || view.status == Status::Dead {
            return Err(conflict(format!(
                "You cannot export container {} which is being removed",
                self.id()
            )));
        }
        let shared = self.shared().clone();
        let root = blocking(move || {
            Ok(shared.images.snapshots().mount_detached(&overlay(&view.record.rootfs), true)?)
        })
        .await?;
        self.publish_plain("export");
        Ok(produce(move |out, cancel| archive::export(root.as_fd(), out, cancel).map_err(|e| chain(&e))))
    }

    /// What was changed since it was created.
    ///
    /// # Errors
    /// The layers cannot be read.
    pub async fn changes(&self) -> Result<Vec<Change>> {
        let _timer = corten_base::metrics::CONTAINER_CHANGES.timer();
        let (shared, view) = (self.shared().clone(), self.view());
        blocking(move || {
            let changes = shared.images.snapshots().changes(&overlay(&view.record.rootfs))?;
            Ok(changes
                .into_iter()
                .map(|c| Change {
                    path: c.path,
                    kind: match c.kind {
                        ChangeKind::Modified => 0,
                        ChangeKind::Added => 1,
                        ChangeKind::Deleted => 2,
                    },
                })
                .collect())
        })
        .await
    }

    /// The configuration an image of this container begins with.
    ///
    /// # Errors
    /// A configuration that cannot be one of an image.
    pub fn commit_config(&self) -> Result<oci_image::ContainerConfig> {
        let view = self.view();
        let c = &view.record.config;
        let json = |v: serde_json::Result<serde_json::Value>| v.map_err(|e| internal(e.to_string()));
        let health = match &c.healthcheck {
            Some(check) => serde_json::from_value(json(serde_json::to_value(check))?)
                .map_err(|e| internal(e.to_string()))?,
            None => None,
        };
        Ok(oci_image::ContainerConfig {
            user: c.user.clone(),
            exposed_ports: (!c.exposed_ports.is_empty())
                .then(|| c.exposed_ports.keys().map(|p| (p.to_string(), oci_image::Empty {})).collect()),
            env: c.env.clone(),
            entrypoint: c.entrypoint.clone(),
            cmd: c.cmd.clone(),
            volumes: c.volumes.as_ref().map(|v| v.keys().map(|p| (p.clone(), oci_image::Empty {})).collect()),
            working_dir: c.working_dir.clone(),
            labels: c.labels.clone(),
            stop_signal: c.stop_signal.clone(),
            stop_timeout: c.stop_timeout,
            healthcheck: health,
            on_build: c.on_build.clone(),
            shell: c.shell.clone(),
            ..oci_image::ContainerConfig::default()
        })
    }

    /// Makes an image of it; its id.
    ///
    /// # Errors
    /// Being removed; the image store's.
    pub async fn commit(&self, spec: CommitSpec) -> Result<Digest> {
        let _timer = corten_base::metrics::CONTAINER_COMMIT.timer();
        let view = self.view();
        if matches!(view.status, Status::Removing | Status::Dead) {
            return Err(conflict(format!(
                "You cannot commit container {} which is being removed",
                self.id()
            )));
        }
        let frozen = spec.pause && view.status == Status::Running && self.pause().await.is_ok();
        let (shared, record) = (self.shared().clone(), view.record.clone());
        let image = record.image.clone();
        let committed = blocking(move || {
            let base = image
                .as_ref()
                .and_then(|i| shared.images.get(i))
                .ok_or_else(|| Error::NoSuchImage(record.config.image.clone()))?;
            let (path, args) = command(&record);
            let request = CommitRequest {
                snapshot: record.id.to_string(),
                base,
                config: spec.config,
                author: spec.author,
                comment: spec.comment,
                created_by: std::iter::once(path).chain(args).collect::<Vec<_>>().join(" "),
                container: record.id.to_string(),
                reference: spec.reference,
            };
            Ok(shared.images.commit(request, &Cancel::new())?.id.clone())
        })
        .await;
        if frozen {
            self.unpause().await.ok();
        }
        let id = committed?;
        let mut attributes = view.attributes();
        attributes.insert("imageID".into(), id.to_string());
        self.publish("commit", attributes);
        Ok(id)
    }
}

fn checked(path: &str) -> Result<String> {
    if path.is_empty() {
        return Err(invalid("bad parameter: path cannot be empty"));
    }
    Ok(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}

/// Refuses to write where the container itself could not.
fn writable(record: &ContainerRecord, path: &str) -> Result<()> {
    let full = clean(path);
    let mount = record
        .mounts
        .iter()
        .filter(|m| {
            full == m.destination || full.strip_prefix(&m.destination).is_some_and(|r| r.starts_with('/'))
        })
        .max_by_key(|m| m.destination.len());
    match mount {
        Some(mount) if !mount.rw => Err(Error::Refused {
            kind: corten_base::Kind::Forbidden,
            text: "mounted volume is marked read-only".into(),
        }),
        None if record.host.readonly_rootfs => Err(Error::Refused {
            kind: corten_base::Kind::Forbidden,
            text: "container rootfs is marked read-only".into(),
        }),
        _ => Ok(()),
    }
}

/// User and group where they are given as numbers; names would have to be looked up in the container.
fn numeric_user(record: &ContainerRecord) -> (u32, u32) {
    let (user, group) = record.config.user.split_once(':').unwrap_or((&record.config.user, ""));
    let user = user.parse().unwrap_or(0);
    (user, group.parse().unwrap_or(user))
}

fn wire(stat: archive::PathStat) -> PathStat {
    PathStat {
        name: stat.name,
        size: i64::try_from(stat.size).unwrap_or(i64::MAX),
        mode: stat.mode,
        mtime: time::rfc3339_nano(stat.mtime_ns),
        link_target: stat.link_target,
    }
}

/// Runs a writer on a blocking thread; what it writes is the stream. Dropping the stream cancels it.
fn produce(
    write: impl FnOnce(&mut (dyn Write + Send), &Cancel) -> std::result::Result<(), String> + Send + 'static,
) -> ByteStream {
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(4);
    let cancel = Cancel::new();
    let guard = cancel.on_drop();
    tokio::task::spawn_blocking(move || {
        let mut output = Output { sender: sender.clone(), buffer: Vec::with_capacity(Output::BLOCK) };
        let written = write(&mut output, &cancel).and_then(|()| output.flush().map_err(|e| e.to_string()));
        if let Err(text) = written {
            let _gone = sender.blocking_send(Err(io::Error::other(text)));
        }
    });
    Box::pin(futures_util::stream::unfold((receiver, guard), |(mut receiver, guard)| async move {
        receiver.recv().await.map(|item| (item, (receiver, guard)))
    }))
}

/// Collects writes into blocks.
struct Output {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Output {
    const BLOCK: usize = 256 * 1024;
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= Self::BLOCK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let block = std::mem::replace(&mut self.buffer, Vec::with_capacity(Self::BLOCK));
        self.sender.blocking_send(Ok(Bytes::from(block))).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A request's body as a reader.
struct Input {
    input: mpsc::Receiver<io::Result<Bytes>>,
    now: Bytes,
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() {
            match self.input.blocking_recv() {
                Some(part) => self.now = part?,
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.now.len());
        buffer[..n].copy_from_slice(&self.now.split_to(n));
        Ok(n)
    }
}
