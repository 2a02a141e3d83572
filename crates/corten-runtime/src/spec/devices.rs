//! Device nodes of a container and the rules for using them.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use corten_wire::oci_runtime::{Device, DeviceRule};

use super::{SpecError, SpecInput};

/// `--device host:container:rwm`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceRequest {
    /// A device node, or a directory of them.
    pub on_host: PathBuf,
    /// Where it appears.
    pub in_container: PathBuf,
    /// Letters of `rwm`; empty is all.
    pub access: String,
}

/// Most nodes that one directory may contribute.
const MAX_NODES: usize = 4096;

/// Parses `c 42:* rmw`.
///
/// # Errors
/// [`SpecError::DeviceRule`].
pub fn parse_device_rule(text: &str) -> Result<DeviceRule, SpecError> {
    let parse = || {
        let mut words = text.split(' ');
        let (kind, numbers, access) = (words.next()?, words.next()?, words.next()?);
        let (major, minor) = numbers.split_once(':')?;
        let number = |n: &str| if n == "*" { Some(-1) } else { n.parse::<u32>().ok().map(i64::from) };
        let valid = matches!(kind, "a" | "b" | "c")
            && words.next().is_none()
            && (1..=3).contains(&access.len())
            && access.chars().all(|c| "rwm".contains(c));
        valid.then_some(())?;
        Some(DeviceRule {
            allow: true,
            kind: kind.into(),
            major: Some(number(major)?),
            minor: Some(number(minor)?),
            access: access.into(),
        })
    };
    parse().ok_or_else(|| SpecError::DeviceRule(text.to_owned()))
}

/// Extra nodes and all rules.
pub(super) fn resolve(input: &SpecInput) -> Result<(Vec<Device>, Vec<DeviceRule>), SpecError> {
    let mut nodes = Vec::new();
    if input.privileged {
        collect(Path::new("/dev"), Path::new("/dev"), true, &mut nodes);
    }
    let mut rules = default_rules(input.privileged);
    for request in &input.devices {
        let before = nodes.len();
        let source = std::fs::canonicalize(&request.on_host).unwrap_or_else(|_| request.on_host.clone());
        match node(&source, &request.in_container) {
            Ok(Some(device)) => nodes.push(device),
            Ok(None) if source.is_dir() => collect(&source, &request.in_container, false, &mut nodes),
            Ok(None) => return Err(refuse(&request.on_host, "not a device node")),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(refuse(&request.on_host, "no such file or directory"));
            }
            Err(e) => return Err(refuse(&request.on_host, &crate::fault::errno_text(&e))),
        }
        if !input.privileged {
            let access = if request.access.is_empty() { "rwm" } else { &request.access };
            rules.extend(nodes[before..].iter().map(|d| DeviceRule {
                allow: true,
                kind: d.kind.clone(),
                major: Some(d.major),
                minor: Some(d.minor),
                access: access.to_owned(),
            }));
        }
    }
    if !input.privileged {
        rules.extend(input.device_rules.iter().cloned());
    }
    Ok((nodes, rules))
}

fn refuse(path: &Path, reason: &str) -> SpecError {
    SpecError::Device { path: path.display().to_string(), reason: reason.to_owned() }
}

fn node(source: &Path, destination: &Path) -> std::io::Result<Option<Device>> {
    let meta = std::fs::metadata(source)?;
    let kind = match meta.file_type() {
        t if t.is_char_device() => "c",
        t if t.is_block_device() => "b",
        _ => return Ok(None),
    };
    Ok(Some(Device {
        path: destination.to_owned(),
        kind: kind.into(),
        major: rustix::fs::major(meta.rdev()).into(),
        minor: rustix::fs::minor(meta.rdev()).into(),
        file_mode: Some(meta.mode() & 0o7777),
        uid: Some(meta.uid()),
        gid: Some(meta.gid()),
    }))
}

/// Adds the nodes below a directory; what cannot be read is left out, as the host's `/dev` changes under us.
fn collect(source: &Path, destination: &Path, host_dev: bool, nodes: &mut Vec<Device>) {
    for entry in std::fs::read_dir(source).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let Ok(kind) = entry.file_type() else { continue };
        // COMPAT: moby leaves out what each container has of its own.
        let skip = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"];
        if nodes.len() >= MAX_NODES || host_dev && skip.iter().any(|s| *s == name) {
            continue;
        }
        let target = destination.join(&name);
        if kind.is_dir() {
            collect(&path, &target, host_dev, nodes);
        } else if let Ok(Some(device)) = node(&path, &target)
            && !kind.is_symlink()
        {
            nodes.push(device);
        }
    }
}

fn default_rules(privileged: bool) -> Vec<DeviceRule> {
    let rule = |allow, kind: &str, major, minor, access: &str| DeviceRule {
        allow,
        kind: kind.into(),
        major: Some(major),
        minor: Some(minor),
        access: access.into(),
    };
    if privileged {
        return vec![rule(true, "a", -1, -1, "rwm")];
    }
    let mut rules =
        vec![rule(false, "a", -1, -1, "rwm"), rule(true, "c", -1, -1, "m"), rule(true, "b", -1, -1, "m")];
    // null, zero, full, tty, random, urandom, console, ptmx, pts/*
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (5, 0), (1, 8), (1, 9), (5, 1), (5, 2), (136, -1)] {
        rules.push(rule(true, "c", major, minor, "rwm"));
    }
    rules
}
