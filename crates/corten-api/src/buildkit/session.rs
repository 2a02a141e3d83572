//! Sessions: connections over which a client serves what its builds need.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::secrets::v1::{GetSecretRequest, GetSecretResponse};
use bollard_buildkit_proto::moby::buildkit::v1::BytesMessage as Tunnelled;
use bollard_buildkit_proto::moby::filesync::v1::{CredentialsRequest, CredentialsResponse};
use bollard_buildkit_proto::moby::sshforward::v1::{
    BytesMessage as SshBytes, CheckAgentRequest, CheckAgentResponse,
};
use bollard_buildkit_proto::moby::upload::v1::BytesMessage as UploadBytes;
use corten_base::{Cancel, Kind, Platform, Reference};
use corten_build::{BuildClient, BuildError, FileSink, FilesWanted, Puller, StepError};
use corten_image::{Image, Images, Progress};
use corten_registry::Credentials;
use http::{HeaderMap, HeaderName, HeaderValue};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::files;
use crate::error::{ApiError, chain};
use crate::grpc::{Channel, Code, Status};

/// How long a build waits for the session that it names.
const PATIENCE: Duration = Duration::from_secs(15);
/// What an agent's connection moves at once.
const BLOCK: usize = 32 * 1024;

/// All sessions by their ids.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    all: Mutex<HashMap<String, Arc<Session>>>,
    changed: Notify,
}

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    channel: Channel,
    /// `/service/method` in lower case.
    methods: BTreeSet<String>,
    /// The client's name for its main directory.
    shared_key: String,
    /// Set when the client has gone.
    pub(crate) closed: Cancel,
}

/// What the head of a request says about a session.
pub(crate) struct Announced {
    id: String,
    methods: BTreeSet<String>,
    shared_key: String,
}

impl Announced {
    /// From the headers of `POST /session`, or the metadata of `Control.Session`.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Self, ApiError> {
        let header =
            |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let id = header("x-docker-expose-session-uuid");
        if id.is_empty() || id.len() > 256 {
            return Err(ApiError::invalid("the session has no id"));
        }
        let methods = headers.get_all("x-docker-expose-session-grpc-method").iter();
        let methods = methods.filter_map(|m| m.to_str().ok()).map(str::to_ascii_lowercase).collect();
        let shared_key = header("x-docker-expose-session-sharedkey");
        Ok(Self { id, methods, shared_key })
    }
}

