//! Affinities. Terms of a node affinity are alternatives, so a requirement goes into every one of them; terms of a pod affinity
//! must all hold, so each is one more.

use policies::{
    intent::Placement,
    plan::{Plan, PodTerm},
};
use serde_json::{Value, json};

use super::{Builder, Malformed};

/// Weight of what is preferred.
const WEIGHT: u32 = 100;
const NODE: &str = "/spec/affinity/nodeAffinity";

/// Pins the pod to the plan's class of nodes.
pub(super) fn pin(builder: &mut Builder, plan: &Plan) -> Result<(), Malformed> {
    if plan.affinity.is_empty() {
        return Ok(());
    }
    let wanted: Vec<Value> = plan
        .affinity
        .iter()
        .map(|requirement| {
            json!({ "key": requirement.key, "operator": requirement.operator, "values": requirement.values })
        })
        .collect();
    builder.object("/spec/affinity")?;
    builder.object(NODE)?;
    match plan.placement {
        Placement::Required => required(builder, &wanted),
        Placement::Preferred => preferred(builder, &wanted),
        Placement::None => Ok(()),
    }
}

fn required(builder: &mut Builder, wanted: &[Value]) -> Result<(), Malformed> {
    let selector = format!("{NODE}/requiredDuringSchedulingIgnoredDuringExecution");
    let terms = format!("{selector}/nodeSelectorTerms");
    builder.object(&selector)?;
    let count = builder.list(&terms).len();
    if count == 0 {
        return builder.push(&terms, json!({ "matchExpressions": wanted }));
    }
    for index in 0..count {
        let list = format!("{terms}/{index}/matchExpressions");
        // An empty term matches no node. With a requirement in it, it would match some, against its owner's word.
        if builder.list(&list).is_empty() && builder.list(&format!("{terms}/{index}/matchFields")).is_empty() {
            continue;
        }
        for requirement in wanted {
            if !builder.list(&list).contains(requirement) {
                builder.push(&list, requirement.clone())?;
            }
        }
    }
    Ok(())
}

fn preferred(builder: &mut Builder, wanted: &[Value]) -> Result<(), Malformed> {
    let list = format!("{NODE}/preferredDuringSchedulingIgnoredDuringExecution");
    let term = json!({ "weight": WEIGHT, "preference": { "matchExpressions": wanted } });
    if builder.list(&list).contains(&term) { Ok(()) } else { builder.push(&list, term) }
}

/// Puts the pod with the pods, and away from the pods, that the plan names.
pub(super) fn company(builder: &mut Builder, plan: &Plan) -> Result<(), Malformed> {
    pods(builder, "/spec/affinity/podAffinity", &plan.together, plan.placement)?;
    pods(builder, "/spec/affinity/podAffinity", &plan.near, Placement::Preferred)?;
    pods(builder, "/spec/affinity/podAntiAffinity", &plan.apart, plan.placement)
}

fn pods(builder: &mut Builder, at: &str, terms: &[PodTerm], placement: Placement) -> Result<(), Malformed> {
    for term in terms {
        let selector: Vec<Value> = term
            .selector
            .iter()
            .map(|requirement| match requirement.values.as_slice() {
                [] => json!({ "key": requirement.key, "operator": requirement.operator }),
                values => json!({ "key": requirement.key, "operator": requirement.operator, "values": values }),
            })
            .collect();
        let term = json!({ "labelSelector": { "matchExpressions": selector }, "topologyKey": term.topology_key });
        let (list, term) = match placement {
            Placement::Required => ("requiredDuringSchedulingIgnoredDuringExecution", term),
            Placement::Preferred => (
                "preferredDuringSchedulingIgnoredDuringExecution",
                json!({ "weight": WEIGHT, "podAffinityTerm": term }),
            ),
            Placement::None => return Ok(()),
        };
        builder.object("/spec/affinity")?;
        builder.object(at)?;
        let list = format!("{at}/{list}");
        if !builder.list(&list).contains(&term) {
            builder.push(&list, term)?;
        }
    }
    Ok(())
}
