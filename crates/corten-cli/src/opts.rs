//! Grammars of flag values: mounts, volumes, ports, networks, devices, limits, environment files.
//!
//! Pure functions from text to the API's JSON; errors are the texts docker shows.

mod mount;
mod network;
mod port;
mod volume;

use std::path::Path;

use corten_base::error::errno_text;
use corten_base::units;
use corten_client::Filters;
use serde_json::{Map, Value, json};

pub(crate) use mount::mount;
pub(crate) use network::network;
pub(crate) use port::{Ports, expose, publish};
pub(crate) use volume::{Volume, volume};

/// A file of variables or labels is read up to this size.
const MAX_FILE: u64 = 16 << 20;

/// `--net-rate-in 10mbit` in bits per second.
pub(crate) fn rate(text: &str) -> Result<i64, String> {
    let bad =
        || format!("invalid bandwidth {text:?}: use a number with bit, kbit, mbit or gbit, as in 10mbit");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "bit" => 1.0,
        "kbit" => 1e3,
        "mbit" => 1e6,
        "gbit" => 1e9,
        "" if text == "0" => return Ok(0),
        _ => return Err(bad()),
    };
    let value = number.parse::<f64>().map_err(|_| bad())? * factor;
    if value > 1e13 {
        return Err(bad());
    }
    #[expect(clippy::cast_possible_truncation, reason = "a fraction of a bit does not matter")]
    Ok(value.round() as i64)
}

/// `--cpus 1.5` in billionths.
pub(crate) fn cpus(text: &str) -> Result<i64, String> {
    let bad = || format!("failed to parse {text} as a rational number");
    let value = match text.split_once('/') {
        Some((a, b)) => a.parse::<f64>().map_err(|_| bad())? / b.parse::<f64>().map_err(|_| bad())?,
        None => text.parse::<f64>().map_err(|_| bad())?,
    };
    let digits = text.split_once('.').map_or("", |(_, d)| d).trim_end_matches('0');
    if !value.is_finite() {
        return Err(bad());
    }
    if digits.len() > 9 {
        return Err("value is too precise".into());
    }
    #[expect(clippy::cast_possible_truncation, reason = "nine digits are what the API has")]
    Ok((value * 1e9).round() as i64)
}

const ULIMITS: &[&str] = &[
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `--ulimit name=soft[:hard]`.
pub(crate) fn ulimit(text: &str) -> Result<Value, String> {
    let (name, limits) = text.split_once('=').ok_or_else(|| format!("invalid ulimit argument: {text}"))?;
    if !ULIMITS.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let number = |t: &str| match t.parse::<i64>() {
        Ok(n) => Ok(n),
        Err(_) => Err(format!("strconv.ParseInt: parsing {t:?}: invalid syntax")),
    };
    let (soft, hard) = match limits.split(':').collect::<Vec<_>>()[..] {
        [one] => (number(one)?, number(one)?),
        [soft, hard] => (number(soft)?, number(hard)?),
        _ => {
            return Err(format!(
                "too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
            ));
        }
    };
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"));
    }
    Ok(json!({"Name": name, "Soft": soft, "Hard": hard}))
}

/// `--filter key=value`.
pub(crate) fn filter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_lowercase(), value.trim().to_owned())),
        None if text.is_empty() => Ok((String::new(), String::new())),
        None => Err("bad format of filter (expected name=value)".into()),
    }
}

/// All `--filter` values.
pub(crate) fn filters(values: &[String]) -> Filters {
    let mut out = Filters::default();
    for (key, value) in values.iter().filter_map(|v| filter(v).ok()).filter(|(k, _)| !k.is_empty()) {
        out.add(&key, &value);
    }
    out
}

/// `key=value` pairs; a bare key has an empty value.
pub(crate) fn pairs(values: &[String]) -> Map<String, Value> {
    let split = |v: &String| match v.split_once('=') {
        Some((k, v)) => (k.to_owned(), Value::from(v)),
        None => (v.clone(), Value::from("")),
    };
    values.iter().map(split).collect()
}

/// Checks one `--label`.
pub(crate) fn check_label(text: &str) -> Result<(), String> {
    match text.is_empty() || text.starts_with('=') {
        true => Err(format!("invalid label '{text}': empty name")),
        false => Ok(()),
    }
}

/// Labels from flags and files.
pub(crate) fn labels(values: &[String], files: &[String]) -> Result<Map<String, Value>, String> {
    let mut all = Vec::new();
    for file in files {
        all.extend(read_lines(file)?);
    }
    all.extend(values.iter().cloned());
    for label in &all {
        if label.is_empty() || label.starts_with('=') {
            return Err(format!("invalid label '{label}': empty name"));
        }
    }
    Ok(pairs(&all))
}

/// Environment from flags and files: a bare name takes the client's value, and is passed as it is where there is none.
pub(crate) fn environment(values: &[String], files: &[String]) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for file in files {
        for line in read_lines(file)? {
            if line.contains('=') {
                all.push(line);
            } else if let Some(prefix) = line.strip_suffix('*') {
                all.extend(crate::env::with_prefix(prefix));
            } else if let Some(value) = crate::env::value_of(&line) {
                all.push(format!("{line}={value}"));
            }
        }
    }
    for value in values {
        match value.contains('=') {
            true => all.push(value.clone()),
            false => all
                .push(crate::env::value_of(value).map_or_else(|| value.clone(), |v| format!("{value}={v}"))),
        }
    }
    Ok(all)
}

