//! From an early version to this one and back, while pods are created: its manifests and programs, built from its commit
//! (`scripts/build-old.sh`), and ours. `make test-upgrade` runs it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    Balancer, Cluster, LIMIT, NodeSpec, Options, free_port,
    railbind::{Daemon, binary, repository},
    until,
};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::creating::Creating;

/// Creations a second.
const RATE: u32 = 50;
const NODE: &str = "roce-1";
/// What it takes a cluster to take an end out of a Service.
const PROPAGATION: Duration = Duration::from_millis(500);

/// A version: its manifests and programs.
struct Version {
    name: &'static str,
    manifests: PathBuf,
    webhook: PathBuf,
    agent: PathBuf,
}

impl Version {
    fn old() -> Result<Self> {
        let folder = std::env::var("RAILBIND_OLD").context("RAILBIND_OLD is not set: run `make test-upgrade`")?;
        let folder = Path::new(&folder);
        Ok(Self {
            name: "old",
            manifests: folder.join("manifests/base"),
            webhook: folder.join("railbind-webhook"),
            agent: folder.join("railbind-agent"),
        })
    }

    fn new() -> Result<Self> {
        Ok(Self {
            name: "new",
            manifests: repository().join("manifests/base"),
            webhook: binary("railbind-webhook")?,
            agent: binary("railbind-agent")?,
        })
    }
}

/// What runs: two replicas and an agent.
struct Running {
    replicas: Vec<(Daemon, SocketAddr)>,
    agent: Daemon,
}

async fn replica(
    cluster: &Cluster,
    balancer: &Balancer,
    version: &Version,
    name: &str,
) -> Result<(Daemon, SocketAddr)> {
    let listen: SocketAddr = format!("127.0.0.1:{}", free_port()?).parse()?;
    let url = format!("https://{}", balancer.address());
    let more = ["--drain-seconds", "4", "--binding-engine", "webhook"];
    let daemon = cluster.spawn_webhook_of(&[], &version.webhook, name, &listen.to_string(), &url, &more).await?;
    balancer.add(listen);
    Ok((daemon, listen))
}

async fn agent(cluster: &Cluster, version: &Version, name: &str) -> Result<Daemon> {
    let root = repository().join("tests/fixtures/roce-gid3");
    cluster.spawn_agent_of(&version.agent, name, NODE, &root).await
}

/// As a Deployment and a DaemonSet do it, after the manifests: each new replica is ready before an old one is asked to end, and an
/// agent ends before its successor starts.
async fn change(cluster: &Cluster, balancer: &Balancer, running: Running, to: &Version, step: &str) -> Result<Running> {
    cluster.kubectl(&["apply", "-k", &to.manifests.display().to_string()]).await?;
    // The old programs under the other's rights, fences and CRDs.
    sleep(Duration::from_secs(3)).await;
    let mut replicas = Vec::new();
    for (number, (mut before, at)) in running.replicas.into_iter().enumerate() {
        replicas.push(replica(cluster, balancer, to, &format!("{step}-{}-{number}", to.name)).await?);
        let leave = async {
            sleep(PROPAGATION).await;
            balancer.remove(at);
        };
        let ((), ended) = tokio::join!(leave, before.process.stop());
        ensure!(ended?.code() == Some(0), "{}", before.process.tail(20));
    }
    let mut before = running.agent;
    before.process.stop().await?;
    let agent = agent(cluster, to, &format!("{step}-agent-{}", to.name)).await?;
    sleep(Duration::from_secs(3)).await;
    Ok(Running { replicas, agent })
}

async fn labels(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let node: Node = Api::all(cluster.client().await?).get(NODE).await?;
    let all = node.metadata.labels.unwrap_or_default();
    Ok(all.into_iter().filter(|(key, _)| key.starts_with("railbind.dev/")).collect())
}

