//! The version of the running kernel, for what it complains about in its log rather than only refuses.

use std::sync::OnceLock;

/// Whether the kernel is this one or newer, by its own words (`uname -r`). A distribution's kernel may know more than its
/// number says: what can be tried without harm is to be tried. Asks for no memory.
#[must_use]
pub fn at_least(major: u32, minor: u32) -> bool {
    static RELEASE: OnceLock<(u32, u32)> = OnceLock::new();
    *RELEASE.get_or_init(|| parse(rustix::system::uname().release().to_bytes())) >= (major, minor)
}

/// The first two numbers.
fn parse(release: &[u8]) -> (u32, u32) {
    let mut numbers = release.split(|b| !b.is_ascii_digit()).map(|digits| {
        digits.iter().fold(0u32, |n, d| n.saturating_mul(10).saturating_add(u32::from(d - b'0')))
    });
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        for (text, want) in
            [("6.18.44-fc-v595", (6, 18)), ("6.1.0-37-amd64", (6, 1)), ("5.4", (5, 4)), ("what", (0, 0))]
        {
            assert_eq!(parse(text.as_bytes()), want, "{text}");
        }
        assert!(at_least(4, 0) && !at_least(1000, 0));
    }
}