impl Sessions {
    /// Keeps a session until its connection ends.
    pub(crate) async fn serve<C>(&self, announced: Announced, connection: C) -> io::Result<()>
    where
        C: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    {
        let closed = Cancel::new();
        let channel = Channel::open(connection, closed.clone()).await?;
        let session = Arc::new(Session {
            channel,
            methods: announced.methods,
            shared_key: announced.shared_key,
            closed: closed.clone(),
        });
        self.lock().insert(announced.id.clone(), Arc::clone(&session));
        self.changed.notify_waiters();
        closed.cancelled().await;
        let mut all = self.lock();
        if all.get(&announced.id).is_some_and(|s| Arc::ptr_eq(s, &session)) {
            all.remove(&announced.id);
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session of this id, which may be about to come.
    pub(crate) async fn get(&self, id: &str) -> Result<Arc<Session>, Status> {
        let found = async {
            loop {
                let changed = self.changed.notified();
                if let Some(session) = self.lock().get(id) {
                    return Arc::clone(session);
                }
                changed.await;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.map_err(|_| {
            Status::new(Code::Unknown, format!("no active session for {id}: context deadline exceeded"))
        })
    }
}

impl Session {
    /// Calls the client, if it said that it serves this.
    pub(super) fn channel(&self, path: &str) -> Result<&Channel, Status> {
        if self.methods.contains(&path.to_ascii_lowercase()) {
            return Ok(&self.channel);
        }
        Err(Status::new(Code::Unimplemented, format!("method {path} not supported by the client")))
    }
}

/// What a tunnel holds back.
const TUNNEL: usize = 256 * 1024;

/// `Control.Session`: a session whose bytes are messages of a call. buildx does this where targets share one.
pub(super) fn tunnel(
    services: Arc<crate::services::Services>,
    request: crate::grpc::Request,
) -> crate::body::Response {
    let announced = match Announced::read(&request.metadata) {
        Ok(announced) => announced,
        Err(e) => return crate::grpc::unary::<Tunnelled>(Err(Status::new(Code::Unknown, e.message))),
    };
    let (near, far) = tokio::io::duplex(TUNNEL);
    tokio::spawn(async move {
        let served = services.buildkit.sessions().serve(announced, TokioIo::new(near)).await;
        if let Err(error) = served {
            tracing::debug!(%error, "session in a tunnel");
        }
    });
    let (from, mut to) = tokio::io::split(far);
    let mut messages = request.messages;
    let upward = Serving(tokio::spawn(async move {
        while let Ok(Some(message)) = messages.next::<Tunnelled>().await {
            if to.write_all(&message.data).await.is_err() {
                break;
            }
        }
        // The session learns of the end, if it is still there.
        to.shutdown().await.ok();
    }));
    crate::grpc::stream(futures_util::stream::unfold((from, upward), |(mut from, upward)| async move {
        let mut block = vec![0; BLOCK];
        let n = from.read(&mut block).await.ok().filter(|n| *n > 0)?;
        block.truncate(n);
        Some((Ok(Tunnelled { data: block }), (from, upward)))
    }))
}

/// What the builder asks of the client of one build. For blocking threads.
pub(super) struct SessionClient {
    /// The session of the build.
    pub(super) main: Arc<Session>,
    /// Sessions that have a directory instead (`local-sessionid:NAME`).
    pub(super) others: HashMap<String, Arc<Session>>,
    pub(super) images: Images,
    pub(super) registries: corten_registry::Client,
    pub(super) runtime: Handle,
}

fn build_error(status: &Status) -> BuildError {
    BuildError::Client(status.message.clone())
}

fn step_error(status: &Status) -> StepError {
    StepError::Failed { kind: Kind::Unavailable, message: status.message.clone() }
}

impl SessionClient {
    /// Runs until the end, or until the build is given up.
    fn run<T>(
        &self,
        cancel: &Cancel,
        work: impl Future<Output = Result<T, BuildError>>,
    ) -> Result<T, BuildError> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(BuildError::Cancelled),
                done = work => done,
            }
        })
    }
}

const GET_SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
const CHECK_AGENT: &str = "/moby.sshforward.v1.SSH/CheckAgent";
const FORWARD_AGENT: &str = "/moby.sshforward.v1.SSH/ForwardAgent";
const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
const UPLOAD: &str = "/moby.upload.v1.Upload/Pull";

impl BuildClient for SessionClient {
    fn files(
        &self,
        wanted: &FilesWanted<'_>,
        sink: &mut dyn FileSink,
        cancel: &Cancel,
    ) -> Result<(), BuildError> {
        let session = self.others.get(wanted.directory).unwrap_or(&self.main);
        self.run(cancel, files::receive(session, wanted, sink))
    }

    fn shared_key(&self, directory: &str) -> String {
        self.others.get(directory).unwrap_or(&self.main).shared_key.clone()
    }

    fn upload(&self, url: &str, out: &mut dyn io::Write, cancel: &Cancel) -> Result<(), BuildError> {
        self.run(cancel, async {
            let (host, path) = url
                .split_once("://")
                .map_or(("", ""), |(_, rest)| rest.split_once('/').unwrap_or((rest, "")));
            let mut metadata = HeaderMap::new();
            for (name, value) in [("urlpath", format!("/{path}")), ("urlhost", host.to_owned())] {
                metadata.insert(name, header_value(&value).map_err(|e| build_error(&e))?);
            }
            let channel = self.main.channel(UPLOAD).map_err(|e| build_error(&e))?;
            let (_sender, mut messages) = channel.stream(UPLOAD, metadata).map_err(|e| build_error(&e))?;
            while let Some(m) = messages.next::<UploadBytes>().await.map_err(|e| build_error(&e))? {
                out.write_all(&m.data).map_err(|e| BuildError::Client(e.to_string()))?;
            }
            Ok(())
        })
    }

    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, StepError> {
        let Ok(channel) = self.main.channel(GET_SECRET) else { return Ok(None) };
        let request = GetSecretRequest { id: id.to_owned(), annotations: HashMap::new() };
        let answer = self.runtime.block_on(channel.unary::<GetSecretResponse>(GET_SECRET, &request));
        match answer {
            Ok(secret) => Ok(Some(secret.data)),
            Err(e) if e.is(Code::NotFound) => Ok(None),
            Err(e) => Err(step_error(&e)),
        }
    }

