//! `corten registry serve`: the built-in registry.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use corten_base::Cancel;
use corten_registry::server::{ServerConfig, serve};

const USAGE: &str = "Usage: corten registry serve --root DIR [--addr 127.0.0.1:5000] [--htpasswd FILE] \
                     [--tls-cert FILE --tls-key FILE] [--read-only] [--no-delete]";

/// Runs the registry until SIGTERM or SIGINT; the exit code.
pub(crate) fn main(args: &[OsString]) -> i32 {
    match config(args).and_then(run) {
        Ok(()) => 0,
        Err(e) => {
            crate::complain(&format!("{e:#}"));
            1
        }
    }
}

fn config(args: &[OsString]) -> anyhow::Result<ServerConfig> {
    let mut address: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 5000));
    let (mut root, mut htpasswd, mut certificate, mut key) = (None, None, None, None);
    let (mut read_only, mut delete) = (false, true);
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let text = arg.to_str().context("arguments must be UTF-8")?;
        let (name, mut inline) = match text.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (text, None),
        };
        let mut value = || {
            inline
                .take()
                .or_else(|| rest.next().cloned())
                .with_context(|| format!("flag needs an argument: {name}"))
        };
        match name {
            "--addr" => {
                let text = value()?;
                let text = text.to_string_lossy();
                address = text.parse().with_context(|| format!("--addr {text:?} is not ADDRESS:PORT"))?;
            }
            "--root" => root = Some(PathBuf::from(value()?)),
            "--htpasswd" => htpasswd = Some(PathBuf::from(value()?)),
            "--tls-cert" => certificate = Some(PathBuf::from(value()?)),
            "--tls-key" => key = Some(PathBuf::from(value()?)),
            "--read-only" => read_only = true,
            "--no-delete" => delete = false,
            "--help" | "-h" => bail!("{USAGE}"),
            _ => bail!("unknown flag: {text}\n{USAGE}"),
        }
    }
    let mut config =
        ServerConfig::new(address, root.with_context(|| format!("--root is required\n{USAGE}"))?);
    config.htpasswd = htpasswd;
    config.read_only = read_only;
    config.delete_enabled = delete;
    config.tls = match (certificate, key) {
        (Some(c), Some(k)) => Some((c, k)),
        (None, None) => None,
        _ => bail!("--tls-cert and --tls-key go together"),
    };
    Ok(config)
}

fn run(config: ServerConfig) -> anyhow::Result<()> {
    crate::daemon::logging::start("info", false, false)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let cancel = Cancel::new();
        let stop = cancel.clone();
        tokio::spawn(async move {
            crate::daemon::signals::ended().await;
            stop.cancel();
        });
        tracing::info!(address = %config.address, root = %config.root.display(), "registry listens");
        serve(config, &cancel).await.map_err(|e| anyhow::Error::new(e).context("registry"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> anyhow::Result<ServerConfig> {
        config(&args.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn flags() {
        let c = read(&["--addr", "127.0.0.1:5001", "--root=/r", "--read-only"]).unwrap();
        assert_eq!((c.address.port(), c.root, c.read_only), (5001, PathBuf::from("/r"), true));
        assert!(read(&[]).is_err());
        assert!(read(&["--root", "/r", "--tls-cert", "x"]).is_err());
        assert!(read(&["--root", "/r", "--bogus"]).is_err());
    }
}
