//! `RUN`: the command, its arguments and mounts, its container.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use corten_base::Digest;
use corten_base::ignore::Ignore;
use corten_image::NewImage;
use corten_wire::oci_image::ImageConfig;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::stage::Stage;
use super::{Build, Inner, tree};
use crate::config::{expand, join, shell};
use crate::dockerfile::{CommandLine, Expander, MountKind, MountSpec, RunSpec, Sharing};
use crate::error::{At, BuildError};
use crate::request::BuildEvent;
use crate::solve::{Materials, SolveEventKind};
use crate::step::{StepMount, StepSpec, StepStream};

/// Where scripts of heredocs appear.
const SCRIPTS: &str = "/dev/pipes";

/// Mounts of one step and what must happen after it.
#[derive(Default)]
struct Mounts {
    list: Vec<StepMount>,
    /// Names in `Inner::busy`.
    busy: Vec<String>,
    /// Variables of the command: secrets, and where the agent's socket is.
    env: Vec<String>,
    /// What secrets and sockets live in, and what serves the sockets.
    private: Option<Private>,
    agents: Vec<Box<dyn Send>>,
}

/// A directory in memory for what must not reach the disk; it goes with everything in it.
struct Private(PathBuf);

impl Drop for Private {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(error = %e, "could not remove the secrets of a build step");
        }
    }
}

