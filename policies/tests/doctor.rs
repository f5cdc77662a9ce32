//! The doctor on values: each fault alone, and the right cause first; what a log says; and nothing on the healthy.

#![allow(clippy::unwrap_used, reason = "all of it is tests, helpers included")]

use std::collections::BTreeMap;

use policies::{
    doctor::{
        Asked, Cause, Diagnosis, NodeScene, PodScene, Scene, Severity, State, checklist, diagnose, is_healthy,
        logs::LogScene,
    },
    fabric::{Fact, Facts, Netdev, RdmaDevice},
    matrix::SelftestView,
    node_fabric::{NodeFabricStatus, ProblemStatus},
    profile::Profiles,
    select::NodeView,
};
use proptest::prelude::{any, proptest};
use rstest::rstest;
use serde_json::{Value, json};

fn node(name: &str, fabric: &str, profile: &str, more: &[(&str, &str)]) -> NodeScene {
    let mut labels: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in [
        ("fabric", fabric),
        ("profile", profile),
        ("gpudirect", "dmabuf"),
        ("memlock", "unlimited"),
        ("fabric-domain", fabric),
    ]
    .iter()
    .chain(more)
    {
        labels.insert(format!("railbind.dev/{key}"), (*value).into());
    }
    let resource = match fabric {
        "efa" => "vpc.amazonaws.com/efa",
        "tcp" => "example.com/nothing",
        _ => "rdma/ib",
    };
    let allocatable = [("nvidia.com/gpu", "8"), (resource, "8")].map(|(name, count)| (name.into(), count.into()));
    NodeScene {
        view: NodeView { name: name.into(), labels, allocatable: allocatable.into(), ..NodeView::default() },
        ready: Some(true),
        fabric: Fact::Known(Some(NodeFabricStatus::default())),
        ..NodeScene::default()
    }
}

/// A worker that is as the guide wants it; `edit` breaks it.
fn worker(name: &str, role: &str, node: &str, edit: impl FnOnce(&mut Value)) -> PodScene {
    let mut pod = json!({
        "metadata": {
            "name": name, "namespace": "demo",
            "labels": {"nvidia.com/dynamo-component-type": role, "nvidia.com/dynamo-graph-deployment-name": "llama"},
            "annotations": {"railbind.dev/decision": "{\"profile\":\"\"}"},
        },
        "spec": {"nodeName": node, "containers": [{
            "name": "main", "image": "engine",
            "env": [],
            "resources": {"limits": {"nvidia.com/gpu": "4", "rdma/ib": "4"}},
            "securityContext": {"capabilities": {"add": ["IPC_LOCK"]}},
        }]},
        "status": {"phase": "Running"},
    });
    edit(&mut pod);
    PodScene { namespace_labels: Fact::Known(BTreeMap::new()), ..PodScene::read(&pod) }
}

fn container(pod: &mut Value) -> &mut Value {
    &mut pod["spec"]["containers"][0]
}

fn env(pod: &mut Value, name: &str, value: &str) {
    container(pod)["env"] = json!([{"name": name, "value": value}]);
}

fn found(nodes: Vec<NodeScene>, pods: Vec<PodScene>) -> Vec<Diagnosis> {
    diagnose(&Scene { asked: Asked::Cluster, nodes, pods, ..Scene::default() }, &Profiles::embedded().unwrap())
}

fn two_roce() -> Vec<NodeScene> {
    vec![
        node("a", "roce", "roce-gpudirect", &[("gid-index", "3")]),
        node("b", "roce", "roce-gpudirect", &[("gid-index", "5")]),
    ]
}

fn problem(mut node: NodeScene, code: &str) -> NodeScene {
    let told = ProblemStatus {
        code: code.into(),
        subject: "mlx5_0 port 1".into(),
        message: "seen".into(),
        remedy: "do".into(),
    };
    node.fabric = Fact::Known(Some(NodeFabricStatus { problems: vec![told], ..NodeFabricStatus::default() }));
    node
}

