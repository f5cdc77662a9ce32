//! An outside CA, and a folder as Kubernetes mounts a Secret, for tests.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
};

/// From when to when, and for what.
pub(super) struct Wanted<'a> {
    pub(super) names: &'a [&'a str],
    pub(super) common_name: &'a str,
    pub(super) usage: ExtendedKeyUsagePurpose,
    pub(super) from: SystemTime,
    pub(super) life: Duration,
}

/// Somebody else's CA.
pub(super) struct Outsider {
    issuer: Issuer<'static, KeyPair>,
    pub(super) pem: String,
}

impl Outsider {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key, PEM.
    pub(super) fn sign(&self, wanted: &Wanted<'_>) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        (params(wanted).signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A serving certificate that is good now.
    pub(super) fn serving(&self, name: &str, now: SystemTime, life: Duration) -> (String, String) {
        let from = now - Duration::from_mins(1);
        let usage = ExtendedKeyUsagePurpose::ServerAuth;
        self.sign(&Wanted { names: &[name], common_name: name, usage, from, life })
    }
}

/// One that signed itself and calls itself a CA, as `openssl req -x509` makes them.
pub(super) fn self_signed(name: &str, now: SystemTime, life: Duration) -> (String, String) {
    let (from, usage) = (now - Duration::from_mins(1), ExtendedKeyUsagePurpose::ServerAuth);
    let mut params = params(&Wanted { names: &[name], common_name: name, usage, from, life });
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn params(wanted: &Wanted<'_>) -> CertificateParams {
    let names: Vec<String> = wanted.names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, wanted.common_name);
    params.extended_key_usages = vec![wanted.usage.clone()];
    let time =
        |time: SystemTime| date_time_ymd(1970, 1, 1) + time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    params.not_before = time(wanted.from);
    params.not_after = time(wanted.from + wanted.life);
    params
}

/// Puts another version of a Secret into a folder, as the kubelet does: a folder beside, and the link `..data` moved over.
pub(super) fn mount(folder: &Path, version: &str, files: &[(&str, &str)]) {
    let version = format!("..{version}");
    fs::create_dir(folder.join(&version)).unwrap();
    for (name, text) in files {
        fs::write(folder.join(&version).join(name), text).unwrap();
        let _ = symlink(Path::new("..data").join(name), folder.join(name));
    }
    symlink(&version, folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
}
