use std::{fs, time::Duration};

use super::{
    super::testing::{Outsider, mount, self_signed},
    AUTHORITY, CERTIFICATE, KEY, Need, Pair, SystemTime, Texts,
};

const NAME: &str = "railbind-webhook.railbind-system.svc";
const DAY: Duration = Duration::from_hours(24);

fn need(authority: bool) -> Need<'static> {
    Need { name: NAME, authority, clients: None }
}

fn texts(certificate: &str, key: &str, authority: Option<&str>) -> Texts {
    Texts { certificate: certificate.into(), key: key.into(), authority: authority.map(str::to_owned) }
}

#[test]
fn a_mounted_secret_is_read_as_one_version() {
    let (folder, ca, now) = (tempfile::tempdir().unwrap(), Outsider::new("a"), SystemTime::now());
    let (one, other) = (ca.serving(NAME, now, DAY), ca.serving(NAME, now, DAY));
    mount(folder.path(), "1", &[("tls.crt", &one.0), ("tls.key", &one.1), ("ca.crt", &ca.pem)]);
    let first = Texts::read(folder.path()).unwrap();
    assert!(first == texts(&one.0, &one.1, Some(&ca.pem)));
    mount(folder.path(), "2", &[("tls.crt", &other.0), ("tls.key", &other.1), ("ca.crt", &ca.pem)]);
    assert!(Texts::read(folder.path()).unwrap() == texts(&other.0, &other.1, Some(&ca.pem)));
    let pair = Pair::of(first.clone(), &need(true), now).unwrap();
    assert!(
        pair.is_of(&first) && pair.is_trusted_by(&ca.pem, now) && !pair.is_trusted_by(&Outsider::new("a").pem, now)
    );
    assert!(!pair.is_trusted_by(&ca.pem, now + 2 * DAY) && !pair.is_trusted_by("", now));
    assert!(!format!("{pair:?}").contains("PRIVATE"), "a key must not get into a log");
}

#[test]
fn a_plain_folder_without_links_is_read_too() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), Outsider::new("a"));
    let (certificate, key) = ca.serving(NAME, SystemTime::now(), DAY);
    fs::write(folder.path().join("tls.crt"), &certificate).unwrap();
    assert_eq!(Texts::read(folder.path()).err().unwrap().file, KEY);
    fs::write(folder.path().join("tls.key"), &key).unwrap();
    let read = Texts::read(folder.path()).unwrap();
    assert!(read == texts(&certificate, &key, None));
    let error = Pair::of(read.clone(), &need(true), SystemTime::now()).unwrap_err();
    assert!(error.to_string().starts_with("ca.crt: it is not there: "), "{error}");
    Pair::of(read, &need(false), SystemTime::now()).unwrap();
}

#[test]
fn what_the_api_server_would_not_accept_is_no_good() {
    let (ca, now) = (Outsider::new("a"), SystemTime::now());
    let (certificate, key) = ca.serving(NAME, now, DAY);
    let (_, other_key) = ca.serving(NAME, now, DAY);
    let (misnamed, misnamed_key) = ca.serving("railbind-webhook.other.svc", now, DAY);
    let (over, over_key) = ca.serving(NAME, now - 3 * DAY, DAY);
    let (early, early_key) = ca.serving(NAME, now + DAY, DAY);
    let stranger = Outsider::new("a").pem;
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let garbled = format!("{}{broken}", ca.pem);
    for (certificate, key, authority, file, why) in [
        ("", &key, &ca.pem, CERTIFICATE, "no certificate in it"),
        (broken, &key, &ca.pem, CERTIFICATE, ""),
        (&certificate, &String::new(), &ca.pem, KEY, ""),
        (&certificate, &other_key, &ca.pem, KEY, ""),
        (&misnamed, &misnamed_key, &ca.pem, CERTIFICATE, NAME),
        (&over, &over_key, &ca.pem, CERTIFICATE, "and not now"),
        (&early, &early_key, &ca.pem, CERTIFICATE, "and not now"),
        (&certificate, &key, &stranger, AUTHORITY, "is not in it"),
        (&certificate, &key, &String::new(), AUTHORITY, "is not in it"),
        (&certificate, &key, &garbled, AUTHORITY, ""),
    ] {
        let error = Pair::of(texts(certificate, key, Some(authority)), &need(true), now).unwrap_err();
        assert_eq!(error.file, file, "{error}");
        assert!(error.why.contains(why) && !error.why.contains("PRIVATE"), "{error}");
    }
    Pair::of(texts(&certificate, &key, Some(&format!("{stranger}{}", ca.pem))), &need(true), now).unwrap();
}

#[test]
fn one_that_signed_itself_is_as_good_as_for_go() {
    let now = SystemTime::now();
    let (certificate, key) = self_signed(NAME, now, DAY);
    Pair::of(texts(&certificate, &key, Some(&certificate)), &need(true), now).unwrap();
    let (other, _) = self_signed(NAME, now, DAY);
    assert_eq!(Pair::of(texts(&certificate, &key, Some(&other)), &need(true), now).unwrap_err().file, AUTHORITY);
}