fn with_port(mut node: NodeScene) -> NodeScene {
    let status = json!({"ports": [{"device": "mlx5_0", "port": 1, "role": "compute", "reason": ""}]});
    node.fabric = Fact::Known(Some(serde_json::from_value(status).unwrap()));
    node
}

fn tested(mut node: NodeScene, verdict: &str, partners: &[(&str, f64)]) -> NodeScene {
    let partners: Vec<Value> = partners
        .iter()
        .map(|(name, gbytes)| json!({"name": name, "verdict": "passed", "gbytesPerS": gbytes}))
        .collect();
    let test = json!({"selftest": {"verdict": verdict, "code": "FabricFallback", "reasons": ["tcp carried it"], "partners": partners}});
    node.selftest = SelftestView::of_status(&test).unwrap();
    node
}

#[test]
fn transfers_between_the_very_nodes() {
    let ib = |name: &str| node(name, "infiniband", "infiniband-gpudirect", &[]);
    let pods = || vec![worker("prefill", "prefill", "a", |_| {}), worker("decode", "decode", "b", |_| {})];
    let good = found(vec![tested(ib("a"), "passed", &[("b", 47.0)]), ib("b")], pods());
    assert!(good.is_empty(), "{good:#?}");
    let slow = found(vec![tested(ib("a"), "passed", &[("b", 0.4)]), ib("b")], pods());
    assert_eq!(slow[0].code, Cause::PairSlow, "{slow:#?}");
}

#[test]
fn nvlink_between_pods() {
    let gb = |name: &str, clique: &str| {
        let mut node = node(name, "infiniband", "infiniband-gpudirect", &[]);
        if !clique.is_empty() {
            node.view.labels.insert("nvidia.com/gpu.clique".into(), clique.into());
        }
        let facts = Facts { imex_channels: Fact::Known(vec![0]), ..Facts::default() };
        node.fabric = Fact::Known(Some(NodeFabricStatus { facts: json!(facts), ..NodeFabricStatus::default() }));
        node
    };
    let pods = |decode: &str, value: &str, claims: bool| {
        let edit = |pod: &mut Value| {
            if !value.is_empty() {
                env(pod, "UCX_CUDA_IPC_ENABLE_MNNVL", value);
            }
            if claims {
                pod["spec"]["resourceClaims"] = json!([{"name": "compute-domain-channel"}]);
            }
        };
        vec![worker("prefill", "prefill", "a", edit), worker("decode", "decode", decode, edit)]
    };
    let says = |nodes, pods| {
        let found = found(nodes, pods);
        (found[0].code, found[0].severity, found[0].cause.clone())
    };
    let (code, severity, cause) = says(vec![gb("a", "")], pods("a", "", false));
    assert_eq!((code, severity), (Cause::NvLink, Severity::Note));
    assert!(cause.contains("do not use NVLink"), "{cause}");
    let (code, _, cause) = says(vec![gb("a", "x.0"), gb("b", "x.0")], pods("b", "", true));
    assert_eq!(code, Cause::NvLink);
    assert!(cause.contains("can use NVLink"), "{cause}");
    let (code, severity, _) = says(vec![gb("a", "x.0"), gb("b", "y.0")], pods("b", "y", true));
    assert_eq!((code, severity), (Cause::CliquesDiffer, Severity::Fault));
}

#[test]
fn efa_halves_on_one_node() {
    let pods = vec![worker("prefill", "prefill", "a", |_| {}), worker("decode", "decode", "a", |_| {})];
    assert_eq!(found(vec![node("a", "efa", "efa-host-staged", &[])], pods)[0].code, Cause::EfaSameNode);
}