    fn ssh(
        &self,
        id: &str,
        listener: std::os::unix::net::UnixListener,
    ) -> Result<Option<Box<dyn Send>>, StepError> {
        let Ok(channel) = self.main.channel(CHECK_AGENT) else { return Ok(None) };
        let request = CheckAgentRequest { id: id.to_owned() };
        let answer = self.runtime.block_on(channel.unary::<CheckAgentResponse>(CHECK_AGENT, &request));
        if let Err(e) = answer {
            // The client knows no such agent.
            tracing::debug!(error = %e, id, "ssh agent");
            return Ok(None);
        }
        let failed = |e: io::Error| StepError::Failed { kind: Kind::Internal, message: e.to_string() };
        listener.set_nonblocking(true).map_err(failed)?;
        let _on_the_runtime = self.runtime.enter();
        let listener = tokio::net::UnixListener::from_std(listener).map_err(failed)?;
        let (channel, id) = (channel.clone(), id.to_owned());
        let serving = self.runtime.spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(forward(channel.clone(), id.clone(), stream));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Some(Box::new(Serving(serving))))
    }
}

/// Ends a task, and what it started, with itself.
struct Serving(tokio::task::JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One connection to the agent.
async fn forward(channel: Channel, id: String, stream: tokio::net::UnixStream) -> Result<(), Status> {
    let mut metadata = HeaderMap::new();
    metadata.insert("buildkit.ssh.id", header_value(&id)?);
    let (sender, mut messages) = channel.stream(FORWARD_AGENT, metadata)?;
    let (mut from, mut to) = stream.into_split();
    let up = async move {
        let mut block = vec![0; BLOCK];
        loop {
            let n = from.read(&mut block).await.map_err(Status::gone)?;
            if n == 0 {
                drop(sender);
                return Ok::<_, Status>(());
            }
            sender.send(&SshBytes { data: block[..n].to_vec() }).await?;
        }
    };
    let down = async move {
        while let Some(message) = messages.next::<SshBytes>().await? {
            to.write_all(&message.data).await.map_err(Status::gone)?;
        }
        to.shutdown().await.map_err(Status::gone)
    };
    tokio::try_join!(up, down).map(|_| ())
}

/// A value of metadata; what is not ASCII cannot be one.
pub(super) fn header_value(text: &str) -> Result<HeaderValue, Status> {
    HeaderValue::from_str(text).map_err(Status::protocol)
}

/// Adds the values of one name, escaped together where one of them must be.
pub(super) fn add_values(
    metadata: &mut HeaderMap,
    name: &'static str,
    values: &[String],
) -> Result<(), Status> {
    let escaped = values.iter().any(|v| !v.is_ascii());
    for value in values {
        let value = match escaped {
            true => form_urlencoded::byte_serialize(value.as_bytes()).collect::<String>(),
            false => value.clone(),
        };
        metadata.append(name, header_value(&value)?);
    }
    if escaped {
        let flag = HeaderName::try_from(format!("{name}-encoded")).map_err(Status::protocol)?;
        metadata.insert(flag, HeaderValue::from_static("1"));
    }
    Ok(())
}

impl SessionClient {
    /// What the client knows about a registry.
    pub(super) async fn credentials(&self, reference: &Reference) -> Credentials {
        let host = match reference.domain() {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let Ok(channel) = self.main.channel(CREDENTIALS) else { return Credentials::Anonymous };
        let request = CredentialsRequest { host: host.to_owned() };
        match channel.unary::<CredentialsResponse>(CREDENTIALS, &request).await {
            Ok(CredentialsResponse { username, secret }) => Credentials::from_session(&username, secret),
            Err(error) => {
                tracing::debug!(%error, host, "credentials of a session");
                Credentials::Anonymous
            }
        }
    }
}

impl Puller for SessionClient {
    fn pull(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Arc<Image>, StepError> {
        self.runtime.block_on(async {
            let credentials = self.credentials(reference).await;
            let pulled =
                self.images.pull(&self.registries, &credentials, reference, platform, progress, cancel).await;
            pulled.map_err(|e| StepError::Failed { kind: e.kind(), message: chain(&e) })
        })
    }
}