/// The node's story is told, by whoever tells it now.
async fn told(cluster: &Cluster) -> Result<()> {
    until("the node's NodeFabric", LIMIT, || async {
        let text = cluster.kubectl(&["get", "nodefabric", NODE, "-o", "json"]).await?;
        let fabric: Value = serde_json::from_str(&text)?;
        ensure!(fabric["status"]["fabric"] == "roce", "{}", fabric["status"]);
        Ok(())
    })
    .await
}

/// A worker whose container was given its node's values.
async fn works(cluster: &Cluster, name: &str) -> Result<()> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "serving", "labels": {"llm-d.ai/role": "decode"}},
        "spec": {"containers": [{"name": "main", "image": "vllm", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]},
    });
    cluster.apply(&pod.to_string()).await?;
    let record = cluster.recorded("serving", name, "main").await?;
    cluster.kubectl(&["delete", "pod", name, "-n", "serving", "--now"]).await?;
    ensure!(record["env"]["UCX_IB_GID_INDEX"] == "3", "{name}: {}", record["env"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "builds an early version, which takes minutes: make test-upgrade"]
async fn an_early_version_is_upgraded_to_this_one_and_rolled_back_while_pods_are_created() {
    let (old, new) = (Version::old().unwrap(), Version::new().unwrap());
    for (before, after) in [(&old.webhook, &new.webhook), (&old.agent, &new.agent)] {
        let size = |path: &Path| std::fs::metadata(path).unwrap().len();
        assert_ne!(size(before), size(after), "{} is the other version's", before.display());
    }
    let cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.add_node(NodeSpec::new(NODE).resource("nvidia.com/gpu", "8").resource("rdma/roce", "8")).await.unwrap();
    cluster.kubectl(&["apply", "-k", &old.manifests.display().to_string()]).await.unwrap();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "serving", "labels": {"railbind.dev/inject": "enabled"}}});
    cluster.apply(&namespace.to_string()).await.unwrap();
    until("its service account", LIMIT, || cluster.kubectl(&["get", "serviceaccount/default", "-n", "serving"]))
        .await
        .unwrap();
    let balancer = Balancer::start().await.unwrap();
    let mut replicas = Vec::new();
    for name in ["first-old-0", "first-old-1"] {
        replicas.push(replica(&cluster, &balancer, &old, name).await.unwrap());
    }
    let running = Running { replicas, agent: agent(&cluster, &old, "first-agent-old").await.unwrap() };
    told(&cluster).await.unwrap();
    works(&cluster, "installed").await.unwrap();
    let before = labels(&cluster).await.unwrap();
    assert_eq!(before["railbind.dev/fabric"], "roce");

    let pods: Api<Pod> = Api::namespaced(cluster.client().await.unwrap(), "serving");
    let creating = Creating::start(pods.clone(), "upgrade", RATE);
    sleep(Duration::from_secs(2)).await;
    let running = change(&cluster, &balancer, running, &new, "upgrade").await.unwrap();
    let (created, missed) = creating.end("upgrade").await.unwrap();
    assert_eq!(missed, 0, "of {created} in the upgrade");
    told(&cluster).await.unwrap();
    works(&cluster, "upgraded").await.unwrap();
    let upgraded = labels(&cluster).await.unwrap();
    for (key, value) in &before {
        assert_eq!(upgraded.get(key), Some(value), "{key}");
    }

    let creating = Creating::start(pods, "rollback", RATE);
    sleep(Duration::from_secs(2)).await;
    let running = change(&cluster, &balancer, running, &old, "rollback").await.unwrap();
    let (created, missed) = creating.end("rollback").await.unwrap();
    assert_eq!(missed, 0, "of {created} in the rollback");
    told(&cluster).await.unwrap();
    works(&cluster, "rolled-back").await.unwrap();
    let back = labels(&cluster).await.unwrap();
    for (key, value) in &before {
        assert_eq!(back.get(key), Some(value), "{key}");
    }
    println!("labels: {} before, {} upgraded, {} rolled back", before.len(), upgraded.len(), back.len());
    drop(running.agent);
    cluster.stop().await.unwrap();
}
