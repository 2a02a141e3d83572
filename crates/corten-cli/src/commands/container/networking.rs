//! `--network` and what belongs to it: addresses, aliases, links.

use serde_json::{Map, Value, json};

use crate::flags::Flags;
use crate::opts;

/// The network mode and the endpoint settings by network.
#[derive(Debug)]
pub(crate) struct Networks {
    pub(crate) mode: String,
    pub(crate) endpoints: Map<String, Value>,
}

/// Makes the settings from `--network`, `--ip`, `--network-alias`, `--link` and the like; the latter belong to the
/// first network.
pub(crate) fn networks(flags: &Flags) -> Result<Networks, String> {
    let mut given = Vec::new();
    for text in flags.list("network") {
        given.push(opts::network(&text)?);
    }
    if given.is_empty() {
        given.push(("default".to_owned(), Map::new()));
    }
    let user_defined = |name: &str| {
        !["default", "bridge", "host", "none"].contains(&name) && !name.starts_with("container:")
    };
    if given.len() > 1
        && let Some((name, _)) =
            given.iter().find(|(n, _)| ["host", "none"].contains(&n.as_str()) || n.starts_with("container:"))
    {
        return Err(format!(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes: {name}"
        ));
    }
    let mode = given[0].0.clone();
    let links = user_defined(&given[0].0);
    flag_settings(flags, &mut given[0].1, links)?;
    let single = given.len() == 1;
    let mut endpoints = Map::new();
    for (name, settings) in given {
        // COMPAT: a mode that needs no endpoint must not have one, or the daemon refuses it.
        if single && settings.is_empty() && name != "default" {
            continue;
        }
        if settings.contains_key("Aliases") && !user_defined(&name) {
            return Err("network-scoped aliases are only supported for user-defined networks".into());
        }
        if endpoints.contains_key(&name) {
            return Err(format!("network {name:?} is specified multiple times"));
        }
        endpoints.insert(name, Value::Object(complete(settings)));
    }
    Ok(Networks { mode, endpoints })
}

/// Adds the single flags to the first network's settings.
fn flag_settings(
    flags: &Flags,
    settings: &mut Map<String, Value>,
    first_is_user_defined: bool,
) -> Result<(), String> {
    let conflict = |name: &str, there: bool| {
        if there {
            Err(format!("conflicting options: cannot specify both --{name} and per-network {name}"))
        } else {
            Ok(())
        }
    };
    let has = |settings: &Map<String, Value>, key: &str| {
        settings.get("IPAMConfig").is_some_and(|c| c.get(key).is_some())
    };
    for (flag, key) in [("ip", "IPv4Address"), ("ip6", "IPv6Address")] {
        if flags.changed(flag) {
            conflict("ip-address", has(settings, key))?;
            settings.entry("IPAMConfig").or_insert_with(|| json!({}))[key] = flags.text(flag).into();
        }
    }
    if !flags.list("link-local-ip").is_empty() {
        conflict("link-local-ip", has(settings, "LinkLocalIPs"))?;
        settings.entry("IPAMConfig").or_insert_with(|| json!({}))["LinkLocalIPs"] =
            json!(flags.list("link-local-ip"));
    }
    if !flags.list("network-alias").is_empty() {
        conflict("network-alias", settings.contains_key("Aliases"))?;
        settings.insert("Aliases".into(), json!(flags.list("network-alias")));
    }
    if !flags.list("link").is_empty() && first_is_user_defined {
        settings.insert("Links".into(), json!(flags.list("link")));
    }
    if flags.changed("mac-address") {
        conflict("mac-address", settings.contains_key("MacAddress"))?;
        settings.insert("MacAddress".into(), flags.text("mac-address").into());
    }
    Ok(())
}

/// All fields, as docker sends them.
fn complete(mut settings: Map<String, Value>) -> Map<String, Value> {
    for key in ["IPAMConfig", "Links", "Aliases", "DriverOpts"] {
        settings.entry(key).or_insert(Value::Null);
    }
    for key in
        ["NetworkID", "EndpointID", "Gateway", "IPAddress", "MacAddress", "IPv6Gateway", "GlobalIPv6Address"]
    {
        settings.entry(key).or_insert_with(|| "".into());
    }
    for key in ["IPPrefixLen", "GlobalIPv6PrefixLen", "GwPriority"] {
        settings.entry(key).or_insert_with(|| 0.into());
    }
    settings.entry("DNSNames").or_insert(Value::Null);
    settings
}
