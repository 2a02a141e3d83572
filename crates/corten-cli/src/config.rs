//! `config.json`: read once, written back with everything in it that we do not know.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Map, Value, json};

use crate::error::Result;

/// The key under which Docker Hub's credentials are kept.
pub(crate) const INDEX_SERVER: &str = "https://index.docker.io/v1/";
/// What a credential helper may answer at most.
const MAX_FILE: u64 = 16 << 20;

/// The client's configuration file.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    path: PathBuf,
    values: Map<String, Value>,
}

/// User and password, or an identity token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) identity_token: String,
    pub(crate) server: String,
}

impl Config {
    /// Reads `<dir>/config.json`; absence is an empty configuration.
    pub(crate) fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let values = match std::fs::metadata(&path) {
            Ok(meta) if meta.len() > MAX_FILE => bail!("{} is too large", path.display()),
            Ok(_) => {
                let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
                match serde_json::from_slice::<Value>(&text) {
                    Ok(Value::Object(values)) => values,
                    Ok(_) => bail!("{}: not a JSON object", path.display()),
                    Err(e) => bail!("loading config file: {}: {e}", path.display()),
                }
            }
            Err(_) => Map::new(),
        };
        Ok(Self { path, values })
    }

    /// A text value, empty where absent.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.values.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// An object's members that are texts.
    pub(crate) fn texts(&self, key: &str) -> BTreeMap<String, String> {
        let object = self.values.get(key).and_then(Value::as_object).into_iter().flatten();
        object.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
    }

    /// A value.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// Sets a text, or removes the key where it is empty, and writes the file.
    pub(crate) fn set_text(&mut self, key: &str, value: &str) -> Result {
        if value.is_empty() {
            self.values.remove(key);
        } else {
            self.values.insert(key.into(), value.into());
        }
        self.save()
    }

    fn save(&mut self) -> Result {
        // Docker's files always have it.
        self.auths();
        let dir = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let mut out = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
        serde::Serialize::serialize(&self.values, &mut serializer)?;
        // A link (dotfiles kept elsewhere) stays a link.
        let target = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        corten_base::fs::replace(&target, &out, 0o600, corten_base::fs::Durability::Process)?;
        Ok(())
    }

    fn helper(&self, server: &str) -> Option<String> {
        let helpers = self.texts("credHelpers");
        let name = helpers.get(server).or_else(|| helpers.get(&host_of(server))).cloned();
        name.or_else(|| Some(self.text("credsStore").to_owned())).filter(|n| !n.is_empty())
    }

    /// Whether credentials go to a helper rather than into the file.
    pub(crate) fn has_helper(&self, server: &str) -> bool {
        self.helper(server).is_some()
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Credentials for a registry, from a helper or the file.
    pub(crate) fn credentials(&self, server: &str) -> Option<Credentials> {
        if let Some(helper) = self.helper(server) {
            return helper_get(&helper, server);
        }
        let auths = self.values.get("auths")?.as_object()?;
        let wanted = host_of(server);
        let entry =
            auths.get(server).or_else(|| auths.iter().find(|(k, _)| host_of(k) == wanted).map(|(_, v)| v))?;
        let field = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let auth = field("auth");
        let decoded = STANDARD.decode(&auth).ok().and_then(|b| String::from_utf8(b).ok()).unwrap_or_default();
        let (username, password) = match decoded.split_once(':') {
            Some((u, p)) => (u.to_owned(), p.trim_end_matches('\0').to_owned()),
            None => (field("username"), field("password")),
        };
        let found =
            Credentials { username, password, identity_token: field("identitytoken"), server: server.into() };
        (!found.username.is_empty() || !found.identity_token.is_empty()).then_some(found)
    }

    /// All credentials, for `POST /build`.
    pub(crate) fn all_credentials(&self) -> BTreeMap<String, Credentials> {
        let auths = self.values.get("auths").and_then(Value::as_object);
        let mut servers: Vec<String> = auths.into_iter().flat_map(|a| a.keys().cloned()).collect();
        servers.extend(self.texts("credHelpers").into_keys());
        let store = self.text("credsStore");
        if !store.is_empty() {
            let listed =
                run_helper(store, "list", "").ok().and_then(|o| serde_json::from_str::<Value>(&o).ok());
            servers.extend(
                listed
                    .and_then(|v| v.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>()))
                    .unwrap_or_default(),
            );
        }
        servers.into_iter().filter_map(|s| self.credentials(&s).map(|c| (s, c))).collect()
    }

    /// Keeps credentials.
    pub(crate) fn store(&mut self, credentials: &Credentials) -> Result {
        let server = &credentials.server;
        if let Some(helper) = self.helper(server) {
            let (user, secret) = match credentials.identity_token.as_str() {
                "" => (credentials.username.as_str(), credentials.password.as_str()),
                token => ("<token>", token),
            };
            let request = json!({"ServerURL": server, "Username": user, "Secret": secret});
            run_helper(&helper, "store", &request.to_string())?;
            self.auths().insert(server.clone(), json!({}));
            return self.save();
        }
        let mut entry = Map::new();
        let plain = format!("{}:{}", credentials.username, credentials.password);
        if credentials.identity_token.is_empty() {
            entry.insert("auth".into(), STANDARD.encode(plain).into());
        } else {
            entry.insert("auth".into(), STANDARD.encode(format!("{}:", credentials.username)).into());
            entry.insert("identitytoken".into(), credentials.identity_token.clone().into());
        }
        self.auths().insert(server.clone(), Value::Object(entry));
        self.save()
    }

    fn auths(&mut self) -> &mut Map<String, Value> {
        let slot = self.values.entry("auths").or_insert_with(|| json!({}));
        if !slot.is_object() {
            *slot = json!({});
        }
        slot.as_object_mut().expect("made an object one line above")
    }

    /// Forgets credentials; says whether there were any.
    pub(crate) fn erase(&mut self, server: &str) -> Result<bool> {
        let erased = self.helper(server).is_some_and(|helper| run_helper(&helper, "erase", server).is_ok());
        let kept =
            self.values.get("auths").and_then(Value::as_object).is_some_and(|a| a.contains_key(server));
        if kept {
            self.auths().remove(server);
            self.save()?;
        }
        Ok(erased || kept)
    }
}

