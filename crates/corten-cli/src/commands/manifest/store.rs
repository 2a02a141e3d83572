//! Lists under way: `<config directory>/manifests/<list>/<member>`, a file for each manifest, in docker's format and
//! under docker's names, so that both programs can go on with what the other began.

use std::path::PathBuf;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use corten_base::Reference;
use corten_base::fs::{Durability, replace};
use corten_wire::oci_image::{Descriptor, Document, media_type};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::cli::Cli;
use crate::error::{Result, fail};

/// A manifest of a list.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Where it is.
    #[serde(rename = "Ref")]
    pub(super) reference: String,
    #[serde(rename = "Descriptor")]
    pub(super) descriptor: Descriptor,
    /// Its bytes.
    #[serde(rename = "Raw", default, skip_serializing_if = "String::is_empty")]
    raw: String,
    /// The same to read, where it is of Docker's kind.
    #[serde(rename = "SchemaV2Manifest", default, skip_serializing_if = "Option::is_none")]
    docker: Option<Box<RawValue>>,
    /// The same to read, where it is of the OCI's kind.
    #[serde(rename = "OCIManifest", default, skip_serializing_if = "Option::is_none")]
    oci: Option<Box<RawValue>>,
}

impl Entry {
    pub(super) fn new(reference: String, descriptor: Descriptor, bytes: &[u8]) -> Result<Self> {
        let readable = RawValue::from_string(String::from_utf8(bytes.to_vec())?)?;
        let oci = descriptor.media_type == media_type::MANIFEST;
        let (docker, oci) = if oci { (None, Some(readable)) } else { (Some(readable), None) };
        Ok(Self { reference, descriptor, raw: super::base64(bytes), docker, oci })
    }

    /// The manifest as the registry has it.
    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        let bytes = STANDARD.decode(&self.raw).with_context(|| format!("manifest of {}", self.reference))?;
        if corten_base::Digest::of(&bytes) != self.descriptor.digest {
            return Err(fail(format!("manifest of {} is not what its digest says", self.reference), 1));
        }
        Ok(bytes)
    }

    /// Configuration and layers.
    pub(super) fn blobs(&self) -> Result<Vec<Descriptor>> {
        match Document::parse(&self.descriptor.media_type, &self.bytes()?)? {
            Document::Manifest(manifest) => {
                let foreign = |d: &Descriptor| media_type::is_foreign_layer(&d.media_type);
                Ok(manifest.layers.into_iter().filter(|l| !foreign(l)).chain([manifest.config]).collect())
            }
            Document::Index(_) => Err(fail(format!("{} is a manifest list", self.reference), 1)),
        }
    }
}

/// All lists of a client.
pub(super) struct Store {
    root: PathBuf,
}

impl Store {
    pub(super) fn of(cli: &Cli) -> Self {
        Self { root: cli.docker_dir().join("manifests") }
    }

    fn dir(&self, list: &Reference) -> PathBuf {
        self.root.join(file_name(list))
    }

    /// The manifests of a list in the order of their files; none where there is no such list.
    pub(super) fn list(&self, list: &Reference) -> Result<Option<Vec<Entry>>> {
        let dir = self.dir(list);
        let files = match std::fs::read_dir(&dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            files => files.and_then(|f| f.map(|e| e.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>()),
        };
        let mut files = files.with_context(|| dir.display().to_string())?;
        files.sort();
        files.iter().map(|f| read(f)).collect::<Result<Vec<_>>>().map(Some)
    }

    /// One manifest of a list.
    pub(super) fn member(&self, list: &Reference, member: &Reference) -> Result<Option<Entry>> {
        let file = self.dir(list).join(file_name(member));
        if file.exists() { read(&file).map(Some) } else { Ok(None) }
    }

    pub(super) fn save(&self, list: &Reference, member: &Reference, entry: &Entry) -> Result {
        let dir = self.dir(list);
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        Ok(replace(&dir.join(file_name(member)), &serde_json::to_vec(entry)?, 0o644, Durability::Process)?)
    }

    pub(super) fn remove(&self, list: &Reference) -> Result {
        let dir = self.dir(list);
        std::fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())
    }
}

fn read(file: &std::path::Path) -> Result<Entry> {
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    serde_json::from_slice(&bytes).with_context(|| file.display().to_string())
}

/// A reference as the name of a file.
fn file_name(reference: &Reference) -> String {
    reference.to_string().replace(':', "-").replace('/', "_")
}
