//! Flags and configuration file, read with one table and merged; what is in both is refused, as dockerd does.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::options::{Flag, Kind, OPTIONS};

/// The largest configuration file.
const MAX_FILE: u64 = 1 << 20;

/// What is wrong with flags or file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error(
        "unknown flag: {0}\n\nUsage:  corten daemon [OPTIONS]\n\nRun 'corten daemon --help' for more information"
    )]
    UnknownFlag(String),
    #[error("flag needs an argument: {0}")]
    NoArgument(String),
    #[error("invalid argument \"{value}\" for \"{flag}\" flag: {why}")]
    Argument { flag: String, value: String, why: String },
    #[error("\"corten daemon\" accepts no arguments.\n\nUsage:  corten daemon [OPTIONS]")]
    Positional,
    #[error("unable to configure the daemon with file {path}: {why}")]
    File { path: String, why: String },
    #[error("{0} is not supported by this daemon")]
    Unsupported(String),
    #[error("{0}")]
    Value(String),
}

/// The value of one option.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Bool(bool),
    Number(i64),
    Text(String),
    List(Vec<String>),
    Map(BTreeMap<String, String>),
    Json(Json),
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool(b) => write!(f, "{b}"),
            Self::Number(n) => write!(f, "{n}"),
            Self::Text(t) => f.write_str(t),
            Self::List(l) => write!(f, "[{}]", l.join(" ")),
            Self::Map(m) => {
                let all: Vec<String> = m.iter().map(|(k, v)| format!("{k}:{v}")).collect();
                write!(f, "map[{}]", all.join(" "))
            }
            Self::Json(j) => write!(f, "{j}"),
        }
    }
}

/// Everything that was said, by the option's name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    values: BTreeMap<&'static str, Value>,
}

fn name(option: &Flag) -> &'static str {
    if option.long.is_empty() { option.key } else { option.long }
}

