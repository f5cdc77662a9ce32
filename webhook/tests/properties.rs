//! Laws of the mutation, on pods that no person would write: asking twice changes nothing more, what we do not know survives byte
//! for byte, and only pointers of the allow-list are touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use policies::{node_map::NodeMap, profile::Profiles, room::QuotaView, select::NodeView};
use proptest::{collection, option, prelude::*, sample};
use serde_json::{Map, Value, json};
use webhook::{
    bounds::Bounds,
    mutate::{self, Context},
};

fn nodes() -> NodeMap {
    let node = |name: &str, labels: &[(&str, &str)], allocatable: &[(&str, &str)]| {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>()
        };
        NodeView { name: name.into(), labels: map(labels), allocatable: map(allocatable), ..NodeView::default() }
    };
    let nodes = [
        node(
            "roce",
            &[
                ("railbind.dev/fabric", "roce"),
                ("railbind.dev/profile", "roce-gpudirect"),
                ("railbind.dev/gid-index", "3"),
            ],
            &[("nvidia.com/gpu", "8"), ("rdma/ib", "8")],
        ),
        node(
            "efa",
            &[("railbind.dev/fabric", "efa"), ("railbind.dev/profile", "efa-host-staged"), ("kind", "efa")],
            &[("nvidia.com/gpu", "8"), ("vpc.amazonaws.com/efa", "32")],
        ),
    ];
    nodes.into_iter().collect()
}

