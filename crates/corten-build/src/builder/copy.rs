//! `COPY` and `ADD`.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use corten_base::Digest;
use corten_base::ignore::Ignore;
use corten_image::archive::{self, PutOptions};
use corten_image::{Images, Layer};
use rustix::fs::{Mode, OFlags};

use super::git::Git;
use super::git::address::GitAddress;
use super::owner::{ModeChange, owner};
use super::stage::{Stage, nop};
use super::{Build, Files, fetch, tree};
use crate::config::{expand, join};
use crate::dockerfile::{CopySource, CopySpec, Expander};
use crate::error::{At, BuildError};

/// Where a source's files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Root {
    /// Context or `--from`.
    Given,
    /// Heredocs and downloads.
    Made,
}

/// One thing to copy.
#[derive(Debug, Clone)]
struct Source {
    root: Root,
    /// Clean, relative to its root.
    path: String,
    /// Last part of the name it gets in a directory.
    name: String,
    /// Directories between the destination and it (`--parents`).
    parents: String,
    is_dir: bool,
    unpack: bool,
    hash: String,
}

/// An instruction with everything expanded.
struct Job {
    sources: Vec<Source>,
    destination: String,
    chown: String,
    mode: Option<ModeChange>,
    exclude: Ignore,
    link: bool,
}

impl Build<'_> {
    pub(crate) fn copy_step(
        &mut self,
        stage: &mut Stage,
        spec: &CopySpec,
        name: &'static str,
    ) -> Result<(), BuildError> {
        let failed = |source| BuildError::Copy { name, source: Box::new(source) };
        let get = self.variables(stage);
        let expander = Expander { escape: self.escape };
        let word = |text: &str| expand(expander, text, &get);
        let from = if spec.from.is_empty() { None } else { Some(self.source_root(&word(&spec.from)?)?) };
        let job = self.job(stage, spec, name, from.as_ref(), &word).map_err(failed)?;
        let hash = identity(&job.sources);
        let hidden = format!(
            "{} {:?} {:?} {} {} {:?}",
            job.chown, spec.chmod, spec.exclude, spec.link, spec.parents, spec.unpack
        );
        let (created_by, key) = if let Some(kit) = &mut self.kit {
            kit.alone = job.link;
            let created_by = described(name, spec, &word)?;
            let parts = serde_json::json!(["COPY", name, hash, job.destination, hidden]);
            let key = self.kit_key(stage, job.link, &parts);
            if self.kit_probe(stage, &key, &created_by)? {
                return Ok(());
            }
            (created_by, key)
        } else {
            // COMPAT: the blank at the end is the reference's.
            let created_by = nop(stage, &format!("{name} {hash} in {} ", job.destination));
            let key = self.key(stage, &created_by, &hidden);
            if self.probe(stage, &key)? {
                return Ok(());
            }
            (created_by, key)
        };
        let made = self.work.directory("made")?;
        let given = match from {
            Some(files) => files,
            // Heredocs and downloads need no context.
            None if job.sources.iter().all(|s| s.root == Root::Made) => {
                Files::plain(self.work.directory("empty")?)
            }
            None => Files::plain(self.context.fd()?.try_clone_to_owned().at("duplicate", "context")?),
        };
        let layers = stage.layers();
        let cancel = self.cancel;
        // A linked copy does not look at what is below it.
        let below = if job.link { &[][..] } else { &layers[..] };
        let owner = self.owner(stage, &job).map_err(failed)?;
        let layer = self
            .change_files_on(below, |root| job.perform(root, owner, &given, &made, cancel))
            .map_err(failed)?;
        self.commit(stage, &key, created_by, layer)
    }

    /// `--chown` by the files of the stage.
    fn owner(&mut self, stage: &Stage, job: &Job) -> Result<(u32, u32), BuildError> {
        if job.chown.is_empty() || job.chown.bytes().all(|b| b.is_ascii_digit() || b == b':') {
            let nothing = self.work.directory("empty")?;
            return owner(nothing.as_fd(), &job.chown);
        }
        owner(self.files_of(&stage.layers())?.as_fd(), &job.chown)
    }

    /// Files of a stage or image that `--from` names.
    pub(crate) fn source_root(&mut self, from: &str) -> Result<Files, BuildError> {
        let by_name = self.finished.iter().find(|f| !f.name.is_empty() && f.name.eq_ignore_ascii_case(from));
        let by_number = || from.parse::<usize>().ok();
        let stage = match (by_name, by_number()) {
            (Some(stage), _) => Some(stage),
            (None, Some(n)) => Some(self.finished.get(n).ok_or_else(|| {
                BuildError::invalid(format!("invalid from flag value {from}: invalid stage index {from}"))
            })?),
            (None, None) => None,
        };
        let layers = match stage {
            Some(finished) => finished.stage.as_ref().map(Stage::layers).unwrap_or_default(),
            None if self.contexts.contains_key(from) => return self.context_root(from),
            None => {
                let platform = self.request.platform.clone().filter(|_| self.kit.is_some());
                let image =
                    self.base_image(from, platform.as_ref(), false).map_err(|e| BuildError::Instruction {
                        kind: e.kind(),
                        message: format!("invalid from flag value {from}: {e}"),
                    })?;
                image.layers()
            }
        };
        self.files_of(&layers)
    }

    /// Files of some layers, read-only.
    pub(crate) fn files_of(&mut self, layers: &[Layer]) -> Result<Files, BuildError> {
        if layers.is_empty() {
            return Ok(Files::plain(self.work.directory("empty")?));
        }
        files_of(&self.inner.images, layers)
    }
}

