//! The Container Device Interface: specification files, and which device a qualified name (`vendor.com/class=name`)
//! means.
//!
//! Files are read anew each time they are needed, so that there is nothing to refresh. A later directory wins over
//! an earlier one; two files of one directory that define the same device cancel each other out, as the
//! specification of the interface demands. A file that cannot be read or is not valid defines nothing, and is part of
//! the error when a device is not found.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::Deserialize;

/// Largest specification that we read.
const MAX_FILE: u64 = 8 << 20;
/// Most files of one directory.
const MAX_FILES: usize = 1024;

/// A specification file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    #[expect(dead_code, reason = "allowed by the specification, of no consequence")]
    annotations: Option<BTreeMap<String, String>>,
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Device {
    name: String,
    #[serde(default)]
    #[expect(dead_code, reason = "allowed by the specification, of no consequence")]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    container_edits: Edits,
}

/// What a device changes in a container.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Edits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<Node>,
    pub(super) net_devices: Vec<NetDevice>,
    pub(super) hooks: Vec<Hook>,
    pub(super) mounts: Vec<Mount>,
    pub(super) intel_rdt: Option<BTreeMap<String, serde_json::Value>>,
    pub(super) additional_gids: Vec<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Node {
    pub(super) path: String,
    pub(super) host_path: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) major: Option<i64>,
    pub(super) minor: Option<i64>,
    pub(super) file_mode: Option<u32>,
    pub(super) permissions: String,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct NetDevice {
    pub(super) host_interface_name: String,
    pub(super) name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Hook {
    pub(super) hook_name: String,
    pub(super) path: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) timeout: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    pub(super) options: Vec<String>,
    #[serde(rename = "type")]
    pub(super) kind: String,
}

/// A file is not a specification.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}", path = path.display())]
struct FileError {
    path: PathBuf,
    why: String,
}

/// Some names mean no device.
#[derive(Debug, thiserror::Error)]
#[error("unresolvable CDI devices {names}{because}")]
pub(super) struct Unresolved {
    names: String,
    because: String,
}

/// Where a device was found.
#[derive(Debug, Clone)]
struct Found {
    file: Rc<File>,
    index: usize,
    directory: usize,
    /// More than one file of the same directory defines it.
    disputed: bool,
}

/// All devices of all directories.
#[derive(Debug, Default)]
pub(super) struct Registry {
    devices: BTreeMap<String, Found>,
    errors: Vec<FileError>,
}

impl Registry {
    /// Reads the directories; those that do not exist are empty.
    pub(super) fn read(dirs: &[PathBuf]) -> Self {
        let mut registry = Self::default();
        for (directory, dir) in dirs.iter().enumerate() {
            for path in files(dir) {
                match load(&path) {
                    Ok(file) => registry.add(&Rc::new(file), directory),
                    Err(why) => registry.errors.push(FileError { path, why }),
                }
            }
        }
        registry
    }

    fn add(&mut self, file: &Rc<File>, directory: usize) {
        for (index, device) in file.devices.iter().enumerate() {
            let name = format!("{}={}", file.kind, device.name);
            let disputed = self.devices.get(&name).is_some_and(|f| f.directory == directory);
            self.devices.insert(name, Found { file: file.clone(), index, directory, disputed });
        }
    }

    /// Names of all devices that can be asked for.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.devices.iter().filter(|(_, f)| !f.disputed).map(|(name, _)| name.as_str())
    }

    /// Whether there is any device of this kind (`vendor.com/class`).
    pub(super) fn has_kind(&self, kind: &str) -> bool {
        self.names().any(|name| name.split('=').next() == Some(kind))
    }

    /// The edits of these devices in order; those of a whole file come before those of its first device.
    pub(super) fn resolve(&self, names: &[String]) -> Result<Vec<&Edits>, Unresolved> {
        let find = |name: &String| self.devices.get(name).filter(|f| !f.disputed);
        let missing: Vec<&str> = names.iter().filter(|n| find(n).is_none()).map(String::as_str).collect();
        if !missing.is_empty() {
            let mut because = String::new();
            for error in &self.errors {
                write!(because, "; {error}").ok();
            }
            return Err(Unresolved { names: missing.join(", "), because });
        }
        let mut all = Vec::new();
        let mut seen: Vec<&Rc<File>> = Vec::new();
        for found in names.iter().filter_map(find) {
            if !seen.iter().any(|f| Rc::ptr_eq(f, &found.file)) {
                seen.push(&found.file);
                all.push(&found.file.container_edits);
            }
            all.push(&found.file.devices[found.index].container_edits);
        }
        Ok(all)
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let is_spec = |p: &PathBuf| p.extension().is_some_and(|e| e == "json" || e == "yaml" || e == "yml");
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let mut all: Vec<PathBuf> = entries.filter(is_spec).take(MAX_FILES).collect();
    all.sort();
    all
}