/// Any JSON, as a field that this version does not know might hold.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_filter("JSON has no NaN", |n| n.is_finite()).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            collection::btree_map("[a-zA-Z~/.]{1,8}", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Absent, null, or there: the three ways in which an optional field can be.
fn maybe(strategy: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Option<Value>> {
    prop_oneof![Just(None), Just(Some(Value::Null)), strategy.prop_map(Some)].boxed()
}

/// An object of these optional fields plus some that nobody knows.
fn object(fields: Vec<(&'static str, BoxedStrategy<Option<Value>>)>) -> BoxedStrategy<Value> {
    let known: Vec<BoxedStrategy<Option<(String, Value)>>> = fields
        .into_iter()
        .map(|(key, strategy)| strategy.prop_map(move |value| value.map(|value| (key.to_owned(), value))).boxed())
        .collect();
    (known, collection::vec(("future[A-Z][a-z]{0,4}", anything()), 0..2))
        .prop_map(|(known, unknown)| {
            Value::Object(known.into_iter().flatten().chain(unknown).collect::<Map<String, Value>>())
        })
        .boxed()
}

fn one_of(values: Vec<Value>) -> BoxedStrategy<Value> {
    sample::select(values).boxed()
}

fn container() -> BoxedStrategy<Value> {
    let quantities = || {
        object(vec![
            ("nvidia.com/gpu", maybe(one_of(vec![json!("1"), json!(2), json!("8")]))),
            ("rdma/ib", maybe(one_of(vec![json!("1")]))),
            ("cpu", maybe(one_of(vec![json!("500m")]))),
            ("memory", maybe(one_of(vec![json!("8Gi"), json!("1"), json!(1_u64 << 40), json!("many")]))),
        ])
    };
    let variable = one_of(vec![
        json!({"name": "UCX_TLS", "value": "tcp"}),
        json!({"name": "UCX_RNDV_SCHEME", "value": "get_zcopy"}),
        json!({"name": "UCX_IB_GID_INDEX", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}),
        json!({"name": "OTHER", "value": ""}),
        json!({"name": "NOTHING"}),
    ]);
    let capabilities = object(vec![
        ("add", maybe(one_of(vec![json!([]), json!(["SYS_PTRACE"]), json!(["CAP_IPC_LOCK"])]))),
        ("drop", maybe(one_of(vec![json!(["ALL"])]))),
    ]);
    object(vec![
        ("name", one_of(vec![json!("main"), json!("side")]).prop_map(Some).boxed()),
        ("image", maybe(one_of(vec![json!("vllm/vllm-openai"), json!("trtllm"), json!("busybox")]))),
        ("args", maybe(one_of(vec![json!(["--disaggregation-mode", "prefill"]), json!([])]))),
        ("env", maybe(collection::vec(variable, 0..3).prop_map(Value::from))),
        (
            "resources",
            maybe(object(vec![
                ("limits", maybe(quantities())),
                ("requests", maybe(quantities())),
                ("claims", maybe(one_of(vec![json!([{"name": "gpus"}]), json!([])]))),
            ])),
        ),
        (
            "securityContext",
            maybe(object(vec![
                ("privileged", maybe(one_of(vec![json!(true), json!(false)]))),
                ("capabilities", maybe(capabilities)),
            ])),
        ),
        (
            "volumeMounts",
            maybe(one_of(vec![
                json!([]),
                json!([{"name": "data", "mountPath": "/data"}]),
                json!([{"name": "d", "mountPath": "/dev/shm/"}]),
            ])),
        ),
        ("restartPolicy", maybe(one_of(vec![json!("Always")]))),
    ])
}

/// Any pod, half of them surely workers, half of those with an owner who wants broken settings replaced, and half of those with one.
fn pod() -> BoxedStrategy<Value> {
    (any_pod(), any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(mut pod, worker, replaces, broken)| {
            if worker {
                pod["metadata"]["labels"]["llm-d.ai/role"] = json!("decode");
                pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = json!("1");
            }
            if worker && replaces {
                pod["metadata"]["annotations"]["railbind.dev/conflicts"] = json!("override");
            }
            if worker && replaces && broken {
                pod["spec"]["nodeSelector"] = json!({"kind": "efa"});
                pod["spec"]["containers"][0]["env"] = json!([{"name": "UCX_RNDV_SCHEME", "value": "get_zcopy"}]);
            }
            pod
        })
        .boxed()
}

fn any_pod() -> BoxedStrategy<Value> {
    let annotations = object(vec![
        ("railbind.dev/placement", maybe(one_of(vec![json!("preferred"), json!("none"), json!("?")]))),
        ("railbind.dev/conflicts", maybe(one_of(vec![json!("warn"), json!("override"), json!("deny")]))),
        ("railbind.dev/no-rdma", maybe(one_of(vec![json!("deny")]))),
        ("railbind.dev/profile-set", maybe(one_of(vec![json!("nixl"), json!("?")]))),
        ("railbind.dev/containers", maybe(one_of(vec![json!("main,side")]))),
        ("railbind.dev/decision", maybe(one_of(vec![json!("not json"), json!(r#"{"profile":"efa-host-staged"}"#)]))),
        ("env.railbind.dev/UCX_IB_GID_INDEX", maybe(one_of(vec![json!("7")]))),
    ]);
    let labels = object(vec![
        ("railbind.dev/inject", maybe(one_of(vec![json!("enabled"), json!("disabled"), json!("yes")]))),
        ("llm-d.ai/role", maybe(one_of(vec![json!("decode"), json!("prefill")]))),
        ("llm-d.ai/model", maybe(one_of(vec![json!("m")]))),
    ]);
    let term = object(vec![
        (
            "matchExpressions",
            maybe(one_of(vec![json!([]), json!([{"key": "kind", "operator": "In", "values": ["efa"]}])])),
        ),
        ("matchFields", maybe(one_of(vec![json!([{"key": "metadata.name", "operator": "In", "values": ["roce"]}])]))),
    ]);
    let affinity = object(vec![
        (
            "nodeAffinity",
            maybe(object(vec![(
                "requiredDuringSchedulingIgnoredDuringExecution",
                maybe(object(vec![("nodeSelectorTerms", maybe(collection::vec(term, 0..3).prop_map(Value::from)))])),
            )])),
        ),
        ("podAntiAffinity", maybe(anything())),
    ]);
    let spec = object(vec![
        ("containers", collection::vec(container(), 1..3).prop_map(|list| Some(Value::from(list))).boxed()),
        ("initContainers", maybe(collection::vec(container(), 0..2).prop_map(Value::from))),
        ("affinity", maybe(affinity)),
        ("nodeSelector", maybe(one_of(vec![json!({"kind": "efa"}), json!({})]))),
        ("nodeName", maybe(one_of(vec![json!("roce"), json!("elsewhere")]))),
        ("volumes", maybe(one_of(vec![json!([]), json!([{"name": "data", "emptyDir": {}}])]))),
    ]);
    object(vec![
        (
            "metadata",
            object(vec![("labels", maybe(labels)), ("annotations", maybe(annotations))]).prop_map(Some).boxed(),
        ),
        ("spec", spec.prop_map(Some).boxed()),
        ("status", maybe(anything())),
    ])
}

/// Everything that `before` says, `after` says too, at the same place and in the same bytes. Only nulls may have been filled, and
/// values given to variables that are `replaced`: those keep their names.
fn survives(path: &str, before: &Value, after: &Value, replaced: &BTreeSet<String>) -> Result<(), TestCaseError> {
    match (before, after) {
        (before, after) if replaced.contains(path) => {
            prop_assert_eq!(&before["name"], &after["name"], "{}", path);
            prop_assert!(after["value"].is_string() && after["valueFrom"].is_null(), "{}: {}", path, after);
        }
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                let Some(now) = after.get(key) else {
                    return Err(TestCaseError::fail(format!("{path}/{key} is gone")));
                };
                survives(&format!("{path}/{key}"), value, now, replaced)?;
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            prop_assert!(before.len() <= after.len(), "{path} lost elements");
            for (index, (value, now)) in before.iter().zip(after).enumerate() {
                survives(&format!("{path}/{index}"), value, now, replaced)?;
            }
        }
        (Value::Null, _) => {}
        _ => prop_assert_eq!(before.to_string(), after.to_string(), "{}", path),
    }
    Ok(())
}

/// Slots of `rdma/ib` that a quota counts for a pod, as Kubernetes does: plain init containers run one after the other, before the rest;
/// those that are always restarted stay beside what comes after them.
fn charged(pod: &Value) -> u64 {
    let asks = |container: &Value| {
        container["resources"]["limits"]["rdma/ib"].as_str().and_then(|slots| slots.parse().ok()).unwrap_or(0_u64)
    };
    let (mut sidecars, mut peak) = (0, 0);
    for init in pod["spec"]["initContainers"].as_array().into_iter().flatten() {
        if init["restartPolicy"] == "Always" {
            sidecars += asks(init);
        } else {
            peak = peak.max(sidecars + asks(init));
        }
    }
    peak.max(sidecars + pod["spec"]["containers"].as_array().into_iter().flatten().map(asks).sum::<u64>())
}

/// The allow-list, written down here a second time: two ways that must agree.
fn allowed(pointer: &str) -> bool {
    let parts: Vec<&str> = pointer.split('/').skip(1).collect();
    match parts.as_slice() {
        ["metadata", "annotations"]
        | ["spec", "volumes" | "affinity"]
        | ["spec", "volumes", "-"]
        | ["spec", "affinity", "nodeAffinity" | "podAffinity" | "podAntiAffinity", ..] => true,
        ["metadata", "annotations", key] => key.starts_with("railbind.dev~1") || key.starts_with("env.railbind.dev~1"),
        ["spec", "containers" | "initContainers", index, field, ..] => {
            index.parse::<usize>().is_ok() && ["env", "resources", "securityContext", "volumeMounts"].contains(field)
        }
        _ => false,
    }
}

static PROFILES: LazyLock<Profiles> = LazyLock::new(|| Profiles::embedded().expect("the shipped profiles"));

/// How many variables were given another value: a law that is never put to the test is none.
static REPLACED: AtomicUsize = AtomicUsize::new(0);

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    fn laws(
        pod in pod(),
        enforce in option::of(sample::select(vec!["baseline", "privileged"])),
        left in option::of(0_u64..4),
    ) {
        let nodes = nodes();
        let profiles = &*PROFILES;
        let labels: BTreeMap<String, String> = enforce
            .map(|level| ("pod-security.kubernetes.io/enforce".to_owned(), level.to_owned()))
            .into_iter()
            .collect();
        let annotations = BTreeMap::new();
        let quota = |left| QuotaView { key: "ns/q".into(), left: [("rdma/ib".to_owned(), left)].into(), ..QuotaView::default() };
        let bounds = Bounds { quotas: left.into_iter().map(|left| Arc::new(quota(left))).collect(), limits: Vec::new() };
        let context = Context {
            namespace_labels: &labels,
            namespace_annotations: &annotations,
            nodes: &nodes,
            profiles,
            namespace: "ns",
            workers: None,
            bounds: Some(&bounds),
            decision: None,
        };
        let Ok(first) = mutate::pod(&pod, &context) else { return Ok(()) };
        let mut patched = pod.clone();
        json_patch::patch(&mut patched, &first.patch).expect("the patch applies");
        let mut replaced = BTreeSet::new();
        for operation in first.patch.iter() {
            let operation = json!(operation);
            let path = operation["path"].as_str().expect("a path");
            prop_assert!(allowed(path), "{}", path);
            if operation["op"] == "replace" {
                // Only where its owner asked for that, and only one whole variable.
                prop_assert_eq!(&pod["metadata"]["annotations"]["railbind.dev/conflicts"], "override");
                let parts: Vec<&str> = path.split('/').collect();
                prop_assert!(matches!(parts.as_slice(), ["", "spec", _, _, "env", _]), "{}", path);
                replaced.insert(path.to_owned());
            } else {
                prop_assert_eq!(&operation["op"], "add");
            }
        }
        survives("", &pod, &patched, &replaced)?;
        REPLACED.fetch_add(replaced.len(), Ordering::Relaxed);
        // Never more than the namespace leaves room for, unless the pod asks for it itself.
        let lists = |pod: &Value| ["containers", "initContainers"].map(|list| pod["spec"][list].as_array().cloned().unwrap_or_default()).concat();
        let names: BTreeSet<String> = lists(&pod).iter().map(|container| container["name"].to_string()).collect();
        // Two of one name the API server refuses anyway, and a plan goes by name.
        if let Some(left) = left.filter(|_| names.len() == lists(&pod).len()) {
            let (asked, charged) = (charged(&pod), charged(&patched));
            prop_assert!(charged <= left.max(asked), "{} of {}", charged, left);
        }
        // Every reference to one of our annotations finds it: a missing one would be an empty variable.
        for list in ["containers", "initContainers"] {
            for container in patched["spec"][list].as_array().into_iter().flatten() {
                for variable in container["env"].as_array().into_iter().flatten() {
                    let field = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str().unwrap_or_default();
                    if let Some(key) = field.strip_prefix("metadata.annotations['").and_then(|rest| rest.strip_suffix("']")) {
                        prop_assert!(patched["metadata"]["annotations"][key].is_string(), "{}", key);
                    }
                }
            }
        }
        let second = mutate::pod(&patched, &context).expect("a patched pod is well-formed");
        prop_assert!(second.patch.is_empty(), "second patch: {}", json!(second.patch));
    }
}

#[test]
fn the_laws_hold_and_are_put_to_the_test() {
    laws();
    println!("{REPLACED:?} variables replaced");
    assert!(REPLACED.load(Ordering::Relaxed) > 20, "{REPLACED:?} variables replaced in all those pods");
}
