//! What a user proves their identity with at one registry. Never logged, never sent to another host.

use base64::Engine as _;
use corten_base::Secret;

/// Credentials of one registry.
#[derive(Debug, Clone, Default)]
pub enum Credentials {
    /// None.
    #[default]
    Anonymous,
    /// Name and password, for Basic authentication and for asking a token service.
    Basic {
        /// Account name.
        username: String,
        /// Password or personal access token.
        password: Secret<String>,
    },
    /// A refresh token of the registry's token service, as `docker login` may have stored it.
    IdentityToken(Secret<String>),
    /// A bearer token to be used as it is.
    RegistryToken(Secret<String>),
}

impl Credentials {
    /// The header of Basic authentication, if these are name and password.
    pub(crate) fn basic(&self) -> Option<http::HeaderValue> {
        let Self::Basic { username, password } = self else { return None };
        let pair = format!("{username}:{}", password.expose());
        let text = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
        let mut value = http::HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// As BuildKit's sessions give them: without a name the secret is an identity token.
    #[must_use]
    pub fn from_session(username: &str, secret: String) -> Self {
        match (username, secret.as_str()) {
            ("", "") => Self::Anonymous,
            ("", _) => Self::IdentityToken(secret.into()),
            (name, _) => Self::Basic { username: name.to_owned(), password: secret.into() },
        }
    }

    /// From the fields of Docker's `AuthConfig`: `auth` is base64 of `name:password` and is looked at only if
    /// name and password are empty. Empty fields mean absent.
    #[must_use]
    pub fn from_parts(
        username: &str,
        password: &str,
        auth: &str,
        identity_token: &str,
        registry_token: &str,
    ) -> Self {
        if !registry_token.is_empty() {
            return Self::RegistryToken(registry_token.to_owned().into());
        }
        if !identity_token.is_empty() {
            return Self::IdentityToken(identity_token.to_owned().into());
        }
        if !username.is_empty() || !password.is_empty() {
            return Self::Basic { username: username.to_owned(), password: password.to_owned().into() };
        }
        let decoded = base64::engine::general_purpose::STANDARD.decode(auth.trim()).unwrap_or_default();
        match String::from_utf8(decoded).as_deref().map(|t| t.split_once(':')) {
            // COMPAT: docker's CLI stored trailing NUL bytes at one time.
            Ok(Some((name, password))) if !name.is_empty() => Self::Basic {
                username: name.to_owned(),
                password: password.trim_end_matches('\0').to_owned().into(),
            },
            _ => Self::Anonymous,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_anonymous(&self) -> bool {
        matches!(self, Self::Anonymous)
    }

    /// Value of an `Authorization: Basic` header, if these are name and password.
    pub(crate) fn basic_header(&self) -> Option<Secret<String>> {
        let Self::Basic { username, password } = self else { return None };
        Some(Secret::new(basic(username, password.expose())))
    }
}

/// `Basic …` for name and password.
pub(crate) fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_silence() {
        let c = Credentials::from_parts("", "", "bWU6cHc6eA==", "", "");
        let Credentials::Basic { username, password } = &c else { panic!("{c:?}") };
        assert_eq!((username.as_str(), password.expose().as_str()), ("me", "pw:x"));
        assert!(!format!("{c:?}").contains("pw"));
        assert!(Credentials::from_parts("", "", "%%", "", "").is_anonymous());
    }
}
