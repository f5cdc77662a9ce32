//! Which nodes a pod can land on, and which class of them it should.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    intent::{PodIntent, Requirement, Term, Toleration},
    names::label,
    profile::{Profiles, TransportProfile},
};

/// What the webhook keeps of a Node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeView {
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `status.allocatable`, as quantities in text.
    pub allocatable: BTreeMap<String, String>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// Taints.
    pub taints: Vec<Taint>,
}

/// A taint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value.
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

impl NodeView {
    /// How many whole units of an extended resource the node gives.
    pub fn count(&self, resource: &str) -> u64 {
        self.allocatable.get(resource).and_then(|quantity| whole(quantity)).unwrap_or(0)
    }

    /// GPUs of any kind.
    pub fn gpus(&self) -> u64 {
        self.allocatable.keys().filter(|name| is_gpu(name)).map(|name| self.count(name)).sum()
    }
}

/// A whole quantity: `8`, `8k` is not how anyone counts devices, yet the API allows it.
fn whole(quantity: &str) -> Option<u64> {
    let digits = quantity.find(|c: char| !c.is_ascii_digit()).unwrap_or(quantity.len());
    let number: u64 = quantity[..digits].parse().ok()?;
    match &quantity[digits..] {
        "" => Some(number),
        "k" => number.checked_mul(1000),
        _ => None,
    }
}

/// Extended resources that are GPUs: NVIDIA's whole and MIG devices, AMD's, Intel's and Habana's device plugins.
pub fn is_gpu(resource: &str) -> bool {
    matches!(
        resource,
        "nvidia.com/gpu"
            | "nvidia.com/gpu.shared"
            | "amd.com/gpu"
            | "gpu.intel.com/i915"
            | "gpu.intel.com/xe"
            | "habana.ai/gaudi"
    ) || resource.starts_with("nvidia.com/mig-")
}

/// The nodes that the pod can land on, as far as selectors, affinity, taints, capacity and a preset node say.
///
/// A GPU count above what a node has excludes it; how much of that is free now is the scheduler's business.
pub fn candidates<'n>(nodes: impl IntoIterator<Item = &'n NodeView>, intent: &PodIntent) -> Vec<&'n NodeView> {
    nodes.into_iter().filter(|node| fits(node, intent)).collect()
}

fn fits(node: &NodeView, intent: &PodIntent) -> bool {
    if let Some(name) = &intent.node_name {
        return *name == node.name;
    }
    // A node whose device plugin has not reported yet, or that hands out GPUs by claim, shows none: it stays a candidate.
    let gpus = node.gpus();
    let enough = gpus == 0 || gpus >= intent.gpus();
    enough
        && !node.unschedulable
        && intent.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
        && (intent.terms.is_empty() || intent.terms.iter().any(|term| term_holds(term, node)))
        && node
            .taints
            .iter()
            .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
            // Taints that come and go with a node's start and health say nothing about its class.
            .filter(|taint| {
                !taint.key.starts_with("node.kubernetes.io/")
                    && !taint.key.starts_with("node.cloudprovider.kubernetes.io/")
            })
            .all(|taint| {
                taint.key.ends_with("/gpu") || intent.tolerations.iter().any(|toleration| tolerates(toleration, taint))
            })
}

/// A term without requirements matches nothing (core/v1 NodeSelectorTerm).
fn term_holds(term: &Term, node: &NodeView) -> bool {
    let empty = term.match_expressions.is_empty() && term.match_fields.is_empty();
    !empty
        && term.match_expressions.iter().all(|requirement| holds(requirement, node.labels.get(&requirement.key)))
        && term
            .match_fields
            .iter()
            .all(|requirement| requirement.key == "metadata.name" && holds(requirement, Some(&node.name)))
}

fn holds(requirement: &Requirement, value: Option<&String>) -> bool {
    let compare = |test: fn(i64, i64) -> bool| {
        let have = value.and_then(|value| value.parse().ok());
        let want = requirement.values.first().and_then(|value| value.parse().ok());
        matches!((have, want), (Some(have), Some(want)) if test(have, want))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| requirement.values.contains(value)),
        "NotIn" => value.is_none_or(|value| !requirement.values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|have, want| have > want),
        "Lt" => compare(|have, want| have < want),
        _ => false,
    }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let effect = text(&toleration.effect);
    let key = text(&toleration.key);
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => key.is_empty() || key == taint.key,
        _ => key == taint.key && text(&toleration.value) == text(&taint.value),
    }
}

/// The class that a pod goes to: a profile and the candidates that qualify for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice<'a> {
    /// The profile.
    pub profile: &'a TransportProfile,
    /// Candidates whose label names it.
    pub nodes: Vec<&'a NodeView>,
}

/// The best class among the candidates, by the profiles' priority. `None` where no candidate says what it is.
pub fn best<'a>(profiles: &'a Profiles, candidates: &[&'a NodeView]) -> Option<Choice<'a>> {
    let mut classes: BTreeMap<&str, Vec<&NodeView>> = BTreeMap::new();
    for node in candidates {
        if let Some(profile) = node.labels.get(label::PROFILE) {
            classes.entry(profile).or_default().push(node);
        }
    }
    classes
        .into_iter()
        .filter_map(|(name, nodes)| profiles.get(name).map(|profile| Choice { profile, nodes }))
        .max_by_key(|choice| choice.profile.spec.priority)
}
