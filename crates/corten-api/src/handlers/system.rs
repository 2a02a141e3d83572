//! The daemon itself: is it there, what is it, what happens, what is used.

use std::sync::Arc;

use corten_engine::EventFilter;
use corten_wire::api::events::EventMessage;
use corten_wire::api::system::DiskUsage;
use http::{HeaderValue, header};

use crate::body::full;
use crate::call::{Answer, Call};
use crate::compat;
use crate::error::ApiError;
use crate::query::timestamp;
use crate::stream;

pub(crate) async fn ping(call: Call) -> Answer {
    let mut response = http::Response::new(full(if call.method == http::Method::HEAD { "" } else { "OK" }));
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE.as_str(), "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL.as_str(), "no-cache, no-store, must-revalidate"),
        (header::PRAGMA.as_str(), "no-cache"),
        // 1: the classic builder; clients then do not try BuildKit.
        ("builder-version", "1"),
        ("swarm", "inactive"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

pub(crate) async fn version(call: Call) -> Answer {
    call.ok(&call.services.daemon().version)
}

pub(crate) async fn info(call: Call) -> Answer {
    call.ok(&call.services.info())
}

pub(crate) async fn disk_usage(call: Call) -> Answer {
    let types: Vec<&str> = call.query.all("type").collect();
    if let Some(unknown) = types.iter().find(|t| !["container", "image", "volume", "build-cache"].contains(t))
    {
        return Err(ApiError::invalid(format!("unknown object type: {unknown}")));
    }
    let wanted = |t: &str| types.is_empty() || types.contains(&t);
    let mut usage = DiskUsage::default();
    if wanted("container") || wanted("volume") {
        let engine = call.services.engine.disk_usage().await?;
        usage.containers = wanted("container").then_some(engine.containers);
        usage.volumes = wanted("volume").then_some(engine.volumes);
    }
    if wanted("image") {
        let (size, images) = call.services.image_usage().await?;
        usage.layers_size = Some(size);
        usage.images = Some(images);
    }
    if wanted("build-cache") {
        usage.build_cache = Some(call.services.build_cache().await?);
    }
    call.ok(&usage)
}

pub(crate) async fn events(call: Call) -> Answer {
    let now = corten_base::time::now_ns();
    let (since_text, until_text) = (call.query.text("since"), call.query.text("until"));
    let time = |name: &str, text: &str| match text {
        "" => Ok(None),
        text => timestamp(text, now)
            .map(Some)
            .map_err(|why| ApiError::invalid(format!("invalid value for '{name}': {why}"))),
    };
    let (since, until) = (time("since", since_text)?, time("until", until_text)?);
    if let (Some(from), Some(to)) = (since, until)
        && to < from
    {
        return Err(ApiError::invalid(format!(
            "`since` time ({since_text}) cannot be after `until` time ({until_text})"
        )));
    }
    let filter = EventFilter::new(call.query.filters()?);
    let (past, subscription) = call.services.engine.bus().subscribe();
    let past = if since.is_some() || until.is_some() { past } else { Vec::new() };
    let version = call.version;
    let encode = move |event: &Arc<corten_base::event::Event>| {
        let mut value = serde_json::to_value(EventMessage::from(event.as_ref())).unwrap_or_default();
        compat::response("/events", version, &mut value);
        value
    };
    let window =
        stream::EventWindow { since: since.unwrap_or(if until.is_some() { i128::MIN } else { now }), until };
    stream::events(&call, window, past, subscription, move |e| filter.matches(e).then(|| encode(e)))
}
