//! Content stores (`containerd.services.content.v1.Content`): those of the client over its session
//! (`--cache-to type=local`, OCI layouts), and for clients what records of builds point to.

use std::io::{self, Read};
use std::sync::Arc;

use corten_base::{Cancel, Digest};
use corten_build::{BuildError, LayerSource};
use corten_wire::oci_image::Descriptor;
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::runtime::Handle;

use super::history::History;
use super::session::{Session, header_value};
use crate::body::Response;
use crate::grpc::{self, Code, Messages, Request, Status};
use crate::services::Services;

const INFO: &str = "/containerd.services.content.v1.Content/Info";
const READ: &str = "/containerd.services.content.v1.Content/Read";
const WRITE: &str = "/containerd.services.content.v1.Content/Write";
/// What one message carries.
const BLOCK: usize = 1 << 20;

/// The messages, as far as they are used here. Field numbers are those of containerd's `content.proto`.
mod messages {
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct InfoRequest {
        #[prost(string, tag = "1")]
        pub(super) digest: String,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct InfoResponse {
        #[prost(message, optional, tag = "1")]
        pub(super) info: Option<Info>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Info {
        #[prost(string, tag = "1")]
        pub(super) digest: String,
        #[prost(int64, tag = "2")]
        pub(super) size: i64,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct ReadRequest {
        #[prost(string, tag = "1")]
        pub(super) digest: String,
        #[prost(int64, tag = "2")]
        pub(super) offset: i64,
        #[prost(int64, tag = "3")]
        pub(super) size: i64,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct ReadResponse {
        #[prost(int64, tag = "1")]
        pub(super) offset: i64,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) data: Vec<u8>,
    }

    /// `action`: 0 asks, 1 writes, 2 completes.
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct WriteRequest {
        #[prost(int32, tag = "1")]
        pub(super) action: i32,
        #[prost(string, tag = "2")]
        pub(super) reference: String,
        #[prost(int64, tag = "3")]
        pub(super) total: i64,
        #[prost(string, tag = "4")]
        pub(super) expected: String,
        #[prost(int64, tag = "5")]
        pub(super) offset: i64,
        #[prost(bytes = "vec", tag = "6")]
        pub(super) data: Vec<u8>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct WriteResponse {
        #[prost(int32, tag = "1")]
        pub(super) action: i32,
        #[prost(int64, tag = "4")]
        pub(super) offset: i64,
    }
}

use messages::{Info, InfoRequest, InfoResponse, ReadRequest, ReadResponse, WriteRequest, WriteResponse};

/// The daemon's own store, as far as clients need it: what records of builds point to.
pub(super) async fn answer(services: Arc<Services>, method: &str, mut request: Request) -> Response {
    let find = async |digest: String| -> Result<Vec<u8>, Status> {
        let history = History::of(&services);
        let missing = Status::new(Code::NotFound, format!("content {digest}: not found"));
        let found = tokio::task::spawn_blocking(move || history.blob(&digest)).await;
        found.map_err(Status::protocol)?.ok_or(missing)
    };
    match method {
        "Info" => match request.messages.only::<InfoRequest>().await {
            Ok(wanted) => grpc::unary(find(wanted.digest.clone()).await.map(|blob| InfoResponse {
                info: Some(Info {
                    digest: wanted.digest,
                    size: i64::try_from(blob.len()).unwrap_or(i64::MAX),
                }),
            })),
            Err(e) => grpc::unary::<InfoResponse>(Err(e)),
        },
        "Read" => match request.messages.only::<ReadRequest>().await {
            Ok(wanted) => match find(wanted.digest).await {
                Ok(blob) => {
                    grpc::stream(futures_util::stream::iter(blocks(&blob, wanted.offset, wanted.size)))
                }
                Err(e) => grpc::unary::<ReadResponse>(Err(e)),
            },
            Err(e) => grpc::unary::<ReadResponse>(Err(e)),
        },
        _ => super::unknown(&request.path),
    }
}

/// A part of a blob in messages; all of the rest where no size is given.
fn blocks(blob: &[u8], offset: i64, size: i64) -> Vec<Result<ReadResponse, Status>> {
    let begin = usize::try_from(offset).unwrap_or_default().min(blob.len());
    let wanted = usize::try_from(size).ok().filter(|s| *s > 0).unwrap_or(usize::MAX);
    let end = begin.saturating_add(wanted).min(blob.len());
    let mut at = begin;
    let mut out = Vec::new();
    for block in blob[begin..end].chunks(BLOCK) {
        out.push(Ok(ReadResponse { offset: i64::try_from(at).unwrap_or(i64::MAX), data: block.to_vec() }));
        at += block.len();
    }
    out
}

/// One of the client's stores.
#[derive(Debug, Clone)]
pub(super) struct Store {
    session: Arc<Session>,
    id: String,
}

impl Store {
    pub(super) fn new(session: Arc<Session>, id: impl Into<String>) -> Self {
        Self { session, id: id.into() }
    }

    fn metadata(&self) -> Result<HeaderMap, Status> {
        let mut metadata = HeaderMap::new();
        metadata.insert("buildkit-attachable-store-id", header_value(&self.id)?);
        Ok(metadata)
    }

    /// Size of a blob; `None` where the store has it not.
    pub(super) async fn size(&self, digest: &Digest) -> Result<Option<u64>, Status> {
        let (sender, mut answers) = self.session.channel(INFO)?.stream(INFO, self.metadata()?)?;
        sender.send(&InfoRequest { digest: digest.to_string() }).await?;
        drop(sender);
        match answers.only::<InfoResponse>().await {
            Ok(answer) => Ok(Some(u64::try_from(answer.info.map_or(0, |i| i.size)).unwrap_or_default())),
            Err(e) if e.is(Code::NotFound) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn open(&self, digest: &Digest) -> Result<Messages, Status> {
        let (sender, answers) = self.session.channel(READ)?.stream(READ, self.metadata()?)?;
        sender.send(&ReadRequest { digest: digest.to_string(), offset: 0, size: 0 }).await?;
        Ok(answers)
    }

    /// A small blob whole, verified.
    pub(super) async fn read(&self, digest: &Digest, limit: usize) -> Result<Vec<u8>, Status> {
        let mut answers = self.open(digest).await?;
        let mut bytes = Vec::new();
        while let Some(answer) = answers.next::<ReadResponse>().await? {
            bytes.extend_from_slice(&answer.data);
            if bytes.len() > limit {
                return Err(Status::new(Code::Unknown, format!("blob {digest} is too large")));
            }
        }
        match Digest::of(&bytes) == *digest {
            true => Ok(bytes),
            false => Err(Status::new(Code::Unknown, format!("blob {digest} has other content"))),
        }
    }

    /// Writes a blob, if the store has it not.
    pub(super) async fn write(
        &self,
        digest: &Digest,
        size: u64,
        source: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<(), Status> {
        if self.size(digest).await?.is_some() {
            return Ok(());
        }
        let (sender, mut answers) = self.session.channel(WRITE)?.stream(WRITE, self.metadata()?)?;
        let total = i64::try_from(size).map_err(Status::protocol)?;
        let mut offset = 0;
        loop {
            let mut data = Vec::with_capacity(BLOCK);
            let mut block = (&mut *source).take(BLOCK as u64);
            let n = block.read_to_end(&mut data).await.map_err(Status::protocol)?;
            let request = WriteRequest {
                action: if n < BLOCK { 2 } else { 1 },
                reference: digest.to_string(),
                total,
                expected: digest.to_string(),
                offset,
                data,
            };
            sender.send(&request).await?;
            match answers.next::<WriteResponse>().await {
                Ok(Some(_)) => {}
                // Somebody else was faster.
                Err(e) if e.is(Code::AlreadyExists) => return Ok(()),
                Ok(None) => return Err(Status::gone("the content store takes no more")),
                Err(e) => return Err(e),
            }
            offset += i64::try_from(n).unwrap_or_default();
            if n < BLOCK {
                return Ok(());
            }
        }
    }
}

/// Layers in such a store.
#[derive(Debug)]
pub(super) struct StoreLayers {
    pub(super) store: Store,
    pub(super) runtime: Handle,
}

impl LayerSource for StoreLayers {
    fn open<'a>(
        &'a self,
        blob: &Descriptor,
        cancel: &'a Cancel,
    ) -> Result<Box<dyn Read + Send + 'a>, BuildError> {
        let opened = self.runtime.block_on(self.store.open(&blob.digest));
        let answers = opened.map_err(|e| BuildError::Client(e.message))?;
        Ok(Box::new(Reading { answers, runtime: &self.runtime, cancel, rest: Vec::new(), at: 0 }))
    }
}

/// Reads messages as a stream of bytes.
struct Reading<'a> {
    answers: Messages,
    runtime: &'a Handle,
    cancel: &'a Cancel,
    rest: Vec<u8>,
    at: usize,
}

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.rest.len() {
            let next = self.runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = self.cancel.cancelled() => Err(io::Error::from(io::ErrorKind::Interrupted)),
                    next = self.answers.next::<ReadResponse>() => next.map_err(|e| io::Error::other(e.message)),
                }
            });
            match next {
                Ok(Some(answer)) => (self.rest, self.at) = (answer.data, 0),
                Ok(None) => return Ok(0),
                // `Interrupted` itself would be tried again.
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                    return Err(io::Error::other("context canceled"));
                }
                Err(e) => return Err(e),
            }
        }
        let n = buffer.len().min(self.rest.len() - self.at);
        buffer[..n].copy_from_slice(&self.rest[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
