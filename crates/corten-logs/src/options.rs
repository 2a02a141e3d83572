//! Options of log drivers, checked when a container is created.
//!
//! COMPAT: names, defaults and texts are Docker's. Some of its drivers check a value only when the container starts;
//! here everything that can be known is checked at once.

use corten_base::units;
use corten_wire::api::TextMap;
use corten_wire::shim::LogDriver;

use crate::driver::{Receiver, fluentd, gelf, syslog};
use crate::error::{LogError, bad};
use crate::info::{Info, regex};

/// All drivers, as `GET /info` lists them.
pub const DRIVERS: &[&str] = &["fluentd", "gelf", "journald", "json-file", "local", "none", "syslog"];

/// Docker's buffer of `mode=non-blocking`.
const DEFAULT_BUFFER: u64 = 1 << 20;

/// A driver with its options.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the shim does with output.
    pub driver: LogDriver,
    /// Rotate before the file grows over this.
    pub max_size: Option<u64>,
    /// How many files are kept.
    pub max_file: u32,
    /// Compress rotated files.
    pub compress: bool,
    /// Whether `docker logs` may read the files.
    pub readable: bool,
    /// The container waits where files would go that are not delivered yet (`mode=blocking`, said explicitly).
    pub hold: bool,
    /// Undelivered bytes beyond this are skipped.
    pub(crate) max_lag: Option<u64>,
    pub(crate) receiver: Option<Receiver>,
}

impl Options {
    /// Checks a driver and its options.
    ///
    /// # Errors
    /// Unknown driver or option, bad value.
    pub fn parse(driver: &str, options: &TextMap) -> Result<Self, LogError> {
        if driver == "none" {
            return Ok(Self::files(LogDriver::None, None, 1, false));
        }
        let mode = mode(options)?;
        if !DRIVERS.contains(&driver) {
            return Err(bad(format!("logger: no log driver named '{driver}' is registered")));
        }
        let cache = cache(options)?;
        let known = |names: &[&str]| {
            let common = ["labels", "labels-regex", "env", "env-regex", "tag"];
            let of_all = ["mode", "max-buffer-size"];
            let mut names = of_all.iter().chain(names);
            let names: Vec<&str> = names.by_ref().copied().collect();
            options.keys().map(String::as_str).find(|key| {
                let cache = key.starts_with("cache-") && CACHE.contains(key);
                !(names.contains(key) || cache || driver != "local" && common.contains(key))
            })
        };
        let unknown = |key: &str| match driver {
            "local" => bad(format!("unknown log opt '{key}' for log driver local")),
            "gelf" => bad(format!("unknown log opt {key:?} for gelf log driver")),
            _ => bad(format!("unknown log opt '{key}' for {driver} log driver")),
        };
        let names: &[&str] = match driver {
            "json-file" | "local" => &["max-size", "max-file", "compress"],
            "syslog" => syslog::OPTIONS,
            "fluentd" => fluentd::OPTIONS,
            "gelf" => gelf::OPTIONS,
            _ => &[],
        };
        if let Some(key) = known(names) {
            return Err(unknown(key));
        }
        for key in ["labels-regex", "env-regex"] {
            options.get(key).map(|pattern| regex(key, pattern)).transpose()?;
        }
        let receiver = match driver {
            "json-file" => return json_file(options),
            "local" => return local(options, ""),
            "syslog" => Receiver::Syslog(syslog::Options::parse(options)?),
            "fluentd" => Receiver::Fluentd(fluentd::Options::parse(options)?),
            "gelf" => Receiver::Gelf(gelf::Options::parse(options)?),
            _ => Receiver::Journald,
        };
        let max_lag = match (&mode, &receiver) {
            (Mode::NonBlocking(buffer), _) => Some(*buffer),
            (_, Receiver::Fluentd(fluentd)) => fluentd.buffer_limit,
            _ => None,
        };
        Ok(Self {
            readable: !cache,
            hold: mode == Mode::Blocking,
            max_lag,
            receiver: Some(receiver),
            ..local(options, "cache-")?
        })
    }

    /// Checks what is true only now: whether a socket that is named exists.
    ///
    /// # Errors
    /// It does not.
    pub fn check_host(&self) -> Result<(), LogError> {
        match &self.receiver {
            Some(Receiver::Syslog(options)) => options.check_socket(),
            _ => Ok(()),
        }
    }

    fn files(driver: LogDriver, max_size: Option<u64>, max_file: u32, compress: bool) -> Self {
        Self {
            driver,
            max_size,
            max_file,
            compress,
            readable: driver != LogDriver::None,
            hold: false,
            max_lag: None,
            receiver: None,
        }
    }

