//! `ps`.

use std::collections::BTreeMap;

use corten_client::Query;
use gotmpl::Value as Cell;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value, json};

use crate::cli::Cli;
use crate::error::Result;
use crate::flags::Flags;
use crate::format::{Piece, Row, Table, label_method, pieces, text};
use crate::{human, opts};
use corten_base::units;

const TABLE: Table<'static> = Table {
    context: "*formatter.ContainerContext",
    raw: &[
        ("container_id", "ID"),
        ("image", "Image"),
        ("command", "Command"),
        ("created_at", "CreatedAt"),
        ("state", "State"),
        ("status", "Status"),
        ("names", "Names"),
        ("labels", "Labels"),
        ("ports", "Ports"),
    ],
    default: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}",
    quiet: "{{.ID}}",
    headers: HEADERS,
};

/// Fields of a container and their headings.
pub(crate) const HEADERS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Names", "NAMES"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
];

/// Makes rows for `ps` and `system df -v`.
pub(super) async fn list(cli: &Cli, flags: &Flags) -> Result {
    let format = cli.format_for(flags, "psFormat");
    let filters = opts::filters(&flags.list("filter"));
    let mut last = flags.int("last");
    if flags.on("latest") && last == -1 {
        last = 1;
    }
    let size = flags.on("size") || format.contains(".Size") || format.contains("json .}}");
    let mut query =
        Query::new().with_flag("all", flags.on("all")).with_flag("size", size).with_filters(&filters);
    if last > 0 {
        query = query.with("limit", last.to_string());
    }
    // The template is tried before anything is asked for: it decides whether sizes are needed.
    if !format.is_empty() && !format.starts_with("table") {
        TABLE.render(&format, false, &[row(&Value::Null, false)])?;
    }
    let no_trunc = flags.on("no-trunc");
    let with_size = Table { default: &format!("{}\t{{{{.Size}}}}", TABLE.default), ..TABLE };
    let table = if flags.on("size") { &with_size } else { &TABLE };
    let columns = Columns::of(match format.as_str() {
        "" | "table" if flags.on("quiet") => table.quiet,
        "" | "table" => table.default,
        other => other,
    });
    let client = cli.client()?;
    let containers: Vec<Value> = if DETAILS.iter().any(|name| columns.has(name)) {
        client.container_list(query).await?.into_iter().map(|Listed::<true>(c)| c).collect()
    } else {
        client.container_list(query).await?.into_iter().map(|Listed::<false>(c)| c).collect()
    };
    // The program ends with this list: taking ten thousand containers apart again would be a third of its time.
    let containers: &'static [Value] = containers.leak();
    let rows: Vec<Row> = containers.iter().map(|c| cells(c, no_trunc, &columns)).collect();
    cli.print(&table.render(&format, flags.on("quiet"), rows.leak())?)
}

/// Columns that show more of a container than `ps` does unless told.
const DETAILS: [&str; 6] = ["Labels", "Label", "Mounts", "LocalVolumes", "Networks", "Platform"];

/// A container of the list without what no column shows, most of which is about networks; with what [`DETAILS`] need or
/// without that, too.
struct Listed<const DETAILED: bool>(Value);

impl<'de, const DETAILED: bool> Deserialize<'de> for Listed<DETAILED> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<const DETAILED: bool>;
        impl<'de, const DETAILED: bool> Visitor<'de> for Members<DETAILED> {
            type Value = Map<String, Value>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a container")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Map::new();
                while let Some(key) = map.next_key::<String>()? {
                    let shown = match key.as_str() {
                        "HostConfig" | "Health" => false,
                        "NetworkSettings" | "Mounts" | "Labels" | "ImageManifestDescriptor" => DETAILED,
                        _ => true,
                    };
                    if !shown {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let value = match key.as_str() {
                        "NetworkSettings" => {
                            let settings: BTreeMap<String, Option<BTreeMap<String, IgnoredAny>>> =
                                map.next_value()?;
                            let networks = settings.into_values().flatten().flat_map(BTreeMap::into_keys);
                            let names: Map<String, Value> = networks.map(|n| (n, Value::Null)).collect();
                            json!({ "Networks": names })
                        }
                        _ => map.next_value()?,
                    };
                    members.insert(key, value);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Members::<DETAILED>).map(|members| Self(Value::Object(members)))
    }
}

/// Which cells a template uses.
#[derive(Debug)]
enum Columns {
    /// It is more than a row of fields.
    All,
    These(Vec<String>),
}

