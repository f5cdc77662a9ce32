//! What every row starts from: a control plane with one RoCE machine whose files the test may change.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use harness::{
    Cluster, LIMIT, NodeSpec, Options,
    outage::Wire,
    railbind::{Daemon, NAMESPACE},
    tree, until,
};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

/// Its node.
pub(crate) const NODE: &str = "roce-1";
/// Labels of a namespace that is ours.
pub(crate) const OURS: [(&str, &str); 1] = [("railbind.dev/inject", "enabled")];

pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    /// The machine's files; its GIDs are at index 3.
    pub(crate) machine: tempfile::TempDir,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let cluster = Cluster::start(Options::default()).await.unwrap();
        cluster.install_identities().await.unwrap();
        cluster.add_node(spec()).await.unwrap();
        Self { cluster, machine: tree::copy("roce-gid3").unwrap() }
    }

    pub(crate) fn root(&self) -> &Path {
        self.machine.path()
    }

    /// The machine's agent, once it has said what the machine is.
    pub(crate) async fn agent(&self) -> Daemon {
        let mut agent = self.cluster.spawn_agent(NODE, self.root(), "0.5").await.unwrap();
        agent.ready().await.unwrap();
        self.index("3").await.unwrap();
        agent
    }

    /// Waits until the node says this index.
    pub(crate) async fn index(&self, wanted: &str) -> Result<()> {
        until(format_args!("the index {wanted} on the node"), LIMIT, || async {
            let labels = labels(&self.cluster, NODE).await?;
            ensure!(labels["railbind.dev/gid-index"] == wanted, "{labels}");
            Ok(())
        })
        .await
    }

    /// Waits until a worker that is created now runs with this index.
    pub(crate) async fn given(&self, namespace: &str, wanted: &str) -> Result<()> {
        let tries = std::sync::atomic::AtomicUsize::new(0);
        until(format_args!("a worker with the index {wanted}"), 3 * LIMIT, || async {
            let name = format!("given-{wanted}-{}", tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
            let env = self.env(namespace, &name).await?;
            self.cluster.kubectl(&["delete", "pod", &name, "-n", namespace, "--now", "--wait=false"]).await?;
            ensure!(env["UCX_IB_GID_INDEX"] == wanted, "{env}");
            Ok(())
        })
        .await
    }

    /// The environment that a new worker's container is started with.
    pub(crate) async fn env(&self, namespace: &str, name: &str) -> Result<Value> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client().await?, namespace);
        pods.create(&PostParams::default(), &serde_json::from_value(worker(name, false))?).await?;
        Ok(self.cluster.recorded(namespace, name, "main").await?["env"].clone())
    }

    /// Whether a worker that is created now would be patched; an error where it is refused.
    pub(crate) async fn patched(&self, namespace: &str) -> Result<bool> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client().await?, namespace);
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let pod = pods.create(&dry, &serde_json::from_value(worker("dry", true))?).await?;
        Ok(is_patched(&pod))
    }

    pub(crate) async fn becomes_patched(&self, namespace: &str) -> Result<()> {
        until("workers to be patched", 2 * LIMIT, || async {
            ensure!(self.patched(namespace).await?, "it was admitted as it is");
            Ok(())
        })
        .await
    }

    /// The node's NodeFabric.
    pub(crate) async fn fabric(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.cluster.kubectl(&["get", "nodefabric", NODE, "-o", "json"]).await?)?)
    }

    /// A kubeconfig of one of our service accounts that leads through a wire.
    pub(crate) async fn through(&self, wire: &Wire, account: &str, node: Option<&Node>) -> Result<PathBuf> {
        let direct = self.cluster.identity(account, node).await?;
        let text = std::fs::read_to_string(&direct)?;
        let text = text.replace(self.cluster.url(), &format!("https://{}", wire.address()));
        let file = self.cluster.path().join(format!("{account}-{}.kubeconfig", wire.address().port()));
        std::fs::write(&file, text)?;
        Ok(file)
    }

    /// A wire to the API server.
    pub(crate) async fn wire(&self) -> Result<Wire> {
        Wire::start(self.cluster.url().trim_start_matches("https://").parse()?).await
    }

    /// The webhook with any kubeconfig and starter.
    pub(crate) async fn webhook(
        &self,
        starter: &[&str],
        [listen, url]: [&str; 2],
        more: &[&str],
        kubeconfig: &Path,
    ) -> Result<Daemon> {
        let args = ["serve", "--listen", listen, "--url", url, "--namespace", NAMESPACE, "--drain-seconds", "1"];
        let mut webhook =
            self.cluster.daemon(starter, "webhook", "railbind-webhook", &[&args, more].concat(), kubeconfig)?;
        webhook.ready().await?;
        Ok(webhook)
    }
}

/// The machine's node.
pub(crate) fn spec() -> NodeSpec {
    NodeSpec::new(NODE).resource("nvidia.com/gpu", "1000").resource("rdma/roce_gdr", "1000")
}

/// Our labels of a node.
pub(crate) async fn labels(cluster: &Cluster, node: &str) -> Result<Value> {
    let nodes: Api<Node> = Api::all(cluster.client().await?);
    let labels = nodes.get(node).await?.metadata.labels.context("labels")?;
    Ok(labels
        .into_iter()
        .filter(|(key, _)| key.starts_with("railbind.dev/"))
        .map(|(key, value)| (key, Value::String(value)))
        .collect())
}

/// A worker for RoCE; held back from the scheduler where it only has to be created.
pub(crate) fn worker(name: &str, held: bool) -> Value {
    let gates = if held { json!([{"name": "test/never"}]) } else { json!([]) };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"llm-d.ai/role": "decode"}},
        "spec": {
            "schedulingGates": gates,
            "nodeSelector": {"railbind.dev/fabric": "roce"},
            "containers": [{"name": "main", "image": "vllm/vllm-openai", "resources": {"limits": {"nvidia.com/gpu": "1"}}}],
        },
    })
}

pub(crate) fn is_patched(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key("railbind.dev/decision"))
}