    /// Whether somebody besides the files gets the output.
    #[must_use]
    pub fn has_receiver(&self) -> bool {
        self.receiver.is_some()
    }

    /// What the shim puts into each record.
    ///
    /// # Errors
    /// A template that cannot be used.
    pub fn record_attributes(&self, info: &Info) -> Result<TextMap, LogError> {
        if self.driver != LogDriver::JsonFile || self.has_receiver() {
            return Ok(TextMap::new());
        }
        let mut chosen = info.attributes(str::to_owned)?;
        let tag = info.tag("")?;
        if !tag.is_empty() {
            chosen.insert("tag".into(), tag);
        }
        Ok(chosen)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Mode {
    /// Not said.
    Usual,
    Blocking,
    NonBlocking(u64),
}

fn mode(options: &TextMap) -> Result<Mode, LogError> {
    let mode = match options.get("mode").map(String::as_str) {
        None | Some("") => Mode::Usual,
        Some("blocking") => Mode::Blocking,
        Some("non-blocking") => Mode::NonBlocking(DEFAULT_BUFFER),
        Some(other) => return Err(bad(format!("logger: logging mode not supported: {other}"))),
    };
    let Some(size) = options.get("max-buffer-size") else { return Ok(mode) };
    if !matches!(mode, Mode::NonBlocking(_)) {
        return Err(bad("logger: max-buffer-size option is only supported with 'mode=non-blocking'"));
    }
    let bytes = units::ram_in_bytes(size).and_then(|n| u64::try_from(n).ok());
    let bytes =
        bytes.ok_or_else(|| bad(format!("error parsing option max-buffer-size: invalid size: '{size}'")))?;
    Ok(Mode::NonBlocking(bytes))
}

const CACHE: &[&str] = &["cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"];

/// Whether the cache is switched off.
fn cache(options: &TextMap) -> Result<bool, LogError> {
    match options.get("cache-disabled").filter(|v| !v.is_empty()) {
        None => Ok(false),
        Some(text) => {
            boolean(text).ok_or_else(|| bad(format!("invalid value for option cache-disabled: {text}")))
        }
    }
}

/// Go's `strconv.ParseBool`.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A boolean option, absent is false.
pub(crate) fn flag(options: &TextMap, key: &str) -> Result<bool, LogError> {
    match options.get(key).filter(|v| !v.is_empty()) {
        None => Ok(false),
        Some(text) => boolean(text).ok_or_else(|| syntax("ParseBool", text)),
    }
}

/// Go's text for what a number or boolean cannot be read from.
pub(crate) fn syntax(function: &str, text: &str) -> LogError {
    bad(format!("strconv.{function}: parsing {text:?}: invalid syntax"))
}

/// COMPAT: json-file counts in powers of ten, and rotates only if asked to.
fn json_file(options: &TextMap) -> Result<Options, LogError> {
    let max_size = match options.get("max-size").map(String::as_str) {
        None | Some("-1") => None,
        Some(text) => {
            let bytes = units::from_human_size(text).ok_or_else(|| bad(format!("invalid size: '{text}'")))?;
            Some(positive(bytes).ok_or_else(|| bad("max-size must be a positive number"))?)
        }
    };
    let max_file = match options.get("max-file") {
        None => 1,
        Some(text) => match text.parse::<i64>() {
            Err(_) => return Err(syntax("Atoi", text)),
            Ok(n) if n < 1 => return Err(bad("max-file cannot be less than 1")),
            Ok(n) => u32::try_from(n).unwrap_or(u32::MAX),
        },
    };
    let compress = flag(options, "compress")?;
    if compress && (max_file < 2 || max_size.is_none()) {
        return Err(bad("compress cannot be true when max-file is less than 2 or max-size is not set"));
    }
    Ok(Options::files(LogDriver::JsonFile, max_size, max_file, compress))
}

/// Rotates and compresses unless told otherwise. `prefix` is `cache-` where the files only back a receiver.
fn local(options: &TextMap, prefix: &str) -> Result<Options, LogError> {
    let get = |key: &str| options.get(&format!("{prefix}{key}")).map(|v| v.as_str());
    let max_size = match get("max-size") {
        None => 20 << 20,
        Some(text) => {
            let bytes = units::ram_in_bytes(text)
                .ok_or_else(|| bad(format!("invalid value for max-size: {text}: invalid size: '{text}'")))?;
            positive(bytes).ok_or_else(|| bad("max-size must be a positive number"))?
        }
    };
    let max_file = match get("max-file") {
        None => 5,
        Some(text) => {
            let number: i64 = text.parse().map_err(|_| {
                bad(format!(
                    "invalid value for max-file: {text}: strconv.Atoi: parsing {text:?}: invalid syntax"
                ))
            })?;
            positive(number).ok_or_else(|| bad("max-file must be a positive number"))?
        }
    };
    let compress = match get("compress") {
        None => true,
        Some(text) => boolean(text).ok_or_else(|| {
            bad(format!(
                "error reading compress log option: strconv.ParseBool: parsing {text:?}: invalid syntax"
            ))
        })?,
    };
    let max_file = u32::try_from(max_file).unwrap_or(u32::MAX);
    let driver = if prefix.is_empty() { LogDriver::Local } else { LogDriver::JsonFile };
    Ok(Options::files(driver, Some(max_size), max_file, compress && max_file > 1))
}

fn positive(number: i64) -> Option<u64> {
    u64::try_from(number).ok().filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(driver: &str, options: &[(&str, &str)]) -> Result<Options, String> {
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Options::parse(driver, &options).map_err(|e| e.to_string())
    }

    #[test]
    fn files() {
        let of = |driver, options: &[(&str, &str)]| {
            let o = parse(driver, options).unwrap();
            (o.max_size, o.max_file, o.compress)
        };
        assert_eq!(of("json-file", &[]), (None, 1, false));
        assert_eq!(of("json-file", &[("max-size", "1m"), ("max-file", "2")]), (Some(1_000_000), 2, false));
        assert_eq!(of("local", &[]), (Some(20 << 20), 5, true));
        assert_eq!(of("local", &[("max-size", "1m"), ("max-file", "1")]), (Some(1 << 20), 1, false));
        let cached = [("cache-max-size", "1m"), ("cache-max-file", "2"), ("cache-compress", "false")];
        assert_eq!(of("journald", &cached), (Some(1 << 20), 2, false));
        assert_eq!(of("journald", &[]), (Some(20 << 20), 5, true));
    }

    #[test]
    fn modes() {
        let usual = parse("journald", &[]).unwrap();
        assert_eq!((usual.hold, usual.max_lag, usual.readable), (false, None, true));
        assert!(parse("journald", &[("mode", "blocking")]).unwrap().hold);
        let lag = |options: &[(&str, &str)]| parse("journald", options).unwrap().max_lag;
        assert_eq!(lag(&[("mode", "non-blocking")]), Some(1 << 20));
        assert_eq!(lag(&[("mode", "non-blocking"), ("max-buffer-size", "4m")]), Some(4 << 20));
        assert!(!parse("journald", &[("cache-disabled", "true")]).unwrap().readable);
    }

    #[test]
    fn refusals_are_dockers() {
        for (driver, options, text) in [
            ("splunk", &[][..], "logger: no log driver named 'splunk' is registered"),
            ("json-file", &[("bogus", "1")], "unknown log opt 'bogus' for json-file log driver"),
            ("local", &[("tag", "x")], "unknown log opt 'tag' for log driver local"),
            ("syslog", &[("max-size", "1m")], "unknown log opt 'max-size' for syslog log driver"),
            ("journald", &[("x", "1m")], "unknown log opt 'x' for journald log driver"),
            ("gelf", &[("x", "1m")], "unknown log opt \"x\" for gelf log driver"),
            ("fluentd", &[("x", "1m")], "unknown log opt 'x' for fluentd log driver"),
            ("json-file", &[("mode", "x")], "logger: logging mode not supported: x"),
            (
                "json-file",
                &[("max-buffer-size", "1m")],
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ),
            (
                "json-file",
                &[("max-buffer-size", "x"), ("mode", "non-blocking")],
                "error parsing option max-buffer-size: invalid size: 'x'",
            ),
            ("json-file", &[("max-size", "abc")], "invalid size: 'abc'"),
            ("json-file", &[("max-size", "0")], "max-size must be a positive number"),
            ("json-file", &[("max-file", "0")], "max-file cannot be less than 1"),
            (
                "json-file",
                &[("compress", "true")],
                "compress cannot be true when max-file is less than 2 or max-size is not set",
            ),
            ("local", &[("max-file", "0")], "max-file must be a positive number"),
            ("local", &[("max-size", "x")], "invalid value for max-size: x: invalid size: 'x'"),
            ("journald", &[("cache-disabled", "x")], "invalid value for option cache-disabled: x"),
        ] {
            assert_eq!(parse(driver, options).map(|_| ()).unwrap_err(), text);
        }
        assert!(parse("none", &[("anything", "goes")]).is_ok(), "as in Docker");
    }
}