impl Columns {
    fn of(template: &str) -> Self {
        let pieces = pieces(template).unwrap_or_default();
        let fields = pieces.iter().filter_map(|piece| match piece {
            Piece::Field(name) => Some((*name).to_owned()),
            Piece::Text(_) => None,
        });
        let names: Vec<_> = fields.collect();
        if names.is_empty() { Self::All } else { Self::These(names) }
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.iter().any(|n| n == name),
        }
    }
}

pub(crate) fn row(c: &Value, no_trunc: bool) -> Row {
    cells(c, no_trunc, &Columns::All)
}

/// Makes a cell; true: nothing is cut short.
type Maker = fn(&Value, bool) -> Cell;

fn cells(c: &Value, no_trunc: bool, columns: &Columns) -> Row {
    let makers: [(&'static str, Maker); 16] = [
        ("ID", |c, no_trunc| text(if no_trunc { field(c, "Id") } else { short(field(c, "Id")) })),
        ("Names", names),
        ("Image", |c, no_trunc| text(image(c, no_trunc))),
        ("Command", command),
        ("CreatedAt", |c, _| text(human::go_time(created(c)))),
        ("RunningFor", |c, _| text(human::ago(created(c)))),
        ("Ports", |c, _| text(ports(&c["Ports"]))),
        ("State", |c, _| text(field(c, "State"))),
        ("Status", |c, _| text(field(c, "Status"))),
        ("Size", |c, _| text(size(c))),
        ("Labels", labels),
        ("Mounts", mounts),
        ("LocalVolumes", |c, _| {
            text(each(&c["Mounts"]).filter(|m| m["Driver"] == "local").count().to_string())
        }),
        ("Networks", |c, _| {
            let networks = c["NetworkSettings"]["Networks"].as_object().into_iter().flatten();
            text(networks.map(|(k, _)| k.as_str()).collect::<Vec<_>>().join(","))
        }),
        ("Platform", |c, _| platform(&c["ImageManifestDescriptor"]["platform"])),
        ("Label", |c, _| label_method(&c["Labels"])),
    ];
    let wanted = makers.into_iter().filter(|(name, _)| columns.has(name));
    wanted.map(|(name, make)| (name, make(c, no_trunc))).collect()
}

fn field<'a>(c: &'a Value, name: &str) -> &'a str {
    c[name].as_str().unwrap_or_default()
}

fn created(c: &Value) -> i64 {
    c["Created"].as_i64().unwrap_or(0)
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn names(c: &Value, no_trunc: bool) -> Cell {
    let names = each(&c["Names"]).filter_map(Value::as_str).map(|n| n.trim_start_matches('/'));
    // A name with a further slash is a link's; without --no-trunc only the own name is shown.
    text(names.filter(|n| no_trunc || !n.contains('/')).collect::<Vec<_>>().join(","))
}

fn command(c: &Value, no_trunc: bool) -> Cell {
    let command = field(c, "Command");
    let shown = if no_trunc { command.to_owned() } else { ellipsis(command, 20) };
    text(serde_json::to_string(&shown).unwrap_or_default())
}

fn labels(c: &Value, _: bool) -> Cell {
    let labels = c["Labels"].as_object().into_iter().flatten();
    let labels = labels.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()));
    text(labels.collect::<Vec<_>>().join(","))
}

fn mounts(c: &Value, no_trunc: bool) -> Cell {
    let name = |m: &Value| {
        let name = m["Name"].as_str().filter(|n| !n.is_empty()).or(m["Source"].as_str()).unwrap_or_default();
        if no_trunc { name.to_owned() } else { ellipsis(name, 15) }
    };
    text(each(&c["Mounts"]).map(name).collect::<Vec<_>>().join(","))
}

/// The platform of a container's image, if the engine knows it: an object, as docker has it.
fn platform(value: &Value) -> Cell {
    let members = value.as_object().into_iter().flatten();
    let pairs: std::collections::BTreeMap<std::sync::Arc<str>, Cell> =
        members.filter_map(|(k, v)| Some((std::sync::Arc::from(k.as_str()), text(v.as_str()?)))).collect();
    if pairs.is_empty() { Cell::Nil } else { Cell::Map(std::sync::Arc::new(pairs)) }
}

/// The first twelve digits of an id.
pub(crate) fn short(id: &str) -> &str {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    id.get(..12).unwrap_or(id)
}

/// Cuts a text to `length` characters, the last of them `…`.
pub(crate) fn ellipsis(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length.saturating_sub(1)).chain(std::iter::once('…')).collect()
}

