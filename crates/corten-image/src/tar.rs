//! Reading and writing tar archives, in streams.

/// An archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream ends within an entry.
    #[error("unexpected EOF")]
    UnexpectedEof,
}
