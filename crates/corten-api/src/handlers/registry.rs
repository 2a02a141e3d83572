//! Registries: credentials, login, what a registry has.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use corten_base::{Kind, Reference};
use corten_registry::{Credentials, Target};
use corten_wire::api::image::{
    AuthConfig, AuthResponse, Descriptor, DistributionInspect, OciPlatform, SearchResult,
};
use corten_wire::oci_image::{Document, ImageConfig};
use serde::de::DeserializeOwned;

use crate::call::{Answer, Call};
use crate::convert;
use crate::error::ApiError;

/// A manifest's configuration that is longer is not read to learn the platform.
const MAX_CONFIG: usize = 4 << 20;

fn from_config(auth: &AuthConfig) -> Credentials {
    Credentials::from_parts(
        &auth.username,
        &auth.password,
        &auth.auth,
        &auth.identity_token,
        &auth.registry_token,
    )
}

/// Base64 of JSON in a header, in either alphabet, padded or not.
fn header_json<T: DeserializeOwned + Default>(call: &Call, name: &str, shown: &str) -> Result<T, ApiError> {
    let text = call.header(name);
    if text.is_empty() {
        return Ok(T::default());
    }
    let unpadded = text.trim_end_matches('=');
    let padded = format!("{unpadded}{}", "=".repeat((4 - unpadded.len() % 4) % 4));
    let wrong = |why: String| ApiError::invalid(format!("invalid {shown} header: {why}"));
    let bytes = URL_SAFE
        .decode(&padded)
        .or_else(|_| STANDARD.decode(&padded))
        .map_err(|e| wrong(format!("must be a valid base64url-encoded string: {e}")))?;
    corten_wire::api::decode(&bytes).map_err(|e| wrong(e.to_string()))
}

/// `X-Registry-Auth`.
pub(crate) fn credentials(call: &Call) -> Result<Credentials, ApiError> {
    let auth: AuthConfig = header_json(call, "x-registry-auth", "X-Registry-Auth")?;
    Ok(from_config(&auth))
}

/// `X-Registry-Config`: credentials by registry, for builds.
pub(crate) fn credentials_by_host(call: &Call) -> Result<BTreeMap<String, Credentials>, ApiError> {
    let all: BTreeMap<String, AuthConfig> = header_json(call, "x-registry-config", "X-Registry-Config")?;
    Ok(all.iter().map(|(host, auth)| (host_of(host), from_config(auth))).collect())
}

/// The host of a key of docker's configuration file, which may be an URL.
fn host_of(key: &str) -> String {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let host = rest.split('/').next().unwrap_or_default();
    let default = corten_base::reference::DEFAULT_DOMAIN;
    if host.strip_prefix("index.") == Some(default) { default.to_owned() } else { host.to_owned() }
}

pub(crate) async fn login(mut call: Call) -> Answer {
    let auth: AuthConfig = call.json().await?;
    let outcome = call.services.registries.login(&auth.server_address, &from_config(&auth)).await?;
    call.ok(&AuthResponse {
        status: "Login Succeeded".to_owned(),
        identity_token: outcome.identity_token.map(|t| t.expose().clone()).unwrap_or_default(),
    })
}

pub(crate) async fn search(call: Call) -> Answer {
    if call.query.text("term").is_empty() {
        return Err(ApiError::invalid("search term is required"));
    }
    if let Some(limit) = call.query.number("limit")?
        && !(0..=100).contains(&limit)
    {
        return Err(ApiError::invalid(format!("limit {limit} is outside the range of [1, 100]")));
    }
    let filters = call.query.filters()?;
    filters.validate(&["is-automated", "is-official", "stars"])?;
    let automated = filters.bool_or("is-automated", false)?;
    let official =
        filters.contains("is-official").then(|| filters.bool_or("is-official", false)).transpose()?;
    let mut stars = 0;
    for text in filters.get("stars") {
        let least: i64 =
            text.parse().map_err(|_| ApiError::invalid(format!("invalid filter 'stars=[{text}]'")))?;
        stars = stars.max(least);
    }
    // COMPAT: nothing is called automated any more.
    if automated {
        return call.ok(&[(); 0]);
    }
    let limit =
        call.query.number("limit")?.filter(|n| *n > 0).and_then(|n| u32::try_from(n).ok()).unwrap_or(25);
    let client = &call.services.registries;
    let found = client.search(call.query.text("term"), limit, &credentials(&call)?).await?;
    let wanted = found
        .into_iter()
        .filter(|r| official.is_none_or(|o| r.is_official == o) && r.star_count >= stars)
        .map(|r| SearchResult { is_automated: false, ..r });
    call.ok(&wanted.collect::<Vec<_>>())
}

pub(crate) async fn distribution(call: Call) -> Answer {
    let name: Reference = call
        .name()
        .parse()
        .map_err(|e| ApiError::from_error(Kind::InvalidArgument, &e as &dyn std::error::Error))?;
    let name = name.or_latest();
    let repository = call.services.registries.repository(&name, &credentials(&call)?);
    let manifest = repository.resolve(&Target::of(&name)).await?;
    let document = Document::parse(&manifest.media_type, &manifest.bytes)
        .map_err(|e| ApiError::from_error(Kind::InvalidArgument, &e))?;
    let platforms = match &document {
        Document::Index(index) => {
            index.manifests.iter().filter_map(|m| m.platform.as_ref()).map(convert::platform).collect()
        }
        Document::Manifest(manifest) => vec![config_platform(&repository, &manifest.config.digest).await?],
    };
    call.ok(&DistributionInspect {
        descriptor: Descriptor {
            media_type: manifest.media_type.clone(),
            digest: manifest.digest.to_string(),
            size: i64::try_from(manifest.bytes.len()).unwrap_or(i64::MAX),
            ..Descriptor::default()
        },
        platforms,
    })
}

async fn config_platform(
    repository: &corten_registry::Repository,
    config: &corten_base::Digest,
) -> Result<OciPlatform, ApiError> {
    let mut blob = repository.blob(config, None, 0).await?;
    let mut bytes = Vec::new();
    while let Some(part) = blob.next().await? {
        bytes.extend_from_slice(&part);
        if bytes.len() > MAX_CONFIG {
            return Err(ApiError::invalid("image configuration is too large"));
        }
    }
    let config: ImageConfig =
        serde_json::from_slice(&bytes).map_err(|e| ApiError::invalid(format!("image configuration: {e}")))?;
    let p = config.platform();
    Ok(OciPlatform { architecture: p.architecture, os: p.os, variant: p.variant, ..OciPlatform::default() })
}
