//! Which request is what: paths, names, digests; authentication before anything else.

use std::collections::BTreeMap;
use std::sync::Arc;

use corten_base::{Digest, Id, Reference};
use corten_wire::distribution::code;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;

use super::ServerConfig;
use super::answer::{Answer, Refusal, build, full};
use super::auth::Passwords;
use super::storage::Store;

/// Everything a request needs.
pub(crate) struct App {
    pub(crate) config: ServerConfig,
    pub(crate) store: Store,
    pub(crate) passwords: Option<Passwords>,
}

/// A path below `/v2/`, its parts checked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Path {
    Base,
    Catalog,
    Tags(String),
    Manifest(String, Name),
    Blob(String, Digest),
    Referrers(String, Digest),
    Uploads(String),
    Upload(String, Id),
}

/// A manifest's name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Tag(String),
    Digest(Digest),
}

/// Decoded query.
pub(crate) type Query = BTreeMap<String, String>;

impl App {
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        let is_head = request.method() == Method::HEAD;
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let mut answer = match self.dispatch(request).await {
            Ok(answer) => answer,
            Err(refusal) => refusal.into_answer(is_head),
        };
        tracing::debug!(%method, %path, status = answer.status().as_u16(), "registry server");
        let version = http::HeaderValue::from_static("registry/2.0");
        answer.headers_mut().insert("docker-distribution-api-version", version);
        answer
    }

    async fn dispatch(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, Refusal> {
        let headers = request.headers().clone();
        self.run(move |app| match &app.passwords {
            Some(passwords) => passwords.check(&headers),
            None => Ok(()),
        })
        .await?;
        let path = parse(request.uri().path())?;
        let query: Query = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
            .map(|(k, v)| (k.into_owned(), v.into_owned()))
            .collect();
        let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
        if !is_read && self.config.read_only {
            return Err(unsupported());
        }
        if request.method() == Method::DELETE
            && !self.config.delete_enabled
            && !matches!(path, Path::Upload(..))
        {
            return Err(unsupported());
        }
        match (request.method().as_str(), path) {
            ("GET" | "HEAD", Path::Base) => {
                let headers = [
                    ("content-type", "application/json; charset=utf-8".to_owned()),
                    ("content-length", "2".into()),
                ];
                Ok(build(StatusCode::OK, &headers, full("{}")))
            }
            ("GET", Path::Catalog) => self.catalog(query).await,
            ("GET", Path::Tags(name)) => self.tags(name, query).await,
            ("GET", Path::Referrers(name, subject)) => self.referrers(name, subject, query).await,
            ("GET" | "HEAD", Path::Manifest(name, target)) => {
                let is_head = request.method() == Method::HEAD;
                self.get_manifest(name, target, is_head).await
            }
            ("PUT", Path::Manifest(name, target)) => self.put_manifest(name, target, request).await,
            ("DELETE", Path::Manifest(name, target)) => self.delete_manifest(name, target).await,
            ("GET" | "HEAD", Path::Blob(name, digest)) => self.get_blob(name, digest, &request).await,
            ("DELETE", Path::Blob(name, digest)) => self.delete_blob(name, digest).await,
            ("POST", Path::Uploads(name)) => self.start_upload(name, query, request).await,
            ("GET" | "HEAD", Path::Upload(name, id)) => self.upload_status(name, id).await,
            ("PATCH", Path::Upload(name, id)) => self.append_upload(name, id, request).await,
            ("PUT", Path::Upload(name, id)) => self.finish_upload(name, id, query, request).await,
            ("DELETE", Path::Upload(_, id)) => self.cancel_upload(id).await,
            _ => Err(unsupported()),
        }
    }

    /// Runs something that blocks.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        f: impl FnOnce(&Self) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let app = Arc::clone(self);
        match tokio::task::spawn_blocking(move || f(&app)).await {
            Ok(result) => result,
            Err(e) => Err(Refusal::from(std::io::Error::other(e))),
        }
    }
}

fn unsupported() -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, code::UNSUPPORTED)
}

