use std::sync::{Arc, LazyLock};

use daemon::Readiness;
use prometheus_client::registry::Registry;
use rustls::{
    ClientConfig, ClientConnection,
    crypto::aws_lc_rs,
    pki_types::{ServerName, UnixTime},
    time_provider::TimeProvider,
};
use serde_json::{Value, json};

use super::{
    Authority, Clock, Duration, Instant, Keeper, Lives, Material, Metrics, Phase, Serving, Store, SystemTime,
    handshake::{roots, shake},
};
use crate::{
    args::BindingEngine,
    register::{Place, Registrar, Wanted},
    testing::ApiServer,
};

const SECRET: &str = "/api/v1/namespaces/railbind/secrets/railbind-webhook-ca";
pub(super) const CONFIG: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/c";
pub(super) const NAME: &str = "a.railbind.svc";
pub(super) const DAY: Duration = Duration::from_hours(24);

/// Follows tokio's clock, which the tests below stop.
pub(super) fn clock() -> SystemTime {
    static START: LazyLock<(SystemTime, Instant)> = LazyLock::new(|| (SystemTime::now(), Instant::now()));
    START.0 + START.1.elapsed()
}

/// The clock of the clients below.
#[derive(Debug)]
struct Stopped;

impl TimeProvider for Stopped {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(clock().duration_since(SystemTime::UNIX_EPOCH).ok()?))
    }
}

fn keeper(server: &ApiServer, readiness: &Readiness, lives: Lives) -> (Keeper, Serving) {
    let metrics = Metrics::register(&mut Registry::default());
    let names = vec![NAME.to_owned()];
    let (keeper, serving) =
        Keeper::new(server.namespaced("railbind"), names, lives, None, readiness.check("certificate"), metrics)
            .unwrap();
    (Keeper { clock: Clock::new(clock), ..keeper }, serving)
}

/// What is to be registered, PEM.
async fn trusted(serving: &mut Serving) -> String {
    serving.trusted().await.unwrap().pem().unwrap().to_owned()
}

fn material(server: &ApiServer) -> Option<Material> {
    Material::read(&serde_json::from_value(server.get(SECRET)?).unwrap()).ok()
}

#[tokio::test(start_paused = true)]
async fn serves_from_the_start_and_is_trusted_when_the_api_server_is_back() {
    let (server, readiness) = (ApiServer::start(), Readiness::default());
    let (keeper, mut serving) = keeper(&server, &readiness, Lives::default());
    let before = serving.tls.get_inner();
    server.fail_with(Some(503));
    let task = tokio::spawn(keeper.run());
    tokio::time::sleep(DAY).await;
    assert!(serving.bundle.borrow().is_none() && readiness.report().contains("the test wants 503"));
    assert!(Arc::ptr_eq(&before, &serving.tls.get_inner()));

    server.fail_with(None);
    let trusted = trusted(&mut serving).await;
    assert!(readiness.is_ready());
    assert!(!Arc::ptr_eq(&before, &serving.tls.get_inner()));

    // Trouble with the Secret, of whatever kind, takes nothing away any more, and a broken or deleted one heals.
    let signing = serving.tls.get_inner();
    for broken in [
        json!({"metadata": {"name": "railbind-webhook-ca"}}),
        json!({"metadata": {}, "data": {"tls.crt": "AAAA", "tls.key": ""}}),
    ] {
        server.put(SECRET, broken);
        tokio::time::sleep(DAY / 12).await;
        assert_eq!(material(&server).unwrap().bundle_pem(), trusted, "what is in use, not another");
    }
    server.delete(SECRET);
    tokio::time::sleep(DAY / 12).await;
    assert_eq!(material(&server).unwrap().bundle_pem(), trusted);
    server.fail_with(Some(403));
    tokio::time::sleep(DAY).await;
    assert!(!task.is_finished() && readiness.is_ready());
    assert!(
        readiness.report().contains("going on with the CA that is there: cannot read Secret"),
        "{}",
        readiness.report()
    );
    assert_eq!(self::trusted(&mut serving).await, trusted);
    assert!(Arc::ptr_eq(&signing, &serving.tls.get_inner()));
}

