//! The plan for a pod: what it gets and why; and for a binding: the values of the chosen node.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::{
    intent::{Placement, PodIntent, Requirement},
    kernel::Version,
    names::{annotation, label},
    node_map::{self, Group, NodeMap},
    profile::{AUTO, Profiles, TransportProfile},
    roles::Fabric,
    select::{self, Choice, NodeView},
};

mod env;
mod group;
mod needs;

/// What a pod gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Name of the profile; `None`: nothing is known about the nodes, so nothing is set.
    pub profile: Option<String>,
    /// Environment of every container that takes part, in this order.
    pub env: Vec<EnvPlan>,
    /// Capabilities to add.
    pub capabilities: Vec<String>,
    /// Size of `/dev/shm`.
    pub shared_memory: Option<String>,
    /// Extended resources by container name.
    pub resources: BTreeMap<String, (String, u64)>,
    /// Node affinity to add, and how.
    pub affinity: Vec<Requirement>,
    /// Other pods to be in one place with.
    pub together: Vec<PodTerm>,
    /// Other pods to be in one place with if it can be, whatever the placement.
    pub near: Vec<PodTerm>,
    /// Other pods to be in another place than.
    pub apart: Vec<PodTerm>,
    /// Whether these affinities are required or preferred.
    pub placement: Placement,
    /// Settings of the user's that are replaced, because the user asked for it.
    pub replacements: Vec<Replacement>,
    /// Variables that a container does not get, because the user's own settings exclude them.
    pub left_out: BTreeSet<(String, String)>,
    /// Why the pod is refused, because the user asked for it.
    pub deny: Option<String>,
    /// Why, one sentence each.
    pub reasons: Vec<String>,
    /// What a person should act on.
    pub warnings: Vec<String>,
}

/// One variable of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvPlan {
    /// Name.
    pub name: String,
    /// Value.
    pub value: EnvValue,
}

/// Where a variable's value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum EnvValue {
    /// The same on every node of the class.
    Constant(String),
    /// The node's, through the annotation `env.railbind.dev/NAME`, which starts with this value.
    Late(String),
}

/// A user's setting that breaks the worker, and what it becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replacement {
    /// Container.
    pub container: String,
    /// Variable.
    pub variable: String,
    /// Its new value.
    pub value: String,
}

/// A pod affinity term within the pod's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodTerm {
    /// What the other pods' labels meet.
    pub selector: Vec<Requirement>,
    /// Label of the nodes whose value is the same, or differs.
    pub topology_key: String,
}

/// The plan for a pod among these nodes.
pub fn plan(profiles: &Profiles, nodes: &NodeMap, intent: &PodIntent) -> Plan {
    let candidates = select::candidates(nodes, intent);
    let count = node_map::count(&candidates);
    let mut plan = Plan { placement: intent.placement, ..Plan::default() };
    let failed: usize = candidates.iter().filter(|group| group.kind.failed()).map(Group::count).sum();
    if failed > 0 {
        plan.reasons.push(format!("{failed} of {count} candidate nodes left out: their self-test failed"));
    }
    let Some(choice) = choose(profiles, nodes, &candidates, intent, &mut plan) else {
        plan.warnings.push(if candidates.is_empty() {
            format!("railbind: none of {} nodes fits this pod's selectors, taints and GPU count; admitted without UCX settings", nodes.len())
        } else if failed == count {
            format!("railbind: the self-test failed on all {count} nodes this pod can land on (kubectl describe node says why); admitted without UCX settings")
        } else {
            format!("railbind: none of the {count} nodes this pod can land on reports a fabric (is railbind-agent running?); admitted without UCX settings")
        });
        if failed == 0 {
            plan.reasons.push("no candidate node carries railbind.dev/profile".into());
        }
        return plan;
    };
    let profile = choice.profile;
    plan.profile = Some(profile.metadata.name.clone());
    plan.reasons.push(format!(
        "{}: {}; {} of {} candidate nodes",
        profile.metadata.name,
        profile.spec.description,
        node_map::count(&choice.nodes),
        count
    ));
    env::lines(profile, choice.fabric, intent, &mut plan);
    env::settings(profile, choice.fabric, intent, &mut plan);
    if choice.fabric == Fabric::Tcp {
        let text = format!(
            "railbind: no RDMA on any node this pod can land on: KV cache goes over TCP, expect a time to first token of {}",
            profile.spec.expect.ttft_overhead.value
        );
        if intent.refuses_tcp && plan.deny.is_none() {
            plan.deny = Some(format!("{text} ({}: deny)", annotation::NO_RDMA));
        }
        plan.warnings.push(text);
    }
    needs::privileges(profile, intent, &choice.nodes, &mut plan);
    needs::memory(profile, intent, &mut plan);
    let mut room = intent.room.clone();
    for container in &intent.containers {
        needs::resources(profile, &choice.nodes, container, &mut room, &mut plan);
    }
    if intent.placement != Placement::None && intent.node_name.is_none() {
        plan.affinity = choice.requirements();
        if plan.affinity.is_empty() {
            let values = vec![profile.metadata.name.clone()];
            plan.affinity.push(Requirement { key: label::PROFILE.into(), operator: "In".into(), values });
        }
        group::affinities(&choice, intent, &mut plan);
    }
    plan
}