#[test]
fn versions_of_ucx() {
    let with = |name: &str, role: &str, version: &str| {
        let mut pod = worker(name, role, "a", |_| {});
        let mut logs = LogScene::default();
        logs.take(&format!("NIXL UCX backend bound to UCX {version} at /usr/lib"));
        pod.containers[0].logs = Fact::Known(logs);
        pod
    };
    let ib = node("a", "infiniband", "infiniband-gpudirect", &[]);
    let found = found(vec![ib], vec![with("p", "prefill", "1.18.1"), with("d", "decode", "1.19.0")]);
    assert_eq!((found[0].code, found[0].evidence.len()), (Cause::UcxVersionsDiffer, 2), "{found:#?}");
}

#[test]
fn silence_on_the_healthy() {
    let nodes = [two_roce(), vec![node("t", "tcp", "tcp", &[("gpudirect", "none"), ("memlock", "limited")])]].concat();
    let pods = vec![
        worker("prefill", "prefill", "a", |pod| env(pod, "UCX_IB_GID_INDEX", "3")),
        worker("decode", "decode", "b", |pod| env(pod, "UCX_IB_GID_INDEX", "auto")),
    ];
    let found = found(nodes, pods);
    assert!(is_healthy(&found) && found.is_empty(), "{found:#?}");
}

/// The ten faults, each alone.
#[rstest]
#[case::capability(Cause::IpcLockMissing, node("a", "infiniband", "infiniband-gpudirect", &[("memlock", "limited")]), |pod: &mut Value| { container(pod)["securityContext"] = json!({}); })]
#[case::gid_index(Cause::GidIndexWrong, node("a", "roce", "roce-gpudirect", &[("gid-index", "5")]), |pod: &mut Value| env(pod, "UCX_IB_GID_INDEX", "3"))]
#[case::gpudirect(Cause::NoGpuDirect, problem(node("a", "infiniband", "rdma-host-staged", &[("gpudirect", "none")]), "NoGpuDirect"), |_: &mut Value| {})]
#[case::tcp(Cause::TcpOnly, node("a", "tcp", "tcp", &[]), |_: &mut Value| {})]
#[case::efa(Cause::FatalSetting, node("a", "efa", "efa-host-staged", &[]), |pod: &mut Value| env(pod, "UCX_RNDV_SCHEME", "get_zcopy"))]
#[case::resource(Cause::ResourceNotRequested, node("a", "infiniband", "infiniband-gpudirect", &[]), |pod: &mut Value| { container(pod)["resources"] = json!({"limits": {"nvidia.com/gpu": "4"}}); })]
#[case::memlock(Cause::MemlockLimited, node("a", "infiniband", "infiniband-gpudirect", &[("memlock", "limited")]), |pod: &mut Value| { container(pod)["securityContext"]["runAsUser"] = json!(1000); })]
#[case::link(Cause::PortDown, problem(node("a", "infiniband", "infiniband-gpudirect", &[]), "PortDown"), |_: &mut Value| {})]
#[case::misspelt(Cause::UnknownVariable, node("a", "infiniband", "infiniband-gpudirect", &[]), |pod: &mut Value| env(pod, "UCX_NET_DEVICE", "mlx5_0:1"))]
#[case::tls(Cause::TlsExcludesRdma, node("a", "infiniband", "infiniband-gpudirect", &[]), |pod: &mut Value| env(pod, "UCX_TLS", "tcp,cuda_copy"))]
#[case::tls_without_cuda(Cause::TlsExcludesGpu, node("a", "infiniband", "infiniband-gpudirect", &[]), |pod: &mut Value| env(pod, "UCX_TLS", "rc,ud"))]
#[case::switched_off(Cause::GpuDirectSwitchedOff, node("a", "infiniband", "infiniband-gpudirect", &[]), |pod: &mut Value| env(pod, "UCX_IB_GPU_DIRECT_RDMA", "n"))]
#[case::late(Cause::LateValueMissing, node("a", "roce", "roce-gpudirect", &[("gid-index", "3")]), |pod: &mut Value| { container(pod)["env"] = json!([{"name": "UCX_IB_GID_INDEX", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['env.railbind.dev/UCX_IB_GID_INDEX']"}}}]); })]
#[case::net_devices(Cause::NetDevicesWrong, with_port(node("a", "infiniband", "infiniband-gpudirect", &[])), |pod: &mut Value| env(pod, "UCX_NET_DEVICES", "mlx5_9:1"))]
#[case::stale(Cause::ProfileStale, node("a", "infiniband", "infiniband-gpudirect", &[]), |pod: &mut Value| { pod["metadata"]["annotations"] = json!({"railbind.dev/decision": "{\"profile\":\"tcp\"}"}); })]
#[case::no_shm(Cause::SharedMemoryMissing, node("a", "infiniband", "infiniband-gpudirect", &[]), |pod: &mut Value| { container(pod)["image"] = json!("vllm/vllm-openai"); })]
#[case::crash(Cause::Restarts, node("a", "infiniband", "infiniband-gpudirect", &[]), |pod: &mut Value| { pod["status"]["containerStatuses"] = json!([{"name": "main", "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]); })]
#[case::selftest(Cause::SelftestFailed, tested(node("a", "infiniband", "infiniband-gpudirect", &[]), "failed", &[]), |_: &mut Value| {})]
#[case::silent_agent(Cause::AgentSilent, NodeScene { fabric: Fact::Known(None), view: NodeView { labels: BTreeMap::new(), ..node("a", "infiniband", "x", &[]).view }, ..NodeScene::default() }, |_: &mut Value| {})]
#[case::stack_without_railbind(Cause::NotInjected, node("a", "infiniband", "infiniband-gpudirect", &[]), |pod: &mut Value| { pod["metadata"]["annotations"] = json!({}); })]
fn one_fault(#[case] cause: Cause, #[case] node: NodeScene, #[case] edit: impl FnOnce(&mut Value)) {
    let found = found(vec![node], vec![worker("w", "decode", "a", edit)]);
    assert_eq!(found.first().map(|found| found.code), Some(cause), "{found:#?}");
    assert!(!is_healthy(&found));
    let first = &found[0];
    assert!(!first.evidence.is_empty() && !first.remedy.is_empty() && !first.guide.is_empty(), "{first:#?}");
}

