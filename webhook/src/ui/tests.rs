//! The page as the admin port serves it: headers, what is shown and what is not, bounds.

use std::{fs, path::Path, sync::Arc};

use axum::{
    body::{Body, to_bytes},
    http::{Method, Request, Response, StatusCode},
};
use daemon::Readiness;
use futures::stream;
use k8s_openapi::api::core::v1::Namespace;
use kube::{core::PartialObjectMeta, runtime::watcher::Event};
use policies::{node_map::Pool, profile::Profiles, select::NodeView};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{CSS, HTML, JS, data, router};
use crate::{
    args::BindingEngine,
    lean::{LeanNode, LeanPod},
    metrics::Metrics,
    mirror::{Mirror, Named, Writer},
    nodes::{self, NamespaceView, Need},
    profiles::InForce,
    state::State,
    workers::{self, WorkerView},
};

/// A cluster as its API server gives it, with hostile pods and nodes.
const CLUSTER: &str = include_str!("../../../tests/page/cluster.json");

fn list<T: serde::de::DeserializeOwned>(kind: &str) -> Vec<T> {
    let mut cluster: Value = serde_json::from_str(CLUSTER).unwrap();
    serde_json::from_value(cluster[kind].take()).unwrap()
}

fn events<K>(objects: Vec<K>) -> Vec<Event<K>> {
    std::iter::once(Event::Init).chain(objects.into_iter().map(Event::InitApply)).chain([Event::InitDone]).collect()
}

async fn fill<T: Named + PartialEq + std::fmt::Debug + Send>(writer: Writer<T>, events: Vec<Event<T>>) {
    let check = Readiness::default().check("test");
    nodes::follow(stream::iter(events.into_iter().map(Ok)), writer, check, Need::Helpful, |_| {}).await;
}

/// The state of a webhook that watches that cluster, or has not heard of it yet.
async fn state(listed: bool) -> Arc<State> {
    let (node_writer, nodes) = Mirror::new();
    let (namespace_writer, namespaces) = Mirror::new();
    let (worker_writer, workers) = Mirror::new();
    if listed {
        let share = |node: LeanNode| Pool::default().share(nodes::view(node));
        fill(node_writer, events(list("nodes").into_iter().map(share).collect())).await;
        let namespaces = list::<PartialObjectMeta<Namespace>>("namespaces").into_iter().map(nodes::namespace_view);
        fill(namespace_writer, events(namespaces.collect())).await;
        let pods = events(list::<LeanPod>("pods")).into_iter().filter_map(workers::keep).collect();
        fill(worker_writer, pods).await;
    }
    let (_, profiles) = InForce::new(Profiles::embedded().unwrap());
    let metrics = Metrics::register(&mut Registry::default());
    Arc::new(State::new(nodes, namespaces, workers, profiles, BindingEngine::Webhook, metrics))
}

