//! Hollow nodes: the kubelet's own code over a machine of any shape.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, api::DeleteParams};
use serde_json::Value;

use crate::{Cluster, LIMIT, Process, cluster::lock, components, until};

/// What a node is.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// Its name, unique in the cluster: tests that share a cluster share its nodes.
    pub name: String,
    /// Extended resources it reports, as a device plugin would: `rdma/ib` → `8`.
    pub resources: BTreeMap<String, String>,
    /// Labels it registers with. A node may not give itself every label under `kubernetes.io`.
    pub labels: BTreeMap<String, String>,
    /// Cores.
    pub cpu: u32,
    /// Memory, a quantity.
    pub memory: String,
    /// Kernel release it reports.
    pub kernel: String,
}

impl NodeSpec {
    /// A node of 128 cores and 1 TiB, without extended resources.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            resources: BTreeMap::new(),
            labels: BTreeMap::new(),
            cpu: 128,
            memory: "1Ti".into(),
            kernel: "6.8.0-hollow".into(),
        }
    }

    /// With `count` of an extended resource.
    #[must_use]
    pub fn resource(mut self, name: impl Into<String>, count: impl Into<String>) -> Self {
        self.resources.insert(name.into(), count.into());
        self
    }

    /// With a label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// With a kernel release.
    #[must_use]
    pub fn kernel(mut self, release: impl Into<String>) -> Self {
        self.kernel = release.into();
        self
    }
}

impl Cluster {
    /// Starts a hollow kubelet and waits until pods can be scheduled on its node.
    pub async fn add_node(&self, spec: NodeSpec) -> Result<()> {
        ensure!(!self.nodes().contains_key(&spec.name), "there is a node {} already", spec.name);
        let name = format!("kubelet-{}", spec.name);
        let args = components::kubelet(self.path(), self.kubeconfig(), &self.records(), &spec);
        let kubelet = Mutex::new(self.component(&name, &args)?);
        let nodes: Api<Node> = Api::all(self.client().await?);
        let ready = until(format_args!("node {} to be ready", spec.name), LIMIT, || async {
            // A kubelet that is gone will not get ready later.
            if let Err(gone) = lock(&kubelet).check() {
                return Ok(Err(gone));
            }
            schedulable(&nodes.get(&spec.name).await?).map(Ok)
        })
        .await
        .flatten();
        let kubelet = kubelet.into_inner().unwrap_or_else(PoisonError::into_inner);
        ready.with_context(|| format!("{name} says:\n{}", kubelet.tail(15)))?;
        self.nodes().insert(spec.name, kubelet);
        Ok(())
    }

    /// Stops a node's kubelet and deletes its Node.
    pub async fn remove_node(&self, name: &str) -> Result<()> {
        self.take_node(name)?.stop().await?;
        let nodes: Api<Node> = Api::all(self.client().await?);
        nodes.delete(name, &DeleteParams::default()).await.with_context(|| format!("delete node {name}"))?;
        Ok(())
    }

    /// Kills a node's kubelet and leaves its Node: the machine has gone silent.
    pub async fn crash_node(&self, name: &str) -> Result<()> {
        self.take_node(name)?.kill().await?;
        Ok(())
    }

    /// What the kubelet asked the container runtime for: `env` (a map), `mounts` and `linux` as the CRI spells them,
    /// `annotations` of the pod, `node`, `image`, `command`, `args`. Waits for the container to be created.
    pub async fn recorded(&self, namespace: &str, pod: &str, container: &str) -> Result<Value> {
        let pods: Api<Pod> = Api::namespaced(self.client().await?, namespace);
        let file = self.records().join(format!("{namespace}_{pod}_{container}.json"));
        until(format_args!("container {container} of pod {namespace}/{pod} to be created"), LIMIT, || async {
            let live = pods.get(pod).await?;
            let Ok(text) = std::fs::read(&file) else { bail!("{}", state(&live)) };
            let record: Value = serde_json::from_slice(&text).with_context(|| format!("parse {}", file.display()))?;
            // An earlier pod may have had the same name.
            ensure!(record["uid"].as_str() == live.metadata.uid.as_deref(), "only an earlier pod's record is there");
            Ok(record)
        })
        .await
    }

    fn take_node(&self, name: &str) -> Result<Process> {
        self.nodes().remove(name).with_context(|| format!("this cluster runs no node {name}"))
    }
}

/// Ready, and the controller manager has taken notice.
fn schedulable(node: &Node) -> Result<()> {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    let ready = ready.ok_or_else(|| anyhow!("it has no Ready condition"))?;
    ensure!(ready.status == "True", "it is not ready: {}", ready.message.as_deref().unwrap_or_default());
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let not_ready = taints.into_iter().find(|taint| taint.key == "node.kubernetes.io/not-ready");
    ensure!(not_ready.is_none(), "it still has the taint not-ready");
    Ok(())
}

/// Why a pod's container may not be there yet, in a line.
pub(crate) fn state(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("no node");
    let mut line = format!("{} on {node}", status.phase.as_deref().unwrap_or("no phase"));
    let mut add = |what: &str, reason: Option<&str>, message: Option<&str>| {
        let _ = write!(line, "; {what}: {} {}", reason.unwrap_or_default(), message.unwrap_or_default());
    };
    for condition in status.conditions.iter().flatten().filter(|condition| condition.status != "True") {
        add(&condition.type_, condition.reason.as_deref(), condition.message.as_deref());
    }
    for container in status.init_container_statuses.iter().chain(&status.container_statuses).flatten() {
        if let Some(waiting) = container.state.as_ref().and_then(|state| state.waiting.as_ref()) {
            add(&container.name, waiting.reason.as_deref(), waiting.message.as_deref());
        }
    }
    line
}
