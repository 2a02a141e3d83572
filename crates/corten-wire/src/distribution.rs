//! JSON bodies, error codes and media types of the OCI distribution specification 1.1, and of the token
//! service that Docker's registries use beside it.

use serde::{Deserialize, Serialize};

/// Media type of an OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of a Docker schema 2 manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Media type of a Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// What a client accepts for a manifest, in the order it prefers them.
pub const MANIFEST_TYPES: [&str; 4] = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST];
/// A manifest larger than this is refused on both sides, as the specification recommends.
pub const MANIFEST_LIMIT: usize = 4 << 20;

/// `{"errors":[…]}`: the body of every failed request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// At least one, by the specification; we bear with none.
    #[serde(default)]
    pub errors: Vec<ErrorBody>,
}

/// One error of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// One of [`code`], or a registry's own.
    #[serde(default)]
    pub code: String,
    /// For people.
    #[serde(default)]
    pub message: String,
    /// Anything, mostly absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<serde_json::Value>,
}

/// Error codes.
pub mod code {
    #![expect(missing_docs, reason = "the specification's table explains each")]
    pub const BLOB_UNKNOWN: &str = "BLOB_UNKNOWN";
    pub const BLOB_UPLOAD_INVALID: &str = "BLOB_UPLOAD_INVALID";
    pub const BLOB_UPLOAD_UNKNOWN: &str = "BLOB_UPLOAD_UNKNOWN";
    pub const DENIED: &str = "DENIED";
    pub const DIGEST_INVALID: &str = "DIGEST_INVALID";
    pub const MANIFEST_BLOB_UNKNOWN: &str = "MANIFEST_BLOB_UNKNOWN";
    pub const MANIFEST_INVALID: &str = "MANIFEST_INVALID";
    pub const MANIFEST_UNKNOWN: &str = "MANIFEST_UNKNOWN";
    pub const NAME_INVALID: &str = "NAME_INVALID";
    pub const NAME_UNKNOWN: &str = "NAME_UNKNOWN";
    pub const PAGINATION_NUMBER_INVALID: &str = "PAGINATION_NUMBER_INVALID";
    pub const RANGE_INVALID: &str = "RANGE_INVALID";
    pub const SIZE_INVALID: &str = "SIZE_INVALID";
    pub const TAG_INVALID: &str = "TAG_INVALID";
    pub const TOOMANYREQUESTS: &str = "TOOMANYREQUESTS";
    pub const UNAUTHORIZED: &str = "UNAUTHORIZED";
    pub const UNKNOWN: &str = "UNKNOWN";
    pub const UNSUPPORTED: &str = "UNSUPPORTED";
}

/// The message that the reference registry gives with a code.
#[must_use]
pub fn message_of(code: &str) -> &'static str {
    match code {
        code::BLOB_UNKNOWN => "blob unknown to registry",
        code::BLOB_UPLOAD_INVALID => "blob upload invalid",
        code::BLOB_UPLOAD_UNKNOWN => "blob upload unknown to registry",
        code::DENIED => "requested access to the resource is denied",
        code::DIGEST_INVALID => "provided digest did not match uploaded content",
        code::MANIFEST_BLOB_UNKNOWN => "blob unknown to registry",
        code::MANIFEST_INVALID => "manifest invalid",
        code::MANIFEST_UNKNOWN => "manifest unknown",
        code::NAME_INVALID => "invalid repository name",
        code::NAME_UNKNOWN => "repository name not known to registry",
        code::PAGINATION_NUMBER_INVALID => "invalid number of results requested",
        code::RANGE_INVALID => "invalid content range",
        code::SIZE_INVALID => "provided length did not match content length",
        code::TAG_INVALID => "manifest tag did not match URI",
        code::TOOMANYREQUESTS => "too many requests",
        code::UNAUTHORIZED => "authentication required",
        code::UNSUPPORTED => "The operation is unsupported.",
        _ => "unknown error",
    }
}

/// `GET /v2/<name>/tags/list`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TagList {
    /// The repository.
    #[serde(default)]
    pub name: String,
    /// `null` where there are none, in the reference registry.
    #[serde(default)]
    pub tags: Option<Vec<String>>,
}

/// `GET /v2/_catalog`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Catalog {
    /// Names in lexical order.
    #[serde(default)]
    pub repositories: Vec<String>,
}

/// Answer of a token service, to `GET` (`token`) and to OAuth's `POST` (`access_token`).
#[derive(Clone, Default, Deserialize)]
pub struct TokenResponse {
    /// The bearer token.
    #[serde(default)]
    pub token: String,
    /// The same under OAuth's name.
    #[serde(default)]
    pub access_token: String,
    /// Given where an offline token was asked for.
    #[serde(default)]
    pub refresh_token: String,
    /// Seconds; 60 where absent.
    #[serde(default)]
    pub expires_in: Option<u64>,
}

/// The parts of any manifest or index that a registry looks at. Everything else passes through as bytes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestOutline {
    /// 1 for the format that nobody serves any more.
    #[serde(default)]
    pub schema_version: u32,
    /// May be absent in OCI documents.
    #[serde(default)]
    pub media_type: String,
    /// Of artifacts.
    #[serde(default)]
    pub artifact_type: String,
    /// Of a manifest.
    #[serde(default)]
    pub config: Option<Target>,
    /// Of a manifest.
    #[serde(default)]
    pub layers: Option<Vec<Target>>,
    /// Of an index.
    #[serde(default)]
    pub manifests: Option<Vec<Target>>,
    /// What a referrer refers to.
    #[serde(default)]
    pub subject: Option<Target>,
    /// Copied into the list of referrers.
    #[serde(default)]
    pub annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// The parts of a descriptor that a registry looks at; written out again in lists of referrers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Type of the content.
    #[serde(default)]
    pub media_type: String,
    /// Its digest, not yet checked.
    #[serde(default)]
    pub digest: String,
    /// Its length.
    #[serde(default)]
    pub size: u64,
    /// Of artifacts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<std::collections::BTreeMap<String, String>>,
    /// Where foreign layers are; such layers need not be in the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
}

impl std::fmt::Debug for TokenResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenResponse").field("expires_in", &self.expires_in).finish_non_exhaustive()
    }
}
