//! Recognising workers: role labels of the serving stacks, arguments where there are none, and the engine.
//!
//! Labels and arguments from the stacks' own sources: NVIDIA Dynamo deploy/operator/internal/consts, the llm-d modelservice chart,
//! KServe LLMInferenceService, LeaderWorkerSet's DisaggregatedSet, RoleBasedGroup, AIBrix StormService, Grove; vLLM, SGLang and
//! TensorRT-LLM command lines.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    intent::{Engine, Requirement},
    names::label,
    profile::ResourceFamily,
};

/// A stack's role label.
struct RoleLabel {
    stack: &'static str,
    key: &'static str,
    /// Values that mean a worker. Empty: any value.
    values: &'static [&'static str],
    /// A label that must be there too, for keys that are not the stack's own.
    with: Option<&'static str>,
}

const fn role(stack: &'static str, key: &'static str, values: &'static [&'static str]) -> RoleLabel {
    RoleLabel { stack, key, values, with: None }
}

const ROLE_LABELS: &[RoleLabel] = &[
    // v1beta1 says the role itself; v1alpha1 says `worker` and the role in the sub-type.
    role("Dynamo", "nvidia.com/dynamo-component-type", &["prefill", "decode", "worker"]),
    role("Dynamo", "nvidia.com/dynamo-sub-component-type", &["prefill", "decode"]),
    role("Dynamo", "nvidia.com/dynamo-component-class", &["worker"]),
    role("llm-d", "llm-d.ai/role", &["prefill", "decode", "both", "prefill-decode"]),
    role("LeaderWorkerSet", "disaggregatedset.x-k8s.io/role", &["prefill", "decode"]),
    role("KServe", "kserve.io/component", &["workload"]),
    role(
        "KServe",
        "app.kubernetes.io/component",
        &[
            "llminferenceservice-workload",
            "llminferenceservice-workload-prefill",
            "llminferenceservice-workload-leader",
            "llminferenceservice-workload-worker",
            "llminferenceservice-workload-leader-prefill",
            "llminferenceservice-workload-worker-prefill",
        ],
    ),
    role("RoleBasedGroup", "rolebasedgroup.workloads.x-k8s.io/role", &[]),
    role("RoleBasedGroup", "rbg.workloads.x-k8s.io/role-name", &[]),
    RoleLabel { stack: "AIBrix", key: "role-name", values: &["prefill", "decode"], with: Some("storm-service-name") },
    role("Grove", "grove.io/podclique", &[]),
];

/// The stack whose role label this pod carries, with the label, for people.
pub fn by_labels(labels: &BTreeMap<String, String>) -> Option<String> {
    ROLE_LABELS.iter().find_map(|role| {
        let value = labels.get(role.key)?;
        let known = role.values.is_empty() || role.values.contains(&value.as_str());
        let here = role.with.is_none_or(|with| labels.contains_key(with));
        (known && here).then(|| format!("{} worker ({}={value})", role.stack, role.key))
    })
}

/// A deployment: the workers that exchange KV cache with each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Group {
    /// Label that its pods share.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What tells its workers from its other pods (frontends, routers), which carry the same label.
    pub worker: Option<Requirement>,
}

impl Group {
    /// The label requirements that its workers meet.
    pub fn requirements(&self) -> Vec<Requirement> {
        let group = Requirement { key: self.key.clone(), operator: "In".into(), values: vec![self.value.clone()] };
        std::iter::once(group).chain(self.worker.clone()).collect()
    }
}

/// A stack's group label, and a label that must have a value for it to count.
struct GroupLabel {
    key: &'static str,
    with: Option<(&'static str, &'static str)>,
}

const fn group_label(key: &'static str) -> GroupLabel {
    GroupLabel { key, with: None }
}

