//! A certificate that somebody else makes: `tls.crt`, `tls.key` and `ca.crt` of a folder, as Kubernetes mounts a Secret of type
//! `kubernetes.io/tls`.

use std::{
    fmt,
    fs::{self, File},
    io::Read as _,
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use k8s_openapi::jiff::Timestamp;
use rustls::{
    CertificateError, RootCertStore, ServerConfig,
    client::{verify_server_cert_signed_by_trust_anchor, verify_server_name},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::{ParsedCertificate, danger::ClientCertVerifier},
};

use super::{
    ca::{certificates, validity_of},
    rotation::Validity,
    tls::{provider, server_config},
};

/// The certificate that is served with, its intermediates after it.
pub(super) const CERTIFICATE: &str = "tls.crt";
/// Its key.
pub(super) const KEY: &str = "tls.key";
/// Who signed it: what the API server has to trust.
pub(super) const AUTHORITY: &str = "ca.crt";
/// No Secret is larger than 1 MiB.
const MAX_FILE: u64 = 1 << 20;

/// What is wrong with the files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {why}")]
pub struct FilesError {
    /// Which of them.
    pub file: &'static str,
    /// What, and what to do.
    pub why: String,
}

fn wrong<E: fmt::Display>(file: &'static str) -> impl Fn(E) -> FilesError {
    move |why| FilesError { file, why: why.to_string() }
}

/// The files as they are. Not shown: one of them is a key.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Texts {
    certificate: String,
    key: String,
    authority: Option<String>,
}

impl Texts {
    /// Reads the folder. All three are of one version where Kubernetes mounted it: it changes a Secret's files by swapping the
    /// link `..data`, which is followed once here.
    pub(super) fn read(folder: &Path) -> Result<Self, FilesError> {
        let folder = fs::canonicalize(folder.join("..data")).unwrap_or_else(|_| folder.to_owned());
        let text = |name: &'static str| {
            let file = File::open(folder.join(name))?;
            let mut text = String::new();
            file.take(MAX_FILE).read_to_string(&mut text)?;
            Ok::<_, std::io::Error>(text)
        };
        let authority = match text(AUTHORITY) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(wrong(AUTHORITY)(error)),
        };
        Ok(Self {
            certificate: text(CERTIFICATE).map_err(wrong(CERTIFICATE))?,
            key: text(KEY).map_err(wrong(KEY))?,
            authority,
        })
    }
}

/// A certificate that can be served with.
#[derive(Clone)]
pub struct Pair {
    chain: Vec<CertificateDer<'static>>,
    config: Arc<ServerConfig>,
    authority: Vec<String>,
    validity: Validity,
    texts: Texts,
}

/// Without the key.
impl fmt::Debug for Pair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pair").field("validity", &self.validity).finish_non_exhaustive()
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.texts == other.texts
    }
}

/// What a certificate must be good for.
pub(super) struct Need<'a> {
    /// The host name or address by which the API server calls us.
    pub(super) name: &'a str,
    /// Whether `ca.crt` must be there, because it is what we register.
    pub(super) authority: bool,
    /// Who may call.
    pub(super) clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl Pair {
    /// What the files hold, if the API server would accept it now.
    pub(super) fn of(texts: Texts, need: &Need<'_>, now: SystemTime) -> Result<Self, FilesError> {
        let bad = wrong::<String>;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(texts.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(wrong(CERTIFICATE))?;
        let leaf = chain.first().ok_or_else(|| bad(CERTIFICATE)("no certificate in it".into()))?;
        let key = PrivateKeyDer::from_pem_slice(texts.key.as_bytes()).map_err(wrong(KEY))?;
        let validity = validity_of(leaf).map_err(wrong(CERTIFICATE))?;
        if validity.is_over(now) || now < validity.from {
            let [from, until] = [validity.from, validity.until].map(moment);
            return Err(bad(CERTIFICATE)(format!("good from {from} until {until}, and not now")));
        }
        let parsed = ParsedCertificate::try_from(leaf).map_err(wrong(CERTIFICATE))?;
        let name = ServerName::try_from(need.name).map_err(wrong(CERTIFICATE))?;
        verify_server_name(&parsed, &name)
            .map_err(|_| bad(CERTIFICATE)(format!("not for {}, the name by which the API server calls", need.name)))?;
        let config = server_config(chain.clone(), key, need.clients.clone()).map_err(wrong(KEY))?;
        let authority = match &texts.authority {
            Some(text) if need.authority => certificates(text).map_err(wrong(AUTHORITY))?,
            None if need.authority => {
                let why = "it is not there: put the CA that signed tls.crt into it, or let somebody else fill caBundle in (--ca-bundle=injected)";
                return Err(bad(AUTHORITY)(why.into()));
            }
            Some(_) | None => Vec::new(),
        };
        let pair = Self { chain, config, authority, validity, texts };
        if need.authority && !pair.is_trusted_by(&pair.authority.concat(), now) {
            return Err(bad(AUTHORITY)("the CA that signed tls.crt is not in it".into()));
        }
        Ok(pair)
    }

    /// For the server.
    pub(super) fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// The CAs of `ca.crt`, PEM each; none where they are somebody else's business.
    pub(super) fn authority(&self) -> &[String] {
        &self.authority
    }

    /// From when to when it is good.
    pub(super) fn validity(&self) -> Validity {
        self.validity
    }

    /// Whether the files are those that it was read from.
    pub(super) fn is_of(&self, texts: &Texts) -> bool {
        self.texts == *texts
    }

    /// Whether an API server with this PEM in `caBundle` would accept it.
    pub(super) fn is_trusted_by(&self, bundle: &str, now: SystemTime) -> bool {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            // One that makes no sense, and the API server would refuse the whole list.
            let Ok(()) = certificate.map_err(drop).and_then(|certificate| roots.add(certificate).map_err(drop)) else {
                return false;
            };
        }
        let Some((leaf, intermediates)) = self.chain.split_first() else { return false };
        let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        let algorithms = provider().signature_verification_algorithms.all;
        let verified = ParsedCertificate::try_from(leaf)
            .and_then(|leaf| verify_server_cert_signed_by_trust_anchor(&leaf, &roots, intermediates, now, algorithms));
        match verified {
            Ok(()) => true,
            // A self-signed one that calls itself a CA and is its own: Go, which is what the API server is made of, takes it.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_))) => bundle_holds(bundle, leaf),
            Err(_) => false,
        }
    }
}

fn bundle_holds(bundle: &str, leaf: &CertificateDer<'_>) -> bool {
    CertificateDer::pem_slice_iter(bundle.as_bytes()).flatten().any(|certificate| certificate == *leaf)
}

fn moment(time: SystemTime) -> String {
    Timestamp::try_from(time).map_or_else(|error| error.to_string(), |time| time.to_string())
}

#[cfg(test)]
mod tests;
