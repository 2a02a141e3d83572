//! Containers as objects: create, list, state changes, removal, commit.

use corten_base::{Kind, Platform, Reference};
use corten_engine::{ListOptions, Outcome, RemoveOptions, WaitCondition};
use corten_wire::api::IdResponse;
use corten_wire::api::container::{ContainerConfig, CreateRequest};
use corten_wire::api::host_config::UpdateRequest;
use http::{HeaderValue, StatusCode, header};

use crate::body::streamed;
use crate::call::{Answer, Array, Call, empty, no_content};
use crate::compat;
use crate::error::ApiError;
use crate::stream;

pub(crate) async fn list(call: Call) -> Answer {
    let q = &call.query;
    let limit = q.number("limit")?;
    let options = ListOptions {
        all: q.flag("all"),
        limit: limit.and_then(|n| usize::try_from(n).ok()).unwrap_or_default(),
        size: q.flag("size"),
        filters: q.filters()?,
    };
    let mut listing = call.services.engine.list(&options)?;
    let mut array = Array::default();
    while let Some(mut summary) = listing.next().await {
        compat::summary(call.version, &mut summary);
        array.push(&summary)?;
    }
    Ok(array.answer())
}

pub(crate) async fn create(mut call: Call) -> Answer {
    let value = call.json_value().await?;
    let request = CreateRequest::read(&value)?
        .ok_or_else(|| ApiError::invalid("config cannot be empty in order to create a container"))?;
    let platform = platform(call.query.text("platform"))?;
    let made = call.services.engine.create(call.query.get("name"), request, platform.as_ref()).await?;
    call.created(&made)
}

/// The parameter `platform`.
pub(crate) fn platform(text: &str) -> Result<Option<Platform>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    // From API 1.48 on clients may send the OCI object instead of text.
    if text.starts_with('{') {
        let wanted: corten_wire::api::image::OciPlatform =
            corten_wire::api::decode(text.as_bytes()).map_err(|e| ApiError::invalid(e.to_string()))?;
        return Ok(Some(
            Platform { os: wanted.os, architecture: wanted.architecture, variant: wanted.variant }
                .normalised(),
        ));
    }
    let parsed = text.parse::<Platform>().map_err(|e| {
        let text = e.to_string();
        ApiError::invalid(if text.ends_with("invalid argument") {
            text
        } else {
            format!("{text}: invalid argument")
        })
    })?;
    Ok(Some(parsed))
}

pub(crate) async fn inspect(call: Call) -> Answer {
    let container = call.services.engine.find(call.name())?;
    call.ok(&container.inspect(call.query.flag("size")).await?)
}

fn outcome(outcome: Outcome) -> Answer {
    match outcome {
        Outcome::Done => no_content(),
        Outcome::Unchanged => empty(StatusCode::NOT_MODIFIED),
    }
}

