//! Checkpoints, for which the reference engine must be in experimental mode.

use corten_wire::api::container::CheckpointCreateRequest;
use http::StatusCode;

use crate::call::{Answer, Call, empty, no_content};
use crate::error::ApiError;

/// COMPAT: the routes are there, but refuse.
fn experimental(call: &Call) -> Result<(), ApiError> {
    if call.services.daemon().experimental {
        return Ok(());
    }
    Err(ApiError::unsupported(
        "This experimental feature is disabled by default. Start the Docker daemon in experimental mode in order to enable it.",
    ))
}

pub(crate) async fn create(mut call: Call) -> Answer {
    experimental(&call)?;
    let request: CheckpointCreateRequest = call.json().await?;
    call.services.engine.find(call.name())?.checkpoint(request).await?;
    empty(StatusCode::CREATED)
}

pub(crate) async fn list(call: Call) -> Answer {
    experimental(&call)?;
    call.ok(&call.services.engine.find(call.name())?.checkpoints(call.query.text("dir"))?)
}

pub(crate) async fn remove(call: Call) -> Answer {
    experimental(&call)?;
    let container = call.services.engine.find(call.name())?;
    container.remove_checkpoint(call.variables.get(1).map_or("", String::as_str), call.query.text("dir"))?;
    no_content()
}
