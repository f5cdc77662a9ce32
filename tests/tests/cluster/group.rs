//! Agreement: workers of one deployment on one fabric domain, also when hundreds are created at once through two replicas.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use harness::{Balancer, Cluster, LIMIT, NodeSpec, Options, until, with_namespace};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};

/// Name, fabric, profile and domain of each node. There is no agent here: the labels are what one would write.
const NODES: [(&str, &str, &str, &str); 9] = [
    ("ib-a1", "infiniband", "infiniband-gpudirect", "ib-a"),
    ("ib-a2", "infiniband", "infiniband-gpudirect", "ib-a"),
    ("ib-b1", "infiniband", "infiniband-gpudirect", "ib-b"),
    ("roce-a1", "roce", "roce-gpudirect", "roce-a"),
    ("roce-b1", "roce", "roce-gpudirect", "roce-b"),
    ("roce-b2", "roce", "roce-gpudirect", "roce-b"),
    ("efa-a1", "efa", "efa-host-staged", "efa-zone-a"),
    ("efa-a2", "efa", "efa-host-staged", "efa-zone-a"),
    ("tcp-1", "tcp", "tcp", ""),
];
const DEPLOYMENTS: usize = 20;
const PODS: usize = 10;

fn node((name, fabric, profile, domain): (&str, &str, &str, &str)) -> NodeSpec {
    let spec = NodeSpec::new(name)
        .resource("nvidia.com/gpu", "128")
        .label("railbind.dev/fabric", fabric)
        .label("railbind.dev/profile", profile);
    let spec = if domain.is_empty() { spec } else { spec.label("railbind.dev/fabric-domain", domain) };
    match fabric {
        "tcp" => spec,
        "efa" => spec.resource("vpc.amazonaws.com/efa", "512"),
        _ => spec.resource("rdma/shared", "128"),
    }
}

/// Of every five deployments three are free to go anywhere, one is held to RoCE and one to EFA.
fn fabric(deployment: usize) -> Option<&'static str> {
    [None, None, None, Some("roce"), Some("efa")][deployment % 5]
}

fn pod(namespace: &str, deployment: usize, number: usize) -> Value {
    let role = if number.is_multiple_of(2) { "prefill" } else { "decode" };
    let selector = fabric(deployment).map_or(json!({}), |fabric| json!({"railbind.dev/fabric": fabric}));
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("d{deployment}-{role}-{number}"),
            "namespace": namespace,
            "labels": {
                "nvidia.com/dynamo-graph-deployment-name": format!("d{deployment}"),
                "nvidia.com/dynamo-component-type": role,
            },
        },
        "spec": {
            "nodeSelector": selector,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "vllm/vllm-openai", "resources": {"limits": {"nvidia.com/gpu": "1"}}}],
        },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_workers_of_twenty_deployments_created_at_once_stay_together() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.install_identities().await.unwrap();
    for spec in NODES {
        cluster.add_node(node(spec)).await.unwrap();
    }
    let balancer = Balancer::start().await.unwrap();
    let drain = ["--drain-seconds", "1"];
    let (one, _) = cluster.spawn_replica("replica-1", &balancer, &drain).await.unwrap();
    let (other, _) = cluster.spawn_replica("replica-2", &balancer, &drain).await.unwrap();
    with_namespace(&cluster, &[("railbind.dev/inject", "enabled")], async |namespace| {
        let client = cluster.client().await?;
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let manifests: Vec<Pod> = (0..DEPLOYMENTS * PODS)
            .map(|number| serde_json::from_value(pod(namespace, number % DEPLOYMENTS, number / DEPLOYMENTS)))
            .collect::<Result<_, _>>()?;
        let parameters = PostParams::default();
        try_join_all(manifests.iter().map(|pod| pods.create(&parameters, pod))).await?;
        for (name, replica) in [("first", &one), ("second", &other)] {
            let patched = replica.metric("railbind_webhook_requests_total", r#"hook="pods",outcome="patched""#).await?;
            println!("the {name} replica patched {patched} pods");
            ensure!(patched > 0.0, "the {name} replica took no part");
        }
        let bound = until("all pods to be bound", 2 * LIMIT, || async {
            let found = pods.list(&ListParams::default()).await?.items;
            let waiting = found.iter().filter(|pod| node_of(pod).is_none()).count();
            ensure!(waiting == 0 && found.len() == DEPLOYMENTS * PODS, "{waiting} of {} wait", found.len());
            Ok(found)
        })
        .await?;
        report(&bound, &Api::<Node>::all(client).list(&ListParams::default()).await?.items)
    })
    .await;
    cluster.stop().await.unwrap();
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn report(pods: &[Pod], nodes: &[Node]) -> Result<()> {
    let labels: BTreeMap<String, _> = nodes.iter().map(|node| (node.name_any(), node.labels())).collect();
    let mut domains: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut roles: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for pod in pods {
        let deployment = pod.labels()["nvidia.com/dynamo-graph-deployment-name"].as_str();
        let role = pod.labels()["nvidia.com/dynamo-component-type"].as_str();
        let node = node_of(pod).context("bound")?;
        domains.entry(deployment).or_default().insert(&labels[node]["railbind.dev/fabric-domain"]);
        roles.entry((deployment, role)).or_default().insert(node);
    }
    let mut used: BTreeMap<&str, usize> = BTreeMap::new();
    for (deployment, domains) in &domains {
        ensure!(domains.len() == 1, "{deployment} is spread over {domains:?}");
        let domain = domains.first().context("a domain")?;
        *used.entry(domain).or_default() += 1;
        if domain.starts_with("efa") {
            let (prefill, decode) = (&roles[&(*deployment, "prefill")], &roles[&(*deployment, "decode")]);
            ensure!(prefill.is_disjoint(decode), "{deployment}: prefill on {prefill:?}, decode on {decode:?}");
        }
    }
    ensure!(domains.len() == DEPLOYMENTS);
    println!(
        "{} pods of {DEPLOYMENTS} deployments, each on one fabric domain; deployments by domain: {used:?}",
        pods.len()
    );
    Ok(())
}
