//! Messages of `GET /events`.

use serde::{Deserialize, Serialize};

use super::{TextMap, is_default};

/// One event. `status`, `id` and `from` repeat it in the words of API 1.21 for containers and images; they are
/// absent for other types, and from API 1.52.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventMessage {
    /// Same as the action.
    #[serde(skip_serializing_if = "is_default")]
    pub status: String,
    /// Same as the actor.
    #[serde(skip_serializing_if = "is_default")]
    pub id: String,
    /// Image of a container.
    #[serde(skip_serializing_if = "is_default")]
    pub from: String,
    /// `container`, `image`, `network`, `volume`, `daemon`, `builder`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// `create`, `start`, …
    #[serde(rename = "Action")]
    pub action: String,
    /// Who it happened to.
    #[serde(rename = "Actor")]
    pub actor: EventActor,
    /// `local`.
    pub scope: String,
    /// Seconds since the epoch.
    pub time: i64,
    /// Nanoseconds since the epoch.
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
}

/// Who an event happened to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventActor {
    /// Id, or name of a volume.
    #[serde(rename = "ID")]
    pub id: String,
    /// Labels and more.
    #[serde(rename = "Attributes")]
    pub attributes: TextMap,
}

impl From<&corten_base::event::Event> for EventMessage {
    fn from(event: &corten_base::event::Event) -> Self {
        let old = matches!(event.kind, "container" | "image");
        let text = |on: bool, text: &str| if on { text.to_owned() } else { String::new() };
        let image = event.attributes.get("image").map_or("", String::as_str);
        Self {
            status: text(old, &event.action),
            id: text(old, &event.actor),
            from: text(event.kind == "container", image),
            kind: event.kind.to_owned(),
            action: event.action.clone(),
            actor: EventActor { id: event.actor.clone(), attributes: event.attributes.clone() },
            scope: "local".to_owned(),
            time: i64::try_from(event.time_ns / 1_000_000_000).unwrap_or(i64::MAX),
            time_nano: i64::try_from(event.time_ns).unwrap_or(i64::MAX),
        }
    }
}
