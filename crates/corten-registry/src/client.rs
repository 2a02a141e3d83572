//! The client: one [`Client`] per daemon, one [`Repository`] per pull or push.

pub(crate) mod challenge;
pub(crate) mod config;
pub(crate) mod connect;
pub(crate) mod download;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod search;
pub(crate) mod tls;
pub(crate) mod token;
pub(crate) mod transport;

use std::sync::{Arc, PoisonError, RwLock};

use corten_base::{Digest, Reference, Secret};
use corten_wire::distribution::{TagList, code};
use http::{Method, Response, StatusCode, Uri};
use hyper::body::Incoming;
use tokio::sync::OnceCell;

use crate::credentials::Credentials;
use crate::error::{ApiError, RegistryError};
use config::ClientConfig;
use token::Auth;
use transport::{Call, Transport, api_error, failed, go_method, read_body, resolve, same_origin};

/// Docker's default domain; its API answers at a host below it.
const DEFAULT_DOMAIN: &str = "docker.io";
/// Longest list of tags that we read in one answer.
const LIST_LIMIT: usize = 8 << 20;
/// Most pages of such a list.
const PAGE_LIMIT: usize = 1000;

/// Talks to registries. Clones share connections and settings; it holds no credentials.
#[derive(Clone)]
pub struct Client {
    transport: Arc<RwLock<Transport>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("config", &self.transport().config).finish_non_exhaustive()
    }
}

/// A manifest's name within its repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Resolved by the registry.
    Tag(String),
    /// Verified by us.
    Digest(Digest),
}

impl Target {
    /// The digest if the reference has one, else its tag, else `latest`.
    #[must_use]
    pub fn of(reference: &Reference) -> Self {
        match (reference.digest(), reference.tag()) {
            (Some(digest), _) => Self::Digest(digest.clone()),
            (None, tag) => Self::Tag(tag.unwrap_or("latest").to_owned()),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Tag(tag) => tag,
            Self::Digest(digest) => digest.as_str(),
        }
    }
}

/// Result of a successful [`Client::login`].
#[derive(Debug, Clone)]
pub struct LoginOutcome {
    /// To be stored instead of the password, if the registry gave one.
    pub identity_token: Option<Secret<String>>,
}

impl Client {
    /// A client with these settings.
    #[must_use]
    pub fn new(config: ClientConfig) -> Self {
        Self { transport: Arc::new(RwLock::new(Transport::new(Arc::new(config)))) }
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.transport().config)
    }

    /// Other settings from now on, for all clones. What is under way goes on with the old ones.
    pub fn reconfigure(&self, config: ClientConfig) {
        *self.transport.write().unwrap_or_else(PoisonError::into_inner) = Transport::new(Arc::new(config));
    }

    fn transport(&self) -> Transport {
        self.transport.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The repository of `reference`, for one operation. Nothing is sent yet. For the default domain, the
    /// mirrors are asked before it when pulling; they never see the credentials.
    #[must_use]
    pub fn repository(&self, reference: &Reference, credentials: &Credentials) -> Repository {
        let transport = self.transport();
        let mut endpoints = Vec::new();
        if reference.domain() == DEFAULT_DOMAIN {
            for mirror in &transport.config.mirrors {
                endpoints.push(Endpoint::mirror(mirror));
            }
            endpoints.push(Endpoint::new(format!("registry-1.{DEFAULT_DOMAIN}"), credentials.clone()));
        } else {
            endpoints.push(Endpoint::new(reference.domain().to_owned(), credentials.clone()));
        }
        let inner = RepositoryInner { transport, reference: reference.clone(), endpoints };
        Repository { inner: Arc::new(inner) }
    }

    /// Checks credentials as `POST /auth` does. `server` is an address as `docker login` sends it: a host, an
    /// URL, or empty for the default registry.
    ///
    /// # Errors
    /// `Unauthorized` where the registry does not accept them; others where it cannot be reached.
    pub async fn login(
        &self,
        server: &str,
        credentials: &Credentials,
    ) -> Result<LoginOutcome, RegistryError> {
        let authority = login_authority(server);
        let endpoint = Endpoint::new(authority, credentials.clone());
        let transport = self.transport();
        let live = endpoint.live(&transport).await?;
        let uri = live.uri("/v2/", "")?;
        let mut identity_token = None;
        if live.bearer() && matches!(credentials, Credentials::Basic { .. }) {
            let fetched = live.auth.fetch(&transport, &[], true).await;
            identity_token = fetched.map_err(|e| login_error(e, &uri))?.refresh;
        }
        let mut call = Call::new(Method::GET, uri.clone());
        live.auth.authorize(&transport, &[], &mut call.headers).await.map_err(|e| login_error(e, &uri))?;
        let response = transport.send(&call).await?;
        if response.status().is_success() {
            return Ok(LoginOutcome { identity_token });
        }
        Err(RegistryError::Login {
            url: transport::without_query(&uri),
            status: response.status().to_string(),
        })
    }
}