impl Build<'_> {
    pub(crate) fn run_step(&mut self, stage: &mut Stage, run: &RunSpec) -> Result<(), BuildError> {
        if run.security == "insecure" {
            return Err(BuildError::unsupported("RUN --security=insecure is not allowed by this daemon"));
        }
        if stage.image.is_none() && self.kit.is_none() {
            stage.image = Some(self.empty_image(stage)?);
        }
        let (command, script) = command_of(stage, run);
        let args = self.args.in_force(&stage.env());
        let recorded: Vec<String> =
            args.iter().filter(|(n, _)| self.args.is_recorded(n)).map(|(n, v)| format!("{n}={v}")).collect();
        let mut created_by = command.join(" ");
        if !args.is_empty() {
            let prefix: Vec<String> = [format!("|{}", recorded.len())].into_iter().chain(recorded).collect();
            created_by = format!("{} {created_by}", prefix.join(" "));
        }
        let expander = Expander { escape: self.escape };
        let get = self.variables(stage);
        let mut specs = run.mounts.clone();
        for spec in &mut specs {
            for field in [&mut spec.target, &mut spec.source, &mut spec.from, &mut spec.id] {
                *field = expand(expander, field, &get)?;
            }
        }
        if let Some(kit) = &self.kit {
            let network = match run.network.as_str() {
                "" | "default" => &self.request.network,
                other => other,
            };
            kit.shared.note(|m| note_run(m, &specs, network));
        }
        let identity = self.mount_identity(&specs)?;
        let text = script.clone().unwrap_or_default();
        let hidden = format!("{:?}{identity}{text}", run.flags);
        let key = if self.kit.is_some() {
            created_by = format!("RUN {created_by} # buildkit");
            let c = &stage.config;
            let parts = serde_json::json!(["RUN", created_by, c.env, c.working_dir, c.user, hidden]);
            let key = self.kit_key(stage, false, &parts);
            if self.kit_probe(stage, &key, &created_by)? {
                return Ok(());
            }
            key
        } else {
            let key = self.key(stage, &created_by, &hidden);
            if self.probe(stage, &key)? {
                return Ok(());
            }
            key
        };
        let mut mounts = Mounts::default();
        let ran = self
            .prepare_mounts(stage, &specs, script.as_deref(), &mut mounts)
            .and_then(|()| self.missing_mount_points(stage, &mounts))
            .and_then(|stubs| Ok((self.run_container(stage, run, command, &args, &mounts)?, stubs)));
        release(self.inner, &mounts.busy);
        drop(mounts);
        let (id, stubs) = ran?;
        self.remove_stubs(&id, &stubs)?;
        let layer = self.inner.images.take_layer(&id, self.cancel)?;
        self.commit(stage, &key, created_by, layer)?;
        if self.request.rm {
            self.kept.retain(|k| *k != id);
            self.remove_container(&id);
            self.print(format!(" ---> Removed intermediate container {}\n", &id[..id.len().min(12)]));
        }
        Ok(())
    }

    /// Paths on the way to mounts that the stage has not: they are made for the mounts, and are no part of the layer.
    /// The longest come first.
    fn missing_mount_points(&mut self, stage: &Stage, mounts: &Mounts) -> Result<Vec<String>, BuildError> {
        let targets: Vec<&str> = mounts.list.iter().map(StepMount::target).collect();
        if targets.is_empty() {
            return Ok(Vec::new());
        }
        let files = self.files_of(&stage.layers())?;
        let mut missing = Vec::new();
        for target in targets {
            let path = tree::clean(target).unwrap_or_default();
            let ends = path.match_indices('/').map(|(i, _)| i).chain([path.len()]);
            for prefix in ends.map(|end| &path[..end]).filter(|p| !p.is_empty()) {
                if tree::stat(files.as_fd(), prefix).at("stat", prefix)?.is_none() {
                    missing.push(prefix.to_owned());
                }
            }
        }
        missing.sort_by_key(|p| std::cmp::Reverse(p.len()));
        missing.dedup();
        Ok(missing)
    }

    /// Takes mount points out of a step's layer, if they are still what was made for the mount: empty. No link is
    /// followed (CVE-2024-23652).
    fn remove_stubs(&self, id: &str, stubs: &[String]) -> Result<(), BuildError> {
        if stubs.is_empty() {
            return Ok(());
        }
        let upper = self.inner.images.snapshots().upper_of(id)?;
        let upper = std::fs::File::open(&upper).at("open", upper.as_os_str().as_encoded_bytes())?;
        for stub in stubs {
            let (parent, name) = stub.rsplit_once('/').unwrap_or((".", stub));
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let Ok(parent) = rustix::fs::openat2(&upper, parent, flags, Mode::empty(), resolve) else {
                continue;
            };
            let Ok(stat) = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            let flags = match (tree::is_dir(&stat), is_file && stat.st_size == 0) {
                (true, _) => AtFlags::REMOVEDIR,
                (false, true) => AtFlags::empty(),
                // The step put something there.
                (false, false) => continue,
            };
            match rustix::fs::unlinkat(&parent, name, flags) {
                Ok(()) | Err(Errno::NOTEMPTY | Errno::NOENT) => {}
                Err(e) => return Err(e).at("remove", stub),
            }
        }
        Ok(())
    }

    /// A container needs an image, also on `scratch`.
    fn empty_image(&self, stage: &Stage) -> Result<std::sync::Arc<corten_image::Image>, BuildError> {
        let config = ImageConfig {
            created: Some(corten_base::time::rfc3339_nano(corten_base::time::now_ns())),
            architecture: stage.platform.architecture.clone(),
            variant: stage.platform.variant.clone(),
            os: stage.platform.os.clone(),
            config: stage.config.clone(),
            ..ImageConfig::default()
        };
        let new = NewImage { config, ..NewImage::default() };
        Ok(self.inner.images.create_image(new)?)
    }

    fn run_container(
        &mut self,
        stage: &Stage,
        run: &RunSpec,
        command: Vec<String>,
        args: &BTreeMap<String, String>,
        mounts: &Mounts,
    ) -> Result<String, BuildError> {
        let mut config = stage.config.clone();
        let env = config.env.get_or_insert_default();
        env.extend(args.iter().map(|(n, v)| format!("{n}={v}")));
        env.extend(mounts.env.iter().cloned());
        config.cmd = Some(command.clone());
        config.entrypoint = None;
        config.healthcheck = None;
        config.on_build = None;
        let network = match run.network.as_str() {
            "" | "default" => self.request.network.clone(),
            other => other.to_owned(),
        };
        let image = match (&self.kit, &stage.image) {
            (Some(_), _) => {
                // Volumes hide nothing from a build by BuildKit's rules.
                config.volumes = None;
                self.carrier(stage)?
            }
            (None, Some(image)) => std::sync::Arc::clone(image),
            (None, None) => return Err(BuildError::invalid("no image to run a command in")),
        };
        let spec = StepSpec {
            image,
            config,
            network,
            extra_hosts: self.request.extra_hosts.clone(),
            limits: self.request.limits.clone(),
            mounts: mounts.list.clone(),
        };
        let runner = &self.inner.runner;
        let id = runner.create(&spec)?;
        self.kept.push(id.clone());
        self.print(format!(" ---> Running in {}\n", &id[..id.len().min(12)]));
        if let Some(kit) = &self.kit {
            let vertex = kit.vertex.clone().unwrap_or_else(|| Digest::of(b""));
            let mut output = |stream: StepStream, bytes: &[u8]| {
                kit.shared.tell(&vertex, SolveEventKind::Output(stream, bytes.to_vec()));
            };
            let code = runner.run(&id, &mut output, self.cancel)?;
            return if code == 0 {
                Ok(id)
            } else {
                Err(BuildError::Command { command: command.join(" "), code })
            };
        }
        let mut texts = [Utf8::default(), Utf8::default()];
        let say = &mut *self.say;
        let mut output = |stream: StepStream, bytes: &[u8]| {
            let text = texts[usize::from(stream == StepStream::Stderr)].push(bytes);
            if !text.is_empty() {
                say(BuildEvent::Stream(coloured(stream, text)));
            }
        };
        let code = runner.run(&id, &mut output, self.cancel)?;
        for (stream, rest) in [StepStream::Stdout, StepStream::Stderr].into_iter().zip(texts) {
            if !rest.pending.is_empty() {
                let text = String::from_utf8_lossy(&rest.pending).into_owned();
                say(BuildEvent::Stream(coloured(stream, text)));
            }
        }
        if code != 0 {
            return Err(BuildError::Command { command: command.join(" "), code });
        }
        Ok(id)
    }

    pub(crate) fn remove_container(&self, id: &str) {
        if let Err(e) = self.inner.runner.remove(id) {
            tracing::warn!(container = id, error = %e, "could not remove the container of a build step");
        }
    }

    /// What binds bring in belongs to the cache key.
    fn mount_identity(&mut self, specs: &[MountSpec]) -> Result<String, BuildError> {
        let mut identity = String::new();
        for spec in specs {
            identity.push_str(&format!("{}:{}:{};", spec.kind.name(), spec.target, spec.id));
            if spec.kind != MountKind::Bind {
                continue;
            }
            let path = inside(&spec.source)?;
            let none = Ignore::default();
            let (_, hash) = if spec.from.is_empty() {
                let context = self.context.fd()?;
                require(context, &path)?;
                tree::hash(context, &path, &none, self.cancel)?
            } else {
                let root = self.source_root(&spec.from)?;
                require(root.as_fd(), &path)?;
                tree::hash(root.as_fd(), &path, &none, self.cancel)?
            };
            identity.push_str(&hash);
        }
        Ok(identity)
    }

    fn prepare_mounts(
        &mut self,
        stage: &Stage,
        specs: &[MountSpec],
        script: Option<&str>,
        out: &mut Mounts,
    ) -> Result<(), BuildError> {
        if let Some(script) = script {
            out.list.push(self.script_mount(script)?);
        }
        for spec in specs {
            let target = join(&stage.config.working_dir, &spec.target);
            match spec.kind {
                MountKind::Tmpfs => out.list.push(StepMount::Tmpfs { target, size: spec.size }),
                MountKind::Bind => {
                    let source = self.bind_source(spec)?;
                    out.list.push(StepMount::Bind { source, target, read_only: spec.read_only });
                }
                MountKind::Cache => {
                    let source = self.cache_source(spec, &target, out)?;
                    out.list.push(StepMount::Bind { source, target, read_only: spec.read_only });
                }
                MountKind::Secret => self.secret_mount(stage, spec, out)?,
                MountKind::Ssh => self.ssh_mount(stage, spec, out)?,
            }
        }
        Ok(())
    }

    /// A secret as a file, a variable or both. The classic API has no way to send one: there are none.
    fn secret_mount(&self, stage: &Stage, spec: &MountSpec, out: &mut Mounts) -> Result<(), BuildError> {
        use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
        let id = secret_id(spec);
        let secret = match &self.kit {
            Some(kit) => kit.shared.client.secret(id)?,
            None => None,
        };
        let Some(secret) = secret else {
            return match spec.required {
                true => Err(BuildError::invalid(format!("secret {id}: not found"))),
                false => Ok(()),
            };
        };
        if !spec.env.is_empty() {
            let value = String::from_utf8_lossy(&secret);
            out.env.push(format!("{}={value}", spec.env));
            if spec.target.is_empty() {
                return Ok(());
            }
        }
        let target = match spec.target.as_str() {
            "" => format!("/run/secrets/{id}"),
            target => join(&stage.config.working_dir, target),
        };
        let source = self.private(out)?.join(format!("secret-{}", out.list.len()));
        let mut options = std::fs::OpenOptions::new();
        let mut file =
            options.write(true).create_new(true).mode(0o600).open(&source).at("create", "secret")?;
        std::io::Write::write_all(&mut file, &secret).at("write", "secret")?;
        chown(&source, Some(spec.uid), Some(spec.gid)).at("chown", "secret")?;
        let mode = std::fs::Permissions::from_mode(spec.mode.unwrap_or(0o400));
        std::fs::set_permissions(&source, mode).at("chmod", "secret")?;
        out.list.push(StepMount::Bind { source, target, read_only: true });
        Ok(())
    }

    /// A socket that leads to the client's ssh agent.
    fn ssh_mount(&self, stage: &Stage, spec: &MountSpec, out: &mut Mounts) -> Result<(), BuildError> {
        use std::os::unix::fs::{PermissionsExt, chown};
        let id = if spec.id.is_empty() { "default" } else { &spec.id };
        let number = out.agents.len();
        let source = self.private(out)?.join(format!("ssh-{number}"));
        let agent = match &self.kit {
            Some(kit) => {
                let listener = std::os::unix::net::UnixListener::bind(&source).at("bind", "ssh agent")?;
                kit.shared.client.ssh(id, listener)?
            }
            None => None,
        };
        let Some(agent) = agent else {
            return match spec.required {
                true => Err(BuildError::invalid(format!("unset ssh forward key {id}"))),
                false => Ok(()),
            };
        };
        chown(&source, Some(spec.uid), Some(spec.gid)).at("chown", "ssh agent")?;
        let mode = std::fs::Permissions::from_mode(spec.mode.unwrap_or(0o600));
        std::fs::set_permissions(&source, mode).at("chmod", "ssh agent")?;
        let target = match spec.target.as_str() {
            "" => format!("/run/buildkit/ssh_agent.{number}"),
            target => join(&stage.config.working_dir, target),
        };
        if number == 0 {
            out.env.push(format!("SSH_AUTH_SOCK={target}"));
        }
        out.agents.push(agent);
        out.list.push(StepMount::Bind { source, target, read_only: false });
        Ok(())
    }

    /// The step's directory in memory.
    fn private(&self, out: &mut Mounts) -> Result<PathBuf, BuildError> {
        use std::os::unix::fs::DirBuilderExt;
        if let Some(private) = &out.private {
            return Ok(private.0.clone());
        }
        let path = self.inner.private.join(corten_base::Id::random().short());
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.at("mkdir", path.as_os_str().as_encoded_bytes())?;
        out.private = Some(Private(path.clone()));
        Ok(path)
    }

    fn script_mount(&self, script: &str) -> Result<StepMount, BuildError> {
        use std::os::unix::fs::PermissionsExt;
        let name = format!("script-{}", corten_base::Id::random().short());
        self.work.directory(&name)?;
        let source = self.work.path.join(&name);
        let file = source.join("script");
        std::fs::write(&file, script).at("write", "script")?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).at("chmod", "script")?;
        Ok(StepMount::Bind { source, target: SCRIPTS.into(), read_only: true })
    }

    /// A copy of the files: the step may write to it without changing the context, and no link in the source
    /// leads a mount out of it (CVE-2024-1753).
    fn bind_source(&mut self, spec: &MountSpec) -> Result<PathBuf, BuildError> {
        let path = inside(&spec.source)?;
        let name = format!("bind-{}", corten_base::Id::random().short());
        let to = self.work.directory(&name)?;
        let copied = if spec.from.is_empty() {
            copy_out(self.context.fd()?, &path, &to, self.cancel)
        } else {
            let root = self.source_root(&spec.from)?;
            copy_out(root.as_fd(), &path, &to, self.cancel)
        }?;
        let source = self.work.path.join(&name);
        Ok(match copied {
            Copied::Directory => source,
            Copied::File(file) => source.join(file),
        })
    }

    fn cache_source(
        &mut self,
        spec: &MountSpec,
        target: &str,
        out: &mut Mounts,
    ) -> Result<PathBuf, BuildError> {
        let id = if spec.id.is_empty() { target } else { &spec.id };
        let namespace = self.kit.as_ref().map_or("", |k| &k.shared.request.cache_namespace);
        let id = if namespace.is_empty() { id.to_owned() } else { format!("{namespace}/{id}") };
        let base =
            Digest::of(format!("{id}\0{}\0{}", spec.from, spec.source).as_bytes()).hex()[..32].to_owned();
        let directory = self.take_cache(&base, spec.sharing)?;
        out.busy.push(directory.clone());
        let path = self.inner.root.join("cache").join(&directory);
        if !path.exists() {
            self.fill_cache(spec, &path)?;
        }
        // When it was used last is when its directory changed last.
        touch(&path);
        // Only what is below the cache's own directory can be meant: the source is copied, never joined to a path.
        Ok(path)
    }

    fn fill_cache(&mut self, spec: &MountSpec, path: &std::path::Path) -> Result<(), BuildError> {
        use std::os::unix::fs::{PermissionsExt, chown};
        let shown = path.as_os_str().as_encoded_bytes();
        std::fs::create_dir_all(path).at("mkdir", shown)?;
        if !spec.from.is_empty() || !spec.source.is_empty() {
            let source = inside(&spec.source)?;
            let to: OwnedFd = std::fs::File::open(path).at("open", shown)?.into();
            if spec.from.is_empty() {
                copy_out(self.context.fd()?, &source, &to, self.cancel)?;
            } else {
                let root = self.source_root(&spec.from)?;
                copy_out(root.as_fd(), &source, &to, self.cancel)?;
            }
        }
        chown(path, Some(spec.uid), Some(spec.gid)).at("chown", shown)?;
        let mode = std::fs::Permissions::from_mode(spec.mode.unwrap_or(0o755));
        std::fs::set_permissions(path, mode).at("chmod", shown)
    }

    /// The directory of a cache: waits for a locked one, finds a free one of a private.
    fn take_cache(&self, base: &str, sharing: Sharing) -> Result<String, BuildError> {
        for attempt in 0u64.. {
            {
                let mut busy = self.inner.busy.lock().unwrap_or_else(PoisonError::into_inner);
                let mut number = 0;
                let mut name = base.to_owned();
                while sharing == Sharing::Private && busy.contains_key(&name) {
                    number += 1;
                    name = format!("{base}-{number}");
                }
                let users = busy.entry(name.clone()).or_insert(0);
                if *users == 0 || sharing == Sharing::Shared {
                    *users += 1;
                    return Ok(name);
                }
            }
            if self.cancel.is_cancelled() {
                return Err(BuildError::Cancelled);
            }
            std::thread::sleep(Duration::from_millis(20 + (attempt.min(8) * 20)));
        }
        Err(BuildError::Cancelled)
    }
}

