//! What runs in a container: output, terminals, processes, readings.

use corten_engine::{AttachSpec, LogQuery};
use corten_wire::api::stream::{MULTIPLEXED_STREAM, RAW_STREAM};
use futures_util::StreamExt;
use http::StatusCode;

use crate::call::{Answer, Call, empty};
use crate::compat;
use crate::error::ApiError;
use crate::query::{Query, timestamp};
use crate::stream;

pub(crate) async fn top(call: Call) -> Answer {
    let args = call.query.get("ps_args").filter(|a| !a.is_empty()).unwrap_or("-ef");
    call.ok(&call.services.engine.find(call.name())?.top(args).await?)
}

pub(crate) async fn stats(call: Call) -> Answer {
    let container = call.services.engine.find(call.name())?;
    if !call.query.flag_or("stream", true) {
        return call.ok(&container.stats(call.query.flag("one-shot")).await?);
    }
    if call.query.flag("one-shot") {
        return Err(ApiError::invalid("cannot have stream=true and one-shot=true"));
    }
    let lines = container.stats_stream().map(|stats| stream::json_line(&stats, b"\n"));
    Ok(stream::download(lines, "application/json"))
}

pub(crate) async fn logs(call: Call) -> Answer {
    let query = log_query(&call.query)?;
    let container = call.services.engine.find(call.name())?;
    let bytes = container.logs(&query)?;
    Ok(stream::download(bytes, compat::stream_type(call.version, container.tty())))
}

fn log_query(q: &Query) -> Result<LogQuery, ApiError> {
    let (stdout, stderr) = (q.flag("stdout"), q.flag("stderr"));
    if !stdout && !stderr {
        return Err(ApiError::invalid("must specify at least one of 'stdout' or 'stderr'"));
    }
    let now = corten_base::time::now_ns();
    let time = |name: &str| match q.text(name) {
        "" | "0" => Ok(None),
        text => timestamp(text, now)
            .map(Some)
            .map_err(|why| ApiError::invalid(format!("invalid value for {name:?}: {why}"))),
    };
    Ok(LogQuery {
        stdout,
        stderr,
        follow: q.flag("follow"),
        // COMPAT: anything that is no number means all, as `all` does.
        tail: q.text("tail").parse::<i64>().ok().and_then(|n| u64::try_from(n).ok()),
        since: time("since")?,
        until: time("until")?,
        timestamps: q.flag("timestamps"),
        details: q.flag("details"),
    })
}

/// The parameters `h` and `w`.
pub(crate) fn window(q: &Query) -> Result<(u16, u16), ApiError> {
    let side = |name: &str, word: &str| {
        let text = q.text(name);
        text.parse::<u32>().map(|n| u16::try_from(n).unwrap_or(u16::MAX)).map_err(|e| {
            let why = match e.kind() {
                std::num::IntErrorKind::PosOverflow => "value out of range",
                _ => "invalid syntax",
            };
            ApiError::invalid(format!("invalid resize {word} {text:?}: {why}"))
        })
    };
    Ok((side("h", "height")?, side("w", "width")?))
}

pub(crate) async fn resize(call: Call) -> Answer {
    let (height, width) = window(&call.query)?;
    call.services.engine.find(call.name())?.resize(height, width).await?;
    empty(StatusCode::OK)
}

fn attach_spec(q: &Query) -> Result<AttachSpec, ApiError> {
    Ok(AttachSpec {
        logs: q.flag("logs"),
        stream: q.flag("stream"),
        stdin: q.flag("stdin"),
        stdout: q.flag("stdout"),
        stderr: q.flag("stderr"),
        detach_keys: q.text("detachKeys").parse()?,
    })
}

pub(crate) async fn attach(call: Call) -> Answer {
    // COMPAT: the reference engine has taken the connection over by the time it finds out.
    let container = match call.services.engine.find(call.name()) {
        Ok(container) => container,
        Err(error) => return Ok(stream::refused(&ApiError::from(error))),
    };
    let attached = container.attach(attach_spec(&call.query)?).await?;
    let kind =
        if call.is_raw_hijack() { RAW_STREAM } else { compat::stream_type(call.version, container.tty()) };
    debug_assert!(kind == RAW_STREAM || kind == MULTIPLEXED_STREAM);
    stream::hijack(call, kind, move |client| stream::pump(client, attached))
}

pub(crate) async fn attach_websocket(call: Call) -> Answer {
    let container = call.services.engine.find(call.name())?;
    let attached = container.attach(attach_spec(&call.query)?).await?;
    stream::websocket(call, attached, !container.tty())
}
