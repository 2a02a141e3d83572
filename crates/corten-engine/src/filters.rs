//! Filters of container lists and of events, over views. Pure.

use corten_base::event::Event;
use corten_wire::api::Filters;

use crate::error::{Result, invalid};
use crate::view::{ContainerView, Status};

const CONTAINER: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "label!",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

/// Facts about other objects that some filters need, looked up once.
#[derive(Debug, Default)]
pub(crate) struct Context {
    /// Ids of images wanted by `ancestor`, descendants included.
    pub(crate) ancestors: Option<Vec<String>>,
    /// Creation times of the containers named by `before` and `since`.
    pub(crate) before: Option<i64>,
    pub(crate) since: Option<i64>,
}

/// A checked filter.
#[derive(Debug)]
pub(crate) struct ContainerFilter<'a> {
    filters: &'a Filters,
    context: Context,
    names: Vec<regex::Regex>,
    exited: Vec<i32>,
    ports: [Vec<(u16, u16, String)>; 2],
}

fn value_error(key: &str, value: &str, why: impl std::fmt::Display) -> crate::Error {
    invalid(format!("invalid filter '{key}={value}': {why}"))
}

/// Refuses what no list can be filtered by, before anything is looked up.
pub(crate) fn check(filters: &Filters) -> Result<()> {
    filters.validate(CONTAINER).map_err(|e| invalid(e.to_string()))
}

impl<'a> ContainerFilter<'a> {
    pub(crate) fn new(filters: &'a Filters, context: Context) -> Result<Self> {
        check(filters)?;
        for value in filters.get("status") {
            let known = ["created", "running", "paused", "restarting", "removing", "exited", "dead"];
            if !known.contains(&value) {
                return Err(value_error(
                    "status",
                    value,
                    format!("invalid value for state ({value}): must be one of {}", known.join(", ")),
                ));
            }
        }
        for value in filters.get("health") {
            let known = ["none", "starting", "healthy", "unhealthy"];
            if !known.contains(&value) {
                return Err(value_error(
                    "health",
                    value,
                    format!("invalid value for health ({value}): must be one of {}", known.join(", ")),
                ));
            }
        }
        filters.bool_or("is-task", false).map_err(|e| invalid(e.to_string()))?;
        let exited = filters
            .get("exited")
            .map(|v| {
                v.parse().map_err(|_| {
                    value_error("exited", v, format!("strconv.Atoi: parsing {v:?}: invalid syntax"))
                })
            })
            .collect::<Result<_>>()?;
        // COMPAT: a name filter that is no regular expression matches as text.
        let names = filters
            .get("name")
            .filter_map(|n| regex::Regex::new(n).or_else(|_| regex::Regex::new(&regex::escape(n))).ok())
            .collect();
        let ports = [port_ranges(filters, "expose")?, port_ranges(filters, "publish")?];
        Ok(Self { filters, context, names, exited, ports })
    }

    /// COMPAT: asking for a status means asking for stopped containers too; no other filter does.
    pub(crate) fn implies_all(&self) -> bool {
        self.filters.contains("status")
    }

    /// `aliases`: names that links give the container beside its own.
    pub(crate) fn matches(&self, v: &ContainerView, aliases: &[String]) -> bool {
        let f = self.filters;
        let any = |key: &str, test: &dyn Fn(&str) -> bool| !f.contains(key) || f.get(key).any(test);
        let labels = v.record.config.labels.clone().unwrap_or_default();
        let health = v.health.as_deref().map_or("none", |h| h.status.as_str());
        any("status", &|s| s == v.status.as_str())
            && any("id", &|i| v.record.id.as_str().starts_with(i))
            && any("health", &|h| h == health)
            && any("is-task", &|t| !matches!(t, "1" | "true"))
            && any("isolation", &|i| i == v.record.host.isolation)
            && (self.names.is_empty()
                || self.names.iter().any(|n| {
                    n.is_match(&v.record.name)
                        || n.is_match(&format!("/{}", v.record.name))
                        || aliases.iter().any(|a| n.is_match(a) || n.is_match(&a[1..]))
                }))
            && f.match_labels("label", &labels)
            && f.match_no_labels("label!", &labels)
            && (self.exited.is_empty()
                || (self.exited.contains(&v.state.exit_code)
                    && v.state.started_ns != 0
                    && matches!(v.status, Status::Exited | Status::Dead)))
            && self.context.before.is_none_or(|t| v.record.created_ns < t)
            && self.context.since.is_none_or(|t| v.record.created_ns > t)
            && self.context.ancestors.as_ref().is_none_or(|ids| {
                v.record.image.as_ref().is_some_and(|i| ids.iter().any(|a| a == i.as_str()))
            })
            && any("network", &|n| {
                v.record.networks.contains_key(n)
                    || v.endpoints
                        .iter()
                        .any(|e| e.name == n || (!n.is_empty() && e.network.as_str().starts_with(n)))
                    || v.record.networks.values().any(|e| !n.is_empty() && e.network_id == n)
            })
            && any("volume", &|w| {
                v.record
                    .mounts
                    .iter()
                    .any(|m| (!m.name.is_empty() && m.name == w) || m.destination == w || m.source == w)
            })
            && self.port_matches(v)
    }