#[test]
fn domains() {
    let nodes = vec![
        node("a", "infiniband", "infiniband-gpudirect", &[]),
        node("b", "roce", "roce-gpudirect", &[("gid-index", "3")]),
    ];
    let pods = vec![worker("prefill", "prefill", "a", |_| {}), worker("decode", "decode", "b", |_| {})];
    let found = found(nodes, pods);
    assert_eq!(found[0].code, Cause::DomainsDiffer, "{found:#?}");
    assert_eq!(found[0].subjects, ["deployment demo/llama"]);
}

#[test]
fn mtu() {
    let with_mtu = |name: &str, mtus: &[u32]| {
        let mut node = node(name, "roce", "roce-gpudirect", &[("gid-index", "3")]);
        let devices = mtus.iter().enumerate().map(|(index, mtu)| RdmaDevice {
            name: format!("mlx5_{index}"),
            netdevs: vec![Netdev { name: format!("rdma{index}"), mtu: Some(*mtu), ..Netdev::default() }],
            ..RdmaDevice::default()
        });
        let facts = Facts { devices: Fact::Known(devices.collect()), ..Facts::default() };
        let ports = (0..mtus.len())
            .map(|index| json!({"device": format!("mlx5_{index}"), "port": 1, "role": "compute", "reason": ""}));
        let status = json!({"ports": ports.collect::<Vec<_>>(), "facts": facts});
        node.fabric = Fact::Known(Some(serde_json::from_value(status).unwrap()));
        node
    };
    let pods = || vec![worker("prefill", "prefill", "a", |_| {}), worker("decode", "decode", "b", |_| {})];
    let codes = |nodes: Vec<NodeScene>| found(nodes, pods()).iter().map(|found| found.code).collect::<Vec<_>>();
    assert_eq!(codes(vec![with_mtu("a", &[9000, 9000]), with_mtu("b", &[9000])]), []);
    assert_eq!(codes(vec![with_mtu("a", &[9000, 1500]), with_mtu("b", &[1500])]), [Cause::MtuDiffers]);
    assert_eq!(codes(vec![with_mtu("a", &[9000]), with_mtu("b", &[1500])]), [Cause::MtuDiffers]);
}

