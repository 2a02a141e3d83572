//! Proves who we are to one endpoint: Basic, or a bearer token fetched from the service the endpoint names.
//!
//! ```text
//!   request ──▶ 401 + WWW-Authenticate ──▶ remember scheme ──▶ fetch token for the scopes ──▶ request again
//! ```
//! Name and password go to the endpoint itself (Basic) or to the realm it named (Bearer), nowhere else, and in
//! clear text only if the endpoint itself is reached in clear text.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use corten_base::Secret;
use corten_wire::distribution::TokenResponse;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use hyper::body::Incoming;

use super::challenge::{self, Challenge};
use super::transport::{Call, Transport, api_error, read_body};
use crate::credentials::Credentials;
use crate::error::RegistryError;

/// Token answers are small.
const TOKEN_LIMIT: usize = 1 << 20;
/// A token is renewed this long before it ends.
const MARGIN: Duration = Duration::from_secs(10);

/// How an endpoint wants us to authenticate.
#[derive(Debug, Clone)]
enum Scheme {
    None,
    Basic,
    Bearer { realm: Uri, service: String },
}

/// State of one endpoint.
#[derive(Debug)]
pub(crate) struct Auth {
    credentials: Credentials,
    endpoint_is_tls: bool,
    scheme: Mutex<Scheme>,
    tokens: Mutex<HashMap<String, (Secret<String>, Instant)>>,
}

/// What a token service answered.
pub(crate) struct Fetched {
    pub(crate) token: Secret<String>,
    pub(crate) refresh: Option<Secret<String>>,
    lifetime: Duration,
}

impl Auth {
    pub(crate) fn new(credentials: Credentials, endpoint_is_tls: bool) -> Self {
        Self { credentials, endpoint_is_tls, scheme: Mutex::new(Scheme::None), tokens: Mutex::default() }
    }

    /// Learns from the challenges of a 401; says whether there is one we can meet.
    pub(crate) fn learn(&self, headers: &HeaderMap) -> Result<bool, RegistryError> {
        let challenges: Vec<Challenge> = headers
            .get_all(http::header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        let scheme = if let Some(bearer) =
            challenges.iter().find(|c| c.scheme == "bearer" && !c.get("realm").is_empty())
        {
            let realm: Uri = bearer
                .get("realm")
                .parse()
                .map_err(|_| RegistryError::protocol("invalid realm in the registry's challenge"))?;
            if !matches!(realm.scheme_str(), Some("http" | "https")) {
                return Err(RegistryError::protocol("invalid realm in the registry's challenge"));
            }
            Scheme::Bearer { realm, service: bearer.get("service").to_owned() }
        } else if challenges.iter().any(|c| c.scheme == "basic") {
            Scheme::Basic
        } else {
            return Ok(false);
        };
        *self.scheme.lock().unwrap_or_else(PoisonError::into_inner) = scheme;
        Ok(true)
    }

    pub(crate) fn is_bearer(&self) -> bool {
        matches!(*self.scheme.lock().unwrap_or_else(PoisonError::into_inner), Scheme::Bearer { .. })
    }

    /// Basic is wanted, and there is no name and password.
    pub(crate) fn lacks_password(&self) -> bool {
        matches!(*self.scheme.lock().unwrap_or_else(PoisonError::into_inner), Scheme::Basic)
            && !matches!(self.credentials, Credentials::Basic { .. })
    }

    /// Forgets the token of these scopes, because the registry did not take it.
    pub(crate) fn forget(&self, scopes: &[String]) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(&scopes.join(" "));
    }

    /// Adds `Authorization` as far as we know what is wanted. Without credentials for Basic nothing is added.
    pub(crate) async fn authorize(
        &self,
        transport: &Transport,
        scopes: &[String],
        headers: &mut HeaderMap,
    ) -> Result<(), RegistryError> {
        let scheme = self.scheme.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let value = match (&scheme, &self.credentials) {
            (Scheme::None, _) => return Ok(()),
            (Scheme::Bearer { .. }, Credentials::RegistryToken(token)) => bearer(token),
            (Scheme::Basic, credentials) => match credentials.basic_header() {
                Some(value) => value,
                None => return Ok(()),
            },
            (Scheme::Bearer { .. }, _) => bearer(&self.token(transport, scopes).await?),
        };
        let mut value = HeaderValue::from_str(value.expose())
            .map_err(|_| RegistryError::protocol("the token service sent a token with control characters"))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
        Ok(())
    }

