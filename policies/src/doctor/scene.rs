//! What could be learnt, as values.

use std::collections::{BTreeMap, BTreeSet};

use super::logs::LogScene;
use crate::{
    fabric::{Fact, Facts},
    matrix::SelftestView,
    names::{annotation, label},
    node_fabric::NodeFabricStatus,
    report::Condition,
    select::NodeView,
    workers::{self, Role},
};

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Asked {
    /// The whole cluster.
    #[default]
    Cluster,
    /// These nodes, by name.
    Nodes,
    /// These pods.
    Pods,
}

/// Everything that could be learnt.
#[derive(Debug, Clone, Default)]
pub struct Scene {
    /// What was asked for.
    pub asked: Asked,
    /// The nodes: all of the cluster, the one asked for, or those of the pods.
    pub nodes: Vec<NodeScene>,
    /// The workers that were asked for, and those of their deployments.
    pub pods: Vec<PodScene>,
    /// Whether the API server is told to call railbind-webhook.
    pub webhook: Fact<bool>,
}

impl Scene {
    pub(super) fn node(&self, name: &str) -> Option<&NodeScene> {
        self.nodes.iter().find(|node| node.view.name == name)
    }

    pub(super) fn node_of(&self, pod: &PodScene) -> Option<&NodeScene> {
        self.node(pod.node.as_deref()?)
    }

    /// Whether a worker is on the node, or a person asked for it.
    pub(super) fn matters(&self, node: &NodeScene) -> bool {
        self.asked == Asked::Nodes || self.pods.iter().any(|pod| pod.node.as_deref() == Some(&node.view.name))
    }
}

/// One node.
#[derive(Debug, Clone, Default)]
pub struct NodeScene {
    /// Labels, allocatable, taints.
    pub view: NodeView,
    /// Its Ready condition; `None` where it has none.
    pub ready: Option<bool>,
    /// Kernel, as the kubelet says.
    pub kernel: Option<String>,
    /// Our condition; `None` where no agent wrote one.
    pub condition: Option<Condition>,
    /// The agent's whole story; known-empty where there is no NodeFabric.
    pub fabric: Fact<Option<NodeFabricStatus>>,
    /// The self-test's part of it.
    pub selftest: Option<SelftestView>,
}

impl NodeScene {
    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.view.labels.get(key).map(String::as_str)
    }

    pub(super) fn story(&self) -> Option<&NodeFabricStatus> {
        self.fabric.known()?.as_ref()
    }

    pub(super) fn facts(&self) -> Option<Facts> {
        serde_json::from_value(self.story()?.facts.clone()).ok()
    }

    pub(super) fn has_rdma(&self) -> bool {
        self.label(label::FABRIC).is_some_and(|fabric| fabric != "tcp")
    }

    pub(super) fn memlock_limited(&self) -> Option<bool> {
        self.label(label::MEMLOCK).map(|value| value == "limited")
    }

    /// GPUs, by the device plugin or by the kernel's files.
    pub(super) fn has_gpus(&self) -> bool {
        self.view.gpus() > 0
            || self.facts().is_some_and(|facts| facts.gpus.known().is_some_and(|gpus| !gpus.is_empty()))
    }
}

/// One worker pod.
#[derive(Debug, Clone, Default)]
pub struct PodScene {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Node, once bound.
    pub node: Option<String>,
    /// `Running`, `Pending`…
    pub phase: String,
    /// Why the scheduler finds no node.
    pub unscheduled: Option<String>,
    /// Labels of its namespace.
    pub namespace_labels: Fact<BTreeMap<String, String>>,
    /// Why it is a worker; `None`: it is not one.
    pub worker: Option<String>,
    /// Containers that take part.
    pub containers: Vec<ContainerScene>,
    /// Has resource claims (DRA): NICs may come that way.
    pub claims: bool,
    /// Mounts `/dev/infiniband` of the host.
    pub host_devices: bool,
}

impl PodScene {
    /// For people.
    pub fn title(&self) -> String {
        format!("pod {}/{}", self.namespace, self.name)
    }

    /// What Railbind decided, where it did.
    pub(super) fn decided(&self) -> Option<String> {
        let decision: serde_json::Value = serde_json::from_str(self.annotations.get(annotation::DECISION)?).ok()?;
        Some(decision["profile"].as_str().unwrap_or_default().to_owned())
    }

    pub(super) fn role(&self) -> Option<Role> {
        workers::role_of(&self.labels)
    }

    /// Namespace and deployment.
    pub(super) fn group(&self) -> Option<(String, String)> {
        let group = workers::group(&self.labels)?;
        Some((self.namespace.clone(), group.value))
    }
}

/// One container.
#[expect(clippy::struct_excessive_bools, reason = "facts of a container that do not exclude each other")]
#[derive(Debug, Clone, Default)]
pub struct ContainerScene {
    /// Name.
    pub name: String,
    /// GPUs by extended resource.
    pub gpus: u64,
    /// Environment, as far as the pod says.
    pub env: BTreeMap<String, EnvScene>,
    /// Extended resources.
    pub resources: BTreeMap<String, u64>,
    /// Capabilities added.
    pub capabilities: BTreeSet<String>,
    /// Privileged.
    pub privileged: bool,
    /// Runs as another user than root, as far as the pod says.
    pub non_root: bool,
    /// Image, command and arguments.
    pub image: String,
    /// Command line.
    pub words: Vec<String>,
    /// Something is mounted at `/dev/shm`.
    pub has_shm: bool,
    /// It has been started, or nobody has said yet that it has not: there may be a log.
    pub begun: bool,
    /// Times it was started again.
    pub restarts: u64,
    /// Why it does not run, or how it ended last.
    pub trouble: Option<String>,
    /// Its logs.
    pub logs: Fact<LogScene>,
}

impl ContainerScene {
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        match self.env.get(name)? {
            EnvScene::Value(value) => Some(value),
            EnvScene::Late { value, .. } => value.as_deref(),
            EnvScene::Elsewhere => None,
        }
    }
}

/// Where a variable's value is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvScene {
    /// The pod says it.
    Value(String),
    /// An annotation of the pod, and what it holds.
    Late {
        /// Key.
        annotation: String,
        /// Value; `None` where there is no such annotation.
        value: Option<String>,
    },
    /// A Secret, a ConfigMap, or another field: never looked at.
    Elsewhere,
}
