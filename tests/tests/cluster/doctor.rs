//! `kubectl railbind doctor` on the demo's cluster: silence on the healthy one, then ten faults one by one.

use anyhow::{Context as _, Result, ensure};
use harness::{
    Cluster, LIMIT, Options,
    front::Rule,
    railbind::Daemon,
    scene::{MACHINES, Machine},
    until, with_namespace,
};
use serde_json::{Value, json};

use crate::cli::{Answer, run};

const WORKERS: &str = include_str!("../../demo/workers.yaml");
const INJECT: &[(&str, &str)] = &[("railbind.dev/inject", "enabled")];
const ON_ONES_OWN: &[(&str, &str)] = &[];

/// Machines with a fault, each of a fixture.
const BROKEN: &[Machine] = &[
    broken("ib-locked", "ib-memlock-limited"),
    broken("ib-staged", "ib-no-gpudirect"),
    broken("ib-link", "ib-port-down"),
];

const fn broken(node: &'static str, fixture: &'static str) -> Machine {
    Machine {
        node,
        fixture: Some(fixture),
        what: fixture,
        resources: &[("nvidia.com/gpu", "4"), ("rdma/ib", "4")],
        kernel: "6.8.0-45-generic",
    }
}

#[tokio::test]
async fn ten_faults_ten_times_the_right_cause_first_and_silence_on_the_healthy() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.install_identities().await.unwrap();
    let mut agents: Vec<Daemon> = Vec::new();
    for machine in MACHINES.iter().filter(|machine| machine.fixture.is_some()) {
        agents.push(cluster.add_machine(machine).await.unwrap());
    }
    let _webhook = cluster.spawn_webhook("webhook").await.unwrap();

    cluster.apply(WORKERS).await.unwrap();
    cluster.kubectl(&["wait", "-n", "demo", "--for=jsonpath={.status.phase}=Running", "pod", "--all"]).await.unwrap();
    let healthy = run(cluster.kubeconfig(), "doctor --no-logs -o json").await.unwrap();
    assert_eq!(
        healthy.json()["findings"].as_array().unwrap().iter().filter(|found| found["severity"] != "note").count(),
        0,
        "{}",
        healthy.out
    );
    assert_eq!((healthy.code, healthy.json()["lookedAt"]["workers"].clone()), (0, json!(4)), "{}", healthy.err);
    let shown = run(cluster.kubeconfig(), "doctor --no-logs").await.unwrap();
    assert!(shown.out.starts_with("Nothing to act on: looked at 5 nodes, 4 workers"), "{}", shown.out);

    // The recorded containers log nothing: a fake front gives them the guide's good line.
    let good = Rule::Repeat("NIXL INFO Backend UCX was instantiated\n", 4096);
    let front = cluster.fake_front(&[("/log", good)]).await.unwrap();
    let logged = run(&front, "doctor -o json").await.unwrap();
    assert_eq!((logged.code, logged.json()["lookedAt"]["logs"].clone()), (0, json!(4)), "{}", logged.err);
    let nixl = &logged.json()["checklist"][3];
    assert_eq!((&nixl["state"], &nixl["detail"]), (&json!("yes"), &json!("4 of 4 containers")));

    // They hold all GPUs of a node that a fault needs.
    cluster.kubectl(&["delete", "pod", "-n", "demo", "--all"]).await.unwrap();
    for machine in BROKEN {
        agents.push(cluster.add_machine(machine).await.unwrap());
    }
    let ten = faults();
    assert_eq!(ten.len(), 10);
    for fault in ten {
        with_namespace(&cluster, fault.namespace, async |namespace| {
            let answer = fault.inject(&cluster, namespace).await?;
            println!(
                "{:<32} {:<22} {}",
                fault.name,
                answer.json()["findings"][0]["code"].as_str().unwrap_or("nothing"),
                answer.json()["findings"][0]["cause"].as_str().unwrap_or_default()
            );
            ensure!(answer.code == 1, "{}: code {}\n{}\n{}", fault.name, answer.code, answer.out, answer.err);
            ensure!(answer.json()["findings"][0]["code"] == fault.cause, "{}: {}", fault.name, answer.out);
            Ok(())
        })
        .await;
    }
    cluster.stop().await.unwrap();
}

