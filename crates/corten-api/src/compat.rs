//! Differences between API versions, in one ordered list, so that handlers see and write only the newest shape.
//!
//! The newest version that is reported is 1.55, as the recorded answers of the reference engine, whose text is
//! compared, say so; 1.56 is spoken too, and differs in nothing so far.
//! Versions from 1.24 on are accepted although the refusal of older ones names 1.40, as the reference engine's does.

mod disk_usage;

use corten_wire::api::container::ContainerSummary;
use corten_wire::api::stream::{MULTIPLEXED_STREAM, RAW_STREAM};
use serde_json::{Map, Value, json};

use crate::query::Query;
use crate::version::ApiVersion;

/// A change of one version: what clients older than `version` send, and what they expect.
struct Change {
    version: ApiVersion,
    routes: &'static [&'static str],
    what: What,
}

enum What {
    /// Requests of older clients are made new.
    Request(fn(&mut Value)),
    /// Parameters of older clients are made new.
    Query(fn(&mut Query)),
    /// Answers are made old for older clients.
    Response(fn(&mut Value)),
    /// What handlers write is the form before this version; newer clients get the new one. Used where the golden
    /// recording, made with 1.50, is the form that the engine's types have.
    NewResponse(fn(&mut Value)),
}

const fn v(minor: u16) -> ApiVersion {
    ApiVersion(1, minor)
}

static CHANGES: &[Change] = &[
    Change {
        version: v(52),
        routes: &["/containers/{name}/json"],
        what: What::NewResponse(|c| {
            remove(c, &["GraphDriver"]);
            c["Storage"] = serde_json::json!({"RootFS": {"Snapshot": {"Name": "overlayfs"}}});
            if let Some(net) = c.get_mut("NetworkSettings") {
                remove(
                    net,
                    &[
                        "EndpointID",
                        "Gateway",
                        "GlobalIPv6Address",
                        "GlobalIPv6PrefixLen",
                        "IPAddress",
                        "IPPrefixLen",
                        "IPv6Gateway",
                        "MacAddress",
                    ],
                );
            }
        }),
    },
    Change {
        version: v(52),
        routes: &["/images/{name*}/json"],
        what: What::NewResponse(|image| {
            remove(image, &["GraphDriver"]);
            remove_empty(image, &["Parent", "Comment", "Author", "DockerVersion"]);
            if let Some(config) = image.get_mut("Config") {
                remove_empty(
                    config,
                    &["Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "User", "Volumes", "WorkingDir"],
                );
            }
        }),
    },
    Change {
        version: v(52),
        routes: &["/events"],
        what: What::NewResponse(|event| remove(event, &["status", "id", "from"])),
    },
    Change {
        version: v(52),
        routes: &["/networks/{id*}"],
        what: What::Response(|network| remove(network, &["Status"])),
    },
    Change {
        version: v(52),
        routes: &["/networks"],
        what: What::NewResponse(|list| each(list, |n| remove(n, &["Containers"]))),
    },
    Change {
        version: v(53),
        routes: &["/images/{name*}/json"],
        what: What::Response(|image| remove(image, &["Identity"])),
    },
    Change { version: v(53), routes: &["/system/df"], what: What::Response(disk_usage::add_lists) },
    Change { version: v(52), routes: &["/system/df"], what: What::Response(disk_usage::remove_totals) },
    Change {
        version: v(48),
        routes: &["/containers/{name}/json"],
        what: What::Response(|value| remove(value, &["ImageManifestDescriptor"])),
    },
    Change {
        version: v(48),
        routes: &["/build/prune"],
        what: What::Query(|q| {
            if let Some(keep) = q.get("keep-storage").map(str::to_owned) {
                q.set("reserved-space", &keep);
            }
        }),
    },
    Change { version: v(46), routes: &["/info"], what: What::Response(|info| remove(info, &["Containerd"])) },
    // A MAC address was part of the container before it became one of each endpoint.
    Change { version: v(44), routes: &["/containers/create"], what: What::Request(move_mac_address) },
    Change {
        version: v(44),
        routes: &["/images/json", "/images/{name*}/json"],
        what: What::Response(|value| {
            if value.is_array() {
                each(value, add_virtual_size);
            } else {
                add_virtual_size(value);
            }
        }),
    },
    // Pruning took all unused volumes before anonymous ones became the default.
    Change {
        version: v(42),
        routes: &["/volumes/prune"],
        what: What::Query(|q| {
            let mut filters: Value =
                serde_json::from_str(q.get("filters").filter(|f| !f.is_empty()).unwrap_or("{}"))
                    .unwrap_or_default();
            if let Some(map) = filters.as_object_mut()
                && !map.contains_key("all")
            {
                map.insert("all".into(), json!(["true"]));
                q.set("filters", &filters.to_string());
            }
        }),
    },
    // One image name instead of filters.
    Change {
        version: v(41),
        routes: &["/images/json"],
        what: What::Query(|q| {
            if let Some(name) = q.get("filter").filter(|f| !f.is_empty()).map(str::to_owned) {
                q.set("filters", &json!({ "reference": [name] }).to_string());
            }
        }),
    },
    Change {
        version: v(40),
        routes: &["/containers/create"],
        what: What::Request(|create| {
            let host = child(create, "HostConfig");
            let unset = |map: &Map<String, Value>, key: &str| {
                map.get(key).and_then(Value::as_str).unwrap_or("").is_empty()
            };
            if unset(host, "IpcMode") {
                host.insert("IpcMode".into(), "shareable".into());
            }
            if unset(host, "CgroupnsMode") {
                host.insert("CgroupnsMode".into(), "host".into());
            }
        }),
    },
];

fn applying(route: &str, version: ApiVersion) -> impl Iterator<Item = &'static What> {
    CHANGES
        .iter()
        .filter(move |c| {
            c.routes.contains(&route)
                && match c.what {
                    What::NewResponse(_) => version >= c.version,
                    _ => version < c.version,
                }
        })
        .map(|c| &c.what)
}