#[test]
fn a_symptom_is_evidence_of_its_cause_and_a_finding_only_without_one() {
    let mut logs = LogScene::default();
    logs.take("[1] UCX  WARN no RDMA transports available");
    logs.take("[2] NIXL INFO falling back to TCP transport");
    logs.take("[3] NIXL INFO falling back to TCP transport");
    let with_logs = |mut pod: PodScene| {
        pod.containers[0].logs = Fact::Known(logs.clone());
        pod
    };
    let ib = || node("a", "infiniband", "infiniband-gpudirect", &[]);
    let no_resource = |pod: &mut Value| {
        container(pod)["resources"] = json!({"limits": {"nvidia.com/gpu": "4"}});
    };
    let explained = found(vec![ib()], vec![with_logs(worker("w", "decode", "a", no_resource))]);
    let codes: Vec<Cause> = explained.iter().map(|found| found.code).collect();
    assert_eq!(codes, [Cause::ResourceNotRequested], "{explained:#?}");
    assert!(explained[0].evidence.iter().any(|line| line.contains("no RDMA transports")), "{explained:#?}");
    let alone = found(vec![ib()], vec![with_logs(worker("w", "decode", "a", |_| {}))]);
    assert_eq!(alone[0].code, Cause::LogsTcp);
    assert!(alone.iter().any(|found| found.evidence.iter().any(|line| line.contains("(2 times)"))), "{alone:#?}");
}

#[test]
fn what_logs_say() {
    let mut logs = LogScene::default();
    for line in [
        "2026-01-01 NIXL INFO Backend UCX was instantiated",
        "NIXL UCX backend bound to UCX 1.21.0 at /usr/lib/libucp.so",
        "| ucp_context_0 inter-node cfg#2 | remote memory read by ucp_get* into cuda/GPU0 from cuda | zero-copy | rc_mlx5/mlx5_0:1 |",
        "Unexpected UCX error: Unsupported operation",
        "ERROR ibv_reg_dmabuf_mr(address=0x7f) failed: Unknown error 524",
        "ib_mlx5.c: invalid gid[3] on mlx5_0:1",
        "parser.c:2081 UCX WARN unused environment variable: UCX_NET_DEVICE (maybe: UCX_NET_DEVICES?)",
        "\u{1b}[31mgetXferStatus: backend 'UCX' returned error status NIXL_ERR_BACKEND\u{1b}[0m",
        "an ordinary line",
    ] {
        logs.take(line);
    }
    assert_eq!((logs.backends.as_slice(), logs.ucx.as_deref()), (["UCX".to_owned()].as_slice(), Some("1.21.0")));
    assert_eq!(logs.transport.as_deref(), Some("rc_mlx5/mlx5_0:1"));
    let means: Vec<Cause> = logs.hits.iter().map(|hit| hit.means).collect();
    assert_eq!(
        means,
        [
            Cause::LogsUnsupported,
            Cause::LogsRegistration,
            Cause::GidIndexWrong,
            Cause::LogsUnusedVariable,
            Cause::LogsTransfer
        ]
    );
    assert!(logs.hits.iter().all(|hit| !hit.line.contains('\u{1b}')));
    // A line as large as a log, cut within a character.
    logs.take(&"ü".repeat(1 << 20));
    assert_eq!(logs.lines, 10);
}

