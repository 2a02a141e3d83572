//! Volumes.

use corten_wire::api::volume::VolumeCreateRequest;

use crate::call::{Answer, Call, no_content};

pub(crate) async fn list(call: Call) -> Answer {
    call.ok(&call.services.engine.volumes(&call.query.filters()?)?)
}

pub(crate) async fn create(mut call: Call) -> Answer {
    let request: VolumeCreateRequest = call.json().await?;
    let volume = call.services.engine.create_volume(request).await?;
    call.created(&volume)
}

pub(crate) async fn inspect(call: Call) -> Answer {
    call.ok(&call.services.engine.volume(call.name())?)
}

pub(crate) async fn remove(call: Call) -> Answer {
    call.services.engine.remove_volume(call.name(), call.query.flag("force")).await?;
    no_content()
}

pub(crate) async fn prune(call: Call) -> Answer {
    call.ok(&call.services.engine.prune_volumes(&call.query.filters()?).await?)
}
