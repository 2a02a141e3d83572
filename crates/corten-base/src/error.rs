//! The text of errors at the edge: causes joined once, and the kernel's errors in Go's words, as clients know them.

use std::error::Error;
use std::io;

/// An error of the system as Go words it: lower case, without `(os error N)`. Other errors as they are.
#[must_use]
pub fn errno_text(error: &io::Error) -> String {
    let Some(code) = error.raw_os_error() else { return error.to_string() };
    let full = io::Error::from_raw_os_error(code).to_string();
    let text = full.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map(|c| c.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// The error and its causes, joined by `: `; a cause that the text already ends with is not repeated.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = one(error);
    let mut next = error.source();
    while let Some(cause) = next {
        let part = one(cause);
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = cause.source();
    }
    text
}

fn one(error: &(dyn Error + 'static)) -> String {
    error.downcast_ref::<io::Error>().map_or_else(|| error.to_string(), errno_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open /x")]
    struct Open(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("start: open /x")]
    struct Start(#[source] Open);

    #[test]
    fn causes_in_gos_words() {
        let missing = Open(io::Error::from_raw_os_error(2));
        assert_eq!(chain(&missing), "open /x: no such file or directory");
        assert_eq!(chain(&Start(missing)), "start: open /x: no such file or directory");
        assert_eq!(chain(&Open(io::Error::other("Mine"))), "open /x: Mine");
    }
}