fn read_lines(file: &str) -> Result<Vec<String>, String> {
    let meta = std::fs::metadata(file).map_err(|e| format!("open {file}: {}", errno_text(&e)))?;
    if meta.len() > MAX_FILE {
        return Err(format!("open {file}: file too large"));
    }
    let bytes = std::fs::read(file).map_err(|e| format!("open {file}: {}", errno_text(&e)))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("invalid utf8 bytes in file: {file:?}"))?;
    let mut lines = Vec::new();
    for line in text.strip_prefix('\u{feff}').unwrap_or(&text).lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or_default();
        if name.is_empty() {
            return Err(format!("invalid env file ({file}): no variable name on line '{line}'"));
        }
        if name.contains([' ', '\t']) {
            return Err(format!("invalid env file ({file}): variable '{name}' contains whitespaces"));
        }
        lines.push(line.to_owned());
    }
    Ok(lines)
}

/// `--add-host name:ip`, `name=ip`, `name:host-gateway`, as `name:ip`.
pub(crate) fn extra_host(text: &str) -> Result<String, String> {
    let (host, address) = match text.split_once('=') {
        Some(pair) => pair,
        None => text.split_once(':').ok_or_else(|| format!("bad format for add-host: {text:?}"))?,
    };
    if host.is_empty() || address.is_empty() {
        return Err(format!("bad format for add-host: {text:?}"));
    }
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    if address != "host-gateway" && bare.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("invalid IP address in add-host: {address:?}"));
    }
    Ok(format!("{host}:{bare}"))
}

/// `--restart`.
pub(crate) fn restart_policy(text: &str) -> Result<Value, String> {
    if text.is_empty() {
        return Ok(json!({"Name": "", "MaximumRetryCount": 0}));
    }
    let (name, count) = text.split_once(':').unwrap_or((text, ""));
    if name.is_empty() {
        return Err("invalid restart policy format: no policy provided before colon".into());
    }
    let count = match text.contains(':') {
        false => 0,
        true => count.parse::<i64>().map_err(|_| {
            "invalid restart policy format: maximum retry count must be an integer".to_owned()
        })?,
    };
    Ok(json!({"Name": name, "MaximumRetryCount": count}))
}

/// `--device host[:container[:rwm]]`.
pub(crate) fn device(text: &str) -> Result<Value, String> {
    let is_mode = |m: &str| !m.is_empty() && m.bytes().all(|b| b"rwm".contains(&b)) && m.len() <= 3;
    let (source, target, mode) = match text.split(':').collect::<Vec<_>>()[..] {
        [source] => (source, source, "rwm"),
        [source, mode] if is_mode(mode) => (source, source, mode),
        [source, target] => (source, target, "rwm"),
        [source, target, mode] if is_mode(mode) => (source, target, mode),
        [_, _, mode] => return Err(format!("bad mode specified: {mode}")),
        _ => return Err(format!("invalid device specification: {text}")),
    };
    if source.is_empty() {
        return Err(format!("invalid device specification: {text}"));
    }
    if target.is_empty() || !target.starts_with('/') {
        return Err(format!("{text} is not an absolute path"));
    }
    Ok(json!({"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": mode}))
}

/// Whether a `--device` names a CDI device: `vendor/class=name`.
pub(crate) fn is_cdi(text: &str) -> bool {
    text.split_once('=')
        .is_some_and(|(kind, name)| !name.is_empty() && !text.starts_with('/') && kind.contains('/'))
}

/// `--device-cgroup-rule 'c 1:3 rwm'`.
pub(crate) fn device_rule(text: &str) -> Result<(), String> {
    let bad = || format!("invalid device cgroup format '{text}'");
    let [kind, numbers, mode] = text.split(' ').collect::<Vec<_>>()[..] else { return Err(bad()) };
    let number = |n: &str| n == "*" || n.parse::<u32>().is_ok();
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    let good = ["a", "b", "c"].contains(&kind) && number(major) && number(minor);
    let mode_good = (1..=3).contains(&mode.len()) && mode.bytes().all(|b| b"rwm".contains(&b));
    if good && mode_good { Ok(()) } else { Err(bad()) }
}

/// `--device-read-bps path:rate` and `--device-read-iops path:n`.
pub(crate) fn throttle(text: &str, bytes: bool) -> Result<Value, String> {
    let (path, rate) = text.split_once(':').ok_or_else(|| format!("bad format: {text}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    let value = if bytes { units::ram_in_bytes(rate) } else { rate.parse::<i64>().ok() };
    match value.filter(|v| *v >= 0) {
        Some(rate) => Ok(json!({"Path": path, "Rate": rate})),
        None if bytes => Err(format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        )),
        None => Err(format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>. Number must be a positive integer"
        )),
    }
}