    async fn token(&self, transport: &Transport, scopes: &[String]) -> Result<Secret<String>, RegistryError> {
        let key = scopes.join(" ");
        let now = Instant::now();
        if let Some((token, until)) = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(&key)
            && *until > now
        {
            return Ok(token.clone());
        }
        let fetched = self.fetch(transport, scopes, false).await?;
        let until = now + fetched.lifetime.saturating_sub(MARGIN).max(Duration::from_secs(5));
        self.tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, (fetched.token.clone(), until));
        Ok(fetched.token)
    }

    /// Asks the token service. With `offline`, for a refresh token too.
    pub(crate) async fn fetch(
        &self,
        transport: &Transport,
        scopes: &[String],
        offline: bool,
    ) -> Result<Fetched, RegistryError> {
        let scheme = self.scheme.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Scheme::Bearer { realm, service } = scheme else {
            return Err(RegistryError::NoToken);
        };
        if self.endpoint_is_tls && realm.scheme_str() != Some("https") && !self.credentials.is_anonymous() {
            return Err(RegistryError::ClearText(realm.host().unwrap_or_default().to_owned()));
        }
        let call = match &self.credentials {
            Credentials::IdentityToken(refresh) => refresh_call(realm, &service, scopes, refresh)?,
            _ => self.token_call(&realm, &service, scopes, offline)?,
        };
        let response = transport.send(&call).await?;
        let idle = transport.config.idle_timeout;
        if !response.status().is_success() {
            return Err(RegistryError::Api(api_error(response, idle, (&call.method, &call.uri)).await));
        }
        let body = read_body(response.into_body(), TOKEN_LIMIT, idle, (&call.method, &call.uri)).await?;
        let answer: TokenResponse = serde_json::from_slice(&body)
            .map_err(|_| RegistryError::protocol("unable to decode token response"))?;
        let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
        if token.is_empty() {
            return Err(RegistryError::NoToken);
        }
        Ok(Fetched {
            token: token.into(),
            refresh: (!answer.refresh_token.is_empty()).then(|| answer.refresh_token.into()),
            // COMPAT: the token specification sets 60 seconds where nothing is said, and as the least.
            lifetime: Duration::from_secs(answer.expires_in.unwrap_or(60).clamp(60, 24 * 3600)),
        })
    }

    fn token_call(
        &self,
        realm: &Uri,
        service: &str,
        scopes: &[String],
        offline: bool,
    ) -> Result<Call, RegistryError> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if !service.is_empty() {
            query.append_pair("service", service);
        }
        for scope in scopes {
            query.append_pair("scope", scope);
        }
        if offline {
            query.append_pair("offline_token", "true").append_pair("client_id", "docker");
        }
        if let Credentials::Basic { username, .. } = &self.credentials {
            query.append_pair("account", username);
        }
        let separator = if realm.query().is_some() { '&' } else { '?' };
        let uri = format!("{realm}{separator}{}", query.finish())
            .parse()
            .map_err(|_| RegistryError::protocol("invalid realm in the registry's challenge"))?;
        let mut call = Call::new(Method::GET, uri);
        if let Some(basic) = self.credentials.basic_header() {
            let mut value = HeaderValue::from_str(basic.expose()).map_err(|_| RegistryError::NoToken)?;
            value.set_sensitive(true);
            call.headers.insert(AUTHORIZATION, value);
        }
        Ok(call)
    }
}

fn refresh_call(
    realm: Uri,
    service: &str,
    scopes: &[String],
    refresh: &Secret<String>,
) -> Result<Call, RegistryError> {
    let form = form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "refresh_token")
        .append_pair("refresh_token", refresh.expose())
        .append_pair("service", service)
        .append_pair("client_id", "docker")
        .append_pair("scope", &scopes.join(" "))
        .finish();
    let mut call =
        Call::new(Method::POST, realm).header(CONTENT_TYPE, "application/x-www-form-urlencoded")?;
    call.body = Bytes::from(form);
    Ok(call)
}

fn bearer(token: &Secret<String>) -> Secret<String> {
    Secret::new(format!("Bearer {}", token.expose()))
}

/// Whether an answer asks for (other) credentials.
pub(crate) fn is_challenge(response: &Response<Incoming>) -> bool {
    response.status() == StatusCode::UNAUTHORIZED
}
