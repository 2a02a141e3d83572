//! TLS to a daemon, with client certificates and, where the user asked for `--tls` only, without verification.

use std::path::Path;
use std::sync::Arc;

use corten_base::tls::{AcceptAny, provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::{Error, TlsFiles};

pub(crate) async fn wrap(
    stream: TcpStream,
    host: &str,
    files: &TlsFiles,
) -> Result<TlsStream<TcpStream>, Error> {
    let name = files.server_name.as_deref().unwrap_or(host).to_owned();
    let name = ServerName::try_from(name).map_err(|e| Error::Tls(e.to_string()))?;
    let connector = TlsConnector::from(Arc::new(config(files)?));
    connector.connect(name, stream).await.map_err(|e| Error::Http(e.to_string()))
}

fn config(files: &TlsFiles) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::Tls(e.to_string()))?;
    let builder = if files.verify {
        builder.with_root_certificates(roots(files)?)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny))
    };
    match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|e| Error::Tls(format!("could not read private key {}: {e}", key.display())))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| Error::Tls(e.to_string()))
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn roots(files: &TlsFiles) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    match &files.ca {
        Some(ca) => {
            for cert in certificates(ca)? {
                roots.add(cert).map_err(|e| Error::Tls(e.to_string()))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| Error::Tls(format!("could not read certificate {}: {e}", path.display())))
}
