//! Wall-clock time in nanoseconds, and Go's `RFC3339Nano` text of it.

use std::time::{SystemTime, UNIX_EPOCH};

/// What Docker prints for "never": Go's zero time.
pub const ZERO: &str = "0001-01-01T00:00:00Z";

/// Nanoseconds since the epoch.
#[must_use]
pub fn now_ns() -> i128 {
    i128::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos())
        .expect("the clock reads less than 10^30 years")
}

/// `2026-11-21T10:00:00.123456789Z`, trailing zeros of the fraction trimmed, UTC; as Go's `RFC3339Nano`.
#[must_use]
pub fn rfc3339_nano(ns: i128) -> String {
    jiff::Timestamp::from_nanosecond(ns).map_or_else(|_| ZERO.to_owned(), |t| t.to_string())
}

/// Parses any RFC 3339 time; `None` where it is not one. Go's zero time reads as `None` too.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<i128> {
    let t: jiff::Timestamp = text.parse().ok()?;
    (text != ZERO).then(|| t.as_nanosecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fraction_is_trimmed_as_in_go() {
        assert_eq!(rfc3339_nano(1_700_000_000_120_000_000), "2023-11-14T22:13:20.12Z");
        assert_eq!(rfc3339_nano(1_700_000_000_000_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(parse_rfc3339("2023-11-14T23:13:20.12+01:00"), Some(1_700_000_000_120_000_000));
        assert_eq!(parse_rfc3339(ZERO), None);
    }
}
