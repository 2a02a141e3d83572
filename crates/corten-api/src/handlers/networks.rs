//! Networks.

use corten_wire::api::network::{NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest};
use http::StatusCode;

use crate::call::{Answer, Call, empty, no_content};
use crate::error::ApiError;

pub(crate) async fn list(call: Call) -> Answer {
    call.ok(&call.services.engine.networks(&call.query.filters()?)?)
}

/// What Go's `strconv.ParseBool` reads.
const GO_BOOL: &[&str] = &["1", "t", "T", "true", "TRUE", "True", "0", "f", "F", "false", "FALSE", "False"];

pub(crate) async fn inspect(call: Call) -> Answer {
    // COMPAT: only a swarm has more to say, but what is no truth value is refused everywhere.
    let verbose = call.query.text("verbose");
    if !verbose.is_empty() && !GO_BOOL.contains(&verbose) {
        return Err(ApiError::invalid(format!(
            "invalid value for verbose: {verbose}: strconv.ParseBool: parsing {verbose:?}: invalid syntax"
        )));
    }
    let scope = call.query.text("scope");
    let network = call.services.engine.network(call.name())?;
    if !scope.is_empty() && scope != network.scope {
        return Err(ApiError::new(corten_base::Kind::NotFound, format!("network {} not found", call.name())));
    }
    call.ok(&network)
}

pub(crate) async fn create(mut call: Call) -> Answer {
    let request: NetworkCreateRequest = call.json().await?;
    let made = call.services.engine.create_network(request).await?;
    call.created(&made)
}

pub(crate) async fn connect(mut call: Call) -> Answer {
    let request: NetworkConnectRequest = call.json().await?;
    call.services.engine.connect(call.name(), request).await?;
    empty(StatusCode::OK)
}

pub(crate) async fn disconnect(mut call: Call) -> Answer {
    let request: NetworkDisconnectRequest = call.json().await?;
    call.services.engine.disconnect(call.name(), request).await?;
    empty(StatusCode::OK)
}

pub(crate) async fn remove(call: Call) -> Answer {
    call.services.engine.remove_network(call.name()).await?;
    no_content()
}

pub(crate) async fn prune(call: Call) -> Answer {
    call.ok(&call.services.engine.prune_networks(&call.query.filters()?).await?)
}