/// Makes the body of a request new.
pub(crate) fn request(route: &str, version: ApiVersion, body: &mut Value) {
    for what in applying(route, version) {
        if let What::Request(f) = what {
            f(body);
        }
    }
}

/// Makes the parameters of a request new.
pub(crate) fn query(route: &str, version: ApiVersion, q: &mut Query) {
    for what in applying(route, version) {
        if let What::Query(f) = what {
            f(q);
        }
    }
}

/// Whether an answer has to be changed at all.
pub(crate) fn changes_response(route: &str, version: ApiVersion) -> bool {
    applying(route, version).any(|w| matches!(w, What::Response(_) | What::NewResponse(_)))
}

/// Gives an answer the shape of the client's version.
pub(crate) fn response(route: &str, version: ApiVersion, body: &mut Value) {
    for what in applying(route, version) {
        if let What::Response(f) | What::NewResponse(f) = what {
            f(body);
        }
    }
}

/// The changes of `GET /containers/json`, made before there is JSON: of ten thousand containers it counts.
pub(crate) fn summary(version: ApiVersion, summary: &mut ContainerSummary) {
    if version < v(52) {
        summary.health = None;
    }
    if version < v(48) {
        summary.image_manifest_descriptor = None;
    }
}

/// Before 1.53 `GET /system/df` always lists everything.
pub(crate) fn wants_items(version: ApiVersion) -> bool {
    version < v(53)
}

/// Content type of output streams; before 1.42 they were all called raw.
pub(crate) fn stream_type(version: ApiVersion, tty: bool) -> &'static str {
    if tty || version < v(42) { RAW_STREAM } else { MULTIPLEXED_STREAM }
}

fn each(list: &mut Value, f: impl Fn(&mut Value)) {
    list.as_array_mut().into_iter().flatten().for_each(f);
}

fn remove(value: &mut Value, keys: &[&str]) {
    if let Some(map) = value.as_object_mut() {
        map.retain(|k, _| !keys.contains(&k.as_str()));
    }
}

/// Removes the keys whose values say nothing.
fn remove_empty(value: &mut Value, keys: &[&str]) {
    let says_nothing = |v: &Value| match v {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    };
    if let Some(map) = value.as_object_mut() {
        map.retain(|k, v| !(keys.contains(&k.as_str()) && says_nothing(v)));
    }
}

/// The object at a key, made if it is missing, whatever the case of the key.
fn child<'a>(value: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    let Value::Object(map) = value else { unreachable!("made an object just above") };
    let name = map.keys().find(|k| k.eq_ignore_ascii_case(key)).cloned().unwrap_or_else(|| key.to_owned());
    let entry = map.entry(name).or_insert_with(|| json!({}));
    if !entry.is_object() {
        *entry = json!({});
    }
    let Value::Object(inner) = entry else { unreachable!("made an object just above") };
    inner
}

fn move_mac_address(create: &mut Value) {
    let Some(mac) =
        create.get("MacAddress").and_then(Value::as_str).filter(|m| !m.is_empty()).map(str::to_owned)
    else {
        return;
    };
    let mode = create.pointer("/HostConfig/NetworkMode").and_then(Value::as_str).unwrap_or_default();
    let network = if mode.is_empty() || mode == "default" { "bridge" } else { mode }.to_owned();
    if network == "none" || network == "host" || network.starts_with("container:") {
        return;
    }
    remove(create, &["MacAddress"]);
    let endpoints = child(create, "NetworkingConfig").entry("EndpointsConfig").or_insert_with(|| json!({}));
    let endpoint = child(endpoints, &network);
    endpoint.entry("MacAddress").or_insert_with(|| mac.into());
}

fn add_virtual_size(image: &mut Value) {
    if let Some(map) = image.as_object_mut()
        && let Some(size) = map.get("Size").cloned()
    {
        map.insert("VirtualSize".into(), size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_requests_become_new() {
        let mut body = json!({ "MacAddress": "02:00:00:00:00:01", "Image": "x" });
        request("/containers/create", v(43), &mut body);
        assert_eq!(
            body,
            json!({ "Image": "x", "NetworkingConfig": { "EndpointsConfig": { "bridge": { "MacAddress": "02:00:00:00:00:01" } } } })
        );
        let mut body = json!({ "hostconfig": {} });
        request("/containers/create", v(39), &mut body);
        assert_eq!(body, json!({ "hostconfig": { "IpcMode": "shareable", "CgroupnsMode": "host" } }));
        let mut q = Query::parse("filters={}");
        query("/volumes/prune", v(41), &mut q);
        assert_eq!(q.text("filters"), r#"{"all":["true"]}"#);
    }

    #[test]
    fn answers_fit_the_client() {
        let image =
            json!({ "Size": 5, "GraphDriver": {}, "Author": "", "Config": { "Cmd": null, "User": "me" } });
        let mut old = image.clone();
        response("/images/{name*}/json", v(43), &mut old);
        assert_eq!(old["VirtualSize"], 5);
        assert!(!changes_response("/containers/{name}/json", v(50)));
        let mut new = image;
        response("/images/{name*}/json", v(52), &mut new);
        assert_eq!(new, json!({ "Size": 5, "Config": { "User": "me" } }));
        assert_eq!(stream_type(v(41), false), RAW_STREAM);
    }
}
