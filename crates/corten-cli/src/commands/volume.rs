//! Volumes.

use serde_json::{Value, json};

use super::network::{labels, natural};
use crate::cli::Cli;
use crate::commands::container::each;
use crate::commands::{FILTER_HELP, FORMAT_HELP};
use crate::error::{Result, fail};
use crate::flags::Kind::{Bool, Filter, List, Map, Text};
use crate::flags::{Flags, flag, long};
use crate::format::{Row, Table, label_method, text};
use crate::opts;
use crate::tree::{Arity, Command, PLAIN};

const BASE: Command = Command { group: "volume", ..PLAIN };

pub(super) const COMMANDS: &[Command] = &[
    Command {
        names: &["create"],
        about: "Create a volume",
        usage: "[OPTIONS] [VOLUME]",
        arity: Arity::AtMost(1),
        flags: &[&[
            flag("driver", 'd', Text, "Driver").default("local"),
            long("label", List, "Label"),
            long("name", Text, "Name").hidden(),
            flag("opt", 'o', Map, "Option of the driver"),
        ]],
        run: |c, f| Box::pin(create(c, f)),
        ..BASE
    },
    Command {
        names: &["ls", "list"],
        about: "List volumes",
        usage: "[OPTIONS]",
        arity: Arity::None,
        flags: &[&[
            flag("filter", 'f', Filter, FILTER_HELP),
            long("format", Text, FORMAT_HELP),
            flag("quiet", 'q', Bool, "Only names"),
        ]],
        run: |c, f| Box::pin(list(c, f)),
        ..BASE
    },
    Command {
        names: &["rm", "remove"],
        about: "Remove volumes that no container uses",
        usage: "[OPTIONS] VOLUME [VOLUME...]",
        flags: &[&[flag("force", 'f', Bool, "Even if the driver does not know it")]],
        run: |c, f| Box::pin(remove(c, f)),
        ..BASE
    },
];

async fn create(cli: &Cli, flags: &Flags) -> Result {
    let given = flags.arg(0);
    if !given.is_empty() && flags.changed("name") {
        return Err(fail(
            "conflicting options: cannot specify a volume-name through both --name and as a positional arg",
            1,
        ));
    }
    let name = if given.is_empty() { flags.text("name").to_owned() } else { given };
    let labels = opts::labels(&flags.list("label"), &[]).map_err(|e| fail(e, 1))?;
    let body = json!({
        "Name": name,
        "Driver": flags.text("driver"),
        "DriverOpts": opts::pairs(&flags.list("opt")),
        "Labels": labels,
    });
    let answer = cli.client()?.volume_create(&body).await?;
    cli.line(answer["Name"].as_str().unwrap_or_default())
}

pub(super) const TABLE: Table<'static> = Table {
    context: "*formatter.volumeContext",
    raw: &[("name", "Name"), ("driver", "Driver")],
    default: "{{.Driver}}\t{{.Name}}",
    quiet: "{{.Name}}",
    headers: &[
        ("Driver", "DRIVER"),
        ("Name", "VOLUME NAME"),
        ("Scope", "SCOPE"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Labels", "LABELS"),
        ("Links", "LINKS"),
        ("Size", "SIZE"),
        ("Availability", "AVAILABILITY"),
        ("Group", "GROUP"),
        ("Status", "STATUS"),
    ],
};

pub(super) fn row(v: &Value) -> Row {
    let field = |name: &str| text(v[name].as_str().unwrap_or_default());
    let usage = &v["UsageData"];
    #[expect(clippy::cast_precision_loss, reason = "for display")]
    let size = usage["Size"].as_i64().map(|s| corten_base::units::human_size(s as f64));
    Row::from([
        ("Driver", field("Driver")),
        ("Name", field("Name")),
        ("Scope", field("Scope")),
        ("Mountpoint", field("Mountpoint")),
        ("Labels", text(labels(&v["Labels"]))),
        ("Links", text(usage["RefCount"].as_i64().map_or_else(|| "N/A".into(), |n| n.to_string()))),
        ("Size", text(size.unwrap_or_else(|| "N/A".into()))),
        ("Availability", text("N/A")),
        ("Group", text("N/A")),
        ("Status", text("N/A")),
        ("Label", label_method(&v["Labels"])),
    ])
}

async fn list(cli: &Cli, flags: &Flags) -> Result {
    let filters = opts::filters(&flags.list("filter"));
    let answer = cli.client()?.volume_list(&filters).await?;
    let mut volumes = answer["Volumes"].as_array().cloned().unwrap_or_default();
    volumes.sort_by_key(|v| natural(v["Name"].as_str().unwrap_or_default()));
    let rows: Vec<Row> = volumes.iter().map(row).collect();
    cli.print(&TABLE.render(&cli.format_for(flags, "volumesFormat"), flags.on("quiet"), &rows)?)
}

async fn remove(cli: &Cli, flags: &Flags) -> Result {
    let client = cli.client()?;
    let force = flags.on("force");
    each(cli, flags.args(), async |name: &str| client.volume_remove(name, force).await).await
}
