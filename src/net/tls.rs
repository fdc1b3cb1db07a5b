//! TLS set-up. Certificates of WeChat, COS and Redis are verified by the system's roots (or `SSL_CERT_FILE`,
//! `SSL_CERT_DIR`), or Mozilla's where the system has none; Redis also by roots that the settings name. Clients are shown
//! the certificate of the settings.

mod sealing;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::settings::ServerTls;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{}: {cause}", file.display())]
    Pem { file: PathBuf, cause: pem::Error },
    #[error("{0}")]
    Rustls(#[from] rustls::Error),
}

/// TLS towards clients: h2 and HTTP/1.1. Reads the files.
pub fn server(settings: &ServerTls) -> Result<Arc<ServerConfig>, TlsError> {
    let failed = |file: &Path| {
        let file = file.to_owned();
        move |cause| TlsError::Pem { file, cause }
    };
    let chain = CertificateDer::pem_file_iter(&settings.cert)
        .and_then(Iterator::collect)
        .map_err(failed(&settings.cert))?;
    let key = PrivateKeyDer::from_pem_file(&settings.key).map_err(failed(&settings.key))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// TLS for WeChat and COS: HTTP/1.1 only.
pub fn client() -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = client_with(system_roots())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// TLS for Redis. `ca_file`: the roots in place of the system's, in PEM; it is read here.
pub fn redis(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match ca_file {
        None => system_roots(),
        Some(file) => {
            let failed = |cause| TlsError::Pem { file: file.to_owned(), cause };
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_file_iter(file).map_err(failed)? {
                roots.add(certificate.map_err(failed)?)?;
            }
            if roots.is_empty() {
                return Err(failed(pem::Error::NoItemsFound));
            }
            roots
        }
    };
    Ok(Arc::new(client_with(roots)?))
}

fn client_with(roots: RootCertStore) -> Result<ClientConfig, TlsError> {
    let provider =
        CryptoProvider { cipher_suites: sealing::cipher_suites(), ..aws_lc_rs::default_provider() };
    Ok(ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

fn system_roots() -> RootCertStore {
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        tracing::warn!(%error, "a root certificate cannot be read");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        tracing::info!("this system has no root certificates; Mozilla's are used");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}
