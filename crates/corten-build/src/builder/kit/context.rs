//! Where the files of a build come from: the client's directories, an archive, an image, another build.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use corten_base::ignore::Ignore;
use corten_base::{Digest, Platform};
use corten_image::archive::{self, PutOptions};
use rustix::fs::OFlags;

use super::super::git::Git;
use super::super::git::address::{GitAddress, without_secrets};
use super::super::stage::Stage;
use super::super::{Build, Builder, Files, Work, read_dockerfile, tree};
use super::receive::Receiver;
use super::{KitState, Shared};
use crate::error::{At, BuildError};
use crate::solve::{
    ContextSource, FileSink, FileStat, FilesWanted, Lazy, SolveError, SolveEventKind, Solved, SourceFile,
};
use crate::step::StepStream;

/// A context of `--build-context`.
pub(crate) enum Named<'a> {
    /// Files, brought when they are first needed.
    Files(Lazy<'a>),
    /// An image of another name.
    Image(String),
    /// What another build made.
    Result(Box<Solved>),
}

/// The contexts that hold for a platform: of `NAME` and `NAME::os/arch` the latter.
pub(crate) fn for_platform<'a>(
    all: &'a BTreeMap<String, Named<'a>>,
    platform: &Platform,
) -> BTreeMap<String, &'a Named<'a>> {
    let mut out = BTreeMap::new();
    for (name, named) in all {
        match name.split_once("::") {
            None => {
                out.entry(name.clone()).or_insert(named);
            }
            Some((name, of)) if of.parse::<Platform>().is_ok_and(|p| p.normalised() == *platform) => {
                out.insert(name.to_owned(), named);
            }
            Some(_) => {}
        }
    }
    out
}

impl Named<'_> {
    pub(crate) fn image(&self) -> Option<&str> {
        match self {
            Self::Image(name) => Some(name),
            Self::Files(_) | Self::Result(_) => None,
        }
    }
}

/// Directories below `cache` with files of clients begin with this.
pub(crate) const KEPT: &str = "context-";

/// A directory of earlier builds that this one is using.
pub(crate) struct Kept {
    builder: Builder,
    name: String,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let inner = &self.builder.inner;
        super::super::run::touch(&inner.root.join("cache").join(&self.name));
        super::super::run::release(inner, std::slice::from_ref(&self.name));
    }
}

/// Brings files for one build.
#[derive(Clone, Copy)]
pub(crate) struct Sources<'a> {
    builder: &'a Builder,
    shared: &'a Shared<'a>,
    work: &'a Work,
}

impl<'a> Sources<'a> {
    pub(crate) const fn new(builder: &'a Builder, shared: &'a Shared<'a>, work: &'a Work) -> Self {
        Self { builder, shared, work }
    }

    /// The main context where it is no directory of the client.
    pub(crate) fn main(&self) -> Result<Option<OwnedFd>, SolveError> {
        let request = self.shared.request;
        let whole = match &request.context {
            ContextSource::Local(_) | ContextSource::Empty => return Ok(None),
            ContextSource::Git(address) => {
                let title = format!("[internal] load git source {}", without_secrets(address));
                self.shared.within(&title, Vec::new(), |v| self.cloned(address, "context", Some(v)))?
            }
            source => self.shared.within("[internal] load remote build context", Vec::new(), |_| {
                self.fetched(source, "context")
            })?,
        };
        if request.subdirectory.is_empty() {
            return Ok(Some(whole));
        }
        let path = tree::clean(&request.subdirectory)
            .ok_or_else(|| BuildError::OutsideContext(request.subdirectory.clone()))?;
        let part = tree::open(whole.as_fd(), &path, OFlags::RDONLY | OFlags::DIRECTORY);
        Ok(Some(part.at("open", &path)?))
    }

