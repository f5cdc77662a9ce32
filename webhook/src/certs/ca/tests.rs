use std::{sync::Arc, time::SystemTime};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

use super::{Authority, CertError, DAY, LEAF_LIFE, provider};

fn names() -> Vec<String> {
    ["railbind-webhook.railbind.svc", "railbind-webhook.railbind.svc.cluster.local", "10.1.2.3", "fd00::1"]
        .map(String::from)
        .into()
}

fn client(bundle_pem: &str, name: &str, alpn: &[&[u8]]) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle_pem.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned()).unwrap()).unwrap()
}

/// A whole handshake, in memory.
fn shake(server: Arc<ServerConfig>, mut client: ClientConnection) -> Result<Option<Vec<u8>>, rustls::Error> {
    let mut server = ServerConnection::new(server).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut read = wire.as_slice();
        while !read.is_empty() {
            server.read_tls(&mut read).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut read = wire.as_slice();
        while !read.is_empty() {
            client.read_tls(&mut read).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(client.alpn_protocol().map(<[u8]>::to_vec))
}

#[test]
fn every_name_and_address_verifies_and_no_other() {
    let now = SystemTime::now();
    let authority = Authority::generate(now).unwrap();
    let leaf = authority.issue(&names(), now).unwrap();
    for name in names() {
        let alpn = shake(leaf.config.clone(), client(authority.bundle_pem(), &name, &[b"h2", b"http/1.1"]));
        assert_eq!(alpn.unwrap().as_deref(), Some(&b"http/1.1"[..]), "{name}");
    }
    for name in ["railbind-webhook.other.svc", "10.1.2.4"] {
        let alpn = shake(leaf.config.clone(), client(authority.bundle_pem(), name, &[]));
        assert!(matches!(alpn, Err(rustls::Error::InvalidCertificate(_))), "{name}: {alpn:?}");
    }
}

#[test]
fn only_http_1() {
    let now = SystemTime::now();
    let authority = Authority::generate(now).unwrap();
    let leaf = authority.issue(&names(), now).unwrap();
    assert!(shake(leaf.config, client(authority.bundle_pem(), "10.1.2.3", &[b"h2"])).is_err());
}

#[test]
fn strangers_are_not_trusted() {
    let now = SystemTime::now();
    let leaf = Authority::generate(now).unwrap().issue(&names(), now).unwrap();
    let other = Authority::generate(now).unwrap();
    assert!(shake(leaf.config, client(other.bundle_pem(), "10.1.2.3", &[])).is_err());
}

#[test]
fn a_stored_one_signs_like_the_first_and_trusts_more_than_itself() {
    let now = SystemTime::now();
    let (first, old) = (Authority::generate(now).unwrap(), Authority::generate(now).unwrap());
    let bundle = format!("{}{}", first.bundle_pem(), old.bundle_pem());
    let loaded = Authority::load(&bundle, first.key_pem(), now).unwrap();
    assert_ne!(loaded, first, "another bundle has to be registered anew");
    for authority in [&loaded, &old] {
        let leaf = authority.issue(&names(), now).unwrap();
        shake(leaf.config, client(loaded.bundle_pem(), "10.1.2.3", &[])).unwrap();
    }
    assert_eq!(Authority::load(first.bundle_pem(), first.key_pem(), now).unwrap(), first);
}

#[test]
fn what_does_not_belong_together() {
    let now = SystemTime::now();
    let (one, other) = (Authority::generate(now).unwrap(), Authority::generate(now).unwrap());
    let load = |bundle: &str, key: &str| Authority::load(bundle, key, now).unwrap_err();
    assert!(matches!(load(one.bundle_pem(), other.key_pem()), CertError::Mismatch(_)));
    assert!(matches!(load("", one.key_pem()), CertError::Read("certificate", _)));
    assert!(matches!(load(one.bundle_pem(), "nonsense"), CertError::Read("key", _)));
}

#[test]
fn renewed_before_it_ends() {
    let now = SystemTime::now();
    let authority = Authority::generate(now).unwrap();
    let leaf = authority.issue(&names(), now).unwrap();
    assert_eq!(leaf.not_after, now + LEAF_LIFE);
    assert!(leaf.renew_at > now + 4 * DAY && leaf.renew_at < now + 5 * DAY);
    // A leaf of long ago is refused: the lives are in the certificates, not only in our book-keeping.
    let stale = authority.issue(&names(), now - 8 * DAY).unwrap();
    let refused = shake(stale.config, client(authority.bundle_pem(), "10.1.2.3", &[]));
    assert!(refused.unwrap_err().to_string().contains("xpired"));
}
