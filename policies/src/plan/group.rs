//! Agreement within a deployment: one class of nodes, one fabric domain, and apart where the fabric wants it.

use super::{Plan, PodTerm};
use crate::{
    intent::PodIntent,
    names::label,
    node_map::NodeMap,
    profile::Profiles,
    roles::Fabric,
    select::{self, Choice},
    workers,
};

/// The class that a pod goes to: the best one that every kind of worker of its deployment could go to.
///
/// It follows from the deployment and the nodes, not from who came first: whoever decides, in whichever replica, comes to the
/// same, as soon as it has seen a worker of each kind.
pub(super) fn agree<'a>(
    profiles: &'a Profiles,
    set: &str,
    nodes: &'a NodeMap,
    intent: &PodIntent,
    mut classes: Vec<Choice<'a>>,
    plan: &mut Plan,
) -> Option<Choice<'a>> {
    if classes.is_empty() {
        return None;
    }
    let siblings = intent.siblings.iter().map(|sibling| {
        let candidates = select::candidates(nodes, sibling);
        select::classes(profiles, set, &candidates)
    });
    // A kind of worker that can go nowhere that is known has no say.
    let siblings: Vec<Vec<Choice<'_>>> = siblings.filter(|theirs| !theirs.is_empty()).collect();
    let shared = classes
        .iter()
        .position(|own| siblings.iter().all(|theirs| theirs.iter().any(|theirs| theirs.class() == own.class())));
    match (shared, &intent.group) {
        (None, Some(group)) => plan.warnings.push(format!(
            "railbind: workers of {} have no fabric in common (node selectors, taints, GPU counts): KV cache goes over TCP",
            group.value
        )),
        (Some(place), Some(group)) if place > 0 => plan.reasons.push(format!(
            "not {}: other workers of {} cannot go there",
            classes[0].profile.metadata.name, group.value
        )),
        _ => {}
    }
    Some(classes.swap_remove(shared.unwrap_or(0)))
}

/// Affinities to the other workers of the deployment.
pub(super) fn affinities(choice: &Choice<'_>, intent: &PodIntent, plan: &mut Plan) {
    let Some(group) = &intent.group else { return };
    let domain = choice.nodes.iter().any(|group| group.kind.labels.contains_key(label::FABRIC_DOMAIN));
    if choice.fabric != Fabric::Tcp && domain {
        plan.reasons.push(format!("in one fabric domain with the workers of {}", group.value));
        plan.together.push(PodTerm { selector: group.requirements(), topology_key: label::FABRIC_DOMAIN.into() });
    }
    if let (Some(apart), Some(role)) = (&choice.profile.spec.needs.roles_apart, intent.role) {
        plan.reasons.push("on another node than the other half of its deployment".into());
        // One half packed, or it would spread over all nodes before the other half comes, which then fits nowhere.
        for selector in workers::of_role(group, role) {
            plan.near.push(PodTerm { selector, topology_key: apart.topology_key.clone() });
        }
        for selector in workers::of_role(group, role.other()) {
            plan.apart.push(PodTerm { selector, topology_key: apart.topology_key.clone() });
        }
    }
}
