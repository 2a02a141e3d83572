//! `moby.buildkit.v1.frontend.LLBBridge`: the client drives a front end, which is ours.

use std::collections::HashMap;
use std::sync::Arc;

use bollard_buildkit_proto::moby::buildkit::v1::apicaps::ApiCap;
use bollard_buildkit_proto::moby::buildkit::v1::frontend::{
    EvaluateRequest, EvaluateResponse, InputsResponse, PongResponse, ReadDirRequest, ReadDirResponse,
    ReadFileRequest, ReadFileResponse, Ref, RefMap, Result as GatewayResult, ReturnRequest, ReturnResponse,
    SolveRequest, SolveResponse, StatFileRequest, StatFileResponse, WarnRequest, WarnResponse, result,
};
use bollard_buildkit_proto::pb;
use corten_build::{SolveError, Solved};
use corten_wire::oci_image::OciPlatform;

use super::job::Job;
use super::session::SessionClient;
use super::{caches, export, layout, progress, request, subrequests, tree};
use crate::body::Response;
use crate::grpc::{self, Code, Request, Status, base64};
use crate::services::Services;

/// Metadata of results: the configuration, and which platforms there are.
const CONFIG: &str = "containerimage.config";
const PLATFORMS: &str = "refs.platforms";
/// What the gateway can do.
const CAPABILITIES: [&str; 13] = [
    "solve.base",
    "solve.inlinereturn",
    "readfile",
    "return",
    "returnmap",
    "readdir",
    "statfile",
    "proto.refarray",
    "reference.output",
    "frontend.inputs",
    "gateway.solve.metadata",
    "frontend.caps",
    "gateway.evaluate",
];
/// What clients want to know about builds.
const LLB_CAPABILITIES: [&str; 19] = [
    "source.image",
    "source.image.resolvemode",
    "source.local",
    "source.local.unique",
    "source.local.sessionid",
    "source.local.includepatterns",
    "source.local.followpaths",
    "source.local.excludepatterns",
    "source.local.sharedkeyhint",
    "source.local.differ",
    "source.http",
    "exec.meta.base",
    "file.base",
    "constraints",
    "platform",
    "exporter.multiple",
    "exporter.image.annotations",
    "exporter.image.attestations",
    "exporter.sourcedateepoch",
];

