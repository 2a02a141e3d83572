//! What a path is in a stack of layers, by overlay's rules, without a mount.
//!
//! Layers are ours and do not change, and no component is entered before it was seen to be a directory, so plain
//! paths are safe here.

use std::fs::Metadata;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::unpack::open_dir;
use crate::{ImageError, beneath};

/// The directories of a stack that are visible at one path, the topmost first.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) dirs: Vec<PathBuf>,
}

/// What is at a path.
#[derive(Debug)]
pub(crate) enum Node {
    /// Nothing, or hidden by a whiteout.
    Absent,
    /// A file, link or device.
    Other,
    /// A directory, merged of these.
    Directory(View),
}

impl View {
    /// The root of a stack.
    pub(crate) fn root(layers: &[PathBuf]) -> Self {
        Self { dirs: layers.to_vec() }
    }

    /// What `name` is in this directory.
    pub(crate) fn child(&self, name: impl AsRef<Path>) -> Result<Node, ImageError> {
        let mut dirs = Vec::new();
        for dir in &self.dirs {
            let path = dir.join(name.as_ref());
            let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
            if meta.is_dir() {
                let opaque = is_opaque(&path)?;
                dirs.push(path);
                if opaque {
                    break;
                }
                continue;
            }
            if dirs.is_empty() && !is_whiteout(&meta) {
                return Ok(Node::Other);
            }
            break;
        }
        Ok(if dirs.is_empty() { Node::Absent } else { Node::Directory(Self { dirs }) })
    }

    /// What is at a clean path.
    pub(crate) fn lookup(&self, path: &str) -> Result<Node, ImageError> {
        let mut view = self.clone();
        let mut parts = path.split('/').filter(|p| !p.is_empty()).peekable();
        while let Some(part) = parts.next() {
            match view.child(part)? {
                Node::Directory(next) => view = next,
                other if parts.peek().is_none() => return Ok(other),
                // Beneath a file or a link there is nothing.
                _ => return Ok(Node::Absent),
            }
        }
        Ok(Node::Directory(view))
    }
}

pub(crate) fn is_whiteout(meta: &Metadata) -> bool {
    meta.file_type().is_char_device() && meta.rdev() == 0
}

pub(crate) fn is_opaque(dir: &Path) -> Result<bool, ImageError> {
    use corten_base::fs::Context;
    let fd = open_dir(dir)?;
    let value = beneath::xattr(fd.as_fd(), &format!("{}opaque", corten_sys::users::overlay_prefix()))
        .at("getxattr", dir)?;
    Ok(value.as_deref() == Some(b"y"))
}
