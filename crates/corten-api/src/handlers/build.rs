//! The classic builder, and what is not BuildKit.

use corten_base::Reference;
use corten_build::{BuildEvent, BuildRequest, CacheEntry, CachePrune, StepLimits};
use corten_wire::api::Filters;
use corten_wire::api::build::BuildPruneResponse;
use corten_wire::api::container::ContainerConfig;
use corten_wire::api::host_config::Ulimit;
use corten_wire::api::stream::JsonMessage;
use corten_wire::oci_image;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::body;
use crate::buildkit::{self, Announced, control};
use crate::call::{Answer, Call};
use crate::error::ApiError;
use crate::handlers::containers::platform;
use crate::handlers::images::blocking;
use crate::handlers::registry::credentials_by_host;
use crate::query::{Query, timestamp};
use crate::stream::{self, Early, Failure, Sink};

/// A client offers what its builds need.
pub(crate) async fn session(call: Call) -> Answer {
    let announced = Announced::read(&call.headers)?;
    let services = std::sync::Arc::clone(&call.services);
    upgrade_to_h2c(call, move |connection| async move {
        services.buildkit.sessions().serve(announced, connection.into_inner()).await
    })
}

/// A client wants to call BuildKit's services.
pub(crate) async fn grpc(call: Call) -> Answer {
    let services = std::sync::Arc::clone(&call.services);
    upgrade_to_h2c(call, move |connection| buildkit::serve(services, connection))
}

fn upgrade_to_h2c<F: Future<Output = std::io::Result<()>> + Send + 'static>(
    call: Call,
    serve: impl FnOnce(stream::Client) -> F + Send + 'static,
) -> Answer {
    match call.header("upgrade") {
        "h2c" => stream::upgrade(call, "h2c", serve),
        "" => Err(ApiError::invalid("no upgrade proto in request")),
        other => Err(ApiError::invalid(format!("protocol {other} not supported"))),
    }
}

pub(crate) async fn cancel(_call: Call) -> Answer {
    Err(ApiError::invalid("BuildKit is not supported by this daemon: there is no build to cancel"))
}

pub(crate) async fn build(call: Call) -> Answer {
    let request = build_request(&call.query)?;
    let pull_credentials = credentials_by_host(&call)?;
    let builder = call.services.builder.clone();
    let puller = call.services.puller(pull_credentials);
    let remote = call.query.text("remote").to_owned();
    let mut tar = body::reader(call.body);
    stream::progress(Early::Status, move |sink, cancel| async move {
        let events = sink.clone();
        let built = tokio::task::spawn_blocking(move || {
            let mut say = |event: BuildEvent| render(&events, &event);
            let built = match remote.as_str() {
                "" => builder.build(&mut tar, request, &puller, &mut say, &cancel),
                url => builder.build_remote(url, request, &puller, &mut say, &cancel),
            };
            built.map_err(|e| Failure {
                exit_code: e.exit_code().unwrap_or_default(),
                error: ApiError::from_error(e.kind(), &e),
            })
        });
        built.await.map_err(|e| ApiError::internal(e.to_string()))?.map(|_| ())
    })
    .await
}

fn render(sink: &Sink, event: &BuildEvent) {
    match event {
        BuildEvent::Stream(text) => sink.send(&JsonMessage::stream(text.as_str())),
        BuildEvent::Image(id) => sink.send(&JsonMessage::aux(json!({ "ID": id.to_string() }))),
        BuildEvent::Progress(event) => sink.event(event),
    }
}

fn json_parameter<T: DeserializeOwned + Default>(q: &Query, name: &str, what: &str) -> Result<T, ApiError> {
    match q.text(name) {
        "" => Ok(T::default()),
        text => corten_wire::api::decode(text.as_bytes())
            .map_err(|e| ApiError::invalid(format!("error reading {what}: {e}"))),
    }
}

