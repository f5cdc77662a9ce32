//! Sets other than the guide's, and agreement within a deployment.

use std::collections::BTreeMap;

use policies::{
    intent::{ContainerIntent, Engine, Placement, PodIntent},
    plan::{EnvValue, Plan, bind_values, plan},
    profile::Profiles,
    select::NodeView,
    workers,
};

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn node(name: &str, labels: &[(&str, &str)]) -> NodeView {
    let labels: Vec<(String, &str)> =
        labels.iter().map(|(key, value)| (format!("railbind.dev/{key}"), *value)).collect();
    let labels = labels.into_iter().map(|(key, value)| (key, value.to_owned())).chain([("name".into(), name.into())]);
    NodeView {
        name: name.into(),
        labels: labels.collect(),
        allocatable: map(&[("nvidia.com/gpu", "8"), ("rdma/ib", "8")]),
        net_devices: Some("mlx5_0:1".into()),
        roce_subnets: Some("10.20.0.0/16".into()),
        ..NodeView::default()
    }
}

fn cluster() -> Vec<NodeView> {
    vec![
        node(
            "ib",
            &[
                ("fabric", "infiniband"),
                ("profile", "infiniband-gpudirect"),
                ("gpudirect", "dmabuf"),
                ("fabric-domain", "i"),
            ],
        ),
        node(
            "roce",
            &[("fabric", "roce"), ("profile", "roce-gpudirect"), ("gpudirect", "dmabuf"), ("fabric-domain", "r")],
        ),
        node("staged-ib", &[("fabric", "infiniband"), ("profile", "rdma-host-staged"), ("gpudirect", "none")]),
        node("staged-roce", &[("fabric", "roce"), ("profile", "rdma-host-staged"), ("gpudirect", "none")]),
        node("efa", &[("fabric", "efa"), ("profile", "efa-host-staged"), ("kernel", "6.8"), ("fabric-domain", "e")]),
        node("tcp", &[("fabric", "tcp"), ("profile", "tcp")]),
    ]
}

fn worker(labels: &[(&str, &str)], on: Option<&str>) -> PodIntent {
    PodIntent {
        containers: vec![ContainerIntent { name: "main".into(), gpus: 1, ..ContainerIntent::default() }],
        engine: Some(Engine::Vllm),
        group: workers::group(&map(labels)),
        role: workers::role_of(&map(labels)),
        node_selector: on.map(|node| map(&[("name", node)])).unwrap_or_default(),
        ..PodIntent::default()
    }
}

fn run(nodes: &[NodeView], intent: &PodIntent) -> Plan {
    plan(&Profiles::embedded().expect("the shipped profiles"), &nodes.iter().cloned().collect(), intent)
}

const PREFILL: &[(&str, &str)] = &[("llm-d.ai/model", "m"), ("llm-d.ai/role", "prefill")];
const DECODE: &[(&str, &str)] = &[("llm-d.ai/model", "m"), ("llm-d.ai/role", "decode")];

#[test]
fn the_set_nixl_takes_the_nodes_own_devices_and_subnets() {
    let nodes = cluster();
    for (on, profile, late) in [
        ("ib", "nixl-infiniband", &["UCX_NET_DEVICES"][..]),
        ("roce", "nixl-roce", &["UCX_NET_DEVICES", "UCX_IB_ROCE_SUBNETS"]),
        ("staged-ib", "nixl-rdma-host-staged", &["UCX_NET_DEVICES"]),
        ("staged-roce", "nixl-rdma-host-staged", &["UCX_NET_DEVICES", "UCX_IB_ROCE_SUBNETS"]),
        ("efa", "nixl-efa-libfabric", &[]),
        ("tcp", "nixl-tcp", &[]),
    ] {
        let plan = run(&nodes, &PodIntent { profile_set: Some("nixl".into()), ..worker(DECODE, Some(on)) });
        assert_eq!(plan.profile.as_deref(), Some(profile), "{on}: {plan:#?}");
        let found: Vec<&str> = plan
            .env
            .iter()
            .filter(|variable| variable.value == EnvValue::Late("all".into()))
            .map(|variable| variable.name.as_str())
            .collect();
        assert_eq!(found, late, "{on}");
        let own = nodes.iter().find(|node| node.name == on).expect("node").labels["railbind.dev/profile"].clone();
        assert_eq!(plan.affinity[0].values, [own], "{on}: pinned by what the agent says");
    }
    let values = bind_values(&Profiles::embedded().unwrap(), &nodes[1]);
    assert_eq!(values, map(&[("UCX_NET_DEVICES", "mlx5_0:1"), ("UCX_IB_ROCE_SUBNETS", "10.20.0.0/16")]));
}

#[test]
fn a_profile_for_two_fabrics_is_two_classes() {
    let nodes: Vec<NodeView> = cluster().into_iter().filter(|node| node.name.starts_with("staged")).collect();
    let plan = run(&nodes, &worker(DECODE, None));
    let pinned: Vec<&str> =
        plan.affinity.iter().flat_map(|requirement| &requirement.values).map(String::as_str).collect();
    assert_eq!(pinned, ["rdma-host-staged", "infiniband", "failed"], "not where the self-test fails");
    assert!(!plan.env.iter().any(|variable| variable.name == "UCX_IB_GID_INDEX"), "never on InfiniBand");
}

