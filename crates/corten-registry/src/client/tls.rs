//! TLS settings per host: the system's roots, `certs.d/<host>`, or no verification for insecure registries.

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use corten_base::tls::{AcceptAny, provider};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::{RegistryError, TransportError};

/// A file of certificates or keys larger than this is not one.
const PEM_LIMIT: u64 = 1 << 20;

/// Settings for one host. With `verify` off any certificate will do.
pub(crate) fn client_config(
    certs_dir: &Path,
    authority: &str,
    verify: bool,
) -> Result<Arc<rustls::ClientConfig>, RegistryError> {
    let host = HostFiles::read(&certs_dir.join(authority))?;
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| config(e.to_string()))?;
    let builder = if verify {
        let mut roots = system_roots().clone();
        roots.add_parsable_certificates(host.roots.iter().cloned());
        if host.roots.is_empty() {
            builder.with_root_certificates(roots)
        } else {
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
            let usual = verifier.map_err(|e| self::config(e.to_string()))?;
            let pinned = Pinned { usual, certificates: host.roots };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(pinned))
        }
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny))
    };
    let mut config = match host.identity {
        Some((chain, key)) => {
            builder.with_client_auth_cert(chain, key).map_err(|e| self::config(e.to_string()))?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Read once: the file has 150 certificates, and most daemons talk to few registries.
fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        store
    })
}

/// What `certs.d/<host>` holds.
#[derive(Default)]
struct HostFiles {
    roots: Vec<CertificateDer<'static>>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl HostFiles {
    /// COMPAT: `*.crt` are roots, `X.cert` with `X.key` is the client's identity, each without the other is an
    /// error in Docker's words.
    fn read(dir: &Path) -> Result<Self, RegistryError> {
        let mut out = Self::default();
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(out);
            }
            Err(e) => return Err(config(format!("read {}: {e}", dir.display()))),
        };
        let mut names: Vec<_> = entries.filter_map(Result::ok).map(|e| e.path()).collect();
        names.sort();
        for path in &names {
            match path.extension().and_then(|e| e.to_str()) {
                Some("crt") => out.roots.extend(certificates(path)?),
                Some("cert") => {
                    let key = path.with_extension("key");
                    if !names.contains(&key) {
                        return Err(config(format!(
                            "missing key {} for client certificate {}. CA certificates must use the extension .crt",
                            name_of(&key),
                            name_of(path)
                        )));
                    }
                    let pem = read_limited(&key)?;
                    let key = PrivateKeyDer::from_pem_slice(&pem)
                        .map_err(|e| config(format!("{}: {e}", key.display())))?;
                    out.identity = Some((certificates(path)?, key));
                }
                Some("key") if !names.contains(&path.with_extension("cert")) => {
                    return Err(config(format!(
                        "missing client certificate {} for key {}",
                        name_of(&path.with_extension("cert")),
                        name_of(path)
                    )));
                }
                _ => {}
            }
        }
        Ok(out)
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// All certificates of a PEM file.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let pem = read_limited(path)?;
    CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|e| config(format!("{}: {e}", path.display())))
}

/// The first private key of a PEM file.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, RegistryError> {
    PrivateKeyDer::from_pem_slice(&read_limited(path)?)
        .map_err(|e| config(format!("{}: {e}", path.display())))
}

fn read_limited(path: &Path) -> Result<Vec<u8>, RegistryError> {
    let failed = |e: io::Error| config(format!("read {}: {e}", path.display()));
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > PEM_LIMIT {
        return Err(config(format!("{}: larger than {PEM_LIMIT} bytes", path.display())));
    }
    std::fs::read(path).map_err(failed)
}

const fn config(what: String) -> RegistryError {
    RegistryError::Config { what }
}

/// Go's texts for failures of the handshake.
pub(crate) fn handshake_error(e: &io::Error, host: &str) -> TransportError {
    let Some(tls) = e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return match e.kind() {
            io::ErrorKind::UnexpectedEof => TransportError::Broken("EOF".into()),
            _ => TransportError::Broken(crate::error::errno_text(e)),
        };
    };
    match tls {
        rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => TransportError::NotTls,
        rustls::Error::InvalidCertificate(c) => TransportError::Certificate(match c {
            CertificateError::UnknownIssuer => "certificate signed by unknown authority".into(),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "certificate has expired or is not yet valid".into()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("certificate is not valid for {host}")
            }
            other => other.to_string(),
        }),
        rustls::Error::AlertReceived(alert) => TransportError::Tls(format!("{alert:?}")),
        other => TransportError::Tls(other.to_string()),
    }
}

/// COMPAT: registries are often given one self-signed certificate that is put into `certs.d` as it is. It says of
/// itself that it is an authority, which webpki does not accept of a server; Go does. Being exactly the
/// certificate that the administrator trusts for this host, and valid for its name, is enough.
#[derive(Debug)]
struct Pinned {
    usual: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let usual = self.usual.verify_server_cert(end_entity, intermediates, name, ocsp, now);
        let is_pinned = self.certificates.iter().any(|c| c.as_ref() == end_entity.as_ref());
        match usual {
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_))) if is_pinned => {
                let parsed = ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&parsed, name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}