fn build_request(q: &Query) -> Result<BuildRequest, ApiError> {
    refuse_unsupported(q)?;
    let number = |name: &str| Ok::<_, ApiError>(q.number(name)?.unwrap_or_default());
    let ulimits: Vec<Ulimit> = json_parameter(q, "ulimits", "ulimit settings")?;
    Ok(BuildRequest {
        dockerfile: q.text("dockerfile").to_owned(),
        tags: tags(q)?,
        build_args: json_parameter(q, "buildargs", "build args")?,
        labels: json_parameter(q, "labels", "labels")?,
        target: q.text("target").to_owned(),
        platform: platform(q.text("platform"))?,
        no_cache: q.flag("nocache"),
        cache_from: json_parameter::<Option<Vec<String>>>(q, "cachefrom", "cache sources")?
            .unwrap_or_default(),
        pull: q.flag("pull"),
        rm: q.flag_or("rm", true),
        force_rm: q.flag("forcerm"),
        quiet: q.flag("q"),
        squash: q.flag("squash"),
        network: q.text("networkmode").to_owned(),
        extra_hosts: q
            .all("extrahosts")
            .flat_map(|h| h.split(','))
            .filter(|h| !h.is_empty())
            .map(str::to_owned)
            .collect(),
        limits: StepLimits {
            memory: number("memory")?,
            memory_swap: number("memswap")?,
            cpu_shares: number("cpushares")?,
            cpu_period: number("cpuperiod")?,
            cpu_quota: number("cpuquota")?,
            cpuset_cpus: q.text("cpusetcpus").to_owned(),
            cpuset_mems: q.text("cpusetmems").to_owned(),
            cgroup_parent: q.text("cgroupparent").to_owned(),
            shm_size: number("shmsize")?,
            ulimits: ulimits.into_iter().map(|u| (u.name, u.soft, u.hard)).collect(),
        },
    })
}

fn refuse_unsupported(q: &Query) -> Result<(), ApiError> {
    if q.text("version") == "2" {
        return Err(ApiError::invalid(
            "BuildKit is not supported by this daemon: build with the classic builder (DOCKER_BUILDKIT=0)",
        ));
    }
    for (name, what) in [("outputs", "build outputs"), ("securityopt", "security options for builds")] {
        let text = q.text(name);
        if !text.is_empty() && text != "[]" && text != "null" {
            return Err(ApiError::unsupported(format!(
                "{what} is not supported by the classic builder of this daemon"
            )));
        }
    }
    let isolation = q.text("isolation");
    if !matches!(isolation, "" | "default") {
        return Err(ApiError::invalid(format!("Unsupported isolation: {isolation:?}")));
    }
    Ok(())
}