    /// A source that is brought as a whole.
    fn fetched(&self, source: &ContextSource, name: &str) -> Result<OwnedFd, BuildError> {
        let directory = self.work.directory(name)?;
        let cancel = self.shared.cancel;
        match source {
            ContextSource::Git(address) => return self.cloned(address, name, None),
            ContextSource::Url(url) => {
                let digest = self.builder.fetch_context(url, self.work, &directory, cancel)?.digest;
                self.shared.note(|m| {
                    m.downloads.insert(url.clone(), digest);
                });
            }
            ContextSource::Upload(url) => {
                let path = self.work.path.join(format!("{name}.tar"));
                let shown = path.as_os_str().as_encoded_bytes();
                let mut file = std::fs::File::create_new(&path).at("create", shown)?;
                self.shared.client.upload(url, &mut file, cancel)?;
                let mut file = std::fs::File::open(&path).at("open", shown)?;
                archive::put(directory.as_fd(), "/", &mut file, PutOptions::default(), cancel)?;
            }
            ContextSource::Result(solved) => {
                let files = self.builder.files_of(solved)?;
                super::super::run::copy_out(files.root(), "", &directory, cancel)?;
            }
            ContextSource::Local(_) | ContextSource::Image(_) | ContextSource::Empty => {}
        }
        Ok(directory)
    }

    /// The wanted part of a repository.
    fn cloned(&self, address: &str, name: &str, vertex: Option<&Digest>) -> Result<OwnedFd, BuildError> {
        let Some(parsed) = GitAddress::parse(address)? else {
            return Err(BuildError::invalid(format!("invalid git address {address:?}")));
        };
        let shared = self.shared;
        let keep = shared.request.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR");
        let keep = keep.is_some_and(|k| matches!(k.as_str(), "1" | "true"));
        let output = |said: &[u8]| {
            if let Some(vertex) = vertex {
                shared.tell(vertex, SolveEventKind::Output(StepStream::Stderr, said.to_vec()));
            }
        };
        let git = Git {
            inner: &self.builder.inner,
            work: self.work,
            client: Some(shared.client),
            cancel: shared.cancel,
        };
        let found = git.checkout(&parsed, name, keep, &output)?;
        shared.note(|m| {
            m.repositories.insert(address.to_owned(), found.commit.clone());
        });
        self.work.directory(&found.path)
    }

    /// The Dockerfile, and the text of the ignore file that is its own.
    pub(crate) fn dockerfile(
        &self,
        main: Option<&OwnedFd>,
    ) -> Result<(Arc<SourceFile>, Option<String>), SolveError> {
        let request = self.shared.request;
        let filename = if request.filename.is_empty() { "Dockerfile" } else { &request.filename };
        let own_ignore = format!("{filename}.dockerignore");
        let read = |directory: &OwnedFd| -> Result<_, BuildError> {
            let asked = if filename == "Dockerfile" { "" } else { filename };
            let (name, text) = read_dockerfile(directory, asked)?;
            let ignore = read_text(directory, &own_ignore)?;
            Ok((Arc::new(SourceFile { name, text }), ignore))
        };
        let from = match (&request.dockerfile_directory, main, &request.context) {
            (Some(directory), _, _) => directory.clone(),
            (None, Some(main), _) => return Ok(read(main)?),
            (None, None, ContextSource::Local(name)) => name.clone(),
            (None, None, _) => "dockerfile".to_owned(),
        };
        let title = definition_title(request);
        self.shared.within(&title, Vec::new(), |vertex| {
            self.shared.note(|m| {
                m.directories.insert(from.clone());
            });
            let mut follow = vec![filename.to_owned(), own_ignore.clone()];
            if let Some(parent) = filename.strip_suffix("Dockerfile") {
                follow.push(format!("{parent}dockerfile"));
            }
            let directory = self.work.directory("dockerfile")?;
            let wanted = FilesWanted { directory: &from, exclude: &[], follow: &follow };
            self.receive(vertex, "dockerfile", &wanted, &directory)?;
            read(&directory)
        })
    }

