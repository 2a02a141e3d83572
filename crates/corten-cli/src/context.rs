//! The context store: `contexts/meta/<sha256 of name>/meta.json` and certificates beside it, as docker keeps them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use corten_base::Digest;
use corten_client::TlsFiles;
use serde_json::{Value, json};

use crate::error::Result;

/// Where contexts are kept.
#[derive(Debug)]
pub(crate) struct Contexts {
    root: PathBuf,
}

/// A stored context.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) name: String,
    pub(crate) meta: Value,
    pub(crate) meta_dir: PathBuf,
    pub(crate) tls_dir: PathBuf,
}

const TLS_NAMES: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];
const MAX_META: u64 = 1 << 20;

impl Contexts {
    pub(crate) fn new(docker_dir: &Path) -> Self {
        Self { root: docker_dir.join("contexts") }
    }

    fn dirs(&self, name: &str) -> (PathBuf, PathBuf) {
        let digest = Digest::of(name.as_bytes());
        (self.root.join("meta").join(digest.hex()), self.root.join("tls").join(digest.hex()))
    }

    /// A context by name.
    pub(crate) fn get(&self, name: &str) -> Result<Context> {
        let (meta_dir, tls_dir) = self.dirs(name);
        let file = meta_dir.join("meta.json");
        let text = read(&file).map_err(|e| {
            let why = if e.kind() == std::io::ErrorKind::NotFound {
                "no such file or directory".to_owned()
            } else {
                e.to_string()
            };
            anyhow!("context {name:?}: context not found: open {}: {why}", file.display())
        })?;
        let meta: Value = serde_json::from_slice(&text).with_context(|| file.display().to_string())?;
        Ok(Context { name: name.to_owned(), meta, meta_dir, tls_dir })
    }

    /// Whether there is one of this name.
    pub(crate) fn exists(&self, name: &str) -> bool {
        self.dirs(name).0.join("meta.json").exists()
    }

    /// All, by name.
    pub(crate) fn list(&self) -> Vec<Context> {
        let entries = std::fs::read_dir(self.root.join("meta")).into_iter().flatten().flatten();
        let metas = entries
            .filter_map(|e| serde_json::from_slice::<Value>(&read(&e.path().join("meta.json")).ok()?).ok());
        let names = metas.filter_map(|m| m.get("Name")?.as_str().map(str::to_owned));
        let mut all: Vec<Context> = names.filter_map(|name| self.get(&name).ok()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Writes a context's description. The order of members is docker's.
    pub(crate) fn put(&self, name: &str, description: &str, endpoint: &Value) -> Result {
        let (dir, _) = self.dirs(name);
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let metadata = if description.is_empty() { json!({}) } else { json!({ "Description": description }) };
        let text = format!(
            "{{\"Name\":{},\"Metadata\":{metadata},\"Endpoints\":{{\"docker\":{endpoint}}}}}",
            Value::from(name)
        );
        corten_base::fs::replace(
            &dir.join("meta.json"),
            text.as_bytes(),
            0o644,
            corten_base::fs::Durability::Process,
        )?;
        Ok(())
    }

    /// Writes one certificate file.
    pub(crate) fn put_tls(&self, name: &str, file: &str, content: &[u8]) -> Result {
        if !TLS_NAMES.contains(&file) {
            bail!("unexpected TLS file {file:?}");
        }
        let dir = self.dirs(name).1.join("docker");
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        corten_base::fs::replace(&dir.join(file), content, 0o600, corten_base::fs::Durability::Process)?;
        Ok(())
    }

    /// Removes a context and its certificates.
    pub(crate) fn remove(&self, name: &str) -> Result {
        let (meta, tls) = self.dirs(name);
        std::fs::remove_dir_all(&meta).with_context(|| meta.display().to_string())?;
        if tls.exists() {
            std::fs::remove_dir_all(&tls).with_context(|| tls.display().to_string())?;
        }
        Ok(())
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    if std::fs::metadata(path)?.len() > MAX_META {
        return Err(std::io::Error::other("file too large"));
    }
    std::fs::read(path)
}

impl Context {
    /// The endpoint's address.
    pub(crate) fn host(&self) -> String {
        self.meta["Endpoints"]["docker"]["Host"].as_str().unwrap_or_default().to_owned()
    }

    /// What the user wrote about it.
    pub(crate) fn description(&self) -> String {
        self.meta["Metadata"]["Description"].as_str().unwrap_or_default().to_owned()
    }

    /// Its certificate files, by name.
    pub(crate) fn tls_files(&self) -> Vec<(String, PathBuf)> {
        let dir = self.tls_dir.join("docker");
        let files = TLS_NAMES.iter().map(|n| ((*n).to_owned(), dir.join(n)));
        files.filter(|(_, path)| path.exists()).collect()
    }

    /// TLS settings of the endpoint, if it has certificates or asks for none to be checked.
    pub(crate) fn tls(&self) -> Option<TlsFiles> {
        let skip = self.meta["Endpoints"]["docker"]["SkipTLSVerify"].as_bool().unwrap_or(false);
        let files = self.tls_files();
        let find = |name: &str| files.iter().find(|(n, _)| n == name).map(|(_, p)| p.clone());
        if files.is_empty() && !skip {
            return None;
        }
        let (ca, cert, key) = (find("ca.pem"), find("cert.pem"), find("key.pem"));
        Some(TlsFiles { ca, cert, key, verify: !skip, server_name: None })
    }

    /// What `inspect` shows, as JSON in docker's order.
    pub(crate) fn inspect(&self) -> String {
        let names: Vec<String> = self.tls_files().into_iter().map(|(n, _)| n).collect();
        let tls = if names.is_empty() { json!({}) } else { json!({ "docker": names }) };
        let storage = json!({"MetadataPath": self.meta_dir, "TLSPath": self.tls_dir});
        format!(
            "{{\"Name\":{},\"Metadata\":{},\"Endpoints\":{},\"TLSMaterial\":{tls},\"Storage\":{storage}}}",
            Value::from(self.name.as_str()),
            self.meta["Metadata"],
            self.meta["Endpoints"]
        )
    }
}

/// Names of contexts.
pub(crate) fn check_name(name: &str) -> Result {
    const PATTERN: &str = "^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$";
    if name.is_empty() {
        bail!("context name cannot be empty");
    }
    if name == "default" {
        bail!("\"default\" is a reserved context name");
    }
    let mut bytes = name.bytes();
    let good = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.len() > 1
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.+-".contains(&b));
    if !good {
        bail!("context name {name:?} is invalid, names are validated against regexp {PATTERN:?}");
    }
    Ok(())
}
