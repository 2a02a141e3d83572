//! The daemon itself: is it there, what is it, what happens, what is used.

use std::sync::Arc;

use corten_engine::EventFilter;
use corten_wire::api::build::BuildCache;
use corten_wire::api::events::EventMessage;
use corten_wire::api::image::ImageSummary;
use corten_wire::api::system::{DiskUsage, Usage};
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
        // 2: BuildKit.
        ("builder-version", "2"),
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
        usage.container_usage = wanted("container").then(|| {
            Usage::of(engine.containers, |c| {
                let active = matches!(c.state.as_str(), "running" | "paused" | "restarting");
                (active, c.size_rw.unwrap_or_default())
            })
        });
        usage.volume_usage = wanted("volume").then(|| {
            Usage::of(engine.volumes, |v| {
                v.usage_data.as_ref().map_or((false, 0), |u| (u.ref_count > 0, u.size))
            })
        });
    }
    if wanted("image") {
        usage.image_usage = Some(image_usage(&call).await?);
    }
    if wanted("build-cache") {
        let cache = call.services.build_cache().await?;
        // COMPAT: what another record shares goes with that one.
        let look = |c: &BuildCache| (c.in_use, if c.shared { 0 } else { c.size });
        usage.build_cache_usage = Some(Usage::of(cache, look));
    }
    if !call.query.flag("verbose") && !compat::wants_items(call.version) {
        usage.image_usage.iter_mut().for_each(|u| u.items = None);
        usage.container_usage.iter_mut().for_each(|u| u.items = None);
        usage.volume_usage.iter_mut().for_each(|u| u.items = None);
        usage.build_cache_usage.iter_mut().for_each(|u| u.items = None);
    }
    call.ok(&usage)
}

/// Layers that images share count once; what images in use need cannot be reclaimed.
async fn image_usage(call: &Call) -> Result<Usage<ImageSummary>, ApiError> {
    let (layers, images) = call.services.image_usage().await?;
    let own = |i: &ImageSummary| (i.containers > 0, i.size - i.shared_size.max(0));
    let usage = Usage::of(images, own);
    let used = usage.total_size - usage.reclaimable;
    Ok(Usage { total_size: layers, reclaimable: (layers - used).max(0), ..usage })
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
