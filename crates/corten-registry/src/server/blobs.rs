//! Blobs: get with ranges, and uploads.
//!
//! Bytes of an upload go from the socket through a short queue to a blocking thread that writes and hashes.
//! If the connection breaks, what has arrived stays, and the client may go on from there.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use corten_base::{Digest, Id};
use corten_wire::distribution::code;
use futures_util::StreamExt;
use http::header::{CONTENT_RANGE, RANGE};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use sha2::Digest as _;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio_util::io::ReaderStream;

use super::answer::{Answer, Body, Refusal, build, empty, plain};
use super::route::{App, Query, digest};
use super::storage::Running;

/// Read size of files.
const BLOCK: usize = 256 << 10;
/// Frames between the socket and the disk.
const QUEUE: usize = 32;

impl App {
    pub(crate) async fn get_blob(
        self: &Arc<Self>,
        name: String,
        digest: Digest,
        request: &Request<Incoming>,
    ) -> Result<Answer, Refusal> {
        let (wanted, is_head) = (request.headers().get(RANGE).cloned(), request.method() == Method::HEAD);
        let blob = digest.clone();
        let (size, file) = self
            .run(move |app| {
                let unknown = || Refusal::new(StatusCode::NOT_FOUND, code::BLOB_UNKNOWN);
                let size = app.store.blob_size(&name, &blob)?.ok_or_else(unknown)?;
                Ok((size, app.store.blobs.open(&blob)?))
            })
            .await?;
        let range = wanted.as_ref().and_then(|v| v.to_str().ok()).and_then(|v| byte_range(v, size));
        let mut headers = vec![
            ("content-type", "application/octet-stream".to_owned()),
            ("docker-content-digest", digest.to_string()),
            ("accept-ranges", "bytes".into()),
            ("etag", format!("\"{digest}\"")),
            ("cache-control", "max-age=31536000".into()),
        ];
        let (status, start, end) = match range {
            None => (StatusCode::OK, 0, size),
            Some(Ok((start, end))) => {
                headers.push(("content-range", format!("bytes {start}-{}/{size}", end - 1)));
                (StatusCode::PARTIAL_CONTENT, start, end)
            }
            Some(Err(())) => {
                return Err(Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, code::RANGE_INVALID)
                    .with("content-range", format!("bytes */{size}")));
            }
        };
        headers.push(("content-length", (end - start).to_string()));
        let body = if is_head { empty() } else { stream(file, start, end - start).await? };
        Ok(build(status, &headers, body))
    }

    pub(crate) async fn delete_blob(
        self: &Arc<Self>,
        name: String,
        digest: Digest,
    ) -> Result<Answer, Refusal> {
        self.run(move |app| {
            // Other repositories may have it; the content goes with the next garbage collection.
            if app.store.unlink_blob(&name, &digest)? {
                return Ok(plain(StatusCode::ACCEPTED, &[("content-length", "0".into())]));
            }
            Err(Refusal::new(StatusCode::NOT_FOUND, code::BLOB_UNKNOWN))
        })
        .await
    }

    pub(crate) async fn start_upload(
        self: &Arc<Self>,
        name: String,
        query: Query,
        request: Request<Incoming>,
    ) -> Result<Answer, Refusal> {
        if let Some(mount) = query.get("mount") {
            let (blob, to, from) = (digest(mount)?, name.clone(), query.get("from").cloned());
            let mounted = self
                .run(move |app| {
                    let Some(from) = from else { return Ok(false) };
                    // A path of a repository that is no valid name has no blobs.
                    let valid = super::route::parse(&format!("/v2/{from}/tags/list")).is_ok();
                    if !valid || app.store.blob_size(&from, &blob)?.is_none() {
                        return Ok(false);
                    }
                    app.store.link_blob(&to, &blob)?;
                    Ok(true)
                })
                .await?;
            if mounted {
                return Ok(created(&name, &digest(mount)?));
            }
        }
        let id = Id::random();
        let begun = id.clone();
        self.run(move |app| Ok(app.store.blobs.begin(&begun)?)).await?;
        if query.contains_key("digest") {
            return self.finish_upload(name, id, query, request).await;
        }
        Ok(progress(StatusCode::ACCEPTED, &name, &id, 0))
    }

    pub(crate) async fn upload_status(self: &Arc<Self>, name: String, id: Id) -> Result<Answer, Refusal> {
        let upload = id.clone();
        let offset = self.run(move |app| app.store.blobs.progress(&upload)?.ok_or_else(no_upload)).await?;
        Ok(progress(StatusCode::NO_CONTENT, &name, &id, offset))
    }

    pub(crate) async fn append_upload(
        self: &Arc<Self>,
        name: String,
        id: Id,
        request: Request<Incoming>,
    ) -> Result<Answer, Refusal> {
        let running = self.lock_upload(&id).await?;
        check_range(&request, running.offset, &name, &id)?;
        let running = self.receive(&id, running, request).await?;
        Ok(progress(StatusCode::ACCEPTED, &name, &id, running.offset))
    }

    pub(crate) async fn finish_upload(
        self: &Arc<Self>,
        name: String,
        id: Id,
        query: Query,
        request: Request<Incoming>,
    ) -> Result<Answer, Refusal> {
        let Some(expected) = query.get("digest") else {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, code::DIGEST_INVALID).because("digest missing"));
        };
        let expected = digest(expected)?;
        let running = self.lock_upload(&id).await?;
        check_range(&request, running.offset, &name, &id)?;
        let running = self.receive(&id, running, request).await?;
        let repository = name.clone();
        let blob = expected.clone();
        self.run(move |app| {
            let found = Digest::from_sha256(&running.hash.clone().finalize());
            app.store.forget_upload(&id);
            if found != blob {
                app.store.blobs.abort(&id)?;
                return Err(Refusal::new(StatusCode::BAD_REQUEST, code::DIGEST_INVALID));
            }
            app.store.blobs.commit(&id, &blob)?;
            Ok(app.store.link_blob(&repository, &blob)?)
        })
        .await?;
        Ok(created(&name, &expected))
    }

    pub(crate) async fn cancel_upload(self: &Arc<Self>, id: Id) -> Result<Answer, Refusal> {
        self.run(move |app| {
            app.store.forget_upload(&id);
            if app.store.blobs.abort(&id)? {
                return Ok(plain(StatusCode::NO_CONTENT, &[]));
            }
            Err(no_upload())
        })
        .await
    }

    /// Takes hold of an upload; its hash is up to date afterwards.
    async fn lock_upload(self: &Arc<Self>, id: &Id) -> Result<OwnedMutexGuard<Running>, Refusal> {
        let upload = id.clone();
        let state = self.run(move |app| app.store.upload(&upload)?.ok_or_else(no_upload)).await?;
        let Ok(mut running) = state.try_lock_owned() else {
            return Err(
                Refusal::new(StatusCode::CONFLICT, code::BLOB_UPLOAD_INVALID).because("upload in progress")
            );
        };
        let upload = id.clone();
        self.run(move |app| {
            app.store.catch_up(&upload, &mut running)?;
            Ok(running)
        })
        .await
    }

    /// Appends the body.
    async fn receive(
        self: &Arc<Self>,
        id: &Id,
        running: OwnedMutexGuard<Running>,
        request: Request<Incoming>,
    ) -> Result<OwnedMutexGuard<Running>, Refusal> {
        if request.body().is_end_stream() {
            return Ok(running);
        }
        let limit = self.config.max_blob_bytes;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (app, upload) = (Arc::clone(self), id.clone());
        let writer = tokio::task::spawn_blocking(move || write(&app, &upload, running, receiver, limit));
        let mut body = request.into_body();
        let mut broken = None;
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => {
                    let Ok(bytes) = frame.into_data() else { continue };
                    // The writer ends early only by an error, which it returns.
                    if sender.send(bytes).await.is_err() {
                        break;
                    }
                }
                Err(e) => {
                    broken = Some(e);
                    break;
                }
            }
        }
        drop(sender);
        let running = writer.await.map_err(io::Error::other)??;
        match broken {
            None => Ok(running),
            Some(e) => {
                Err(Refusal::new(StatusCode::BAD_REQUEST, code::BLOB_UPLOAD_INVALID).because(e.to_string()))
            }
        }
    }
}