/// The host of a server address: scheme and path cut off.
pub(crate) fn host_of(server: &str) -> String {
    let rest = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    rest.split('/').next().unwrap_or(rest).to_owned()
}

fn helper_get(helper: &str, server: &str) -> Option<Credentials> {
    let answer: Value = serde_json::from_str(&run_helper(helper, "get", server).ok()?).ok()?;
    let field = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (user, secret) = (field("Username"), field("Secret"));
    let server = server.to_owned();
    Some(match user.as_str() {
        "<token>" => Credentials { identity_token: secret, server, ..Credentials::default() },
        _ => Credentials { username: user, password: secret, server, ..Credentials::default() },
    })
}

/// Speaks the helper protocol: one word as argument, the request on its input.
fn run_helper(helper: &str, action: &str, input: &str) -> Result<String> {
    if !helper.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        bail!("invalid credential helper name: {helper}");
    }
    let program = format!("docker-credential-{helper}");
    let mut child = Command::new(&program)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("error getting credentials - err: exec: {program:?}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).ok();
    }
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() {
        bail!("error getting credentials - err: {}, out: `{text}`", output.status);
    }
    Ok(text)
}

impl Credentials {
    /// The value of `X-Registry-Auth`.
    pub(crate) fn header(&self) -> String {
        URL_SAFE.encode(self.to_json().to_string())
    }

    /// As the API takes them.
    pub(crate) fn to_json(&self) -> Value {
        let mut out = Map::new();
        for (key, value) in [
            ("username", &self.username),
            ("password", &self.password),
            ("identitytoken", &self.identity_token),
            ("serveraddress", &self.server),
        ] {
            if !value.is_empty() {
                out.insert(key.into(), value.clone().into());
            }
        }
        Value::Object(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_it_does_not_know() {
        let dir = std::env::temp_dir().join(format!("corten-cli-config-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("config.json"), r#"{"odd":[1,{"a":null}],"psFormat":"{{.ID}}"}"#).unwrap();
        let mut config = Config::load(&dir).unwrap();
        assert_eq!(config.text("psFormat"), "{{.ID}}");
        let me = Credentials {
            username: "me".into(),
            password: "p:w".into(),
            server: "reg.test:5000".into(),
            ..Credentials::default()
        };
        config.store(&me).unwrap();
        let mut again = Config::load(&dir).unwrap();
        assert_eq!(again.get("odd").unwrap().to_string(), r#"[1,{"a":null}]"#);
        assert_eq!(again.credentials("reg.test:5000"), Some(me));
        assert!(again.erase("reg.test:5000").unwrap());
        assert!(!again.erase("reg.test:5000").unwrap());
        assert_eq!(again.credentials("reg.test:5000"), None);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
