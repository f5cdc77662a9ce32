//! The real router, review by review.

#![expect(clippy::unnecessary_wraps, reason = "stand-ins for a decision that can fail")]

use std::{
    collections::BTreeMap,
    io::Read as _,
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes, to_bytes},
    http::{Request, StatusCode},
};
use axum_server::tls_rustls::RustlsConfig;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use daemon::{Readiness, Shutdown};
use futures::{StreamExt as _, stream};
use json_patch::Patch;
use kube::runtime::watcher::Event;
use policies::{
    node_map::{Pool, SharedNode},
    profile::Profiles,
    room::{Charged, QuotaView},
    select::NodeView,
};
use prometheus_client::registry::Registry;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{BINDINGS, Config, PODS, Server};
use crate::{
    args::BindingEngine,
    bounds,
    certs::Authority,
    metrics::{Hook, Metrics, Outcome},
    mirror::{Mirror, Named},
    mutate::{self, Context, Malformed},
    nodes::NamespaceView,
    profiles::InForce,
    state::{Mutate, State},
};

mod hostile;

fn mirror<T: Named + PartialEq>(objects: Option<Vec<T>>) -> Mirror<T> {
    let (mut writer, mirror) = Mirror::new();
    for event in objects.into_iter().flat_map(|objects| {
        let listed = objects.into_iter().map(Event::InitApply);
        std::iter::once(Event::Init).chain(listed).chain([Event::InitDone])
    }) {
        writer.apply([event]);
    }
    mirror
}

fn nodes() -> Vec<SharedNode> {
    let labels = [("railbind.dev/fabric", "roce"), ("railbind.dev/gid-index", "3")];
    let labels = labels.map(|(key, value)| (key.into(), value.into())).into();
    vec![Pool::default().share(NodeView { name: "node-a".into(), labels, ..NodeView::default() })]
}

fn namespaces() -> Vec<NamespaceView> {
    vec![NamespaceView { name: "ns".into(), ..NamespaceView::default() }]
}

fn state(mutate: Mutate) -> State {
    let metrics = Metrics::register(&mut Registry::default());
    let profiles = Profiles::embedded().unwrap();
    let binding = BindingEngine::Webhook;
    let mut state = State::new(
        mirror(Some(nodes())),
        mirror(Some(namespaces())),
        mirror(Some(Vec::new())),
        InForce::new(profiles).1,
        binding,
        metrics,
    );
    state.mutate = mutate;
    // The node's label as it is, whatever the profiles want: this is about the way, not about what is decided.
    state.bind_values = |_, node| {
        let gid = node.labels.get("railbind.dev/gid-index").cloned();
        gid.map(|gid| BTreeMap::from([("UCX_IB_GID_INDEX".into(), gid)])).unwrap_or_default()
    };
    state
}

fn patch(operations: Value) -> Patch {
    serde_json::from_value(operations).unwrap()
}

fn marks(_: &Value, _: &Context<'_>) -> Result<mutate::Outcome, Malformed> {
    Ok(mutate::Outcome {
        managed: true,
        decision: Some("1b4e28ba-2fa1".into()),
        profile: Some("roce-gpudirect".into()),
        patch: patch(json!([{"op": "add", "path": "/metadata/annotations", "value": {"railbind.dev/decision": "{}"}}])),
        reasons: vec!["one".into(), "two".into()],
        warnings: (0..5).map(|n| format!("warning {n}")).collect(),
        deny: None,
    })
}

fn refuses(_: &Value, _: &Context<'_>) -> Result<mutate::Outcome, Malformed> {
    Ok(mutate::Outcome { managed: true, deny: Some("railbind: no".into()), ..mutate::Outcome::default() })
}

fn ignores(_: &Value, _: &Context<'_>) -> Result<mutate::Outcome, Malformed> {
    Ok(mutate::Outcome::default())
}

fn panics(_: &Value, _: &Context<'_>) -> Result<mutate::Outcome, Malformed> {
    panic!("a bug")
}