/// See [`Build::files_of`].
pub(crate) fn files_of(images: &Images, layers: &[Layer]) -> Result<Files, BuildError> {
    {
        let snapshots = images.snapshots().clone();
        let id = corten_base::Id::random();
        let overlay = snapshots.prepare_files(id.as_str(), layers)?;
        match snapshots.mount_detached(&overlay, true) {
            Ok(fd) => Ok(Files { fd, snapshot: Some((snapshots, id)) }),
            Err(e) => {
                snapshots.remove(id.as_str()).ok();
                Err(e.into())
            }
        }
    }
}

impl Build<'_> {
    fn job(
        &mut self,
        stage: &Stage,
        spec: &CopySpec,
        name: &'static str,
        from: Option<&Files>,
        word: &dyn Fn(&str) -> Result<String, BuildError>,
    ) -> Result<Job, BuildError> {
        let patterns: Vec<String> = spec.exclude.iter().map(|e| word(e)).collect::<Result<_, _>>()?;
        let exclude = Ignore::from_patterns(patterns.iter().map(String::as_str))
            .map_err(|e| BuildError::invalid(e.to_string()))?;
        let mut sources = Vec::new();
        for source in &spec.sources {
            match source {
                CopySource::Inline(heredoc) => {
                    let text = heredoc.text();
                    let expander = Expander { escape: self.escape };
                    let get = self.variables(stage);
                    let text = if heredoc.expand {
                        expander
                            .text(&text, &get)
                            .map_err(|source| BuildError::Expand { word: heredoc.name.clone(), source })?
                    } else {
                        text
                    };
                    sources.push(self.inline(&heredoc.name, &text)?);
                }
                CopySource::Path(text) => {
                    let text = word(text)?;
                    let repository = if name == "ADD" { GitAddress::parse(&text)? } else { None };
                    if let Some(address) = repository {
                        sources.push(self.cloned(&text, address, spec, &exclude, word)?);
                    } else if name == "ADD" && fetch::is_url(&text) {
                        sources.push(self.downloaded(&text, spec, word)?);
                    } else {
                        self.local(&text, spec, name, from, &exclude, &mut sources)?;
                    }
                }
            }
        }
        if !spec.checksum.is_empty() && !sources.iter().all(|s| s.root == Root::Made) {
            return Err(BuildError::invalid("checksum can't be specified for non-HTTP(S) sources"));
        }
        let destination = destination(&stage.config.working_dir, &word(&spec.destination)?);
        if sources.is_empty() {
            return Err(BuildError::NoSource("no source files were specified".into()));
        }
        if sources.len() > 1 && !destination.ends_with('/') {
            return Err(BuildError::invalid(format!(
                "When using {name} with more than one source file, the destination must be a directory and end with a /"
            )));
        }
        Ok(Job {
            sources,
            destination,
            chown: word(&spec.chown)?,
            mode: ModeChange::parse(&word(&spec.chmod)?)?,
            exclude,
            link: spec.link,
        })
    }

    fn inline(&mut self, name: &str, text: &str) -> Result<Source, BuildError> {
        let name = name.rsplit('/').next().unwrap_or(name).to_owned();
        let path = format!("inline-{}", corten_base::Id::random().short());
        let made = self.work.directory("made")?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&made, path.as_str(), flags, Mode::from_raw_mode(0o644))
            .at("create", &name)?;
        let mut file = File::from(file);
        std::io::Write::write_all(&mut file, text.as_bytes()).at("write", &name)?;
        let hash = format!("file:{}", Digest::of(text.as_bytes()).hex());
        Ok(Source {
            root: Root::Made,
            path,
            name,
            parents: String::new(),
            is_dir: false,
            unpack: false,
            hash,
        })
    }

    /// A repository, without its `.git` unless that is wanted.
    fn cloned(
        &mut self,
        text: &str,
        mut address: GitAddress,
        spec: &CopySpec,
        exclude: &Ignore,
        word: &dyn Fn(&str) -> Result<String, BuildError>,
    ) -> Result<Source, BuildError> {
        let checksum = word(&spec.checksum)?;
        if !checksum.is_empty() {
            address.checksum = checksum;
        }
        let made = self.work.directory("made")?;
        let client = self.kit.as_ref().map(|k| k.shared.client);
        let git = Git { inner: self.inner, work: self.work, client, cancel: self.cancel };
        let name = format!("made/git-{}", corten_base::Id::random().short());
        let found = git.checkout(&address, &name, spec.keep_git_dir, &|_| {})?;
        if let Some(kit) = &self.kit {
            kit.shared.note(|m| {
                m.repositories.insert(text.to_owned(), found.commit);
            });
        }
        let path = found.path.trim_start_matches("made/").to_owned();
        let (kind, hash) = tree::hash(made.as_fd(), &path, exclude, self.cancel)?;
        Ok(Source {
            root: Root::Made,
            path,
            name: String::new(),
            parents: String::new(),
            is_dir: true,
            unpack: false,
            hash: format!("{kind}:{hash}"),
        })
    }

    fn downloaded(
        &mut self,
        url: &str,
        spec: &CopySpec,
        word: &dyn Fn(&str) -> Result<String, BuildError>,
    ) -> Result<Source, BuildError> {
        let made = self.work.directory("made")?;
        let path = format!("download-{}", corten_base::Id::random().short());
        fetch::download(self.inner, url, &made, &path, self.cancel)?;
        let (_, hash) = tree::hash(made.as_fd(), &path, &Ignore::default(), self.cancel)?;
        if let Some(kit) = &self.kit {
            let digest = file_digest(&made, &path)?;
            kit.shared.note(|m| {
                m.downloads.insert(url.to_owned(), digest);
            });
        }
        let checksum = word(&spec.checksum)?;
        if !checksum.is_empty() {
            let wanted: Digest = checksum.parse().map_err(|e| BuildError::invalid(format!("{e}")))?;
            let got = file_digest(&made, &path)?;
            if got != wanted {
                return Err(BuildError::invalid(format!(
                    "digest mismatch {url}: {got} (expected: {wanted})"
                )));
            }
        }
        let name = match fetch::name_of(url) {
            Some(name) => name.to_owned(),
            None if destination("/", &word(&spec.destination)?).ends_with('/') => {
                return Err(BuildError::invalid(format!("cannot determine filename from url: {url}")));
            }
            None => "download".to_owned(),
        };
        let unpack = spec.unpack.unwrap_or(false);
        Ok(Source {
            root: Root::Made,
            path,
            name,
            parents: String::new(),
            is_dir: false,
            unpack,
            hash: format!("file:{hash}"),
        })
    }

    fn local(
        &mut self,
        text: &str,
        spec: &CopySpec,
        name: &'static str,
        from: Option<&Files>,
        exclude: &Ignore,
        out: &mut Vec<Source>,
    ) -> Result<(), BuildError> {
        let context = self.context;
        let root = match from {
            Some(files) => files.as_fd(),
            None => context.fd()?,
        };
        let path = tree::clean(text.trim_start_matches('/'))
            .ok_or_else(|| BuildError::OutsideContext(text.to_owned()))?;
        let is_pattern = path.contains(['*', '?', '[']);
        let paths = if is_pattern { tree::glob(root, &path)? } else { vec![path.clone()] };
        // `a/./b` keeps only what is after the dot.
        let pivot = text.split_once("/./").map_or("", |(before, _)| before).trim_start_matches('/');
        let pivot = tree::clean(pivot).unwrap_or_default();
        for path in paths {
            let Some(stat) = tree::stat(root, &path).at("stat", &path)? else {
                let message = match from {
                    _ if let Some(kit) = &self.kit => {
                        let vertex = kit.vertex.as_ref().map_or("", |v| v.hex());
                        let short = &vertex[..vertex.len().min(25)];
                        format!("failed to calculate checksum of ref {short}: \"/{path}\": not found")
                    }
                    None => format!(
                        "file not found in build context or excluded by .dockerignore: stat {path}: file does not exist"
                    ),
                    Some(_) => format!("stat {path}: file does not exist"),
                };
                return Err(BuildError::NoSource(message));
            };
            if is_pattern && exclude.excludes(&path) && !tree::is_dir(&stat) {
                continue;
            }
            let is_dir = tree::is_dir(&stat);
            let (kind, hash) = tree::hash(root, &path, exclude, self.cancel)?;
            let unpack = name == "ADD" && !is_dir && spec.unpack.unwrap_or(true) && {
                let file = tree::open(root, &path, OFlags::RDONLY).at("open", &path)?;
                fetch::is_archive(&mut File::from(file)).at("read", &path)?
            };
            let (parent, base) = path.rsplit_once('/').unwrap_or(("", &path));
            let parents = match spec.parents {
                false => String::new(),
                true => {
                    let kept = if is_dir { path.as_str() } else { parent };
                    kept.strip_prefix(&pivot).unwrap_or(kept).trim_matches('/').to_owned()
                }
            };
            let base = base.to_owned();
            out.push(Source {
                root: Root::Given,
                path,
                name: base,
                parents,
                is_dir,
                unpack,
                hash: format!("{kind}:{hash}"),
            });
        }
        Ok(())
    }
}

