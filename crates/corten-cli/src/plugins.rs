//! Programs that add commands, `docker-NAME` in the directories of plugins: compose and the like come this way.
//!
//! A command of ours is never replaced by a plugin. The plugin takes our place (same process, same terminal) and gets
//! the whole command line, so that global flags reach it; it finds contexts and configuration by itself.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use corten_base::error::errno_text;
use serde_json::Value;

use crate::cli::Cli;
use crate::error::{Result, fail};

const SYSTEM: [&str; 4] = [
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];
const PREFIX: &str = "docker-";
/// Tells a plugin which program it is a part of; some behave otherwise on their own.
const CALLED_BY: &str = "DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND";

/// One program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Plugin {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// What a plugin says about itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct About {
    pub(crate) vendor: String,
    pub(crate) version: String,
    pub(crate) text: String,
}

/// The first ones win.
fn directories(cli: &Cli) -> Vec<PathBuf> {
    let config = cli.config().borrow();
    let extra = config.get("cliPluginsExtraDirs").and_then(Value::as_array).into_iter().flatten();
    let mut dirs: Vec<PathBuf> = extra.filter_map(Value::as_str).map(PathBuf::from).collect();
    dirs.push(cli.docker_dir().join("cli-plugins"));
    dirs.extend(SYSTEM.map(PathBuf::from));
    dirs
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// The plugin for a command, if there is one.
pub(crate) fn find(cli: &Cli, name: &str) -> Option<Plugin> {
    if !is_name(name) {
        return None;
    }
    let path = directories(cli)
        .into_iter()
        .map(|dir| dir.join(format!("{PREFIX}{name}")))
        .find(|p| is_program(p))?;
    Some(Plugin { name: name.to_owned(), path })
}

/// All of them, by name.
pub(crate) fn all(cli: &Cli) -> Vec<Plugin> {
    let mut found: Vec<Plugin> = Vec::new();
    for dir in directories(cli) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let file = entry.file_name();
            let Some(name) = file.to_str().and_then(|f| f.strip_prefix(PREFIX)) else { continue };
            if is_name(name) && is_program(&entry.path()) && !found.iter().any(|p| p.name == name) {
                found.push(Plugin { name: name.to_owned(), path: entry.path() });
            }
        }
    }
    found.sort();
    found
}

impl Plugin {
    /// Becomes the plugin; returns only when that fails.
    pub(crate) fn run(&self, cli: &Cli, args: &[OsString]) -> Result {
        let mut command = Command::new(&self.path);
        command.args(args).env(CALLED_BY, std::env::args_os().next().unwrap_or_else(|| "docker".into()));
        // Plugins know only the socket of the other engine by heart.
        if let Some(host) = cli.implied_host()? {
            command.env("DOCKER_HOST", host);
        }
        let error = command.exec();
        Err(fail(format!("docker: {}: {}", self.path.display(), errno_text(&error)), 1))
    }

    /// Asks it; `None` where it is no plugin.
    pub(crate) fn about(&self) -> Option<About> {
        let output = Command::new(&self.path)
            .arg("docker-cli-plugin-metadata")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
        let field = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        (field("SchemaVersion") == "0.1.0" && !field("Vendor").is_empty()).then(|| About {
            vendor: field("Vendor"),
            version: field("Version"),
            text: field("ShortDescription"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Globals;
    use crate::env::Env;

    #[test]
    fn plugins_are_found_by_name_and_asked() {
        let dir = std::env::temp_dir().join(format!("corten-cli-plugins-{}", std::process::id()));
        let plugins = dir.join("cli-plugins");
        std::fs::create_dir_all(&plugins).unwrap();
        let add = |file: &str, text: &str, mode: u32| {
            std::fs::write(plugins.join(file), text).unwrap();
            std::fs::set_permissions(plugins.join(file), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let says =
            r#"{"SchemaVersion": "0.1.0", "Vendor": "V", "Version": "v1", "ShortDescription": "Says hello"}"#;
        add("docker-hello", &format!("#!/bin/sh\necho '{says}'\n"), 0o755);
        add("docker-notexecutable", "", 0o644);
        add("docker-Bad.name", "", 0o755);
        add("other", "", 0o755);
        let globals = Globals { config_dir: Some(dir.clone()), ..Globals::default() };
        let cli = Cli::new(Env::default(), globals, "docker".into());
        let ours: Vec<Plugin> = all(&cli).into_iter().filter(|p| p.path.starts_with(&dir)).collect();
        assert_eq!(ours.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["hello"]);
        assert_eq!(find(&cli, "hello"), Some(ours[0].clone()));
        assert_eq!(find(&cli, "notexecutable"), None);
        assert_eq!(find(&cli, "../cli-plugins/docker-hello"), None);
        let about = ours[0].about().unwrap();
        assert_eq!((about.text.as_str(), about.vendor.as_str()), ("Says hello", "V"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