fn load(path: &Path) -> Result<File, String> {
    let size = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if size > MAX_FILE {
        return Err("larger than 8 MiB".to_owned());
    }
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    // Every JSON document is a YAML document.
    let file: File = yaml_serde::from_str(&text).map_err(|e| e.to_string())?;
    check(&file).map(|()| file)
}

fn check(file: &File) -> Result<(), String> {
    if !file.cdi_version.starts_with("0.") && !file.cdi_version.starts_with("1.") {
        return Err(format!("invalid CDI version {:?}", file.cdi_version));
    }
    let word = |text: &str, more: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(inner)
    };
    let kind = file.kind.split_once('/').filter(|(vendor, class)| word(vendor, "_-.") && word(class, "_-."));
    if kind.is_none() {
        return Err(format!("invalid kind {:?}", file.kind));
    }
    if file.devices.is_empty() {
        return Err("no devices".to_owned());
    }
    match file.devices.iter().find(|d| !word(&d.name, "_-.:")) {
        Some(device) => Err(format!("invalid device name {:?}", device.name)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_disputes() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = ["one", "two"].map(|d| dir.path().join(d));
        let write = |d: usize, name: &str, devices: &[&str]| {
            std::fs::create_dir_all(&dirs[d]).unwrap();
            let devices: Vec<_> = devices
                .iter()
                .map(|n| serde_json::json!({"name": n, "containerEdits": {"env": [format!("FROM={d}-{name}")]}}))
                .collect();
            let file = serde_json::json!({"cdiVersion": "0.6.0", "kind": "v.com/c", "devices": devices});
            std::fs::write(dirs[d].join(name), file.to_string()).unwrap();
        };
        write(0, "a.json", &["x", "y", "z"]);
        write(0, "b.json", &["y"]);
        write(1, "c.json", &["z"]);
        let registry = Registry::read(&dirs);
        let from = |name: &str| {
            let found = registry.resolve(&[name.to_owned()]);
            found.map(|e| e[1].env[0].clone()).map_err(|e| e.to_string())
        };
        assert_eq!(from("v.com/c=x").unwrap(), "FROM=0-a.json");
        assert_eq!(from("v.com/c=y").unwrap_err(), "unresolvable CDI devices v.com/c=y");
        assert_eq!(from("v.com/c=z").unwrap(), "FROM=1-c.json");
        assert!(registry.has_kind("v.com/c") && !registry.has_kind("v.com/d"));
    }

    #[test]
    fn bad_files_are_named() {
        for (text, want) in [
            ("kind: [", "invalid type: sequence"),
            ("cdiVersion: 0.6.0\nkind: novendor\ndevices: [{name: a}]", "invalid kind \"novendor\""),
            ("cdiVersion: 0.6.0\nkind: a.b/c\ndevices: []", "no devices"),
            ("cdiVersion: 0.6.0\nkind: a.b/c\ndevices: [{name: a b}]", "invalid device name \"a b\""),
            ("cdiVersion: 9.0.0\nkind: a.b/c\ndevices: [{name: a}]", "invalid CDI version \"9.0.0\""),
            ("cdiVersion: 0.6.0\nkind: a.b/c\ndevices: [{name: a}]\nbogus: 1", "unknown field `bogus`"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("f.yaml"), text).unwrap();
            let registry = Registry::read(&[dir.path().to_owned()]);
            let error = registry.resolve(&["a.b/c=a".to_owned()]).unwrap_err().to_string();
            assert!(error.contains(want) && error.contains("f.yaml"), "{error}");
        }
    }
}