/// `--blkio-weight-device path:weight`.
pub(crate) fn weight_device(text: &str) -> Result<Value, String> {
    let (path, weight) = text.split_once(':').ok_or_else(|| format!("bad format: {text}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    match weight.parse::<u16>() {
        Ok(w) if w == 0 || (10..=1000).contains(&w) => Ok(json!({"Path": path, "Weight": w})),
        _ => Err(format!("invalid weight for device: {text}")),
    }
}

/// `--gpus all|N|device=…,driver=…,capabilities=…,options=…`.
pub(crate) fn gpus(text: &str) -> Result<Value, String> {
    let (mut driver, mut count, mut devices) = (String::new(), 0i64, Vec::<String>::new());
    let (mut capabilities, mut options) = (vec!["gpu".to_owned()], Map::new());
    let number = |v: &str| match v {
        "all" => Ok(-1),
        v => v.parse::<i64>().map_err(|_| {
            format!("invalid count ({v}): value must be either \"all\" or an integer: invalid syntax")
        }),
    };
    let mut count_set = false;
    for field in csv(text)? {
        match field.split_once('=') {
            None => (count, count_set) = (number(&field)?, true),
            Some(("driver", v)) => driver = v.to_owned(),
            Some(("count", v)) => (count, count_set) = (number(v)?, true),
            Some(("device", v)) => devices = v.split(',').map(str::to_owned).collect(),
            Some(("capabilities", v)) => {
                capabilities =
                    v.split(',').map(str::to_owned).chain(std::iter::once("gpu".to_owned())).collect();
            }
            Some(("options", v)) => {
                options = pairs(&v.split(',').map(str::to_owned).collect::<Vec<_>>());
            }
            Some((key, _)) => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if devices.is_empty() && !count_set {
        count = 1;
    }
    let devices = if devices.is_empty() { Value::Null } else { json!(devices) };
    Ok(
        json!({"Driver": driver, "Count": count, "DeviceIDs": devices, "Capabilities": [capabilities], "Options": options}),
    )
}

/// One line of comma-separated values with quotes, as Go's `encoding/csv` reads it.
pub(crate) fn csv(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        let mut field = String::new();
        if chars.peek() == Some(&'"') {
            chars.next();
            loop {
                match chars.next() {
                    Some('"') if chars.peek() == Some(&'"') => {
                        chars.next();
                        field.push('"');
                    }
                    Some('"') => break,
                    Some(c) => field.push(c),
                    None => {
                        return Err(format!(
                            "parse error on line 1, column {}: extraneous or missing \" in quoted-field",
                            text.len() + 1
                        ));
                    }
                }
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != ',') {
                if c == '"' {
                    return Err("parse error on line 1, column 1: bare \" in non-quoted-field".into());
                }
                field.push(c);
            }
        }
        fields.push(field);
        match chars.next() {
            None => return Ok(fields),
            Some(',') => {}
            Some(_) => return Err("parse error on line 1: extraneous or missing \" in quoted-field".into()),
        }
    }
}

/// A path made absolute against the working directory, `.` and `..` resolved by name.
pub(crate) fn absolute(path: &str) -> String {
    let base = std::env::current_dir().unwrap_or_default();
    clean(&base.join(path))
}

/// `.` and `..` resolved by name, as Go's `filepath.Clean` does for absolute paths.
pub(crate) fn clean(path: &Path) -> String {
    let mut out: Vec<String> = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => out.push(name.to_string_lossy().into_owned()),
            std::path::Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    format!("/{}", out.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_grammars() {
        assert_eq!(cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(cpus("0.1"), Ok(100_000_000));
        assert!(cpus("x").is_err());
        assert_eq!(ulimit("nofile=1:2").unwrap(), json!({"Name": "nofile", "Soft": 1, "Hard": 2}));
        assert_eq!(ulimit("foo=1"), Err("invalid ulimit type: foo".into()));
        assert!(ulimit("nofile=3:2").unwrap_err().ends_with("3 > 2"));
        assert_eq!(extra_host("a=::1"), Ok("a:::1".into()));
        assert_eq!(extra_host("a:1.2.3.4"), Ok("a:1.2.3.4".into()));
        assert!(extra_host("a").is_err() && extra_host("a:x").is_err());
        assert_eq!(restart_policy("on-failure:3").unwrap()["MaximumRetryCount"], 3);
        assert!(restart_policy("on-failure:x").is_err());
        assert_eq!(device("/dev/null:r").unwrap()["CgroupPermissions"], "r");
        assert_eq!(device("/dev/a:/dev/b:rw").unwrap()["PathInContainer"], "/dev/b");
        assert!(device("/dev/a:/dev/b:x").is_err());
        assert!(is_cdi("vendor.com/net=x") && !is_cdi("/dev/x=1"));
        assert_eq!(csv("a,\"b,c\",d=1"), Ok(vec!["a".into(), "b,c".into(), "d=1".into()]));
        assert_eq!(clean(Path::new("/a/../b/./c")), "/b/c");
        assert!(device_rule("c 1:* rwm").is_ok() && device_rule("x 1:1 r").is_err());
    }
}
