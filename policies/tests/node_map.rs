//! Placing a pod among kinds of node gives what placing it among the nodes themselves would.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use policies::{
    intent::{ContainerIntent, PodIntent, Requirement, Term, Toleration},
    node_map::{Group, NodeMap, Pool},
    plan::plan,
    profile::Profiles,
    select::{self, NodeView, Taint},
};
use proptest::{collection, option, prelude::*, sample};

/// The rules of the scheduler, node by node, on nodes as they are: what the kinds must come to.
mod naive {
    use super::{NodeView, PodIntent, Requirement, Taint, Term, Toleration};

    pub(super) fn fits(node: &NodeView, intent: &PodIntent) -> bool {
        if let Some(name) = &intent.node_name {
            return *name == node.name;
        }
        let gpus: u64 = node.allocatable.get("nvidia.com/gpu").map_or(0, |count| count.parse().expect("a number"));
        let wanted: u64 = intent.containers.iter().map(|container| container.gpus).sum();
        (gpus == 0 || gpus >= wanted)
            && !node.unschedulable
            && intent.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
            && (intent.terms.is_empty() || intent.terms.iter().any(|term| term_holds(term, node)))
            && node.taints.iter().all(|taint| {
                taint.effect == "PreferNoSchedule"
                    || taint.key.starts_with("node.kubernetes.io/")
                    || taint.key.ends_with("/gpu")
                    || intent.tolerations.iter().any(|toleration| tolerates(toleration, taint))
            })
    }

    fn term_holds(term: &Term, node: &NodeView) -> bool {
        (!term.match_expressions.is_empty() || !term.match_fields.is_empty())
            && term.match_expressions.iter().all(|requirement| holds(requirement, node.labels.get(&requirement.key)))
            && term.match_fields.iter().all(|r| r.key == "metadata.name" && holds(r, Some(&node.name)))
    }

    fn holds(requirement: &Requirement, value: Option<&String>) -> bool {
        let number = |text: Option<&String>| text.and_then(|text| text.parse::<i64>().ok());
        let (have, want) = (number(value), number(requirement.values.first()));
        match requirement.operator.as_str() {
            "In" => value.is_some_and(|value| requirement.values.contains(value)),
            "NotIn" => value.is_none_or(|value| !requirement.values.contains(value)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => matches!((have, want), (Some(have), Some(want)) if have > want),
            "Lt" => matches!((have, want), (Some(have), Some(want)) if have < want),
            _ => false,
        }
    }

    fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let effect = text(&toleration.effect);
        let key = text(&toleration.key);
        (effect.is_empty() || effect == taint.effect)
            && match toleration.operator.as_deref() {
                Some("Exists") => key.is_empty() || key == taint.key,
                _ => key == taint.key && text(&toleration.value) == text(&taint.value),
            }
    }
}

fn words(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    sample::select(words).prop_map(str::to_owned)
}

fn key() -> impl Strategy<Value = String> {
    words(&["zone", "serial", "rack", "pool", "railbind.dev/fabric-domain"])
}

/// Few values for some keys and many for others, and both for `rack`.
fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    let one = prop_oneof![
        words(&["a", "b"]).prop_map(|value| ("zone".to_owned(), value)),
        (0..400_u32).prop_map(|value| ("serial".to_owned(), value.to_string())),
        (0..60_u32).prop_map(|value| ("rack".to_owned(), (value / 8 * value % 50).to_string())),
        words(&["x", "y"]).prop_map(|value| ("pool".to_owned(), value)),
        (0..50_u32).prop_map(|value| ("railbind.dev/fabric-domain".to_owned(), format!("d{value}"))),
        words(&["unlimited", "limited"]).prop_map(|value| ("railbind.dev/memlock".to_owned(), value)),
    ];
    let fabric = sample::select(&[
        ("infiniband", "infiniband-gpudirect"),
        ("roce", "roce-gpudirect"),
        ("roce", "rdma-host-staged"),
        ("efa", "efa-host-staged"),
        ("tcp", "tcp"),
    ]);
    (collection::vec(one, 0..6), option::of(fabric)).prop_map(|(labels, fabric)| {
        let ours = fabric.into_iter().flat_map(|(fabric, profile)| {
            [("railbind.dev/fabric", fabric), ("railbind.dev/profile", profile)].map(|(k, v)| (k.into(), v.into()))
        });
        labels.into_iter().chain(ours).collect()
    })
}

fn node() -> impl Strategy<Value = NodeView> {
    let taint = (
        words(&["team", "nvidia.com/gpu", "node.kubernetes.io/not-ready"]),
        option::of(words(&["a", "b"])),
        words(&["NoSchedule", "PreferNoSchedule", "NoExecute"]),
    );
    let taint = taint.prop_map(|(key, value, effect)| Taint { key, value, effect });
    let allocatable = collection::btree_map(
        words(&["nvidia.com/gpu", "rdma/ib", "rdma/roce", "vpc.amazonaws.com/efa", "memory"]),
        words(&["0", "1", "4", "8"]),
        0..4,
    );
    (labels(), allocatable, prop::bool::weighted(0.1), collection::vec(taint, 0..2)).prop_map(
        |(labels, allocatable, unschedulable, taints)| NodeView {
            labels,
            allocatable,
            unschedulable,
            taints,
            ..NodeView::default()
        },
    )
}