fn overreaches(_: &Value, _: &Context<'_>) -> Result<mutate::Outcome, Malformed> {
    let patch = patch(json!([{"op": "add", "path": "/spec/hostNetwork", "value": true}]));
    Ok(mutate::Outcome { managed: true, patch, ..mutate::Outcome::default() })
}

fn balks(_: &Value, _: &Context<'_>) -> Result<mutate::Outcome, Malformed> {
    Err(Malformed { path: "/spec/containers".into(), expected: "a list" })
}

struct Hooks {
    server: Server,
    state: Arc<State>,
}

impl Hooks {
    fn new(state: State) -> Self {
        let state = Arc::new(state);
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { server: Server::new(Config::new(listen, Duration::ZERO), state.clone()), state }
    }

    async fn send(&self, uri: &str, body: impl Into<Body>) -> (StatusCode, String) {
        let request = Request::post(uri).header("content-type", "application/json").body(body.into()).unwrap();
        let response = self.server.router().oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// The answer to a well-formed review.
    async fn answer(&self, uri: &str, review: &Value) -> Value {
        let (status, body) = self.send(uri, serde_json::to_vec(review).unwrap()).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let mut review: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (&review["apiVersion"], &review["kind"]),
            (&json!("admission.k8s.io/v1"), &json!("AdmissionReview"))
        );
        let response = review["response"].take();
        assert_eq!((&response["uid"], &response["allowed"]), (&json!("u-1"), &json!(true)));
        response
    }

    fn counted(&self, hook: Hook, outcome: Outcome) -> u64 {
        self.state.metrics.requests(hook, outcome).get()
    }
}

fn review(kind: &str, resource: &str, sub_resource: &str, object: &Value) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u-1", "kind": {"group": "", "version": "v1", "kind": kind},
        "resource": {"group": "", "version": "v1", "resource": resource}, "subResource": sub_resource,
        "namespace": "ns", "operation": "CREATE", "userInfo": {"username": "someone"}, "dryRun": false,
        "object": object, "oldObject": null, "options": {}}})
}

fn pod_review() -> Value {
    review("Pod", "pods", "", &json!({"metadata": {"generateName": "worker-"}, "spec": {"containers": []}}))
}

fn binding_review(target: &Value) -> Value {
    let binding = json!({"metadata": {"name": "worker-0", "namespace": "ns"}, "target": target});
    review("Binding", "pods", "binding", &binding)
}

fn decoded(response: &Value) -> Value {
    assert_eq!(response["patchType"], "JSONPatch");
    serde_json::from_slice(&BASE64_STANDARD.decode(response["patch"].as_str().unwrap()).unwrap()).unwrap()
}

#[tokio::test]
async fn a_worker_is_patched_and_told() {
    let hooks = Hooks::new(state(marks));
    let response = hooks.answer("/mutate/pods?timeout=3s", &pod_review()).await;
    assert_eq!(
        decoded(&response),
        json!([{"op": "add", "path": "/metadata/annotations", "value": {"railbind.dev/decision": "{}"}}])
    );
    assert_eq!(response["warnings"], json!(["warning 0", "warning 1", "warning 2"]));
    assert_eq!(
        response["auditAnnotations"],
        json!({"decision": "1b4e28ba-2fa1", "profile": "roce-gpudirect", "reasons": "one; two"})
    );
    assert_eq!(hooks.counted(Hook::Pods, Outcome::Patched), 1);
}

#[tokio::test]
async fn a_dry_run_is_answered_alike() {
    let hooks = Hooks::new(state(marks));
    let wet = hooks.answer(PODS, &pod_review()).await;
    let mut dry = pod_review();
    dry["request"]["dryRun"] = json!(true);
    assert_eq!(hooks.answer(PODS, &dry).await, wet);
}

