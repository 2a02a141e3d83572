//! The Docker Engine API in types: what clients send and what they are answered, swarm and plugins left out.
//!
//! Requests are read with [`decode`], which understands JSON as Go's `encoding/json` does: keys in any case,
//! `null` for "not given", unknown keys ignored. Responses are written with plain serde; whether a field is
//! `null`, empty or absent follows the reference engine, so each field says it: `Option` without attribute is
//! `null`, `skip_serializing_if` is absent, anything else is always there.

pub mod build;
pub mod container;
pub mod decode;
pub mod events;
pub mod exec;
pub mod filters;
pub mod host_config;
pub mod image;
pub mod inspect;
pub mod mount;
pub mod network;
pub mod port;
pub mod stats;
pub mod stream;
pub mod system;
pub mod volume;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use decode::{DecodeError, GoValue, JsonError, decode, decode_body};
pub use filters::{FilterError, Filters};

/// The newest version of the API that this program speaks.
pub const VERSION: &str = "1.55";
/// The oldest version that is accepted.
pub const MIN_VERSION: &str = "1.24";

/// Text to text, in the order of the keys as Go prints maps.
pub type TextMap = BTreeMap<String, String>;
/// Go's `map[string]struct{}`: a set written as an object of empty objects.
pub type TextSet = BTreeMap<String, Empty>;

/// `{}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// Body of every answer of status 400 and above.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorResponse {
    /// What went wrong, for a person.
    #[serde(default)]
    pub message: String,
}

/// `{"Id": …}` of create and commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdResponse {
    /// Id of what was made.
    #[serde(rename = "Id", default)]
    pub id: String,
}

/// True for Go's zero values that `omitempty` leaves out.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