impl Settings {
    /// Reads the command line.
    pub(crate) fn from_args(args: &[OsString]) -> Result<Self, SettingsError> {
        let mut settings = Self::default();
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            let text = arg.to_string_lossy();
            let (shown, inline, option) = split(&text)?;
            if option.kind == Kind::Bool {
                settings.put(option, &shown, inline.as_deref().unwrap_or("true"))?;
                continue;
            }
            let value = match inline {
                Some(value) => value,
                None => rest
                    .next()
                    .ok_or(SettingsError::NoArgument(shown.clone()))?
                    .to_string_lossy()
                    .into_owned(),
            };
            settings.put(option, &shown, &value)?;
        }
        Ok(settings)
    }

    fn put(&mut self, option: &'static Flag, shown: &str, text: &str) -> Result<(), SettingsError> {
        let wrong =
            |why: String| SettingsError::Argument { flag: shown.to_owned(), value: text.to_owned(), why };
        let value = match option.kind {
            Kind::Bool => Value::Bool(
                go_bool(text)
                    .ok_or_else(|| wrong(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")))?,
            ),
            Kind::Number => Value::Number(
                text.parse()
                    .map_err(|_| wrong(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))?,
            ),
            Kind::Text | Kind::Json => Value::Text(text.to_owned()),
            Kind::List => {
                let mut all = self.list(name(option)).to_vec();
                all.push(text.to_owned());
                Value::List(all)
            }
            Kind::Map => {
                let (k, v) = text.split_once('=').unwrap_or((text, ""));
                let mut all = self.map(name(option));
                all.insert(k.to_owned(), v.to_owned());
                Value::Map(all)
            }
        };
        self.values.insert(name(option), value);
        Ok(())
    }

    /// Adds what the file says. `must_exist`: the user named it.
    pub(crate) fn merge_file(mut self, path: &Path, must_exist: bool) -> Result<Self, SettingsError> {
        let wrong = |why: String| SettingsError::File { path: path.display().to_string(), why };
        let text = match std::fs::metadata(path) {
            Ok(meta) if meta.len() > MAX_FILE => return Err(wrong("it is larger than 1 MiB".into())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !must_exist => return Ok(self),
            _ => std::fs::read_to_string(path).map_err(|e| wrong(format!("open {}: {e}", path.display())))?,
        };
        // dockerd takes an empty file for an empty object.
        let text = text.trim().trim_start_matches('\u{feff}');
        let text = if text.is_empty() { "{}" } else { text };
        let map: Map<String, Json> =
            corten_wire::api::decode(text.as_bytes()).map_err(|e| wrong(e.to_string()))?;
        let mut unknown = Vec::new();
        let mut both = Vec::new();
        for (key, json) in map {
            let Some(option) = OPTIONS.iter().find(|o| o.key == key && !o.key.is_empty()) else {
                unknown.push(key);
                continue;
            };
            let value = from_json(option, json).map_err(&wrong)?;
            let flag_name = if option.long.is_empty() { flag_of(option.key) } else { option.long };
            match self.values.get(flag_name) {
                Some(flag) => both.push(format!("{key}: (from flag: {flag}, from file: {value})")),
                None => {
                    self.values.insert(name(option), value);
                }
            }
        }
        if !unknown.is_empty() {
            unknown.sort();
            return Err(wrong(format!(
                "the following directives don't match any configuration option: {}",
                unknown.join(", ")
            )));
        }
        if !both.is_empty() {
            return Err(wrong(format!(
                "the following directives are specified both as a flag and in the configuration file: {}",
                both.join(", ")
            )));
        }
        Ok(self)
    }

    /// Refuses what we know and do not do.
    pub(crate) fn refuse_unsupported(&self) -> Result<(), SettingsError> {
        for option in OPTIONS.iter().filter(|o| !o.is_supported()) {
            let harmless = match self.values.get(name(option)) {
                None | Some(Value::Bool(false) | Value::Number(0)) => true,
                Some(Value::Text(t)) => t.is_empty(),
                Some(Value::List(l)) => l.is_empty(),
                Some(Value::Json(j)) => j.as_object().is_some_and(Map::is_empty),
                Some(_) => false,
            };
            if !harmless {
                let shown =
                    if option.long.is_empty() { option.key.to_owned() } else { format!("--{}", option.long) };
                return Err(SettingsError::Unsupported(shown));
            }
        }
        Ok(())
    }

    /// Whether it was said at all.
    pub(crate) fn given(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// A switch.
    pub(crate) fn bool_or(&self, name: &str, default: bool) -> bool {
        match self.values.get(name) {
            Some(Value::Bool(b)) => *b,
            _ => default,
        }
    }

    /// A number.
    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        match self.values.get(name) {
            Some(Value::Number(n)) => Some(*n),
            _ => None,
        }
    }

    /// A text; `None` where it was not given or is empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.values.get(name) {
            Some(Value::Text(t)) => Some(t.as_str()).filter(|t| !t.is_empty()),
            _ => None,
        }
    }

    /// A path.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    /// A list.
    pub(crate) fn list(&self, name: &str) -> &[String] {
        match self.values.get(name) {
            Some(Value::List(l)) => l,
            _ => &[],
        }
    }

    /// A map.
    pub(crate) fn map(&self, name: &str) -> BTreeMap<String, String> {
        match self.values.get(name) {
            Some(Value::Map(m)) => m.clone(),
            _ => BTreeMap::new(),
        }
    }

    /// Any JSON of the file.
    pub(crate) fn json(&self, name: &str) -> Option<&Json> {
        match self.values.get(name) {
            Some(Value::Json(j)) => Some(j),
            _ => None,
        }
    }
}

