//! Images.

use std::io::Write;
use std::sync::Arc;

use corten_base::{Cancel, Kind, Platform, Reference};
use corten_image::{Filters, Image, ImportRequest, ProgressEvent, RemoveOptions};
use corten_wire::api::image::{AttestationStatement, ImageSummary, ManifestSummary};
use corten_wire::api::stream::JsonMessage;
use http::StatusCode;

use crate::body;
use crate::call::{Answer, Call, empty};
use crate::convert;
use crate::error::ApiError;
use crate::handlers::build::apply_changes;
use crate::handlers::containers::{changes_of, platform, reference};
use crate::handlers::registry::credentials;
use crate::stream::{self, Early, Failure, Sink};

fn filters(call: &Call) -> Result<Filters, ApiError> {
    let filters = call.query.filters()?;
    Ok(filters.keys().map(|k| (k.to_owned(), filters.get(k).map(str::to_owned).collect())).collect())
}

pub(crate) async fn list(call: Call) -> Answer {
    let q = &call.query;
    let found = call.services.images.list(&filters(&call)?, q.flag("all"))?;
    let mut list: Vec<ImageSummary> = found.iter().map(convert::summary).collect();
    if q.flag("identity") && !q.flag("manifests") {
        return Err(ApiError::invalid("identity requires manifests"));
    }
    if q.flag("manifests") {
        for (line, s) in list.iter_mut().zip(&found) {
            line.manifests = Some(manifests(&call, &s.image, q.flag("identity"))?);
        }
    }
    if q.flag("shared-size") {
        let (_, usage) = call.services.image_usage().await?;
        for line in &mut list {
            line.shared_size = usage.iter().find(|u| u.id == line.id).map_or(-1, |u| u.shared_size);
        }
    }
    call.ok(&list)
}

/// The manifests of an image with the containers that were made from each.
fn manifests(call: &Call, image: &Image, identity: bool) -> Result<Vec<ManifestSummary>, ApiError> {
    let views = call.services.engine.views();
    let made: Vec<_> = views.iter().filter(|v| v.record.image.as_ref() == Some(&image.id)).collect();
    let entries = call.services.images.manifests(image)?;
    let shown = entries.iter().map(|entry| {
        let digest = entry.descriptor.digest.as_str();
        let of = |r: &corten_engine::ContainerRecord| {
            r.manifest.as_ref().map_or(image.manifest_descriptor.digest.as_str(), |m| &m.digest) == digest
        };
        let containers = made.iter().filter(|v| of(&v.record)).map(|v| v.record.id.to_string());
        let mut shown = convert::manifest(entry, containers.collect());
        if identity && let Some(data) = &mut shown.image_data {
            data.identity = convert::identity(image);
        }
        shown
    });
    Ok(shown.collect())
}

/// A parameter with platforms, which may be repeated.
fn platforms(call: &Call, name: &str) -> Result<Vec<Platform>, ApiError> {
    call.query.all(name).filter_map(|text| platform(text).transpose()).collect()
}

pub(crate) async fn inspect(call: Call) -> Answer {
    let wanted = platform(call.query.text("platform"))?;
    if wanted.is_some() && call.query.flag("manifests") {
        return Err(ApiError::invalid(
            "conflicting options: manifests and platform options cannot both be set",
        ));
    }
    let image = call.services.images.resolve_for(call.name(), wanted.as_ref())?;
    let manifests = call.query.flag("manifests").then(|| manifests(&call, &image, false)).transpose()?;
    call.ok(&convert::inspect(&image, manifests))
}

pub(crate) async fn history(call: Call) -> Answer {
    let wanted = platform(call.query.text("platform"))?;
    let items = call.services.images.history(call.name(), wanted.as_ref())?;
    call.ok(&items.iter().map(convert::history).collect::<Vec<_>>())
}