struct Fault {
    name: &'static str,
    cause: &'static str,
    namespace: &'static [(&'static str, &'static str)],
    /// Role, node, and what is wrong.
    pods: Vec<(&'static str, &'static str, Value)>,
}

impl Fault {
    async fn inject(&self, cluster: &Cluster, namespace: &str) -> Result<Answer> {
        for (role, node, broken) in &self.pods {
            // What the guide asks for, by hand; Railbind leaves what is there, and adds what is not.
            let rdma = match *node {
                "efa-1" => "vpc.amazonaws.com/efa",
                "roce-1" | "roce-2" => "rdma/roce_gdr",
                "tcp-1" => "nvidia.com/gpu",
                _ => "rdma/ib",
            };
            let mut container = json!({
                "name": "main", "image": "engine",
                "env": [],
                "resources": {"limits": {"nvidia.com/gpu": "1", rdma: "1"}},
                "securityContext": {"capabilities": {"add": ["IPC_LOCK"]}},
            });
            for (key, value) in broken.as_object().into_iter().flatten() {
                container[key] = value.clone();
            }
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": role, "namespace": namespace, "labels": {
                    "nvidia.com/dynamo-component-type": role, "nvidia.com/dynamo-graph-deployment-name": "llama",
                }},
                "spec": {"nodeSelector": {"kubernetes.io/hostname": node}, "containers": [container]},
            });
            cluster.apply(&pod.to_string()).await?;
        }
        for (role, ..) in &self.pods {
            until("the pod to run", LIMIT, || async {
                let phase =
                    cluster.kubectl(&["get", "pod", "-n", namespace, role, "-o", "jsonpath={.status.phase}"]).await?;
                ensure!(phase == "Running", "{phase}");
                Ok(())
            })
            .await
            .context(self.name)?;
        }
        run(cluster.kubeconfig(), &format!("doctor deployment llama -n {namespace} --no-logs -o json")).await
    }
}

fn env(name: &str, value: &str) -> Value {
    json!({"env": [{"name": name, "value": value}]})
}

fn faults() -> Vec<Fault> {
    let one =
        |name, cause, namespace, node, broken| Fault { name, cause, namespace, pods: vec![("decode", node, broken)] };
    vec![
        one("missing capability", "IpcLockMissing", ON_ONES_OWN, "ib-locked", json!({"securityContext": {}})),
        one("wrong GID index", "GidIndexWrong", INJECT, "roce-2", env("UCX_IB_GID_INDEX", "3")),
        one("GPUDirect off", "NoGpuDirect", INJECT, "ib-staged", json!({})),
        one("TCP only", "TcpOnly", INJECT, "tcp-1", json!({})),
        one("EFA, kernel 6.8, get_zcopy", "FatalSetting", INJECT, "efa-1", env("UCX_RNDV_SCHEME", "get_zcopy")),
        one(
            "resource not requested",
            "ResourceNotRequested",
            ON_ONES_OWN,
            "ib-1",
            json!({"resources": {"limits": {"nvidia.com/gpu": "1"}}}),
        ),
        one("memlock limited", "MemlockLimited", INJECT, "ib-locked", json!({"securityContext": {"runAsUser": 1000}})),
        one("link down", "PortDown", INJECT, "ib-link", json!({})),
        Fault {
            name: "mismatched domains",
            cause: "DomainsDiffer",
            namespace: ON_ONES_OWN,
            pods: vec![("prefill", "ib-1", json!({})), ("decode", "roce-1", json!({}))],
        },
        one("misspelt variable", "UnknownVariable", INJECT, "ib-1", env("UCX_NET_DEVICE", "mlx5_0:1")),
    ]
}