fn image(c: &Value, no_trunc: bool) -> String {
    let name = c["Image"].as_str().unwrap_or_default();
    let id = c["ImageID"].as_str().unwrap_or_default();
    if name.is_empty() {
        return "<no image>".into();
    }
    if no_trunc {
        return name.to_owned();
    }
    if short(name) == short(id) && name.len() >= 12 {
        return short(name).to_owned();
    }
    // A digest beside a tag is left out.
    match name.parse::<corten_base::Reference>() {
        Ok(r) if r.digest().is_some() && r.tag().is_some() => {
            format!("{}:{}", r.familiar_name(), r.tag().unwrap_or_default())
        }
        Ok(r) if r.digest().is_some() => r.familiar_name(),
        _ => name.to_owned(),
    }
}

fn size(c: &Value) -> String {
    let number = |name: &str| c[name].as_f64().unwrap_or(0.0);
    let own = units::human_size3(number("SizeRw"));
    match number("SizeRootFs") {
        root if root > 0.0 => format!("{own} (virtual {})", units::human_size3(root)),
        _ => own,
    }
}

/// Published ports as docker shows them: ranges joined, open ones after the bound ones.
pub(crate) fn ports(list: &Value) -> String {
    #[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Debug)]
    struct Port {
        private: u16,
        proto: String,
        ip: String,
        public: u16,
    }
    let number = |v: &Value| v.as_u64().and_then(|n| u16::try_from(n).ok()).unwrap_or(0);
    let mut all: Vec<Port> = list
        .as_array()
        .into_iter()
        .flatten()
        .map(|p| Port {
            private: number(&p["PrivatePort"]),
            proto: p["Type"].as_str().unwrap_or("tcp").to_owned(),
            ip: p["IP"].as_str().unwrap_or_default().to_owned(),
            public: number(&p["PublicPort"]),
        })
        .collect();
    all.sort_by(|a, b| (a.private, &a.ip, a.public, &a.proto).cmp(&(b.private, &b.ip, b.public, &b.proto)));
    let address = |ip: &str| if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    // COMPAT: docker joins ports into groups by address and protocol when they follow each other with the same
    // public and private number; others stand alone.
    let mut groups: Vec<(String, u16, u16)> = Vec::new();
    let mut mapped: Vec<String> = Vec::new();
    for p in &all {
        if p.public != 0 && p.public != p.private {
            mapped.push(format!("{}:{}->{}/{}", address(&p.ip), p.public, p.private, p.proto));
            continue;
        }
        let key = if p.ip.is_empty() || p.public == 0 {
            p.proto.clone()
        } else {
            format!("{}/{}", address(&p.ip), p.proto)
        };
        match groups
            .iter_mut()
            .find(|(k, _, last)| *k == key && (*last == p.private || last.checked_add(1) == Some(p.private)))
        {
            Some(group) => group.2 = p.private,
            None => groups.push((key, p.private, p.private)),
        }
    }
    let form = |(key, first, last): &(String, u16, u16)| {
        let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
        match key.rsplit_once('/') {
            Some((ip, proto)) => format!("{ip}:{range}->{range}/{proto}"),
            None => format!("{range}/{key}"),
        }
    };
    let mut order: Vec<String> = Vec::new();
    for group in &groups {
        let key = &group.0;
        if !order.contains(key) {
            order.push(key.clone());
        }
    }
    let mut out: Vec<String> = Vec::new();
    for key in &order {
        out.extend(groups.iter().filter(|g| g.0 == *key).map(form));
    }
    out.extend(mapped);
    out.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn port_lists() {
        let port = |ip: &str, public: u16, private: u16| json!({"IP": ip, "PublicPort": public, "PrivatePort": private, "Type": "tcp"});
        assert_eq!(
            ports(&json!([port("0.0.0.0", 8080, 80), {"PrivatePort": 81, "Type": "tcp"}])),
            "81/tcp, 0.0.0.0:8080->80/tcp"
        );
        assert_eq!(
            ports(&json!([port("0.0.0.0", 80, 80), port("0.0.0.0", 81, 81)])),
            "0.0.0.0:80-81->80-81/tcp"
        );
        assert_eq!(
            ports(&json!([{"PrivatePort": 80, "Type": "tcp"}, {"PrivatePort": 81, "Type": "tcp"}])),
            "80-81/tcp"
        );
        assert_eq!(ports(&json!([port("::", 8080, 80)])), "[::]:8080->80/tcp");
        assert_eq!(ellipsis("abcdef", 4), "abc…");
    }
}
