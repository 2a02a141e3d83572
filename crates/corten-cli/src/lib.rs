//! The docker command line: flags, formatting, terminal; the only crate that prints.
//!
//! [`main`] finds the command in a table, parses only that command's flags, and runs it on a current-thread runtime.
//! Commands talk to a daemon through `corten-client` and know nothing else of Corten.

mod archive;
mod build_context;
mod cli;
mod commands;
mod completion;
mod config;
mod context;
mod env;
mod error;
mod flags;
mod format;
mod human;
mod man;
mod opts;
mod plugins;
mod progress;
mod registry;
mod start;
mod streams;
mod tabwriter;
mod term;
mod tree;

pub use tree::main;

/// Version of the docker command line whose behaviour this one has.
pub(crate) const CLIENT_VERSION: &str = "28.2.2";
