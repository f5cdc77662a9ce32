//! Which nodes a pod can land on, and which class of them it should.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use serde::{Deserialize, Serialize};

use crate::{
    intent::{PodIntent, Requirement, Term, Toleration},
    names::label,
    node_map::{Group, NodeMap, SharedNode},
    profile::{NodeClass, NodeFact, Profiles, TransportProfile},
    roles::Fabric,
    selftest::Standing,
};

/// What decisions are about in a Node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// `UCX_NET_DEVICES` for this node, as its agent says, unchecked.
    pub net_devices: Option<String>,
    /// `UCX_IB_ROCE_SUBNETS` for this node, as its agent says, unchecked.
    pub roce_subnets: Option<String>,
    /// The profile set that was the fastest in its self-test, as its agent says, unchecked.
    pub fastest_set: Option<String>,
}

/// A taint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

    /// Its fabric, as its label says.
    pub fn fabric(&self) -> Option<Fabric> {
        Fabric::named(self.labels.get(label::FABRIC)?)
    }

    /// Whether its self-test says that its RDMA does not work: UCX would fall back to TCP without a word. A node without RDMA has
    /// none to lose.
    pub fn failed(&self) -> bool {
        let standing = Standing::of_label(self.labels.get(label::SELFTEST).map(String::as_str));
        standing == Standing::Failed && self.fabric() != Some(Fabric::Tcp)
    }

    /// A fact of it, if its value is in the grammar: a node may lie.
    pub fn fact(&self, fact: NodeFact) -> Option<String> {
        let value = match fact {
            NodeFact::GidIndex => self.labels.get(label::GID_INDEX),
            NodeFact::NetDevices => self.net_devices.as_ref(),
            NodeFact::RoceSubnets => self.roce_subnets.as_ref(),
        };
        fact.checked(value?)
    }

    /// What a profile is chosen by, as far as its labels say.
    fn class(&self) -> Option<NodeClass> {
        let is =
            |key: &str, values: &[&str]| self.labels.get(key).is_some_and(|value| values.contains(&value.as_str()));
        Some(NodeClass {
            fabric: self.fabric()?,
            gpu_direct: is(label::GPUDIRECT, &["dmabuf", "peermem"]),
            kernel: self.labels.get(label::KERNEL).and_then(|kernel| kernel.parse().ok()),
            drivers: Vec::new(),
            soft: is(label::SOFT, &["true"]),
        })
    }

    /// GPUs of any kind.
    pub fn gpus(&self) -> u64 {
        self.allocatable.iter().filter(|(name, _)| is_gpu(name)).filter_map(|(_, quantity)| whole(quantity)).sum()
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
pub fn candidates<'n>(nodes: &'n NodeMap, intent: &PodIntent) -> Vec<Group<'n>> {
    if let Some(name) = &intent.node_name {
        return nodes.only(name).into_iter().collect();
    }
    let by_name = intent.terms.iter().any(|term| !term.match_fields.is_empty());
    let required = intent.terms.iter().flat_map(|term| &term.match_expressions).map(|requirement| &requirement.key);
    let keys = intent.node_selector.keys().chain(required).map(String::as_str).collect();
    nodes.groups(|kind| takes(kind, intent), by_name, &keys, |node| selects(intent, node))
}