pub(crate) async fn attestations(call: Call) -> Answer {
    let platforms: Vec<&str> = call.query.all("platform").filter(|p| !p.is_empty()).collect();
    if platforms.len() > 1 {
        return Err(ApiError::invalid("only one platform value is supported"));
    }
    let wanted = platform(platforms.first().copied().unwrap_or_default())?;
    let types: Vec<String> = call.query.all("type").filter(|t| !t.is_empty()).map(str::to_owned).collect();
    let (images, name) = (call.services.images.clone(), call.name().to_owned());
    let with_text = call.query.flag("statement");
    let statements = blocking(move || {
        let found = images.attestations(&name, wanted.as_ref())?;
        let chosen = found.into_iter().filter(|s| types.is_empty() || types.contains(&s.predicate_type));
        chosen.map(|s| statement(&images, s, with_text)).collect::<Result<Vec<_>, ApiError>>()
    });
    call.ok(&statements.await?)
}

fn statement(
    images: &corten_image::Images,
    found: corten_image::Statement,
    with_text: bool,
) -> Result<AttestationStatement, ApiError> {
    let text = with_text.then(|| images.statement(&found)).transpose()?;
    let read = |bytes: Vec<u8>| {
        serde_json::from_slice(&bytes)
            .map_err(|e| ApiError::internal(format!("statement {}: {e}", found.descriptor.digest)))
    };
    Ok(AttestationStatement {
        statement: text.map(read).transpose()?,
        descriptor: convert::descriptor(&found.descriptor),
        predicate_type: found.predicate_type,
    })
}

pub(crate) async fn tag(call: Call) -> Answer {
    let target = reference(call.query.text("repo"), call.query.text("tag"))?
        .ok_or_else(|| ApiError::invalid("repository name must have at least one component"))?;
    call.services.images.tag(call.name(), &target)?;
    empty(StatusCode::CREATED)
}

pub(crate) async fn remove(call: Call) -> Answer {
    let manifest_of = |v: &Arc<corten_engine::ContainerView>| {
        let digest = v.record.manifest.as_ref()?.digest.parse().ok()?;
        Some((digest, v.record.id.to_string()))
    };
    let options = RemoveOptions {
        force: call.query.flag("force"),
        no_prune: call.query.flag("noprune"),
        running: call.services.engine.running_ids(),
        platforms: platforms(&call, "platforms")?,
        in_use: call.services.engine.views().iter().filter_map(manifest_of).collect(),
    };
    let (images, name) = (call.services.images.clone(), call.name().to_owned());
    let removed = blocking(move || images.remove(&name, &options)).await?;
    call.ok(&removed.iter().map(convert::removed).collect::<Vec<_>>())
}

pub(crate) async fn prune(call: Call) -> Answer {
    let (images, filters) = (call.services.images.clone(), filters(&call)?);
    call.ok(&convert::pruned(&blocking(move || images.prune(&filters)).await?))
}

