//! BuildKit's protocols at the edge: `POST /grpc` (the client calls us) and `POST /session` (we call the client).
//!
//! ```text
//!   buildx ── /grpc ────▶ control: Solve, Status, ListWorkers, DiskUsage, Prune …    gateway: Ping, Solve, Return …
//!        └─── /session ─▶ Session (files, secrets, ssh, credentials)                       │
//!                            ▲                                                       Job ◀─┘ progress, results
//!                            └────────── SessionClient: what the builder asks ◀── Builder::solve
//! ```
//! A build is a [`job::Job`] under the reference that the client gave it. `Control.Solve` waits while the client drives
//! the front end through the gateway, then exports what was returned.

mod annotations;
mod attest;
mod caches;
pub(crate) mod control;
mod export;
mod files;
mod gateway;
mod history;
mod job;
mod layout;
mod progress;
mod request;
mod session;
mod store;
mod subrequests;
mod tree;

use std::sync::Arc;

pub(crate) use session::{Announced, Sessions};

use crate::grpc::{self, Code, Request, Status};
use crate::services::Services;
use crate::stream::Client;

/// What the daemon remembers of BuildKit's clients.
#[derive(Debug, Default)]
pub struct BuildKit {
    sessions: Sessions,
    jobs: job::Jobs,
}

impl BuildKit {
    pub(crate) fn sessions(&self) -> &Sessions {
        &self.sessions
    }
}

/// Serves one connection of `POST /grpc`.
pub(crate) async fn serve(services: Arc<Services>, connection: Client) -> std::io::Result<()> {
    grpc::serve(connection, move |request| {
        let services = Arc::clone(&services);
        answer(services, request)
    })
    .await
}

async fn answer(services: Arc<Services>, request: Request) -> crate::body::Response {
    tracing::debug!(path = request.path, "gRPC call");
    let path = request.path.clone();
    match path.rsplit_once('/') {
        Some(("/moby.buildkit.v1.Control", method)) => control::answer(services, method, request).await,
        Some(("/moby.buildkit.v1.frontend.LLBBridge", method)) => {
            gateway::answer(services, method, request).await
        }
        Some(("/containerd.services.content.v1.Content", method)) => {
            store::answer(services, method, request).await
        }
        Some(("/grpc.health.v1.Health", "Check")) => {
            use bollard_buildkit_proto::health::{HealthCheckResponse, health_check_response::ServingStatus};
            grpc::unary(Ok(HealthCheckResponse { status: ServingStatus::Serving as i32 }))
        }
        _ => unknown(&path),
    }
}

/// As Go's server says it.
fn unknown(path: &str) -> crate::body::Response {
    let (service, method) = path.trim_start_matches('/').rsplit_once('/').unwrap_or(("", path));
    let message = format!("unknown method {method} for service {service}");
    grpc::unary::<bollard_buildkit_proto::health::HealthCheckResponse>(Err(Status::new(
        Code::Unimplemented,
        message,
    )))
}
