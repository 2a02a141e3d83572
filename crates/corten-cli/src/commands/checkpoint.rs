//! Checkpoints of containers.

use serde_json::json;

use super::network::natural;
use crate::cli::Cli;
use crate::error::Result;
use crate::flags::Kind::{Bool, Text};
use crate::flags::{Flag, Flags, long};
use crate::format::{Row, Table, text};
use crate::tree::{Arity, Command, PLAIN};

const BASE: Command = Command { group: "checkpoint", ..PLAIN };
const DIR: Flag =
    long("checkpoint-dir", Text, "Directory of the checkpoints, instead of the container's own");

pub(super) const COMMANDS: &[Command] = &[
    Command {
        names: &["create"],
        about: "Write the processes of a running container to files",
        usage: "[OPTIONS] CONTAINER CHECKPOINT",
        arity: Arity::Exactly(2),
        flags: &[&[DIR, long("leave-running", Bool, "The container goes on")]],
        run: |c, f| Box::pin(create(c, f)),
        ..BASE
    },
    Command {
        names: &["ls", "list"],
        about: "List the checkpoints of a container",
        usage: "[OPTIONS] CONTAINER",
        arity: Arity::Exactly(1),
        flags: &[&[DIR]],
        run: |c, f| Box::pin(list(c, f)),
        ..BASE
    },
    Command {
        names: &["rm", "remove"],
        about: "Remove a checkpoint",
        usage: "[OPTIONS] CONTAINER CHECKPOINT",
        arity: Arity::Exactly(2),
        flags: &[&[DIR]],
        run: |c, f| Box::pin(remove(c, f)),
        ..BASE
    },
];

async fn create(cli: &Cli, flags: &Flags) -> Result {
    let name = flags.arg(1);
    let body = json!({
        "CheckpointID": name,
        "CheckpointDir": flags.text("checkpoint-dir"),
        "Exit": !flags.on("leave-running"),
    });
    cli.client()?.checkpoint_create(&flags.arg(0), &body).await?;
    cli.line(&name)
}

const TABLE: Table<'static> = Table {
    context: "*checkpoint.checkpointContext",
    raw: &[("name", "Name")],
    default: "{{.Name}}",
    quiet: "{{.Name}}",
    headers: &[("Name", "CHECKPOINT NAME")],
};

async fn list(cli: &Cli, flags: &Flags) -> Result {
    let answer = cli.client()?.checkpoint_list(&flags.arg(0), flags.text("checkpoint-dir")).await?;
    let mut names: Vec<&str> =
        answer.as_array().into_iter().flatten().filter_map(|c| c["Name"].as_str()).collect();
    names.sort_by_key(|n| natural(n));
    let rows: Vec<Row> = names.into_iter().map(|n| Row::from([("Name", text(n))])).collect();
    cli.print(&TABLE.render("table", false, &rows)?)
}

async fn remove(cli: &Cli, flags: &Flags) -> Result {
    let (container, name) = (flags.arg(0), flags.arg(1));
    Ok(cli.client()?.checkpoint_remove(&container, &name, flags.text("checkpoint-dir")).await?)
}
