//! Reads `config.json` and the process files of `exec`, and refuses what we would otherwise silently not do.

use std::io::Read;
use std::path::{Path, PathBuf};

use corten_wire::oci_runtime::{DeviceRule, Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::OciError;

/// Largest file that we read.
const MAX_FILE: u64 = 16 << 20;

/// Settings of the specification that have no place in [`Spec`] because nothing here honours them.
const REFUSED: [&str; 5] = ["/vm", "/solaris", "/windows", "/zos", "/linux/intelRdt"];

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.values().all(is_empty),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The first setting in the document that we cannot honour.
fn refused(document: &Value) -> Option<String> {
    let set = |path: &&str| document.pointer(path).is_some_and(|v| !is_empty(v));
    if let Some(path) = REFUSED.into_iter().find(|p| set(p)) {
        return Some(path.trim_start_matches('/').replace('/', "."));
    }
    None
}

pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, OciError> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(MAX_FILE + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|f| f.take(MAX_FILE + 1).read_to_end(&mut bytes))
    };
    read.map_err(OciError::io(format_args!("open {}", path.display())))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(OciError::refused(format!("{}: file too large", path.display())));
    }
    serde_json::from_slice(&bytes).map_err(|e| OciError::refused(format!("{}: {e}", path.display())))
}

/// The configuration of a bundle, and its root file system's absolute path.
pub(super) fn bundle(dir: &Path) -> Result<(Spec, PathBuf), OciError> {
    if !dir.exists() {
        return Err(OciError::refused(format!("chdir {}: no such file or directory", dir.display())));
    }
    let path = dir.join("config.json");
    if !path.exists() {
        return Err(OciError::refused("JSON specification file config.json not found"));
    }
    let document: Value = read(&path)?;
    let mut spec = checked(document)?;
    super::idmap::spell_out(&mut spec)?;
    allow_standard_devices(&mut spec);
    let Some(root) = &spec.root else { return Err(OciError::refused("root must be specified")) };
    let root = std::fs::canonicalize(dir.join(&root.path))
        .map_err(OciError::io(format_args!("invalid rootfs {}", root.path.display())))?;
    Ok((spec, root))
}

/// The configuration in a document, if everything in it can be honoured.
pub(in crate::oci) fn checked(document: Value) -> Result<Spec, OciError> {
    if let Some(setting) = refused(&document) {
        return Err(OciError::Unsupported(format!("config.json: {setting}")));
    }
    let spec: Spec =
        serde_json::from_value(document).map_err(|e| OciError::refused(format!("config.json: {e}")))?;
    check(&spec)?;
    Ok(spec)
}

/// Whether a text is a configuration that would be accepted; for fuzzing.
pub(crate) fn accepted(text: &[u8]) -> Option<Spec> {
    checked(serde_json::from_slice(text).ok()?).ok()
}

/// The specification's default devices can be used, and any node can be made, whatever the configuration says;
/// what it does not speak of cannot.
fn allow_standard_devices(spec: &mut Spec) {
    let rules = &mut spec.linux.get_or_insert_default().resources.get_or_insert_default().devices;
    let rule = |allow, kind: &str, major: Option<i64>, minor: Option<i64>, access: &str| DeviceRule {
        allow,
        kind: kind.to_owned(),
        major,
        minor,
        access: access.to_owned(),
    };
    rules.insert(0, rule(false, "a", None, None, "rwm"));
    for (kind, major, minor, access) in [
        ("c", None, None, "m"),
        ("b", None, None, "m"),
        ("c", Some(1), Some(3), "rwm"),
        ("c", Some(1), Some(5), "rwm"),
        ("c", Some(1), Some(7), "rwm"),
        ("c", Some(1), Some(8), "rwm"),
        ("c", Some(1), Some(9), "rwm"),
        ("c", Some(5), Some(0), "rwm"),
        ("c", Some(5), Some(2), "rwm"),
        ("c", Some(136), None, "rwm"),
    ] {
        rules.push(rule(true, kind, major, minor, access));
    }
}

fn check(spec: &Spec) -> Result<(), OciError> {
    let major = spec.oci_version.split('.').next().unwrap_or_default();
    if major != "1" {
        return Err(OciError::refused(format!(
            "unsupported version {:?} of the specification",
            spec.oci_version
        )));
    }
    // Needed by `start` only.
    spec.process.as_ref().map_or(Ok(()), check_process)
}

pub(super) fn check_process(process: &Process) -> Result<(), OciError> {
    if process.args.is_empty() {
        return Err(OciError::refused("args must not be empty"));
    }
    if !process.cwd.is_absolute() {
        return Err(OciError::refused("Cwd must be an absolute path"));
    }
    if let Some(wrong) = process.env.iter().find(|e| !e.contains('=')) {
        return Err(OciError::refused(format!("invalid environment variable: {wrong:?}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_honoured_is_refused() {
        let check = |text: &str| refused(&serde_json::from_str(text).unwrap());
        assert_eq!(check(r#"{"linux":{"intelRdt":{"closID":"x"}}}"#).as_deref(), Some("linux.intelRdt"));
        assert_eq!(check(r#"{"linux":{"intelRdt":{},"netDevices":{}}}"#), None);
    }
}