pub(crate) async fn start(call: Call) -> Answer {
    let checkpoint = call.query.text("checkpoint");
    if !checkpoint.is_empty() && !call.services.daemon().experimental {
        return Err(ApiError::invalid("checkpoint is only supported in experimental mode"));
    }
    // `{}` and the like are tolerated, a host configuration is not (API 1.22 had it here).
    let size = hyper::body::Body::size_hint(&call.body).exact();
    if size.is_none_or(|n| n > 7) {
        return Err(ApiError::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    let container = call.services.engine.find(call.name())?;
    if checkpoint.is_empty() {
        return outcome(container.start().await?);
    }
    outcome(container.start_from(checkpoint, call.query.text("checkpoint-dir")).await?)
}

pub(crate) async fn stop(call: Call) -> Answer {
    let container = call.services.engine.find(call.name())?;
    outcome(
        container.stop(call.query.get("signal").filter(|s| !s.is_empty()), call.query.number("t")?).await?,
    )
}

pub(crate) async fn restart(call: Call) -> Answer {
    let container = call.services.engine.find(call.name())?;
    container.restart(call.query.get("signal").filter(|s| !s.is_empty()), call.query.number("t")?).await?;
    no_content()
}

pub(crate) async fn kill(call: Call) -> Answer {
    let name = call.name();
    let prefixed = |who: &str, e: &corten_engine::Error| {
        let text = e.chain();
        let known = text.starts_with("cannot kill container: ");
        ApiError::new(e.kind(), if known { text } else { format!("cannot kill container: {who}: {text}") })
    };
    let container = call.services.engine.find(name).map_err(|e| prefixed(name, &e))?;
    let signal = call.query.get("signal").filter(|s| !s.is_empty());
    container.kill(signal).await.map_err(|e| prefixed(name, &e))?;
    no_content()
}

pub(crate) async fn pause(call: Call) -> Answer {
    call.services.engine.find(call.name())?.pause().await?;
    no_content()
}

pub(crate) async fn unpause(call: Call) -> Answer {
    call.services.engine.find(call.name())?.unpause().await?;
    no_content()
}

pub(crate) async fn rename(call: Call) -> Answer {
    call.services.engine.find(call.name())?.rename(call.query.text("name")).await?;
    no_content()
}

pub(crate) async fn update(mut call: Call) -> Answer {
    let request: UpdateRequest = call.json().await?;
    let updated = call.services.engine.find(call.name())?.update(request).await?;
    call.ok(&updated)
}

pub(crate) async fn wait(call: Call) -> Answer {
    let condition = match call.query.text("condition") {
        "" | "not-running" => WaitCondition::NotRunning,
        "next-exit" => WaitCondition::NextExit,
        "removed" => WaitCondition::Removed,
        other => return Err(ApiError::invalid(format!("invalid condition: {other:?}"))),
    };
    let ended = call.services.engine.find_late(call.name())?.wait(condition);
    // The head goes out at once: clients start the container only when they know that we wait.
    let body = streamed(futures_util::stream::once(async move {
        let mut text = serde_json::to_vec(&ended.await).map_err(std::io::Error::other)?;
        text.push(b'\n');
        Ok(text.into())
    }));
    let mut response = http::Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

pub(crate) async fn remove(call: Call) -> Answer {
    let options = RemoveOptions {
        force: call.query.flag("force"),
        volumes: call.query.flag("v"),
        link: call.query.flag("link"),
    };
    // `OWNER/ALIAS` is the name of a link.
    if options.link && call.name().trim_start_matches('/').contains('/') {
        call.services.engine.remove_link(call.name()).await?;
        return no_content();
    }
    call.services.engine.find(call.name())?.remove(options).await?;
    no_content()
}

pub(crate) async fn prune(call: Call) -> Answer {
    call.ok(&call.services.engine.prune_containers(&call.query.filters()?).await?)
}

pub(crate) async fn changes(call: Call) -> Answer {
    call.ok(&call.services.engine.find(call.name())?.changes().await?)
}

pub(crate) async fn export(call: Call) -> Answer {
    let bytes = call.services.engine.find(call.name())?.export().await?;
    Ok(stream::download(bytes, "application/octet-stream"))
}

pub(crate) async fn commit(mut call: Call) -> Answer {
    let overrides: Option<ContainerConfig> = call.json_or_default().await?;
    let q = &call.query;
    let container = call.services.engine.find(q.text("container"))?;
    let reference = reference(q.text("repo"), q.text("tag"))?;
    let changes: Vec<String> = changes_of(q);
    let mut config = container.commit_config()?;
    if let Some(overrides) = overrides {
        super::build::merge_config(&mut config, overrides);
    }
    super::build::apply_changes(&mut config, &changes)?;
    let spec = corten_engine::CommitSpec {
        config,
        reference,
        author: q.text("author").to_owned(),
        comment: q.text("comment").to_owned(),
        pause: q.flag_or("pause", true),
    };
    let id = container.commit(spec).await?;
    call.created(&IdResponse { id: id.to_string() })
}

/// Instructions of the parameter `changes`, which may be repeated and may have lines.
pub(crate) fn changes_of(q: &crate::query::Query) -> Vec<String> {
    let lines = q.all("changes").flat_map(str::lines).map(str::trim);
    lines.filter(|l| !l.is_empty()).map(str::to_owned).collect()
}

/// The parameters `repo` and `tag`; no repository means no name.
pub(crate) fn reference(repo: &str, tag: &str) -> Result<Option<Reference>, ApiError> {
    if repo.is_empty() {
        return Ok(None);
    }
    let invalid = |e: &(dyn std::error::Error + 'static)| ApiError::from_error(Kind::InvalidArgument, e);
    let reference: Reference = repo.parse().map_err(|e| invalid(&e))?;
    if reference.digest().is_some() {
        return Err(ApiError::invalid("refusing to create a tag with a digest reference"));
    }
    let reference = if tag.is_empty() {
        reference.or_latest()
    } else {
        reference.with_tag(tag).map_err(|e| invalid(&e))?
    };
    Ok(Some(reference))
}
