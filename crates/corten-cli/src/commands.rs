//! The tables of all commands, by subject.

mod buildcmd;
mod checkpoint;
mod container;
mod context;
mod image;
mod inspect;
mod login;
mod manifest;
mod network;
mod prune;
mod system;
mod volume;

use crate::tree::Command;

/// Management groups.
pub(crate) const GROUPS: &[(&str, &str)] = &[
    ("builder", "Build images and keep the build cache"),
    ("checkpoint", "Write running containers to files, to start them from there"),
    ("container", "Work with containers"),
    ("context", "Work with contexts, the daemons this client knows"),
    ("image", "Work with images"),
    ("manifest", "Put manifests of several platforms under one name"),
    ("network", "Work with networks"),
    ("system", "Look after the engine"),
    ("volume", "Work with volumes"),
];

/// Members of config.json's `proxies` and the variables they set.
pub(crate) const PROXY_KEYS: &[(&str, &str)] = &[
    ("httpProxy", "HTTP_PROXY"),
    ("httpsProxy", "HTTPS_PROXY"),
    ("ftpProxy", "FTP_PROXY"),
    ("noProxy", "NO_PROXY"),
    ("allProxy", "ALL_PROXY"),
];

/// Every command.
pub(crate) fn all() -> impl Iterator<Item = &'static Command> {
    [
        container::COMMANDS,
        checkpoint::COMMANDS,
        image::COMMANDS,
        buildcmd::COMMANDS,
        network::COMMANDS,
        volume::COMMANDS,
        system::COMMANDS,
        context::COMMANDS,
        login::COMMANDS,
        manifest::COMMANDS,
        inspect::COMMANDS,
        prune::COMMANDS,
    ]
    .into_iter()
    .flatten()
}

/// How `--format` is described everywhere.
pub(crate) const FORMAT_HELP: &str = "How to show it: table, table TEMPLATE, json, or a Go template";
/// How `--filter` is described everywhere.
pub(crate) const FILTER_HELP: &str = "Only what matches: key=value";
