//! How a command ends other than well: with an exit status, or with a text and a status.

use std::fmt;

/// The result of everything in this crate.
pub(crate) type Result<T = (), E = anyhow::Error> = std::result::Result<T, E>;

/// A command's end. `main` prints the text, if any, and exits with the code.
#[derive(Debug, thiserror::Error)]
pub(crate) struct Failure {
    /// What to say on standard error; empty to say nothing.
    pub(crate) text: String,
    /// Exit status.
    pub(crate) code: i32,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Ends with this code and no text.
pub(crate) fn exit(code: i32) -> anyhow::Error {
    Failure { text: String::new(), code }.into()
}

/// Ends with this text and code.
pub(crate) fn fail(text: impl Into<String>, code: i32) -> anyhow::Error {
    Failure { text: text.into(), code }.into()
}