pub(crate) fn parse(path: &str) -> Result<Path, Refusal> {
    let unknown = || Refusal::new(StatusCode::NOT_FOUND, code::NAME_UNKNOWN).because("page not found");
    let path = percent_decode_str(path).decode_utf8().map_err(|_| unknown())?;
    let rest = match path.as_ref() {
        "/v2" | "/v2/" => return Ok(Path::Base),
        "/v2/_catalog" => return Ok(Path::Catalog),
        other => other.strip_prefix("/v2/").ok_or_else(unknown)?,
    };
    if let Some(name) = rest.strip_suffix("/tags/list") {
        return Ok(Path::Tags(repository(name)?));
    }
    let (head, last) = rest.rsplit_once('/').ok_or_else(unknown)?;
    if let Some(name) = head.strip_suffix("/blobs/uploads") {
        let name = repository(name)?;
        if last.is_empty() {
            return Ok(Path::Uploads(name));
        }
        let id = last.parse().map_err(|_| Refusal::new(StatusCode::NOT_FOUND, code::BLOB_UPLOAD_UNKNOWN))?;
        return Ok(Path::Upload(name, id));
    }
    if let Some(name) = head.strip_suffix("/blobs") {
        let name = repository(name)?;
        return if last == "uploads" { Ok(Path::Uploads(name)) } else { Ok(Path::Blob(name, digest(last)?)) };
    }
    if let Some(name) = head.strip_suffix("/referrers") {
        return Ok(Path::Referrers(repository(name)?, digest(last)?));
    }
    if let Some(name) = head.strip_suffix("/manifests") {
        let name = repository(name)?;
        if last.contains(':') {
            return Ok(Path::Manifest(name, Name::Digest(digest(last)?)));
        }
        let any = "localhost/x".parse::<Reference>().map_err(|_| unknown())?;
        any.with_tag(last).map_err(|_| {
            Refusal::new(StatusCode::NOT_FOUND, code::MANIFEST_UNKNOWN).because("invalid tag name")
        })?;
        return Ok(Path::Manifest(name, Name::Tag(last.to_owned())));
    }
    Err(unknown())
}

/// Checks a repository name by the grammar of references.
fn repository(name: &str) -> Result<String, Refusal> {
    let refused = || Refusal::new(StatusCode::BAD_REQUEST, code::NAME_INVALID);
    let reference: Reference = format!("localhost/{name}").parse().map_err(|_| refused())?;
    if reference.tag().is_some() || reference.digest().is_some() || reference.path() != name {
        return Err(refused());
    }
    Ok(name.to_owned())
}

pub(crate) fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|e: corten_base::digest::InvalidDigest| {
        Refusal::new(StatusCode::BAD_REQUEST, code::DIGEST_INVALID).because(e.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let d = format!("sha256:{}", "a".repeat(64));
        let id = Id::random();
        let digest: Digest = d.parse().unwrap();
        for (path, want) in [
            ("/v2/".to_owned(), Some(Path::Base)),
            ("/v2/a/b/tags/list".into(), Some(Path::Tags("a/b".into()))),
            ("/v2/a/manifests/v1".into(), Some(Path::Manifest("a".into(), Name::Tag("v1".into())))),
            (format!("/v2/a/manifests/{d}"), Some(Path::Manifest("a".into(), Name::Digest(digest.clone())))),
            (format!("/v2/a/blobs/{}", d.replace(':', "%3A")), Some(Path::Blob("a".into(), digest.clone()))),
            ("/v2/a/blobs/uploads/".into(), Some(Path::Uploads("a".into()))),
            (format!("/v2/a/blobs/uploads/{id}"), Some(Path::Upload("a".into(), id.clone()))),
            (format!("/v2/a/referrers/{d}"), Some(Path::Referrers("a".into(), digest))),
            ("/v2/../x/tags/list".into(), None),
            ("/v2/a/../b/manifests/x".into(), None),
            ("/v2/_a/manifests/x".into(), None),
            ("/v2/A/manifests/x".into(), None),
            ("/v2/a/manifests/..".into(), None),
            ("/v2/a/blobs/sha256:xyz".into(), None),
            ("/v2/a/blobs/uploads/..%2f..".into(), None),
            ("/".into(), None),
        ] {
            assert_eq!(parse(&path).ok(), want, "{path}");
        }
    }
}
