//! What a container changed: its upper directory against the layers below.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use corten_base::fs::Context;

use super::merged::{Node, View, is_opaque, is_whiteout};
use crate::ImageError;

/// What happened to a path in the writable layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// 0 at the API, `C`.
    Modified,
    /// 1 at the API, `A`.
    Added,
    /// 2 at the API, `D`.
    Deleted,
}

/// One line of `GET /containers/{id}/changes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Absolute path within the container.
    pub path: String,
    /// What happened.
    pub kind: ChangeKind,
}

pub(super) fn changes(upper: &Path, lowers: &[PathBuf]) -> Result<Vec<Change>, ImageError> {
    let mut walk = Walk { changes: Vec::new(), seen: HashSet::new() };
    walk.directory(upper, Some(&View::root(lowers)), "", 0)?;
    walk.changes.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(walk.changes)
}

struct Walk {
    changes: Vec<Change>,
    seen: HashSet<String>,
}

impl Walk {
    fn add(&mut self, path: &str, kind: ChangeKind) {
        if self.seen.insert(path.to_owned()) {
            self.changes.push(Change { path: path.to_owned(), kind });
        }
        // COMPAT: the directories above a change are modified, even if their times are equal.
        let mut path = path;
        while let Some((parent, _)) = path.rsplit_once('/')
            && !parent.is_empty()
            && self.seen.insert(parent.to_owned())
        {
            self.changes.push(Change { path: parent.to_owned(), kind: ChangeKind::Modified });
            path = parent;
        }
    }

    fn directory(
        &mut self,
        dir: &Path,
        below: Option<&View>,
        at: &str,
        depth: usize,
    ) -> Result<(), ImageError> {
        if depth > 1000 {
            return Err(ImageError::Limit { what: "depth of directories", limit: 1000 });
        }
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(dir).at("readdir", dir)? {
            let entry = entry.at("readdir", dir)?;
            entries.push((entry.file_name(), entry.path()));
        }
        entries.sort();
        for (name, path) in entries {
            // A running container may remove it meanwhile.
            let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
            let lower = below.map_or(Ok(Node::Absent), |b| b.child(&name))?;
            self.entry(&path, &meta, &lower, &format!("{at}/{}", name.display()), depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        path: &Path,
        meta: &std::fs::Metadata,
        lower: &Node,
        at: &str,
        depth: usize,
    ) -> Result<(), ImageError> {
        if is_whiteout(meta) {
            if !matches!(lower, Node::Absent) {
                self.add(at, ChangeKind::Deleted);
            }
            return Ok(());
        }
        if !meta.is_dir() {
            let kind = if matches!(lower, Node::Absent) { ChangeKind::Added } else { ChangeKind::Modified };
            self.add(at, kind);
            return Ok(());
        }
        let opaque = is_opaque(path)?;
        match lower {
            Node::Absent => self.add(at, ChangeKind::Added),
            Node::Other => self.add(at, ChangeKind::Modified),
            Node::Directory(view) => {
                let below = std::fs::metadata(&view.dirs[0]).at("stat", &view.dirs[0])?;
                if opaque || !same_directory(meta, &below) {
                    self.add(at, ChangeKind::Modified);
                }
                if opaque {
                    self.hidden(path, view, at)?;
                }
                return self.directory(path, Some(view), at, depth + 1);
            }
        }
        self.directory(path, None, at, depth + 1)
    }

    /// What an opaque directory hides and does not have itself was deleted.
    fn hidden(&mut self, path: &Path, view: &View, at: &str) -> Result<(), ImageError> {
        for dir in &view.dirs {
            for entry in std::fs::read_dir(dir).at("readdir", dir)? {
                let name = entry.at("readdir", dir)?.file_name();
                let gone = std::fs::symlink_metadata(path.join(&name)).is_err();
                if gone && !matches!(view.child(&name)?, Node::Absent) {
                    self.add(&format!("{at}/{}", name.display()), ChangeKind::Deleted);
                }
            }
        }
        Ok(())
    }
}

/// COMPAT: as moby, a directory that is there only because of what is beneath it is not a change.
fn same_directory(a: &std::fs::Metadata, b: &std::fs::Metadata) -> bool {
    a.mode() == b.mode()
        && a.uid() == b.uid()
        && a.gid() == b.gid()
        && a.mtime() == b.mtime()
        && (a.mtime_nsec() == b.mtime_nsec() || a.mtime_nsec() == 0 || b.mtime_nsec() == 0)
}