#[test]
fn no_webhook() {
    let bare = |pod: &mut Value| pod["metadata"]["annotations"] = json!({});
    let nodes = vec![node("a", "infiniband", "infiniband-gpudirect", &[])];
    let pods = vec![worker("w", "decode", "a", bare)];
    let scene = Scene { nodes, pods, webhook: Fact::Known(false), ..Scene::default() };
    let found = diagnose(&scene, &Profiles::embedded().unwrap());
    assert_eq!(found[0].code, Cause::NotInjected, "{found:#?}");
    assert!(found[0].evidence[0].contains("MutatingWebhookConfiguration"), "{found:#?}");
}

#[rstest]
#[case::nobody_said(json!(null), true)]
#[case::runs(json!({"state": {"running": {}}}), true)]
#[case::creating(json!({"state": {"waiting": {"reason": "ContainerCreating"}}}), false)]
#[case::no_image(json!({"restartCount": 0, "lastState": {}, "state": {"waiting": {"reason": "ImagePullBackOff"}}}), false)]
#[case::crashed(json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 1}}}), true)]
#[case::forgotten(json!({"restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}), true)]
#[case::ended(json!({"state": {"terminated": {"exitCode": 0}}}), true)]
fn where_a_log_may_be(#[case] mut status: Value, #[case] begun: bool) {
    let pod = worker("w", "decode", "a", |pod| {
        if status.is_object() {
            status["name"] = json!("main");
            pod["status"]["containerStatuses"] = json!([status]);
        }
    });
    assert_eq!(pod.containers[0].begun, begun);
}

#[test]
fn the_checklist() {
    let mut nodes = two_roce();
    nodes[1].view.allocatable.remove("rdma/ib");
    let scene =
        Scene { asked: Asked::Cluster, nodes, pods: vec![worker("w", "decode", "a", |_| {})], ..Scene::default() };
    let states: Vec<State> = checklist(&scene).iter().map(|check| check.state).collect();
    assert_eq!(states, [State::No, State::Yes, State::Yes, State::Unknown, State::Unknown]);
    let found = diagnose(&scene, &Profiles::embedded().unwrap());
    assert_eq!((found[0].code, found[0].severity), (Cause::NoDevicePlugin, Severity::Fault), "{found:#?}");
}

#[rstest]
#[case(json!(null))]
#[case(json!([]))]
#[case(json!({"spec": {"containers": "x"}, "metadata": 7, "status": []}))]
#[case(json!({"spec": {"containers": [null, {"resources": {"limits": {"nvidia.com/gpu": 18_446_744_073_709_551_615_u64, "amd.com/gpu": 18_446_744_073_709_551_615_u64}}, "env": [{}, 3]}]}}))]
fn pods_that_make_no_sense(#[case] pod: Value) {
    let scene = Scene { pods: vec![PodScene::read(&pod)], ..Scene::default() };
    diagnose(&scene, &Profiles::embedded().unwrap());
}

proptest! {
    #[test]
    fn no_pod_and_no_line_makes_it_panic(text in "\\PC*", line in any::<String>(), count in any::<i64>()) {
        let mut logs = LogScene::default();
        logs.take(&line);
        logs.take(&format!("backend {line} was instantiated backend bound to ucx {text} zero-copy {line}"));
        let pod = json!({
            "metadata": {"name": text, "annotations": {"railbind.dev/decision": line, "railbind.dev/containers": text}},
            "spec": {"containers": [{"name": text, "env": [{"name": line, "value": text}, {"name": "UCX_TLS", "value": line}], "resources": {"limits": {"nvidia.com/gpu": count}}}]},
            "status": {"containerStatuses": [{"name": text, "restartCount": count, "state": {"waiting": {"reason": line}}}]},
        });
        let mut pod = PodScene::read(&pod);
        pod.worker = Some(String::new());
        pod.node = Some("a".into());
        for container in &mut pod.containers {
            container.logs = Fact::Known(logs.clone());
        }
        found(vec![node("a", "roce", "roce-gpudirect", &[("gid-index", &line)])], vec![pod]);
    }
}
