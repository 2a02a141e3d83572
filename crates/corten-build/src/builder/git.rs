//! Git repositories as contexts and as sources of `ADD`, by the machine's git program.
//!
//! INVARIANT: nothing of the repository or of the machine's users decides what git runs: no configuration but ours, no
//! hooks, no prompts, and submodules come over the network only. Tokens travel in the environment of the program,
//! which no other user can read, not in its arguments.

pub(crate) mod address;

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use corten_base::{Cancel, Id};
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process_group};

use self::address::{GitAddress, without_secrets};
use super::{Inner, Work, tree};
use crate::dockerfile::go_quote;
use crate::error::{At, BuildError};
use crate::solve::BuildClient;

/// What is kept of what the program says.
const SAID: usize = 64 << 10;
/// Time between two looks at the program.
const LOOK: Duration = Duration::from_millis(20);

/// What came of a repository.
pub(crate) struct Checkout {
    pub(crate) commit: String,
    /// Below the build's directory: the part that is wanted.
    pub(crate) path: String,
}

/// A way to bring repositories for one build.
pub(crate) struct Git<'a> {
    pub(crate) inner: &'a Inner,
    pub(crate) work: &'a Work,
    /// Has tokens and agents.
    pub(crate) client: Option<&'a dyn BuildClient>,
    pub(crate) cancel: &'a Cancel,
}