/// The class that the pod goes to: the one an earlier pass chose, else the best that its deployment can agree on.
fn choose<'a>(
    profiles: &'a Profiles,
    nodes: &'a NodeMap,
    candidates: &[Group<'a>],
    intent: &PodIntent,
    plan: &mut Plan,
) -> Option<Choice<'a>> {
    if let Some(profile) = intent.decided.as_deref().and_then(|name| profiles.get(name)) {
        let classes = select::classes(profiles, &profile.spec.set, candidates);
        let fabric = profile.spec.when.fabric.first().copied().unwrap_or(Fabric::Tcp);
        let found = classes.into_iter().find(|choice| choice.profile.metadata.name == profile.metadata.name);
        return Some(found.unwrap_or(Choice { profile, fabric, nodes: Vec::new() }));
    }
    let set = match intent.profile_set.as_deref() {
        None => profiles.default_set(),
        Some(AUTO) => fastest(profiles, candidates, plan),
        Some(set) if profiles.has_set(set) => set,
        Some(set) => {
            let default = profiles.default_set();
            plan.warnings.push(format!(
                "railbind: there is no profile set {set:?} ({}); {default} it is",
                annotation::PROFILE_SET
            ));
            default
        }
    };
    let classes = select::classes(profiles, set, candidates);
    group::agree(profiles, set, nodes, intent, classes, plan)
}

/// The set that was the fastest in the self-test of every candidate with RDMA: a pod has one environment, wherever it lands.
fn fastest<'a>(profiles: &'a Profiles, candidates: &[Group<'a>], plan: &mut Plan) -> &'a str {
    let rdma =
        |group: &&Group<'a>| group.kind.fabric().is_some_and(|fabric| fabric != Fabric::Tcp) && !group.kind.failed();
    let said: BTreeSet<Option<&'a str>> =
        candidates.iter().filter(rdma).map(|group| group.kind.fastest_set.as_deref()).collect();
    let mut said = said.into_iter();
    if let (Some(set), None) = (said.next().flatten().filter(|set| profiles.has_set(set)), said.next()) {
        plan.reasons.push(format!("profile set {set}: the fastest in the nodes' self-tests"));
        return set;
    }
    let default = profiles.default_set();
    plan.reasons.push(format!("profile set {default}: the nodes' self-tests name no fastest one, or not the same"));
    default
}

/// The late-bound variables of a node, by name: what a Binding to it carries under `env.railbind.dev/`.
///
/// Only names that a profile lists, only on the fabrics it lists them for, and each value checked against its fact's grammar:
/// a node may lie, and must not choose what runs in a pod.
pub fn bind_values(profiles: &Profiles, node: &NodeView) -> BTreeMap<String, String> {
    let Some(fabric) = node.fabric() else {
        return BTreeMap::new();
    };
    late_values(profiles.iter().filter(|profile| profile.spec.when.fabric.contains(&fabric)), fabric, node)
}

/// The environment that a container of no particular engine has on this node, once it is bound. `ucx`: the version that reads it.
pub fn environment(
    profile: &TransportProfile,
    fabric: Fabric,
    node: &NodeView,
    ucx: Option<Version>,
) -> BTreeMap<String, String> {
    let mut plan = Plan::default();
    env::lines(profile, fabric, &PodIntent { ucx, ..PodIntent::default() }, &mut plan);
    let late = late_values([profile], fabric, node);
    let bound = |EnvPlan { name, value }| {
        let value = match value {
            EnvValue::Constant(value) => value,
            EnvValue::Late(default) => late.get(&name).cloned().unwrap_or(default),
        };
        (name, value)
    };
    plan.env.into_iter().map(bound).collect()
}

fn late_values<'a>(
    profiles: impl IntoIterator<Item = &'a TransportProfile>,
    fabric: Fabric,
    node: &NodeView,
) -> BTreeMap<String, String> {
    let lines = profiles.into_iter().flat_map(|profile| &profile.spec.env).filter(|line| env::applies(line, fabric));
    lines
        .filter_map(|line| line.from.and_then(|fact| node.fact(fact)).map(|value| (line.name.clone(), value)))
        .collect()
}
