//! `moby.buildkit.v1.Control`: builds, their status, the cache, what can be built here.

use std::collections::HashMap;
use std::sync::Arc;

use bollard_buildkit_proto::moby::buildkit::v1::frontend::{ReturnRequest, result};
use bollard_buildkit_proto::moby::buildkit::v1::types::{BuildkitVersion, WorkerRecord};
use bollard_buildkit_proto::moby::buildkit::v1::{
    BuildHistoryEvent, BuildHistoryRequest, DiskUsageRequest, DiskUsageResponse, InfoResponse,
    ListWorkersResponse, PruneRequest, SolveRequest, SolveResponse, StatusRequest, StatusResponse,
    UpdateBuildHistoryRequest, UsageRecord,
};
use bollard_buildkit_proto::pb;
use corten_base::Platform;
use corten_build::{CacheEntry, CachePrune};

use super::attest::{self, Provenance};
use super::history::{self, History};
use super::job::{Job, Jobs};
use super::progress::{self, Progress};
use super::{caches, export, gateway};
use crate::body::Response;
use crate::error::chain;
use crate::grpc::{self, Code, Request, Status};
use crate::services::Services;

/// The front end and the protocols are those of this version.
const VERSION: &str = "v0.25.1";

pub(super) async fn answer(services: Arc<Services>, method: &str, mut request: Request) -> Response {
    let messages = &mut request.messages;
    macro_rules! call {
        ($kind:ty, |$message:ident| $answer:expr) => {
            match messages.only::<$kind>().await {
                Ok($message) => grpc::unary($answer),
                Err(e) => grpc::unary::<InfoResponse>(Err(e)),
            }
        };
    }
    match method {
        "Solve" => call!(SolveRequest, |message| solve(&services, message).await),
        "Status" => match messages.only::<StatusRequest>().await {
            Ok(message) => status(&services, &message).await,
            Err(e) => grpc::unary::<StatusResponse>(Err(e)),
        },
        "Session" => super::session::tunnel(services, request),
        "ListWorkers" => grpc::unary(Ok(ListWorkersResponse { record: vec![worker(&services)] })),
        "Info" => grpc::unary(Ok(InfoResponse { buildkit_version: Some(version()) })),
        "DiskUsage" => call!(DiskUsageRequest, |message| disk_usage(&services, message).await),
        "Prune" => match messages.only::<PruneRequest>().await {
            Ok(message) => match prune(&services, message).await {
                Ok(records) => grpc::stream(futures_util::stream::iter(records.into_iter().map(Ok))),
                Err(e) => grpc::unary::<UsageRecord>(Err(e)),
            },
            Err(e) => grpc::unary::<UsageRecord>(Err(e)),
        },
        "ListenBuildHistory" => match messages.only::<BuildHistoryRequest>().await {
            Ok(message) => match history::list(&services, message).await {
                Ok(events) => grpc::stream(futures_util::stream::iter(events.into_iter().map(Ok))),
                Err(e) => grpc::unary::<BuildHistoryEvent>(Err(e)),
            },
            Err(e) => grpc::unary::<BuildHistoryEvent>(Err(e)),
        },
        "UpdateBuildHistory" => {
            call!(UpdateBuildHistoryRequest, |message| history::update(&services, message).await)
        }
        _ => super::unknown(&request.path),
    }
}

fn version() -> BuildkitVersion {
    BuildkitVersion {
        package: "github.com/moby/buildkit".into(),
        version: VERSION.into(),
        revision: String::new(),
    }
}

/// What builds here.
pub(super) fn worker(services: &Services) -> WorkerRecord {
    let host = Platform::host();
    let daemon = services.daemon();
    let gateway = services.host_gateway();
    let labels = [
        ("org.mobyproject.buildkit.worker.executor", "containerd"),
        ("org.mobyproject.buildkit.worker.hostname", daemon.info.name.as_str()),
        ("org.mobyproject.buildkit.worker.network", "host"),
        // By this clients know that images are kept as registries have them: archives can be exported, and results
        // be pushed by us.
        ("org.mobyproject.buildkit.worker.snapshotter", "overlayfs"),
        ("org.mobyproject.buildkit.worker.moby.host-gateway-ip", gateway.as_str()),
    ];
    WorkerRecord {
        id: daemon.info.id.clone(),
        labels: labels
            .into_iter()
            .filter(|(_, v)| !v.is_empty())
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect(),
        platforms: vec![pb::Platform {
            architecture: host.architecture,
            os: host.os,
            variant: host.variant,
            ..pb::Platform::default()
        }],
        gc_policy: Vec::new(),
        buildkit_version: Some(version()),
        cdi_devices: Vec::new(),
    }
}

