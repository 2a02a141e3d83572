//! Networks.

use corten_base::Kind as Failure;
use serde_json::{Map, Value, json};

use crate::cli::Cli;
use crate::commands::container::short;
use crate::commands::{FILTER_HELP, FORMAT_HELP};
use crate::error::{Result, fail};
use crate::flags::Kind::{Bool, Filter, Int, Ip, List, Map as Pairs, Strings, Text};
use crate::flags::{Flags, flag, long};
use crate::format::{Row, Table, label_method, text};
use crate::opts;
use crate::tree::{Arity, Command, PLAIN};

mod graph;

const BASE: Command = Command { group: "network", ..PLAIN };

pub(super) const COMMANDS: &[Command] = &[
    Command {
        names: &["create"],
        about: "Create a network",
        usage: "[OPTIONS] NETWORK",
        arity: Arity::Exactly(1),
        flags: &[&[
            long("attachable", Bool, "Containers may be attached by hand"),
            long("aux-address", Pairs, "Addresses that are taken by others"),
            long("config-from", Text, "Network whose configuration to copy"),
            long("config-only", Bool, "Only a configuration for other networks"),
            flag("driver", 'd', Text, "Driver").default("bridge"),
            long("gateway", Strings, "Gateway of the subnet"),
            long("ingress", Bool, "Network of a swarm's routing mesh"),
            long("internal", Bool, "No way to the outside"),
            long("ip-range", Strings, "Range to take containers' addresses from"),
            long("ipam-driver", Text, "Driver that gives addresses").default("default"),
            long("ipam-opt", Pairs, "Option of that driver"),
            long("ipv4", Bool, "IPv4 addresses").default("true"),
            long("ipv6", Bool, "IPv6 addresses"),
            long("label", List, "Label"),
            flag("opt", 'o', Pairs, "Option of the driver"),
            long("scope", Text, "Where the network is known"),
            long("subnet", Strings, "Subnet in CIDR notation"),
        ]],
        run: |c, f| Box::pin(create(c, f)),
        ..BASE
    },
    Command {
        names: &["ls", "list"],
        about: "List networks",
        usage: "[OPTIONS]",
        arity: Arity::None,
        flags: &[&[
            flag("filter", 'f', Filter, FILTER_HELP),
            long("format", Text, FORMAT_HELP),
            long("no-trunc", Bool, "Do not shorten"),
            flag("quiet", 'q', Bool, "Only IDs"),
        ]],
        run: |c, f| Box::pin(list(c, f)),
        ..BASE
    },
    Command {
        names: &["rm", "remove"],
        about: "Remove networks",
        usage: "NETWORK [NETWORK...]",
        flags: &[&[flag("force", 'f', Bool, "It is no error if there is none of this name")]],
        run: |c, f| Box::pin(remove(c, f)),
        ..BASE
    },
    Command {
        names: &["connect"],
        about: "Connect a container to a network",
        usage: "[OPTIONS] NETWORK CONTAINER",
        arity: Arity::Exactly(2),
        flags: &[&[
            long("alias", Strings, "Name on the network"),
            long("driver-opt", Strings, "Option of the driver"),
            long("gw-priority", Int, "The highest gives the default gateway"),
            long("ip", Ip, "IPv4 address"),
            long("ip6", Ip, "IPv6 address"),
            long("link", List, "Container to link to"),
            long("link-local-ip", Strings, "Link-local address"),
        ]],
        run: |c, f| Box::pin(connect(c, f)),
        ..BASE
    },
    Command {
        names: &["graph"],
        about: "Show who reaches whom, and through which rule",
        usage: "[OPTIONS] [NETWORK...]",
        arity: Arity::AtLeast(0),
        flags: &[&[long("svg", Bool, "A picture instead of text")]],
        run: |c, f| Box::pin(draw(c, f)),
        ..BASE
    },
    Command {
        names: &["disconnect"],
        about: "Disconnect a container from a network",
        usage: "[OPTIONS] NETWORK CONTAINER",
        arity: Arity::Exactly(2),
        flags: &[&[flag("force", 'f', Bool, "Even if the container does not answer")]],
        run: |c, f| Box::pin(disconnect(c, f)),
        ..BASE
    },
];

async fn create(cli: &Cli, flags: &Flags) -> Result {
    let ipam = ipam(flags).map_err(|e| fail(e, 1))?;
    let labels = opts::labels(&flags.list("label"), &[]).map_err(|e| fail(e, 1))?;
    let mut body = json!({
        "Name": flags.arg(0),
        "Driver": flags.text("driver"),
        "Scope": flags.text("scope"),
        "Internal": flags.on("internal"),
        "Attachable": flags.on("attachable"),
        "Ingress": flags.on("ingress"),
        "ConfigOnly": flags.on("config-only"),
        "IPAM": ipam,
        "Options": opts::pairs(&flags.list("opt")),
        "Labels": labels,
    });
    // COMPAT: from 1.44 on engines check by themselves.
    if cli.client()?.negotiate().await.is_ok_and(|version| version < (1, 44)) {
        body["CheckDuplicate"] = true.into();
    }
    for (flag, key) in [("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")] {
        if flags.changed(flag) {
            body[key] = flags.on(flag).into();
        }
    }
    let from = flags.text("config-from");
    if !from.is_empty() {
        body["ConfigFrom"] = json!({"Network": from});
    }
    let answer = cli.client()?.network_create(&body).await?;
    if let Some(warning) = answer["Warning"].as_str().filter(|w| !w.is_empty()) {
        cli.warn(&format!("WARNING: {warning}"));
    }
    cli.line(answer["Id"].as_str().unwrap_or_default())
}

