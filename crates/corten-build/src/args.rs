//! Build arguments and their scopes.
//!
//! `--build-arg` values count only where an `ARG` names them; the proxy variables always. An `ARG` before the first
//! `FROM` is visible in `FROM` lines, and in a stage that repeats its name.

use std::collections::{BTreeMap, BTreeSet};

use corten_base::Platform;

/// Always allowed, and not part of the history.
const PREDEFINED: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// All arguments of one build.
#[derive(Debug, Clone, Default)]
pub(crate) struct Args {
    given: BTreeMap<String, Option<String>>,
    meta: BTreeMap<String, Option<String>>,
    stage: BTreeMap<String, Option<String>>,
    used: BTreeSet<String>,
    platform: BTreeMap<String, String>,
}

impl Args {
    pub(crate) fn new(given: BTreeMap<String, Option<String>>, target: &Platform) -> Self {
        let mut platform = BTreeMap::new();
        for (prefix, p) in [("TARGET", target), ("BUILD", &Platform::host())] {
            platform.insert(format!("{prefix}PLATFORM"), p.to_string());
            platform.insert(format!("{prefix}OS"), p.os.clone());
            platform.insert(format!("{prefix}ARCH"), p.architecture.clone());
            platform.insert(format!("{prefix}VARIANT"), p.variant.clone());
        }
        Self { given, platform, ..Self::default() }
    }

    /// An `ARG` before the first `FROM`.
    pub(crate) fn add_meta(&mut self, name: &str, default: Option<String>) {
        self.used.insert(name.to_owned());
        self.meta.insert(name.to_owned(), default);
    }

    /// An `ARG` in a stage.
    pub(crate) fn add(&mut self, name: &str, default: Option<String>) {
        self.used.insert(name.to_owned());
        self.stage.insert(name.to_owned(), default);
    }

    /// The arguments of the stage that this one stands on.
    pub(crate) fn inherit(&mut self, base: Self) {
        self.stage = base.stage;
        self.used.extend(base.used);
    }

    /// A stage is over: its arguments are not those of the next.
    pub(crate) fn end_stage(&mut self) {
        self.stage.clear();
    }

    /// Value in `FROM` lines and in defaults of other such arguments.
    pub(crate) fn meta_value(&self, name: &str) -> Option<String> {
        match self.meta.get(name) {
            Some(default) => self.given.get(name).cloned().flatten().or_else(|| default.clone()),
            None => self.platform.get(name).cloned(),
        }
    }

    fn value(&self, name: &str) -> Option<String> {
        if let Some(Some(given)) = self.given.get(name) {
            return Some(given.clone());
        }
        match self.stage.get(name) {
            Some(Some(default)) => Some(default.clone()),
            _ => self.meta_value(name),
        }
    }

    /// The arguments in force, without those that the environment already has.
    pub(crate) fn in_force(&self, env: &[String]) -> BTreeMap<String, String> {
        let is_set = |name: &str| env.iter().any(|e| e.split('=').next() == Some(name));
        let predefined = PREDEFINED.iter().copied().filter(|p| self.given.contains_key(*p));
        self.stage
            .keys()
            .map(String::as_str)
            .chain(predefined)
            .filter(|name| !is_set(name))
            .filter_map(|name| Some((name.to_owned(), self.value(name)?)))
            .collect()
    }

    /// Whether an argument is part of the history and the cache key.
    pub(crate) fn is_recorded(&self, name: &str) -> bool {
        self.stage.contains_key(name) || !PREDEFINED.contains(&name)
    }

    /// Names given but never asked for.
    pub(crate) fn unused(&self) -> Vec<&str> {
        let is_unused = |n: &&String| !self.used.contains(*n) && !PREDEFINED.contains(&n.as_str());
        self.given.keys().filter(is_unused).map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes() {
        let given = [("Y", Some("yy")), ("NOPE", Some("1")), ("HTTP_PROXY", Some("p")), ("V", Some("other"))];
        let given = given.map(|(k, v)| (k.to_owned(), v.map(str::to_owned))).into();
        let mut args = Args::new(given, &Platform::host());
        args.add_meta("V", Some("golden".into()));
        args.add_meta("W", Some("w".into()));
        assert_eq!(args.meta_value("V").as_deref(), Some("other"));
        assert_eq!(args.meta_value("Y"), None);
        assert_eq!(args.in_force(&[]).into_iter().collect::<Vec<_>>(), [("HTTP_PROXY".into(), "p".into())]);
        args.add("Y", None);
        args.add("X", Some("d".into()));
        args.add("W", None);
        args.add("TARGETOS", None);
        let env = args.in_force(&["X=env".to_owned()]);
        assert_eq!(env.get("Y").map(String::as_str), Some("yy"));
        assert_eq!(env.get("W").map(String::as_str), Some("w"));
        assert_eq!(env.get("TARGETOS").map(String::as_str), Some("linux"));
        assert_eq!(env.get("X"), None, "the environment wins");
        assert!(!args.is_recorded("HTTP_PROXY"));
        assert_eq!(args.unused(), ["NOPE"]);
        args.end_stage();
        assert_eq!(args.in_force(&[]).len(), 1);
    }
}
