//! What registries say about a name, asked with this client's own credentials.

use corten_base::{Digest, Kind, Reference};
use corten_registry::{Client, ClientConfig, Credentials, InsecureRegistries, ProxyConfig};
use corten_registry::{Repository, Target};
use corten_wire::oci_image::{Descriptor, Document, ImageConfig, Index, OciPlatform};

use super::store::Entry;
use crate::cli::Cli;
use crate::error::{Result, fail};

/// Largest configuration that is read to learn a platform.
const MAX_CONFIG: u64 = 4 << 20;

/// The registries as this client may talk to them.
pub(super) struct Registries<'a> {
    cli: &'a Cli,
    insecure: bool,
}

/// What a name stands for.
pub(super) enum Found {
    Manifest(Box<Entry>),
    List(Index),
}

impl<'a> Registries<'a> {
    pub(super) fn new(cli: &'a Cli, insecure: bool) -> Self {
        Self { cli, insecure }
    }

    pub(super) fn repository(&self, name: &Reference) -> Repository {
        let insecure = if self.insecure { vec![name.domain()] } else { Vec::new() };
        let proxy = |name: &str| {
            let value = crate::env::value_of(name);
            value.or_else(|| crate::env::value_of(&name.to_ascii_lowercase())).unwrap_or_default()
        };
        let config = ClientConfig {
            proxy: ProxyConfig {
                http: proxy("HTTP_PROXY"),
                https: proxy("HTTPS_PROXY"),
                no_proxy: proxy("NO_PROXY"),
            },
            insecure: InsecureRegistries::parse(&insecure).unwrap_or_default(),
            ..ClientConfig::default()
        };
        let credentials = crate::registry::credentials(self.cli, name).unwrap_or_default();
        let credentials = Credentials::from_parts(
            &credentials.username,
            &credentials.password,
            "",
            &credentials.identity_token,
            "",
        );
        Client::new(config).repository(name, &credentials)
    }

    /// Asks for a name.
    pub(super) async fn find(&self, name: &Reference) -> Result<Found> {
        let repository = self.repository(name);
        let manifest = match repository.resolve(&Target::of(name)).await {
            Err(e) if e.kind() == Kind::NotFound => {
                return Err(fail(format!("no such manifest: {}", name.familiar()), 1));
            }
            other => other?,
        };
        let mut descriptor = Descriptor::of(manifest.media_type.clone(), &manifest.bytes);
        match Document::parse(&manifest.media_type, &manifest.bytes)? {
            Document::Index(index) => Ok(Found::List(index)),
            Document::Manifest(document) => {
                let config = blob(&repository, &document.config, MAX_CONFIG).await?;
                let config: ImageConfig = serde_json::from_slice(&config)?;
                descriptor.platform = Some(OciPlatform::from(&config.platform()));
                Ok(Found::Manifest(Box::new(Entry::new(name.to_string(), descriptor, &manifest.bytes)?)))
            }
        }
    }

    /// The manifests of a list.
    pub(super) async fn members(&self, name: &Reference, index: &Index) -> Result<Vec<Entry>> {
        let repository = self.repository(name);
        let mut entries = Vec::new();
        for descriptor in &index.manifests {
            let manifest = repository.resolve(&Target::Digest(descriptor.digest.clone())).await?;
            let reference = format!("{name}@{}", descriptor.digest);
            entries.push(Entry::new(reference, descriptor.clone(), &manifest.bytes)?);
        }
        Ok(entries)
    }

    /// A blob of a repository, verified.
    pub(super) async fn blob(&self, name: &Reference, wanted: &Descriptor) -> Result<Vec<u8>> {
        blob(&self.repository(name), wanted, u64::MAX).await
    }
}

async fn blob(repository: &Repository, wanted: &Descriptor, limit: u64) -> Result<Vec<u8>> {
    if wanted.size > limit {
        return Err(fail(format!("blob {} is too large", wanted.digest), 1));
    }
    let mut stream = repository.blob(&wanted.digest, Some(wanted.size), 0).await?;
    let mut bytes = Vec::new();
    while let Some(part) = stream.next().await? {
        bytes.extend_from_slice(&part);
    }
    if Digest::of(&bytes) != wanted.digest {
        return Err(fail(format!("blob {} is not what its digest says", wanted.digest), 1));
    }
    Ok(bytes)
}
