//! Plans: which class a pod goes to and what it gets there; and what a Binding carries.

use std::collections::BTreeMap;

use policies::{
    intent::{ContainerIntent, Engine, Placement, PodIntent},
    plan::{EnvValue, Plan, bind_values, plan},
    profile::Profiles,
    room::{Charged, QuotaView, Room},
    select::{NodeView, Taint},
};

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn node(name: &str, fabric: &str, profile: &str, allocatable: &[(&str, &str)]) -> NodeView {
    NodeView {
        name: name.into(),
        labels: map(&[("railbind.dev/fabric", fabric), ("railbind.dev/profile", profile)]),
        allocatable: map(allocatable),
        ..NodeView::default()
    }
}

fn worker(gpus: u64) -> PodIntent {
    PodIntent {
        containers: vec![ContainerIntent { name: "main".into(), gpus, ..ContainerIntent::default() }],
        engine: Some(Engine::Vllm),
        ..PodIntent::default()
    }
}

fn run(nodes: &[NodeView], intent: &PodIntent) -> Plan {
    plan(&Profiles::embedded().expect("the shipped profiles"), &nodes.iter().cloned().collect(), intent)
}

fn env(plan: &Plan) -> Vec<(&str, &str)> {
    let value = |value| match value {
        &EnvValue::Constant(ref text) | &EnvValue::Late(ref text) => text.as_str(),
    };
    plan.env.iter().map(|variable| (variable.name.as_str(), value(&variable.value))).collect()
}

fn cluster() -> Vec<NodeView> {
    let eight = [("nvidia.com/gpu", "8"), ("rdma/ib", "8")];
    vec![
        node("ib", "infiniband", "infiniband-gpudirect", &eight),
        node("roce", "roce", "roce-gpudirect", &[("nvidia.com/gpu", "8"), ("rdma/roce_gdr", "4")]),
        node("efa", "efa", "efa-host-staged", &[("nvidia.com/gpu", "8"), ("vpc.amazonaws.com/efa", "32")]),
        node("tcp", "tcp", "tcp", &[("nvidia.com/gpu", "8")]),
    ]
}

#[test]
fn the_best_fabric_wins_and_the_guide_is_verbatim() {
    let plan = run(&cluster(), &worker(2));
    assert_eq!(plan.profile.as_deref(), Some("infiniband-gpudirect"));
    let expected =
        [("UCX_TLS", "rc_x,rc,dc_x,dc,cuda_copy,cuda_ipc"), ("UCX_RNDV_SCHEME", "get_zcopy"), ("UCX_RNDV_THRESH", "0")];
    assert_eq!(env(&plan), expected);
    assert_eq!(plan.resources["main"], ("rdma/ib".into(), 2));
    assert_eq!(plan.capabilities, ["IPC_LOCK"]);
    assert_eq!(plan.shared_memory.as_deref(), Some("16Gi"));
    assert_eq!(plan.affinity[0].values, ["infiniband-gpudirect"]);
    assert!(plan.reasons.iter().any(|reason| reason.contains("UCX_IB_REG_METHODS left out")), "{:?}", plan.reasons);
}

#[test]
fn reg_methods_only_for_a_ucx_that_knows_it() {
    let mut intent = worker(1);
    intent.ucx = Some("1.15".parse().unwrap());
    assert!(env(&run(&cluster(), &intent)).contains(&("UCX_IB_REG_METHODS", "odp,rcache")));
    intent.ucx = Some("1.16".parse().unwrap());
    assert!(!env(&run(&cluster(), &intent)).iter().any(|(name, _)| *name == "UCX_IB_REG_METHODS"));
}

#[test]
fn resources_follow_what_nodes_give() {
    let mut intent = worker(8);
    intent.node_selector = map(&[("railbind.dev/fabric", "roce")]);
    let plan = run(&cluster(), &intent);
    assert_eq!(plan.resources["main"], ("rdma/roce_gdr".into(), 4), "never more than a node has");
    assert!(env(&plan).contains(&("UCX_IB_GID_INDEX", "auto")));

    intent.node_selector = map(&[("railbind.dev/fabric", "efa")]);
    intent.containers[0].gpus = 2;
    assert_eq!(run(&cluster(), &intent).resources["main"], ("vpc.amazonaws.com/efa".into(), 8), "four for each GPU");
}