/// In order: the widest that still is one deployment first.
///
/// Sources: NVIDIA Dynamo deploy/operator/internal/consts; KServe pkg/controller/llmisvc workload labels; llm-d modelservice chart
/// and guides; LeaderWorkerSet api/disaggregatedset and api/leaderworkerset constants; sgl-project/rbg doc/reference/variables.md
/// and api/workloads/constants; AIBrix pkg/controller/constants/stormservice.go; Grove operator/api/common/labels.go.
const GROUP_LABELS: &[GroupLabel] = &[
    group_label(label::GROUP),
    group_label("nvidia.com/dynamo-graph-deployment-name"),
    group_label("nvidia.com/dynamo-namespace"),
    GroupLabel { key: "app.kubernetes.io/name", with: Some(("app.kubernetes.io/part-of", "llminferenceservice")) },
    group_label("disaggregatedset.x-k8s.io/name"),
    group_label("rbg.workloads.x-k8s.io/group-name"),
    group_label("rolebasedgroup.workloads.x-k8s.io/name"),
    group_label("storm-service-name"),
    GroupLabel { key: "app.kubernetes.io/part-of", with: Some(("app.kubernetes.io/managed-by", "grove-operator")) },
    group_label("llm-d.ai/model"),
    group_label("llm-d.ai/guide"),
    group_label("leaderworkerset.sigs.k8s.io/name"),
];

/// The deployment that a pod is part of, where its labels say.
pub fn group(labels: &BTreeMap<String, String>) -> Option<Group> {
    let found = GROUP_LABELS.iter().find(|group| {
        let here = labels.get(group.key).is_some_and(|value| !value.is_empty());
        here && group.with.is_none_or(|(key, value)| labels.get(key).is_some_and(|have| have == value))
    })?;
    Some(Group { key: found.key.into(), value: labels.get(found.key)?.clone(), worker: worker_requirement(labels) })
}

/// What this pod's role label and those of its fellow workers have in common.
fn worker_requirement(labels: &BTreeMap<String, String>) -> Option<Requirement> {
    let role = ROLE_LABELS.iter().find(|role| {
        labels.get(role.key).is_some_and(|value| role.values.is_empty() || role.values.contains(&value.as_str()))
    })?;
    let values = role.values.iter().map(|&value| value.into()).collect();
    let operator = if role.values.is_empty() { "Exists" } else { "In" };
    Some(Requirement { key: role.key.into(), operator: operator.into(), values })
}

/// Which half of a disaggregated deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Computes the cache and sends it.
    Prefill,
    /// Receives it.
    Decode,
}