pub(super) async fn answer(services: Arc<Services>, method: &str, mut request: Request) -> Response {
    let reference = request.metadata("buildkit-controlapi-buildid").to_owned();
    let job = match services.buildkit.jobs.get(&reference).await {
        Ok(job) => job,
        Err(e) => return grpc::unary::<ReturnResponse>(Err(e)),
    };
    let messages = &mut request.messages;
    macro_rules! call {
        ($kind:ty, |$message:ident| $answer:expr) => {
            match messages.only::<$kind>().await {
                Ok($message) => grpc::unary($answer),
                Err(e) => grpc::unary::<ReturnResponse>(Err(e)),
            }
        };
    }
    match method {
        "Ping" => grpc::unary(Ok(pong(&services))),
        "Inputs" => grpc::unary(Ok(InputsResponse::default())),
        "Solve" => call!(SolveRequest, |message| solve(&services, &job, message).await),
        "Return" => call!(ReturnRequest, |message| {
            job.set_returned(message);
            Ok(ReturnResponse {})
        }),
        "Evaluate" => call!(EvaluateRequest, |message| {
            services.buildkit.jobs.result(&message.r#ref).map(|_| EvaluateResponse {})
        }),
        "Warn" => call!(WarnRequest, |message| {
            tracing::debug!(short = %String::from_utf8_lossy(&message.short), "warning of a front end");
            Ok(WarnResponse {})
        }),
        "ReadFile" => call!(ReadFileRequest, |message| {
            let range = message.range.map(|r| (r.offset, r.length));
            let file = move |solved: &tree::Files| solved.read(&message.file_path, range);
            let data = with_files(&services, message.r#ref.clone(), file).await;
            data.map(|data| ReadFileResponse { data })
        }),
        "ReadDir" => call!(ReadDirRequest, |message| {
            let list = move |solved: &tree::Files| solved.list(&message.dir_path, &message.include_pattern);
            let entries = with_files(&services, message.r#ref.clone(), list).await;
            entries.map(|entries| ReadDirResponse { entries })
        }),
        "StatFile" => call!(StatFileRequest, |message| {
            let stat = move |solved: &tree::Files| solved.stat(&message.path);
            let stat = with_files(&services, message.r#ref.clone(), stat).await;
            stat.map(|stat| StatFileResponse { stat: Some(stat) })
        }),
        _ => super::unknown(&request.path),
    }
}

/// Looks at the files of a result.
async fn with_files<T: Send + 'static>(
    services: &Arc<Services>,
    id: String,
    look: impl FnOnce(&tree::Files) -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let services = Arc::clone(services);
    let looked = tokio::task::spawn_blocking(move || {
        let solved = services.buildkit.jobs.result(&id)?;
        look(&tree::Files::open(&services.builder, &solved)?)
    });
    looked.await.map_err(Status::protocol)?
}

fn capability(id: &str) -> ApiCap {
    ApiCap { id: id.to_owned(), enabled: true, ..ApiCap::default() }
}

fn pong(services: &Services) -> PongResponse {
    PongResponse {
        frontend_api_caps: CAPABILITIES.map(capability).into(),
        llb_caps: LLB_CAPABILITIES.map(capability).into(),
        workers: vec![super::control::worker(services)],
    }
}

async fn solve(
    services: &Arc<Services>,
    job: &Arc<Job>,
    request: SolveRequest,
) -> Result<SolveResponse, Status> {
    let definition = request.definition.is_some_and(|d| !d.def.is_empty());
    if definition || request.frontend.is_empty() {
        return Err(Status::new(
            Code::Unimplemented,
            "low-level build definitions are not supported by this daemon: it builds Dockerfiles",
        ));
    }
    let result =
        front_end(services, job, &request.frontend, &request.frontend_opt, &request.frontend_inputs).await?;
    Ok(SolveResponse { r#ref: String::new(), result: Some(result) })
}

/// Runs the front end; the answer names what it made.
pub(super) async fn front_end(
    services: &Arc<Services>,
    job: &Arc<Job>,
    name: &str,
    attributes: &HashMap<String, String>,
    inputs: &HashMap<String, pb::Definition>,
) -> Result<GatewayResult, Status> {
    check_front_end(name, attributes)?;
    let request = request::read(attributes, inputs, &services.buildkit.jobs)?;
    let client = client(services, job, attributes).await?;
    if let Some(subrequest) = attributes.get("requestid") {
        return subrequests::answer(subrequest, services, job, request, client).await;
    }
    job.set_attributes(attributes);
    let several = request::is_multi_platform(attributes, request.platforms.len())?;
    let client = Arc::new(client);
    let mut request = request;
    let layouts = layout::contexts(services, job, &client, attributes, &request.platforms).await?;
    request.contexts.extend(layouts);
    request.caches = caches::import(services, job, &client, &caches::imports(attributes)?).await;
    let (builder, running) = (services.builder.clone(), Arc::clone(job));
    let closed = client.main.closed.clone();
    let building = tokio::task::spawn_blocking(move || {
        let say = |event| running.progress.event(event);
        builder.solve(&request, &*client, &*client, &say, &running.cancel).map_err(|e| failure(&e))
    });
    let mut building = std::pin::pin!(building);
    let solved = tokio::select! {
        done = building.as_mut() => done,
        // Nobody is there any more to send files or to hear of the result.
        () = closed.cancelled() => {
            job.cancel.cancel();
            building.await
        }
    };
    let solved = solved.map_err(Status::protocol)??;
    Ok(made(services, solved, several))
}

/// The results under names by which clients hand them back.
fn made(services: &Services, solved: Vec<Solved>, several: bool) -> GatewayResult {
    let mut metadata = HashMap::new();
    let (mut refs, mut platforms) = (HashMap::new(), Vec::new());
    let mut only = None;
    for one in solved {
        let platform = one.platform.to_string();
        let config = export::config_of(&one);
        if several {
            metadata.insert(format!("{CONFIG}/{platform}"), config);
        } else {
            metadata.insert(CONFIG.to_owned(), config);
        }
        platforms.push(serde_json::json!({ "ID": platform, "Platform": OciPlatform::from(&one.platform) }));
        let id = services.buildkit.jobs.keep(one);
        let reference = Ref { def: Some(request::definition_of(&id)), id };
        if several {
            refs.insert(platform, reference);
        } else {
            only = Some(reference);
        }
    }
    metadata
        .insert(PLATFORMS.to_owned(), serde_json::json!({ "Platforms": platforms }).to_string().into_bytes());
    let result = match only {
        Some(reference) => result::Result::Ref(reference),
        None => result::Result::Refs(RefMap { refs }),
    };
    GatewayResult { metadata, attestations: HashMap::new(), result: Some(result) }
}

fn check_front_end(name: &str, attributes: &HashMap<String, String>) -> Result<(), Status> {
    let text = |name: &str| attributes.get(name).map_or("", String::as_str);
    match name {
        "dockerfile.v0" => {}
        // `BUILDKIT_SYNTAX`: ours is built in, and knows what the official ones know.
        "gateway.v0" if is_dockerfile_image(text("source")) => {}
        "gateway.v0" => {
            let message = format!("the front end {} is not supported by this daemon", text("source"));
            return Err(Status::new(Code::Unimplemented, message));
        }
        other => return Err(Status::new(Code::NotFound, format!("frontend {other} not found"))),
    }
    let subrequest = text("requestid");
    if !subrequest.is_empty() && !subrequests::is_known(subrequest) {
        let mut status = Status::new(Code::Unimplemented, format!("unknown request {subrequest}"));
        status.details.push(Status::detail("errdefs.Subrequest", &serde_json::json!({"name": subrequest})));
        return Err(status);
    }
    Ok(())
}

/// `docker/dockerfile` and `docker/dockerfile-upstream`, of whatever version.
fn is_dockerfile_image(image: &str) -> bool {
    let name = image.strip_prefix("docker.io/").unwrap_or(image);
    let name = name.split(['@', ':']).next().unwrap_or_default();
    matches!(name, "docker/dockerfile" | "docker/dockerfile-upstream")
}

/// What the builder may ask of the client.
pub(super) async fn client(
    services: &Services,
    job: &Job,
    attributes: &HashMap<String, String>,
) -> Result<SessionClient, Status> {
    let sessions = services.buildkit.sessions();
    let mut others = HashMap::new();
    for (key, id) in attributes {
        if let Some(name) = key.strip_prefix("local-sessionid:") {
            others.insert(name.to_owned(), sessions.get(id).await?);
        }
    }
    Ok(SessionClient {
        main: sessions.get(&job.session).await?,
        others,
        images: services.images.clone(),
        registries: services.registries.clone(),
        runtime: tokio::runtime::Handle::current(),
    })
}

/// The error as the client shows it: with the place in the Dockerfile.
pub(super) fn failure(error: &SolveError) -> Status {
    let mut status = Status::new(Code::Unknown, error.text());
    if matches!(*error.error, corten_build::BuildError::Cancelled) {
        status.code = Code::Cancelled as i32;
    }
    if let Some((source, (first, last))) = &error.place {
        let info = progress::source_info(source);
        let range = serde_json::json!({ "start": { "line": first }, "end": { "line": last } });
        status.details.push(Status::detail(
            "errdefs.Source",
            &serde_json::json!({
                "info": { "filename": info.filename, "data": base64(&info.data), "language": info.language },
                "ranges": [range],
            }),
        ));
    }
    if let Some(vertex) = &error.vertex {
        let vertex = serde_json::json!({ "digest": vertex.to_string() });
        status.details.push(Status::detail("errdefs.Vertex", &vertex));
    }
    status
}

/// The results that a front end returned, in the order of their platforms; none where it returned nothing.
pub(super) fn returned(services: &Services, request: ReturnRequest) -> Result<Vec<Arc<Solved>>, Status> {
    if let Some(error) = request.error {
        return Err(error.into());
    }
    let Some(result) = request.result else { return Ok(Vec::new()) };
    let order = order_of(result.metadata.get(PLATFORMS).map_or(&[], Vec::as_slice));
    let place = |platform: &String| order.iter().position(|p| p == platform).unwrap_or(order.len());
    let mut by_platform: Vec<(String, String)> = match result.result {
        None => Vec::new(),
        Some(result::Result::RefDeprecated(id)) => vec![(String::new(), id)],
        Some(result::Result::Ref(reference)) => vec![(String::new(), reference.id)],
        Some(result::Result::RefsDeprecated(map)) => map.refs.into_iter().collect(),
        Some(result::Result::Refs(map)) => map.refs.into_iter().map(|(p, r)| (p, r.id)).collect(),
    };
    by_platform.sort_by_cached_key(|(p, _)| (place(p), p.clone()));
    let ids = by_platform.into_iter().map(|(_, id)| id).filter(|id| !id.is_empty());
    ids.map(|id| services.buildkit.jobs.result(&id)).collect()
}

/// The platforms in the order in which they were asked for.
fn order_of(metadata: &[u8]) -> Vec<String> {
    let known: serde_json::Value = serde_json::from_slice(metadata).unwrap_or_default();
    let listed = known["Platforms"].as_array().map_or(&[][..], Vec::as_slice);
    listed.iter().filter_map(|p| p["ID"].as_str().map(str::to_owned)).collect()
}
