//! Writes a container's processes to files.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use corten_wire::oci_runtime::Spec;
use rustix::fs::{Mode, OFlags};

use super::criu::{Criu, CriuError, Kind};
use super::{DESCRIPTORS, Manner, check, directory, externals, kept, resolved, tag};
use crate::cgroup::Cgroup;

const LOG: &str = "dump.log";

/// What to write, and where to.
#[derive(Debug)]
pub(crate) struct Dump<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) cgroup: &'a Cgroup,
    /// The container's first process.
    pub(crate) init: i32,
    /// Gets the images; made if it is not there.
    pub(crate) images: &'a Path,
    /// Gets the log, instead of `images`.
    pub(crate) work: Option<&'a Path>,
    /// The processes go on.
    pub(crate) leave_running: bool,
    /// Memory only, and the processes go on: for a later dump that names this one as its parent.
    pub(crate) pre_dump: bool,
    /// Images of an earlier pre-dump, relative to `images`.
    pub(crate) parent: Option<&'a str>,
    pub(crate) manner: &'a Manner,
}

/// Writes the images. Unless the container is left running its processes have been killed then.
pub(crate) fn dump(wanted: &Dump<'_>) -> Result<(), CriuError> {
    let Dump { spec, manner, .. } = wanted;
    check(spec)?;
    let images = directory(wanted.images)?;
    let work = wanted.work.map(directory).transpose()?;
    let mut options = manner.options(spec, images.as_fd(), work.as_ref().map(AsFd::as_fd), LOG);
    options.number(tag::PID, wanted.init).flag(tag::LEAVE_RUNNING, wanted.leave_running);
    if let Some(parent) = wanted.parent {
        options.text(tag::PARENT_IMG, parent);
    }
    options.flag(tag::TRACK_MEM, wanted.pre_dump || wanted.parent.is_some());
    if let Some(freezer) = wanted.cgroup.freezer() {
        options.text(tag::FREEZE_CGROUP, &freezer.display().to_string());
    }
    for namespace in spec.linux.iter().flat_map(|l| &l.namespaces).filter(|n| n.path.is_some()) {
        let Some((name, key)) = kept(namespace.kind) else { continue };
        let link = format!("/proc/{}/ns/{name}", wanted.init);
        let inode = std::fs::metadata(&link).map_err(CriuError::io(&link))?.ino();
        options.text(tag::EXTERNAL, &format!("{name}[{inode}]:{key}"));
    }
    if !wanted.pre_dump {
        for (inside, name) in outside(wanted)? {
            options.pair(tag::EXT_MNT, &inside, &name);
        }
        remember_streams(wanted)?;
    }
    let kind = if wanted.pre_dump { Kind::PreDump } else { Kind::Dump };
    let log = wanted.work.unwrap_or(wanted.images).join(LOG);
    Criu::start(manner.program.as_deref(), &[], log)?.ask(kind, &options, &mut |_| Ok(())).map(drop)
}

/// Mounts that are not in the image, and the names that stand for them there.
fn outside(wanted: &Dump<'_>) -> Result<Vec<(String, String)>, CriuError> {
    let (spec, init) = (wanted.spec, wanted.init);
    let place = format!("/proc/{init}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&place, flags, Mode::empty()).map_err(|e| CriuError::io(&place)(e.into()))?;
    let read = |path: String| std::fs::read_to_string(&path).map_err(CriuError::io(path));
    let (table, own) = (read("/proc/self/mountinfo".into())?, read(format!("/proc/{init}/mountinfo"))?);
    let there: Vec<PathBuf> = crate::mounts::points(&own).collect();
    let all = externals(spec, wanted.cgroup, &table, &|p| resolved(&root, p));
    let all = all.into_iter().filter(|e| there.contains(&e.inside)).map(|e| e.inside.display().to_string());
    let mut all: Vec<(String, String)> = all.map(|inside| (inside.clone(), inside)).collect();
    // COMPAT: runc's images have this name for all files that are hidden.
    let masks = spec.linux.iter().flat_map(|l| &l.masked_paths).filter(|p| there.contains(p));
    let files = masks.filter(|p| resolved(&root, p).is_some() && !is_directory(&place, p));
    all.extend(files.map(|p| (p.display().to_string(), "/dev/null".to_owned())));
    Ok(all)
}

fn is_directory(root: &str, path: &Path) -> bool {
    let inside = path.strip_prefix("/").unwrap_or(path);
    std::fs::symlink_metadata(Path::new(root).join(inside)).is_ok_and(|m| m.is_dir())
}

/// What descriptors 0, 1 and 2 are: of a pipe, the name by which the restored process gets a new one.
fn remember_streams(wanted: &Dump<'_>) -> Result<(), CriuError> {
    let link = |fd: i32| std::fs::read_link(format!("/proc/{}/fd/{fd}", wanted.init));
    let names: Vec<String> =
        (0..3).map(|fd| link(fd).map(|l| l.display().to_string()).unwrap_or_default()).collect();
    let text = serde_json::to_vec(&names).map_err(|e| CriuError::Refused(e.to_string()))?;
    let path = wanted.images.join(DESCRIPTORS);
    corten_base::fs::replace(&path, &text, 0o600, corten_base::fs::Durability::Process)
        .map_err(|e| CriuError::Refused(e.to_string()))
}
