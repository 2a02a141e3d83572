//! Questions about a Dockerfile instead of a build: `--check`, `--call=outline`, `--call=targets`.

use std::collections::HashMap;
use std::sync::Arc;

use bollard_buildkit_proto::moby::buildkit::v1::frontend::Result as GatewayResult;
use corten_build::{Described, Parameter, SolveRequest};
use serde_json::{Value, json};

use super::gateway::failure;
use super::job::Job;
use super::session::SessionClient;
use crate::grpc::{Status, base64};
use crate::services::Services;

const CHECK: &str = "frontend.lint";
const OUTLINE: &str = "frontend.outline";
const TARGETS: &str = "frontend.targets";
const DESCRIBE: &str = "frontend.subrequests.describe";

pub(super) fn is_known(name: &str) -> bool {
    matches!(name, CHECK | OUTLINE | TARGETS | DESCRIBE)
}

/// Answers a question.
pub(super) async fn answer(
    name: &str,
    services: &Arc<Services>,
    job: &Arc<Job>,
    request: SolveRequest,
    client: SessionClient,
) -> Result<GatewayResult, Status> {
    let (builder, running) = (services.builder.clone(), Arc::clone(job));
    let shown: fn(&Described) -> Value = match name {
        OUTLINE => outline,
        TARGETS => targets,
        DESCRIBE => return Ok(result(&[("result.json", known().to_string())])),
        _ => return check(services, job, request, client).await,
    };
    let describing = tokio::task::spawn_blocking(move || {
        let say = |event| running.progress.event(event);
        builder.describe(&request, &client, &say, &running.cancel).map_err(|e| failure(&e))
    });
    let described = describing.await.map_err(Status::protocol)??;
    Ok(result(&[("result.json", shown(&described).to_string())]))
}

/// What can be asked.
fn known() -> Value {
    let one = |name: &str, description: &str| {
        json!({
            "name": name, "version": "1.0.0", "type": "rpc", "description": description,
            "opts": [], "inputs": [], "metadata": [{ "name": "result.json" }, { "name": "result.txt" }], "refs": null,
        })
    };
    json!([
        one(CHECK, "Lint a Dockerfile"),
        one(OUTLINE, "List all parameters current build target supports"),
        one(TARGETS, "List all targets current build supports"),
        one(DESCRIBE, "List available subrequest types"),
    ])
}

fn result(metadata: &[(&str, String)]) -> GatewayResult {
    let version = ("version".to_owned(), b"1.0.0".to_vec());
    let metadata = metadata.iter().map(|(k, v)| ((*k).to_owned(), v.clone().into_bytes()));
    GatewayResult {
        metadata: metadata.chain([version]).collect(),
        attestations: HashMap::new(),
        result: None,
    }
}

fn location((first, last): (usize, usize)) -> Value {
    json!({ "ranges": [{ "start": { "line": first }, "end": { "line": last } }] })
}

/// Fields that Go leaves out where they are empty.
fn put(value: &mut Value, name: &str, text: &str) {
    if !text.is_empty() {
        value[name] = text.into();
    }
}

fn targets(described: &Described) -> Value {
    let last = described.targets.len().saturating_sub(1);
    let all = described.targets.iter().enumerate().map(|(place, target)| {
        let mut shown = json!({ "location": location(target.lines) });
        for (name, text) in [
            ("name", &target.name),
            ("description", &target.description),
            ("base", &target.base),
            ("platform", &target.platform),
        ] {
            put(&mut shown, name, text);
        }
        if place == last {
            shown["default"] = true.into();
        }
        shown
    });
    json!({ "targets": all.collect::<Value>(), "sources": [base64(&described.source.text)] })
}

fn outline(described: &Described) -> Value {
    let mut whole = json!({ "sources": [base64(&described.source.text)] });
    if let Some(target) = described.targets.get(described.target) {
        put(&mut whole, "name", &target.name);
        put(&mut whole, "description", &target.description);
    }
    let shown = |p: &Parameter| {
        let mut one = json!({ "name": p.name, "location": location(p.lines) });
        put(&mut one, "description", &p.description);
        put(&mut one, "value", &p.value);
        if p.required {
            one["required"] = true.into();
        }
        one
    };
    for (name, list) in
        [("args", &described.args), ("secrets", &described.secrets), ("ssh", &described.agents)]
    {
        if !list.is_empty() {
            whole[name] = list.iter().map(shown).collect();
        }
    }
    whole
}

/// `docker build --check`.
async fn check(
    services: &Arc<Services>,
    job: &Arc<Job>,
    request: SolveRequest,
    client: SessionClient,
) -> Result<GatewayResult, Status> {
    let (builder, running) = (services.builder.clone(), Arc::clone(job));
    let checking = tokio::task::spawn_blocking(move || {
        let say = |event| running.progress.event(event);
        builder.check(&request, &client, &say, &running.cancel)
    });
    let (warnings, source, error) = match checking.await.map_err(Status::protocol)? {
        Ok(checked) => (checked.warnings, checked.source, None),
        // A file that is no Dockerfile is a finding, too.
        Err(e) => match &e.place {
            Some((source, lines)) => (Vec::new(), Arc::clone(source), Some((e.text(), *lines))),
            None => return Err(failure(&e)),
        },
    };
    let listed: Vec<Value> = warnings
        .iter()
        .map(|w| {
            json!({
                "ruleName": w.rule, "description": w.description, "url": w.url, "detail": w.detail,
                "location": location(w.lines),
            })
        })
        .collect();
    let mut whole = json!({
        "warnings": listed,
        "sources": [{ "filename": source.name, "data": base64(&source.text), "language": "Dockerfile" }],
    });
    let bad = error.is_some() || !warnings.is_empty();
    if let Some((message, lines)) = error {
        whole["buildError"] = json!({ "message": message, "location": location(lines) });
    }
    let text: String =
        warnings.iter().map(|w| format!("\nWARNING: {} - {}\n{}\n", w.rule, w.url, w.detail)).collect();
    Ok(result(&[
        ("result.json", whole.to_string()),
        ("result.txt", text),
        ("result.statuscode", u8::from(bad).to_string()),
    ]))
}