impl Job {
    fn perform(
        &self,
        root: BorrowedFd<'_>,
        owner: (u32, u32),
        given: &Files,
        made: &OwnedFd,
        cancel: &corten_base::Cancel,
    ) -> Result<(), BuildError> {
        let target = tree::clean(&self.destination).unwrap_or_default();
        let mut copier = tree::Copier {
            to: root,
            owner,
            mode: self.mode.as_ref(),
            exclude: &self.exclude,
            cancel,
            links: Default::default(),
        };
        for source in &self.sources {
            let from = match source.root {
                Root::Given => given.as_fd(),
                Root::Made => made.as_fd(),
            };
            let base = below(&target, &source.parents);
            if source.is_dir {
                copier.contents(from, &source.path, &base)?;
            } else if source.unpack {
                tree::make_dirs(root, &target, owner).at("mkdir", &target)?;
                let file = tree::open(from, &source.path, OFlags::RDONLY).at("open", &source.path)?;
                // Owners are those of the archive, as in the reference, unless --chown says otherwise.
                let options = unpack_options((!self.chown.is_empty()).then_some(owner));
                archive::put(root, &format!("/{target}"), &mut File::from(file), options, cancel)?;
            } else {
                let is_dir = self.destination.ends_with('/')
                    || !source.parents.is_empty()
                    || tree::stat(root, &target).at("stat", &target)?.is_some_and(|s| tree::is_dir(&s));
                let to = if is_dir { below(&base, &source.name) } else { base };
                if to.is_empty() {
                    return Err(BuildError::invalid("cannot copy a file to the root directory itself"));
                }
                copier.file(from, &source.path, &to)?;
            }
        }
        Ok(())
    }
}