    /// The main context; nothing is transferred before the first step asks for it.
    pub(crate) fn context(
        self,
        main: Option<OwnedFd>,
        own_ignore: Option<String>,
        paths: Option<Vec<String>>,
    ) -> Lazy<'a> {
        if let Some(main) = main {
            return Lazy::ready(main);
        }
        Lazy::new(move || {
            let ContextSource::Local(name) = &self.shared.request.context else {
                return self.work.directory("context");
            };
            let exclude = match &own_ignore {
                Some(text) => patterns(text),
                None => self.ignored(name)?,
            };
            let title = "[internal] load build context";
            let follow = paths.clone().unwrap_or_default();
            self.local(title, name, &exclude, &follow)
        })
    }

    /// What `.dockerignore` says.
    fn ignored(&self, name: &str) -> Result<Vec<String>, BuildError> {
        let loaded = self.shared.within("[internal] load .dockerignore", Vec::new(), |vertex| {
            let directory = self.work.directory(&format!("ignore-{}", short(name)))?;
            let follow = [".dockerignore".to_owned()];
            let wanted = FilesWanted { directory: name, exclude: &[], follow: &follow };
            self.receive(vertex, "context", &wanted, &directory)?;
            read_text(&directory, ".dockerignore")
        });
        Ok(patterns(&loaded.map_err(|e| *e.error)?.unwrap_or_default()))
    }

    fn local(
        &self,
        title: &str,
        name: &str,
        exclude: &[String],
        follow: &[String],
    ) -> Result<OwnedFd, BuildError> {
        // The patterns are for the client; they are checked here, because its error would be hard to understand.
        Ignore::from_patterns(exclude.iter().map(String::as_str))
            .map_err(|e| BuildError::invalid(format!("failed parsing .dockerignore: {e}")))?;
        self.shared.note(|m| {
            m.directories.insert(name.to_owned());
        });
        let loaded = self.shared.within(title, Vec::new(), |vertex| {
            let wanted = FilesWanted { directory: name, exclude, follow };
            let directory = match self.kept(&wanted)? {
                Some(directory) => directory,
                None => self.work.directory(&format!("local-{}", short(name)))?,
            };
            self.receive(vertex, "context", &wanted, &directory)?;
            Ok(directory)
        });
        loaded.map_err(|e| *e.error)
    }

    /// The directory of an earlier build with the same files, if no other build is using it: what has not changed
    /// need not come again.
    fn kept(&self, wanted: &FilesWanted<'_>) -> Result<Option<OwnedFd>, BuildError> {
        let key = self.shared.client.shared_key(wanted.directory);
        if key.is_empty() {
            return Ok(None);
        }
        let whole = serde_json::json!([key, wanted.directory, wanted.follow]).to_string();
        let name = format!("{KEPT}{}", short(&whole));
        let inner = &self.builder.inner;
        let mut busy = inner.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if busy.contains_key(&name) {
            return Ok(None);
        }
        let path = inner.root.join("cache").join(&name);
        std::fs::create_dir_all(&path).at("mkdir", &name)?;
        let directory = std::fs::File::open(&path).at("open", &name)?;
        busy.insert(name.clone(), 1);
        let mut kept = self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(Kept { builder: self.builder.clone(), name });
        Ok(Some(directory.into()))
    }

    fn receive(
        &self,
        vertex: &Digest,
        what: &str,
        wanted: &FilesWanted<'_>,
        directory: &OwnedFd,
    ) -> Result<(), BuildError> {
        let root = directory.try_clone().at("duplicate", what)?;
        let mut sink = Counted {
            receiver: Receiver::new(root),
            sources: *self,
            vertex,
            id: format!("transferring {what}:"),
            told: AtomicU64::new(0),
        };
        self.shared.client.files(wanted, &mut sink, self.shared.cancel)?;
        sink.receiver.finish()?;
        sink.tell(true);
        Ok(())
    }

    /// The contexts of `--build-context`.
    pub(crate) fn named(self) -> Result<BTreeMap<String, Named<'a>>, BuildError> {
        let mut out = BTreeMap::new();
        for (name, source) in &self.shared.request.contexts {
            let named = match source {
                ContextSource::Image(image) => Named::Image(image.clone()),
                ContextSource::Result(solved) => Named::Result(solved.clone()),
                ContextSource::Local(directory) => Named::Files(Lazy::new(move || {
                    let exclude = self.ignored(directory)?;
                    self.local(&format!("[context {name}] load from client"), directory, &exclude, &[])
                })),
                other => {
                    Named::Files(Lazy::new(move || self.fetched(other, &format!("named-{}", short(name)))))
                }
            };
            out.insert(name.clone(), named);
        }
        Ok(out)
    }
}

/// Tells how much came.
struct Counted<'a> {
    receiver: Receiver,
    sources: Sources<'a>,
    vertex: &'a Digest,
    id: String,
    told: AtomicU64,
}

impl Counted<'_> {
    fn tell(&self, done: bool) {
        let (id, current) = (self.id.clone(), self.receiver.bytes);
        self.sources.shared.tell(self.vertex, SolveEventKind::Progress { id, current, total: 0, done });
    }
}

/// Bytes between two messages about a transfer.
const STEP: u64 = 1 << 20;