/// The flag that says the same as a key which only the file has.
fn flag_of(key: &'static str) -> &'static str {
    match key {
        "default-address-pools" => "default-address-pool",
        "default-network-opts" => "default-network-opt",
        "host-gateway-ip" => "host-gateway-ip",
        "runtimes" => "add-runtime",
        other => other,
    }
}

/// The flag as shown, its `=value`, the option.
fn split(text: &str) -> Result<(String, Option<String>, &'static Flag), SettingsError> {
    let unknown = || SettingsError::UnknownFlag(text.split('=').next().unwrap_or_default().to_owned());
    if let Some(long) = text.strip_prefix("--") {
        let (long, inline) = match long.split_once('=') {
            Some((l, v)) => (l, Some(v.to_owned())),
            None => (long, None),
        };
        let option = OPTIONS.iter().find(|o| o.long == long && !long.is_empty()).ok_or_else(unknown)?;
        return Ok((format!("--{long}"), inline, option));
    }
    let Some(letter) = text.strip_prefix('-').and_then(|t| t.chars().next()) else {
        return Err(SettingsError::Positional);
    };
    let option = OPTIONS.iter().find(|o| o.short == Some(letter)).ok_or_else(unknown)?;
    let rest = text.get(1 + letter.len_utf8()..).unwrap_or_default();
    let inline = rest.strip_prefix('=').unwrap_or(rest);
    let shown = format!("-{letter}, --{}", option.long);
    Ok((shown, (!inline.is_empty()).then(|| inline.to_owned()), option))
}

fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn from_json(option: &Flag, json: Json) -> Result<Value, String> {
    let key = option.key;
    let text_of = |json: &Json| match json {
        Json::String(s) => Ok(s.clone()),
        _ => Err(format!("{key}: texts are expected")),
    };
    match (option.kind, json) {
        (Kind::Bool, Json::Bool(b)) => Ok(Value::Bool(b)),
        (Kind::Number, Json::Number(n)) => {
            n.as_i64().map(Value::Number).ok_or(format!("{key}: not a whole number"))
        }
        (Kind::Text, Json::String(s)) => Ok(Value::Text(s)),
        // Sizes may be written as numbers.
        (Kind::Text, Json::Number(n)) => Ok(Value::Text(n.to_string())),
        (Kind::List, Json::Array(a)) => Ok(Value::List(a.iter().map(text_of).collect::<Result<_, _>>()?)),
        (Kind::Map, Json::Object(o)) => Ok(Value::Map(
            o.iter()
                .map(|(k, v)| match v {
                    // default-ulimits: {"nofile": {"Name": …, "Soft": …, "Hard": …}}
                    Json::Object(limit) => {
                        let side = |n: &str| limit.get(n).and_then(Json::as_i64).unwrap_or_default();
                        Ok((k.clone(), format!("{}:{}", side("Soft"), side("Hard"))))
                    }
                    other => text_of(other).map(|t| (k.clone(), t)),
                })
                .collect::<Result<_, String>>()?,
        )),
        (Kind::Json, json) => Ok(Value::Json(json)),
        (kind, _) => Err(format!("{key}: {kind:?} is expected").to_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(list: &[&str]) -> Result<Settings, SettingsError> {
        Settings::from_args(&list.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn forms_of_flags() {
        let s = args(&[
            "-H",
            "unix:///a",
            "-Htcp://b:1",
            "-D",
            "--icc=false",
            "--log-opt",
            "max-size=1m",
            "--mtu=9000",
        ])
        .unwrap();
        assert_eq!(s.list("host"), ["unix:///a", "tcp://b:1"]);
        assert!(s.bool_or("debug", false) && !s.bool_or("icc", true));
        assert_eq!(s.map("log-opt")["max-size"], "1m");
        assert_eq!(s.number("mtu"), Some(9000));
        for (bad, want) in [
            (&["--bogus"][..], "unknown flag: --bogus"),
            (&["--bip"], "flag needs an argument: --bip"),
            (
                &["--debug=x"],
                "invalid argument \"x\" for \"--debug\" flag: strconv.ParseBool: parsing \"x\": invalid syntax",
            ),
            (&["extra"], "\"corten daemon\" accepts no arguments."),
        ] {
            let text = args(bad).unwrap_err().to_string();
            assert!(text.starts_with(want), "{text}");
        }
        assert_eq!(
            args(&["--authorization-plugin=x"]).unwrap().refuse_unsupported().unwrap_err().to_string(),
            "--authorization-plugin is not supported by this daemon"
        );
    }

    #[test]
    fn the_file() {
        let path = std::env::temp_dir().join(format!("corten-daemon-{}.json", std::process::id()));
        let merge = |flags: &[&str], text: &str| {
            std::fs::write(&path, text).unwrap();
            args(flags).unwrap().merge_file(&path, true).map_err(|e| e.to_string())
        };
        let s = merge(&[], r#"{"hosts":["fd://"],"log-opts":{"max-file":"2"},"default-ulimits":{"nofile":{"Soft":1,"Hard":2}}}"#).unwrap();
        assert_eq!(s.list("host"), ["fd://"]);
        assert_eq!(s.map("default-ulimit")["nofile"], "1:2");
        let text = merge(&["--debug"], r#"{"debug":false}"#).unwrap_err();
        assert!(text.ends_with("the following directives are specified both as a flag and in the configuration file: debug: (from flag: true, from file: false)"), "{text}");
        assert!(
            merge(&[], r#"{"zzz":1,"aaa":2}"#)
                .unwrap_err()
                .ends_with("the following directives don't match any configuration option: aaa, zzz")
        );
        assert!(merge(&[], r#"{"debug":"yes"}"#).is_err());
        assert!(merge(&[], "{nope").unwrap_err().contains("invalid character 'n'"));
        std::fs::remove_file(&path).unwrap();
        assert!(args(&[]).unwrap().merge_file(&path, true).is_err());
        assert!(args(&[]).unwrap().merge_file(&path, false).is_ok());
    }
}