#[tokio::test]
async fn what_is_not_ours_is_admitted_without_a_word() {
    let hooks = Hooks::new(state(ignores));
    let bare = json!({"uid": "u-1", "allowed": true});
    assert_eq!(hooks.answer(PODS, &pod_review()).await, bare);
    let marking = Hooks::new(state(marks));
    let pod = json!({"metadata": {}});
    let mut update = pod_review();
    update["request"]["operation"] = json!("UPDATE");
    for other in [
        update,
        review("Deployment", "deployments", "", &pod),
        review("Pod", "pods", "ephemeralcontainers", &pod),
        review("Pod", "pods", "", &Value::Null),
        review("Binding", "pods", "binding", &pod),
    ] {
        assert_eq!(marking.answer(PODS, &other).await, bare, "{other}");
    }
    assert_eq!(marking.counted(Hook::Pods, Outcome::Skipped), 5);
}

#[tokio::test]
async fn a_pod_is_refused_only_with_its_owners_reason() {
    let hooks = Hooks::new(state(refuses));
    let (status, text) = hooks.send(PODS, pod_review().to_string()).await;
    assert_eq!(status, StatusCode::OK);
    let response: Value = serde_json::from_str::<Value>(&text).unwrap()["response"].take();
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(403)));
    assert_eq!(response["status"]["message"], "railbind: no");
    assert_eq!(hooks.counted(Hook::Pods, Outcome::Denied), 1);
}

#[tokio::test]
async fn our_own_trouble_never_refuses_a_pod() {
    for (mutate, outcome, warning) in [
        (panics as Mutate, Outcome::Panicked, "panic"),
        (overreaches, Outcome::SelfCheckFailed, "/spec/hostNetwork may not be written"),
        (balks, Outcome::Odd, "/spec/containers: expected a list"),
    ] {
        let hooks = Hooks::new(state(mutate));
        let response = hooks.answer(PODS, &pod_review()).await;
        assert!(response.get("patch").is_none());
        assert_eq!(response["warnings"].as_array().unwrap().len(), 1);
        assert!(response["warnings"][0].as_str().unwrap().contains(warning), "{response}");
        assert_eq!(hooks.counted(Hook::Pods, outcome), 1);
    }
}

#[tokio::test]
async fn without_the_cluster_everything_is_admitted_as_it_is() {
    let ready = || state(marks);
    for state in [
        State { nodes: mirror(None), ..ready() },
        State { namespaces: mirror(None), ..ready() },
        State { namespaces: mirror(Some(Vec::new())), ..ready() },
    ] {
        let hooks = Hooks::new(state);
        let response = hooks.answer(PODS, &pod_review()).await;
        assert!(response.get("patch").is_none());
        assert!(response["warnings"][0].as_str().unwrap().contains("not known yet"), "{response}");
        assert_eq!(hooks.counted(Hook::Pods, Outcome::NotReady), 1);
    }
    let hooks = Hooks::new(State { nodes: mirror(None), ..ready() });
    let target = json!({"kind": "Node", "name": "node-a"});
    assert_eq!(hooks.answer(BINDINGS, &binding_review(&target)).await, json!({"uid": "u-1", "allowed": true}));
}

#[tokio::test]
async fn a_binding_gets_the_values_of_its_node() {
    let hooks = Hooks::new(state(panics));
    let target = json!({"kind": "Node", "name": "node-a"});
    let expected =
        json!([{"op": "add", "path": "/metadata/annotations", "value": {"env.railbind.dev/UCX_IB_GID_INDEX": "3"}}]);
    let response = hooks.answer(BINDINGS, &binding_review(&target)).await;
    assert_eq!(decoded(&response), expected);
    let mut legacy = binding_review(&json!({"name": "node-a"}));
    legacy["request"]["resource"]["resource"] = json!("bindings");
    legacy["request"]["subResource"] = Value::Null;
    assert_eq!(decoded(&hooks.answer(BINDINGS, &legacy).await), expected);
    assert_eq!(hooks.counted(Hook::Bindings, Outcome::Patched), 2);
}

