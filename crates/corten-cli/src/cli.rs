//! What every command has at hand: settings, configuration, the client, and where its words go.

use std::cell::{OnceCell, RefCell};
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{anyhow, bail};
use corten_client::{Client, Endpoint, TlsFiles};

use crate::config::Config;
use crate::context::Contexts;
use crate::env::Env;
use crate::error::{Result, exit};
use crate::flags::Flags;
use crate::start;

/// Global flags.
#[derive(Debug, Clone, Default)]
pub(crate) struct Globals {
    pub(crate) host: Option<String>,
    pub(crate) context: Option<String>,
    pub(crate) config_dir: Option<PathBuf>,
    pub(crate) debug: bool,
    pub(crate) tls: bool,
    pub(crate) tls_verify: Option<bool>,
    pub(crate) tls_ca: Option<PathBuf>,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
}

/// The running command's surroundings.
#[derive(Debug)]
pub(crate) struct Cli {
    pub(crate) env: Env,
    pub(crate) globals: Globals,
    /// `docker run`: how the command was called, for messages.
    pub(crate) path: String,
    config: OnceCell<RefCell<Config>>,
    client: OnceCell<Client>,
}

/// Where a daemon of this user's own listens.
pub(crate) fn own_socket() -> std::path::PathBuf {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        return CORTEN_SOCKET.into();
    }
    corten_base::own::runtime_dir(uid.as_raw()).join("corten.sock")
}

/// Where the daemon of the machine listens.
pub(crate) const CORTEN_SOCKET: &str = "/run/corten/corten.sock";
/// Where everybody else's does.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";

impl Cli {
    pub(crate) fn new(env: Env, globals: Globals, path: String) -> Self {
        Self { env, globals, path, config: OnceCell::new(), client: OnceCell::new() }
    }

    /// Directory of the client's files.
    pub(crate) fn docker_dir(&self) -> PathBuf {
        self.globals.config_dir.clone().unwrap_or_else(|| self.env.docker_dir())
    }

    /// The configuration file. One that cannot be read is said so and counts as empty.
    pub(crate) fn config(&self) -> &RefCell<Config> {
        self.config.get_or_init(|| {
            let dir = self.docker_dir();
            RefCell::new(Config::load(&dir).unwrap_or_else(|e| {
                self.warn(&format!("WARNING: Error {e:#}"));
                Config::load(std::path::Path::new("/dev/null/none"))
                    .expect("an absent file is an empty configuration")
            }))
        })
    }

    /// The stored contexts.
    pub(crate) fn contexts(&self) -> Contexts {
        Contexts::new(&self.docker_dir())
    }

    /// Name of the context in force.
    pub(crate) fn context_name(&self) -> String {
        if let Some(name) = &self.globals.context {
            return name.clone();
        }
        if self.globals.host.is_some() {
            return "default".into();
        }
        if self.env.host.is_some() {
            return "default".into();
        }
        if let Some(name) = &self.env.context {
            return name.clone();
        }
        let current = self.config().borrow().text("currentContext").to_owned();
        if current.is_empty() { "default".into() } else { current }
    }

    fn tls_files(&self) -> Option<TlsFiles> {
        let verify = self.globals.tls_verify.unwrap_or(self.env.tls_verify);
        if !verify && !self.globals.tls && !self.env.tls {
            return None;
        }
        let dir = self.env.cert_dir();
        let pick = |given: &Option<PathBuf>, name: &str| {
            given.clone().or_else(|| Some(dir.join(name)).filter(|path| path.exists()))
        };
        Some(TlsFiles {
            ca: pick(&self.globals.tls_ca, "ca.pem"),
            cert: pick(&self.globals.tls_cert, "cert.pem"),
            key: pick(&self.globals.tls_key, "key.pem"),
            verify,
            server_name: None,
        })
    }

    /// Address of the daemon when nothing names one.
    pub(crate) fn default_host(&self) -> String {
        let docker = std::path::Path::new(DOCKER_SOCKET);
        let own = own_socket();
        let system = std::path::Path::new(CORTEN_SOCKET);
        // An ordinary user's own daemon comes before the system's, which may not be theirs to use.
        let usable = |p: &std::path::Path| rustix::fs::access(p, rustix::fs::Access::WRITE_OK).is_ok();
        let path = match [own.as_path(), system, docker].into_iter().find(|p| p.exists() && usable(p)) {
            Some(path) => path,
            None => own.as_path(),
        };
        format!("unix://{}", path.display())
    }