/// Whether a kind of node has the GPUs, and takes pods that tolerate what this one does.
fn takes(kind: &NodeView, intent: &PodIntent) -> bool {
    // A node whose device plugin has not reported yet, or that hands out GPUs by claim, shows none: it stays a candidate.
    let gpus = kind.gpus();
    let enough = gpus == 0 || gpus >= intent.gpus();
    enough
        && !kind.unschedulable
        && kind
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

/// Whether the pod's selector and required affinity hold on a node.
fn selects(intent: &PodIntent, node: &SharedNode) -> bool {
    intent.node_selector.iter().all(|(key, value)| node.label(key) == Some(value))
        && (intent.terms.is_empty() || intent.terms.iter().any(|term| term_holds(term, node)))
}

/// A term without requirements matches nothing (core/v1 NodeSelectorTerm).
fn term_holds(term: &Term, node: &SharedNode) -> bool {
    let empty = term.match_expressions.is_empty() && term.match_fields.is_empty();
    !empty
        && term.match_expressions.iter().all(|requirement| holds(requirement, node.label(&requirement.key)))
        && term
            .match_fields
            .iter()
            .all(|requirement| requirement.key == "metadata.name" && holds(requirement, Some(&node.name)))
}

fn holds(requirement: &Requirement, value: Option<&str>) -> bool {
    let compare = |test: fn(i64, i64) -> bool| {
        let have = value.and_then(|value| value.parse().ok());
        let want = requirement.values.first().and_then(|value| value.parse().ok());
        matches!((have, want), (Some(have), Some(want)) if test(have, want))
    };
    let among = |value: &str| requirement.values.iter().any(|one| one == value);
    match requirement.operator.as_str() {
        "In" => value.is_some_and(among),
        "NotIn" => value.is_none_or(|value| !among(value)),
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

/// The class that a pod goes to: a profile on one fabric, and the candidates that qualify for it.
#[derive(Debug, Clone)]
pub struct Choice<'a> {
    /// The profile.
    pub profile: &'a TransportProfile,
    /// The fabric: a profile can be for several, and they do not reach each other.
    pub fabric: Fabric,
    /// Candidates that qualify for it.
    pub nodes: Vec<Group<'a>>,
}

impl Choice<'_> {
    /// What two choices have to agree on.
    pub fn class(&self) -> (&str, Fabric) {
        (&self.profile.metadata.name, self.fabric)
    }

    /// The node affinity that keeps a pod on the class.
    ///
    /// The label `railbind.dev/profile` names the profile of the default set; a class of another set is a union of those.
    pub fn requirements(&self) -> Vec<Requirement> {
        let mut requirements = vec![self.one_of(label::PROFILE)];
        if self.profile.spec.when.fabric.len() > 1 {
            requirements.push(self.one_of(label::FABRIC));
        }
        if self.profile.spec.when.kernel.is_some()
            && self.nodes.iter().all(|group| group.kind.labels.contains_key(label::KERNEL))
        {
            requirements.push(self.one_of(label::KERNEL));
        }
        requirements.retain(|requirement| !requirement.values.is_empty());
        if self.fabric != Fabric::Tcp && !requirements.is_empty() {
            // Nor a node whose self-test fails between now and the pod's scheduling.
            let values = vec![Standing::Failed.as_str().to_owned()];
            requirements.push(Requirement { key: label::SELFTEST.into(), operator: "NotIn".into(), values });
        }
        requirements
    }

    fn one_of(&self, key: &str) -> Requirement {
        let values: BTreeSet<&String> = self.nodes.iter().filter_map(|group| group.kind.labels.get(key)).collect();
        Requirement { key: key.into(), operator: "In".into(), values: values.into_iter().cloned().collect() }
    }
}

/// The classes that the candidates make up, the best first: by the profiles' priority, then InfiniBand before RoCE.
/// Candidates that do not say what they are make up none, nor do those whose self-test failed.
pub fn classes<'a>(profiles: &'a Profiles, set: &str, candidates: &[Group<'a>]) -> Vec<Choice<'a>> {
    let mut classes: BTreeMap<(&str, Fabric), Choice<'a>> = BTreeMap::new();
    for group in candidates.iter().filter(|group| !group.kind.failed()) {
        let Some((profile, fabric)) = qualifies(profiles, set, group.kind) else { continue };
        let choice = Choice { profile, fabric, nodes: Vec::new() };
        classes.entry((&profile.metadata.name, fabric)).or_insert(choice).nodes.push(group.clone());
    }
    let mut classes: Vec<Choice<'a>> = classes.into_values().collect();
    classes.sort_by_key(|choice| {
        (Reverse(choice.profile.spec.priority), choice.fabric, choice.profile.metadata.name.clone())
    });
    classes
}

/// The profile of a set that a node qualifies for. For the default set the agent has said so itself, by measurement;
/// for another it follows from the node's labels.
pub fn qualifies<'a>(profiles: &'a Profiles, set: &str, node: &NodeView) -> Option<(&'a TransportProfile, Fabric)> {
    let own = node.labels.get(label::PROFILE)?;
    let fabric = node.fabric();
    let profile = if set == profiles.default_set() {
        profiles.get(own)?
    } else {
        let chosen = profiles.for_node(set, &node.class()?).profile?;
        profiles.get(&chosen)?
    };
    // A profile for one fabric says which; a node with software RDMA only counts as one without.
    let when = &profile.spec.when.fabric;
    let fabric = fabric.filter(|fabric| when.contains(fabric)).or_else(|| when.first().copied())?;
    Some((profile, fabric))
}
