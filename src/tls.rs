//! The server's TLS certificate. It is read again when its file changes, so a renewal needs no
//! restart.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// How often the files are checked.
const LOOK_PERIOD: Duration = Duration::from_secs(5);

/// The certificate in use.
#[derive(Debug)]
pub struct Certificate {
    chain_file: PathBuf,
    key_file: PathBuf,
    current: RwLock<Arc<CertifiedKey>>,
}

fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

/// Returns when each file was last changed. `None` for a file that cannot be read.
fn changed_at(certificate: &Certificate) -> [Option<SystemTime>; 2] {
    let at = |file: &Path| std::fs::metadata(file).and_then(|file| file.modified()).ok();
    [at(&certificate.chain_file), at(&certificate.key_file)]
}

fn read(chain_file: &Path, key_file: &Path) -> anyhow::Result<CertifiedKey> {
    let chain = CertificateDer::pem_file_iter(chain_file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("cannot read the certificate {}", chain_file.display()))?;
    anyhow::ensure!(!chain.is_empty(), "{} has no certificate in it", chain_file.display());
    let key = PrivateKeyDer::from_pem_file(key_file)
        .map_err(|_| anyhow::anyhow!("cannot read the private key {}", key_file.display()))?;
    CertifiedKey::from_der(chain, key, &provider()).with_context(|| {
        format!(
            "the private key {} does not belong to the certificate {}",
            key_file.display(),
            chain_file.display()
        )
    })
}

impl Certificate {
    /// Reads the files. Fails with a message that names the file that cannot be used.
    pub fn open(chain_file: PathBuf, key_file: PathBuf) -> anyhow::Result<Arc<Self>> {
        let current = RwLock::new(Arc::new(read(&chain_file, &key_file)?));
        Ok(Arc::new(Certificate { chain_file, key_file, current }))
    }

    /// Returns the TLS configuration (1.2 and 1.3) with this certificate.
    pub fn server_config(self: &Arc<Self>) -> anyhow::Result<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(Arc::new(provider()));
        let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Self>::clone(self);
        Ok(builder.with_cert_resolver(resolver))
    }

    /// Reads the files again each time they change. If they cannot be used, logs an error and keeps
    /// the current certificate. Never returns.
    pub async fn follow(self: Arc<Self>) {
        let mut seen = changed_at(&self);
        let mut period = tokio::time::interval(LOOK_PERIOD);
        loop {
            period.tick().await;
            let now = changed_at(&self);
            if now == seen {
                continue;
            }
            match read(&self.chain_file, &self.key_file) {
                Ok(certificate) => {
                    let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                    *current = Arc::new(certificate);
                    drop(current);
                    seen = now;
                    tracing::info!("a new certificate is in use");
                }
                // One file may be replaced before the other, so the next check tries again.
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::error!(error, "the certificate was changed, and cannot be used");
                }
            }
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}