    /// Address of the daemon for a program that does not know ours, with the daemon started: where nothing (flag,
    /// environment, context) names another.
    pub(crate) fn implied_host(&self) -> Result<Option<String>> {
        if self.globals.host.is_some() || self.env.host.is_some() || self.context_name() != "default" {
            return Ok(None);
        }
        let host = self.default_host();
        start::ensure_daemon(self, &Endpoint::parse(&host, None)?)?;
        Ok(Some(host))
    }

    /// The client, connected at its first request.
    pub(crate) fn client(&self) -> Result<&Client> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = self.make_client()?;
        Ok(self.client.get_or_init(|| client))
    }

    fn make_client(&self) -> Result<Client> {
        if self.globals.host.is_some() && self.globals.context.is_some() {
            bail!("conflicting options: cannot specify both --host and --context");
        }
        let name = self.context_name();
        let endpoint = if name == "default" {
            match self.globals.host.clone().or_else(|| self.env.host.clone()) {
                Some(host) => {
                    Endpoint::parse(&expand_host(&host, self.tls_files().is_some()), self.tls_files())
                        .map_err(|e| {
                            anyhow!("Failed to initialize: unable to resolve docker endpoint: {e}")
                        })?
                }
                None => {
                    let endpoint = Endpoint::parse(&self.default_host(), None)?;
                    start::ensure_daemon(self, &endpoint)?;
                    endpoint
                }
            }
        } else {
            let context = self
                .contexts()
                .get(&name)
                .map_err(|e| anyhow!("Failed to initialize: unable to resolve docker endpoint: {e}"))?;
            Endpoint::parse(&context.host(), context.tls())?
        };
        let version = match &self.env.api_version {
            None => None,
            Some(text) => {
                let parsed = text
                    .trim_start_matches('v')
                    .split_once('.')
                    .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
                Some(parsed.ok_or_else(|| {
                    anyhow!("value of DOCKER_API_VERSION is not a valid API version: {text}")
                })?)
            }
        };
        let mut pairs: Vec<(String, String)> =
            self.config().borrow().texts("HttpHeaders").into_iter().collect();
        for pair in self.env.custom_headers.iter().flat_map(|h| h.split(',')) {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                anyhow!("failed to parse custom headers from DOCKER_CUSTOM_HEADERS environment variable: missing '=' in {pair:?}")
            })?;
            pairs.push((key.trim().to_owned(), value.to_owned()));
        }
        pairs.push(("User-Agent".into(), format!("Docker-Client/{} (linux)", crate::CLIENT_VERSION)));
        Ok(Client::new(endpoint, version, &pairs)?)
    }

    /// Writes to standard output; a closed pipe ends the program quietly.
    pub(crate) fn print(&self, text: &str) -> Result {
        self.write_out(text.as_bytes())
    }

    /// Writes a line to standard output.
    pub(crate) fn line(&self, text: &str) -> Result {
        self.write_out(format!("{text}\n").as_bytes())
    }

    /// Writes bytes to standard output.
    pub(crate) fn write_out(&self, bytes: &[u8]) -> Result {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| closed(&e))
    }

    /// Writes bytes to standard error.
    pub(crate) fn write_err(&self, bytes: &[u8]) -> Result {
        io::stderr().lock().write_all(bytes).map_err(|e| closed(&e))
    }

    /// Writes a line to standard error; that it cannot be written is nothing we could tell anybody.
    pub(crate) fn warn(&self, text: &str) {
        writeln!(io::stderr(), "{text}").ok();
    }

    /// The format to use: the flag's, or the configuration's default for this listing.
    pub(crate) fn format_for(&self, flags: &Flags, config_key: &str) -> String {
        let given = flags.text("format");
        if !given.is_empty() {
            return given.to_owned();
        }
        if flags.on("quiet") { String::new() } else { self.config().borrow().text(config_key).to_owned() }
    }

    /// `--platform`, or the environment's.
    pub(crate) fn platform(&self, flags: &Flags) -> String {
        match flags.text("platform") {
            "" => self.env.default_platform.clone().unwrap_or_default(),
            given => given.to_owned(),
        }
    }
}

fn closed(error: &io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => exit(141),
        _ => anyhow!("{error}"),
    }
}

/// `-H :2375`, `-H 1.2.3.4`, `-H tcp://`: what docker makes of short forms.
fn expand_host(host: &str, tls: bool) -> String {
    let port = if tls { 2376 } else { 2375 };
    match host.trim() {
        "" => format!("unix://{DOCKER_SOCKET}"),
        "tcp://" => format!("tcp://localhost:{port}"),
        "unix://" => format!("unix://{DOCKER_SOCKET}"),
        h if h.contains("://") => h.to_owned(),
        h if h.starts_with(':') => format!("tcp://localhost{h}"),
        h => format!("tcp://{h}"),
    }
}