/// Runs what may take long on a thread where that does no harm.
pub(crate) async fn blocking<T, E>(f: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, ApiError>
where
    T: Send + 'static,
    E: Into<ApiError> + Send + 'static,
{
    let done = tokio::task::spawn_blocking(f).await;
    done.map_err(|e| ApiError::internal(e.to_string()))?.map_err(Into::into)
}

pub(crate) async fn save(call: Call) -> Answer {
    let platforms = platforms(&call, "platform")?;
    let mut names: Vec<String> = call.query.all("names").map(str::to_owned).collect();
    names.extend(call.variables.first().cloned());
    let images = call.services.images.clone();
    stream::produce("application/x-tar", move |mut out, cancel| {
        images.save(&names, &platforms, &mut out, &cancel)?;
        out.flush().map_err(ApiError::from)
    })
    .await
}

pub(crate) async fn load(call: Call) -> Answer {
    let platforms = platforms(&call, "platform")?;
    let quiet = call.query.flag("quiet");
    let (images, mut tar) = (call.services.images.clone(), body::reader(call.body));
    stream::progress(Early::Message, move |sink, cancel| async move {
        let quieted = sink.clone();
        let progress = corten_image::Progress::new(move |event| {
            if !(quiet && matches!(event, ProgressEvent::Layer { .. })) {
                quieted.event(&event);
            }
        });
        blocking(move || images.load(&mut tar, &platforms, &progress, &cancel)).await?;
        Ok(())
    })
    .await
}

/// Pull, or import.
pub(crate) async fn create(call: Call) -> Answer {
    match (call.query.text("fromImage"), call.query.text("fromSrc")) {
        ("", "") => Err(ApiError::invalid("either fromImage or fromSrc is required")),
        ("", _) => import(call).await,
        _ => pull(call).await,
    }
}

async fn import(call: Call) -> Answer {
    let q = &call.query;
    let source = match q.text("fromSrc") {
        "-" => "-".to_owned(),
        url if url.contains("://") => url.to_owned(),
        host => format!("http://{host}"),
    };
    let mut request = ImportRequest {
        config: corten_wire::oci_image::ContainerConfig::default(),
        comment: match q.text("message") {
            "" => format!("Imported from {source}"),
            message => message.to_owned(),
        },
        reference: reference(q.text("repo"), q.text("tag"))?,
        platform: platform(q.text("platform"))?,
    };
    apply_changes(&mut request.config, &changes_of(q))?;
    let services = Arc::clone(&call.services);
    let sent = body::byte_stream(call.body);
    stream::progress(Early::Status, move |sink, cancel| async move {
        let stream = if source == "-" {
            sent
        } else {
            sink.send(&JsonMessage::status("", format!("Downloading from {source}")));
            body::download_stream(services.registries.download(&source).await?)
        };
        let (images, mut tar) = (services.images.clone(), body::stream_reader(stream));
        let image = blocking(move || images.import(&mut tar, request, &cancel)).await?;
        sink.send(&JsonMessage::status("", image.id.to_string()));
        Ok(())
    })
    .await
}

async fn pull(call: Call) -> Answer {
    let q = &call.query;
    let invalid = |e: &(dyn std::error::Error + 'static)| ApiError::from_error(Kind::InvalidArgument, e);
    let mut wanted: Reference = q.text("fromImage").parse().map_err(|e| invalid(&e))?;
    let tag = q.text("tag");
    if tag.contains(':') {
        wanted = wanted.with_digest(tag.parse().map_err(|e| invalid(&e))?);
    } else if !tag.is_empty() {
        wanted = wanted.with_tag(tag).map_err(|e| invalid(&e))?;
    }
    let platform = platform(q.text("platform"))?;
    let credentials = credentials(&call)?;
    let services = Arc::clone(&call.services);
    stream::progress(Early::Status, move |sink, cancel| async move {
        // A name without tag stands for all of its tags.
        let names = match (wanted.tag(), wanted.digest()) {
            (None, None) => all_tags(&services, &wanted, &credentials).await?,
            _ => vec![wanted],
        };
        let (progress, client, platform) = (sink.progress(), &services.registries, platform.as_ref());
        for name in names {
            services.images.pull(client, &credentials, &name, platform, &progress, &cancel).await?;
        }
        Ok(())
    })
    .await
}

async fn all_tags(
    services: &crate::Services,
    name: &Reference,
    credentials: &corten_registry::Credentials,
) -> Result<Vec<Reference>, ApiError> {
    let tags = services.registries.repository(name, credentials).tags().await?;
    Ok(tags.iter().filter_map(|t| name.with_tag(t).ok()).collect())
}

pub(crate) async fn push(call: Call) -> Answer {
    let invalid = |e: &(dyn std::error::Error + 'static)| ApiError::from_error(Kind::InvalidArgument, e);
    let mut name: Reference = call.name().parse().map_err(|e| invalid(&e))?;
    let tag = call.query.text("tag");
    if !tag.is_empty() {
        name = name.with_tag(tag).map_err(|e| invalid(&e))?;
    }
    let platform = platform(call.query.text("platform"))?;
    let credentials = credentials(&call)?;
    let services = Arc::clone(&call.services);
    stream::progress(Early::Message, move |sink: Sink, cancel: Cancel| async move {
        let progress = sink.progress();
        services
            .images
            .push(&services.registries, &credentials, &name, platform.as_ref(), &progress, &cancel)
            .await
            .map_err(Failure::from)
    })
    .await
}
