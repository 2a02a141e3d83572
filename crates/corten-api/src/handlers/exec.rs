//! Execs.

use corten_engine::ExecStart;
use corten_wire::api::IdResponse;
use corten_wire::api::exec::{ExecCreateRequest, ExecStartRequest};
use corten_wire::api::stream::RAW_STREAM;
use http::StatusCode;

use crate::call::{Answer, Call, empty};
use crate::compat;
use crate::handlers::processes::window;
use crate::stream;

pub(crate) async fn create(mut call: Call) -> Answer {
    let request: ExecCreateRequest = call.json().await?;
    let id = call.services.engine.find(call.name())?.exec_create(request).await?;
    call.created(&IdResponse { id })
}

pub(crate) async fn start(mut call: Call) -> Answer {
    let request: ExecStartRequest = call.json_or_default().await?;
    let exec = call.services.engine.exec(call.name())?;
    // COMPAT: the start's own `Tty` decides about frames, also where the exec was created with another.
    let tty = request.tty;
    let framed_terminal = exec.tty() && !tty;
    let spec = ExecStart { detach: request.detach, console_size: request.console_size };
    if request.detach {
        // Goes on without the client, like the exec itself.
        tokio::spawn(async move { exec.start(spec).await }).await.map_err(std::io::Error::other)??;
        return empty(StatusCode::OK);
    }
    let kind = if call.is_raw_hijack() { RAW_STREAM } else { compat::stream_type(call.version, tty) };
    // From here on errors are part of the stream: the client has been told that it has one.
    stream::hijack(call, kind, move |client| async move {
        match exec.start(spec).await {
            Ok(Some(attached)) if framed_terminal => stream::pump_framed(client, attached).await,
            Ok(Some(attached)) => stream::pump(client, attached).await,
            Ok(None) => Ok(()),
            Err(error) => stream::last_words(client, tty, &error.chain()).await,
        }
    })
}

pub(crate) async fn resize(call: Call) -> Answer {
    let (height, width) = window(&call.query)?;
    call.services.engine.exec(call.name())?.resize(height, width).await?;
    empty(StatusCode::OK)
}

pub(crate) async fn inspect(call: Call) -> Answer {
    call.ok(&call.services.engine.exec(call.name())?.inspect())
}
