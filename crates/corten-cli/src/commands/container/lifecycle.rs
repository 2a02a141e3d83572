//! Commands that do one thing to each of several containers.

use corten_client::Query;

use crate::cli::Cli;
use crate::error::{Result, fail};
use crate::flags::Flags;

/// Runs one request per name; prints the name of each that went well and the errors of the others at the end.
pub(crate) async fn each<F>(cli: &Cli, names: Vec<String>, request: F) -> Result
where
    F: AsyncFn(&str) -> Result<(), corten_client::Error>,
{
    let mut errors = Vec::new();
    for name in names {
        match request(&name).await {
            Ok(()) => cli.line(&name)?,
            Err(e) => errors.push(e.to_string()),
        }
    }
    finish(errors)
}

/// Ends with status 1 and the errors' texts, if there are any.
pub(crate) fn finish(errors: Vec<String>) -> Result {
    if errors.is_empty() { Ok(()) } else { Err(fail(errors.join("\n"), 1)) }
}

/// `stop` and `restart`.
pub(super) async fn stop(cli: &Cli, flags: &Flags, action: &str) -> Result {
    let client = cli.client()?;
    let mut query = Query::new().with_text("signal", flags.text("signal"));
    if flags.changed("timeout") {
        query = query.with("t", flags.int("timeout").to_string());
    }
    each(cli, flags.args(), async |name: &str| client.container_action(name, action, query.clone()).await)
        .await
}

/// `kill`.
pub(super) async fn kill(cli: &Cli, flags: &Flags) -> Result {
    let client = cli.client()?;
    let query = Query::new().with_text("signal", flags.text("signal"));
    each(cli, flags.args(), async |name: &str| client.container_action(name, "kill", query.clone()).await)
        .await
}

/// `pause` and `unpause`.
pub(super) async fn simple(cli: &Cli, flags: &Flags, action: &str) -> Result {
    let client = cli.client()?;
    each(cli, flags.args(), async |name: &str| client.container_action(name, action, Query::new()).await)
        .await
}

/// `wait`.
pub(super) async fn wait(cli: &Cli, flags: &Flags) -> Result {
    let client = cli.client()?;
    let mut errors = Vec::new();
    for name in flags.args() {
        let answer = match client.container_wait(&name, "").await {
            Ok(mut stream) => stream.next().await,
            Err(e) => Err(e),
        };
        match answer {
            Ok(Some(value)) => cli.line(&value["StatusCode"].as_i64().unwrap_or(0).to_string())?,
            Ok(None) => errors.push("unexpected end of the answer".into()),
            Err(e) => errors.push(e.to_string()),
        }
    }
    finish(errors)
}

/// `rename`.
pub(super) async fn rename(cli: &Cli, flags: &Flags) -> Result {
    let (old, new) = (flags.arg(0), flags.arg(1));
    if old.trim().is_empty() || new.trim().is_empty() {
        return Err(fail("Error: Neither old nor new names may be empty", 1));
    }
    let query = Query::new().with("name", new);
    let renamed = cli.client()?.container_action(&old, "rename", query).await;
    renamed.map_err(|e| fail(format!("{e}\nError: failed to rename container named {old}"), 1))
}

/// `rm`.
pub(super) async fn remove(cli: &Cli, flags: &Flags) -> Result {
    let client = cli.client()?;
    let force = flags.on("force");
    let query = Query::new()
        .with_flag("v", flags.on("volumes"))
        .with_flag("link", flags.on("link"))
        .with_flag("force", force);
    let mut errors = Vec::new();
    for name in flags.args() {
        let name = name.trim_matches('/').to_owned();
        if name.is_empty() {
            errors.push("invalid container name or ID: value is empty".into());
            continue;
        }
        match client.container_remove(&name, query.clone()).await {
            Ok(()) => cli.line(&name)?,
            // With --force, what is not there is as it should be, but is said.
            Err(e) if force && e.kind() == corten_base::Kind::NotFound => {
                cli.warn(&e.to_string());
            }
            Err(e) => errors.push(e.to_string()),
        }
    }
    finish(errors)
}
