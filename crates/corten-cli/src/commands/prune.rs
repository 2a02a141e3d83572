//! Prune of all kinds: ask, remove, list what went, add up what it freed.

use corten_base::units;
use corten_client::{Filters, Query};
use serde_json::Value;

use crate::cli::Cli;
use crate::error::{Result, exit, fail};
use crate::flags::Kind::{Bool, Bytes, Filter};
use crate::flags::{Flag, Flags, flag, long};
use crate::tree::{Arity, Command, PLAIN};
use crate::{opts, term};

const FILTER: Flag = long("filter", Filter, "Only what matches: until=24h, label=key");
const FORCE: Flag = flag("force", 'f', Bool, "Do not ask");
const ALL: Flag = flag("all", 'a', Bool, "All that is unused, not only what has no name");

const BASE: Command = Command {
    names: &["prune"],
    usage: "[OPTIONS]",
    arity: Arity::None,
    flags: &[&[FILTER, FORCE]],
    ..PLAIN
};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        group: "container",
        about: "Remove all stopped containers",
        run: |c, f| Box::pin(containers(c, f)),
        ..BASE
    },
    Command {
        group: "network",
        about: "Remove all unused networks",
        run: |c, f| Box::pin(networks(c, f)),
        ..BASE
    },
    Command {
        group: "image",
        about: "Remove unused images",
        flags: &[&[FILTER, FORCE, ALL]],
        run: |c, f| Box::pin(images(c, f)),
        ..BASE
    },
    Command {
        group: "volume",
        about: "Remove unused volumes",
        flags: &[&[FILTER, FORCE, flag("all", 'a', Bool, "Named volumes too")]],
        run: |c, f| Box::pin(volumes(c, f)),
        ..BASE
    },
    Command {
        group: "builder",
        about: "Remove build cache",
        usage: "",
        flags: &[&[FILTER, FORCE, ALL, long("keep-storage", Bytes, "How much to keep")]],
        run: |c, f| Box::pin(cache(c, f)),
        ..BASE
    },
    Command {
        group: "system",
        about: "Remove everything that is unused",
        flags: &[&[FILTER, FORCE, ALL, long("volumes", Bool, "Anonymous volumes too")]],
        run: |c, f| Box::pin(system(c, f)),
        ..BASE
    },
];

/// Filters of the command line and of config.json.
fn filters(cli: &Cli, flags: &Flags) -> Filters {
    let mut filters = opts::filters(&flags.list("filter"));
    if let Some(list) = cli.config().borrow().get("pruneFilters").and_then(Value::as_array) {
        for (key, value) in list.iter().filter_map(Value::as_str).filter_map(|f| f.split_once('=')) {
            filters.add(key, value);
        }
    }
    filters
}

fn ask(cli: &Cli, flags: &Flags, warning: &str) -> Result<()> {
    if flags.on("force") {
        return Ok(());
    }
    cli.print(warning)?;
    match term::confirm("Are you sure you want to continue?") {
        Ok(true) => Ok(()),
        Ok(false) => Err(exit(0)),
        Err(e) => Err(fail(e.to_string(), 1)),
    }
}

fn reclaimed(cli: &Cli, bytes: i64) -> Result {
    #[expect(clippy::cast_precision_loss, reason = "for display")]
    let size = units::human_size(bytes as f64);
    cli.line(&format!("Total reclaimed space: {size}"))
}

