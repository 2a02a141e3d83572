//! What becomes of a result: an image, files or an archive at the client, a push.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;

use bollard_buildkit_proto::moby::buildkit::v1::{Exporter, SolveRequest};
use bollard_buildkit_proto::moby::filesync::v1::BytesMessage;
use corten_base::{Cancel, Digest, Reference};
use corten_build::{ImageOptions, LayerForm, Solved};
use corten_image::{Image, LayerCompression, LayerPhase, NewStatement, Progress, ProgressEvent};
use corten_wire::oci_image::{Descriptor, media_type};
use http::HeaderMap;
use serde_json::json;

use super::annotations::{self, Annotation, Level};
use super::job::Job;
use super::session::{SessionClient, header_value};
use super::tree::{Files, Part, Tree};
use super::{attest, files};
use crate::error::chain;
use crate::grpc::{Code, Sender, Status, base64};
use crate::services::Services;

const FILE_SEND: &str = "/moby.filesync.v1.FileSend/DiffCopy";
/// What one message of an archive carries.
const BLOCK: usize = 1 << 20;

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
        form(&exporter.attrs, None)?;
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
        "push-by-digest" | "nydus" | "oci-artifact" | "registry.insecure" => on,
        // Images are of the OCI's types here.
        "oci-mediatypes" | "tar" => matches!(value, "false" | "0"),
        _ => false,
    };
    match refused {
        true => Err(unknown(format!("exporter option {key}={value} is not supported by this daemon"))),
        false => Annotation::parse(key, value).map(|_| ()),
    }
}

