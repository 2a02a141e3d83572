//! Times as people say them.

/// "2 hours", "About a minute", from seconds: Docker's `HumanDuration`.
pub(crate) fn duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800).div_euclid(3600));
    match () {
        () if seconds < 1 => "Less than a second".into(),
        () if seconds == 1 => "1 second".into(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".into(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".into(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// "2 hours ago" for a time in seconds since the epoch.
pub(crate) fn ago(unix_seconds: i64) -> String {
    format!("{} ago", duration(now_seconds() - unix_seconds))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (seconds, want) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (86400 * 3, "3 days"),
            (86400 * 15, "2 weeks"),
            (86400 * 90, "3 months"),
            (86400 * 800, "2 years"),
        ] {
            assert_eq!(duration(seconds), want, "{seconds}");
        }
    }
}