async fn status(services: &Services, message: &StatusRequest) -> Response {
    let (history, reference) = (History::of(services), message.r#ref.clone());
    // A build of long ago, unless one of that name is under way.
    if !services.buildkit.jobs.knows(&reference)
        && let Ok(Some(log)) = tokio::task::spawn_blocking(move || history.log(&reference)).await
    {
        return grpc::stream(futures_util::stream::iter(log.into_iter().map(Ok)));
    }
    match services.buildkit.jobs.get(&message.r#ref).await {
        Ok(job) => grpc::stream(Progress::follow(job)),
        Err(e) => grpc::unary::<StatusResponse>(Err(e)),
    }
}

async fn solve(services: &Arc<Services>, request: SolveRequest) -> Result<SolveResponse, Status> {
    let (job, returned) = Job::new(&request.r#ref, &request.session);
    services.buildkit.jobs.add(&job)?;
    // A client that leaves drops this: the build ends, and so does its status.
    let over = Over { services: Arc::clone(services), job: Arc::clone(&job) };
    let mut provenance = None;
    let solved = solve_within(services, &job, returned, &request, &mut provenance).await;
    drop(over);
    // By some a client only asks what can be done here.
    if !request.internal {
        let outcome = solved.as_ref().map(|s| &s.exporter_response);
        history::keep(services, &job, &request, outcome, provenance).await;
    }
    solved
}

/// Ends a build however it ends.
struct Over {
    services: Arc<Services>,
    job: Arc<Job>,
}

impl Drop for Over {
    fn drop(&mut self) {
        self.job.cancel.cancel();
        self.job.progress.end();
        Jobs::forget_later(&self.services, Arc::clone(&self.job));
    }
}

async fn solve_within(
    services: &Arc<Services>,
    job: &Arc<Job>,
    returned: tokio::sync::oneshot::Receiver<ReturnRequest>,
    request: &SolveRequest,
    predicate: &mut Option<(String, Vec<u8>)>,
) -> Result<SolveResponse, Status> {
    let exporters = export::exporters(request);
    export::check(&exporters)?;
    let cache = caches::exports(request.cache.as_ref().map_or(&[][..], |c| &c.exports))?;
    let wanted = attest::wanted(&request.frontend_attrs)?;
    let has_definition = request.definition.as_ref().is_some_and(|d| !d.def.is_empty());
    if has_definition {
        return Err(Status::new(
            Code::Unimplemented,
            "low-level build definitions are not supported by this daemon: it builds Dockerfiles",
        ));
    }
    let result = if request.frontend.is_empty() {
        let gone = || Status::new(Code::Cancelled, "context canceled");
        returned.await.map_err(|_| gone())?
    } else {
        let made = gateway::front_end(
            services,
            job,
            &request.frontend,
            &request.frontend_attrs,
            &request.frontend_inputs,
        )
        .await?;
        ReturnRequest { result: Some(made), error: None }
    };
    let several = matches!(
        result.result.as_ref().and_then(|r| r.result.as_ref()),
        Some(result::Result::Refs(_) | result::Result::RefsDeprecated(_))
    );
    let result = gateway::returned(services, result)?;
    let mut response = HashMap::new();
    if result.is_empty() || (exporters.is_empty() && cache.is_empty()) {
        return Ok(SolveResponse { exporter_response: response });
    }
    let client = Arc::new(gateway::client(services, job, &HashMap::new()).await?);
    let provenance =
        wanted.map(|wanted| Provenance::new(wanted, job.attributes(), &job.reference, job.started_ns));
    *predicate = provenance.as_ref().zip(result.first()).map(|(p, solved)| p.recorded(solved));
    let made = export::Made {
        several: several || result.len() > 1,
        results: result.into(),
        provenance: provenance.map(Arc::new),
        inline_cache: cache.iter().any(|c| c.inline),
    };
    for (number, exporter) in exporters.iter().enumerate() {
        response.extend(export::export(services, job, &client, number, exporter, &made).await?);
    }
    for cache in &cache {
        response.extend(cache.run(services, job, &client, &made.results).await?);
    }
    Ok(SolveResponse { exporter_response: response })
}

async fn disk_usage(
    services: &Arc<Services>,
    message: DiskUsageRequest,
) -> Result<DiskUsageResponse, Status> {
    let builder = services.builder.clone();
    let entries = tokio::task::spawn_blocking(move || builder.cache_entries()).await;
    let entries = entries.map_err(Status::protocol)?.map_err(|e| Status::new(Code::Unknown, chain(&e)))?;
    let record = entries.into_iter().map(usage).filter(|r| admitted(r, &message.filter)).collect();
    Ok(DiskUsageResponse { record })
}

pub(crate) fn usage(entry: CacheEntry) -> UsageRecord {
    UsageRecord {
        id: entry.id,
        mutable: entry.mutable,
        in_use: entry.in_use,
        size: i64::try_from(entry.size).unwrap_or(i64::MAX),
        created_at: Some(progress::timestamp(i128::from(entry.created_ns))),
        last_used_at: Some(progress::timestamp(i128::from(entry.used_ns))),
        usage_count: i64::try_from(entry.uses).unwrap_or(i64::MAX),
        description: entry.description,
        record_type: entry.kind.to_owned(),
        shared: entry.shared,
        ..UsageRecord::default()
    }
}

/// Filters of containerd's kind: `name`, `name==value`, `name~=text`, joined by commas; one of the list must fit.
pub(crate) fn admitted(record: &UsageRecord, filters: &[String]) -> bool {
    let field = |name: &str| match name {
        "id" => record.id.clone(),
        "type" => record.record_type.clone(),
        "description" => record.description.clone(),
        "inuse" => record.in_use.to_string(),
        "shared" => record.shared.to_string(),
        "private" => (!record.shared).to_string(),
        "mutable" => record.mutable.to_string(),
        "immutable" => (!record.mutable).to_string(),
        _ => String::new(),
    };
    let unquoted = |text: &str| text.trim_matches('"').to_owned();
    let fits = |filter: &str| {
        filter.split(',').filter(|part| !part.is_empty()).all(|part| {
            if let Some((name, value)) = part.split_once("==") {
                return field(name) == unquoted(value);
            }
            if let Some((name, value)) = part.split_once("!=") {
                return field(name) != unquoted(value);
            }
            if let Some((name, value)) = part.split_once("~=") {
                return field(name).contains(&unquoted(value));
            }
            !matches!(field(part).as_str(), "" | "false")
        })
    };
    filters.is_empty() || filters.iter().any(|f| f.is_empty() || fits(f))
}

async fn prune(services: &Arc<Services>, message: PruneRequest) -> Result<Vec<UsageRecord>, Status> {
    let builder = services.builder.clone();
    let bytes = |n: i64| u64::try_from(n).unwrap_or_default();
    let options = CachePrune {
        keep_ns: message.keep_duration,
        reserved: bytes(message.reserved_space),
        max_used: bytes(message.max_used_space),
        min_free: bytes(message.min_free_space),
    };
    let pruned = tokio::task::spawn_blocking(move || {
        // What an image has, too, goes with `all` only: that frees nothing.
        let admitted = |entry: &CacheEntry| {
            (message.all || !entry.shared) && admitted(&usage(entry.clone()), &message.filter)
        };
        builder.prune_cache(&options, &admitted)
    });
    let pruned =
        pruned.await.map_err(Status::protocol)?.map_err(|e| Status::new(Code::Unknown, chain(&e)))?;
    Ok(pruned.into_iter().map(usage).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_the_cache() {
        let record = UsageRecord {
            id: "abc".into(),
            record_type: "regular".into(),
            description: "RUN make # buildkit".into(),
            shared: true,
            ..UsageRecord::default()
        };
        for (filter, want) in [
            ("id==abc", true),
            ("id==x", false),
            ("type==regular", true),
            ("type!=regular", false),
            ("description~=make", true),
            ("shared", true),
            ("inuse", false),
            ("immutable", true),
            ("id==abc,type==exec.cachemount", false),
        ] {
            assert_eq!(admitted(&record, &[filter.to_owned()]), want, "{filter}");
        }
        assert!(admitted(&record, &[String::new()]));
        assert!(admitted(&record, &[]) && admitted(&record, &["id==x".into(), "shared".into()]));
    }
}
