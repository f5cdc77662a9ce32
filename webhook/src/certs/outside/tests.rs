use std::{fs, path::Path, sync::Arc};

use daemon::Readiness;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{
    super::{
        Bundle, Serving,
        testing::{Outsider, mount},
        tests::{CONFIG, DAY, NAME, clock, registrar, shakes},
    },
    CaBundle, Clock, Duration, Lives, Metrics, Outside, Source, SystemTime,
};
use crate::{register::Registrar, testing::ApiServer};

/// A replica: what it serves with, what it says of itself, and its two tasks.
struct Replica {
    serving: Serving,
    readiness: Readiness,
    tasks: [JoinHandle<()>; 2],
}

impl Replica {
    fn start(server: &ApiServer, folder: &Path, bundle: CaBundle) -> Self {
        Self::start_by(clock, server, folder, bundle)
    }

    /// With this clock.
    fn start_by(ours: fn() -> SystemTime, server: &ApiServer, folder: &Path, bundle: CaBundle) -> Self {
        let (readiness, lives) = (Readiness::default(), Lives::default());
        let metrics = Metrics::register(&mut Registry::default());
        let source = Source { folder: folder.to_owned(), name: NAME.into(), bundle, configuration: "c".into() };
        let check = readiness.check("certificate");
        let (outside, serving) = Outside::new(source, lives, None, server.all(), check, metrics.clone()).unwrap();
        let check = readiness.check("registration");
        let registrar = Registrar { check, metrics, ..registrar(server, &serving, lives) };
        let outside = Outside { clock: Clock::new(ours), ..outside };
        let tasks = [tokio::spawn(async move { outside.run().await.unwrap() }), tokio::spawn(registrar.keep())];
        Self { serving, readiness, tasks }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn now() -> SystemTime {
    clock()
}

fn put(folder: &Path, version: &str, ca: &Outsider, life: Duration) {
    let (certificate, key) = ca.serving(NAME, now(), life);
    mount(folder, version, &[("tls.crt", &certificate), ("tls.key", &key), ("ca.crt", &ca.pem)]);
}

/// What is registered, PEM; empty where nothing is.
fn bundle(server: &ApiServer) -> String {
    let config: Value = server.get(CONFIG).unwrap_or_default();
    let field = config["webhooks"][0]["clientConfig"]["caBundle"].clone();
    serde_json::from_value::<k8s_openapi::ByteString>(field)
        .map_or_else(|_| String::new(), |bytes| String::from_utf8(bytes.0).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumped_changes_nothing_where_the_api_server_says_its_time() {
    for (ours, bundle) in [
        ((|| clock() + 400 * DAY) as fn() -> SystemTime, CaBundle::Directory),
        (|| clock() - 400 * DAY, CaBundle::Directory),
        (|| clock() + 400 * DAY, CaBundle::Injected),
    ] {
        let (server, folder, ca) = (ApiServer::start(), tempfile::tempdir().unwrap(), Outsider::new("a"));
        server.says_time(clock);
        put(folder.path(), "1", &ca, 90 * DAY);
        let replica = Replica::start_by(ours, &server, folder.path(), bundle);
        tokio::time::sleep(Duration::from_secs(30)).await;
        let first = replica.serving.tls.get_inner();
        assert!(shakes(&replica.serving, &ca.pem), "{bundle:?}: {}", replica.readiness.report());
        put(folder.path(), "2", &ca, 90 * DAY);
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(!Arc::ptr_eq(&first, &replica.serving.tls.get_inner()), "{}", replica.readiness.report());
    }
}

#[tokio::test(start_paused = true)]
async fn follows_the_files_and_keeps_the_last_good_ones() {
    let (server, folder, ca) = (ApiServer::start(), tempfile::tempdir().unwrap(), Outsider::new("a"));
    let replica = Replica::start(&server, folder.path(), CaBundle::Directory);
    tokio::time::sleep(DAY).await;
    assert!(replica.readiness.report().contains("tls.crt: No such file"), "{}", replica.readiness.report());
    assert_eq!(bundle(&server), "", "nothing is registered before anything can be served");

    put(folder.path(), "1", &ca, 90 * DAY);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(replica.readiness.is_ready(), "{}", replica.readiness.report());
    assert!(shakes(&replica.serving, &bundle(&server)) && bundle(&server) == ca.pem);

    // The same CA, another certificate: nothing to wait for, and nothing to write.
    let (first, writes) = (replica.serving.tls.get_inner(), server.count("PATCH"));
    put(folder.path(), "2", &ca, 90 * DAY);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let second = replica.serving.tls.get_inner();
    assert!(!Arc::ptr_eq(&first, &second) && server.count("PATCH") == writes);

    let (certificate, key) = ca.serving("another.svc", now(), 90 * DAY);
    let (_, other) = ca.serving(NAME, now(), 90 * DAY);
    let good = ca.serving(NAME, now(), 90 * DAY);
    for (version, files, why) in [
        (
            "3",
            [("tls.crt", certificate.as_str()), ("tls.key", &key), ("ca.crt", &ca.pem)],
            "tls.crt: not for a.railbind.svc",
        ),
        ("4", [("tls.crt", good.0.as_str()), ("tls.key", &other), ("ca.crt", &ca.pem)], "tls.key: "),
        ("5", [("tls.crt", good.0.as_str()), ("tls.key", &good.1), ("ca.crt", "")], "ca.crt: the CA that signed"),
    ] {
        mount(folder.path(), version, &files);
        tokio::time::sleep(DAY).await;
        let report = replica.readiness.report();
        assert!(
            replica.readiness.is_ready()
                && report.contains("going on with the last good certificate")
                && report.contains(why),
            "{report}"
        );
        assert!(Arc::ptr_eq(&second, &replica.serving.tls.get_inner()) && shakes(&replica.serving, &bundle(&server)));
    }
    fs::remove_file(folder.path().join("..data")).unwrap();
    tokio::time::sleep(DAY).await;
    assert!(replica.readiness.is_ready() && shakes(&replica.serving, &bundle(&server)));
}

/// Handshakes are made with every bundle that an API server may still know, which here is up to six minutes behind.
#[tokio::test(start_paused = true)]
async fn another_ca_without_a_moment_without_trust_though_replicas_see_it_one_after_the_other() {
    let server = ApiServer::start();
    let (old, new) = (Outsider::new("a"), Outsider::new("a"));
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut replicas = Vec::new();
    for folder in &folders {
        put(folder.path(), "1", &old, 90 * DAY);
        replicas.push(Replica::start(&server, folder.path(), CaBundle::Directory));
    }
    let (mut bundles, mut most) = (Vec::new(), 0);
    for minute in 0..120 {
        match minute {
            10 => put(folders[0].path(), "2", &new, 90 * DAY),
            12 => put(folders[1].path(), "2", &new, 90 * DAY),
            // One starts anew in the midst.
            20 => replicas[1] = Replica::start(&server, folders[1].path(), CaBundle::Directory),
            _ => {}
        }
        tokio::time::sleep(Duration::from_mins(1)).await;
        let now = bundle(&server);
        most = most.max(now.matches("BEGIN CERTIFICATE").count());
        bundles.push(now);
        let known = bundles.len().saturating_sub(6);
        bundles.drain(..known);
        for (number, replica) in replicas.iter().enumerate() {
            for bundle in &bundles {
                assert!(shakes(&replica.serving, bundle), "minute {minute}: replica {number} with {bundle}");
            }
        }
    }
    assert_eq!((most, bundle(&server)), (2, new.pem.clone()));
    for replica in &replicas {
        assert!(
            replica.readiness.is_ready() && shakes(&replica.serving, &new.pem) && !shakes(&replica.serving, &old.pem)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_injects_is_left_alone_and_waited_for() {
    let (server, folder, ca) = (ApiServer::start(), tempfile::tempdir().unwrap(), Outsider::new("a"));
    let (certificate, key) = ca.serving(NAME, now(), 90 * DAY);
    mount(folder.path(), "1", &[("tls.crt", &certificate), ("tls.key", &key)]);
    let replica = Replica::start(&server, folder.path(), CaBundle::Injected);
    tokio::time::sleep(Duration::from_mins(1)).await;
    let config = server.get(CONFIG).unwrap();
    assert!(config["webhooks"][0]["rules"].is_array() && config["webhooks"][0]["clientConfig"]["caBundle"].is_null());
    let report = replica.readiness.report();
    assert!(
        !replica.readiness.is_ready() && report.contains("pods.railbind.dev: waits for somebody to fill caBundle in"),
        "{report}"
    );
    let written = server.count("PATCH");

    let inject = |pem: &str| {
        let mut config = server.get(CONFIG).unwrap();
        config["webhooks"][0]["clientConfig"]["caBundle"] = json!(k8s_openapi::ByteString(pem.into()));
        server.put(CONFIG, config);
    };
    inject(&Outsider::new("a").pem);
    tokio::time::sleep(Duration::from_mins(1)).await;
    let report = replica.readiness.report();
    assert!(report.contains("does not vouch for the certificate"), "{report}");
    inject(&ca.pem);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(replica.readiness.is_ready(), "{}", replica.readiness.report());
    assert!(matches!(&*replica.serving.bundle.borrow(), Some(Bundle::Injected(_))));
    assert_eq!((bundle(&server), server.count("PATCH")), (ca.pem.clone(), written), "nothing of it was written over");
}