fn write(
    app: &App,
    upload: &Id,
    mut running: OwnedMutexGuard<Running>,
    mut receiver: mpsc::Receiver<Bytes>,
    limit: u64,
) -> Result<OwnedMutexGuard<Running>, Refusal> {
    let mut file = app.store.blobs.append(upload)?;
    while let Some(bytes) = receiver.blocking_recv() {
        if running.offset + bytes.len() as u64 > limit {
            return Err(
                Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, code::SIZE_INVALID).because("blob too large")
            );
        }
        file.write_all(&bytes)?;
        running.hash.update(&bytes);
        running.offset += bytes.len() as u64;
    }
    Ok(running)
}

fn no_upload() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, code::BLOB_UPLOAD_UNKNOWN)
}

fn created(name: &str, digest: &Digest) -> Answer {
    let headers = [
        ("location", format!("/v2/{name}/blobs/{digest}")),
        ("docker-content-digest", digest.to_string()),
        ("content-length", "0".into()),
    ];
    plain(StatusCode::CREATED, &headers)
}

fn progress(status: StatusCode, name: &str, id: &Id, offset: u64) -> Answer {
    plain(status, &progress_headers(name, id, offset))
}

fn progress_headers(name: &str, id: &Id, offset: u64) -> Vec<(&'static str, String)> {
    vec![
        ("location", format!("/v2/{name}/blobs/uploads/{id}")),
        ("docker-upload-uuid", id.to_string()),
        ("range", format!("0-{}", offset.saturating_sub(1))),
        ("content-length", "0".into()),
    ]
}