/// What BuildKit's history says of a copy.
fn described(
    name: &str,
    spec: &CopySpec,
    word: &dyn Fn(&str) -> Result<String, BuildError>,
) -> Result<String, BuildError> {
    let mut text = name.to_owned();
    for (flag, value) in [("chown", &spec.chown), ("chmod", &spec.chmod)] {
        if !value.is_empty() {
            text.push_str(&format!(" --{flag}={}", word(value)?));
        }
    }
    if spec.link {
        text.push_str(" --link");
    }
    for source in &spec.sources {
        text.push(' ');
        match source {
            CopySource::Path(path) => text.push_str(&word(path)?),
            CopySource::Inline(heredoc) => text.push_str(&format!("<<{}", heredoc.name)),
        }
    }
    Ok(format!("{text} {} # buildkit", word(&spec.destination)?))
}

fn unpack_options(owner: Option<(u32, u32)>) -> PutOptions {
    match owner {
        Some(owner) => PutOptions { owner, ..PutOptions::default() },
        None => PutOptions { copy_uid_gid: true, ..PutOptions::default() },
    }
}

fn below(directory: &str, name: &str) -> String {
    match (directory, name) {
        ("", name) => name.to_owned(),
        (directory, "") => directory.to_owned(),
        (directory, name) => format!("{directory}/{name}"),
    }
}