#[tokio::test]
async fn other_bindings_pass() {
    let hooks = Hooks::new(state(panics));
    let bare = json!({"uid": "u-1", "allowed": true});
    for target in [json!({"kind": "Node", "name": "node-z"}), json!({"kind": "Pod", "name": "node-a"}), Value::Null] {
        assert_eq!(hooks.answer(BINDINGS, &binding_review(&target)).await, bare, "{target}");
    }
    let off = Hooks::new(State { binding: crate::engine::fixed(BindingEngine::Off), ..state(panics) });
    let target = json!({"kind": "Node", "name": "node-a"});
    assert_eq!(off.answer(BINDINGS, &binding_review(&target)).await, bare);
    assert_eq!(
        (hooks.counted(Hook::Bindings, Outcome::Skipped), off.counted(Hook::Bindings, Outcome::Skipped)),
        (3, 1)
    );
}

#[tokio::test]
async fn values_that_would_poison_a_pod_stay_out() {
    let mut state = state(panics);
    state.bind_values = |_, _| BTreeMap::from([("not a name".into(), "x".into())]);
    let hooks = Hooks::new(state);
    let target = json!({"kind": "Node", "name": "node-a"});
    assert_eq!(hooks.answer(BINDINGS, &binding_review(&target)).await, json!({"uid": "u-1", "allowed": true}));
    assert_eq!(hooks.counted(Hook::Bindings, Outcome::SelfCheckFailed), 1);
}