#[tokio::test(start_paused = true)]
async fn renewed_in_time_with_and_without_the_api_server() {
    let (server, readiness) = (ApiServer::start(), Readiness::default());
    let (keeper, mut serving) = keeper(&server, &readiness, Lives::default());
    let _task = tokio::spawn(keeper.run());
    let trusted = trusted(&mut serving).await;
    for code in [None, Some(503)] {
        server.fail_with(code);
        let before = serving.tls.get_inner();
        tokio::time::sleep(4 * DAY).await;
        assert!(Arc::ptr_eq(&before, &serving.tls.get_inner()), "not before its time");
        tokio::time::sleep(DAY).await;
        assert!(!Arc::ptr_eq(&before, &serving.tls.get_inner()));
    }
    assert_eq!(self::trusted(&mut serving).await, trusted);
    assert_eq!((server.count("POST"), server.count("PUT")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn replicas_that_start_together_share_one() {
    let (server, readiness) = (ApiServer::start(), Readiness::default());
    // Both have looked and found nothing before either creates.
    server.miss_next_reads(2);
    let (one, mut serving) = keeper(&server, &readiness, Lives::default());
    let (other, mut beside) = keeper(&server, &readiness, Lives::default());
    let _tasks = (tokio::spawn(one.run()), tokio::spawn(other.run()));
    let trusted = trusted(&mut serving).await;
    assert_eq!(self::trusted(&mut beside).await, trusted);
    assert!(shakes(&serving, &trusted) && shakes(&beside, &trusted));
    assert_eq!(server.count("POST"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_we_may_not_read_is_the_end() {
    let (server, readiness) = (ApiServer::start(), Readiness::default());
    let (keeper, _serving) = keeper(&server, &readiness, Lives::default());
    server.fail_with(Some(403));
    let error = format!("{:#}", keeper.run().await.unwrap_err());
    assert!(error.starts_with("certificate: cannot read Secret railbind-webhook-ca: the test wants 403 ("), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_is_broken_or_over_is_replaced_at_the_start() {
    let old = Authority::generate(clock() - 3 * DAY, 2 * DAY).unwrap();
    let encode = |text: &str| serde_json::to_value(k8s_openapi::ByteString(text.into())).unwrap();
    for data in
        [json!({"tls.crt": ""}), json!({"tls.crt": encode(old.certificate_pem()), "tls.key": encode(old.key_pem())})]
    {
        let (server, readiness) = (ApiServer::start(), Readiness::default());
        server.put(
            SECRET,
            json!({"metadata": {"name": "railbind-webhook-ca"}, "type": "kubernetes.io/tls", "data": data}),
        );
        let lives = Lives::default();
        let (one, mut serving) = keeper(&server, &readiness, lives);
        let (other, mut beside) = keeper(&server, &readiness, lives);
        let _tasks = (tokio::spawn(one.run()), tokio::spawn(other.run()));
        serving.trusted().await.unwrap();
        beside.trusted().await.unwrap();
        tokio::time::sleep(Duration::from_mins(2)).await;
        let now = material(&server).unwrap();
        assert!(!now.signing.validity().is_over(clock()));
        for (name, serving) in [("one", &mut serving), ("other", &mut beside)] {
            assert_eq!(trusted(serving).await, now.bundle_pem(), "{name}");
            assert!(shakes(serving, &now.bundle_pem()), "{name}");
        }
    }
}

/// Whether an API server that trusts this talks to the replica.
pub(super) fn shakes(serving: &Serving, bundle: &str) -> bool {
    let config = ClientConfig::builder_with_details(Arc::new(aws_lc_rs::default_provider()), Arc::new(Stopped))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(bundle))
        .with_no_client_auth();
    let client = ClientConnection::new(Arc::new(config), ServerName::try_from(NAME).unwrap()).unwrap();
    match shake(serving.tls.get_inner(), client) {
        Ok(_) => true,
        Err(rustls::Error::InvalidCertificate(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

pub(super) fn registrar(server: &ApiServer, serving: &Serving, lives: Lives) -> Registrar {
    Registrar {
        api: server.all(),
        wanted: Wanted {
            name: "c".into(),
            place: Place::Url(format!("https://{NAME}")),
            namespace: "railbind".into(),
            binding: BindingEngine::Off,
        },
        engine: crate::engine::fixed(BindingEngine::Off),
        serving: serving.clone(),
        every: lives.check_every(Duration::from_secs(30)),
        check: Readiness::default().check("registration"),
        metrics: Metrics::register(&mut Registry::default()),
    }
}

fn bundle(server: &ApiServer) -> Option<String> {
    let config: Value = server.get(CONFIG)?;
    let bytes: k8s_openapi::ByteString =
        serde_json::from_value(config["webhooks"][0]["clientConfig"]["caBundle"].clone()).unwrap();
    Some(String::from_utf8(bytes.0).unwrap())
}

/// The API server goes away in the midst of the first. Handshakes are made with every bundle that an API server may still know,
/// which here is up to six minutes behind.
#[tokio::test(start_paused = true)]
async fn two_rotations_with_two_replicas_and_no_moment_without_trust() {
    let lives = Lives { ca: DAY / 2, leaf: DAY / 12, grace: Duration::from_mins(10) };
    let (server, readiness) = (ApiServer::start(), Readiness::default());
    let mut replicas = Vec::new();
    for _ in 0..2 {
        let (keeper, serving) = keeper(&server, &readiness, lives);
        tokio::spawn(keeper.run());
        tokio::spawn(registrar(&server, &serving, lives).keep());
        replicas.push(serving);
    }
    let (mut bundles, mut authorities, mut most) = (Vec::new(), Vec::new(), 0);
    let mut phases = Vec::new();
    // Twice eight hours until each is due, and the graces.
    for minute in 0..(18 * 60) {
        tokio::time::sleep(Duration::from_mins(1)).await;
        // The API server is away for a while, right after the first one was announced.
        let away = (489..549).contains(&minute);
        server.fail_with(away.then_some(503));
        let Some(now) = bundle(&server) else { continue };
        most = most.max(now.matches("BEGIN CERTIFICATE").count());
        bundles.push(now);
        let known = bundles.len().saturating_sub(6);
        bundles.drain(..known);
        if let Some(material) = material(&server) {
            if !authorities.contains(&material.signing.certificate_pem().to_owned()) {
                authorities.push(material.signing.certificate_pem().to_owned());
            }
            let phase = match material.phase() {
                Phase::Steady => "steady",
                Phase::Announced(_) => "announced",
                Phase::Retiring => "retiring",
            };
            if phases.last() != Some(&phase) {
                phases.push(phase);
            }
        }
        for (number, serving) in replicas.iter().enumerate() {
            let mut known = bundles.clone();
            known.dedup();
            for bundle in known {
                assert!(
                    shakes(serving, &bundle),
                    "minute {minute}: replica {number} with a bundle of {:?}",
                    material(&server)
                );
            }
        }
    }
    assert_eq!(authorities.len(), 3, "two rotations");
    assert_eq!(phases, ["steady", "announced", "retiring", "steady", "announced", "retiring", "steady"]);
    assert_eq!(most, 2);
    assert_eq!(bundles.last().unwrap().matches("BEGIN CERTIFICATE").count(), 1);
}

/// Ahead of what the API server says by more than a CA lives, and right again: nothing is refused meanwhile or afterwards.
#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_changes_nothing_where_the_api_server_says_its_time() {
    fn ahead() -> SystemTime {
        clock() + 400 * DAY
    }
    fn behind() -> SystemTime {
        clock() - 400 * DAY
    }
    for ours in [ahead, behind] {
        let (server, readiness) = (ApiServer::start(), Readiness::default());
        server.says_time(clock);
        let lives = Lives { leaf: DAY / 24, ..Lives::default() };
        let (keeper, mut serving) = keeper(&server, &readiness, lives);
        let _task = tokio::spawn(Keeper { clock: Clock::new(ours), ..keeper }.run());
        let trusted = trusted(&mut serving).await;
        // Longer than a serving certificate lives.
        for _ in 0..4 {
            assert!(shakes(&serving, &trusted));
            tokio::time::sleep(DAY / 48).await;
        }
        assert_eq!(self::trusted(&mut serving).await, trusted);
    }
}

/// An older version, or one whose API server did not say its time, made a CA with a clock that was ahead.
#[tokio::test(start_paused = true)]
async fn a_ca_that_has_not_begun_is_replaced() {
    let (server, readiness) = (ApiServer::start(), Readiness::default());
    let (store, coming) = (Store::new(server.namespaced("railbind")), Authority::generate(clock() + 400 * DAY, DAY));
    store.put(None, &Material::of(coming.unwrap())).await.unwrap();
    let (keeper, mut serving) = keeper(&server, &readiness, Lives::default());
    let _task = tokio::spawn(keeper.run());
    let trusted = trusted(&mut serving).await;
    assert!(shakes(&serving, &trusted));
}