/// COMPAT: refusals of the token service read `Get "https://…/v2/": unauthorized: incorrect username or password`.
fn login_error(e: RegistryError, uri: &Uri) -> RegistryError {
    match e {
        RegistryError::Api(mut api) if api.status == 401 || api.is(code::UNAUTHORIZED) => {
            api.message = format!(
                "{} \"{}\": unauthorized: {}",
                go_method(&Method::GET),
                transport::without_query(uri),
                if api.message.is_empty() { "incorrect username or password" } else { &api.message }
            );
            api.code = String::new();
            api.status = 401;
            RegistryError::Api(api)
        }
        other => other,
    }
}

fn login_authority(server: &str) -> String {
    let rest = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    let host = rest.split('/').next().unwrap_or_default();
    let is_default =
        host.is_empty() || host == DEFAULT_DOMAIN || host.strip_prefix("index.") == Some(DEFAULT_DOMAIN);
    if is_default { format!("registry-1.{DEFAULT_DOMAIN}") } else { host.to_owned() }
}

/// One repository at one registry (and its mirrors), with one user's credentials. Clones are cheap and share
/// tokens and the endpoint that was found to work.
#[derive(Clone)]
pub struct Repository {
    inner: Arc<RepositoryInner>,
}

struct RepositoryInner {
    transport: Transport,
    reference: Reference,
    endpoints: Vec<Endpoint>,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Repository").field(&self.inner.reference.name()).finish()
    }
}

/// One address that may serve the repository.
struct Endpoint {
    /// `host[:port]`.
    authority: String,
    /// Set by a mirror's address only; else found by trying.
    scheme: Option<String>,
    /// Path before `/v2/`, mostly empty.
    prefix: String,
    credentials: Credentials,
    is_mirror: bool,
    live: OnceCell<Live>,
}

/// An endpoint that has answered.
pub(crate) struct Live {
    base: String,
    pub(crate) auth: Auth,
}

impl Live {
    fn uri(&self, path: &str, query: &str) -> Result<Uri, RegistryError> {
        let question = if query.is_empty() { "" } else { "?" };
        format!("{}{path}{question}{query}", self.base)
            .parse()
            .map_err(|_| RegistryError::Config { what: format!("invalid registry address {}", self.base) })
    }

    fn bearer(&self) -> bool {
        self.auth.is_bearer()
    }
}

impl Endpoint {
    fn new(authority: String, credentials: Credentials) -> Self {
        Self {
            authority,
            scheme: None,
            prefix: String::new(),
            credentials,
            is_mirror: false,
            live: OnceCell::new(),
        }
    }

    fn mirror(address: &str) -> Self {
        let (scheme, rest) =
            address.split_once("://").map_or((None, address), |(s, r)| (Some(s.to_owned()), r));
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        Self {
            authority: authority.to_owned(),
            scheme,
            prefix: if prefix.is_empty() { String::new() } else { format!("/{prefix}") },
            credentials: Credentials::Anonymous,
            is_mirror: true,
            live: OnceCell::new(),
        }
    }

