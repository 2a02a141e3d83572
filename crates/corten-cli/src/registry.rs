//! Which registry an image belongs to, and our credentials for it.

use corten_base::Reference;

use crate::cli::Cli;
use crate::config::{Credentials, INDEX_SERVER};
use crate::error::{Result, fail};

/// The key under which a reference's credentials are kept.
pub(crate) fn auth_key(reference: &Reference) -> String {
    match reference.domain() {
        "docker.io" => INDEX_SERVER.to_owned(),
        domain => domain.to_owned(),
    }
}

/// The value of `X-Registry-Auth` for a reference; that of no credentials where there are none.
pub(crate) fn auth_header(cli: &Cli, reference: &Reference) -> String {
    let found = credentials(cli, reference);
    found.unwrap_or_else(|| Credentials { server: String::new(), ..Credentials::default() }).header()
}

/// Our credentials for the registry of a reference.
pub(crate) fn credentials(cli: &Cli, reference: &Reference) -> Option<Credentials> {
    let key = auth_key(reference);
    from_environment(cli, &key).or_else(|| cli.config().borrow().credentials(&key))
}

/// `DOCKER_AUTH_CONFIG` holds a configuration file's text.
fn from_environment(cli: &Cli, key: &str) -> Option<Credentials> {
    use base64::Engine as _;
    let config: serde_json::Value = serde_json::from_str(cli.env.auth_config.as_deref()?).ok()?;
    let auth = config.get("auths")?.get(key)?.get("auth")?.as_str()?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(auth).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (username, password) = text.split_once(':')?;
    Some(Credentials {
        username: username.into(),
        password: password.into(),
        server: key.into(),
        ..Credentials::default()
    })
}

/// Parses a reference as the command line does; the error is Docker's text.
pub(crate) fn reference(text: &str) -> Result<Reference> {
    text.parse::<Reference>().map_err(|e| fail(e.to_string(), 1))
}
