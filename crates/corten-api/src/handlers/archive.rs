//! `docker cp`.

use base64::Engine as _;
use corten_engine::PutOptions;
use corten_wire::api::container::PathStat;
use http::{HeaderValue, StatusCode};

use crate::body;
use crate::call::{Answer, Call, empty};
use crate::error::ApiError;
use crate::stream;

const STAT_HEADER: &str = "x-docker-container-path-stat";

fn path(call: &Call) -> Result<String, ApiError> {
    match call.query.text("path") {
        "" => Err(ApiError::invalid("bad parameter: path cannot be empty")),
        path => Ok(path.to_owned()),
    }
}

fn stat_header(stat: &PathStat) -> Result<HeaderValue, ApiError> {
    let text = serde_json::to_vec(stat).map_err(|e| ApiError::internal(e.to_string()))?;
    let text = base64::engine::general_purpose::STANDARD.encode(text);
    HeaderValue::from_str(&text).map_err(|e| ApiError::internal(e.to_string()))
}

pub(crate) async fn stat(call: Call) -> Answer {
    let path = path(&call)?;
    let stat = call.services.engine.find(call.name())?.archive_stat(&path).await?;
    let mut response = empty(StatusCode::OK)?;
    response.headers_mut().insert(STAT_HEADER, stat_header(&stat)?);
    Ok(response)
}

pub(crate) async fn get(call: Call) -> Answer {
    let path = path(&call)?;
    let (stat, bytes) = call.services.engine.find(call.name())?.archive_get(&path).await?;
    let mut response = stream::download(bytes, "application/x-tar");
    response.headers_mut().insert(STAT_HEADER, stat_header(&stat)?);
    Ok(response)
}

pub(crate) async fn put(call: Call) -> Answer {
    let path = path(&call)?;
    let options = PutOptions {
        no_overwrite_dir_non_dir: call.query.flag("noOverwriteDirNonDir"),
        copy_uid_gid: call.query.flag("copyUIDGID"),
    };
    let container = call.services.engine.find(call.name())?;
    container.archive_put(&path, body::byte_stream(call.body), options).await?;
    empty(StatusCode::OK)
}
