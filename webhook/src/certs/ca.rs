//! The certificate authority and the serving certificates that it signs: ECDSA P-256, because a handshake is what costs.

use std::{
    fmt,
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
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime, pem::PemObject as _},
};

use super::{
    Clients,
    rotation::Validity,
    tls::{provider, server_config},
};

/// The API server's clock may be behind ours: by so much at most, and by no more than a tenth of a life.
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
pub struct Authority {
    certificate_pem: String,
    key_pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    validity: Validity,
}

/// Without the key: what is shown ends up in logs.
impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Authority").field("validity", &self.validity).finish_non_exhaustive()
    }
}

impl PartialEq for Authority {
    fn eq(&self, other: &Self) -> bool {
        self.certificate_pem == other.certificate_pem && self.key_pem == other.key_pem
    }
}

/// A serving certificate with its key, ready for use.
#[derive(Debug)]
pub struct Leaf {
    /// For the server.
    pub config: Arc<ServerConfig>,
    /// When it begins.
    pub not_before: SystemTime,
    /// When it ends.
    pub not_after: SystemTime,
    /// When to have the next one: at two thirds of its life.
    pub renew_at: SystemTime,
}

impl Authority {
    /// A new one that is good for `life`.
    pub fn generate(now: SystemTime, life: Duration) -> Result<Self, CertError> {
        let key = KeyPair::generate()?;
        let validity = Validity::of(now, life);
        let mut params = params("railbind-webhook CA", validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            validity: validity_of(certificate.der())?,
            certificate: certificate.into(),
            issuer: Issuer::new(params, key),
        })
    }

    /// A stored one. Whether its time has come or is over is not looked at here: [`Self::validity`] says.
    pub fn load(certificate_pem: &str, key_pem: &str) -> Result<Self, CertError> {
        let certificate = certificate(certificate_pem)?;
        let key = KeyPair::from_pem(key_pem).map_err(|error| CertError::Read("key", error.to_string()))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| CertError::Read("certificate", error.to_string()))?;
        let validity = validity_of(&certificate)?;
        let authority = Self {
            certificate_pem: certificate_pem.to_owned(),
            key_pem: key_pem.to_owned(),
            certificate,
            issuer,
            validity,
        };
        authority.try_out()?;
        Ok(authority)
    }

    /// What the API server has to trust, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The signing key, PEM.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// From when to when it is good.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// A serving certificate for these DNS names and addresses, good for `life` unless this authority ends before, and for these
    /// callers (`None`: anyone).
    pub fn issue(
        &self,
        names: &[String],
        now: SystemTime,
        life: Duration,
        clients: Option<&Clients>,
    ) -> Result<Leaf, CertError> {
        let validity = Validity::of(now, life);
        let validity = Validity { until: validity.until.min(self.validity.until), ..validity };
        let (certificate, key) = self.sign(names, validity)?;
        let config = server_config(vec![certificate], key, clients.map(Clients::verifier))?;
        let rest = validity.until.duration_since(now).unwrap_or_default();
        Ok(Leaf { config, not_before: validity.from, not_after: validity.until, renew_at: now + rest * 2 / 3 })
    }

    fn sign(
        &self,
        names: &[String],
        validity: Validity,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), CertError> {
        let key = KeyPair::generate()?;
        let mut params = params("railbind-webhook", validity);
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.into(), PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
    }

    /// Signs one and verifies it, as the API server would in the middle of its life.
    fn try_out(&self) -> Result<(), CertError> {
        let middle = self.validity.from + self.validity.life() / 2;
        let mismatch = |error: &dyn fmt::Display| CertError::Mismatch(error.to_string());
        let (leaf, _) = self.sign(&["probe.invalid".into()], Validity::of(middle, self.validity.life() / 2))?;
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).map_err(|error| mismatch(&error))?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| mismatch(&error))?;
        let name = ServerName::try_from("probe.invalid").map_err(|error| mismatch(&error))?;
        let now = UnixTime::since_unix_epoch(middle.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        verifier.verify_server_cert(&leaf, &[], &name, &[], now).map_err(|error| mismatch(&error))?;
        Ok(())
    }
}

/// The certificates of a PEM text, each as a text of its own; whatever stands between them is left out.
///
/// # Errors
/// One of them is none that an API server could trust: it would refuse the whole list.
pub(super) fn certificates(text: &str) -> Result<Vec<String>, CertError> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let texts = text.split_inclusive(END).filter_map(|piece| Some(format!("{}\n", &piece[piece.find(BEGIN)?..])));
    let texts: Vec<String> = texts.collect();
    for text in &texts {
        RootCertStore::empty()
            .add(certificate(text)?)
            .map_err(|error| CertError::Read("certificate", error.to_string()))?;
    }
    Ok(texts)
}

fn certificate(text: &str) -> Result<CertificateDer<'static>, CertError> {
    CertificateDer::from_pem_slice(text.as_bytes()).map_err(|error| CertError::Read("certificate", error.to_string()))
}

impl Validity {
    /// From now on, and a little before.
    fn of(now: SystemTime, life: Duration) -> Self {
        Self { from: now - SKEW.min(life / 10), until: now + life }
    }
}

pub(super) fn validity_of(certificate: &CertificateDer<'_>) -> Result<Validity, CertError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| CertError::Read("certificate", error.to_string()))?;
    let time = |time: x509_parser::time::ASN1Time| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or_default())
    };
    Ok(Validity { from: time(parsed.validity().not_before), until: time(parsed.validity().not_after) })
}

fn params(common_name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let time =
        |time: SystemTime| date_time_ymd(1970, 1, 1) + time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    params.not_before = time(validity.from);
    params.not_after = time(validity.until);
    params
}

#[cfg(test)]
mod tests;
