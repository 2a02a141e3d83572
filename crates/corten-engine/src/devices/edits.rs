//! Applies the edits of devices to a container's configuration.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use corten_wire::oci_runtime::{self as oci, DeviceRule, Spec};

use super::Injected;
use super::cdi::{Edits, Hook, Node};

/// An edit cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum EditError {
    #[error("failed to stat CDI host device {path:?}: {why}")]
    Device { path: String, why: String },
    #[error("invalid CDI hook name {0:?}")]
    Hook(String),
    #[error("{0} of a CDI device is not supported by this engine")]
    Unsupported(&'static str),
}

/// Applies all, in order. `uid` owns device nodes that name no owner.
pub(super) fn apply(spec: &mut Spec, all: &[&Edits], uid: Option<u32>) -> Result<Injected, EditError> {
    let mut injected = Injected::default();
    let mut mounts = Vec::new();
    for edits in all {
        if edits.intel_rdt.is_some() {
            return Err(EditError::Unsupported("intelRdt"));
        }
        if edits.net_devices.iter().any(|d| !(d.host_interface_name.is_empty() && d.name.is_empty())) {
            return Err(EditError::Unsupported("netDevices"));
        }
        for entry in &edits.env {
            set_env(&mut spec.process.get_or_insert_default().env, entry);
        }
        for node in &edits.device_nodes {
            device(spec.linux.get_or_insert_default(), node, uid)?;
        }
        for wanted in &edits.hooks {
            hook(spec.hooks.get_or_insert_default(), wanted)?;
            injected.hooks = true;
        }
        mounts.extend(edits.mounts.iter().map(|m| oci::Mount {
            destination: m.container_path.clone().into(),
            fstype: if m.kind.is_empty() { "bind".to_owned() } else { m.kind.clone() },
            source: m.host_path.clone(),
            options: if m.options.is_empty() { vec!["bind".to_owned()] } else { m.options.clone() },
            ..oci::Mount::default()
        }));
        for gid in &edits.additional_gids {
            // 0 is every container's anyway.
            if *gid != 0 && !injected.groups.contains(gid) {
                injected.groups.push(*gid);
            }
        }
    }
    mounts.sort_by_key(|m: &oci::Mount| m.destination.components().count());
    for mount in mounts {
        spec.mounts.retain(|m| m.destination != mount.destination);
        spec.mounts.push(mount);
    }
    Ok(injected)
}

fn set_env(env: &mut Vec<String>, entry: &str) {
    let name = |e: &str| e.split('=').next().unwrap_or_default().to_owned();
    match env.iter_mut().find(|e| name(e) == name(entry)) {
        Some(old) => entry.clone_into(old),
        None => env.push(entry.to_owned()),
    }
}

fn device(linux: &mut oci::Linux, node: &Node, uid: Option<u32>) -> Result<(), EditError> {
    let mut device = oci::Device {
        path: node.path.clone().into(),
        kind: node.kind.clone(),
        major: node.major.unwrap_or_default(),
        minor: node.minor.unwrap_or_default(),
        file_mode: node.file_mode,
        uid: node.uid.or(uid),
        gid: node.gid,
    };
    if device.kind.is_empty() || device.kind != "p" && node.major.is_none() {
        let path = if node.host_path.is_empty() { &node.path } else { &node.host_path };
        look_up(&mut device, path, node)?;
    }
    let access = if node.permissions.is_empty() { "rwm" } else { &node.permissions };
    if matches!(device.kind.as_str(), "b" | "c") {
        linux.resources.get_or_insert_default().devices.push(DeviceRule {
            allow: true,
            kind: device.kind.clone(),
            major: Some(device.major),
            minor: Some(device.minor),
            access: access.to_owned(),
        });
    }
    linux.devices.retain(|d| d.path != device.path);
    linux.devices.push(device);
    Ok(())
}

/// What the specification leaves out is that of the host's node.
fn look_up(device: &mut oci::Device, path: &str, node: &Node) -> Result<(), EditError> {
    let fail = |why: String| EditError::Device { path: path.to_owned(), why };
    let meta = std::fs::metadata(Path::new(path)).map_err(|e| fail(e.to_string()))?;
    let kind = match meta.file_type() {
        t if t.is_char_device() => "c",
        t if t.is_block_device() => "b",
        t if t.is_fifo() => "p",
        _ => return Err(fail("not a device node".to_owned())),
    };
    if !device.kind.is_empty() && device.kind != kind {
        return Err(fail(format!("CDI device ({path}): type is {kind:?}, not {:?}", device.kind)));
    }
    kind.clone_into(&mut device.kind);
    if kind != "p" {
        device.major = node.major.unwrap_or_else(|| rustix::fs::major(meta.rdev()).into());
        device.minor = node.minor.unwrap_or_else(|| rustix::fs::minor(meta.rdev()).into());
    }
    device.file_mode = device.file_mode.or(Some(meta.mode() & 0o7777));
    Ok(())
}

fn hook(hooks: &mut oci::Hooks, wanted: &Hook) -> Result<(), EditError> {
    let list = match wanted.hook_name.as_str() {
        "prestart" => &mut hooks.prestart,
        "createRuntime" => &mut hooks.create_runtime,
        "createContainer" => &mut hooks.create_container,
        "startContainer" => &mut hooks.start_container,
        "poststart" => &mut hooks.poststart,
        "poststop" => &mut hooks.poststop,
        other => return Err(EditError::Hook(other.to_owned())),
    };
    list.push(oci::Hook {
        path: wanted.path.clone().into(),
        args: wanted.args.clone(),
        env: wanted.env.clone(),
        timeout: wanted.timeout,
    });
    Ok(())
}