#[test]
fn no_more_than_quotas_and_limits_leave_room_for() {
    let bounded = |left: u64, own: Option<u64>| {
        let quota =
            QuotaView { key: "ns/team".into(), left: [("rdma/ib".to_owned(), left)].into(), ..QuotaView::default() };
        let mut intent = worker(4);
        intent.containers.push(ContainerIntent { name: "second".into(), gpus: 2, ..ContainerIntent::default() });
        let requests = own.map(|own| ("rdma/ib".to_owned(), own)).into_iter().collect();
        intent.room = Room::new([&quota], [], &Charged { requests, ..Charged::default() });
        run(&cluster(), &intent)
    };
    let given = |plan: &Plan| plan.resources.values().map(|(_, count)| *count).collect::<Vec<_>>();
    let enough = bounded(6, None);
    assert_eq!((given(&enough), enough.warnings.len()), (vec![4, 2], 0));
    let some = bounded(5, None);
    assert_eq!(given(&some), [4, 1]);
    assert_eq!(
        some.warnings,
        ["railbind: ResourceQuota team leaves room for 1 of 2 rdma/ib in container second: raise it"]
    );
    let none = bounded(3, Some(3));
    assert!(none.resources.is_empty());
    assert_eq!(
        none.warnings[0],
        "railbind: ResourceQuota team leaves room for none of 4 rdma/ib in container main, which sees no NIC without it: raise it"
    );
    assert_eq!(none.profile.as_deref(), Some("infiniband-gpudirect"), "the rest of the plan stands");
    assert!(none.warnings.iter().all(|warning| warning.len() <= 200));
}

#[test]
fn shared_memory_is_at_most_half_of_the_memory_limit() {
    const GI: u64 = 1 << 30;
    let size = |engine, limits: &[Option<u64>]| {
        let containers = limits.iter().enumerate().map(|(number, memory)| ContainerIntent {
            name: format!("c{number}"),
            gpus: 1,
            memory: *memory,
            ..ContainerIntent::default()
        });
        let intent = PodIntent { containers: containers.collect(), engine: Some(engine), ..worker(1) };
        let plan = run(&cluster(), &intent);
        (plan.shared_memory.unwrap(), plan.warnings.len())
    };
    let is = |size: &str, warnings| (size.to_owned(), warnings);
    assert_eq!(size(Engine::Vllm, &[None]), is("16Gi", 0), "no limit, no change");
    assert_eq!(size(Engine::Vllm, &[Some(32 * GI)]), is("16Gi", 0));
    assert_eq!(size(Engine::Vllm, &[Some(32 * GI - 1)]), is("16383Mi", 1));
    assert_eq!(size(Engine::Vllm, &[Some(24 * GI)]), is("12Gi", 1));
    assert_eq!(size(Engine::TensorRtLlm, &[Some(64 * GI)]), is("32Gi", 1));
    assert_eq!(size(Engine::Vllm, &[Some(GI / 16)]), is("64Mi", 1), "never below what there is without us");
    assert_eq!(size(Engine::Vllm, &[Some(GI), None]), is("16Gi", 0), "one of them is not limited");
    assert_eq!(size(Engine::Vllm, &[Some(GI), Some(64 * GI)]), is("16Gi", 0), "the engine's is the largest");
}

#[test]
fn gpus_by_claim_count_as_one_where_a_device_plugin_gives_nics() {
    let mut intent = worker(1);
    intent.containers[0].by_claim = true;
    let plan = run(&cluster(), &intent);
    assert_eq!(plan.resources["main"], ("rdma/ib".into(), 1));
    let bare = [node("ib", "infiniband", "infiniband-gpudirect", &[])];
    let plan = run(&bare, &intent);
    assert!(plan.resources.is_empty() && plan.warnings.is_empty(), "{:?}", plan.warnings);
    assert!(run(&bare, &worker(1)).warnings[0].contains("is the device plugin installed?"));
}