/// How layers are wanted. `epoch` is the build's own.
fn form(attributes: &HashMap<String, String>, epoch: Option<i64>) -> Result<LayerForm, Status> {
    let text = |name: &str| attributes.get(name).map_or("", String::as_str);
    let on = |name: &str| match text(name) {
        "true" | "1" => Ok(true),
        "" | "false" | "0" => Ok(false),
        other => Err(unknown(format!("non-bool value {other} specified for {name}"))),
    };
    let compression = match text("compression") {
        "" => None,
        "uncompressed" => Some(LayerCompression::None),
        "gzip" => Some(LayerCompression::Gzip),
        "zstd" => Some(LayerCompression::Zstd),
        other @ "estargz" => {
            return Err(unknown(format!(
                "exporter option compression={other} is not supported by this daemon"
            )));
        }
        other => return Err(unknown(format!("unsupported compression type {other}"))),
    };
    let level =
        match text("compression-level") {
            "" => None,
            number => Some(number.parse::<u32>().ok().filter(|n| *n <= 22).ok_or_else(|| {
                unknown(format!("non-integer value {number} specified for compression-level"))
            })?),
        };
    if compression == Some(LayerCompression::Gzip) && level.is_some_and(|l| l > 9) {
        return Err(unknown("compression-level of gzip is 0 to 9"));
    }
    let epoch = match text("source-date-epoch") {
        "" => epoch,
        seconds => {
            Some(seconds.parse().map_err(|_| unknown(format!("invalid SOURCE_DATE_EPOCH: {seconds}")))?)
        }
    };
    let rewrite = on("rewrite-timestamp")?;
    // COMPAT: a level without a kind is one of gzip, and without a time nothing is rewritten.
    let compression = compression.or(level.map(|_| LayerCompression::Gzip));
    Ok(LayerForm { compression, level, force: on("force-compression")?, epoch: epoch.filter(|_| rewrite) })
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

/// What a build made.
pub(super) struct Made {
    /// By platform.
    pub(super) results: Arc<[Arc<Solved>]>,
    /// An image for each platform, even if that is one.
    pub(super) several: bool,
    pub(super) provenance: attest::Shared,
    pub(super) inline_cache: bool,
}

/// Exports a result in one way; answers with what the client wants to know of it.
pub(super) async fn export(
    services: &Arc<Services>,
    job: &Arc<Job>,
    client: &Arc<SessionClient>,
    number: usize,
    exporter: &Exporter,
    made: &Made,
) -> Result<HashMap<String, String>, Status> {
    let export = Export { services, job, client, number, made, attributes: &exporter.attrs };
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
    made: &'a Made,
    attributes: &'a HashMap<String, String>,
}

impl Export<'_> {
    fn flag(&self, name: &str) -> bool {
        self.attributes.get(name).is_some_and(|v| matches!(v.as_str(), "true" | "1"))
    }

    /// Runs on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Services, &[Arc<Solved>]) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let (services, results) = (Arc::clone(self.services), Arc::clone(&self.made.results));
        let done = tokio::task::spawn_blocking(move || work(&services, &results)).await;
        done.map_err(Status::protocol)?
    }

    /// Makes the image; with `cached` nobody sees it.
    async fn make(
        &self,
        names: Vec<Reference>,
        references: Vec<Reference>,
        cached: bool,
    ) -> Result<Arc<Image>, Status> {
        let of_level = |level| annotations::of_level(self.attributes, level, &self.made.results);
        let annotations = of_level(Level::Manifest)?;
        let entry_annotations = of_level(Level::ManifestDescriptor)?;
        let index_annotations = of_level(Level::Index)?.into_iter().next().unwrap_or_default();
        let provenance = self.made.provenance.clone();
        let index = self.made.several || provenance.is_some();
        if !index && (!index_annotations.is_empty() || entry_annotations.iter().any(|a| !a.is_empty())) {
            return Err(unknown("index annotations not supported for single platform export"));
        }
        let inline_cache = self.made.inline_cache;
        let epoch = self.made.results.first().and_then(|r| r.build.epoch);
        let form = form(self.attributes, epoch)?;
        let cancel = self.job.cancel.clone();
        self.blocking(move |services, results| {
            let about = |place: usize, image: &Descriptor| -> Vec<NewStatement> {
                let statement = |p: &Arc<attest::Provenance>| p.statement(&results[place], image, &names);
                provenance.iter().map(statement).collect()
            };
            let options = ImageOptions {
                references,
                cached,
                index,
                form,
                inline_cache,
                annotations,
                entry_annotations,
                index_annotations,
                statements: Some(&about),
            };
            services.builder.image_of(results, options, &cancel).map_err(|e| unknown(chain(&e)))
        })
        .await
    }

    async fn image(&self) -> Result<HashMap<String, String>, Status> {
        let mut names = names(self.attributes)?;
        let prefix = self.attributes.get("dangling-name-prefix").filter(|_| names.is_empty());
        let progress = &self.job.progress;
        let image = progress
            .vertex("exporting to image", async |vertex| {
                progress.step(vertex, "exporting layers", false);
                let image = self.make(names.clone(), names.clone(), false).await?;
                progress.step(vertex, "exporting layers", true);
                if image.target.media_type == media_type::INDEX {
                    progress.step(vertex, format!("exporting manifest list {}", image.id), true);
                } else {
                    progress.step(vertex, format!("writing image {}", image.id), true);
                }
                let further = match (prefix, self.flag("name-canonical")) {
                    (Some(prefix), _) => vec![with_digest(prefix, &image)?],
                    (None, true) => names.iter().map(|n| n.with_digest(image.id.clone())).collect(),
                    (None, false) => Vec::new(),
                };
                for name in &further {
                    self.services.images.tag(image.id.as_str(), name).map_err(|e| unknown(chain(&e)))?;
                }
                for name in names.iter().chain(&further) {
                    progress.step(vertex, format!("naming to {name}"), true);
                }
                if prefix.is_some() {
                    names = further;
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

    /// An image that was made for this export only may go.
    async fn let_go(&self, image: &Arc<Image>) {
        let id = image.id.clone();
        let gone = self
            .blocking(move |services, _| services.images.drop_cached(&[id]).map_err(|e| unknown(chain(&e))));
        if let Err(error) = gone.await {
            tracing::warn!(%error, "could not let go of an exported image");
        }
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
                let parts = self.parts()?;
                self.blocking(move |services, results| {
                    let mut source = parts.open(services, results, cancel)?;
                    files::send(&mut source, sender, messages, &runtime)
                })
                .await?;
                progress.step(vertex, "copying files", true);
                Ok(HashMap::new())
            })
            .await
    }

    /// How the results become files.
    fn parts(&self) -> Result<Parts, Status> {
        let split = match self.attributes.get("platform-split").map(String::as_str) {
            None | Some("") => self.made.several,
            Some("true" | "1") => true,
            Some("false" | "0") if self.made.results.len() > 1 => {
                let message = "exporter option platform-split=false is not supported by this daemon for results \
                               of several platforms";
                return Err(unknown(message));
            }
            Some("false" | "0") => false,
            Some(other) => return Err(unknown(format!("non-bool value for platform-split: {other}"))),
        };
        // What clients want by themselves is for images only.
        let provenance = self.made.provenance.clone().filter(|p| !p.wanted.inline_only);
        Ok(Parts { split, provenance })
    }

    async fn tar(&self) -> Result<HashMap<String, String>, Status> {
        let (cancel, parts) = (self.job.cancel.clone(), self.parts()?);
        self.stream("exporting to client tarball", self.metadata()?, move |services, results, out| {
            parts.open(services, results, cancel)?.tar(out)
        })
        .await?;
        Ok(HashMap::new())
    }

    /// `oci` and `docker`: the archive that `docker save` writes is both.
    async fn archive(&self, kind: &str) -> Result<HashMap<String, String>, Status> {
        let names = names(self.attributes)?;
        if kind == "docker" && self.made.results.len() > 1 {
            return Err(unknown("docker exporter does not currently support exporting manifest lists"));
        }
        let image = self.make(names.clone(), Vec::new(), true).await?;
        let about = about(&image, &names);
        let mut metadata = self.metadata()?;
        for (key, value) in &about {
            if let Ok(key) = http::HeaderName::try_from(format!("exporter-md-{}", key.to_lowercase())) {
                metadata.insert(key, header_value(value)?);
            }
        }
        let cancel = self.job.cancel.clone();
        let title = format!("exporting to {kind} image format");
        let saved = Arc::clone(&image);
        let sent = self
            .stream(&title, metadata, move |services, _, out| {
                services.images.save_as(&saved, names, out, &cancel).map_err(|e| unknown(chain(&e)))
            })
            .await;
        self.let_go(&image).await;
        sent.map(|()| about)
    }

    /// Sends what `write` writes.
    async fn stream(
        &self,
        title: &str,
        metadata: HeaderMap,
        write: impl FnOnce(&Services, &[Arc<Solved>], &mut dyn Write) -> Result<(), Status> + Send + 'static,
    ) -> Result<(), Status> {
        let progress = &self.job.progress;
        progress
            .vertex(title, async |vertex| {
                progress.step(vertex, "sending tarball", false);
                let channel = self.client.main.channel(FILE_SEND)?;
                let (sender, mut messages) = channel.stream(FILE_SEND, metadata)?;
                let sent = self
                    .blocking(move |services, results| {
                        let mut out = Out { sender, block: Vec::with_capacity(BLOCK) };
                        write(services, results, &mut out)?;
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

/// A name for an image that got none.
fn with_digest(prefix: &str, image: &Image) -> Result<Reference, Status> {
    let name = format!("{prefix}@{}", image.id);
    name.parse().map_err(|e| unknown(format!("failed to parse {name}: {e}")))
}

/// How results become files.
struct Parts {
    /// Each in a directory of its own.
    split: bool,
    provenance: attest::Shared,
}

impl Parts {
    fn open(&self, services: &Services, results: &[Arc<Solved>], cancel: Cancel) -> Result<Tree, Status> {
        let mut parts = Vec::new();
        for solved in results {
            let name = if self.split { solved.platform.to_string().replace('/', "_") } else { String::new() };
            let files = Files::open(&services.builder, solved)?;
            let mut part = Part { name, files, extra: Default::default() };
            if let Some(provenance) = &self.provenance {
                let subjects = part.digests(&cancel)?;
                let subjects = subjects
                    .into_iter()
                    .map(|(path, digest)| json!({ "name": path, "digest": { "sha256": digest.hex() } }))
                    .collect();
                let statement = provenance.file(solved, subjects);
                part.extra.insert(provenance.wanted.filename.clone(), statement);
            }
            parts.push(part);
        }
        parts.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Tree { parts, cancel })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_layers() {
        let read = |pairs: &[(&str, &str)], epoch| {
            let attributes = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            form(&attributes, epoch)
                .map(|f| (f.compression, f.level, f.force, f.epoch))
                .map_err(|e| e.message)
        };
        assert_eq!(read(&[], Some(1)), Ok((None, None, false, None)));
        assert_eq!(
            read(
                &[("compression", "zstd"), ("compression-level", "19"), ("force-compression", "true")],
                None
            ),
            Ok((Some(LayerCompression::Zstd), Some(19), true, None))
        );
        assert_eq!(read(&[("rewrite-timestamp", "true")], Some(1)), Ok((None, None, false, Some(1))));
        for (pairs, want) in [
            (&[("compression", "estargz")][..], "not supported"),
            (&[("compression", "lzma")], "unsupported compression type lzma"),
            (&[("compression", "gzip"), ("compression-level", "12")], "0 to 9"),
            (&[("compression-level", "x")], "non-integer value x"),
            (&[("rewrite-timestamp", "maybe")], "non-bool value maybe"),
        ] {
            let message = read(pairs, None).unwrap_err();
            assert!(message.contains(want), "{message}");
        }
    }
}
