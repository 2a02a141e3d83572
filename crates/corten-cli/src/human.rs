//! Times as people say them.

use corten_base::units;

/// "2 hours ago" for a time in seconds since the epoch.
pub(crate) fn ago(unix_seconds: i64) -> String {
    format!("{} ago", units::human_duration(now_seconds() - unix_seconds))
}

/// Seconds since the epoch.
pub(crate) fn now_seconds() -> i64 {
    i64::try_from(corten_base::time::now_ns() / 1_000_000_000).unwrap_or(0)
}

/// A local time as Go's `Time.String()` has it: `2026-11-21 10:00:00 +0000 UTC`.
pub(crate) fn go_time(unix_seconds: i64) -> String {
    let Ok(t) = jiff::Timestamp::from_second(unix_seconds) else { return String::new() };
    t.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

/// A local time in RFC 3339 with seconds: `2026-11-21T10:00:00Z`.
pub(crate) fn rfc3339_local(unix_seconds: i64) -> String {
    let Ok(t) = jiff::Timestamp::from_second(unix_seconds) else { return String::new() };
    let zoned = t.to_zoned(jiff::tz::TimeZone::system());
    let text = zoned.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    match text.strip_suffix("+00:00") {
        Some(utc) => format!("{utc}Z"),
        None => text,
    }
}
