//! The certificate authority and the serving certificates that it signs: ECDSA P-256, because a handshake is what costs.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::NoServerSessionStorage,
};

const DAY: Duration = Duration::from_hours(24);
/// Of the CA. Its rotation is to come: the bundle may hold more than one certificate for that.
const CA_LIFE: Duration = Duration::from_hours(24 * 3650);
const LEAF_LIFE: Duration = Duration::from_hours(24 * 7);
/// The API server's clock may be behind ours.
const SKEW: Duration = Duration::from_hours(1);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// Making a key or a certificate failed.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// rustls refused what was made.
    #[error("cannot serve with the certificate: {0}")]
    Use(#[from] rustls::Error),
    /// The stored CA cannot be read.
    #[error("cannot read the {0} of the CA: {1}")]
    Read(&'static str, String),
    /// The stored key is not the certificate's, or the certificate is not a CA's.
    #[error("the stored CA's certificate and key do not belong together: {0}")]
    Mismatch(String),
}

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    bundle_pem: String,
    key_pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl PartialEq for Authority {
    fn eq(&self, other: &Self) -> bool {
        self.bundle_pem == other.bundle_pem && self.key_pem == other.key_pem
    }
}

/// A serving certificate with its key, ready for use.
#[derive(Debug)]
pub struct Leaf {
    /// HTTP/1.1 only, which is what the API server speaks to webhooks and all that we serve.
    pub config: Arc<ServerConfig>,
    /// When it ends.
    pub not_after: SystemTime,
    /// When to have the next one: at two thirds of its life.
    pub renew_at: SystemTime,
}

impl Authority {
    /// A new one.
    pub fn generate(now: SystemTime) -> Result<Self, CertError> {
        let key = KeyPair::generate()?;
        let mut params = params("railbind-webhook CA", now, CA_LIFE);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            bundle_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            certificate: certificate.into(),
            issuer: Issuer::new(params, key),
        })
    }

    /// A stored one. Of several certificates the first is the one that signs; the others are trusted besides.
    pub fn load(bundle_pem: &str, key_pem: &str, now: SystemTime) -> Result<Self, CertError> {
        let certificate = CertificateDer::from_pem_slice(bundle_pem.as_bytes())
            .map_err(|error| CertError::Read("certificate", error.to_string()))?;
        let key = KeyPair::from_pem(key_pem).map_err(|error| CertError::Read("key", error.to_string()))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| CertError::Read("certificate", error.to_string()))?;
        let authority = Self { bundle_pem: bundle_pem.to_owned(), key_pem: key_pem.to_owned(), certificate, issuer };
        authority.try_out(now)?;
        Ok(authority)
    }

    /// What the API server has to trust, PEM.
    pub fn bundle_pem(&self) -> &str {
        &self.bundle_pem
    }

    /// The signing key, PEM.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// A serving certificate for these DNS names and addresses.
    pub fn issue(&self, names: &[String], now: SystemTime) -> Result<Leaf, CertError> {
        let (certificate, key) = self.sign(names, now)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // The API server never resumes a session.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Leaf { config: Arc::new(config), not_after: now + LEAF_LIFE, renew_at: now + LEAF_LIFE * 2 / 3 })
    }

    fn sign(
        &self,
        names: &[String],
        now: SystemTime,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), CertError> {
        let key = KeyPair::generate()?;
        let mut params = params("railbind-webhook", now, LEAF_LIFE);
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.into(), PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
    }

    /// Signs one and verifies it, as the API server would.
    fn try_out(&self, now: SystemTime) -> Result<(), CertError> {
        let mismatch = |error: &dyn std::fmt::Display| CertError::Mismatch(error.to_string());
        let (leaf, _) = self.sign(&["probe.invalid".into()], now)?;
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).map_err(|error| mismatch(&error))?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| mismatch(&error))?;
        let name = ServerName::try_from("probe.invalid").map_err(|error| mismatch(&error))?;
        let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        verifier.verify_server_cert(&leaf, &[], &name, &[], now).map_err(|error| mismatch(&error))?;
        Ok(())
    }
}

fn params(common_name: &str, now: SystemTime, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(DAY);
    let now = date_time_ymd(1970, 1, 1) + since_epoch;
    params.not_before = now - SKEW;
    params.not_after = now + life;
    params
}

/// Named, not the process's default: nothing here depends on what else ran before.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

#[cfg(test)]
mod tests;
