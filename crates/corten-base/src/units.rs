//! Go's durations and Docker's sizes, read and written as they read and write them.

use std::time::Duration;

/// Parses Go's `time.ParseDuration` (`1h2m3.5s`, `100ms`, `-1s` is refused as `None`).
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total_ns = 0u128;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let unit_ns: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 18 {
            return None;
        }
        if !whole.is_empty() {
            total_ns = total_ns.checked_add(whole.parse::<u128>().ok()?.checked_mul(unit_ns)?)?;
        }
        if !fraction.is_empty() {
            let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
            total_ns = total_ns.checked_add(fraction.parse::<u128>().ok()? * unit_ns / scale)?;
        }
        rest = tail;
    }
    if total_ns > i64::MAX as u128 {
        return None;
    }
    Some(Duration::from_nanos(u64::try_from(total_ns).ok()?))
}

/// Go's `Duration.String()`: `1h2m3.5s`, `100ms`, `0s`.
#[must_use]
pub fn format_duration(d: Duration) -> String {
    let ns = d.as_nanos();
    if ns == 0 {
        return "0s".into();
    }
    let fraction = |value: u128, unit: u128, name: &str| {
        let digits = unit.ilog10() as usize;
        let tail = format!("{:0digits$}", value % unit);
        let tail = if unit == 1 { "" } else { tail.trim_end_matches('0') };
        if tail.is_empty() {
            format!("{}{name}", value / unit)
        } else {
            format!("{}.{tail}{name}", value / unit)
        }
    };
    if ns < 1_000 {
        return fraction(ns, 1, "ns");
    }
    if ns < 1_000_000 {
        return fraction(ns, 1_000, "µs");
    }
    if ns < 1_000_000_000 {
        return fraction(ns, 1_000_000, "ms");
    }
    let minutes = ns / 60_000_000_000;
    let seconds = fraction(ns % 60_000_000_000, 1_000_000_000, "s");
    match (minutes / 60, minutes % 60) {
        (0, 0) => seconds,
        (0, m) => format!("{m}m{seconds}"),
        (h, m) => format!("{h}h{m}m{seconds}"),
    }
}

/// Reads a size as `docker run --memory` does: a number with an optional binary suffix (`b k m g t p`, also
/// `kb`, `kib`), fractions allowed. `None` where it is not one.
#[must_use]
pub fn ram_in_bytes(text: &str) -> Option<i64> {
    parse_size(text, 1024.0)
}

/// Reads a size with decimal suffixes (`1kB` is 1000), as `units.FromHumanSize` does.
#[must_use]
pub fn from_human_size(text: &str) -> Option<i64> {
    parse_size(text, 1000.0)
}

fn parse_size(text: &str, base: f64) -> Option<i64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    if number.is_empty() || number.starts_with('.') {
        return None;
    }
    let suffix = suffix.strip_prefix(' ').unwrap_or(suffix).to_ascii_lowercase();
    let power = match suffix.strip_suffix("ib").or_else(|| suffix.strip_suffix('b')).unwrap_or(&suffix) {
        "" if suffix != "ib" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let value = number.parse::<f64>().ok()? * base.powi(power);
    #[expect(clippy::cast_possible_truncation, reason = "Docker truncates the fraction of a byte too")]
    (value < 9.0e18).then_some(value as i64)
}

/// A duration as people say it: `Less than a second`, `About a minute`, `3 weeks`.
#[must_use]
pub fn human_duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    // COMPAT: Docker rounds the hours, and cuts everything else off.
    let hours = seconds.saturating_add(1800) / 3600;
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

/// Decimal size with four significant digits, as lists print it: `1.234MB`, `12kB`, `0B`.
#[must_use]
pub fn human_size(bytes: f64) -> String {
    size_text(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"], 4)
}

/// Decimal size with three significant digits, as `docker images` prints it.
#[must_use]
pub fn human_size3(bytes: f64) -> String {
    size_text(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"], 3)
}

/// Binary size with four significant digits, as `docker stats` prints it: `1.5MiB`.
#[must_use]
pub fn bytes_size(bytes: f64) -> String {
    size_text(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"], 4)
}

fn size_text(mut value: f64, base: f64, names: &[&str], digits: usize) -> String {
    let mut i = 0;
    while value >= base && i + 1 < names.len() {
        value /= base;
        i += 1;
    }
    format!("{}{}", significant(value, digits), names[i])
}

/// Go's `%.{digits}g` for numbers below 10^digits.
fn significant(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".into();
    }
    #[expect(clippy::cast_possible_truncation, reason = "a logarithm of a finite number fits")]
    let magnitude = value.abs().log10().floor() as i32;
    #[expect(clippy::cast_possible_wrap, clippy::cast_possible_truncation, reason = "digits is 3 or 4")]
    let wanted = (digits as i32 - 1 - magnitude).max(0);
    let text = format!("{value:.*}", usize::try_from(wanted).unwrap_or(0));
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_for_people() {
        for (seconds, want) in [
            (-5, "Less than a second"),
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (86400 * 3, "3 days"),
            (86400 * 15, "2 weeks"),
            (86400 * 90, "3 months"),
            (86400 * 800, "2 years"),
            (i64::MAX, "292471208677 years"),
        ] {
            assert_eq!(human_duration(seconds), want, "{seconds}");
        }
    }

    #[test]
    fn durations_as_in_go() {
        for (text, ns) in
            [("1h2m3.5s", 3_723_500_000_000u64), ("100ms", 100_000_000), ("1.5us", 1500), ("0", 0)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_nanos(ns)), "{text}");
        }
        for bad in ["", "5", "x", "1.2.3s", "-1s", "s"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
        for (ns, text) in [
            (0, "0s"),
            (1500, "1.5µs"),
            (100_000_000, "100ms"),
            (60_000_000_000, "1m0s"),
            (3_723_500_000_000, "1h2m3.5s"),
        ] {
            assert_eq!(format_duration(Duration::from_nanos(ns)), text);
        }
    }

    #[test]
    fn sizes_as_in_docker() {
        assert_eq!(ram_in_bytes("64m"), Some(64 << 20));
        assert_eq!(ram_in_bytes("1.5g"), Some(3 << 29));
        assert_eq!(ram_in_bytes("12KiB"), Some(12 << 10));
        assert_eq!(ram_in_bytes("m"), None);
        assert_eq!(ram_in_bytes("5x"), None);
        assert_eq!(human_size(1_234_567.0), "1.235MB");
        assert_eq!(human_size3(1_234_567.0), "1.23MB");
        assert_eq!(human_size(0.0), "0B");
        assert_eq!(bytes_size(1_572_864.0), "1.5MiB");
    }
}
