//! Node affinity: terms are alternatives, so a requirement goes into every one of them.

use policies::{intent::Placement, plan::Plan};
use serde_json::{Value, json};

use super::{Builder, Malformed};

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
    let term = json!({ "weight": 100, "preference": { "matchExpressions": wanted } });
    if builder.list(&list).contains(&term) { Ok(()) } else { builder.push(&list, term) }
}
