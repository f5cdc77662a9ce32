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
    assert_eq!(pinned, ["rdma-host-staged", "infiniband"]);
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