fn tags(q: &Query) -> Result<Vec<Reference>, ApiError> {
    let mut tags = Vec::new();
    for text in q.all("t").filter(|t| !t.is_empty()) {
        let tag: Reference = text.parse().map_err(|e| {
            ApiError::from_error(corten_base::Kind::InvalidArgument, &e as &dyn std::error::Error)
        })?;
        if tag.digest().is_some() {
            return Err(ApiError::invalid("build tag cannot contain a digest"));
        }
        let tag = tag.or_latest();
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    Ok(tags)
}

/// Filters of the build cache beside `until`.
const CACHE_FILTERS: &[&str] =
    &["id", "parent", "type", "description", "inuse", "shared", "private", "mutable", "immutable"];

pub(crate) async fn prune(call: Call) -> Answer {
    let q = &call.query;
    let filters = q.filters()?;
    filters.validate(&[&["until"], CACHE_FILTERS].concat())?;
    let bytes = |name: &str| {
        let number = q.number(name)?.unwrap_or_default();
        u64::try_from(number).map_err(|_| ApiError::invalid(format!("{name} is negative: {number}")))
    };
    let options = CachePrune {
        keep_ns: keep_ns(&filters)?,
        reserved: bytes("reserved-space")?,
        max_used: bytes("max-used-space")?,
        min_free: bytes("min-free-space")?,
    };
    let (terms, all) = (cache_filter(&filters)?, q.flag("all"));
    // The classic builder's steps are images and no records of the cache: they are only forgotten.
    let everything = all && terms.is_empty() && options.is_unlimited();
    let builder = call.services.builder.clone();
    let gone = blocking(move || {
        // COMPAT: what an image has, too, goes with `all` only.
        let admitted = |e: &CacheEntry| {
            (all || !e.shared) && (terms.is_empty() || control::admitted(&control::usage(e.clone()), &terms))
        };
        let gone = builder.prune_cache(&options, &admitted);
        let gone = gone.and_then(|gone| if everything { builder.prune().map(|_| gone) } else { Ok(gone) });
        gone.map_err(|e| ApiError::from_error(e.kind(), &e))
    });
    let gone = gone.await?;
    let freed: u64 = gone.iter().filter(|e| !e.shared).map(|e| e.size).sum();
    let reclaimed = [("reclaimed".to_owned(), freed.to_string())];
    call.services.engine.bus().publish("builder", "prune", "", reclaimed.into());
    let ids: Vec<String> = gone.into_iter().map(|e| e.id).collect();
    call.ok(&BuildPruneResponse { caches_deleted: (!ids.is_empty()).then_some(ids), space_reclaimed: freed })
}

/// `until`: what was used since then stays.
fn keep_ns(filters: &Filters) -> Result<i64, ApiError> {
    let now = corten_base::time::now_ns();
    match filters.get("until").collect::<Vec<_>>()[..] {
        [] => Ok(0),
        [text] => {
            let since = timestamp(text, now)
                .map_err(|why| ApiError::invalid(format!("invalid value for 'until': {why}")))?;
            Ok(i64::try_from((now - since).max(1)).unwrap_or(i64::MAX))
        }
        _ => Err(ApiError::invalid("filters expect only one value")),
    }
}

/// The other filters, as BuildKit writes them.
fn cache_filter(filters: &Filters) -> Result<Vec<String>, ApiError> {
    let mut terms = Vec::new();
    for name in CACHE_FILTERS.iter().filter(|n| filters.contains(n)) {
        match filters.get(name).collect::<Vec<_>>()[..] {
            [] => terms.push((*name).to_owned()),
            [value] if *name == "id" => terms.push(format!("id~={value}")),
            [value] => terms.push(format!("{name}=={value}")),
            _ => return Err(ApiError::invalid("filters expect only one value")),
        }
    }
    Ok(if terms.is_empty() { terms } else { vec![terms.join(",")] })
}

/// Applies the instructions of `--change`.
pub(crate) fn apply_changes(
    config: &mut oci_image::ContainerConfig,
    changes: &[String],
) -> Result<(), ApiError> {
    corten_build::apply_changes(config, changes).map_err(|e| ApiError::from_error(e.kind(), &e))
}

/// What the body of a commit says beside the container's own configuration: it wins where it says anything, lists
/// and maps are added to.
pub(crate) fn merge_config(config: &mut oci_image::ContainerConfig, over: ContainerConfig) {
    let text = |slot: &mut String, new: String| {
        if !new.is_empty() {
            *slot = new;
        }
    };
    text(&mut config.user, over.user);
    text(&mut config.working_dir, over.working_dir);
    text(&mut config.stop_signal, over.stop_signal);
    if over.cmd.is_some() {
        config.cmd = over.cmd;
    }
    if over.entrypoint.is_some() {
        config.entrypoint = over.entrypoint;
    }
    config.labels.get_or_insert_default().extend(over.labels.unwrap_or_default());
    config.labels.take_if(|l| l.is_empty());
    let env = config.env.get_or_insert_default();
    for new in over.env.unwrap_or_default() {
        let name = new.split('=').next().unwrap_or_default().to_owned();
        env.retain(|old| old.split('=').next() != Some(name.as_str()));
        env.push(new);
    }
    config.env.take_if(|e| e.is_empty());
    let ports = over.exposed_ports.into_keys().map(|p| (p.as_str().to_owned(), oci_image::Empty {}));
    config.exposed_ports.get_or_insert_default().extend(ports);
    config.exposed_ports.take_if(|p| p.is_empty());
    let volumes = over.volumes.unwrap_or_default().into_keys().map(|v| (v, oci_image::Empty {}));
    config.volumes.get_or_insert_default().extend(volumes);
    config.volumes.take_if(|v| v.is_empty());
}
