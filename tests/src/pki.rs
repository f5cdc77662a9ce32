//! Keys and certificates of one cluster, made in memory: nothing here needs openssl.

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// A certificate authority: the API server's, and any webhook's under test.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate and its private key, both PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its key, PKCS#8.
    pub key: String,
}

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = params(name, &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("generate an authority's key")?;
        let certificate = params.self_signed(&key).context("sign an authority")?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// Its own certificate, PEM: what a client trusts, what goes (base64) into a `caBundle`.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A serving certificate for this host's loopback address, `localhost` and `names`.
    pub fn serving(&self, names: &[&str]) -> Result<Identity> {
        let names = [&["127.0.0.1", "localhost"], names].concat();
        let params = params(names.last().copied().unwrap_or("localhost"), &names)?;
        self.sign(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate that a client of this name shows.
    pub fn client(&self, name: &str) -> Result<Identity> {
        self.sign(params(name, &[])?, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Result<Identity> {
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context("generate a key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("sign a certificate")?.pem();
        Ok(Identity { certificate, key: key.serialize_pem() })
    }
}

/// The pair that signs and checks service account tokens, PEM: private, public.
pub(crate) fn token_keys() -> Result<(String, String)> {
    let key = KeyPair::generate().context("generate the token key")?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

fn params(name: &str, names: &[&str]) -> Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).context("certificate names")?;
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}
