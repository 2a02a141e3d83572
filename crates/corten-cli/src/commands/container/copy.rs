//! `cp`: between a container and here, as a tar stream in either direction.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use corten_base::error::errno_text;
use corten_base::units;
use corten_client::Query;
use serde_json::Value;

use crate::archive::{self, Owner, Writer};
use crate::cli::Cli;
use crate::error::{Result, fail};
use crate::flags::Flags;
use crate::{opts, streams, term};

/// `container:path`, unless it is a path of ours.
fn split(arg: &str) -> (Option<&str>, &str) {
    if arg.starts_with(['/', '.']) {
        return (None, arg);
    }
    match arg.split_once(':') {
        Some((container, path)) if !container.contains('/') => (Some(container), path),
        _ => (None, arg),
    }
}

pub(super) async fn copy(cli: &Cli, flags: &Flags) -> Result {
    let (source, target) = (flags.arg(0), flags.arg(1));
    if source.is_empty() {
        return Err(fail("source can not be empty", 1));
    }
    if target.is_empty() {
        return Err(fail("destination can not be empty", 1));
    }
    match (split(&source), split(&target)) {
        ((Some(_), _), (Some(_), _)) => Err(fail("copying between containers is not supported", 1)),
        ((Some(container), from), (None, to)) => from_container(cli, flags, container, from, to).await,
        ((None, from), (Some(container), to)) => to_container(cli, flags, container, from, to).await,
        _ => Err(fail("must specify at least one container source", 1)),
    }
}

/// Keeps a trailing `/` or `/.`, which mean something to `cp`.
fn keep_tail(cleaned: String, original: &str) -> String {
    let tail = match original {
        o if o.ends_with("/.") || o == "." => "/.",
        o if o.ends_with('/') => "/",
        _ => return cleaned,
    };
    if cleaned == "/" { format!("/{}", &tail[1..]) } else { format!("{cleaned}{tail}") }
}

fn report(cli: &Cli, flags: &Flags, bytes: u64, target: &str) {
    // COMPAT: nobody is told unless somebody looks.
    let quiet = if flags.changed("quiet") { flags.on("quiet") } else { !term::stderr_is_tty() };
    if !quiet {
        #[expect(clippy::cast_precision_loss, reason = "for display")]
        let size = units::human_size3(bytes as f64);
        cli.warn(&format!("Successfully copied {size} to {target}"));
    }
}

async fn from_container(cli: &Cli, flags: &Flags, container: &str, from: &str, to: &str) -> Result {
    let client = cli.client()?;
    let mut from = keep_tail(opts::clean(Path::new(&format!("/{from}"))), from);
    if flags.on("follow-link") {
        let stat = client.archive_stat(container, &from).await?;
        let link = stat["linkTarget"].as_str().unwrap_or_default();
        if is_link(&stat) && !link.is_empty() {
            from = join_link(&from, link);
        }
    }
    if to == "-" {
        if term::stdout_is_tty() {
            return Err(fail("cowardly refusing to save to a terminal. Use the -o flag or redirect", 1));
        }
        let (_, mut stream) = client.archive_get(container, &from).await?;
        while let Some(chunk) = stream.next().await? {
            cli.write_out(&chunk)?;
        }
        return Ok(());
    }
    let target = PathBuf::from(to);
    let shown = keep_tail(opts::absolute(to), to);
    let parent = parent_of(&target);
    if !parent.is_dir() {
        return Err(fail(
            format!("invalid output path: directory {:?} does not exist", parent.display().to_string()),
            1,
        ));
    }
    let (stat, mut stream) = client.archive_get(container, &from).await?;
    let is_dir = stat["mode"].as_u64().is_some_and(|m| m & (1 << 31) != 0);
    let (dir, base) = place(&target, to, &from, is_dir, &stat)?;
    let owners = flags.on("archive");
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    let unpack = tokio::task::spawn_blocking(move || {
        archive::unpack(archive::ChannelReader::new(receiver), &dir, OsStr::new(&base), owners)
    });
    let mut total = 0u64;
    while let Some(chunk) = stream.next().await? {
        total += chunk.len() as u64;
        if sender.send(chunk).await.is_err() {
            break;
        }
    }
    drop(sender);
    unpack.await?.map_err(|e| fail(errno_text(&e), 1))?;
    report(cli, flags, total, &shown);
    Ok(())
}

/// Directory to unpack in, and the name the archive's root gets there.
fn place(target: &Path, text: &str, from: &str, is_dir: bool, stat: &Value) -> Result<(PathBuf, String)> {
    let contents_only = from.ends_with("/.");
    let name = target.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    match std::fs::metadata(target) {
        Ok(meta) if meta.is_dir() => {
            let base = if contents_only {
                String::new()
            } else {
                stat["name"].as_str().unwrap_or_default().to_owned()
            };
            let base = if base == "/" || base == "." { String::new() } else { base };
            Ok((target.to_owned(), base))
        }
        Ok(_) if text.ends_with('/') => Err(fail("not a directory", 1)),
        Ok(_) if is_dir => Err(fail("cannot copy directory", 1)),
        Err(_) if text.ends_with('/') && !is_dir => Err(fail("no such directory", 1)),
        _ => Ok((parent_of(target), name)),
    }
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
        Some(_) => PathBuf::from("."),
        None => PathBuf::from("/"),
    }
}

