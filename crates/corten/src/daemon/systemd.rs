//! What systemd tells us and wants to be told.

use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The sockets passed by systemd, with their names.
///
/// # Errors
/// The environment announces descriptors that are not there.
pub(crate) fn activated() -> io::Result<Vec<(String, OwnedFd)>> {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    let count = usize::try_from(number("LISTEN_FDS").unwrap_or_default()).unwrap_or_default().min(64);
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    let fds = corten_sys::inherited::take(count)?;
    Ok(fds.into_iter().map(|fd| (names.next().unwrap_or_default(), fd)).collect())
}

/// Tells systemd something (`READY=1`), if it is there.
pub(crate) fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let path = path.to_string_lossy();
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&*path),
    };
    let sent = address.and_then(|a| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &a));
    if let Err(error) = sent {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
