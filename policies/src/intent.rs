//! What a pod wants, as plain values: the webhook reads it from the raw object, decisions only see this.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    kernel::Version,
    lint::Conflicts,
    room::Room,
    workers::{Group, Role},
};

/// Inference engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// TensorRT-LLM.
    #[serde(rename = "tensorrt-llm")]
    TensorRtLlm,
}

impl Engine {
    /// As its users write it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Vllm => "vLLM",
            Self::Sglang => "SGLang",
            Self::TensorRtLlm => "TensorRT-LLM",
        }
    }
}

/// How the choice of fabric binds the scheduler.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Required node affinity.
    #[default]
    Required,
    /// Preferred node affinity.
    Preferred,
    /// No affinity.
    None,
}

/// One requirement of a node selector term.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt`, `Lt`.
    pub operator: String,
    /// Values.
    #[serde(default)]
    pub values: Vec<String>,
}

/// A node selector term: all of its requirements must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Term {
    /// On labels.
    #[serde(default)]
    pub match_expressions: Vec<Requirement>,
    /// On fields: the API knows `metadata.name` only.
    #[serde(default)]
    pub match_fields: Vec<Requirement>,
}

/// A toleration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Toleration {
    /// Key; empty with `Exists` means every taint.
    #[serde(default)]
    pub key: Option<String>,
    /// `Equal` (default) or `Exists`.
    #[serde(default)]
    pub operator: Option<String>,
    /// Value.
    #[serde(default)]
    pub value: Option<String>,
    /// Effect; empty means every effect.
    #[serde(default)]
    pub effect: Option<String>,
}

/// A container that takes part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ContainerIntent {
    /// Name.
    pub name: String,
    /// GPUs it requests by extended resource; a DRA claim, whose number cannot be known, counts as one.
    pub gpus: u64,
    /// It requests its GPUs by a DRA claim; NICs may be in that too.
    pub by_claim: bool,
    /// Variables it already sets, with their literal value where they have one.
    pub env: BTreeMap<String, Option<String>>,
    /// Extended resources it already requests.
    pub resources: BTreeMap<String, u64>,
    /// Runs as another user than root, as far as the pod says.
    pub non_root: bool,
    /// Its command line.
    pub words: Vec<String>,
    /// Bytes of memory that it may have, by its own limit or the pod's; `None`: no limit.
    pub memory: Option<u64>,
}

/// What a pod wants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PodIntent {
    /// Containers that take part, those that request GPUs or are named by annotation.
    pub containers: Vec<ContainerIntent>,
    /// Engine, where recognised.
    pub engine: Option<Engine>,
    /// `spec.nodeSelector`.
    pub node_selector: BTreeMap<String, String>,
    /// Terms of the required node affinity; one of them must hold. Empty: none given.
    pub terms: Vec<Term>,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// `spec.nodeName`, where preset.
    pub node_name: Option<String>,
    /// How to bind the scheduler.
    pub placement: Placement,
    /// Profile set by name; `None`: the cluster's default.
    pub profile_set: Option<String>,
    /// Profile that an earlier pass chose for this very pod.
    pub decided: Option<String>,
    /// UCX of the image, where its owner told us.
    pub ucx: Option<Version>,
    /// Whether the pod mounts something at `/dev/shm`.
    pub has_shm: bool,
    /// Whether the namespace's Pod Security level refuses `IPC_LOCK`, and that level.
    pub refuses_ipc_lock: Option<String>,
    /// `envFrom` sources whose content we cannot see.
    pub opaque_env: BTreeSet<String>,
    /// What to do about settings that break the worker.
    pub conflicts: Conflicts,
    /// Refuse the pod where it would go over TCP.
    pub refuses_tcp: bool,
    /// The deployment that it is part of.
    pub group: Option<Group>,
    /// Prefill or decode, where its labels say.
    pub role: Option<Role>,
    /// What its namespace's quotas and limits leave room for.
    pub room: Room,
    /// What other workers of its deployment ask of their nodes, each kind once: only the fields that say where a pod can land.
    pub siblings: Vec<PodIntent>,
}

impl PodIntent {
    /// Only what says where a pod can land, as far as the user asked for it: what we added ourselves is left out.
    #[must_use]
    pub fn constraints(&self) -> Self {
        let mut terms = self.terms.clone();
        for term in &mut terms {
            term.match_expressions.retain(|requirement| !requirement.key.starts_with("railbind.dev/"));
        }
        // A term that was only ours was no term before.
        terms.retain(|term| !term.match_expressions.is_empty() || !term.match_fields.is_empty());
        Self {
            containers: vec![ContainerIntent { gpus: self.gpus(), ..ContainerIntent::default() }],
            node_selector: self.node_selector.clone(),
            terms,
            tolerations: self.tolerations.clone(),
            ..Self::default()
        }
    }

    /// GPUs of all containers.
    pub fn gpus(&self) -> u64 {
        self.containers.iter().fold(0, |sum, container| sum.saturating_add(container.gpus))
    }
}