async fn ask(state: Arc<State>, method: Method, path: &str) -> Response<Body> {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    router(state).oneshot(request).await.unwrap()
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(to_bytes(response.into_body(), 64 << 20).await.unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn every_answer_is_hardened_and_reads_only() {
    let state = state(true).await;
    for path in ["/ui", "/ui/", "/ui/page.css", "/ui/page.js", "/ui/data.json"] {
        let response = ask(state.clone(), Method::GET, path).await;
        let headers = response.headers();
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
        for (name, value) in
            [("x-content-type-options", "nosniff"), ("x-frame-options", "DENY"), ("cache-control", "no-store")]
        {
            assert_eq!(headers[name], value, "{path}");
        }
        assert!(!headers.contains_key("set-cookie"));
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            assert_eq!(ask(state.clone(), method, path).await.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        }
    }
    let moved = ask(state.clone(), Method::GET, "/ui").await;
    assert_eq!(
        (moved.status(), &moved.headers()["location"]),
        (StatusCode::TEMPORARY_REDIRECT, &"ui/".parse().unwrap())
    );
    assert_eq!(ask(state, Method::GET, "/ui/../metrics").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_data_is_what_the_browser_test_shows() {
    let response = ask(state(true).await, Method::GET, "/ui/data.json").await;
    assert_eq!(response.headers()["content-type"], "application/json");
    let found: Value = serde_json::from_str(&text(response).await).unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/page/data.json");
    if std::env::var_os("RAILBIND_UPDATE").is_some() {
        fs::write(&file, serde_json::to_string_pretty(&found).unwrap() + "\n").unwrap();
    }
    let expected: Value = serde_json::from_str(&fs::read_to_string(file).unwrap_or_default()).unwrap_or_default();
    assert!(
        found == expected,
        "tests/page/data.json is stale: run this test with RAILBIND_UPDATE=1 and look at the difference"
    );
}

#[tokio::test]
async fn nothing_but_names_and_what_is_ours_is_shown() {
    let text = text(ask(state(true).await, Method::GET, "/ui/data.json").await).await;
    assert!(CLUSTER.matches("do-not-show").count() > 10, "the cluster has secrets to hide");
    assert!(!text.contains("do-not-show") && !text.contains("hostname"), "{text}");
    assert!(!text.contains("not-in-scope") && text.contains("prefill-0"));
}

#[tokio::test]
async fn states_of_workers_and_the_odd_ones_first() {
    let found = data::collect(&*state(true).await);
    let workers = found.workers.unwrap();
    let states: Vec<(&str, &str)> = workers.iter().map(|worker| (worker.pod.as_str(), worker.state)).collect();
    assert_eq!(states[0], ("early-bird", "unpatched"));
    assert_eq!(states[1], ("decode-1", "without-values"));
    assert!(states.contains(&("prefill-0", "bound")) && states.contains(&("decode-2", "waiting")), "{states:?}");
    let nodes = found.nodes.unwrap();
    assert_eq!(nodes.last().unwrap().name, "control-plane");
    let lying = nodes.iter().find(|node| node.name == "roce-3").unwrap();
    assert!(!lying.values.contains_key("UCX_NET_DEVICES"), "a value outside of the grammar is no value: {lying:?}");
}

#[tokio::test]
async fn a_hostile_decision_is_bounded() {
    let workers = data::collect(&*state(true).await).workers.unwrap();
    let of = |name: &str| workers.iter().find(|worker| worker.pod == name).unwrap();
    let hostile = of("hostile-reasons");
    assert_eq!(hostile.reasons.len(), 16);
    assert!(hostile.reasons.iter().all(|reason| reason.chars().count() <= 300));
    assert!(of("hostile-decision").reasons.is_empty());
}

#[tokio::test]
async fn before_the_first_list_it_says_so() {
    let text = text(ask(state(false).await, Method::GET, "/ui/data.json").await).await;
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&found["nodes"], &found["workers"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn a_large_cluster_is_cut_and_says_so() {
    let (mut writer, nodes) = Mirror::new();
    let (_, namespaces) = Mirror::<NamespaceView>::new();
    let (_, workers) = Mirror::<WorkerView>::new();
    let node = |number: usize| NodeView { name: format!("n{number}"), ..NodeView::default() };
    let mut pool = Pool::default();
    writer.apply(events((0..data::MAX_NODES + 3).map(|number| pool.share(node(number))).collect()));
    let (_, profiles) = InForce::new(Profiles::embedded().unwrap());
    let metrics = Metrics::register(&mut Registry::default());
    let state = State::new(nodes, namespaces, workers, profiles, BindingEngine::Off, metrics);
    let found = data::collect(&state);
    assert_eq!((found.nodes.unwrap().len(), found.nodes_left_off, found.workers), (data::MAX_NODES, 3, None));
}

#[tokio::test]
async fn whoever_asks_all_the_time_gets_the_same_answer() {
    let state = state(true).await;
    let routes = router(state);
    let ask = || async {
        let request = Request::get("/ui/data.json").body(Body::empty()).unwrap();
        to_bytes(routes.clone().oneshot(request).await.unwrap().into_body(), 1 << 20).await.unwrap()
    };
    let (first, second) = (ask().await, ask().await);
    assert_eq!(first.as_ptr(), second.as_ptr(), "collected twice");
}

#[test]
fn the_files_make_no_markup_and_load_nothing_from_elsewhere() {
    for (name, file) in [("page.html", HTML), ("page.css", CSS), ("page.js", JS)] {
        for forbidden in [
            "http://",
            "https://",
            "//cdn",
            "@import",
            "url(",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "localStorage",
            "document.cookie",
            " style=",
            " onclick=",
        ] {
            assert!(!file.contains(forbidden), "{name} has {forbidden}");
        }
    }
    assert_eq!(HTML.matches("<script").count(), 1);
    assert!(HTML.contains(r#"<script src="page.js" defer></script>"#));
    assert_eq!(json!(JS.matches("method:").count()), 0, "the page only reads");
}
