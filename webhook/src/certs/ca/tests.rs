use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};

use super::{
    super::{
        handshake::{roots, shake},
        tls::provider,
    },
    Authority, CertError, certificates,
};

const DAY: Duration = Duration::from_hours(24);
const CA_LIFE: Duration = Duration::from_hours(24 * 365);
const LEAF_LIFE: Duration = Duration::from_hours(24 * 7);

fn names() -> Vec<String> {
    ["railbind-webhook.railbind.svc", "railbind-webhook.railbind.svc.cluster.local", "10.1.2.3", "fd00::1"]
        .map(String::from)
        .into()
}

fn client(bundle_pem: &str, name: &str, alpn: &[&[u8]]) -> ClientConnection {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(bundle_pem))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned()).unwrap()).unwrap()
}

#[test]
fn every_name_and_address_verifies_and_no_other() {
    let now = SystemTime::now();
    let authority = Authority::generate(now, CA_LIFE).unwrap();
    let leaf = authority.issue(&names(), now, LEAF_LIFE, None).unwrap();
    for name in names() {
        let alpn = shake(leaf.config.clone(), client(authority.certificate_pem(), &name, &[b"h2", b"http/1.1"]));
        assert_eq!(alpn.unwrap().as_deref(), Some(&b"http/1.1"[..]), "{name}");
    }
    for name in ["railbind-webhook.other.svc", "10.1.2.4"] {
        let alpn = shake(leaf.config.clone(), client(authority.certificate_pem(), name, &[]));
        assert!(matches!(alpn, Err(rustls::Error::InvalidCertificate(_))), "{name}: {alpn:?}");
    }
}

#[test]
fn only_http_1() {
    let now = SystemTime::now();
    let authority = Authority::generate(now, CA_LIFE).unwrap();
    let leaf = authority.issue(&names(), now, LEAF_LIFE, None).unwrap();
    assert!(shake(leaf.config, client(authority.certificate_pem(), "10.1.2.3", &[b"h2"])).is_err());
}

#[test]
fn strangers_are_not_trusted() {
    let now = SystemTime::now();
    let leaf = Authority::generate(now, CA_LIFE).unwrap().issue(&names(), now, LEAF_LIFE, None).unwrap();
    let other = Authority::generate(now, CA_LIFE).unwrap();
    assert!(shake(leaf.config, client(other.certificate_pem(), "10.1.2.3", &[])).is_err());
}

#[test]
fn a_stored_one_is_the_one_that_was_stored() {
    let now = SystemTime::now();
    let first = Authority::generate(now, CA_LIFE).unwrap();
    let loaded = Authority::load(first.certificate_pem(), first.key_pem()).unwrap();
    assert_eq!(loaded, first);
    assert_eq!(loaded.validity(), first.validity());
    let leaf = loaded.issue(&names(), now, LEAF_LIFE, None).unwrap();
    shake(leaf.config, client(first.certificate_pem(), "10.1.2.3", &[])).unwrap();
    // Whether it is over is for others to judge.
    let old = Authority::generate(now - 2 * CA_LIFE, CA_LIFE).unwrap();
    assert!(Authority::load(old.certificate_pem(), old.key_pem()).unwrap().validity().is_over(now));
}

#[test]
fn what_does_not_belong_together() {
    let now = SystemTime::now();
    let (one, other) = (Authority::generate(now, CA_LIFE).unwrap(), Authority::generate(now, CA_LIFE).unwrap());
    let load = |certificate: &str, key: &str| Authority::load(certificate, key).unwrap_err();
    assert!(matches!(load(one.certificate_pem(), other.key_pem()), CertError::Mismatch(_)));
    assert!(matches!(load("", one.key_pem()), CertError::Read("certificate", _)));
    assert!(matches!(load(one.certificate_pem(), "nonsense"), CertError::Read("key", _)));
}

#[test]
fn a_list_of_certificates_is_read_whatever_stands_between_them() {
    let now = SystemTime::now();
    let (one, other) = (Authority::generate(now, CA_LIFE).unwrap(), Authority::generate(now, CA_LIFE).unwrap());
    let text = format!("# ours\n{}\nsubject=x\n{}# the end", one.certificate_pem(), other.certificate_pem().trim());
    assert_eq!(certificates(&text).unwrap(), [one.certificate_pem(), other.certificate_pem()]);
    assert_eq!(certificates("nothing").unwrap(), Vec::<String>::new());
}

#[test]
fn renewed_before_it_ends_and_never_longer_than_the_ca() {
    let now = SystemTime::now();
    let authority = Authority::generate(now, CA_LIFE).unwrap();
    let leaf = authority.issue(&names(), now, LEAF_LIFE, None).unwrap();
    assert_eq!(leaf.not_after, now + LEAF_LIFE);
    assert!(leaf.renew_at > now + 4 * DAY && leaf.renew_at < now + 5 * DAY);
    // A leaf of long ago is refused: the lives are in the certificates, not only in our book-keeping.
    let stale = authority.issue(&names(), now - 8 * DAY, LEAF_LIFE, None).unwrap();
    let refused = shake(stale.config, client(authority.certificate_pem(), "10.1.2.3", &[]));
    assert!(refused.unwrap_err().to_string().contains("xpired"));
    let short = Authority::generate(now, DAY).unwrap();
    assert_eq!(short.issue(&names(), now, LEAF_LIFE, None).unwrap().not_after, short.validity().until);
    let (from, until) = (short.validity().from, short.validity().until);
    assert!(from < now && until <= now + DAY && until > now + DAY - Duration::from_secs(2), "{from:?} {until:?}");
}
