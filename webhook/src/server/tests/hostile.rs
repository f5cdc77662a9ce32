//! Hostile reviews through the whole handler, with the real decision: an answer that the API server can use, and never a panic.

use proptest::{collection, prelude::*, sample};

use super::*;

/// JSON with the words of a pod in it, each of any type.
fn anything() -> impl Strategy<Value = Value> {
    let key = sample::select(vec![
        "metadata",
        "spec",
        "containers",
        "initContainers",
        "env",
        "name",
        "value",
        "valueFrom",
        "resources",
        "limits",
        "requests",
        "nvidia.com/gpu",
        "rdma/ib",
        "claims",
        "annotations",
        "labels",
        "railbind.dev/inject",
        "llm-d.ai/role",
        "railbind.dev/decision",
        "affinity",
        "nodeAffinity",
        "requiredDuringSchedulingIgnoredDuringExecution",
        "nodeSelectorTerms",
        "matchExpressions",
        "securityContext",
        "capabilities",
        "add",
        "volumes",
        "volumeMounts",
        "target",
        "kind",
        "a/b~c",
        "",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        sample::select(vec!["enabled", "decode", "1", "8", "Node", "node-a", "Always", "UCX_TLS", ""])
            .prop_map(Value::from),
        ".{0,16}".prop_map(Value::from),
    ];
    leaf.prop_recursive(7, 64, 6, move |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            collection::vec((key.clone(), inner), 0..6).prop_map(|pairs| Value::Object(
                pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
            )),
        ]
    })
}

/// A worker with one part of it replaced by anything.
fn broken_worker() -> impl Strategy<Value = Value> {
    let places = sample::select(vec![
        "/metadata",
        "/metadata/labels",
        "/metadata/annotations",
        "/spec",
        "/spec/containers",
        "/spec/containers/0",
        "/spec/containers/0/env",
        "/spec/containers/0/resources",
        "/spec/containers/0/resources/limits",
        "/spec/affinity",
        "/spec/volumes",
        "/spec/tolerations",
        "/spec/nodeName",
        "/spec/containers/0/securityContext",
    ]);
    (places, anything()).prop_map(|(place, value)| {
        let mut pod = json!({
            "metadata": {"labels": {"llm-d.ai/role": "decode"}, "annotations": {}},
            "spec": {
                "nodeName": "node-a", "affinity": {}, "volumes": [], "tolerations": [],
                "containers": [{"name": "main", "image": "vllm", "env": [], "securityContext": {},
                    "resources": {"limits": {"nvidia.com/gpu": "1"}}}],
            },
        });
        *pod.pointer_mut(place).expect("a place in the worker") = value;
        pod
    })
}

fn hooks() -> Hooks {
    Hooks::new(state(mutate::pod))
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn any_object_is_answered(object in prop_oneof![anything(), broken_worker()], binding in any::<bool>()) {
        block_on(async {
            let hooks = hooks();
            let (uri, review) = if binding {
                (BINDINGS, review("Binding", "pods", "binding", &object))
            } else {
                (PODS, review("Pod", "pods", "", &object))
            };
            // Asserts status 200, our uid and `allowed`.
            let answer = hooks.answer(uri, &review).await;
            let warnings = answer["warnings"].as_array().map_or(&[][..], Vec::as_slice);
            assert!(warnings.len() <= 3 && warnings.iter().all(|text| text.as_str().is_some_and(|text| text.chars().count() <= 200)));
            if let Some(patch) = answer["patch"].as_str() {
                let patch: Patch = serde_json::from_slice(&BASE64_STANDARD.decode(patch).expect("base64")).expect("a patch");
                let mut patched = object.clone();
                json_patch::patch(&mut patched, &patch).expect("an inapplicable patch rejects the pod even with Ignore");
            }
        });
    }

    #[test]
    fn bytes_that_are_no_review_are_refused_with_a_reason(cut in 0_usize..400, at in 0_usize..400, byte in any::<u8>()) {
        block_on(async {
            let hooks = hooks();
            let mut bytes = serde_json::to_vec(&pod_review()).expect("JSON");
            let place = at.min(bytes.len() - 1);
            bytes[place] = byte;
            bytes.truncate(bytes.len().saturating_sub(cut));
            let (status, body) = hooks.send(PODS, bytes).await;
            assert!(matches!(status, StatusCode::OK | StatusCode::BAD_REQUEST), "{status} {body}");
            assert!(!body.is_empty());
        });
    }
}

#[test]
fn ten_thousand_containers_and_three_megabytes_take_bounded_time() {
    let container = |n: usize| {
        json!({"name": format!("c{n}"), "image": "vllm", "resources": {"limits": {"nvidia.com/gpu": "1"}},
            "env": [{"name": "PADDING", "value": "x".repeat(200)}]})
    };
    let containers: Vec<Value> = (0..10_000).map(container).collect();
    let object = json!({"metadata": {"labels": {"llm-d.ai/role": "decode"}}, "spec": {"containers": containers}});
    let review = review("Pod", "pods", "", &object);
    assert!(review.to_string().len() > 3 << 20);
    let started = Instant::now();
    block_on(async { hooks().answer(PODS, &review).await });
    // Generous: a debug build on a busy machine. What it excludes is quadratic work, which would take minutes.
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[test]
fn a_refusal_quotes_no_megabytes() {
    let mut review = pod_review();
    review["kind"] = json!("x".repeat(1 << 20));
    let (status, body) = block_on(async { hooks().send(PODS, review.to_string()).await });
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.starts_with("railbind-webhook: ") && body.len() < 2048, "{} bytes", body.len());
}

#[test]
fn deep_nesting_is_no_stack_overflow() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    // What is not looked at is passed over; the object itself is bounded by the parser.
    for (place, expected) in [("\"options\":{}", StatusCode::OK), ("\"containers\":[]", StatusCode::BAD_REQUEST)] {
        let key = place.split(':').next().unwrap_or_default();
        let review = pod_review().to_string().replacen(place, &format!("{key}:{deep}"), 1);
        assert!(review.contains("[[[["));
        let (status, body) = block_on(async { hooks().send(PODS, review).await });
        assert_eq!(status, expected, "{body}");
    }
}
