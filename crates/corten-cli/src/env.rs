//! The only place that reads the process environment.

use std::path::PathBuf;

/// What the environment says, read once at start.
#[derive(Debug, Clone, Default)]
pub(crate) struct Env {
    pub(crate) host: Option<String>,
    pub(crate) context: Option<String>,
    pub(crate) config_dir: Option<PathBuf>,
    pub(crate) cert_path: Option<PathBuf>,
    pub(crate) tls: bool,
    pub(crate) tls_verify: bool,
    pub(crate) api_version: Option<String>,
    pub(crate) default_platform: Option<String>,
    pub(crate) custom_headers: Option<String>,
    pub(crate) auth_config: Option<String>,
    pub(crate) home: PathBuf,
    /// `DOCKER_CONTENT_TRUST` asks for signed images; as with docker, what is no boolean does too.
    pub(crate) content_trust: bool,
    /// `NO_COLOR` is not set.
    pub(crate) colours: bool,
}

impl Env {
    /// Reads the environment; empty variables count as absent.
    pub(crate) fn read() -> Self {
        let home = text("HOME").map_or_else(home_from_passwd, PathBuf::from);
        Self {
            host: text("DOCKER_HOST"),
            context: text("DOCKER_CONTEXT"),
            config_dir: text("DOCKER_CONFIG").map(PathBuf::from),
            cert_path: text("DOCKER_CERT_PATH").map(PathBuf::from),
            tls: text("DOCKER_TLS").is_some(),
            tls_verify: text("DOCKER_TLS_VERIFY").is_some(),
            api_version: text("DOCKER_API_VERSION"),
            default_platform: text("DOCKER_DEFAULT_PLATFORM"),
            custom_headers: text("DOCKER_CUSTOM_HEADERS"),
            auth_config: text("DOCKER_AUTH_CONFIG"),
            home,
            content_trust: text("DOCKER_CONTENT_TRUST")
                .is_some_and(|v| crate::flags::parse_bool(&v).unwrap_or(true)),
            colours: text("NO_COLOR").is_none(),
        }
    }

    /// Where certificates are looked for.
    pub(crate) fn cert_dir(&self) -> PathBuf {
        self.cert_path.clone().unwrap_or_else(|| self.docker_dir())
    }

    /// `~/.docker`, or `DOCKER_CONFIG`.
    pub(crate) fn docker_dir(&self) -> PathBuf {
        self.config_dir.clone().unwrap_or_else(|| self.home.join(".docker"))
    }
}

/// A variable's value for `--env NAME`.
pub(crate) fn value_of(name: &str) -> Option<String> {
    std::env::var_os(name).map(|v| v.to_string_lossy().into_owned())
}

/// Variables with this prefix, for `--env-file` lines such as `LC_*`.
pub(crate) fn with_prefix(prefix: &str) -> Vec<String> {
    let all = std::env::vars_os()
        .map(|(k, v)| (k.to_string_lossy().into_owned(), v.to_string_lossy().into_owned()));
    all.filter(|(k, _)| k.starts_with(prefix)).map(|(k, v)| format!("{k}={v}")).collect()
}

fn text(name: &str) -> Option<String> {
    std::env::var_os(name).map(|v| v.to_string_lossy().into_owned()).filter(|v| !v.is_empty())
}

fn home_from_passwd() -> PathBuf {
    let uid = rustix::process::getuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let line = passwd.lines().find(|l| l.split(':').nth(2) == Some(uid.as_str()));
    line.and_then(|l| l.split(':').nth(5)).map_or_else(|| PathBuf::from("/"), PathBuf::from)
}