impl Role {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Prefill => Self::Decode,
            Self::Decode => Self::Prefill,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

/// Labels whose value is the role itself.
const PLAIN_ROLES: &[&str] = &[
    "nvidia.com/dynamo-component-type",
    "nvidia.com/dynamo-sub-component-type",
    "llm-d.ai/role",
    "disaggregatedset.x-k8s.io/role",
    "rbg.workloads.x-k8s.io/role-name",
    "rolebasedgroup.workloads.x-k8s.io/role",
    "role-name",
];

/// Prefill or decode, where a label says so.
pub fn role_of(labels: &BTreeMap<String, String>) -> Option<Role> {
    let values = PLAIN_ROLES.iter().filter_map(|key| labels.get(*key));
    values.into_iter().find_map(|value| [Role::Prefill, Role::Decode].into_iter().find(|role| role.as_str() == value))
}

/// The label requirements, each an alternative, that workers of this role in a group meet.
pub fn of_role(group: &Group, role: Role) -> Vec<Vec<Requirement>> {
    // Dynamo has two forms of label, and both live in one cluster.
    let keys: Vec<&str> = match group.worker.as_ref().map(|worker| worker.key.as_str()) {
        Some(key) if key.starts_with("nvidia.com/dynamo-") => PLAIN_ROLES[..2].to_vec(),
        Some(key) => PLAIN_ROLES.iter().copied().filter(|plain| *plain == key).collect(),
        None => Vec::new(),
    };
    let deployment = Requirement { key: group.key.clone(), operator: "In".into(), values: vec![group.value.clone()] };
    keys.into_iter()
        .map(|key| {
            let role = Requirement { key: key.into(), operator: "In".into(), values: vec![role.as_str().into()] };
            vec![deployment.clone(), role]
        })
        .collect()
}

/// What in a container's command line makes it a disaggregated worker.
pub fn by_arguments(words: &[&str]) -> Option<String> {
    let text = words.join(" ");
    for mode in ["prefill", "decode"] {
        for form in [format!("--disaggregation-mode {mode}"), format!("--disaggregation-mode={mode}")] {
            if text.contains(&form) {
                return Some(format!("argument {form}"));
            }
        }
    }
    if text.contains("--kv-transfer-config") && text.contains("Nixl") {
        return Some("argument --kv-transfer-config with a NIXL connector".into());
    }
    ["cache_transceiver_config", "--is-prefill-worker", "--is-decode-worker"]
        .iter()
        .find(|mark| text.contains(**mark))
        .map(|mark| format!("argument {mark}"))
}

/// What makes a pod with a GPU a worker: a stack's role label, a container's command line, or an RDMA resource; for people.
pub fn recognise<'w, 'r, W: AsRef<[&'w str]>>(
    labels: &BTreeMap<String, String>,
    mut words: impl Iterator<Item = W>,
    mut resources: impl Iterator<Item = &'r String>,
) -> Option<String> {
    by_labels(labels).or_else(|| words.find_map(|words| by_arguments(words.as_ref()))).or_else(|| {
        let name = resources.find(|name| ResourceFamily::Rdma.has(name) || ResourceFamily::Efa.has(name))?;
        Some(format!("requests GPUs and {name}"))
    })
}

/// The engine, by image, command line and labels.
pub fn engine(labels: &BTreeMap<String, String>, image: &str, words: &[&str]) -> Option<Engine> {
    let named = labels.get("model.aibrix.ai/engine").map(String::as_str);
    let image = image.to_ascii_lowercase();
    let text = words.join(" ").to_ascii_lowercase();
    // SGLang before vLLM: its images and modules never name vLLM, while TensorRT-LLM has three spellings.
    let marks: [(Engine, &[&str]); 3] = [
        (Engine::Sglang, &["sglang"]),
        (Engine::TensorRtLlm, &["tensorrtllm", "tensorrt-llm", "tensorrt_llm", "trtllm"]),
        (Engine::Vllm, &["vllm"]),
    ];
    let find = |text: &str| {
        marks.iter().find(|(_, marks)| marks.iter().any(|mark| text.contains(mark))).map(|(engine, _)| *engine)
    };
    named.and_then(find).or_else(|| find(&text)).or_else(|| find(&image))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    #[test]
    fn roles() {
        for pairs in [
            &[("nvidia.com/dynamo-component-type", "prefill")][..],
            &[("nvidia.com/dynamo-component-type", "worker"), ("nvidia.com/dynamo-sub-component-type", "decode")],
            &[("llm-d.ai/role", "decode")],
            &[("app.kubernetes.io/component", "llminferenceservice-workload-prefill")],
            &[("role-name", "prefill"), ("storm-service-name", "s")],
            &[("rbg.workloads.x-k8s.io/role-name", "anything")],
        ] {
            assert!(by_labels(&labels(pairs)).is_some(), "{pairs:?}");
        }
        for pairs in [
            &[("nvidia.com/dynamo-component-type", "frontend")][..],
            &[("nvidia.com/dynamo-component-type", "planner")],
            &[("role-name", "prefill")],
            &[("app.kubernetes.io/component", "database")],
            &[],
        ] {
            assert_eq!(by_labels(&labels(pairs)), None, "{pairs:?}");
        }
    }

    #[test]
    fn groups() {
        let of = |pairs: &[(&str, &str)]| group(&labels(pairs)).map(|group| (group.key, group.value));
        for (pairs, key) in [
            (&[("nvidia.com/dynamo-graph-deployment-name", "g"), ("nvidia.com/dynamo-namespace", "n")][..], 0),
            (&[("nvidia.com/dynamo-namespace", "g")], 0),
            (
                &[
                    ("app.kubernetes.io/name", "g"),
                    ("app.kubernetes.io/part-of", "llminferenceservice"),
                    ("llm-d.ai/role", "decode"),
                ],
                0,
            ),
            (&[("app.kubernetes.io/part-of", "g"), ("app.kubernetes.io/managed-by", "grove-operator")], 0),
            (&[("llm-d.ai/model", "g"), ("llm-d.ai/role", "decode")], 0),
            (&[("disaggregatedset.x-k8s.io/name", "g"), ("leaderworkerset.sigs.k8s.io/name", "l")], 0),
            (&[("rbg.workloads.x-k8s.io/group-name", "g")], 0),
            (&[("rolebasedgroup.workloads.x-k8s.io/name", "g")], 0),
            (&[("storm-service-name", "g"), ("role-name", "prefill")], 0),
            (&[("leaderworkerset.sigs.k8s.io/name", "g")], 0),
            (&[("railbind.dev/group", "g"), ("nvidia.com/dynamo-namespace", "n")], 0),
        ] {
            let found = of(pairs);
            assert_eq!(found, Some((pairs[key].0.into(), "g".into())), "{pairs:?}");
        }
        assert_eq!(of(&[("app.kubernetes.io/name", "x"), ("app.kubernetes.io/part-of", "shop")]), None);
    }

    #[test]
    fn prefill_and_decode_find_each_other_whatever_form_their_labels_have() {
        let old = labels(&[
            ("nvidia.com/dynamo-graph-deployment-name", "g"),
            ("nvidia.com/dynamo-component-type", "worker"),
            ("nvidia.com/dynamo-sub-component-type", "prefill"),
        ]);
        let role = role_of(&old).unwrap();
        assert_eq!(role, Role::Prefill);
        let others = of_role(&group(&old).unwrap(), role.other());
        let keys: Vec<&str> = others.iter().map(|terms| terms[1].key.as_str()).collect();
        assert_eq!(keys, ["nvidia.com/dynamo-component-type", "nvidia.com/dynamo-sub-component-type"]);
        assert!(others.iter().all(|terms| terms[1].values == ["decode"] && terms[0].values == ["g"]));
        assert_eq!(role_of(&labels(&[("llm-d.ai/role", "both")])), None);
    }

    #[test]
    fn arguments() {
        assert!(by_arguments(&["python3", "-m", "dynamo.sglang", "--disaggregation-mode", "prefill"]).is_some());
        assert!(by_arguments(&["--disaggregation-mode=decode"]).is_some());
        assert!(by_arguments(&["--kv-transfer-config", r#"{"kv_connector":"NixlConnector"}"#]).is_some());
        assert_eq!(by_arguments(&["--disaggregation-mode", "null"]), None);
        assert_eq!(by_arguments(&["vllm", "serve"]), None);
    }

    #[test]
    fn engines() {
        let none = BTreeMap::new();
        assert_eq!(engine(&none, "nvcr.io/nvidia/ai-dynamo/vllm-runtime:1.0", &[]), Some(Engine::Vllm));
        assert_eq!(engine(&none, "lmsysorg/sglang:latest", &[]), Some(Engine::Sglang));
        assert_eq!(engine(&none, "x/tensorrtllm-runtime", &[]), Some(Engine::TensorRtLlm));
        assert_eq!(engine(&none, "private/image", &["python3 -m dynamo.trtllm"]), Some(Engine::TensorRtLlm));
        assert_eq!(engine(&none, "private/image", &["sleep"]), None);
    }
}