#[tokio::test]
async fn what_is_no_review_is_a_bad_request_that_says_why() {
    let hooks = Hooks::new(state(marks));
    let deep = format!("{{\"request\":{{\"object\":{}{}}}}}", "[".repeat(100_000), "]".repeat(100_000));
    for (body, why) in [
        (String::new(), "EOF while parsing"),
        ("{".into(), "EOF while parsing"),
        ("\u{fffd}".into(), "expected value"),
        (json!({"apiVersion": "v1", "kind": "Pod"}).to_string(), r#"got "Pod" of "v1""#),
        (deep, "recursion limit exceeded"),
    ] {
        let (status, text) = hooks.send(PODS, body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(text.starts_with("railbind-webhook: ") && text.contains(why), "{text}");
    }
    assert_eq!(hooks.counted(Hook::Pods, Outcome::Malformed), 5);
}

#[tokio::test]
async fn the_last_ones_are_told_to_come_again() {
    let server = Server::new(Config::new(([127, 0, 0, 1], 0).into(), Duration::ZERO), Arc::new(state(ignores)));
    for (phase, status, again) in
        [(super::DRAINING, StatusCode::OK, None), (super::LEAVING, StatusCode::SERVICE_UNAVAILABLE, Some("1"))]
    {
        server.phase.store(phase, std::sync::atomic::Ordering::Relaxed);
        let request = Request::post(PODS).body(Body::from(pod_review().to_string())).unwrap();
        let response = server.router().oneshot(request).await.unwrap();
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!((response.status(), header("retry-after").as_deref()), (status, again));
        assert_eq!(header("connection").as_deref(), Some("close"));
    }
}

#[tokio::test]
async fn large_reviews_up_to_a_bound() {
    let hooks = Hooks::new(state(marks));
    let review_of = |size: usize| {
        let mut review = pod_review();
        review["request"]["object"]["spec"]["unknown"] = json!("x".repeat(size));
        serde_json::to_vec(&review).unwrap()
    };
    assert_eq!(hooks.send(PODS, review_of(7 << 20)).await.0, StatusCode::OK);
    assert_eq!(hooks.send(PODS, review_of(9 << 20)).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    // Also where its length is not announced.
    let chunks = stream::iter((0..9).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 1 << 20]))));
    assert_eq!(hooks.send(PODS, Body::from_stream(chunks)).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(hooks.counted(Hook::Pods, Outcome::TooLarge), 2);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for_longer_than_the_api_server_waits() {
    let hooks = Hooks::new(state(marks));
    let stalled = Body::from_stream(stream::iter([Ok::<_, std::io::Error>(Bytes::from("{"))]).chain(stream::pending()));
    let (status, text) = hooks.send("/mutate/pods?timeout=20ms", stalled).await;
    assert_eq!(
        (status, text.as_str()),
        (StatusCode::REQUEST_TIMEOUT, "railbind-webhook: the body did not come in time\n")
    );
    assert_eq!(hooks.counted(Hook::Pods, Outcome::TimedOut), 1);
}

#[tokio::test]
async fn a_namespace_is_not_waited_for_longer_than_the_api_server_waits() {
    // With a writer that lives: without one nothing is waited for at all.
    let (mut writer, namespaces) = Mirror::new();
    writer.apply([Event::<NamespaceView>::Init, Event::InitDone]);
    let hooks = Hooks::new(State { namespaces, ..state(marks) });
    let took = async |path: &str| {
        let started = Instant::now();
        let response = hooks.answer(path, &pod_review()).await;
        assert!(response["warnings"][0].as_str().unwrap().contains("its namespace is not known yet"), "{response}");
        started.elapsed()
    };
    assert!(took("/mutate/pods?timeout=10ms").await < Duration::from_millis(240));
    assert!(took("/mutate/pods?timeout=3s").await >= Duration::from_millis(250));
}

#[tokio::test]
async fn quotas_of_the_pods_own_namespace_bound_it() {
    fn room(_: &Value, context: &Context<'_>) -> Result<mutate::Outcome, Malformed> {
        let (given, by) = context.bounds.unwrap().room(&Charged::default()).take("rdma/ib", 8);
        let reasons = vec![format!("{given} by {by:?}")];
        Ok(mutate::Outcome { managed: true, reasons, ..mutate::Outcome::default() })
    }
    for (quota, reason) in
        [("ns/q", "3 by Some(\"ResourceQuota q\")"), ("other/q", "8 by None"), ("ns2/q", "8 by None")]
    {
        let bounds = bounds::Mirrors::of_quotas([QuotaView {
            key: quota.into(),
            left: [("rdma/ib".into(), 3)].into(),
            ..QuotaView::default()
        }]);
        let response = Hooks::new(State { bounds, ..state(room) }).answer(PODS, &pod_review()).await;
        assert_eq!(response["auditAnnotations"]["reasons"], reason);
    }
}

#[tokio::test]
async fn other_methods_and_paths() {
    let hooks = Hooks::new(state(marks));
    let get = Request::get(PODS).body(Body::empty()).unwrap();
    assert_eq!(hooks.server.router().oneshot(get).await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(hooks.send("/mutate", "{}").await.0, StatusCode::NOT_FOUND);
}

#[test]
fn idle_connections_outlive_the_api_servers_patience() {
    let config = Config::new(SocketAddr::from(([127, 0, 0, 1], 0)), Duration::ZERO);
    assert!(config.idle >= Duration::from_mins(2), "the API server drops idle ones after 90 s");
}

/// A connection that was opened and never used is what the API server's pool holds in reserve: it lives exactly as long.
#[tokio::test(flavor = "multi_thread")]
async fn a_spare_connection_lives_for_the_idle_time() {
    let now = std::time::SystemTime::now();
    let authority = Authority::generate(now, Duration::from_hours(1)).unwrap();
    let leaf = authority.issue(&["127.0.0.1".into()], now, Duration::from_hours(1), None).unwrap();
    let idle = Duration::from_millis(500);
    let config = Config { idle, ..Config::new(SocketAddr::from(([127, 0, 0, 1], 0)), Duration::ZERO) };
    let server = Server::new(config, Arc::new(state(ignores)));
    let handle = server.handle();
    let (trigger, shutdown) = Shutdown::by_hand();
    let check = Readiness::default().check("server");
    let running = tokio::spawn(server.run(RustlsConfig::from_config(leaf.config), shutdown, check));
    let address = handle.listening().await.unwrap();

    let lived = tokio::task::spawn_blocking(move || {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = ClientConnection::new(Arc::new(config), "127.0.0.1".try_into().unwrap()).unwrap();
        let mut stream = StreamOwned::new(client, TcpStream::connect(address).unwrap());
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
        let started = Instant::now();
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
        started.elapsed()
    });
    let lived = lived.await.unwrap();
    assert!(lived >= idle * 9 / 10 && lived < idle * 10, "{lived:?}");
    trigger.pull();
    running.await.unwrap().unwrap();
}