impl Git<'_> {
    /// Checks a repository out into a directory `name` of the build; `keep` keeps its `.git`.
    pub(crate) fn checkout(
        &self,
        address: &GitAddress,
        name: &str,
        keep: bool,
        output: &dyn Fn(&[u8]),
    ) -> Result<Checkout, BuildError> {
        self.work.directory(name)?;
        let run = Run {
            directory: self.work.path.join(name),
            environment: self.environment(address)?,
            cancel: self.cancel,
            output,
        };
        let access = self.agent(address)?;
        let run = Run { environment: [run.environment, access.environment()].concat(), ..run };
        run.git(&["init", "--quiet"])?;
        run.git(&["remote", "add", "origin", &address.remote])?;
        let reference = if address.reference.is_empty() { "HEAD" } else { &address.reference };
        self.fetch(&run, address, reference)?;
        let commit = run.git(&["rev-parse", "HEAD"])?.trim().to_owned();
        if !address.checksum.is_empty() && !commit.starts_with(&address.checksum) {
            let message = format!("expected checksum to match {}, got {commit}", address.checksum);
            return Err(BuildError::invalid(message));
        }
        if address.submodules && run.directory.join(".gitmodules").exists() {
            run.git(&["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"])?;
        }
        if !address.keep_git_dir.unwrap_or(keep) {
            let git = run.directory.join(".git");
            std::fs::remove_dir_all(&git).at("remove", ".git")?;
        }
        let wanted = tree::clean(&address.subdirectory)
            .ok_or_else(|| BuildError::invalid(format!("invalid subdir {}", address.subdirectory)))?;
        let root = self.work.directory(name)?;
        let found = tree::open(root.as_fd(), &wanted, OFlags::RDONLY | OFlags::DIRECTORY);
        found.map_err(|_| {
            BuildError::NoSource(format!("subdir {} not found in repository", address.subdirectory))
        })?;
        let path = if wanted.is_empty() { name.to_owned() } else { format!("{name}/{wanted}") };
        Ok(Checkout { commit, path })
    }

    /// The commit alone where the server gives it so, else everything it has.
    fn fetch(&self, run: &Run<'_>, address: &GitAddress, reference: &str) -> Result<(), BuildError> {
        let shown = |e: BuildError| match e {
            BuildError::Client(said) => BuildError::Client(format!(
                "failed to fetch remote {}: {said}",
                without_secrets(&address.remote)
            )),
            other => other,
        };
        let one = run.git(&["fetch", "--quiet", "--no-tags", "--force", "--depth=1", "origin", reference]);
        match one {
            Ok(_) => {
                run.git(&["checkout", "--quiet", "--force", "--detach", "FETCH_HEAD"])?;
                return Ok(());
            }
            Err(BuildError::Cancelled) => return Err(BuildError::Cancelled),
            Err(e) => {
                let is_commit =
                    (7..=64).contains(&reference.len()) && reference.bytes().all(|b| b.is_ascii_hexdigit());
                let said = e.to_string();
                if !is_commit && !said.contains("shallow") && !said.contains("--depth") {
                    return Err(shown(e));
                }
            }
        }
        let all = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
        run.git(&["fetch", "--quiet", "--force", "origin", all[0], all[1]]).map_err(shown)?;
        let candidates = match reference {
            "HEAD" => {
                run.git(&["remote", "set-head", "origin", "--auto"]).map_err(shown)?;
                vec!["refs/remotes/origin/HEAD".to_owned()]
            }
            name => vec![
                format!("refs/tags/{name}"),
                format!("refs/remotes/origin/{}", name.trim_start_matches("refs/heads/")),
                name.to_owned(),
            ],
        };
        for candidate in candidates {
            let target = format!("{candidate}^{{commit}}");
            if let Ok(commit) = run.git(&["rev-parse", "--verify", "--quiet", "--end-of-options", &target]) {
                run.git(&["checkout", "--quiet", "--force", "--detach", commit.trim()])?;
                return Ok(());
            }
        }
        Err(BuildError::Client(format!(
            "repository does not contain ref {reference}, output: {}",
            go_quote("")
        )))
    }

    /// Configuration, and what the client's tokens say.
    fn environment(&self, address: &GitAddress) -> Result<Vec<(String, String)>, BuildError> {
        let mut config = vec![
            ("protocol.file.allow".to_owned(), "never".to_owned()),
            ("protocol.ext.allow".to_owned(), "never".to_owned()),
            ("core.hooksPath".to_owned(), "/dev/null".to_owned()),
            ("core.fsmonitor".to_owned(), "false".to_owned()),
            ("advice.detachedHead".to_owned(), "false".to_owned()),
        ];
        let web = address.remote.split_once("://").filter(|(scheme, _)| scheme.starts_with("http"));
        if let (Some((scheme, rest)), Some(client)) = (web, self.client) {
            let authority = rest.split('/').next().unwrap_or_default();
            let authority = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
            if let Some(header) = authorization(client, address.host())? {
                let key = format!("http.{scheme}://{authority}/.extraheader");
                config.push((key, format!("Authorization: {header}")));
            }
        }
        let mut environment = vec![("GIT_CONFIG_COUNT".to_owned(), config.len().to_string())];
        for (n, (key, value)) in config.into_iter().enumerate() {
            environment.push((format!("GIT_CONFIG_KEY_{n}"), key));
            environment.push((format!("GIT_CONFIG_VALUE_{n}"), value));
        }
        Ok(environment)
    }

    /// The client's ssh agent, where the repository is behind ssh and the client forwards one.
    fn agent(&self, address: &GitAddress) -> Result<Access, BuildError> {
        use std::os::unix::fs::DirBuilderExt;
        let Some(client) = self.client.filter(|_| address.is_ssh()) else { return Ok(Access::default()) };
        let directory = self.inner.private.join(Id::random().short());
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.at("mkdir", directory.as_os_str().as_encoded_bytes())?;
        let mut access = Access { directory: Some(directory.clone()), agent: None };
        let socket = directory.join("agent");
        let listener = std::os::unix::net::UnixListener::bind(&socket).at("bind", "ssh agent")?;
        access.agent = client.ssh("default", listener)?;
        Ok(access)
    }
}

