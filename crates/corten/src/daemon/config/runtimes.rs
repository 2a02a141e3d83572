//! `--add-runtime`, the file's `runtimes`, and `--default-runtime`.

use std::collections::BTreeMap;

use corten_engine::{BUILT_IN_RUNTIMES, EngineConfig, RuntimeConfig};
use serde_json::Value as Json;

use super::{Settings, SettingsError, wrong};

/// Puts them into the engine's configuration.
pub(super) fn apply(s: &Settings, e: &mut EngineConfig) -> Result<(), SettingsError> {
    for text in s.list("add-runtime") {
        let (name, path) = text
            .split_once('=')
            .map(|(n, p)| (n.trim().to_ascii_lowercase(), p.trim()))
            .filter(|(n, p)| !n.is_empty() && !p.is_empty())
            .ok_or_else(|| wrong(format!("invalid runtime argument: {text}")))?;
        let runtime = RuntimeConfig { path: path.to_owned(), args: Vec::new() };
        if e.runtimes.insert(name.clone(), runtime).is_some() {
            return Err(wrong(format!("runtime '{name}' was already defined")));
        }
    }
    if let Some(json) = s.json("runtimes") {
        e.runtimes.extend(of_file(json)?);
    }
    if let Some(reserved) = e.runtimes.keys().find(|name| BUILT_IN_RUNTIMES.contains(&name.as_str())) {
        return Err(wrong(format!("runtime name '{reserved}' is reserved")));
    }
    if let Some(name) = s.text("default-runtime") {
        if !e.knows_runtime(name) {
            return Err(wrong(format!("specified default runtime '{name}' does not exist")));
        }
        name.clone_into(&mut e.default_runtime);
    }
    Ok(())
}

/// `{"name": {"path": …, "runtimeArgs": […]}}`.
fn of_file(json: &Json) -> Result<BTreeMap<String, RuntimeConfig>, SettingsError> {
    let expected = || wrong("runtimes: an object of objects is expected");
    let mut all = BTreeMap::new();
    for (name, entry) in json.as_object().ok_or_else(expected)? {
        let entry = entry.as_object().ok_or_else(expected)?;
        for (key, value) in entry {
            match key.as_str() {
                "path" | "runtimeArgs" => {}
                "runtimeType" | "options" if value.is_null() || value == "" => {}
                "runtimeType" | "options" => {
                    return Err(wrong(format!(
                        "runtimes: {name}: {key} is not supported by this daemon: \
                         name a program with runc's command line in \"path\""
                    )));
                }
                other => return Err(wrong(format!("runtimes: {name}: unknown key {other:?}"))),
            }
        }
        let path = entry.get("path").and_then(Json::as_str).unwrap_or_default();
        if path.is_empty() {
            return Err(wrong(format!("runtime {name}: either 'path' or 'runtimeType' must be specified")));
        }
        let args = match entry.get("runtimeArgs") {
            None | Some(Json::Null) => Vec::new(),
            Some(list) => serde_json::from_value(list.clone())
                .map_err(|e| wrong(format!("runtimes: {name}: runtimeArgs: {e}")))?,
        };
        all.insert(name.clone(), RuntimeConfig { path: path.to_owned(), args });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str], file: &str) -> Result<EngineConfig, String> {
        let args: Vec<_> = args.iter().map(std::ffi::OsString::from).collect();
        let path = std::env::temp_dir().join(format!("corten-runtimes-{}.json", corten_base::Id::random()));
        std::fs::write(&path, file).unwrap();
        let settings = Settings::from_args(&args).and_then(|s| s.merge_file(&path, true));
        std::fs::remove_file(&path).unwrap();
        let mut e = EngineConfig::new("/d".into(), "/e".into());
        settings.and_then(|s| apply(&s, &mut e)).map(|()| e).map_err(|e| e.to_string())
    }

    #[test]
    fn flags_and_file() {
        let e = read(&["--add-runtime", "Crun=/usr/bin/crun", "--default-runtime=crun"], "").unwrap();
        assert_eq!((e.runtimes["crun"].path.as_str(), e.default_runtime.as_str()), ("/usr/bin/crun", "crun"));
        let e = read(&[], r#"{"runtimes":{"own":{"path":"corten-runtime","runtimeArgs":["oci"]}}}"#).unwrap();
        assert_eq!(e.runtimes["own"].args, ["oci"]);
        assert!(e.knows_runtime("own") && e.knows_runtime("") && !e.knows_runtime("other"));
    }

    #[test]
    fn refusals() {
        for (args, file, want) in [
            (&["--add-runtime", "x"][..], "", "invalid runtime argument: x"),
            (&["--add-runtime", "a=/x", "--add-runtime", "a=/y"], "", "runtime 'a' was already defined"),
            (&["--add-runtime", "runc=/x"], "", "runtime name 'runc' is reserved"),
            (&["--default-runtime", "x"], "", "specified default runtime 'x' does not exist"),
            (
                &[],
                r#"{"runtimes":{"k":{"runtimeType":"io.containerd.kata.v2"}}}"#,
                "runtimes: k: runtimeType is not",
            ),
            (&[], r#"{"runtimes":{"k":{}}}"#, "runtime k: either 'path' or 'runtimeType' must be specified"),
            (&[], r#"{"runtimes":{"k":{"path":"/x","bogus":1}}}"#, "runtimes: k: unknown key \"bogus\""),
        ] {
            let text = read(args, file).unwrap_err();
            assert!(text.starts_with(want), "{text}");
        }
    }
}