impl FileSink for Counted<'_> {
    fn stat(&mut self, stat: FileStat) -> Result<bool, BuildError> {
        self.receiver.stat(stat)
    }

    fn data(&mut self, number: u32, bytes: &[u8]) -> Result<(), BuildError> {
        self.receiver.data(number, bytes)?;
        let told = self.told.load(Ordering::Relaxed);
        if told == 0 || self.receiver.bytes >= told + STEP {
            self.told.store(self.receiver.bytes.max(1), Ordering::Relaxed);
            self.tell(false);
        }
        Ok(())
    }
}

impl Build<'_> {
    /// Files of a context of `--build-context`.
    pub(crate) fn context_root(&mut self, name: &str) -> Result<Files, BuildError> {
        let contexts = self.contexts;
        match contexts.get(name) {
            Some(Named::Files(files)) => {
                Ok(Files::plain(files.fd()?.try_clone_to_owned().at("duplicate", name)?))
            }
            Some(Named::Image(image)) => {
                let platform = self.request.platform.clone();
                let layers = self.base_image(image, platform.as_ref(), false)?.layers();
                self.files_of(&layers)
            }
            Some(Named::Result(solved)) => self.files_of(&solved.layers),
            None => Err(BuildError::NoSource(format!("no build context {name}"))),
        }
    }

    /// A stage on such a context; `None` where it is an image.
    pub(crate) fn context_stage(
        &mut self,
        name: &str,
        platform: &Platform,
    ) -> Result<Option<Stage>, BuildError> {
        let contexts = self.contexts;
        match contexts.get(name) {
            Some(Named::Result(solved)) => {
                let mut stage = Stage::on(None, solved.platform.clone());
                stage.config = solved.config.clone();
                stage.kit = Some(KitState {
                    layers: solved.layers.clone(),
                    base: solved.base_layers,
                    history: solved.history.clone(),
                    ..KitState::default()
                });
                Ok(Some(stage))
            }
            Some(Named::Files(files)) => {
                let mut stage = Stage::on(None, platform.clone());
                stage.config.working_dir = "/".into();
                stage.kit = Some(KitState::default());
                let (from, cancel) = (files.fd()?, self.cancel);
                let everything = Ignore::default();
                let (_, hash) = tree::hash(from, "", &everything, cancel)?;
                let key = self.kit_key(&stage, false, &serde_json::json!(["FROM", hash]));
                let created_by = format!("FROM {name} # buildkit");
                if self.kit_probe(&mut stage, &key, &created_by)? {
                    return Ok(Some(stage));
                }
                let layer = self.change_files(&stage, |root| {
                    let mut copier = tree::Copier {
                        to: root,
                        owner: (0, 0),
                        mode: None,
                        exclude: &everything,
                        cancel,
                        links: Default::default(),
                    };
                    copier.contents(from, "", "")
                })?;
                self.kit_commit(&mut stage, &key, created_by, layer)?;
                Ok(Some(stage))
            }
            Some(Named::Image(_)) | None => Ok(None),
        }
    }
}

/// Name of the vertex that reads the Dockerfile.
pub(crate) fn definition_title(request: &crate::solve::SolveRequest) -> String {
    let filename = if request.filename.is_empty() { "Dockerfile" } else { &request.filename };
    format!("[internal] load build definition from {filename}")
}

/// Lines of an ignore file; comments and blank lines are nothing.
fn patterns(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|line| {
            let (negated, path) = line.strip_prefix('!').map_or(("", line), |rest| ("!", rest.trim()));
            // The pattern's own slash at the beginning or the end means nothing.
            let clean = tree::clean(path).unwrap_or_else(|| path.to_owned());
            format!("{negated}{clean}")
        })
        .filter(|p| !p.is_empty() && p != "!")
        .collect()
}

fn read_text(directory: &OwnedFd, name: &str) -> Result<Option<String>, BuildError> {
    use std::io::Read;
    let Ok(file) = tree::open(directory.as_fd(), name, OFlags::RDONLY) else { return Ok(None) };
    let mut text = Vec::new();
    std::fs::File::from(file).take(super::super::DOCKERFILE_LIMIT).read_to_end(&mut text).at("read", name)?;
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

/// A part of a path that stands for a name.
fn short(name: &str) -> String {
    Digest::of(name.as_bytes()).hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_ignore_files() {
        let text = "\u{feff}# comment\n\n/a/\n ! b/./c \n*.md\n!\n";
        assert_eq!(patterns(text), ["a", "!b/c", "*.md"]);
    }
}