/// `Content-Range: start-end` must continue what is there.
fn check_range(request: &Request<Incoming>, offset: u64, name: &str, id: &Id) -> Result<(), Refusal> {
    let Some(value) = request.headers().get(CONTENT_RANGE) else { return Ok(()) };
    let text = value.to_str().unwrap_or_default();
    let span = text.trim_start_matches("bytes ").split('/').next().unwrap_or_default();
    let parsed =
        span.split_once('-').and_then(|(a, b)| Some((a.parse::<u64>().ok()?, b.parse::<u64>().ok()?)));
    match parsed {
        Some((start, end)) if start == offset && end >= start => Ok(()),
        _ => {
            let mut refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, code::RANGE_INVALID);
            for (name, value) in progress_headers(name, id, offset) {
                if name != "content-length" {
                    refusal = refusal.with(name, value);
                }
            }
            Err(refusal)
        }
    }
}

/// One range of `Range: bytes=…` as `start..end`; `None` where there is nothing to obey (several ranges, another
/// unit), an error where it lies outside.
fn byte_range(value: &str, size: u64) -> Option<Result<(u64, u64), ()>> {
    let spec = value.strip_prefix("bytes=")?;
    if spec.contains(',') {
        return None;
    }
    let (first, last) = spec.split_once('-')?;
    let range = match (first.trim(), last.trim()) {
        ("", suffix) => {
            let n: u64 = suffix.parse().ok()?;
            if n == 0 { return Some(Err(())) } else { (size.saturating_sub(n), size) }
        }
        (first, "") => (first.parse().ok()?, size),
        (first, last) => {
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            if last < first {
                return None;
            }
            (first, last.saturating_add(1).min(size))
        }
    };
    if range.0 >= size { Some(Err(())) } else { Some(Ok(range)) }
}

async fn stream(file: std::fs::File, start: u64, length: u64) -> Result<Body, Refusal> {
    let mut file = tokio::fs::File::from_std(file);
    if start > 0 {
        file.seek(io::SeekFrom::Start(start)).await?;
    }
    let blocks = ReaderStream::with_capacity(file.take(length), BLOCK);
    Ok(StreamBody::new(blocks.map(|b| b.map(Frame::data))).boxed_unsync())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (value, want) in [
            ("bytes=0-", Some(Ok((0, 10)))),
            ("bytes=3-5", Some(Ok((3, 6)))),
            ("bytes=3-99", Some(Ok((3, 10)))),
            ("bytes=-4", Some(Ok((6, 10)))),
            ("bytes=10-", Some(Err(()))),
            ("bytes=5-3", None),
            ("bytes=0-1,3-4", None),
            ("items=0-1", None),
            ("bytes=x-", None),
        ] {
            assert_eq!(byte_range(value, 10), want, "{value}");
        }
    }
}