#[test]
fn tcp_warns_with_the_guides_figure() {
    let mut intent = worker(1);
    intent.node_selector = map(&[("railbind.dev/fabric", "tcp")]);
    let plan = run(&cluster(), &intent);
    assert_eq!(plan.profile.as_deref(), Some("tcp"));
    assert!(plan.warnings[0].contains("+90-100s"), "{:?}", plan.warnings);
    assert!(plan.resources.is_empty() && plan.capabilities.is_empty());
}

#[test]
fn unknown_nodes_change_nothing() {
    let silent = NodeView { name: "silent".into(), ..NodeView::default() };
    let plan = run(&[silent], &worker(1));
    assert_eq!((plan.profile, plan.env), (None, vec![]));
    assert!(plan.warnings[0].contains("railbind-agent"), "{:?}", plan.warnings);
    assert!(run(&[], &worker(1)).warnings[0].contains("none of 0 nodes"));
}

#[test]
fn a_fatal_setting_of_the_user_is_named_and_stays() {
    let mut intent = worker(1);
    intent.node_selector = map(&[("railbind.dev/fabric", "efa")]);
    intent.containers[0].env.insert("UCX_RNDV_SCHEME".into(), Some("get_zcopy".into()));
    let plan = run(&cluster(), &intent);
    assert!(plan.warnings.iter().any(|warning| warning.contains("NIXL_ERR_BACKEND")), "{:?}", plan.warnings);
    assert!(plan.reasons.iter().any(|reason| reason.contains("UCX_RNDV_SCHEME is the user's")), "{:?}", plan.reasons);
}

#[test]
fn taints_selectors_capacity_and_a_preset_node_narrow_the_candidates() {
    let mut nodes = cluster();
    nodes[0].taints =
        vec![Taint { key: "dedicated".into(), value: Some("training".into()), effect: "NoSchedule".into() }];
    assert_eq!(run(&nodes, &worker(1)).profile.as_deref(), Some("roce-gpudirect"));
    nodes[1].unschedulable = true;
    assert_eq!(run(&nodes, &worker(1)).profile.as_deref(), Some("efa-host-staged"));
    assert_eq!(run(&nodes, &worker(16)).profile, None);
    let preset = PodIntent { node_name: Some("tcp".into()), ..worker(1) };
    let plan = run(&nodes, &preset);
    assert_eq!((plan.profile.as_deref(), plan.affinity.len()), (Some("tcp"), 0));
}

#[test]
fn placement_none_pins_nothing() {
    let intent = PodIntent { placement: Placement::None, ..worker(1) };
    assert!(run(&cluster(), &intent).affinity.is_empty());
}

#[test]
fn pod_security_leaves_ipc_lock_out_and_says_so() {
    let intent = PodIntent { refuses_ipc_lock: Some("baseline".into()), ..worker(1) };
    let plan = run(&cluster(), &intent);
    assert!(plan.capabilities.is_empty());
    assert!(plan.warnings[0].contains("baseline"), "{:?}", plan.warnings);
    let mut unlimited = cluster();
    unlimited[0].labels.insert("railbind.dev/memlock".into(), "unlimited".into());
    assert!(run(&unlimited, &intent).warnings.is_empty(), "unlimited memlock needs no capability");
}

#[test]
fn a_binding_carries_only_what_a_profile_lists_and_the_grammar_allows() {
    let profiles = Profiles::embedded().unwrap();
    let mut nodes = cluster();
    for node in &mut nodes {
        node.labels.insert("railbind.dev/gid-index".into(), "5".into());
    }
    assert_eq!(bind_values(&profiles, &nodes[0]), BTreeMap::new(), "never on InfiniBand");
    assert_eq!(bind_values(&profiles, &nodes[1]), map(&[("UCX_IB_GID_INDEX", "5")]));
    for hostile in ["5;rm", "-1", "70000", "", "0x5", "5\n"] {
        nodes[1].labels.insert("railbind.dev/gid-index".into(), hostile.into());
        assert_eq!(bind_values(&profiles, &nodes[1]), BTreeMap::new(), "{hostile:?}");
    }
}