/// The value of `Authorization` that the client's secrets give.
fn authorization(client: &dyn BuildClient, host: &str) -> Result<Option<String>, BuildError> {
    let text = |secret: Vec<u8>| String::from_utf8_lossy(&secret).trim().to_owned();
    for suffix in [format!(".{host}"), String::new()] {
        if let Some(header) = client.secret(&format!("GIT_AUTH_HEADER{suffix}"))? {
            return Ok(Some(text(header)));
        }
        if let Some(token) = client.secret(&format!("GIT_AUTH_TOKEN{suffix}"))? {
            let pair = format!("x-access-token:{}", text(token));
            return Ok(Some(format!("basic {}", base64::engine::general_purpose::STANDARD.encode(pair))));
        }
    }
    Ok(None)
}

/// A socket to the client's agent; it goes with its directory.
#[derive(Default)]
struct Access {
    directory: Option<PathBuf>,
    agent: Option<Box<dyn Send>>,
}

impl Access {
    fn environment(&self) -> Vec<(String, String)> {
        match (&self.directory, &self.agent) {
            (Some(directory), Some(_)) => {
                vec![("SSH_AUTH_SOCK".to_owned(), directory.join("agent").to_string_lossy().into_owned())]
            }
            _ => Vec::new(),
        }
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        self.agent = None;
        if let Some(directory) = &self.directory
            && let Err(e) = std::fs::remove_dir_all(directory)
        {
            tracing::warn!(error = %e, "could not remove the socket of an agent");
        }
    }
}

/// Runs the program.
struct Run<'a> {
    directory: PathBuf,
    environment: Vec<(String, String)>,
    cancel: &'a Cancel,
    output: &'a dyn Fn(&[u8]),
}

impl Run<'_> {
    /// What it printed. What it complained about is the error's text.
    fn git(&self, args: &[&str]) -> Result<String, BuildError> {
        let mut command = Command::new("git");
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("GIT_") || text.starts_with("SSH_") {
                command.env_remove(&name);
            }
        }
        let ssh = "ssh -F /dev/null -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
                   -o BatchMode=yes";
        command
            .args(args)
            .current_dir(&self.directory)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_SSH_COMMAND", ssh)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CEILING_DIRECTORIES", self.directory.parent().unwrap_or(Path::new("/")))
            .env("HOME", "/dev/null")
            .env("LC_ALL", "C")
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // What it starts ends with it.
            .process_group(0);
        let mut child = command.spawn().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => BuildError::Client(
                "git repositories need the git program: exec: \"git\": executable file not found in $PATH"
                    .into(),
            ),
            _ => BuildError::Io { operation: "start", path: "git".into(), source: e },
        })?;
        let group = Pid::from_child(&child);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (printed, said, status) = std::thread::scope(|scope| {
            let printed = scope.spawn(|| kept(stdout));
            let said = scope.spawn(|| kept(stderr));
            let status = loop {
                match child.try_wait() {
                    Ok(None) if self.cancel.is_cancelled() => {
                        kill_process_group(group, Signal::KILL).ok();
                        break child.wait();
                    }
                    Ok(None) => std::thread::sleep(LOOK),
                    Ok(Some(status)) => break Ok(status),
                    Err(e) => break Err(e),
                }
            };
            let text = |kept: std::thread::ScopedJoinHandle<'_, Vec<u8>>| {
                String::from_utf8_lossy(&kept.join().unwrap_or_default()).into_owned()
            };
            (text(printed), text(said), status)
        });
        if self.cancel.is_cancelled() {
            return Err(BuildError::Cancelled);
        }
        if !said.is_empty() {
            (self.output)(said.as_bytes());
        }
        let status = status.at("wait for", "git")?;
        match status.success() {
            true => Ok(printed),
            false => Err(BuildError::Client(format!(
                "git stderr:\n{said}: exit status {}",
                status.code().unwrap_or(-1)
            ))),
        }
    }
}

/// Reads to the end; only the beginning is kept.
fn kept(source: Option<impl Read>) -> Vec<u8> {
    let Some(mut source) = source else { return Vec::new() };
    let mut out = Vec::new();
    // A program that closes its end early has said all it wants to.
    let _ = source.by_ref().take(SAID as u64).read_to_end(&mut out);
    let _ = std::io::copy(&mut source, &mut std::io::sink());
    out
}
