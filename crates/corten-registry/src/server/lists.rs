//! Lists: repositories, tags, referrers, in pages.

use std::sync::Arc;

use corten_base::Digest;
use corten_wire::distribution::{Catalog, ManifestOutline, OCI_INDEX, TagList, Target, code};
use http::StatusCode;
use serde::Serialize;

use super::answer::{Answer, Refusal, json};
use super::route::{App, Query};

const JSON: &str = "application/json; charset=utf-8";
/// Page size where none, or a larger one, is asked for.
const PAGE: usize = 1000;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Referrers {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Target>,
}

impl App {
    pub(crate) async fn catalog(self: &Arc<Self>, query: Query) -> Result<Answer, Refusal> {
        self.run(move |app| {
            let (repositories, link) = page(app.store.repositories()?, &query, "/v2/_catalog")?;
            Ok(json(&Catalog { repositories }, JSON, &link))
        })
        .await
    }

    pub(crate) async fn tags(self: &Arc<Self>, name: String, query: Query) -> Result<Answer, Refusal> {
        self.run(move |app| {
            if !app.store.exists(&name) {
                return Err(Refusal::new(StatusCode::NOT_FOUND, code::NAME_UNKNOWN));
            }
            let (tags, link) = page(app.store.tags(&name)?, &query, &format!("/v2/{name}/tags/list"))?;
            Ok(json(&TagList { name, tags: Some(tags) }, JSON, &link))
        })
        .await
    }

    pub(crate) async fn referrers(
        self: &Arc<Self>,
        name: String,
        subject: Digest,
        query: Query,
    ) -> Result<Answer, Refusal> {
        self.run(move |app| {
            let wanted = query.get("artifactType");
            let mut manifests = Vec::new();
            for digest in app.store.referrers(&name, &subject)? {
                let Some(media_type) = app.store.manifest_type(&name, &digest)? else { continue };
                let bytes = app.read_manifest(&digest)?;
                let outline: ManifestOutline = serde_json::from_slice(&bytes).unwrap_or_default();
                let config_type = outline.config.map(|c| c.media_type).unwrap_or_default();
                let kind = if outline.artifact_type.is_empty() { config_type } else { outline.artifact_type };
                if wanted.is_some_and(|w| *w != kind) {
                    continue;
                }
                manifests.push(Target {
                    media_type,
                    digest: digest.to_string(),
                    size: bytes.len() as u64,
                    artifact_type: (!kind.is_empty()).then_some(kind),
                    annotations: outline.annotations,
                    urls: None,
                });
            }
            let filtered: &[_] =
                if wanted.is_some() { &[("oci-filters-applied", "artifactType".to_owned())] } else { &[] };
            Ok(json(&Referrers { schema_version: 2, media_type: OCI_INDEX, manifests }, OCI_INDEX, filtered))
        })
        .await
    }
}

type Link = Vec<(&'static str, String)>;

/// The page after `last`, and the header that leads to the next one.
fn page(all: Vec<String>, query: &Query, path: &str) -> Result<(Vec<String>, Link), Refusal> {
    let asked = match query.get("n") {
        None => PAGE,
        Some(n) => {
            n.parse().map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, code::PAGINATION_NUMBER_INVALID))?
        }
    };
    let size = asked.min(PAGE);
    let last = query.get("last").map_or("", String::as_str);
    let mut rest: Vec<String> = all.into_iter().filter(|n| n.as_str() > last).collect();
    if rest.len() <= size {
        return Ok((rest, Vec::new()));
    }
    rest.truncate(size);
    let mut link = Vec::new();
    if let Some(last) = rest.last() {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("last", last)
            .append_pair("n", &size.to_string())
            .finish();
        link.push(("link", format!("<{path}?{query}>; rel=\"next\"")));
    }
    Ok((rest, link))
}