    fn port_matches(&self, v: &ContainerView) -> bool {
        let [expose, publish] = &self.ports;
        let within = |ranges: &[(u16, u16, String)], number: u16, protocol: &str| {
            ranges.iter().any(|(a, b, p)| (*a..=*b).contains(&number) && p == protocol)
        };
        let exposed = || {
            v.record.config.exposed_ports.keys().any(|p| within(expose, p.number(), p.protocol()))
                || v.ports().keys().any(|p| within(expose, p.number(), p.protocol()))
        };
        let published = || {
            v.ports().iter().any(|(p, b)| {
                b.iter().flatten().any(|b| within(publish, b.host_port.parse().unwrap_or(0), p.protocol()))
            })
        };
        (expose.is_empty() || exposed()) && (publish.is_empty() || published())
    }
}

/// `80`, `80/udp`, `8000-8010/tcp`.
fn port_ranges(filters: &Filters, key: &str) -> Result<Vec<(u16, u16, String)>> {
    filters
        .get(key)
        .map(|value| {
            let (range, protocol) = value.split_once('/').unwrap_or((value, "tcp"));
            crate::validate::parse_host_port(range)
                .filter(|_| !range.is_empty())
                .map(|(a, b)| (a, b, protocol.to_owned()))
                .ok_or_else(|| {
                    invalid(format!("filter for '{key}' should not contain '{value}': invalid port"))
                })
        })
        .collect()
}

/// `filters` of `GET /events`. Unknown keys match everything, as in Docker.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    filters: Filters,
}

impl EventFilter {
    /// Takes the filters as they are.
    #[must_use]
    pub fn new(filters: Filters) -> Self {
        Self { filters }
    }

    /// Whether a client with these filters wants this event.
    #[must_use]
    pub fn matches(&self, e: &Event) -> bool {
        let f = &self.filters;
        let any = |key: &str, test: &dyn Fn(&str) -> bool| !f.contains(key) || f.get(key).any(test);
        let name = e.attributes.get("name").map_or("", String::as_str);
        // An object is meant by its id, a prefix of it, or its name.
        let object = |key: &str, kind: &str| {
            any(key, &|v| {
                e.kind == kind && (e.actor == v || name == v || (!v.is_empty() && e.actor.starts_with(v)))
                    || (kind == "container"
                        && e.kind == "network"
                        && e.attributes.get("container").is_some_and(|c| !v.is_empty() && c.starts_with(v)))
            })
        };
        let image = || {
            any("image", &|v| {
                let of = |text: &str| text == v || text.split(':').next() == Some(v) || text.starts_with(v);
                match e.kind {
                    "image" => of(&e.actor) || of(name),
                    _ => e.attributes.get("image").is_some_and(|i| i == v || i.split(':').next() == Some(v)),
                }
            })
        };
        any("type", &|t| t == e.kind)
            && any("event", &|w| {
                // COMPAT: `exec_create: cmd` and `health_status: healthy` are meant by their first word too.
                e.action == w || e.action.split(':').next() == Some(w)
            })
            && any("scope", &|s| s == "local")
            && object("container", "container")
            && object("network", "network")
            && object("volume", "volume")
            && object("daemon", "daemon")
            && image()
            && f.match_labels("label", &e.attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_in_docker_words() {
        for (text, want) in [
            (r#"{"nope":["x"]}"#, "invalid filter 'nope'"),
            (
                r#"{"status":["nope"]}"#,
                "invalid filter 'status=nope': invalid value for state (nope): must be one of created, running, paused, restarting, removing, exited, dead",
            ),
        ] {
            let filters = Filters::parse(text).unwrap();
            assert_eq!(ContainerFilter::new(&filters, Context::default()).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn events() {
        let event = Event {
            kind: "container",
            action: "exec_create: sh".into(),
            actor: "abc".into(),
            attributes: [("name".to_owned(), "web".to_owned()), ("image".to_owned(), "busybox:1".to_owned())]
                .into(),
            time_ns: 0,
        };
        for (text, want) in [
            ("{}", true),
            (r#"{"type":["image"]}"#, false),
            (r#"{"event":["exec_create"]}"#, true),
            (r#"{"container":["web"]}"#, true),
            (r#"{"container":["zzz"]}"#, false),
            (r#"{"image":["busybox"]}"#, true),
            (r#"{"bogus":["x"]}"#, true),
            (r#"{"label":["x"]}"#, false),
        ] {
            assert_eq!(EventFilter::new(Filters::parse(text).unwrap()).matches(&event), want, "{text}");
        }
    }
}