fn is_link(stat: &Value) -> bool {
    stat["mode"].as_u64().is_some_and(|m| m & (1 << 27) != 0)
}

fn join_link(path: &str, link: &str) -> String {
    if link.starts_with('/') {
        return link.to_owned();
    }
    opts::clean(&Path::new(path).parent().unwrap_or(Path::new("/")).join(link))
}

async fn to_container(cli: &Cli, flags: &Flags, container: &str, from: &str, to: &str) -> Result {
    let client = cli.client()?;
    let mut target = keep_tail(opts::clean(Path::new(&format!("/{to}"))), to);
    let mut stat = client.archive_stat(container, &target).await;
    if let Ok(found) = &stat
        && is_link(found)
    {
        let link = found["linkTarget"].as_str().unwrap_or_default();
        target = join_link(target.trim_end_matches('/'), link);
        stat = client.archive_stat(container, &target).await;
    }
    if let Err(e) = &stat
        && e.kind() != corten_base::Kind::NotFound
    {
        return Err(fail(e.to_string(), 1));
    }
    let target_dir = stat.as_ref().is_ok_and(|s| s["mode"].as_u64().is_some_and(|m| m & (1 << 31) != 0));
    let query = |path: &str| {
        let query = Query::new().with("path", path).with("noOverwriteDirNonDir", "true");
        if flags.on("archive") { query.with("copyUIDGID", "true") } else { query }
    };
    if from == "-" {
        if stat.is_ok() && !target_dir {
            return Err(fail(format!("destination \"{container}:{to}\" must be a directory"), 1));
        }
        let mut input = streams::stdin_chunks();
        let body = archive::body("application/x-tar", move |pipe| {
            while let Some(chunk) = input.blocking_recv() {
                std::io::Write::write_all(pipe, &chunk)?;
            }
            Ok(())
        });
        return Ok(client.archive_put(container, query(&target), body).await?);
    }
    let contents_only = from == "." || from.ends_with("/.");
    let source = PathBuf::from(opts::absolute(from));
    let follow = flags.on("follow-link") || from.ends_with('/');
    let meta = if follow { std::fs::metadata(&source) } else { std::fs::symlink_metadata(&source) };
    let meta = meta.map_err(|e| fail(format!("lstat {}: {}", source.display(), errno_text(&e)), 1))?;
    if from.ends_with('/') && !meta.is_dir() {
        return Err(fail("not a directory", 1));
    }
    let source = if follow { std::fs::canonicalize(&source)? } else { source };
    let source_name = Path::new(&opts::absolute(from))
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    let exists = stat.is_ok();
    let (dir, base) = match () {
        () if exists && target_dir => {
            (target.clone(), if contents_only { ".".to_owned() } else { source_name })
        }
        () if exists && meta.is_dir() => return Err(fail("cannot copy directory", 1)),
        () if !exists && !meta.is_dir() && to.ends_with('/') => return Err(fail("no such directory", 1)),
        () => {
            let cleaned = target.trim_end_matches("/.").trim_end_matches('/');
            let (dir, base) = cleaned.rsplit_once('/').unwrap_or(("", cleaned));
            (if dir.is_empty() { "/".into() } else { dir.to_owned() }, base.to_owned())
        }
    };
    let counter = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&counter);
    let body = archive::body("application/x-tar", move |pipe| {
        let mut writer = Writer::new(Counting { out: pipe, count });
        tree(&mut writer, &source, base.as_bytes(), Owner::AsOnDisk, follow)?;
        writer.finish().map(drop)
    });
    client.archive_put(container, query(&dir), body).await?;
    report(cli, flags, counter.load(Ordering::Relaxed), &format!("{container}:{to}"));
    Ok(())
}

/// Counts what passes.
struct Counting<W> {
    out: W,
    count: Arc<AtomicU64>,
}

impl<W: std::io::Write> std::io::Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.count.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// Writes a file or a whole directory under `name`.
fn tree<W: std::io::Write>(
    writer: &mut Writer<W>,
    path: &Path,
    name: &[u8],
    owner: Owner,
    follow: bool,
) -> std::io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let meta = if follow { std::fs::metadata(path)? } else { std::fs::symlink_metadata(path)? };
    writer.path(path, name, owner, &meta)?;
    if !meta.is_dir() {
        return Ok(());
    }
    let mut entries: Vec<_> = std::fs::read_dir(path)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let mut child = name.to_vec();
        child.push(b'/');
        child.extend_from_slice(entry.file_name().as_bytes());
        tree(writer, &entry.path(), &child, owner, false)?;
    }
    Ok(())
}
