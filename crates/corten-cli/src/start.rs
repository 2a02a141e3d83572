//! Starts a daemon of our own where none runs and the user named none.

use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use corten_client::Endpoint;

use crate::cli::{Cli, own_socket};
use crate::error::Result;

const PATIENCE: Duration = Duration::from_secs(20);

/// Makes sure that somebody listens at our default socket: connects, and where that fails starts `corten daemon`,
/// says so in one line, and waits until it listens. Other endpoints are left alone.
pub(crate) fn ensure_daemon(cli: &Cli, endpoint: &Endpoint) -> Result {
    let socket = own_socket();
    let ours = endpoint.unix_path().is_some_and(|p| p == socket);
    if !ours || UnixStream::connect(&socket).is_ok() {
        return Ok(());
    }
    let program = std::env::current_exe().context("find our own program")?;
    if program.file_stem().is_none_or(|name| name != "corten" && name != "docker") {
        return Ok(());
    }
    let dir = socket.parent().context("a socket is in a directory")?;
    make_private(dir)?;
    let log_path = dir.join(if rustix::process::geteuid().is_root() { "daemon.log" } else { "corten.log" });
    let shown = log_path.display();
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(&log_path)
        .with_context(|| format!("open {shown}"))?;
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
    cli.warn(&format!("No daemon is running: started one (pid {}, log {shown}).", child.id()));
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        if UnixStream::connect(&socket).is_ok() {
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            bail!("the daemon ended at once ({status}); see {shown}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("the daemon does not listen after {} s; see {shown}", PATIENCE.as_secs())
}

/// The directory of the socket; what an ordinary user has in `/tmp` must be theirs alone.
fn make_private(dir: &std::path::Path) -> Result {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let uid = rustix::process::geteuid();
    let mode = if uid.is_root() { 0o755 } else { 0o700 };
    let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(dir);
    made.with_context(|| format!("create {}", dir.display()))?;
    let meta = std::fs::symlink_metadata(dir).with_context(|| format!("stat {}", dir.display()))?;
    if !uid.is_root() && (meta.uid() != uid.as_raw() || meta.mode() & 0o022 != 0) {
        bail!("{} must be a directory of yours that nobody else can write to", dir.display());
    }
    Ok(())
}
