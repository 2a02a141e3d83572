//! `--use-api-socket`: the engine's socket in the container, and this client's credentials, so that a client in the
//! container can do what this one can.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use corten_client::Query;
use serde_json::{Map, Value, json};

use crate::archive;
use crate::cli::Cli;
use crate::config::Credentials;
use crate::error::{Result, fail};

/// Where clients look for the socket.
const SOCKET: &str = "/var/run/docker.sock";
/// Where the credentials are in the container, and what `DOCKER_CONFIG` says there.
pub(super) const CONFIG_DIR: &str = "/run/secrets/docker";

/// The mount of the socket. The daemon's is where this client found it, unless that is on another machine.
pub(super) fn mount(cli: &Cli) -> Result<Value, String> {
    let client = cli.client().map_err(|e| e.to_string())?;
    let source = client.endpoint().unix_path().map_or_else(|| SOCKET.to_owned(), |p| p.display().to_string());
    Ok(json!({"Type": "bind", "Source": source, "Target": SOCKET, "BindOptions": {}}))
}

/// Puts the credentials into a container that was created and does not run yet.
pub(super) async fn give_credentials(cli: &Cli, id: &str) -> Result {
    let all = cli.config().borrow().all_credentials();
    if all.is_empty() {
        return Ok(());
    }
    let auths: Map<String, Value> = all.iter().map(|(server, c)| (server.clone(), entry(c))).collect();
    let text = json!({ "auths": auths }).to_string();
    let body = archive::body("application/x-tar", move |pipe| {
        let mut writer = archive::Writer::new(pipe);
        writer.bytes(&format!("{}/config.json", &CONFIG_DIR[1..]), 0o600, text.as_bytes())?;
        writer.finish().map(drop)
    });
    let put = cli.client()?.archive_put(id, Query::new().with("path", "/"), body).await;
    put.map_err(|e| fail(format!("injecting docker config.json into container failed: {e}"), 125))
}

/// Credentials as a configuration file has them.
fn entry(credentials: &Credentials) -> Value {
    if !credentials.identity_token.is_empty() {
        return json!({ "identitytoken": credentials.identity_token });
    }
    json!({ "auth": STANDARD.encode(format!("{}:{}", credentials.username, credentials.password)) })
}