pub(crate) fn touch(path: &std::path::Path) {
    let now = std::fs::File::open(path).and_then(|d| d.set_modified(std::time::SystemTime::now()));
    if let Err(e) = now {
        tracing::debug!(error = %e, "time of a cache");
    }
}

pub(crate) fn release(inner: &Inner, names: &[String]) {
    let mut busy = inner.busy.lock().unwrap_or_else(PoisonError::into_inner);
    for name in names {
        if let Some(users) = busy.get_mut(name) {
            *users -= 1;
            if *users == 0 {
                busy.remove(name);
            }
        }
    }
}

/// The command line, and the script that it runs where a heredoc has one.
fn command_of(stage: &Stage, run: &RunSpec) -> (Vec<String>, Option<String>) {
    let shell = shell(&stage.config);
    let CommandLine::Shell(text) = &run.command else {
        return (run.command.resolve(&shell), None);
    };
    match &run.heredocs[..] {
        [] => (run.command.resolve(&shell), None),
        // Nothing but the heredoc: its text is the script.
        [only] if text.trim() == text && is_only_heredoc(text) => {
            let script = only.text();
            if script.starts_with("#!") {
                return (vec![format!("{SCRIPTS}/script")], Some(script));
            }
            (CommandLine::Shell(script).resolve(&shell), None)
        }
        all => {
            let mut whole = text.clone();
            for heredoc in all {
                whole.push_str(&format!("\n{}{}", heredoc.content, heredoc.name));
            }
            (CommandLine::Shell(whole).resolve(&shell), None)
        }
    }
}