fn listed(title: &str, answer: &Value, key: &str) -> String {
    let names: Vec<&str> = answer[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if names.is_empty() { String::new() } else { format!("{title}:\n{}\n\n", names.join("\n")) }
}

fn space(answer: &Value) -> i64 {
    answer["SpaceReclaimed"].as_i64().unwrap_or(0)
}

async fn prune(cli: &Cli, what: &str, filters: &Filters) -> Result<Value> {
    Ok(cli.client()?.prune(what, Query::new().with_filters(filters)).await?)
}

async fn containers(cli: &Cli, flags: &Flags) -> Result {
    ask(cli, flags, "WARNING! This will remove all stopped containers.\n")?;
    let answer = prune(cli, "containers", &filters(cli, flags)).await?;
    cli.print(&listed("Deleted Containers", &answer, "ContainersDeleted"))?;
    reclaimed(cli, space(&answer))
}

async fn networks(cli: &Cli, flags: &Flags) -> Result {
    ask(cli, flags, "WARNING! This will remove all custom networks not used by at least one container.\n")?;
    let answer = prune(cli, "networks", &filters(cli, flags)).await?;
    cli.print(&listed("Deleted Networks", &answer, "NetworksDeleted"))
}

async fn volumes(cli: &Cli, flags: &Flags) -> Result {
    let mut filters = filters(cli, flags);
    let all = flags.on("all");
    if all {
        if filters.contains("all") {
            return Err(fail("conflicting options: cannot specify both --all and --filter all=1", 1));
        }
        filters.add("all", "true");
    }
    let old = !flags.on("force") && cli.client()?.negotiate().await? < (1, 42);
    let which = if all || old { "all" } else { "anonymous" };
    ask(
        cli,
        flags,
        &format!("WARNING! This will remove {which} local volumes not used by at least one container.\n"),
    )?;
    let answer = prune(cli, "volumes", &filters).await?;
    cli.print(&listed("Deleted Volumes", &answer, "VolumesDeleted"))?;
    reclaimed(cli, space(&answer))
}

fn deleted_images(answer: &Value) -> String {
    let items = answer["ImagesDeleted"].as_array().into_iter().flatten();
    let lines: Vec<String> = items
        .map(|i| match i["Untagged"].as_str() {
            Some(name) if !name.is_empty() => format!("untagged: {name}"),
            _ => format!("deleted: {}", i["Deleted"].as_str().unwrap_or_default()),
        })
        .collect();
    if lines.is_empty() { String::new() } else { format!("Deleted Images:\n{}\n\n", lines.join("\n")) }
}

async fn images(cli: &Cli, flags: &Flags) -> Result {
    let mut filters = filters(cli, flags);
    filters.add("dangling", if flags.on("all") { "false" } else { "true" });
    let what = if flags.on("all") {
        "all images without at least one container associated to them"
    } else {
        "all dangling images"
    };
    ask(cli, flags, &format!("WARNING! This will remove {what}.\n"))?;
    let answer = prune(cli, "images", &filters).await?;
    cli.print(&deleted_images(&answer))?;
    reclaimed(cli, space(&answer))
}

async fn prune_cache(cli: &Cli, flags: &Flags, filters: &Filters) -> Result<Value> {
    let mut query = Query::new().with_flag("all", flags.on("all")).with_filters(filters);
    if flags.changed("keep-storage") {
        query = query.with("keep-storage", flags.bytes("keep-storage").to_string());
    }
    Ok(cli.client()?.prune("build", query).await?)
}

async fn cache(cli: &Cli, flags: &Flags) -> Result {
    let what = if flags.on("all") { "all build cache" } else { "all dangling build cache" };
    ask(cli, flags, &format!("WARNING! This will remove {what}. "))?;
    let answer = prune_cache(cli, flags, &filters(cli, flags)).await?;
    cli.print(&listed("Deleted build cache objects", &answer, "CachesDeleted"))?;
    reclaimed(cli, space(&answer))
}

async fn system(cli: &Cli, flags: &Flags) -> Result {
    let mut filters = filters(cli, flags);
    let (all, with_volumes) = (flags.on("all"), flags.on("volumes"));
    if with_volumes && filters.contains("until") {
        return Err(fail("ERROR: The \"until\" filter is not supported with \"--volumes\"", 1));
    }
    let mut warning = String::from(
        "WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n",
    );
    if with_volumes {
        warning.push_str("  - all anonymous volumes not used by at least one container\n");
    }
    warning.push_str(if all {
        "  - all images without at least one container associated to them\n"
    } else {
        "  - all dangling images\n"
    });
    warning.push_str(if all { "  - all build cache\n" } else { "  - unused build cache\n" });
    let texts: Vec<String> = filters.texts();
    if !texts.is_empty() {
        warning.push_str("\n  Items to be pruned will be filtered with:\n");
        for text in texts {
            warning.push_str(&format!("  - {text}\n"));
        }
    }
    ask(cli, flags, &format!("{warning}\n"))?;
    let mut total = 0;
    let gone = prune(cli, "containers", &filters).await?;
    cli.print(&listed("Deleted Containers", &gone, "ContainersDeleted"))?;
    total += space(&gone);
    let gone = prune(cli, "networks", &filters).await?;
    cli.print(&listed("Deleted Networks", &gone, "NetworksDeleted"))?;
    if with_volumes {
        let gone = prune(cli, "volumes", &filters).await?;
        cli.print(&listed("Deleted Volumes", &gone, "VolumesDeleted"))?;
        total += space(&gone);
    }
    let cache_filters = filters.clone();
    filters.add("dangling", if all { "false" } else { "true" });
    let gone = prune(cli, "images", &filters).await?;
    cli.print(&deleted_images(&gone))?;
    total += space(&gone);
    let gone = prune_cache(cli, flags, &cache_filters).await?;
    cli.print(&listed("Deleted build cache objects", &gone, "CachesDeleted"))?;
    reclaimed(cli, total + space(&gone))
}
