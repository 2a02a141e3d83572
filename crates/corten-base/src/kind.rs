//! The kinds of failure that callers may branch on. The API maps each to one HTTP status.

/// What sort of failure an error is. Every public error has `fn kind(&self) -> Kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// The named object does not exist (404).
    NotFound,
    /// The request cannot be right, whatever the state (400).
    InvalidArgument,
    /// The request is at odds with the present state (409).
    Conflict,
    /// Credentials are missing or wrong (401).
    Unauthorized,
    /// Known, but not allowed (403).
    Forbidden,
    /// Not now, perhaps later (503).
    Unavailable,
    /// Understood but not supported here (501).
    Unsupported,
    /// The caller went away or asked us to stop (499 has no Docker meaning, so 500).
    Cancelled,
    /// Everything else: the host, the disk, a bug (500).
    Internal,
}
