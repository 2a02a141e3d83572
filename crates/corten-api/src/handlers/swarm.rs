//! What this daemon is not: a node of a swarm, a host of plugins.

use corten_base::Kind;

use crate::call::{Answer, Call, json};
use crate::error::ApiError;

pub(crate) async fn not_a_manager(_call: Call) -> Answer {
    Err(ApiError::new(
        Kind::Unavailable,
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node \
         to swarm and try again.",
    ))
}

pub(crate) async fn not_in_a_swarm(_call: Call) -> Answer {
    Err(ApiError::new(Kind::Unavailable, "This node is not part of a swarm"))
}

pub(crate) async fn init_refused(_call: Call) -> Answer {
    Err(ApiError::unsupported("swarm mode is not supported by this daemon"))
}

pub(crate) async fn no_plugins(call: Call) -> Answer {
    call.query.filters()?.validate(&["capability", "enabled"])?;
    json(http::StatusCode::OK, &[(); 0])
}

pub(crate) async fn plugin_missing(call: Call) -> Answer {
    Err(ApiError::new(Kind::NotFound, format!("plugin {:?} not found", call.name())))
}

pub(crate) async fn plugins_refused(_call: Call) -> Answer {
    Err(ApiError::unsupported("managed plugins are not supported by this daemon"))
}
