//! The whole handler of the webhook, from the body to the answer: whatever comes, the API server can use what it gets.
//! Under the fuzzer a panic is the end, before the handler's own guard sees it; elsewhere the answer tells of it.

use std::sync::{Arc, LazyLock};

use arbitrary::{Arbitrary as _, Unstructured};
use axum::{Router, body::Body, http::Request};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use json_patch::Patch;
use kube::runtime::watcher::Event;
use policies::{node_map::Pool, profile::Profiles, select::NodeView};
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt as _;
use webhook::{
    args::BindingEngine,
    metrics::Metrics,
    mirror::{Mirror, Named},
    nodes::NamespaceView,
    profiles::InForce,
    review::decode,
    server::{BINDINGS, Config, PODS, Server},
    state::State,
};

use crate::review::{Mutated, review};

static ROUTER: LazyLock<Router> = LazyLock::new(|| {
    let mut pool = Pool::default();
    let text = include_str!("../../../../webhook/tests/nodes.yaml");
    let nodes: Vec<NodeView> = serde_saphyr::from_str(text).expect("the golden nodes");
    let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    let strict = NamespaceView {
        name: "strict".into(),
        labels: map(&[("pod-security.kubernetes.io/enforce", "baseline")]),
        annotations: map(&[("railbind.dev/conflicts", "deny"), ("railbind.dev/no-rdma", "deny")]),
    };
    let state = State::new(
        mirror(nodes.into_iter().map(|node| pool.share(node)).collect()),
        mirror(vec![NamespaceView { name: "ns".into(), ..NamespaceView::default() }, strict]),
        mirror(Vec::new()),
        InForce::new(Profiles::embedded().expect("our own profiles")).1,
        BindingEngine::Webhook,
        Metrics::register(&mut Registry::default()),
    );
    let config = Config::new(([127, 0, 0, 1], 0).into(), std::time::Duration::ZERO);
    Server::new(config, Arc::new(state)).router()
});

fn mirror<T: Named + PartialEq>(objects: Vec<T>) -> Mirror<T> {
    let (mut writer, mirror) = Mirror::new();
    let listed = objects.into_iter().map(Event::InitApply);
    writer.apply(std::iter::once(Event::Init).chain(listed).chain([Event::InitDone]));
    mirror
}

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_time().build().expect("a runtime"));

/// Status and body.
fn ask(path: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let request = Request::post(path).header("content-type", "application/json").body(Body::from(body.to_vec()));
    RUNTIME.block_on(async {
        let Ok(response) = ROUTER.clone().oneshot(request.expect("a request")).await;
        let status = response.status().as_u16();
        (status, axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a body").to_vec())
    })
}

/// Asks, and holds the answer to the laws.
pub fn check(hook: &str, body: &[u8]) {
    let (status, answer) = ask(hook, body);
    let Ok(request) = decode(body) else {
        assert_eq!(status, 400);
        assert!(
            answer.starts_with(b"railbind-webhook: ") && answer.len() < 2048,
            "{}",
            String::from_utf8_lossy(&answer)
        );
        return;
    };
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
    let answer: Value = serde_json::from_slice(&answer).expect("JSON");
    assert_eq!((&answer["apiVersion"], &answer["kind"]), (&"admission.k8s.io/v1".into(), &"AdmissionReview".into()));
    let response = &answer["response"];
    assert_eq!(response["uid"], *request.uid);
    let warnings = response["warnings"].as_array().map_or(&[][..], Vec::as_slice);
    assert!(warnings.len() <= 3, "{warnings:?}");
    for warning in warnings {
        let text = warning.as_str().expect("a text");
        assert!(!text.is_empty() && text.len() <= 200, "{text}");
        assert!(!text.contains("by a fault of the webhook"), "{text}: {}", String::from_utf8_lossy(body));
    }
    if response["allowed"] == false {
        let asked = request.namespace.as_deref() == Some("strict") || request.object.to_string().contains("\"deny\"");
        assert!(asked && hook == PODS, "nobody asked for {response}");
        assert!(
            response["status"]["message"].as_str().is_some_and(|why| !why.is_empty()) && response["patch"].is_null()
        );
        return;
    }
    assert_eq!(response["allowed"], true);
    let Some(patch) = response["patch"].as_str() else { return };
    assert_eq!(response["patchType"], "JSONPatch");
    let patch: Patch = serde_json::from_slice(&BASE64_STANDARD.decode(patch).expect("base64")).expect("a patch");
    let mut patched = request.object.clone();
    json_patch::patch(&mut patched, &patch).expect("an inapplicable patch rejects the pod even with Ignore");
    assert_ne!(patched, request.object, "a patch that changes nothing");
    // Asked again, as the API server does after another webhook's change, there is nothing left to do.
    let (kind, subresource) = if hook == PODS { ("Pod", "") } else { ("Binding", "binding") };
    let again = review(kind, subresource, request.namespace.as_deref().unwrap_or_default(), &patched);
    let (_, answer) = ask(hook, again.to_string().as_bytes());
    let answer: Value = serde_json::from_slice(&answer).expect("JSON");
    assert!(answer["response"]["patch"].is_null(), "patched again: {answer} {patched}");
}

/// Tries a body as it is, or a recipe for one.
pub fn run(bytes: &[u8]) {
    if bytes.first().is_none_or(|first| matches!(first, b'{' | b'[' | b' ')) {
        check(PODS, bytes);
        check(BINDINGS, bytes);
    } else if let Ok(mutated) = Mutated::arbitrary(&mut Unstructured::new(bytes)) {
        let (body, binding) = mutated.body();
        check(if binding { BINDINGS } else { PODS }, body.as_bytes());
    }
}
