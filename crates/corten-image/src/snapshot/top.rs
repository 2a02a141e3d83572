//! The layer between the image and the container: mount points that every container has, and directories whose
//! attributes a layer's tar left out.
//!
//! It is a function of what the image has at these places, so most images share one, and containers have nothing
//! of it in their own layer: `diff` and `commit` do not show it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{File, FileTimes};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use corten_base::Digest;
use corten_base::fs::Context;

use super::Snapshots;
use super::merged::{Node, View};
use super::unpack::set_mode;
use crate::content::make_dir;
use crate::{ImageError, Layer};

/// COMPAT: moby's `initlayer.Setup`; files are made with mode 0755 there, too.
const FILES: [&str; 5] = [".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf"];
const LINKS: [(&str, &str); 1] = [("etc/mtab", "/proc/mounts")];
const DIRECTORIES: [&str; 4] = ["dev/pts", "dev/shm", "proc", "sys"];

/// What a top directory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Top {
    /// Mount points of a container, too.
    MountPoints,
    /// Attributes of directories only.
    Directories,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Directory { mode: u32, uid: u32, gid: u32, mtime: Option<i64> },
    File,
    Link(&'static str),
}

impl Snapshots {
    /// The top directory for a stack of layers (`lowers`: the topmost first).
    pub(super) fn top(&self, layers: &[Layer], lowers: &[PathBuf], top: Top) -> Result<PathBuf, ImageError> {
        let mut stack = format!("{top:?}");
        stack.extend(layers.iter().map(|l| l.diff_id.as_str()));
        let key = Digest::of(stack.as_bytes());
        if let Some(path) = self.lock(&self.inner.tops).get(&key) {
            return Ok(path.clone());
        }
        let items = self.items(layers, lowers, top)?;
        let mut text = String::new();
        for (path, item) in &items {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{path} {item:?}");
        }
        let dir = self.inner.root.join("top").join(&Digest::of(text.as_bytes()).hex()[..32]);
        let fs = dir.join("fs");
        if !fs.is_dir() {
            let temp = self.temp_path();
            make_dir(&temp)?;
            make(&temp.join("fs"), &items)?;
            match std::fs::rename(&temp, &dir) {
                // Made by another thread meanwhile.
                Err(_) if fs.is_dir() => std::fs::remove_dir_all(&temp).at("remove", &temp)?,
                other => other.at("rename", &dir)?,
            }
        }
        self.lock(&self.inner.tops).insert(key, fs.clone());
        Ok(fs)
    }

    fn items(
        &self,
        layers: &[Layer],
        lowers: &[PathBuf],
        top: Top,
    ) -> Result<BTreeMap<String, Item>, ImageError> {
        let mut items = BTreeMap::new();
        let view = View::root(lowers);
        let implicit = Implicit::new(self, layers, lowers);
        add_directory(&mut items, &view, &implicit, "")?;
        for path in implicit.paths() {
            add_directory(&mut items, &view, &implicit, &path)?;
        }
        if top == Top::Directories {
            return Ok(items);
        }
        for path in DIRECTORIES {
            if !matches!(view.lookup(path)?, Node::Directory(_)) {
                add_directory(&mut items, &view, &implicit, path)?;
            }
        }
        for path in FILES {
            add_directory(&mut items, &view, &implicit, parent(path))?;
            items.insert(path.to_owned(), Item::File);
        }
        for (path, target) in LINKS {
            add_directory(&mut items, &view, &implicit, parent(path))?;
            items.insert(path.to_owned(), Item::Link(target));
        }
        Ok(items)
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// Adds a directory and those above it, with the attributes they have below; what is no directory is hidden.
fn add_directory(
    items: &mut BTreeMap<String, Item>,
    view: &View,
    implicit: &Implicit,
    path: &str,
) -> Result<(), ImageError> {
    if items.contains_key(path) {
        return Ok(());
    }
    if !path.is_empty() {
        add_directory(items, view, implicit, parent(path))?;
    }
    let item = match view.lookup(path)? {
        Node::Directory(found) => match implicit.describing(&found, path) {
            Some(dir) => {
                let meta = std::fs::metadata(dir).at("stat", dir)?;
                Item::Directory {
                    mode: meta.mode() & 0o7777,
                    uid: meta.uid(),
                    gid: meta.gid(),
                    mtime: Some(meta.mtime()),
                }
            }
            None => NEW_DIRECTORY,
        },
        _ => NEW_DIRECTORY,
    };
    items.insert(path.to_owned(), item);
    Ok(())
}

const NEW_DIRECTORY: Item = Item::Directory { mode: 0o755, uid: 0, gid: 0, mtime: None };

/// Which directories of which layers were not described by their tar.
struct Implicit {
    /// Layer directory (topmost first) and its implicit paths.
    layers: Vec<(PathBuf, std::collections::HashSet<String>)>,
}

impl Implicit {
    fn new(snapshots: &Snapshots, layers: &[Layer], lowers: &[PathBuf]) -> Self {
        let sets = layers.iter().rev().zip(lowers).map(|(layer, dir)| {
            let paths = snapshots.layer(&layer.diff_id).map(|i| i.implicit.iter().cloned().collect());
            (dir.clone(), paths.unwrap_or_default())
        });
        Self { layers: sets.collect() }
    }

    /// The directory whose attributes count: the topmost that was described.
    fn describing<'a>(&self, found: &'a View, path: &str) -> Option<&'a Path> {
        let described = |dir: &&PathBuf| {
            !self.layers.iter().any(|(layer, paths)| paths.contains(path) && **dir == layer.join(path))
        };
        found.dirs.iter().find(described).or(found.dirs.first()).map(PathBuf::as_path)
    }

    /// Implicit paths that a layer below may describe: those of the lowest layer cannot.
    fn paths(&self) -> Vec<String> {
        let upper = self.layers.len().saturating_sub(1);
        self.layers[..upper].iter().flat_map(|(_, paths)| paths.iter().cloned()).collect()
    }
}

fn make(root: &Path, items: &BTreeMap<String, Item>) -> Result<(), ImageError> {
    for (path, item) in items {
        let path = if path.is_empty() { root.to_owned() } else { root.join(path) };
        match item {
            Item::Directory { mode, uid, gid, .. } => {
                std::fs::create_dir(&path).at("mkdir", &path)?;
                std::os::unix::fs::chown(&path, Some(*uid), Some(*gid)).at("chown", &path)?;
                set_mode(&path, *mode)?;
            }
            Item::File => {
                File::create_new(&path).at("create", &path)?;
                set_mode(&path, 0o755)?;
            }
            Item::Link(target) => std::os::unix::fs::symlink(target, &path).at("symlink", &path)?,
        }
    }
    for (path, item) in items.iter().rev() {
        if let Item::Directory { mtime: Some(seconds), .. } = item {
            let path = root.join(path);
            let time = UNIX_EPOCH + Duration::from_secs(u64::try_from(*seconds).unwrap_or(0));
            let dir = File::open(&path).at("open", &path)?;
            dir.set_times(FileTimes::new().set_modified(time).set_accessed(time)).at("utimes", &path)?;
        }
    }
    Ok(())
}
