//! Images.

use std::io::Write;
use std::sync::Arc;

use corten_base::{Cancel, Kind, Reference};
use corten_image::{Filters, Image, ImportRequest, ProgressEvent, RemoveOptions};
use corten_wire::api::image::ImageSummary;
use corten_wire::api::stream::JsonMessage;
use http::StatusCode;

use crate::body;
use crate::call::{Answer, Call, empty, json};
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
            line.manifests = Some(convert::manifests(&s.image, containers_of(&call, &s.image)));
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

/// Ids of the containers that were made from this image.
fn containers_of(call: &Call, image: &Image) -> Vec<String> {
    let views = call.services.engine.views();
    let made = views.iter().filter(|v| v.record.image.as_ref().is_some_and(|id| *id == image.id));
    made.map(|v| v.record.id.to_string()).collect()
}

pub(crate) async fn inspect(call: Call) -> Answer {
    let wanted = platform(call.query.text("platform"))?;
    if wanted.is_some() && call.query.flag("manifests") {
        return Err(ApiError::invalid(
            "conflicting options: manifests and platform options cannot both be set",
        ));
    }
    let image = call.services.images.resolve_for(call.name(), wanted.as_ref())?;
    let containers = call.query.flag("manifests").then(|| containers_of(&call, &image));
    call.ok(&convert::inspect(&image, containers))
}

pub(crate) async fn history(call: Call) -> Answer {
    if let Some(wanted) = platform(call.query.text("platform"))? {
        call.services.images.resolve_for(call.name(), Some(&wanted))?;
    }
    let items = call.services.images.history(call.name())?;
    call.ok(&items.iter().map(convert::history).collect::<Vec<_>>())
}

pub(crate) async fn attestations(call: Call) -> Answer {
    let platforms: Vec<&str> = call.query.all("platform").filter(|p| !p.is_empty()).collect();
    if platforms.len() > 1 {
        return Err(ApiError::invalid("only one platform value is supported"));
    }
    let wanted = platform(platforms.first().copied().unwrap_or_default())?;
    call.services.images.resolve_for(call.name(), wanted.as_ref())?;
    // A pull takes the manifests of one platform and no attestations: there is nothing that `type` or `statement`
    // could choose from.
    json(StatusCode::OK, &[(); 0])
}

pub(crate) async fn tag(call: Call) -> Answer {
    let target = reference(call.query.text("repo"), call.query.text("tag"))?
        .ok_or_else(|| ApiError::invalid("repository name must have at least one component"))?;
    call.services.images.tag(call.name(), &target)?;
    empty(StatusCode::CREATED)
}

pub(crate) async fn remove(call: Call) -> Answer {
    if call.query.all("platforms").any(|p| !p.is_empty()) {
        return Err(ApiError::unsupported(
            "removing single platforms of an image is not supported by this daemon",
        ));
    }
    let options = RemoveOptions {
        force: call.query.flag("force"),
        no_prune: call.query.flag("noprune"),
        running: call.services.engine.running_ids(),
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
    if call.query.all("platform").any(|p| !p.is_empty()) {
        return Err(ApiError::unsupported(
            "saving single platforms of an image is not supported by this daemon",
        ));
    }
    let mut names: Vec<String> = call.query.all("names").map(str::to_owned).collect();
    names.extend(call.variables.first().cloned());
    let images = call.services.images.clone();
    stream::produce("application/x-tar", move |mut out, cancel| {
        images.save(&names, &mut out, &cancel)?;
        out.flush().map_err(ApiError::from)
    })
    .await
}

pub(crate) async fn load(call: Call) -> Answer {
    if call.query.all("platform").any(|p| !p.is_empty()) {
        return Err(ApiError::unsupported(
            "loading single platforms of an image is not supported by this daemon",
        ));
    }
    let quiet = call.query.flag("quiet");
    let (images, mut tar) = (call.services.images.clone(), body::reader(call.body));
    stream::progress(Early::Message, move |sink, cancel| async move {
        let quieted = sink.clone();
        let progress = corten_image::Progress::new(move |event| {
            if !(quiet && matches!(event, ProgressEvent::Layer { .. })) {
                quieted.event(&event);
            }
        });
        blocking(move || images.load(&mut tar, &progress, &cancel)).await?;
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
    let invalid = |e: &dyn std::error::Error| ApiError::from_error(Kind::InvalidArgument, e);
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
    let invalid = |e: &dyn std::error::Error| ApiError::from_error(Kind::InvalidArgument, e);
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
