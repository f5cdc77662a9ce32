use std::{
    fs,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::ExtendedKeyUsagePurpose;
use rustls::{
    ClientConfig, ClientConnection,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};

use super::{
    super::{
        Authority,
        handshake::{roots, shake},
        testing::{Outsider, Wanted},
    },
    Clients, Path, provider,
};

const HOUR: Duration = Duration::from_hours(1);

fn caller(
    ca: &Outsider,
    common_name: &str,
    names: &[&str],
    usage: ExtendedKeyUsagePurpose,
    life: Duration,
) -> (String, String) {
    ca.sign(&Wanted { names, common_name, usage, from: SystemTime::now() - HOUR, life })
}

/// Whether a caller with this certificate gets through a handshake.
fn gets_in(clients: &Clients, identity: Option<&(String, String)>) -> bool {
    let now = SystemTime::now();
    let authority = Authority::generate(now, HOUR).unwrap();
    let server = authority.issue(&["localhost".into()], now, HOUR, Some(clients)).unwrap().config;
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(authority.certificate_pem()));
    let config = match identity {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
        }
    };
    let client = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    shake(server, client).is_ok()
}

fn load(file: &Path, name: Option<&str>) -> Clients {
    Clients::load(file, name.map(str::to_owned)).unwrap()
}

#[test]
fn only_the_holders_of_a_certificate_by_the_ca_get_in() {
    let (ca, folder) = (Outsider::new("clients"), tempfile::tempdir().unwrap());
    let file = folder.path().join("ca.crt");
    fs::write(&file, &ca.pem).unwrap();
    let clients = load(&file, None);
    let auth = || ExtendedKeyUsagePurpose::ClientAuth;
    assert!(gets_in(&clients, Some(&caller(&ca, "anyone", &[], auth(), 2 * HOUR))));
    assert!(!gets_in(&clients, None), "without a certificate");
    assert!(
        !gets_in(&clients, Some(&caller(&Outsider::new("clients"), "anyone", &[], auth(), 2 * HOUR))),
        "another CA"
    );
    assert!(
        !gets_in(&clients, Some(&caller(&ca, "x", &[], ExtendedKeyUsagePurpose::ServerAuth, 2 * HOUR))),
        "a server's"
    );
    assert!(!gets_in(&clients, Some(&caller(&ca, "anyone", &[], auth(), HOUR / 2))), "over");

    let named = load(&file, Some("kube-apiserver"));
    assert!(gets_in(&named, Some(&caller(&ca, "kube-apiserver", &[], auth(), 2 * HOUR))));
    assert!(gets_in(&named, Some(&caller(&ca, "x", &["kube-apiserver"], auth(), 2 * HOUR))));
    assert!(!gets_in(&named, Some(&caller(&ca, "system:node:n", &["n"], auth(), 2 * HOUR))), "another of the same CA");
}

#[test]
fn the_file_is_followed_and_a_bad_one_changes_nothing() {
    let (old, new, folder) = (Outsider::new("old"), Outsider::new("new"), tempfile::tempdir().unwrap());
    let file = folder.path().join("ca.crt");
    fs::write(&file, &old.pem).unwrap();
    let clients = load(&file, None);
    let [by_old, by_new] = [&old, &new].map(|ca| caller(ca, "x", &[], ExtendedKeyUsagePurpose::ClientAuth, 2 * HOUR));
    assert!(gets_in(&clients, Some(&by_old)) && !gets_in(&clients, Some(&by_new)));
    fs::write(&file, format!("{}{}", old.pem, new.pem)).unwrap();
    clients.look().unwrap();
    assert!(gets_in(&clients, Some(&by_old)) && gets_in(&clients, Some(&by_new)));
    for bad in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        fs::write(&file, bad).unwrap();
        let error = clients.look().unwrap_err().to_string();
        assert!(error.starts_with(&format!("--client-ca {}: ", file.display())), "{error}");
        assert!(gets_in(&clients, Some(&by_new)));
        assert!(Clients::load(&file, None).is_err(), "nobody, or everybody, would be let in: {bad:?}");
    }
    fs::remove_file(&file).unwrap();
    assert!(clients.look().is_err() && gets_in(&clients, Some(&by_new)));
}
