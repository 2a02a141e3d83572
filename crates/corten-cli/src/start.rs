//! Starts a daemon of our own where none runs and the user named none.

use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use corten_client::Endpoint;

use crate::cli::{CORTEN_SOCKET, Cli};
use crate::error::Result;

const LOG: &str = "/run/corten/daemon.log";
const PATIENCE: Duration = Duration::from_secs(20);

/// Makes sure that somebody listens at our default socket: connects, and where that fails starts `corten daemon`,
/// says so in one line, and waits until it listens. Other endpoints, and users without the right, are left alone.
pub(crate) fn ensure_daemon(cli: &Cli, endpoint: &Endpoint) -> Result {
    let ours = endpoint.unix_path().is_some_and(|p| p == std::path::Path::new(CORTEN_SOCKET));
    if !ours || !rustix::process::geteuid().is_root() || UnixStream::connect(CORTEN_SOCKET).is_ok() {
        return Ok(());
    }
    let program = std::env::current_exe().context("find our own program")?;
    if program.file_stem().is_none_or(|name| name != "corten" && name != "docker") {
        return Ok(());
    }
    std::fs::create_dir_all("/run/corten").context("create /run/corten")?;
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(LOG)
        .with_context(|| format!("open {LOG}"))?;
    let errors = log.try_clone()?;
    // A group of its own keeps the terminal's signals from it; `daemon --detach-session` is not needed for that.
    let mut child = Command::new(program)
        .arg0("corten")
        .args(["daemon"])
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .current_dir("/")
        .process_group(0)
        .spawn()
        .context("start the daemon")?;
    cli.warn(&format!("No daemon is running: started one (pid {}, log {LOG}).", child.id()));
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        if UnixStream::connect(CORTEN_SOCKET).is_ok() {
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            bail!("the daemon ended at once ({status}); see {LOG}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("the daemon does not listen after {} s; see {LOG}", PATIENCE.as_secs())
}
