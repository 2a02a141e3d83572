//! `completion bash|zsh|fish|powershell`: scripts generated from the tables.

use std::ffi::OsString;
use std::io::Write;

use clap_complete::Shell;

use crate::commands::{self, GROUPS};
use crate::error::{Result, fail};
use crate::flags;
use crate::tree;

/// Prints the script for a shell.
pub(crate) fn run(args: &[OsString]) -> Result {
    let usage = "Usage:  docker completion SHELL\n\nGenerate the completion script for bash, zsh, fish or powershell\n";
    let shell = match args.first().map(|s| s.to_string_lossy().into_owned()).as_deref() {
        Some("bash") => Shell::Bash,
        Some("zsh") => Shell::Zsh,
        Some("fish") => Shell::Fish,
        Some("powershell") => Shell::PowerShell,
        Some("--help" | "-h") | None => {
            std::io::stdout().write_all(usage.as_bytes())?;
            return Ok(());
        }
        Some(other) => {
            return Err(fail(
                format!(
                    "docker: unknown command: docker completion {other}\n\nRun 'docker completion --help' for more information"
                ),
                1,
            ));
        }
    };
    let mut root = clap::Command::new("docker").disable_help_subcommand(true);
    for flag in tree::global_flags() {
        let mut arg = clap::Arg::new(flag.long).long(flag.long).help(flag.help);
        if let Some(short) = flag.short {
            arg = arg.short(short);
        }
        root = root.arg(if flag.kind == flags::Kind::Bool {
            arg.action(clap::ArgAction::SetTrue)
        } else {
            arg.num_args(1)
        });
    }
    root = root.disable_version_flag(true);
    let leaf =
        |name: &'static str, c: &tree::Command| flags::command(name, c.flags, c.interspersed).about(c.about);
    for command in commands::all() {
        for name in command.top {
            root = root.subcommand(leaf(name, command));
        }
    }
    for (group, about) in GROUPS {
        let mut parent = clap::Command::new(*group).about(*about).disable_help_subcommand(true);
        for command in commands::all().filter(|c| c.group == *group) {
            for name in command.names {
                parent = parent.subcommand(leaf(name, command));
            }
        }
        root = root.subcommand(parent);
    }
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut root, "docker", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(())
}
