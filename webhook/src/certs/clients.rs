//! Who may call: holders of a certificate by a CA that was named, if one was.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime, pem::PemObject as _},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::tls::provider;
use crate::metrics::{Files, Metrics};

/// How often the file is looked at.
const CHECK_EVERY: Duration = Duration::from_secs(10);

/// Why nobody could be let in by the file.
#[derive(Debug, thiserror::Error)]
pub enum ClientsError {
    /// It cannot be read.
    #[error("--client-ca {}: {}", .0.display(), .1)]
    Read(PathBuf, io::Error),
    /// There is no CA in it.
    #[error("--client-ca {}: {}", .0.display(), .1)]
    Parse(PathBuf, String),
}

/// Lets callers in whose certificate is by a CA of a file, and carries the name that was asked for. Clones are the same.
#[derive(Debug, Clone)]
pub struct Clients(Arc<Gate>);

#[derive(Debug)]
struct Gate {
    file: PathBuf,
    /// Common name or DNS name that the certificate must carry.
    name: Option<String>,
    current: RwLock<(String, Arc<dyn ClientCertVerifier>)>,
}

impl Clients {
    /// By the CAs of this PEM file, and only with this name where one is given.
    ///
    /// # Errors
    /// The file holds no CA: to go on without would let everybody in, or nobody.
    pub fn load(file: &Path, name: Option<String>) -> Result<Self, ClientsError> {
        let text = read(file)?;
        let verifier = verifier(file, &text)?;
        Ok(Self(Arc::new(Gate { file: file.to_owned(), name, current: RwLock::new((text, verifier)) })))
    }

    /// For a server's configuration; follows the file by itself.
    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        self.0.clone()
    }

    /// Follows the file for ever. A bad one changes nothing.
    pub async fn follow(self, metrics: Metrics) {
        let mut last = String::new();
        loop {
            tokio::time::sleep(CHECK_EVERY).await;
            let trouble = self.look().err().map(|error| error.to_string()).unwrap_or_default();
            metrics.files_bad(Files::Clients, !trouble.is_empty());
            if trouble != last && !trouble.is_empty() {
                tracing::error!(error = trouble, "going on with the last good CA of callers");
            }
            last = trouble;
        }
    }

    /// Looks at the file, and takes it where it is good and another.
    pub(super) fn look(&self) -> Result<(), ClientsError> {
        let text = read(&self.0.file)?;
        if text == self.0.current().0 {
            return Ok(());
        }
        let verifier = verifier(&self.0.file, &text)?;
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = (text, verifier);
        tracing::info!(file = %self.0.file.display(), "CA of callers");
        Ok(())
    }
}

fn read(file: &Path) -> Result<String, ClientsError> {
    fs::read_to_string(file).map_err(|error| ClientsError::Read(file.to_owned(), error))
}

fn verifier(file: &Path, text: &str) -> Result<Arc<dyn ClientCertVerifier>, ClientsError> {
    let wrong = |why: &dyn std::fmt::Display| ClientsError::Parse(file.to_owned(), why.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        let certificate = certificate.map_err(|error| wrong(&error))?;
        roots.add(certificate).map_err(|error| wrong(&error))?;
    }
    // Without any root the builder says so.
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().map_err(|error| wrong(&error))
}

impl Gate {
    fn current(&self) -> (String, Arc<dyn ClientCertVerifier>) {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

/// Whether a certificate carries this name: as its common name, as API servers' certificates do, or as a DNS name.
fn carries(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    let common = parsed.subject().iter_common_name().any(|common| common.as_str().is_ok_and(|common| common == name));
    let alternative = parsed.subject_alternative_name().ok().flatten();
    let mut names = alternative.iter().flat_map(|extension| &extension.value.general_names);
    common || names.any(|other| matches!(other, x509_parser::extensions::GeneralName::DNSName(other) if *other == name))
}

impl ClientCertVerifier for Gate {
    /// None: the CAs may change while the server runs, and without a hint a caller shows what it has.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.verifier().verify_client_cert(end_entity, intermediates, now)?;
        match &self.name {
            Some(name) if !carries(end_entity, name) => {
                Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
            }
            Some(_) | None => Ok(verified),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier().verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier().verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier().supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
