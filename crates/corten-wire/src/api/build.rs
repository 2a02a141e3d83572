//! The builder: cache records and prune. What a build says while it runs is in [`super::stream`].

use serde::{Deserialize, Serialize};

use super::is_default;

/// One record of the build cache, in `GET /system/df`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct BuildCache {
    /// Id.
    #[serde(rename = "ID")]
    pub id: String,
    /// Records it builds upon.
    #[serde(skip_serializing_if = "is_default")]
    pub parents: Vec<String>,
    /// `regular`, `source.local`, `exec.cachemount`, …
    #[serde(rename = "Type")]
    pub kind: String,
    /// For a person.
    pub description: String,
    /// A build uses it now.
    pub in_use: bool,
    /// Others use the same content.
    pub shared: bool,
    /// Bytes.
    pub size: i64,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub last_used_at: Option<String>,
    /// How often.
    pub usage_count: i64,
}

/// Answer of `POST /build/prune`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct BuildPruneResponse {
    /// Ids.
    pub caches_deleted: Option<Vec<String>>,
    /// Bytes.
    pub space_reclaimed: u64,
}