/// Whether a CIDR holds an address or the first address of another CIDR.
fn holds(subnet: &str, other: &str) -> Result<bool, String> {
    let parse = |text: &str| -> Result<(std::net::IpAddr, u8), String> {
        let (ip, bits) = text.split_once('/').unwrap_or((text, ""));
        let address: std::net::IpAddr = ip.parse().map_err(|_| format!("invalid CIDR address: {text}"))?;
        let full = if address.is_ipv4() { 32 } else { 128 };
        let bits = if bits.is_empty() {
            full
        } else {
            bits.parse().map_err(|_| format!("invalid CIDR address: {text}"))?
        };
        if bits > full { Err(format!("invalid CIDR address: {text}")) } else { Ok((address, bits)) }
    };
    let ((network, bits), (address, _)) = (parse(subnet)?, parse(other)?);
    let bytes = |ip: std::net::IpAddr| match ip {
        std::net::IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
        std::net::IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    let ((a, size), (b, other_size)) = (bytes(network), bytes(address));
    let mask = if bits == 0 { 0 } else { u128::MAX << (128 - u32::from(bits)) };
    Ok(size == other_size && a & mask == b & mask)
}

/// Gives each gateway, range and auxiliary address to its subnet.
fn ipam(flags: &Flags) -> Result<Value, String> {
    let (subnets, ranges, gateways) = (flags.list("subnet"), flags.list("ip-range"), flags.list("gateway"));
    if subnets.len() < ranges.len() || subnets.len() < gateways.len() {
        return Err("every ip-range or gateway must have a corresponding subnet".into());
    }
    for (i, a) in subnets.iter().enumerate() {
        for b in &subnets[i + 1..] {
            if holds(a, b)? || holds(b, a)? {
                return Err("multiple overlapping subnet configuration is not supported".into());
            }
        }
        // What is no subnet at all is the daemon's to refuse.
        if subnets.len() > 1 || !gateways.is_empty() || !ranges.is_empty() {
            holds(a, a)?;
        }
    }
    let mut configs: Vec<Map<String, Value>> =
        subnets.iter().map(|s| Map::from_iter([("Subnet".to_owned(), Value::from(s.as_str()))])).collect();
    let mut assign = |value: &str, key: &str, what: &str| -> Result<(), String> {
        for (i, subnet) in subnets.iter().enumerate() {
            if holds(subnet, value)? {
                if configs[i].contains_key(key) {
                    return Err(format!(
                        "cannot configure multiple {what} ({value}) on the same subnet ({subnet})"
                    ));
                }
                configs[i].insert(key.into(), value.into());
                return Ok(());
            }
        }
        Err(format!("no matching subnet for {} {value}", if key == "IPRange" { "range" } else { "gateway" }))
    };
    for range in &ranges {
        assign(range, "IPRange", "ranges")?;
    }
    for gateway in &gateways {
        assign(gateway, "Gateway", "gateways")?;
    }
    for pair in flags.list("aux-address") {
        let (name, address) = pair.split_once('=').unwrap_or((&pair, ""));
        let mut found = false;
        for (i, subnet) in subnets.iter().enumerate() {
            if holds(subnet, address)? {
                configs[i].entry("AuxiliaryAddresses").or_insert_with(|| json!({}))[name] = address.into();
                found = true;
                break;
            }
        }
        if !found {
            return Err(format!("no matching subnet for aux-address {address}"));
        }
    }
    let options = opts::pairs(&flags.list("ipam-opt"));
    Ok(json!({"Driver": flags.text("ipam-driver"), "Options": options, "Config": configs}))
}

const TABLE: Table<'static> = Table {
    context: "*network.networkContext",
    raw: &[("network_id", "ID"), ("name", "Name"), ("driver", "Driver"), ("scope", "Scope")],
    default: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
    quiet: "{{.ID}}",
    headers: &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("CreatedAt", "CREATED AT"),
    ],
};

async fn list(cli: &Cli, flags: &Flags) -> Result {
    let filters = opts::filters(&flags.list("filter"));
    let mut networks = cli.client()?.network_list(&filters).await?;
    networks.sort_by_key(|n| natural(n["Name"].as_str().unwrap_or_default()));
    let row = |n: &Value| {
        let field = |name: &str| n[name].as_str().unwrap_or_default();
        let flag = |name: &str| text(n[name].as_bool().unwrap_or(false).to_string());
        Row::from([
            ("ID", text(if flags.on("no-trunc") { field("Id") } else { short(field("Id")) })),
            ("Name", text(field("Name"))),
            ("Driver", text(field("Driver"))),
            ("Scope", text(field("Scope"))),
            ("IPv4", flag("EnableIPv4")),
            ("IPv6", flag("EnableIPv6")),
            ("Internal", flag("Internal")),
            ("Labels", text(labels(&n["Labels"]))),
            ("CreatedAt", text(created(field("Created")))),
            ("Label", label_method(&n["Labels"])),
        ])
    };
    let rows: Vec<Row> = networks.iter().map(row).collect();
    cli.print(&TABLE.render(&cli.format_for(flags, "networksFormat"), flags.on("quiet"), &rows)?)
}