    /// Finds out how to talk to the endpoint, once: `GET /v2/` by TLS, for insecure registries then without.
    async fn live(&self, transport: &Transport) -> Result<&Live, RegistryError> {
        self.live.get_or_try_init(|| self.ping(transport)).await
    }

    async fn ping(&self, transport: &Transport) -> Result<Live, RegistryError> {
        let insecure = transport.connector.is_insecure(&self.authority).await;
        let schemes: Vec<&str> = match &self.scheme {
            Some(scheme) => vec![scheme.as_str()],
            None if insecure => vec!["https", "http"],
            None => vec!["https"],
        };
        let mut failure = None;
        for scheme in schemes {
            let live = Live {
                base: format!("{scheme}://{}{}", self.authority, self.prefix),
                auth: Auth::new(self.credentials.clone(), scheme == "https"),
            };
            let call = Call::new(Method::GET, live.uri("/v2/", "")?);
            // A wrong scheme shows at once; retries are for the requests that follow.
            match transport.send_once(&call, transport::full(bytes::Bytes::new())).await {
                Ok(response) => {
                    if token::is_challenge(&response) {
                        live.auth.learn(response.headers())?;
                    } else if response.status().is_server_error() {
                        let idle = transport.config.idle_timeout;
                        failure = Some(RegistryError::Api(
                            api_error(response, idle, (&call.method, &call.uri)).await,
                        ));
                        continue;
                    }
                    return Ok(live);
                }
                Err(e) => failure = Some(e),
            }
        }
        Err(failure.unwrap_or_else(|| RegistryError::protocol("no endpoint")))
    }
}

