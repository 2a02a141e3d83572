//! What becomes of a result: an image, files or an archive at the client, a push.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use bollard_buildkit_proto::fsutil::types::Stat;
use bollard_buildkit_proto::moby::buildkit::v1::{Exporter, SolveRequest};
use bollard_buildkit_proto::moby::filesync::v1::BytesMessage;
use corten_base::{Digest, Reference};
use corten_build::{Builder, Solved, SolvedFiles};
use corten_image::{Image, LayerPhase, Progress, ProgressEvent};
use http::HeaderMap;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use serde_json::json;

use super::files::{self, FileSource};
use super::job::Job;
use super::session::{SessionClient, header_value};
use crate::error::chain;
use crate::grpc::{Code, Sender, Status, base64};
use crate::services::Services;

const FILE_SEND: &str = "/moby.filesync.v1.FileSend/DiffCopy";
/// What one message of an archive carries.
const BLOCK: usize = 1 << 20;
/// Largest file that is read through the gateway.
const READ: u64 = 16 << 20;
const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The exporters that a request names.
pub(super) fn exporters(request: &SolveRequest) -> Vec<Exporter> {
    if !request.exporters.is_empty() || request.exporter_deprecated.is_empty() {
        return request.exporters.clone();
    }
    vec![Exporter {
        r#type: request.exporter_deprecated.clone(),
        attrs: request.exporter_attrs_deprecated.clone(),
    }]
}

/// Refuses what no exporter can do, before anything is built.
pub(super) fn check(exporters: &[Exporter]) -> Result<(), Status> {
    for exporter in exporters {
        match exporter.r#type.as_str() {
            "moby" | "image" | "local" | "tar" | "oci" | "docker" => {}
            other => return Err(unknown(format!("exporter {other:?} could not be found"))),
        }
        names(&exporter.attrs)?;
        for (key, value) in &exporter.attrs {
            refuse(key, value)?;
        }
    }
    Ok(())
}

/// Attributes that would change the result, and that are not for us.
fn refuse(key: &str, value: &str) -> Result<(), Status> {
    let on = matches!(value, "true" | "1");
    let refused = match key {
        "push-by-digest" | "rewrite-timestamp" | "nydus" => on,
        "compression" => value != "gzip" && !value.is_empty(),
        "compression-level" | "force-compression" | "registry.insecure" | "name-canonical" => on,
        // Images are of the OCI's types here.
        "oci-mediatypes" | "tar" => matches!(value, "false" | "0"),
        key => key.starts_with("annotation"),
    };
    match refused {
        true => Err(unknown(format!("exporter option {key}={value} is not supported by this daemon"))),
        false => Ok(()),
    }
}

fn disk(error: impl Into<io::Error>) -> Status {
    unknown(error.into().to_string())
}

fn unknown(message: impl Into<String>) -> Status {
    Status::new(Code::Unknown, message)
}

fn names(attributes: &HashMap<String, String>) -> Result<Vec<Reference>, Status> {
    let list = attributes.get("name").map_or("", String::as_str);
    list.split(',')
        .filter(|n| !n.is_empty())
        .map(|name| {
            let name: Reference =
                name.parse().map_err(|e| unknown(format!("failed to parse {name}: {e}")))?;
            Ok(name.or_latest())
        })
        .collect()
}

/// The configuration of a result as a document.
pub(super) fn config_of(solved: &Solved) -> Vec<u8> {
    serde_json::to_vec(&solved.image_config()).unwrap_or_default()
}

/// Exports a result in one way; answers with what the client wants to know of it.
pub(super) async fn export(
    services: &Arc<Services>,
    job: &Arc<Job>,
    client: &Arc<SessionClient>,
    number: usize,
    exporter: &Exporter,
    solved: &Arc<Solved>,
) -> Result<HashMap<String, String>, Status> {
    let export = Export { services, job, client, number, solved, attributes: &exporter.attrs };
    match exporter.r#type.as_str() {
        "local" => export.local().await,
        "tar" => export.tar().await,
        "oci" | "docker" => export.archive(&exporter.r#type).await,
        _ => export.image().await,
    }
}

struct Export<'a> {
    services: &'a Arc<Services>,
    job: &'a Arc<Job>,
    client: &'a Arc<SessionClient>,
    number: usize,
    solved: &'a Arc<Solved>,
    attributes: &'a HashMap<String, String>,
}

