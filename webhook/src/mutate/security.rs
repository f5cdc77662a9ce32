//! Capabilities: added to what the container keeps, also beside `drop: [ALL]`.

use policies::plan::Plan;
use serde_json::json;

use super::{Builder, Malformed, Target};

/// Adds the plan's capabilities to one container. A privileged container has them all.
pub(super) fn capabilities(builder: &mut Builder, target: &Target, plan: &Plan) -> Result<(), Malformed> {
    if builder.get(&target.at("/securityContext/privileged")) == Some(&json!(true)) {
        return Ok(());
    }
    for capability in &plan.capabilities {
        let list = target.at("/securityContext/capabilities/add");
        let has = builder.list(&list).iter().filter_map(|entry| entry.as_str()).any(|entry| {
            // The runtime accepts both spellings.
            entry == "ALL" || entry.strip_prefix("CAP_").unwrap_or(entry) == capability
        });
        if !has {
            builder.object(&target.at("/securityContext"))?;
            builder.object(&target.at("/securityContext/capabilities"))?;
            builder.push(&list, json!(capability))?;
        }
    }
    Ok(())
}