/// Go's `Time.String()` of an API time.
fn created(text: &str) -> String {
    let Some(ns) = corten_base::time::parse_rfc3339(text) else {
        return "0001-01-01 00:00:00 +0000 UTC".into();
    };
    let Ok(t) = jiff::Timestamp::from_nanosecond(ns) else { return String::new() };
    let fraction = format!("{:09}", ns.rem_euclid(1_000_000_000));
    let fraction = fraction.trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    let zoned = t.to_zoned(jiff::tz::TimeZone::UTC);
    format!("{}{dot}{fraction} +0000 UTC", zoned.strftime("%Y-%m-%d %H:%M:%S"))
}

/// `a=b,c=d`.
pub(super) fn labels(value: &Value) -> String {
    let pairs = value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()));
    pairs.collect::<Vec<_>>().join(",")
}

/// A key that sorts numbers within names by their value.
pub(super) fn natural(name: &str) -> Vec<(bool, u64, String)> {
    let mut out = Vec::new();
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        let digit = first.is_ascii_digit();
        let end = rest.find(|c: char| c.is_ascii_digit() != digit).unwrap_or(rest.len());
        let part = &rest[..end];
        out.push((!digit, if digit { part.parse().unwrap_or(u64::MAX) } else { 0 }, part.to_owned()));
        rest = &rest[end..];
    }
    out
}

async fn remove(cli: &Cli, flags: &Flags) -> Result {
    let client = cli.client()?;
    let force = flags.on("force");
    let mut failed = false;
    for name in flags.args() {
        match client.network_remove(&name).await {
            Ok(()) => cli.line(&name)?,
            Err(e) if force && e.kind() == Failure::NotFound => {}
            Err(e) => {
                cli.warn(&e.to_string());
                failed = true;
            }
        }
    }
    if failed { Err(fail("exit status 1", 1)) } else { Ok(()) }
}

async fn connect(cli: &Cli, flags: &Flags) -> Result {
    let mut endpoint = Map::new();
    for (flag, key) in [("ip", "IPv4Address"), ("ip6", "IPv6Address")] {
        if flags.changed(flag) {
            endpoint.entry("IPAMConfig").or_insert_with(|| json!({}))[key] = flags.text(flag).into();
        }
    }
    if !flags.list("link-local-ip").is_empty() {
        endpoint.entry("IPAMConfig").or_insert_with(|| json!({}))["LinkLocalIPs"] =
            json!(flags.list("link-local-ip"));
    }
    for (flag, key) in [("link", "Links"), ("alias", "Aliases")] {
        if !flags.list(flag).is_empty() {
            endpoint.insert(key.into(), json!(flags.list(flag)));
        }
    }
    let mut options = Map::new();
    for option in flags.list("driver-opt") {
        let (key, value) = option
            .split_once('=')
            .ok_or_else(|| fail("invalid key/value pair format in driver options", 1))?;
        options.insert(key.into(), value.into());
    }
    if !options.is_empty() {
        endpoint.insert("DriverOpts".into(), Value::Object(options));
    }
    if flags.changed("gw-priority") {
        endpoint.insert("GwPriority".into(), flags.int("gw-priority").into());
    }
    let body = json!({"Container": flags.arg(1), "EndpointConfig": endpoint});
    Ok(cli.client()?.network_action(&flags.arg(0), "connect", &body).await?)
}

async fn draw(cli: &Cli, flags: &Flags) -> Result {
    let client = cli.client()?;
    let networks = client.network_list(&opts::filters(&[])).await?;
    let mut containers = Vec::new();
    for container in client.container_list::<Value>(corten_client::Query::new()).await? {
        match client.container_inspect(container["Id"].as_str().unwrap_or_default()).await {
            Ok(found) => containers.push(found),
            // It ended in the meantime.
            Err(e) if e.kind() == Failure::NotFound => {}
            Err(e) => return Err(e.into()),
        }
    }
    let mut graph = graph::Graph::new(&networks, &containers);
    let names = flags.args();
    if let Some(unknown) = names.iter().find(|name| !networks.iter().any(|n| n["Name"] == name.as_str())) {
        return Err(fail(format!("network {unknown} not found"), 1));
    }
    if !names.is_empty() {
        graph.limit(&names);
    }
    cli.print(&if flags.on("svg") { graph.svg() } else { graph.text() })
}

async fn disconnect(cli: &Cli, flags: &Flags) -> Result {
    let body = json!({"Container": flags.arg(1), "Force": flags.on("force")});
    Ok(cli.client()?.network_action(&flags.arg(0), "disconnect", &body).await?)
}