impl Export<'_> {
    fn flag(&self, name: &str) -> bool {
        self.attributes.get(name).is_some_and(|v| matches!(v.as_str(), "true" | "1"))
    }

    /// Runs on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Services, &Solved) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let (services, solved) = (Arc::clone(self.services), Arc::clone(self.solved));
        let done = tokio::task::spawn_blocking(move || work(&services, &solved)).await;
        done.map_err(Status::protocol)?
    }

    async fn make(&self, names: Vec<Reference>, cached: bool) -> Result<Arc<Image>, Status> {
        self.blocking(move |services, solved| {
            services.builder.image_of(solved, names, cached).map_err(|e| unknown(chain(&e)))
        })
        .await
    }

    async fn image(&self) -> Result<HashMap<String, String>, Status> {
        let names = names(self.attributes)?;
        let progress = &self.job.progress;
        let image = progress
            .vertex("exporting to image", async |vertex| {
                progress.step(vertex, "exporting layers", false);
                let image = self.make(names.clone(), false).await?;
                progress.step(vertex, "exporting layers", true);
                progress.step(vertex, format!("writing image {}", image.id), true);
                for name in &names {
                    progress.step(vertex, format!("naming to {name}"), true);
                }
                Ok(image)
            })
            .await?;
        if self.flag("push") {
            if names.is_empty() {
                return Err(unknown("tag is needed when pushing to registry"));
            }
            for name in &names {
                progress.vertex(&format!("pushing {name}"), async |v| self.push(name, v).await).await?;
            }
        }
        Ok(about(&image, &names))
    }

    async fn push(&self, name: &Reference, vertex: &Digest) -> Result<(), Status> {
        let credentials = self.client.credentials(name).await;
        let (job, vertex) = (Arc::clone(self.job), vertex.clone());
        let progress = Progress::new(move |event| {
            if let ProgressEvent::Layer { id, phase, bytes } = event {
                let (current, total) = bytes.unwrap_or_default();
                let done = matches!(phase, LayerPhase::Pushed);
                let what = corten_build::SolveEventKind::Progress {
                    id: format!("pushing layer {id}"),
                    current,
                    total,
                    done,
                };
                job.progress.event(corten_build::SolveEvent { vertex: vertex.clone(), what });
            }
        });
        let (images, registries) = (&self.services.images, &self.services.registries);
        images
            .push(registries, &credentials, name, None, &progress, &self.job.cancel)
            .await
            .map_err(|e| unknown(format!("failed to push {name}: {}", chain(&e))))
    }

    fn metadata(&self) -> Result<HeaderMap, Status> {
        let mut metadata = HeaderMap::new();
        metadata.insert("buildkit-attachable-exporter-id", header_value(&self.number.to_string())?);
        Ok(metadata)
    }

    async fn local(&self) -> Result<HashMap<String, String>, Status> {
        let progress = &self.job.progress;
        progress
            .vertex("exporting to client directory", async |vertex| {
                progress.step(vertex, "copying files", false);
                let channel = self.client.main.channel(FILE_SEND)?;
                let (sender, messages) = channel.stream(FILE_SEND, self.metadata()?)?;
                let runtime = tokio::runtime::Handle::current();
                let cancel = self.job.cancel.clone();
                self.blocking(move |services, solved| {
                    let mut source = Tree { files: Files::open(&services.builder, solved)?, cancel };
                    files::send(&mut source, sender, messages, &runtime)
                })
                .await?;
                progress.step(vertex, "copying files", true);
                Ok(HashMap::new())
            })
            .await
    }

    async fn tar(&self) -> Result<HashMap<String, String>, Status> {
        let cancel = self.job.cancel.clone();
        self.stream("exporting to client tarball", self.metadata()?, move |services, solved, out| {
            let files = services.builder.files_of(solved).map_err(|e| unknown(chain(&e)))?;
            corten_image::archive::export(files.root(), out, &cancel).map_err(|e| unknown(chain(&e)))
        })
        .await?;
        Ok(HashMap::new())
    }

    /// `oci` and `docker`: the archive that `docker save` writes is both.
    async fn archive(&self, kind: &str) -> Result<HashMap<String, String>, Status> {
        let names = names(self.attributes)?;
        let image = self.make(Vec::new(), true).await?;
        let about = about(&image, &names);
        let mut metadata = self.metadata()?;
        for (key, value) in &about {
            if let Ok(key) = http::HeaderName::try_from(format!("exporter-md-{}", key.to_lowercase())) {
                metadata.insert(key, header_value(value)?);
            }
        }
        let cancel = self.job.cancel.clone();
        let title = format!("exporting to {kind} image format");
        self.stream(&title, metadata, move |services, _, out| {
            services.images.save_as(&image, names, out, &cancel).map_err(|e| unknown(chain(&e)))
        })
        .await?;
        Ok(about)
    }

    /// Sends what `write` writes.
    async fn stream(
        &self,
        title: &str,
        metadata: HeaderMap,
        write: impl FnOnce(&Services, &Solved, &mut dyn Write) -> Result<(), Status> + Send + 'static,
    ) -> Result<(), Status> {
        let progress = &self.job.progress;
        progress
            .vertex(title, async |vertex| {
                progress.step(vertex, "sending tarball", false);
                let channel = self.client.main.channel(FILE_SEND)?;
                let (sender, mut messages) = channel.stream(FILE_SEND, metadata)?;
                let sent = self
                    .blocking(move |services, solved| {
                        let mut out = Out { sender, block: Vec::with_capacity(BLOCK) };
                        write(services, solved, &mut out)?;
                        out.send().map_err(Status::gone)
                    })
                    .await;
                // The client's own error says more than that it takes no more.
                let ended = messages.next::<BytesMessage>().await;
                match (sent, ended) {
                    (Err(e), Ok(_)) => return Err(e),
                    (_, Err(e)) => return Err(e),
                    (Ok(()), Ok(_)) => {}
                }
                progress.step(vertex, "sending tarball", true);
                Ok(())
            })
            .await
    }
}