/// Up to 120 nodes: enough for labels of many values to be found out, and for more kinds than are left alone.
fn nodes() -> impl Strategy<Value = Vec<NodeView>> {
    collection::vec(node(), 0..120).prop_map(|mut nodes| {
        for (at, node) in nodes.iter_mut().enumerate() {
            node.name = format!("n{}", at * 7919 % 1009);
        }
        nodes
    })
}

fn intent() -> impl Strategy<Value = PodIntent> {
    let value =
        || prop_oneof![words(&["a", "b", "x", "d1", "n7919"]), (0..400_u32).prop_map(|value| value.to_string())];
    let operator = || words(&["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "Near"]);
    let requirement = |key: BoxedStrategy<String>| {
        (key, operator(), collection::vec(value(), 0..4)).prop_map(|(key, operator, values)| Requirement {
            key,
            operator,
            values,
        })
    };
    let name = (0..120_u32).prop_map(|at| format!("n{}", at * 7919 % 1009));
    let field = (sample::select(&["In", "NotIn"]), collection::vec(name.clone(), 1..3))
        .prop_map(|(operator, values)| Requirement { key: "metadata.name".into(), operator: operator.into(), values });
    let term = (collection::vec(requirement(key().boxed()), 0..3), collection::vec(field, 0..2))
        .prop_map(|(match_expressions, match_fields)| Term { match_expressions, match_fields });
    let toleration =
        (option::of(words(&["team", ""])), option::of(words(&["Exists", "Equal"])), option::of(words(&["a"])))
            .prop_map(|(key, operator, value)| Toleration { key, operator, value, effect: None });
    let base = (
        0..9_u64,
        prop_oneof![3 => Just(BTreeMap::new()), 1 => collection::btree_map(key(), value(), 1..2)],
        prop_oneof![2 => Just(Vec::new()), 1 => collection::vec(term, 1..3)],
        collection::vec(toleration, 0..2),
        prop_oneof![9 => Just(None), 1 => name.prop_map(Some)],
    );
    base.prop_map(|(gpus, node_selector, terms, tolerations, node_name)| PodIntent {
        containers: vec![ContainerIntent { name: "main".into(), gpus, ..ContainerIntent::default() }],
        node_selector,
        terms,
        tolerations,
        node_name,
        ..PodIntent::default()
    })
}

fn same_but_alone(node: &NodeView) -> NodeView {
    let mut node = node.clone();
    node.labels.insert("railbind.dev/test-alone".into(), node.name.clone());
    node
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_candidates_are_those_of_a_look_at_each_node(nodes in nodes(), intents in collection::vec(intent(), 1..4)) {
        let map: NodeMap = nodes.iter().cloned().collect();
        prop_assert_eq!(map.len(), nodes.len());
        for intent in &intents {
            let expected: BTreeSet<&str> =
                nodes.iter().filter(|node| naive::fits(node, intent)).map(|node| node.name.as_str()).collect();
            let groups = select::candidates(&map, intent);
            let found: Vec<&str> = groups.iter().flat_map(Group::nodes).map(|node| node.name.as_str()).collect();
            prop_assert_eq!(found.len(), expected.len(), "a node twice, or another number");
            prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
        }
    }

    #[test]
    fn what_a_pod_gets_does_not_depend_on_what_is_shared(
        nodes in nodes(),
        intent in intent(),
        siblings in collection::vec(intent(), 0..3),
    ) {
        let profiles = Profiles::embedded().expect("the shipped profiles");
        let intent = PodIntent { siblings, ..intent };
        let map: NodeMap = nodes.iter().cloned().collect();
        let apart: NodeMap = nodes.iter().map(same_but_alone).collect();
        prop_assert_eq!(apart.kinds(), nodes.len());
        prop_assert_eq!(plan(&profiles, &map, &intent), plan(&profiles, &apart, &intent));
    }

    #[test]
    fn a_shared_node_is_what_the_node_was(nodes in nodes()) {
        let mut pool = Pool::default();
        for node in nodes {
            let shared = pool.share(node.clone());
            prop_assert_eq!(&shared.name, &node.name);
            for key in ["zone", "serial", "rack", "pool", "railbind.dev/fabric-domain", "railbind.dev/memlock", "none"] {
                prop_assert_eq!(shared.label(key), node.labels.get(key).map(String::as_str), "{}", key);
            }
            prop_assert_eq!(shared.kind.count("rdma/ib"), node.count("rdma/ib"));
            prop_assert_eq!(&shared.kind.taints, &node.taints);
            prop_assert!(!shared.kind.allocatable.contains_key("memory"), "no decision is about memory");
        }
    }
}

#[test]
fn five_thousand_nodes_are_a_few_kinds() {
    let node = |n: usize| NodeView {
        name: format!("node-{n}"),
        labels: [
            ("kubernetes.io/hostname", format!("node-{n}")),
            ("nvidia.com/gfd.timestamp", format!("17{n}")),
            ("topology.kubernetes.io/zone", format!("z{}", n % 3)),
            ("cloud.example.com/network-layer", format!("nn-{}", n / 64)),
            ("railbind.dev/fabric", "roce".into()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into(),
        ..NodeView::default()
    };
    let mut pool = Pool::default();
    let mut nodes = (0..5000).map(|number| Arc::new(pool.share(node(number)))).collect();
    let map = NodeMap::new(&mut nodes);
    assert_eq!(map.kinds(), 1);
    pool.sweep();
    assert!(pool.held() <= 1 + 3, "{} in memory", pool.held());
    assert_eq!(map.get("node-4711").and_then(|node| node.label("kubernetes.io/hostname")), Some("node-4711"));
    assert!(map.get("node-5000").is_none());
}