fn is_only_heredoc(text: &str) -> bool {
    text.starts_with("<<") && !text.contains(char::is_whitespace)
}

/// What a command takes from elsewhere.
fn note_run(materials: &mut Materials, specs: &[MountSpec], network: &str) {
    materials.network |= network != "none";
    for spec in specs {
        match spec.kind {
            MountKind::Secret => {
                materials.secrets.insert(secret_id(spec).to_owned(), !spec.required);
            }
            MountKind::Ssh => {
                let id = if spec.id.is_empty() { "default" } else { &spec.id };
                materials.agents.insert(id.to_owned(), !spec.required);
            }
            MountKind::Bind | MountKind::Cache | MountKind::Tmpfs => {}
        }
    }
}

fn secret_id(spec: &MountSpec) -> &str {
    if spec.id.is_empty() { spec.target.rsplit('/').next().unwrap_or_default() } else { &spec.id }
}

/// A clean relative path of a mount's source.
fn inside(source: &str) -> Result<String, BuildError> {
    tree::clean(source).ok_or_else(|| BuildError::OutsideContext(source.to_owned()))
}

fn require(root: BorrowedFd<'_>, path: &str) -> Result<(), BuildError> {
    match tree::stat(root, path).at("stat", path)? {
        Some(_) => Ok(()),
        None => Err(BuildError::NoSource(format!("failed to compute cache key: \"/{path}\": not found"))),
    }
}