fn about(image: &Image, names: &[Reference]) -> HashMap<String, String> {
    // The id of an image is the digest of its manifest: there is no `containerimage.config.digest`, which clients
    // would take for it.
    let descriptor = json!({
        "mediaType": image.target.media_type,
        "digest": image.target.digest.to_string(),
        "size": image.target.size,
    });
    let names: Vec<String> = names.iter().map(Reference::to_string).collect();
    let mut about: HashMap<String, String> = [
        ("containerimage.digest".to_owned(), image.id.to_string()),
        ("containerimage.descriptor".to_owned(), base64(descriptor.to_string().as_bytes())),
    ]
    .into();
    if !names.is_empty() {
        about.insert("image.name".to_owned(), names.join(","));
    }
    about
}

/// Writes messages.
struct Out {
    sender: Sender,
    block: Vec<u8>,
}

impl Out {
    fn send(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let data = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
        self.sender.blocking_send(&BytesMessage { data }).map_err(io::Error::other)
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..n]);
        if self.block.len() == BLOCK {
            self.send()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The files of a result. Links are resolved within it.
pub(super) struct Files(SolvedFiles);

impl Files {
    pub(super) fn open(builder: &Builder, solved: &Solved) -> Result<Self, Status> {
        builder.files_of(solved).map(Self).map_err(|e| unknown(chain(&e)))
    }

    fn at(&self, path: &str, flags: OFlags) -> Result<std::os::fd::OwnedFd, Status> {
        let relative = path.trim_start_matches('/');
        let relative = if relative.is_empty() { "." } else { relative };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let opened =
            rustix::fs::openat2(self.0.root(), relative, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
        opened.map_err(|e| unknown(format!("open {path}: {}", io::Error::from(e))))
    }

    /// Reads a file, or `(offset, length)` of it.
    pub(super) fn read(&self, path: &str, range: Option<(i64, i64)>) -> Result<Vec<u8>, Status> {
        use std::io::{Seek, SeekFrom};
        let mut file = std::fs::File::from(self.at(path, OFlags::RDONLY)?);
        let failed = |e: io::Error| unknown(format!("read {path}: {e}"));
        let (offset, length) = range.unwrap_or((0, 0));
        file.seek(SeekFrom::Start(u64::try_from(offset).unwrap_or_default())).map_err(failed)?;
        let limit = u64::try_from(length).ok().filter(|l| *l > 0).unwrap_or(READ).min(READ);
        let mut data = Vec::new();
        file.take(limit).read_to_end(&mut data).map_err(failed)?;
        Ok(data)
    }

    pub(super) fn stat(&self, path: &str) -> Result<Stat, Status> {
        let (parent, name) = path.trim_end_matches('/').rsplit_once('/').unwrap_or(("", path));
        if matches!(name, "" | "." | "..") {
            let mut found = stat(self.at(path, OFlags::PATH)?.as_fd(), "", ".").map_err(disk)?;
            found.mode = files::to_go(found.mode);
            return Ok(found);
        }
        let dir = self.at(parent, DIR)?;
        let found = stat(dir.as_fd(), name, name);
        let mut found = found.map_err(|e| unknown(format!("lstat {path}: {e}")))?;
        found.mode = files::to_go(found.mode);
        Ok(found)
    }

    /// Entries of a directory whose names fit a pattern.
    pub(super) fn list(&self, path: &str, pattern: &str) -> Result<Vec<Stat>, Status> {
        let matcher = corten_base::ignore::Ignore::from_patterns([pattern]).map_err(Status::protocol)?;
        let dir = self.at(path, DIR)?;
        let mut out = Vec::new();
        for name in names_in(dir.as_fd()).map_err(disk)? {
            if pattern.is_empty() || matcher.excludes(&name) {
                let mut entry = stat(dir.as_fd(), &name, &name).map_err(disk)?;
                entry.mode = files::to_go(entry.mode);
                out.push(entry);
            }
        }
        Ok(out)
    }
}

/// Sorted names; those that are no UTF-8 cannot be told to a client.
fn names_in(dir: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut out = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().to_str()
            && !matches!(name, "." | "..")
        {
            out.push(name.to_owned());
        }
    }
    out.sort_unstable();
    Ok(out)
}

/// What the protocol says of a file; the mode is `st_mode`.
fn stat(dir: BorrowedFd<'_>, name: &str, path: &str) -> io::Result<Stat> {
    let s = match name {
        "" => rustix::fs::fstat(dir)?,
        name => rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?,
    };
    let linkname = match FileType::from_raw_mode(s.st_mode) {
        FileType::Symlink => rustix::fs::readlinkat(dir, name, Vec::new())?.to_string_lossy().into_owned(),
        _ => String::new(),
    };
    let seconds = s.st_mtime;
    let nanos = i64::try_from(s.st_mtime_nsec).unwrap_or_default();
    Ok(Stat {
        path: path.to_owned(),
        mode: s.st_mode,
        uid: s.st_uid,
        gid: s.st_gid,
        size: s.st_size,
        mod_time: seconds.saturating_mul(1_000_000_000).saturating_add(nanos),
        linkname,
        devmajor: i64::from(rustix::fs::major(s.st_rdev)),
        devminor: i64::from(rustix::fs::minor(s.st_rdev)),
        xattrs: HashMap::new(),
    })
}

/// All files of a result for the client.
struct Tree {
    files: Files,
    cancel: corten_base::Cancel,
}

impl FileSource for Tree {
    fn walk(&mut self, each: &mut dyn FnMut(Stat) -> Result<(), Status>) -> Result<(), Status> {
        walk(self.files.at("", DIR)?.as_fd(), "", &self.cancel, each)
    }

    fn open(&mut self, path: &str) -> io::Result<std::fs::File> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat2(self.files.0.root(), path, flags, Mode::empty(), resolve)?.into())
    }
}

fn walk(
    dir: BorrowedFd<'_>,
    prefix: &str,
    cancel: &corten_base::Cancel,
    each: &mut dyn FnMut(Stat) -> Result<(), Status>,
) -> Result<(), Status> {
    for name in names_in(dir).map_err(disk)? {
        if cancel.is_cancelled() {
            return Err(Status::new(Code::Cancelled, "context canceled"));
        }
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        let stat = stat(dir, &name, &path).map_err(disk)?;
        let is_dir = FileType::from_raw_mode(stat.mode) == FileType::Directory;
        each(stat)?;
        if is_dir {
            let child = rustix::fs::openat(dir, name.as_str(), DIR | OFlags::NOFOLLOW, Mode::empty());
            walk(child.map_err(disk)?.as_fd(), &path, cancel, each)?;
        }
    }
    Ok(())
}