#[test]
fn a_deployment_goes_where_every_kind_of_its_workers_can() {
    let nodes = cluster();
    let free = worker(PREFILL, None);
    assert_eq!(run(&nodes, &free).profile.as_deref(), Some("infiniband-gpudirect"));
    let bound = worker(DECODE, Some("roce"));
    let told = PodIntent { siblings: vec![bound.constraints()], ..free.clone() };
    let plan = run(&nodes, &told);
    assert_eq!(plan.profile.as_deref(), Some("roce-gpudirect"), "{:#?}", plan.reasons);
    assert!(plan.reasons.iter().any(|reason| reason.contains("cannot go there")), "{:#?}", plan.reasons);
    // Whoever asks: the other kind, with the first as its sibling, comes to the same.
    let other = PodIntent { siblings: vec![free.constraints()], ..bound.clone() };
    assert_eq!(run(&nodes, &other).profile.as_deref(), Some("roce-gpudirect"));
    // Where there is nothing in common, each takes its best and a person is told.
    let apart = PodIntent { siblings: vec![bound.constraints()], ..worker(PREFILL, Some("ib")) };
    let plan = run(&nodes, &apart);
    assert_eq!(plan.profile.as_deref(), Some("infiniband-gpudirect"));
    assert!(plan.warnings[0].contains("no fabric in common"), "{:?}", plan.warnings);
}

#[test]
fn what_we_pinned_ourselves_is_not_taken_for_the_users_wish() {
    let nodes = cluster();
    let free = worker(PREFILL, None);
    let mut admitted = worker(DECODE, None);
    admitted.terms = vec![policies::intent::Term {
        match_expressions: run(&nodes[1..], &admitted).affinity,
        match_fields: Vec::new(),
    }];
    assert_eq!(admitted.constraints(), free.constraints(), "an old pod on RoCE does not keep new ones from InfiniBand");
}

#[test]
fn workers_of_a_deployment_stay_in_one_domain_and_on_efa_apart() {
    let nodes = cluster();
    let plan = run(&nodes, &worker(PREFILL, None));
    assert_eq!(plan.together.len(), 1);
    assert_eq!(plan.together[0].topology_key, "railbind.dev/fabric-domain");
    assert!(plan.apart.is_empty(), "only EFA wants that");
    let efa = run(&nodes, &worker(PREFILL, Some("efa")));
    assert_eq!(efa.apart[0].topology_key, "kubernetes.io/hostname");
    assert_eq!(efa.apart[0].selector[1].values, ["decode"]);
    assert_eq!(efa.near[0].selector[1].values, ["prefill"], "packed, to leave nodes for the other half");
    for alone in [
        worker(&[("llm-d.ai/role", "prefill")], None),
        PodIntent { placement: Placement::None, ..worker(PREFILL, None) },
        PodIntent { node_name: Some("ib".into()), ..worker(PREFILL, None) },
        worker(PREFILL, Some("tcp")),
    ] {
        let plan = run(&nodes, &alone);
        assert!(plan.together.is_empty() && plan.apart.is_empty(), "{alone:?}");
    }
}

fn says(mut node: NodeView, selftest: &str, fastest: Option<&str>) -> NodeView {
    node.labels.insert("railbind.dev/selftest".into(), selftest.into());
    NodeView { fastest_set: fastest.map(Into::into), ..node }
}

#[test]
fn a_node_whose_self_test_failed_is_not_chosen_and_not_landed_on() {
    let failed =
        |name: &'static str| move |node: NodeView| if node.name == name { says(node, "failed", None) } else { node };
    let nodes: Vec<NodeView> = cluster().into_iter().map(failed("ib")).collect();
    let plan = run(&nodes, &worker(DECODE, None));
    assert_eq!(plan.profile.as_deref(), Some("roce-gpudirect"), "{:#?}", plan.reasons);
    assert!(
        plan.reasons.iter().any(|reason| reason.contains("1 of 6 candidate nodes left out")),
        "{:#?}",
        plan.reasons
    );
    let last = plan.affinity.last().expect("an affinity");
    assert_eq!((last.key.as_str(), last.operator.as_str()), ("railbind.dev/selftest", "NotIn"));
    assert_eq!(last.values, ["failed"]);

    let plan = run(&nodes, &worker(DECODE, Some("ib")));
    assert_eq!((plan.profile, plan.env), (None, vec![]), "nothing promises RDMA where there is none");
    assert!(plan.warnings[0].contains("the self-test failed on all 1 nodes"), "{:?}", plan.warnings);

    // TCP has nothing to lose: its label says how fast it is.
    let nodes: Vec<NodeView> = cluster().into_iter().map(failed("tcp")).collect();
    let plan = run(&nodes, &worker(DECODE, Some("tcp")));
    assert_eq!(plan.profile.as_deref(), Some("tcp"));
    assert!(plan.affinity.iter().all(|requirement| requirement.key != "railbind.dev/selftest"));
}

#[test]
fn auto_takes_the_set_that_every_candidate_found_the_fastest() {
    let auto =
        |nodes: &[NodeView], on| run(nodes, &PodIntent { profile_set: Some("auto".into()), ..worker(DECODE, on) });
    let fastest = |set: Option<&'static str>| move |node| says(node, "passed", set);
    let nodes: Vec<NodeView> = cluster().into_iter().map(fastest(Some("nixl"))).collect();
    let plan = auto(&nodes, None);
    assert_eq!(plan.profile.as_deref(), Some("nixl-infiniband"), "{:#?}", plan.reasons);
    assert!(plan.reasons.iter().any(|reason| reason.starts_with("profile set nixl")), "{:#?}", plan.reasons);

    // One that found another, one that found none, and one that says a set that is none.
    for other in [Some("guide"), None, Some("mine")] {
        let mut nodes = nodes.clone();
        nodes[1].fastest_set = other.map(Into::into);
        assert_eq!(auto(&nodes, None).profile.as_deref(), Some("infiniband-gpudirect"), "{other:?}");
        assert_eq!(auto(&nodes, Some("ib")).profile.as_deref(), Some("nixl-infiniband"), "only the candidates count");
    }
}
