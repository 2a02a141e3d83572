//! `inspect` of all kinds: the daemon's JSON untouched, or a template over it.

use corten_base::Kind as Failure;
use corten_client::{Client, Error, Query};

use crate::cli::Cli;
use crate::error::{Result, fail};
use crate::flags::Kind::{Bool, Text};
use crate::flags::{Flag, Flags, flag, long};
use crate::format;
use crate::tree::{Command, PLAIN};

const FORMAT: Flag = flag("format", 'f', Text, "How to show it: json, or a Go template");
const SIZE: Flag = flag("size", 's', Bool, "Sizes of containers too");

const BASE: Command = Command { names: &["inspect"], flags: &[&[FORMAT]], ..PLAIN };

pub(super) const COMMANDS: &[Command] = &[
    Command {
        names: &[],
        top: &["inspect"],
        about: "Show all that is known about objects of any kind",
        usage: "[OPTIONS] NAME|ID [NAME|ID...]",
        flags: &[&[FORMAT, SIZE, long("type", Text, "Only objects of this kind")]],
        run: |c, f| Box::pin(any(c, f)),
        ..BASE
    },
    Command {
        group: "container",
        about: "Show all that is known about containers",
        usage: "[OPTIONS] CONTAINER [CONTAINER...]",
        flags: &[&[FORMAT, SIZE]],
        run: |c, f| Box::pin(one_kind(c, f, "container")),
        ..BASE
    },
    Command {
        group: "image",
        about: "Show all that is known about images",
        usage: "[OPTIONS] IMAGE [IMAGE...]",
        flags: &[&[FORMAT, long("platform", Text, "Platform: os/architecture")]],
        run: |c, f| Box::pin(one_kind(c, f, "image")),
        ..BASE
    },
    Command {
        group: "network",
        about: "Show all that is known about networks",
        usage: "[OPTIONS] NETWORK [NETWORK...]",
        flags: &[&[FORMAT, flag("verbose", 'v', Bool, "For diagnostics")]],
        run: |c, f| Box::pin(one_kind(c, f, "network")),
        ..BASE
    },
    Command {
        group: "volume",
        about: "Show all that is known about volumes",
        usage: "[OPTIONS] VOLUME [VOLUME...]",
        run: |c, f| Box::pin(one_kind(c, f, "volume")),
        ..BASE
    },
];

/// Fields that the reference's types have and its JSON leaves out: a template may name them.
const OPTIONAL: &[&str] = &[
    "State.Health",
    "SizeRw",
    "SizeRootFs",
    "Config.Healthcheck",
    "Config.ExposedPorts",
    "Config.MacAddress",
    "Config.StopSignal",
    "Config.StopTimeout",
    "Config.Shell",
    "HostConfig.Mounts",
    "HostConfig.Tmpfs",
    "HostConfig.Sysctls",
    "HostConfig.Init",
    "HostConfig.Annotations",
    "HostConfig.StorageOpt",
    "ImageManifestDescriptor",
    "GraphDriver.Data",
    "Comment",
    "Author",
    "Variant",
    "Descriptor",
    "Manifests",
    "Status",
    "UsageData",
    "Labels",
    "Options",
];

fn image_query(flags: &Flags) -> Result<Query> {
    match flags.text("platform") {
        "" => Ok(Query::new()),
        platform => Ok(Query::new().with("platform", super::image::platform_json(platform)?)),
    }
}

async fn get(client: &Client, kind: &str, name: &str, flags: &Flags) -> Result<String, Error> {
    let bytes = match kind {
        "container" => client.container_inspect_raw(name, flags.on("size")).await,
        "image" => {
            client
                .image_inspect_raw(name, image_query(flags).map_err(|e| Error::Answer(e.to_string()))?)
                .await
        }
        "network" => client.network_inspect_raw(name, flags.on("verbose")).await,
        _ => client.volume_inspect_raw(name).await,
    }?;
    String::from_utf8(bytes.to_vec()).map_err(|e| Error::Answer(e.to_string()))
}

async fn one_kind(cli: &Cli, flags: &Flags, kind: &str) -> Result {
    // A platform that is none is refused before anything is shown.
    image_query(flags)?;
    let client = cli.client()?;
    show(cli, flags, async |name: &str| get(client, kind, name, flags).await.map_err(|e| e.to_string())).await
}

async fn any(cli: &Cli, flags: &Flags) -> Result {
    const KINDS: [&str; 4] = ["container", "image", "network", "volume"];
    const KNOWN: [&str; 10] =
        ["config", "container", "image", "network", "node", "plugin", "secret", "service", "task", "volume"];
    let wanted = flags.text("type");
    if flags.changed("type") && wanted.is_empty() {
        return Err(fail(
            "type is empty: must be one of \"config\", \"container\", \"image\", \"network\", \"node\", \"plugin\", \"secret\", \"service\", \"task\", \"volume\"",
            1,
        ));
    }
    if !wanted.is_empty() && !KNOWN.contains(&wanted) {
        let list: Vec<String> = KNOWN.iter().map(|k| format!("{k:?}")).collect();
        return Err(fail(format!("unknown type: {wanted:?}: must be one of {}", list.join(", ")), 1));
    }
    if !wanted.is_empty() && !KINDS.contains(&wanted) {
        return Err(fail(
            format!("objects of type {wanted} are not supported: there is no swarm and there are no plugins"),
            1,
        ));
    }
    let client = cli.client()?;
    show(cli, flags, async |name: &str| {
        for kind in KINDS.iter().filter(|k| wanted.is_empty() || **k == wanted) {
            match get(client, kind, name, flags).await {
                Err(e) if wanted.is_empty() && (e.kind() == Failure::NotFound || odd_name(&e)) => {}
                Err(e) => return Err(e.to_string()),
                Ok(json) => return Ok(json),
            }
        }
        Err(format!("Error: No such object: {name}"))
    })
    .await
}

/// A name that is none for this kind may be one for the next.
fn odd_name(error: &Error) -> bool {
    error.kind() == Failure::InvalidArgument && error.message().contains("invalid reference format")
}

/// Collects the objects, shows those that were found, then fails with the errors of the others.
async fn show<F>(cli: &Cli, flags: &Flags, fetch: F) -> Result
where
    F: AsyncFn(&str) -> Result<String, String>,
{
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for name in flags.args() {
        match fetch(&name).await {
            Ok(json) => found.push(json.trim().to_owned()),
            Err(e) => errors.push(e),
        }
    }
    let template = flags.text("format");
    match template {
        "" => cli.line(&format::indent(&format!("[{}]", found.join(",")), "", "    "))?,
        "json" => cli.line(&format!("[{}]", found.join(",")))?,
        _ => {
            for json in &found {
                match format::render(template, json, OPTIONAL) {
                    Ok(line) => cli.line(&line)?,
                    Err(e) => {
                        // A template that is wrong in itself fails before anything is shown.
                        let parse =
                            e.to_string().contains("not defined") || !e.to_string().contains("executing");
                        if !parse {
                            cli.line("")?;
                        }
                        return Err(if parse { fail(e.to_string(), 64) } else { e });
                    }
                }
            }
            if found.is_empty() {
                cli.line("")?;
            }
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(fail(errors.join("\n"), 1)) }
}