/// Absolute and clean, with the slash at the end kept.
fn destination(working_dir: &str, text: &str) -> String {
    let is_dir = text.ends_with('/') || text == "." || text.ends_with("/.") || text.is_empty();
    let path = join(working_dir, text);
    if is_dir && path != "/" { format!("{path}/") } else { path }
}

/// COMPAT: one source as it is, several under one hash.
fn identity(sources: &[Source]) -> String {
    match sources {
        [one] => one.hash.clone(),
        all => {
            let joined: Vec<String> = all.iter().map(|s| format!("{}={}", s.name, s.hash)).collect();
            format!("multi:{}", Digest::of(joined.join(",").as_bytes()).hex())
        }
    }
}

pub(crate) fn file_digest(directory: &OwnedFd, path: &str) -> Result<Digest, BuildError> {
    use sha2::Digest as _;
    let mut file = File::from(tree::open(directory.as_fd(), path, OFlags::RDONLY).at("open", path)?);
    let mut hasher = HashWriter(sha2::Sha256::new());
    std::io::copy(&mut file, &mut hasher).at("read", path)?;
    Ok(Digest::from_sha256(&hasher.0.finalize()))
}

struct HashWriter(sha2::Sha256);

impl std::io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        sha2::Digest::update(&mut self.0, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations() {
        for (dir, text, want) in [
            ("", "/a", "/a"),
            ("/w", "a/", "/w/a/"),
            ("/w", ".", "/w/"),
            ("/w", "./x/../y", "/w/y"),
            ("", "/", "/"),
            ("/w", "/a/b/", "/a/b/"),
        ] {
            assert_eq!(destination(dir, text), want);
        }
    }
}