impl Repository {
    /// What this is the repository of.
    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.inner.reference
    }

    /// All tags, in the registry's order.
    ///
    /// # Errors
    /// `NotFound` for an unknown repository.
    pub async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        let mirrors = self.inner.endpoints.len().saturating_sub(1);
        for mirror in &self.inner.endpoints[..mirrors] {
            // A mirror that cannot answer is passed over, whatever is wrong with it.
            if let Ok(live) = mirror.live(&self.inner.transport).await
                && let Ok(tags) = self.tags_at(live).await
            {
                return Ok(tags);
            }
        }
        self.tags_at(self.origin().await?).await
    }

    async fn tags_at(&self, live: &Live) -> Result<Vec<String>, RegistryError> {
        let mut uri = live.uri(&format!("/v2/{}/tags/list", self.path()), "")?;
        let mut tags = Vec::new();
        for _ in 0..PAGE_LIMIT {
            let response =
                self.request(live, Call::new(Method::GET, uri.clone()), &self.pull_scope()).await?;
            let response = self.expect(response, (&Method::GET, &uri), StatusCode::OK, None).await?;
            let next = next_page(&response, &uri)?;
            let idle = self.inner.transport.config.idle_timeout;
            let body = read_body(response.into_body(), LIST_LIMIT, idle, (&Method::GET, &uri)).await?;
            let list: TagList = serde_json::from_slice(&body)
                .map_err(|e| RegistryError::protocol(format!("invalid list of tags: {e}")))?;
            tags.extend(list.tags.unwrap_or_default());
            match next {
                Some(next) if same_origin(&next, &uri) => uri = next,
                _ => return Ok(tags),
            }
        }
        Ok(tags)
    }

    pub(crate) fn path(&self) -> &str {
        self.inner.reference.path()
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.inner.transport
    }

    /// The endpoint that is no mirror.
    pub(crate) async fn origin(&self) -> Result<&Live, RegistryError> {
        let endpoint = self.inner.endpoints.last().expect("repository() pushes at least one endpoint");
        endpoint.live(&self.inner.transport).await
    }

    pub(crate) fn pull_scope(&self) -> Vec<String> {
        vec![format!("repository:{}:pull", self.path())]
    }

    pub(crate) fn push_scope(&self) -> Vec<String> {
        vec![format!("repository:{}:pull,push", self.path())]
    }

    /// Sends a repeatable request with authorization, once more after a challenge.
    pub(crate) async fn request(
        &self,
        live: &Live,
        call: Call,
        scopes: &[String],
    ) -> Result<Response<Incoming>, RegistryError> {
        let mut challenged = false;
        loop {
            let mut call = call.clone();
            self.authorize(live, &mut call, scopes).await?;
            let response = self.inner.transport.send(&call).await?;
            if !token::is_challenge(&response) {
                return Ok(response);
            }
            live.auth.forget(scopes);
            if challenged || !live.auth.learn(response.headers())? {
                return Ok(response);
            }
            if live.auth.lacks_password() {
                let url = transport::without_query(&call.uri);
                return Err(RegistryError::NoCredentials { method: go_method(&call.method), url });
            }
            challenged = true;
        }
    }

    /// Adds `Authorization` if the request goes to the endpoint itself.
    pub(crate) async fn authorize(
        &self,
        live: &Live,
        call: &mut Call,
        scopes: &[String],
    ) -> Result<(), RegistryError> {
        if same_origin(&call.uri, &live.uri("/v2/", "")?) {
            let authorized = live.auth.authorize(&self.inner.transport, scopes, &mut call.headers).await;
            authorized.map_err(|e| match e {
                RegistryError::Api(source) => self.explain(source, None),
                other => other,
            })?;
        }
        Ok(())
    }

    /// Passes a response with the expected status; turns any other into an error.
    pub(crate) async fn expect(
        &self,
        response: Response<Incoming>,
        call: (&Method, &Uri),
        status: StatusCode,
        reading: Option<&Target>,
    ) -> Result<Response<Incoming>, RegistryError> {
        if response.status() == status {
            return Ok(response);
        }
        if response.status().is_success() {
            return Err(RegistryError::protocol(format!(
                "received unexpected HTTP status: {}",
                response.status()
            )));
        }
        let mut error = api_error(response, self.inner.transport.config.idle_timeout, call).await;
        if error.status == 404 && error.code.is_empty() {
            // A HEAD has no body, and some registries send HTML.
            error = ApiError::coded(
                404,
                if reading.is_some() { code::MANIFEST_UNKNOWN } else { code::NAME_UNKNOWN },
            );
        }
        Err(self.explain(error, reading))
    }

    /// COMPAT: docker's `translatePullError`.
    fn explain(&self, source: ApiError, reading: Option<&Target>) -> RegistryError {
        let name = self.inner.reference.familiar_name();
        match (source.code.as_str(), reading) {
            (code::DENIED, Some(_)) => RegistryError::PullDenied { name, source },
            (code::UNAUTHORIZED, Some(_)) if self.inner.reference.domain() == DEFAULT_DOMAIN => {
                RegistryError::PullDenied { name, source }
            }
            (code::MANIFEST_UNKNOWN, Some(target)) => {
                let reference = match target {
                    Target::Tag(tag) => format!("{name}:{tag}"),
                    Target::Digest(digest) => format!("{name}@{digest}"),
                };
                RegistryError::ManifestUnknown { reference, source }
            }
            (code::NAME_UNKNOWN, _) => RegistryError::NameUnknown { name, source },
            _ if source.kind() == corten_base::Kind::Unauthorized => RegistryError::Credentials(source),
            _ => RegistryError::Api(source),
        }
    }
}

/// The `rel="next"` of a `Link` header.
fn next_page(response: &Response<Incoming>, base: &Uri) -> Result<Option<Uri>, RegistryError> {
    let Some(link) = response.headers().get(http::header::LINK).and_then(|l| l.to_str().ok()) else {
        return Ok(None);
    };
    let Some((address, rest)) = link.trim_start().strip_prefix('<').and_then(|l| l.split_once('>')) else {
        return Ok(None);
    };
    if rest.contains("rel=\"next\"") || rest.contains("rel=next") {
        resolve(base, address).map(Some)
    } else {
        Ok(None)
    }
}

/// A broken answer, named.
pub(crate) fn broken(call: (&Method, &Uri), what: impl Into<String>) -> RegistryError {
    failed(call.0, call.1, crate::error::TransportError::Broken(what.into()))
}