pub(crate) enum Copied {
    Directory,
    File(String),
}

pub(crate) fn copy_out(
    from: BorrowedFd<'_>,
    path: &str,
    to: &OwnedFd,
    cancel: &corten_base::Cancel,
) -> Result<Copied, BuildError> {
    let none = Ignore::default();
    let mut copier = tree::Copier {
        to: to.as_fd(),
        owner: (0, 0),
        mode: None,
        exclude: &none,
        cancel,
        links: Default::default(),
    };
    let stat = rustix::fs::fstat(tree::open(from, path, OFlags::PATH).at("open", path)?).at("stat", path)?;
    if tree::is_dir(&stat) {
        copier.contents(from, path, "")?;
        return Ok(Copied::Directory);
    }
    let name = path.rsplit('/').next().unwrap_or_default().to_owned();
    copier.file(from, path, &name)?;
    Ok(Copied::File(name))
}

/// Bytes to text; a character that is cut in two waits for its rest.
#[derive(Default)]
struct Utf8 {
    pending: Vec<u8>,
}

impl Utf8 {
    fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let complete = match std::str::from_utf8(&self.pending) {
            Ok(_) => self.pending.len(),
            // At the very end only: elsewhere the bytes are no UTF-8 at all.
            Err(e) if e.error_len().is_none() => e.valid_up_to(),
            Err(_) => self.pending.len(),
        };
        let rest = self.pending.split_off(complete);
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending = rest;
        text
    }
}

/// COMPAT: what a step writes to standard error is red in the one stream of a build.
fn coloured(stream: StepStream, text: String) -> String {
    match stream {
        StepStream::Stdout => text,
        StepStream::Stderr => format!("\x1b[91m{text}\x1b[0m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_not_cut() {
        let mut text = Utf8::default();
        assert_eq!(text.push(&[b'a', 0xc3]), "a");
        assert_eq!(text.push(&[0xa9, b'b']), "éb");
        assert_eq!(text.push(&[0xff, b'c']), "\u{fffd}c");
    }

    #[test]
    fn sources_stay_inside() {
        assert!(inside("../x").is_err() && inside("a/../../x").is_err());
        assert_eq!(inside("/a/./b").unwrap(), "a/b");
    }
}
