//! Basic authentication against an htpasswd file with bcrypt hashes.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use base64::Engine as _;
use corten_base::Digest;
use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};

use super::answer::Refusal;
use crate::error::RegistryError;
use corten_wire::distribution::code;

const FILE_LIMIT: u64 = 1 << 20;
/// Remembered proofs; bcrypt is slow on purpose, and a pull makes many requests.
const PROOFS: usize = 1024;

/// The file and what is known of it. Read again when it changes.
pub(crate) struct Passwords {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    modified: Option<SystemTime>,
    users: Arc<Vec<(String, String)>>,
    /// Digests of `Authorization` values that were right.
    proofs: HashSet<String>,
}

impl Passwords {
    pub(crate) fn open(path: &Path) -> Result<Self, RegistryError> {
        let new = Self { path: path.to_owned(), state: Mutex::default() };
        new.users()
            .map_err(|e| RegistryError::Config { what: format!("htpasswd {}: {e}", path.display()) })?;
        Ok(new)
    }

    fn users(&self) -> std::io::Result<Arc<Vec<(String, String)>>> {
        let meta = std::fs::metadata(&self.path)?;
        let modified = meta.modified().ok();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.modified.is_some() && state.modified == modified {
            return Ok(Arc::clone(&state.users));
        }
        if meta.len() > FILE_LIMIT {
            return Err(std::io::Error::other("file too large"));
        }
        let text = std::fs::read_to_string(&self.path)?;
        let users = text
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
            .filter_map(|l| l.split_once(':'))
            .map(|(name, hash)| (name.to_owned(), hash.to_owned()))
            .collect();
        *state = State { modified, users: Arc::new(users), proofs: HashSet::new() };
        Ok(Arc::clone(&state.users))
    }

    /// Lets the request pass or refuses it with a challenge. Blocks for the time of a bcrypt at most.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let users = self.users()?;
        let value = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let refused = || {
            Refusal::new(StatusCode::UNAUTHORIZED, code::UNAUTHORIZED)
                .with("www-authenticate", "Basic realm=\"Registry Realm\"")
        };
        let (scheme, encoded) = value.split_once(' ').unwrap_or_default();
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(refused());
        }
        let proof = Digest::of(value.as_bytes()).to_string();
        if self.state.lock().unwrap_or_else(PoisonError::into_inner).proofs.contains(&proof) {
            return Ok(());
        }
        let decoded =
            base64::engine::general_purpose::STANDARD.decode(encoded.trim()).map_err(|_| refused())?;
        let decoded = String::from_utf8(decoded).map_err(|_| refused())?;
        let (name, password) = decoded.split_once(':').ok_or_else(refused)?;
        // An unknown name costs as much as a wrong password.
        let known = users.iter().find(|(n, _)| n == name).map(|(_, hash)| hash.as_str());
        let right = bcrypt::verify(password, known.unwrap_or(NOBODY)).unwrap_or(false);
        if !right || known.is_none() {
            return Err(refused());
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.proofs.len() >= PROOFS {
            state.proofs.clear();
        }
        state.proofs.insert(proof);
        Ok(())
    }
}

/// Hash of a password that nobody has.
const NOBODY: &str = "$2b$05$abcdefghijklmnopqrstuuXt8rYkVn0Vn0qzQy4wW7yVhkGqfS4nW";
