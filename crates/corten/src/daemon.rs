//! `corten daemon`: settings, the order in which everything is opened and closed, signals.
//!
//! ```text
//!  lock root ─▶ Db ─▶ Images ─▶ Net ─▶ Launcher ─▶ Engine (recovers) ─▶ Builder ─▶ API listens ─▶ READY
//! ```

mod config;
mod host;
pub(crate) mod logging;
mod options;
mod reload;
pub(crate) mod rootless;
mod run;
mod settings;
pub(crate) mod signals;
mod steps;
mod systemd;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use config::Config;
use settings::{Settings, SettingsError};

/// Where the configuration is looked for if nothing else is said.
const DEFAULT_CONFIG_FILE: &str = "/etc/corten/daemon.json";

/// Runs the daemon; the exit code.
pub(crate) fn main(args: &[OsString]) -> i32 {
    let flags = match Settings::from_args(args) {
        Ok(flags) => flags,
        Err(e) => return complain(&e.to_string(), 125),
    };
    if flags.bool_or("help", false) {
        return say(&options::help());
    }
    if flags.bool_or("version", false) {
        return say(&format!(
            "Corten version {}, API {}\n",
            env!("CARGO_PKG_VERSION"),
            corten_wire::api::VERSION
        ));
    }
    if rootless::is_needed() && !flags.bool_or("validate", false) {
        return rootless::main(args);
    }
    let config = match configuration(&flags) {
        Ok(config) => config,
        Err(e) => return complain(&e.to_string(), 1),
    };
    if flags.bool_or("validate", false) {
        return say("configuration OK\n");
    }
    match run::run(config, args.to_vec()) {
        Ok(()) => 0,
        Err(e) => complain(&format!("failed to start daemon: {e:#}"), 1),
    }
}

/// Flags and file, checked.
fn configuration(flags: &Settings) -> Result<Config, SettingsError> {
    let named = flags.path("config-file");
    let default = || match rootless::Places::inside() {
        Some(places) => places.config.join("daemon.json"),
        None => PathBuf::from(DEFAULT_CONFIG_FILE),
    };
    let path = named.clone().unwrap_or_else(default);
    Config::new(&flags.clone().merge_file(&path, named.is_some())?)
}

fn complain(text: &str, code: i32) -> i32 {
    crate::complain(text);
    code
}

fn say(text: &str) -> i32 {
    i32::from(std::io::stdout().write_all(text.as_bytes()).is_err())
}
